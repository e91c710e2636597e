"""Measure what it costs to choose at full size: `plan` with 600 categories, from the cache.

Usage:
    python benchmarks/choosing.py --folder TABLES --cache CACHE [--only NAME,NAME] [--rounds R]

TABLES is what tables.py and wide_tables.py have made; it is fetched into CACHE once, unless CACHE has it already. Exit
status: 0 if every question that has a target met it, 1 if one did not, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import BenchError, Cost
from tables import Tables
from wide_tables import LABEL_TABLE

SECONDS, MEGABYTES = 10.0, 1000.0


@dataclass(frozen=True)
class Question:
    """Options of `plan`, and what they may cost: seconds and MB of the process tree."""

    name: str
    options: tuple[str, ...]
    seconds: float = SECONDS
    megabytes: float = MEGABYTES
    with_classes: bool = True


BALANCED, NEGATIVES, AREA = ("--balanced", "500"), ("--negatives", "10%"), ("--min-area", "1%")
QUESTIONS = (
    Question("600 classes", ()),
    Question("balanced", BALANCED),
    Question("negatives", NEGATIVES),
    Question("min-area", AREA),
    Question("all three", (*BALANCED, *NEGATIVES, *AREA)),
    Question("all three, shuffled", (*BALANCED, *NEGATIVES, *AREA, "--shuffle")),
    Question("min-boxes", ("--min-boxes", "3")),
    Question("per class", ("--limit-per-class", "500")),
    Question("image-where", ("--image-where", "(Author IS DISTINCT FROM 'Ng, J.') AND OriginalSize > 1000000")),
    Question("every image", ("--images", "all", "--kind", "none"), seconds=60, megabytes=1500, with_classes=False),
)


class Program:
    """The measured program with its mirror and cache."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self._program, self._timeout, self._work = args.program, args.timeout, work
        self._options = ["--mirror", str(args.folder), "--cache-dir", str(args.cache), "--json"]
        self._categories = work / "categories.txt"

    def write_categories(self, classes: Path) -> int:
        """Write the file of categories: every class with boxes but the first, as there are 601."""
        lines = classes.read_text(encoding="utf-8").splitlines()[2:]
        self._categories.write_text("".join(f"{line.split(',')[0]}\n" for line in lines))
        return len(lines)

    def plan(self, *options: str, with_classes: bool = True) -> Cost:
        """Plan in an empty folder; what it took."""
        classes = ["--category-file", str(self._categories)] if with_classes else []
        savepath = ["--savepath", str(self._work / "save")]
        command = [str(self._program), "plan", *classes, *options, *self._options, *savepath]
        return harness.measure(command, self._work, self._timeout)


def fill_cache(program: Program, questions: list[Question]) -> None:
    """Bring every table that the questions need into the cache: of one class, which is soon answered."""
    print("bringing the tables into the cache, if they are not there", file=sys.stderr)
    program.plan("--category", "Football", "--negatives", "1", with_classes=False)
    for question in questions:
        if not question.with_classes:
            program.plan(*question.options, "--ndata", "1", with_classes=False)


def measure(program: Program, question: Question, rounds: int) -> bool:
    """Ask a question from the cache, print what it took, and return whether that was within its target."""
    costs = [
        program.plan(*question.options, "--offline", with_classes=question.with_classes) for _ in range(max(1, rounds))
    ]
    wall = statistics.median(cost.wall for cost in costs)
    cpu = statistics.median(cost.cpu for cost in costs)
    peak = max(cost.peak_mb for cost in costs)
    answer = json.loads(costs[0].stdout)
    what = f"{answer['selected']:9,} images, roles {answer.get('roles', {})}"
    is_met = wall <= question.seconds and peak <= question.megabytes
    verdict = "" if is_met else f"  above {question.seconds:g} s or {question.megabytes:g} MB"
    print(f"{question.name:20} {wall:6.2f} s {cpu:6.2f} CPU s {peak:6.0f} MB  {what}{verdict}", flush=True)
    return is_met


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What choosing among 1.7 million images costs.")
    parser.add_argument("--folder", type=Path, required=True, help="tables that tables.py and wide_tables.py have made")
    parser.add_argument("--cache", type=Path, required=True, help="the metadata cache to use and to keep")
    parser.add_argument("--only", default="", help="names of questions or their beginnings, separated by commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where small files go (default: RAM disk if it has room)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    harness.exit_on_signals()
    tables = Tables(args.folder)
    if not tables.complete or not (args.folder / LABEL_TABLE).is_file():
        print(f"error: {args.folder} lacks tables; make them with tables.py and wide_tables.py", file=sys.stderr)
        return 2
    chosen = tuple(name for name in args.only.split(",") if name)
    questions = [each for each in QUESTIONS if not chosen or each.name.startswith(chosen)]
    try:
        with harness.work_folder(args.work_dir, 200_000_000) as work:
            program = Program(args, work)
            print(f"{program.write_categories(tables.classes)} categories")
            fill_cache(program, questions)
            met = [measure(program, question, args.rounds) for question in questions]
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if met and all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
