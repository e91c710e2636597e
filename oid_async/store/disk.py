"""Disk calls that need care: opening when descriptors run out, opening what is ours, and syncing.

A folder may come from a stranger, or be shared with one. What stands in the place of a file of ours is opened as a
plain file or not at all: no link is followed, no pipe waited for, no device read (`open_plain`).

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
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from oid_async.errors import NO_DESCRIPTORS, InputError, NotPlainError
from oid_async.quick_values import frozen
from oid_async.system.opening import OPENS_FOLDERS, PLAIN, REFUSES_LINKS, USUAL
from oid_async.system.syncing import TO_BE_SYNCED, cannot_sync_folders, sync


@frozen
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
                return os.open(path, flags | USUAL, 0o644)
            except OSError as error:
                now = self.clock()
                give_up = now + self.wait_s if give_up is None else give_up
                if error.errno not in NO_DESCRIPTORS or now >= give_up:
                    raise
            self.sleep(self.pause_s)


OPENER = Opener()


def open_plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a plain file. Raises NotPlainError for a link, folder, pipe or device, OSError."""
    if not REFUSES_LINKS and (what := odd_kind(path)) is not None:
        raise NotPlainError(what, path)
    try:
        file = OPENER(path, flags | PLAIN)
    except OSError as error:
        # ENXIO: a socket, or a pipe that nobody reads; EISDIR: a folder, to be written.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) and (what := odd_kind(path)) is not None:
            raise NotPlainError(what, path) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotPlainError(odd_kind(path) or "not a file", path)
    return file


def plain_file(path: str | Path) -> BufferedReader:
    """Open a plain file to read it. Raises as `open_plain` does."""
    return os.fdopen(open_plain(path), "rb")


def read_plain(path: str | Path) -> bytes:
    """Return the bytes of a plain file. Raises as `open_plain` does."""
    with plain_file(path) as file:
        return file.read()


def md5_of(file: BufferedReader) -> "hashlib._Hash":
    """Return the MD5 of an open file, from here to its end. Raises OSError."""
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))


def is_plain(path: str | Path) -> bool:
    """Return whether there is a plain file of this name: no link to one, either."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def has_plain(path: str | Path) -> bool:
    """Return whether there is a plain file, False where there is nothing. Raises InputError for anything else.

    For what is opened by its name, as Polars does.
    """
    if (what := odd_kind(path)) is not None:
        raise InputError(
            f"{path}: it is {what}, and so not opened; run the download again or oid-async verify --repair"
        )
    return os.path.lexists(path)


def odd_kind(path: str | Path) -> str | None:
    """Return what stands in the place of a plain file, as a word for a person; None for a plain file, or nothing."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return "a link, not a file" if os.path.exists(path) else "a link to nothing"
    return "a folder" if stat.S_ISDIR(mode) else "a pipe, not a file" if stat.S_ISFIFO(mode) else "not a file"


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it: one call takes less when the disk is nearly full."""
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, memoryview(data)[written:])


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk. Raises OSError."""
    file = OPENER(path, TO_BE_SYNCED)
    try:
        sync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can sync folders."""
    if not OPENS_FOLDERS:
        return
    try:
        sync_file(path)
    except OSError as error:
        if not cannot_sync_folders(error):
            raise


def discard(path: str | Path) -> None:
    """Remove a file of ours if it is there; what cannot be removed the next run sweeps."""
    with suppress(OSError):
        os.unlink(path)


def free_bytes(path: Path) -> int:
    """Return the bytes that are free on the file system of a path, which need not be there yet."""
    return shutil.disk_usage(existing_part(path)).free


def existing_part(path: Path) -> Path:
    """Return a path as far as it is there: itself, or the folder that it would be made in."""
    path = path.absolute()
    while not os.path.exists(path):  # `Path.exists` raises for want of permission
        path = path.parent
    return path
