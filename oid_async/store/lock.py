"""Locks on files and folders, which the system gives back however a process ends (`oid_async.system.locks`).

Used for the folder of a run, shards and exports that are being written, entries of the metadata cache, and, shared, for
a folder that is only read. Some file systems know no locks (some NFS, some FUSE): there a lock holds nothing, `is_held`
is False, and a run that must not meet another uses file names of its own. Where a folder cannot be opened, a file next
to it is locked in its place: `NAME.lock`, which goes when the lock is released.
"""

import errno
import os
from pathlib import Path
from typing import Self

from oid_async.store.disk import OPENER, discard, open_plain
from oid_async.system.locks import lock
from oid_async.system.opening import OPENS_FOLDERS, PLAIN

# What a lock fails with where there are none or no lock server answers.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
# Behind the name of a folder: the file that is locked for it where folders cannot be opened.
BESIDE = ".lock"


class FileLock:
    """A lock on a file or folder, exclusive or shared, until `release`. A context that releases it.

    `descriptor` is open on the file, None for a lock on nothing; `is_held` is False where there are no locks.
    """

    def __init__(self, descriptor: int | None, *, is_held: bool = True, beside: Path | None = None) -> None:
        self.descriptor = descriptor
        self.is_held = is_held
        self._beside = beside

    @classmethod
    def nothing(cls) -> Self:
        """Return a lock on nothing, for what cannot be written to and so needs none."""
        return cls(None, is_held=False)

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> Self | None:
        """Return the lock, None while another process has it; an exclusive one makes its file. Raises OSError.

        Raises NotPlainError for a link, pipe or device, which is not opened.
        """
        beside = None
        if path.is_dir() and not path.is_symlink():
            if OPENS_FOLDERS:
                descriptor = OPENER(path, os.O_RDONLY | PLAIN)
            else:
                beside = path.with_name(f"{path.name}{BESIDE}")
                descriptor = open_plain(beside, os.O_RDWR | os.O_CREAT)
        else:
            descriptor = open_plain(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT)
        try:
            lock(descriptor, shared=shared)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return cls(descriptor, is_held=False, beside=beside)
            os.close(descriptor)
            raise
        return cls(descriptor, beside=beside)

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
            self.is_held = False
            if self._beside is not None:
                discard(self._beside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
