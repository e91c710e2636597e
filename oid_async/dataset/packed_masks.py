"""Masks out of shards: a sample's JSON has them as run lengths; the picture is made of these again. Pure.

`formats.webdataset` writes them as COCO packs them (`formats.mask_shapes.packed_runs`), beside the label and the box in
pixels of their object. A sample does not name the MaskPath: the row of the table is found again by label and box.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from oid_async.store.mask_check import has_too_many_pixels

_SIDES = ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax")
# Boxes have five decimals of a pixel there.
_NEAR = 0.01
# What damaged samples raise.
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
# A run is no longer than a mask has pixels.
_MOST_BITS = 40


def packed_mask(sample: bytes, row: Mapping[str, Any]) -> bytes | None:
    """Return the PNG of the mask of a table's row, None if the sample has none. What is damaged counts as none."""
    try:
        sides = tuple(float(row[side]) for side in _SIDES)
        return packed_masks(sample, [(row["LabelName"], sides)])[0]
    except (ValueError, KeyError, TypeError):
        return None


def packed_masks(sample: bytes, masks: Sequence[tuple[str, Sequence[float]]]) -> list[bytes | None]:
    """Return the PNGs of the masks of one image: label and box (left, right, top, bottom, fractions) of each.

    None for a mask that the sample has not; what is damaged counts as none. Of masks with the same label and box each
    gets another one, in order.
    """
    found: list[bytes | None] = [None] * len(masks)
    with suppress(*_DAMAGE):
        content = json.loads(sample)
        objects, width, height = content["objects"], content["width"], content["height"]
        columns = (objects["label"], objects["bbox"], objects["segmentation"])
        left_over = [each for each in zip(*columns, strict=True) if each[2] is not None]
        for place, (label, (left, right, top, bottom)) in enumerate(masks):
            box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            for each in left_over:
                if each[0] == label and all(abs(a - b) < _NEAR for a, b in zip(each[1], box, strict=True)):
                    left_over.remove(each)
                    with suppress(*_DAMAGE):
                        found[place] = _png(each[2]["counts"], *each[2]["size"])
                    break
    return found


def _png(counts: str, height: int, width: int) -> bytes:
    """Return a mask as a PNG of one bit a pixel. Raises ValueError for run lengths that are not of this size."""
    import numpy as np
    from PIL import Image

    runs = _runs(counts)
    if has_too_many_pixels(width, height) or min(runs, default=-1) < 0 or sum(runs) != width * height:
        raise ValueError("these are no run lengths of a mask of this size")
    # The first is outside, column by column.
    is_inside = np.arange(len(runs)) % 2 == 1
    pixels = np.repeat(is_inside, runs).reshape(width, height).T
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def _runs(counts: str) -> list[int]:
    """Return packed run lengths as numbers (pycocotools' maskApi.c, rleFrString).

    >>> _runs("52203"), _runs("")
    ([5, 2, 2, 2, 5], [])
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > _MOST_BITS:
            raise ValueError("a run of more pixels than a mask has")
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
