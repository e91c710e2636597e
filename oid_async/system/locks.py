"""Locks on open files, given back by the system however a process ends: flock, or locked bytes where there is none.

Windows locks bytes of a file, for one holder alone. They are far behind its end, so that what is in it can be read:

    one who reads       one of 64 bytes, any that is free; so 64 may read at a time
    one who writes      all 64
"""

import errno
import os
from typing import Any

from oid_async.system.optional import optional_module

# Any: what is in them differs from system to system.
_fcntl: Any = optional_module("fcntl")
_msvcrt: Any = optional_module("msvcrt")

_FIRST, _READERS = 1 << 30, 64
# What a lock on bytes fails with while another one has it.
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def lock(descriptor: int, *, shared: bool) -> None:
    """Lock an open file, or folder, until it is closed, alone or with others who share it. Does not wait.

    Raises BlockingIOError while another has it; OSError (ENOSYS, ENOTSUP or ENOLCK) where there are no locks.
    """
    if _fcntl is not None:
        _fcntl.flock(descriptor, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    elif _msvcrt is not None:
        _lock_bytes(descriptor, shared=shared)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _lock_bytes(descriptor: int, *, shared: bool) -> None:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    mine = os.getpid() % _READERS
    firsts = [_FIRST + (mine + number) % _READERS for number in range(_READERS)] if shared else [_FIRST]
    try:
        for first in firsts:
            os.lseek(descriptor, first, os.SEEK_SET)
            try:
                _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1 if shared else _READERS)
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            else:
                return
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
