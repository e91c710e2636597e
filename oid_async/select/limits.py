"""The order that images of a query are counted in, and the first of them by its limits.

With --top-up a limit counts images that did not fail: the first images until N are there, and the failed ones among
them. Decided again after more have failed, the first N grow by the next images in order, until N are there or there are
no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from oid_async.openimages.ids import HEX_ID, KEY, id_of_key, shuffle_number
from oid_async.select.images import Images
from oid_async.select.query import ResolvedQuery


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
        return self._images.mask([_head(keep, self._order, count, self._failed)])

    def of_classes(self, keep: pl.Series, classes: Iterable[pl.Series], count: int) -> list[pl.Series]:
        """Return the positions of the first `count` images of each class that are in a set."""
        return [_head(members & keep, self._order, count, self._failed) for members in classes]

    def of_all(self, keep: pl.Series, firsts: Sequence[pl.Series]) -> tuple[pl.Series, int]:
        """Return the first images of a set, by --ndata, and how many must wait.

        `firsts` are the positions of the first images by class if a limit per class made the set.
        """
        limit, part = self._query.limit, self._query.part
        if limit is None:
            return keep, 0
        if part is not None and self._tops_up_part:
            limit = part.share(limit)
        positions = _head(keep, self._order, limit, self._failed)
        if not firsts or self._requested is None:
            return self._images.mask([positions]), 0
        certain = _certain(self._images, positions, firsts, limit, self._failed, self._images.having(self._requested))
        return self._images.mask([certain]), len(positions) - len(certain)

    def own_candidates(self, keep: pl.Series) -> pl.Series:
        """Return the images of a set that a part may take, where what fails in it is replaced by its own next images.

        Before --ndata, every N-th image gives those that every N-th of its first images gives after it.
        """
        return self._in_part(keep) if self._tops_up_part else keep

    def part_of(self, keep: pl.Series) -> pl.Series:
        """Return the images of a selection that belong to the query's part: every N-th in order."""
        return keep if self._query.part is None or self._tops_up_part else self._in_part(keep)

    @property
    def _tops_up_part(self) -> bool:
        return self._query.part is not None and self._query.top_up and self._query.limit_per_class is None

    def _in_part(self, keep: pl.Series) -> pl.Series:
        assert self._query.part is not None
        positions = _sorted(keep.arg_true().alias("at"), self._order).to_frame()
        return self._images.mask([positions.filter(self._query.part.holds(pl.int_range(pl.len()))).to_series()])


def _certain(
    images: Images,
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
