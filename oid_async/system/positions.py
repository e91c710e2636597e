"""Reading and writing at a place of an open file, whatever its own position is."""

import os
from collections.abc import Callable
from threading import Lock

_moving = Lock()


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    with _moving:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def _write_at(descriptor: int, data: bytes, offset: int) -> int:
    with _moving:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data)
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


# The system's own where there are such: no call more for each block.
pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _read_at)
pwrite: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _write_at)
