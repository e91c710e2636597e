"""Export 100,000 images in every format, by one program or by two in turn: seconds, and how much of two cores.

Usage:
    python benchmarks/exports.py --before OTHER/bin/oid-async [--images N] [--savepath FOLDER] [--format coco ...]

The folder is one of `saved_folder.py`: small real pictures with eight boxes each, masks on every third.  What both have
written is compared byte for byte.  A line a format: seconds and CPU seconds of each program, and the share of the
processors that it had use for, 200 % of two.  Exit status 1 if files differ.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sys
from pathlib import Path

import harness
from harness import BenchError, Cost
from saved_folder import make_folder

from oid_async.options.export import FORMATS

# Formats, and what is added to the command.
CASES: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in FORMATS},
    "coco, no masks": ("coco", ["--no-masks"]),
}
CASES["coco, --max-side 256"] = ("coco", ["--no-masks", "--max-side", "256"])
# Say where and when the export was made.
_OWN = (".oid_async-export.json", ".oid_async-export.list")


def export(program: Path, case: str, args: argparse.Namespace, work: Path) -> tuple[Cost, dict[str, str]]:
    """Export once; return what it took, and the MD5 of each file."""
    name, more = CASES[case]
    out = work / "out"
    command = [str(program), "export", str(args.savepath), "--format", name, "--out", str(out), "--quiet", *more]
    cost = harness.measure([*command, "--processes", str(args.processes)], work, args.timeout)
    found = {
        str(path.relative_to(out)): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and path.name not in _OWN
    }
    shutil.rmtree(out)
    return cost, found


def line(case: str, costs: list[Cost]) -> str:
    cells = [case]
    for cost in costs:
        cells += [
            f"{cost.wall:.1f}",
            f"{cost.cpu:.1f}",
            f"{100 * cost.cpu / cost.wall:.0f} %",
            f"{cost.peak_mb:.0f} MB",
        ]
    return f"| {' | '.join(cells)} |"


def measure(args: argparse.Namespace) -> bool:
    """Export each format with each program; return whether both have written the same."""
    same = True
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(harness.work_folder(args.work_dir, 60_000 * args.images))
        args.savepath = args.savepath or work / "save"
        if not args.savepath.exists():
            print("making the folder", file=sys.stderr)
            make_folder(args.savepath, args.images)
        for case in args.format or CASES:
            programs = [args.before] if args.before is not None and case not in args.new else []
            done = [export(program, case, args, work) for program in (*programs, args.program)]
            print(line(case, [cost for cost, _ in done]), flush=True)
            if len(done) > 1 and done[0][1] != done[1][1]:
                differ = {name for found in (done[0][1], done[1][1]) for name in found}
                differ = {name for name in differ if done[0][1].get(name) != done[1][1].get(name)}
                print(f"{case}: {len(differ)} files differ, such as {min(differ)}", file=sys.stderr)
                same = False
    return same


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exports of 100,000 images in every format.")
    parser.add_argument("--before", type=Path, help="another oid-async, to export with first each time")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--savepath", type=Path, help="a folder of saved_folder.py, made if it is not there, and kept")
    parser.add_argument("--format", action="append", choices=tuple(CASES), help="default: all")
    parser.add_argument("--new", action="append", default=[], help="a format that the other program does not have")
    parser.add_argument("--processes", default="auto")
    parser.add_argument("--work-dir", type=Path, help="where everything goes (default: RAM disk if it has room)")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds allowed for one export")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        return 0 if measure(args) else 1
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
