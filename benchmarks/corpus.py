"""Make a folder laid out like the published Open Images validation split.

Usage:
    python benchmarks/corpus.py [FOLDER] [--images N] [--size BYTES] [--bodies N] [--form FORM] [--seed S]

The folder can be served as it is: the first path component is the bucket, the rest the key.  The same arguments
always make the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import os
import random
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

CLASS_TABLE = "openimages/v7/oidv7-class-descriptions-boxable.csv"
BOX_TABLE = "openimages/v5/validation-annotations-bbox.csv"
IMAGE_TABLE = "openimages/2018_04/validation/validation-images-with-rotation.csv"
IMAGE_FOLDER = "open-images-dataset/validation"

BOX_HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
IMAGE_HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)
CLASSES = {
    "/m/0cmf2": "Airplane",
    "/m/0199g": "Bicycle",
    "/m/015p6": "Bird",
    "/m/0cgh4": "Building",
    "/m/0k4j": "Car",
    "/m/01yrx": "Cat",
    "/m/01mzpv": "Chair",
    "/m/09j2d": "Clothing",
    "/m/0bt9lr": "Dog",
    "/m/0c9ph5": "Flower",
    "/m/03jm5": "House",
    "/m/0dzct": "Human face",
    "/m/01c648": "Laptop",
    "/m/04yx4": "Man",
    "/m/01g317": "Person",
    "/m/05s2s": "Plant",
    "/m/04bcr3": "Table",
    "/m/07j7r": "Tree",
    "/m/083wq": "Wheel",
    "/m/03bt1vf": "Woman",
}
TITLE_WORDS = [
    "harbour,",
    "old",
    "market",
    "Zürich",
    "(2009)",
    '"after rain"',
    "with",
    "friends",
    "panorama",
    "no.",
    "7",
]

Form = Literal["usual", "long-header", "early-end", "no-scan", "endless-header"]
"""What a program that checks images has to read of one.

`long-header`: 3,900 empty segments before the frame, which decoders skip.  `early-end`: the end marker right behind the
picture and before the padding, which decoders ignore.  The other two are not to be saved: `no-scan` has no picture,
`endless-header` 5,000 empty segments before the frame, more than a program that is careful follows.
"""
REFUSED_FORMS: tuple[Form, ...] = ("no-scan", "endless-header")
SEGMENTS_BEFORE_FRAME: dict[Form, int] = {"long-header": 3_900, "endless-header": 5_000}


@dataclass(frozen=True)
class Corpus:
    """A made folder: where it is, and the size of each image by its id, in the order of the ids."""

    root: Path
    sizes: dict[str, int]

    @property
    def image_bytes(self) -> int:
        return sum(self.sizes.values())

    def first(self, images: int) -> Corpus:
        """The same folder, of its images only the first so many by id."""
        return Corpus(self.root, dict(islice(self.sizes.items(), images)))

    def of_class(self, name: str) -> Corpus:
        """The same folder, of its images only those that have a box of the class."""
        label = next(label for label, class_name in CLASSES.items() if class_name == name)
        with (self.root / BOX_TABLE).open(encoding="utf-8", newline="") as rows:
            having = {row["ImageID"] for row in csv.DictReader(rows) if row["LabelName"] == label}
        return Corpus(self.root, {image_id: size for image_id, size in self.sizes.items() if image_id in having})

    def image(self, image_id: str) -> Path:
        return self.root / IMAGE_FOLDER / f"{image_id}.jpg"

    def image_urls(self, mirror: str) -> Iterator[str]:
        return (f"{mirror}/{IMAGE_FOLDER}/{image_id}.jpg" for image_id in self.sizes)


def segment(marker: int, payload: bytes) -> bytes:
    """One JPEG marker segment with its length field."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg_head() -> bytes:
    """A complete 8x8 grey JPEG up to its end marker.

    Both Huffman tables hold one code, the bit 0 (no difference / end of block), so the picture is the two bits
    00 filled up with ones.  Decoders have the whole picture at this point and skip what follows before EOI.
    """
    one_code = bytes([1]) + bytes(15) + b"\0"
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0" + struct.pack(">HBHHBB", 0x0101, 0, 1, 1, 0, 0)),
            segment(0xDB, b"\0" + b"\x01" * 64),
            segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 1) + b"\x01\x11\0"),
            segment(0xC4, b"\x00" + one_code),
            segment(0xC4, b"\x10" + one_code),
            segment(0xDA, b"\x01\x01\0\0\x3f\0"),
            b"\x3f",
        ]
    )


def jpeg(image_id: str, size: int, rng: random.Random, form: Form = "usual") -> bytes:
    """A JPEG of exactly `size` bytes; the id inside keeps all bodies different whatever the random bytes are."""
    head = jpeg_head()
    if form == "no-scan":
        head = head[: head.index(b"\xff\xda")]
    head = head[:2] + segment(0xFE, b"") * SEGMENTS_BEFORE_FRAME.get(form, 0) + head[2:]
    is_early = form in ("early-end", "no-scan")
    start = head + (b"\xff\xd9" if is_early else b"") + image_id.encode()
    padding = size - len(start) - 2
    if padding < 0:
        raise ValueError(f"an image needs at least {len(start) + 2} bytes, not {size}")
    end = b"\x7f\x7f" if form == "early-end" else b"\xff\xd9"
    return start + rng.randbytes(padding).replace(b"\xff", b"\x7f") + end


def csv_line(fields: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(fields)
    return out.getvalue()


def image_row(image_id: str, rng: random.Random) -> str:
    """One row of the image table, about 350 bytes like the published ones."""
    author = f"user{rng.randrange(10**5)}"
    photo = rng.randrange(10**9, 10**10)
    place = f"https://c{rng.randrange(1, 8)}.staticflickr.com/{rng.randrange(1, 9)}/{rng.randrange(1000, 9999)}/{photo}"
    return csv_line(
        [
            image_id,
            "validation",
            f"{place}_{rng.randbytes(5).hex()}_o.jpg",
            f"https://www.flickr.com/photos/{author}/{photo}",
            "https://creativecommons.org/licenses/by/2.0/",
            f"https://www.flickr.com/people/{author}/",
            author,
            " ".join(rng.choices(TITLE_WORDS, k=rng.randrange(2, 7))),
            str(rng.randrange(100_000, 9_000_000)),
            base64.b64encode(rng.randbytes(16)).decode(),
            f"{place}_{rng.randbytes(5).hex()}_z.jpg",
            rng.choice(["0.0", "0.0", "0.0", "90.0", ""]),
        ]
    )


def box_rows(image_id: str, rng: random.Random) -> str:
    """One to seven rows of the box table."""
    rows = []
    for label in rng.choices(list(CLASSES), k=rng.randrange(1, 8)):
        left, right = sorted((rng.random(), rng.random()))
        top, bottom = sorted((rng.random(), rng.random()))
        flags = ",".join(rng.choices("01", (4, 1), k=5))
        rows.append(f"{image_id},xclick,{label},1,{left:.8f},{right:.8f},{top:.8f},{bottom:.8f},{flags}\n")
    return "".join(rows)


def write_tables(root: Path, image_ids: list[str], rng: random.Random) -> None:
    for table in (CLASS_TABLE, BOX_TABLE, IMAGE_TABLE):
        (root / table).parent.mkdir(parents=True, exist_ok=True)
    classes = [("LabelName", "DisplayName"), *CLASSES.items()]
    (root / CLASS_TABLE).write_bytes("".join(f"{label},{name}\r\n" for label, name in classes).encode())
    with (root / BOX_TABLE).open("w", encoding="utf-8", newline="") as boxes:
        boxes.write(BOX_HEADER + "\n")
        boxes.writelines(box_rows(image_id, rng) for image_id in image_ids)
    with (root / IMAGE_TABLE).open("w", encoding="utf-8", newline="") as images:
        images.write(IMAGE_HEADER + "\n")
        images.writelines(image_row(image_id, rng) for image_id in image_ids)


def make_corpus(
    root: Path, images: int, size: int, seed: int = 1, *, bodies: int | None = None, form: Form = "usual"
) -> Corpus:
    """Write tables and images under `root`; every image has a box, sizes vary by a tenth around `size`.

    With `bodies` there are only so many different files, each under many names as a hard link: a folder of many images
    that takes little room, and that stays in memory while it is served.
    """
    rng = random.Random(seed)
    sizes: dict[str, int] = {}
    while len(sizes) < images:
        sizes[rng.randbytes(8).hex()] = rng.randint(size - size // 10, size + size // 10)
    sizes = dict(sorted(sizes.items()))
    written = list(sizes)[:bodies]
    first_name = {image_id: written[place % len(written)] for place, image_id in enumerate(sizes)}
    sizes = {image_id: sizes[first_name[image_id]] for image_id in sizes}
    write_tables(root, list(sizes), rng)
    corpus = Corpus(root, sizes)
    (root / IMAGE_FOLDER).mkdir(parents=True)
    for image_id, first in first_name.items():
        if image_id == first:
            corpus.image(image_id).write_bytes(jpeg(image_id, sizes[image_id], rng, form))
        else:
            corpus.image(image_id).hardlink_to(corpus.image(first))
    return corpus


def open_corpus(root: Path) -> Corpus:
    """A folder that was made before."""
    with os.scandir(root / IMAGE_FOLDER) as entries:
        sizes = {entry.name.removesuffix(".jpg"): entry.stat().st_size for entry in entries}
    return Corpus(root, dict(sorted(sizes.items())))


def roomy_folder(need_bytes: int) -> Path:
    """The RAM disk if there is one with room to spare, else the usual place for temporary files."""
    ram = Path("/dev/shm")
    if ram.is_dir() and shutil.disk_usage(ram).free > need_bytes * 1.2:
        return ram
    return Path(tempfile.gettempdir())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a folder laid out like the Open Images validation split.")
    parser.add_argument("folder", nargs="?", type=Path, help="default: a new folder, on the RAM disk if there is one")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=300_000, help="bytes per image, within a tenth")
    parser.add_argument("--bodies", type=int, help="only so many different files, each under many names")
    parser.add_argument("--form", choices=get_args(Form), default="usual", help="how the images are to be read")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="corpus-", dir=roomy_folder(args.images * args.size)))
    corpus = make_corpus(folder, args.images, args.size, args.seed, bodies=args.bodies, form=args.form)
    seconds = time.perf_counter() - start
    print(f"{folder}: {len(corpus.sizes)} images, {corpus.image_bytes / 1e6:.0f} MB, made in {seconds:.1f} s")


if __name__ == "__main__":
    main()
