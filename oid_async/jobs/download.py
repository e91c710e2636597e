"""`download`: tables -> selection -> plan -> pipeline -> result tables -> attachments -> export -> report.

`Run` is what the command line and the Python functions start. It opens the context of a run (`jobs.context`), has the
plan made (`jobs.planning.plan`) and carries it out. The stages know nothing of one another.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import storage_errors
from oid_async.events import Finished, Planned, Sink, Stage
from oid_async.http.retry import Limits
from oid_async.jobs.attachments import Attachments
from oid_async.jobs.context import RunContext, open_run, timed
from oid_async.jobs.delivery import Delivery
from oid_async.jobs.hierarchy import kept_hierarchy
from oid_async.jobs.own_places import note_places
from oid_async.jobs.planning.earlier_runs import note_run
from oid_async.jobs.planning.plan import Decision, Planning, check_space, make_plan, tops_up
from oid_async.jobs.query_document import as_before, note_start, query_document
from oid_async.jobs.run_report import reporting
from oid_async.jobs.transfers import ImageTransfers
from oid_async.options.query import Options
from oid_async.report import PASSING_KINDS, Plan, Report
from oid_async.select.plan import plan_files
from oid_async.store.folder import PLAN_NOTE
from oid_async.store.named_file import check_place
from oid_async.store.results import Results
from oid_async.system.forks import refuse_forked_child

if TYPE_CHECKING:
    from oid_async.jobs.pack import SpanPacker
    from oid_async.origin.server import Serve

# Rounds of topping up, and images in them, that bring nothing but passing failures: then the images are not at fault.
_BARREN_ROUNDS = 3
_BARREN_IMAGES = 20


class Run:
    """One query carried out. `report` is true at every moment, also after an interrupt.

    `delivery` says who gets each Outcome; `serve` plays the published objects from an embedded origin, whose site is
    then known by the name `site` over runs. With `own_loop` nothing else runs on the event loop.
    """

    def __init__(
        self,
        options: Options,
        sink: Sink,
        *,
        delivery: Delivery | None = None,
        serve: "Serve | None" = None,
        site: str | None = None,
        limits: Limits | None = None,
        own_loop: bool = False,
    ) -> None:
        options.check_filled()
        self.options = options
        self.report = Report(savepath=str(options.savepath), shard=options.shard)
        self._sink = sink
        self._delivery = delivery
        self._serve = serve
        self._site_name = site
        self._limits = limits or Limits.of(options)
        self._own_loop = own_loop
        # The content of query.json, when this repeats a query to repair its folder.
        self.repeats: Mapping[str, Any] | None = None

    async def plan(self, ids: Path | BinaryIO | None = None) -> Plan:
        """Return what a download would do. Fetches tables, no image; writes nothing to SAVEPATH.

        With `ids` the selected images are written there as a list (see `jobs.planning.id_file`).
        """
        refuse_forked_child()
        if isinstance(ids, Path):
            await in_thread(check_place, "--ids", ids)
        async with self._open(dry_run=True) as context:
            return await make_plan(context, ids)

    async def download(self) -> Report:
        """Carry the query out and return the report. Raises OidError; what was saved before that stays."""
        refuse_forked_child()
        async with reporting(self.options, self.report, self._sink):
            await self._download()
        self._sink(Finished(self.report))
        return self.report

    async def _download(self) -> None:
        with timed(self.report):
            if self.options.is_distributed:
                from oid_async.cluster.array_task import array_task
                from oid_async.jobs.distributing.run import DistributedRun

                run = DistributedRun(
                    self.options,
                    self._sink,
                    self.report,
                    limits=self._limits,
                    serve=self._serve,
                    site=self._site_name,
                    task=array_task(os.environ),
                )
                await run.carry_out()
                return
            async with self._open(dry_run=False) as context:
                await self._check_export(context)
                planning = await Planning.of(context)
                download = _Download(context, planning, self._delivery, own_loop=self._own_loop, repeats=self.repeats)
                await download.carry_out()

    async def _check_export(self, context: RunContext) -> None:
        """Raise UsageError if the export could not take its place in the end."""
        if self.options.format is not None and context.packed is None:
            from oid_async.jobs.export import Export

            await in_thread(Export(context.folder.path, self.options, self._sink).check_place)

    def _open(self, *, dry_run: bool) -> AbstractAsyncContextManager[RunContext]:
        return open_run(
            self.options,
            self._sink,
            self.report,
            limits=self._limits,
            serve=self._serve,
            site_name=self._site_name,
            dry_run=dry_run,
            keeps_files=self._delivery is None or self._delivery.keeps_files,
        )


class _Download:
    """A download under way: the images, their tables, what is attached to them, and an export if one is asked for.

    `repeats` is the query.json that this run repeats, if it does.
    """

    def __init__(
        self,
        context: RunContext,
        planning: Planning,
        delivery: Delivery | None,
        *,
        own_loop: bool,
        repeats: Mapping[str, Any] | None,
    ) -> None:
        self._context = context
        self._planning = planning
        self._transfers = ImageTransfers(context, planning.planner.sources, delivery, own_loop=own_loop)
        self._repeats = repeats

    async def carry_out(self) -> None:
        """Decide and do everything. Raises OidError."""
        context, tables = self._context, self._planning.tables
        decision = await self._planning.decide()
        context.sink(Planned(decision.plan))
        check_space(decision.plan, context.options)
        if not context.keeps_files:
            await self._hand_out(decision)
            return
        await in_thread(self._note_start, decision)
        packer, group, started = None, decision.group, monotonic()
        if context.packed is not None:
            packer = await self._transfer_and_pack(decision)
        else:
            await self._transfer(decision)
        if tops_up(context.options):
            decision = await self._top_up(decision)
        await in_thread(self._note_speed, group, monotonic() - started)
        context.sink(Stage("writing the result tables"))
        hierarchy = await kept_hierarchy(context, tables)
        await in_thread(self._write_results, decision, hierarchy)
        if context.options.retry_failed:
            from oid_async.dataset.audit import drop_replaced

            # What was set aside before the plan and has landed again.
            await in_thread(drop_replaced, context.folder, (), ())
        await Attachments(context, tables.ids).fetch(tables)
        await self._export(packer)

    async def _hand_out(self, decision: Decision) -> None:
        """Fetch the images for their consumer alone: they leave their failures in SAVEPATH, nothing else."""
        group, started = decision.group, monotonic()
        await self._transfer(decision)
        if tops_up(self._context.options):
            await self._top_up(decision)
        await in_thread(self._note_speed, group, monotonic() - started)

    def _note_speed(self, group: str | None, seconds: float) -> None:
        """Note how fast this run fetched its images, which took so many seconds, for the plans of later ones."""
        context, source = self._context, self._planning.planner.sources[0]
        note_run(context.cache.cache.root, group, source, context.options, context.report, seconds)

    async def _export(self, packer: "SpanPacker | None") -> None:
        """Export what is there, if a format was asked for."""
        context = self._context
        if packer is not None:
            context.report.export = (await packer.finish()).as_json()
        elif context.options.format is not None:
            from oid_async.jobs.export import Export

            # This run has written the tables just now.
            export = Export(
                context.folder.path, context.options, context.sink, processes=context.options.processes, edited=True
            )
            context.report.export = (await export.within()).as_json()

    async def _top_up(self, decision: Decision) -> Decision:
        """Replace what failed by the next images in order, round by round, until enough are there or none are left."""
        report = self._context.report
        barren_rounds = barren_images = 0
        while (fresh := report.failed - decision.failed) or decision.selected.selection.waiting:
            passing = sum(report.failures.get(kind, 0) - decision.failures.get(kind, 0) for kind in PASSING_KINDS)
            if report.downloaded > decision.downloaded or passing < fresh or not fresh:
                barren_rounds = barren_images = 0
            else:
                barren_rounds, barren_images = barren_rounds + 1, barren_images + fresh
            if barren_rounds >= _BARREN_ROUNDS and barren_images >= _BARREN_IMAGES:
                self._context.note("nothing can be had at present: no more images are asked for; run again later")
                # Images that wait were never requested: they are not selected.
                report.selected -= decision.selected.selection.waiting
                report.pending -= decision.selected.selection.waiting
                break
            before, given_out = report.selected, decision.selected.selection.keys
            decision = await self._planning.decide(given_out)
            if fresh:
                more = report.selected - before
                self._context.note(f"{fresh} failed; {more or 'no'} more images take their place")
            check_space(decision.plan, self._context.options)
            if self._context.keeps_files:
                await in_thread(self._note_start, decision)
            await self._transfer(decision, given_out)
        return decision

    async def _transfer(
        self, decision: Decision, given_out: pl.Series | None = None, files: Sequence[Path] | None = None
    ) -> None:
        """Fetch the images of the plan; see `ImageTransfers.run`."""
        tables = self._planning.tables
        saved = tables.saved_annotations(all_boxes=self._context.options.all_boxes)
        await self._transfers.run(decision.uncapped, tables.ids, saved=saved, given_out=given_out, files=files)

    async def _transfer_and_pack(self, decision: Decision) -> "SpanPacker":
        """Fetch span by span; while one is fetched the one before is packed."""
        from oid_async.jobs.pack import SpanPacker

        with SpanPacker.opened(self._context, self._planning.tables) as packer:
            async with asyncio.TaskGroup() as group:
                before: asyncio.Task[None] | None = None
                for file in await in_thread(plan_files, self._context.folder.plan):
                    await self._transfer(decision, files=[file])
                    if before is not None:
                        await before
                    before = group.create_task(packer.pack(file, decision.first_line))
        return packer

    def _note_start(self, decision: Decision) -> None:
        """Write query.json, and note what the plan is of: with both, what an interrupted run has saved can be read."""
        ids = self._planning.tables.ids
        with storage_errors(self._context.folder.path):
            note_start(self._context.folder, self._query(decision), decision.first_line, ids)
            packed = self._context.packed
            note_places(self._context.folder, self._context.options, None if packed is None else packed.out)

    def _write_results(self, decision: Decision, hierarchy: bytes | None) -> None:
        context, tables = self._context, self._planning.tables
        folder = context.folder
        side = context.options.max_side if context.packed is not None else None
        results = Results(folder, plan_files(folder.plan), tables.ids, decision.first_line, side)
        saved = tables.saved_annotations(all_boxes=context.options.all_boxes)
        with storage_errors(folder.path):
            context.lists.drop_unused(folder)
        results.write(saved, self._query(decision), tables.bad_rows, decision.selected.unknown_ids, hierarchy)
        (folder.plan / PLAN_NOTE).unlink(missing_ok=True)

    def _query(self, decision: Decision) -> dict[str, Any]:
        """Return the content of query.json."""
        # Of all counts by class these are of the categories alone, whatever else is counted.
        names = decision.selected.selection.added
        document = query_document(self._context, self._planning.tables, self._planning.planner.sources, names)
        return document if self._repeats is None else as_before(document, self._repeats)
