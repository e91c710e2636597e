"""Negatives: images of which a person has verified that a category is not there. They come beside the selected ones.

An image may be one if a category at least has a human label of Confidence 0 there, by its own MIDs, while no category
and no subclass of one has a box or a human label above 0 there, whatever flags the box has. That nobody has labelled
a category is no reason: people were asked about a few classes of each image, and the others may well be in it.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Self

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.options.readers import share
from oid_async.quick_values import frozen
from oid_async.select.images import Images
from oid_async.store.results import NEGATIVE, ROLE_SCHEMA, SELECTED
from oid_async.tables.reading import TableFile, reading, scan_keyed
from oid_async.tables.rows import CONFIDENCE, RowSource, scan_pairs
from oid_async.tables.rows import absent as verified_absent

ROLE, VERIFIED_ABSENT = ROLE_SCHEMA
_FEW_IMAGES = 1 << 16


@frozen
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
        of_all = share(self.count)
        return int(selected * of_all / (1 - of_all) + Fraction(1, 2))


@frozen
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


@frozen
class LabelEvidence:
    """What boxes and human labels say of a rule's MIDs in the images of a query.

    `free` is the set of the images that may be negatives. `absent` has `at` (u32, the position of one of them) and
    `code` (u16, an index into `labels`, the rule's `own`) of the labels of Confidence 0.
    """

    free: pl.Series
    absent: pl.DataFrame
    labels: tuple[str, ...]

    def of(self, images: Images, chosen: pl.Series, *, found: int, asked: int) -> Negatives:
        """Return a set of the images as negatives, with what is verified to be absent in each."""
        absent = self.absent.filter(chosen.gather(self.absent.get_column("at"))) if len(self.absent) else self.absent
        absent = absent.unique().sort("at", "code")
        absent = absent.select(images.keys.gather(absent.get_column("at")), "code")
        return Negatives(images.keys.filter(chosen), absent, self.labels, found, asked)


def read_evidence(rule: NegativeRule, images: Images, ids: IdForm, boxed: pl.Series | None = None) -> LabelEvidence:
    """Read what the tables say of a rule's MIDs in these images. Blocking.

    `boxed` are the keys of the images with a box of one of `rule.present` where they are known already: in no order,
    also more than once. Tables are read two or three columns wide and part by part: a class may have millions of
    labels, most of them in images without boxes (all parts at once take 2.8 GB at full size, one by one 0.2, measured).
    """
    present = images.mask(images.positions(keys).drop_nulls() for keys in _boxed(rule, ids, boxed))
    verified = [pl.DataFrame(schema={"at": pl.UInt32, "code": pl.UInt16})]
    # With many MIDs nearly every image has a box of one: labels of the few others alone are looked up, which takes half
    # of the time. Among many images the lookup by position is the quicker one.
    others = images.keys.filter(~present)
    matters = pl.col(KEY).is_in(others.implode()) if len(others) < _FEW_IMAGES else pl.lit(True)
    for table in rule.labels:
        for rows in _scan_parts(table, ids):
            if present.all():
                break
            with reading(table):
                labels = _decisive(rows.filter(matters), rule).collect(engine="streaming")
            labels = labels.select(images.positions(labels.get_column(KEY)), "code").drop_nulls("at")
            present = present | images.mask([labels.filter(pl.col("code").is_null()).get_column("at")])
            verified.append(labels.drop_nulls("code"))
    absent = pl.concat(verified)
    at = absent.get_column("at")
    absent = absent.filter(~present.gather(at)) if len(at) else absent
    return LabelEvidence(images.mask([absent.get_column("at")]), absent, rule.own)


def _boxed(rule: NegativeRule, ids: IdForm, known: pl.Series | None) -> Iterator[pl.Series]:
    """Yield the keys of the images that have a box of one of the rule's MIDs."""
    if known is not None:
        yield known
        return
    for table in rule.boxes:
        pairs = None if ids.by_split else scan_pairs(table)
        rows = scan_keyed(table, ids, ["LabelName"], []) if pairs is None else pairs
        with reading(table):
            found = rows.filter(pl.col("LabelName").is_in(list(rule.present))).select(KEY).collect(engine="streaming")
        yield found.to_series()


def _scan_parts(table: TableFile, ids: IdForm) -> Iterator[pl.LazyFrame]:
    """Yield KEY, LabelName, Confidence of all rows: of a table in the cache's own form part by part."""
    columns = ["LabelName", CONFIDENCE]
    if table.columns is None or ids.by_split:
        yield scan_keyed(table, ids, columns, [])
        return
    for part in table.parts:
        yield pl.scan_parquet(part, glob=False).select(KEY, *columns)


def _decisive(rows: pl.LazyFrame, rule: NegativeRule) -> pl.LazyFrame:
    """Return KEY and code of the human labels that count, `code` null for a label above 0."""
    codes = list(range(len(rule.own)))
    code = pl.col("LabelName").replace_strict(list(rule.own), codes, default=None, return_dtype=pl.UInt16)
    is_there = RowSource(KINDS["label"], (), {}).present()
    rows = rows.filter(pl.col("LabelName").is_in(list(rule.present)))
    rows = rows.select(KEY, is_there=is_there, code=pl.when(verified_absent()).then(code))
    return rows.filter(pl.col("is_there") | pl.col("code").is_not_null()).drop("is_there")
