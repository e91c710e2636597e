"""Reading and writing at a place of an open file, whatever its own position is."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

_moving = Lock()


@contextmanager
def _moved(descriptor: int, offset: int) -> Iterator[None]:
    """Move a file's position for a block, and back again."""
    with _moving:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            yield
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    with _moved(descriptor, offset):
        return os.read(descriptor, size)


def _write_at(descriptor: int, data: bytes, offset: int) -> int:
    with _moved(descriptor, offset):
        return os.write(descriptor, data)


# The system's own where there are such: no call more for each block.
pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _read_at)
pwrite: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _write_at)
