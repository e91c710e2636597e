"""The rows that a few images have in a saved table, found without reading the table: it is in order of ImageID.

The bytes of the file are bisected: some twenty small reads find an image among 14.6 million boxes. A table that was
edited may be in another order, or have fields with line breaks. Where that shows, or somebody knows better
(`gallery.index`), the whole table is scanned for the images.
"""

import csv
import json
import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from typing import NamedTuple

import polars as pl

from oid_async.dataset.tables import SCHEMAS, SavedTable, column
from oid_async.errors import input_errors
from oid_async.openimages.ids import ID_COLUMNS, id_column
from oid_async.store.disk import plain_file
from oid_async.system.positions import pread
from oid_async.tables.reading import reading, scan_lines

_BLOCK_BYTES = 1 << 13
_MOST_BLOCK_BYTES = 1 << 20
# No record of a table is longer: it is no table, or a quotation mark was never closed.
_MOST_RECORD_BYTES = 64 << 20
# What is left of the file is read through when it is no longer than this.
_LINEAR_BYTES = 1 << 14
# A table of so many bytes is looked at as a whole before its order is believed, of a larger one so many places.
_SMALL_BYTES = 8 << 20
_PLACES = 64


class NotInOrderError(Exception):
    """The rows of a table are not in order of ImageID, or cannot be told apart without reading all of it."""


class Record(NamedTuple):
    """A row as it stands in the file: where it begins and ends, whose it is, its bytes with the line break."""

    begin: int
    end: int
    image_id: str
    line: bytes


class TableRows:
    """Finds the rows of images in one saved table. Safe to use from several threads; `close` it.

    The file is held open: a table that replaces it is not seen. Raises InputError.
    """

    def __init__(self, table: SavedTable) -> None:
        self.table = table
        self._is_json = table.kind.is_json
        with input_errors(table.path):
            self._file = plain_file(table.path)
            self._descriptor = self._file.fileno()
            self._size = os.fstat(self._descriptor).st_size
        # True once the index has seen every row in order, False once any was seen out of order.
        self.is_in_order: bool | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def of(self, image_ids: Collection[str], *, expected: int | None = None) -> pl.DataFrame:
        """Return the rows of some images, by ImageID and as saved: the columns of `SavedTable.typed`.

        Narratives have the columns image_id and line, their JSON text. `expected` is the number of the rows where that
        is known: if others are found, the whole table is scanned, which takes seconds for a large one.
        """
        wanted = sorted(set(image_ids))
        if not wanted:
            return self._frame([])
        if self._may_bisect:
            try:
                rows = self._frame(list(self._bisected(wanted)))
                if expected is None or len(rows) == expected:
                    return rows
            except NotInOrderError:
                self.is_in_order = False
        return self._scanned(wanted)

    @property
    def _may_bisect(self) -> bool:
        if self.is_in_order is None and not self._looks_ordered:
            self.is_in_order = False
        return self.is_in_order is not False

    @cached_property
    def _looks_ordered(self) -> bool:
        """Whether a small table is in order, or a large one at many places and at its end."""
        try:
            if self._size <= _SMALL_BYTES:
                found = [record.image_id for record in self._records(self._start)]
            else:
                step = (self._size - self._start) // _PLACES
                places = [self._start + step * place for place in range(_PLACES)]
                records = (self._at(place) for place in (*places, max(self._start, self._size - _LINEAR_BYTES)))
                found = [record.image_id for record in records if record is not None]
                found += [record.image_id for record in self._records(self._last_lines)]
        except NotInOrderError:
            return False
        return all(earlier <= later for earlier, later in pairwise(found))

    @property
    def _last_lines(self) -> int:
        last = self._at(max(self._start, self._size - _LINEAR_BYTES))
        return last.begin if last is not None else self._size

    # The file as records.

    @cached_property
    def _header(self) -> tuple[list[str], int]:
        """The names of the columns, and where the first row begins."""
        if self._is_json:
            return [], 0
        for _, end, line in self._lines(0):
            names = _fields(line.removeprefix(b"\xef\xbb\xbf"))
            if not any(name in names for name in ID_COLUMNS) or len(set(names)) < len(names):
                raise NotInOrderError
            return names, end
        raise NotInOrderError

    @property
    def _start(self) -> int:
        return self._header[1]

    def _lines(self, at: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield begin, end and bytes of the records from one that begins at a place; a quoted field may hold breaks."""
        data, base, begin, block = b"", at, 0, _BLOCK_BYTES
        while True:
            end = _end_of_record(data, begin, quoted=not self._is_json)
            if end:
                yield base + begin, base + end, data[begin:end]
                begin = end
                continue
            with input_errors(self.table.path):
                more = pread(self._descriptor, block, base + len(data))
            if not more:
                if data[begin:].strip():
                    yield base + begin, base + len(data), data[begin:]
                return
            data, base, begin = data[begin:] + more, base + begin, 0
            block = min(2 * block, _MOST_BLOCK_BYTES)
            if len(data) > _MOST_RECORD_BYTES:
                raise NotInOrderError

    def _records(self, at: int) -> Iterator[Record]:
        """Yield the records from one that begins at a place; blank lines are none."""
        for begin, end, line in self._lines(at):
            if line.strip():
                yield Record(begin, end, self._id_of(line), line)

    def _id_of(self, line: bytes) -> str:
        if self._is_json:
            try:
                image_id = json.loads(line)["image_id"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise NotInOrderError from error
            return str(image_id)
        names = self._header[0]
        fields = _fields(line)
        if len(fields) != len(names):
            raise NotInOrderError
        return fields[names.index(id_column(names))]

    def _at(self, place: int) -> Record | None:
        """Return the first record that begins at a place or behind it, None at the end of the file."""
        if place > self._start:
            at, block = place - 1, _BLOCK_BYTES // 2
            while True:
                with input_errors(self.table.path):
                    data = pread(self._descriptor, block, at)
                if not data:
                    return None
                if (found := data.find(b"\n")) >= 0:
                    place = at + found + 1
                    break
                at, block = at + len(data), min(2 * block, _MOST_BLOCK_BYTES)
        return next(self._records(max(place, self._start)), None)

    # Bisecting.

    def _bisected(self, wanted: Sequence[str]) -> Iterator[Record]:
        """Yield the records of these ids, which are in order."""
        at = self._start
        for image_id in wanted:
            at = self._first_from(at, image_id)
            for record in self._records(at):
                if record.image_id < image_id:
                    raise NotInOrderError
                if record.image_id > image_id:
                    break
                yield record
                at = record.end

    def _first_from(self, low: int, image_id: str) -> int:
        """Return where the first record from a place on begins whose id is not below this one.

        All records before `low`, which begins a record, are below it.
        """
        first = next(self._records(low), None)
        if first is None or first.image_id >= image_id:
            return low
        low, below = first.end, first.image_id
        high, above = self._size, None
        while high - low > _LINEAR_BYTES:
            middle = (low + high) // 2
            record = self._at(middle)
            if record is None or record.begin >= high:
                high = middle
                continue
            if record.image_id < below or (above is not None and record.image_id > above):
                raise NotInOrderError
            if record.image_id >= image_id:
                high, above = middle, record.image_id
            else:
                low, below = record.end, record.image_id
        for record in self._records(low):
            if record.image_id < below:
                raise NotInOrderError
            if record.image_id >= image_id:
                return record.begin
            below = record.image_id
        return self._size

    # Rows as tables.

    def _frame(self, records: Sequence[Record]) -> pl.DataFrame:
        if self._is_json:
            lines = [(record.image_id, record.line.decode("utf-8", "replace")) for record in records]
            return pl.DataFrame(lines, schema={"image_id": pl.String, "line": pl.String}, orient="row")
        schema = SCHEMAS[self.table.kind.name]
        if not records:
            return pl.DataFrame(schema=schema)
        names = self._header[0]
        data = b"".join(record.line if record.line.endswith(b"\n") else record.line + b"\n" for record in records)
        rows = pl.read_csv(BytesIO(data), has_header=False, new_columns=names, infer_schema=False, glob=False)
        return _typed(rows.rename({id_column(names): "ImageID"}).lazy(), self.table).collect()

    def _scanned(self, wanted: Sequence[str]) -> pl.DataFrame:
        """Return the same by reading the whole table."""
        ids = pl.Series(wanted, dtype=pl.String).implode()
        with reading(self.table.file):
            if self._is_json:
                lines = scan_lines(self.table.file).filter(pl.col("image_id").is_in(ids)).select("image_id", "line")
                return lines.sort("image_id", maintain_order=True).collect(engine="streaming")
            rows = self.table.as_text().filter(pl.col("ImageID").is_in(ids))
            return _typed(rows, self.table).sort("ImageID", maintain_order=True).collect(engine="streaming")


def _typed(rows: pl.LazyFrame, table: SavedTable) -> pl.LazyFrame:
    schema, present = SCHEMAS[table.kind.name], rows.collect_schema().names()
    documented = [column(name, dtype, present) for name, dtype in schema.items()]
    return rows.select(*documented, *(name for name in present if name not in schema))


def _end_of_record(data: bytes, begin: int, *, quoted: bool) -> int:
    """Return the place behind the line break that ends a record, 0 if it is not among these bytes."""
    end = data.find(b"\n", begin)
    while quoted and end >= 0 and data.count(b'"', begin, end) % 2:
        end = data.find(b"\n", end + 1)
    return end + 1


def _fields(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode().rstrip("\r\n")], strict=True), [])
    except (ValueError, csv.Error) as error:
        raise NotInOrderError from error
