"""Pictures that cannot be read are found before anything of their span is written, and are left out of the export."""

from collections.abc import Mapping, Sequence

import polars as pl

from oid_async.formats.pictures import Pictures
from oid_async.formats.source import ExportSource, Span, names_of
from oid_async.store.mask_check import MOST_PIXELS

_NO_MASK, _LARGE_IMAGE = "no mask that Pillow reads", "its image has too many pixels"
_LARGE = "too many pixels for a picture of its masks"
ByReason = Mapping[str, Sequence[str]]


def sieved(span: Span, source: ExportSource, pictures: Pictures) -> Span:
    """Return a span without the images and masks that are no pictures; the plan of the source counts them as left out.

    Of images the header is read. Those that are exported in a smaller size are made here; others are not decoded.
    Raises OSError.
    """
    return source.without(span, *refused(span, source, pictures))


def refused(span: Span, source: ExportSource, pictures: Pictures) -> tuple[ByReason, ByReason]:
    """Return the FileNames and the MaskPaths, by reason, of the images and masks of a span that are no pictures."""
    images = pictures.refused(span.images) if source.needs_pictures else {}
    if "segmentation" not in span.rows:
        return images, {}
    # A mask is brought to the size of its image.
    is_large = pl.col("OutWidth").cast(pl.Int64) * pl.col("OutHeight") > MOST_PIXELS
    large = span.images.filter(is_large, ~pl.col("FileName").is_in(names_of(images).implode()))
    if source.draws_masks:
        images[_LARGE] = large.get_column("FileName").to_list()
    of_large = pl.col("ImageID").is_in(large.get_column("ImageID").implode())
    rows = span.rows["segmentation"].unique("MaskPath", maintain_order=True)
    masks = {
        _LARGE_IMAGE: [] if source.draws_masks else rows.filter(of_large).get_column("MaskPath").to_list(),
        _NO_MASK: pictures.unreadable_masks(rows.filter(~of_large).get_column("MaskPath").to_list()),
    }
    return images, masks
