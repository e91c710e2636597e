"""The numbers of boxes: how many an image has, how large they are and of which shape, where, and their flags."""

import polars as pl

from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.vocabulary import FLAGS
from oid_async.statistics.histograms import ASPECT_EDGES, SHARE_EDGES, histogram
from oid_async.statistics.tables import IMAGE, Workplace
from oid_async.statistics.value import BoxesPerImage, FlagCounts, Histogram, Positions

FIELDS = 24
_FLAGS = tuple(FLAGS.values())


def measured(boxes: pl.LazyFrame) -> pl.LazyFrame:
    """Return of each box what is counted: IMAGE, LabelName, Category, share, aspect, field (row x 24 + column), flags.

    Boxes are clipped to their image; a box without sides has no share, one without area no aspect.
    """
    x_min, x_max, y_min, y_max = (pl.col(side).clip(0.0, 1.0) for side in SIDES)
    width, height = x_max - x_min, y_max - y_min
    aspect = (width * pl.col("Width")) / (height * pl.col("Height"))
    column, row = ((middle / 2 * FIELDS).floor().clip(0, FIELDS - 1) for middle in (x_min + x_max, y_min + y_max))
    return boxes.select(
        IMAGE,
        "LabelName",
        "Category",
        *_FLAGS,
        share=width * height,
        aspect=pl.when((width > 0) & (height > 0)).then(aspect),
        field=(row * FIELDS + column).cast(pl.Int16, strict=False),
    )


def boxes_per_image(boxes: pl.LazyFrame, images: int, work: Workplace) -> BoxesPerImage:
    """Return how many boxes each of so many images has, of which some have none."""
    if not images:
        return BoxesPerImage()
    each = boxes.group_by(IMAGE).agg(boxes=pl.len()).group_by("boxes").agg(images=pl.len())
    counts = {int(number): int(count) for number, count in work.collect(each).iter_rows()}
    if without := images - sum(counts.values()):
        counts[0] = without
    ordered = sorted(counts.items())
    total = sum(number * count for number, count in ordered)
    return BoxesPerImage(tuple(ordered), total / images, _median(ordered), ordered[-1][0])


def _median(ordered: list[tuple[int, int]]) -> float:
    """Return the median of numbers that are counted, in order.

    >>> _median([(1, 2), (3, 2)]), _median([(0, 1), (5, 2)])
    (2.0, 5.0)
    """
    total, middle, seen = sum(count for _, count in ordered), [], 0
    for number, count in ordered:
        seen += count
        middle += [number] * sum(seen - count <= place < seen for place in ((total - 1) // 2, total // 2))
    return sum(middle) / 2


def box_shapes(boxes: pl.LazyFrame, work: Workplace) -> tuple[Histogram, Histogram]:
    """Return the shares of their images that boxes cover, and their width / height in pixels."""
    return histogram(boxes, "share", SHARE_EDGES, work), histogram(boxes, "aspect", ASPECT_EDGES, work)


def positions(boxes: pl.LazyFrame, work: Workplace) -> Positions:
    """Return in which field of their image the centres of boxes are."""
    found = work.collect(boxes.drop_nulls("field").group_by("field").agg(boxes=pl.len()))
    if not len(found):
        return Positions()
    counts = [[0] * FIELDS for _ in range(FIELDS)]
    for field, number in found.iter_rows():
        counts[field // FIELDS][field % FIELDS] = number
    return Positions(FIELDS, FIELDS, tuple(map(tuple, counts)))


def flag_counts(boxes: pl.LazyFrame, work: Workplace) -> dict[str, FlagCounts]:
    """Return of each flag how many boxes have which value."""
    sums = [(pl.col(flag) == value).sum().alias(f"{flag}{value}") for flag in _FLAGS for value in (1, 0)]
    row = work.collect(boxes.select(pl.len().alias("all"), *sums)).row(0, named=True)
    return {
        flag: FlagCounts(row[f"{flag}1"], row[f"{flag}0"], row["all"] - row[f"{flag}1"] - row[f"{flag}0"])
        for flag in _FLAGS
    }
