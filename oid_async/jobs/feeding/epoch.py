"""One epoch of one rank: its images are fetched through a window and handed out in order.

    slices of the order ──gate──▶ Pipeline ──land──▶ window ──next──▶ samples, one after the other ──release──▶ gate

The gate opens for an image when fewer than `window` images, and bytes, are under way or not released yet. The first one
in the order was let in first: whoever waits for it never waits for one that was not asked for.

A position is a place in the order of the epoch, failed images included: whoever goes on at a position repeats nothing
and leaves nothing out, whatever failed before it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NoReturn, Self

import polars as pl

from oid_async.concurrency import in_thread, single_error, wait_until_done
from oid_async.errors import UnavailableError
from oid_async.jobs.delivery import Delivery
from oid_async.jobs.feeding.boxes import SampleBoxes, SliceBoxes
from oid_async.jobs.feeding.feed import Feed, Share
from oid_async.jobs.feeding.places import Place
from oid_async.jobs.transfers import ImageTransfers
from oid_async.openimages.ids import KEY
from oid_async.report import FINAL_KINDS, Outcome
from oid_async.select.plan import plan_files
from oid_async.transfer.ordered_targets import OrderedTargets
from oid_async.transfer.targets import read_rows

# Whoever has a million images reads tables through a few dozen times an epoch.
_SLICE_IMAGES = 4096
_MOST_SLICES = 64
# Of what has landed and was not taken yet, beside what is under way.
_WINDOW_BYTES = 256 << 20
# So many images in a row that fail in passing: then it is no image's own fault.
_BARREN_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its boxes: the bytes of its JPEG, or the file that has them.

    `position` is its place in the order, `number` counts the samples of the epoch from 0. `image_id` has its split in
    front of it where one id is of two images.
    """

    position: int
    number: int
    image_id: str
    body: bytes | None
    file: str | None
    boxes: SampleBoxes


@dataclass(slots=True)
class _Slice:
    """Some images that follow one another in the order, from a position on."""

    first: int
    rows: pl.DataFrame
    boxes: SliceBoxes

    @property
    def end(self) -> int:
        return self.first + len(self.rows)


class Epoch:
    """The samples of one epoch from a place on; use as `async with`, then `next` and `release`.

    Leaving the block stops what is under way. `repeats` says, once the end was reached, how many samples were given
    twice, so that all ranks give as many, and `failures` how many images failed, by kind: those have no sample.
    """

    def __init__(self, feed: Feed, share: Share, start: Place, *, window: int) -> None:
        self._feed = feed
        self._share = share
        self._window = window
        self.given = start.given
        self.repeats = 0
        self._start = start
        self._head = self._end = start.position
        self._has_ended = False
        self._slices: deque[_Slice] = deque()
        self._under_way: dict[tuple[str, str | None], int] = {}
        self._landed: dict[int, Outcome] = {}
        self._unreleased = 0
        self._held_bytes = 0
        self._is_failed = bytearray(len(share.places))
        self.failures: Counter[str] = Counter()
        self._barren = 0
        self._moved = asyncio.Event()
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._fetch(), name="oid_async.epoch")
        self._task.add_done_callback(lambda _: self._moved.set())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await wait_until_done(self._task)
        if not self._task.cancelled():
            self._task.exception()

    async def next(self) -> Sample | None:
        """Return the next sample in order, None at the end. Raises OidError.

        What was returned counts in the window until it is released.
        """
        while True:
            if (outcome := self._landed.pop(self._head, None)) is not None:
                position, self._head = self._head, self._head + 1
                self._moved.set()
                if outcome.status == "failed":
                    self._note_failure(position, outcome)
                    continue
                self._barren = 0
                self.given += 1
                self.repeats += position >= len(self._share.places)
                return self._sample(position, outcome)
            if self._has_ended and self._head == self._end:
                if not self.given and len(self._share.places):
                    self._raise_nothing()
                return None
            assert self._task is not None
            if self._task.done():
                self._task.result()
            self._moved.clear()
            await self._moved.wait()

    def release(self, sample: Sample) -> None:
        """Note that a sample was taken: there is room for another one."""
        self._let_in(len(sample.body or b""))

    # What is fetched.

    async def _fetch(self) -> None:
        """Fetch all images of the epoch, as far as the gate lets them in."""
        feed, context = self._feed, self._feed.context
        folder, sources = context.folder, feed.planning.planner.sources
        targets = OrderedTargets(
            await in_thread(plan_files, folder.plan),
            folder.images,
            self._read_ahead(),
            enter=self._enter,
            land=self._land,
            offline=context.options.offline,
        )
        delivery = Delivery(self._land, keeps_files=feed.keep_files)
        transfers = ImageTransfers(context, sources, delivery, own_loop=True)
        context.hosts.forgive()
        try:
            with single_error():
                await transfers.fetch(targets)
        finally:
            context.hosts.release()

    async def _read_ahead(self) -> AsyncIterator[pl.DataFrame]:
        """Yield the rows of the slices, in order; while one is fetched the next one is read."""
        ahead: asyncio.Task[_Slice] | None = None
        try:
            async for places in self._places():
                task = asyncio.create_task(in_thread(self._read, places))
                if ahead is not None:
                    yield self._begin(await ahead)
                ahead = task
                if self._share.total is not None:
                    # What comes behind the last slice of its own depends on what fails.
                    yield self._begin(await ahead)
                    ahead = None
            if ahead is not None:
                yield self._begin(await ahead)
                ahead = None
        finally:
            if ahead is not None:
                ahead.cancel()
        self._has_ended = True
        self._moved.set()

    async def _places(self) -> AsyncIterator[pl.Series]:
        """Yield the places of the slices, its own first, then those that are repeated for the number's sake."""
        own, total = self._share.places, self._share.total
        rows = max(_SLICE_IMAGES, -(-len(own) // _MOST_SLICES))
        for start in range(min(self._head, len(own)), len(own), rows):
            yield own.slice(start, rows)
        while total is not None:
            await self._all_passed()
            missing = total - self.given
            if missing <= 0:
                return
            again = (
                own.filter(pl.Series(list(self._is_failed), dtype=pl.UInt8) == 0) if len(own) else self._share.others
            )
            if not len(again):
                self._raise_nothing()
            # Whoever goes on within the repeated ones goes on behind those that were given.
            begin = max(0, self._end - len(own)) % len(again)
            yield again.slice(begin, missing)

    async def _all_passed(self) -> None:
        """Wait until every image that was let in has been passed by `next`."""
        while self._head < self._end:
            self._moved.clear()
            await self._moved.wait()

    def _read(self, places: pl.Series) -> _Slice:
        rows = read_rows(plan_files(self._feed.context.folder.plan), places)
        return _Slice(0, rows, self._feed.boxes.read(rows.get_column(KEY)))

    def _begin(self, read: _Slice) -> pl.DataFrame:
        read.first = self._slices[-1].end if self._slices else self._end
        self._slices.append(read)
        return read.rows

    async def _enter(self, image_id: str, subset: str | None) -> None:
        """Wait until there is room for one more image, and give it its position."""
        while self._unreleased >= self._window or self._held_bytes >= _WINDOW_BYTES:
            self._opened.clear()
            await self._opened.wait()
        self._unreleased += 1
        self._under_way[image_id, subset] = self._end
        self._end += 1

    async def _land(self, outcome: Outcome) -> None:
        """Take the outcome of an image that was let in."""
        position = self._under_way.pop((outcome.image_id, outcome.subset))
        self._held_bytes += len(outcome.image or b"")
        self._landed[position] = outcome
        if outcome.status == "failed":
            self._let_in(0)
        self._moved.set()

    def _let_in(self, size: int) -> None:
        self._unreleased -= 1
        self._held_bytes -= size
        self._opened.set()

    # What is handed out.

    def _sample(self, position: int, outcome: Outcome) -> Sample:
        while position >= self._slices[0].end:
            self._slices.popleft()
        boxes = self._slices[0].boxes.of(position - self._slices[0].first)
        is_twin = self._feed.planning.tables.ids.by_split
        image_id = f"{outcome.subset}/{outcome.image_id}" if is_twin else outcome.image_id
        file = outcome.file if outcome.image is None else None
        return Sample(position, self.given - 1, image_id, outcome.image, file, boxes)

    def _note_failure(self, position: int, outcome: Outcome) -> None:
        reason = outcome.reason or "network"
        self.failures[reason] += 1
        if position < len(self._is_failed):
            self._is_failed[position] = 1
        if reason in FINAL_KINDS or self._feed.context.options.offline:
            return
        self._barren += 1
        if self._barren >= max(_BARREN_IMAGES, self._window):
            raise UnavailableError(
                f"nothing can be had at present: the latest {self._barren} images failed ({self._kinds()}); see "
                "whether the network and the source are up, then go on from the last state_dict()"
            )

    def _raise_nothing(self) -> NoReturn:
        images = len(self._share.places) or len(self._share.others)
        raise UnavailableError(f"none of the {images} images of this rank can be had ({self._kinds()})")

    def _kinds(self) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in self.failures.most_common())
