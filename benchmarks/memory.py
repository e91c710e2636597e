"""Check that the memory oid-async needs does not grow with the number of images.

Usage:
    python benchmarks/memory.py [--small N] [--large N] [--size BYTES] [--limit MB]

Exit status 1 if the peak for the large set is above that for the small set by more than the limit, 2 if no
measurement was possible.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from pathlib import Path

import harness
from corpus import make_corpus
from harness import BenchError


def peak(program: Path, url: str, images: int, folder: Path, args: argparse.Namespace) -> float:
    """Peak RSS in MB of one download of everything at `url`."""
    folder.mkdir()
    try:
        command = harness.our_command(program, url, folder, args.connections)
        cost = harness.measure(command, folder, args.timeout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    harness.our_summary(cost, images)
    return cost.rss_mb


def measure_peaks(args: argparse.Namespace) -> dict[int, list[float]]:
    """Peaks by number of images, the two sets measured in turn."""
    counts = (args.small, args.large)
    nginx = harness.find_tool("nginx")
    peaks: dict[int, list[float]] = {images: [] for images in counts}
    with contextlib.ExitStack() as stack:
        need = (args.small + args.large * 2) * (args.size + 12_000)
        work = stack.enter_context(harness.work_folder(args.work_dir, need))
        urls = {}
        for images in counts:
            corpus = make_corpus(work / f"served-{images}", images, args.size)
            urls[images] = stack.enter_context(harness.serve(nginx, corpus.root))
        for number in range(args.rounds):
            for images in counts:
                peaks[images].append(peak(args.program, urls[images], images, work / "run", args))
                print(f"round {number + 1}: {images:7} images, peak RSS {peaks[images][-1]:6.1f} MB", flush=True)
    return peaks


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory of oid-async for a small and a large set of images.")
    parser.add_argument("--small", type=int, default=5_000, help="images in the small set")
    parser.add_argument("--large", type=int, default=50_000, help="images in the large set")
    parser.add_argument("--size", type=int, default=2_000, help="bytes per image, within a tenth")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--limit", type=float, default=5.0, help="MB of growth allowed")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        if not os.access(args.program, os.X_OK):
            raise BenchError(f"no program at {args.program} (--program)")
        peaks = measure_peaks(args)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    growth = max(peaks[args.large]) - min(peaks[args.small])
    print(f"difference {growth:.1f} MB (highest large - lowest small), allowed {args.limit:g} MB")
    return 1 if growth > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
