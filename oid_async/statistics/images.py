"""The numbers of images: status, split, role, source, size, licence, author."""

import polars as pl

from oid_async.statistics.histograms import histogram
from oid_async.statistics.tables import Workplace
from oid_async.statistics.value import Authors, ImageCounts, ImageSizes, Statistics, Subject

_MOST_SIZES = _MOST_AUTHORS = 20
_OK, _FAILED, _PENDING = "ok", "failed", "pending"


def image_counts(images: pl.LazyFrame, work: Workplace) -> ImageCounts:
    """Return how many images have which status, and the bytes of those that are ok."""
    sums = [(pl.col("Status") == status).sum().alias(status) for status in (_OK, _FAILED, _PENDING)]
    size = pl.col("Bytes").filter(pl.col("Status") == _OK).sum()
    row = work.collect(images.select(pl.len().alias("selected"), *sums, size.alias("bytes"))).row(0, named=True)
    return ImageCounts(**row)


def counts_of(images: pl.LazyFrame, column: str, work: Workplace) -> dict[str, int]:
    """Return how many images have each text of a column, most first; null and empty texts are \"\"."""
    counted = images.group_by(pl.col(column).fill_null("")).agg(images=pl.len())
    found = work.collect(counted).sort("images", column, descending=[True, False])
    return {str(text): int(count) for text, count in found.iter_rows()}


def authors(images: pl.LazyFrame, work: Workplace) -> Authors:
    """Return how many authors there are, and who made most images; images of an unknown author do not count."""
    known = images.drop_nulls("Author").filter(pl.col("Author") != "")
    each = work.collect(known.group_by("Author").agg(images=pl.len()))
    most = each.sort("images", "Author", descending=[True, False]).head(_MOST_AUTHORS)
    return Authors(len(each), tuple((str(author), int(count)) for author, count in most.iter_rows()))


def image_sizes(images: pl.LazyFrame, work: Workplace) -> ImageSizes:
    """Return the sizes of the images whose width and height are known."""
    known = images.drop_nulls(["Width", "Height"]).select(
        "Width", "Height", megapixels=pl.col("Width").cast(pl.Float64) * pl.col("Height") / 1e6
    )
    sizes = work.collect(known.group_by("Width", "Height").agg(images=pl.len()))
    most = sizes.sort("images", "Width", "Height", descending=True).head(_MOST_SIZES)
    return ImageSizes(
        widths=histogram(known, "Width", None, work),
        heights=histogram(known, "Height", None, work),
        megapixels=histogram(known, "megapixels", None, work),
        most_common=tuple((int(width), int(height), int(count)) for width, height, count in most.iter_rows()),
    )


def of_images(of: Subject, images: pl.LazyFrame, work: Workplace) -> Statistics:
    """Return what the table of images alone tells."""
    saved, failed = (images.filter(pl.col("Status") == status) for status in (_OK, _FAILED))
    counts = image_counts(images, work)
    licenses = counts_of(images, "License", work)
    return Statistics(
        of,
        images=_known_counts(of, counts),
        splits=counts_of(images, "Subset", work),
        roles=counts_of(images, "Role", work),
        sources=counts_of(saved, "Source", work) if of == "folder" else {},
        reasons=counts_of(failed, "Reason", work),
        image_sizes=image_sizes(saved, work),
        licenses={} if of == "export" and licenses.keys() <= {""} else licenses,
        authors=authors(images, work),
    )


def _known_counts(of: Subject, counts: ImageCounts) -> ImageCounts:
    """Return the counts that a source has: what a query selects is not saved yet, an export has good images alone."""
    if of == "folder":
        return counts
    return ImageCounts(counts.selected, counts.ok if of == "export" else None)
