"""Objects in a folder: each a plain file, which has its name only once its bytes are on the disk.

A new object is written to `NAME#<16 hexadecimal digits>` beside its name, synced, and then given the name by a hard
link, which fails where the name is taken: on one machine and on a file system that several share (NFS, Lustre) alike.
Its writer holds a lock on it meanwhile, so what a killed one left behind can be told from what is being written.
obstore's LocalStore would do the same without syncing, and follows links out of the folder.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from oid_async.errors import NotPlainError, StorageError, UsageError, storage_error
from oid_async.objects.values import BLOCK_BYTES, ExistsError, MissingError, ObjectInfo, md5_of_file
from oid_async.system.links import is_no_link
from oid_async.system.locks import lock
from oid_async.system.opening import FOLDER, NAMES_BY_FOLDER, PLAIN, USUAL
from oid_async.system.positions import pread
from oid_async.system.syncing import cannot_sync_folders, sync

_LEFTOVER = re.compile(r".+#[0-9a-f]{16}")
_FOLDER = FOLDER | USUAL
_FILE = os.O_RDONLY | PLAIN | USUAL
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class FolderStorage:
    """A folder of this machine, which need not be there yet. No link below it is followed. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def close(self) -> None:
        """Nothing is waited for, so there is nothing to end."""

    def check(self) -> None:
        """Raise UsageError for a path that is no folder, StorageError for one that cannot be read or written to."""
        if not NAMES_BY_FOLDER:
            raise UsageError(
                f"{self._folder}: this system cannot open a folder and keep to it, as workers that share one need; "
                "name a bucket, or leave --cluster out"
            )
        try:
            if not stat.S_ISDIR(os.stat(self._folder).st_mode):
                raise UsageError(f"{self._folder}: it is no folder; name another one with --savepath")
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, self._folder) from error
        if not os.access(self._folder, os.R_OK | os.X_OK):
            raise StorageError(f"{self._folder}: no permission to read it; mend that or choose another folder")

    def configured_url(self) -> None:
        """Return None: a folder has no address."""

    def create(self, key: str, body: bytes | Path) -> str | None:
        """Write an object if its name is free. Raises ExistsError, whatever bytes are there."""
        with self._writing(key, body) as (folder, part, name):
            try:
                os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError as error:
                if (what := _odd_kind(name, folder)) is not None:
                    raise NotPlainError(what, self._folder / key) from error
                raise ExistsError(key) from error
            except OSError as error:
                if is_no_link(error):
                    raise StorageError(
                        f"{self._folder}: its file system has no hard links, by which a name is given once; choose a "
                        "folder on another one"
                    ) from error
                raise
        return None

    def replace(self, key: str, body: bytes | Path) -> str | None:
        """Write an object in place of what has its name."""
        with self._writing(key, body) as (folder, part, name):
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        return None

    def get(self, key: str) -> bytes:
        """Return the bytes of an object. Raises MissingError."""
        with self._reading(key) as file:
            return file.read()

    def get_file(self, key: str, path: Path) -> ObjectInfo:
        """Write the bytes of an object to a file. Raises MissingError."""
        with self._reading(key) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy, BLOCK_BYTES)
            return ObjectInfo(key, copy.tell(), None)

    def get_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object. Raises MissingError."""
        with self._reading(key) as file:
            return [pread(file.fileno(), size, start) for start, size in zip(starts, sizes, strict=True)]

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, None if there is none."""
        try:
            with self._reading(key) as file:
                return ObjectInfo(key, os.fstat(file.fileno()).st_size, None)
        except MissingError:
            return None

    def md5(self, key: str) -> str:
        """Return the MD5 of an object, hexadecimal. Raises MissingError."""
        with self._reading(key) as file:
            return md5_of_file(file)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the plain files below a folder's name that are whole objects."""
        return (info for info, _ in self._walk(prefix) if not _LEFTOVER.fullmatch(info.key.rpartition("/")[2]))

    def leftovers(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what writers that are gone have left unfinished."""
        for info, is_free in self._walk(prefix, locks=True):
            if is_free:
                yield info

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._errors(), suppress(FileNotFoundError, NotADirectoryError), self._at(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Give an object a second name, in place of what has it. Raises MissingError."""
        with self._reading(source) as file, self._errors(), self._at(target, make=True) as (folder, name):
            part = _part_name(name)
            try:
                with self._at(source) as (source_folder, source_name):
                    os.link(source_name, part, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except FileNotFoundError as error:
                # Somebody else does the same, was quicker, and has removed it, or the second name as a leftover.
                raise MissingError(source) from error
            finally:
                # Two names of one file: renaming one to the other does nothing.
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)
            _sync_folder(folder)
            return ObjectInfo(target, os.fstat(file.fileno()).st_size, None)

    @contextmanager
    def _writing(self, key: str, body: bytes | Path) -> Iterator[tuple[int, str, str]]:
        """Yield folder, temporary name and name of an object whose bytes are on the disk; then forget the first."""
        with self._errors(), self._at(key, make=True) as (folder, name):
            part, file = _new_file(name, folder)
            with file:
                try:
                    _write(file, body)
                    sync(file.fileno())
                    yield folder, part, name
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(part, dir_fd=folder)
            _sync_folder(folder)

    @contextmanager
    def _reading(self, key: str) -> Iterator[BufferedReader]:
        with self._errors():
            try:
                with self._at(key) as (folder, name):
                    file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
            except IsADirectoryError as error:
                raise MissingError(key) from error
            except OSError as error:
                if error.errno in _ABSENT:
                    raise MissingError(key) from error
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise NotPlainError("a link or pipe, not a file", self._folder / key) from error
                raise
            with file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise NotPlainError("not a file", self._folder / key)
                yield file

    @contextmanager
    def _at(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the open folder of an object, and its name there. Raises OSError."""
        *names, name = key.split("/")
        folder = self._opened(names, make=make)
        try:
            yield folder, name
        finally:
            os.close(folder)

    def _opened(self, names: Sequence[str], *, make: bool) -> int:
        if any(name in ("", ".", "..") for name in names):
            raise StorageError(f"{self._folder}: {'/'.join(names)!r} is no folder's name in it")
        if make:
            self._folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._folder, _FOLDER)
        for name in names:
            above = folder
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=above)
                        _sync_folder(above)
                folder = os.open(name, _FOLDER | PLAIN, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP) and _odd_kind(name, above) is not None:
                    raise NotPlainError("a link, not a folder", self._folder.joinpath(*names)) from error
                raise
            finally:
                os.close(above)
        return folder

    def _walk(self, prefix: str, *, locks: bool = False) -> Iterator[tuple[ObjectInfo, bool]]:
        """Yield the plain files below a folder's name; with `locks` temporary ones alone, and whether nobody writes."""
        with self._errors():
            try:
                folder = self._opened([name for name in prefix.split("/") if name], make=False)
            except OSError as error:
                if error.errno in _ABSENT and not isinstance(error, NotPlainError):
                    return
                raise
            try:
                for inside, _, names, here in os.fwalk(".", onerror=_raise_unless_absent, dir_fd=folder):
                    for name in names:
                        if locks and not _LEFTOVER.fullmatch(name):
                            continue
                        try:
                            found = os.stat(name, dir_fd=here, follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if stat.S_ISREG(found.st_mode):
                            key = os.path.normpath(os.path.join(prefix, inside, name))
                            yield ObjectInfo(key, found.st_size, None), locks and _is_free(name, here)
            finally:
                os.close(folder)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(error, self._folder) from error


def _part_name(name: str) -> str:
    return f"{name}#{secrets.token_hex(8)}"


def _new_file(name: str, folder: int) -> tuple[str, BinaryIO]:
    """Return the temporary name of an object's file, and the file, which is locked as long as it is open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN | USUAL
    while True:
        part = _part_name(name)
        file = os.fdopen(os.open(part, flags, 0o644, dir_fd=folder), "wb")
        with suppress(OSError):  # a file system without locks
            lock(file.fileno(), shared=False)
        if os.fstat(file.fileno()).st_nlink:
            return part, file
        file.close()  # before it was locked it was taken for a leftover


def _write(file: BinaryIO, body: bytes | Path) -> None:
    if isinstance(body, bytes):
        file.write(body)
    else:
        with body.open("rb") as source:
            shutil.copyfileobj(source, file, BLOCK_BYTES)
    file.flush()


def _odd_kind(name: str, folder: int) -> str | None:
    """Return what stands in the place of a plain file; None for a plain file, or nothing."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode):
        return None
    return "a link, not a file" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "not a file"


def _is_free(name: str, folder: int) -> bool:
    """Return whether nobody writes to a temporary file any more."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return False
    try:
        lock(file, shared=True)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES) and _is_old(file)
    else:
        return True
    finally:
        os.close(file)


def _is_old(file: int) -> bool:
    """Return whether a file was last written to an hour ago, where locks cannot tell."""
    return os.fstat(file).st_mtime < time.time() - 3600


def _raise_unless_absent(error: OSError) -> None:
    if error.errno not in _ABSENT:
        raise error


def _sync_folder(folder: int) -> None:
    try:
        sync(folder)
    except OSError as error:
        if not cannot_sync_folders(error):
            raise
