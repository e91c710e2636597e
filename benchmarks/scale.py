"""Measure what a full-size job costs when nothing is to be fetched: deciding so, and writing its result tables.

Usage:
    python benchmarks/scale.py [--folder TABLES] [--cache CACHE] [--savepath FOLDER]

The train split's 1.7 million images are taken for downloaded: a journal as the program writes it, and an empty file for
each name.  Exit status 2 if no measurement was possible.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import harness
import polars as pl
from harness import BenchError, Cost
from tables import PUBLISHED_IMAGES, Tables, make_tables

from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.system.boots import boot_id

IMAGE_URL = "https://open-images-dataset.s3.amazonaws.com/train/"
# Images land side by side: neighbours in the journal are not quite in order.
SHUFFLED_ROWS = 256


def fabricate(savepath: Path, tables: Tables) -> int:
    """Make a folder as if every image of the table had been downloaded; return how many there are."""
    folder = Folder(savepath)
    lock = FolderLock.take(folder)
    try:
        landed = journal_lines(tables.images)
        landed.write_csv(folder.journal, include_header=False, separator="\t", quote_style="never")
        for name in landed.get_column("FileName"):
            os.close(os.open(f"{folder.images}/{name}", os.O_WRONLY | os.O_CREAT, 0o644))
        lock.confirm(boot_id())
    finally:
        lock.release()
    return len(landed)


def journal_lines(images: Path) -> pl.DataFrame:
    """One line an image as `oid_async.store.journal` draws it, roughly in order of ImageID."""
    rows = pl.read_csv(images, infer_schema=False, columns=["ImageID", "OriginalURL", "OriginalMD5"])
    noise = pl.int_range(pl.len()) + (pl.col("ImageID").hash(1) % SHUFFLED_ROWS).cast(pl.Int64)
    size = 100_000 + pl.col("ImageID").hash(2) % 400_000
    return (
        rows.sort("ImageID")
        .sort(noise)
        .select(
            "ImageID",
            status=pl.lit("ok"),
            source=pl.lit("cvdf"),
            FileName=pl.col("OriginalURL").str.extract("([^/]+)$", 1),
            bytes=size,
            md5="OriginalMD5",
            width=pl.lit(1024),
            height=pl.lit(683),
            reason=pl.lit(""),
            detail=pl.lit(""),
            attempts=pl.lit(1),
            url=pl.format(IMAGE_URL + "{}.jpg", "ImageID"),
        )
    )


class Job:
    """The job "all of the train split" of one program, mirror, cache and folder."""

    def __init__(self, args: argparse.Namespace, tables: Tables, work: Path) -> None:
        self._program, self._timeout, self._work = args.program, args.timeout, work
        self._options = ["--mirror", str(tables.root), "--cache-dir", str(args.cache or work / "cache"), "--json"]

    def run(self, command: str, savepath: Path, images: int | None = None, *options: str) -> Cost:
        """Run a command; with `images` its answer must be that as many are selected and there, and none to fetch."""
        words = [str(self._program), command, *self._options, "--savepath", str(savepath), *options]
        cost = harness.measure(words, self._work, self._timeout)
        answer = json.loads(cost.stdout)
        fetched = answer["to_download"] if command == "plan" else answer["requests"]
        if images is not None and (answer["selected"], answer["present"], fetched) != (images, images, 0):
            raise BenchError(f"{command}: not all are there: {answer}")
        return cost


def measure(args: argparse.Namespace, show: Callable[[str, Cost], None]) -> None:
    """Fabricate what is missing, then measure each question; the figures go to `show`."""
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(harness.work_folder(args.work_dir, 12_000 * args.images))
        tables = Tables(args.folder or work / "mirror")
        if not tables.complete:
            print("making the tables", file=sys.stderr)
            make_tables(tables.root, args.images)
        job = Job(args, tables, work)
        print("bringing them into the cache", file=sys.stderr)
        job.run("plan", work / "nothing")
        savepath = args.savepath or work / "save"
        if not savepath.exists():
            print("making the folder", file=sys.stderr)
            fabricate(savepath, tables)
        images = sum(1 for _ in Folder(savepath).names())
        shutil.rmtree(savepath / ".oid_async/lines", ignore_errors=True)
        show("decide, from the journal's text", job.run("plan", savepath, images, "--offline"))
        show("decide and write the tables", job.run("download", savepath, images))
        show("decide again", job.run("plan", savepath, images, "--offline"))
        boxes = (savepath / "bbox/bbox.csv").stat().st_size
        print(f"{images} images, bbox.csv {boxes / 1e6:.0f} MB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start, resume and result tables of a job of full size.")
    parser.add_argument("--folder", type=Path, help="tables that `tables.py` has made (default: make them)")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="rows of the image table that is made")
    parser.add_argument("--cache", type=Path, help="a metadata cache to use (default: a new one)")
    parser.add_argument("--savepath", type=Path, help="a folder to make, or that was made before, and to keep")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where everything goes (default: RAM disk if it has room)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()

    def show(what: str, cost: Cost) -> None:
        print(f"{what:32} {cost.wall:7.2f} s  {cost.cpu:7.2f} CPU s  {cost.peak_mb:6.0f} MB", flush=True)

    began = time.monotonic()
    try:
        measure(args, show)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"all of it took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
