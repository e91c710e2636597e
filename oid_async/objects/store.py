"""Objects under one place: the few operations that a download past one machine needs, the same on every storage.

All of them block: call them from threads. obstore's asynchronous functions abort the process at its exit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oid_async.options.places import Place

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class ExistsError(Exception):
    """Another object has the key, and other bytes."""


class MissingError(Exception):
    """No object has the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its key below the place, its size in bytes, the storage's ETag without quotes."""

    key: str
    size: int
    etag: str | None


class Objects:
    """The objects under one place, a folder or a prefix of a bucket. Safe to use from several threads; picklable."""

    def __init__(self, place: Place, *, endpoint_url: str | None = None) -> None:
        self.place = place
        self.endpoint_url = endpoint_url
        self._opened: ObjectStore | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.place, self.endpoint_url)

    def check(self) -> None:
        """Raise UsageError for a place that cannot be used: no such bucket, no credentials, a wrong endpoint."""
        next(self.list(""), None)

    def put_new(self, key: str, body: bytes | Path) -> ObjectInfo:
        """Write an object whole, if its key is free or it is there with the same bytes. Raises ExistsError."""
        import obstore

        data = body if isinstance(body, bytes) else body.read_bytes()
        try:
            put = obstore.put(self._store, key, data, mode="create")
        except obstore.exceptions.AlreadyExistsError as error:
            if not self.holds(key, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest()):
                raise ExistsError(key) from error
            found = self.head(key)
            if found is None:
                raise ExistsError(key) from error
            return found
        return ObjectInfo(key, len(data), _bare(put["e_tag"]))

    def put(self, key: str, body: bytes | Path) -> ObjectInfo:
        """Write an object whole, in place of what has its key."""
        import obstore

        put = obstore.put(self._store, key, body)
        return ObjectInfo(key, len(body) if isinstance(body, bytes) else body.stat().st_size, _bare(put["e_tag"]))

    def get(self, key: str) -> bytes:
        """Return the bytes of an object. Raises MissingError."""
        import obstore

        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError as error:
            raise MissingError(key) from error

    def get_file(self, key: str, path: Path) -> ObjectInfo:
        """Write the bytes of an object to a file, in blocks. Raises MissingError."""
        data = self.get(key)
        path.write_bytes(data)
        return ObjectInfo(key, len(data), None)

    def get_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object; neighbours come by one request. Raises MissingError."""
        import obstore

        try:
            return [bytes(part) for part in obstore.get_ranges(self._store, key, starts=starts, lengths=sizes)]
        except FileNotFoundError as error:
            raise MissingError(key) from error

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the storage says of an object, None if there is none."""
        import obstore

        try:
            found = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        return ObjectInfo(key, found["size"], _bare(found["e_tag"]))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with a folder's name, in no order."""
        import obstore

        for found in obstore.list(self._store, prefix or None):
            for each in found:
                yield ObjectInfo(each["path"], each["size"], _bare(each["e_tag"]))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is none."""
        import obstore

        for key in keys:
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:
                pass

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object within the storage, in place of what has the other key. Raises MissingError."""
        import obstore

        try:
            obstore.copy(self._store, source, target)
        except FileNotFoundError as error:
            raise MissingError(source) from error
        found = self.head(target)
        assert found is not None
        return found

    def holds(self, key: str, size: int, md5: str) -> bool:
        """Return whether an object has this size and MD5 (hexadecimal): by its ETag where that is one, else read."""
        found = self.head(key)
        if found is None or found.size != size:
            return False
        if found.etag == md5:
            return True
        return hashlib.md5(self.get(key), usedforsecurity=False).hexdigest() == md5

    @property
    def _store(self) -> "ObjectStore":
        if self._opened is None:
            from obstore.store import LocalStore, from_url

            if isinstance(self.place, Path):
                self._opened = LocalStore(self.place, mkdir=True)
            else:
                self._opened = from_url(str(self.place))
        return self._opened


def _opened(place: Place, endpoint_url: str | None) -> Objects:
    return Objects(place, endpoint_url=endpoint_url)


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip('"')
