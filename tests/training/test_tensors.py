"""An image and its rows become tensors: pixels, boxes, labels, in the dtypes that detectors take."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.published import tiny_jpeg

from oid_async.errors import InputError
from oid_async.torch.targets import decoded, size_of, target_of_rows

pytestmark = pytest.mark.torch

LABELS = {"/m/1": 1, "/m/2": 2}


def row(label: str = "/m/1", sides: tuple[Any, ...] = (0.25, 0.5, 0.0, 1.0), group: int = 0) -> dict[str, Any]:
    """Return a row of the boxes table; `sides` are XMin, XMax, YMin, YMax."""
    return {
        "LabelName": label,
        **dict(zip(("XMin", "XMax", "YMin", "YMax"), sides, strict=True)),
        "IsGroupOf": group,
    }


def test_a_target_has_torchvisions_names_and_dtypes() -> None:
    """Boxes are left, top, right, bottom in pixels; every tensor has its dtype and a row a box."""
    rows = [row(), row("/m/2", (0.0, 1.0, 0.5, 0.75), group=1), row(group=-1)]
    target = target_of_rows("0123456789abcdef", (200, 100), rows, LABELS)
    assert target["boxes"].tolist() == [[50, 0, 100, 100], [0, 50, 200, 75], [50, 0, 100, 100]]
    assert (target["boxes"].dtype, target["boxes"].shape) == (torch.float32, (3, 4))
    assert target["labels"].tolist() == [1, 2, 1]
    assert target["labels"].dtype == torch.int64
    assert target["iscrowd"].tolist() == [0, 1, 0]
    assert target["iscrowd"].dtype == torch.uint8
    assert target["image_id"] == "0123456789abcdef"
    assert "masks" not in target


def test_an_image_without_boxes_has_tensors_without_rows() -> None:
    """Nothing in an image is no error, and each tensor keeps dtype and shape."""
    target = target_of_rows("a", (200, 100), [], LABELS)
    assert (target["boxes"].dtype, target["boxes"].shape) == (torch.float32, (0, 4))
    assert (target["labels"].dtype, target["labels"].shape) == (torch.int64, (0,))
    assert (target["iscrowd"].dtype, target["iscrowd"].shape) == (torch.uint8, (0,))


def test_boxes_are_clipped_to_their_image() -> None:
    """Up to 0.01 outside a box is clipped, without area it stays; turned, far outside, without numbers it goes."""
    extreme = [
        row(sides=(-0.009, 1.01, 0.0, 1.0)),
        row(sides=(0.5, 0.5, 0.25, 0.25)),
        row(sides=(1.0, 1.0, 0.0, 1.0)),
        row(sides=(0.6, 0.4, 0.0, 1.0)),
        row(sides=(0.0, 1.2, 0.0, 1.0)),
        row(sides=(None, 1.0, 0.0, 1.0)),
        row(sides=(1.0, 1.005, 0.0, 1.0)),
        row("/m/unknown"),
    ]
    target = target_of_rows("a", (200, 100), extreme, LABELS)
    assert target["boxes"].tolist() == [[0, 0, 200, 100], [100, 25, 100, 25], [200, 0, 200, 100]]
    assert target["labels"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_an_image_is_rgb_whatever_its_colours_are(mode: str) -> None:
    """Grey and CMYK come out as three planes of the stored size, as Pillow converts them."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert(mode).save(out, "JPEG")
    image = decoded(out.getvalue(), "a.jpg")
    assert (image.dtype, tuple(image.shape), size_of(image)) == (torch.uint8, (3, 30, 40), (40, 30))
    assert image.is_contiguous()
    wanted = np.asarray(Image.open(io.BytesIO(out.getvalue())).convert("RGB"))
    assert (image.permute(1, 2, 0).numpy() == wanted).all()


@pytest.mark.parametrize("body", [b"", b"no picture", tiny_jpeg("a", 40, 30)[:-40]])
def test_a_broken_image_is_named(body: bytes) -> None:
    """What Pillow does not decode raises InputError with the name of the image, and what to do."""
    with pytest.raises(InputError, match=r"^images/a\.jpg: it cannot be decoded \(.+\); fetch it again$"):
        decoded(body, "images/a.jpg", "; fetch it again")
