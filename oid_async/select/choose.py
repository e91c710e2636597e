"""Decide which images are selected. Pure: no table is read here.

The order of operations: boxes that match (class, flags), in images of the image table -> union or intersection ->
without excluded classes -> other restrictions (--where and similar) -> id lists -> the first N of each class -> the
first N -> one part of several.

With --top-up a limit counts images that did not fail: the first images until N are there, and the failed ones among
them. Decided again after more have failed, the first N grow by the next images in order, until N are there or there are
no more.

Images are in order of their keys, and every set of them is a Boolean column with one value an image: so a question
about a million of them takes a tenth of a second. A join takes four times as long (measured).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import HEX_ID, KEY, id_of_key, shuffle_number
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.idlist import IdList
from oid_async.select.query import Part, Query


@dataclass(frozen=True, slots=True)
class TopUpState:
    """The images that were requested so far for a topped up selection, as keys in any order.

    `failed` are those that cannot be had. `requested` are those that earlier decisions of this run selected: those of
    them that are not in `failed` are there. With None all images are selected at once, also those that a later failure
    may push out.
    """

    failed: pl.Series | None = None
    requested: pl.Series | None = None


NO_TOP_UP = TopUpState()


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images, and counts for messages.

    `keys` is sorted ascending and unique; `classes` counts images per category and `splits` the selected ones per split
    (both in the image table); `added` counts the images that each category's subclasses would add to it; `rows` counts
    the matching box rows of the selected images; `unlisted` counts annotated images without a row in the image
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
    state: TopUpState = NO_TOP_UP,
    among: pl.Series | None = None,
) -> Selection:
    """Decide which images are selected, in the order of operations above.

    `pairs` comes from `read_label_counts` (or is empty when no rows are read), `images` from `read_image_keys`, `among`
    from `restricted_keys`. `state` counts only for a query with `top_up`.
    """
    every = _Images.of(images)
    labelled = _LabelSets(every, pairs, query)
    keep = labelled.matching()
    if query.excluded:
        keep = keep & ~labelled.having(label for category in query.excluded for label in category.labels)
    if among is not None:
        keep = keep & every.having(among)
    unknown_lines, unboxed = pl.Series("line", [], pl.UInt32), 0
    if query.image_ids is not None:
        named, unknown_lines = every.named(query.image_ids)
        if query.by_boxes and not query.categories:
            unboxed = int((named & ~labelled.matching()).sum())
        keep = keep & named
    if query.exclude_ids is not None:
        keep = keep & ~every.named(query.exclude_ids)[0]
    keep, waiting = _limited(every, labelled, keep, query, state)
    return Selection(
        keys=every.keys.filter(keep),
        classes=_named(query.categories, (int(mask.sum()) for mask in labelled.members())),
        added=_named(query.categories, labelled.added_by_subclasses()),
        splits=every.splits(keep),
        rows=labelled.rows(keep),
        unlisted=labelled.unlisted,
        unknown_lines=unknown_lines,
        unboxed=unboxed,
        waiting=waiting,
    )


def shuffled(seed: int) -> pl.Expr:
    """Return the expression key -> its rank in the shuffled order of a seed: splitmix64 of ImageID + seed.

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

    def positions(self, keys: pl.Series) -> pl.Series:
        """Return the position of each key (u32), null for a key of no image."""
        if not len(self.keys):
            return pl.repeat(None, len(keys), dtype=pl.UInt32, eager=True).alias("at")
        at = self.keys.search_sorted(keys).alias("at")
        found = self.keys.gather(at.clip(0, len(self.keys) - 1)) == keys
        return at.to_frame().select(pl.when(found).then("at").cast(pl.UInt32)).to_series()

    def mask(self, positions: Iterable[pl.Series]) -> pl.Series:
        """Return the set of the images at these positions."""
        mask = pl.repeat(False, len(self.keys), dtype=pl.Boolean, eager=True)
        for at in positions:
            mask = mask.scatter(at, True) if len(at) else mask
        return mask

    def having(self, keys: pl.Series) -> pl.Series:
        """Return the set of the images with these keys; other keys are ignored."""
        return self.mask([self.positions(keys).drop_nulls()])

    def named(self, ids: IdList) -> tuple[pl.Series, pl.Series]:
        """Return the set of the images that a list names, and its lines, in order, that name none."""
        rows = ids.rows.with_columns(self.positions(ids.rows.get_column(KEY)).alias("at"))
        there = rows.filter(pl.col("at").is_not_null())
        published = self.split.gather(there.get_column("at")) if len(there) else pl.Series([], dtype=pl.UInt8)
        listed = there.get_column("split")
        fits = (published.is_null() | listed.is_null() | (published == listed)).fill_null(True)
        known = there.filter(fits)
        absent = rows.join(known, on="line", how="anti").get_column("line").unique()
        return self.mask([known.get_column("at")]), pl.concat([absent, ids.odd.get_column("line")]).sort()

    def splits(self, keep: pl.Series) -> dict[str, int]:
        """Return how many of a set are in each split, where that is known."""
        counts = self.split.filter(keep).drop_nulls().value_counts().sort("split")
        return {SPLITS[code]: count for code, count in counts.iter_rows()}


class _LabelSets:
    """Sets of the images by their labels, from the pairs of a query; `unlisted` counts images without a row."""

    def __init__(self, images: _Images, pairs: pl.DataFrame, query: Query) -> None:
        self._images = images
        self._query = query
        self._codes = {label: code for code, label in enumerate(query.labels)}
        wanted = self._codes_of(label for category in query.categories for label in category.labels)
        pairs = pairs.with_columns(images.positions(pairs.get_column(KEY)))
        matches = pl.col("rows") > 0
        if query.categories:
            matches &= pl.col("label").is_in(wanted)
        self._saved = pairs.filter(matches, pl.col("at").is_not_null()).select("at", "rows")
        self.unlisted = _unlisted(pairs.filter(matches)) if query.by_boxes else 0
        there = pairs.filter(pl.col("at").is_not_null()).select("label", "at", "rows")
        self._by_label = {int(code): frame for (code,), frame in there.partition_by("label", as_dict=True).items()}

    def matching(self) -> pl.Series:
        """Return the set of the images that match, before exclusions and limits."""
        if not self._query.by_boxes:
            return pl.repeat(True, len(self._images.keys), dtype=pl.Boolean, eager=True)
        if self._query.match == "all":
            return reduce(and_, self.members())
        return self._images.mask([self._saved.get_column("at")])

    def members(self) -> Iterator[pl.Series]:
        """Yield the set of each category; without categories, of each label."""
        if self._query.categories:
            yield from (self._matching(category.labels) for category in self._query.categories)
        else:
            yield from (self._images.mask([_matching(frame)]) for frame in self._by_label.values())

    def added_by_subclasses(self) -> Iterator[int]:
        """Yield how many images each category would gain with its subclasses."""
        for category, members in zip(self._query.categories, self.members(), strict=True):
            yield int((self._matching(category.below) & ~members).sum()) if category.below else 0

    def having(self, labels: Iterable[str]) -> pl.Series:
        """Return the set of the images with a box of any of these labels, whatever its flags."""
        frames = (self._by_label.get(code) for code in self._codes_of(labels))
        return self._images.mask(frame.get_column("at") for frame in frames if frame is not None)

    def rows(self, keep: pl.Series) -> int:
        """Return how many matching box rows a set of images has."""
        if not len(self._saved):
            return 0
        return int(self._saved.get_column("rows").filter(keep.gather(self._saved.get_column("at"))).sum())

    def _matching(self, labels: Iterable[str]) -> pl.Series:
        frames = (self._by_label.get(code) for code in self._codes_of(labels))
        return self._images.mask(_matching(frame) for frame in frames if frame is not None)

    def _codes_of(self, labels: Iterable[str]) -> list[int]:
        return sorted({self._codes[label] for label in labels})


def _unlisted(pairs: pl.DataFrame) -> int:
    """Return how many images of these pairs have no row (`at` is null); one that has a row in any split is listed."""
    image = pl.col(KEY) if pairs.schema[KEY] == pl.UInt64 else id_of_key(pl.col(KEY))
    images = pairs.select(pl.col("at").is_null().alias("is_absent"), image=image)
    listed = images.filter(~pl.col("is_absent")).get_column("image")
    absent = images.filter("is_absent").get_column("image").unique()
    if pairs.schema[KEY] == pl.UInt64:
        return len(absent)
    return int((~absent.is_in(listed.implode())).sum())


def _matching(frame: pl.DataFrame) -> pl.Series:
    return frame.filter(pl.col("rows") > 0).get_column("at")


def _limited(
    images: _Images, labelled: _LabelSets, keep: pl.Series, query: Query, state: TopUpState
) -> tuple[pl.Series, int]:
    """Return the first images of a set, by the limits; of these the query's part. And how many must wait."""
    part, limit = query.part, query.limit
    if part is None:
        return _first(images, labelled, keep, query, state)
    if query.limit_per_class is None:
        # The same images in this order; and the images after them are still the part's own, to top up from.
        keep = _in_part(images, keep, query, part)
        share = replace(query, limit=None if limit is None else part.share(limit))
        return _first(images, labelled, keep, share, state)
    keep, _ = _first(images, labelled, keep, query, state)
    return _in_part(images, keep, query, part), 0


def _in_part(images: _Images, keep: pl.Series, query: Query, part: Part) -> pl.Series:
    """Return the images of a set that belong to a part: every N-th in the order of the limits."""
    positions = _sorted(keep.arg_true().alias("at"), _order(images.keys, query.seed))
    return images.mask([positions.to_frame().filter(part.holds(pl.int_range(pl.len()))).to_series()])


def _first(
    images: _Images, labelled: _LabelSets, keep: pl.Series, query: Query, state: TopUpState
) -> tuple[pl.Series, int]:
    """Return the first images of each class of a set, then the first of those, and how many must wait."""
    if query.limit is None and query.limit_per_class is None:
        return keep, 0
    order = _order(images.keys, query.seed)
    failed = images.having(state.failed) if query.top_up and state.failed is not None else None
    firsts = []
    if query.limit_per_class is not None:
        firsts = [_head(members & keep, order, query.limit_per_class, failed) for members in labelled.members()]
        keep = images.mask(firsts)
    if query.limit is None:
        return keep, 0
    positions = _head(keep, order, query.limit, failed)
    if not (query.top_up and firsts and state.requested is not None):
        return images.mask([positions]), 0
    certain = _certain(images, positions, firsts, query.limit, failed, images.having(state.requested))
    return images.mask([certain]), len(positions) - len(certain)


def _certain(
    images: _Images,
    positions: pl.Series,
    firsts: Sequence[pl.Series],
    limit: int,
    failed: pl.Series | None,
    requested: pl.Series,
) -> pl.Series:
    """Return the images of `positions` (in order) that stay selected whatever fails later; `firsts` are those by class.

    An image of two classes that fails is replaced by one more in each: two in place of one, and the last of --ndata,
    which counts across the classes, is pushed out. Requested at once, it would have been fetched for nothing, or not,
    depending on where a run was interrupted. So it is selected only when as many images as can come before it, one for
    each class that an image not yet requested is among the first of, are fewer than --ndata.
    """
    most = pl.repeat(0, len(images.keys), dtype=pl.Int64, eager=True)
    counts = pl.concat(firsts).alias("at").value_counts(name="classes")
    if len(counts):
        most = most.scatter(counts.get_column("at"), counts.get_column("classes").cast(pl.Int64))
    most = most.set(requested, 1)
    if failed is not None:
        most = most.set(failed, 0)
    return positions.filter(_before(most.gather(positions)) < limit) if len(positions) else positions


def _head(images: pl.Series, order: pl.Series | None, count: int, failed: pl.Series | None = None) -> pl.Series:
    """Return the first positions of a set, by `order` or by key, until `count` of the images have not failed."""
    positions = images.arg_true()
    if failed is not None and failed.any():
        positions = _sorted(positions, order)
        good = ~failed.gather(positions) if len(positions) else pl.Series([], dtype=pl.Boolean)
        return positions.filter(_before(good) < count)
    count = min(count, len(positions))
    if order is None:
        return positions.head(count)
    return positions.gather(order.gather(positions).arg_sort().head(count)) if len(positions) else positions


def _sorted(positions: pl.Series, order: pl.Series | None) -> pl.Series:
    return positions if order is None or not len(positions) else positions.gather(order.gather(positions).arg_sort())


def _before(counts: pl.Series) -> pl.Series:
    """Return the sum of the counts before each one."""
    counts = counts.cast(pl.Int64)
    return counts.cum_sum() - counts


def _order(keys: pl.Series, seed: int | None) -> pl.Series | None:
    if seed is None:
        return None
    is_number = keys.dtype == pl.UInt64
    if not is_number:
        texts = keys.to_frame().select(id_of_key(pl.col(KEY))).to_series()
        if texts.str.contains(HEX_ID).all():
            keys = texts.str.to_integer(base=16, dtype=pl.UInt64)
        else:
            keys = pl.Series(KEY, list(map(shuffle_number, texts)), pl.UInt64)
    order = keys.to_frame().select(shuffled(seed)).to_series()
    # An id in two splits has one number: the order of the splits decides.
    return order if is_number else order.rank("ordinal")


def _named(categories: Sequence[Category], counts: Iterable[int]) -> dict[str, int]:
    """Return a count for each category by its name; none without categories."""
    if not categories:
        return {}
    names = [category.class_name for category in categories]
    # Two MIDs may have one name; named apart in a query, they are counted apart.
    titles = [
        category.class_name
        if names.count(category.class_name) == 1
        else f"{category.class_name} ({', '.join(category.labels)})"
        for category in categories
    ]
    return dict(zip(titles, counts, strict=True))
