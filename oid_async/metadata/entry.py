"""One object's entry in the cache: its versions, its lock, the bytes fetched so far. Blocking, all of it quick.

    FOLDER/lock           held by the run that requests the object, fetches and converts it; others wait for the lock
    FOLDER/raw.part       the bytes fetched so far; raw.json next to it describes the file, so that it can be resumed
    FOLDER/building/      a version in the making; belongs to the run that has the lock
    FOLDER/<version>/     a complete version: the file as published, or its converted form
    FOLDER/current.json   the current version, its files, and where it came from; written last, by renaming
    FOLDER/verified.json  in which state its files were last found to be as stored (see `metadata.integrity`)
    FOLDER/names.txt      of a class table: its names, for completion (see `metadata.name_list`)

A version that a run reads from is pinned by a shared lock on its `in_use`: a newer version does not remove it.
"""

import errno
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oid_async.errors import StorageError
from oid_async.metadata.integrity import (
    Stored,
    first_damaged,
    is_header_text,
    is_intact,
    is_readable,
    sealed,
    states,
    stored_files,
)
from oid_async.metadata.name_list import NAMES
from oid_async.openimages.ids import KEY, ROW
from oid_async.quick_values import frozen
from oid_async.report import size_text
from oid_async.store.atomic import read_json, replacing, write_json
from oid_async.store.disk import free_bytes, is_plain, odd_kind, sync_file, sync_folder
from oid_async.store.lock import FileLock
from oid_async.tables.reading import TableFile

# In addition to the raw file the conversion needs its lines once, with their numbers, and a slice of them twice: 1.1
# times the size of the train boxes, 1.2 of the labels, 1.4 of the images.
_CONVERSION_SHARE = 1.4
_VERSION = re.compile("[0-9A-Za-z]{1,64}")


@frozen
class Identity:
    """One state of an object on its server; a validator is None if the server gives none. `md5` is hex."""

    url: str
    bytes: int
    etag: str | None
    last_modified: str | None
    md5: str | None


@frozen
class CachedVersion:
    """A version in the cache. `columns` are those of a converted table, None for a file as published.

    `made_s` is when it was made, `checked_s` when it was last known to be the latest (Unix time). `files` are size and
    MD5 of its files, None if version 0.1.0 made it, which hashed none.
    """

    version: str
    identity: Identity
    columns: tuple[str, ...] | None
    made_s: float
    checked_s: float
    files: Stored | None = None

    @property
    def made_on(self) -> str:
        """The day it was made, for messages."""
        try:
            return time.strftime("%Y-%m-%d", time.localtime(self.made_s))
        except (OverflowError, ValueError, OSError):
            return "an unknown day"


class CacheEntry:
    """The cache entry of one object: its `folder`; `name` is used in messages and for its file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.raw = folder / "raw.part"
        self.raw_note = folder / "raw.json"
        self.building = folder / "building"
        self._current = folder / "current.json"
        self._verified = folder / "verified.json"

    def current_version(self) -> CachedVersion | None:
        """Return the current version, None if there is none that is complete."""
        while True:
            note = read_json(self._current)
            version = self._read(note)
            # Another run may replace it meanwhile: the version that the note names is then removed.
            if version is not None or read_json(self._current) == note:
                return version

    def _read(self, note: Any) -> CachedVersion | None:
        """Return the version that a note describes, None if it is not here. The note may be anybody's."""
        with suppress(OSError, TypeError, KeyError, ValueError, AttributeError):
            version, columns, identity = note["version"], note["columns"], Identity(**note["identity"])
            if not is_intact(note) or not _VERSION.fullmatch(version) or not _is_sound(identity):
                return None
            folder = self.folder / version
            # A power cut may leave the note on the disk but not all of the files that it describes.
            if folder.is_symlink() or not is_plain(folder / "in_use") or _size(folder) != note["size"]:
                return None
            made_s = self._in_use(version).stat().st_mtime
            columns = None if columns is None else tuple(map(str, columns))
            files = {name: (size, md5) for name, (size, md5) in note["files"].items()} if "files" in note else None
            return CachedVersion(version, identity, columns, made_s, self._current.stat().st_mtime, files)
        return None

    def damaged_file(self, cached: CachedVersion, *, thorough: bool = False) -> str | None:
        """Return the name of a file of a version that is not as it was stored, None if all are.

        Files that have not changed since they were last checked are not read again, unless `thorough`. What 0.1.0 made
        of a table is held against nothing but its own form, once, and gets its hashes then.
        """
        folder = self.folder / cached.version
        files = cached.files
        if files is None:
            if cached.columns is None and cached.identity.md5 is not None:
                files = {self.name: (cached.identity.bytes, cached.identity.md5)}
            else:
                if (unreadable := _unreadable_part(folder, cached)) is not None:
                    return unreadable
                files = self._add_files(cached)
        if (unknown := next((name for name in self._read_files(cached) if name not in files), None)) is not None:
            return unknown
        now: dict[str, Any] = {"version": cached.version, "files": states(folder, files)}
        if not thorough and read_json(self._verified) == now:
            return None
        damaged = first_damaged(folder, files) or _unreadable_part(folder, cached)
        if damaged is None:
            self._note_verified(now)
        return damaged

    def _read_files(self, cached: CachedVersion) -> list[str]:
        """Return the names of the files of a version that are read as its table."""
        folder = self.folder / cached.version
        return [self.name] if cached.columns is None else sorted(path.name for path in folder.glob("*.parquet"))

    def _add_files(self, cached: CachedVersion) -> Stored:
        """Hash the files of a version of 0.1.0, and note that for the next time, if anything may be written here."""
        files = self._files_of(self.folder / cached.version)
        note = read_json(self._current)
        with suppress(OSError, TypeError):
            if note["version"] == cached.version:
                write_json(self._current, sealed({**note, "files": files}), part=_own_part(self._current), durable=True)
                os.utime(self._current, (cached.checked_s, cached.checked_s))
        return files

    def _note_verified(self, now: dict[str, Any]) -> None:
        # In a cache that others own nothing can be noted: then each run checks.
        with suppress(OSError):
            write_json(self._verified, now, part=_own_part(self._verified))

    def _files_of(self, folder: Path) -> dict[str, tuple[int, str]]:
        return {name: file for name, file in stored_files(folder).items() if name != "in_use"}

    def table(self, cached: CachedVersion) -> TableFile:
        """Return a version as a table to read."""
        folder = self.folder / cached.version
        if cached.columns is None:
            return TableFile(folder / self.name, self.name)
        return TableFile(folder, self.name, cached.columns)

    def lock(self) -> FileLock | None:
        """Return the exclusive lock of this entry, None while another run has it. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return _take_lock(self.folder / "lock")

    def pin(self, cached: CachedVersion) -> FileLock | None:
        """Return a shared lock that protects a version from removal, None if it is already removed."""
        path = self._in_use(cached.version)
        with suppress(FileNotFoundError):
            lock = _take_lock(path, shared=True)
            if lock is None or path.exists():
                return lock
            # Removed between opening and locking it.
            lock.release()
        return None

    def build(self) -> Path:
        """Return an empty folder to make a version in. Needs the lock, as the methods below do."""
        if not self.building.is_dir() or self.building.is_symlink():
            self.building.unlink(missing_ok=True)
        shutil.rmtree(self.building, ignore_errors=True)
        self.building.mkdir()
        return self.building

    def publish(self, identity: Identity, columns: tuple[str, ...] | None) -> CachedVersion:
        """Make the version that was built the current one and remove versions that no run reads any more."""
        version = secrets.token_hex(6)
        with replacing(self.folder / version, part=self.building) as built:
            (built / "in_use").touch()
            # A file as published was hashed when it came.
            is_hashed = columns is None and identity.md5 is not None
            files = {self.name: (identity.bytes, str(identity.md5))} if is_hashed else self._files_of(built)
            for path in built.iterdir():
                # After a power cut the note must not name files whose bytes never reached the disk.
                sync_file(path)
            sync_folder(built)
        size = _size(self.folder / version)
        note = {"version": version, "size": size, "columns": columns, "identity": asdict(identity), "files": files}
        write_json(self._current, sealed(note), durable=True)
        # Only then the version before may go.
        sync_folder(self.folder)
        self._note_verified({"version": version, "files": states(self.folder / version, files)})
        self.forget_raw()
        self.sweep(version)
        made_s = self._in_use(version).stat().st_mtime
        return CachedVersion(version, identity, columns, made_s, self._current.stat().st_mtime, files)

    def note_checked(self, cached: CachedVersion) -> None:
        """Note that a version is still the latest, for a run that waits for the lock meanwhile; remove older ones."""
        with suppress(OSError):
            os.utime(self._current)
            self.sweep(cached.version)

    def raw_bytes(self) -> int:
        """Return how many bytes of the file have been fetched."""
        return self.raw.stat().st_size if is_plain(self.raw) else 0

    def forget_raw(self) -> None:
        """Remove the bytes fetched so far."""
        for path in (self.raw_note, self.raw):
            path.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Remove the file that was fetched and what was made of it: it is of no use."""
        with suppress(OSError):
            self.forget_raw()
        shutil.rmtree(self.building, ignore_errors=True)

    def sweep(self, current: str | None) -> int:
        """Remove every version but `current`; return how many stay because a run reads from them."""
        busy = 0
        for path in list(self.folder.iterdir()):
            if not path.is_dir() or path.name == current:
                continue
            if path.is_symlink():
                path.unlink()
                continue
            if odd_kind(path / "in_use") is not None:
                shutil.rmtree(path, ignore_errors=True)
                continue
            lock = _take_lock(path / "in_use")
            if lock is None:
                busy += 1
                continue
            with lock:
                shutil.rmtree(path, ignore_errors=True)
        return busy

    def try_clear(self) -> bool:
        """Remove everything of this entry, with the lock taken here; return False if another run uses it."""
        lock = self.lock()
        if lock is None:
            return False
        with lock:
            if not self._is_free(self.current_version()):
                return False
            self._current.unlink(missing_ok=True)
            self._verified.unlink(missing_ok=True)
            (self.folder / NAMES).unlink(missing_ok=True)
            # Of runs that were killed while they wrote one of these.
            for part in self.folder.glob("*.part"):
                part.unlink(missing_ok=True)
            self.forget_raw()
            return self.sweep(None) == 0

    def _is_free(self, cached: CachedVersion | None) -> bool:
        """Return whether no run reads from a version."""
        if cached is None:
            return True
        lock = _take_lock(self._in_use(cached.version))
        if lock is not None:
            lock.release()
        return lock is not None

    def size(self) -> int:
        """Return the bytes that this entry takes on the disk."""
        total = 0
        # Files come and go while another run works on it.
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    total += _size(path) if path.is_dir() else path.lstat().st_size
        return total

    def _in_use(self, version: str) -> Path:
        return self.folder / version / "in_use"


def _take_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Return the lock on a file, None while another process has it. Raises OSError, also where there are no locks."""
    lock = FileLock.take(path, shared=shared)
    if lock is not None and not lock.is_held:
        # Without locks two runs would write to one entry, and remove versions that others read.
        lock.release()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))
    return lock


def _own_part(path: Path) -> Path:
    """Return a temporary name of this process alone: a run that only reads has no lock."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def _unreadable_part(folder: Path, cached: CachedVersion) -> str | None:
    """Return the name of a Parquet file of a converted table that cannot be read as a part of it, None if all can."""
    if cached.columns is None:
        return None
    parts = sorted(folder.glob("*.parquet"))
    columns = (*cached.columns, KEY, ROW)
    bad = (path.name for path in parts if not is_readable(path, columns if path.name.startswith("part-") else ()))
    return next(bad, None if any(path.name.startswith("part-") for path in parts) else "part-00000.parquet")


def _is_sound(identity: Identity) -> bool:
    """Return whether an identity that was read is one that may have been written."""
    texts = (text for text in (identity.etag, identity.last_modified, identity.md5) if text is not None)
    return type(identity.bytes) is int and all(map(is_header_text, (identity.url, *texts)))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir())


def needed_bytes(total: int, have: int, *, converted: bool) -> int:
    """Return the bytes of disk that fetching the rest of a file and converting it take."""
    return total - have + (int(total * _CONVERSION_SHARE) if converted else 0)


def check_space(what: str, folder: Path, need: int) -> int:
    """Return the free bytes where a folder is or will be. Raises StorageError if they are fewer than needed."""
    free = free_bytes(folder)
    if need > free:
        raise StorageError(
            f"{what}: {size_text(need)} are needed in {folder} and {size_text(free)} are free; "
            "free some space or choose another --cache-dir"
        )
    return free
