"""Make the large tables beside those of tables.py: image-level labels by people, every class, and every image.

Usage:
    python benchmarks/wide_tables.py FOLDER [--images N] [--seed S] [--only labels|images]

FOLDER holds what tables.py made, with the same --images and --seed. Added are, in their published size, layout and
order:

- the train split's human labels (59.7 million rows, 2.7 GB): each class that has a box in an image has a label of
  Confidence 1 there; others were verified to be absent (0); and images without boxes have labels, too
- the table of all 20,931 classes
- the table of all 9.2 million images (3.3 GB), of which 1.7 million are those with boxes
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from tables import (
    CHUNK_ROWS,
    MID_CHARACTERS,
    PUBLISHED_IMAGES,
    Tables,
    below,
    bits,
    hex_digits,
    image_chunks,
    look_up,
    make_classes,
    mixed,
    number_images,
    write_chunks,
)

LABEL_TABLE = "openimages/v7/oidv7-train-annotations-human-imagelabels.csv"
CLASS_TABLE = "openimages/v7/oidv7-class-descriptions.csv"
IMAGE_TABLE = "openimages/2018_04/image_ids_and_rotation.csv"
PUBLISHED_CLASSES = 20_931
PUBLISHED_ROWS = 9_178_275
# Images of train that people gave labels, boxes or not; and the labels, besides those of boxes, each of these has.
LABELLED_SHARE = 7_300_000 / PUBLISHED_ROWS
MOST_LABELS = 13
SOURCES = ["verification", "verification", "crowdsource-verification"]


def every_class(seed: int) -> dict[str, str]:
    """MID -> name of every class, those with boxes first."""
    rng = random.Random(f"{seed} all classes")
    names = {mid: name for mid, (name, _) in make_classes(seed).items()}
    while len(names) < PUBLISHED_CLASSES:
        names.setdefault("/m/0" + "".join(rng.choices(MID_CHARACTERS, k=6)), f"Thing {len(names):05d}")
    return names


def other_images(images: int, seed: int) -> pl.DataFrame:
    """The images without boxes by ascending id, `ImageID` and `listed`, as `number_images` has those with boxes."""
    count = round(PUBLISHED_ROWS * images / PUBLISHED_IMAGES) - images
    numbers = pl.select(number=pl.int_range(count, dtype=pl.UInt64))
    ids = numbers.select(id=mixed(pl.col("number"), seed, "ids without boxes")).sort("id")
    return ids.select(ImageID=hex_digits("id", [3, 2, 1, 0]), listed=pl.lit(True))


def label_chunks(boxes: Path, images: pl.DataFrame, seed: int) -> Iterator[pl.DataFrame]:
    """The label table, image by image in ascending order of id."""
    boxable = pl.Series(list(make_classes(seed)))
    every = pl.Series(list(every_class(seed)))
    drawn = pl.read_csv(boxes, columns=["ImageID", "LabelName"]).unique(maintain_order=False)
    drawn = drawn.sort("ImageID", "LabelName")
    numbered = images.sort("ImageID").with_row_index("image")
    for chunk in numbered.iter_slices(CHUNK_ROWS // 2):
        first, last = chunk.item(0, "ImageID"), chunk.item(-1, "ImageID")
        ids = drawn.get_column("ImageID")
        present = drawn.slice(*_between(ids, first, last)).with_columns(Confidence=pl.lit(1, pl.Int8))
        frame = chunk.with_columns(a=mixed(pl.col("image"), seed, "labels of image"))
        frame = frame.filter(pl.col("has_boxes") | (bits("a", 0) < round(65536 * LABELLED_SHARE)))
        frame = frame.select("ImageID", "image", at=pl.int_ranges(1 + below(bits("a", 1), MOST_LABELS))).explode("at")
        place = pl.col("image").cast(pl.UInt64) * pl.lit(64, pl.UInt64) + pl.col("at").cast(pl.UInt64)
        frame = frame.with_columns(b=mixed(place, seed, "label"))
        # Half of what was asked of people were classes with boxes, the frequent ones more often.
        common = below(below(bits("b", 0), 65536) * bits("b", 1) // 65536, len(boxable))
        rare = look_up(every, below(bits("b", 0), len(every)))
        label = pl.when(bits("b", 2) < 1 << 15).then(look_up(boxable, common)).otherwise(rare)
        others = frame.select("ImageID", LabelName=label, Confidence=(bits("b", 3) < 26_000).cast(pl.Int8))
        # A class with a box is there, whatever the draw says.
        rows = pl.concat([present, others]).unique(["ImageID", "LabelName"], keep="first", maintain_order=True)
        rows = rows.sort("ImageID", maintain_order=True).with_row_index("row")
        source = look_up(pl.Series(SOURCES), pl.col("row") % len(SOURCES))
        yield rows.select("ImageID", source.alias("Source"), "LabelName", "Confidence")


def _between(ids: pl.Series, first: str, last: str) -> tuple[int, int]:
    """Return start and length of the rows of sorted ids from one to another, both included."""
    start = int(ids.search_sorted(first, "left"))
    return start, int(ids.search_sorted(last, "right")) - start


def make_wide_tables(tables: Tables, images: int, seed: int, only: str | None) -> list[Path]:
    """Write the tables beside those of `make_tables` and return their paths."""
    labels, classes, every_image = (tables.root / key for key in (LABEL_TABLE, CLASS_TABLE, IMAGE_TABLE))
    for file in (labels, classes, every_image):
        file.parent.mkdir(parents=True, exist_ok=True)
    boxed = number_images(images, seed).select("ImageID", "listed", has_boxes=True)
    everything = pl.concat([boxed, other_images(images, seed).with_columns(has_boxes=False)])
    lines = [f"{mid},{name}" for mid, name in every_class(seed).items()]
    classes.write_bytes("".join(f"{line}\r\n" for line in ("LabelName,DisplayName", *lines)).encode())
    if only != "images":
        write_chunks(labels, label_chunks(tables.boxes, everything, seed))
    if only != "labels":
        write_chunks(every_image, image_chunks(everything, seed))
    return [file for file in (labels, classes, every_image) if file.is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the train split's labels and the table of all images.")
    parser.add_argument("folder", type=Path, help="where tables.py has made its tables")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="as given to tables.py")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("labels", "images"), help="only this one of the two large tables")
    args = parser.parse_args()
    tables = Tables(args.folder)
    if not tables.complete:
        parser.error(f"{args.folder} has no tables; make them with tables.py")
    start = time.perf_counter()
    for file in make_wide_tables(tables, args.images, args.seed, args.only):
        print(f"{file.stat().st_size:13,} bytes  {file}")
    print(f"made in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
