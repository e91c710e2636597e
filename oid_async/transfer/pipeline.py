"""The pipeline: plan -> lanes -> workers -> inbox -> collector. The only place that starts tasks.

    feeder ──▶ lanes ──▶ workers (N) ──▶ inbox ──▶ collector ──▶ thread: check, write, rename, journal (one hop a batch)
                 ▲  again ──┘                          │
                 └──────── refused ────────────────────┘──▶ report, sink

Lanes and inbox are bounded. A worker has an image for one attempt and goes on with another one while the body is
stored; a body that turns out wrong goes back to its host's lane, where every image waits that is to be asked for again.
The collector alone writes the journal, counts the report and speaks to the sink. A task that breaks ends the group,
never a wait.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import aiofiles.os

from oid_async.events import Landed, Note, Sink
from oid_async.report import Outcome, Report
from oid_async.store.landing import Arrival, Lander, Landing
from oid_async.threads import settled
from oid_async.transfer.fetch import Again, Failed, Fetcher, Job, Target
from oid_async.transfer.lanes import Lanes, turn, wake

if TYPE_CHECKING:
    from oid_async.transfer.crew import Crew

# A batch is one thread hop: 300 KB images come 7 at a time, small ones 32.
_BATCH_IMAGES = 32
_BATCH_BYTES = 2 << 20
# While the loop prepares the next batch, a thread works on the other one: hashing does not hold the interpreter.
_BATCHES_AT_ONCE = 2
# What may wait to be stored, beside the batches: more only fills the memory, for the disk is what is slow then.
_INBOX_IMAGES = 2 * _BATCH_IMAGES
_INBOX_BYTES = 2 * _BATCH_BYTES

Deliver = Callable[[Outcome], Awaitable[None]]
Settle = Callable[[Job | None, Landing], Outcome | None]
"""Told of every job that has landed or was refused; returns the Outcome of one that has thereby failed.

None stands for an image that there was nothing to ask for."""

_Entry = tuple[Job | None, Arrival | Outcome]


class _Inbox:
    """What waits to be stored, bounded in images and bytes."""

    def __init__(self, room: int) -> None:
        self._room = min(room, _INBOX_IMAGES)
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._takers: deque[asyncio.Future[None]] = deque()
        self._putters: deque[asyncio.Future[None]] = deque()

    async def put(self, entry: _Entry) -> None:
        while len(self._entries) >= self._room or self._size >= _INBOX_BYTES:
            await turn(self._putters)
        self.put_now(entry)

    def put_now(self, entry: _Entry) -> None:
        """Put in what is small, however much is there."""
        self._entries.append(entry)
        self._size += _size(entry)
        wake(self._takers)

    async def take_batch(self) -> list[_Entry]:
        while not self._entries:
            await turn(self._takers)
        batch: list[_Entry] = []
        size = 0
        while self._entries and len(batch) < _BATCH_IMAGES and size < _BATCH_BYTES:
            batch.append(self._entries.popleft())
            size += _size(batch[-1])
        self._size -= size
        if self._entries:
            wake(self._takers)
        for _ in batch:
            wake(self._putters)
        return batch


class Collector:
    """Takes what has finished in batches: one thread hop stores and journals a batch, then it is counted and told.

    `room` is how many images may wait for that, beside the two batches that are being stored.
    """

    def __init__(self, lander: Lander, report: Report, sink: Sink, deliver: Deliver | None, *, room: int) -> None:
        self._land_batch = aiofiles.os.wrap(lander.land)
        self._report = report
        self._sink = sink
        self._deliver = deliver
        self._inbox = _Inbox(room)

    async def take(self, job: Job | None, content: Arrival | Outcome) -> None:
        """Take a body, or the Outcome of an image that has failed. Waits while there is much to be stored."""
        await self._inbox.put((job, content))

    async def run(self, settle: Settle) -> None:
        """Collect until cancelled."""
        while True:
            batch = await self._inbox.take_batch()
            landings, outcomes = await self._store([content for _, content in batch])
            # Before the jobs are settled: the last outcome must not be lost when the pool is done.
            await self.deliver(outcomes)
            for (job, _), landing in zip(batch, landings, strict=True):
                if (failed := settle(job, landing)) is not None:
                    self._inbox.put_now((job, failed))

    async def enter(self, outcomes: Sequence[Outcome]) -> None:
        """Journal and count what another process has stored."""
        await self._store(outcomes)

    async def deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Hand outcomes to whoever wants each of them, as fast as they are taken."""
        if self._deliver is not None:
            for outcome in outcomes:
                await self._deliver(outcome)

    async def _store(self, contents: Sequence[Arrival | Outcome]) -> tuple[list[Landing], list[Outcome]]:
        stored = asyncio.ensure_future(self._land_batch(contents))
        try:
            landings = await asyncio.shield(stored)
        except asyncio.CancelledError:
            # The thread cannot be stopped half-way: wait, and count what it has stored and journalled.
            await settled(stored)
            if stored.exception() is None:
                self._count(stored.result())
            raise
        return landings, self._count(landings)

    def _count(self, landings: Sequence[Landing]) -> list[Outcome]:
        report, outcomes = self._report, []
        for landing in landings:
            if landing.note is not None:
                self._sink(Note(landing.note))
            outcome = landing.outcome
            if outcome is None:
                continue
            outcomes.append(outcome)
            report.pending -= 1
            if outcome.status == "failed":
                kind = outcome.reason or "network"
                report.failed += 1
                report.failures[kind] = report.failures.get(kind, 0) + 1
            else:
                source = outcome.source or "cvdf"
                report.downloaded += 1
                report.bytes += outcome.bytes or 0
                report.sources[source] = report.sources.get(source, 0) + 1
        if outcomes:
            self._sink(Landed(tuple(outcomes), report))
        return outcomes


async def run(
    targets: AsyncIterator[Target],
    fetcher: Fetcher,
    collector: Collector,
    *,
    recall: Callable[[Sequence[int]], Awaitable[Sequence[Target]]],
    clock: Callable[[], float],
    workers: int,
    crew: "Crew | None" = None,
) -> None:
    """Fetch all targets with a bounded pool of workers. Raises what a task raised, alone if it is one.

    `recall` reads the targets at these places of the plan again. A `crew` of other processes shares the work.
    """

    async def reload(kept: Sequence[tuple[int, str]]) -> list[Job]:
        jobs = []
        for target, (_, note) in zip(await recall([place for place, _ in kept]), kept, strict=True):
            job = fetcher.recall(target, note)
            assert isinstance(job, Job), "what left a note had a source to ask"
            jobs.append(job)
        return jobs

    lanes = Lanes[Job](reload, room=2 * workers, clock=clock, offer=crew.take_job if crew is not None else None)

    async def feed() -> None:
        async for target in targets:
            if crew is not None and crew.take(target):
                lanes.lend()
                continue
            job = fetcher.begin(target)
            if isinstance(job, Failed):
                lanes.lend()
                await collector.take(None, job.outcome)
            else:
                await lanes.put(job)
        lanes.end()

    async def work() -> None:
        while (job := await lanes.take()) is not None:
            host = job.host
            end = await fetcher.attempt(job)
            if isinstance(end, Again):
                lanes.put_back(job, end.delay_s, taken_from=host)
                if end.exhausted:
                    # Fewer at it until descriptors are given back.
                    await asyncio.sleep(end.delay_s)
                continue
            # While much waits to be stored this holds its place at the host: nothing more is fetched then.
            await collector.take(job, end.outcome if isinstance(end, Failed) else end)
            lanes.let_go(host)

    def settle(job: Job | None, landing: Landing) -> Outcome | None:
        if job is None:
            lanes.settle(1)
            return None
        fetcher.settled(job)
        if landing.reason is None:
            lanes.finish()
            return None
        end = fetcher.refused(job, landing.reason)
        if isinstance(end, Failed):
            return end.outcome
        lanes.put_back(job, end.delay_s)
        return None

    try:
        async with asyncio.TaskGroup() as group:
            collecting = [group.create_task(collector.run(settle)) for _ in range(_BATCHES_AT_ONCE)]
            feeding = group.create_task(feed())
            working = [group.create_task(work()) for _ in range(workers)]
            for member in crew.members(fetcher, collector, lanes) if crew is not None else ():
                group.create_task(member)
            await asyncio.wait([feeding, *working])
            if crew is not None:
                crew.dismiss()
            for task in collecting:
                task.cancel()
    finally:
        lanes.close()


def _size(entry: _Entry) -> int:
    content = entry[1]
    return content.size if isinstance(content, Arrival) and not content.spooled else 0
