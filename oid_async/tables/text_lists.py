"""Lists that people write, or other programs: a line an entry, a JSON list, or a CSV with a column of that name.

UTF-8, or UTF-16 and UTF-32 with a byte order mark, gzipped or not. `#` begins a comment, at the start of a line or
behind a blank; quotes round a line are none of its text.
"""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import TextIO

import polars as pl

from oid_async.errors import InputError
from oid_async.quick_values import frozen
from oid_async.tables.reading import TableFile, reading

_BATCH = 1 << 14
_CHUNK = 1 << 20
_ENCODINGS = (
    # UTF-32 first: its mark of little endian begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"
# What is given by mistake, by its first bytes.
_OTHER_FILES = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "a Parquet table",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
}
_JSON_LIST = re.compile(r'\[\s*(?:["\]{\[0-9-]|true|false|null|$)')
_BETWEEN_ITEMS = re.compile(r"[\s,]*")
ENTRIES = pl.Schema({"line": pl.UInt32, "text": pl.String, "split": pl.String})

Entry = tuple[int, str, str | None]


@frozen
class ListColumns:
    """The columns that a list may have if it is a CSV, any case, `_` or blank between words ignored.

    `texts` are names of the column of its entries; one of them alone in the first line is a header, too. `splits` are
    names of a column beside it.
    """

    texts: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()


def read_entries(table: TableFile, columns: ListColumns) -> Iterator[pl.DataFrame]:
    """Yield the entries of a list, some thousand at a time: line (physical, or the place in a JSON list), text, split.

    No blank entry, no line that is a comment. Raises InputError for what is no list.
    """
    with opened_list(table) as file:
        at, head = _head(file)
        file.seek(0)
        if _JSON_LIST.match(head):
            entries = _json_entries(table, file, at)
        elif (separator := _separator(head, columns.texts)) is not None:
            entries = _csv_entries(file, at, separator, columns)
        else:
            entries = ((number, line, None) for number, line in enumerate(file, 1))
            if _fold(_unquoted(head)) in columns.texts:
                entries = (entry for entry in entries if entry[0] != at)
        while batch := list(islice(entries, _BATCH)):
            frame = pl.DataFrame(batch, schema=ENTRIES, orient="row")
            yield frame.with_columns(pl.col("text").str.strip_chars()).filter(
                pl.col("text") != "", ~pl.col("text").str.contains(r"^#(?:\s|#|$)")
            )


def read_words(table: TableFile) -> tuple[str, ...]:
    """Return the entries of a small list without their comments. Raises InputError for what is no list."""
    frames = [
        frame.select(without_comment(pl.col("text")).alias("text")) for frame in read_entries(table, ListColumns())
    ]
    return tuple(word for frame in frames for word in frame.to_series() if word)


def without_comment(text: pl.Expr) -> pl.Expr:
    """Return the expression that takes what is no part of an entry off: quotes round it, a comment, a comma behind."""
    quoted = [text.str.extract(rf"^{sign}([^{sign}]*){sign}[\s,;]*(?:#.*)?$") for sign in "\"'"]
    bare = text.str.replace(r"(?s)(?:^|\s)#.*$", "").str.strip_chars_end(" \t,;")
    return pl.coalesce(*quoted, bare).str.strip_chars()


def what_it_seems(table: TableFile) -> str:
    """Return what a file that is no such list seems to be, in words that follow "it is"; empty if nobody knows."""
    with opened_list(table) as file:
        _, head = _head(file)
    if "\0" in head:
        return "a binary file"
    if head.startswith("{"):
        return "a JSON object, not a list of ids"
    for separator in "\t;,":
        names = _fields(head, separator)
        if len(names) > 1:
            return f"a CSV with the columns {', '.join(name.strip()[:40] for name in names[:8])}"
    return ""


@contextmanager
def opened_list(table: TableFile) -> Iterator[TextIO]:
    """Open a list as text. Raises InputError, also for what goes wrong while it is read."""
    try:
        with reading(table):
            with table.path.open("rb") as raw:
                start = raw.read(256)
            for mark, what in _OTHER_FILES.items():
                if start.startswith(mark):
                    raise InputError(f"{table.name}: it is {what}, not a list: a line each, a JSON list, or a CSV")
            is_packed = start.startswith(_GZIP)
            with gzip.open(table.path) if is_packed else table.path.open("rb") as file:
                start = file.read(256)
                file.seek(0)
                yield TextIOWrapper(file, encoding=_encoding(start), errors="replace")
    except zlib.error as error:
        raise InputError(f"{table.name}: cannot be read as a list: its gzip data are damaged") from error


def _encoding(start: bytes) -> str:
    for mark, encoding in _ENCODINGS:
        if start.startswith(mark):
            return encoding
    # Text in UTF-16 without its mark: every other byte of plain letters is zero.
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) >= 4 and not start[first::2].strip(b"\0") and start[1 - first :: 2].strip(b"\0"):
            return encoding
    return "utf-8-sig"


def _head(file: TextIO) -> tuple[int, str]:
    """Return the number and the start of the first line that says something; 0 and nothing if there is none."""
    number, is_new_line = 0, True
    while line := file.readline(_CHUNK):
        number += is_new_line
        is_new_line = line.endswith("\n")
        text = line.strip().lstrip("\ufeff")
        if text and not text.startswith("#"):
            return number, text
    return 0, ""


def _fold(name: str) -> str:
    return "".join(name.replace("_", " ").lower().split())


def _unquoted(text: str) -> str:
    return text.strip("\"' \t,;")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _separator(head: str, names: Iterable[str]) -> str | None:
    """Return what separates the columns of a header that has one of these names among others, None for no header."""
    for separator in "\t;,":
        fields = [_fold(field) for field in _fields(head, separator)]
        if len(fields) > 1 and any(name in fields for name in names):
            return separator
    return None


def _csv_entries(file: TextIO, at: int, separator: str, columns: ListColumns) -> Iterator[Entry]:
    for _ in range(at - 1):
        file.readline()
    rows = csv.reader(file, delimiter=separator)
    header = [_fold(field) for field in next(rows)]
    text_at = next(header.index(name) for name in columns.texts if name in header)
    split_at = next((header.index(name) for name in columns.splits if name in header), None)
    for row in rows:
        line = at - 1 + rows.line_num
        if len(row) <= text_at:
            yield line, separator.join(row), None
            continue
        split = row[split_at].strip() if split_at is not None and len(row) > split_at else ""
        # A row without an entry is none of the blank lines that are left out: it is said.
        yield line, row[text_at].strip() or separator.join(row), split or None


def _json_entries(table: TableFile, file: TextIO, at: int) -> Iterator[Entry]:
    for _ in range(at - 1):
        file.readline()
    for number, item in enumerate(_json_items(table, file), 1):
        text = " ".join(item.split()) if isinstance(item, str) else json.dumps(item)
        # Half a character of two may be written in JSON; no text has it.
        yield number, text if text.isascii() else text.encode("utf-8", "replace").decode(), None


def _json_items(table: TableFile, file: TextIO) -> Iterator[object]:
    """Yield the items of a JSON list, without holding all of it."""
    decode = json.JSONDecoder().raw_decode
    text = file.read(_CHUNK)
    at = text.index("[") + 1
    while True:
        at = _BETWEEN_ITEMS.match(text, at).end()  # type: ignore[union-attr]
        if text.startswith("]", at):
            if (text[at + 1 :] + file.read(_CHUNK)).strip():
                raise InputError(f"{table.name}: it is a JSON list with more text behind its end; give one list")
            return
        item, end = None, len(text)
        reason = "it is cut"
        try:
            item, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            reason = str(error).split(":", 1)[0]
        if end < len(text):
            yield item
            at = end
            continue
        # What reaches the end of what was read may go on behind it.
        more = file.read(_CHUNK) if len(text) - at <= _CHUNK else ""
        if not more:
            raise InputError(f"{table.name}: it begins as a JSON list and is none: {reason}")
        text, at = text[at:] + more, 0
