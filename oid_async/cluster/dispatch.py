"""Which part which worker gets next: values and a clock that is passed in, no engine, no I/O.

    parts that wait ──assign──▶ runs: one part at one worker ──ended, failed, worker lost──▶ done, again, given up

A part may have two runs: whoever puts its record first has done it, the other one finds that record and ends.
"""

from bisect import insort
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from oid_async.cluster.published import Part
from oid_async.cluster.work import MOST_TRIES, PartResult

# A part that was on so many workers when they were lost is given up; from the second loss on it is alone on its worker,
# so that no other part is blamed for it.
MOST_LOSSES = 4
_ALONE_AFTER = 2
# Two parts overlap at one worker: one is fetched while the other is put away.
_RUNS_A_WORKER = 2
_MOST_RUNS = 2
# A run that takes so many times the usual time, and so many seconds, is copied where a worker has nothing to do.
_SLOW_TIMES = 2.0
_SLOW_S = 10.0
# An unreachable part is tried again after these seconds, at another worker where there is one.
_AGAIN_AFTER_S = (2.0, 10.0, 30.0)
# A worker whose storage or disk has refused gets no part for so long, as long as there are others.
_REFUSED_S = 60.0


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What is known of a worker: its threads; `silent`: it has given no sign of life for some time."""

    threads: int = 2
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """A part for a worker; `run` tells it from every other assignment, `attempt` counts from 1."""

    run: int
    part: Part
    worker: str
    attempt: int


@dataclass(slots=True, eq=False)
class _Job:
    part: Part
    attempt: int = 1
    losses: int = 0
    not_before: float = 0.0
    is_done: bool = False
    is_given_up: bool = False
    runs: set[int] = field(default_factory=set)
    avoided: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Run:
    job: _Job
    worker: str
    began: float


class Dispatcher:
    """Spreads the parts of one generation over workers that come and go.

    `capped`: one worker alone does them all, another one only once it is lost. Times are seconds of one clock.
    """

    def __init__(self, parts: Iterable[Part], *, capped: bool = False) -> None:
        self._jobs = [_Job(part) for part in parts]
        self._waiting = deque(self._jobs)
        self._runs: dict[int, _Run] = {}
        self._workers: dict[str, WorkerState] = {}
        self._refused_until: dict[str, float] = {}
        self._durations: list[float] = []
        self._capped = capped
        self._pinned: str | None = None
        self._reserved: str | None = None
        self._count = 0
        self._open = len(self._jobs)

    @property
    def is_over(self) -> bool:
        """Return whether every part is done or given up; runs of parts that are done may still be on."""
        return not self._open

    @property
    def given_up(self) -> list[str]:
        """The names of the parts that were lost with their workers too often."""
        return [job.part.name for job in self._jobs if job.is_given_up]

    @property
    def usual_s(self) -> float | None:
        """How many seconds a part takes as a rule, None while none is done."""
        return self._durations[len(self._durations) // 2] if self._durations else None

    def add(self, parts: Iterable[Part]) -> None:
        """Take more parts, behind those that wait."""
        jobs = [_Job(part) for part in parts]
        self._jobs += jobs
        self._waiting += jobs
        self._open += len(jobs)

    def leave(self, left: Collection[str]) -> bool:
        """Take note that of all parts only these are left to do; return whether that is news."""
        before = self._open
        for job in self._jobs:
            if not job.is_done and job.part.name not in left:
                self._close(job)
        return self._open != before

    @property
    def waiting(self) -> int:
        """How many parts have no worker."""
        return len(self._waiting)

    @property
    def wanting(self) -> int:
        """How many parts more workers could begin with; of a capped generation one worker does all."""
        return self.waiting if not self._capped else int(not self.usable)

    @property
    def usable(self) -> int:
        """How many workers may get parts."""
        return sum(not state.silent for state in self._workers.values())

    def workers(self, workers: Mapping[str, WorkerState]) -> list[int]:
        """Take note of the workers that are there now; return the runs that were lost with those that are not."""
        self._workers = dict(workers)
        if self._pinned not in workers:
            self._pinned = None
        lost = [number for number, run in self._runs.items() if run.worker not in workers]
        for number in lost:
            self.lost(number)
        return lost

    def lost(self, number: int, times: int = 1) -> None:
        """Take note that a run was lost with its worker; its part was that so many `times`."""
        run = self._runs.pop(number, None)
        if run is None:
            return
        job = run.job
        job.runs.discard(number)
        job.losses += times
        if job.losses >= MOST_LOSSES and not job.is_done:
            self._close(job)
            job.is_given_up = True
        self._again(job)

    def ended(self, number: int, result: PartResult, now: float) -> None:
        """Take note of how a run ended."""
        run = self._runs.pop(number, None)
        if run is None:
            return
        job = run.job
        job.runs.discard(number)
        if result.end == "unreachable":
            if not job.is_done:
                job.avoided.add(run.worker)
                job.not_before = now + _AGAIN_AFTER_S[min(job.attempt, len(_AGAIN_AFTER_S)) - 1]
                job.attempt = min(job.attempt + 1, MOST_TRIES)
                self._again(job)
            return
        job.is_given_up = False
        if not job.is_done:
            insort(self._durations, now - run.began)
            self._close(job)

    def refused(self, number: int, now: float) -> bool:
        """Take note that a worker's storage or disk refuses; return whether another one should try the part."""
        run = self._runs.pop(number, None)
        if run is None:
            return True
        job = run.job
        job.runs.discard(number)
        self._refused_until[run.worker] = now + _REFUSED_S
        job.avoided.add(run.worker)
        if job.is_done or job.runs:
            return True
        others = [name for name in self._candidates() if name not in job.avoided and not self._refuses(name, now)]
        self._again(job)
        return bool(others) and len(job.avoided) < MOST_TRIES

    def next(self, now: float) -> Assignment | None:
        """Return the next part for a worker that has room, None while there is nothing to assign."""
        return self._copy_of_silent(now) or self._first_waiting(now) or self._copy_of_slow(now)

    def _first_waiting(self, now: float) -> Assignment | None:
        self._reserved = None
        for job in list(self._waiting):
            if job.is_done or job.runs:
                self._waiting.remove(job)
            elif job.not_before <= now and self._reserved is None and job.losses >= _ALONE_AFTER:
                # Until a worker has come to the end of all else, it gets nothing new.
                worker = self._worker_for(job, now)
                if worker is not None:
                    self._waiting.remove(job)
                    return self._assign(job, worker, now)
                loads = self._loads()
                self._reserved = min(self._candidates(), key=lambda name: len(loads.get(name, ())), default=None)
            elif job.not_before <= now and job.losses < _ALONE_AFTER:
                worker = self._worker_for(job, now)
                if worker is None:
                    return None  # there is no room for this one, and so for none
                self._waiting.remove(job)
                return self._assign(job, worker, now)
        return None

    def _copy_of_silent(self, now: float) -> Assignment | None:
        """Copy a part all runs of which are at silent workers."""
        if self._capped or not any(state.silent for state in self._workers.values()):
            return None
        for run in self._runs.values():
            job = run.job
            at = [self._runs[number].worker for number in job.runs]
            if not job.is_done and all(self._workers[name].silent for name in at):
                worker = self._worker_for(job, now)
                if worker is not None:
                    return self._assign(job, worker, now)
        return None

    def _copy_of_slow(self, now: float) -> Assignment | None:
        """Copy the part that takes longest for its time, if a worker has nothing else to do."""
        if self._capped or self._waiting or not self._durations:
            return None
        usual = self.usual_s or 0.0
        slow = max(_SLOW_TIMES * usual, usual + _SLOW_S)
        runs = [run for run in self._runs.values() if not run.job.is_done and len(run.job.runs) < _MOST_RUNS]
        for run in sorted(runs, key=lambda run: run.began):
            if now - run.began < slow:
                return None
            worker = self._worker_for(run.job, now)
            if worker is not None:
                return self._assign(run.job, worker, now)
        return None

    def _worker_for(self, job: _Job, now: float) -> str | None:
        """Return the worker with the most room that should do this part, None if there is none now."""
        here = {self._runs[number].worker for number in job.runs}
        alone = job.losses >= _ALONE_AFTER
        room: list[tuple[bool, bool, int, str]] = []
        loads = self._loads()
        for name in self._candidates():
            if name in here or (name == self._reserved and not alone):
                continue
            load = loads.get(name, [])
            most = 1 if alone or any(run.job.losses >= _ALONE_AFTER for run in load) else self._most(name)
            if len(load) < most:
                room.append((self._refuses(name, now), name in job.avoided, len(load), name))
        best = min(room, default=None)
        # One that refused is no choice while others are only busy.
        if best is None or (best[0] and any(not self._refuses(name, now) for name in self._candidates())):
            return None
        return best[3]

    def _candidates(self) -> list[str]:
        """Return the workers that may get parts."""
        usable = [name for name, state in self._workers.items() if not state.silent]
        if not self._capped:
            return usable
        if self._pinned is None and usable:
            self._pinned = min(usable)
        return [name for name in usable if name == self._pinned]

    def _loads(self) -> dict[str, list[_Run]]:
        loads: dict[str, list[_Run]] = {}
        for run in self._runs.values():
            loads.setdefault(run.worker, []).append(run)
        return loads

    def _most(self, name: str) -> int:
        return max(1, min(_RUNS_A_WORKER, self._workers[name].threads))

    def _refuses(self, name: str, now: float) -> bool:
        return self._refused_until.get(name, now) > now

    def _assign(self, job: _Job, worker: str, now: float) -> Assignment:
        self._count += 1
        job.runs.add(self._count)
        self._runs[self._count] = _Run(job, worker, now)
        return Assignment(self._count, job.part, worker, job.attempt)

    def _again(self, job: _Job) -> None:
        """Let a part wait again that nobody has any more; first, as it has waited already."""
        if not job.is_done and not job.is_given_up and not job.runs and job not in self._waiting:
            self._waiting.appendleft(job)

    def _close(self, job: _Job) -> None:
        if not job.is_done and not job.is_given_up:
            self._open -= 1
        job.is_done = True
