"""The errors that stop a run. One image that fails is data (an Outcome), never an exception.

OidError                    base; `kind` names the branch, `exit_code` is the command line's
├── UsageError              2  an option's value, an unknown class, options that contradict each other
├── InputError              2  a given table or list that cannot be used: missing column, empty, not a CSV
├── UnavailableError        2  published tables cannot be had: host not reachable, not published there
├── StorageError            3  the machine refuses: disk full, folder not writable; running again resumes
└── LockedError             4  another run owns this SAVEPATH

Whatever else comes up is a fault of the program: exit code 5, kind "internal", and a log file that is named.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from oid_async.redaction import printable


class OidError(Exception):
    """Base of everything oid_async raises on purpose; the message is one line a person can act on."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        # A message quotes names of files, tables and servers; whoever prints it, or its traceback, obeys none of them.
        return printable(super().__str__())


class UsageError(OidError):
    """An option has a value that cannot be used, or two options contradict each other."""

    kind = "usage"
    exit_code = 2


class InputError(OidError):
    """A table or list is not what it must be; the message names the file and the column."""

    kind = "input"
    exit_code = 2


class UnavailableError(OidError):
    """A published table cannot be had from where it was asked for."""

    kind = "unavailable"
    exit_code = 2


class StorageError(OidError):
    """The disk is full or the folder is not writable; what was saved stays, running again resumes."""

    kind = "storage"
    exit_code = 3


class LockedError(OidError):
    """Another run is writing to this SAVEPATH."""

    kind = "locked"
    exit_code = 4


class NotPlainError(OSError):
    """A link, folder, pipe or device stands where a plain file of a download should be: it is not opened."""

    def __init__(self, what: str, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.ELOOP, what, os.fspath(path))

    def __reduce__(self) -> tuple[type["NotPlainError"], tuple[str | None, str]]:
        # Processes raise it in each other.
        return type(self), (self.strerror, self.filename)

    @property
    def advice(self) -> str:
        """What it is and what to do about it, a line."""
        return f"{self.filename}: it is {self.strerror}, and so not opened; remove it, then run again"


NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_GO_ON = "and run the same command again to go on"
# The errors of a machine that refuses, and what a person can do about each; others keep the system's own words.
_MACHINE = {
    errno.ENOSPC: f"the disk is full; free some space {_GO_ON}",
    errno.EDQUOT: f"the disk quota is used up; delete something or have it raised, {_GO_ON}",
    errno.EROFS: "the file system is read-only; make it writable or choose another folder, then run again",
    errno.EACCES: "no permission to write here; mend that or choose another folder, then run again",
    errno.EPERM: "the system forbids to write here; mend that or choose another folder, then run again",
    errno.EIO: f"the disk reports an input/output error; see to it {_GO_ON}",
    errno.EFBIG: f"a file would be larger than is allowed here; raise the limit (ulimit -f) {_GO_ON}",
    errno.ESTALE: f"the network disk has lost the folder (stale file handle); mount it again {_GO_ON}",
    errno.ENODEV: f"the disk is gone; attach it again {_GO_ON}",
    errno.ENXIO: f"the disk is gone; attach it again {_GO_ON}",
    errno.EXDEV: "images/ and .oid_async/ are on two file systems, and files cannot be renamed from one to the other; "
    "put both on one, then run again",
    errno.EMFILE: f"too many open files; allow more (ulimit -n 4096), or fewer transfers with --concurrency, {_GO_ON}",
    errno.ENFILE: f"the whole system has too many open files; close some programs or raise fs.file-max {_GO_ON}",
}


def storage_error(error: Exception, where: Path) -> StorageError:
    """Say what a failed write means and what to do about it."""
    if isinstance(error, NotPlainError):
        return StorageError(error.advice)
    number = machine_error(error)
    if number is not None:
        return StorageError(f"{where}: {_MACHINE[number]}")
    reason = getattr(error, "strerror", None) or str(error).split("\n", 1)[0] or type(error).__name__
    return StorageError(f"{where}: cannot be written to ({reason}); mend that or choose another folder, then run again")


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Raise an OSError of the block as a StorageError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


@contextmanager
def input_errors(where: Path) -> Iterator[None]:
    """Raise an OSError of the block, which only reads, as an InputError that names the file."""
    try:
        yield
    except NotPlainError as error:
        raise InputError(error.advice) from error
    except OSError as error:
        raise InputError(f"{error.filename or where}: cannot be read ({error.strerror or error})") from error


def machine_error(error: Exception) -> int | None:
    """Return the errno if the machine refused; Polars has it in its text alone ('os error 28')."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    if number is None and "No space left" in str(error):
        number = errno.ENOSPC
    return number if number in _MACHINE else None
