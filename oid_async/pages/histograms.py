"""Cards of histograms: bars, and the same bins as a table."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from oid_async.pages.elements import Amount, Cell, number, table
from oid_async.pages.parts import Cards


def add_histogram(
    cards: Cards,
    title: str,
    values: Mapping[str, Any],
    units: tuple[str, str],
    *,
    about: str = "",
    log: bool = False,
    whole: bool = False,
) -> None:
    """Add a card of {"edges", "counts"}: bins that are empty on both ends are left out; nothing if all are.

    `units` are those of the edges and the counts; bins of `whole` numbers end before the next one begins.
    """
    edges, counts = _without_empty_ends(values.get("edges") or [], values.get("counts") or [])
    if not counts:
        return
    names = [_bin(low, high, whole=whole) for low, high in pairwise(edges)]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import histogram

        # A bar of whole numbers stands over its number, not beside it.
        drawn = [None if edge is None else edge - 0.5 for edge in edges] if whole else edges
        return histogram(drawn, counts, names, units=units, log=log, description=title)

    rows: list[Sequence[Cell]] = [
        (Amount(name, -1 if low is None else low), count)
        for name, low, count in zip(names, edges, counts, strict=False)
        if count
    ]
    numbers = table(units, rows, label=title)
    cards.add(title, *cards.with_numbers(cards.plot(draw), numbers=numbers), about=about)


def _without_empty_ends(
    edges: Sequence[float | None], counts: Sequence[int]
) -> tuple[Sequence[float | None], Sequence[int]]:
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return [], []
    first, last = filled[0], filled[-1]
    return edges[first : last + 2], counts[first : last + 1]


def _bin(low: float | None, high: float | None, *, whole: bool) -> str:
    """Return a bin as a person reads it."""
    if low is None or high is None:
        return f"{number(low, 4)} or more" if high is None else f"below {number(high, 4)}"
    if whole:
        return number(low) if high - low == 1 else f"{number(low)} to {number(high - 1)}"
    return f"{number(low, 4)} to {number(high, 4)}"


def boxes_per_image_bins(counts: Sequence[Sequence[int]]) -> tuple[list[int | None], list[int]]:
    """Return edges and counts of [boxes, images] pairs: at most 40 bins of the same width, whole numbers.

    The few images with most boxes, one in a thousand, share a last bin without end.

    >>> boxes_per_image_bins([[1, 5], [3, 2]])
    ([1, 2, 3, 4], [5, 0, 2])
    >>> boxes_per_image_bins([[1, 5000], [2, 3000], [742, 1]])
    ([1, 2, 3, None], [5000, 3000, 1])
    """
    least, most = counts[0][0], counts[-1][0]
    last, rest = most, sum(images for _, images in counts) // 1000
    for boxes, images in reversed(counts):
        last, rest = boxes, rest - images
        if rest < 0:
            break
    width = -(-(last - least + 1) // 40)
    edges: list[int | None] = list(range(least, last + width + 1, width))
    binned = [0] * (len(edges) - 1)
    if last + width < most:
        edges, binned = [*edges, None], [*binned, 0]
    else:
        edges = list(range(least, most + width + 1, width))
        binned = [0] * (len(edges) - 1)
    for boxes, images in counts:
        binned[min((boxes - least) // width, len(binned) - 1)] += images
    return edges, binned
