"""Pipes, devices and open descriptors, read and written to without waiting for the other end longer than is wanted.

Where a system cannot tell whether a pipe is ready (`select.poll`), a read or write waits for as long as it takes.
"""

import errno
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oid_async.system.opening import NO_WAITING, USUAL

_WAIT_MS = 100
_CHUNK = 1 << 16
# A write of no more bytes than this does not block where some can be written.
_AT_ONCE = getattr(select, "PIPE_BUF", _CHUNK)

Stopped = Callable[[], bool]


def read_blocks(descriptor: int, stopped: Stopped) -> Iterator[bytes]:
    """Yield what comes until its end, or until `stopped`, which is asked every tenth of a second. Raises OSError."""
    is_ready = _readiness(descriptor, "POLLIN")
    while not stopped():
        if is_ready():
            try:
                chunk = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not chunk:
                return
            yield chunk


def write_blocks(descriptor: int, blocks: Iterator[bytes], stopped: Stopped) -> None:
    """Write blocks as their reader takes them, until `stopped`. Raises OSError."""
    is_ready = _readiness(descriptor, "POLLOUT")
    for block in blocks:
        for start in range(0, len(block), _AT_ONCE):
            while not is_ready():
                if stopped():
                    return
            piece = memoryview(block)[start : start + _AT_ONCE]
            while piece:
                piece = piece[os.write(descriptor, piece) :]


def open_reader(path: str) -> int:
    """Return a descriptor of a pipe or device to read; one that nobody writes to is opened all the same."""
    return os.open(path, os.O_RDONLY | NO_WAITING | USUAL)


def open_writer(path: Path, stopped: Stopped) -> int | None:
    """Return a descriptor of a pipe once somebody reads it, None if `stopped` before. Raises OSError."""
    while not stopped():
        try:
            file = os.open(path, os.O_WRONLY | NO_WAITING | USUAL)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(_WAIT_MS / 1000)
        else:
            if NO_WAITING:
                os.set_blocking(file, True)
            return file
    return None


def _readiness(descriptor: int, event: str) -> Callable[[], object]:
    """Return a function that says within a tenth of a second whether a descriptor can be read, or written to."""
    if not hasattr(select, "poll"):
        return lambda: True
    poll = select.poll()
    poll.register(descriptor, getattr(select, event))
    return lambda: poll.poll(_WAIT_MS)
