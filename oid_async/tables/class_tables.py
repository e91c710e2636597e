"""Reading what classes are called, and which stands below which: small tables, read whole."""

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue import CLASS_COLUMNS
from oid_async.openimages.classes import Classes
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.tables.damage import read_headless
from oid_async.tables.reading import TableFile, reading

# How people head the label column of a class table of their own.
_HEADER_WORDS = ("mid", "label", "id", "label_name")


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
