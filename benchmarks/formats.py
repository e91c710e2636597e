"""Measure exports of a full-size job: 1.7 million images and 14.6 million boxes to COCO and YOLO.

Usage:
    python benchmarks/formats.py [--folder TABLES] [--cache CACHE] [--savepath FOLDER] [--format coco --format yolo]

The folder is made as `benchmarks/scale.py` makes it: generated tables of full size, an empty file for each image, since
no export opens an image.  What was written is counted, of COCO by reading all of its JSON again.  Exit status 2 if no
measurement was possible.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import harness
from harness import BenchError
from scale import Job, fabricate
from tables import PUBLISHED_IMAGES, Tables, make_tables

from oid_async.store.folder import Folder

_SPLIT = "train"


def export(savepath: Path, name: str, args: argparse.Namespace, work: Path) -> None:
    """Export once into a new folder, check it and print what it took."""
    out = work / f"out-{name}"
    words = [str(args.program), "export", str(savepath), "--format", name, "--out", str(out), "--json"]
    cost = harness.measure(words, work, args.timeout)
    report = json.loads(cost.stdout)
    images, boxes = report["images"], report["annotations"]["bbox"]
    found = counted(out, name)
    if found != (images, boxes):
        raise BenchError(f"{name}: {images} images and {boxes} boxes were reported, {found} are there")
    size = sum(path.stat().st_size for path in (out / "annotations").iterdir()) if name == "coco" else 0
    more = f"  {size / 1e6:.0f} MB of JSON" if size else ""
    print(
        f"{name:8} {images} images  {boxes} boxes  {cost.wall:7.1f} s  {cost.cpu:7.1f} CPU s  "
        f"{cost.peak_mb:6.0f} MB{more}",
        flush=True,
    )
    shutil.rmtree(out)


def counted(out: Path, name: str) -> tuple[int, int]:
    """Return how many images and boxes an export holds: its lines are counted, not what it says of itself."""
    images = boxes = 0
    if name == "coco":
        with (out / "annotations" / f"instances_{_SPLIT}.json").open("rb") as file:
            for line in file:
                images += line.startswith(b'{"id":') and b'"file_name"' in line
                boxes += line.startswith(b'{"id":') and b'"bbox"' in line
        return images, boxes
    with os.scandir(out / "labels" / _SPLIT) as entries:
        for entry in entries:
            images += os.path.exists(out / "images" / _SPLIT / f"{entry.name.removesuffix('.txt')}.jpg")
            with open(entry.path, "rb") as file:
                boxes += file.read().count(b"\n")
    return images, boxes


def measure(args: argparse.Namespace) -> None:
    """Make what is missing, then export in each format."""
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(harness.work_folder(args.work_dir, 16_000 * args.images))
        savepath = args.savepath or work / "save"
        if not (savepath / "manifest.parquet").exists():
            tables = Tables(args.folder or work / "mirror")
            if not tables.complete:
                print("making the tables", file=sys.stderr)
                make_tables(tables.root, args.images)
            if not savepath.exists():
                print("making the folder", file=sys.stderr)
                fabricate(savepath, tables)
            images = sum(1 for _ in Folder(savepath).names())
            Job(args, tables, work).run("download", savepath, images)
        for name in args.format or ("coco", "yolo"):
            export(savepath, name, args, work)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exports of a job of full size.")
    parser.add_argument("--folder", type=Path, help="tables that `tables.py` has made (default: make them)")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="rows of the image table that is made")
    parser.add_argument("--cache", type=Path, help="a metadata cache to use (default: a new one)")
    parser.add_argument("--savepath", type=Path, help="a folder to make, or that was made before, and to keep")
    parser.add_argument("--format", action="append", choices=("coco", "yolo"), help="default: both")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where everything goes (default: RAM disk if it has room)")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        measure(args)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
