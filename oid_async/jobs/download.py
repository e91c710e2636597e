"""One run, top to bottom: tables -> selection -> plan -> pipeline -> result tables -> report.

Both doors use it. It opens what must be closed (origin, client, folder, journal), calls the stages in order and hands
each what it needs; the stages know nothing of one another.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiofiles.os
import polars as pl

from oid_async.concurrency import available_processors, in_thread, most_telling
from oid_async.errors import StorageError, machine_error, storage_error
from oid_async.events import Finished, Note, Planned, Sink
from oid_async.http.descriptors import allowed, most_workers
from oid_async.http.estimator import FLOOR, MOST
from oid_async.http.hosts import FLICKR_RATE, Hosts
from oid_async.http.retry import Limits
from oid_async.jobs.attachments import Attachments
from oid_async.jobs.gather import GatheredTables, TableGatherer, choose_names, choose_sources
from oid_async.jobs.ownership import forget_outdated_failures, owned_folder
from oid_async.jobs.selection import SelectionResult, ask, remarks
from oid_async.jobs.site import Site, allowed_endpoints, named_endpoints, open_site
from oid_async.metadata.cache import MetadataCache
from oid_async.metadata.paths import cache_root
from oid_async.metadata.sizes import Sizes
from oid_async.openimages.catalogue import IMAGE_BUCKET, MEAN_IMAGE_BYTES, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.options.export import ExportOptions
from oid_async.options.query import Options
from oid_async.report import PASSING_KINDS, Plan, Report, size_text
from oid_async.select.choose import TopUpState
from oid_async.select.names import NameHashes
from oid_async.select.plan import FolderState, Planner, Summary, clear_plan, plan_files
from oid_async.store.adoption import Adopter
from oid_async.store.folder import Folder
from oid_async.store.image_writer import ImageWriter
from oid_async.store.journal import Journal, next_line
from oid_async.store.journal_index import JournalIndex
from oid_async.store.results import Results, SavedAnnotations
from oid_async.transfer import pipeline
from oid_async.transfer.collector import Collector, Deliver
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.targets import Targets
from oid_async.version import __version__
from oid_async.workers.count import ahead, how_many
from oid_async.workers.starter import WorkerStarter

if TYPE_CHECKING:
    from oid_async.http.client import Client
    from oid_async.jobs.pack import ShardPacker
    from oid_async.origin.server import Serve
    from oid_async.workers.pool import WorkerPool

_TABLE_CONNECTIONS = 8
# How many processes share the work is no part of what was asked for, and differs between the doors; an export is made
# of what a query has brought.
_NO_QUERY = frozenset(("processes", *ExportOptions.__dataclass_fields__))
# What one of many transfers should get of --limit-rate; what arrives unasked meanwhile waits in the sockets' buffers.
_SHARE_BYTES_S = 32 << 10
# Rounds of topping up, and images in them, that bring nothing but passing failures: then the images are not at fault.
_BARREN_ROUNDS = 3
_BARREN_IMAGES = 20


class Run:
    """One query carried out. `report` is true at every moment, also after an interrupt.

    `deliver` is awaited with each Outcome; `serve` plays the published objects from an embedded origin, whose site is
    then known by the name `site` over runs. `own_loop` says that nothing else runs on the event loop.
    """

    def __init__(
        self,
        options: Options,
        sink: Sink,
        *,
        deliver: Deliver | None = None,
        serve: "Serve | None" = None,
        site: str | None = None,
        limits: Limits | None = None,
        own_loop: bool = False,
    ) -> None:
        self.options = options
        self._own_loop = own_loop
        self.report = Report(savepath=str(options.savepath))
        self._sink = sink
        self._deliver = deliver
        self._serve = serve
        self._site_name = site
        self._limits = limits or _limits(options)
        self._workers = _workers(options)
        self._crew_requests = 0
        self._packing: ShardPacker | None = None

    async def plan(self) -> Plan:
        """Say what a download would do. Fetches tables, no image; writes nothing to SAVEPATH."""
        async with AsyncExitStack() as stack:
            scratch = await stack.enter_async_context(_scratch())
            folder = Folder(self.options.savepath, scratch=scratch)
            if self.options.packs:
                self._packing = self._new_packing(folder)
            prepared = await self._prepare(stack, folder, None)
            decision = await self._decide(prepared, folder, None)
            beside = Attachments(self.options, self._sink, self.report)
            await in_thread(beside.announce, prepared, decision.answer.selection.keys)
            return decision.plan

    async def download(self) -> Report:
        """Carry the query out and return the report. Raises OidError; what was saved before that stays."""
        started = monotonic()
        try:
            async with AsyncExitStack() as stack:
                folder = Folder(self.options.savepath)
                journal = await stack.enter_async_context(self._claimed(folder))
                self._starter = await stack.enter_async_context(
                    WorkerStarter(0 if self.options.packs else ahead(self.options, available_processors()))
                )
                prepared = await self._prepare(stack, folder, journal)
                decision = await self._decide(prepared, folder, journal)
                self._sink(Planned(decision.plan))
                _check_room(decision.plan, prepared.site)
                if self._packing is not None:
                    await self._transfer_and_pack(self._packing, prepared, decision, folder, journal)
                else:
                    await self._transfer(prepared, decision, folder, journal)
                if self._tops_up:
                    decision = await self._top_up(prepared, decision, folder, journal)
                await in_thread(self._write_results, prepared, decision, folder)
                await Attachments(self.options, self._sink, self.report).fetch(prepared, folder)
                await self._export(folder)
        except BaseExceptionGroup as group:
            raise most_telling(group) from group
        except asyncio.CancelledError:
            self.report.interrupted = True
            raise
        finally:
            self.report.seconds = monotonic() - started
        self._sink(Finished(self.report))
        return self.report

    def _new_packing(self, folder: Folder) -> "ShardPacker":
        from oid_async.jobs.pack import ShardPacker

        return ShardPacker(folder, self.options, self._sink)

    @asynccontextmanager
    async def _claimed(self, folder: Folder) -> AsyncIterator[Journal]:
        """Own a folder, its journal and, where images go there, its shards."""
        async with AsyncExitStack() as stack:
            if self.options.packs:
                self._packing = self._new_packing(folder)
            journal = await stack.enter_async_context(owned_folder(folder, self._sink, self._packing))
            if self._packing is not None:
                stack.push_async_callback(in_thread, self._packing.leave)
                await in_thread(self._packing.claim)
            yield journal

    async def _export(self, folder: Folder) -> None:
        """Export what is there, if a format was asked for."""
        options = self.options
        if options.format is None:
            return
        if self._packing is not None:
            self.report.export = (await self._packing.finish()).as_json()
            return
        from oid_async.jobs.export import Export

        export = Export(folder.path, options, self._sink, processes=options.processes)
        self.report.export = (await export.within()).as_json()

    async def _prepare(self, stack: AsyncExitStack, folder: Folder, journal: Journal | None) -> "_Prepared":
        """Open what a run needs and bring the tables. Without a journal nothing is written to SAVEPATH: a dry run."""
        options = self.options
        site = await stack.enter_async_context(
            open_site(options.mirror, offline=options.offline, serve=self._serve, name=self._site_name)
        )
        hosts = Hosts(
            options.rate,
            options.period,
            most=self._workers,
            estimates_concurrency=options.concurrency is None,
            max_wait_s=self._limits.max_wait_s,
            patience_s=self._limits.first_byte_s,
            tell=lambda text: self._sink(Note(text)),
        )
        endpoints = allowed_endpoints(options, site)
        table_client = client = None
        if journal is not None or not options.offline:
            # It takes a while to import, and answering a question from the cache needs none.
            from oid_async.http.client import Client
        if not options.offline:
            table_client = Client(
                hosts,
                replace(self._limits, rate_bytes_s=None),
                connections=_TABLE_CONNECTIONS,
                allowed=(*endpoints, *named_endpoints(options)),
            )
            await stack.enter_async_context(table_client)
        if journal is not None:
            client = Client(
                hosts,
                self._limits,
                connections=self._workers,
                allowed=endpoints,
                offline=options.offline,
                reports_closed_hosts=True,
            )
            await stack.enter_async_context(client)
        cache = await stack.enter_async_context(
            MetadataCache(
                table_client,
                self._sink,
                root=cache_root(options.cache_dir),
                mirror=site.url,
                site=site.name,
            )
        )
        await aiofiles.os.makedirs(folder.tmp, exist_ok=True)
        inputs = await TableGatherer(options, cache, self._sink, folder.tmp).gather()
        sources, why = choose_sources(options, inputs, mirrored=site.name is not None)
        self._sink(Note(why))
        names = choose_names(options, inputs)
        dry = journal is None
        sizes = await in_thread(self._sizes, cache, inputs) if "cvdf" in sources else ()
        planner = Planner(folder.plan, inputs.images, inputs.ids, inputs.splits, sources, names, dry, sizes)
        start = None
        if options.retry_failed or options.top_up:
            start = await in_thread(next_line, folder.journal)
        return _Prepared(inputs, planner, site, client, cache, start)

    def _sizes(self, cache: MetadataCache, inputs: GatheredTables) -> tuple[Path, ...]:
        """Return the bucket's listings, if there is one of every split that images may be of."""
        listings = [Sizes(cache.cache.objects, split) for split in self.options.splits or inputs.looked_in or SPLITS]
        return tuple(each.path for each in listings) if all(each.is_there for each in listings) else ()

    async def _decide(
        self, prepared: "_Prepared", folder: Folder, journal: Journal | None, settled: pl.Series | None = None
    ) -> "_Decision":
        """Select, plan, and bring the report up to that.

        `settled` are the keys that were given out before in this run: the selection is topped up.
        """
        answer, summary = await in_thread(self._select, prepared, folder, journal, settled)
        if settled is None and summary.ambiguous:
            urls = "stand in the image table with more than one OriginalURL; the first one counts"
            self._sink(Note(f"{summary.ambiguous} images {urls}"))
        if settled is None:
            for remark in remarks(prepared.inputs, answer):
                self._sink(Note(remark))
        selection, report = answer.selection, self.report
        report.selected = len(selection.keys) + selection.waiting
        report.failures = dict(summary.failures)
        report.failed = sum(summary.failures.values())
        report.pending = summary.to_fetch + selection.waiting
        # What was downloaded before the selection was topped up is counted already.
        report.present = report.selected - report.downloaded - report.failed - report.pending
        report.unselected = summary.unselected
        report.bad_rows = len(prepared.inputs.bad_rows)
        disk_free = await asyncio.to_thread(_disk_free, self.options.savepath)
        plan = self._make_plan(answer, summary, prepared.planner.sources, prepared.cache.fetched_bytes, disk_free)
        on_flickr = summary.on_flickr if self.options.rate is None else 0
        return _Decision(
            plan, answer, report.failed, report.downloaded, dict(report.failures), summary.to_fetch - on_flickr
        )

    def _select(
        self, prepared: "_Prepared", folder: Folder, journal: Journal | None, settled: pl.Series | None
    ) -> tuple[SelectionResult, Summary]:
        planner, start = prepared.planner, prepared.start
        try:
            if journal is not None:
                forget_outdated_failures(folder, journal, prepared.site.name, self.options)
            clear_plan(folder.plan)

            def look() -> FolderState:
                return FolderState(
                    JournalIndex(folder.journal, planner.ids, folder.lines, folder.new_lines),
                    NameHashes.of(chain(folder.names(), self._packing.names() if self._packing is not None else ())),
                    Adopter(folder, planner.sources, hashed=not self.options.no_hash),
                    remembered_from=start if start is not None and self.options.retry_failed else 0,
                    run_from=start if journal is not None else None,
                )

            # At a million images either takes seconds of one processor: they share two.
            with ThreadPoolExecutor(1) as beside:
                looking = beside.submit(look)
                asked = TopUpState()
                if self.options.top_up:
                    failed = planner.failed(looking.result())
                    first = settled if settled is not None else failed.clear()
                    asked = TopUpState(failed, first if journal is not None and self._tops_up else None)
                answer = ask(prepared.inputs, self.options.all_boxes, asked)
                facts = looking.result()
            summary = planner.write(answer.selection.keys, facts)
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, folder.path) from error
        if journal is not None:
            journal.append(summary.adopted)
        return answer, summary

    @property
    def _tops_up(self) -> bool:
        """Whether failures are replaced: without a limit every image is asked for anyway, offline none is."""
        options = self.options
        is_limited = options.limit is not None or options.limit_per_class is not None
        return options.top_up and is_limited and not options.offline

    async def _top_up(
        self, prepared: "_Prepared", decision: "_Decision", folder: Folder, journal: Journal
    ) -> "_Decision":
        """Replace what failed by the next images in order, round by round, until enough are there or none are left."""
        report = self.report
        barren_rounds = barren_images = 0
        while (fresh := report.failed - decision.failed) or decision.answer.selection.waiting:
            passing = sum(report.failures.get(kind, 0) - decision.failures.get(kind, 0) for kind in PASSING_KINDS)
            if report.downloaded > decision.downloaded or passing < fresh or not fresh:
                barren_rounds = barren_images = 0
            else:
                barren_rounds, barren_images = barren_rounds + 1, barren_images + fresh
            if barren_rounds >= _BARREN_ROUNDS and barren_images >= _BARREN_IMAGES:
                self._sink(Note("nothing can be had at present: no more images are asked for; run again later"))
                # What waits was never asked for: it is not selected.
                report.selected -= decision.answer.selection.waiting
                report.pending -= decision.answer.selection.waiting
                break
            before, told = report.selected, decision.answer.selection.keys
            decision = await self._decide(prepared, folder, journal, told)
            if fresh:
                more = report.selected - before
                self._sink(Note(f"{fresh} failed; {more or 'no'} more images take their place"))
            _check_room(decision.plan, prepared.site)
            await self._transfer(prepared, decision, folder, journal, told)
        return decision

    def _make_plan(
        self,
        answer: SelectionResult,
        summary: Summary,
        sources: tuple[Source, ...],
        fetched: int,
        disk_free: int,
    ) -> Plan:
        selection = answer.selection
        count = summary.to_fetch + selection.waiting
        # What the bucket does not list is asked of the next source, whose sizes are others.
        by_size = sources[0] == "original" or (sources[0] == "cvdf" and bool(summary.sizes_known))
        exact = count == 0 or (by_size and summary.sizes_known == count)
        rate, period, capped = self.options.rate, self.options.period, count
        if rate is None:
            rate, period, capped = (FLICKR_RATE if summary.on_flickr else 0.0), 1.0, summary.on_flickr
        return Plan(
            selected=len(selection.keys) + selection.waiting,
            present=summary.present,
            to_download=count,
            requests=count,
            bytes=summary.known_bytes if exact else count * MEAN_IMAGE_BYTES,
            bytes_exact=exact,
            metadata_bytes=fetched,
            seconds=capped * period / rate if rate else None,
            disk_free=disk_free,
            splits=selection.splits,
            classes=selection.classes,
            sources={sources[0]: count},
            annotations=answer.annotations,
        )

    async def _transfer(
        self,
        prepared: "_Prepared",
        decision: "_Decision",
        folder: Folder,
        journal: Journal,
        told: pl.Series | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        """Fetch what the plan says. The report counts on, also when this is cancelled.

        `told` are the keys whose outcome whoever wants each of them has heard before; `files` are those of the plan
        that are meant, all of them by default.
        """
        client = prepared.client
        assert client is not None
        # Spans are fetched one after the other: no worker process would be worth its start.
        processes = (
            1
            if self.options.packs
            else how_many(self.options, decision.uncapped, self._workers, available_processors())
        )
        pool = self._pool(processes - 1, prepared, folder) if processes > 1 else None
        if pool is None:
            await self._starter.send_away()
        workers = self._workers - (pool.transfers if pool is not None else 0)
        writer = ImageWriter(folder, journal, hashed=not self.options.no_hash)
        collector = Collector(writer, self.report, self._sink, self._deliver, room=2 * workers, own_loop=self._own_loop)
        fetcher = Fetcher(
            client,
            sources=prepared.planner.sources,
            mirror=prepared.site.url,
            written=prepared.site.name,
            part=folder.part,
        )
        files = files if files is not None else await asyncio.to_thread(plan_files, folder.plan)
        targets = Targets(files, folder.images, self._deliver, told)
        try:
            await pipeline.run(
                aiter(targets),
                fetcher,
                collector,
                recall=targets.recall,
                clock=client.hosts.clock,
                workers=workers,
                pool=pool,
            )
        finally:
            self._crew_requests += pool.requests if pool is not None else 0
            self.report.requests = client.requests + self._crew_requests

    async def _transfer_and_pack(
        self, packing: "ShardPacker", prepared: "_Prepared", decision: "_Decision", folder: Folder, journal: Journal
    ) -> None:
        """Fetch span by span; while one is fetched the one before is packed."""
        inputs = prepared.inputs
        saved = self._saved(prepared)
        nothing = pl.DataFrame(schema={"File": pl.String, "Line": pl.Int64, "Reason": pl.String})

        def write_tables(view: Folder, plan: Path) -> None:
            self._results(prepared, view, [plan]).write(saved, {}, nothing, ())

        async def fetch_masks(view: Folder) -> None:
            await Attachments(self.options, self._sink, self.report).masks(prepared, view)

        has_masks = any(source.kind.name == "segmentation" for source in inputs.saved) and not self.options.offline
        packing.prepare(write_tables, saved, fetch_masks if has_masks else None)
        async with asyncio.TaskGroup() as group:
            before: asyncio.Task[None] | None = None
            for file in await in_thread(plan_files, folder.plan):
                await self._transfer(prepared, decision, folder, journal, files=[file])
                if before is not None:
                    await before
                before = group.create_task(packing.pack(file))

    def _pool(self, size: int, prepared: "_Prepared", folder: Folder) -> "WorkerPool":
        """Return worker processes, not started yet; each may have its part of the transfers on at once."""
        from oid_async.workers.messages import WorkerSettings
        from oid_async.workers.pool import WorkerPool

        options, site, client, sources = self.options, prepared.site, prepared.client, prepared.planner.sources
        assert client is not None
        settings = WorkerSettings(
            savepath=str(folder.path.absolute()),
            tmp=str(folder.tmp.absolute()),
            token=folder.token,
            sources=sources,
            mirror=site.url,
            written=site.name,
            allowed=allowed_endpoints(options, site),
            limits=self._limits,
            rate=options.rate,
            period=options.period,
            workers=self._workers // (size + 1),
            estimates_concurrency=options.concurrency is None,
            floor=FLOOR / (size + 1),
            hashed=not options.no_hash,
        )

        def tell(text: str) -> None:
            self._sink(Note(text))

        return WorkerPool(
            size,
            settings,
            client.hosts,
            Adopter(folder, sources, hashed=not options.no_hash),
            images=folder.images,
            tell=tell,
            starter=self._starter,
        )

    def _write_results(self, prepared: "_Prepared", decision: "_Decision", folder: Folder) -> None:
        inputs = prepared.inputs
        query: dict[str, Any] = {
            "program": f"oid-async {__version__}",
            "query": {name: value for name, value in self.options.as_json().items() if name not in _NO_QUERY},
            "sources": list(prepared.planner.sources),
            "site": prepared.site.name,
            "categories": {
                name: list(category.labels)
                for name, category in zip(decision.plan.classes, inputs.query.categories, strict=True)
            },
            "tables": list(inputs.identities),
        }
        if self._packing is not None:
            query["shards"] = str(self._packing.out.absolute())
        results = self._results(prepared, folder, plan_files(folder.plan))
        results.write(self._saved(prepared), query, inputs.bad_rows, decision.answer.unknown_ids)

    def _saved(self, prepared: "_Prepared") -> list[SavedAnnotations]:
        inputs, all_boxes = prepared.inputs, self.options.all_boxes
        return [SavedAnnotations(source, inputs.saved_labels(source, all_boxes=all_boxes)) for source in inputs.saved]

    def _results(self, prepared: "_Prepared", folder: Folder, plan: Sequence[Path]) -> Results:
        site = prepared.site

        def source_url(image_id: str, subset: str | None, source: str) -> str | None:
            known = source == "cvdf" and subset is not None
            return object_url(IMAGE_BUCKET, f"{subset}/{image_id}.jpg", site.name) if known else None

        return Results(folder, plan, prepared.inputs.ids, source_url)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What stands before anything is decided. `start` is the journal's first line of this run, where it is needed."""

    inputs: GatheredTables
    planner: Planner
    site: Site
    client: "Client | None"
    cache: MetadataCache
    start: int | None


@dataclass(frozen=True, slots=True)
class _Decision:
    """What is selected, and how many had failed and were downloaded in this run when that was decided.

    `uncapped` counts the images to fetch whose first request goes to no host that has a cap by default.
    """

    plan: Plan
    answer: SelectionResult
    failed: int
    downloaded: int
    failures: dict[str, int]
    uncapped: int


def _limits(options: Options) -> Limits:
    return Limits.of(
        retries=options.retries,
        timeout_s=options.timeout,
        max_wait_s=options.max_wait,
        max_image_bytes=options.max_image_bytes,
        rate_bytes_s=options.limit_rate,
    )


def _workers(options: Options) -> int:
    """Return how many transfers may be on at once: with a limit on bytes no more than have something to share."""
    workers = most_workers(options.concurrency or MOST, allowed())
    return workers if options.limit_rate is None else max(1, min(workers, options.limit_rate // _SHARE_BYTES_S))


@asynccontextmanager
async def _scratch() -> AsyncIterator[Path]:
    """Yield a temporary folder; it goes away however this ends, also while it is being made."""
    made: list[Path] = []

    def make() -> None:
        made.append(Path(tempfile.mkdtemp(prefix="oid-async-")))

    try:
        await in_thread(make)
        yield made[0]
    finally:
        for folder in made:
            await in_thread(shutil.rmtree, folder, True)


def _check_room(plan: Plan, site: Site) -> None:
    """Stop before the first image when they cannot fit. A mirror may hold anything: only facts count there."""
    if plan.bytes > plan.disk_free and (plan.bytes_exact or site.url is None):
        about = "" if plan.bytes_exact else "about "
        raise StorageError(
            f"{about}{size_text(plan.bytes)} are to be fetched and {size_text(plan.disk_free)} are free; "
            "free some space, choose another --savepath, or fewer images with --ndata"
        )


def _disk_free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
