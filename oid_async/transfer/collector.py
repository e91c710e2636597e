"""What has finished: stored, journalled, counted and told. The one owner of journal, report and sink.

    workers ──body──▶ quick disk: check, write, rename, here and now ──some dozens──▶ journal, report, sink
        │                                                                ▲
        └──────▶ slow disk, large body, slow consumer: inbox ──▶ thread ─┘ (one hop a batch)

To store a usual image takes a tenth of a millisecond where nothing holds the disk up, and a hop into a thread costs
more than that: the two pass the interpreter to and fro with every call to the disk. So a program that has its event
loop to itself stores where the body comes in, as long as that is quick; a disk that is not is left to threads, and so
are all images when the loop is somebody else's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter

import aiofiles.os

from oid_async.concurrency import settled
from oid_async.events import Landed, Note, Sink
from oid_async.report import Outcome, Report
from oid_async.store.image_writer import ImageWriter, ReceivedImage, WriteResult
from oid_async.transfer.image_transfer import ImageTransfer
from oid_async.transfer.scheduler import turn, wake

# What may be stored within the event loop: the hash of more takes longer than anybody should be held up.
_QUICK_BYTES = 1 << 20
_QUICK_S = 0.004
# The mean of about so many images says whether the disk is quick; how soon one that is not is tried again.
_QUICK_OF = 8
_SLOW_FOR_S = 1.0
_HERE_IMAGES = 32
_HERE_S = 0.02
# A batch is one thread hop: 300 KB images come 7 at a time, small ones 32.
_BATCH_IMAGES = 32
_BATCH_BYTES = 2 << 20
# While the loop prepares the next batch, a thread works on the other one: hashing does not hold the interpreter.
BATCHES_AT_ONCE = 2
# What may wait to be stored, beside the batches: more only fills the memory, for the disk is what is slow then.
_INBOX_IMAGES = 2 * _BATCH_IMAGES
_INBOX_BYTES = 2 * _BATCH_BYTES

Deliver = Callable[[Outcome], Awaitable[None]]
Settle = Callable[[ImageTransfer | None, WriteResult], Outcome | None]
"""Told of every job that has landed or was refused; returns the Outcome of one that has thereby failed.

None stands for an image that there was nothing to ask for."""

_Entry = tuple[ImageTransfer | None, ReceivedImage | Outcome]


class _Inbox:
    """What waits to be stored, bounded in images and bytes."""

    def __init__(self, room: int) -> None:
        self._room = min(room, _INBOX_IMAGES)
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._takers: deque[asyncio.Future[None]] = deque()
        self._putters: deque[asyncio.Future[None]] = deque()
        self._error: BaseException | None = None

    @property
    def has_room(self) -> bool:
        return len(self._entries) < self._room and self._size < _INBOX_BYTES

    async def put(self, entry: _Entry) -> None:
        while not self.has_room:
            await turn(self._putters)
        self.put_now(entry)

    def put_now(self, entry: _Entry) -> None:
        """Put in what is small, however much is there."""
        self._entries.append(entry)
        self._size += _size(entry)
        wake(self._takers)

    def fail(self, error: BaseException) -> None:
        """Have the next one who takes raise this."""
        self._error = error
        wake(self._takers)

    async def take_batch(self) -> list[_Entry]:
        while not self._entries and self._error is None:
            await turn(self._takers)
        if self._error is not None:
            raise self._error
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
    """Stores what has finished, then journals, counts and tells it, some dozens at a time.

    `room` is how many images may wait for a thread, beside the two batches that are being stored; `own_loop` says that
    the event loop is nobody else's, so that it may wait for a disk that is quick. Whoever starts the
    pipeline says by `begin` who is told of jobs that have come to their end, and by `close` that it is over.
    """

    def __init__(
        self,
        writer: ImageWriter,
        report: Report,
        sink: Sink,
        deliver: Deliver | None,
        *,
        room: int,
        own_loop: bool = False,
    ) -> None:
        self._may_wait = own_loop and deliver is None
        self._image_writer = writer
        self._land_batch = aiofiles.os.wrap(writer.land)
        self._report = report
        self._sink = sink
        self._deliver = deliver
        self._inbox = _Inbox(room)
        self._here: list[tuple[ImageTransfer, WriteResult]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._mean_s = 0.0
        self._slow_until = 0.0

    def begin(self, settle: Settle) -> None:
        """Begin to take what finishes."""
        self._settle = settle
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Journal and count what has been stored; for the end of the pipeline, however it comes."""
        if self._timer is not None:
            self._timer.cancel()
        self._enter_here()

    @property
    def _is_quick(self) -> bool:
        """Return whether images may be stored here and now: nobody has to be waited for, neither disk nor consumer."""
        return self._may_wait and self._loop.time() >= self._slow_until

    def has_room(self, size: int) -> bool:
        """Return whether a body of so many bytes would be taken at once."""
        return self._inbox.has_room or (size <= _QUICK_BYTES and self._is_quick)

    def take_now(self, job: ImageTransfer, image: ReceivedImage) -> None:
        """Take a body for which there is room. Raises StorageError."""
        if image.size > _QUICK_BYTES or image.spooled or not self._is_quick:
            self._inbox.put_now((job, image))
            return
        began = perf_counter()
        self._here.append((job, self._image_writer.write_one(image)))
        self._mean_s += (perf_counter() - began - self._mean_s) / _QUICK_OF
        if self._mean_s > _QUICK_S:
            self._mean_s, self._slow_until = 0.0, self._loop.time() + _SLOW_FOR_S
        if len(self._here) >= _HERE_IMAGES:
            self._enter_here()
        elif self._timer is None:
            self._timer = self._loop.call_later(_HERE_S, self._ring)

    async def take(self, job: ImageTransfer | None, content: ReceivedImage | Outcome) -> None:
        """Take a body, or the Outcome of an image that has failed. Waits while there is much to be stored."""
        if job is not None and isinstance(content, ReceivedImage) and self.has_room(content.size):
            self.take_now(job, content)
        else:
            await self._inbox.put((job, content))

    def _ring(self) -> None:
        self._timer = None
        try:
            self._enter_here()
        except BaseException as error:
            self._inbox.fail(error)

    def _enter_here(self) -> None:
        """Journal and count what was stored within the loop."""
        batch, self._here = self._here, []
        if not batch:
            return
        results = [result for _, result in batch]
        self._image_writer.book(results)
        self._count(results)
        self._settle_all(batch)

    def _settle_all(self, ended: Iterable[tuple[ImageTransfer | None, WriteResult]]) -> None:
        for job, result in ended:
            if (failed := self._settle(job, result)) is not None:
                self._inbox.put_now((job, failed))

    async def run(self) -> None:
        """Store in a thread what may not be stored at once, until cancelled."""
        while True:
            batch = await self._inbox.take_batch()
            results, outcomes = await self._store([content for _, content in batch])
            # Before the jobs are settled: the last outcome must not be lost when the pool is done.
            await self.deliver(outcomes)
            self._settle_all((job, result) for (job, _), result in zip(batch, results, strict=True))

    async def enter(self, outcomes: Sequence[Outcome]) -> None:
        """Journal and count what another process has stored."""
        if self._is_quick:
            self._count(self._image_writer.land(outcomes))
        else:
            await self._store(outcomes)

    async def deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Hand outcomes to whoever wants each of them, as fast as they are taken."""
        if self._deliver is not None:
            for outcome in outcomes:
                await self._deliver(outcome)

    async def _store(self, contents: Sequence[ReceivedImage | Outcome]) -> tuple[list[WriteResult], list[Outcome]]:
        stored = asyncio.ensure_future(self._land_batch(contents))
        try:
            results = await asyncio.shield(stored)
        except asyncio.CancelledError:
            # The thread cannot be stopped half-way: wait, and count what it has stored and journalled.
            await settled(stored)
            if stored.exception() is None:
                self._count(stored.result())
            raise
        return results, self._count(results)

    def _count(self, results: Sequence[WriteResult]) -> list[Outcome]:
        report, outcomes = self._report, []
        for result in results:
            if result.note is not None:
                self._sink(Note(result.note))
            outcome = result.outcome
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


def _size(entry: _Entry) -> int:
    content = entry[1]
    return content.size if isinstance(content, ReceivedImage) and not content.spooled else 0
