"""Owning a SAVEPATH for one run: its lock, its journal, its shards, and the failures that are still remembered."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.cluster.layout import PLAN
from oid_async.concurrency import in_thread
from oid_async.errors import InputError, StorageError, UsageError, storage_errors
from oid_async.events import Note, Sink
from oid_async.openimages.ids import KEY
from oid_async.options.query import Options
from oid_async.store.adoption import from_manifest, take_over
from oid_async.store.atomic import read_json, write_json
from oid_async.store.disk import is_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder, packed_in
from oid_async.store.folder_lock import FolderLock
from oid_async.store.image_check import read_header
from oid_async.store.journal import Journal, has_failed
from oid_async.store.journal_index import JournalIndex
from oid_async.store.recovery import recover_after_boot
from oid_async.system.boots import boot_id

if TYPE_CHECKING:
    from oid_async.jobs.packed_shards import PackedShards


@asynccontextmanager
async def owned_folder(
    folder: Folder, options: Options, sink: Sink
) -> "AsyncIterator[tuple[Journal, PackedShards | None]]":
    """Own a folder: yield its journal, and its shards if images are packed. Raises LockedError, StorageError, ..."""
    held = ExitStack()
    notes: list[str] = []
    try:
        owned = await in_thread(_own, folder, options, held, notes)
        for note in notes:
            sink(Note(note))
        yield owned
    finally:
        await in_thread(held.close)


def _own(folder: Folder, options: Options, held: ExitStack, notes: list[str]) -> "tuple[Journal, PackedShards | None]":
    """Lock the folder, check it after a power cut, open journal (restored if it is gone) and shards into `held`."""
    if is_plain(folder.path / PLAN):
        raise UsageError(
            f"{folder.path} holds a download by parts, which only --cluster goes on with: say local:N, or array for "
            "this process alone, or name another --savepath"
        )
    lock = FolderLock.take(folder)
    held.callback(lock.release)
    if not options.packs and (shards := packed_in(folder)) is not None:
        raise UsageError(
            f"{folder.path}: its images are in the shards of {shards}; go on with --format webdataset --no-files, "
            "or name another --savepath"
        )
    if not lock.is_held:
        notes.append(f"{folder.path}: its file system has no locks; start no second run in this folder meanwhile")
    with storage_errors(folder.path):
        check = recover_after_boot(lock, boot_id())
    if text := check.note():
        notes.append(text)
    is_fresh = not folder.journal.exists()
    journal = Journal(folder.journal)
    held.callback(journal.close)
    with storage_errors(folder.path):
        take_over(folder, journal, alone=lock.is_held)
    # Before the journal is closed: what a worker that had to be stopped has renamed at last.
    held.callback(_take_over_last, folder, journal, lock)
    packed = None
    if options.packs:
        from oid_async.jobs.packed_shards import PackedShards, packed_names, shards_folder

        if is_fresh:
            restore_journal(folder, journal, pl.Series(packed_names(shards_folder(options)), dtype=pl.String).hash())
        with storage_errors(shards_folder(options)):
            packed = held.enter_context(PackedShards.locked(folder, options))
    elif is_fresh:
        restore_journal(folder, journal, None)
    return journal, packed


def _take_over_last(folder: Folder, journal: Journal, lock: FolderLock) -> None:
    # What cannot be done now, on a full disk for example, the next run does.
    with suppress(OSError, StorageError):
        take_over(folder, journal, alone=lock.is_held)


def restore_journal(folder: Folder, journal: Journal, packed: pl.Series | None) -> None:
    """Journal the images that the last manifest lists and that are still there; `packed` are hashes of names."""
    if not is_plain(folder.manifest):
        return
    # A manifest that is none of ours, or torn, tells nothing: files are then adopted by their own check.
    with suppress(InputError, pl.exceptions.PolarsError):
        for batch in from_manifest(folder, packed):
            journal.append(batch)


def forget_outdated_failures(folder: Folder, journal: Journal, site: str | None, options: Options) -> None:
    """Forget remembered failures that are about what is now allowed; of another address none is believed anyway."""
    note = folder.state / "site.json"
    largest = options.max_image_bytes
    now: dict[str, Any] = {"site": site, "allowed": sorted(options.allow_hosts), "largest": largest}
    before = now if (stored := read_json(note)) is None else stored
    if not isinstance(before, dict):
        before = {"site": before}  # as an earlier version wrote it
    more = set(now["allowed"]) - set(before.get("allowed", ()))
    # Versions that noted no size had the same default.
    larger = largest > before.get("largest", Options().max_image_bytes)
    if (more and has_failed(folder.journal, "blocked")) or (larger and has_failed(folder.journal, "too_large")):
        journal.forget_failures()
    if before != now or not is_plain(note):
        write_json(note, now, part=folder.tmp / note.name, durable=True)


def set_aside_unreadable(folder: Folder, index: JournalIndex, keys: pl.Series) -> int:
    """Move the files of these images (sorted keys) that no decoder opens into damaged/; return how many.

    Version 0.1.0 saved JPEGs without a readable size, and journalled none for them.
    """
    is_suspect = (pl.col("Status") == "ok") & (pl.col("Width").is_null() | pl.col("Height").is_null())
    suspects = index.all_latest(is_suspect=is_suspect).filter("is_suspect").get_column(KEY)
    suspects = suspects.filter(suspects.is_in(keys.implode()))
    if not len(suspects):
        return 0
    lines = index.latest(suspects).filter(pl.col(KEY).is_in(suspects.implode()))
    names = [name for name in lines.get_column("FileName").drop_nulls() if _is_unreadable(folder.images / name)]
    if not names:
        return 0
    from oid_async.dataset.audit import set_aside

    return set_aside(folder, names)


def _is_unreadable(path: Path) -> bool:
    try:
        with FileBytes(path) as body:
            return not read_header(body).is_readable
    except OSError:
        return False
