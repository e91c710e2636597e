"""Makes Python one of a system without POSIX, as far as that can be played on Linux. Python itself runs this.

    PYTHONPATH=tests/support/other_system OTHER_SYSTEM=locks,links,held python -m oid_async demo

What the standard library of Windows does not have is taken away: modules, functions, flags, families of sockets. Of
the words in OTHER_SYSTEM `locks` brings a module msvcrt, which locks bytes; `links` leaves links; with `held` no folder
can be opened, and no file removed or renamed that is open or mapped in this process, nor one renamed to a name that is
taken.
"""

import errno
import os
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

_WORDS = os.environ.get("OTHER_SYSTEM", "").split(",")
_MODULES = ("fcntl", "resource", "pwd", "grp")
# Not all that Windows lacks: the rest of the standard library, which is that of Linux here, has to go on.
_NOT_IN_OS = (
    *("fork", "forkpty", "fwalk", "getuid", "geteuid", "getgid", "getegid", "killpg", "mkfifo", "posix_fadvise"),
    *("posix_spawn", "pread", "preadv", "pwrite", "pwritev", "register_at_fork", "sched_getaffinity"),
    *("set_blocking", "setsid", "chown", "fchmod", "fdatasync", "sync", "getloadavg", "copy_file_range", "sysconf"),
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_DSYNC"),
)
_NOT_IN_SIGNAL = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "pthread_sigmask", "sigwait", "setitimer")
_F_OFD_SETLK = 37  # of Linux: the lock is of the open file, as it is in Windows
_system: Any = os


def _take_away() -> None:
    import select
    import shutil
    import signal
    import socket
    import subprocess  # noqa: F401 (it would take a module msvcrt for Windows)

    # Its module for Linux takes them by name.
    with suppress(ImportError):
        import platformdirs.unix  # noqa: F401
    _take_from_loops()
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    parts: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (os, _NOT_IN_OS),
        (signal, _NOT_IN_SIGNAL),
        (select, ("poll", "PIPE_BUF")),
        (socket, ("AF_UNIX",)),
    )
    for module, names in parts:
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    if "links" not in _WORDS:
        _system.link = _system.symlink = _no_link
    os.supports_dir_fd.clear()
    os.supports_follow_symlinks.clear()
    changed: Any = shutil
    changed._use_fd_functions = False
    changed = socket
    changed.socketpair = _socketpair


def _take_from_loops() -> None:
    from asyncio import selector_events, unix_events

    def refuse(*_: object) -> None:
        raise NotImplementedError

    loops: Any = unix_events._UnixSelectorEventLoop, selector_events.BaseSelectorEventLoop
    loops[0].add_signal_handler = refuse
    loops[1].add_reader = refuse  # the other one its own way of sending files needs


def _no_link(source: object, target: object, **_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(target))


def _socketpair(*_: object) -> tuple[object, object]:
    """Return two sockets that are connected by the network of this machine."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        return one, listening.accept()[0]


def _lock_bytes() -> None:
    """Put a module msvcrt in place that locks bytes of a file as that of Windows does."""
    import fcntl
    import struct
    import subprocess  # noqa: F401 (it would take the module for Windows)

    def locking(descriptor: int, mode: int, count: int) -> None:
        is_to_be_read = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        kind = fcntl.F_RDLCK if is_to_be_read else fcntl.F_WRLCK
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, os.lseek(descriptor, 0, os.SEEK_CUR), count, 0)
        try:
            fcntl.fcntl(descriptor, _F_OFD_SETLK, wanted)
        except OSError as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error

    module: Any = ModuleType("msvcrt")
    module.locking, module.LK_NBLCK = locking, 2
    sys.modules["msvcrt"] = module


def _hold_what_is_open() -> None:
    open_file, rename, replace, unlink = _system.open, _system.rename, _system.replace, _system.unlink
    listdir, readlink = os.listdir, os.readlink

    def check(path: Any) -> None:
        if _is_open(os.path.realpath(path), listdir, readlink):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def opened(path: Any, flags: int, mode: int = 0o777, **named: Any) -> Any:
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, mode, **named)

    def unlinked(path: Any, **named: Any) -> None:
        check(path)
        unlink(path, **named)

    def renamed(source: Any, target: Any, **named: Any) -> None:
        check(source)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        rename(source, target, **named)

    def replaced(source: Any, target: Any, **named: Any) -> None:
        check(source)
        check(target)
        replace(source, target, **named)

    _system.open, _system.unlink, _system.remove = opened, unlinked, unlinked
    _system.rename, _system.replace = renamed, replaced


def _is_open(path: str, listdir: Any, readlink: Any) -> bool:
    """Return whether a file, or one in a folder, is open or mapped in this process."""
    found = []
    for number in listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(readlink(f"/proc/self/fd/{number}"))
    with open("/proc/self/maps") as maps:
        found += [f"/{line.rstrip().partition('/')[2]}" for line in maps if "/" in line]
    return any(each == path or each.startswith(f"{path}/") for each in found)


if "OTHER_SYSTEM" in os.environ:
    if "locks" in _WORDS:
        _lock_bytes()
    _take_away()
    if "held" in _WORDS:
        _hold_what_is_open()
