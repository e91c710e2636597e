"""SAVEPATH: its paths, its lock, its temporaries. One run owns it at a time.

SAVEPATH/images/              whole, verified images, flat
SAVEPATH/.oid_async/          lock, journal.tsv, plan/, tmp/: safe to delete when no run is on
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from oid_async.errors import LockedError, storage_error


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
        self._parts = f"{self.tmp}{os.sep}"
        self.journal = self.state / "journal.tsv"
        self.manifest = savepath / "manifest.parquet"
        self._lock: int | None = None
        self._is_new = False

    def part(self, image_id: str) -> str:
        """Return the temporary file of one image. An id of a user's own may hold anything: then its hash stands."""
        if not image_id.isalnum() or len(image_id) > 64:
            image_id = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._parts}{image_id}.part"

    def claim(self) -> Self:
        """Make the folder, take its lock, sweep what a killed run left. Raises LockedError or StorageError."""
        try:
            self._is_new = not self.path.exists()
            for path in (self.path, self.images, self.state):
                path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(self._lock, 200, 0).decode("utf-8", "replace").strip() or "another process"
                self._release()
                raise LockedError(f"{self.path}: another run is on in this folder ({owner})") from None
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()}\n".encode(), 0)
            self.sweep()
            for path in (self.plan, self.tmp):
                path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.images):
                pass
        except OSError as error:
            self._release()
            raise storage_error(error, self.path) from error
        return self

    def sweep(self) -> None:
        """Remove the plan and the temporaries: nothing in them outlives a run."""
        for path in (self.plan, self.tmp):
            shutil.rmtree(path, ignore_errors=True)

    def leave(self) -> None:
        """Sweep and give the lock back, if this run has it. Safe to call twice."""
        if self._lock is not None:
            self.sweep()
            if self._is_new:
                self._unmake()
            self._release()

    def _unmake(self) -> None:
        """Take a folder away again that this run made and put nothing into: a wrong class leaves nothing behind."""
        with suppress(OSError):
            if {entry.name for entry in self.path.iterdir()} == {self.images.name, self.state.name}:
                self.images.rmdir()
                shutil.rmtree(self.path)

    def _release(self) -> None:
        """Give the lock back. The file stays: removing it would let two runs hold two locks of the same name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def names(self) -> Iterator[str]:
        """Yield the names of the files under images/, in no order; a name that is no text is none of ours."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.images) as entries:
            yield from (entry.name for entry in entries if entry.name.isascii() or _is_text(entry.name))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
