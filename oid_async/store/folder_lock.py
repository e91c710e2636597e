"""The ownership of a SAVEPATH by one run: a lock on the file `.oid_async/lock`, and the note in that file.

The note is for people and for the next run, two lines:

    process 4711 on myhost since 2026-11-25 22:19:51 UTC       empty when no run is on
    boot a46b1008-73b0-4b0f-9afc-1343d412bb6d                  the boot in which the files were last known to be good

A network disk may know no flock, or one that lets two in. Then every run has temporaries of names of its own, so that
two runs in one folder cost requests made twice, and never a torn or mixed file.
"""

import errno
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from oid_async.errors import LockedError, storage_errors
from oid_async.quick_values import frozen
from oid_async.store.atomic import replacing
from oid_async.store.disk import OPENER, discard, open_plain, plain_file, write_all
from oid_async.store.folder import Folder
from oid_async.store.lock import FileLock
from oid_async.system.file_names import refuse_long_path
from oid_async.system.opening import PLAIN
from oid_async.system.positions import pread, pwrite

_PROBE = ".oid_async-probe"
_NOTE_BYTES = 400
# Without a lock another run's temporaries cannot be told from a dead one's, unless nobody has touched them for a day.
_STALE_S = 24 * 3600.0


@frozen
class LastRun:
    """How the run before this one ended: whether it came to its end, and the boot that its note names."""

    ended: bool
    boot: str


class FolderLock:
    """The lock of one SAVEPATH, until `release`. Make it with `take`."""

    def __init__(self, folder: Folder, lock: FileLock, made: list[Path]) -> None:
        self.folder = folder
        self._lock = lock
        self._made = made
        who, boot = _read_note(self._file)
        # A note that is torn, or of a version that wrote none, is no proof of an orderly end.
        is_known = boot.startswith("boot ")
        self.last_run = LastRun(ended=is_known and not who, boot=boot.removeprefix("boot ") if is_known else "")
        self._note = (who, self.last_run.boot)
        self._is_confirmed = False

    @property
    def is_held(self) -> bool:
        """Whether other runs are kept out; False where the file system has no locks."""
        return self._lock.is_held

    @property
    def _file(self) -> int:
        assert self._lock.descriptor is not None
        return self._lock.descriptor

    @classmethod
    def take(cls, folder: Folder) -> Self:
        """Make the folder, lock it, sweep what a killed run left, and try what a run will do.

        Raises LockedError, StorageError, UsageError for a folder that is a link, and then leaves nothing behind that
        was not there before.
        """
        folder.refuse_links()
        refuse_long_path(folder.path)
        with storage_errors(folder.path):
            own = cls(folder, *_lock_folder(folder))
            try:
                since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                own._write_note(f"process {os.getpid()} on {socket.gethostname()} since {since}", own.last_run.boot)
                own._sweep_others()
                for path in (folder.plan, folder.tmp):
                    path.mkdir(parents=True, exist_ok=True)
                own._probe()
            except OSError:
                own.release()
                raise
        return own

    def confirm(self, boot: str) -> None:
        """Note that in this boot of the machine the files were found to be what the journal says. Raises OSError."""
        self._write_note(self._note[0], boot)
        self._is_confirmed = True

    def release(self) -> None:
        """Sweep and unlock; safe to call twice. The lock's file stays: without it two runs could hold two locks."""
        if self._lock.descriptor is None:
            return
        self.folder.sweep(keep_plan=True)
        # A run that ends before the check after a power cut was made must not pass for an orderly end.
        if self.last_run.ended or self._is_confirmed:
            with suppress(OSError):
                self._write_note("", self._note[1])
        _remove_made(self.folder, self._made, is_owned=True)
        self._lock.release()

    def _write_note(self, who: str, boot: str) -> None:
        """Write the note over the old one: at no moment is it empty while a run is on."""
        self._note = (who, boot)
        text = f"{who}\nboot {boot}\n".encode()
        pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def _probe(self) -> None:
        """Do once what is done for every image: create, write, rename into images/, remove. Raises OSError."""
        part, final = self.folder.temporary("probe"), self.folder.images / _PROBE
        try:
            file = OPENER(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAIN)
            try:
                write_all(file, b"can this be written?")
            finally:
                os.close(file)
            os.rename(part, final)
            # Where there are no locks another run may have come upon it first.
            with suppress(FileNotFoundError):
                os.unlink(final)
        except OSError:
            discard(part)
            discard(final)
            raise

    def _sweep_others(self) -> None:
        """Remove what killed runs left. Without a lock it may be a live run's: only what has not been touched goes."""
        if self.is_held and self.folder.has_own_names:
            self.folder.sweep_own_names()
            return
        if self.is_held:
            self.folder.sweep()
            return
        for folder in (self.folder.plan.parent, self.folder.tmp.parent):
            with suppress(OSError), os.scandir(folder) as entries:
                stale = [entry.path for entry in entries if time.time() - entry.stat().st_mtime > _STALE_S]
                for path in stale:
                    shutil.rmtree(path, ignore_errors=True)


def _lock_folder(folder: Folder) -> tuple[FileLock, list[Path]]:
    """Make the folders and lock them; return also those that were not there, the innermost first.

    A run that ends may remove its empty folder at the same time: then they are made once more.
    """
    path = folder.state / "lock"
    for tries_left in reversed(range(20)):
        wanted = (folder.images, folder.state, folder.path, *folder.path.absolute().parents)
        made = [each for each in wanted if not each.exists()]
        try:
            for each in (folder.path, folder.images, folder.state):
                each.mkdir(parents=True, exist_ok=True)
            lock = FileLock.take(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and tries_left:
                continue
            _remove_made(folder, made, is_owned=False)
            raise
        if lock is None:
            raise LockedError(
                f"{folder.path}: another run is on in this folder ({lock_owner(path)}); wait for its end, or stop it"
            )
        if _is_at(lock, path):
            if _has_other_names(lock):
                # A hard link, as of a backup: the note would be written into that file, too.
                _replace_lock(folder, path)
                lock.release()
                continue
            if not lock.is_held:
                folder.use_own_names()
            return lock, made
        lock.release()
    raise OSError(errno.EBUSY, "it is made and removed all the time")


def _is_at(lock: FileLock, path: Path) -> bool:
    """Return whether the lock is on the file that others will open, not on one that was removed at the same time."""
    try:
        return lock.descriptor is not None and os.path.samestat(os.fstat(lock.descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _has_other_names(lock: FileLock) -> bool:
    return lock.descriptor is not None and os.fstat(lock.descriptor).st_nlink > 1


def _replace_lock(folder: Folder, path: Path) -> None:
    """Put a file of its own in the place of a lock that is held. Raises OSError."""
    fresh = folder.state / f"lock.{folder.token}"
    with replacing(path, part=fresh):
        os.close(open_plain(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _remove_made(folder: Folder, made: list[Path], *, is_owned: bool) -> None:
    """Remove the folders that this run made and put nothing into: a wrong class leaves nothing behind."""
    with suppress(OSError):
        if folder.manifest.exists() or (folder.path / "query.json").exists():
            return
        if folder.journal.exists() and folder.journal.stat().st_size:
            # A stream without files leaves the failures that are remembered, and no images.
            if is_owned and folder.images in made:
                folder.images.rmdir()
            return
        for path in made:
            # The first that is not empty ends it. Only the owner knows that nobody else uses the state folder.
            if path == folder.state and is_owned:
                shutil.rmtree(path)
            else:
                path.rmdir()


def lock_owner(path: Path) -> str:
    """Return the process that the note in a lock's file names. An owner that has just begun gets time to write it."""
    for _ in range(20):
        with suppress(OSError), plain_file(path) as file:
            if owner := _read_note(file.fileno())[0]:
                return owner
        time.sleep(0.01)
    return "another process"


def _read_note(file: int) -> tuple[str, str]:
    """Return the two lines of a lock's note, empty where there is none."""
    try:
        lines = pread(file, _NOTE_BYTES, 0).decode("utf-8", "replace").split("\n")
    except OSError:
        return "", ""
    return lines[0].strip(" \0"), lines[1].strip() if len(lines) > 2 else ""
