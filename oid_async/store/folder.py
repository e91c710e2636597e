"""SAVEPATH: its paths, its lock, its temporaries. One run owns it at a time.

SAVEPATH/images/              whole, verified images, flat
SAVEPATH/.oid_async/          lock, journal.tsv, lines/, plan/, tmp/: safe to delete when no run is on

The lock is an flock on the file `lock`, which the system gives back however a process ends. What stands in the file is
a note for people and for the next run, two lines:

    process 4711 on myhost since 2026-11-25 22:19:51 UTC       empty when no run is on
    boot a46b1008-73b0-4b0f-9afc-1343d412bb6d                  the boot in which the files were last known to be whole

A network disk may know no flock, or one that lets two in. Then every run has temporaries of names of its own, so that
two runs in one folder cost requests made twice, and never a torn or mixed file.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Self

from oid_async.errors import LockedError, storage_error
from oid_async.store.disk import OPENER, discard, write_all

# A million names are looked at in half a second this way, one by one in two (measured).
_LISTED_AT_ONCE = 16384
_PROBE = ".oid_async-probe"
# What flock fails with where it is not known or no lock server answers.
_NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
_NOTE_BYTES = 400
# Without a lock another run's temporaries cannot be told from a dead one's, unless nobody has touched them for a day.
_STALE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the note says of the run before this one: whether it came to its end, and the boot it vouches for."""

    ended: bool
    boot: str


class Folder:
    """The paths of one SAVEPATH. Reading needs nothing more; `claim` it before anything is written."""

    def __init__(self, savepath: Path, *, scratch: Path | None = None) -> None:
        self.path = savepath
        self.images = savepath / "images"
        self.state = savepath / ".oid_async"
        # A dry run must not write to SAVEPATH: its plan stands in a scratch folder of its own.
        work = scratch or self.state
        self.plan = work / "plan"
        self.tmp = work / "tmp"
        # The journal in columns (store.lines): what is kept of it, and where more may be written.
        self.lines = self.state / "lines"
        self.new_lines = work / "lines"
        self.token = secrets.token_hex(4)
        self._parts = f"{self.tmp}{os.sep}"
        self.journal = self.state / "journal.tsv"
        self.manifest = savepath / "manifest.parquet"
        self.last_run = LastRun(ended=True, boot="")
        self.is_locked = False
        self._lock: int | None = None
        self._note = ("", "")
        self._vouched = False
        self._made: list[Path] = []

    @classmethod
    def lent(cls, savepath: Path, tmp: Path, token: str) -> Self:
        """Return a folder as another process of the run that owns it sees it: the same names, and no lock."""
        folder = cls(savepath)
        folder.tmp, folder.token = tmp, token
        folder._parts = f"{tmp}{os.sep}"
        return folder

    def part(self, image_id: str) -> str:
        """Return the temporary file of one image, of a name that no other run uses.

        An id of a user's own may hold anything: then its hash stands.
        """
        if not image_id.isalnum() or len(image_id) > 64:
            image_id = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._parts}{image_id}-{self.token}.part"

    def claim(self) -> Self:
        """Make the folder, take its lock, sweep what a killed run left, and try what a run will do.

        Raises LockedError or StorageError, and then leaves nothing behind that was not there before.
        """
        try:
            self._take_lock()
            self._read_note()
            self._write_note(self._whoami(), self.last_run.boot)
            self._sweep_others()
            for path in (self.plan, self.tmp):
                path.mkdir(parents=True, exist_ok=True)
            self._probe()
        except OSError as error:
            if self._lock is not None:
                self.leave()
            else:
                self._unmake()
            raise storage_error(error, self.path) from error
        return self

    def vouch(self, boot: str) -> None:
        """Note that in this boot of the machine the files were found to be what the journal says. Raises OSError."""
        self._write_note(self._note[0], boot)
        self._vouched = True

    def sweep(self) -> None:
        """Remove the plan and the temporaries: nothing in them outlives a run."""
        for path in (self.plan, self.tmp):
            shutil.rmtree(path, ignore_errors=True)

    def leave(self) -> None:
        """Sweep and give the lock back, if this run has it. Safe to call twice."""
        if self._lock is not None:
            self.sweep()
            # Whoever leaves before the check after a power cut was made must not pass for its end.
            if self.last_run.ended or self._vouched:
                with suppress(OSError):
                    self._write_note("", self._note[1])
            self._unmake()
            self._release()

    def _take_lock(self) -> None:
        """Make the folders and lock them. A run that ends may take its empty folder away meanwhile: then once more."""
        for tries_left in reversed(range(20)):
            try:
                self._make()
                self._lock = OPENER(self.state / "lock", os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                if not tries_left:
                    raise
                continue
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.is_locked = True
            except BlockingIOError:
                owner = self._owner()
                self._release()
                raise LockedError(
                    f"{self.path}: another run is on in this folder ({owner}); wait for its end, or stop it"
                ) from None
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    self._release()
                    raise
                self._go_unlocked()
            if self._still_there(self._lock):
                return
            self._release()
        raise OSError(errno.EBUSY, "it is made and removed all the time")

    def _make(self) -> None:
        """Make the folders, and remember which were not there, the innermost first."""
        wanted = (self.images, self.state, self.path, *self.path.absolute().parents)
        self._made = [path for path in wanted if not path.exists()]
        for path in (self.path, self.images, self.state):
            path.mkdir(parents=True, exist_ok=True)

    def _still_there(self, lock: int) -> bool:
        """Return whether the lock is on the file that others will open, not on one that was removed meanwhile."""
        try:
            return os.path.samestat(os.fstat(lock), os.stat(self.state / "lock"))
        except FileNotFoundError:
            return False

    def _owner(self) -> str:
        """Return what the owner's note says. An owner who has this very moment begun is given the time to write it."""
        for _ in range(20):
            if owner := _first_lines(self._lock)[0]:
                return owner
            time.sleep(0.01)
        return "another process"

    def _go_unlocked(self) -> None:
        """Work in folders of names of our own, since nothing keeps another run out."""
        self.plan /= self.token
        self.tmp /= self.token
        self._parts = f"{self.tmp}{os.sep}"

    def _whoami(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return f"process {os.getpid()} on {socket.gethostname()} since {since}"

    def _read_note(self) -> None:
        who, boot = _first_lines(self._lock)
        known = boot.startswith("boot ")
        # A note that is torn, or of a version that wrote none, vouches for nothing.
        self.last_run = LastRun(ended=known and not who, boot=boot.removeprefix("boot ") if known else "")

    def _write_note(self, who: str, boot: str) -> None:
        """Write the note over the old one: at no moment is it empty while a run is on."""
        assert self._lock is not None
        self._note = (who, boot)
        text = f"{who}\nboot {boot}\n".encode()
        os.pwrite(self._lock, text, 0)
        os.ftruncate(self._lock, len(text))

    def _probe(self) -> None:
        """Do once what is done for every image: create, write, rename into images/, remove. Raises OSError."""
        part, final = self.part("probe"), self.images / _PROBE
        try:
            file = OPENER(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
        if self.is_locked:
            self.sweep()
            return
        for folder in (self.plan.parent, self.tmp.parent):
            with suppress(OSError), os.scandir(folder) as entries:
                stale = [entry.path for entry in entries if time.time() - entry.stat().st_mtime > _STALE_S]
                for path in stale:
                    shutil.rmtree(path, ignore_errors=True)

    def _unmake(self) -> None:
        """Take away again what this run made and put nothing into: a wrong class leaves nothing behind."""
        with suppress(OSError):
            if self.manifest.exists() or (self.journal.exists() and self.journal.stat().st_size):
                return
            for path in self._made:
                # The first that is not empty ends it. Only the owner knows that nobody else is in the state folder.
                if path == self.state and self._lock is not None:
                    shutil.rmtree(path)
                else:
                    path.rmdir()

    def _release(self) -> None:
        """Give the lock back. The file stays: removing it would let two runs hold two locks of the same name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self.is_locked = False

    def names(self) -> Iterator[str]:
        """Yield the names of the files under images/, in no order; a name that is no text is none of ours."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.images) as entries:
            found = map(attrgetter("name"), entries)
            while names := list(islice(found, _LISTED_AT_ONCE)):
                yield from names if "".join(names).isascii() else filter(_is_text, names)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_lines(lock: int | None) -> tuple[str, str]:
    """Return the two lines of a lock's note, empty where there is none."""
    assert lock is not None
    lines = os.pread(lock, _NOTE_BYTES, 0).decode("utf-8", "replace").split("\n")
    return lines[0].strip(" \0"), lines[1].strip() if len(lines) > 2 else ""
