"""Negatives: images of which a person has verified that a category is not there. They come beside the selected ones.

An image may be one if a category at least has a human label of Confidence 0 there, by its own MIDs, while no category
and no subclass of one has a box or a human label above 0 there, whatever flags the box has. That nobody has labelled
a category is no reason: people were asked about a few classes of each image, and the others may well be in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.select.images import Images
from oid_async.store.results import NEGATIVE, ROLE_SCHEMA, SELECTED
from oid_async.tables.reading import TableFile, reading, scan_keyed
from oid_async.tables.rows import CONFIDENCE, RowSource, absent, scan_pairs

ROLE, VERIFIED_ABSENT = ROLE_SCHEMA


@dataclass(frozen=True, slots=True)
class NegativeRule:
    """Which negatives a query asks for, and the tables that tell.

    `count` is their number, or their share of all images as 'P%'. `own` are the MIDs of the categories, sorted, by
    which a label of Confidence 0 counts; `present` are those and all subclasses of them. `labels` are human ones.
    """

    count: int | str
    own: tuple[str, ...]
    present: tuple[str, ...]
    boxes: tuple[TableFile, ...]
    labels: tuple[TableFile, ...]

    @classmethod
    def of(
        cls,
        count: int | str,
        categories: Sequence[Category],
        boxes: tuple[TableFile, ...],
        labels: tuple[TableFile, ...],
    ) -> Self:
        """Make the rule of these categories, whose subclasses are known."""
        own = {label for category in categories for label in category.own}
        present = {label for category in categories for label in (*category.labels, *category.below)}
        return cls(count, tuple(sorted(own)), tuple(sorted(present)), boxes, labels)

    def number(self, selected: int) -> int:
        """Return how many negatives belong to so many selected images; of a share half an image is a whole one.

        >>> [NegativeRule(count, (), (), (), ()).number(45) for count in (7, "10%", "50%", "90%")]
        [7, 5, 45, 405]
        """
        if isinstance(self.count, int):
            return self.count
        share = Fraction(self.count.removesuffix("%"))
        return int(selected * share / (100 - share) + Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class Negatives:
    """The negatives of a selection: sorted `keys`, what is `absent` in them (KEY, code), and the MID of each code.

    In all parts of the selection together `found` were there of those that were `asked` for.
    """

    keys: pl.Series
    absent: pl.DataFrame
    labels: tuple[str, ...]
    found: int
    asked: int

    def roles(self, keys: pl.Series) -> pl.DataFrame:
        """Return Role and VerifiedAbsent (List(String): MIDs, none of a selected image) of these images, in order."""
        first, last = (pl.lit(key, self.keys.dtype) for key in (keys[0], keys[-1]))
        absent = self.absent.filter(pl.col(KEY).is_between(first, last))
        mids = pl.Series(self.labels, dtype=pl.String).gather(absent.get_column("code"))
        listed = absent.select(KEY, mids.alias(VERIFIED_ABSENT)).group_by(KEY, maintain_order=True).agg(VERIFIED_ABSENT)
        found = keys.alias(KEY).to_frame().join(listed, on=KEY, how="left", maintain_order="left")
        is_negative = pl.col(VERIFIED_ABSENT).is_not_null()
        return found.select(
            pl.when(is_negative).then(pl.lit(NEGATIVE)).otherwise(pl.lit(SELECTED)).alias(ROLE),
            pl.col(VERIFIED_ABSENT).fill_null(pl.lit([], pl.List(pl.String))),
        )


@dataclass(frozen=True, slots=True)
class LabelEvidence:
    """What boxes and human labels say of a rule's MIDs.

    `present` are the keys of images that have one of them, in no order, some more than once; `absent` has KEY and
    `code` (u16, an index into `labels`, the rule's `own`) of the labels of Confidence 0.
    """

    present: tuple[pl.Series, ...]
    absent: pl.DataFrame
    labels: tuple[str, ...]

    def without_categories(self, images: Images) -> pl.Series:
        """Return the set of the images that may be negatives."""
        present = images.mask(images.positions(keys).drop_nulls() for keys in self.present)
        return images.having(self.absent.get_column(KEY)) & ~present

    def of(self, keys: pl.Series, *, found: int, asked: int) -> Negatives:
        """Return these images as negatives, with what is verified to be absent in each."""
        absent = self.absent.filter(pl.col(KEY).is_in(keys.implode())).unique().sort(KEY, "code")
        return Negatives(keys, absent, self.labels, found, asked)


def read_evidence(rule: NegativeRule, ids: IdForm) -> LabelEvidence:
    """Read what the tables say of a rule's MIDs: each of them once, two or three columns wide. Blocking."""
    present = []
    for table in rule.boxes:
        pairs = None if ids.by_split else scan_pairs(table)
        rows = scan_keyed(table, ids, ["LabelName"], []) if pairs is None else pairs
        with reading(table):
            found = rows.filter(pl.col("LabelName").is_in(list(rule.present))).select(KEY)
            present.append(found.collect(engine="streaming").to_series())
    no_labels = pl.DataFrame(schema={KEY: ids.dtype, "code": pl.UInt16})
    verified = [no_labels]
    for table in rule.labels:
        with reading(table):
            labels = _label_rows(rule, table, ids).collect(engine="streaming")
        present.append(labels.filter(pl.col("code").is_null()).get_column(KEY))
        verified.append(labels.drop_nulls("code"))
    return LabelEvidence(tuple(present), pl.concat(verified), rule.own)


def _label_rows(rule: NegativeRule, table: TableFile, ids: IdForm) -> pl.LazyFrame:
    """Return KEY and code of the human labels that count, `code` null for a label above 0."""
    rows = scan_keyed(table, ids, ["LabelName", CONFIDENCE], []).filter(pl.col("LabelName").is_in(list(rule.present)))
    codes = list(range(len(rule.own)))
    code = pl.col("LabelName").replace_strict(list(rule.own), codes, default=None, return_dtype=pl.UInt16)
    is_there = RowSource(KINDS["label"], (), {}).present()
    rows = rows.select(KEY, is_there=is_there, code=pl.when(absent()).then(code))
    return rows.filter(pl.col("is_there") | pl.col("code").is_not_null()).drop("is_there")
