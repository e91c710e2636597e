"""The records of a damaged CSV file, read line by line.

A line with an open quote is joined with the next lines as long as these are no rows of their own: a quoted field may
hold line breaks. If no row comes of it, the quote costs its own line alone.
"""

import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Protocol

from oid_async.quick_values import value
from oid_async.tables.row_rules import RowRules

# A quoted field may reach over so many lines. Lines of so many bytes are no rows either.
MOST_LINES = 100
MOST_BYTES = 1 << 20
# A quoted field and the text behind its quote, or a plain one; then a comma or the end. Possessive: a doubled quote
# must never be taken for the closing one.
_PARTS = re.compile(rb'(?:"((?:[^"]+|"")*+)"([^,]*)|([^",][^,]*)?)(,|\Z)')
_BLANK = (b"\n", b"\r\n", b"\r")


class _RowShape(Protocol):
    """What is known of the rows of a table: see `RowRules`."""

    def has_width(self, width: int) -> bool: ...
    def is_row(self, fields: Sequence[bytes]) -> bool: ...


@value
class Field:
    """The value of a field. `is_regular` is whether every reader of CSV reads the same value."""

    value: bytes
    is_quoted: bool
    is_regular: bool

    def written(self) -> bytes:
        """Return the field as CSV."""
        if self.is_quoted or any(mark in self.value for mark in b'",\r\n'):
            return b'"' + self.value.replace(b'"', b'""') + b'"'
        return self.value


@value
class Record:
    """One or more lines that are a row, or a damaged row. `line` is the number of the first; `fault` is in words."""

    line: int
    raw: bytes
    parts: tuple[Field, ...]
    fault: str | None

    @property
    def bytes_fault(self) -> str | None:
        """What is wrong with its bytes, None if nothing is."""
        return _bytes_fault(self.raw)

    @property
    def fields(self) -> list[bytes]:
        """The values of its fields."""
        return [part.value for part in self.parts]

    @property
    def is_regular(self) -> bool:
        """Whether every reader of CSV reads the same values."""
        return all(part.is_regular for part in self.parts)

    def written(self, values: Sequence[bytes]) -> bytes:
        """Return the record as CSV, with these values for its fields."""
        fields = (replace(part, value=value) for part, value in zip(self.parts, values, strict=True))
        return b",".join(field.written() for field in fields) + b"\n"


class Lines:
    """The lines of a file, with a look ahead; one that is too long is cut. `number` is that of the last one taken."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ahead: deque[bytes] = deque()
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self.take():
            yield line

    def take(self) -> bytes:
        """Return the next line, empty at the end."""
        line = self._ahead.popleft() if self._ahead else self._read()
        self.number += bool(line)
        return line

    def peek(self, at: int) -> bytes:
        """Return the line after the next `at` lines without taking it, empty if there is none."""
        while len(self._ahead) <= at:
            line = self._read()
            if not line:
                return b""
            self._ahead.append(line)
        return self._ahead[at]

    def skip_mark(self) -> None:
        """Leave out a byte order mark at the start; before the first line is taken."""
        first = self.peek(0)
        if first.startswith(BOM_UTF8):
            self._ahead[0] = first.removeprefix(BOM_UTF8)

    def _read(self) -> bytes:
        line = self._file.readline(MOST_BYTES)
        while len(line) == MOST_BYTES and not line.endswith(b"\n"):
            rest = self._file.readline(MOST_BYTES)
            if not rest or rest.endswith(b"\n"):
                break
        return line


def take_header(lines: Lines) -> bytes:
    """Take the header, which may reach over several lines as any row; it was read before and is one."""
    raw = lines.take()
    while split(raw) is None and (line := lines.take()):
        raw += line
    return raw if raw.endswith(b"\n") else raw + b"\n"


def rows_and_records(lines: Lines, rules: RowRules) -> Iterator[bytes | Record]:
    """Yield the rows below the header: a line that is a valid row as it is, others as records, a blank one as b""."""
    is_valid = rules.line_in_bytes.fullmatch
    for line in lines:
        if is_valid(line) and (line.isascii() or _bytes_fault(line) is None) and rules.is_ordered(line):
            yield line
        elif line in _BLANK:
            yield b""
        else:
            yield _record(line, lines, rules)


def records(lines: Lines, shape: _RowShape) -> Iterator[Record]:
    """Yield every row of a table, valid or not, except blank lines."""
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix(BOM_UTF8)
        if line not in _BLANK:
            yield _record(line, lines, shape)


def split(record: bytes) -> list[Field] | None:
    """Return the fields of a record, None if a quote is left open.

    A quote within an unquoted field, and text between a closing quote and the comma, belong to the field, as they do
    for Python's csv module.

    >>> [field.value for field in split(b'1,"a ""b"", c",5" pipe\\r\\n') or ()]
    [b'1', b'a "b", c', b'5" pipe']
    >>> split(b'1,"a ""b,c')
    """
    record = record.removesuffix(b"\n").removesuffix(b"\r")
    fields, at = [], 0
    while True:
        found = _PARTS.match(record, at)
        if found is None:
            return None
        quoted, behind, plain, comma = found.groups()
        if quoted is None:
            plain = plain or b""
            fields.append(Field(plain, False, b'"' not in plain))
        else:
            fields.append(Field(quoted.replace(b'""', b'"') + behind, True, not behind))
        at = found.end()
        if not comma:
            return fields


def _record(line: bytes, lines: Lines, shape: _RowShape) -> Record:
    """Make a record of a line, and of the next ones if a quoted field reaches over them."""
    number, raw = lines.number, line
    fields = split(raw)
    fault = None
    if fields is None:
        joined = _joined(raw, lines, shape)
        if joined is not None:
            raw, fields = joined
        else:
            fault = "a quote is left open"
    if len(line) >= MOST_BYTES:
        fault = f"longer than {MOST_BYTES} bytes"
    return Record(number, raw, tuple(fields or ()), fault)


def _joined(raw: bytes, lines: Lines, shape: _RowShape) -> tuple[bytes, list[Field]] | None:
    """Take the lines that close a quote and return all of them and their fields; None if they are no row."""
    for count in range(MOST_LINES):
        line = lines.peek(count)
        if not line or len(raw) + len(line) > MOST_BYTES:
            return None
        # Where a line has an open quote of its own the commas decide.
        alone = split(line)
        if shape.is_row([field.value for field in alone] if alone is not None else line.split(b",")):
            return None
        raw += line
        fields = split(raw) if b'"' in line else None
        if fields is not None:
            # A quote with text behind it was another opening one.
            if not shape.has_width(len(fields)) or not all(field.is_regular for field in fields):
                return None
            for _ in range(count + 1):
                lines.take()
            return raw, fields
    return None


def _bytes_fault(raw: bytes) -> str | None:
    if b"\0" in raw:
        return "a NUL byte stands in it"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {raw[error.start]:#04x} is not UTF-8"
    return None
