"""`plan`, and the first half of a download: tables gathered, images selected, the plan written, all of it counted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Self

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.errors import StorageError, machine_error, storage_error
from oid_async.events import Stage
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables, choose_sources, gather_tables
from oid_async.jobs.ownership import forget_outdated_failures, set_aside_unreadable
from oid_async.jobs.planning.bucket import known_bucket, missing_of
from oid_async.jobs.planning.disk_room import exports_bytes
from oid_async.jobs.planning.forecast import Forecast
from oid_async.jobs.planning.id_file import write_ids
from oid_async.jobs.planning.selection import SelectionResult, remarks, select_images
from oid_async.jobs.planning.unknown_ids import cached_splits_of, cached_without_boxes
from oid_async.openimages.vocabulary import Split
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.report import Plan
from oid_async.select.limits import TopUpState
from oid_async.select.names import NameHashes
from oid_async.select.plan import FolderState, Planner, Summary, clear_plan
from oid_async.store.adoption import Adopter, credited
from oid_async.store.disk import free_bytes
from oid_async.store.journal_index import JournalIndex


@frozen
class Decision:
    """What is selected and planned, and how many had failed and were downloaded in this run when that was decided.

    `uncapped` counts the images to fetch whose first request goes to no host that has a cap by default; `first_line` is
    the number of the journal's first line of this run; `group` names the hosts of most images (see
    `jobs.planning.earlier_runs`).
    """

    plan: Plan
    selected: SelectionResult
    failed: int
    downloaded: int
    failures: dict[str, int]
    uncapped: int
    first_line: int
    group: str | None


async def make_plan(context: RunContext, ids: Path | BinaryIO | None = None) -> Plan:
    """Return what a download would do, and write the selected images to `ids`. Fetches tables, no image."""
    planning = await Planning.of(context)
    decision = await planning.decide()
    if ids is not None:
        await until_stopped(write_ids, decision.selected.selection.keys, planning.tables, ids)
    return decision.plan


class Planning:
    """Decides what a run does: from its tables, gathered once, by a planner that writes the plan to the disk."""

    def __init__(self, context: RunContext, tables: GatheredTables, planner: Planner) -> None:
        self.tables = tables
        self.planner = planner
        self._context = context
        # The number of the journal's first line of this run, known once the folder was looked at.
        self._first_line: int | None = None

    @classmethod
    async def of(cls, context: RunContext, *, publishes: bool = False) -> Self:
        """Bring the tables of a run and say where its images come from. Raises OidError.

        A dry run whose plan is published writes that plan whole, into its scratch folder.
        """
        options, folder = context.options, context.folder
        context.sink(Stage("reading the tables"))
        tables = await gather_tables(options, context.cache, context.sink, folder.tmp, context.lists)
        if context.journal is not None and context.keeps_files:
            await in_thread(context.lists.keep, folder)
        sources, why = choose_sources(options, tables, mirrored=context.site.name is not None)
        context.note(why)
        planner = Planner(
            folder.plan,
            tables.images,
            tables.ids,
            tables.splits,
            sources,
            # Without an image table nothing but the id is known.
            "id" if tables.bare else options.names,
            context.site.name,
            context.journal is None and not publishes,
            await known_bucket(context, tables, sources),
            exports_bytes(options),
            options.respect_opt_out,
        )
        return cls(context, tables, planner)

    def begin_anew(self) -> None:
        """From now on it is as in a run that begins: what has failed in passing is asked for again."""
        self._first_line = None

    async def decide(self, given_out: pl.Series | None = None) -> Decision:
        """Select, plan, update the report. With `given_out`, keys of earlier decisions, the selection is topped up."""
        context = self._context
        context.sink(Stage("choosing the images"))
        selected, summary = await in_thread(self._select, given_out)
        if given_out is None and summary.ambiguous:
            urls = "stand in the image table with more than one OriginalURL; the first one counts"
            context.note(f"{summary.ambiguous} images {urls}")
        if given_out is None:
            for remark in remarks(self.tables, selected, await in_thread(self._elsewhere, selected)):
                context.note(remark)
            if count := await in_thread(self._without_boxes, selected):
                context.note(f"{count} of these {'has' if count == 1 else 'have'} no boxes: --images all knows of them")
        selection, report = selected.selection, context.report
        report.selected = len(selection.keys) + selection.waiting
        report.failures = dict(summary.failures)
        report.failed = sum(summary.failures.values())
        report.pending = summary.to_fetch + selection.waiting
        # What was downloaded before the selection was topped up is counted already.
        report.present = report.selected - report.downloaded - report.failed - report.pending
        report.unselected = summary.unselected
        report.bad_rows = len(self.tables.bad_rows)
        report.unknown_ids = len(selected.unknown_ids)
        report.negatives = 0 if selection.negatives is None else len(selection.negatives.keys)
        sources = self.planner.sources
        missing = missing_of(summary, self.planner.bucket, sources, context.options)
        forecast = Forecast(context, self.tables, sources, free_bytes, missing)
        plan = await in_thread(forecast.plan, selected, summary)
        if not context.keeps_files:
            plan = replace(plan, disk_needed=0, too_little_disk=None)
        if given_out is None and missing is not None and (note := missing.note(plan.to_download, sources)) is not None:
            context.note(note)
        on_flickr = summary.on_flickr if context.options.rate is None else 0
        return Decision(
            plan,
            selected,
            report.failed,
            report.downloaded,
            dict(report.failures),
            uncapped=summary.to_fetch - on_flickr,
            first_line=self._first_line or 0,
            group=forecast.group(summary),
        )

    def _elsewhere(self, selected: SelectionResult) -> dict[Split, int]:
        """Return which splits have how many of the unknown ids, as far as cached tables tell."""
        images, options = self.tables.query.image_ids, self._context.options
        if images is None or options.image_url is not None:
            return {}
        cache = self._context.cache.cache
        return cached_splits_of(images, selected.selection.unknown_lines, cache, options.release)

    def _without_boxes(self, selected: SelectionResult) -> int:
        """Return how many of the unknown ids --images all would know, as far as cached tables tell."""
        images, options = self.tables.query.image_ids, self._context.options
        if images is None or options.image_url is not None or options.images == "all":
            return 0
        cache, lines = self._context.cache.cache, selected.selection.unknown_lines
        return cached_without_boxes(images, lines, self.tables.looked_in, cache, options.release)

    def _select(self, given_out: pl.Series | None) -> tuple[SelectionResult, Summary]:
        context, planner = self._context, self.planner
        folder, journal, options = context.folder, context.journal, context.options
        try:
            if journal is not None:
                forget_outdated_failures(folder, journal, context.site.name, options)
            clear_plan(folder.plan)
            # At a million images either takes seconds of one processor: they share two.
            with ThreadPoolExecutor(1) as other:
                looking = other.submit(self._look_at_folder)
                top_up = TopUpState()
                if options.top_up:
                    failed = planner.failed(looking.result())
                    first = given_out if given_out is not None else failed.clear()
                    top_up = TopUpState(failed, first if journal is not None and tops_up(options) else None)
                selected = select_images(self.tables, options.all_boxes, top_up)
                state = looking.result()
            if journal is not None and options.retry_failed and context.keeps_files and not options.packs:
                state = self._without_unreadable(state, selected.selection.keys)
            if not context.keeps_files:
                state = replace(state, handed_out=given_out)
            summary = planner.write(selected.selection.keys, state, selected.selection.negatives)
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, folder.path) from error
        if journal is not None and context.keeps_files:
            journal.append(credited(folder, summary.adopted))
        return selected, summary

    def _without_unreadable(self, state: FolderState, keys: pl.Series) -> FolderState:
        """Set aside what is no image although it was saved, so that it is fetched again; return the folder's state."""
        folder = self._context.folder
        count = set_aside_unreadable(folder, state.index, keys)
        if not count:
            return state
        self._context.note(f"{count} saved files are no JPEG that can be read: they are fetched again")
        return self._look_at_folder()

    def _look_at_folder(self) -> FolderState:
        """Return what the plan must know of SAVEPATH."""
        context, planner = self._context, self.planner
        folder, options = context.folder, context.options
        index = JournalIndex(folder.journal, planner.ids, folder.index, folder.new_index)
        if self._first_line is None:
            self._first_line = index.next_line
        return FolderState(
            index,
            NameHashes.of(chain(folder.names(), _packed_names(options)), folder.links()),
            Adopter(folder, planner.sources, hashed=not options.no_hash),
            remembered_from=self._first_line if options.retry_failed else 0,
            run_from=self._first_line if context.journal is not None else None,
        )


def tops_up(options: Options) -> bool:
    """Return whether failures are replaced: without a limit every image is asked for anyway, offline none is."""
    limits = (options.limit, options.limit_per_class, options.negatives)
    is_limited = any(limit is not None for limit in limits)
    return options.top_up and is_limited and not options.offline


def check_space(plan: Plan, options: Options) -> None:
    """Raise StorageError if what is known of a run cannot fit. With --offline nothing is fetched."""
    if plan.too_little_disk is not None and not options.offline:
        raise StorageError(plan.too_little_disk)


def _packed_names(options: Options) -> Iterator[str]:
    """Yield the names of images that are packed into shards, none where images are files."""
    if options.packs:
        from oid_async.jobs.packed_shards import packed_names, shards_folder

        yield from packed_names(shards_folder(options))
