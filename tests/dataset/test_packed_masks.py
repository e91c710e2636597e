"""Masks out of shards: the same pixels as the published mask."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from oid_async.dataset.packed_masks import packed_mask

ROW = {"LabelName": "/m/0bt9lr", "BoxXMin": 0.25, "BoxXMax": 0.5, "BoxYMin": 0.125, "BoxYMax": 0.75}
BOX = [16.0, 6.0, 16.0, 30.0]


def sample(pixels: Any, **objects: Any) -> bytes:
    """Return a sample of two objects: the first has the label of ROW and no mask."""
    packed = coco.encode(np.asfortranarray(pixels, np.uint8))
    segmentation = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    known = {"label": [ROW["LabelName"]] * 2, "bbox": [BOX, BOX], "segmentation": [None, segmentation]}
    return json.dumps({"width": 64, "height": 48, "objects": known | objects}).encode()


@pytest.mark.parametrize("seed", range(6))
def test_a_packed_mask_has_the_pixels_of_the_mask(seed: int) -> None:
    """Sparse, dense, empty and full ones."""
    chances = np.random.default_rng(seed).random((48, 64))
    pixels = chances < (0.0, 0.01, 0.2, 0.5, 0.95, 1.1)[seed]
    found = packed_mask(sample(pixels), ROW)
    assert found is not None
    with Image.open(io.BytesIO(found)) as image:
        assert (image.size, image.format) == ((64, 48), "PNG")
        assert (np.asarray(image) == pixels).all()


def test_a_mask_of_another_object_is_not_taken() -> None:
    """Label and box are those of the row."""
    body = sample(np.ones((48, 64)))
    assert packed_mask(body, ROW | {"LabelName": "/m/01g317"}) is None
    assert packed_mask(body, ROW | {"BoxXMin": 0.26}) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        sample(np.ones((48, 64)), segmentation=[None, {"size": [48, 65], "counts": "0"}]),
        sample(np.ones((48, 64)), segmentation=[None, {"size": [10**6, 10**6], "counts": "0"}]),
        sample(np.ones((48, 64)), segmentation=[None, {"size": [48, 64], "counts": "\u00e9"}]),
        sample(np.ones((48, 64)), segmentation=[None, {"size": [48, 64], "counts": 7}]),
        sample(np.ones((48, 64)), segmentation=[None, {"size": [48, 64], "counts": "o" * 10_000}]),
        sample(np.ones((48, 64)), bbox=[BOX, [None] * 4]),
        sample(np.ones((48, 64)), label=None),
    ],
    ids=range(12),
)
def test_what_is_damaged_is_no_mask(body: bytes) -> None:
    """Other texts, sizes that are not those of the runs, too many pixels."""
    assert packed_mask(body, ROW) is None
