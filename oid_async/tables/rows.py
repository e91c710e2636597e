"""Annotation rows of any kind: those that match a query, their number by class, those of given images.

A box must have its flags and its area to match, a point its answer. A flag (IsOccluded, ...) is 1, 0 or -1; -1 means
that nobody looked, and is neither yes nor no. A table of a user's own may have true and false. An image-level label of
Confidence 0 is a verified absence: the class is not in the image, so such a row never selects it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from shlex import quote

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.quick_values import frozen
from oid_async.tables.reading import TableFile, reading, scan, scan_keyed

CONFIDENCE = "Confidence"
_MOST_EXAMPLES = 3
# Rows of which images are counted at once.
_MOST_COUNTED = 8_000_000
PREDICATE = "RelationshipLabel"
TRIPLET_COLUMNS = ("LabelName1", PREDICATE, "LabelName2")
ANSWER = "EstimatedYesNo"
# Far above the rounding of an area (a product of two differences of binary numbers within 0 and 1), far below the steps
# between areas: sides are published in millionths.
_ROUNDING = 1e-14


@frozen
class Triplet:
    """The relationships of a --triplet: MIDs of the first and the second object, predicates; None for any."""

    first: tuple[str, ...] | None
    predicates: tuple[str, ...] | None
    second: tuple[str, ...] | None

    def fits(self) -> pl.Expr:
        """Return the condition on a relationship's row."""
        sides = zip(TRIPLET_COLUMNS, (self.first, self.predicates, self.second), strict=True)
        wanted = (pl.col(name).is_in(list(labels)) for name, labels in sides if labels is not None)
        return pl.all_horizontal(pl.lit(True), *wanted)


ANY_TRIPLET = Triplet(None, None, None)


@frozen
class RowConditions:
    """What rows must be to match and to be saved, whatever their class; nothing by default.

    `flags` are the values of a box's flags by column. A box covers `least_area` to `most_area` of its image, both
    included, as shares from 0 to 1 and by its published sides. `answer` is that of a point: yes, no or unsure.
    """

    flags: Mapping[str, bool] = field(default_factory=dict)
    least_area: float = 0.0
    most_area: float = math.inf
    answer: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are asked."""
        sides = SIDES if self._has_area else ()
        return (*self.flags, *sides, *([ANSWER] if self.answer is not None else []))

    def met(self) -> pl.Expr:
        """Return the condition on a row."""
        conditions = [fits(self.flags)] if self.flags else []
        if self._has_area:
            x_min, x_max, y_min, y_max = (pl.col(side).cast(pl.Float64, strict=False) for side in SIDES)
            area = (x_max - x_min) * (y_max - y_min)
            conditions.append(area.is_between(self.least_area - _ROUNDING, self.most_area + _ROUNDING))
            # Not a number is larger than any for Polars.
            conditions.append(area.is_finite())
        if self.answer is not None:
            conditions.append(pl.col(ANSWER).str.to_lowercase() == self.answer)
        return pl.all_horizontal(pl.lit(True), *conditions).fill_null(False)

    @property
    def _has_area(self) -> bool:
        return self.least_area > 0 or self.most_area < math.inf


@frozen
class RowSource:
    """The rows of one kind that a run reads: its tables, the class_names of its labels, the conditions on its rows.

    `least` is the least Confidence of a label that counts, `triplets` are the relationships that match (empty: any).
    """

    kind: Kind
    tables: tuple[TableFile, ...]
    class_names: Mapping[str, str]
    conditions: RowConditions = RowConditions()
    least: float | None = None
    triplets: tuple[Triplet, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether every row counts."""
        return not (self.conditions.columns or self.triplets or self.kind.name == "label")

    @property
    def columns(self) -> list[str]:
        """The columns that the conditions need, in addition to the labels."""
        names = [*self.conditions.columns, *([PREDICATE] if self.triplets else [])]
        return [*names, CONFIDENCE] if self.kind.name == "label" else names

    def saved(self) -> pl.Expr:
        """Return the condition that a row is saved, whatever its class."""
        triplets = pl.any_horizontal(triplet.fits() for triplet in self.triplets) if self.triplets else pl.lit(True)
        return self.conditions.met() & triplets

    def present(self) -> pl.Expr:
        """Return the condition that the class of a row is in the image: a label of Confidence 0 states the opposite."""
        if self.kind.name != "label":
            return pl.lit(True)
        confidence = pl.col(CONFIDENCE).cast(pl.Float32, strict=False)
        return (confidence > 0) & (confidence >= pl.lit(self.least or 0.0, pl.Float32))

    def named(self, labels: Sequence[str]) -> pl.Expr:
        """Return the condition that a row names one of these classes, on either side of a relationship."""
        return pl.any_horizontal(pl.col(name).is_in(list(labels)) for name in self.kind.labels)


def require_known_labels(boxes: RowSource, class_table: str) -> None:
    """Raise InputError if no LabelName of these boxes is a class. Blocking; mostly the first rows answer it."""
    known = boxes.class_names
    for table in boxes.tables:
        labels = scan(table, ["LabelName"], []).drop_nulls()
        with reading(table):
            if len(labels.filter(pl.col("LabelName").is_in(list(known))).head(1).collect(engine="streaming")):
                return
            there = labels.head(1).collect(engine="streaming").to_series().to_list()
        if there and known:
            called = there[0].lower() in (name.lower() for name in known.values())
            why = "it needs the MIDs, not the names" if called else "are they of one dataset?"
            raise InputError(
                f"{table.name}: none of its labels is in {class_table} (labels such as {there[0][:60]!r} and "
                f"{next(iter(known))[:60]!r}); {why}"
            )


def absent() -> pl.Expr:
    """Return the condition that a person has verified that a label's class is not in the image."""
    return pl.col(CONFIDENCE).cast(pl.Float32, strict=False) == 0


def fits(flags: Mapping[str, bool]) -> pl.Expr:
    """Return the condition that a box has these flags: 1 is yes, 0 is no, -1 (unknown) is neither."""
    wanted = []
    for name, yes in flags.items():
        number = pl.col(name).cast(pl.Float32, strict=False) == int(yes)
        wanted.append(number.fill_null(pl.col(name).str.to_lowercase() == str(yes).lower()))
    return pl.all_horizontal(wanted).fill_null(False) if wanted else pl.lit(True)


def rows_of(
    source: RowSource, table: TableFile, ids: IdForm, keys: pl.Series | None, *, labels: Sequence[str] | None
) -> pl.LazyFrame:
    """Return the rows of these images (None: of all): KEY, ROW and every column as published, in no order.

    `labels` are the wanted ones, None for every class; rows must meet the source's conditions.
    """
    frame = scan_keyed(table, ids, source.kind.labels, numbered=True).filter(source.saved())
    if labels is not None and source.kind.has_classes:
        frame = frame.filter(source.named(labels))
    return frame if keys is None else frame.filter(pl.col(KEY).is_in(keys.implode()))


def count_rows(source: RowSource, ids: IdForm, keys: pl.Series, labels: Sequence[str] | None) -> int:
    """Return how many of the rows to save these images have."""
    total = 0
    for table in source.tables:
        needed = [*source.kind.labels, *source.columns]
        rows = scan_keyed(table, ids, needed, []).filter(source.saved(), pl.col(KEY).is_in(keys.implode()))
        if labels is not None and source.kind.has_classes:
            rows = rows.filter(source.named(labels))
        with reading(table):
            total += int(rows.select(pl.len()).collect(engine="streaming").item())
    return total


@frozen
class TripletExamples:
    """Relationships to name in messages: their tables, and what labels, predicates aside, are called."""

    tables: Sequence[TableFile]
    class_names: Mapping[str, str]

    def like(self, triplet: Triplet) -> list[str]:
        """Return those that fit and that most rows have, the most frequent first, as --triplet takes them. Blocking."""
        frames = [scan(table, TRIPLET_COLUMNS, []).select(TRIPLET_COLUMNS) for table in self.tables]
        if not frames:
            return []
        counts = pl.concat(frames).filter(triplet.fits()).drop_nulls().group_by(TRIPLET_COLUMNS).agg(rows=pl.len())
        order = counts.sort("rows", *TRIPLET_COLUMNS, descending=[True, False, False, False]).head(_MOST_EXAMPLES)
        with reading(self.tables[0]):
            rows = order.select(TRIPLET_COLUMNS).collect(engine="streaming").rows()
        return [quote(",".join(csv_field(self.class_names.get(part, part)) for part in row)) for row in rows]

    def nearest(self, triplet: Triplet) -> list[str]:
        """Return some that share as much with a triplet as any do: the first object rather than the second."""
        for others in (("second",), ("first",), ("predicates",), ("first", "second")):
            if found := self.like(replace(triplet, **dict.fromkeys(others))):
                return found
        return self.like(ANY_TRIPLET)


def csv_field(text: str) -> str:
    """Return a text as one field of a CSV row."""
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def count_classes(source: RowSource, ids: IdForm, keys: pl.Series, labels: Sequence[str] | None) -> dict[str, int]:
    """Return how many of these images have a row of each class (of `labels`, None: of any), the most frequent first.

    Rows of a label that is verified to be absent do not count. One pass over the labels of the rows.
    """
    counts = []
    for table in source.tables:
        pairs = scan_pairs(table) if source.is_plain and not ids.by_split else None
        if pairs is None:
            rows = scan_keyed(table, ids, [*source.kind.labels, *source.columns], [])
            rows = rows.filter(source.saved(), source.present())
            pairs = pl.concat(rows.select(KEY, LabelName=pl.col(side)) for side in source.kind.labels).unique()
        wanted = pl.col("LabelName").is_not_null() if labels is None else pl.col("LabelName").is_in(list(labels))
        found = pairs.filter(wanted, pl.col(KEY).is_in(keys.implode())).group_by("LabelName").agg(images=pl.len())
        with reading(table):
            counts.append(found.collect(engine="streaming"))
    total = pl.concat(counts).group_by("LabelName").agg(pl.col("images").sum())
    return dict(total.sort("images", "LabelName", descending=[True, False]).iter_rows())


def scan_pairs(table: TableFile) -> pl.LazyFrame | None:
    """Scan LabelName, KEY, boxes (u32) of each image and label of a sorted table, in order; None without them."""
    pairs = sorted(table.path.glob("pairs-*.parquet")) if table.columns is not None else []
    return pl.scan_parquet(pairs, glob=False) if pairs else None


def count_labels(table: TableFile, kind: Kind = KINDS["bbox"], column: str | None = None) -> dict[str, tuple[int, int]]:
    """Return how many images and rows each label has in a table of Open Images; Confidence 0 does not count.

    A relationship counts once for a class that it has on both sides. `column` is another one than those of the kind's
    labels. Large tables are counted a part of their images at a time: each row takes some 40 bytes.
    """
    frame = scan_pairs(table) if kind.is_sorted and kind.name != "label" else None
    if frame is not None:
        counts = frame.group_by("LabelName").agg(images=pl.len(), rows=pl.col("boxes").sum())
        with reading(table):
            return _by_label([counts.collect(engine="streaming")])
    source = RowSource(kind, (table,), {})
    names = kind.labels if column is None else (column,)
    rows = scan_keyed(table, IdForm(), [*names, *source.columns], []).filter(source.present())
    first = pl.col(names[0])
    sides = [rows.select(KEY, LabelName=first)]
    sides += [rows.filter(pl.col(name) != first).select(KEY, LabelName=name) for name in names[1:]]
    found = []
    with reading(table):
        parts = 1 + rows.select(pl.len()).collect(engine="streaming").item() // _MOST_COUNTED
        for part in range(parts):
            some = pl.concat(sides).filter(pl.col(KEY) % parts == part)
            counts = some.group_by("LabelName").agg(images=pl.col(KEY).n_unique(), rows=pl.len())
            found.append(counts.collect(engine="streaming"))
    return _by_label(found)


def _by_label(counts: Sequence[pl.DataFrame]) -> dict[str, tuple[int, int]]:
    rows = pl.concat(counts).group_by("LabelName").agg(pl.col("images", "rows").sum())
    return {label: (images, count) for label, images, count in rows.iter_rows() if label is not None}
