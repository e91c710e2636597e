"""Boxes with their masks: what COCO, YOLO and samples are made from. Pure."""

import polars as pl

from oid_async.formats.source import SIDES, Span

# Published coordinates have six decimals; a table that went through binary numbers spells them differently.
_MILLIONTHS = 1e6


def counted(rows: pl.DataFrame) -> dict[str, int]:
    """Return the number of boxes and of masks among objects."""
    boxes, masks = rows.select(pl.col("has_box").sum(), pl.col("MaskPath").count()).row(0)
    return {"bbox": int(boxes), "segmentation": int(masks)}


def objects(span: Span) -> pl.DataFrame:
    """Return the boxes of a span, each with its mask, then the masks without a box.

    By ImageID, boxes in published order. The columns are those of boxes (an unknown flag is -1), MaskPath (null: no
    mask), Split, FileName, OutWidth, OutHeight; `has_box` is false for a mask alone. A mask belongs to the box of its
    class that has its corners; of several such boxes each gets one.
    """
    boxes = span.of("bbox") if "bbox" in span.rows else None
    masks = span.of("segmentation") if "segmentation" in span.rows else None
    if masks is None:
        assert boxes is not None
        return boxes.with_columns(MaskPath=pl.lit(None, pl.String), has_box=pl.lit(True))
    if boxes is None:
        return masks.with_columns(has_box=pl.lit(False))
    corners = [(pl.col(side) * _MILLIONTHS).round().cast(pl.Int64).alias(f"__{side}") for side in SIDES]
    same = ["ImageID", "LabelName", *(f"__{side}" for side in SIDES)]

    def marked(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(corners).with_columns(__nth=pl.int_range(pl.len()).over(same))

    boxes, masks = marked(boxes).with_row_index("__row"), marked(masks)
    on = [*same, "__nth"]
    found = boxes.join(masks.select(*on, "MaskPath"), on=on, how="left", maintain_order="left")
    alone = masks.join(boxes.select(on), on=on, how="anti", maintain_order="left").with_columns(
        __row=pl.lit(None, pl.UInt32), has_box=pl.lit(False)
    )
    found = found.with_columns(has_box=pl.lit(True))
    both = pl.concat([found, alone], how="diagonal")
    return both.sort("ImageID", "__row", nulls_last=True, maintain_order=True).drop("__row", *on[2:])
