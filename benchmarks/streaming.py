"""Measure what it costs a stream to hand out labels and bytes, and how its memory changes while it does.

Usage:
    python benchmarks/streaming.py [--images N] [--size BYTES] [--rounds N]

nginx answers every image's address with one and the same file. One Python process reads the stream to its end, as fast
as it can or with a pause after each outcome, and says what it held after a quarter of the images and at the most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import harness
from corpus import jpeg
from figures import markdown_table, spread
from harness import BenchError, Cost
from server import serve
from tables import MIN_IMAGES, make_tables

import oid_async

ONE_IMAGE = "one.jpg"
WAYS: dict[str, dict[str, Any]] = {
    "files": {},
    "files, annotations": {"annotations": True},
    "no files": {"keep_files": False},
    "no files, annotations": {"annotations": True, "keep_files": False},
}


def held_mb() -> float:
    """Return the resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def consume(url: str, folder: Path, way: str, images: int, pause_s: float) -> dict[str, float]:
    """Read one stream to its end; return its images a second and the MiB held."""
    rows = count = 0
    quarter = most = 0.0
    began = 0.0
    query: dict[str, Any] = {"mirror": url, "savepath": folder / "out", "cache_dir": folder.parent / "cache"}
    async with oid_async.stream(**query, splits=["train"], names="id", **WAYS[way]) as outcomes:
        async for outcome in outcomes:
            began = began or time.perf_counter()
            count += 1
            rows += len(outcome.boxes) if "annotations" in WAYS[way] else 0
            # The last ones are handed out while the result tables are written.
            if images // 4 <= count <= images - 500 and not count % 100:
                quarter = quarter or held_mb()
                most = max(most, held_mb())
            if pause_s:
                await asyncio.sleep(pause_s)
        seconds = time.perf_counter() - began
    assert outcomes.report.downloaded == count == images, outcomes.report
    return {"images_s": count / seconds, "quarter_mb": quarter, "most_mb": most, "rows": rows}


def measure_all(args: argparse.Namespace) -> list[list[str]]:
    nginx = harness.find_tool("nginx")
    found: dict[tuple[str, float], list[tuple[dict[str, float], Cost]]] = {}
    with harness.work_folder(args.work_dir, args.images * (args.size + 10_000)) as work:
        make_tables(work / "served", args.images)
        (work / "served" / ONE_IMAGE).write_bytes(jpeg("one", args.size, random.Random(1)))
        with serve(nginx, work / "served", one_image=ONE_IMAGE) as url:
            run_once(url, work, "no files", args, 0.0)  # fills the cache of tables
            for number in range(args.rounds):
                for way in WAYS:
                    for pause_s in (0.0, args.pause) if number == 0 else (0.0,):
                        said, cost = run_once(url, work, way, args, pause_s)
                        found.setdefault((way, pause_s), []).append((said, cost))
                        print(f"round {number + 1}, {way}, pause {pause_s:g} s: {said}", file=sys.stderr)
    return [row(way, pause_s, runs, args.images) for (way, pause_s), runs in found.items()]


def run_once(url: str, work: Path, way: str, args: argparse.Namespace, pause_s: float) -> tuple[dict[str, float], Cost]:
    """Read one stream in a process of its own."""
    folder = work / "run"
    folder.mkdir()
    try:
        words = ["--consume", url, str(folder), way, str(args.images), str(pause_s)]
        cost = harness.measure([sys.executable, __file__, *words], folder, args.timeout)
    finally:
        shutil.rmtree(folder)
    return json.loads(cost.stdout), cost


def row(way: str, pause_s: float, runs: list[tuple[dict[str, float], Cost]], images: int) -> list[str]:
    rate = spread([said["images_s"] for said, _ in runs]).words(0)
    cpu = spread([cost.cpu * 1000 / images for _, cost in runs]).words(3)[0]
    quarter, most = (max(said[name] for said, _ in runs) for name in ("quarter_mb", "most_mb"))
    consumer = f"{pause_s * 1000:g} ms each" if pause_s else "quick"
    return [way, consumer, *rate, cpu, f"{quarter:.0f}", f"{most:.0f}"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of oid_async.stream with labels and without files.")
    parser.add_argument("--images", type=int, default=20_000, help=f"at least {MIN_IMAGES}")
    parser.add_argument("--size", type=int, default=24_000, help="bytes of the image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.002, help="seconds that a slow consumer takes for each image")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds allowed for one run")
    parser.add_argument(
        "--consume", nargs=5, metavar=("URL", "FOLDER", "WAY", "IMAGES", "PAUSE"), help=argparse.SUPPRESS
    )
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.consume:
        url, folder, way, images, pause_s = args.consume
        print(json.dumps(asyncio.run(consume(url, Path(folder), way, int(images), float(pause_s)))))
        return 0
    harness.exit_on_signals()
    try:
        rows = measure_all(args)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = ["stream", "consumer", "images/s (median)", "min-max", "CPU ms per image", "MB at a quarter", "MB at most"]
    print("\n".join(markdown_table(head, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
