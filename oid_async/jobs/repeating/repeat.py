"""`repeat`: the same set again, from a folder, its query.json or a manifest.

    SOURCE ──▶ manifest ──▶ what is there: linked, copied ──▶ plan of the rest ──▶ transfers ──▶ tables, copied
      └──▶ query.json without a manifest ──▶ a download of its query

What the manifest says counts: which images, which names, which bytes, whatever the published tables say by now.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.dataset.attached_copies import AttachedCount, copy_attached
from oid_async.dataset.audit import damaged_folder, drop_replaced
from oid_async.dataset.query_digest import TABLES
from oid_async.dataset.read_lock import read_lock
from oid_async.dataset.table_copies import CopiedTables
from oid_async.errors import StorageError, UsageError, machine_error, storage_error, storage_errors
from oid_async.events import Finished, Planned, Sink, Stage
from oid_async.http.retry import Limits
from oid_async.jobs.attachments import Attachments
from oid_async.jobs.context import RunContext, open_run, timed
from oid_async.jobs.demo import SITE
from oid_async.jobs.gathering.given_lists import GivenLists
from oid_async.jobs.own_places import note_places
from oid_async.jobs.planning.plan import check_space
from oid_async.jobs.query_document import note_start
from oid_async.jobs.repeating.repeat_plan import RepeatDecision, RepeatPlanning, SavedSet
from oid_async.jobs.repeating.repeat_query import query_again, repeated_document
from oid_async.jobs.repeating.repeat_source import RepeatSource, is_same
from oid_async.jobs.run_report import reporting
from oid_async.jobs.stored_query import Given, flag_of, must_be_named
from oid_async.jobs.transfers import ImageTransfers
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.redaction import printable
from oid_async.report import Report, counted, size_text
from oid_async.select.plan import plan_files
from oid_async.store.folder import PLAN_NOTE, Folder, packed_in
from oid_async.store.results import Results
from oid_async.store.written_files import ATTACHED_FAILURES
from oid_async.system.forks import refuse_forked_child

if TYPE_CHECKING:
    from oid_async.jobs.download import Run
    from oid_async.origin.server import Serve

_MOST_NAMED = 5
# Options that a query.json without a manifest may need.
_UNREAD = {*TABLES, *KEPT_LISTS}


class Repeat:
    """One set fetched again into the folder of `given`. `report` is true at every moment, also after an interrupt.

    Without a savepath among the names that are given it is the folder of the source itself.
    """

    def __init__(self, source: str | os.PathLike[str], given: Given, sink: Sink, *, own_loop: bool = False) -> None:
        self._source = RepeatSource.find(source)
        savepath = given.options.folder if "savepath" in given.names else self._source.folder.path
        self._source = self._source.within(savepath)
        self._folder = Folder(savepath)
        self._given = given
        self._sink = sink
        self._own_loop = own_loop
        self._run: Run | None = None
        self._report = Report(savepath=str(savepath))

    @property
    def report(self) -> Report:
        """The counts so far."""
        return self._report if self._run is None else self._run.report

    async def run(self) -> Report:
        """Have the set again. Raises InputError, UsageError, LockedError, StorageError, what a download raises."""
        refuse_forked_child()
        if self._source.manifest is None:
            self._run = await query_again(self._source, self._folder, self._given, self._sink, own_loop=self._own_loop)
            return await self._run.download()
        options = replace(self._given.options, savepath=self._folder.path)
        async with reporting(options, self.report, self._sink):
            with timed(self.report), ExitStack() as held:
                if not self._source.is_alone and not is_same(self._source.folder.path, self._folder.path):
                    held.enter_context(read_lock(self._source.folder))
                await self._repeat_manifest()
        self._sink(Finished(self.report))
        return self.report

    async def _repeat_manifest(self) -> None:
        if await in_thread(packed_in, self._folder) is not None:
            raise UsageError(
                f"{self._folder.path}: its images are in shards, and a repeated set has files; "
                "name another folder with --savepath"
            )
        mirrored = self._given.options.mirror is not None
        self._sink(Stage("reading the manifest"))
        saved = await in_thread(partial(self._source.read, self._folder.path, mirrored=mirrored))
        options = _run_options(self._given, self._folder, saved)
        serve, site = _look_alike(saved, options)
        async with open_run(
            options, self._sink, self.report, limits=Limits.of(options), serve=serve, site_name=site
        ) as context:
            if unread := sorted(self._given.names & _UNREAD):
                context.note(f"not read, as the manifest says which images they are: {', '.join(map(flag_of, unread))}")
            await _Repetition(context, saved, self._source.folder, own_loop=self._own_loop).carry_out()


class _Repetition:
    """A repeat under way: images, tables, what is attached to them."""

    def __init__(self, context: RunContext, saved: SavedSet, source: Folder, *, own_loop: bool) -> None:
        self._context = context
        self._saved = saved
        self._source = source
        self._own_loop = own_loop

    async def carry_out(self) -> None:
        """Do everything. Raises OidError."""
        context, saved = self._context, self._saved
        await in_thread(self._check_copies)
        planning = RepeatPlanning(context, saved)
        decision = await planning.decide()
        if decision.copied:
            context.note(
                f"{counted(decision.copied, 'image')} copied: hard links to those of the source are impossible"
            )
        context.sink(Planned(decision.plan))
        self._check_mirror(decision)
        check_space(decision.plan, context.options)
        lists, document = await in_thread(repeated_document, context, saved)
        await in_thread(self._note_start, lists, document, decision)
        transfers = ImageTransfers(context, saved.sources, None, own_loop=self._own_loop)
        await transfers.run(decision.uncapped, saved.manifest.ids)
        context.sink(Stage("writing the result tables"))
        added = await in_thread(self._write_results, lists, document, decision)
        if added:
            context.note(
                f"{counted(added, 'image')} landed that the source had not, without rows in its tables; run download "
                "with the same query in this folder to have these, too"
            )
        await self._bring_attached()
        for note in await in_thread(self._last_notes):
            context.note(note)

    def _check_copies(self) -> None:
        """Raise StorageError if the images would have to be copied, and there is no room for them."""
        saved, folder = self._saved, self._context.folder
        if saved.own or saved.store is None or _may_link(self._source.images, folder.path):
            return
        rows = saved.manifest.rows.filter(Status="ok").select(pl.sum("Bytes"))
        size, free = int(rows.collect(engine="streaming").item() or 0), shutil.disk_usage(folder.path).free
        there = sum(entry.stat().st_size for entry in os.scandir(folder.images)) if folder.images.is_dir() else 0
        if size - there > free:
            raise StorageError(
                f"{size_text(size)} are to be copied, as {self._source.path} is on another file system, and "
                f"{size_text(free)} are free; free some space or choose another --savepath"
            )

    def _check_mirror(self, decision: RepeatDecision) -> None:
        """Raise UsageError if copies are to be fetched that came from a mirror, and the call has named none."""
        if (unnamed := self._unnamed_mirror()) is not None and "cvdf" in decision.plan.sources:
            raise UsageError(f"{unnamed}, or give {self._source.manifest.name} alone, for the public bucket's copies")

    def _unnamed_mirror(self) -> UsageError | None:
        """Return what is wrong if anything has to be asked of the mirror that the source came from."""
        context, mirror = self._context, (self._saved.content or {}).get("site")
        if mirror is None or context.site.name is not None or context.options.offline:
            return None
        return must_be_named(self._source, ("mirror", mirror))

    def _note_start(self, lists: GivenLists, document: Mapping[str, Any], decision: RepeatDecision) -> None:
        folder = self._context.folder
        with storage_errors(folder.path):
            lists.keep(folder)
            note_start(folder, document, decision.first_line, self._saved.manifest.ids)
            note_places(folder, self._context.options, None)

    def _write_results(self, lists: GivenLists, document: dict[str, Any], decision: RepeatDecision) -> int:
        """Write the tables; return how many images are there of which the source's tables have no rows."""
        folder = self._context.folder
        plan = plan_files(folder.plan)
        tables = CopiedTables(None if self._saved.folder is None else self._source, plan, own=self._saved.own)
        with storage_errors(folder.path):
            lists.drop_unused(folder)
        Results(folder, plan, self._saved.manifest.ids, decision.first_line).write_copies(tables, document)
        (folder.plan / PLAN_NOTE).unlink(missing_ok=True)
        tables.drop_kept()
        return tables.added if tables.names else 0

    async def _bring_attached(self) -> None:
        """Copy masks and recordings, fetch what of them is missing, and record every file.

        Raises UsageError if that has to be asked of a mirror that the call has not named.
        """
        saved, context, folder = self._saved, self._context, self._context.folder
        counts: dict[str, AttachedCount] = {}
        try:
            if saved.folder is not None:
                counts = await until_stopped(copy_attached, self._source, folder)
            if saved.folder is not None and not saved.own:
                await in_thread(_copy_notes, self._source, folder)
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, folder.path) from error
        unnamed = self._unnamed_mirror() if any(count.missing for count in counts.values()) else None
        await Attachments(context, saved.manifest.ids).fetch_missing(counts, ask=unnamed is None)
        if unnamed is not None:
            raise unnamed

    def _last_notes(self) -> list[str]:
        """Return what of the set is gone, and which damaged files are kept, a line each."""
        notes, folder = [], self._context.folder
        was_ok = (
            pl.scan_parquet(plan_files(folder.plan), glob=False).filter("WasOk")
            if self._context.report.failed
            else None
        )
        if was_ok is not None:
            now = pl.scan_parquet(folder.manifest, glob=False).filter(Status="failed")
            gone = now.join(was_ok.select("ImageID", "Subset"), on=["ImageID", "Subset"], how="semi", nulls_equal=True)
            lost = gone.select("ImageID", "Reason").collect(engine="streaming")
            if len(lost):
                named = ", ".join(f"{image} ({reason})" for image, reason in lost.head(_MOST_NAMED).iter_rows())
                more = ", ..." if len(lost) > _MOST_NAMED else ""
                notes.append(
                    printable(f"{counted(len(lost), 'image')} of the set cannot be had as before: {named}{more}")
                )
        with storage_errors(folder.path):
            kept = drop_replaced(folder, (), ())
        if kept and self._saved.own:
            notes.append(
                f"{counted(len(kept), 'damaged file')} kept in {damaged_folder(folder)}: no image came in its place"
            )
        return notes


def _run_options(given: Given, folder: Folder, saved: SavedSet) -> Options:
    """Return the options of the run: the call's, and of query.json how images are hashed and how large they may be."""
    values = {name: getattr(given.options, name) for name in given.names - _UNREAD}
    stored = (saved.content or {}).get("query")
    if isinstance(stored, Mapping):
        largest = stored.get("max_image_bytes")
        if isinstance(largest, int) and largest > Options().max_image_bytes:
            values.setdefault("max_image_bytes", largest)
        values["no_hash"] = stored.get("no_hash") is True
        values["mask_size"] = "image" if stored.get("mask_size") == "image" else "original"
    return Options(**{**values, "mirror": given.options.mirror, "savepath": folder.path})


def _look_alike(saved: SavedSet, options: Options) -> "tuple[Serve | None, str | None]":
    """Return what plays the published objects for a set of the demo; nothing for any other."""
    if options.mirror is not None or (saved.content or {}).get("site") != SITE:
        return None, None
    from oid_async.origin.lookalike import Lookalike

    return Lookalike().serve, SITE


def _may_link(images: Path, savepath: Path) -> bool:
    try:
        return os.stat(images).st_dev == os.stat(savepath).st_dev
    except OSError:
        return True


def _copy_notes(source: Folder, folder: Folder) -> None:
    """Copy what is known of masks and recordings: which have failed, in which size masks are."""
    for name in (*ATTACHED_FAILURES, ".oid_async/masks.json"):
        path = source.path / name
        if path.is_file() and not path.is_symlink():
            (folder.path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder.path / name)
