"""The two methods of the writer of a format (FormatWriter), and what it is given (ExportContext)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Protocol

import polars as pl

from oid_async.errors import InputError
from oid_async.formats.attribution import ExportAttribution
from oid_async.formats.pictures import Pictures
from oid_async.formats.source import ExportPlan, ExportSource, Span
from oid_async.openimages.kinds import KindName
from oid_async.options.export import ExportOptions


@dataclass(slots=True)
class Written:
    """Counts of what was written: images by split, rows by kind; of samples objects by split and class."""

    images: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    objects: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add_sample(self, split: str, categories: Iterable[str], rows: Mapping[str, int]) -> None:
        """Count a sample of a split with the class names of its objects, and so many rows of each kind."""
        self.rows.update(rows)
        self.objects.update((split, name) for name in categories)


@dataclass(frozen=True, slots=True)
class ExportContext:
    """One export under way: from `source` into the folder `stage`, which becomes the export when it is complete.

    `stage` is empty at first. `files` closes the open files of a writer, however the export ends. `attribution` is the
    table of who to credit, of formats that come with it.
    """

    source: ExportSource
    stage: Path
    options: ExportOptions
    pictures: Pictures
    files: ExitStack
    attribution: ExportAttribution | None = None
    written: Written = field(default_factory=Written)
    _open: dict[tuple[str, ...], IO[str]] = field(default_factory=dict)

    def folder(self, *names: str) -> Path:
        """Make a folder in the stage and return it."""
        path = self.stage.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def text_file(self, *names: str) -> IO[str]:
        """Return the open text file of this path in the stage; it is made the first time, and closed by `files`."""
        if names not in self._open:
            path = self.folder(*names[:-1]) / names[-1]
            self._open[names] = self.files.enter_context(path.open("w", encoding="utf-8"))
        return self._open[names]

    def place(self, images: pl.DataFrame, *folder: str) -> None:
        """Put images into the folder of their split, whose names have `{split}`; not in an export without files.

        Raises OSError, InputError.
        """
        if self.options.no_files:
            return
        for (split,), part in images.group_by("Split", maintain_order=True):
            self.pictures.place(part, self.folder(*(name.format(split=split) for name in folder)))

    def wrote(self, images: pl.DataFrame, rows: Mapping[str, int], *, credited: pl.DataFrame | None = None) -> None:
        """Count these images as written, and so many rows of each kind; `credited` are those to credit if not all are.

        Raises OSError.
        """
        if self.attribution is not None:
            self.attribution.write(images if credited is None else credited)
        for split, count in images.group_by("Split").len().iter_rows():
            self.written.images[split] += count
        self.written.rows.update(rows)


class FormatWriter(Protocol):
    """Writes one format. `kinds` are the kinds of annotations that the format can hold.

    `names` are patterns of the files that it writes, `names_by_image` of those of which there is one an image: regular
    expressions of whole paths, `{split}` for any split. They tell the files of version 0.1.0, which listed none.
    """

    kinds: ClassVar[Sequence[KindName]]
    names: ClassVar[Sequence[str]]
    names_by_image: ClassVar[Sequence[str]]

    def __init__(self, context: ExportContext) -> None: ...

    def write(self, span: Span) -> None:
        """Write a span, and count in the context what was written. Raises OSError, InputError."""

    def finish(self) -> None:
        """Write what comes at the end of the export."""


def check_counts(planned: ExportPlan, context: ExportContext) -> None:
    """Raise InputError unless as many images and rows were written as planned."""
    written = context.written
    for what, wanted, found in (("images", planned.images, written.images), ("rows", planned.rows, written.rows)):
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name, 0) != found[name]:
                raise InputError(
                    f"{context.source.dataset.savepath}: {wanted.get(name, 0)} {what} of {name} were planned and "
                    f"{found[name]} written: the tables do not fit the manifest; run the download again, then export"
                )
