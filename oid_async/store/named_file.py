"""A file that a call names to write to, as `plan --ids` and `stats --html` do. Blocking.

A file appears whole or not at all, and replaces one of its name; what is no file (a pipe, a device, a descriptor such
as /dev/stdout) is written to.
"""

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from oid_async.errors import StorageError, UsageError, storage_error
from oid_async.store.atomic import replacing
from oid_async.system.pipes import open_writer, write_blocks

_DESCRIPTOR = re.compile(r"/dev/fd/([0-9]{1,6})|/proc/self/fd/([0-9]{1,6})")
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def descriptor_of(path: Path) -> int | None:
    """Return the open descriptor that a path names, None for any other path.

    >>> descriptor_of(Path("/dev/stdout")), descriptor_of(Path("/dev/fd/63")), descriptor_of(Path("/tmp/ids.txt"))
    (1, 63, None)
    """
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[1] or found[2]) if found else _STREAMS.get(str(path))


def check_place(option: str, path: Path) -> None:
    """Raise UsageError or StorageError if nothing can be written here, before the work for it."""
    if descriptor_of(path) is None:
        check_file_place(option, path)


def check_file_place(option: str, path: Path) -> None:
    """Raise UsageError or StorageError if no file, or stream, can be written here. Blocking."""
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path}: it is a folder; name a file in it")
        folder = path.parent
        if not folder.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {folder}; make it first")
        is_writable = os.access(path if _is_stream(path) else folder, os.W_OK)
    except OSError as error:
        raise storage_error(error, path) from error
    if not is_writable:
        raise StorageError(f"{option} {path}: no permission to write here; mend that or choose another file")


def write_named(path: Path, blocks: Iterable[bytes], stopped: Callable[[], bool] = lambda: False) -> None:
    """Write these bytes. Raises StorageError, or BrokenPipeError when the reader has gone.

    Once `stopped`, nothing more is written, no reader of a pipe is waited for, and InterruptedError says that no file
    was made.
    """
    wanted = takewhile(lambda block: not stopped(), blocks)
    try:
        number = descriptor_of(path)
        if number is not None or _is_stream(path):
            _write_stream(path, number, wanted, stopped)
            return
        with replacing(path, part=path.with_name(f".oid-async-{secrets.token_hex(8)}.part")) as part:
            with part.open("xb") as file:
                file.writelines(wanted)
            if stopped():
                raise InterruptedError(f"{path} was not written to its end")
    except (BrokenPipeError, InterruptedError):
        raise
    except OSError as error:
        raise storage_error(error, path) from error


def _write_stream(path: Path, number: int | None, blocks: Iterator[bytes], stopped: Callable[[], bool]) -> None:
    """Write to a pipe, a device or an open descriptor, and wait for its reader unless `stopped`. Raises OSError."""
    file = os.dup(number) if number is not None else open_writer(path, stopped)
    if file is None:
        return
    try:
        write_blocks(file, blocks, stopped)
    finally:
        os.close(file)


def _is_stream(path: Path) -> bool:
    """Return whether a path leads to something that is written to as it is, such as a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
