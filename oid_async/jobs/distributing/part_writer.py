"""The parts of the first generation: cut from the plan's files, with all their annotations, put as they are full.

A span of images is in memory at a time, and of each split the part that is not full yet.
"""

import asyncio
from pathlib import Path

import polars as pl

from oid_async.cluster.asking import Asking
from oid_async.cluster.cutting import PartCutter
from oid_async.cluster.generations import put_part, used_archives
from oid_async.cluster.part_file import MASKS, nested, row_columns
from oid_async.cluster.published import Begun, Part, PublishedQuery
from oid_async.concurrency import in_thread, single_error
from oid_async.events import TableProgress
from oid_async.http.client import Client
from oid_async.jobs.context import RunContext
from oid_async.jobs.distributing.mask_places import MaskPlaces
from oid_async.jobs.planning.plan import Planning
from oid_async.jobs.site import allowed_endpoints
from oid_async.masks.archive import ArchiveState
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.plan import plan_files
from oid_async.store.annotation_rows import AnnotationRows
from oid_async.tables.reading import reading

# So many images are in memory with all their annotations: more is hardly quicker.
_SPAN_ROWS = 1 << 14
_PUTS_AT_ONCE = 4
_CONNECTIONS = 4


class PartWriter:
    """Writes the parts of a planned run; `begun` says by which caps its images are asked."""

    def __init__(
        self, context: RunContext, planning: Planning, query: PublishedQuery, objects: Objects, begun: Begun
    ) -> None:
        self._context = context
        self._query = query
        self._objects = objects
        self._ids = planning.tables.ids
        listed = planning.planner.bucket.basis == "listing"
        self._asking = Asking(planning.planner.sources, begun.rate, begun.capped, listed)
        self._files = plan_files(context.folder.plan)
        saved = planning.tables.saved_annotations(all_boxes=context.options.all_boxes)
        self._rows = [AnnotationRows(each, self._ids, self._planned_keys, context.folder.tmp) for each in saved]
        self._cutter = PartCutter(0, self._asking, query.part_size, {})
        self._states: dict[str, ArchiveState] = {}
        self._parts: list[Part] = []
        self._puts = asyncio.Semaphore(_PUTS_AT_ONCE)

    async def write(self) -> list[Part]:
        """Put every part; return them in order of split and number. Raises InputError, StorageError, ..."""
        context = self._context
        has_masks = any(rows.source.kind.name == "segmentation" for rows in self._rows)
        with single_error():
            async with asyncio.TaskGroup() as group:
                if not has_masks:
                    await self._write(group, None)
                else:
                    allowed = allowed_endpoints(context.options, context.site)
                    async with Client(
                        context.hosts,
                        context.limits,
                        connections=_CONNECTIONS,
                        allowed=allowed,
                        offline=context.options.offline,
                    ) as client:
                        objects = context.cache.cache.objects
                        places = MaskPlaces(client, mirror=context.site.url, cache=objects, scratch=context.folder.tmp)
                        self._states = places.states
                        await self._write(group, places)
        order = [*SPLITS, *sorted({part.split for part in self._parts} - set(SPLITS))]
        return sorted(self._parts, key=lambda part: (order.index(part.split), part.number))

    async def _write(self, group: asyncio.TaskGroup, places: MaskPlaces | None) -> None:
        done, total = 0, sum(map(_count, self._files))
        for file in self._files:
            for start in range(0, _count(file), _SPAN_ROWS):
                images, masks = await in_thread(self._read, file, start)
                if places is not None:
                    found = await places.find(masks)
                    images = await in_thread(nested, images, MASKS, found)
                done += len(images)
                for part, some in await in_thread(self._cutter.add, images):
                    await self._put(group, part, some)
                self._context.sink(TableProgress("the plan", done, total, unit="step"))
        for part, some in self._cutter.rest():
            await self._put(group, part, some)
        self._context.sink(TableProgress("the plan", total, total, finished=True, unit="step"))

    def _read(self, file: Path, start: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return a span of images, with what is asked and their annotations; KEY, Subset, MaskPath of their masks."""
        plan = pl.scan_parquet(file, glob=False).slice(start, _SPAN_ROWS).collect()
        images, masks = self._asking.divide(plan), pl.DataFrame()
        keys = images.get_column(KEY)
        for rows in self._rows:
            kind = rows.source.kind
            with reading(rows.read_from, into=self._context.folder.path):
                found = rows.of(keys, keys).select(KEY, *row_columns(kind, rows.columns)).collect(engine="streaming")
            if kind.name == "segmentation":
                masks = found.select(KEY, "MaskPath").join(images.select(KEY, "Subset"), on=KEY, maintain_order="left")
            images = nested(images, kind.name, found)
        return images, masks

    async def _put(self, group: asyncio.TaskGroup, part: Part, images: pl.DataFrame) -> None:
        """Put a part in a task of its own, after waiting for one of those that are under way."""
        await self._puts.acquire()

        async def put() -> None:
            try:
                self._parts.append(await in_thread(self._put_file, part, images))
            finally:
                self._puts.release()

        group.create_task(put())

    def _put_file(self, part: Part, images: pl.DataFrame) -> Part:
        return put_part(self._objects, part, images, used_archives(images, self._states))

    def _planned_keys(self) -> pl.Series:
        return pl.scan_parquet(self._files, glob=False).select(KEY).collect().to_series()


def _count(file: Path) -> int:
    return int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
