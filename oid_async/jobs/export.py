"""One export: a saved folder -> an ExportSource -> the writer of the format, span by span -> counts checked -> renamed.

Everything is written into a folder next to the export (`jobs.export_folder`), which is renamed when it is complete and
has what was planned. `oid_async.export`, `oid-async export` and `download --format` use it. Blocking work runs in one
thread.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl

from oid_async.concurrency import CallsOnLoop, until_stopped
from oid_async.dataset.export_list import MARKER, write_list
from oid_async.dataset.packed_images import check_shards
from oid_async.dataset.read_lock import read_lock
from oid_async.dataset.saved import SavedDataset
from oid_async.dataset.table_check import check_tables
from oid_async.errors import InputError, UsageError, machine_error, storage_error
from oid_async.events import Exported, Note, Sink, Stage
from oid_async.formats.attribution import ExportAttribution
from oid_async.formats.file_record import FileRecord
from oid_async.formats.pictures import Pictures
from oid_async.formats.processes import IMAGES_OF_A_PICTURE, one_ahead, process_pool
from oid_async.formats.registry import WRITERS
from oid_async.formats.sieve import sieved
from oid_async.formats.source import SPAN_ROWS, ExportSource, Span
from oid_async.formats.staging import Staging
from oid_async.formats.writer import ExportContext, check_counts
from oid_async.jobs.export_folder import ExportFolder
from oid_async.jobs.opening import open_bucket, open_folder
from oid_async.jobs.stored_query import Given
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.options.export import ExportOptions, Format
from oid_async.options.places import Place
from oid_async.store.atomic import write_text
from oid_async.store.disk import read_plain
from oid_async.store.folder import Folder
from oid_async.system.forks import refuse_forked_child
from oid_async.version import __version__

# Where pictures are made smaller or masks are read, a span takes seconds: smaller spans let a stop take effect.
_SLOW_SPAN_ROWS = 256
# Reasons that a fresh copy of an image does not change.
_TOO_LARGE = re.compile("too many pixels|more than")
# Formats without a place for authors and licences that their readers keep: ATTRIBUTION.csv comes with them.
_NEEDS_ATTRIBUTION = ("yolo", "fiftyone", "kitti", "cvat", "crops")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The counts of an export: images by split, rows by kind of annotation, rows left out by reason."""

    format: str
    savepath: str
    out: str
    images: int
    splits: dict[str, int]
    annotations: dict[str, int]
    classes: int
    left_out: dict[str, int]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return one JSON object's worth of plain values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class Export:
    """One export of one folder. `processes` may share the work on pictures.

    `given` are places that the call has named, for a run that has not come to its end. Of a bucket `options.out` must
    say where the export goes; its images are brought as files a span at a time.
    `edited`: tables that are not what the run wrote were changed on purpose, and are taken as they are.
    """

    def __init__(
        self,
        savepath: Place,
        options: ExportOptions,
        sink: Sink,
        *,
        processes: int | str = 1,
        edited: bool = False,
        given: Given | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        if options.format is None:
            raise UsageError(f"--format is one of {', '.join(WRITERS)}")
        self._savepath = savepath
        self._endpoint_url = endpoint_url
        self._options = options
        self._sink = sink
        self._processes = processes
        self._edited = edited
        self.format: Format = options.format
        self.out = options.out if options.out is not None else _usual_out(savepath, options.format)
        self._given = given

    async def run(self) -> ExportReport:
        """Export and return the counts. Raises InputError, UsageError, LockedError (a run is on), StorageError."""
        refuse_forked_child()
        if not isinstance(self._savepath, Path):
            return await self.within()
        with read_lock(Folder(self._savepath)):
            return await self.within()

    def check_place(self) -> None:
        """Raise UsageError if the export could not take its place: before a download rather than after it."""
        assert isinstance(self._savepath, Path)
        ExportFolder(self.out, Folder(self._savepath)).check()

    async def within(self) -> ExportReport:
        """Export while the folder is locked already."""
        sink = CallsOnLoop(self._sink)
        report = await until_stopped(self._export, sink)
        sink.check()
        return report

    def _export(self, sink: CallsOnLoop, stopped: Callable[[], bool]) -> ExportReport:
        started = monotonic()
        try:
            if isinstance(self._savepath, Path):
                self.check_place()
            with self._open() as dataset:
                return self._into_place(dataset, sink, started, stopped)
        except InterruptedError:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            if not isinstance(error, OSError) and machine_error(error) is None:
                raise
            raise storage_error(error, self.out) from error

    def _open(self) -> SavedDataset:
        if not isinstance(self._savepath, Path):
            return open_bucket(self._savepath, self._endpoint_url, "export")
        return open_folder(Folder(self._savepath), "export", self._given or Given.of(self._savepath, {}))

    def _into_place(
        self, dataset: SavedDataset, sink: CallsOnLoop, started: float, stopped: Callable[[], bool]
    ) -> ExportReport:
        """Write the export next to its place, and let it take that once it is complete."""
        place = ExportFolder(self.out, dataset.folder)
        place.check()
        with place.stage() as stage:
            check_tables(dataset, edited=self._edited)
            report = self._fill(dataset, stage, sink, started, stopped)
            # A listener that wants to stop the export is heard before the export has its name.
            sink.wait_and_check()
            kept = place.take(stage / "export")
            if kept is not None:
                sink(Note(f"files came into the earlier export while it was replaced: it is kept as {kept}"))
            return report

    def _fill(
        self, dataset: SavedDataset, stage: Path, sink: CallsOnLoop, started: float, stopped: Callable[[], bool]
    ) -> ExportReport:
        """Write the export into the stage, and its marker."""
        sink(Stage(f"exporting as {self.format}"))
        options, export, scratch = self._options, stage / "export", stage / "scratch"
        settings = self._settings()
        identity = {**dataset.fingerprint(), "options": settings, "program": __version__}
        _keep_or_clear(stage, export, identity, can_continue=self.format == "webdataset")
        scratch.mkdir()
        writer_class = WRITERS[self.format]
        side_kinds: Sequence[KindName] = getattr(writer_class, "side_kinds", ())
        source = ExportSource(dataset, options, writer_class.kinds, scratch, side_kinds=side_kinds)
        for note in (*dataset.notes, *self._notes(source)):
            sink(Note(note))
        staging = _staging(source, scratch)
        with process_pool(self._processes, self._work(source), stopped) as pool, ExitStack() as files:
            pictures = Pictures(dataset, FileRecord(), scratch, copy=options.copy, pool=pool, staging=staging)
            attribution: ExportAttribution | None = None
            if self.format in _NEEDS_ATTRIBUTION:
                attribution = files.enter_context(ExportAttribution(export, options))
            context = ExportContext(source, export, options, pictures, files, attribution)
            writer = writer_class(context)
            done = 0
            spans = self._spans(source, pictures, staging)
            # Of a place the pictures of one span at a time are files.
            with nullcontext(spans) if pool is None or staging is not None else one_ahead(spans) as ready:
                for images, readable in ready:
                    sink.check()
                    if stopped():
                        raise InterruptedError("the export was stopped")
                    writer.write(readable)
                    done += images
                    sink(Exported(done, source.total))
            writer.finish()
        check_counts(source.planned, context)
        for line in _left_out(source):
            sink(Note(line))
        report = self._report(source, monotonic() - started)
        marker = {"program": f"oid-async {__version__}", **report.as_json(), "options": settings}
        del marker["seconds"]
        (export / MARKER).write_text(json.dumps(marker, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_list(export, pictures.record.listed(export, stopped))
        return report

    def _report(self, source: ExportSource, seconds: float) -> ExportReport:
        planned = source.planned
        return ExportReport(
            format=self.format,
            savepath=str(self._savepath),
            out=str(self.out),
            images=sum(planned.images.values()),
            splits={split: planned.images[split] for split in source.splits},
            annotations={kind: planned.rows[kind] for kind in source.kinds},
            classes=len(source.classes.names) if source.has_shapes else 0,
            left_out=dict(planned.left_out),
            seconds=seconds,
        )

    def _notes(self, source: ExportSource) -> Iterator[str]:
        """Yield what is going to be exported and what is not, a line each."""
        planned = source.planned
        if self._options.no_files and self.format in ("webdataset", "parquet", "tfrecord"):
            yield f"--no-files changes nothing here: {self.format} holds the images itself"
        rows = ", ".join(f"{planned.rows[kind]} {KINDS[kind].what}" for kind in source.kinds)
        images = ", ".join(f"{split} {planned.images[split]}" for split in source.splits)
        yield f"exporting {source.total} images ({images or 'none'}), {rows or 'no rows'}"
        at_home = (*WRITERS[self.format].kinds, *(source.side_kinds if source.has_shapes else ()))
        homeless = [KINDS[kind].what for kind in source.dataset.kinds if kind not in at_home]
        if homeless:
            yield f"{self.format} has no place for what was saved of {', '.join(homeless)}"

    def _spans(self, source: ExportSource, pictures: Pictures, staging: Staging | None) -> Iterator[tuple[int, Span]]:
        """Yield each span without what is no picture, and how many images it had."""
        is_slow = self._options.max_side is not None or "segmentation" in source.kinds or staging is not None
        is_slow |= self.format == "crops"
        for span in source.spans(_SLOW_SPAN_ROWS if is_slow else SPAN_ROWS):
            with nullcontext() if staging is None else staging.staged(span):
                yield len(span.images), sieved(span, source, pictures)

    def _work(self, source: ExportSource) -> int:
        """Return how much there is to do, in pictures to read or to make smaller."""
        if self.format == "crops":
            return 0 if self._options.no_files else min(source.total, source.planned.rows.get("bbox", 0))
        masks = source.planned.rows.get("segmentation", 0)
        resized = source.count_resized() if self._options.max_side is not None else 0
        return masks + resized + source.total // IMAGES_OF_A_PICTURE

    def _settings(self) -> dict[str, Any]:
        """Return the options of the export as plain JSON values."""
        values = {name: getattr(self._options, name) for name in ExportOptions.__dataclass_fields__}
        return {
            name: value if value is None or isinstance(value, int | float) else str(value)
            for name, value in values.items()
        }


def _usual_out(savepath: Place, format: Format) -> Path:
    """Return where an export of a folder goes. Raises UsageError for a bucket: it has no such place."""
    if isinstance(savepath, Path):
        return savepath / "export" / format
    raise UsageError(f"{savepath}: name the folder that the export goes to with --out; it is written on this disk")


def _staging(source: ExportSource, scratch: Path) -> Staging | None:
    """Return what brings the pictures of a place as files, None for a folder that has them. Raises InputError."""
    dataset = source.dataset
    if dataset.packed_images is None or dataset.files is None:
        return None
    if source.needs_pictures:
        check_shards(dataset.files, dataset.images)
    return Staging(dataset.packed_images, scratch, needs_pictures=source.needs_pictures)


def _left_out(source: ExportSource) -> Iterator[str]:
    """Yield what was left out and how to have it. Raises InputError if no image is left."""
    plan, savepath = source.planned, source.dataset.savepath
    lines = list(plan.left_out_lines())
    is_mended = source.dataset.files is None
    if is_mended and any(reason.startswith("image:") and not _TOO_LARGE.search(reason) for reason in plan.left_out):
        lines.append(f"oid-async verify {savepath} --repair fetches the images again that were left out")
    if not sum(plan.images.values()) and any(reason.startswith("image:") for reason in plan.left_out):
        raise InputError(f"{savepath}: none of its images can be exported; {'; '.join(lines)}")
    yield from lines


def _keep_or_clear(stage: Path, export: Path, identity: dict[str, Any], *, can_continue: bool) -> None:
    """Make the folder of the export; an unfinished one stays if it has the same identity and can be continued."""
    note = stage / "identity.json"
    text = json.dumps(identity, sort_keys=True)
    try:
        is_same = can_continue and read_plain(note).decode() == text
    except (OSError, UnicodeDecodeError):
        is_same = False
    for path in (stage / "scratch", *(() if is_same and not export.is_symlink() else (export,))):
        if path.is_symlink():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
    export.mkdir(exist_ok=True)
    write_text(note, text)
