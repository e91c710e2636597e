"""Annotation rows of any kind: which of them are meant, how many there are of each class, those of given images.

A flag (IsOccluded, ...) is 1, 0 or -1; -1 means that nobody looked, and is neither yes nor no. A table of a user's own
may say true and false. An image-level label of Confidence 0 is a verified absence: such a row says that a class is not
there, so it never selects an image.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import Kind
from oid_async.tables.reading import TableFile, reading, scan_keyed

CONFIDENCE = "Confidence"
PREDICATE = "RelationshipLabel"


@dataclass(frozen=True, slots=True)
class Triplet:
    """Which relationships are meant: MIDs of the first and the second object, predicates; None for any."""

    first: tuple[str, ...] | None
    predicates: tuple[str, ...] | None
    second: tuple[str, ...] | None

    def fits(self) -> pl.Expr:
        """Return the condition on a relationship's row."""
        sides = (("LabelName1", self.first), (PREDICATE, self.predicates), ("LabelName2", self.second))
        return _all_of(pl.col(name).is_in(list(wanted)) for name, wanted in sides if wanted is not None)


@dataclass(frozen=True, slots=True)
class RowSource:
    """The rows of one kind that a run asks about: its tables, what their labels are called, which rows are meant.

    `flags` says what a box must be by column, `least` what Confidence a label must have to count, `triplets` which
    relationships are meant (empty: any).
    """

    kind: Kind
    tables: tuple[TableFile, ...]
    class_names: Mapping[str, str]
    flags: Mapping[str, bool] = field(default_factory=dict)
    least: float | None = None
    triplets: tuple[Triplet, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Return whether every row counts."""
        return not (self.flags or self.triplets or self.kind.name == "label")

    @property
    def columns(self) -> list[str]:
        """Return the columns that the conditions ask about, beside the labels."""
        names = [*self.flags, *([PREDICATE] if self.triplets else [])]
        return [*names, CONFIDENCE] if self.kind.name == "label" else names

    def saved(self) -> pl.Expr:
        """Return the condition that a row is saved, whatever its class."""
        triplets = pl.any_horizontal(triplet.fits() for triplet in self.triplets) if self.triplets else pl.lit(True)
        return fits(self.flags) & triplets

    def present(self) -> pl.Expr:
        """Return the condition that a row says that something is there: a label of Confidence 0 says the opposite."""
        if self.kind.name != "label":
            return pl.lit(True)
        confidence = pl.col(CONFIDENCE).cast(pl.Float32, strict=False)
        return (confidence > 0) & (confidence >= pl.lit(self.least or 0.0, pl.Float32))

    def named(self, labels: Sequence[str]) -> pl.Expr:
        """Return the condition that a row names one of these classes, on either side of a relationship."""
        return pl.any_horizontal(pl.col(name).is_in(list(labels)) for name in self.kind.labels)


def absent() -> pl.Expr:
    """Return the condition that a person has verified that a label's class is not there."""
    return pl.col(CONFIDENCE).cast(pl.Float32, strict=False) == 0


def fits(flags: Mapping[str, bool]) -> pl.Expr:
    """Return the condition that a box is what the flags ask for: 1 is yes, 0 is no, -1 (unknown) is neither."""
    wanted = []
    for name, yes in flags.items():
        number = pl.col(name).cast(pl.Float32, strict=False) == int(yes)
        wanted.append(number.fill_null(pl.col(name).str.to_lowercase() == str(yes).lower()))
    return pl.all_horizontal(wanted).fill_null(False) if wanted else pl.lit(True)


def rows_of(
    source: RowSource, table: TableFile, ids: IdForm, keys: pl.Series | None, *, labels: Sequence[str] | None
) -> pl.LazyFrame:
    """Return the rows of these images (None: of all): KEY, ROW and every column as published, in no order.

    `labels` are those wanted, None for every class; rows must be what the source means.
    """
    frame = scan_keyed(table, ids, source.kind.labels, numbered=True).filter(source.saved())
    if labels is not None and source.kind.has_classes:
        frame = frame.filter(source.named(labels))
    return frame if keys is None else frame.filter(pl.col(KEY).is_in(keys.implode()))


def count_rows(source: RowSource, ids: IdForm, keys: pl.Series, labels: Sequence[str] | None) -> int:
    """Return how many rows that are saved these images have."""
    total = 0
    for table in source.tables:
        needed = [*source.kind.labels, *source.columns]
        rows = scan_keyed(table, ids, needed, []).filter(source.saved(), pl.col(KEY).is_in(keys.implode()))
        if labels is not None and source.kind.has_classes:
            rows = rows.filter(source.named(labels))
        with reading(table):
            total += int(rows.select(pl.len()).collect(engine="streaming").item())
    return total


def scan_pairs(table: TableFile) -> pl.LazyFrame | None:
    """Scan what a sorted table says of each image and label: LabelName, KEY, boxes (u32), in that order.

    Return None for a table that does not say it.
    """
    pairs = sorted(table.path.glob("pairs-*.parquet")) if table.columns is not None else []
    return pl.scan_parquet(pairs, glob=False) if pairs else None


def count_labels(boxes: TableFile) -> dict[str, tuple[int, int]]:
    """Return how many images and boxes each label has in a box table of Open Images."""
    frame = scan_pairs(boxes)
    if frame is None:
        rows = scan_keyed(boxes, IdForm(), ["LabelName"], [])
        frame = rows.group_by("LabelName", KEY).agg(boxes=pl.len())
    counts = frame.group_by("LabelName").agg(images=pl.len(), boxes=pl.col("boxes").sum())
    with reading(boxes):
        found = counts.collect(engine="streaming")
    return {label: (images, count) for label, images, count in found.iter_rows() if label is not None}


def _all_of(conditions: Iterable[pl.Expr]) -> pl.Expr:
    listed = list(conditions)
    return pl.all_horizontal(listed) if listed else pl.lit(True)
