"""The transfer of a run's images: the plan in its folder through the pipeline, with worker processes where worth it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.events import Note
from oid_async.http.estimator import FLOOR
from oid_async.jobs.context import RunContext
from oid_async.jobs.delivery import Delivery, completed
from oid_async.jobs.site import allowed_endpoints
from oid_async.openimages.ids import IdForm
from oid_async.openimages.vocabulary import Source
from oid_async.select.plan import plan_files
from oid_async.store.adoption import Adopter
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.store.image_writer import ImageWriter, MemoryWriter
from oid_async.store.journal import Journal
from oid_async.system.processes import available_processors
from oid_async.transfer.collector import Deliver, Recipients
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.pipeline import Pipeline, TargetSource
from oid_async.transfer.targets import Targets
from oid_async.workers.starter import process_count

if TYPE_CHECKING:
    from oid_async.workers.pool import WorkerPool


class ImageTransfers:
    """The transfers of one run, from `sources` in order; `own_loop`: nothing else runs on the event loop."""

    def __init__(
        self, context: RunContext, sources: tuple[Source, ...], delivery: Delivery | None, *, own_loop: bool
    ) -> None:
        self._context = context
        self._sources = sources
        self._delivery = delivery
        self._own_loop = own_loop
        self._worker_requests = 0

    async def run(
        self,
        uncapped: int,
        ids: IdForm,
        *,
        saved: Sequence[SavedAnnotations] = (),
        given_out: pl.Series | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        """Fetch the images of the plan. The report is kept up to date, also when this is cancelled.

        `uncapped` counts those whose first host has no cap; `saved` are the annotations whose rows are delivered, if
        any are; `given_out` are the keys whose outcomes were delivered before; `files` are those of the plan that are
        meant, all of them by default.
        """
        folder = self._context.folder
        files = files if files is not None else await asyncio.to_thread(plan_files, folder.plan)
        async with completed(self._delivery, folder, saved, ids, files) as deliver:
            targets = Targets(files, folder.images, deliver, given_out)
            if not self._context.options.offline:
                await self.fetch(targets, await self._worker_pool(uncapped, ids), deliver=deliver)
            elif deliver is not None:
                # Nothing is requested, so nothing fails: what is not there stays pending. What is there is delivered.
                async for _ in targets:
                    pass

    async def fetch(
        self, targets: TargetSource, pool: "WorkerPool | None" = None, *, deliver: Deliver | None = None
    ) -> None:
        """Fetch these targets, in this process and those of `pool`. The report is kept up to date.

        `deliver` is awaited with each outcome, by default that of the delivery.
        """
        context = self._context
        client, journal, folder = context.client, context.journal, context.folder
        assert client is not None
        assert journal is not None
        transfers = context.transfers - (pool.max_transfers if pool is not None else 0)
        if deliver is None and self._delivery is not None:
            deliver = self._delivery.deliver
        writer, recipients = (
            self._writer(journal),
            Recipients(context.report, context.sink, deliver, journal.append_lines),
        )
        fetcher = Fetcher(
            client,
            sources=self._sources,
            mirror=context.site.url,
            recorded_mirror=context.site.name,
            part=folder.temporary,
        )
        try:
            pipeline = Pipeline(
                targets,
                fetcher,
                writer,
                recipients,
                max_transfers=transfers,
                pool=pool,
                own_loop=self._own_loop,
            )
            await pipeline.run()
        finally:
            self._worker_requests += pool.requests if pool is not None else 0
            context.report.requests = client.requests + self._worker_requests

    def _writer(self, journal: Journal) -> ImageWriter:
        folder, hashed = self._context.folder, not self._context.options.no_hash
        if not self._context.keeps_files:
            return MemoryWriter(folder, journal, hashed=hashed)
        hands_out = self._delivery is not None and self._delivery.annotations
        return ImageWriter(folder, journal, hashed=hashed, hands_out=hands_out)

    async def _worker_pool(self, uncapped: int, ids: IdForm) -> "WorkerPool | None":
        """Return processes that share the work, not started yet; None if one process is to do it all."""
        context, options = self._context, self._context.options
        # Spans are fetched one after the other: no worker process would be worth its start.
        processes = process_count(options, uncapped, context.transfers, available_processors())
        # Nor may an id be of two images there: what goes to and fro is named by it.
        if processes == 1 or options.packs or ids.by_split:
            await context.starter.stop_unused()
            return None
        from oid_async.workers.messages import WorkerSettings
        from oid_async.workers.pool import WorkerPool

        folder, site, sources = context.folder, context.site, self._sources
        settings = WorkerSettings(
            savepath=str(folder.path.absolute()),
            tmp=str(folder.tmp.absolute()),
            token=folder.token,
            sources=sources,
            mirror=site.url,
            recorded_mirror=site.name,
            allowed=allowed_endpoints(options, site),
            limits=context.limits,
            rate=options.rate,
            period=options.period,
            max_transfers=context.transfers // processes,
            estimates_concurrency=options.concurrency is None,
            floor=FLOOR / processes,
            hashed=not options.no_hash,
        )
        return WorkerPool(
            processes - 1,
            settings,
            context.hosts,
            Adopter(folder, sources, hashed=not options.no_hash),
            images=folder.images,
            notify=lambda text: context.sink(Note(text)),
            starter=context.starter,
        )
