"""The pipeline: plan -> lanes -> workers -> inbox -> collector. The only place that starts tasks.

    feeder ──lanes──▶ workers (N) ─inbox──▶ collector ──▶ thread: check, write, rename, journal (one hop a batch)
               ▲  again ──┘  ▲──────── landing ────────┘──▶ report, sink

Lanes and inbox are bounded. A worker has an image for one attempt, until that has landed or failed, so a body that
turns out wrong goes back to the one who may ask again; in between the image waits in its host's lane and no worker
does. The collector alone writes the journal, counts the report and speaks to the sink. A task that breaks ends the
group, never a wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiofiles.os

from oid_async.events import Landed, Note, Sink
from oid_async.report import Outcome, Report
from oid_async.store.landing import Arrival, Lander, Landing
from oid_async.threads import settled
from oid_async.transfer.fetch import Again, Failed, Fetcher, Job, Target
from oid_async.transfer.lanes import Lanes

if TYPE_CHECKING:
    from oid_async.transfer.crew import Crew

# A batch that is too large keeps its workers waiting for one another; 300 KB images come 8 at a time, small ones 32.
_BATCH_IMAGES = 32
_BATCH_BYTES = 2 << 20
# While the loop prepares the next batch, a thread works on the other one: hashing does not hold the interpreter.
BATCHES_AT_ONCE = 2

Deliver = Callable[[Outcome], Awaitable[None]]


@dataclass(slots=True)
class _Entry:
    """Something for the collector, and the worker's wait for what becomes of it."""

    content: Arrival | Outcome
    landing: asyncio.Future[Landing]

    @property
    def size(self) -> int:
        return self.content.size if isinstance(self.content, Arrival) else 0


class Collector:
    """Takes what has finished in batches: one thread hop stores and journals a batch, then it is counted and told."""

    def __init__(self, lander: Lander, report: Report, sink: Sink, deliver: Deliver | None, *, room: int) -> None:
        self._land_batch = aiofiles.os.wrap(lander.land)
        self._report = report
        self._sink = sink
        self._deliver = deliver
        self._inbox: asyncio.Queue[_Entry] = asyncio.Queue(room)

    async def land(self, content: Arrival | Outcome) -> Landing:
        """Hand over a body, or the Outcome of an image that failed, and wait for what becomes of it."""
        entry = _Entry(content, asyncio.get_running_loop().create_future())
        await self._inbox.put(entry)
        return await entry.landing

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            batch = await self._next_batch()
            landings, outcomes = await self._store([entry.content for entry in batch])
            # Before the workers go on: a slow consumer slows the run down, and the last outcome is not lost when the
            # pool is done.
            await self.deliver(outcomes)
            for entry, landing in zip(batch, landings, strict=True):
                if not entry.landing.done():
                    entry.landing.set_result(landing)

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

    async def _next_batch(self) -> list[_Entry]:
        batch = [await self._inbox.get()]
        size = batch[0].size
        while len(batch) < _BATCH_IMAGES and size < _BATCH_BYTES and not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
            size += batch[-1].size
        return batch

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


def _keep(job: Job) -> bool:
    return False


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

    lanes = Lanes[Job](reload, room=2 * workers, clock=clock, offer=crew.take_job if crew is not None else _keep)

    async def feed() -> None:
        async for target in targets:
            if crew is not None and crew.take(target):
                lanes.lend()
                continue
            job = fetcher.begin(target)
            if isinstance(job, Failed):
                await collector.land(job.outcome)
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
            if isinstance(end, Failed):
                await collector.land(end.outcome)
            lanes.finish(taken_from=host)

    try:
        async with asyncio.TaskGroup() as group:
            collecting = [group.create_task(collector.run()) for _ in range(BATCHES_AT_ONCE)]
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
