"""Parts by this process alone: one of many tasks that know nothing of each other, or the only one.

Its own parts come first, then those of others that have no record yet, in random order: a task that was killed leaves
no gap. What others have committed is seen by listing the records now and then.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Self

from oid_async.cluster.array_task import ArrayTask
from oid_async.cluster.dispatch import Assignment, Dispatcher, WorkerState
from oid_async.cluster.generations import parts_to_do
from oid_async.cluster.part_worker import PartWorker
from oid_async.cluster.published import Generation, Part
from oid_async.cluster.work import ClosedError, PartProgress, PartResult, Worker, WorkSettings
from oid_async.concurrency import in_thread, run_to_end, set_within
from oid_async.errors import StorageError

Report = Callable[[PartResult | PartProgress], None]
MakeWorker = Callable[[WorkSettings], Worker]

_HERE = "here"
_LOOK_S = 0.5
# The records are listed so often, and never for more than a small share of the time.
_LIST_S = 5.0
_LIST_SHARE = 20
# How long others are left alone with their last parts where nothing is known of how long a part takes.
_OTHERS_S = 5.0


class ArrayEngine:
    """Has parts carried out by this process, which is one `task` of some. Use as `async with`."""

    def __init__(self, settings: WorkSettings, task: ArrayTask, make: MakeWorker = PartWorker) -> None:
        self._settings = settings
        self._task = task
        self._make = make
        self._random = random.Random()
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(2, "oid_async-part")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._worker is not None:
            await in_thread(self._worker.close)
        await run_to_end(asyncio.to_thread(self._threads.shutdown))

    @property
    def workers(self) -> int:
        """How many workers are there at the moment."""
        return 1

    async def run(self, generation: Generation, report: Report) -> list[str]:
        """See `cluster.work.Engine`: it ends when every part of the generation has a record."""
        parts = await in_thread(parts_to_do, self._settings.objects, generation)
        if not parts:
            return []
        if self._worker is None:
            self._worker = await in_thread(self._make, self._settings)
        own, others = divided(parts, self._task, self._random, capped=generation.capped)
        work = _Work(self._worker, own, others, report, self._threads)
        listing = asyncio.create_task(self._list(generation, work))
        try:
            await work.until_over(listing)
        finally:
            listing.cancel()
            if work.is_busy:
                # With what others have done meanwhile, or of no use any more.
                worker, self._worker = self._worker, None
                await in_thread(worker.close)
            await work.until_idle()
            await run_to_end(asyncio.wait([listing]))
        return work.dispatcher.given_up

    async def _list(self, generation: Generation, work: "_Work") -> None:
        """Take note of what others have committed."""
        while not self._task.is_alone:
            began = monotonic()
            left = {part.name for part in await in_thread(parts_to_do, self._settings.objects, generation)}
            work.note_left(left)
            await asyncio.sleep(max(_LIST_S, _LIST_SHARE * (monotonic() - began)))


def divided(
    parts: Sequence[Part], task: ArrayTask, shuffled: random.Random, *, capped: bool = False
) -> tuple[list[Part], list[Part]]:
    """Return the parts to begin with, and those of others in random order.

    Where it is not known how many tasks there are, a task begins somewhere and goes on from there. Capped parts are
    all of the one task that asks for them.
    """
    if task.is_alone or capped:
        return list(parts), []
    if task.count is None:
        start = shuffled.randrange(len(parts))
        return [*parts[start:], *parts[:start]], []
    own = [part for part in parts if part.number % task.count == task.index % task.count]
    others = [part for part in parts if part.number % task.count != task.index % task.count]
    shuffled.shuffle(others)
    return own, others


class _Work:
    """The parts of one generation here: what is under way, and what others have done."""

    def __init__(
        self, worker: Worker, own: Sequence[Part], others: Sequence[Part], report: Report, threads: ThreadPoolExecutor
    ) -> None:
        self._worker = worker
        self._threads = threads
        self._report = report
        self._others = list(others)
        self._runs: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._idle_since: float | None = None
        self._began = monotonic()
        self.dispatcher = Dispatcher(own)
        self.dispatcher.workers({_HERE: WorkerState()})

    async def until_over(self, listing: "asyncio.Task[None]") -> None:
        """Carry out parts until all are done, here or by others. Raises what stops the run."""
        while not (self.dispatcher.is_over and not self._others):
            while (each := self.dispatcher.next(monotonic())) is not None:
                self._start(each)
            self._take_others(monotonic())
            self._changed.clear()
            await set_within(self._changed, _LOOK_S)
            if self._error is not None:
                raise self._error
            if listing.done():
                listing.result()

    @property
    def is_busy(self) -> bool:
        """Return whether a part is under way."""
        return bool(self._runs)

    async def until_idle(self) -> None:
        """Wait for what is under way; it has nothing left to do, or was ended."""
        while self._runs:
            await run_to_end(asyncio.wait(self._runs))

    def note_left(self, left: set[str]) -> None:
        """Take note of the parts that have no record: the others are done."""
        self._others = [part for part in self._others if part.name in left]
        if self.dispatcher.leave(left):
            self._changed.set()

    def _take_others(self, now: float) -> None:
        """Take the parts of others, once this task has had nothing to do for about as long as a part takes."""
        if not self._others or not self.dispatcher.is_over:
            self._idle_since = None
            return
        self._idle_since = now if self._idle_since is None else self._idle_since
        usual = self.dispatcher.usual_s
        if now - self._idle_since >= (_OTHERS_S if usual is None else usual):
            self.dispatcher.add(self._others)
            self._others = []
            self._changed.set()

    def _start(self, each: Assignment) -> None:
        run = asyncio.create_task(self._run(each))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, each: Assignment) -> None:
        loop = asyncio.get_running_loop()

        def progress(value: PartProgress) -> None:
            loop.call_soon_threadsafe(self._report, value)

        def carry_out() -> PartResult:
            return self._worker.run(each.part, attempt=each.attempt, progress=progress)

        try:
            result = await run_to_end(loop.run_in_executor(self._threads, carry_out))
        except ClosedError:
            self.dispatcher.lost(each.run, 0)
        except StorageError as error:
            if not self.dispatcher.refused(each.run, monotonic()):
                self._error = self._error or error
        except Exception as error:
            self._error = self._error or error
        else:
            self.dispatcher.ended(each.run, result, monotonic())
            self._report(result)
        self._changed.set()
