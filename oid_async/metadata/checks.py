"""The checks of a fetched table: what it must be to be kept, and what more to take the place of a good copy. Blocking.

A server may answer 200 with something else than the table: the page of a login, an error in JSON, another table, or the
first half of the file with a length to match. Whatever comes must be readable as the table that was asked for. Where a
good copy is here already, it must not lack what that one has either: its columns, most of its rows, its end.
"""

from functools import partial
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import CLASS_COLUMNS, TABLES, PublishedTable, TableKind
from oid_async.openimages.classes import Classes
from oid_async.openimages.ids import KEY, ROW
from oid_async.tables.class_tables import MID, read_classes, read_hierarchy
from oid_async.tables.file_type import other_type
from oid_async.tables.reading import TableFile, columns_of, open_bytes, reading, require

# The published tables are years old and none ever shrank: one with fewer than this share of the rows is a part of it.
LEAST_SHARE = 0.5
# A table that was cut is told from one that has changed by its last rows: they stand in the good copy at their places.
_LAST_ROWS = 1000
_BLOCK = 1 << 20
_START_BYTES = 1 << 16
_TAKE_IT = "if that is meant, oid-async metadata clear and the same again take it"


def is_page(path: Path) -> bool:
    """Return whether a file is an HTML page: a login, or what a server says in place of an error."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    # No table of ours begins so: a comment, a script or a prolog may stand before the page itself.
    return start.startswith(b"<") and (b"<html" in start.lower() or other_type(start) is not None)


def require_published(raw: TableFile, table: PublishedTable) -> None:
    """Raise InputError if a fetched file is not the published table, as far as that is quickly seen.

    What is kept as it is, is read whole; whether rows are usable shows when a table is converted.
    """
    if table.kind == "hierarchy":
        read_hierarchy(raw)
    elif table.columns == CLASS_COLUMNS:
        _require_kind(raw, table)
        classes, _ = read_classes(raw)
        # Predicates are called by words, such as inside_of.
        if table.kind != "predicates" and not have_mids(classes):
            raise InputError(f"{raw.name}: most of its labels are no MIDs (/m/...), so this is no table of classes")
    elif table.columns:
        _require_kind(raw, table)
        if table.kind in ("images", "all_images"):
            require(raw, ["OriginalURL"])


def _require_kind(raw: TableFile, table: PublishedTable) -> None:
    """Raise InputError if the columns are those of another published table."""
    columns, kinds = set(columns_of(raw)), _columns_of_kinds()
    own = len(columns & kinds[table.kind])
    # One that is complete counts more than one of which as many columns are there.
    is_complete = own == len(kinds[table.kind])
    for kind, names in kinds.items():
        if kind != table.kind and columns >= names and len(names) + (not is_complete) > own:
            what, meant = (name.replace("_", " ") for name in (kind, table.kind))
            raise InputError(f"{raw.name}: its columns are those of the published {what}, not of the {meant}")


def _columns_of_kinds() -> dict[TableKind, frozenset[str]]:
    """Return the columns that all published tables of a kind have."""
    found: dict[TableKind, frozenset[str]] = {}
    for table in TABLES:
        if table.columns:
            found[table.kind] = found.get(table.kind, frozenset(table.columns)).intersection(table.columns)
    return found


def have_mids(classes: Classes) -> bool:
    """Return whether most labels are MIDs, as all published ones are."""
    return 2 * sum(MID.fullmatch(label) is not None for label in classes.names) >= max(1, len(classes.names))


def require_no_loss(fresh: TableFile, good: TableFile, table: PublishedTable) -> None:
    """Raise InputError if a published table has lost what the good copy of it has."""
    if fresh.columns is None or good.columns is None:
        size, before = (each.path.stat().st_size for each in (fresh, good))
        if size < LEAST_SHARE * before:
            raise _cut(fresh.name, size, before, "bytes")
        require_whole(fresh, good)
        return
    if not set(table.columns).intersection(fresh.columns) <= set(good.columns):
        # The copy was never good: an earlier version took what came.
        return
    lost = [name for name in table.columns if name in good.columns and name not in fresh.columns]
    if lost:
        raise InputError(f"{fresh.name}: it lacks the column {lost[0]!r}, which the copy has; {_TAKE_IT}")
    rows, before = (_count(each) for each in (fresh, good))
    if rows < before and (rows < LEAST_SHARE * before or _is_start_of(fresh, good)):
        raise _cut(fresh.name, rows, before, "rows")


def require_whole(fresh: TableFile, good: TableFile, take_it: str = _TAKE_IT) -> None:
    """Raise InputError if a table that is kept as it is, is but the beginning of the good copy.

    `take_it` says what to do if it has been made shorter on purpose.
    """
    with reading(fresh), open_bytes(good.path) as longer, open_bytes(fresh.path) as shorter:
        size = 0
        while block := shorter.read(_BLOCK):
            size += len(block)
            if block != longer.read(len(block)):
                return
        if rest := sum(map(len, iter(partial(longer.read, _BLOCK), b""))):
            raise _cut(fresh.name, size, size + rest, "bytes", take_it)


def _cut(name: str, now: int, before: int, unit: str, take_it: str = _TAKE_IT) -> InputError:
    return InputError(f"{name}: it has {now} {unit} where the copy has {before}, as if it was cut off; {take_it}")


def _count(table: TableFile) -> int:
    return int(pl.scan_parquet(table.parts, glob=False).select(pl.len()).collect(engine="streaming").item())


def _is_start_of(fresh: TableFile, good: TableFile) -> bool:
    """Return whether the last rows of a table stand at their places in a longer one, by their ids."""
    last = pl.scan_parquet(fresh.parts, glob=False).select(pl.col(ROW).max()).collect(engine="streaming").item()
    at_its_end = pl.col(ROW).is_between(max(0, last - _LAST_ROWS), last)
    rows = [
        pl.scan_parquet(table.parts, glob=False).filter(at_its_end).select(ROW, KEY).collect(engine="streaming")
        for table in (fresh, good)
    ]
    return rows[0].sort(ROW).equals(rows[1].sort(ROW))
