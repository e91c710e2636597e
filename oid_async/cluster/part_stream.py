"""The images of one part after another, as one stream: the next part's come while the last ones of a part are awaited.

    run(part) ──PartImages──▶ PartTargets ──▶ Pipeline ──▶ journal of the part, its counts ──all landed──▶ run(part)

One pipeline and one client live as long as the worker does, in a thread with an event loop of their own. So between two
parts nothing has to start again: connections, names, what is known of hosts, the number of transfers.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from oid_async.cluster.work import ClosedError, WorkSettings
from oid_async.concurrency import single_error
from oid_async.errors import storage_errors
from oid_async.events import Event, Hold, Holding, Landed, Note
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.report import Outcome, Report
from oid_async.store.folder import Folder
from oid_async.store.image_writer import ImageWriter
from oid_async.store.journal import Journal
from oid_async.transfer.collector import Recipients
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Target
from oid_async.transfer.pipeline import Pipeline
from oid_async.transfer.targets import Targets

Result = TypeVar("Result")

_ROW_BITS = 32
# Numbers of parts are used again long after nobody has a place of the first one any more: places have 48 bits.
_NUMBERS = 1 << 16
_LOOK_S = 0.25
# How long `close` waits for transfers that are under way to be cut off.
_CLOSE_S = 2.0


class PartImages:
    """The images of one part under way: `report` counts them, `journal` has a line for each that has landed.

    They become files below `folder`, which lies in the folder of the stream, under the part's `number`. `images` are
    written down as its `plan`.
    """

    def __init__(self, folder: Folder, number: int, plan: Path, images: pl.DataFrame) -> None:
        images.write_parquet(plan, compression="lz4")
        wanted = images.filter(Action="fetch")
        ids = wanted.get_column("ImageID")
        self.folder = folder
        self.number = number % _NUMBERS
        self.targets = Targets([plan], folder.images)
        self.report = Report(selected=len(wanted), pending=len(wanted))
        self.requests = 0
        self.attempts = 0
        # In order of their text, too, whatever form they have.
        self._first, self._last = (str(ids[0]), str(ids[-1])) if len(ids) else ("", "")
        self._splits = frozenset(wanted.get_column("Subset").unique())
        self.journal = Journal(folder.journal)
        self.done: asyncio.Future[None] | None = None
        # Whether some may still land of which nobody wants to know.
        self.is_abandoned = False

    def holds(self, outcome: Outcome) -> bool:
        """Return whether an image is one of this part's."""
        return self._first <= outcome.image_id <= self._last and outcome.subset in self._splits

    def meets(self, other: "PartImages") -> bool:
        """Return whether the images of two parts lie between one another: then only one may be under way."""
        between = self._first <= other._last and other._first <= self._last
        return between and not self._splits.isdisjoint(other._splits)

    def placed(self, target: Target) -> Target:
        """Return a target of this part with its place and its name among those of all parts."""
        name = f"{self.folder.path.name}/{self.folder.images.name}/{target.file_name}"
        return replace(target, place=self.number << _ROW_BITS | target.place, file_name=name)

    def count(self, outcome: Outcome) -> None:
        """Count an image that has landed; the last one ends the part."""
        report = self.report
        report.pending -= 1
        self.attempts += outcome.attempts
        if outcome.status == "failed":
            kind = outcome.reason or "network"
            report.failed += 1
            report.failures[kind] = report.failures.get(kind, 0) + 1
        else:
            report.downloaded += 1
            report.bytes += outcome.bytes or 0
        if not report.pending and self.done is not None and not self.done.done():
            self.done.set_result(None)


class PartTargets:
    """What a pipeline is to fetch, see `transfer.pipeline.TargetSource`: without an end. Made in a running loop."""

    def __init__(self) -> None:
        self._parts: dict[int, PartImages] = {}
        self._coming = asyncio.Queue[PartImages]()
        self.rests = True

    def add(self, part: PartImages) -> None:
        """Let a part's images follow."""
        self._parts[part.number] = part
        self._coming.put_nowait(part)

    def remove(self, part: PartImages) -> None:
        """Forget a part whose images have all landed."""
        self._parts.pop(part.number, None)

    async def __aiter__(self) -> AsyncIterator[Target]:
        """Yield the images of one part after another."""
        while True:
            self.rests = self._coming.empty()
            part = await self._coming.get()
            self.rests = False
            async for target in part.targets:
                yield part.placed(target)

    async def read(self, places: Sequence[int]) -> list[Target]:
        """Return the targets at these places, in their order."""
        found: dict[int, Target] = {}
        for number in {place >> _ROW_BITS for place in places}:
            part = self._parts[number]
            rows = [place & (1 << _ROW_BITS) - 1 for place in places if place >> _ROW_BITS == number]
            for target in map(part.placed, await part.targets.read(rows)):
                found[target.place] = target
        return [found[place] for place in places]


class _Journals:
    """The outcomes of all parts, each in the journal of its part: see `store.image_writer.OutcomeLog`."""

    def __init__(self, part_of: Callable[[Outcome], PartImages | None]) -> None:
        self._part_of = part_of

    def intend(self, outcome: Outcome) -> None:
        """Do nothing: what a worker has left that was killed is not gone on with."""

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write the outcomes down. Raises StorageError."""
        for part, some in groupby(outcomes, self._part_of):
            if part is not None:
                part.journal.append(some)


class PartStream:
    """Fetches the images of parts for one worker, below `folder`; all methods may be called from any thread."""

    def __init__(self, settings: WorkSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = Folder(folder)
        # The name of an image there begins with the folder of its part.
        self._folder.images = folder
        with storage_errors(folder):
            self._folder.tmp.mkdir(parents=True, exist_ok=True)
        self._parts: tuple[PartImages, ...] = ()
        self._holding: tuple[Hold, ...] = ()
        self._notes: list[str] = []
        self._counted = 0
        self._counting = threading.Lock()
        self._client: Client | None = None
        self._running: asyncio.Task[None] | None = None
        started = futures.Future[asyncio.AbstractEventLoop]()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run_loop(started)), name="oid-async-parts", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    def call(self, work: Coroutine[Any, Any, Result], look: Callable[[], object] = lambda: None) -> Result:
        """Run a coroutine on the loop and return its result; `look` is called now and then meanwhile.

        Raises ClosedError when the stream is closed.
        """
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise ClosedError from error
        try:
            while not futures.wait([waiting], _LOOK_S).done:
                if not self._thread.is_alive():
                    raise ClosedError
                look()
            return waiting.result()
        except futures.CancelledError as error:
            raise ClosedError from error
        finally:
            waiting.cancel()

    async def fetch(self, part: PartImages, *, again: bool) -> None:
        """Fetch a part: all of its images have landed or failed then. Raises StorageError.

        With `again` hosts that were given up are asked once more.
        """
        while any(part.meets(other) for other in self._parts):
            self._has_ended.clear()
            await self._has_ended.wait()
        if not part.report.pending:
            return
        if again:
            self._hosts.forgive()
        part.done = asyncio.get_running_loop().create_future()
        self._parts += (part,)
        try:
            if self._running is None:
                self._targets = PartTargets()
                self._running = asyncio.create_task(self._run(self._targets))
            self._targets.add(part)
            await part.done
        except asyncio.CancelledError:
            part.is_abandoned = True
            raise
        finally:
            self._parts = tuple(other for other in self._parts if other is not part)
            self._has_ended.set()
            self._targets.remove(part)

    @property
    def client(self) -> Client:
        """The client of all parts; to be used on the loop."""
        assert self._client is not None
        return self._client

    @property
    def holding(self) -> tuple[Hold, ...]:
        """What holds images up at the moment."""
        return self._holding

    def take_requests(self) -> int:
        """Return how many requests were sent since this was called last."""
        with self._counting:
            before, self._counted = self._counted, self.client.requests
            return self._counted - before

    def take_notes(self) -> tuple[str, ...]:
        """Return the notes for the user since this was called last."""
        notes, self._notes = self._notes, []
        return tuple(notes)

    def note(self, event: Event) -> None:
        """Keep a note for the user, of whatever is fetched."""
        if isinstance(event, Note):
            self._notes.append(event.text)

    def close(self) -> None:
        """Cut off what is under way."""
        with suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_CLOSE_S)

    async def _run_loop(self, started: "futures.Future[asyncio.AbstractEventLoop]") -> None:
        try:
            await self._live(started)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _live(self, started: "futures.Future[asyncio.AbstractEventLoop]") -> None:
        settings, limits = self._settings, self._settings.limits
        self._stop, self._has_ended = asyncio.Event(), asyncio.Event()
        self._hosts = Hosts(
            settings.options.rate,
            settings.options.period,
            most=settings.transfers,
            estimates_concurrency=settings.options.concurrency is None,
            max_wait_s=limits.max_wait_s,
            unanswered_s=limits.unanswered_s,
            patience_s=limits.first_byte_s,
            notify=lambda text: self.note(Note(text)),
        )
        async with Client(
            self._hosts,
            limits,
            connections=settings.transfers,
            allowed=settings.allowed,
            reports_closed_hosts=True,
        ) as self._client:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _run(self, targets: PartTargets) -> None:
        """Fetch what there is of targets until it is cancelled; an error ends all parts under way."""
        settings, client = self._settings, self.client
        writer = ImageWriter(self._folder, _Journals(self._part_of), hashed=not settings.options.no_hash)
        fetcher = Fetcher(
            client,
            sources=tuple(settings.query.sources),
            mirror=settings.mirror,
            recorded_mirror=settings.recorded_mirror,
            part=self._folder.temporary,
        )
        recipients = Recipients(Report(), self._sink)
        try:
            with single_error():
                pipeline = Pipeline(
                    targets, fetcher, writer, recipients, max_transfers=settings.transfers, own_loop=True
                )
                await pipeline.run()
        except Exception as error:
            for part in self._parts:
                if part.done is not None and not part.done.done():
                    part.done.set_exception(error)
        finally:
            self._hosts.release()
            self._running = None

    def _part_of(self, outcome: Outcome) -> PartImages | None:
        return next((part for part in self._parts if part.holds(outcome)), None)

    def _sink(self, event: Event) -> None:
        """Take an event of the pipeline."""
        self.note(event)
        if isinstance(event, Holding):
            self._holding = event.holds
        elif isinstance(event, Landed):
            parts = [self._part_of(outcome) for outcome in event.outcomes]
            if parts[0] is not None:
                parts[0].requests += self.take_requests()
            for part, outcome in zip(parts, event.outcomes, strict=True):
                if part is not None:
                    part.count(outcome)
