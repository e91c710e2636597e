"""Why a row of a saved table is left out of an export, and columns that a user has removed from it.

What a download has written is checked already: boxes and points that lie too far outside are left out. In a table that
was changed on purpose a row may name no class, or have no number where one must be. Pure.
"""

from collections.abc import Sequence

import polars as pl

from oid_async.dataset.tables import SavedTable
from oid_async.errors import InputError
from oid_async.openimages.kinds import KINDS, KindName

# The column that says why a row is left out, null for a row that is exported.
REASON = "__reason"
TURNED, OUTSIDE = "turned round", "outside the image"
NO_CLASS, NO_NUMBERS = "no class", "no numbers"
# A published side may be so far outside of its image; it is clipped. What is further out is no box of this image.
_MARGIN = 0.01 + 1e-9
# Columns that must name something: those of classes, and this one.
_WORDS: dict[KindName, Sequence[str]] = {"relationship": (*KINDS["relationship"].labels, "RelationshipLabel")}
# Columns of places in the image; of boxes and masks `misplaced` is told.
_PLACES: dict[KindName, Sequence[str]] = {
    kind: KINDS[kind].numbers for kind in ("bbox", "segmentation", "relationship", "point")
}


def misplaced(*sides: pl.Expr) -> pl.Expr:
    """Return why a box (XMin, XMax, YMin, YMax) has no place in its image, null if it has one.

    A box of no area has one, unless all of it is outside.
    """
    axes = (sides[:2], sides[2:])
    turned = pl.any_horizontal(high < low for low, high in axes)
    outside = pl.any_horizontal(
        (low < -_MARGIN)
        | (high > 1 + _MARGIN)
        | (low > 1)
        | (high < 0)
        | ((low == 1) & (high > 1))
        | ((high == 0) & (low < 0))
        for low, high in axes
    )
    return pl.when(turned).then(pl.lit(TURNED)).when(outside).then(pl.lit(OUTSIDE))


def rows_as_text(table: SavedTable) -> pl.LazyFrame:
    """Return the rows of a CSV table as text; the names of classes are null if a user has removed their columns.

    Raises InputError if another column is missing.
    """
    present, name = table.columns(), table.kind.name
    for needed in ("ImageID", *_WORDS.get(name, table.kind.labels), *_PLACES.get(name, ())):
        if needed not in present:
            raise InputError(
                f"{table.file.name}: column {needed!r} is missing: its {table.kind.what} cannot be exported"
            )
    removed = (pl.lit(None, pl.String).alias(each) for each in table.kind.categories if each not in present)
    return table.as_text().with_columns(removed)


def checked(kind: KindName, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return rows as text, with their boxes or points clipped to the image, and REASON for what has no place in it."""
    reasons = {NO_CLASS: pl.any_horizontal(pl.col(name).is_null() for name in _WORDS.get(kind, KINDS[kind].labels))}
    numbers = {name: pl.col(name).cast(pl.Float64, strict=False) for name in _PLACES.get(kind, ())}
    if numbers:
        reasons[NO_NUMBERS] = pl.any_horizontal(each.is_null() | ~each.is_finite() for each in numbers.values())
        reasons[OUTSIDE] = pl.any_horizontal((each < -_MARGIN) | (each > 1 + _MARGIN) for each in numbers.values())
    texts = [
        pl.when(number < 0).then(pl.lit("0")).when(number > 1).then(pl.lit("1")).otherwise(name).alias(name)
        for name, number in numbers.items()
    ]
    return rows.with_columns(first_reason(kind, reasons)).with_columns(texts)


def first_reason(kind: KindName, reasons: dict[str, pl.Expr]) -> pl.Expr:
    """Return REASON: the first of these conditions that holds, null if none does."""
    found = pl.lit(None, pl.String)
    for name, is_left_out in reversed(reasons.items()):
        found = pl.when(is_left_out).then(pl.lit(f"{kind}: {name}")).otherwise(found)
    return found.alias(REASON)
