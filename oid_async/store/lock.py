"""Locks on files and folders: flock, which the system gives back however a process ends.

Used for the folder of a run, shards and exports that are being written, entries of the metadata cache, and, shared, for
a folder that is only read. Some file systems know no flock (some NFS, some FUSE): there a lock holds nothing, `is_held`
is False, and a run that must not meet another uses file names of its own.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from oid_async.store.disk import OPENER, PLAIN, open_plain

# What flock fails with where it is not known or no lock server answers.
_NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


class FileLock:
    """A lock on a file or folder, exclusive or shared, until `release`. A context that releases it.

    `descriptor` is open on the file, None for a lock on nothing; `is_held` is False where there are no locks.
    """

    def __init__(self, descriptor: int | None, *, is_held: bool = True) -> None:
        self.descriptor = descriptor
        self.is_held = is_held

    @classmethod
    def nothing(cls) -> Self:
        """Return a lock on nothing, for what cannot be written to and so needs none."""
        return cls(None, is_held=False)

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> Self | None:
        """Return the lock, None while another process has it; an exclusive one makes its file. Raises OSError.

        Raises NotPlainError for a link, pipe or device, which is not opened.
        """
        if path.is_dir() and not path.is_symlink():
            descriptor = OPENER(path, os.O_RDONLY | PLAIN)
        else:
            descriptor = open_plain(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return cls(descriptor, is_held=False)
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
            self.is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
