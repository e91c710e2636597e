"""What comes beside images and tables: masks, traces, recordings. Fetched last, for the images that are there.

Each is its own folder's business: what cannot be had costs no image, stands in the folder's failures.csv and is asked
for again by the next run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import UnavailableError
from oid_async.events import Note, Sink
from oid_async.openimages.ids import KEY
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options
from oid_async.report import Report, size_text
from oid_async.store.folder import Folder
from oid_async.tables.rows import rows_of

if TYPE_CHECKING:
    from oid_async.http.client import Client
    from oid_async.jobs.gather import GatheredTables
    from oid_async.jobs.site import Site
    from oid_async.metadata.cache import MetadataCache

_NARRATIVES = "narrative"


class Prepared(Protocol):
    """What a run has opened."""

    @property
    def inputs(self) -> "GatheredTables":
        """Return the tables."""

    @property
    def site(self) -> "Site":
        """Return where things are published."""

    @property
    def client(self) -> "Client | None":
        """Return the client."""

    @property
    def cache(self) -> "MetadataCache":
        """Return the cache."""


class Attachments:
    """Fetches for one run, into its report."""

    def __init__(self, options: Options, sink: Sink, report: Report) -> None:
        self._options = options
        self._sink = sink
        self._report = report

    async def fetch(self, prepared: Prepared, folder: Folder) -> None:
        """Fetch what the query asks for. Raises StorageError, or UnavailableError for traces that cannot be had."""
        saved = {source.kind.name for source in prepared.inputs.saved}
        options = self._options
        # What packs images has fetched the masks of each span for its samples.
        wanted = [name for name in ("segmentation",) if name in saved and not options.packs]
        wanted += [name for name in ("traces", "voice") if getattr(options, name) and _NARRATIVES in saved]
        if wanted and options.offline:
            self._sink(Note(f"nothing is fetched with --offline: {', '.join(wanted)}"))
            return
        if "segmentation" in wanted:
            await self.masks(prepared, folder)
        if "traces" in wanted:
            await self._traces(prepared, folder)
        if "voice" in wanted:
            await self._voices(prepared, folder)

    def announce(self, prepared: Prepared, keys: pl.Series) -> None:
        """Say what the masks of these images will take. Blocking."""
        inputs, options = prepared.inputs, self._options
        source = next((source for source in inputs.saved if source.kind.name == "segmentation"), None)
        if source is None:
            return
        from oid_async.masks.estimate import estimate_masks

        labels = inputs.saved_labels(source, all_boxes=options.all_boxes)
        frames = [rows_of(source, table, inputs.ids, keys, labels=labels) for table in source.tables]
        splits = options.splits or inputs.looked_in
        self._sink(Note(estimate_masks(list(zip(splits, frames, strict=False)), prepared.cache.cache.objects)))

    async def masks(self, prepared: Prepared, folder: Folder) -> None:
        """Fetch the masks that the tables of a folder speak of; they count with those that were fetched before."""
        from oid_async.masks.mask_folder import MaskFolder

        client = prepared.client
        assert client is not None
        masks = MaskFolder(folder, self._options.mask_size, prepared.inputs.ids)
        found = await masks.fetch(client, self._sink, mirror=prepared.site.url, cache=prepared.cache.cache.objects)
        counts = {
            "selected": found.selected,
            "present": found.present,
            "downloaded": found.downloaded,
            "failed": found.failed,
            "bytes": found.bytes + found.directory_bytes,
        }
        before = self._report.masks
        self._report.masks = {name: count + before.get(name, 0) for name, count in counts.items()}
        size = size_text(found.bytes + found.directory_bytes)
        there = f"{found.present} there already, {found.failed} failed"
        self._sink(Note(f"{found.selected} masks: {found.downloaded} fetched ({size}), {there}"))
        self._say("masks", found.failed, folder.path / KINDS["segmentation"].folder)

    async def _traces(self, prepared: Prepared, folder: Folder) -> None:
        from oid_async.narratives.traces import fetch_traces

        client = prepared.client
        assert client is not None
        keys = await in_thread(_saved_keys, folder, prepared)
        splits = prepared.inputs.looked_in or SPLITS
        found = await fetch_traces(
            client,
            self._sink,
            keys,
            splits,
            mirror=prepared.site.url,
            scratch=folder.tmp,
            target=folder.path / KINDS["narrative"].file,
        )
        if found.damaged:
            shard, line = found.damaged[0]
            self._sink(Note(f"{len(found.damaged)} lines are no narratives: left out, first {shard} line {line}"))
        if found.lost:
            raise UnavailableError(f"traces: {found.lost[0]}; narrative/narratives.jsonl has captions meanwhile")

    async def _voices(self, prepared: Prepared, folder: Folder) -> None:
        from oid_async.narratives.recordings import RecordingFetcher

        client = prepared.client
        assert client is not None
        place = folder.path / _NARRATIVES
        voices = RecordingFetcher(client, mirror=prepared.site.url, folder=place / "voice", scratch=folder.tmp)
        found = await voices.fetch(folder.path / KINDS["narrative"].file)
        self._report.recordings = {
            "selected": found.selected,
            "present": found.present,
            "downloaded": found.downloaded,
            "failed": len(found.failures),
            "bytes": found.bytes,
        }
        if found.unnamed:
            self._sink(Note(f"{found.unnamed} narratives name no recording; with --traces they do"))
        await in_thread(_write_failures, voices.failures(), place / "failures.csv", folder.tmp)
        self._say("recordings", len(found.failures), place)

    def _say(self, what: str, failed: int, place: Path) -> None:
        if failed:
            self._sink(Note(f"{failed} {what} failed: {place}/failures.csv says why; run again to ask for them again"))


def _saved_keys(folder: Folder, prepared: Prepared) -> pl.Series:
    saved = pl.scan_parquet(folder.manifest).filter(Status="ok").select(prepared.inputs.ids.key())
    return saved.collect(engine="streaming").get_column(KEY)


def _write_failures(failures: pl.DataFrame, path: Path, scratch: Path) -> None:
    if not len(failures):
        path.unlink(missing_ok=True)
        return
    part = scratch / "recording-failures.csv"
    failures.write_csv(part)
    part.replace(path)
