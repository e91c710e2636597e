"""The trainer's hold on a downloader: its start, its end, and what tells workers where it is. Needs no torch."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from oid_async.errors import StorageError, UsageError, storage_errors
from oid_async.system.sockets import can_share_sockets
from oid_async.torch.messages import DownloaderSettings

_PROGRAM = "oid_async.torch.downloader"
_PREFIX = "oid_async-"
_SOCKET = "socket"
# The path of a Unix socket has 104 bytes on some systems, 108 on others; a folder of TMPDIR may be longer.
_MOST_PATH_BYTES = 100
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_WAITING_WORKERS = 128
_LAST_S = 6.0


class DownloaderProcess:
    """One downloader, started when it is made; `address` is where it listens. It ends with this object, or by `close`.

    Made by `subprocess`, so that neither a fork of this process nor its `__main__` have anything to do with it. In a
    forked child nothing here ends it.
    """

    def __init__(self, settings: DownloaderSettings) -> None:
        if not can_share_sockets():
            raise UsageError(
                "a Stream needs sockets in files, which this system does not have: download first, and train from "
                "the folder with oid_async.torch.OpenImages"
            )
        folder = Path(_short_folder())
        try:
            self.address = str(folder / _SOCKET)
            with socket.socket(socket.AF_UNIX) as listener:
                with storage_errors(folder):
                    listener.bind(self.address)
                    listener.listen(_WAITING_WORKERS)
                process = _start(replace(settings, folder=folder, socket=listener.fileno()), listener.fileno())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.pid = process.pid
        self._end = weakref.finalize(self, _end, process, folder, os.getpid())

    def close(self) -> None:
        """End it, and wait for that. Safe to call twice."""
        self._end()


def _start(settings: DownloaderSettings, descriptor: int) -> "subprocess.Popen[bytes]":
    try:
        process = subprocess.Popen(
            [sys.executable or "", "-P", "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            # An interrupt from the terminal is for the trainer.
            process_group=0,
            env=os.environ | {"PYTHONPATH": search_path()},
        )
    except OSError as error:
        raise StorageError(f"{sys.executable}: the downloader cannot be started ({error.strerror or error})") from error
    assert process.stdin is not None
    # Who could not read them has ended, and says so to whoever connects.
    with suppress(BrokenPipeError):
        process.stdin.write(pickle.dumps(settings))
        process.stdin.flush()
    return process


def search_path() -> str:
    """Return where this process finds modules, for another one. Some programs put a Path there."""
    return os.pathsep.join(path or os.getcwd() for path in map(str, sys.path))


def _end(process: "subprocess.Popen[bytes]", folder: Path, owner: int) -> None:
    """End a downloader by the end of its stdin, by force if it does not come."""
    if os.getpid() != owner:
        return  # a forked child
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    # Workers that were forked hold the pipe, too.
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """Make a folder that only this user can enter and whose path is short enough for a socket in it."""
    where = tempfile.gettempdir()
    problem: OSError | None = None
    for root in (where, *(each for each in _SHORT_FOLDERS if each != where)):
        # mkdtemp adds eight characters.
        if len(os.fsencode(root)) + len(_PREFIX) + len(_SOCKET) + 10 > _MOST_PATH_BYTES:
            continue
        try:
            return tempfile.mkdtemp(prefix=_PREFIX, dir=root)
        except OSError as error:
            problem = error
    why = problem.strerror if problem is not None else "its path is too long for a socket"
    raise StorageError(f"{where}: no folder can be made for the downloader's socket ({why}); set TMPDIR to another one")
