"""Attachments of the saved images, fetched last: masks, traces, recordings.

One that fails costs no image, is named in its folder's failures.csv and requested again by the next run.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import UnavailableError, storage_errors
from oid_async.events import Note, Stage
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.report import size_text
from oid_async.store.attached_files import AttachedFiles, record_of_attached
from oid_async.store.folder import Folder
from oid_async.store.results import write_failures
from oid_async.store.written_files import MASKS, RECORDINGS, record_of_run, write_record

if TYPE_CHECKING:
    from oid_async.dataset.attached_copies import AttachedCount

_NARRATIVES = KINDS["narrative"]
_SEGMENTATION = KINDS["segmentation"]
# What the report counts of masks and of recordings.
_COUNTS = ("selected", "present", "downloaded", "failed", "bytes")


class Attachments:
    """Fetches for one run, into its report."""

    def __init__(self, context: RunContext, ids: IdForm) -> None:
        self._context = context
        self._ids = ids
        self._masks: AttachedFiles | None = None
        self._recordings: AttachedFiles | None = None

    async def fetch(self, tables: GatheredTables) -> None:
        """Fetch what the query asks for, then record every file. Raises StorageError, UnavailableError for traces."""
        lost = await self._fetch(tables)
        with storage_errors(self._context.folder.path):
            await in_thread(self._record)
        if lost is not None:
            raise UnavailableError(f"traces: {lost}; narrative/narratives.jsonl has captions meanwhile")

    async def fetch_missing(self, counts: Mapping[str, "AttachedCount"], *, ask: bool) -> None:
        """Fetch what is missing of the masks and recordings that the tables name, then record every file.

        `counts` are by MASKS and RECORDINGS. Unless `ask` nothing is fetched. Raises StorageError.
        """
        report, offline = self._context.report, self._context.options.offline
        ask = ask and not offline
        there = {
            prefix: _added({}, (count.named, count.named - count.missing, 0, count.missing, 0))
            for prefix, count in counts.items()
        }
        missing = {prefix: count.missing for prefix, count in counts.items() if count.missing}
        if missing and offline:
            self._context.note(f"nothing is fetched with --offline: {sum(missing.values())} masks and recordings")
        if MASKS in missing and ask:
            await self.fetch_masks(self._context.folder)
        else:
            report.masks = there.get(MASKS, {})
        if RECORDINGS in missing and ask:
            await self._fetch_recordings()
        else:
            report.recordings = there.get(RECORDINGS, {})
        with storage_errors(self._context.folder.path):
            await in_thread(self._record)

    def _record(self) -> None:
        """Write the record of files anew, with masks and recordings."""
        folder = self._context.folder
        write_record(folder, record_of_run(folder, record_of_attached(folder, self._masks, self._recordings)))

    async def _fetch(self, tables: GatheredTables) -> str | None:
        """Fetch one kind after the other, whatever became of the one before; return why there are no traces, if so."""
        options, folder = self._context.options, self._context.folder
        # A run that packs images has fetched the masks of each span for its samples.
        masks = tables.saves("segmentation") and not options.packs
        traces, voice = (tables.saves("narrative") and asked for asked in (options.traces, options.voice))
        wanted = {"segmentation": masks, "traces": traces, "voice": voice}
        if options.offline:
            if names := ", ".join(name for name, is_wanted in wanted.items() if is_wanted):
                self._context.note(f"nothing is fetched with --offline: {names}")
            return None
        if masks:
            self._context.sink(Stage("fetching the masks"))
            await self.fetch_masks(folder)
        if traces:
            self._context.sink(Stage("fetching the traces"))
        lost = await self._fetch_traces(tables) if traces else None
        if voice:
            self._context.sink(Stage("fetching the recordings"))
            await self._fetch_recordings()
        return lost

    async def fetch_masks(self, folder: Folder) -> None:
        """Fetch the masks that the tables of a folder name; they count with those that were fetched before."""
        from oid_async.masks.mask_folder import MaskFolder

        context = self._context
        assert context.client is not None
        masks = await in_thread(MaskFolder, folder, context.options.mask_size, self._ids)
        self._masks = masks.files
        objects = context.cache.cache.objects
        found = await masks.fetch(context.client, context.sink, mirror=context.site.url, cache=objects)
        fetched_bytes = found.bytes + found.directory_bytes
        counts = (found.selected, found.present, found.downloaded, found.failed, fetched_bytes)
        context.report.masks = _added(context.report.masks, counts)
        there = f"{found.present} there already, {found.failed} failed"
        context.note(f"{found.selected} masks: {found.downloaded} fetched ({size_text(fetched_bytes)}), {there}")
        self._note_failures("masks", found.failed, folder.path / _SEGMENTATION.folder)

    async def _fetch_traces(self, tables: GatheredTables) -> str | None:
        """Fetch the traces; return why they cannot be had."""
        from oid_async.narratives.traces import fetch_traces

        context, folder = self._context, self._context.folder
        assert context.client is not None
        found = await fetch_traces(
            context.client,
            context.sink,
            await in_thread(self._saved_keys),
            tables.looked_in or SPLITS,
            mirror=context.site.url,
            scratch=folder.tmp,
            target=folder.path / _NARRATIVES.file,
        )
        if found.damaged:
            shard, line = found.damaged[0]
            context.note(f"{len(found.damaged)} lines are no narratives: left out, first {shard} line {line}")
        return found.lost[0] if found.lost else None

    async def _fetch_recordings(self) -> None:
        from oid_async.narratives.recordings import RecordingFetcher

        context, folder = self._context, self._context.folder
        assert context.client is not None
        place = folder.path / _NARRATIVES.folder
        self._recordings = await in_thread(AttachedFiles.of, folder, RECORDINGS)
        recordings = RecordingFetcher(
            context.client, mirror=context.site.url, files=self._recordings, scratch=folder.tmp
        )
        found = await recordings.fetch(folder.path / _NARRATIVES.file)
        counts = (found.selected, found.present, found.downloaded, len(found.failures), found.bytes)
        context.report.recordings = _added({}, counts)
        if found.unnamed:
            context.note(f"{found.unnamed} narratives name no recording; with --traces they do")
        write = partial(write_failures, place / "failures.csv", found.failures, column="Recording", scratch=folder.tmp)
        await in_thread(write)
        self._note_failures("recordings", len(found.failures), place)

    def _saved_keys(self) -> pl.Series:
        """Return the keys of the images that are saved."""
        saved = pl.scan_parquet(self._context.folder.manifest, glob=False).filter(Status="ok").select(self._ids.key())
        return saved.collect(engine="streaming").get_column(KEY)

    def _note_failures(self, what: str, failed: int, place: Path) -> None:
        if failed:
            text = f"{failed} {what} failed: {place}/failures.csv says why; run again to ask for them again"
            self._context.sink(Note(text))


def _added(before: Mapping[str, int], counts: Sequence[int]) -> dict[str, int]:
    return {name: count + before.get(name, 0) for name, count in zip(_COUNTS, counts, strict=True)}
