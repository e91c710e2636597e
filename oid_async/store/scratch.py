"""Temporary folders in TMPDIR that large things lie in, each held by a lock.

The system gives the lock back however a process ends, so that the next one on the machine can sweep up what a killed
one has left.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from oid_async.errors import storage_errors
from oid_async.store.disk import is_plain
from oid_async.store.lock import FileLock
from oid_async.system.users import is_mine

_LOCK = "lock"


class ScratchFolder:
    """A folder in TMPDIR until `remove`; beside what is put into it there is a file named lock."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, prefix: str) -> Self:
        """Sweep up what dead processes have left under this prefix, and make a folder. Raises StorageError."""
        with storage_errors(Path(os.environ.get("TMPDIR", "/tmp"))):
            root = Path(tempfile.gettempdir())
            _sweep(root, prefix)
            while True:
                path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
                # Who sweeps may have come first.
                with suppress(FileNotFoundError):
                    lock = FileLock.take(path / _LOCK)
                    if lock is not None and _is_of(lock, path):
                        return cls(path, lock)

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that can be done."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()
        # A file that is open, as that of the lock was, some systems do not remove.
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield the path of a temporary folder as long as the block lasts. Raises StorageError."""
    folder = ScratchFolder.make(prefix)
    try:
        yield folder.path
    finally:
        folder.remove()


def _sweep(root: Path, prefix: str) -> None:
    """Remove the folders of processes that have ended without. Those of other users are not touched."""
    for path in root.glob(f"{prefix}*"):
        with suppress(OSError):
            if path.is_symlink() or not path.is_dir() or is_mine(path.stat()) is False:
                continue
            if (path / _LOCK).exists() and not is_plain(path / _LOCK):
                continue
            lock = FileLock.take(path / _LOCK)
            if lock is not None:
                with lock:
                    if lock.is_held:
                        shutil.rmtree(path, ignore_errors=True)


def _is_of(lock: FileLock, path: Path) -> bool:
    """Return whether the file that is locked is still that of the folder."""
    assert lock.descriptor is not None
    return os.fstat(lock.descriptor).st_ino == (path / _LOCK).stat().st_ino
