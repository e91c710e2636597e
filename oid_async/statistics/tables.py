"""What is counted: the images and the rows of annotations of a folder, a query or an export, as LazyFrames of one form.

    images   Subset, Status, Reason, Source, License, Author, Role: String, Bytes: Int64, Width, Height: Int32; one row
             per image
    rows     by kind, one row as published: IMAGE and the columns of COLUMNS
    absent   IMAGE, LabelName: a class of which it is verified that it is not in a negative

IMAGE is the image of a row: a number or a text, of one dtype in all tables.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from oid_async.errors import InputError, machine_error, storage_error
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.kinds import KindName
from oid_async.openimages.vocabulary import FLAGS
from oid_async.statistics.value import Subject

IMAGE = "__image"
_BATCH_ROWS = 1 << 19
# The columns that are counted, beside IMAGE; a kind that is not here has rows and nothing else.
COLUMNS: Mapping[KindName, Sequence[str]] = {
    "bbox": ("LabelName", "Category", *SIDES, *FLAGS.values(), "Width", "Height"),
    "segmentation": ("LabelName", "Category"),
    "relationship": ("LabelName1", "LabelName2", "Category1", "Category2", "RelationshipLabel"),
    "label": ("LabelName", "Category", "Source", "Confidence"),
    "point": ("LabelName", "Category"),
}
IMAGE_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("Subset", "Status", "Reason", "Source", "License", "Author", "Role"), pl.String),
    "Bytes": pl.Int64,
    "Width": pl.Int32,
    "Height": pl.Int32,
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one source; `counted` are the rows of kinds whose number is known, or is all that is asked.

    `names` are what classes are called where their rows do not say it.
    """

    of: Subject
    images: pl.LazyFrame
    rows: Mapping[KindName, pl.LazyFrame]
    absent: pl.LazyFrame | None = None
    counted: Mapping[KindName, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where rows are kept that are read several times: a temporary folder, `source` in messages about it.

    `stopped` is asked between two passes; InterruptedError ends the work then.
    """

    folder: Path
    source: str
    stopped: Callable[[], bool] = lambda: False

    def keep(self, rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
        """Write rows into Parquet files, which are read in their place. Raises InputError, StorageError.

        Batch by batch, as one pass over a large table takes half a minute, and Polars ends none that nobody awaits.
        """
        folder = self.folder / name
        files: list[Path] = []

        def write(batch: pl.DataFrame) -> bool:
            files.append(folder / f"{len(files):05}.parquet")
            batch.write_parquet(files[-1], compression="lz4")
            return self.stopped()

        with self.errors(writing=folder):
            folder.mkdir()
            rows.sink_batches(write, chunk_size=_BATCH_ROWS, engine="streaming")
        self.check()
        return pl.scan_parquet(files, glob=False) if files else pl.LazyFrame(schema=rows.collect_schema())

    def collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Return the rows. Raises InputError, StorageError."""
        self.check()
        with self.errors():
            return rows.collect(engine="streaming")

    def check(self) -> None:
        """Raise InterruptedError if nobody waits for the result any more."""
        if self.stopped():
            raise InterruptedError("stopped")

    @contextmanager
    def errors(self, writing: Path | None = None) -> Iterator[None]:
        """Raise errors of Polars and of the disk as one that names what is read, or the full disk."""
        try:
            yield
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is not None:
                raise storage_error(error, writing or self.folder) from error
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise InputError(f"{self.source}: its tables cannot be read: {reason}") from error
