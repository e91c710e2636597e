"""Reading class names and the class hierarchy: small tables, read at once."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import CLASS_COLUMNS
from oid_async.openimages.classes import Classes
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.ids import ANY_HEX
from oid_async.openimages.looks import other_table
from oid_async.quick_values import frozen
from oid_async.report import counted
from oid_async.tables.csv_records import MOST_BYTES, Lines, Record, records
from oid_async.tables.damage import BAD_ROWS_SCHEMA
from oid_async.tables.file_type import other_separator
from oid_async.tables.reading import TableFile, open_bytes, reading, require_csv, require_line_ends, scan
from oid_async.tables.row_rules import NOTHING

# What people call the columns of a class table, without signs and in lower case, the surest first.
_LABEL_WORDS = ("labelname", "mid", "machineid", "labelid", "classid", "id", "label", "class")
_NAME_WORDS = ("displayname", "displaylabel", "classname", "readablename", "name", "description", "category", "title")
_SIGNS = re.compile(r"[^a-z0-9]")
# The id of a class.
MID = re.compile(r"/[a-z]/\w+")
# The full class table has 20,000 rows.
_MOST_ROWS = 100_000


@frozen
class _LeastWidth:
    """The shape of rows of which only the least number of fields is known."""

    needed: int

    def has_width(self, width: int) -> bool:
        return width >= self.needed

    def is_row(self, fields: Sequence[bytes]) -> bool:
        return self.has_width(len(fields))


def read_classes(table: TableFile) -> tuple[Classes, pl.DataFrame]:
    """Read a class table: mid and name go by the header, or are the first two columns. Files before V6 have no header.

    Returns the classes, and Line and Reason of the rows that cannot be used. Raises InputError.
    """

    def places(first: Sequence[str]) -> tuple[int, int] | None:
        if (what := other_table("classes", [name.strip() for name in first])) is not None:
            raise InputError(f"{table.name}: {what}")
        return _class_columns(first)

    rows, lines, bad_rows = read_headless(table, CLASS_COLUMNS, places)
    if rows.select(pl.col(CLASS_COLUMNS[0]).str.contains(f"^{ANY_HEX}$").mean().fill_null(0) > 0.5).item():
        raise InputError(
            f"{table.name}: ImageIDs stand where a class table has its MIDs (/m/...); give boxes with --annotation, "
            "images with --imageURL"
        )
    labels, called = (pl.col(name).str.strip_chars().str.contains(f"^{MID.pattern}$") for name in CLASS_COLUMNS)
    if rows.select(called.mean().fill_null(0) > 0.5, ~labels.any()).row(0) == (True, True):
        label, name = CLASS_COLUMNS
        raise InputError(
            f"{table.name}: the MIDs (/m/...) stand in its column of names; without a header the first column is "
            f"{label} and the second {name}, so turn them round or put a header on"
        )
    names: dict[str, str] = {}
    again = []
    for line, (label, name) in zip(lines, rows.iter_rows(), strict=True):
        label, name = (label or "").strip(), (name or "").strip()
        name = label if name.lower() in ("", *NOTHING[:2]) else name
        if label and names.setdefault(label, name) != name:
            again.append((line, f"{label} is called {name!r:.60} here and {names[label]!r:.60} before"))
    bad_rows = pl.concat([bad_rows, pl.DataFrame(again, schema=BAD_ROWS_SCHEMA, orient="row")]).sort("Line")
    if len(bad_rows) > len(rows) - len(again):
        line, reason = bad_rows.row(0)
        raise InputError(f"{table.name}: most of its rows cannot be used, the first is line {line}: {reason}")
    return Classes(names), bad_rows


def read_labels(table: TableFile) -> frozenset[str]:
    """Read the labels (MIDs) of a table that has nothing else, and no header. Raises InputError."""
    rows, _, _ = read_headless(table, CLASS_COLUMNS[:1], lambda first: None)
    return frozenset(label.strip() for label in rows.to_series())


def _class_columns(first: Sequence[str]) -> tuple[int, int] | None:
    """Return where mid and name stand by the first row of a class table, None if it is no header.

    >>> _class_columns(["", "DisplayName", "LabelName"]), _class_columns(["/m/018xm", "Ball"])
    ((2, 1), None)
    """
    words = [_SIGNS.sub("", name.lower()) for name in first]
    if any(MID.fullmatch(name.strip()) for name in first):
        return None
    found = next((words.index(word) for word in _LABEL_WORDS if word in words), None)
    others = [at for at, word in enumerate(words) if at != found and word and not word.startswith("unnamed")]
    by_word = (words.index(word) for word in (*_NAME_WORDS, *_LABEL_WORDS) if word in words)
    name = next((at for at in by_word if at in others), None)
    if found is None:
        # A class may be called Name: one word of the two does not make a header, but for the published ones.
        return (
            None if "displayname" not in words or len(others) < 2 else (next(x for x in others if x != name), name or 0)
        )
    if name is None:
        name = next((at for at in others if at > found), others[0] if others else None)
    return None if name is None else (found, name)


def read_hierarchy(table: TableFile) -> Hierarchy:
    """Read the published class hierarchy. Raises InputError for a file that is not such a tree."""
    with reading(table):
        text = table.path.read_text(encoding="utf-8-sig")
    try:
        return Hierarchy.parse(text)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{table.name}: cannot be read as a class hierarchy: {error!r}") from error


def read_headless(
    table: TableFile, columns: Sequence[str], places: Callable[[Sequence[str]], Sequence[int] | None]
) -> tuple[pl.DataFrame, Sequence[int], pl.DataFrame]:
    """Read these columns of a small table, their lines, and the damaged rows (Line, Reason).

    `places` tells from the first row where they stand, None if it is no header: then they are the leading ones. Damaged
    are rows with too few fields, with more than most have, or whose first field is empty. Raises InputError when no row
    is left, or for a large table.
    """
    if table.is_parquet:
        frame = _parquet_columns(table, columns, places)
        return frame, range(2, len(frame) + 2), pl.DataFrame(schema=BAD_ROWS_SCHEMA)
    found = _records(table, columns)
    first = [field.decode(errors="replace") for field in found[0].fields]
    there = places(first) if first else None
    at = list(there if there is not None else range(len(columns)))
    needed = max(at) + 1
    widths = Counter(len(record.fields) for record in found if len(record.fields) >= needed)
    if not widths:
        raise _too_narrow(table, first, columns)
    rows, lines, bad = [], [], []
    width = max(widths, key=lambda width: (widths[width], -width))
    for record in found[there is not None :]:
        fault = record.bytes_fault or record.fault or _headless_fault(record.fields, needed, width, at[0], columns[0])
        if fault is not None:
            bad.append((record.line, fault))
        else:
            rows.append([record.fields[place].decode() for place in at])
            lines.append(record.line)
    if not rows and bad:
        line, reason = bad[0]
        raise InputError(f"{table.name}: no row of it can be used (line {line}: {reason})")
    return (
        pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"),
        lines,
        pl.DataFrame(bad, schema=BAD_ROWS_SCHEMA, orient="row"),
    )


def _parquet_columns(
    table: TableFile, columns: Sequence[str], places: Callable[[Sequence[str]], Sequence[int] | None]
) -> pl.DataFrame:
    with reading(table):
        frame = scan(table, []).collect()
    if frame.width < len(columns):
        raise _too_narrow(table, frame.columns, columns)
    at = places(frame.columns) or range(len(columns))
    return frame.select(pl.col(frame.columns[place]).alias(new) for place, new in zip(at, columns, strict=True))


def _records(table: TableFile, columns: Sequence[str]) -> list[Record]:
    """Return the rows of a small table that is CSV. Raises InputError for what is not."""
    with reading(table), open_bytes(table.path) as file:
        start = file.read(MOST_BYTES)
        file.seek(0)
        require_csv(table, start)
        found = list(islice(records(Lines(file), _LeastWidth(len(columns))), _MOST_ROWS + 1))
    if len(found) > _MOST_ROWS:
        raise InputError(f"{table.name}: more than {_MOST_ROWS} rows; that is no table of {' and '.join(columns)}")
    if not found:
        raise InputError(f"{table.name}: the file is empty")
    faults = [record.bytes_fault is not None for record in found]
    if faults[0] and sum(faults) * 2 > len(faults):
        raise InputError(f"{table.name}: not a CSV file (it holds binary data)")
    require_line_ends(table, start)
    by_tab = sum(b"\t" in record.fields[0] for record in found if record.fields)
    if by_tab * 2 > len(found):
        raise InputError(f"{table.name}: its columns are separated by tabs; separate them by commas")
    return found


def _headless_fault(fields: Sequence[bytes], needed: int, width: int, at: int, name: str) -> str | None:
    if len(fields) < needed:
        return f"{counted(len(fields), 'field')} where {needed} are needed"
    if len(fields) > width:
        return f"{counted(len(fields), 'field')} where other rows have {width}"
    return None if fields[at].strip() else f"{name} is empty"


def _too_narrow(table: TableFile, first: Sequence[str], columns: Sequence[str]) -> InputError:
    wants = ", ".join(columns)
    separator = other_separator(first[0]) if len(first) == 1 else None
    why = f"; its columns are separated by {separator}: separate them by commas" if separator else ""
    return InputError(f"{table.name}: it has {len(first)} column(s) where {len(columns)} are needed ({wants}){why}")
