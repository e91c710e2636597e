"""Compare oid-async with its peers, and with itself, fetching the same files from nginx on this machine.

Usage:
    python benchmarks/download.py [--only PROFILE,...] [--tools NAME,...] [--rounds R] [--out FILE.md] [--svg FILE.svg]

Every contestant is a process of its own, timed from spawn to exit, once per round with few images and once with four
times as many, in an order that rotates; what it wrote is compared with what was served.  What the further images took
is the slope, what is left of the smaller run is start-up.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import harness
import server
from contestants import OURS, Contestant, Job, our_summary
from corpus import Corpus, make_corpus, open_corpus
from drawing import FAINT, GRID, INK, ROW, WIDTH, bar, page, text
from figures import (
    FACTOR,
    Pair,
    Results,
    Slopes,
    cost_table,
    fastest,
    ratio_table,
    slope_rates,
    slope_seconds,
    slope_table,
    start_table,
    whole_seconds,
)
from harness import BenchError, Cost
from profiles import Kind, Profile, chosen_names, chosen_tools, make_profiles

HASHED_IMAGES = 50
# So many different files are served, each under many names: 77 MB of 300 KB, which stay in memory.
BODIES = 256

Served = Callable[[Kind], Corpus]


@dataclass(frozen=True)
class Finding:
    """What each contestant's runs took: for every round one of each size, in images, or of the only size.

    Costs are of an image that is sent: one that is refused is sent twice.
    """

    profile: Profile
    sizes: Mapping[str, tuple[int, ...]]
    rounds: Mapping[str, list[tuple[Cost, ...]]]

    @property
    def slopes(self) -> Slopes:
        return {
            name: [Pair(self.sizes[name][0] * self.profile.answers(name), *costs) for costs in rounds]
            for name, rounds in self.rounds.items()
            if len(self.sizes[name]) > 1
        }

    @property
    def whole(self) -> Results:
        """The larger runs."""
        return {name: [costs[-1] for costs in rounds] for name, rounds in self.rounds.items()}

    @property
    def images(self) -> dict[str, int]:
        """Sent in the larger runs."""
        return {name: sizes[-1] * self.profile.answers(name) for name, sizes in self.sizes.items()}


# --- runs ----------------------------------------------------------------------------------------------------


def digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def check_images(corpus: Corpus, files: dict[str, Path], seed: int) -> None:
    """Names and sizes of all images, the content of a sample."""
    got = {image_id: file.stat().st_size for image_id, file in files.items()}
    if got != corpus.sizes:
        wrong = sorted(name for name in got.keys() | corpus.sizes.keys() if got.get(name) != corpus.sizes.get(name))
        raise BenchError(f"{len(wrong)} files are missing, unexpected or of the wrong size, such as {wrong[:3]}")
    for image_id in random.Random(seed).sample(sorted(corpus.sizes), min(HASHED_IMAGES, len(corpus.sizes))):
        if digest(files[image_id]) != digest(corpus.image(image_id)):
            raise BenchError(f"{image_id}.jpg differs from the served file")


def run_once(contestant: Contestant, job: Job, seed: int, timeout: float) -> Cost:
    """One timed run in a new folder, checked and removed afterwards."""
    refuses, images = contestant.is_refusing, len(job.corpus.sizes)
    job.out.mkdir(parents=True)
    try:
        harness.warm_memory(job.folder, 0 if refuses else job.corpus.image_bytes)
        command, variables = contestant.command(job), contestant.variables(job)
        cost = harness.measure(command, job.folder, timeout, variables, status=1 if refuses else 0)
        check_images(job.corpus.first(0) if refuses else job.corpus, contestant.images(job), seed)
        if contestant.is_ours:
            our_summary(cost, images, is_refusing=refuses)
    except (BenchError, OSError) as error:
        raise BenchError(f"{contestant.name}, {images} images: {error}") from error
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    return cost


def run_rounds(profile: Profile, jobs: Mapping[Kind, Job], args: argparse.Namespace) -> Finding:
    """Every contestant once per round; the first of one round is the last of the next."""
    field = profile.contestants
    whole = {one.name: jobs[profile.kind_of(one)] for one in field}
    sizes = {one.name: profile.sizes(one, len(whole[one.name].corpus.sizes)) for one in field}

    def run_sizes(contestant: Contestant, seed: int) -> tuple[Cost, ...]:
        job = whole[contestant.name]
        return tuple(run_once(contestant, job.first(n), seed, args.timeout) for n in sizes[contestant.name])

    if profile.is_warm:
        for contestant in field:
            run_sizes(contestant, args.seed)
    rounds: dict[str, list[tuple[Cost, ...]]] = {one.name: [] for one in field}
    for number in range(args.rounds):
        first = number % len(field)
        for contestant in (*field[first:], *field[:first]):
            costs = run_sizes(contestant, args.seed + number)
            rounds[contestant.name].append(costs)
            said = " ".join(f"{cost.wall:7.2f} s" for cost in costs)
            rate = sizes[contestant.name][-1] / costs[-1].wall
            words = f"{contestant.name:34} {said} {rate:8.0f} images/s"
            print(f"{profile.name}, round {number + 1}: {words}", file=sys.stderr)
    return Finding(profile, sizes, rounds)


def room_needed(profiles: list[Profile], args: argparse.Namespace) -> int:
    """Bytes of what is made to be served, and of the largest download; img2dataset needs a block more per image."""
    kinds = {kind for profile in profiles for kind in profile.all_kinds()}
    made = [kind for kind in kinds if given_folder(kind, args) is None]
    served = sum(round(BODIES * kind.size * 1.1 + kind.images * 3_000) for kind in made)
    return served + max(round(FACTOR * kind.few * (kind.size * 1.1 + 16_000)) for kind in kinds)


def given_folder(kind: Kind, args: argparse.Namespace) -> Path | None:
    folder: Path | None = getattr(args, kind.name, None)
    return folder


def made_corpora(work: Path, args: argparse.Namespace) -> Served:
    """Makes each kind when it is first asked for, or opens the given folder."""

    @functools.cache
    def served(kind: Kind) -> Corpus:
        if folder := given_folder(kind, args):
            return open_corpus(folder)
        return make_corpus(work / kind.name, kind.images, kind.size, args.seed, bodies=BODIES, form=kind.form)

    return served


@contextlib.contextmanager
def open_jobs(
    profile: Profile, served: Served, work: Path, nginx: Path, certificate: server.Certificate, args: argparse.Namespace
) -> Iterator[dict[Kind, Job]]:
    """Serve all kinds of the profile; gives a job with all of its images for each."""
    trusted = certificate if profile.https else None
    kept = work / "kept"
    kept.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, kept, ignore_errors=True)
        jobs = {}
        for kind in profile.all_kinds():
            corpus = served(kind)
            delay_s = profile.delay_ms / 1000
            url = stack.enter_context(server.serve(nginx, corpus.root, certificate=trusted, delay_s=delay_s))
            part = corpus.of_class(profile.category) if profile.category else corpus
            authority = trusted.authority if trusted else None
            jobs[kind] = Job(url, part, work / "run", kept, args.connections, authority)
        yield jobs


# --- report --------------------------------------------------------------------------------------------------


def preamble(profiles: list[Profile], nginx: Path, args: argparse.Namespace) -> str:
    versions = {one.version: None for profile in profiles for one in profile.contestants}
    return (
        f"{time.strftime('%Y-%m-%d')}; {harness.machine()}; load average at the start {harness.load_average():.1f}; "
        f"{', '.join([harness.tool_version(nginx, '-v'), *versions])}.\n"
        f"{args.rounds} rounds, {args.connections} connections, ours as it chooses, all checks on unless said.\n"
    )


def heading(finding: Finding) -> str:
    """The profile with the numbers of images, those of most contestants first."""
    names_of: dict[tuple[int, ...], list[str]] = {}
    for name, sizes in finding.sizes.items():
        names_of.setdefault(sizes, []).append(name)
    words = {sizes: " and ".join(f"{images:,}" for images in sizes) for sizes in names_of}
    usual, *others = sorted(names_of, key=lambda sizes: -len(names_of[sizes]))
    fewer = "".join(f"; {words[sizes]} for {' and '.join(names_of[sizes])}" for sizes in others)
    return f"#### {finding.profile.name}: {words[usual]} images of {finding.profile.title}{fewer}"


def section(finding: Finding) -> str:
    slopes, whole = finding.slopes, finding.whole
    columns = {"whole process": whole_seconds(whole, finding.images)}
    if slopes:
        columns = {"slope": slope_seconds(slopes)} | columns
    decisive = next(iter(columns.values()))
    pairs = [(name, fastest(decisive, rivals)) for name, rivals in finding.profile.pairs]
    tables = [
        slope_table(slopes) if slopes else [],
        start_table(whole) if finding.profile.is_warm else cost_table(whole, finding.images),
        ratio_table(pairs, columns),
    ]
    parts = [heading(finding), *("\n".join(table) for table in tables if table)]
    return "\n\n".join(parts) + "\n"


# --- picture -------------------------------------------------------------------------------------------------

DRAWN = ("300k", "24k", "https-300k", "https-24k")
NAMES, HEAD, NUMBER = 176, 64, 52


def picture(findings: list[Finding], note: str) -> str:
    """A column for each profile, a row for each contestant; every column has a scale of its own."""
    names = list({name: None for finding in findings for name in finding.slopes})
    column = (WIDTH - NAMES - 24) / len(findings)
    body: list[str] = []
    for place, name in enumerate(names):
        weight = ' font-weight="600"' if name.startswith(OURS) else ""
        body.append(text(NAMES, HEAD + ROW * (place + 1) + 4.5, name, 13, INK, f'{weight} text-anchor="end"'))
    for place, finding in enumerate(findings):
        left = NAMES + 12 + column * place
        medians = {name: slope_rates(pairs).median for name, pairs in finding.slopes.items()}
        body.append(text(left, HEAD, finding.profile.title, 13, INK, ' font-weight="600"'))
        for row, name in enumerate(names):
            y = HEAD + ROW * (row + 1)
            if name in medians:
                width = (column - NUMBER) * medians[name] / max(medians.values())
                body += bar(left, y, width, f"{medians[name]:,.0f}", is_ours=name.startswith(OURS))
        bottom = HEAD + ROW * (len(names) + 0.5)
        body.append(f'<path d="M{left:.1f} {HEAD + ROW / 2:.1f}V{bottom:.1f}" stroke="{GRID}" stroke-width="1"/>')
    body.append(text(WIDTH - 16, 28, "images a second of the slope, longer is better", 12, FAINT, ' text-anchor="end"'))
    return page("Downloading the same images", note, round(HEAD + ROW * (len(names) + 1) + 28), body)


def picture_note(args: argparse.Namespace) -> str:
    return (
        f"Medians of {args.rounds} rounds, {args.connections} connections, nginx on the same {os.cpu_count()} CPUs; "
        "the slope, without start-up. Only oid-async checks what it receives."
    )


# --- command line --------------------------------------------------------------------------------------------


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What is fetched by which tools, from where and under which limits."""
    parser.add_argument("--tools", metavar="NAME,...", help="these contestants alone, such as curl,oid-async")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the images, to try things out")
    parser.add_argument("--connections", type=int, default=64, help="connections at a time, for every tool but ours")
    parser.add_argument("--large", type=Path, metavar="FOLDER", help="serve this folder made by corpus.py for 300 KB")
    parser.add_argument("--small", type=Path, metavar="FOLDER", help="serve this folder made by corpus.py for 24 KB")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds allowed for one run of one tool")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the report to this file")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare oid-async with its peers on this machine.")
    parser.add_argument("--only", metavar="PROFILE,...", help="these profiles, or all that start so, not every one")
    parser.add_argument("--rounds", type=int, default=5)
    add_common_arguments(parser)
    parser.add_argument("--svg", type=Path, help="also draw the comparison with the peers into this file")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


def run(args: argparse.Namespace) -> None:
    if not os.access(args.program, os.X_OK):
        raise BenchError(f"no program at {args.program} (--program)")
    nginx = harness.find_tool("nginx")
    names, is_wanted = chosen_names(args.only), chosen_tools(args.tools)
    profiles = make_profiles(names, args.program, nginx, args.scale, is_wanted)
    if not profiles:
        raise BenchError("nothing to measure")
    words = preamble(profiles, nginx, args)
    begun = time.monotonic()
    print(words, flush=True)
    findings: list[Finding] = []
    with harness.work_folder(args.work_dir, room_needed(profiles, args)) as work:
        certificate, served = server.make_certificate(work / "certificate"), made_corpora(work, args)
        for profile in profiles:
            with open_jobs(profile, served, work, nginx, certificate, args) as jobs:
                findings.append(run_rounds(profile, jobs, args))
            words += "\n" + section(findings[-1])
            print(section(findings[-1]), flush=True)
            # After each profile: an error in a later one does not cost the earlier ones.
            if args.out:
                args.out.write_text(words, encoding="utf-8")
            print(f"{(time.monotonic() - begun) / 60:.1f} minutes", file=sys.stderr)
            drawn = [finding for finding in findings if finding.profile.name in DRAWN]
            if args.svg and drawn:
                args.svg.write_text(picture(drawn, picture_note(args)), encoding="utf-8")


def main() -> None:
    harness.carry_out(run, parse_arguments())


if __name__ == "__main__":
    main()
