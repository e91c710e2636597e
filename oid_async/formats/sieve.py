"""Pictures that cannot be read are found before anything of their span is written, and are left out of the export."""

from oid_async.formats.pictures import Pictures
from oid_async.formats.source import ExportSource, Span


def sieved(span: Span, source: ExportSource, pictures: Pictures) -> Span:
    """Return a span without the images and masks that Pillow refuses; the plan of the source counts them as left out.

    Images that are exported in a smaller size are made here. Others are not opened. Raises OSError.
    """
    refused = pictures.make_smaller(span.images) if source.needs_pictures else []
    masks: list[str] = []
    if "segmentation" in span.rows:
        paths = span.rows["segmentation"].get_column("MaskPath").unique(maintain_order=True).to_list()
        masks = pictures.unreadable_masks(paths)
    return source.without(span, refused, masks) if refused or masks else span
