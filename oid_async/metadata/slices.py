"""The rows of a large CSV table, divided into slices, each of which becomes a sorted part.

    FOLDER/rows-00000.csv ...  the rows of a slice in published order: ROW, then the line; gone once the part is there

Rows are divided and sorted as lines of text, and read as columns last, when their part is written: to write, divide and
sort 21 columns of text takes twice the processor's time, and four times the memory.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import polars as pl

from oid_async.openimages.ids import KEY, ROW, IdForm, id_column
from oid_async.quick_values import frozen
from oid_async.system.processes import available_processors
from oid_async.tables.damage import StoppedError
from oid_async.tables.reading import NO_SEPARATOR, TableFile, columns_of, scan, scan_csv_lines

_BATCH_ROWS = 1 << 18
_BLOCK = 1 << 20
_NO_SEPARATOR = NO_SEPARATOR.encode()
PART_GROUP = 1 << 15
_LABEL = "LabelName"
_NUMBER, _FIRST, _RANGES, _PLACE = "__number", "__first", "__ranges", "__place"
# More than two parts in the making take more memory, and Polars uses further processors for one.
_MOST_AT_ONCE = 2
# Of image rows one part in the making takes half a gigabyte.
_LARGE_SLICE = 128 << 20


@frozen
class Slices:
    """Which slice a row belongs to; slices are in the order of their rows.

    They are `count` slices of `rows` rows together. `places` has of each label (None: all are as one) the number of its
    first slice and in how many ranges its keys are divided, each a slice.
    """

    count: int
    rows: int
    places: pl.DataFrame | None = None

    @classmethod
    def by_key(cls, rows: int, most: int) -> Self:
        """Divide rows by their keys; a slice has about `most` rows: ids are spread nearly evenly (0... 1.4 times)."""
        return cls(-(-rows // most), rows)

    @classmethod
    def by_label(cls, counts: pl.DataFrame, most: int) -> Self:
        """Divide rows (LabelName, len) into runs of neighbouring labels; a label of more than `most` by its keys."""
        places: list[tuple[str | None, int, int]] = []
        number = total = 0
        for label, count in counts.sort(_LABEL).iter_rows():
            if total and (label is None or total + count > most):
                number, total = number + 1, 0
            ranges = -(-count // most) if label is not None else 1
            places.append((label, number, ranges))
            if label is None or ranges > 1:
                number += ranges
            else:
                total += count
        schema = {_LABEL: pl.String, _FIRST: pl.UInt64, _RANGES: pl.UInt64}
        return cls(number + (total > 0), int(counts["len"].sum()), pl.DataFrame(places, schema=schema, orient="row"))

    @property
    def labels(self) -> list[str]:
        """The column by which rows are sorted before KEY and ROW, if there is one."""
        return [] if self.places is None else [_LABEL]

    def numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with the number of their slices, without the columns that tell it."""
        if self.places is None:
            first, ranges = pl.lit(0, pl.UInt64), pl.lit(self.count, pl.UInt64)
        else:
            rows = rows.join(self.places, on=_LABEL, how="left", nulls_equal=True, maintain_order="left")
            first, ranges = pl.col(_FIRST), pl.col(_RANGES)
        number = first + pl.col(KEY) // 2**32 * ranges // 2**32
        return rows.with_columns(number.alias(_NUMBER)).drop(KEY, _LABEL, _FIRST, _RANGES, strict=False)


class SlicedTable:
    """A table without damage whose rows are divided into slices, in a folder where parts are made of them. Blocking."""

    def __init__(self, table: TableFile, folder: Path, slices: Slices, stopped: Callable[[], bool]) -> None:
        self._table = table
        self._folder = folder
        self._slices = slices
        self._stopped = stopped
        self._columns = columns_of(table)
        self._key = IdForm().key(id_column(self._columns))
        self._has_lines = _is_by_lines(table, slices.rows)
        are_large = table.path.stat().st_size > _LARGE_SLICE * slices.count
        self._at_once = 1 if are_large else min(_MOST_AT_ONCE, available_processors())

    def divide(self) -> None:
        """Write the rows of each slice into its file. Raises StoppedError."""
        frame = scan(self._table, [], row=ROW)
        by = [self._key, *map(pl.col, self._slices.labels)]
        if self._has_lines:
            lines = scan_csv_lines(self._table, row=ROW)
            rows = pl.concat([lines, frame.select(by)], how="horizontal")
        else:
            rows = frame.select(ROW, pl.struct(self._columns).alias("fields"), *by)
        failed: list[BaseException] = []

        def write(batch: pl.DataFrame) -> bool:
            # Polars would make an error of its own of what is raised here.
            try:
                for (number,), some in (
                    self._slices.numbered(batch).partition_by(_NUMBER, as_dict=True, include_key=False).items()
                ):
                    with self._file(int(number)).open("ab") as file:
                        if self._has_lines:
                            some.write_csv(file, include_header=False, quote_style="never")
                        else:
                            some.unnest("fields").write_csv(file, include_header=False)
            except BaseException as error:
                failed.append(error)
            return bool(failed) or self._stopped()

        rows.sink_batches(write, chunk_size=_BATCH_ROWS, engine="streaming")
        if failed:
            raise failed[0]
        if self._stopped():
            raise StoppedError

    def make_parts(self, progress: Callable[[int, int], None]) -> None:
        """Make the sorted parts. Raises StoppedError."""
        with ThreadPoolExecutor(self._at_once) as threads:
            try:
                for done, _ in enumerate(threads.map(self._make_part, range(self._slices.count)), start=1):
                    progress(done, self._slices.count)
            finally:
                threads.shutdown(cancel_futures=True)

    def _make_part(self, number: int) -> None:
        if self._stopped():
            raise StoppedError
        path, part = self._file(number), self._folder / f"part-{number:05}.parquet"
        path.touch()
        keys = self._sorted_keys(path)
        order = keys.get_column(_PLACE)
        text = self._folder / f"sorted-{number:05}.csv"
        with text.open("wb") as file:
            # An image table of few ids may have a range of keys without any.
            if self._has_lines and len(keys):
                lines = scan_csv_lines(TableFile(path, self._table.name, header=())).collect(engine="streaming")
                lines[order].write_csv(file, include_header=False, quote_style="never")
                del lines
            elif len(keys):
                self._scan(path).collect(engine="streaming")[order].write_csv(file, include_header=False)
        path.unlink()
        rows = self._scan(text).select(self._key, ROW, *self._columns)
        rows.sink_parquet(part, row_group_size=PART_GROUP, compression="lz4")
        text.unlink()
        if self._slices.places is not None:
            pairs = pairs_of(keys)
            path = self._folder / f"pairs-{number:05}.parquet"
            pairs.write_parquet(path, row_group_size=PART_GROUP, compression="lz4")

    def _sorted_keys(self, path: Path) -> pl.DataFrame:
        """Return KEY, place (and LabelName) of the rows of a slice in their order; in the file they are as published.

        Sorted label by label: all at once takes three times as long.
        """
        keys = (
            self._scan(path).select(self._key, *self._slices.labels).collect(engine="streaming").with_row_index(_PLACE)
        )
        if not self._slices.labels:
            return keys.sort(KEY, maintain_order=True)
        by_label = keys.group_by(_LABEL).agg(pl.col(KEY, _PLACE).sort_by(KEY, _PLACE))
        return by_label.sort(_LABEL).explode(KEY, _PLACE)

    def _file(self, number: int) -> Path:
        return self._folder / f"rows-{number:05}.csv"

    def _scan(self, source: Path) -> pl.LazyFrame:
        """Scan the rows of a slice."""
        schema = {ROW: pl.UInt32, **dict.fromkeys(self._columns, pl.String)}
        return pl.scan_csv(source, has_header=False, schema=schema, raise_if_empty=False, glob=False)


def pairs_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Return LabelName, KEY, boxes (u32) of each image and label of sorted rows (LabelName, KEY).

    By the places where they change: to group them takes five times as long.
    """
    label, key = pl.col(_LABEL), pl.col(KEY)
    is_first = label.ne_missing(label.shift()) | (key != key.shift()) | (pl.int_range(pl.len()) == 0)
    first = rows.select(is_first.arg_true().alias("first")).to_series()
    boxes = first.shift(-1).fill_null(len(rows)) - first
    return rows[first].select(_LABEL, KEY, boxes.cast(pl.UInt32).alias("boxes"))


def count_rows(table: TableFile) -> int:
    """Return how many rows a table without damage has. Blocking.

    By its ids: for the length alone Polars maps all of a CSV file, which then counts as memory.
    """
    image_id = pl.col(id_column(columns_of(table)))
    return int(scan(table, []).select(image_id.count()).collect(engine="streaming").item())


def _is_by_lines(table: TableFile, rows: int) -> bool:
    """Return whether every one of so many rows is a line, and every line is read as one field."""
    breaks, block = 0, b""
    with table.path.open("rb") as file:
        for block in iter(partial(file.read, _BLOCK), b""):
            if _NO_SEPARATOR in block:
                return False
            breaks += block.count(b"\n")
    return breaks + (not block.endswith(b"\n")) == rows + 1
