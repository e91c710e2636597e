"""An image and its rows as what detectors of PyTorch take: a tensor of pixels, and a target in torchvision's form.

    image       uint8 [3, H, W], RGB, as it is stored: never rotated, never made smaller
    target      boxes     float32 [N, 4], left, top, right, bottom in pixels of the image, clipped to it
                labels    int64 [N], from 1: 0 is the background
                iscrowd   uint8 [N], 1 for a box around a group (IsGroupOf)
                image_id  str
                masks     uint8 [N, H, W], 1 inside; only where masks were saved

`N` may be 0: then the tensors have no rows. A box of no area stays; torchvision's own detectors refuse one. The form is
theirs: https://docs.pytorch.org/vision/stable/models.html, object detection (checked 2026-11). Nothing here uses
Polars, or a thread of PyTorch: workers of a DataLoader are often forked.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from oid_async.dataset.decoding import open_jpeg, open_png
from oid_async.errors import InputError
from oid_async.formats.mask_shapes import INSIDE

Target = dict[str, Any]

SIDES = ("XMin", "XMax", "YMin", "YMax")
# No JPEG has a side of more pixels: asked for at least this size, it is decoded as it is.
_FULL_SIZE = (65_535, 65_535)
# A published side may be so far outside of its image (fractions); as for exports, what is further out is no box.
_MARGIN = 0.01 + 1e-9


def decoded(body: bytes, name: str, advice: str = "") -> torch.Tensor:
    """Return the pixels of a JPEG, uint8 [3, H, W], RGB whatever its colours are.

    Raises InputError, with `name` and `advice`, for what Pillow does not decode, or not within 100 megapixels.
    """
    try:
        with open_jpeg(body, _FULL_SIZE) as image:
            pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise any kind of exception in Pillow
        why = str(error).split("\n", 1)[0] or type(error).__name__
        raise InputError(f"{name}: it cannot be decoded ({why}){advice}") from error
    # Not by PyTorch, whose threads a forked child has not.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return torch.from_numpy(planes if planes.flags.writeable else planes.copy())


def size_of(image: torch.Tensor) -> tuple[int, int]:
    """Return width and height of an image in pixels."""
    return int(image.shape[2]), int(image.shape[1])


def have_place(sides: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return which boxes have a place in their image, bool [N]; `sides` are XMin, XMax, YMin, YMax, fractions, [N, 4].

    A box turned round, with a side that is no number or more than 0.01 outside, or with no part inside has none.
    """
    low, high = sides[:, 0::2], sides[:, 1::2]
    is_inside = (low >= -_MARGIN) & (high <= 1 + _MARGIN) & (low <= 1) & (high >= 0)
    is_outside = ((low == 1) & (high > 1)) | ((high == 0) & (low < 0))
    placed: np.ndarray[Any, Any] = (is_inside & ~is_outside & (high >= low)).all(axis=1)
    return placed


def make_target(
    image_id: str,
    size: tuple[int, int],
    sides: np.ndarray[Any, Any],
    labels: Any,
    iscrowd: Any,
    masks: np.ndarray[Any, Any] | None = None,
) -> Target:
    """Return the target of an image of this width and height, of columns with a row a box.

    `sides` are XMin, XMax, YMin, YMax as fractions, float64 [N, 4], `labels` and `iscrowd` what arrays are made of,
    `masks` uint8 [N, H, W].
    """
    width, height = size
    left, right, top, bottom = np.clip(np.asarray(sides, np.float64).reshape(-1, 4), 0, 1).T
    boxes = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(np.array(labels, np.int64)),
        "iscrowd": torch.from_numpy(np.array(iscrowd, np.uint8)),
        "image_id": image_id,
    }
    return target if masks is None else target | {"masks": torch.from_numpy(masks)}


def mask_pixels(png: bytes, name: str, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return a mask in the width and height of its image, bool [H, W], true inside. Raises InputError for no mask."""
    try:
        with open_png(io.BytesIO(png)) as mask:
            picture = mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST)
            return np.asarray(picture.convert("L")) > INSIDE
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise any kind of exception in Pillow
        raise InputError(f"{name}: no mask ({error}); remove it and run the download again") from error


def target_of_rows(
    image_id: str, size: tuple[int, int], rows: Sequence[Mapping[str, Any]], labels: Mapping[str, int]
) -> Target:
    """Return the target of an image of this width and height, of its rows of boxes as `Outcome.boxes` has them.

    `labels` are numbers from 1 by MID; rows of other classes, and boxes without a place in the image, are left out.
    """
    known = [row for row in rows if row["LabelName"] in labels]
    sides = np.array([[_number(row[side]) for side in SIDES] for row in known], np.float64).reshape(-1, 4)
    kept = have_place(sides)
    numbers = np.array([labels[row["LabelName"]] for row in known], np.int64)
    groups = np.array([row.get("IsGroupOf") == 1 for row in known], np.uint8)
    return make_target(image_id, size, sides[kept], numbers[kept], groups[kept])


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
