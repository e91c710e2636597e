"""Make the tables of the Open Images train split in their published size and layout, filled with made-up rows.

Usage:
    python benchmarks/tables.py FOLDER [--images N] [--seed S]

The folder can be used as a mirror as it is: the first path component is the bucket, the rest the key.  The same
arguments always make the same bytes.  With --images everything but the 601 classes shrinks along.

Counts, columns, order of rows and bytes are those of the published tables.  The boxes of an image come in runs of one
class, so that an image has two to three classes and not as many as boxes; the frequent classes have their published
number of boxes, the others fall off from 740,000 to about forty.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

CLASS_TABLE = "openimages/v7/oidv7-class-descriptions-boxable.csv"
BOX_TABLE = "openimages/v6/oidv6-train-annotations-bbox.csv"
IMAGE_TABLE = "openimages/2018_04/train/train-images-boxable-with-rotation.csv"
HIERARCHY = "openimages/2018_04/bbox_labels_600_hierarchy.json"

PUBLISHED_IMAGES = 1_743_042
PUBLISHED_BOXES = 14_610_229
MIN_IMAGES = 100
CHUNK_ROWS = 500_000

CLASS_COUNT = 601
ENTITY = "/m/0bl9f"
BALL, FOOTBALL, PERSON = "/m/018xm", "/m/01226z", "/m/01g317"
PEOPLE = ("/m/04yx4", "/m/03bt1vf", "/m/01bl7v", "/m/05r655")
# The classes with their own MID and name, and how many boxes each of them has; the others are invented.
REAL_CLASSES = {
    "/m/09j2d": ("Clothing", 1_440_000),
    "/m/04yx4": ("Man", 1_420_000),
    "/m/07j7r": ("Tree", 1_050_000),
    "/m/0dzct": ("Human face", 1_040_000),
    PERSON: ("Person", 1_030_000),
    "/m/03bt1vf": ("Woman", 770_000),
    "/m/0k4j": ("Car", 250_000),
    "/m/05r655": ("Girl", 110_000),
    "/m/01bl7v": ("Boy", 60_000),
    FOOTBALL: ("Football", 6_000),
    BALL: ("Ball", 3_000),
    "/m/0jy4k": ("Donut", 2_000),
}
MID_CHARACTERS = "0123456789_bcdfghjklmnpqrstvwxyz"

# Sides of the pictures the boxes were drawn on, most of them turned both ways, and how often each occurs.
SHAPES = ((640, 480, 5), (640, 427, 5), (480, 640, 3), (427, 640, 3), (640, 360, 1), (640, 640, 1), (1024, 683, 6))
# The share of images, in 65536ths, whose coordinates have eight decimals; this many make the published file size.
LONG_SHARE = 15_200

FLAG_NAMES = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
FLAG_CHANCES = (0.66, 0.25, 0.06, 0.05, 0.002)
UNKNOWN_CHANCE = 0.004

GIVEN_NAMES = ["Michael", "Anna", "Jürgen", "María José", "Олег", "Chloë", "J.", "Dr. Susan", "Tom", "Paweł", "健一"]
FAMILY_NAMES = ["Beat", "Müller", "O'Brien", "de la Cruz", "Smith", "Иванов", "Ng", "Kowalski", "Åkesson", "田中"]
TITLE_WORDS = [
    "...die", "Kerze", "IMG", "harbour", "old", "market", "Zürich", "(2009)", "with", "friends", "no.", "7", "sunset",
    "at", "the", "beach", "São Paulo", "東京", "wedding", "DSC", "street", "-", "day", "birthday", "¿qué?", "night",
]  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """A made folder: where its files are."""

    root: Path

    @property
    def classes(self) -> Path:
        return self.root / CLASS_TABLE

    @property
    def boxes(self) -> Path:
        return self.root / BOX_TABLE

    @property
    def images(self) -> Path:
        return self.root / IMAGE_TABLE

    @property
    def hierarchy(self) -> Path:
        return self.root / HIERARCHY

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.boxes, self.images, self.classes, self.hierarchy)

    @property
    def complete(self) -> bool:
        return all(file.is_file() for file in self.files)


# --- numbers -------------------------------------------------------------------------------------------------


def u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)


def mixed(number: pl.Expr, seed: int, stream: str) -> pl.Expr:
    """64 pseudo-random bits for each number (splitmix64): different numbers give different bits.

    Not Polars' own hash(), which may change from one version to the next.
    """
    start = int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:8], "big")
    z = number.cast(pl.UInt64) * u64(0x9E3779B97F4A7C15) + u64(start)
    z = (z ^ (z // u64(1 << 30))) * u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z // u64(1 << 27))) * u64(0x94D049BB133111EB)
    return z ^ (z // u64(1 << 31))


def bits(column: str, place: int) -> pl.Expr:
    """One of the four 16-bit parts of a column of random bits."""
    return (pl.col(column) // u64(1 << (16 * place)) % u64(1 << 16)).cast(pl.UInt32)


def below(part: pl.Expr, limit: pl.Expr | int) -> pl.Expr:
    """Turn 16 random bits into a number from 0 to limit - 1, for limits up to 65536."""
    return part * limit // 65536


def look_up(values: pl.Series, index: pl.Expr) -> pl.Expr:
    return pl.lit(values).gather(index)


def picked(values: list[str], part: pl.Expr) -> pl.Expr:
    """One of a few values, equally often."""
    return look_up(pl.Series(values), below(part, len(values)))


def hex_digits(column: str, places: list[int]) -> pl.Expr:
    """Four hexadecimal digits for each of the given 16-bit parts, as text; a lookup is faster than formatting."""
    words = pl.Series([f"{word:04x}" for word in range(65536)])
    return pl.concat_str([look_up(words, bits(column, place)) for place in places])


# --- classes -------------------------------------------------------------------------------------------------


def make_classes(seed: int) -> dict[str, tuple[str, int]]:
    """MID -> (name, boxes): the real classes first, then the invented ones from frequent to rare."""
    rng = random.Random(seed)
    classes = dict(REAL_CLASSES)
    weights = [(rank + 18) ** -2.84 for rank in range(CLASS_COUNT - len(classes))]
    left = PUBLISHED_BOXES - sum(boxes for _, boxes in classes.values())
    share = left / math.fsum(weights)
    for number, weight in enumerate(weights, start=len(classes)):
        while (mid := "/m/0" + "".join(rng.choices(MID_CHARACTERS, k=rng.choice((4, 4, 5, 6))))) in classes:
            pass
        classes[mid] = (f"Class {number:04d}", max(1, round(weight * share)))
    return classes


def write_classes(tables: Tables, classes: dict[str, tuple[str, int]]) -> None:
    rows = sorted((name, mid) for mid, (name, _) in classes.items())
    lines = ["LabelName,DisplayName", *(f"{mid},{name}" for name, mid in rows)]
    tables.classes.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_hierarchy(tables: Tables, classes: dict[str, tuple[str, int]]) -> None:
    """Kinds of people below Person, Football below Ball, everything else flat."""
    below_another = {PERSON, BALL, FOOTBALL, *PEOPLE}
    tree = {
        "LabelName": ENTITY,
        "Subcategory": [
            {"LabelName": PERSON, "Subcategory": [{"LabelName": mid} for mid in PEOPLE]},
            {"LabelName": BALL, "Subcategory": [{"LabelName": FOOTBALL}]},
            *({"LabelName": mid} for mid in classes if mid not in below_another),
        ],
    }
    tables.hierarchy.write_text(json.dumps(tree) + "\n", encoding="utf-8")


# --- images --------------------------------------------------------------------------------------------------


def number_images(images: int, seed: int) -> pl.DataFrame:
    """Every image by ascending id: `ImageID`, `boxes` (how many), `listed` (whether it has an image row).

    A few images more than asked for have boxes and no image row, as happens in the published tables.
    """
    unlisted = min(50, images // 100)
    total = images + unlisted
    frame = (
        pl.select(number=pl.int_range(total, dtype=pl.UInt64))
        .select(mixed(pl.col("number"), seed, "ids"))
        .sort(pl.first())
    )
    frame = frame.select(pl.first().alias("id")).with_row_index("image")
    every = total // unlisted
    return frame.select(
        ImageID=hex_digits("id", [3, 2, 1, 0]),
        boxes=box_counts(total, round(PUBLISHED_BOXES * images / PUBLISHED_IMAGES), seed),
        listed=(pl.col("image") % every != every // 2) | (pl.col("image") >= every * unlisted),
    )


def box_counts(images: int, boxes: int, seed: int) -> pl.Series:
    """How many boxes each image has: at least one, the sum exactly as asked for."""
    scale = 1 / math.log1p(1 / (boxes / images - 1))
    uniform = (mixed(pl.col("image"), seed, "counts") // u64(1 << 11) + u64(1)).cast(pl.Float64) / 2**53
    frame = pl.select(image=pl.int_range(images, dtype=pl.UInt32))
    frame = frame.with_columns(boxes=1 + (-uniform.log() * scale).floor().cast(pl.Int64))
    # Chance leaves the sum a little off; that is spread evenly over images that can bear it.
    missing = boxes - int(frame["boxes"].sum())
    if missing:
        able = frame.filter(pl.col("boxes") > 1).select("image")
        chosen = able.gather_every(able.height // abs(missing)).head(abs(missing))["image"]
        change = pl.when(pl.col("image").is_in(chosen.implode())).then(1 if missing > 0 else -1).otherwise(0)
        frame = frame.with_columns(boxes=pl.col("boxes") + change)
    return frame["boxes"]


def make_authors(seed: int, count: int = 50_000) -> pl.DataFrame:
    """Flickr's users: `slug` in addresses and `author`, some names quoted or with a comma."""
    rng = random.Random(seed)
    slugs, names = [], []
    for number in range(count):
        given, family = rng.choice(GIVEN_NAMES), rng.choice(FAMILY_NAMES)
        styles = (
            f"{given} {family}",
            f"{family}, {given}",
            f'{given} "{family}" {number}',
            f"{family.lower()}{number}",
        )
        names.append(rng.choices(styles, (70, 6, 3, 21))[0])
        slugs.append(rng.choice((f"{rng.randrange(10**7, 10**8)}@N0{rng.randrange(10)}", f"user-{number:05d}")))
    return pl.DataFrame({"slug": slugs, "author": names})


def make_titles(seed: int, count: int = 30_000) -> pl.DataFrame:
    """Beginnings and ends of titles; put together they rarely repeat."""
    rng = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(TITLE_WORDS, k=rng.randint(low, high)))

    heads = [rng.choices((words(1, 2), f'"{words(1, 2)}"', f"{words(1, 2)},"), (80, 5, 15))[0] for _ in range(count)]
    tails = [f"{words(0, 3)} {rng.randrange(100_000)}".strip() for _ in range(count)]
    return pl.DataFrame({"head": heads, "tail": tails})


def checksums(rng: random.Random, count: int) -> pl.Series:
    """As many made-up MD5s in the spelling of the image table."""
    data = rng.randbytes(16 * count)
    return pl.Series([base64.b64encode(data[at : at + 16]).decode() for at in range(0, len(data), 16)])


def image_chunks(images: pl.DataFrame, seed: int) -> Iterator[pl.DataFrame]:
    """The image table, shuffled as published."""
    rng = random.Random(seed)
    people, titles = make_authors(seed), make_titles(seed)
    rotations = pl.Series(["0.0"] * 26 + ["90.0", "270.0", "180.0"] + [None] * 3)
    listed = images.filter("listed").select("ImageID").with_row_index("image")
    shuffled = listed.sort(mixed(pl.col("image"), seed, "order"))
    address = pl.concat_str(picked([f"farm{n}" for n in range(1, 10)], bits("a", 0)), pl.lit(".staticflickr.com/"))
    small = pl.concat_str(pl.lit("c"), 1 + below(bits("a", 0), 8), pl.lit(".staticflickr.com/"), 1 + bits("a", 1) % 9)
    photo = (u64(1_000_000_000) + pl.col("b") % u64(9_000_000_000)).alias("photo")
    author = below(bits("a", 3), people.height)
    for chunk in shuffled.iter_slices(CHUNK_ROWS):
        streams = {name: mixed(pl.col("image"), seed, f"image {name}") for name in "abcd"}
        frame = chunk.with_columns(**streams).with_columns(
            photo,
            folder=1000 + below(bits("a", 2), 9000),
            slug=look_up(people["slug"], author),
            head=look_up(titles["head"], below(bits("d", 0), titles.height)),
            tail=look_up(titles["tail"], below(bits("d", 1), titles.height)),
        )
        thumbnail = pl.concat_str(
            pl.lit("https://"), small, pl.lit("/"), "folder", pl.lit("/"), "photo", pl.lit("_"),
            hex_digits("c", [1, 2]), (10 + bits("d", 2) % 90), pl.lit("_z.jpg"),
        )  # fmt: skip
        original = pl.concat_str(
            pl.lit("https://"), address, "folder", pl.lit("/"), "photo", pl.lit("_"),
            hex_digits("c", [0, 3]), (10 + bits("d", 3) % 90), pl.lit("_o.jpg"),
        )  # fmt: skip
        yield frame.select(
            "ImageID",
            pl.lit("train").alias("Subset"),
            original.alias("OriginalURL"),
            pl.concat_str(pl.lit("https://www.flickr.com/photos/"), "slug", pl.lit("/"), "photo").alias(
                "OriginalLandingURL"
            ),
            pl.lit("https://creativecommons.org/licenses/by/2.0/").alias("License"),
            pl.concat_str(pl.lit("https://www.flickr.com/people/"), "slug", pl.lit("/")).alias("AuthorProfileURL"),
            look_up(people["author"], author).alias("Author"),
            pl.concat_str("head", "tail", separator=" ").alias("Title"),
            (100_000 + pl.col("c") % u64(8_000_000)).alias("OriginalSize"),
            checksums(rng, frame.height).alias("OriginalMD5"),
            pl.when(bits("b", 3) >= 65536 // 40).then(thumbnail).alias("Thumbnail300KURL"),
            look_up(rotations, below(bits("d", 2), rotations.len())).alias("Rotation"),
        )


# --- boxes ---------------------------------------------------------------------------------------------------


class Spelling:
    """Coordinates as text: a point of a side is a lookup in one column of all spellings, short and long."""

    def __init__(self) -> None:
        sides = sorted({side for *shape, _ in SHAPES for side in shape})
        spelled = ["-1"]
        starts: dict[tuple[int, int], int] = {}
        for decimals in (6, 8):
            for side in sides:
                starts[side, decimals] = len(spelled)
                spelled += [f"{point / side:.{decimals}f}" for point in range(side + 1)]
        self.values = pl.Series(spelled)
        shapes = [shape for *shape, often in SHAPES for _ in range(often)]
        # One row for each shape and spelling: the sides, and where their points start.
        rows = [
            (width, height, starts[width, decimals], starts[height, decimals])
            for decimals in (6, 8)
            for width, height in shapes
        ]
        self.shapes = pl.DataFrame(rows, schema=["width", "height", "x", "y"], orient="row").cast(pl.UInt32)
        self.shape_count = len(shapes)


def flag_patterns(seed: int) -> pl.DataFrame:
    """4096 combinations of the five flags, to be drawn from."""
    rng = random.Random(seed)
    rows = []
    for _ in range(4096):
        unknown = rng.random() < UNKNOWN_CHANCE
        rows.append([-1 if unknown else int(rng.random() < chance) for chance in FLAG_CHANCES])
    return pl.DataFrame(rows, schema=dict.fromkeys(FLAG_NAMES, pl.Int8), orient="row")


def box_chunks(images: pl.DataFrame, classes: dict[str, tuple[str, int]], seed: int) -> Iterator[pl.DataFrame]:
    """The box table, image by image in ascending order of id."""
    spelling, flags = Spelling(), flag_patterns(seed)
    # Each label as often as it has boxes: one draw from it is one draw by weight.
    labels = pl.DataFrame({"label": list(classes), "boxes": [boxes for _, boxes in classes.values()]})
    deck = labels.select(pl.col("label").repeat_by("boxes")).explode("label")["label"].rechunk()
    step = max(1, CHUNK_ROWS * images.height // int(images["boxes"].sum()))
    for chunk in images.with_row_index("image").iter_slices(step):
        yield box_rows(chunk, spelling, flags, deck, seed)


def box_rows(images: pl.DataFrame, spelling: Spelling, flags: pl.DataFrame, deck: pl.Series, seed: int) -> pl.DataFrame:
    # How the boxes of an image have something in common: the picture's shape and how long the runs of a label are.
    images = images.with_columns(a=mixed(pl.col("image"), seed, "boxes of image")).select(
        "image",
        "ImageID",
        box=pl.int_ranges(0, "boxes"),
        shape=below(bits("a", 0), spelling.shape_count)
        + (bits("a", 1) < LONG_SHARE).cast(pl.UInt32) * spelling.shape_count,
        run=1 + below(bits("a", 2), 6),
    )
    frame = images.explode("box")
    box = pl.col("image").cast(pl.UInt64) * u64(4096)
    frame = frame.with_columns(
        run=mixed(box + pl.col("box") // pl.col("run"), seed, "run"),
        **{name: mixed(box + pl.col("box"), seed, f"box {name}") for name in "abc"},
        **{column: look_up(spelling.shapes[column], pl.col("shape")) for column in spelling.shapes.columns},
    )

    def extent(place: int, side: str) -> pl.Expr:
        """How long a box is; the product of two draws, as small boxes are more frequent."""
        return 1 + below(below(bits("a", place), 65536) * bits("a", place + 1) // 65536, pl.col(side))

    frame = frame.with_columns(w=extent(0, "width"), h=extent(2, "height"))
    frame = frame.with_columns(
        left=below(bits("b", 0), pl.col("width") - pl.col("w") + 1),
        top=below(bits("b", 1), pl.col("height") - pl.col("h") + 1),
        drawn=bits("run", 3) >= 6554,
    )
    left, top = pl.col("left"), pl.col("top")
    right, bottom = left + pl.col("w"), top + pl.col("h")

    def spelled(axis: str, point: pl.Expr) -> pl.Expr:
        return look_up(spelling.values, pl.col(axis) + point)

    def click(axis: str, point: pl.Expr) -> pl.Expr:
        """A click of the annotator; boxes that were not drawn have -1, the first of all spellings."""
        return look_up(spelling.values, pl.when("drawn").then(pl.col(axis) + point).otherwise(0))

    def along(start: pl.Expr, length: str, draw: pl.Expr) -> pl.Expr:
        return start + below(draw, pl.col(length) + 1)

    pattern = bits("c", 2) % flags.height
    return frame.select(
        "ImageID",
        pl.when("drawn").then(pl.lit("xclick")).otherwise(pl.lit("activemil")).alias("Source"),
        look_up(deck, pl.col("run") % u64(deck.len())).alias("LabelName"),
        pl.lit(1).alias("Confidence"),
        spelled("x", left).alias("XMin"),
        spelled("x", right).alias("XMax"),
        spelled("y", top).alias("YMin"),
        spelled("y", bottom).alias("YMax"),
        *(look_up(flags[name], pattern).alias(name) for name in FLAG_NAMES),
        # The topmost, leftmost, bottommost and rightmost points of the object.
        click("x", along(left, "w", bits("b", 2))).alias("XClick1X"),
        click("x", left).alias("XClick2X"),
        click("x", along(left, "w", bits("b", 3))).alias("XClick3X"),
        click("x", right).alias("XClick4X"),
        click("y", top).alias("XClick1Y"),
        click("y", along(top, "h", bits("c", 0))).alias("XClick2Y"),
        click("y", bottom).alias("XClick3Y"),
        click("y", along(top, "h", bits("c", 1))).alias("XClick4Y"),
    )


# --- files ---------------------------------------------------------------------------------------------------


def write_chunks(path: Path, chunks: Iterator[pl.DataFrame]) -> None:
    """Append one chunk after the other; under the file's own name only once it is whole."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        for number, chunk in enumerate(chunks):
            chunk.write_csv(file, include_header=number == 0)
    part.replace(path)


def make_tables(root: Path, images: int = PUBLISHED_IMAGES, seed: int = 1) -> Tables:
    """Write the four files under `root`, the box and the image table with as many images."""
    if images < MIN_IMAGES:
        raise ValueError(f"at least {MIN_IMAGES} images are needed, not {images}")
    tables = Tables(root)
    for file in tables.files:
        file.parent.mkdir(parents=True, exist_ok=True)
    classes = make_classes(seed)
    numbered = number_images(images, seed)
    write_chunks(tables.boxes, box_chunks(numbered, classes, seed))
    write_chunks(tables.images, image_chunks(numbered, seed))
    write_classes(tables, classes)
    write_hierarchy(tables, classes)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description="Make full-size tables like those of the Open Images train split.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="rows of the image table")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.images < MIN_IMAGES:
        parser.error(f"--images: at least {MIN_IMAGES}")
    start = time.perf_counter()
    tables = make_tables(args.folder, args.images, args.seed)
    for file in tables.files:
        print(f"{file.stat().st_size:13,} bytes  {file}")
    print(f"made in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
