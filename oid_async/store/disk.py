"""Disk calls that need care: opening when descriptors run out, and syncing.

What is synced, and why no more. A power cut may lose whatever the machine has not yet written back (some 30 s of it):

    image              not synced one by one. An fdatasync each costs 2 to 5 ms on a local SSD, three to seven times the
                       whole write, and tens of ms on a spinning or network disk. Instead the first run after another
                       boot checks the latest images before it believes the journal: see `oid_async.store.recovery`.
    journal            synced once, when the run ends, however it ends: after an orderly end no file lacks its line.
    result tables      each file before any is renamed, their folders and images/ after: they are few.
    lock and its note  not synced: a note that is lost or torn only makes the next run check.

No order among images and journal is needed. A line that outlives its file, or finds it torn, is found out by that
check; a file that outlives its line is adopted by the next run if it is complete, and removed if it is not.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oid_async.errors import NO_DESCRIPTORS


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens files; waits up to `wait_s` while there is no descriptor left, by sleeping in a thread. Raises OSError."""

    wait_s: float = 20.0
    pause_s: float = 0.05
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, path: str | Path, flags: int) -> int:
        """Return a descriptor of the file, closed in child processes. Raises OSError."""
        give_up = None
        while True:
            try:
                return os.open(path, flags | os.O_CLOEXEC, 0o644)
            except OSError as error:
                now = self.clock()
                give_up = now + self.wait_s if give_up is None else give_up
                if error.errno not in NO_DESCRIPTORS or now >= give_up:
                    raise
            self.sleep(self.pause_s)


OPENER = Opener()


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it: one call takes less when the disk is nearly full."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk. Raises OSError."""
    file = OPENER(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can sync folders."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES):
            raise


def discard(path: str | Path) -> None:
    """Remove a file of ours if it is there; what cannot be removed the next run sweeps."""
    with suppress(OSError):
        os.unlink(path)


def free_bytes(path: Path) -> int:
    """Return the bytes that are free on the file system of a path, which need not be there yet."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
