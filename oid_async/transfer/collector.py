"""The collector: stores the images that were received, then journals, counts and reports them.

    transfer tasks ──body──▶ quick disk: check, write, rename in the event loop ──some dozens──▶ journal, report, sink
        │                                                                        ▲
        └──────▶ slow disk, large body, slow consumer: inbox ──▶ thread ─────────┘ (one hop a batch)

Storing a usual image takes a tenth of a millisecond where nothing delays the disk, and a hop into a thread costs more
than that: the two threads pass the interpreter to and fro with every call to the disk. So a program that has its event
loop to itself stores in the loop as long as that is quick. Threads store when the disk is slow, and store all images
when the loop belongs to somebody else.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter

import aiofiles.os

from oid_async.concurrency import WaitQueue, run_to_end
from oid_async.events import Landed, Note, Sink
from oid_async.quick_values import frozen
from oid_async.report import Outcome, Report
from oid_async.store.image_writer import ImageWriter, ReceivedImage, WriteResult
from oid_async.store.journal_line import StoredCopies
from oid_async.transfer.holding import Stores
from oid_async.transfer.image_transfer import ImageTransfer

# What may be stored within the event loop: hashing more would hold the loop up for too long.
_QUICK_BYTES = 1 << 20
_QUICK_S = 0.004
# The mean of about so many images decides whether the disk is quick; a slow one is tried again after this time.
# One wait of some dozen milliseconds is rather this process waiting for a processor, and counts for no more than
# `_WAIT_S`: three of them make a slow disk. From `_STALL_S` on it is the disk's, for a scheduler gives a processor back
# after some turns of a few milliseconds each.
_MEAN_IMAGES = 8
_WAIT_S, _STALL_S = 0.016, 0.1
_SLOW_FOR_S = 1.0
# What was stored in the loop is journalled after so many images or seconds, and at once when nothing else is left.
_RECORD_IMAGES = 32
_RECORD_S = 0.02
# A batch is one thread hop: 300 KB images come 7 at a time, small ones 32.
_BATCH_IMAGES = 32
_BATCH_BYTES = 2 << 20
# While the loop prepares the next batch, a thread works on the other one: hashing does not hold the interpreter.
BATCHES_AT_ONCE = 2
# What may wait to be stored in addition to the batches: more only fills the memory, for the disk is what is slow then.
_INBOX_IMAGES = 2 * _BATCH_IMAGES
_INBOX_BYTES = 2 * _BATCH_BYTES

Deliver = Callable[[Outcome], Awaitable[None]]
Finish = Callable[[ImageTransfer | None, WriteResult], Outcome | None]
"""Called with every transfer that was stored or refused; returns the Outcome of one that has thereby failed.

None stands for an image that had no source to request."""

_Entry = tuple[ImageTransfer | None, ReceivedImage | Outcome]


@frozen
class Recipients:
    """Where results go: `report` counts them, `sink` gets the events, `deliver` is awaited with each Outcome.

    `append_lines` journals what another process has stored, where there is one. It raises StorageError.
    """

    report: Report
    sink: Sink
    deliver: Deliver | None = None
    append_lines: Callable[[bytes], None] | None = None


class _Inbox:
    """The images that wait to be stored, bounded in number and bytes.

    With `counts_files` bodies in temporary files count, too: they come into memory when they are stored.
    """

    def __init__(self, capacity: int, *, counts_files: bool) -> None:
        self._capacity = min(capacity, _INBOX_IMAGES)
        self._counts_files = counts_files
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._takers = WaitQueue()
        self._putters = WaitQueue()
        self._error: BaseException | None = None

    @property
    def has_space(self) -> bool:
        return len(self._entries) < self._capacity and self._size < _INBOX_BYTES

    @property
    def waiting(self) -> int:
        return len(self._entries)

    async def put(self, entry: _Entry) -> None:
        while not self.has_space:
            await self._putters.wait()
        self.put_now(entry)

    def put_now(self, entry: _Entry) -> None:
        """Put in an entry, however many there are."""
        self._entries.append(entry)
        self._size += self._size_of(entry)
        self._takers.wake_first()

    def fail(self, error: BaseException) -> None:
        """Let the next `take_batch` raise this error."""
        self._error = error
        self._takers.wake_first()

    async def take_batch(self) -> list[_Entry]:
        while not self._entries and self._error is None:
            await self._takers.wait()
        if self._error is not None:
            raise self._error
        batch: list[_Entry] = []
        size = 0
        while self._entries and len(batch) < _BATCH_IMAGES and size < _BATCH_BYTES:
            batch.append(self._entries.popleft())
            size += self._size_of(batch[-1])
        self._size -= size
        if self._entries:
            self._takers.wake_first()
        for _ in batch:
            self._putters.wake_first()
        return batch

    def _size_of(self, entry: _Entry) -> int:
        content = entry[1]
        return content.size if isinstance(content, ReceivedImage) and (self._counts_files or not content.spooled) else 0


class Collector:
    """Stores what was received, then journals, counts and reports it, some dozens at a time. Owns journal and report.

    Created in a running event loop; `close` it at the end. `finish` is called with every transfer when it is stored,
    refused or failed. At most `capacity` images wait for a thread, in addition to the two batches that are being
    stored. `own_loop`: nothing else runs on the event loop, so it may wait for a disk that is quick. `are_last` returns
    whether nothing is left but so many images: then they are journalled at once, for the run waits for that.
    """

    def __init__(
        self,
        writer: ImageWriter,
        recipients: Recipients,
        finish: Finish,
        *,
        capacity: int,
        own_loop: bool = False,
        are_last: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._may_wait = own_loop and recipients.deliver is None
        self._image_writer = writer
        self._store_batch = aiofiles.os.wrap(writer.write_batch)
        self._report = recipients.report
        self._sink = recipients.sink
        self._deliver = recipients.deliver
        self._append_lines = recipients.append_lines
        self._finish = finish
        self._are_last = are_last
        self._inbox = _Inbox(capacity, counts_files=writer.hands_out)
        self._unrecorded: list[tuple[ImageTransfer, WriteResult]] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._mean_s = 0.0
        self._slow_until = 0.0
        self._delivering = 0

    def close(self) -> None:
        """Journal and count what has been stored; for the end of the pipeline, however it comes."""
        if self._timer is not None:
            self._timer.cancel()
        self._record_stored()

    @property
    def stores(self) -> Stores:
        """Return how far storing is behind."""
        return Stores(self._inbox.waiting, not self._inbox.has_space, self._delivering > 0)

    @property
    def is_quick(self) -> bool:
        """Return whether images may be stored in the event loop: neither disk nor consumer have to be waited for."""
        return self._may_wait and self._loop.time() >= self._slow_until

    def has_space(self, size: int) -> bool:
        """Return whether `add` would take a body of so many bytes without waiting."""
        return self._inbox.has_space or (size <= _QUICK_BYTES and self.is_quick)

    def add_now(self, transfer: ImageTransfer, image: ReceivedImage) -> None:
        """Take a body for which there is space. Raises StorageError."""
        if image.size > _QUICK_BYTES or image.spooled or not self.is_quick:
            self._inbox.put_now((transfer, image))
            return
        began = perf_counter()
        self._unrecorded.append((transfer, self._image_writer.write_one(image)))
        took = perf_counter() - began
        self._mean_s += ((took if took >= _STALL_S else min(took, _WAIT_S)) - self._mean_s) / _MEAN_IMAGES
        if self._mean_s > _QUICK_S:
            # Of a disk that was slow the first wait counts again.
            self._mean_s, self._slow_until = _QUICK_S, self._loop.time() + _SLOW_FOR_S
        stored = len(self._unrecorded)
        if stored >= _RECORD_IMAGES or self._are_last(stored):
            self._record_stored()
        elif self._timer is None:
            self._timer = self._loop.call_later(_RECORD_S, self._on_timer)

    async def add(self, transfer: ImageTransfer | None, content: ReceivedImage | Outcome) -> None:
        """Take a body, or the Outcome of an image that has failed. Waits while much is to be stored."""
        if transfer is not None and isinstance(content, ReceivedImage) and self.has_space(content.size):
            self.add_now(transfer, content)
        else:
            await self._inbox.put((transfer, content))

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._record_stored()
        except BaseException as error:
            self._inbox.fail(error)

    def _record_stored(self) -> None:
        """Journal and count what was stored within the loop."""
        batch, self._unrecorded = self._unrecorded, []
        if not batch:
            return
        results = [result for _, result in batch]
        self._image_writer.record(results)
        self._count(results)
        self._finish_all(batch)

    def _finish_all(self, ended: Iterable[tuple[ImageTransfer | None, WriteResult]]) -> None:
        for transfer, result in ended:
            if (failed := self._finish(transfer, result)) is not None:
                self._inbox.put_now((transfer, failed))

    async def run(self) -> None:
        """Store in a thread what may not be stored in the loop, until cancelled."""
        while True:
            batch = await self._inbox.take_batch()
            results, outcomes = await self._store([content for _, content in batch])
            # Before the transfers are finished: the last Outcome must not be lost when the tasks end.
            await self.deliver(outcomes)
            self._finish_all((transfer, result) for (transfer, _), result in zip(batch, results, strict=True))

    async def record(self, outcomes: Sequence[Outcome]) -> None:
        """Journal and count what another process has stored."""
        if self.is_quick:
            self._count(self._image_writer.write_batch(outcomes))
        else:
            await self._store(outcomes)

    def record_copies_now(self, copies: StoredCopies) -> None:
        """Journal and count copies that another process has stored, while the disk is quick. Raises StorageError."""
        assert self._append_lines is not None
        self._append_lines(copies.lines)
        self._count_copies(copies)

    async def record_results(self, copies: StoredCopies, outcomes: Sequence[Outcome]) -> None:
        """Journal and count what another process has stored, or given up; all of it, also when cancelled meanwhile."""
        await run_to_end(self._record_results(copies, outcomes))

    async def _record_results(self, copies: StoredCopies, outcomes: Sequence[Outcome]) -> None:
        if copies.image_ids and self.is_quick:
            self.record_copies_now(copies)
        elif copies.image_ids:
            assert self._append_lines is not None
            await asyncio.to_thread(self._append_lines, copies.lines)
            self._count_copies(copies)
        if outcomes:
            await self.record(outcomes)

    @property
    def delivers(self) -> bool:
        """Return whether there is a consumer for `deliver`."""
        return self._deliver is not None

    async def deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Pass outcomes to the consumer that wants each of them, as fast as it takes them."""
        if self._deliver is not None:
            self._delivering += 1
            try:
                for outcome in outcomes:
                    await self._deliver(outcome)
            finally:
                self._delivering -= 1

    async def _store(self, contents: Sequence[ReceivedImage | Outcome]) -> tuple[list[WriteResult], list[Outcome]]:
        # When cancelled: the thread cannot be stopped half-way, and what it has stored and journalled counts.
        results = await run_to_end(self._store_batch(contents), release=self._count)
        return results, self._count(results)

    def _count_copies(self, copies: StoredCopies) -> None:
        report, count = self._report, len(copies.image_ids)
        report.pending -= count
        report.downloaded += count
        report.bytes += copies.size
        report.sources["cvdf"] = report.sources.get("cvdf", 0) + count
        report.measures.landed.add(count, copies.size, 0)
        self._sink(Landed.elsewhere(copies.outcomes, report))

    def _count(self, results: Sequence[WriteResult]) -> list[Outcome]:
        report, outcomes = self._report, []
        failed, downloaded_bytes = report.failed, report.bytes
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
            failed = report.failed - failed
            report.measures.landed.add(len(outcomes) - failed, report.bytes - downloaded_bytes, failed)
            self._sink(Landed(tuple(outcomes), report))
        return outcomes
