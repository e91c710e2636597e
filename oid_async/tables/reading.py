"""Read a table in place: CSV, gzipped CSV, Parquet or the cache's own form, every column as text, lazily.

No type is ever inferred. ImageIDs such as 0000048549557964 and 00e4060885034751 would become numbers, coordinates would
change their spelling, and saved rows must be as published. A header row may start with a byte order mark, lines
may end in CRLF, fields may be quoted and hold line breaks.
"""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import IO, Self, cast

import polars as pl

from oid_async.errors import InputError, machine_error, storage_error
from oid_async.openimages.ids import KEY, ROW, IdForm, hexadecimal, id_column, split_digit, split_key
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.quick_values import frozen
from oid_async.tables.file_type import other_separator, other_type

_SNIFF_BYTES = 1 << 20
# A character that hardly any table holds, and no JSON text as it is, so that Polars takes a line for a field.
NO_SEPARATOR = "\x01"


@frozen
class TableFile:
    """A table on this disk: its path, and its name in messages (the path or URL that the user gave).

    `columns` is set for a published table in the metadata cache's own form: `path` is then a folder of sorted Parquet
    parts (see `metadata.convert`), which hold KEY and ROW in addition to the published columns. `bad` is set for a copy
    without the damaged rows of a table: the file that lists them (see `tables.damage`). `split` is that of a published
    table of one split. `header` is set for a CSV file whose first line is a row: the names of its columns (see
    `tables.headless`).
    """

    path: Path
    name: str
    columns: tuple[str, ...] | None = None
    bad: Path | None = None
    split: Split | None = None
    header: tuple[str, ...] | None = None

    @property
    def is_parquet(self) -> bool:
        """Whether the name ends in .parquet; every other table that is not converted is read as CSV."""
        return self.path.name.lower().endswith(".parquet")

    @property
    def parts(self) -> list[Path]:
        """The Parquet files of a converted table, in order; of one that `divided` has made, its own."""
        return [self.path] if self.is_parquet else sorted(self.path.glob("part-*.parquet"))

    def divided(self) -> list[Self]:
        """Return the parts of a converted table as tables, any other as it is.

        The rows that one image has of one label are all in one part, whether the table is sorted by label or by image.
        """
        return [replace(self, path=part) for part in self.parts] if self.columns is not None else [self]

    @property
    def is_sorted(self) -> bool:
        """Whether the rows are known to be in order of their keys (boxes: within each class)."""
        return self.columns is not None and len(self.parts) > 1

    @property
    def damaged(self) -> Path | None:
        """The file with Line and Reason of the rows that were left out; None or missing when there are none."""
        return self.bad if self.columns is None else self.path / "damaged.parquet"


def columns_of(table: TableFile) -> list[str]:
    """Return the column names (a CSV's first row, spaces stripped). Raises InputError for a file that is no table."""
    if table.columns is not None:
        return list(table.columns)
    if table.header is not None:
        return list(table.header)
    if table.is_parquet:
        require_parquet(table)
        with reading(table):
            return list(parquet_schema(table.path))
    return [name.strip() for name in _first_row(table)]


def require_rows(table: TableFile) -> None:
    """Raise InputError for a table of a header and no rows: the user meant another one."""
    if table.header is not None:
        return
    if table.is_parquet:
        with reading(table):
            is_bare = not pl.scan_parquet(table.path, glob=False).select(pl.len()).collect().item()
    else:
        with reading(table):
            start = _start(table)
            text = _text(start)
            next(csv.reader(text), [])
            is_bare = len(start) < _SNIFF_BYTES and not text.read().strip()
    if is_bare:
        raise InputError(f"{table.name}: it has a header and no rows")


def require_csv(table: TableFile, start: bytes) -> None:
    """Raise InputError for what the first bytes of a file show to be no CSV file."""
    if not start.strip(b" \t\r\n") or start == b"\xef\xbb\xbf":
        raise InputError(f"{table.name}: the file is empty")
    if (what := other_type(start)) is not None:
        raise InputError(f"{table.name}: not a CSV file; it is {what}")


def require_parquet(table: TableFile) -> None:
    """Raise InputError for a file that has only the name of a Parquet file, or texts that are bytes."""
    with reading(table):
        start = _start(table)
    if not start:
        raise InputError(f"{table.name}: the file is empty")
    if not start.startswith(b"PAR1"):
        raise InputError(f"{table.name}: not a Parquet file; it is {other_type(start) or 'something else, maybe CSV'}")
    with reading(table):
        schema = parquet_schema(table.path)
    for name, dtype in schema.items():
        if dtype == pl.Binary:
            raise InputError(f"{table.name}: column {name!r} holds bytes, not text; write it as strings (UTF8)")


def require_line_ends(table: TableFile, start: bytes) -> None:
    """Raise InputError if the lines of a file end in CR alone, by its start: Polars would read one line."""
    first = re.sub(rb'"[^"]*"', b"", start).partition(b"\n")[0]
    if b"\r" in first.rstrip(b"\r"):
        raise InputError(f"{table.name}: its lines end in CR alone; save it with LF or CRLF line ends")


def scan(
    table: TableFile, required: Sequence[str], optional: Sequence[str] | None = None, *, row: str | None = None
) -> pl.LazyFrame:
    """Scan a table lazily, all columns as String.

    Returns the required columns and those optional ones that are there; `optional=None` carries all columns through in
    their own order; `row` names a column of row numbers (u32) in front. Raises InputError naming the file, the missing
    column and the nearest header that is there.
    """
    names = require(table, required)
    frame = _scan_all(table, names, row)
    if optional is not None:
        wanted = [name for name in names if name in required or name in optional]
        frame = frame.select([row, *wanted] if row is not None else wanted)
    return frame


def require(table: TableFile, required: Sequence[str]) -> list[str]:
    """Return the column names of a table. Raises InputError if a required one is missing."""
    names = columns_of(table)
    for column in required:
        if column not in names:
            raise InputError(f"{table.name}: column {column!r} is missing{_hint(column, names)}")
    return names


# What people call the columns that a table must have.
_OTHER_NAMES = {
    "ImageID": ("imageid", "imgid", "imagename", "image", "filename", "file", "img", "name", "id", "key"),
    "LabelName": ("labelname", "mid", "label", "class", "classname", "labelid", "classid", "category"),
    "OriginalURL": ("originalurl", "imageurl", "url", "originalimageurl", "flickrurl", "link"),
}


def _hint(column: str, names: Sequence[str]) -> str:
    """Return the part of a message that names the column that was meant, or those that are there."""
    folded = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    there = next((folded[word] for word in _OTHER_NAMES.get(column, ()) if word in folded), None)
    if there is None:
        import difflib

        near = difflib.get_close_matches(column.lower(), [name.lower() for name in names], n=1, cutoff=0.6)
        there = next((name for name in names if near and name.lower() == near[0]), None)
        if there is not None and ("url" in there.lower()) != ("URL" in column):
            there = None
    if there is not None:
        return f"; did you mean its {there!r}? Rename it"
    has = ", ".join(map(repr, names[:12])) or "an empty first line"
    separator = other_separator(names[0]) if len(names) == 1 else None
    return f"; it has {has}" + (f": its columns are separated by {separator}, not by commas" if separator else "")


def scan_keyed(
    table: TableFile,
    ids: IdForm,
    required: Sequence[str],
    optional: Sequence[str] | None = None,
    *,
    numbered: bool = False,
) -> pl.LazyFrame:
    """Scan as `scan` does a table without damage, with KEY in front, and ROW (place as published) if `numbered`."""
    if ids.by_split:
        return _scan_by_split(table, ids, required, optional, numbered=numbered)
    if table.columns is None:
        image_id = id_column(columns_of(table))
        frame = scan(table, [image_id, *required], optional, row=ROW if numbered else None)
        names = [name for name in frame.collect_schema().names() if optional is None or name in (*required, *optional)]
        return frame.select(ids.key(image_id), *([ROW] if numbered else []), *(name for name in names if name != ROW))
    names = scan(table, required, optional).collect_schema().names()
    return pl.scan_parquet(table.parts, glob=False).select(KEY, *([ROW] if numbered else []), *names)


def cut(table: TableFile, ids: IdForm, rows: pl.LazyFrame, count: int) -> Iterator[pl.LazyFrame]:
    """Yield the rows of a table as `scan_keyed` returns them, so many at a time where that takes no reading of others.

    Polars reads several row groups of a Parquet file at once, each of which may be some ten MiB.
    """
    if ids.by_split or not (table.columns is not None or table.is_parquet):
        yield rows
        return
    total = rows.select(pl.len()).collect().item()
    for start in range(0, max(1, total), count):
        yield rows.slice(start, count)


def _scan_by_split(
    table: TableFile, ids: IdForm, required: Sequence[str], optional: Sequence[str] | None, *, numbered: bool
) -> pl.LazyFrame:
    """Scan with keys that name the split: the table's, that of Subset, or every one: then a row is of all of them."""
    plain = replace(ids, by_split=False)
    more = optional if optional is None else list(dict.fromkeys((*optional, "Subset")))
    frame = scan_keyed(table, plain, required, more, numbered=numbered)
    names = frame.collect_schema().names()
    if table.split is not None:
        digit = pl.lit(str(SPLITS.index(table.split)))
    elif "Subset" in names:
        digit = split_digit()
    else:
        digit = pl.concat_list(pl.lit(str(place)) for place in range(len(SPLITS) + 1))
    image_id = hexadecimal() if plain.hexadecimal else pl.col(KEY)
    frame = frame.with_columns(__digit=digit, __id=image_id)
    if table.split is None and "Subset" not in names:
        frame = frame.explode("__digit")
    keyed = frame.with_columns(split_key(pl.col("__id"), pl.col("__digit")))
    kept = [name for name in names if name != "Subset" or optional is None or "Subset" in (*required, *optional)]
    return keyed.select(kept)


def scan_csv_lines(table: TableFile, *, row: str | None = None) -> pl.LazyFrame:
    """Scan the lines below the header of a CSV file as `line`, null for a blank one; `row` as in `scan`.

    One that holds NO_SEPARATOR cannot be read so.
    """
    return pl.scan_csv(
        table.path,
        has_header=False,
        skip_rows=0 if table.header is not None else 1,
        separator=NO_SEPARATOR,
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        row_index_name=row,
        glob=False,
    )


@contextmanager
def reading(table: TableFile, *, into: Path | None = None) -> Iterator[None]:
    """Raise errors of Polars and of the disk as one InputError that names the table.

    `into` is where rows are copied to in the block: a full disk there is a StorageError and no fault of the table's.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, gzip.BadGzipFile, EOFError, UnicodeDecodeError, csv.Error) as error:
        if into is not None and machine_error(error) is not None:
            raise storage_error(error, into) from error
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise InputError(f"{table.name}: cannot be read as a table: {reason}") from error


def _scan_all(table: TableFile, names: list[str], row: str | None = None) -> pl.LazyFrame:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise InputError(f"{table.name}: column {twice!r} stands in it twice")
    if table.columns is not None:
        return pl.scan_parquet(table.parts, glob=False).select(names)
    if table.is_parquet:
        if "ImageID" in names and parquet_schema(table.path)["ImageID"] not in (
            pl.String,
            pl.Categorical,
            pl.Enum,
        ):
            raise InputError(f"{table.name}: column 'ImageID' holds numbers, not text; its leading zeros are lost")
        for name, dtype in parquet_schema(table.path).items():
            if dtype.is_nested():
                raise InputError(f"{table.name}: column {name!r} holds {dtype}, not text or numbers; leave it out")
        return pl.scan_parquet(table.path, row_index_name=row, glob=False).with_columns(pl.col(names).cast(pl.String))
    if table.header is not None:
        schema = dict.fromkeys(names, pl.String)
        return pl.scan_csv(table.path, has_header=False, schema=schema, row_index_name=row, glob=False)
    with reading(table):
        return pl.scan_csv(
            table.path, infer_schema=False, with_column_names=lambda _: names, row_index_name=row, glob=False
        )


def parquet_schema(path: Path) -> pl.Schema:
    """Return the columns of a Parquet file; Polars' own function of that name takes `[` in a path for a pattern."""
    return pl.scan_parquet(path, glob=False).collect_schema()


def pattern_of(path: Path) -> str:
    """Return the pattern that this one path matches, for functions of Polars that always take one.

    >>> pattern_of(Path("/data/run[1]/a*b?"))
    '/data/run[[]1]/a[*]b[?]'
    """
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


def _first_row(table: TableFile) -> list[str]:
    """Return the header. Rows below it may be damaged; with a damaged header it is no table."""
    with reading(table):
        start = _start(table)
        require_csv(table, start)
        names = next(csv.reader(_text(start)), [])
        if any("\0" in name or not is_text(name) for name in names):
            raise InputError(f"{table.name}: not a CSV file (its first line holds binary data)")
        require_line_ends(table, start)
        return names


def _start(table: TableFile) -> bytes:
    with open_bytes(table.path) as file:
        return file.read(_SNIFF_BYTES)


def _text(start: bytes) -> StringIO:
    """Return bytes as text; those that are not UTF-8 become characters that no text holds."""
    return StringIO(start.decode("utf-8-sig", errors="surrogateescape"), newline="")


def is_text(name: str) -> bool:
    """Return whether a name that was decoded with `surrogateescape` was UTF-8."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file of text, gzipped if its name says so."""
    return cast("IO[bytes]", gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


LINE_COLUMNS = ("image_id", "caption", "line")
NO_NARRATIVE = "no JSON object with an image_id of 16 lower-case hex digits and a caption"


def scan_lines(table: TableFile) -> pl.LazyFrame:
    """Scan JSON Lines: ROW (u32, from 0; blank lines count), image_id and line as text, null where there is none."""
    lines = pl.scan_csv(
        table.path,
        has_header=False,
        separator=NO_SEPARATOR,
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        row_index_name=ROW,
        encoding="utf8-lossy",
        glob=False,
    )
    return lines.with_columns(pl.col("line").str.json_path_match("$.image_id").alias("image_id"))
