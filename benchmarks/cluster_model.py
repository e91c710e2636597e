"""What a download past one machine would take: a simulation of 1.9M images (600 GB) on 10 and 100 workers.

    python benchmarks/cluster_model.py [--part-size 512M,256M] [--seeds 5]
    python benchmarks/cluster_model.py --rate 700 --upload 120 --overhead 0.2      # with constants of your own

A worker is one process on a machine of its own.  It fetches one part after the other; while the next one is fetched
the last one is packed and put.  Nothing here was run on so many machines: the constants were measured on one (see
Constants), the rest follows from them.  Bandwidth of the origin and of the storage is taken as enough for all.

Efficiency is images / (workers x images/s of a worker that never waits) / time, once for the time in which the workers
work and once for the whole run, with what one process does alone before (publishing the plan) and after (the end).
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections import deque
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

GOAL = 0.95
LOOK_S = 1.0  # so often idle workers look for stragglers' parts
GBIT = 125e6 * 0.94  # bytes/s of a line of 1 Gbit, less what Ethernet, IP, TCP and TLS take


@dataclass(frozen=True)
class Constants:
    """Measured values; `benchmarks/cluster.py` and docs/clusters.md say where and how.

    `images_per_s` is what one process did where the line is no limit: 316 KB an image, all checks on, half of a busy
    machine of two cores. `part_overhead_s` is what a part costs that nothing hides, at an origin 100 ms away: runs with
    parts of 810 and of 3,240 images compared.
    `start_s` passes until a worker of a running cluster has imported the program and begins.
    `publish_s` and `end_s` are what one process does alone: tables, selection, plan; records, tables, manifest. Both
    are taken, not measured for this size; the end of 8.4M images with 15.9M boxes took 166 s.
    """

    images: int = 1_900_000
    image_bytes: int = 316_000
    part_bytes: int = 512 * 10**6
    images_per_s: float = 465.0
    put_bytes_per_s: float = 150e6
    part_overhead_s: float = 0.03
    start_s: float = 3.0
    publish_s: float = 120.0
    end_s: float = 120.0

    @property
    def part_images(self) -> int:
        return max(1, self.part_bytes // self.image_bytes)


@dataclass(frozen=True)
class Cluster:
    """So many workers on lines of so many Gbit, both ways at once, and what goes wrong with them.

    Each worker is lost `losses_per_hour` times an hour and replaced after `replace_s`; `slow_share` of them, at least
    one if any, are `slow_factor` times slower.  With `copies` idle workers take copies of parts that run for more than
    twice the median, and `slow_s` longer than that.
    `held` parts at most are at one worker, the one that is fetched included.
    """

    workers: int
    gbit: float = 1.0
    losses_per_hour: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 4.0
    copies: bool = True
    noticed_s: float = 0.5
    replace_s: float = 60.0
    held: int = 2
    slow_s: float = 10.0


@dataclass
class Running:
    """A part at a worker: what is left of it, and since when it is under way."""

    part: int
    since: float


Stage = Literal["begin", "fetched", "put", "more", "lost", "requeue", "look"]


class Simulation:
    """One run of the workers, from the moment they are asked to start; `run` returns the seconds to the last commit.

    >>> still = Constants(1000, 10**6, 10**8, images_per_s=50, start_s=0, part_overhead_s=0)
    >>> round(Simulation(still, Cluster(1, gbit=100), seed=1).run(), 1)  # 20 s, and the put of the last part
    20.7
    >>> round(Simulation(still, Cluster(10, gbit=100), seed=1).run(), 1)
    2.7
    >>> slow = Cluster(10, gbit=100, slow_share=0.1, slow_s=0)  # without copies all wait for the part of the slow one
    >>> round(Simulation(still, replace(slow, copies=False), seed=1).run(), 1)
    10.7
    >>> Simulation(still, slow, seed=1).run()  # a copy begins after twice the median
    8.666666666666666
    """

    def __init__(self, constants: Constants, cluster: Cluster, seed: int) -> None:
        self.constants = constants
        self.cluster = cluster
        self.random = random.Random(seed)
        whole, rest = divmod(constants.images, constants.part_images)
        self.sizes = [constants.part_images] * whole + ([rest] if rest else [])
        self.waiting = deque(range(len(self.sizes)))
        self.open = set(self.waiting)
        self.copied: set[int] = set()
        self.durations: list[float] = []
        self.events: list[tuple[float, int, Stage, int, int, int]] = []
        self.order = count()
        workers = cluster.workers
        slow_ones = max(1, round(workers * cluster.slow_share)) if cluster.slow_share else 0
        slow = set(self.random.sample(range(workers), slow_ones))
        self.factor = [cluster.slow_factor if worker in slow else 1.0 for worker in range(workers)]
        self.epoch = [0] * workers  # a worker that was lost is another one afterwards
        self.queues: list[deque[Running]] = [deque() for _ in range(workers)]  # of each worker, its first is fetched
        self.putting: list[deque[Running]] = [deque() for _ in range(workers)]
        self.put_free = [0.0] * workers
        self.is_fetching = [False] * workers
        self.is_there = [False] * workers

    @property
    def images_per_s(self) -> float:
        """Of a worker that never waits: what its line or its processor allows."""
        return min(self.constants.images_per_s, GBIT * self.cluster.gbit / self.constants.image_bytes)

    def run(self) -> float:
        for worker in range(self.cluster.workers):
            # Workers do not start at the same moment.
            self._at(self.constants.start_s * self.random.uniform(0.8, 1.2), "begin", worker)
            self._lose_some_time(worker, 0.0)
        self._at(LOOK_S, "look", 0)
        now = 0.0
        while self.open:
            now, _, stage, worker, epoch, part = heapq.heappop(self.events)
            if stage == "look":
                self._wake(now)
                self._at(now + LOOK_S, "look", worker)
            elif stage == "requeue":
                if part in self.open and not self._is_somewhere(part):
                    self.waiting.appendleft(part)
                    self._wake(now)
            elif epoch == self.epoch[worker]:
                self._happen(stage, worker, part, now)
        return now

    def _happen(self, stage: Stage, worker: int, part: int, now: float) -> None:
        if stage == "fetched":
            self.is_fetching[worker] = False
            self.putting[worker].append(self.queues[worker].popleft())
            put_s = self.sizes[part] * self.constants.image_bytes / self._put_bytes_per_s(worker)
            self.put_free[worker] = max(now, self.put_free[worker]) + put_s
            self._at(self.put_free[worker], "put", worker, part)
        elif stage == "put":
            running = self.putting[worker].popleft()
            if part in self.open:
                self.open.discard(part)
                self.durations.append(now - running.since)
        elif stage == "lost":
            self._lose(worker, now)
            return
        elif stage == "begin":
            self.is_there[worker] = True
            self._go_on(worker, now, most=1)
            self._at(now + self.constants.start_s, "more", worker)  # the others get their first one before
            return
        self._go_on(worker, now)

    def _lose(self, worker: int, now: float) -> None:
        """End a worker: somebody else gets its parts, and another worker comes in its place."""
        parts = [running.part for running in (*self.queues[worker], *self.putting[worker])]
        self.queues[worker].clear()
        self.putting[worker].clear()
        self.epoch[worker] += 1
        self.is_there[worker] = self.is_fetching[worker] = False
        self.put_free[worker] = 0.0
        for part in parts:
            self.copied.discard(part)
            self._at(now + self.cluster.noticed_s, "requeue", worker, part)
        self._at(now + self.cluster.replace_s + self.constants.start_s, "begin", worker)
        self._lose_some_time(worker, now)

    def _go_on(self, worker: int, now: float, most: int | None = None) -> None:
        """Let a worker take as many parts as it may hold, and fetch the first that is not fetched."""
        most = most or self.cluster.held
        queue, putting = self.queues[worker], self.putting[worker]
        while len(queue) + len(putting) < most and self.waiting:
            queue.append(Running(self.waiting.popleft(), now))
        if not queue and (copy := self._straggler(worker, now)) is not None:
            self.copied.add(copy)
            queue.append(Running(copy, now))
        if queue and not self.is_fetching[worker]:
            self.is_fetching[worker] = True
            fetch_s = self.sizes[queue[0].part] / self.images_per_s * self.factor[worker]
            self._at(now + fetch_s + self.constants.part_overhead_s, "fetched", worker, queue[0].part)

    def _straggler(self, worker: int, now: float) -> int | None:
        """The part of somebody else that is held for the longest time, if that is more than twice the median."""
        if not self.cluster.copies or not self.durations:
            return None
        held = [
            (each.since, each.part)
            for other in range(self.cluster.workers)
            if other != worker
            for each in (*self.queues[other], *self.putting[other])
            if each.part in self.open and each.part not in self.copied
        ]
        since, part = min(held, default=(now, -1))
        usual = statistics.median(self.durations)
        return part if now - since > max(2 * usual, usual + self.cluster.slow_s) else None

    def _is_somewhere(self, part: int) -> bool:
        places = (*self.queues, *self.putting)
        return part in self.waiting or any(each.part == part for place in places for each in place)

    def _wake(self, now: float) -> None:
        """Let the idle workers look round: a part waits again, or has become a straggler."""
        for worker in range(self.cluster.workers):
            if self.is_there[worker] and not self.queues[worker]:
                self._go_on(worker, now)

    def _put_bytes_per_s(self, worker: int) -> float:
        return min(self.constants.put_bytes_per_s, GBIT * self.cluster.gbit) / self.factor[worker]

    def _lose_some_time(self, worker: int, now: float) -> None:
        if self.cluster.losses_per_hour:
            later = now + self.random.expovariate(self.cluster.losses_per_hour / 3600)
            self._at(later, "lost", worker)

    def _at(self, time: float, stage: Stage, worker: int, part: int = -1) -> None:
        heapq.heappush(self.events, (time, next(self.order), stage, worker, self.epoch[worker], part))


TROUBLES: dict[str, dict[str, float | bool]] = {
    "nothing": {},
    "lost": {"losses_per_hour": 1.0},
    "slow, no copies": {"slow_share": 0.03, "copies": False},
    "slow": {"slow_share": 0.03},
    "lost and slow, no copies": {"losses_per_hour": 1.0, "slow_share": 0.03, "copies": False},
    "lost and slow": {"losses_per_hour": 1.0, "slow_share": 0.03},
}
LEGEND = """\
Columns: efficiency while the workers work, by what goes wrong. lost: each worker once an hour, another one 60 s later;
slow: 3 % of the workers, at least one, are 4 times slower; parts of those are copied unless "no copies".
`in all`: seconds of the whole run, plan and end included, if nothing goes wrong, and its efficiency.
"""


@dataclass(frozen=True)
class Expected:
    """What simulations say of one case: seconds of work (median), efficiency of the work and of the whole run."""

    seconds: float
    working: float
    whole: float


def expect(constants: Constants, cluster: Cluster, seeds: int) -> Expected:
    """Simulate a case with several seeds.

    >>> bare = Constants(images=10_000, start_s=0, part_overhead_s=0, publish_s=0, end_s=0, put_bytes_per_s=1e12)
    >>> expect(bare, Cluster(1, gbit=1000), seeds=1)
    Expected(seconds=21.5, working=1.0, whole=1.0)
    """
    runs = [Simulation(constants, cluster, seed) for seed in range(1, seeds + 1)]
    seconds = statistics.median(run.run() for run in runs)
    ideal = constants.images / (cluster.workers * runs[0].images_per_s)
    whole = seconds + constants.publish_s + constants.end_s
    return Expected(round(seconds, 1), round(ideal / seconds, 3), round(ideal / whole, 3))


def table(constants: Constants, part_sizes: list[int], seeds: int) -> list[str]:
    """The lines of the report: a table, and below it the cases in which the goal is missed."""
    lines = [
        f"| workers | Gbit | part | images/s | parts a worker | {' | '.join(TROUBLES)} | in all |",
        "| --- " * (len(TROUBLES) + 6) + "|",
    ]
    missed: list[str] = []
    for workers, gbit, part_size in ((w, g, p) for w in (10, 100) for g in (1.0, 10.0) for p in part_sizes):
        cut = replace(constants, part_bytes=part_size)
        clusters = {name: replace(Cluster(workers, gbit), **values) for name, values in TROUBLES.items()}  # type: ignore[arg-type]
        found = {name: expect(cut, cluster, seeds) for name, cluster in clusters.items()}
        rate = Simulation(cut, clusters["nothing"], 1).images_per_s
        each = cut.images / cut.part_images / workers
        case = f"{workers} | {gbit:g} | {part_size // 10**6} MB"
        whole = found["nothing"]
        lines.append(
            f"| {case} | {rate:.0f} | {each:.1f} | {' | '.join(f'{one.working:.1%}' for one in found.values())} | "
            f"{whole.seconds + constants.publish_s + constants.end_s:,.0f} s, {whole.whole:.0%} |"
        )
        below = [f"{name} {one.working:.1%}" for name, one in found.items() if one.working < GOAL]
        if below:
            seconds = cut.part_images / rate
            missed.append(f"- {case.replace(' | ', ', ')} ({each:.1f} parts of {seconds:.1f} s): {'; '.join(below)}")
    return [
        *lines,
        "",
        LEGEND,
        f"Below {GOAL:.0%} (workers, Gbit, part: what goes wrong):",
        "",
        *(missed or ["- no case"]),
    ]


def megabytes(text: str) -> int:
    return int(text.removesuffix("M")) * 10**6


def main() -> None:
    known = Constants()
    parser = argparse.ArgumentParser(description="What 1.9M images would take on 10 and 100 workers: a simulation.")
    parser.add_argument("--part-size", default="512M,256M,128M,64M", help="in MB, with a comma between")
    parser.add_argument("--rate", type=float, default=known.images_per_s, help="images/s of a process without a line")
    parser.add_argument("--upload", type=float, default=known.put_bytes_per_s / 1e6, help="MB/s of one PUT")
    parser.add_argument("--overhead", type=float, default=known.part_overhead_s, help="seconds a part")
    parser.add_argument("--start", type=float, default=known.start_s, help="seconds until a worker begins")
    parser.add_argument("--publish", type=float, default=known.publish_s, help="seconds of tables, selection, plan")
    parser.add_argument("--end", type=float, default=known.end_s, help="seconds of the end")
    parser.add_argument("--seeds", type=int, default=3, help="simulations of each case; their median is printed")
    args = parser.parse_args()
    constants = replace(
        known,
        images_per_s=args.rate,
        put_bytes_per_s=args.upload * 1e6,
        part_overhead_s=args.overhead,
        start_s=args.start,
        publish_s=args.publish,
        end_s=args.end,
    )
    print(f"{constants}\n")
    print("\n".join(table(constants, [megabytes(size) for size in args.part_size.split(",")], args.seeds)))


if __name__ == "__main__":
    main()
