"""Efficiency of a download past one machine: 1, 2 and 3 workers against an origin 100 ms away.

    python benchmarks/cluster.py [--workers 1,2,3] [--places folder,bucket] [--seconds 40] [--rounds 3]

nginx answers 100 ms late, so that a worker with 16 transfers can do 160 images/s at the very most.  The runs of a round
follow one another, with 1, 2 and 3 workers, each into a new folder or a new prefix of a bucket (SeaweedFS on loopback,
from the extra `s3-test`).  From the origin's log: images/s from the first to the last image, and in steady state, which
is between a tenth and nine tenths of the images.  Each of these is divided by workers x 160.  `whole` is from spawn to
exit: start of the engine, plan and end included.

The workers, the origin and the storage share the processors of this machine.  `CPU allows` is what they would do if all
processors did nothing else, and no faster: with several workers that can be less than what is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import harness
import psutil
import server
from corpus import Corpus, make_corpus
from figures import markdown_table, spread
from harness import BenchError

DELAY_S = 0.1
TRANSFERS = 16
IMAGE_BYTES = 24_000
CEILING = TRANSFERS / DELAY_S  # images/s of one worker, if nothing but the delay took time


@dataclass(frozen=True)
class Place:
    """Where a run writes to: the arguments and the variables that say so, and the server behind it, if there is one."""

    args: list[str]
    env: dict[str, str]
    server: psutil.Process | None = None


@dataclass(frozen=True)
class Measured:
    """One run. Rates are images/s, `cpu_ms` are of one image: of the workers, of the driver, of origin and storage."""

    workers: int
    steady: float
    from_first_to_last: float
    whole: float
    start_s: float
    end_s: float
    cpu_ms: tuple[float, float, float]
    load: float

    def efficiency(self, rate: float) -> float:
        return rate / (self.workers * CEILING)

    @property
    def allowed(self) -> float:
        """Images/s if every processor did nothing but this."""
        return (os.cpu_count() or 1) * 1000 / sum(self.cpu_ms)


class Watch:
    """CPU seconds of a program and of what it starts, asked for twice a second: the driver's, and all others'."""

    def __init__(self, pid: int) -> None:
        self._program = psutil.Process(pid)
        self._seconds: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            with contextlib.suppress(psutil.Error):
                for process in (self._program, *self._program.children(recursive=True)):
                    self._seconds[process.pid] = cpu_seconds(process)

    @property
    def driver(self) -> float:
        return self._seconds.get(self._program.pid, 0.0)

    @property
    def others(self) -> float:
        return sum(self._seconds.values()) - self.driver


def cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def with_children(process: psutil.Process) -> float:
    return cpu_seconds(process) + sum(cpu_seconds(child) for child in process.children(recursive=True))


class Origin:
    """nginx with its log of images: when each one was answered."""

    def __init__(self, url: str, process: psutil.Process, folder: Path) -> None:
        self.url, self.process, self.folder = url, process, folder
        self._log = folder / "images.log"

    def forget(self) -> None:
        self._log.open("w").close()

    def image_times(self) -> list[float]:
        time.sleep(1.5)  # nginx writes its log out every second
        return sorted(float(line) for line in self._log.read_text().split())


def run_once(
    program: Path, origin: Origin, place: Place, corpus: Corpus, workers: int, args: argparse.Namespace
) -> Measured:
    """One run of the program, from spawn to exit; every image must be there."""
    origin.forget()
    ids = origin.folder / "ids.txt"
    images = min(len(corpus.sizes), round(workers * CEILING * args.seconds))
    ids.write_text("".join(f"validation/{image_id}\n" for image_id in list(corpus.sizes)[:images]))
    command = [str(program), "download", "--image-ids", str(ids), "--kind", "none", "--mirror", origin.url]
    command += ["--no-files", "--format", "webdataset", "--cluster", f"local:{workers}", "--json", "--names", "id"]
    command += ["--concurrency", str(TRANSFERS), "--part-size", args.part_size, *place.args]
    servers = [origin.process, *([place.server] if place.server else [])]
    before, load = sum(map(with_children, servers)), harness.load_average()
    begun = time.time()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=harness.clean_environment() | place.env
    )
    try:
        with Watch(process.pid) as watch:
            stdout, stderr = process.communicate(timeout=args.timeout)
    finally:
        process.kill()  # its workers end with it
    ended = time.time()
    if process.returncode or json.loads(stdout)["downloaded"] != images:
        raise BenchError(f"exit code {process.returncode}: {stderr[-2000:]} {stdout[-2000:]}")
    served = sum(map(with_children, servers)) - before
    times = origin.image_times()
    low, high = times[len(times) // 10], times[len(times) * 9 // 10]
    return Measured(
        workers,
        steady=len(times) * 0.8 / (high - low),
        from_first_to_last=len(times) / (times[-1] - times[0] + DELAY_S),
        whole=images / (ended - begun),
        start_s=times[0] - begun,
        end_s=ended - times[-1],
        cpu_ms=(watch.others * 1000 / images, watch.driver * 1000 / images, served * 1000 / images),
        load=load,
    )


# --- places --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def places(name: str, work: Path) -> Iterator[Iterator[Place]]:
    """New places of a kind, one after the other: folders, or prefixes of a bucket on a server of its own."""
    if name == "folder":
        yield (Place(["--savepath", str(work / f"folder-{number}")], {}) for number in count())
        return
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from support.seaweed import seaweed

    (work / "storage").mkdir()
    with seaweed(work / "storage") as storage:
        storage.make_bucket("bench")
        known = dict(storage.environment()), psutil.Process(storage.pid)
        yield (Place(["--savepath", f"s3://bench/{number}"], *known) for number in count())


# --- report --------------------------------------------------------------------------------------------------


def report(found: list[Measured]) -> list[str]:
    """A row for each number of workers: medians over the rounds, and the extremes of what counts."""
    head = ["workers", "steady images/s", "min-max", "of workers x 160", "first to last", "whole run", "of it"]
    head += ["start s", "end s", "CPU ms: workers", "driver", "servers", "CPU allows"]
    rows = []
    for workers in sorted({one.workers for one in found}):
        runs = [one for one in found if one.workers == workers]

        def median(name: str, runs: list[Measured] = runs) -> float:
            return float(statistics.median(getattr(one, name) for one in runs))

        each = [statistics.median(one.cpu_ms[part] for one in runs) for part in range(3)]
        steady = spread([one.steady for one in runs])
        rows.append(
            [
                *(str(workers), *steady.words(0), f"{steady.median / (workers * CEILING):.1%}"),
                f"{median('from_first_to_last') / (workers * CEILING):.1%}",
                *(f"{median('whole'):.0f}", f"{median('whole') / (workers * CEILING):.1%}"),
                *(f"{median('start_s'):.1f}", f"{median('end_s'):.1f}"),
                *(f"{one:.2f}" for one in each),
                f"{median('allowed'):.0f}",
            ]
        )
    return markdown_table(head, rows)


def run(args: argparse.Namespace) -> None:
    nginx = harness.find_tool("nginx")
    most = round(max(args.workers) * CEILING * args.seconds)
    made = f"{time.strftime('%Y-%m-%d')}; {harness.machine()}; load average at the start {harness.load_average():.1f}"
    print(f"{made}; --part-size {args.part_size}, {args.seconds:g} s, {args.rounds} rounds.", flush=True)
    with harness.work_folder(args.work_dir, most * IMAGE_BYTES * 3) as work:
        corpus = make_corpus(work / "served", most, IMAGE_BYTES)
        with server.serve(nginx, corpus.root, delay_s=DELAY_S, image_log=work / "images.log") as url:
            origin = Origin(url, own_child("nginx"), work)
            for name in args.places:
                found: list[Measured] = []
                with places(name, work) as new:
                    for _ in range(args.rounds):
                        for workers in args.workers:
                            found.append(run_once(args.program, origin, next(new), corpus, workers, args))
                            one = found[-1]
                            said = f"{name}, {workers} workers: {one.efficiency(one.steady):.1%} steady"
                            whole = f"{one.efficiency(one.whole):.1%} of the whole run, load {one.load:.1f}"
                            print(f"{said}, {whole}, {one}", file=sys.stderr)
                print("\n".join(["", f"### {name}", "", *report(found)]), flush=True)


def own_child(name: str) -> psutil.Process:
    return next(child for child in psutil.Process().children() if child.name() == name)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Efficiency of 1, 2 and 3 workers, 100 ms away from the origin.")
    parser.add_argument("--workers", type=lambda words: [int(word) for word in words.split(",")], default=[1, 2, 3])
    parser.add_argument("--places", type=lambda words: words.split(","), default=["folder", "bucket"])
    parser.add_argument("--seconds", type=float, default=40, help="so long a run takes at the very least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part-size", default="256M")
    parser.add_argument("--program", type=Path, default=harness.default_program(), help="the oid-async to measure")
    parser.add_argument("--work-dir", type=Path, help="where served and fetched files go (default: RAM disk)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds allowed for one run")
    return parser.parse_args()


def main() -> None:
    harness.carry_out(run, parse_arguments())


if __name__ == "__main__":
    main()
