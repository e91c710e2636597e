"""The pipeline: plan -> lanes -> workers -> collector. The only place that starts tasks.

    feeder ──▶ lanes ──▶ workers (N) ──▶ collector ──▶ check, write, rename, journal, report, sink
                 ▲  again ──┘                │
                 └──────── refused ──────────┘

Lanes and collector are bounded. A worker has an image for one attempt and goes on with another one while the body is
stored; a body that turns out wrong goes back to its host's lane, where every image waits that is to be asked for again.
The collector alone writes the journal, counts the report and speaks to the sink. A task that breaks ends the group,
never a wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from oid_async.report import Outcome
from oid_async.store.image_writer import WriteResult
from oid_async.transfer.collector import BATCHES_AT_ONCE, Collector
from oid_async.transfer.fetch import Failed, Fetcher, ImageTransfer, Retry, Target
from oid_async.transfer.scheduler import HostScheduler

if TYPE_CHECKING:
    from oid_async.workers.pool import WorkerPool


async def run(
    targets: AsyncIterator[Target],
    fetcher: Fetcher,
    collector: Collector,
    *,
    recall: Callable[[Sequence[int]], Awaitable[Sequence[Target]]],
    clock: Callable[[], float],
    workers: int,
    crew: "WorkerPool | None" = None,
) -> None:
    """Fetch all targets with a bounded pool of workers. Raises what a task raised, alone if it is one.

    `recall` reads the targets at these places of the plan again. A `crew` of other processes shares the work.
    """

    async def reload(kept: Sequence[tuple[int, str]]) -> list[ImageTransfer]:
        jobs = []
        for target, (_, note) in zip(await recall([place for place, _ in kept]), kept, strict=True):
            job = fetcher.recall(target, note)
            assert isinstance(job, ImageTransfer), "what left a note had a source to ask"
            jobs.append(job)
        return jobs

    lanes = HostScheduler[ImageTransfer](
        reload, room=2 * workers, clock=clock, offer=crew.take_job if crew is not None else None
    )

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

    def following(job: ImageTransfer) -> ImageTransfer | None:
        return lanes.follow(job) if collector.has_room(job.held) else None

    async def work() -> None:
        streak = fetcher.streak(following=following, landed=collector.take_now)
        while (job := await lanes.take()) is not None:
            host = job.host
            end = await fetcher.attempt(job, streak)
            job = streak.job
            if isinstance(end, Retry):
                lanes.put_back(job, end.delay_s, taken_from=host)
                if end.exhausted:
                    # Fewer at it until descriptors are given back.
                    await asyncio.sleep(end.delay_s)
                continue
            # While much waits to be stored this holds its place at the host: nothing more is fetched then.
            await collector.take(job, end.outcome if isinstance(end, Failed) else end)
            lanes.let_go(host)

    def settle(job: ImageTransfer | None, landing: WriteResult) -> Outcome | None:
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

    collector.begin(settle)
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
        collector.close()
