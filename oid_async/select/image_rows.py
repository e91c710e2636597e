"""The rows of the selected images in the image tables, a span of keys at a time, in whatever order they stand there."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import polars as pl

from oid_async.openimages.catalogue_tables import IMAGE_COLUMNS
from oid_async.openimages.ids import KEY, ROW, IdForm, is_among, within
from oid_async.openimages.vocabulary import Split
from oid_async.quick_values import define
from oid_async.select.query import in_splits
from oid_async.tables.reading import TableFile, cut, reading, scan_keyed

# Rows that are copied at once; more take more memory, fewer are slower to read in order.
_RUN_ROWS = 1 << 15
_ROW_GROUP = 1 << 10


@define
class ImageRows:
    """Reads the image rows of a plan's `keys` (sorted, unique): KEY, ImageID, the image columns and `row`.

    `row` (u64) is the place of a row as published, over all tables; of the image columns those that are not `wanted`,
    or not there, are null. A table that is sorted by its keys is read in place. The selected rows of any other are
    copied into `folder` in sorted runs, of which a span needs few row groups: at a million images in no order the spans
    take 5 seconds of a processor in place of 40, and the copy a third of the memory (measured). Blocking.
    """

    tables: Sequence[TableFile]
    ids: IdForm
    splits: Sequence[Split]
    keys: pl.Series
    wanted: Sequence[str]
    folder: Path
    _sorted: list[pl.LazyFrame] = field(default_factory=list)
    _copied: list[pl.LazyFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Where all images are there already, nothing is read.
        for number, table in enumerate(self.tables if len(self.keys) else ()):
            if table.is_sorted:
                self._sorted.append(
                    self._rows(number, scan_keyed(table, self.ids, ["ImageID"], self.wanted, numbered=True))
                )
            else:
                self._copied.append(self._copy(number))

    def of(self, span: pl.Series) -> pl.DataFrame:
        """Return the rows of a span of the keys, by KEY, then `row`."""
        rows = [table.filter(within(span)) for table in self._copied]
        # These hold images that are not selected, too.
        rows += [table.filter(within(span) & pl.col(KEY).is_in(span.implode())) for table in self._sorted]
        return pl.concat(rows).sort(KEY, "row").collect(engine="streaming")

    def close(self) -> None:
        """Remove the copies."""
        for path in self.folder.glob("rows-*.parquet"):
            path.unlink()

    def _rows(self, number: int, frame: pl.LazyFrame) -> pl.LazyFrame:
        frame = in_splits(frame, self.splits)
        there = frame.collect_schema().names()
        carried = IMAGE_COLUMNS[1:]
        missing = [pl.lit(None, pl.String).alias(name) for name in carried if name not in there]
        row = pl.col(ROW).cast(pl.UInt64) + (number << 48)
        return frame.with_columns(*missing).select(KEY, "ImageID", *carried, row=row)

    def _copy(self, number: int) -> pl.LazyFrame:
        """Copy the selected rows of a table. Raises InputError, StorageError."""
        table, files = self.tables[number], list[Path]()

        def write(run: pl.DataFrame) -> None:
            files.append(self.folder / f"rows-{number}-{len(files):05}.parquet")
            run.sort(KEY).write_parquet(files[-1], row_group_size=_ROW_GROUP, compression="lz4")

        with reading(table, into=self.folder):
            rows = scan_keyed(table, self.ids, ["ImageID"], self.wanted, numbered=True)
            for part in cut(table, self.ids, rows, _RUN_ROWS):
                selected = self._rows(number, part).filter(is_among(self.keys))
                selected.sink_batches(write, chunk_size=_RUN_ROWS, engine="streaming")
            return pl.scan_parquet(files, glob=False) if files else selected.clear()
