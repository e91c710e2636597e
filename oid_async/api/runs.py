"""`await download(...)`, `await plan(...)`, `async with stream(...)`: the runs of a query."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Self, Unpack

from oid_async.concurrency import wait_until_done
from oid_async.errors import UsageError
from oid_async.events import Sink, ignore
from oid_async.jobs.delivery import Delivery
from oid_async.jobs.download import Run
from oid_async.options.keywords import QueryOptions, RunOptions
from oid_async.options.paths import read_path
from oid_async.options.query import Options
from oid_async.options.selection import Query, options_of
from oid_async.options.signatures import check_switch, document
from oid_async.report import Outcome, Plan, Report
from oid_async.screen.progress import shown

# What a slow consumer has not taken yet: so many outcomes, and of those with images so many bytes and one image more.
_WAITING_OUTCOMES = 256
_WAITING_BYTES = 32 << 20


async def download(
    *,
    query: Query | None = None,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[RunOptions],
) -> Report:
    """Select images, fetch them with their annotations into `savepath`, and return the report.

    `query` is a Query in place of the keywords that select: giving one of them beside it is a UsageError.

    One image that fails is data in the report. Raises a subclass of `oid_async.errors.OidError` for a wrong option, an
    unusable table, a full disk, or a folder that another run owns. When cancelled, what was saved stays and the next
    call goes on from there. `on_event` is called on the loop with each event of `oid_async.events`. With `progress` how
    far it is, and what holds it up, is shown: as bars on a terminal and in a notebook, elsewhere as a line on stderr
    every 30 seconds. Nothing is printed without it.
    """
    with shown(on_event, progress=progress) as sink:
        return await Run(options_of(query, options), sink).download()


async def plan(
    *,
    ids: str | os.PathLike[str] | None = None,
    query: Query | None = None,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[QueryOptions],
) -> Plan:
    """Say what `download` with the same keywords would do: fetches tables, no image, writes nothing to `savepath`.

    `ids` is a file that the selected images are written to, a split/ImageID a line, as `image_ids` takes them; it
    appears whole or not at all, and replaces one of that name. A folder is a UsageError, no permission a StorageError.
    """
    if ids == "-":
        raise UsageError("ids '-' is for the command line, which writes to stdout; name a file")
    if "report" in options:
        raise UsageError("report is of a run; a plan makes none")
    place = None if ids is None else Path(read_path("ids", ids))
    with shown(on_event, progress=progress) as sink:
        return await Run(options_of(query, options), sink).plan(place)


def stream(
    *,
    query: Query | None = None,
    on_event: Sink | None = None,
    progress: bool = False,
    annotations: bool = False,
    keep_files: bool = True,
    **options: Unpack[RunOptions],
) -> "Stream":
    """Run `download` and hand out each image's Outcome as it lands; use as `async with stream(...) as outcomes`.

    A consumer that is slow slows the run down: nothing piles up. Leaving the block stops the run cleanly; the result
    tables are written when the outcomes were read to their end. Raises what `download` raises, from the iteration.

    With `annotations` an outcome has the bytes of the JPEG (`image`) and the rows that the saved tables have of it:
    `boxes`, `masks`, `relationships`, `narratives`, `labels`, `points`, lists of dicts by column, of those `kinds` that
    are asked for; see Outcome. Pictures of masks, traces and recordings come into the folder at the end of a run.

    With `keep_files=False` an outcome has the bytes and no file: nothing is saved, no table is written, and SAVEPATH,
    where images that are there already are taken from, stays as it was but for the failures that are remembered. The
    next run fetches the images again. What makes files is refused then: format, traces, voice. Either is done by one
    process: `processes` above 1 is a UsageError.
    """
    check_switch("progress", progress)
    read = _handed_out(options_of(query, options), annotations=annotations, keep_files=keep_files)
    if read.is_distributed:
        where = f"savepath {read.savepath}" if read.cluster is None else f"cluster={read.cluster!r}"
        raise UsageError(f"stream hands out images of a folder of this machine; with {where} say download")
    return Stream(read, on_event, progress=progress, annotations=annotations, keep_files=keep_files)


def _handed_out(options: Options, *, annotations: bool, keep_files: bool) -> Options:
    """Return the options of a stream that hands out bytes or rows. Raises UsageError for those it cannot have."""
    check_switch("annotations", annotations)
    check_switch("keep_files", keep_files)
    if keep_files and not annotations:
        return options
    what = "keep_files=False" if not keep_files else "annotations=True"
    if options.packs:
        raise UsageError(f"no_files packs images into shards, and {what} hands them out: leave one out")
    if not keep_files:
        for name in ("format", "traces", "voice"):
            if getattr(options, name):
                raise UsageError(f"{name} makes files, and with {what} nothing is kept: leave one out")
    if isinstance(options.processes, int) and options.processes > 1:
        raise UsageError(f"processes={options.processes}: a stream with {what} is one process; leave it out")
    return replace(options, processes=1)


class _WaitingOutcomes(asyncio.Queue[Outcome | None]):
    """The outcomes that the consumer has not taken yet, bounded in number and in the bytes of their images."""

    def __init__(self) -> None:
        super().__init__(_WAITING_OUTCOMES)
        self._bytes = 0

    def full(self) -> bool:
        return super().full() or self._bytes >= _WAITING_BYTES

    def end(self) -> None:
        """Drop what nobody has taken, and let who waits know that no more comes."""
        while not self.empty():
            self.get_nowait()
        self.put_nowait(None)

    def _put(self, item: Outcome | None) -> None:
        self._bytes += _image_bytes(item)
        super()._put(item)

    def _get(self) -> Outcome | None:
        item = super()._get()
        self._bytes -= _image_bytes(item)
        return item


def _image_bytes(outcome: Outcome | None) -> int:
    return 0 if outcome is None or outcome.image is None else len(outcome.image)


class Stream:
    """The outcomes of a run in progress, in order of landing. `report` is the run's, true at every moment.

    It runs once. Who still iterates when the block is left, or later, gets no more outcomes.
    """

    def __init__(
        self,
        options: Options,
        on_event: Sink | None,
        *,
        progress: bool,
        annotations: bool = False,
        keep_files: bool = True,
    ) -> None:
        self._queue = _WaitingOutcomes()
        self._on_event, self._progress = on_event, progress
        delivery = Delivery(self._queue.put, annotations, keep_files)
        self._run = Run(options, lambda event: self._sink(event), delivery=delivery)
        self._sink: Sink = ignore
        self._task: asyncio.Task[None] | None = None

    @property
    def report(self) -> Report:
        """The report of the run so far."""
        return self._run.report

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a stream runs once: make a new one with oid_async.stream(...)")
        self._task = asyncio.create_task(self._feed(), name="oid_async.stream")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        task = self._task
        if task is None:
            return
        task.cancel()
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            # Cancelled from outside as well: the run must have let go of everything before that goes on.
            await wait_until_done(task)
            raise
        finally:
            if not task.cancelled():
                task.exception()
            self._queue.end()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        task = self._task
        if task is None:
            raise RuntimeError("use it as: async with oid_async.stream(...) as outcomes")
        outcome = await self._queue.get()
        if outcome is not None:
            return outcome
        self._queue.put_nowait(None)
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        raise StopAsyncIteration

    async def _feed(self) -> None:
        try:
            with shown(self._on_event, progress=self._progress) as self._sink:
                await self._run.download()
        finally:
            if asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]
                await self._queue.put(None)


document(download, RunOptions, Report)
document(plan, QueryOptions, Plan)
document(stream, RunOptions, Stream)
