"""Compare oid-async with curl and aria2c fetching the same files from nginx on this machine.

Usage:
    python benchmarks/download.py [--images N] [--size BYTES] [--rounds R] [--connections C] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from corpus import Corpus, make_corpus
from harness import BenchError, Cost

OURS = "oid-async"
HASHED_IMAGES = 50


@dataclass(frozen=True)
class Job:
    """One run: where to fetch from and the new folder to work in."""

    url: str
    corpus: Corpus
    folder: Path
    connections: int


@dataclass(frozen=True)
class Tool:
    """A downloader: how to call it, and where under the job's folder its images end up."""

    name: str
    version: str
    command: Callable[[Job], list[str]]
    images: str


Results = dict[str, list[Cost]]


# --- tools ---------------------------------------------------------------------------------------------------


def curl_tool(binary: Path) -> Tool:
    def command(job: Job) -> list[str]:
        config = job.folder / "curl.conf"
        config.write_text("".join(f'url = "{url}"\n' for url in job.corpus.image_urls(job.url)))
        quiet = ["-q", "--silent", "--show-error", "--fail"]
        output = ["--remote-name-all", "--output-dir", str(job.folder / "out"), "-K", str(config)]
        return [str(binary), *quiet, "-Z", "--parallel-max", str(job.connections), *output]

    return Tool("curl", harness.tool_version(binary, "--version"), command, "out")


def aria2c_tool(binary: Path) -> Tool:
    def command(job: Job) -> list[str]:
        urls = job.folder / "aria2.txt"
        urls.write_text("".join(f"{url}\n" for url in job.corpus.image_urls(job.url)))
        quiet = ["--no-conf", "--quiet=true", "--summary-interval=0", "--download-result=hide"]
        lean = ["--file-allocation=none", "--auto-save-interval=0", "--max-download-result=0", "--deferred-input=true"]
        limits = [f"-j{job.connections}", "--max-connection-per-server=1", "--split=1"]
        return [str(binary), *quiet, *lean, *limits, "-i", str(urls), "-d", str(job.folder / "out")]

    return Tool("aria2c", harness.tool_version(binary, "--version"), command, "out")


def our_tool(program: Path) -> Tool:
    def command(job: Job) -> list[str]:
        return harness.our_command(program, job.url, job.folder, job.connections)

    return Tool(OURS, harness.tool_version(program, "--version"), command, "out/images")


def find_tools(program: Path) -> list[Tool]:
    """Every tool there is; a missing one is named and left out."""
    tools = []
    for name, make in (("curl", curl_tool), ("aria2c", aria2c_tool)):
        try:
            tools.append(make(harness.find_tool(name)))
        except BenchError as error:
            print(f"left out: {error}", file=sys.stderr)
    if os.access(program, os.X_OK):
        tools.append(our_tool(program))
    else:
        print(f"left out: {OURS}, no program at {program} (--program)", file=sys.stderr)
    if not tools:
        raise BenchError("no tool to measure")
    return tools


# --- runs ----------------------------------------------------------------------------------------------------


def digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def check_images(corpus: Corpus, folder: Path, seed: int) -> None:
    """Names and sizes of all images, the content of a sample."""
    with os.scandir(folder) as entries:
        got = {entry.name: entry.stat().st_size for entry in entries}
    wanted = {f"{image_id}.jpg": size for image_id, size in corpus.sizes.items()}
    if got != wanted:
        wrong = sorted(name for name in got.keys() | wanted.keys() if got.get(name) != wanted.get(name))
        raise BenchError(f"{len(wrong)} files are missing, unexpected or of the wrong size, such as {wrong[:3]}")
    for image_id in random.Random(seed).sample(sorted(corpus.sizes), min(HASHED_IMAGES, len(corpus.sizes))):
        if digest(folder / f"{image_id}.jpg") != digest(corpus.image(image_id)):
            raise BenchError(f"{image_id}.jpg differs from the served file")


def run_once(tool: Tool, job: Job, seed: int, timeout: float) -> Cost:
    """One timed run in a new folder, checked and removed afterwards."""
    (job.folder / "out").mkdir(parents=True)
    try:
        harness.warm_memory(job.folder, job.corpus.image_bytes)
        cost = harness.measure(tool.command(job), job.folder, timeout)
        check_images(job.corpus, job.folder / tool.images, seed)
    except BenchError as error:
        raise BenchError(f"{tool.name}: {error}") from error
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    return cost


def run_rounds(tools: list[Tool], url: str, corpus: Corpus, work: Path, args: argparse.Namespace) -> Results:
    """Every tool once per round; the first of one round is the last of the next."""
    results: Results = {tool.name: [] for tool in tools}
    for number in range(args.rounds):
        first = number % len(tools)
        for tool in tools[first:] + tools[:first]:
            job = Job(url, corpus, work / "run", args.connections)
            cost = run_once(tool, job, args.seed + number, args.timeout)
            if tool.name == OURS:
                harness.our_summary(cost, len(corpus.sizes))
            results[tool.name].append(cost)
            rate = len(corpus.sizes) / cost.wall
            print(f"round {number + 1}: {tool.name:10} {cost.wall:7.2f} s {rate:8.0f} images/s", file=sys.stderr)
    return results


# --- report --------------------------------------------------------------------------------------------------


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def tool_row(name: str, costs: list[Cost], corpus: Corpus) -> list[str]:
    images = len(corpus.sizes)
    rates = [images / cost.wall for cost in costs]
    megabytes = statistics.median(corpus.image_bytes / 1e6 / cost.wall for cost in costs)
    cpu = statistics.median(cost.cpu * 1000 / images for cost in costs)
    peak = max(cost.rss_mb for cost in costs)
    spread = f"{min(rates):.0f}-{max(rates):.0f}"
    return [name, f"{statistics.median(rates):.0f}", spread, f"{megabytes:.0f}", f"{cpu:.3f}", f"{peak:.1f}"]


def ratio_table(results: Results) -> list[str]:
    """Our images/s divided by those of each peer, round by round; empty without both sides."""
    peers = [name for name in ("aria2c", "curl") if name in results]
    if OURS not in results or not peers:
        return []
    pairs = {peer: list(zip(results[peer], results[OURS], strict=True)) for peer in peers}
    ratios = {peer: [theirs.wall / ours.wall for theirs, ours in pairs[peer]] for peer in peers}
    rounds = range(len(results[OURS]))
    rows = [[str(number + 1), *(f"{ratios[peer][number]:.2f}" for peer in peers)] for number in rounds]
    rows.append(["median", *(f"{statistics.median(ratios[peer]):.2f}" for peer in peers)])
    return ["", *markdown_table(["round", *(f"{OURS} / {peer}" for peer in peers)], rows)]


def own_words(results: Results, images: int) -> list[str]:
    """What our program says of its median run; its seconds are those of the whole run."""
    if OURS not in results:
        return []
    costs = sorted(results[OURS], key=lambda cost: cost.wall)
    cost = costs[len(costs) // 2]
    said: dict[str, Any] = harness.our_summary(cost, images)
    seconds = float(said["seconds"])
    return [
        "",
        f"{OURS} itself, in its median round: {said['downloaded']} images, {said['bytes']} bytes, "
        f"{said['requests']} requests in {seconds:.2f} s ({images / seconds:.0f} images/s); "
        f"whole process {cost.wall:.2f} s.",
    ]


def report(tools: list[Tool], results: Results, corpus: Corpus, nginx: str, args: argparse.Namespace) -> str:
    head = ["tool", "images/s (median)", "min-max", "MB/s", "CPU ms per image", "peak RSS MB"]
    rows = [tool_row(name, costs, corpus) for name, costs in results.items()]
    versions = ", ".join([nginx, *(tool.version for tool in tools)])
    lines = [
        f"{len(corpus.sizes)} images of about {args.size} bytes ({corpus.image_bytes / 1e6:.0f} MB), "
        f"{args.connections} connections, {args.rounds} rounds.",
        f"{harness.machine()}; {versions}.",
        "",
        *markdown_table(head, rows),
        *ratio_table(results),
        *own_words(results, len(corpus.sizes)),
    ]
    return "\n".join(lines) + "\n"


# --- command line --------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare oid-async with curl and aria2c on this machine.")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=300_000, help="bytes per image, within a tenth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64, help="connections at a time, for every tool")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds allowed for one run of one tool")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    nginx = harness.find_tool("nginx")
    tools = find_tools(args.program)
    with harness.work_folder(args.work_dir, round(args.images * (args.size * 1.1 + 12_000) * 2)) as work:
        corpus = make_corpus(work / "served", args.images, args.size, args.seed)
        with harness.serve(nginx, corpus.root) as url:
            results = run_rounds(tools, url, corpus, work, args)
    text = report(tools, results, corpus, harness.tool_version(nginx, "-v"), args)
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def main() -> None:
    args = parse_arguments()
    harness.exit_on_signals()
    try:
        run(args)
    except BenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
