"""Where a worker has its parts until they are put away: a folder of its own in TMPDIR, held by a lock.

The system gives the lock back however a worker ends, so that the next one on the machine can sweep up what a killed
worker has left.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Self

from oid_async.errors import StorageError, storage_errors
from oid_async.report import size_text
from oid_async.store.disk import is_plain
from oid_async.store.lock import FileLock

_PREFIX = "oid-async-part-"
_LOCK = "lock"
# Of the bytes of a part's images: they become its shard one by one, with the annotations and masks of each.
_TIMES = 1.25
_LEAST_BYTES = 16 << 20


class PartFolder:
    """A folder in TMPDIR until `remove`. Raises StorageError."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._numbers = count(1)

    @classmethod
    def make(cls) -> Self:
        """Sweep up what dead workers have left, and make a folder."""
        with storage_errors(Path(os.environ.get("TMPDIR", "/tmp"))):
            root = Path(tempfile.gettempdir())
            sweep(root)
            while True:
                path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
                # Who sweeps may have come first.
                with suppress(FileNotFoundError):
                    lock = FileLock.take(path / _LOCK)
                    if lock is not None and _is_of(lock, path):
                        return cls(path, lock)

    def of_part(self) -> tuple[int, Path]:
        """Return a number, and the path of that name, for another part."""
        number = next(self._numbers)
        return number, self.path / str(number)

    def check_room(self, wanted: int) -> None:
        """Raise StorageError unless a part with so many bytes of images has room beside what is there."""
        free, needed = free_bytes(self.path), int(_TIMES * wanted) + _LEAST_BYTES
        if free < needed:
            raise StorageError(
                f"{self.path.parent}: {size_text(free)} are free there, and the parts under way take up to "
                f"{size_text(needed)} more; set TMPDIR to a folder with more room, have fewer workers on this machine, "
                "or begin in another place with a smaller --part-size"
            )

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that can be done."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def free_bytes(path: Path) -> int:
    """Return how many bytes may still be written there."""
    return shutil.disk_usage(path).free


def sweep(root: Path) -> None:
    """Remove the folders of workers that have ended without. Those of other users are not touched."""
    for path in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.getuid():
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
