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
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry, Target
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
    pool: "WorkerPool | None" = None,
) -> None:
    """Fetch all targets with a bounded pool of workers. Raises what a task raised, alone if it is one.

    `recall` reads the targets at these places of the plan again. A `pool` of other processes shares the work.
    """

    async def reload(kept: Sequence[tuple[int, str]]) -> list[ImageTransfer]:
        jobs = []
        for target, (_, note) in zip(await recall([place for place, _ in kept]), kept, strict=True):
            job = fetcher.recall(target, note)
            assert isinstance(job, ImageTransfer), "what left a note had a source to ask"
            jobs.append(job)
        return jobs

    scheduler = HostScheduler[ImageTransfer](
        reload, room=2 * workers, clock=clock, offer=pool.take_job if pool is not None else None
    )

    async def feed() -> None:
        async for target in targets:
            if pool is not None and pool.take(target):
                scheduler.lend()
                continue
            job = fetcher.begin(target)
            if isinstance(job, Failed):
                scheduler.lend()
                await collector.take(None, job.outcome)
            else:
                await scheduler.put(job)
        scheduler.end()

    def following(job: ImageTransfer) -> ImageTransfer | None:
        return scheduler.follow(job) if collector.has_room(job.held) else None

    async def work() -> None:
        keep_alive = fetcher.keep_alive(following=following, landed=collector.take_now)
        while (job := await scheduler.take()) is not None:
            host = job.host
            end = await fetcher.attempt(job, keep_alive)
            job = keep_alive.job
            if isinstance(end, Retry):
                scheduler.put_back(job, end.delay_s, taken_from=host)
                if end.exhausted:
                    # Fewer at it until descriptors are given back.
                    await asyncio.sleep(end.delay_s)
                continue
            # While much waits to be stored this holds its place at the host: nothing more is fetched then.
            await collector.take(job, end.outcome if isinstance(end, Failed) else end)
            scheduler.let_go(host)

    def settle(job: ImageTransfer | None, result: WriteResult) -> Outcome | None:
        if job is None:
            scheduler.settle(1)
            return None
        fetcher.settled(job)
        if result.reason is None:
            scheduler.finish()
            return None
        end = fetcher.refused(job, result.reason)
        if isinstance(end, Failed):
            return end.outcome
        scheduler.put_back(job, end.delay_s)
        return None

    collector.begin(settle)
    try:
        async with asyncio.TaskGroup() as group:
            collecting = [group.create_task(collector.run()) for _ in range(BATCHES_AT_ONCE)]
            feeding = group.create_task(feed())
            working = [group.create_task(work()) for _ in range(workers)]
            for member in pool.members(fetcher, collector, scheduler) if pool is not None else ():
                group.create_task(member)
            await asyncio.wait([feeding, *working])
            if pool is not None:
                pool.dismiss()
            for task in collecting:
                task.cancel()
    finally:
        scheduler.close()
        collector.close()
