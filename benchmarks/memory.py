"""Measure how the memory oid-async needs, and its speed, change with the number of images.

Usage:
    python benchmarks/memory.py [--images N,N,...] [--source ids|tables|both] [--per-image BYTES]

nginx answers every image's address with one and the same file, so that a million images cost no room where they are
served.  Exit status 1 if the peak of the largest set is above that of the smallest by more than so many bytes for each
further image, 2 if no measurement was possible.  Tables are fetched and converted by a `plan` before, whose peak is
said and does not count: it happens once for each published table, whatever is downloaded of it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import harness
import polars as pl
from contestants import our_summary
from corpus import jpeg
from figures import markdown_table, rates, spread
from harness import BenchError, Cost
from server import serve
from tables import MIN_IMAGES, make_tables

ONE_IMAGE = "one.jpg"
SOURCES = {"ids": "a list of ids", "tables": "tables"}


def make_mirror(root: Path, images: int, size: int) -> None:
    """Tables of so many images, the list of their ids, and the one image."""
    tables = make_tables(root, images)
    (root / ONE_IMAGE).write_bytes(jpeg("one", size, random.Random(1)))
    ids = pl.scan_csv(tables.images).select(pl.concat_str(pl.lit("train/"), "ImageID"))
    ids.sink_csv(root / "ids.txt", include_header=False)


def command(verb: str, url: str, mirror: Path, folder: Path, source: str, args: argparse.Namespace) -> list[str]:
    """Every image there is; from the list of ids no table is read at all."""
    of_source = {
        "ids": {"--kind": "none", "--image-ids": str(mirror / "ids.txt")},
        "tables": {"--split": "train"},
    }
    options = of_source[source] | {
        "--mirror": url,
        "--savepath": str(folder / "out"),
        "--cache-dir": str(folder / "cache"),
        "--names": "id",
    }
    if verb == "download":
        options["--concurrency"] = str(args.connections)
    return [str(args.program), verb, *(word for option in options.items() for word in option), "--json"]


@dataclass(frozen=True)
class Run:
    """What a download took, and with tables what it took to bring these into the cache before."""

    download: Cost
    tables: Cost | None


Runs = dict[int, list[Run]]


def run_once(url: str, mirror: Path, images: int, folder: Path, source: str, args: argparse.Namespace) -> Run:
    folder.mkdir()

    def cost(verb: str) -> Cost:
        return harness.measure(command(verb, url, mirror, folder, source, args), folder, args.timeout)

    try:
        tables = cost("plan") if source == "tables" else None
        download = cost("download")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    our_summary(download, images)
    return Run(download, tables)


def measure_all(args: argparse.Namespace) -> dict[str, Runs]:
    """What was measured, by source and number of images; the sets are measured in turn."""
    nginx = harness.find_tool("nginx")
    runs: dict[str, Runs] = {source: {images: [] for images in args.images} for source in args.source}
    # Tables of 1.7 KB an image, kept twice over by the program; each file takes a block and an entry in its folder.
    need = sum(args.images) * 1700 + max(args.images) * (args.size + 4096 + 3 * 1700)
    with harness.work_folder(args.work_dir, need) as work:
        mirrors = {images: work / f"served-{images}" for images in args.images}
        for images, mirror in mirrors.items():
            make_mirror(mirror, images, args.size)
        for number in range(args.rounds):
            for source, of_source in runs.items():
                for images, mirror in mirrors.items():
                    with serve(nginx, mirror, one_image=ONE_IMAGE) as url:
                        run = run_once(url, mirror, images, work / "run", source, args)
                    of_source[images].append(run)
                    cost = run.download
                    said = f"peak {cost.peak_mb:6.1f} MB, anonymous {cost.anonymous_mb:6.1f} MB"
                    speed = f"{images / cost.wall:6.0f} images/s"
                    print(f"round {number + 1}, {source:6}: {images:8} images, {said}, {speed}", file=sys.stderr)
    return runs


def growth(runs: Runs) -> tuple[float, float]:
    """Highest peak of the largest set less the lowest of the smallest: MiB, and bytes for each further image."""
    largest, smallest = ([run.download.peak_mb for run in runs[images]] for images in (max(runs), min(runs)))
    grown = max(largest) - min(smallest)
    return grown, grown * 2**20 / (max(runs) - min(runs))


def report(source: str, runs: Runs) -> str:
    head = ["images", "peak MB (median)", "min-max", "anonymous MB", "images/s (median)", "min-max", "CPU ms per image"]
    rows = []
    for images, some in runs.items():
        costs = [run.download for run in some]
        peak = spread([cost.peak_mb for cost in costs]).words(1)
        anonymous = spread([cost.anonymous_mb for cost in costs]).words(1)[0]
        cpu = spread([cost.cpu * 1000 / images for cost in costs]).words(3)[0]
        rows.append([f"{images:,}", *peak, anonymous, *rates(costs, images).words(0), cpu])
    grown, each = growth(runs)
    said = (
        f"Highest of the largest less lowest of the smallest: {grown:.1f} MB, {each:.0f} bytes for each further image."
    )
    before = []
    if source == "tables":
        peaks = {images: max(run.tables.peak_mb for run in some if run.tables) for images, some in runs.items()}
        first = ", ".join(f"{peak:.0f} MB for {images:,}" for images, peak in peaks.items())
        before = [f"Tables fetched and converted before, highest peak: {first}."]
    return "\n".join([f"#### from {SOURCES[source]}", "", *markdown_table(head, rows), "", said, *before])


def image_counts(words: str) -> list[int]:
    counts = sorted({int(word) for word in words.split(",")})
    if len(counts) < 2 or counts[0] < MIN_IMAGES:
        raise argparse.ArgumentTypeError(f"two or more numbers, each at least {MIN_IMAGES}")
    return counts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory and speed of oid-async for sets of several sizes.")
    parser.add_argument("--images", type=image_counts, default=[20_000, 200_000], metavar="N,N,...")
    parser.add_argument(
        "--source", choices=(*SOURCES, "both"), default="both", help="what to select from: a list of ids or tables"
    )
    parser.add_argument("--size", type=int, default=2_000, help="bytes of the image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--per-image", type=float, default=100, help="bytes of growth allowed for each further image")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds allowed for one run")
    args = parser.parse_args()
    args.source = list(SOURCES) if args.source == "both" else [args.source]
    return args


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        if not os.access(args.program, os.X_OK):
            raise BenchError(f"no program at {args.program} (--program)")
        runs = measure_all(args)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(report(source, of_source) for source, of_source in runs.items()))
    return 1 if any(growth(of_source)[1] > args.per_image for of_source in runs.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
