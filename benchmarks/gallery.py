"""Make the saved folder of a whole split, and measure how fast the gallery answers about it, and in which memory.

Usage:
    python benchmarks/gallery.py make FOLDER [--tables MIRROR] [--images N] [--files N]
    python benchmarks/gallery.py measure FOLDER [--rounds N]

`make` writes what a download of the train split with its boxes leaves: manifest.parquet, bbox/bbox.csv with all its
columns, label_data.csv, query.json; but only so many image files, which are all the gallery opens. It takes the tables
that tables.py has made in MIRROR, or makes them.

`measure` removes the gallery's index, starts `Catalog` in a process of its own, and asks what the page asks: the first
page while there is no index, then filters and orders while it is being made and afterwards. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import polars as pl
from corpus import jpeg
from tables import PUBLISHED_IMAGES, Tables, make_tables

IMAGE_COLUMNS = ["License", "Author", "AuthorProfileURL", "Title", "OriginalURL", "OriginalLandingURL"]
SIZES = [(1024, 683), (1024, 768), (683, 1024), (768, 1024), (1024, 1024)]


def saved_images(tables: Tables) -> pl.LazyFrame:
    """The manifest: every 500th image has failed."""
    number = pl.col("ImageID").str.to_integer(base=16, dtype=pl.UInt64)
    failed = number % 500 == 0
    size = (number % len(SIZES)).cast(pl.UInt8)
    stem = pl.col("OriginalURL").str.extract(r"([^/]+)$")
    names = pl.when(stem.is_duplicated()).then(pl.concat_str(pl.col("ImageID"), pl.lit("_"), stem)).otherwise(stem)
    side = [size.replace_strict(dict(enumerate(sides)), return_dtype=pl.Int32) for sides in zip(*SIZES, strict=True)]
    return (
        pl.scan_csv(tables.images, infer_schema=False)
        .sort("ImageID")
        .select(
            "ImageID",
            "Subset",
            FileName=pl.when(~failed).then(names),
            Status=pl.when(failed).then(pl.lit("failed")).otherwise(pl.lit("ok")),
            Reason=pl.when(failed).then(pl.lit("not_found")),
            Source=pl.lit("cvdf"),
            URL=pl.concat_str(pl.lit("https://open-images-dataset.s3.amazonaws.com/train/"), "ImageID", pl.lit(".jpg")),
            Bytes=pl.when(~failed).then((number % 400_000 + 20_000).cast(pl.Int64)),
            MD5=pl.lit("9bFlIkpYt5HfavHYMD5hzQ=="),
            Width=pl.when(~failed).then(side[0]),
            Height=pl.when(~failed).then(side[1]),
            Rotation=pl.col("Rotation").cast(pl.Float64, strict=False),
            **{name: pl.col(name) for name in IMAGE_COLUMNS},
        )
    )


def make(folder: Path, tables: Tables, files: int) -> None:
    """Write the tables of a saved folder, and the first image files."""
    for name in ("bbox", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.parquet"
    saved_images(tables).collect().write_parquet(manifest, row_group_size=4096)
    classes = pl.read_csv(tables.classes, has_header=False, new_columns=["LabelName", "Category"])
    classes.write_csv(folder / "bbox" / "label_data.csv")
    images = (
        pl.scan_parquet(manifest).filter(Status="ok").select("ImageID", "FileName", "OriginalURL", "Width", "Height")
    )
    boxes = pl.scan_csv(tables.boxes, infer_schema=False)
    published = boxes.collect_schema().names()
    rows = boxes.join(images, on="ImageID", how="inner", maintain_order="left")
    rows = rows.join(classes.lazy(), on="LabelName", how="left", maintain_order="left")
    columns = [*published, "Category", "FileName", "OriginalURL", "Width", "Height"]
    rows.select(columns).sink_csv(folder / "bbox" / "bbox.csv", maintain_order=True)
    (folder / "query.json").write_text('{"program": "oid-async", "query": {"splits": ["train"]}}\n', encoding="utf-8")
    body = jpeg("gallery", 100_000, random.Random(1))
    for name in images.select("FileName").head(files).collect().to_series():
        (folder / "images" / name).write_bytes(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="The gallery of a whole split: make its folder, measure its answers.")
    parser.add_argument("what", choices=("make", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", type=Path, help="a folder that tables.py has filled; by default made anew")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="size of tables that are made")
    parser.add_argument("--files", type=int, default=300, help="how many image files there are")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "make":
        with tempfile.TemporaryDirectory(prefix="oid-async-bench-") as scratch:
            make(
                args.folder, Tables(args.tables) if args.tables else make_tables(Path(scratch), args.images), args.files
            )


if __name__ == "__main__":
    main()
