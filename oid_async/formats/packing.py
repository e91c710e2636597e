"""The samples of saved images, span by span, for shards that take the place of image files.

A download that packs its images as they come makes them so, and so does each part of a download past one machine. The
classes are the same for all spans and parts of a query.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from oid_async.dataset.saved import SavedDataset
from oid_async.formats.classes import ExportClasses
from oid_async.formats.file_record import FileRecord
from oid_async.formats.pictures import Pictures
from oid_async.formats.processes import Pool
from oid_async.formats.samples import SAMPLE_KINDS
from oid_async.formats.sieve import refused
from oid_async.formats.source import ExportSource, Span
from oid_async.formats.writer import ExportContext, check_counts
from oid_async.options.export import ExportOptions
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.store.folder import Folder

_SPAN_ROWS = 1024
_MASKED_ROWS = 128


class Packing:
    """The samples of the images and tables in a folder. Blocking; raises OSError, OidError.

    `classes` are those of `sample_classes`; `pool` shares the work on pictures. In `export` is counted what is written
    into `out`, in `source.planned` what is left out; `left_out` has the FileNames of images by the reason.
    """

    def __init__(
        self,
        folder: Folder,
        out: Path,
        options: ExportOptions,
        classes: ExportClasses,
        files: ExitStack,
        pool: Pool | None = None,
    ) -> None:
        scratch = folder.tmp / "export"
        scratch.mkdir()
        dataset = SavedDataset(folder, "export")
        self.source = ExportSource(dataset, options, SAMPLE_KINDS, scratch, classes=classes)
        pictures = Pictures(dataset, FileRecord(), scratch, copy=False, pool=pool)
        self.export = ExportContext(self.source, out, options, pictures, files)
        self.left_out: dict[str, list[str]] = {}
        for (why,), rows in self.source.unusable.partition_by("reason", as_dict=True).items():
            self.left_out[str(why)] = rows.get_column("FileName").to_list()
        self._is_slow = "segmentation" in self.source.kinds or options.max_side is not None

    def spans(self) -> Iterator[Span]:
        """Yield the images with their rows, without those that are no pictures; the caller writes their samples.

        Raises InputError in the end unless as many were written as planned.
        """
        for span in self.source.spans(_MASKED_ROWS if self._is_slow else _SPAN_ROWS):
            images, masks = refused(span, self.source, self.export.pictures)
            for why, names in images.items():
                self.left_out.setdefault(why, []).extend(names)
            readable = self.source.without(span, images, masks)
            yield readable
            self.export.wrote(readable.images, {})
        check_counts(self.source.planned, self.export)


def sample_classes(saved: Sequence[SavedAnnotations]) -> ExportClasses:
    """Return the classes of boxes and masks, the same for every span: those that are meant, else all of the tables."""
    called: dict[str, str] = {}
    for each in saved:
        if each.source.kind.name in ("bbox", "segmentation"):
            names = each.source.class_names
            for label in each.labels if each.labels is not None else names:
                called.setdefault(label, names.get(label, label))
    return ExportClasses.of(called.items())
