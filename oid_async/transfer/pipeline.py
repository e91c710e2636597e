"""The pipeline of one run: plan -> scheduler -> transfer tasks -> collector. The only place that starts tasks.

    feed ──▶ scheduler ──▶ transfer tasks (N) ──▶ collector ──▶ check, write, rename, journal, report, sink
                 ▲  retry ──┘                         │
                 └──────── body refused ──────────────┘

Scheduler and collector are bounded. A task has an image for one attempt and goes on with another one while the body is
stored. An image whose body is refused goes back to the queue of its host, where all images wait that are to be
requested again. The collector alone writes the journal, counts the report and calls the sink. A task that breaks ends
the group; no other task waits for it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from oid_async.report import Outcome
from oid_async.store.image_writer import ImageWriter, WriteResult
from oid_async.transfer.collector import BATCHES_AT_ONCE, Collector, Recipients
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.holding import HoldingWatch, Workers
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry, Target
from oid_async.transfer.keep_alive import KeepAliveChain
from oid_async.transfer.scheduler import HostScheduler, InHand
from oid_async.transfer.tail import LOOK_S, Tail


class TargetSource(Protocol):
    """What a pipeline is to fetch: the plan of one run (`transfer.targets.Targets`), or of one part after another."""

    @property
    def rests(self) -> bool:
        """Whether all that there is so far was yielded, and more may come."""
        ...

    def __aiter__(self) -> AsyncIterator[Target]:
        """Yield what is to be fetched."""
        ...

    async def read(self, places: Sequence[int]) -> Sequence[Target]:
        """Return the targets at these places, in their order."""
        ...


class _ExternalWorkers(Protocol):
    """The worker processes that share the work of a pipeline: see `workers.pool.WorkerPool`."""

    def accept_target(self, target: Target) -> bool: ...
    def accept(self, transfer: ImageTransfer) -> bool: ...
    def supervise(
        self, fetcher: Fetcher, collector: Collector, scheduler: HostScheduler[ImageTransfer]
    ) -> Iterable[Coroutine[Any, Any, None]]: ...
    def in_hand(self) -> list[InHand]: ...
    def hanging(self) -> Counter[str]: ...
    @property
    def starting(self) -> int: ...
    def stop(self) -> None: ...


class Pipeline:
    """The transfer of all images of a plan, at most `max_transfers` at once here; the processes of `pool` share it.

    Created in the event loop that runs it, and run once. `own_loop`: nothing else runs on that loop.
    """

    def __init__(
        self,
        targets: TargetSource,
        fetcher: Fetcher,
        writer: ImageWriter,
        recipients: Recipients,
        *,
        max_transfers: int,
        pool: _ExternalWorkers | None = None,
        own_loop: bool = False,
    ) -> None:
        self._targets = targets
        self._fetcher = fetcher
        self._max_transfers = max_transfers
        self._pool = pool
        self._scheduler = HostScheduler[ImageTransfer](
            self._load,
            capacity=2 * max_transfers,
            clock=fetcher.clock,
            delegate=pool.accept if pool is not None else None,
        )
        hosts, limit = fetcher.client.hosts, fetcher.client.limits.rate_bytes_s
        self._holding = HoldingWatch(hosts, recipients.sink, limit_bytes_s=limit)
        self._collector = Collector(
            writer,
            recipients,
            self._finish,
            capacity=2 * max_transfers,
            own_loop=own_loop,
            are_last=self._scheduler.ends_with,
        )

    async def run(self) -> None:
        """Fetch all targets. Raises the group of what tasks raised."""
        pool, collector, scheduler = self._pool, self._collector, self._scheduler
        hosts = self._fetcher.client.hosts
        hosts.idle_since = None
        try:
            async with asyncio.TaskGroup() as group:
                collecting = [group.create_task(collector.run()) for _ in range(BATCHES_AT_ONCE)]
                feeding = group.create_task(self._feed())
                watching = group.create_task(self._watch())
                transferring = [group.create_task(self._transfer()) for _ in range(self._max_transfers)]
                self._fetcher.client.hosts.on_room = scheduler.give_room
                if pool is not None:
                    for supervision in pool.supervise(self._fetcher, collector, scheduler):
                        group.create_task(supervision)
                await asyncio.wait([feeding, *transferring])
                if pool is not None:
                    pool.stop()
                for task in (watching, *collecting):
                    task.cancel()
        finally:
            hosts.idle_since = hosts.clock()
            scheduler.close()
            collector.close()
        self._holding.end()

    async def _feed(self) -> None:
        """Give the targets to worker processes that have space, the others to the scheduler."""
        pool, scheduler = self._pool, self._scheduler
        async for target in self._targets:
            if pool is not None and pool.accept_target(target):
                scheduler.add_external()
                continue
            transfer = self._fetcher.start(target)
            if isinstance(transfer, Failed):
                scheduler.add_external()
                await self._collector.add(None, transfer.outcome)
            else:
                await scheduler.put(transfer)
        scheduler.end_of_plan()

    async def _watch(self) -> None:
        """Look once a second at what holds the run up, and at what is left in the end, until cancelled."""
        client, scheduler, pool = self._fetcher.client, self._scheduler, self._pool
        tail = Tail(client.hosts)
        while True:
            await asyncio.sleep(LOOK_S)
            in_hand = pool.in_hand() if pool is not None else []
            self._look_what_holds(in_hand)
            left = scheduler.left(rests=self._targets.rests)
            if left is None:
                client.hosts.idle_since = None
            else:
                tail.look(*left, in_hand=in_hand, transfers_end=client.transfers_end)
                scheduler.release_given_up()

    def _look_what_holds(self, in_hand: Sequence[InHand]) -> None:
        retries = Counter(next(reversed(item.attempts.seen), "network") for item in self._scheduler.retries())
        pool = self._pool
        workers = Workers(in_hand, pool.hanging(), pool.starting) if pool is not None else Workers()
        self._holding.look(self._scheduler.waiting(), retries, self._collector.stores, workers)

    async def _load(self, places: Sequence[tuple[int, str]]) -> list[ImageTransfer]:
        """Read the targets of these places again; return their transfers in the state that was saved with the place."""
        transfers = []
        for target, (_, state) in zip(await self._targets.read([place for place, _ in places]), places, strict=True):
            transfer = self._fetcher.restore(target, state)
            assert isinstance(transfer, ImageTransfer), "only an image with a source left has a saved state"
            transfers.append(transfer)
        return transfers

    async def _transfer(self) -> None:
        """Make attempts, one at a time, until all images are finished."""
        fetcher, scheduler, collector = self._fetcher, self._scheduler, self._collector
        transfer = await scheduler.take_next()
        if transfer is None:
            return
        chain = KeepAliveChain(fetcher, transfer, next_transfer=self._next_for, store=collector.add_now)
        while transfer is not None:
            host = transfer.host
            end = await fetcher.attempt(transfer, chain)
            transfer = chain.transfer
            if isinstance(end, Retry):
                scheduler.requeue(transfer, end.delay_s, taken_from=host)
                if end.exhausted:
                    # Fewer transfers at once until descriptors are given back.
                    await asyncio.sleep(end.delay_s)
            else:
                # While much waits to be stored this keeps its place at the host: nothing more is fetched then.
                await collector.add(transfer, end.outcome if isinstance(end, Failed) else end)
                scheduler.release_host(host)
            transfer = await scheduler.take_next()

    def _next_for(self, transfer: ImageTransfer) -> ImageTransfer | None:
        """Return the next transfer for a connection whose body has arrived, None if the task must go on itself."""
        return self._scheduler.take_next_for(transfer) if self._collector.has_space(transfer.held_bytes) else None

    def _finish(self, transfer: ImageTransfer | None, result: WriteResult) -> Outcome | None:
        """Finish or requeue an image that was stored or refused; return the Outcome of one that has thereby failed."""
        if transfer is None:
            self._scheduler.finish_external(1)
            return None
        self._fetcher.release_memory(transfer)
        if result.reason is None:
            self._scheduler.finish()
            return None
        end = self._fetcher.handle_refusal(transfer, result.reason)
        if isinstance(end, Failed):
            return end.outcome
        self._scheduler.requeue(transfer, end.delay_s)
        return None
