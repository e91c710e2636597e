"""A saved folder of real pictures under real boxes, where ../shared/real is there."""

from pathlib import Path

import pytest
from PIL import Image

from support.published import read_csv
from support.saved import SavedBox, SavedFolder, SavedImage

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there: no real pictures to export")


def real_folder(path: Path) -> Path:
    """Write a folder with every real JPEG, each with some of the real rows of boxes."""
    rows = read_csv(REAL / "bbox" / "sysaster-train-annotations-bbox.csv")
    pictures = sorted((REAL / "images").glob("*.jpg"))
    images, boxes = [], []
    for picture, start in zip(pictures, range(0, len(rows), len(rows) // len(pictures)), strict=False):
        with Image.open(picture) as image:
            images.append(SavedImage(picture.stem, *image.size, picture=picture.read_bytes(), name=picture.name))
        for row in rows[start : start + 40]:
            sides = (row["XMin"], row["XMax"], row["YMin"], row["YMax"])
            flags = (row["IsOccluded"], row["IsTruncated"], row["IsGroupOf"], row["IsDepiction"], row["IsInside"])
            boxes.append(SavedBox(picture.stem, "/m/01g317", sides, flags))
    return SavedFolder(images, boxes).write(path)
