"""Damaged rows: what a whole row of a table is, which rows are none, and the table without them.

A table is asked first whether every line of it is a whole row: one regular expression over its lines, run by Polars
(half a microsecond a box row; to check numbers while columns are parsed and count commas costs the same, measured).
That a large table passed is noted in the cache, by what tells one state of a file from another. Only if some line is no
row, the file is read line by line, and what is whole is copied as it stands, byte by byte; the rest is listed with its
physical line and the reason. Everything after that reads the copy and knows nothing of damage.

What Polars 2.1 makes of damage by itself: surplus fields are cut without a word if not all columns are asked for,
missing ones are null, NUL passes, a blank line is a row of nulls, bad UTF-8 and most odd quotes refuse the whole file.

A line with an open quote is joined with the lines behind it as long as these are no rows of their own: a quoted field
may hold line breaks. If nothing whole comes of it, the quote costs its own line alone.
"""

import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import ID_COLUMNS, ROW, IdForm, id_column
from oid_async.openimages.kinds import Kind
from oid_async.tables.reading import TableFile, columns_of, reading, require_line_ends, scan
from oid_async.tables.text import open_bytes

BAD_ROWS_SCHEMA = {"Line": pl.Int64, "Reason": pl.String}
# Beyond the limit counting goes on for a while, so that the message can say how many there are.
_COUNTED_BEYOND = 100_000
# How far a quoted field may reach. Longer lines than that are no rows either.
_MOST_LINES = 100
_MOST_BYTES = 1 << 20
# Smaller tables are looked at in a blink.
_NOTED_BYTES = 16 << 20
_SETTLED_S = 2.0
_FLUSH_ROWS = 10_000
# The full class table has 20,000 rows.
_MOST_HEADLESS = 100_000
_LOOK_UP_LINES = 1 << 14
# A character that no table holds, so that Polars takes a line for a field; a line with it is looked at more closely.
_NEVER = "\x01"

_FIELD = r'(?:[^",\x00\n]*|"(?:[^"\x00\n]|"")*")'
# Digits and exponents are bounded, so that what fits is finite.
_NUMBER = r"[-+]?(?:[0-9]{1,99}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?:\+?[0-9]{1,2}|-[0-9]{1,4}))?"
# A quoted field and what stands behind its quote, or a plain one; then a comma or the end. Possessive: a doubled quote
# must never be taken for the closing one.
_PARTS = re.compile(rb'(?:"((?:[^"]+|"")*+)"([^,]*)|([^",][^,]*)?)(,|\Z)')
_BLANK = (b"\n", b"\r\n", b"\r")


class StoppedError(Exception):
    """The caller wants no more of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field must be: `pattern` (as Polars and Python read it) matches all of it; `not_so` says what is wrong.

    `in_line` is the same for a field that stands unquoted in a line; it may be stricter, never laxer.
    """

    pattern: str
    not_so: str
    in_line: str


def _rule(pattern: str, not_so: str) -> Rule:
    return Rule(pattern, not_so, f'(?:{pattern}|"(?:{pattern})")')


NUMBER = _rule(_NUMBER, "is not a number")
MAYBE = _rule(rf"(?:{_NUMBER}|)", "is not a number")
FLAG = _rule(rf"(?:{_NUMBER}|(?i:true|false)|)", "is not a number, true or false")
WHOLE = _rule(r"(?:[0-9]+(?:\.0*)?|)", "is not a whole number")
DEGREES = _rule(rf"(?:{_NUMBER}|(?i:nan)|)", "is not a number")
# As published, 16 bytes in base64; in tables of people's own also in hex.
MD5 = _rule("(?:[A-Za-z0-9+/]{22}==|[0-9a-fA-F]{32}|)", "is no MD5: 24 characters of base64, or 32 hex digits")
HEX = _rule("[0-9a-f]{16}", "is not 16 lower-case hex digits")
# An id of a user's own, at most 200 bytes.
OWN_ID = Rule(
    r"(?:[\x01-\x7f]{1,200}|[^\x00]{1,50})",
    "is empty or longer than 200 bytes",
    r'(?:[\x01-\x09\x0b-\x21\x23-\x2b\x2d-\x7f]{1,200}|[^",\x00\n]{1,50})',
)


@dataclass(frozen=True)
class RowForm:
    """What a whole row is: as many fields as the table has columns, and what must stand in some of them."""

    columns: tuple[str, ...]
    rules: Mapping[str, Rule]

    @classmethod
    def of_kind(cls, kind: Kind, columns: Sequence[str], ids: IdForm, flags: Iterable[str] = ()) -> "RowForm":
        """Return the form of a kind's rows; a column that is not there asks for nothing. An empty flag is unknown."""
        numbers = dict.fromkeys(kind.numbers, NUMBER) | dict.fromkeys(kind.maybe, MAYBE)
        rules = _id_rule(ids, columns) | numbers | dict.fromkeys(flags, FLAG)
        return cls(tuple(columns), {name: rule for name, rule in rules.items() if name in columns})

    @classmethod
    def of_images(cls, columns: Sequence[str], ids: IdForm) -> "RowForm":
        """Return the form of image rows: a size and a rotation that are there are numbers, an MD5 is one."""
        rules = _id_rule(ids, columns) | {"OriginalSize": WHOLE, "OriginalMD5": MD5, "Rotation": DEGREES}
        return cls(tuple(columns), {name: rule for name, rule in rules.items() if name in columns})

    @cached_property
    def line(self) -> str:
        """The pattern of a line that is a whole row by itself, without its end."""
        return ",".join(self.rules[name].in_line if name in self.rules else _FIELD for name in self.columns) + r"\r?"

    @cached_property
    def _checks(self) -> list[tuple[int, str, Rule, re.Pattern[str]]]:
        return [(self.columns.index(name), name, rule, re.compile(rule.pattern)) for name, rule in self.rules.items()]

    def has_width(self, width: int) -> bool:
        """Return whether a row may have so many fields."""
        return width == len(self.columns)

    def is_row(self, fields: Sequence[bytes]) -> bool:
        """Return whether fields look like a row, whole or not: their number is right, and the ImageID."""
        return self.has_width(len(fields)) and self._fault(fields, ID_COLUMNS) is None

    def fault(self, fields: Sequence[bytes]) -> str | None:
        """Return what is wrong with a row, None if nothing is."""
        if len(fields) != len(self.columns):
            return f"{_counted(len(fields), 'field')} where the header has {len(self.columns)}"
        return self._fault(fields, self.rules)

    def _fault(self, fields: Sequence[bytes], names: Iterable[str]) -> str | None:
        for at, name, rule, pattern in self._checks:
            if name in names:
                text = fields[at].decode(errors="replace")
                if not pattern.fullmatch(text):
                    return f"{name} {text[:40]!r} {rule.not_so}"
        return None


@dataclass(frozen=True, slots=True)
class _Headless:
    """What looks like a row where nothing is known but the least number of fields."""

    needed: int

    def has_width(self, width: int) -> bool:
        return width >= self.needed

    def is_row(self, fields: Sequence[bytes]) -> bool:
        return self.has_width(len(fields))


_Form = RowForm | _Headless


def _id_rule(ids: IdForm, columns: Sequence[str]) -> dict[str, Rule]:
    return {id_column(columns): HEX if ids.hexadecimal else OWN_ID}


def without_damage(
    table: TableFile,
    form: RowForm,
    folder: Path,
    *,
    most: int | None = None,
    notes: Path | None = None,
    stopped: Callable[[], bool] = bool,
) -> TableFile:
    """Return a table whose rows are all whole: itself, or a copy in `folder` that knows what was left out. Blocking.

    `notes` is a folder that remembers large tables without damage. After rather more than `most` damaged rows it gives
    up, and what it returns is not all of the table. Raises InputError for what cannot be read, StorageError for a full
    disk, StoppedError when asked to stop.
    """
    if table.columns is not None:
        return table
    with reading(table, into=folder):
        if table.is_parquet:
            return _parquet_without_damage(table, form, folder)
        note = _note(table, form, notes) if notes is not None else None
        if note is not None and note.exists():
            return table
        if _lines_are_whole(table, form):
            # A table that was written to meanwhile, or a moment ago, may have changed without showing it.
            if note is not None and note == _note(table, form, note.parent):
                with suppress(OSError):
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.touch()
            return table
        return _csv_without_damage(table, form, folder, most, stopped)


def bad_rows(table: TableFile) -> pl.LazyFrame:
    """Return Line (physical, header = 1) and Reason of the rows that were left out of a table, in order."""
    if table.damaged is None or not table.damaged.exists():
        return pl.LazyFrame(schema=BAD_ROWS_SCHEMA)
    return pl.scan_parquet(table.damaged)


def read_headless(
    table: TableFile, columns: Sequence[str], header_words: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a small table of which only the number of leading columns is known; row 1 is a header if it says so.

    Returns those columns, and the damaged rows (Line, Reason): with too few fields, with more than most rows have, or
    whose first field is empty. Raises InputError when nothing is left, or when it is not small at all.
    """
    needed = len(columns)
    if table.is_parquet:
        with reading(table):
            frame = scan(table, []).collect()
        if frame.width < needed:
            raise _too_narrow(table, frame.width, columns)
        frame = frame.select(pl.col(old).alias(new) for old, new in zip(frame.columns, columns, strict=False))
        return frame, pl.DataFrame(schema=BAD_ROWS_SCHEMA)
    with reading(table), open_bytes(table.path) as file:
        start = file.read(_MOST_BYTES)
        file.seek(0)
        records = list(islice(_records(_Lines(file), _Headless(needed)), _MOST_HEADLESS + 1))
    if len(records) > _MOST_HEADLESS:
        raise InputError(f"{table.name}: more than {_MOST_HEADLESS} rows; that is no table of {' and '.join(columns)}")
    if not records:
        raise InputError(f"{table.name}: the file is empty")
    faults = [record.bytes_fault is not None for record in records]
    if faults[0] and sum(faults) * 2 > len(faults):
        raise InputError(f"{table.name}: not a CSV file (it holds binary data)")
    require_line_ends(table, start)
    widths = Counter(len(record.fields) for record in records if len(record.fields) >= needed)
    if not widths:
        raise _too_narrow(table, len(records[0].fields), columns)
    rows, bad = [], []
    width = max(widths, key=lambda width: (widths[width], -width))
    for record in records:
        fault = record.bytes_fault or record.fault or _headless_fault(record.fields, needed, width, columns[0])
        if fault is not None:
            bad.append((record.line, fault))
        else:
            rows.append([field.decode() for field in record.fields[:needed]])
    if not rows:
        line, reason = bad[0]
        raise InputError(f"{table.name}: no row of it can be used (line {line}: {reason})")
    if rows[0][0].strip().lower() in header_words:
        del rows[0]
    return (
        pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"),
        pl.DataFrame(bad, schema=BAD_ROWS_SCHEMA, orient="row"),
    )


def _headless_fault(fields: Sequence[bytes], needed: int, width: int, first: str) -> str | None:
    if len(fields) < needed:
        return f"{_counted(len(fields), 'field')} where {needed} are needed"
    if len(fields) > width:
        return f"{_counted(len(fields), 'field')} where other rows have {width}"
    return None if fields[0].strip() else f"{first} is empty"


def _too_narrow(table: TableFile, width: int, columns: Sequence[str]) -> InputError:
    wants = ", ".join(columns)
    return InputError(f"{table.name}: it has {width} column(s) where {len(columns)} are needed ({wants})")


def looks_hexadecimal(table: TableFile) -> bool:
    """Return whether any ImageID of the table is 16 lower-case hex digits, as every Open Images id is.

    A table of a user's own may name its images otherwise; then its ids are taken as they stand.
    """
    if not table.is_parquet:
        with reading(table):
            if _finds_hexadecimal(table, _LOOK_UP_LINES):
                return True
    ids = scan(table, ["ImageID"], []).select(pl.col("ImageID").str.contains(f"^{HEX.pattern}$").any())
    try:
        with reading(table):
            return bool(ids.collect(engine="streaming").item())
    except InputError:
        if table.is_parquet:
            raise
    # Its damaged rows are in Polars' way.
    with reading(table):
        return _finds_hexadecimal(table, None)


def _finds_hexadecimal(table: TableFile, lines: int | None) -> bool:
    at = columns_of(table).index("ImageID")
    pattern = re.compile(HEX.pattern.encode())
    with open_bytes(table.path) as file:
        for line in islice(_Lines(file), lines):
            fields = _split(line) or []
            if len(fields) > at and pattern.fullmatch(fields[at].value):
                return True
    return False


def _note(table: TableFile, form: RowForm, notes: Path) -> Path | None:
    """Return the name of the note that this state of a table has no damage; None if it is not worth one, or too new."""
    state = table.path.stat()
    if state.st_size < _NOTED_BYTES or time.time() - state.st_mtime < _SETTLED_S:
        return None
    said = (str(table.path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, form.line)
    return notes / hashlib.sha256(repr(said).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _lines_are_whole(table: TableFile, form: RowForm) -> bool:
    """Return whether every line behind the first is a whole row. Whatever Polars stumbles over is none."""
    lines = pl.scan_csv(
        table.path,
        has_header=False,
        skip_rows=1,
        separator=_NEVER,
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
    )
    # A blank line is null, and no row.
    whole = pl.col("line").str.contains(f"^{form.line}$").fill_null(False).all()
    try:
        return bool(lines.select(whole).collect(engine="streaming").item())
    except pl.exceptions.NoDataError:
        return True
    except pl.exceptions.PolarsError:
        return False


def _parquet_without_damage(table: TableFile, form: RowForm, folder: Path) -> TableFile:
    """There are no lines in it: rows are counted as if each stood on one, below a header."""
    frame = scan(table, ["ImageID"], row=ROW)
    is_whole = pl.all_horizontal(_is_fine(name, rule) for name, rule in form.rules.items())
    reason = pl.coalesce(_parquet_fault(name, rule) for name, rule in form.rules.items())
    bad = frame.filter(~is_whole).select(Line=pl.col(ROW).cast(pl.Int64) + 2, Reason=reason)
    found = bad.collect(engine="streaming")
    if not len(found):
        return table
    path = folder / "whole.parquet"
    frame.filter(is_whole).drop(ROW).sink_parquet(path)
    found.write_parquet(folder / "damaged.parquet")
    return replace(table, path=path, bad=folder / "damaged.parquet")


def _is_fine(name: str, rule: Rule) -> pl.Expr:
    return pl.col(name).fill_null("").str.contains(f"^(?:{rule.pattern})$")


def _parquet_fault(name: str, rule: Rule) -> pl.Expr:
    text = pl.col(name).fill_null("")
    said = pl.format("{} '{}' {}", pl.lit(name), text.str.slice(0, 40).str.replace_all("\n", " "), pl.lit(rule.not_so))
    return pl.when(~_is_fine(name, rule)).then(said)


def _csv_without_damage(
    table: TableFile, form: RowForm, folder: Path, most: int | None, stopped: Callable[[], bool]
) -> TableFile:
    path = folder / "whole.csv"
    bad = _BadRows(None if most is None else most + _COUNTED_BEYOND)
    is_same = True
    with open_bytes(table.path) as file, path.open("wb") as copy:
        lines = _Lines(file)
        copy.write(_header(lines))
        for piece in _pieces(lines, form):
            if isinstance(piece, _Record):
                fault = piece.bytes_fault or piece.fault or form.fault(piece.fields)
                if fault is None:
                    is_same &= piece.is_regular
                    copy.write(piece.raw if piece.is_regular else piece.written())
                else:
                    bad.add(piece.line, fault)
                if bad.is_full:
                    break
            else:
                is_same &= bool(piece)
                copy.write(piece)
            if not lines.number % 4096 and stopped():
                raise StoppedError
    found = bad.frame()
    if len(found):
        found.write_parquet(folder / "damaged.parquet")
    elif is_same:
        path.unlink()
        return table
    return replace(table, path=path, bad=folder / "damaged.parquet" if len(found) else None)


class _BadRows:
    """Lines and reasons as they come, kept as columns: there may be as many as the table has rows."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._frames: list[pl.DataFrame] = []
        self._fresh: list[tuple[int, str]] = []
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._most is not None and self._count > self._most

    def add(self, line: int, reason: str) -> None:
        self._fresh.append((line, reason))
        self._count += 1
        if len(self._fresh) == _FLUSH_ROWS:
            self._flush()

    def frame(self) -> pl.DataFrame:
        self._flush()
        return pl.concat(self._frames)

    def _flush(self) -> None:
        self._frames.append(pl.DataFrame(self._fresh, schema=BAD_ROWS_SCHEMA, orient="row"))
        self._fresh.clear()


@dataclass(frozen=True, slots=True)
class _Field:
    """A field as it is meant. `is_regular` says that every reader of CSV takes it for that."""

    value: bytes
    is_quoted: bool
    is_regular: bool

    def written(self) -> bytes:
        if self.is_quoted or any(mark in self.value for mark in b'",\r\n'):
            return b'"' + self.value.replace(b'"', b'""') + b'"'
        return self.value


@dataclass(frozen=True, slots=True)
class _Record:
    """One or more lines that are a row, or were to be one. `line` is the first of them, `fault` what is wrong."""

    line: int
    raw: bytes
    parts: tuple[_Field, ...]
    fault: str | None

    @property
    def bytes_fault(self) -> str | None:
        return _bytes_fault(self.raw)

    @property
    def fields(self) -> list[bytes]:
        return [part.value for part in self.parts]

    @property
    def is_regular(self) -> bool:
        return all(part.is_regular for part in self.parts)

    def written(self) -> bytes:
        return b",".join(part.written() for part in self.parts) + b"\n"


class _Lines:
    """The physical lines of a file, one after the other, with a look ahead. `number` is that of the last one taken.

    A line that is too long is cut, and what follows of it is left out.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ahead: deque[bytes] = deque()
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self.take():
            yield line

    def take(self) -> bytes:
        line = self._ahead.popleft() if self._ahead else self._read()
        self.number += bool(line)
        return line

    def peek(self, at: int) -> bytes:
        """Return the line behind `at` others that are still to come, empty if there is none."""
        while len(self._ahead) <= at:
            line = self._read()
            if not line:
                return b""
            self._ahead.append(line)
        return self._ahead[at]

    def _read(self) -> bytes:
        line = self._file.readline(_MOST_BYTES)
        while len(line) == _MOST_BYTES and not line.endswith(b"\n"):
            rest = self._file.readline(_MOST_BYTES)
            if not rest or rest.endswith(b"\n"):
                break
        return line


def _header(lines: _Lines) -> bytes:
    """Take the header, which may reach over several lines as any row; it was read before and is one."""
    raw = lines.take()
    while _split(raw) is None and (line := lines.take()):
        raw += line
    return raw if raw.endswith(b"\n") else raw + b"\n"


def _pieces(lines: _Lines, form: RowForm) -> Iterator["bytes | _Record"]:
    """Yield a table's rows behind the header: lines that are whole as they stand, others as records, blank as empty."""
    whole = re.compile(form.line.encode() + rb"\n?").fullmatch
    for line in lines:
        if whole(line) and (line.isascii() or _bytes_fault(line) is None):
            yield line
        elif line in _BLANK:
            yield b""
        else:
            yield _record(line, lines, form)


def _records(lines: _Lines, form: _Form) -> Iterator[_Record]:
    """Yield every row of a table, whole or not, but blank lines."""
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line not in _BLANK:
            yield _record(line, lines, form)


def _record(line: bytes, lines: _Lines, form: _Form) -> _Record:
    """Make a record of a line, and of those behind it if a quoted field reaches over them."""
    number, raw = lines.number, line
    fields = _split(raw)
    fault = None
    if fields is None:
        joined = _joined(raw, lines, form)
        if joined is not None:
            raw, fields = joined
        else:
            fault = "a quote is left open"
    if len(line) >= _MOST_BYTES:
        fault = f"longer than {_MOST_BYTES} bytes"
    return _Record(number, raw, tuple(fields or ()), fault)


def _joined(raw: bytes, lines: _Lines, form: _Form) -> tuple[bytes, list[_Field]] | None:
    """Take the lines that close a quote and return all of them and their fields; None if nothing comes of it."""
    for count in range(_MOST_LINES):
        line = lines.peek(count)
        if not line or len(raw) + len(line) > _MOST_BYTES:
            return None
        # Of a line with an open quote of its own the commas tell.
        alone = _split(line)
        if form.is_row([field.value for field in alone] if alone is not None else line.split(b",")):
            return None
        raw += line
        fields = _split(raw) if b'"' in line else None
        if fields is not None:
            # A quote with text behind it was another opening one.
            if not form.has_width(len(fields)) or not all(field.is_regular for field in fields):
                return None
            for _ in range(count + 1):
                lines.take()
            return raw, fields
    return None


def _split(record: bytes) -> list[_Field] | None:
    """Return the fields of a record, None if a quote is left open.

    A quote within an unquoted field, and what stands between a closing quote and the comma, are text, as they are to
    Python's csv module.

    >>> [field.value for field in _split(b'1,"a ""b"", c",5" pipe\\r\\n') or ()]
    [b'1', b'a "b", c', b'5" pipe']
    >>> _split(b'1,"a ""b,c')
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
            fields.append(_Field(plain, False, b'"' not in plain))
        else:
            fields.append(_Field(quoted.replace(b'""', b'"') + behind, True, not behind))
        at = found.end()
        if not comma:
            return fields


def _bytes_fault(raw: bytes) -> str | None:
    if b"\0" in raw:
        return "a NUL byte stands in it"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {raw[error.start]:#04x} is not UTF-8"
    return None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
