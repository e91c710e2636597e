"""The annotation rows of images as they land: read some thousand images at a time, in a thread, one slice ahead.

Images land nearly in the order they were planned in, late ones behind: a few slices are held, in columns, and what an
image needs that comes later still is read again.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from oid_async.concurrency import in_thread, wait_until_done
from oid_async.dataset.row_slices import RowSlice, RowSliceReader
from oid_async.openimages.ids import KEY, IdForm
from oid_async.report import Outcome, Rows
from oid_async.store.annotation_rows import SavedAnnotations

# Of the boxes of all classes so many images have 4 MB, and are read in 0.3 s (of 14.6 million boxes, measured).
SLICE_IMAGES = 2048
# The current one, the next one, and those of two hosts that are behind; more while they are small, for the images that
# are asked for again: some are a minute late, which is 30,000 images.
_LEAST_HELD = 4
_MOST_HELD = 16
_MOST_HELD_BYTES = 64 << 20


class HeldSlices:
    """Slices of rows by number, 0 to `count` - 1: a few are held, the one behind the one asked for is read ahead.

    `images_of` returns the images of a slice (KEY, FileName, OriginalURL); blocking, it is called in a thread. Close it
    at the end, in the event loop that has used it.
    """

    def __init__(self, reader: RowSliceReader, images_of: Callable[[int], pl.DataFrame], count: int) -> None:
        self._reader = reader
        self._images_of = images_of
        self._count = count
        self._held: OrderedDict[int, asyncio.Task[RowSlice]] = OrderedDict()
        # Polars has threads of its own: two slices at once are read no sooner.
        self._turn = asyncio.Lock()
        # The highest slice that was asked for. Who is behind it is late, and the next one is hardly asked for then.
        self._front = -1

    async def get(self, number: int) -> RowSlice:
        """Return a slice, read now if it is not held. Raises InputError, StorageError."""
        task = self._start(number)
        if number >= self._front:
            self._front = number
            if number + 1 < self._count:
                self._start(number + 1)
        self._held.move_to_end(number)
        self._drop_oldest()
        # Others may wait for it, too.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Drop all slices; waits for the end of one that is being read."""
        tasks = list(self._held.values())
        self._held.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            await wait_until_done(task)
            _forget(task)

    def _start(self, number: int) -> "asyncio.Task[RowSlice]":
        task = self._held.get(number)
        if task is None:
            task = self._held[number] = asyncio.create_task(self._read(number), name="oid_async.rows")
        return task

    def _drop_oldest(self) -> None:
        """Keep the slices that were asked for last, and those that are still being read."""
        read = [number for number, task in self._held.items() if task.done()]
        sizes = [_size(self._held[number]) for number in read]
        size = sum(sizes)
        for number, dropped in zip(read, sizes, strict=True):
            held = len(self._held)
            if held <= _LEAST_HELD or (held <= _MOST_HELD and size <= _MOST_HELD_BYTES):
                return
            size -= dropped
            _forget(self._held.pop(number))

    async def _read(self, number: int) -> RowSlice:
        async with self._turn:
            return await in_thread(lambda: self._reader.read(self._images_of(number)))


class LandedRows:
    """The rows of the images of a run by their outcomes; its plan says which images are next to one another.

    `saved` are the annotations that the run saves, `plan` the files of its plan; `scratch` is a folder of its own.
    """

    def __init__(self, saved: Sequence[SavedAnnotations], ids: IdForm, plan: Sequence[Path], scratch: Path) -> None:
        self._ids = ids
        self._plan = plan
        self._reader = RowSliceReader(saved, ids, self._keys, scratch)
        # Of each slice its file and first row there, and its first key.
        self._places: list[tuple[Path, int]] = []
        self._first_keys: list[int | str] = []
        self._slices: HeldSlices | None = None
        self._opening = asyncio.Lock()

    async def of(self, outcome: Outcome) -> dict[str, Rows]:
        """Return the rows by kind of an image that has landed. Raises InputError, StorageError."""
        async with self._opening:
            if self._slices is None:
                await in_thread(self._find_slices)
                self._slices = HeldSlices(self._reader, self._images_of, len(self._places))
        key = self._ids.key_of(outcome.image_id, outcome.subset)
        rows = await self._slices.get(max(0, bisect_right(self._first_keys, key) - 1))
        return rows.of(key, width=outcome.width, height=outcome.height, file_name=outcome.file_name)

    async def close(self) -> None:
        """Let go of everything; waits for the end of a slice that is being read."""
        if self._slices is not None:
            await self._slices.close()

    def _find_slices(self) -> None:
        for path in self._plan:
            keys = pl.scan_parquet(path, glob=False).select(KEY).collect().to_series()
            starts = range(0, len(keys), SLICE_IMAGES)
            self._places += [(path, start) for start in starts]
            self._first_keys += [keys[start] for start in starts]

    def _images_of(self, number: int) -> pl.DataFrame:
        path, start = self._places[number]
        plan = pl.scan_parquet(path, glob=False).slice(start, SLICE_IMAGES)
        return plan.select(KEY, "FileName", "OriginalURL").collect()

    def _keys(self) -> pl.Series:
        return pl.scan_parquet(list(self._plan), glob=False).select(KEY).collect().to_series()


def _size(task: "asyncio.Task[RowSlice]") -> int:
    """Return the bytes of a slice that has been read."""
    return 0 if task.cancelled() or task.exception() is not None else task.result().size


def _forget(task: "asyncio.Task[RowSlice]") -> None:
    """Look at the error of a slice that nobody waits for, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
