"""Reading class names and the class hierarchy: small tables, read at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import CLASS_COLUMNS
from oid_async.openimages.classes import Classes
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.tables.csv_records import MOST_BYTES, Lines, records
from oid_async.tables.damage import BAD_ROWS_SCHEMA
from oid_async.tables.reading import TableFile, open_bytes, reading, require_line_ends, scan
from oid_async.tables.row_rules import counted

# Headers of the label column in class tables of people's own.
_HEADER_WORDS = ("mid", "label", "id", "label_name")
# The full class table has 20,000 rows.
_MOST_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class _LeastWidth:
    """The shape of rows of which only the least number of fields is known."""

    needed: int

    def has_width(self, width: int) -> bool:
        return width >= self.needed

    def is_row(self, fields: Sequence[bytes]) -> bool:
        return self.has_width(len(fields))


def read_classes(table: TableFile) -> tuple[Classes, pl.DataFrame]:
    """Read a class table: mid and name in the first two columns. Files before V6 have no header, V6 and V7 do.

    Returns the classes, and Line and Reason of the rows that cannot be used. Raises InputError.
    """
    rows, bad_rows = read_headless(table, CLASS_COLUMNS, (CLASS_COLUMNS[0].lower(), *_HEADER_WORDS))
    names = ((label.strip(), (name or label).strip()) for label, name in rows.iter_rows() if label)
    return Classes({label: name for label, name in names if label}), bad_rows


def read_hierarchy(table: TableFile) -> Hierarchy:
    """Read the published class hierarchy. Raises InputError for a file that is not such a tree."""
    with reading(table):
        text = table.path.read_text(encoding="utf-8-sig")
    try:
        return Hierarchy.parse(text)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{table.name}: cannot be read as a class hierarchy: {error!r}") from error


def read_headless(
    table: TableFile, columns: Sequence[str], header_words: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a small table of which only the number of leading columns is known; row 1 may be a header.

    Returns those columns, and the damaged rows (Line, Reason): with too few fields, with more than most rows have, or
    whose first field is empty. Raises InputError when no row is left, or for a large table.
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
        start = file.read(MOST_BYTES)
        file.seek(0)
        found = list(islice(records(Lines(file), _LeastWidth(needed)), _MOST_ROWS + 1))
    if len(found) > _MOST_ROWS:
        raise InputError(f"{table.name}: more than {_MOST_ROWS} rows; that is no table of {' and '.join(columns)}")
    if not found:
        raise InputError(f"{table.name}: the file is empty")
    faults = [record.bytes_fault is not None for record in found]
    if faults[0] and sum(faults) * 2 > len(faults):
        raise InputError(f"{table.name}: not a CSV file (it holds binary data)")
    require_line_ends(table, start)
    widths = Counter(len(record.fields) for record in found if len(record.fields) >= needed)
    if not widths:
        raise _too_narrow(table, len(found[0].fields), columns)
    rows, bad = [], []
    width = max(widths, key=lambda width: (widths[width], -width))
    for record in found:
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
        return f"{counted(len(fields), 'field')} where {needed} are needed"
    if len(fields) > width:
        return f"{counted(len(fields), 'field')} where other rows have {width}"
    return None if fields[0].strip() else f"{first} is empty"


def _too_narrow(table: TableFile, width: int, columns: Sequence[str]) -> InputError:
    wants = ", ".join(columns)
    return InputError(f"{table.name}: it has {width} column(s) where {len(columns)} are needed ({wants})")
