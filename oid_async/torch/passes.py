"""One iteration over a Stream: the samples of an epoch, dealt to the workers of a DataLoader.

Block k of `block` samples, counted from where the iteration begins, goes to worker k mod W. DataLoader takes a batch
from one worker after the other: with blocks of its batch size the batches are in the order of the epoch, however
many workers there are.
"""

import asyncio
from collections import deque
from contextlib import suppress

from oid_async.jobs.feeding.epoch import Epoch, Sample
from oid_async.jobs.feeding.feed import Feed
from oid_async.jobs.feeding.places import Place
from oid_async.torch.messages import Seat, sample_frame


class _Worker:
    """What one worker is to get; `process` is None until it has come."""

    def __init__(self) -> None:
        self.process: int | None = None
        self.is_gone = False
        self.has_all = False
        self.has_read_all = False
        self.samples: deque[Sample] = deque()
        self.moved = asyncio.Event()


class Pass:
    """The samples of one epoch from a place on, for the workers of one iteration; `start` it, and `stop` it.

    `place` is the one behind all samples that workers were sent, `is_over` says that each worker has had all of its.
    """

    def __init__(self, number: int, seat: Seat, place: Place) -> None:
        self.number = number
        self.place = place
        self.start_place = place
        self._iteration, self._block = seat.iteration, seat.block
        # Workers with states of their own had their samples dealt from the beginning of the epoch on.
        self._first = place.given if seat.start is None else 0
        self._workers = [_Worker() for _ in range(max(1, seat.workers))]
        self._has_workers = seat.workers > 0
        self._epoch: Epoch | None = None
        self._error: Exception | None = None
        self._may_begin = asyncio.Event()
        self._has_ended = False
        self.repeats = 0
        self.failures: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def takes(self, seat: Seat) -> bool:
        """Return whether a worker belongs to this iteration: one that was broken off is joined by nobody."""
        if seat.iteration != self._iteration or seat.worker >= len(self._workers) or seat.block != self._block:
            return False
        if any(worker.is_gone and not worker.has_all for worker in self._workers):
            return False
        return self._workers[seat.worker].process is None

    def join(self, seat: Seat) -> None:
        """Take in a worker. Where they have states of their own, the one furthest behind says where to begin."""
        self._workers[seat.worker].process = seat.process
        if seat.start is not None and seat.start.position < self.start_place.position:
            self.place = self.start_place = seat.start
        if seat.start is None or all(worker.process is not None for worker in self._workers):
            self._may_begin.set()

    @property
    def is_over(self) -> bool:
        """Whether every worker has had all of its samples; without workers the trainer knows better what it has."""
        return self._has_workers and all(worker.has_all for worker in self._workers)

    @property
    def is_ahead(self) -> bool:
        """Whether workers have been sent samples: how many of them the trainer has taken is not known here.

        Not so once each of them has read all of its samples, and their end.
        """
        return self.place != self.start_place and not all(worker.has_read_all for worker in self._workers)

    def note_end(self, seat: Seat) -> None:
        """Note that a worker has read all of its samples, and their end."""
        self._workers[seat.worker].has_read_all = True

    def start(self, feed: "asyncio.Future[Feed]", seed: int, window: int) -> None:
        """Begin to fetch and to deal."""
        self._task = asyncio.create_task(self._deal(feed, seed, window), name="oid_async.pass")

    async def stop(self, error: Exception) -> None:
        """Stop what is under way; workers that still wait get this error."""
        if not self._has_ended:
            self._fail(error)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()

    async def _deal(self, planned: "asyncio.Future[Feed]", seed: int, window: int) -> None:
        try:
            feed = await asyncio.shield(planned)
            await self._may_begin.wait()
            await feed.decide()
            share = await feed.share(seed, self.start_place.epoch)
            async with Epoch(feed, share, self.start_place, window=window) as self._epoch:
                while (sample := await self._epoch.next()) is not None:
                    worker = self._workers[(sample.number - self._first) // self._block % len(self._workers)]
                    if worker.is_gone:
                        self._epoch.release(sample)
                    else:
                        worker.samples.append(sample)
                        worker.moved.set()
                self.repeats, self.failures = self._epoch.repeats, dict(self._epoch.failures)
                self._has_ended = True
                self._wake()
                # Samples that were dealt are released until the last one was sent.
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        for worker in self._workers:
            worker.moved.set()

    async def serve(self, seat: Seat, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        """Send a worker its samples until they are all sent, or it has gone. Raises the error of the iteration."""
        worker = self._workers[seat.worker]
        watching = asyncio.create_task(self._watch(worker, reader))
        try:
            while not worker.is_gone:
                if worker.samples:
                    await self._send(worker, writer)
                elif self._error is not None:
                    raise self._error
                elif self._has_ended:
                    worker.has_all = True
                    return
                else:
                    worker.moved.clear()
                    await worker.moved.wait()
        except ConnectionError:
            pass
        finally:
            await self._leave(worker)
            watching.cancel()
            await asyncio.wait([watching])

    async def _send(self, worker: _Worker, writer: asyncio.StreamWriter) -> None:
        sample = worker.samples.popleft()
        writer.writelines(sample_frame(sample))
        try:
            await writer.drain()
        finally:
            assert self._epoch is not None
            self._epoch.release(sample)
        # Without workers the trainer knows better what it has taken.
        if self._has_workers and sample.position >= self.place.position:
            self.place = Place(self.place.epoch, sample.position + 1, sample.number + 1)

    async def _watch(self, worker: _Worker, reader: asyncio.StreamReader) -> None:
        """Notice that a worker closes its connection: it says nothing more."""
        with suppress(ConnectionError):
            while await reader.read(64):
                pass
        worker.is_gone = True
        worker.moved.set()

    async def _leave(self, worker: _Worker) -> None:
        """Give up what a worker has not taken; if nobody is left, the iteration stops."""
        worker.is_gone = True
        while worker.samples:
            assert self._epoch is not None
            self._epoch.release(worker.samples.popleft())
        is_left = all(each.is_gone or each.process is None for each in self._workers)
        if is_left and not self._has_ended and self._task is not None:
            self._task.cancel()
