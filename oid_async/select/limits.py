"""The order that images of a query are counted in, and the first of them by its limits.

With --top-up a limit counts images that did not fail: the first images until N are there, and the failed ones among
them. Decided again after more have failed, the first N grow by the next images in order, until N are there or there are
no more.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import polars as pl

from oid_async.openimages.ids import HEX_ID, KEY, id_of_key, shuffle_number
from oid_async.quick_values import frozen
from oid_async.select.images import Images, taken
from oid_async.select.query import ResolvedQuery


@frozen
class TopUpState:
    """The images that were requested so far for a topped up selection, as keys in any order.

    `failed` are those that cannot be had. `requested` are those that earlier decisions of this run selected: those of
    them that are not in `failed` are there. With None all images are selected at once, also those that a later failure
    may push out.
    """

    failed: pl.Series | None = None
    requested: pl.Series | None = None


NO_TOP_UP = TopUpState()


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


@frozen
class Firsts:
    """The set of the images that are left before --ndata.

    `of_classes` are the positions of those that a limit per class took, in order, by class; `total` is how many there
    would be if none failed; `counts` are the images of each class that --balanced took.
    """

    images: pl.Series
    of_classes: tuple[pl.Series, ...]
    total: int
    counts: tuple[int, ...] = ()


class Limits:
    """The first images of a set, by the limits of a query and in its order; with --top-up until so many did not fail.

    `state` counts only for a query with `top_up`.
    """

    def __init__(self, images: Images, query: ResolvedQuery, state: TopUpState) -> None:
        self._images = images
        self._query = query
        self._requested = state.requested if query.top_up else None
        self._failed = images.having(state.failed) if query.top_up and state.failed is not None else None

    @cached_property
    def _order(self) -> pl.Series | None:
        """The rank of each image in the order of the query, None for the order of keys."""
        return _order(self._images.keys, self._query.seed)

    def first(self, keep: pl.Series, count: int) -> pl.Series:
        """Return the first `count` images of a set."""
        # A share of nearly 100 % is more images than Polars counts to.
        return self._images.mask([_head(keep.arg_true(), self._order, min(count, len(keep)), self._failed)])

    def part_of(self, keep: pl.Series) -> pl.Series:
        """Return the images of a selection that belong to the query's part: every N-th in order."""
        return keep if self._query.part is None or self._tops_up_part else self._in_part(keep)

    def by_class(self, keep: pl.Series, classes: Iterable[pl.Series]) -> Firsts:
        """Return what the limit per class or --balanced takes of a set, all of it without either.

        `classes` has the positions of the images of each class.
        """
        if self._query.balanced is not None:
            return self._balanced(keep, classes, self._query.balanced)
        count = self._query.limit_per_class
        if count is None:
            # A part that replaces what fails by its own next images takes every N-th image before --ndata: those are
            # the same ones that every N-th of the first images gives after it.
            return Firsts(self._in_part(keep) if self._tops_up_part else keep, (), int(keep.sum()))
        firsts, unfailed = [], []
        for members in classes:
            own = members.filter(taken(keep, members))
            firsts.append(_head(own, self._order, count, self._failed))
            if self._failed is not None:
                unfailed.append(_head(own, self._order, count))
        images = self._images.mask(firsts)
        return Firsts(images, tuple(firsts), int((self._images.mask(unfailed) if unfailed else images).sum()))

    def by_count(self, firsts: Firsts) -> tuple[pl.Series, int]:
        """Return the images that --ndata leaves, and how many must wait: see `Selection`."""
        if self._query.limit is None:
            return firsts.images, 0
        chosen, waiting = [], 0
        for among, count in self._counts(firsts.total):
            own = firsts.images if among is None else firsts.images & among
            positions = own.arg_true() if count is None else _head(own.arg_true(), self._order, count, self._failed)
            if count is not None and firsts.of_classes and self._requested is not None:
                certain = self._certain(firsts, count, positions)
                waiting += len(positions) - len(certain)
                positions = certain
            chosen.append(positions)
        return self._images.mask(chosen), waiting

    def _balanced(self, keep: pl.Series, classes: Iterable[pl.Series], count: int) -> Firsts:
        """Return a set with at least `count` images of each class that has so many: from the rarest class on, the first
        ones that are lacking."""
        classes = [members.filter(taken(keep, members)) for members in classes]
        chosen = self._images.mask([])
        for members in sorted(classes, key=len):
            is_there = taken(chosen, members)
            lacking = count - int(is_there.sum() or 0)
            if lacking > 0:
                chosen = chosen.scatter(_head(members.filter(~is_there), self._order, lacking), True)
        return Firsts(chosen, (), int(chosen.sum()), tuple(self._images.count(chosen, members) for members in classes))

    def _counts(self, total: int) -> Iterator[tuple[pl.Series | None, int | None]]:
        """Yield sets of images (None: all) and how many --ndata takes of each (None: all of them)."""
        limit, part = self._query.limit, self._query.part
        if isinstance(limit, Mapping):
            yield from ((self._images.of_split(split), count) for split, count in limit.items())
            return
        count = int(limit) if isinstance(limit, int) else min(total, max(1, int(total * (limit or 0))))
        count = part.share(count) if part is not None and self._tops_up_part else count
        yield None, count if count < len(self._images.keys) else None

    def _certain(self, firsts: Firsts, count: int, positions: pl.Series) -> pl.Series:
        """Return the images of `positions` (in order) that stay selected whatever fails later.

        An image of two classes that fails is replaced by one more in each: two in place of one, and the last of
        --ndata, which counts across the classes, is pushed out. Requested at once, it would have been fetched for
        nothing, or not, depending on where a run was interrupted. So it is selected only when as many images as can
        come before it, one for each class that an image not yet requested is among the first of, are fewer than
        --ndata.
        """
        assert self._requested is not None
        most = pl.repeat(0, len(self._images.keys), dtype=pl.Int64, eager=True)
        counts = pl.concat(firsts.of_classes).alias("at").value_counts(name="classes")
        if len(counts):
            most = most.scatter(counts.get_column("at"), counts.get_column("classes").cast(pl.Int64))
        most = most.set(self._images.having(self._requested), 1)
        if self._failed is not None:
            most = most.set(self._failed, 0)
        return positions.filter(_before(taken(most, positions)) < count)

    @property
    def _tops_up_part(self) -> bool:
        return self._query.part is not None and self._query.top_up and self._query.limit_per_class is None

    def _in_part(self, keep: pl.Series) -> pl.Series:
        assert self._query.part is not None
        positions = _sorted(keep.arg_true().alias("at"), self._order).to_frame()
        return self._images.mask([positions.filter(self._query.part.holds(pl.int_range(pl.len()))).to_series()])


def _head(positions: pl.Series, order: pl.Series | None, count: int, failed: pl.Series | None = None) -> pl.Series:
    """Return the first of some positions, by `order` or by key, in order, until `count` of the images did not fail."""
    count = min(count, len(positions))
    if failed is not None and failed.any():
        positions = _sorted(positions, order)
        return positions.filter(_before(~taken(failed, positions)) < count)
    if not 0 < count < len(positions):
        return _sorted(positions, order) if count else positions.clear()
    places = positions if order is None else order.gather(positions)
    return _sorted(positions.filter(places <= places.bottom_k(count).max()), order)


def _sorted(positions: pl.Series, order: pl.Series | None) -> pl.Series:
    """Return positions in order."""
    return positions.sort() if order is None else taken(positions, taken(order, positions).arg_sort())


def _before(counts: pl.Series) -> pl.Series:
    """Return the sum of the counts before each one."""
    counts = counts.cast(pl.Int64)
    return counts.cum_sum() - counts


def _order(keys: pl.Series, seed: int | None) -> pl.Series | None:
    return None if seed is None else shuffled_order(keys, seed)


def shuffled_order(keys: pl.Series, seed: int) -> pl.Series:
    """Return the rank (UInt64, in no other order than `shuffled`) of each of these keys, sorted or not, of any form."""
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
