"""Measure how the memory oid-async needs, and its speed, change with the number of images.

Usage:
    python benchmarks/memory.py [--images N,N,...] [--source ids|tables] [--per-image BYTES]

nginx answers every image's address with one and the same file, so that a million images cost no room where they are
served.  Exit status 1 if the peak of the largest set is above that of the smallest by more than so many bytes for each
further image, 2 if no measurement was possible.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
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
Costs = dict[int, list[Cost]]


def make_mirror(root: Path, images: int, size: int) -> None:
    """Tables of so many images, the list of their ids, and the one image."""
    tables = make_tables(root, images)
    (root / ONE_IMAGE).write_bytes(jpeg("one", size, random.Random(1)))
    ids = pl.scan_csv(tables.images).select(pl.concat_str(pl.lit("train/"), "ImageID"))
    ids.sink_csv(root / "ids.txt", include_header=False)


def command(url: str, mirror: Path, folder: Path, args: argparse.Namespace) -> list[str]:
    """Every image there is; from the list of ids no table is read at all."""
    source = (
        {"--kind": "none", "--image-ids": str(mirror / "ids.txt")} if args.source == "ids" else {"--split": "train"}
    )
    options = source | {
        "--mirror": url,
        "--savepath": str(folder / "out"),
        "--cache-dir": str(folder / "cache"),
        "--names": "id",
        "--concurrency": str(args.connections),
    }
    return [str(args.program), "download", *(word for option in options.items() for word in option), "--json"]


def run_once(url: str, mirror: Path, images: int, folder: Path, args: argparse.Namespace) -> Cost:
    folder.mkdir()
    try:
        cost = harness.measure(command(url, mirror, folder, args), folder, args.timeout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    our_summary(cost, images)
    return cost


def measure_all(args: argparse.Namespace) -> Costs:
    """Costs by number of images, the sets measured in turn."""
    nginx = harness.find_tool("nginx")
    costs: Costs = {images: [] for images in args.images}
    # Tables of 1.7 KB an image, kept twice over by the program; each file takes a block and an entry in its folder.
    need = sum(args.images) * 1700 + max(args.images) * (args.size + 4096 + 3 * 1700)
    with harness.work_folder(args.work_dir, need) as work:
        mirrors = {images: work / f"served-{images}" for images in args.images}
        for images, mirror in mirrors.items():
            make_mirror(mirror, images, args.size)
        for number in range(args.rounds):
            for images, mirror in mirrors.items():
                with serve(nginx, mirror, one_image=ONE_IMAGE) as url:
                    cost = run_once(url, mirror, images, work / "run", args)
                costs[images].append(cost)
                said = f"{images:8} images, peak {cost.peak_mb:6.1f} MB, {images / cost.wall:6.0f} images/s"
                print(f"round {number + 1}: {said}", file=sys.stderr)
    return costs


def growth(costs: Costs) -> tuple[float, float]:
    """Highest peak of the largest set less the lowest of the smallest: MiB, and bytes for each further image."""
    grown = max(cost.peak_mb for cost in costs[max(costs)]) - min(cost.peak_mb for cost in costs[min(costs)])
    return grown, grown * 2**20 / (max(costs) - min(costs))


def report(costs: Costs) -> str:
    head = ["images", "peak MB (median)", "min-max", "images/s (median)", "min-max", "CPU ms per image"]
    rows = []
    for images, runs in costs.items():
        peak = spread([cost.peak_mb for cost in runs]).words(1)
        cpu = spread([cost.cpu * 1000 / images for cost in runs]).words(3)[0]
        rows.append([f"{images:,}", *peak, *rates(runs, images).words(0), cpu])
    grown, each = growth(costs)
    said = (
        f"Highest of the largest less lowest of the smallest: {grown:.1f} MB, {each:.0f} bytes for each further image."
    )
    return "\n".join([*markdown_table(head, rows), "", said])


def image_counts(words: str) -> list[int]:
    counts = sorted({int(word) for word in words.split(",")})
    if len(counts) < 2 or counts[0] < MIN_IMAGES:
        raise argparse.ArgumentTypeError(f"two or more numbers, each at least {MIN_IMAGES}")
    return counts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory and speed of oid-async for sets of several sizes.")
    parser.add_argument("--images", type=image_counts, default=[20_000, 200_000], metavar="N,N,...")
    parser.add_argument(
        "--source", choices=("ids", "tables"), default="ids", help="what to select from: a list of ids or tables"
    )
    parser.add_argument("--size", type=int, default=2_000, help="bytes of the image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--per-image", type=float, default=100, help="bytes of growth allowed for each further image")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        if not os.access(args.program, os.X_OK):
            raise BenchError(f"no program at {args.program} (--program)")
        costs = measure_all(args)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(costs))
    return 1 if growth(costs)[1] > args.per_image else 0


if __name__ == "__main__":
    sys.exit(main())
