"""One export under way: what the writer of a format is handed, and what it must be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import polars as pl

from oid_async.formats.pictures import Pictures
from oid_async.formats.source import ExportSource, Span
from oid_async.openimages.kinds import KindName
from oid_async.options.export import ExportOptions


@dataclass(slots=True)
class Written:
    """What a writer has written: images of each split, rows of each kind."""

    images: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ExportContext:
    """What to export from `source` into the folder `stage`, which is empty and becomes the export once it is whole.

    `files` closes what a writer has open, however the export ends.
    """

    source: ExportSource
    stage: Path
    options: ExportOptions
    pictures: Pictures
    files: ExitStack
    written: Written = field(default_factory=Written)

    def folder(self, *names: str) -> Path:
        """Make a folder in the stage and return it."""
        path = self.stage.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def wrote(self, images: pl.DataFrame, rows: Mapping[str, int]) -> None:
        """Count these images as written, and so many rows of each kind."""
        for split, count in images.group_by("Split").len().iter_rows():
            self.written.images[split] += count
        self.written.rows.update(rows)


class FormatWriter(Protocol):
    """Writes one format. `kinds` are those that it has a place for."""

    kinds: ClassVar[Sequence[KindName]]

    def __init__(self, job: ExportContext) -> None: ...

    def write(self, span: Span) -> None:
        """Write a span, and count in the job what was written. Raises OSError, InputError."""

    def finish(self) -> None:
        """Write what stands at the end of the export."""
