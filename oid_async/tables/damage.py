"""Damaged rows: return a table without them, and list them.

A table is first checked as a whole: every line of it must match one regular expression, which Polars applies (half a
microsecond a box row; to check numbers while columns are parsed and count commas costs the same, measured). That a
large table passed is noted in the cache, by the size and times that identify a state of a file. Only if some line fails
is the file read line by line; valid rows are copied byte by byte, the others are listed with their physical line and
the reason. All later readers read the copy and know nothing of damage.

What Polars 2.1 makes of damage by itself: surplus fields are cut silently if not all columns are read, missing ones are
null, NUL passes, a blank line is a row of nulls, bad UTF-8 and most odd quotes refuse the whole file.
"""

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import ANY_HEX, ID_COLUMNS, ROW
from oid_async.openimages.vocabulary import OTHER_SPLITS
from oid_async.tables.csv_records import Lines, Record, rows_and_records, split, take_header
from oid_async.tables.reading import TableFile, columns_of, open_bytes, reading, scan, scan_csv_lines
from oid_async.tables.row_rules import BLANKS, NOTHING, RowRules, Rule

BAD_ROWS_SCHEMA = {"Line": pl.Int64, "Reason": pl.String}
# Beyond the limit counting goes on for a while, so that the message can say how many there are.
_COUNTED_BEYOND = 100_000
# A smaller table is checked within tenths of a second, and needs no note.
_NOTED_BYTES = 16 << 20
# A table that was changed a moment ago may change again within the same time stamp.
_SETTLED_S = 2.0
_FLUSH_ROWS = 10_000
_LOOK_UP_LINES = 1 << 14
# What a whole table of damaged rows may be, by a part of the first reason.
_HINTS = {
    "outside the image": "are these pixels? The sides of a box are shares of the image's width and height, 0 to 1",
    "is larger than": "are these x, y, width and height? The columns are XMin, XMax, YMin and YMax",
    "hex digits": "ImageIDs of Open Images are like 0001eeaf4aed83f9",
    "fields where": "are its columns separated by commas, and is its first line the header?",
}


class StoppedError(Exception):
    """The caller has asked to stop."""


def without_damage(
    table: TableFile,
    rules: RowRules,
    folder: Path,
    *,
    most: int | None = None,
    notes: Path | None = None,
    stopped: Callable[[], bool] = bool,
) -> TableFile:
    """Return a table whose rows are all valid: itself, or a copy in `folder` and the list of the others. Blocking.

    `notes` is a folder in which large tables without damage are noted. Some way beyond `most` damaged rows it gives up
    and returns a part of the table. Raises InputError for a file that cannot be read, StorageError for a full disk,
    StoppedError when `stopped` returns True.
    """
    if table.columns is not None:
        return table
    rules = replace(rules, has_header=table.header is None)
    with reading(table, into=folder):
        if table.is_parquet:
            return _parquet_without_damage(table, rules, folder)
        note = _note(table, rules, notes) if notes is not None else None
        if note is not None and note.exists():
            return table
        if _all_lines_are_valid(table, rules) and _is_ordered(table, rules):
            # Not if it was changed at the same time, or a moment before, which its times need not show.
            if note is not None and note == _note(table, rules, note.parent):
                with suppress(OSError):
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.touch()
            return table
        return _csv_without_damage(table, rules, folder, most, stopped)


def bad_rows(table: TableFile) -> pl.LazyFrame:
    """Return Line (physical, the first is 1) and Reason of the rows that were left out of a table, in order."""
    if table.damaged is None or not table.damaged.exists():
        return pl.LazyFrame(schema=BAD_ROWS_SCHEMA)
    return pl.scan_parquet(table.damaged, glob=False)


def require_usable(table: TableFile) -> None:
    """Raise InputError for a table of which under half of the rows are usable: it is another one than was meant."""
    bad = bad_rows(table)
    count = int(bad.select(pl.len()).collect().item())
    if not count:
        return
    with reading(table):
        good = int(scan(table, [], None).select(pl.len()).collect(engine="streaming").item())
    if count > good:
        line, reason = bad.head(1).collect().row(0)
        hint = next((f"; {hint}" for word, hint in _HINTS.items() if word in reason), "")
        raise InputError(
            f"{table.name}: {count} of {count + good} rows cannot be used, so this is not the table that is needed; "
            f"the first is line {line}: {reason}{hint}"
        )


def looks_hexadecimal(table: TableFile) -> bool:
    """Return whether any ImageID is 16 hex digits, as in Open Images; a user's own table may have others.

    What is tolerated around them does not matter.
    """
    if not table.is_parquet:
        with reading(table):
            if _finds_hexadecimal(table, _LOOK_UP_LINES):
                return True
    ids = scan(table, ["ImageID"], []).select(pl.col("ImageID").str.contains(f"^{ANY_HEX}$").any())
    try:
        with reading(table):
            return bool(ids.collect(engine="streaming").item())
    except InputError:
        if table.is_parquet:
            raise
    # Polars cannot read it for its damaged rows.
    with reading(table):
        return _finds_hexadecimal(table, None)


def _finds_hexadecimal(table: TableFile, lines: int | None) -> bool:
    at = columns_of(table).index("ImageID")
    pattern = re.compile(ANY_HEX.encode())
    with open_bytes(table.path) as file:
        for line in islice(Lines(file), lines):
            fields = split(line) or []
            if len(fields) > at and pattern.fullmatch(fields[at].value):
                return True
    return False


def _note(table: TableFile, rules: RowRules, notes: Path) -> Path | None:
    """Return the path of the note that this state of a table has no damage; None for a small or a very new one."""
    state = table.path.stat()
    if state.st_size < _NOTED_BYTES or time.time() - state.st_mtime < _SETTLED_S:
        return None
    identity = (
        str(table.path.resolve()),
        state.st_size,
        state.st_mtime_ns,
        state.st_ctime_ns,
        state.st_ino,
        rules.line,
    )
    return notes / hashlib.sha256(repr(identity).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _all_lines_are_valid(table: TableFile, rules: RowRules) -> bool:
    """Return whether every line but a header is a valid row. A line that Polars cannot read is not."""
    # A blank line is null, and no row.
    is_valid = pl.col("line").str.contains(f"^{rules.line}$").fill_null(False).all()
    try:
        return bool(scan_csv_lines(table).select(is_valid).collect(engine="streaming").item())
    except pl.exceptions.NoDataError:
        return True
    except pl.exceptions.PolarsError:
        return False


def _is_ordered(table: TableFile, rules: RowRules) -> bool:
    """Return whether no box is turned round in a CSV table whose lines are valid otherwise."""
    if not rules.ordered:
        return True
    sides = list(dict.fromkeys(chain.from_iterable(rules.ordered)))
    frame = scan(table, sides, []).select(pl.col(sides).cast(pl.Float64))
    turned = pl.any_horizontal(pl.col(low) > pl.col(high) for low, high in rules.ordered)
    return not frame.select(turned.any()).collect(engine="streaming").item()


def _parquet_without_damage(table: TableFile, rules: RowRules, folder: Path) -> TableFile:
    """Return a Parquet table without its damaged rows, which are numbered like the lines of a CSV file."""
    frame = scan(table, ["ImageID"], row=ROW)
    untidy = False
    if rules.is_given:
        tidied = frame.select(ROW, *(_tidied(name, rules) for name in rules.columns))
        changed = (pl.col(name).ne_missing(_tidied(name, rules)) for name in rules.rules)
        untidy = bool(frame.select(pl.any_horizontal(changed).any()).collect(engine="streaming").item())
        frame = tidied if untidy else frame
    reason = pl.coalesce(
        *(_parquet_fault(name, rule) for name, rule in rules.rules.items()),
        *(_turned(low, high) for low, high in rules.ordered),
    )
    bad = frame.select(ROW, Reason=reason).filter(pl.col("Reason").is_not_null())
    found = bad.select(Line=pl.col(ROW).cast(pl.Int64) + 2, Reason="Reason").collect(engine="streaming")
    if not len(found) and not untidy:
        return table
    path = folder / "whole.parquet"
    frame.filter(reason.is_null()).drop(ROW).sink_parquet(path)
    if not len(found):
        return replace(table, path=path)
    found.write_parquet(folder / "damaged.parquet")
    return replace(table, path=path, bad=folder / "damaged.parquet")


def _tidied(name: str, rules: RowRules) -> pl.Expr:
    """Return the expression of what `RowRules.tidied` does to a column under a rule; others are as they are."""
    text, rule = pl.col(name), rules.rules.get(name)
    if rule is None:
        return text
    text = text.str.strip_chars(BLANKS)
    if rule.may_be_nothing:
        text = pl.when(~text.str.to_lowercase().is_in(NOTHING)).then(text)
    if name in ID_COLUMNS:
        return rules.ids.tidied_column(text).alias(name)
    if name == "Subset":
        return text.str.to_lowercase().replace(OTHER_SPLITS).alias(name)
    return text.alias(name)


def _parquet_fault(name: str, rule: Rule) -> pl.Expr:
    text = pl.col(name).fill_null("")
    shown, number = text.str.slice(0, 40).str.replace_all("\n", " "), text.cast(pl.Float64, strict=False)
    is_outside = ~number.is_between(rule.least, rule.most) if rule.is_bounded else pl.lit(False)
    return (
        pl.when(~text.str.contains(f"^(?:{rule.pattern})$"))
        .then(pl.format("{} '{}' {}", pl.lit(name), shown, pl.lit(rule.not_so)))
        .when(is_outside)
        .then(pl.format("{} {} {}", pl.lit(name), shown, pl.lit(rule.outside)))
    )


def _turned(low: str, high: str) -> pl.Expr:
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in (low, high)]
    fault = pl.format("{} {} is larger than {} {}", pl.lit(low), pl.col(low), pl.lit(high), pl.col(high))
    return pl.when(numbers[0] > numbers[1]).then(fault)


def _csv_without_damage(
    table: TableFile, rules: RowRules, folder: Path, most: int | None, stopped: Callable[[], bool]
) -> TableFile:
    path = folder / "whole.csv"
    bad = _BadRows(None if most is None else most + _COUNTED_BEYOND)
    is_same = True
    with open_bytes(table.path) as file, path.open("wb") as copy:
        lines = Lines(file)
        copy.write(take_header(lines) if table.header is None else _header_of(table, lines))
        for piece in rows_and_records(lines, rules):
            if isinstance(piece, Record):
                fields = rules.tidied(piece.fields)
                fault = piece.bytes_fault or piece.fault or rules.fault(fields)
                if fault is None:
                    is_kept = piece.is_regular and fields == piece.fields
                    is_same &= is_kept
                    copy.write(piece.raw if is_kept else piece.written(fields))
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
    return replace(table, path=path, header=None, bad=folder / "damaged.parquet" if len(found) else None)


def _header_of(table: TableFile, lines: Lines) -> bytes:
    """Return a header for the copy of a table without one, whose first line loses its byte order mark."""
    lines.skip_mark()
    return f"{','.join(table.header or ())}\n".encode()


class _BadRows:
    """Lines and reasons of bad rows, kept as columns: there may be as many as the table has rows."""

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
