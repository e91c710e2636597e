"""Make a folder as a finished download leaves it: small pictures, eight boxes each, masks on every third.

Usage:
    python benchmarks/saved_folder.py FOLDER [--images N]

The pictures are real ones of 512 x 384 pixels, of some 15 KB, all of different bytes: a few dozen are drawn, and each
image gets one of them with its id as a comment.  A mask is a blob in the size of its image.  The same arguments always
make the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
from base64 import b64encode
from pathlib import Path

import polars as pl
from corpus import CLASSES
from PIL import Image, ImageDraw, ImageFilter

from oid_async.openimages.catalogue_tables import BOX_COLUMNS, MASK_COLUMNS
from oid_async.origin.lookalike import with_comment
from oid_async.store.annotation_table import IMAGE_FIELDS
from oid_async.store.results import MANIFEST_SCHEMA

WIDTH, HEIGHT = 512, 384
_PICTURES, _BLOBS = 64, 64
_BOXES = 8
# Every third image has masks, of its first box or two.
_MASKED = 3
_SPLITS = ("train", "train", "train", "train", "validation", "test")


def drawn(rng: random.Random) -> bytes:
    """Return a picture: a blurred patchwork with some noise, as JPEG."""
    image = Image.new("RGB", (WIDTH, HEIGHT), tuple(rng.randbytes(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.randrange(WIDTH), rng.randrange(HEIGHT)
        pen.ellipse((x, y, x + rng.randrange(10, 150), y + rng.randrange(10, 150)), fill=tuple(rng.randbytes(3)))
    noise = Image.frombytes("RGB", (WIDTH, HEIGHT), rng.randbytes(WIDTH * HEIGHT * 3))
    image = Image.blend(image.filter(ImageFilter.GaussianBlur(2)), noise, 0.04)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def blob(rng: random.Random) -> tuple[bytes, tuple[float, float, float, float]]:
    """Return a mask as PNG, and its box: XMin, XMax, YMin, YMax as fractions."""
    x, y = rng.randrange(WIDTH - 160), rng.randrange(HEIGHT - 160)
    image = Image.new("1", (WIDTH, HEIGHT), 0)
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        left, top = x + rng.randrange(60), y + rng.randrange(60)
        pen.ellipse((left, top, left + rng.randrange(40, 99), top + rng.randrange(40, 99)), fill=1)
    left, top, right, bottom = image.getbbox() or (0, 0, 1, 1)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), (left / WIDTH, right / WIDTH, top / HEIGHT, bottom / HEIGHT)


def make_folder(root: Path, images: int, seed: int = 1) -> Path:
    """Write images, masks and tables below `root`."""
    rng = random.Random(seed)
    pictures, blobs = [drawn(rng) for _ in range(_PICTURES)], [blob(rng) for _ in range(_BLOBS)]
    ids = sorted({rng.randbytes(8).hex() for _ in range(images)})
    for folder in ("images", "bbox", "segmentation/masks"):
        (root / folder).mkdir(parents=True)
    manifest, boxes, masks = [], [], []
    for place, image_id in enumerate(ids):
        name = f"{int(image_id[:8], 16)}_{place}_o.jpg"
        body = with_comment(pictures[place % _PICTURES], image_id)
        (root / "images" / name).write_bytes(body)
        manifest.append(_manifest_row(image_id, name, body, place, rng))
        about = (name, manifest[-1]["OriginalURL"], WIDTH, HEIGHT)
        shapes = [rng.choice(blobs) for _ in range(1 + place % 2)] if not place % _MASKED else []
        for number in range(_BOXES):
            label = rng.choice(list(CLASSES))
            sides = _sides(shapes[number][1] if number < len(shapes) else _box(rng))
            flags = rng.choices("01", (4, 1), k=5)
            boxes.append((image_id, "xclick", label, "1", *sides, *flags, CLASSES[label], *about))
            if number < len(shapes):
                mask = f"{image_id}_{label[1:].replace('/', '')}_{number:08x}.png"
                (root / "segmentation" / "masks" / mask).write_bytes(shapes[number][0])
                row = (mask, image_id, label, f"{number:08x}", *sides, "0.9", "")
                masks.append((*row, CLASSES[label], *about))
    pl.DataFrame(manifest, schema=MANIFEST_SCHEMA).write_parquet(root / "manifest.parquet")
    _table(root / "bbox" / "bbox.csv", (*BOX_COLUMNS, "Category", *IMAGE_FIELDS), boxes)
    _table(root / "bbox" / "label_data.csv", ("LabelName", "Category"), list(CLASSES.items()))
    _table(root / "segmentation" / "segmentation.csv", (*MASK_COLUMNS, "Category", *IMAGE_FIELDS), masks)
    columns = ("ImageID", "FileName", "Author", "AuthorProfileURL", "License", "Title", "OriginalLandingURL")
    _table(root / "ATTRIBUTION.csv", columns, [tuple(row[name] for name in columns) for row in manifest])
    return root


def _manifest_row(image_id: str, name: str, body: bytes, place: int, rng: random.Random) -> dict[str, object]:
    author = f"user{rng.randrange(10**5)}"
    known = {
        "ImageID": image_id,
        "Subset": _SPLITS[place % len(_SPLITS)],
        "FileName": name,
        "Status": "ok",
        "Source": "cvdf",
        "URL": f"https://open-images-dataset.s3.amazonaws.com/train/{image_id}.jpg",
        "Bytes": len(body),
        "MD5": b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        "Width": WIDTH,
        "Height": HEIGHT,
        "Rotation": 0.0,
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "Author": author,
        "AuthorProfileURL": f"https://www.flickr.com/people/{author}/",
        "Title": f"harbour, old market ({place})",
        "OriginalURL": f"https://farm1.staticflickr.com/{place % 9000}/{name}",
        "OriginalLandingURL": f"https://www.flickr.com/photos/{author}/{place}",
    }
    return {column: known.get(column) for column in MANIFEST_SCHEMA}


def _box(rng: random.Random) -> tuple[float, float, float, float]:
    left, right = sorted((rng.random(), rng.random()))
    top, bottom = sorted((rng.random(), rng.random()))
    return left, right, top, bottom


def _sides(sides: tuple[float, float, float, float]) -> list[str]:
    return [f"{side:.6f}" for side in sides]


def _table(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    pl.DataFrame(rows, schema=list(columns), orient="row").write_csv(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a folder as a finished download leaves it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    args = parser.parse_args()
    make_folder(args.folder, args.images)


if __name__ == "__main__":
    main()
