"""Make the saved folder of a whole split, and measure how fast the gallery answers about it, and in which memory.

Usage:
    python benchmarks/gallery.py make FOLDER [--tables MIRROR] [--images N] [--files N]
    python benchmarks/gallery.py measure FOLDER [--rounds N]

`make` writes what a download of the train split with its boxes leaves: manifest.parquet, bbox/bbox.csv with all its
columns, label_data.csv, query.json; but only so many image files, which are all the gallery opens. It takes the tables
that tables.py has made in MIRROR, or makes them.

`measure` removes the gallery's index, starts `oid-async view` and asks what the page asks: the first page while there
is no index, pages while it is made, then filters and orders; so many that each is made anew. Memory is the server's
peak; `_cpu_s` are its seconds of processors, which tell more on a busy machine. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

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


# What the page asks once the index is there: a name for the figures, and the parameters.
QUESTIONS = {
    "a class": "class=Person",
    "any of two classes": "class=Person&class=Car",
    "both classes": "class=Person&class=Football&match=all",
    "without a class": "without=Clothing",
    "a flag": "flag=IsOccluded:yes",
    "a flag of a class": "class=Person&flag=IsGroupOf:yes",
    "boxes of a size": "min_area=5&max_area=10",
    "failed images": "status=failed",
    "a split": "split=train",
    "sorted by boxes": "sort=boxes&order=desc",
    "sorted by area": "sort=area&order=desc",
    "sorted by bytes": "sort=bytes",
    "sorted by file name": "sort=file_name",
    "sorted by status": "sort=status&order=desc",
}


class Gallery:
    """A started `oid-async view`, asked as a browser does."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.started = time.perf_counter()
        command = [str(program), "view", str(folder), "--no-open", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("the gallery has not started")
            found = re.search(r"(http://[^ ?]+/)\?token=\S+", line)
        self.url = found[1]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        self._get(found[0])

    def _get(self, url: str) -> bytes:
        with self._opener.open(url, timeout=300) as answer:
            return bytes(answer.read())

    def ask(self, path: str) -> tuple[float, dict[str, Any]]:
        """Return how long an answer took, in seconds, and the answer."""
        began = time.perf_counter()
        body = self._get(self.url + path)
        return time.perf_counter() - began, json.loads(body)

    @property
    def peak_mb(self) -> float:
        """The peak of its memory, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    @property
    def cpu_s(self) -> float:
        """The processor time that it has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def measure(program: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Open the gallery without an index, wait for it, ask each question so many times, each time as if anew."""
    shutil.rmtree(folder / ".oid_async" / "gallery", ignore_errors=True)
    gallery = Gallery(program, folder)
    figures: dict[str, Any] = {"started_s": time.perf_counter() - gallery.started}
    try:
        took, facts = gallery.ask("api/folder")
        pages = [gallery.ask("api/images?limit=120")[0]]
        figures |= {"images": facts["images"]["selected"], "folder_s": took, "first_page_s": pages[0]}
        figures["open_to_first_page_s"] = time.perf_counter() - gallery.started
        offset = 0
        while not facts["index"]["ready"]:
            time.sleep(1)
            offset += 100_003
            pages.append(gallery.ask(f"api/images?offset={offset % figures['images']}&limit=120")[0])
            _, facts = gallery.ask("api/folder")
        figures["index_s"] = time.perf_counter() - gallery.started
        figures["index_cpu_s"] = gallery.cpu_s
        figures["page_while_indexing_s"] = {"median": statistics.median(pages[1:]), "most": max(pages[1:])}
        figures["peak_mb_with_index"] = gallery.peak_mb
        figures["questions_s"] = {name: [] for name in QUESTIONS}
        figures["questions_cpu_s"] = {name: [] for name in QUESTIONS}
        figures["totals"] = {}
        for number in range(rounds):
            for name, parameters in QUESTIONS.items():
                before = gallery.cpu_s
                took, page = gallery.ask(f"api/images?{parameters}&offset={number * 1000}&limit=120")
                figures["questions_s"][name].append(round(took, 3))
                figures["questions_cpu_s"][name].append(round(gallery.cpu_s - before, 2))
                figures["totals"][name] = page["total"]
        figures["peak_mb"] = gallery.peak_mb
    finally:
        gallery.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="The gallery of a whole split: make its folder, measure its answers.")
    parser.add_argument("what", choices=("make", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", type=Path, help="a folder that tables.py has filled; by default made anew")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="size of tables that are made")
    parser.add_argument("--files", type=int, default=300, help="how many image files there are")
    parser.add_argument("--program", type=Path, default=Path(sys.executable).with_name("oid-async"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "measure":
        print(json.dumps(measure(args.program, args.folder, args.rounds), indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="oid-async-bench-") as scratch:
        make(args.folder, Tables(args.tables) if args.tables else make_tables(Path(scratch), args.images), args.files)


if __name__ == "__main__":
    main()
