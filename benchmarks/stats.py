"""Measure what `stats` takes at full size: of queries, from the cache, and of a saved folder.

Usage:
    python benchmarks/stats.py --folder TABLES --cache CACHE [--saved SAVEPATH] [--rounds R]

TABLES is what tables.py and wide_tables.py have made; it is fetched into CACHE once, unless CACHE has it already.
SAVEPATH is what gallery.py has made. Exit status: 0 if every question took at most 60 s and 1 GB, 1 if one did not, 2
if nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import harness
from harness import BenchError, Cost
from tables import Tables
from wide_tables import LABEL_TABLE

SECONDS, MEGABYTES = 60.0, 1000.0
QUERIES = {
    "all of train": ("--split", "train"),
    "one class": ("--category", "Football"),
    "five classes": tuple(f"--category={name}" for name in ("Person", "Man", "Woman", "Clothing", "Tree")),
    "all, with labels": ("--split", "train", "--kind", "bbox", "--kind", "label"),
}


def measure(name: str, command: list[str], args: argparse.Namespace, work: Path) -> bool:
    """Run a command as often as asked for, print what it took, and return whether that was within the target."""
    costs: list[Cost] = [harness.measure(command, work, args.timeout) for _ in range(max(1, args.rounds))]
    wall = statistics.median(cost.wall for cost in costs)
    cpu = statistics.median(cost.cpu for cost in costs)
    peak = max(cost.peak_mb for cost in costs)
    answer = json.loads(costs[0].stdout)
    what = f"{answer['images']['selected']:9,} images, {answer['kinds']}, {len(answer['classes'])} classes"
    is_met = wall <= SECONDS and peak <= MEGABYTES
    verdict = "" if is_met else f"  above {SECONDS:g} s or {MEGABYTES:g} MB"
    print(f"{name:18} {wall:6.2f} s {cpu:6.2f} CPU s {peak:6.0f} MB  {what}{verdict}", flush=True)
    return is_met


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What counting 14.6 million boxes costs.")
    parser.add_argument("--folder", type=Path, required=True, help="tables that tables.py and wide_tables.py have made")
    parser.add_argument("--cache", type=Path, required=True, help="the metadata cache to use and to keep")
    parser.add_argument("--saved", type=Path, help="a saved folder that gallery.py has made")
    parser.add_argument("--only", default="", help="names of questions or their beginnings, separated by commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where small files go (default: RAM disk if it has room)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    if not Tables(args.folder).complete or not (args.folder / LABEL_TABLE).is_file():
        print(f"error: {args.folder} lacks tables; make them with tables.py and wide_tables.py", file=sys.stderr)
        return 2
    program, of_query = str(args.program), ["--mirror", str(args.folder), "--cache-dir", str(args.cache), "--json"]
    commands = {name: [program, "stats", *options, *of_query] for name, options in QUERIES.items()}
    if args.saved is not None:
        commands["a saved folder"] = [program, "stats", str(args.saved), "--json"]
    chosen = tuple(name for name in args.only.split(",") if name)
    try:
        with harness.work_folder(args.work_dir, 200_000_000) as work:
            if args.only != "a saved folder":
                print("bringing the tables into the cache, if they are not there", file=sys.stderr)
                harness.measure([*commands["one class"], "--kind", "label"], work, args.timeout)
            asked = {name: command for name, command in commands.items() if not chosen or name.startswith(chosen)}
            met = [measure(name, command, args, work) for name, command in asked.items()]
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if met and all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
