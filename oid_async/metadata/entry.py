"""One object's place in the cache: its versions, its lock, what has arrived of it so far. Blocking, all of it quick.

    FOLDER/lock           held by the run that asks for the object, fetches and converts it; the others wait for it
    FOLDER/raw.part       what has arrived so far; raw.json beside it says of what, so that it can be resumed
    FOLDER/building/      a version in the making; whatever lies there belongs to whoever has the lock
    FOLDER/<version>/     a whole version: the file as published, or its converted form
    FOLDER/current.json   which version that is and where it came from; written last, by renaming

A version that a run reads from is pinned by a shared lock on its `in_use`: a newer version does not take it away.
"""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oid_async.store.atomic import read_json, replacing, write_json
from oid_async.store.lock import FileLock
from oid_async.tables.reading import TableFile


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one state of an object from another; a validator is None if the server gives none. `md5` is hex."""

    url: str
    bytes: int
    etag: str | None
    last_modified: str | None
    md5: str | None


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version on the shelf. `columns` are those of a converted table, None for a file as published.

    `made_s` is when it was made, `checked_s` when it was last known to be the latest (Unix time).
    """

    version: str
    identity: Identity
    columns: tuple[str, ...] | None
    made_s: float
    checked_s: float


class CacheEntry:
    """The folder of one object; `name` is what messages call it and what its file is called."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.raw = folder / "raw.part"
        self.raw_note = folder / "raw.json"
        self.building = folder / "building"
        self._current = folder / "current.json"

    def kept(self) -> CachedVersion | None:
        """Return the current version, None if there is none that is whole.

        A run that replaces it meanwhile makes us look again: the version that a note names is gone a moment later.
        """
        while True:
            note = read_json(self._current)
            kept = self._read(note)
            if kept is not None or read_json(self._current) == note:
                return kept

    def _read(self, note: Any) -> CachedVersion | None:
        with suppress(OSError, TypeError, KeyError):
            columns = note["columns"]
            version = str(note["version"])
            # A power cut may leave the note on the disk and not all of what it speaks of.
            if _size(self.folder / version) == note["size"]:
                made_s = self._in_use(version).stat().st_mtime
                columns = None if columns is None else tuple(columns)
                return CachedVersion(
                    version, Identity(**note["identity"]), columns, made_s, self._current.stat().st_mtime
                )
        return None

    def table(self, kept: CachedVersion) -> TableFile:
        """Return a version as a table to read."""
        folder = self.folder / kept.version
        if kept.columns is None:
            return TableFile(folder / self.name, self.name)
        return TableFile(folder, self.name, kept.columns)

    def lock(self) -> FileLock | None:
        """Return the exclusive lock of this entry, None while another run has it. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return _take_lock(self.folder / "lock")

    def pin(self, kept: CachedVersion) -> FileLock | None:
        """Return a shared lock that keeps a version where it is, None if it is already gone."""
        path = self._in_use(kept.version)
        with suppress(FileNotFoundError):
            lock = _take_lock(path, shared=True)
            if lock is None or path.exists():
                return lock
            # Removed between opening and locking it.
            lock.release()
        return None

    def build(self) -> Path:
        """Return an empty folder to make a version in. Only for who has the lock, as everything below."""
        shutil.rmtree(self.building, ignore_errors=True)
        self.building.mkdir()
        return self.building

    def keep(self, identity: Identity, columns: tuple[str, ...] | None) -> CachedVersion:
        """Make what was built the current version and remove what nobody reads any more."""
        version = secrets.token_hex(6)
        with replacing(self.folder / version, part=self.building) as built:
            (built / "in_use").touch()
        size = _size(self.folder / version)
        note = {"version": version, "size": size, "columns": columns, "identity": asdict(identity)}
        write_json(self._current, note)
        self.forget_raw()
        self.sweep(version)
        made_s = self._in_use(version).stat().st_mtime
        return CachedVersion(version, identity, columns, made_s, self._current.stat().st_mtime)

    def checked(self, kept: CachedVersion) -> None:
        """Note that a version is still the latest, for a run that waits for the lock meanwhile; remove older ones."""
        with suppress(OSError):
            os.utime(self._current)
            self.sweep(kept.version)

    def raw_bytes(self) -> int:
        """Return how much of the file has arrived."""
        return self.raw.stat().st_size if self.raw.exists() else 0

    def forget_raw(self) -> None:
        """Remove what has arrived so far."""
        for path in (self.raw_note, self.raw):
            path.unlink(missing_ok=True)

    def sweep(self, current: str | None) -> int:
        """Remove every version but the current one that no run reads from; return how many stay for that reason."""
        busy = 0
        for path in list(self.folder.iterdir()):
            if not path.is_dir() or path.name == current:
                continue
            lock = _take_lock(path / "in_use")
            if lock is None:
                busy += 1
                continue
            with lock:
                shutil.rmtree(path, ignore_errors=True)
        return busy

    def try_clear(self) -> bool:
        """Remove everything of this object, for who has not got the lock; return whether no run was in the way."""
        lock = self.lock()
        if lock is None:
            return False
        with lock:
            if not self._is_free(self.kept()):
                return False
            self._current.unlink(missing_ok=True)
            self.forget_raw()
            return self.sweep(None) == 0

    def _is_free(self, kept: CachedVersion | None) -> bool:
        """Return whether no run reads from a version."""
        if kept is None:
            return True
        lock = _take_lock(self._in_use(kept.version))
        if lock is not None:
            lock.release()
        return lock is not None

    def size(self) -> int:
        """Return the bytes that this object takes on the disk."""
        total = 0
        # Files come and go while another run is at it.
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    total += _size(path) if path.is_dir() else path.stat().st_size
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


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
