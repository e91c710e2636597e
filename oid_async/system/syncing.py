"""Waiting until bytes, and names in folders, are on the disk."""

import errno
import os
from contextlib import suppress
from typing import Any

from oid_async.system.optional import optional_module

# macOS: its fsync leaves the bytes in the memory of the disk; this does not (`man 2 fsync` there).
_fcntl: Any = optional_module("fcntl")
_FULL = getattr(_fcntl, "F_FULLFSYNC", None)
# Windows syncs only what is open to be written.
TO_BE_SYNCED = os.O_RDWR if os.name == "nt" else os.O_RDONLY
# What a folder fails with where folders cannot be synced, or not be opened.
_NO_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)


def sync(descriptor: int) -> None:
    """Wait until the bytes of an open file are on the disk. Raises OSError."""
    if _FULL is not None:
        # Network disks do not know it.
        with suppress(OSError):
            _fcntl.fcntl(descriptor, _FULL)
            return
    os.fsync(descriptor)


def cannot_sync_folders(error: OSError) -> bool:
    """Return whether an error says that a folder cannot be synced here: its names are on the disk when they are."""
    return error.errno in _NO_FOLDERS
