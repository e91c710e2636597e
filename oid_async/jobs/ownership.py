"""Owning a SAVEPATH for one run: its lock, its journal, and what of the journal still holds."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import InputError, UsageError, storage_error
from oid_async.events import Note, Sink
from oid_async.options.query import Options
from oid_async.select.names import NameHashes
from oid_async.store.adoption import from_manifest
from oid_async.store.folder import Folder
from oid_async.store.journal import Journal, has_failed
from oid_async.store.recovery import boot_id, recover_after_boot
from oid_async.store.shards_note import packed_in

if TYPE_CHECKING:
    from oid_async.jobs.pack import ShardPacker


@asynccontextmanager
async def owned_folder(folder: Folder, sink: Sink, packing: "ShardPacker | None") -> AsyncIterator[Journal]:
    """Own a folder and its journal. A journal that was deleted is made anew from the manifest and the files."""
    opened: list[Journal] = []
    notes: list[str] = []

    def enter() -> None:
        folder.claim()
        if packing is None and (shards := packed_in(folder)) is not None:
            raise UsageError(
                f"{folder.path}: its images are in the shards of {shards}; go on with --format webdataset --no-files, "
                "or name another --savepath"
            )
        if not folder.is_locked:
            notes.append(f"{folder.path}: its file system has no locks; start no second run in this folder meanwhile")
        try:
            check = recover_after_boot(folder, boot_id())
        except OSError as error:
            raise storage_error(error, folder.path) from error
        if said := check.note():
            notes.append(said)
        fresh = not folder.journal.exists()
        opened.append(Journal(folder.journal))
        if fresh and folder.manifest.exists():
            # A manifest that is none of ours, or torn, tells nothing: files are then adopted by their own check.
            with suppress(InputError, pl.exceptions.PolarsError):
                packed = NameHashes.of(packing.names()).exact if packing is not None else None
                for batch in from_manifest(folder, packed):
                    opened[0].append(batch)

    def leave() -> None:
        try:
            for journal in opened:
                journal.close()
        finally:
            folder.leave()

    try:
        await in_thread(enter)
        for note in notes:
            sink(Note(note))
        yield opened[0]
    finally:
        await in_thread(leave)


def forget_outdated_failures(folder: Folder, journal: Journal, site: str | None, options: Options) -> None:
    """Forget remembered failures when they speak of another place than this time, or of what is now allowed."""
    note = folder.state / "site.json"
    largest = options.max_image_bytes
    now: dict[str, Any] = {"site": site, "allowed": sorted(options.allow_hosts), "largest": largest}
    try:
        before = json.loads(note.read_text())
    except (OSError, ValueError):
        before = now
    if not isinstance(before, dict):
        before = {"site": before}  # as an earlier version wrote it
    more = set(now["allowed"]) - set(before.get("allowed", ()))
    # Versions that noted no size had the same default.
    larger = largest > before.get("largest", Options().max_image_bytes)
    if (
        before.get("site") != site
        or (more and has_failed(folder.journal, "blocked"))
        or (larger and has_failed(folder.journal, "too_large"))
    ):
        journal.forget_failures()
    if before != now or not note.exists():
        part = folder.tmp / note.name
        part.write_text(json.dumps(now))
        part.replace(note)
