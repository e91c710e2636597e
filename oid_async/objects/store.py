"""Objects under one place: the few operations that a download past one machine needs, the same on every storage.

All of them block: call them from threads.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from oid_async.errors import StorageError, UsageError
from oid_async.objects.bucket import BucketStorage
from oid_async.objects.folder import FolderStorage
from oid_async.objects.values import ExistsError, MissingError, ObjectInfo, md5_of, size_of
from oid_async.options.places import Place

__all__ = ["ExistsError", "MissingError", "ObjectInfo", "Objects", "md5_of"]

# Answer 409 of S3: two writers at once, and neither has the key yet. It takes them a moment.
_CONFLICT_PAUSE_S, _CONFLICT_TRIES = 0.5, 20


class Objects:
    """The objects under one place, a folder or a prefix of a bucket. Safe to use from several threads; picklable.

    Every operation raises StorageError, one line, for a storage that refuses, or that still fails after three minutes.
    """

    def __init__(self, place: Place, *, endpoint_url: str | None = None) -> None:
        self.place = place
        self.endpoint_url = endpoint_url
        self._storage = FolderStorage(place) if isinstance(place, Path) else BucketStorage(place, endpoint_url)

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials are found anew where it is unpickled: they are never part of it. Where the storage is belongs to
        # the place: a worker whose environment does not say so must not write to another one of the same name.
        return _opened, (self.place, self.endpoint_url or self._storage.configured_url())

    def check(self) -> None:
        """Raise UsageError for a place that cannot be used: no such bucket, no credentials, a wrong endpoint.

        One request, and half a minute at most, even where nothing answers. A folder need not be there.
        """
        self._storage.check()

    def close(self) -> None:
        """Send no request anew any more, in any thread: what fails from now on has failed. For an interrupted run."""
        self._storage.close()

    def put_new(self, key: str, body: bytes | Path) -> ObjectInfo:
        """Write an object whole, if its key is free or it is there with the same bytes. Raises ExistsError.

        On the disk, or acknowledged by the storage, when it returns. An answer that got lost is no second object: the
        next try finds the key taken by these very bytes.
        """
        for _ in range(_CONFLICT_TRIES):
            try:
                return ObjectInfo(key, size_of(body), self._storage.create(key, body))
            except ExistsError:
                found = self._storage.head(key)
                if found is not None:
                    if self._has(found, size_of(body), md5_of(body)):
                        return found
                    raise
            time.sleep(_CONFLICT_PAUSE_S)
        raise StorageError(
            f"{self.place}: the storage says of {key} that somebody else is writing it, and yet it is not there; "
            "run again to go on"
        )

    def check_creates(self, key: str, body: bytes) -> None:
        """Raise UsageError if the storage ignores that an object is to be created, and writes over what is there.

        `key` has just been put; `body` says the same in other bytes, for it may be there afterwards.
        """
        try:
            self._storage.create(key, body)
        except ExistsError:
            return
        raise UsageError(
            f"{self.place}: this storage writes over objects that are to be created once (it ignores If-None-Match), "
            "so no work can be shared there; name another one, or bring the storage's server up to date"
        )

    def put(self, key: str, body: bytes | Path) -> ObjectInfo:
        """Write an object whole, in place of what has its key; until then what was there stays."""
        return ObjectInfo(key, size_of(body), self._storage.replace(key, body))

    def get(self, key: str) -> bytes:
        """Return the bytes of an object. Raises MissingError."""
        return self._storage.get(key)

    def get_file(self, key: str, path: Path) -> ObjectInfo:
        """Write the bytes of an object to a file, in blocks. Raises MissingError."""
        return self._storage.get_file(key, path)

    def get_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object; neighbours come by one request. Raises MissingError."""
        return self._storage.get_ranges(key, starts, sizes)

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the storage says of an object, None if there is none."""
        return self._storage.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with a folder's name, in no order; what is unfinished is none."""
        return self._storage.list(prefix)

    def listed(self, prefix: str, wanted: Iterable[str]) -> dict[str, ObjectInfo]:
        """Return the objects whose keys begin with a folder's name, by key; and those `wanted` that it does not list.

        What another machine has just put, a shared folder or a storage may list late. The first one that is wanted and
        not there ends the search for more.
        """
        there = {info.key: info for info in self.list(prefix)}
        for key in wanted:
            if key not in there:
                found = self.head(key)
                if found is None:
                    break
                there[key] = found
        return there

    def leftovers(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield what killed writers have left unfinished below a folder's name, for `delete`; none in a bucket."""
        return self._storage.leftovers(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is none."""
        for key in keys:
            self._storage.delete(key)

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object within the storage, in place of what has the other key. Raises MissingError."""
        return self._storage.copy(source, target)

    def holds(self, key: str, size: int, md5: str) -> bool:
        """Return whether an object has this size and MD5 (hexadecimal): by its ETag where that is one, else read."""
        found = self._storage.head(key)
        return found is not None and self._has(found, size, md5)

    def _has(self, found: ObjectInfo, size: int, md5: str) -> bool:
        if found.size != size:
            return False
        if found.etag == md5:
            return True
        try:
            return self._storage.md5(found.key) == md5
        except MissingError:
            return False


def _opened(place: Place, endpoint_url: str | None) -> Objects:
    return Objects(place, endpoint_url=endpoint_url)
