"""Histograms of a column, counted in one pass."""

from collections.abc import Sequence
from math import floor, log10

import polars as pl

from oid_async.statistics.tables import Workplace
from oid_async.statistics.value import Histogram

# Shares of an image, and shapes, differ by factors: five steps for each power of ten, four for each of two.
SHARE_EDGES = (0.0, *(round(10 ** (step / 5), 8) for step in range(-25, 0)), 1.0)
ASPECT_EDGES = tuple(round(2 ** (step / 4), 8) for step in range(-16, 17))
_MOST_BARS = 32


def histogram(rows: pl.LazyFrame, column: str, edges: Sequence[float] | None, work: Workplace) -> Histogram:
    """Return the histogram of a column of numbers; nulls and what is not finite do not count.

    Without `edges` they are even, from 0 on, at most 33 of them.
    """
    value = pl.col(column).cast(pl.Float64)
    known = rows.select(value.alias("x")).filter(pl.col("x").is_finite())
    if edges is None:
        most = work.collect(known.select(pl.col("x").max())).item()
        edges = () if most is None else even_edges(most)
    if not edges:
        return Histogram()
    # What is at least each edge, and the difference of two neighbours: no bar is looked up for any value.
    inner = [(pl.col("x") >= edge).sum().alias(str(place)) for place, edge in enumerate(edges[1:-1])]
    counts = work.collect(known.select(pl.len().alias("all"), *inner)).row(0)
    if not counts[0]:
        return Histogram()
    above = (*counts, 0)
    median = work.collect(known.select(pl.col("x").median())).item()
    bars = tuple(above[place] - above[place + 1] for place in range(len(counts)))
    return Histogram(tuple(edges), bars, float(median))


def even_edges(most: float) -> tuple[float, ...]:
    """Return edges from 0 to at least `most`, in steps of 1, 2 or 5 times a power of ten.

    >>> even_edges(3), even_edges(1024)[:3], even_edges(1024)[-1]
    ((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, \
2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0), (0.0, 50.0, 100.0), 1050.0)
    """
    power = 10.0 ** floor(log10(most / _MOST_BARS)) if most > 0 else 1.0
    step = next((times * power for times in (1, 2, 5) if times * power * _MOST_BARS >= most), 10 * power)
    count = max(1, -int(-most // step))
    return tuple(round(place * step, 9) for place in range(count + 1))
