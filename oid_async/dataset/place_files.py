"""The files of a place that a download past one machine has filled, as its readers want them: a folder, or a bucket.

Tables are files: those of a bucket are fetched into a temporary folder when they are first asked for. Of shards ranges
are read. Keys are relative to the place, parts joined by "/". Blocking; safe to use from several threads.
"""

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from oid_async.errors import InputError, NotPlainError, StorageError
from oid_async.objects.store import MissingError, ObjectInfo, Objects
from oid_async.options.places import Place
from oid_async.store.atomic import read_json
from oid_async.store.disk import is_plain, plain_file
from oid_async.store.folder import Folder
from oid_async.system.positions import pread

_FINISHED = ".oid_async/finished.json"


class PlaceFiles(Protocol):
    """The files of one place. `folder` is where its tables are files, once they are fetched."""

    folder: Folder

    @property
    def place(self) -> Place:
        """The folder or bucket."""
        ...

    def check(self) -> None:
        """Raise UsageError, StorageError for a place that cannot be read: no such bucket, no credentials."""
        ...

    def name(self, key: str) -> str:
        """Return what messages call a file."""
        ...

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None where there is none."""
        ...

    def etag(self, key: str) -> str | None:
        """Return the ETag of a file, None where there is none, or none is known, as of the files of a folder."""
        ...

    def listing(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files below a folder of the place, in no order; of a folder's no ETag is known."""
        ...

    def fetch(self, key: str) -> Path:
        """Return a file as one of this disk; nothing is at this path if the place has none."""
        ...

    def forget(self, key: str) -> None:
        """Give the room of a fetched file back: it is fetched anew when it is asked for again."""
        ...

    def changed_ns(self, key: str) -> int:
        """Return a number that is another one once a shard was written anew. Raises OSError."""
        ...

    def read(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of a file; those of neighbours come at once. Raises InputError where it has none."""
        ...

    def remove(self) -> None:
        """Remove what was fetched."""
        ...


class FolderFiles:
    """The files of a folder: they are read where they are."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @property
    def place(self) -> Place:
        """The folder."""
        return self.folder.path

    def check(self) -> None:
        """Do nothing: the folder was looked at."""

    def name(self, key: str) -> str:
        """Return the path of a file."""
        return str(self.folder.path / key)

    def size(self, key: str) -> int | None:
        """Return the size of a plain file in bytes, None where there is none."""
        path = self.folder.path / key
        return os.lstat(path).st_size if is_plain(path) else None

    def etag(self, key: str) -> str | None:
        """Return None."""
        return None

    def listing(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the plain files below a folder. Raises InputError for a link in its place."""
        start = self.folder.path / prefix
        if start.is_symlink():
            raise InputError(f"{start}: it is a link, not a folder, and so not opened")
        for where, _, names in os.walk(start):
            for name in names:
                found = os.lstat(path := os.path.join(where, name))
                if stat.S_ISREG(found.st_mode):
                    key = os.path.relpath(path, self.folder.path).replace(os.sep, "/")
                    yield ObjectInfo(os.fsencode(key).decode("utf-8", "backslashreplace"), found.st_size, None)

    def fetch(self, key: str) -> Path:
        """Return the path of a file, which need not exist."""
        return self.folder.path / key

    def forget(self, key: str) -> None:
        """Do nothing: the file is the place's own."""

    def changed_ns(self, key: str) -> int:
        """Return when a file was written to last."""
        return os.stat(self.folder.path / key).st_mtime_ns

    def read(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of a file."""
        path = self.folder.path / key
        try:
            if path.parent.is_symlink():
                raise NotPlainError("a link, not a folder", path.parent)
            with plain_file(path) as file:
                return [pread(file.fileno(), size, start) for start, size in zip(starts, sizes, strict=True)]
        except FileNotFoundError as error:
            raise missing_object(self, key) from error
        except NotPlainError as error:
            raise InputError(error.advice) from error

    def remove(self) -> None:
        """Do nothing: nothing was fetched."""


class BucketFiles:
    """The files of a bucket. What was fetched goes with `remove`, or when the program ends."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._heads: dict[str, ObjectInfo | None] = {}
        self._lock = Lock()
        # One an object: several are fetched at once, each of them once.
        self._fetching: dict[str, Lock] = {}
        self._made_by = os.getpid()
        self.folder = Folder(Path(tempfile.mkdtemp(prefix="oid-async-")))
        atexit.register(self.remove)

    @property
    def place(self) -> Place:
        """The bucket and its prefix."""
        return self._objects.place

    def check(self) -> None:
        """Raise UsageError for a bucket that cannot be read, within half a minute."""
        self._objects.check()

    def name(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.place}/{key}"

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, None where there is none; what was seen once is not asked again."""
        found = self._head(key)
        return None if found is None else found.size

    def etag(self, key: str) -> str | None:
        """Return the ETag of an object."""
        found = self._head(key)
        return None if found is None else found.etag

    def _head(self, key: str) -> ObjectInfo | None:
        if key not in self._heads:
            self._heads[key] = self._objects.head(key)
        return self._heads[key]

    def listing(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with a folder's name."""
        return self._objects.list(prefix)

    def fetch(self, key: str) -> Path:
        """Return an object as a file, which does not exist where the bucket has none."""
        path = self.folder.path / key
        with self._lock:
            one = self._fetching.setdefault(key, Lock())
        with one:
            if not path.exists() and self.size(key) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.part")
                try:
                    self._objects.get_file(key, part)
                except MissingError:
                    part.unlink(missing_ok=True)
                else:
                    part.rename(path)
        return path

    def forget(self, key: str) -> None:
        """Remove a fetched file."""
        (self.folder.path / key).unlink(missing_ok=True)

    def changed_ns(self, key: str) -> int:
        """Return 0: a shard is written once."""
        return 0

    def read(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object, or of what was fetched of it."""
        fetched = self.folder.path / key
        if fetched.exists():
            with fetched.open("rb") as file:
                return [pread(file.fileno(), size, start) for start, size in zip(starts, sizes, strict=True)]
        try:
            return self._objects.get_ranges(key, starts, sizes)
        except MissingError as error:
            raise missing_object(self, key) from error
        except StorageError:
            # A range behind the end of an object is an error, and no shorter answer.
            found = self._objects.head(key)
            end = max(start + size for start, size in zip(starts, sizes, strict=True))
            if found is None or found.size >= end:
                raise
            return [b""] * len(starts)

    def remove(self) -> None:
        """Remove what was fetched; safe to call twice. A forked child leaves it to the process that fetched it."""
        atexit.unregister(self.remove)
        if os.getpid() == self._made_by:
            shutil.rmtree(self.folder.path, ignore_errors=True)


def counted_masks(files: PlaceFiles) -> dict[str, int]:
    """Return what became of the masks, which are in the samples of shards, as the last run has counted it."""
    counts = read_json(files.fetch("report.json"))
    masks = counts.get("masks") if isinstance(counts, dict) else None
    if not isinstance(masks, dict) or not all(isinstance(count, int) for count in masks.values()):
        return {}
    return masks | {"present": masks.get("present", 0) + masks.get("downloaded", 0), "downloaded": 0} if masks else {}


def stored_side(files: PlaceFiles) -> int | None:
    """Return the longest side, in pixels, that shards.json says images were made smaller to, None if they were not."""
    listed = read_json(files.fetch("shards.json"))
    side = listed.get("max_side") if isinstance(listed, dict) else None
    return side if isinstance(side, int) and side > 0 else None


def written_tables(files: PlaceFiles) -> dict[str, tuple[int, str, str | None]]:
    """Return bytes, MD5 (hexadecimal) and ETag of each table that the place's last end has written; none is known: {}.

    Its note is that of `cluster.finish`.
    """
    note = read_json(files.fetch(_FINISHED))
    try:
        return {name: (int(each["bytes"]), str(each["md5"]), each["etag"]) for name, each in note["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def missing_object(files: PlaceFiles, key: str) -> InputError:
    """Return the error for a file that the tables of a place speak of, and that is not there."""
    return InputError(
        f"{files.name(key)}: it is not there, though the tables speak of it; oid-async verify {files.place} says what "
        "else is missing"
    )
