"""Compare ways to find the images with a football and a person in the full-size tables of the train split.

Usage:
    python benchmarks/selection.py [--folder FOLDER] [--rounds R] [--out FILE.md] [--svg FILE.svg]

Without --folder the tables are made first (see tables.py).  Every contestant is a process of its own, timed from spawn
to exit, and has to give the same answer as all the others.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
from drawing import FAINT, GRID, INK, ROW, bar, page, text
from harness import BenchError, Cost
from tables import MIN_IMAGES, PUBLISHED_IMAGES, Tables, make_tables

CATEGORIES = ("Football", "Person")
BOX_ROWS = Path(__file__).with_name("box_rows.py")
BASELINE = "pandas"

# What the peers run: the category names, the three tables and perhaps a file for the box rows; they print the number
# of images.  Text and not modules, because they are run by an interpreter that has the peer.
PANDAS = """\
import sys

import pandas as pd

*names, label, annotation, image_url, out = sys.argv[1:]
classes = pd.read_csv(label, header=0, names=["LabelName", "Category"])
boxes = pd.read_csv(annotation)
images = pd.read_csv(image_url)

labels = classes.set_index("Category")["LabelName"]
wanted = [labels[name] for name in names]
found = set.intersection(*(set(boxes.loc[boxes["LabelName"] == label, "ImageID"]) for label in wanted))
selected = pd.DataFrame({"ImageID": sorted(found)}).merge(images[["ImageID", "OriginalURL"]], on="ImageID")
if out:
    rows = boxes[boxes["LabelName"].isin(wanted) & boxes["ImageID"].isin(found)]
    rows.merge(classes, on="LabelName").merge(selected, on="ImageID").to_csv(out, index=False)
print(len(selected))
"""

DUCKDB = """\
import os
import sys

import duckdb

*names, label, annotation, image_url, out = sys.argv[1:]
db = duckdb.connect(config={"threads": os.cpu_count()})


def ask(statement, **values):
    return db.execute(statement, values)


ask(
    "CREATE TABLE wanted AS SELECT LabelName, DisplayName AS Category FROM read_csv($label, header = true) "
    "WHERE list_contains($names, DisplayName)",
    label=label,
    names=names,
)
# One pass over the boxes: all of their columns only where the rows are asked for.
ask(
    f"CREATE TABLE hits AS SELECT {'boxes.*' if out else 'boxes.ImageID, LabelName'}, Category "
    "FROM read_csv($annotation, header = true) boxes JOIN wanted USING (LabelName)",
    annotation=annotation,
)
ask(
    "CREATE TABLE selected AS SELECT ImageID, OriginalURL FROM read_csv($image_url, header = true) WHERE ImageID IN "
    "(SELECT ImageID FROM hits GROUP BY ImageID HAVING count(DISTINCT LabelName) = (SELECT count(*) FROM wanted))",
    image_url=image_url,
)
if out:
    ask("COPY (SELECT * FROM hits JOIN selected USING (ImageID)) TO '" + out.replace("'", "''") + "' (HEADER)")
print(ask("SELECT count(*) FROM selected").fetchone()[0])
"""


@dataclass(frozen=True)
class Job:
    """One run: the tables, the new folder to work in, and a program's cache as the last filling left it."""

    tables: Tables
    folder: Path
    cache: Path

    @property
    def paths(self) -> list[str]:
        return [str(self.tables.classes), str(self.tables.boxes), str(self.tables.images)]

    @property
    def rows(self) -> Path:
        return self.folder / "rows.csv"


@dataclass(frozen=True)
class Contestant:
    """A way to get the answer: its command, and how its output says the number of images."""

    name: str
    question: str
    command: Callable[[Job], list[str]]
    answer: Callable[[str], int]
    fills_cache: bool = False

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("oid-async")


IMAGES = "the images"
ROWS = "the images and their box rows"
QUESTIONS = (IMAGES, ROWS)
Results = dict[Contestant, list[Cost]]


# --- contestants ---------------------------------------------------------------------------------------------


def last_number(stdout: str) -> int:
    return int(stdout.split()[-1])


def planned_images(stdout: str) -> int:
    return int(json.loads(stdout)["selected"])


def peer(package: str, code: str) -> tuple[list[Contestant], str]:
    """The two questions put to a peer, and what it calls itself."""
    python = harness.peer_python(package)

    def command(job: Job, out: str) -> list[str]:
        script = job.folder / f"ask_{package}.py"
        script.write_text(code, encoding="utf-8")
        return [str(python), str(script), *CATEGORIES, *job.paths, out]

    return [
        Contestant(package, IMAGES, lambda job: command(job, ""), last_number),
        Contestant(package, ROWS, lambda job: command(job, str(job.rows)), last_number),
    ], harness.peer_version(python, package)


def our_contestants(program: Path) -> list[Contestant]:
    categories = [word for name in CATEGORIES for word in ("--category", name)]

    def plan(job: Job, cache: Path, *options: str) -> list[str]:
        folders = ["--savepath", str(job.folder / "out"), "--cache-dir", str(cache)]
        return [str(program), "plan", *categories, "--type", "inter", *options, *folders, "--json"]

    def from_csv(job: Job) -> list[str]:
        label, annotation, image_url = job.paths
        # An empty cache each time: nothing may be left from another run.
        empty = job.folder / "cache"
        return plan(job, empty, "--label", label, "--annotation", annotation, "--imageURL", image_url)

    def from_mirror(job: Job) -> list[str]:
        return plan(job, job.cache, "--mirror", str(job.tables.root))

    return [
        Contestant("oid-async, CSV", IMAGES, from_csv, planned_images),
        Contestant("oid-async, first use", IMAGES, from_mirror, planned_images, fills_cache=True),
        Contestant("oid-async, its cache", IMAGES, lambda job: [*from_mirror(job), "--offline"], planned_images),
    ]


def our_box_rows() -> list[Contestant]:
    def from_csv(job: Job) -> list[str]:
        return [sys.executable, str(BOX_ROWS), *job.paths, str(job.rows)]

    def from_cache(job: Job) -> list[str]:
        return [sys.executable, str(BOX_ROWS), "--cache", str(job.cache), str(job.tables.root), str(job.rows)]

    return [
        Contestant("oid-async, CSV", ROWS, from_csv, last_number),
        Contestant("oid-async, its cache", ROWS, from_cache, last_number),
    ]


def find_contestants(program: Path) -> tuple[list[Contestant], list[str]]:
    """Every contestant there is and the versions; a missing peer is named and left out."""
    if not os.access(program, os.X_OK):
        raise BenchError(f"no program at {program} (--program)")
    contestants: list[Contestant] = []
    versions = []
    for package, code in (("pandas", PANDAS), ("duckdb", DUCKDB)):
        try:
            found, version = peer(package, code)
        except BenchError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        contestants += found
        versions.append(version)
    contestants += our_contestants(program)
    versions.append(harness.tool_version(program, "--version"))
    contestants += our_box_rows()
    return contestants, versions


# --- runs ----------------------------------------------------------------------------------------------------


def read_whole(file: Path) -> None:
    """Bring a file into the page cache: whoever finds it there should not owe it to the contestant before."""
    with file.open("rb") as source:
        while source.read(1 << 24):
            pass


def count_rows(file: Path) -> int:
    try:
        with file.open(encoding="utf-8", newline="") as source:
            return sum(1 for _ in csv.reader(source)) - 1
    except OSError as error:
        raise BenchError(f"no box rows were written: {error}") from error


def run_once(contestant: Contestant, job: Job, timeout: float) -> tuple[Cost, tuple[int, ...]]:
    """One timed run in a new folder; gives its answer too: the images, and the box rows where those are asked for."""
    job.folder.mkdir()
    try:
        if contestant.fills_cache:
            shutil.rmtree(job.cache, ignore_errors=True)
        cost = harness.measure(contestant.command(job), job.folder, timeout)
        answer: tuple[int, ...] = (contestant.answer(cost.stdout),)
        if contestant.question == ROWS:
            answer += (count_rows(job.rows),)
    except (ValueError, TypeError, LookupError) as error:
        raise BenchError(f"{contestant.name}: unexpected output ({error!r}): {cost.stdout[-500:]!r}") from error
    except BenchError as error:
        raise BenchError(f"{contestant.name}, {contestant.question}: {error}") from error
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    return cost, answer


def check_answers(answers: dict[Contestant, tuple[int, ...]]) -> None:
    """All must have found as many images, and all that wrote box rows as many rows."""
    for place, what in enumerate(("images", "box rows")):
        given = {who: answer[place] for who, answer in answers.items() if len(answer) > place}
        if len(set(given.values())) > 1:
            said = "; ".join(f"{who.name} ({who.question}) {number}" for who, number in given.items())
            raise BenchError(f"the contestants disagree on the number of {what}: {said}")
        if 0 in given.values():
            raise BenchError(f"no {what} found: too few images in the tables to compare anything (--images)")


def run_rounds(
    contestants: list[Contestant], tables: Tables, work: Path, args: argparse.Namespace
) -> tuple[Results, dict[Contestant, tuple[int, ...]]]:
    """Every contestant once per round, in an order that rotates.

    The cache is filled before it is read: in the first round by the order of the contestants, and later at the latest
    by the round before.
    """
    results: Results = {contestant: [] for contestant in contestants}
    answers: dict[Contestant, tuple[int, ...]] = {}
    for number in range(args.rounds):
        first = number % len(contestants)
        for contestant in contestants[first:] + contestants[:first]:
            job = Job(tables, work / "run", work / "cache")
            for file in tables.files:
                read_whole(file)
            cost, answer = run_once(contestant, job, args.timeout)
            answers[contestant] = answer
            check_answers(answers)
            results[contestant].append(cost)
            print(
                f"round {number + 1}: {contestant.name:20} {contestant.question:30} "
                f"{cost.wall:7.2f} s {cost.peak_mb:8.0f} MB",
                file=sys.stderr,
            )
    return results, answers


# --- report --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One contestant over all rounds: seconds (median and extremes), CPU seconds, and the highest peak in MB."""

    name: str
    is_ours: bool
    seconds: float
    fastest: float
    slowest: float
    cpu: float
    peak: float


def figures(results: Results, question: str) -> list[Figures]:
    return [
        Figures(
            who.name,
            who.is_ours,
            statistics.median(cost.wall for cost in costs),
            min(cost.wall for cost in costs),
            max(cost.wall for cost in costs),
            statistics.median(cost.cpu for cost in costs),
            max(cost.peak_mb for cost in costs),
        )
        for who, costs in results.items()
        if who.question == question
    ]


def ratio(baseline: float | None, own: float) -> str:
    return f"{baseline / own:.1f}" if baseline else "-"


def question_table(results: Results, question: str) -> list[str]:
    rows = figures(results, question)
    if not rows:
        return []
    base = next((row for row in rows if row.name == BASELINE), None)
    head = [question, "seconds (median)", "min-max", "CPU s", "peak RSS MB", "times faster", "times less memory"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in rows:
        lines.append(
            [
                row.name,
                f"{row.seconds:.2f}",
                f"{row.fastest:.2f}-{row.slowest:.2f}",
                f"{row.cpu:.2f}",
                f"{row.peak:.0f}",
                ratio(base.seconds if base else None, row.seconds),
                ratio(base.peak if base else None, row.peak),
            ]
        )
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines)]


def report(
    results: Results,
    answers: dict[Contestant, tuple[int, ...]],
    tables: Tables,
    versions: list[str],
    args: argparse.Namespace,
) -> str:
    longest = max(answers.values(), key=len)
    found = f"{longest[0]} images" + (f", {longest[1]} box rows" if len(longest) > 1 else "")
    size = sum(file.stat().st_size for file in tables.files)
    lines = [
        f"{' and '.join(CATEGORIES)} in {size / 1e6:.0f} MB of tables: {found}; {args.rounds} rounds; "
        f"ratios are to {BASELINE}.",
        f"{harness.machine()}; {', '.join(versions)}.",
        *(line for question in QUESTIONS for line in question_table(results, question)),
    ]
    return "\n".join(lines) + "\n"


# --- picture -------------------------------------------------------------------------------------------------

LABELS, PANEL, GAP = 190, 260, 85
HEAD, TITLE = 34, 74


def picture(results: Results, heading: str, note: str) -> str:
    """Two panels of bars side by side, seconds and memory, one group of rows for each question."""
    groups = [(question, rows) for question in QUESTIONS if (rows := figures(results, question))]
    every = [row for _, rows in groups for row in rows]
    most_seconds, most_memory = max(row.seconds for row in every), max(row.peak for row in every)
    left, right = LABELS + 16, LABELS + 16 + PANEL + GAP
    body: list[str] = []
    y = float(TITLE)
    for question, rows in groups:
        body.append(text(16, y + 6, question[0].upper() + question[1:], 13, INK, ' font-weight="600"'))
        y += HEAD
        top = y - ROW / 2
        for row in rows:
            body.append(text(LABELS + 6, y + 4.5, row.name, 13, INK, ' text-anchor="end"'))
            body += bar(left, y, PANEL * row.seconds / most_seconds, f"{row.seconds:.1f} s", is_ours=row.is_ours)
            body += bar(right, y, PANEL * row.peak / most_memory, f"{row.peak:,.0f} MB", is_ours=row.is_ours)
            y += ROW
        body += [
            f'<path d="M{x} {top:.1f}V{y - ROW / 2:.1f}" stroke="{GRID}" stroke-width="1"/>' for x in (left, right)
        ]
        y += 4
    body += [
        text(left, 54, "seconds, shorter is better", 12, FAINT),
        text(right, 54, "peak memory, shorter is better", 12, FAINT),
    ]
    return page(heading, note, round(y + 28), body)


# --- command line --------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways to select images from full-size tables.")
    parser.add_argument("--folder", type=Path, help="tables made by tables.py (default: make them, remove them after)")
    parser.add_argument("--images", type=int, default=PUBLISHED_IMAGES, help="size of the tables to make")
    parser.add_argument("--seed", type=int, default=1, help="seed of the tables to make")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where tables and caches go (default: the temporary folder)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds allowed for one run of one contestant")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--svg", type=Path, help="also draw the figures into this file")
    args = parser.parse_args()
    if args.images < MIN_IMAGES:
        parser.error(f"--images: at least {MIN_IMAGES}")
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


@contextlib.contextmanager
def tables_and_room(args: argparse.Namespace) -> Iterator[tuple[Tables, Path]]:
    """The tables, made if none are given, and a folder to work in.

    Not on the RAM disk unless asked for: the largest contestant needs the memory itself.
    """
    parent = args.work_dir or Path(tempfile.gettempdir())
    given = Tables(args.folder) if args.folder else None
    if given and not given.complete:
        raise BenchError(f"{args.folder} lacks tables; make them with tables.py")
    size = sum(file.stat().st_size for file in given.files) if given else args.images * 1700
    # The cache twice over, as a table may stand there as CSV while it is being converted, and the tables themselves.
    with harness.work_folder(parent, size * (2 if given else 3)) as work:
        yield given or make_tables(work / "tables", args.images, args.seed), work


def run(args: argparse.Namespace) -> None:
    contestants, versions = find_contestants(args.program)
    with tables_and_room(args) as (tables, work):
        results, answers = run_rounds(contestants, tables, work, args)
        words = report(results, answers, tables, versions, args)
        size = sum(file.stat().st_size for file in tables.files)
    print(words, end="")
    if args.out:
        args.out.write_text(words, encoding="utf-8")
    if args.svg:
        heading = f"{' and '.join(CATEGORIES)}: {size / 1e9:.1f} GB of tables to a selection"
        note = f"Median of {args.rounds} rounds, whole processes, {os.cpu_count()} CPUs; {', '.join(versions)}"
        args.svg.write_text(picture(results, heading, note), encoding="utf-8")


def main() -> None:
    harness.carry_out(run, parse_arguments())


if __name__ == "__main__":
    main()
