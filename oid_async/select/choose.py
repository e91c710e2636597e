"""Which images: the decision, from what the tables say. Pure: no table is read here.

The order of operations: boxes that match (class, flags), in images of the image table -> union or intersection ->
without excluded classes -> what else an image must be (--where and
its like) -> id lists -> the first N of each class -> the first N -> one part of several, of these.

With --top-up a limit counts images that did not fail: the first images until N are there, the failed ones among them.
Decided again with what has failed since, the first N grow by the next images in order, until N are there or there are
no more.

The images stand in order of their keys, and every set of them is a column of one Boolean an image; that is what makes a
question about a million of them cost a tenth of a second. A join costs four times as much (measured).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, shuffle_number
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.idlist import IdList
from oid_async.select.parts import Part
from oid_async.select.query import Query


@dataclass(frozen=True, slots=True)
class TopUpState:
    """What a topped up selection must know of the images asked for so far, as keys in any order.

    `failed` are those that cannot be had. `settled` are those that earlier decisions of this run gave out: what is not
    in `failed` is there. With None all images are given out at once, also those that a failure may yet push out.
    """

    failed: pl.Series | None = None
    settled: pl.Series | None = None


NO_TOP_UP = TopUpState()


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images and what is worth saying about them.

    `keys` is sorted ascending and unique; `classes` counts images per category and `splits` the selected ones per split
    (both in the image table); `added` counts the images that each category's subclasses would add to it; `rows` counts
    the matching box rows that the selected images bring; `unlisted` counts annotated images without a row in the image
    table; `unknown_lines` are those of the id list that name no image of the tables, `unboxed` counts listed images
    without a box; `waiting` counts the images that are selected if none of `keys` fails, and are not in `keys` because
    another failure may push them out.
    """

    keys: pl.Series
    classes: dict[str, int]
    added: dict[str, int]
    splits: dict[str, int]
    rows: int
    unlisted: int
    unknown_lines: pl.Series
    unboxed: int
    waiting: int


def choose(
    pairs: pl.DataFrame,
    images: pl.DataFrame,
    query: Query,
    asked: TopUpState = NO_TOP_UP,
    among: pl.Series | None = None,
) -> Selection:
    """Decide which images are selected, in the order of operations that stands at the top.

    `pairs` comes from `annotated` (or is empty when no rows are read), `images` from `listed`, `among` from
    `restricted`. `asked` counts only when the query is to be topped up.
    """
    shelf = _Images.of(images)
    boxed = _Boxed(shelf, pairs, query)
    keep = boxed.matching()
    if query.excluded:
        keep = keep & ~boxed.having(label for category in query.excluded for label in category.labels)
    if among is not None:
        keep = keep & shelf.having(among)
    unknown_lines, unboxed = pl.Series("line", [], pl.UInt32), 0
    if query.image_ids is not None:
        named, unknown_lines = shelf.named(query.image_ids)
        if query.by_boxes and not query.categories:
            unboxed = int((named & ~boxed.matching()).sum())
        keep = keep & named
    if query.exclude_ids is not None:
        keep = keep & ~shelf.named(query.exclude_ids)[0]
    keep, waiting = _wanted(shelf, boxed, keep, query, asked)
    return Selection(
        keys=shelf.keys.filter(keep),
        classes=_named(query.categories, (int(mask.sum()) for mask in boxed.members())),
        added=_named(query.categories, boxed.gained()),
        splits=shelf.splits(keep),
        rows=boxed.rows(keep),
        unlisted=boxed.unlisted,
        unknown_lines=unknown_lines,
        unboxed=unboxed,
        waiting=waiting,
    )


def shuffled(seed: int) -> pl.Expr:
    """Return the expression key -> its place in the shuffled order of a seed: splitmix64 of ImageID + seed.

    The arithmetic is modulo 2^64, as Polars' is on UInt64; a shift to the right is a division by a power of two.
    """

    def number(value: int) -> pl.Expr:
        return pl.lit(value % 2**64, pl.UInt64)

    z = pl.col(KEY) + number(seed + 0x9E3779B97F4A7C15)
    z = (z ^ (z // number(2**30))) * number(0xBF58476D1CE4E5B9)
    z = (z ^ (z // number(2**27))) * number(0x94D049BB133111EB)
    return z ^ (z // number(2**31))


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of the image table: `keys` sorted and unique, `split` (u8, null if unknown) of each."""

    keys: pl.Series
    split: pl.Series

    @classmethod
    def of(cls, images: pl.DataFrame) -> "_Images":
        keys = images.get_column(KEY)
        if not keys.is_sorted() or (keys == keys.shift()).any():
            images = images.sort(KEY, maintain_order=True).unique(KEY, keep="first", maintain_order=True)
        return cls(images.get_column(KEY), images.get_column("split"))

    def places(self, keys: pl.Series) -> pl.Series:
        """Return where each key stands (u32), null for a key that is not there."""
        if not len(self.keys):
            return pl.repeat(None, len(keys), dtype=pl.UInt32, eager=True).alias("at")
        at = self.keys.search_sorted(keys).alias("at")
        found = self.keys.gather(at.clip(0, len(self.keys) - 1)) == keys
        return at.to_frame().select(pl.when(found).then("at").cast(pl.UInt32)).to_series()

    def mask(self, places: Iterable[pl.Series]) -> pl.Series:
        """Return the set of the images at these places."""
        mask = pl.repeat(False, len(self.keys), dtype=pl.Boolean, eager=True)
        for at in places:
            mask = mask.scatter(at, True) if len(at) else mask
        return mask

    def having(self, keys: pl.Series) -> pl.Series:
        """Return the set of the images with these keys; keys of no image are none."""
        return self.mask([self.places(keys).drop_nulls()])

    def named(self, ids: IdList) -> tuple[pl.Series, pl.Series]:
        """Return the set of the images that a list names, and its lines, in order, that name none of them."""
        rows = ids.rows.with_columns(self.places(ids.rows.get_column(KEY)).alias("at"))
        there = rows.filter(pl.col("at").is_not_null())
        home = self.split.gather(there.get_column("at")) if len(there) else pl.Series([], dtype=pl.UInt8)
        listed = there.get_column("split")
        fits = (home.is_null() | listed.is_null() | (home == listed)).fill_null(True)
        known = there.filter(fits)
        absent = rows.join(known, on=KEY, how="anti").join(known, on="line", how="anti").get_column("line").unique()
        odd = pl.Series("line", [line for line, _ in ids.odd], pl.UInt32)
        return self.mask([known.get_column("at")]), pl.concat([absent, odd]).sort()

    def splits(self, keep: pl.Series) -> dict[str, int]:
        """Return how many of a set are in each split, where that is known."""
        counts = self.split.filter(keep).drop_nulls().value_counts().sort("split")
        return {SPLITS[code]: count for code, count in counts.iter_rows()}


class _Boxed:
    """What the box table says of the images: sets of them by class. Made once from the pairs of a query."""

    def __init__(self, images: _Images, pairs: pl.DataFrame, query: Query) -> None:
        self._images = images
        self._query = query
        self._codes = {label: code for code, label in enumerate(query.labels)}
        wanted = self._places_of(label for category in query.categories for label in category.labels)
        pairs = pairs.with_columns(images.places(pairs.get_column(KEY)))
        matches = pl.col("rows") > 0
        if query.categories:
            matches &= pl.col("label").is_in(wanted)
        self._saved = pairs.filter(matches, pl.col("at").is_not_null()).select("at", "rows")
        self.unlisted = (
            pairs.filter(matches, pl.col("at").is_null()).get_column(KEY).n_unique() if query.by_boxes else 0
        )
        there = pairs.filter(pl.col("at").is_not_null()).select("label", "at", "rows")
        self._by_label = {int(code): frame for (code,), frame in there.partition_by("label", as_dict=True).items()}

    def matching(self) -> pl.Series:
        """Return the set of the images that match, before anything is taken away."""
        if not self._query.by_boxes:
            return pl.repeat(True, len(self._images.keys), dtype=pl.Boolean, eager=True)
        if self._query.match == "all":
            return reduce(and_, self.members())
        return self._images.mask([self._saved.get_column("at")])

    def members(self) -> Iterator[pl.Series]:
        """Yield the set of each category; without categories every label is one."""
        if self._query.categories:
            yield from (self._matching(category.labels) for category in self._query.categories)
        else:
            yield from (self._images.mask([_matching(frame)]) for frame in self._by_label.values())

    def gained(self) -> Iterator[int]:
        """Yield how many images each category would gain with its subclasses."""
        for category, members in zip(self._query.categories, self.members(), strict=True):
            yield int((self._matching(category.below) & ~members).sum()) if category.below else 0

    def having(self, labels: Iterable[str]) -> pl.Series:
        """Return the set of the images with a box of any of these labels, whatever its flags."""
        frames = (self._by_label.get(code) for code in self._places_of(labels))
        return self._images.mask(frame.get_column("at") for frame in frames if frame is not None)

    def rows(self, keep: pl.Series) -> int:
        """Return how many matching box rows a set of images has."""
        if not len(self._saved):
            return 0
        return int(self._saved.get_column("rows").filter(keep.gather(self._saved.get_column("at"))).sum())

    def _matching(self, labels: Iterable[str]) -> pl.Series:
        frames = (self._by_label.get(code) for code in self._places_of(labels))
        return self._images.mask(_matching(frame) for frame in frames if frame is not None)

    def _places_of(self, labels: Iterable[str]) -> list[int]:
        return sorted({self._codes[label] for label in labels})


def _matching(frame: pl.DataFrame) -> pl.Series:
    return frame.filter(pl.col("rows") > 0).get_column("at")


def _wanted(images: _Images, boxed: _Boxed, keep: pl.Series, query: Query, asked: TopUpState) -> tuple[pl.Series, int]:
    """Return the first images of a set, as the limits say; of these the part that is asked for."""
    part, limit = query.part, query.limit
    if part is None:
        return _first(images, boxed, keep, query, asked)
    if query.limit_per_class is None:
        # The same images in this order of things; and what comes after them is still the part's own, to top up from.
        keep = _in_part(images, keep, query, part)
        share = replace(query, limit=None if limit is None else part.share(limit))
        return _first(images, boxed, keep, share, asked)
    keep, _ = _first(images, boxed, keep, query, asked)
    return _in_part(images, keep, query, part), 0


def _in_part(images: _Images, keep: pl.Series, query: Query, part: Part) -> pl.Series:
    """Return the images of a set that belong to a part: every N-th in the order that limits count in."""
    places = _sorted(keep.arg_true().alias("at"), _order(images.keys, query.seed))
    return images.mask([places.to_frame().filter(part.holds(pl.int_range(pl.len()))).to_series()])


def _first(images: _Images, boxed: _Boxed, keep: pl.Series, query: Query, asked: TopUpState) -> tuple[pl.Series, int]:
    """Return the first images of each class of a set, then the first of those, and how many of these must wait."""
    if query.limit is None and query.limit_per_class is None:
        return keep, 0
    order = _order(images.keys, query.seed)
    failed = images.having(asked.failed) if query.top_up and asked.failed is not None else None
    firsts = []
    if query.limit_per_class is not None:
        firsts = [_head(members & keep, order, query.limit_per_class, failed) for members in boxed.members()]
        keep = images.mask(firsts)
    if query.limit is None:
        return keep, 0
    places = _head(keep, order, query.limit, failed)
    if not (query.top_up and firsts and asked.settled is not None):
        return images.mask([places]), 0
    certain = _certain(images, places, firsts, query.limit, failed, images.having(asked.settled))
    return images.mask([certain]), len(places) - len(certain)


def _certain(
    images: _Images,
    places: pl.Series,
    firsts: Sequence[pl.Series],
    limit: int,
    failed: pl.Series | None,
    settled: pl.Series,
) -> pl.Series:
    """Return the first of `places` (in order), whatever fails from here on; `firsts` are the first of each class.

    An image of two classes that fails makes room for one more in each: two in place of one, and the last of --ndata,
    which counts across the classes, is pushed out. Asked for at once, it would have been fetched for nothing, or not,
    depending on where a run was interrupted. So it is asked for only when as many images as can come before it, one
    for each class that an unsettled image is among the first of, are fewer than --ndata.
    """
    most = pl.repeat(0, len(images.keys), dtype=pl.Int64, eager=True)
    counts = pl.concat(firsts).alias("at").value_counts(name="classes")
    if len(counts):
        most = most.scatter(counts.get_column("at"), counts.get_column("classes").cast(pl.Int64))
    most = most.set(settled, 1)
    if failed is not None:
        most = most.set(failed, 0)
    return places.filter(_before(most.gather(places)) < limit) if len(places) else places


def _head(images: pl.Series, order: pl.Series | None, count: int, failed: pl.Series | None = None) -> pl.Series:
    """Return the places, in order, of the first images of a set until `count` of them have not failed.

    Without an `order` places stand in that of the keys.
    """
    places = images.arg_true()
    if failed is not None and failed.any():
        places = _sorted(places, order)
        good = ~failed.gather(places) if len(places) else pl.Series([], dtype=pl.Boolean)
        return places.filter(_before(good) < count)
    count = min(count, len(places))
    if order is None:
        return places.head(count)
    return places.gather(order.gather(places).arg_sort().head(count)) if len(places) else places


def _sorted(places: pl.Series, order: pl.Series | None) -> pl.Series:
    return places if order is None or not len(places) else places.gather(order.gather(places).arg_sort())


def _before(counts: pl.Series) -> pl.Series:
    """Return the sum of what stands before each place."""
    counts = counts.cast(pl.Int64)
    return counts.cum_sum() - counts


def _order(keys: pl.Series, seed: int | None) -> pl.Series | None:
    if seed is None:
        return None
    if keys.dtype != pl.UInt64:
        keys = pl.Series(KEY, list(map(shuffle_number, keys)), pl.UInt64)
    return keys.to_frame().select(shuffled(seed)).to_series()


def _named(categories: Sequence[Category], counts: Iterable[int]) -> dict[str, int]:
    """Return a count for each category by its name; none without categories."""
    if not categories:
        return {}
    names = [category.class_name for category in categories]
    # Two MIDs may bear one name; asked for apart, they are counted apart.
    called = [
        category.class_name
        if names.count(category.class_name) == 1
        else f"{category.class_name} ({', '.join(category.labels)})"
        for category in categories
    ]
    return dict(zip(called, counts, strict=True))
