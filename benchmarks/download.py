"""Compare oid-async with its peers, and with itself, fetching the same files from nginx on this machine.

Usage:
    python benchmarks/download.py [--only PROFILE,...] [--rounds R] [--out FILE.md] [--svg FILE.svg]

Every contestant is a process of its own, timed from spawn to exit, once per round in an order that rotates; what it
wrote is compared with what was served.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
import server
from contestants import OURS, PEERS, Contestant, Job, find_peers, offered_options, our_summary, ours
from corpus import Corpus, make_corpus, open_corpus
from drawing import FAINT, GRID, INK, ROW, WIDTH, bar, page, text
from figures import Results, cost_table, fastest, rates, ratio_table
from harness import BenchError, Cost

HASHED_IMAGES = 50
NO_HASH = f"{OURS} --no-hash"
AUTO = f"{OURS}, auto"
SWEEP = (16, 32, 64, 128, 256, 512)
DELAYS_MS = (50, 200)
LATENCY_IMAGES = 6_000
SMALL_JOB = 100

# The profiles, and the peers of each; where there are none, our program is compared with itself.
OVER_HTTP, OVER_HTTPS = ("curl", "aria2c", "parfive", "img2dataset"), ("curl", "aria2c")
PROCESS_PROFILES = ("processes-300k", "processes-24k", "small-jobs")
PEERS_IN: dict[str, tuple[str, ...]] = {
    "300k": OVER_HTTP,
    "24k": OVER_HTTP,
    "https-300k": OVER_HTTPS,
    "https-24k": OVER_HTTPS,
    **{f"latency-{delay_ms}": () for delay_ms in DELAYS_MS},
    **dict.fromkeys(PROCESS_PROFILES, ()),
}


@dataclass(frozen=True)
class Kind:
    """A set of images to serve: how many of what size."""

    name: str
    images: int
    size: int


LARGE = Kind("large", 4_000, 300_000)
SMALL = Kind("small", 20_000, 24_000)


@dataclass(frozen=True)
class Profile:
    """What is compared under which conditions.

    `images`: the first so many of the kind, None for all.  `pairs`: whose speed is divided by whose; of several rivals
    by that of the fastest.
    """

    name: str
    title: str
    kind: Kind
    contestants: Sequence[Contestant]
    pairs: Sequence[tuple[str, tuple[str, ...]]]
    images: int | None = None
    https: bool = False
    delay_ms: int = 0


@dataclass(frozen=True)
class Finding:
    """The results of one profile and the number of images each run fetched."""

    profile: Profile
    images: int
    results: Results


# --- profiles ------------------------------------------------------------------------------------------------


def against_peers(name: str, title: str, kind: Kind, field: list[Contestant], *, https: bool = False) -> Profile:
    """Each of ours against each peer."""
    own = [one.name for one in field if one.is_ours]
    pairs = [(our_name, (one.name,)) for our_name in own for one in field if not one.is_ours]
    pairs += [(NO_HASH, (OURS,))] if NO_HASH in own else []
    return Profile(name, title, kind, field, pairs, https=https)


def latency_profile(program: Path, delay_ms: int, images: int) -> Profile:
    limit = ("--limit", str(images))
    fixed = [ours(program, f"{OURS}, {n} at once", *limit, "--concurrency", str(n), connections=False) for n in SWEEP]
    auto = ours(program, AUTO, *limit, connections=False)
    pairs = [(AUTO, tuple(one.name for one in fixed))]
    title = f"24 KB, every answer {delay_ms} ms late"
    return Profile(f"latency-{delay_ms}", title, SMALL, [*fixed, auto], pairs, images, delay_ms=delay_ms)


def process_profiles(program: Path, small_job: int) -> list[Profile]:
    """One process, two, and what the program chooses by itself."""

    def field(*options: str) -> list[Contestant]:
        return [
            ours(program, f"{OURS} --processes {count}", "--processes", count, *options) for count in ("1", "2", "auto")
        ]

    names = [one.name for one in field()]
    pairs = [(name, (names[0],)) for name in names[1:]]
    limited = field("--limit", str(small_job))
    return [
        Profile("processes-300k", "300 KB, one process and two", LARGE, field(), pairs),
        Profile("processes-24k", "24 KB, one process and two", SMALL, field(), pairs),
        Profile("small-jobs", "300 KB, one process and two, jobs of few images", LARGE, limited, pairs, small_job),
    ]


def make_profiles(names: list[str], program: Path, nginx: Path, scale: float) -> list[Profile]:
    """The named profiles as far as the installed tools allow; what is missing is named and left out."""
    offered = offered_options(program)
    peers = find_peers([peer for peer in PEERS if any(peer in PEERS_IN[name] for name in names)])
    own = [ours(program, OURS)]
    if "--no-hash" in offered:
        own.append(ours(program, NO_HASH, "--no-hash"))
    elif any(PEERS_IN[name] == OVER_HTTP for name in names):
        leave_out([NO_HASH], "this version has no such option")

    def field(name: str) -> list[Contestant]:
        return [peers[peer] for peer in PEERS_IN[name] if peer in peers]

    made = [
        against_peers("300k", "300 KB", LARGE, [*field("300k"), *own]),
        against_peers("24k", "24 KB", SMALL, [*field("24k"), *own]),
        against_peers("https-300k", "300 KB, https", LARGE, [*field("https-300k"), own[0]], https=True),
        against_peers("https-24k", "24 KB, https", SMALL, [*field("https-24k"), own[0]], https=True),
        *(latency_profile(program, delay_ms, round(LATENCY_IMAGES * scale)) for delay_ms in DELAYS_MS),
        *process_profiles(program, SMALL_JOB),
    ]
    missing: set[str] = set()
    try:
        server.echo_module(nginx)
    except BenchError as error:
        missing |= leave_out([name for name in names if name.startswith("latency")], str(error))
    if "--processes" not in offered:
        missing |= leave_out([name for name in names if name in PROCESS_PROFILES], "this version has no --processes")
    return [profile for profile in made if profile.name in names and profile.name not in missing]


def leave_out(names: list[str], why: str) -> set[str]:
    if names:
        print(f"left out: {', '.join(names)}: {why}", file=sys.stderr)
    return set(names)


def chosen_names(only: str | None) -> list[str]:
    """The profiles named, or whose name starts with a name and a dash; all if none are."""
    if only is None:
        return list(PEERS_IN)
    words = [word.strip() for word in only.split(",") if word.strip()]
    chosen = {word: [name for name in PEERS_IN if name == word or name.startswith(f"{word}-")] for word in words}
    for word, found in chosen.items():
        if not found:
            raise BenchError(f"--only: no profile {word}; there are {', '.join(PEERS_IN)}")
    return [name for name in PEERS_IN if any(name in found for found in chosen.values())]


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
    job.out.mkdir(parents=True)
    try:
        harness.warm_memory(job.folder, job.corpus.image_bytes)
        cost = harness.measure(contestant.command(job), job.folder, timeout, contestant.variables(job))
        check_images(job.corpus, contestant.images(job), seed)
        if contestant.is_ours:
            our_summary(cost, len(job.corpus.sizes))
    except (BenchError, OSError) as error:
        raise BenchError(f"{contestant.name}: {error}") from error
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    return cost


def run_rounds(profile: Profile, job: Job, args: argparse.Namespace) -> Results:
    """Every contestant once per round; the first of one round is the last of the next."""
    field = profile.contestants
    results: Results = {one.name: [] for one in field}
    for number in range(args.rounds):
        first = number % len(field)
        for contestant in (*field[first:], *field[:first]):
            cost = run_once(contestant, job, args.seed + number, args.timeout)
            results[contestant.name].append(cost)
            rate = len(job.corpus.sizes) / cost.wall
            said = f"{contestant.name:26} {cost.wall:7.2f} s {rate:8.0f} images/s"
            print(f"{profile.name}, round {number + 1}: {said}", file=sys.stderr)
    return results


def scaled(kind: Kind, scale: float) -> int:
    return max(SMALL_JOB, round(kind.images * scale))


def room_needed(profiles: list[Profile], args: argparse.Namespace) -> int:
    """Bytes of what is made to be served, and of the largest download; img2dataset needs a block more per image."""
    kinds = {one.kind for one in profiles}
    each = {kind: round(scaled(kind, args.scale) * (kind.size * 1.1 + 16_000)) for kind in kinds}
    made = sum(size for kind, size in each.items() if given_folder(kind, args) is None)
    return made + max(each.values())


def given_folder(kind: Kind, args: argparse.Namespace) -> Path | None:
    folder: Path | None = getattr(args, kind.name)
    return folder


def measure_profile(
    profile: Profile, corpus: Corpus, work: Path, nginx: Path, certificate: server.Certificate, args: argparse.Namespace
) -> Finding:
    part = corpus.first(profile.images) if profile.images else corpus
    trusted = certificate if profile.https else None
    with server.serve(nginx, corpus.root, certificate=trusted, delay_s=profile.delay_ms / 1000) as url:
        job = Job(url, part, work / "run", args.connections, trusted.authority if trusted else None)
        return Finding(profile, len(part.sizes), run_rounds(profile, job, args))


# --- report --------------------------------------------------------------------------------------------------


def preamble(profiles: list[Profile], nginx: Path, args: argparse.Namespace) -> str:
    versions = {one.version: None for profile in profiles for one in profile.contestants}
    return (
        f"{time.strftime('%Y-%m-%d')}; {harness.machine()}; load average at the start {harness.load_average():.1f}; "
        f"{', '.join([harness.tool_version(nginx, '-v'), *versions])}.\n"
        f"{args.rounds} rounds, {args.connections} connections unless said, all checks on unless said.\n"
    )


def section(finding: Finding) -> str:
    profile, results = finding.profile, finding.results
    pairs = [(name, fastest(results, rivals)) for name, rivals in profile.pairs]
    lines = [
        f"### {profile.name}: {finding.images:,} images of {profile.title}",
        "",
        *cost_table(results, finding.images),
        "",
        *ratio_table(results, pairs),
    ]
    return "\n".join(lines) + "\n"


# --- picture -------------------------------------------------------------------------------------------------

DRAWN = ("300k", "24k", "https-300k", "https-24k")
NAMES, HEAD, NUMBER = 160, 64, 52


def picture(findings: list[Finding], note: str) -> str:
    """A column for each profile, a row for each contestant; every column has a scale of its own."""
    names = list({name: None for finding in findings for name in finding.results})
    column = (WIDTH - NAMES - 24) / len(findings)
    body: list[str] = []
    for place, name in enumerate(names):
        weight = ' font-weight="600"' if name.startswith(OURS) else ""
        body.append(text(NAMES, HEAD + ROW * (place + 1) + 4.5, name, 13, INK, f'{weight} text-anchor="end"'))
    for place, finding in enumerate(findings):
        left = NAMES + 12 + column * place
        medians = {name: rates(costs, finding.images).median for name, costs in finding.results.items()}
        body.append(text(left, HEAD, finding.profile.title, 13, INK, ' font-weight="600"'))
        for row, name in enumerate(names):
            y = HEAD + ROW * (row + 1)
            if name in medians:
                width = (column - NUMBER) * medians[name] / max(medians.values())
                body += bar(left, y, width, f"{medians[name]:,.0f}", is_ours=name.startswith(OURS))
        bottom = HEAD + ROW * (len(names) + 0.5)
        body.append(f'<path d="M{left:.1f} {HEAD + ROW / 2:.1f}V{bottom:.1f}" stroke="{GRID}" stroke-width="1"/>')
    body.append(text(WIDTH - 16, 28, "images a second, longer is better", 12, FAINT, ' text-anchor="end"'))
    return page("Downloading the same images", note, round(HEAD + ROW * (len(names) + 1) + 28), body)


def picture_note(args: argparse.Namespace) -> str:
    return (
        f"Medians of {args.rounds} rounds, {args.connections} connections, nginx on the same {os.cpu_count()} CPUs; "
        "whole processes. Only oid-async reads tables and checks what it receives."
    )


# --- command line --------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare oid-async with its peers on this machine.")
    parser.add_argument("--only", metavar="PROFILE,...", help="these profiles, or all that start so, not every one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the images, to try things out")
    parser.add_argument("--connections", type=int, default=64, help="connections at a time, for every tool")
    parser.add_argument("--large", type=Path, metavar="FOLDER", help="serve this folder made by corpus.py for 300 KB")
    parser.add_argument("--small", type=Path, metavar="FOLDER", help="serve this folder made by corpus.py for 24 KB")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds allowed for one run of one tool")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--svg", type=Path, help="also draw the comparison with the peers into this file")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


def run(args: argparse.Namespace) -> None:
    if not os.access(args.program, os.X_OK):
        raise BenchError(f"no program at {args.program} (--program)")
    nginx = harness.find_tool("nginx")
    profiles = make_profiles(chosen_names(args.only), args.program, nginx, args.scale)
    if not profiles:
        raise BenchError("nothing to measure")
    words = preamble(profiles, nginx, args)
    print(words, flush=True)
    findings: list[Finding] = []
    with harness.work_folder(args.work_dir, room_needed(profiles, args)) as work:
        certificate = server.make_certificate(work / "certificate")

        @functools.cache
        def served(kind: Kind) -> Corpus:
            if folder := given_folder(kind, args):
                return open_corpus(folder)
            return make_corpus(work / kind.name, scaled(kind, args.scale), kind.size, args.seed)

        for profile in profiles:
            findings.append(measure_profile(profile, served(profile.kind), work, nginx, certificate, args))
            words += "\n" + section(findings[-1])
            print(section(findings[-1]), flush=True)
            # After each profile: an error in a later one does not cost the earlier ones.
            if args.out:
                args.out.write_text(words, encoding="utf-8")
            drawn = [finding for finding in findings if finding.profile.name in DRAWN]
            if args.svg and drawn:
                args.svg.write_text(picture(drawn, picture_note(args)), encoding="utf-8")


def main() -> None:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        run(args)
    except BenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
