"""Objects in a bucket, through obstore: S3 and what speaks its protocol, GCS, Azure.

Its synchronous functions alone: the asynchronous ones abort the process at its exit. A create is one PUT of the whole
body; a multipart upload that is cut leaves parts that no listing shows.
"""

import hashlib
import mmap
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast

from oid_async.errors import OidError, StorageError, UsageError, storage_errors
from oid_async.objects.aws import bucket_region
from oid_async.objects.opening import Patience, configured_url, open_store
from oid_async.objects.refusals import is_object_missing, is_passing, refusal
from oid_async.objects.values import BLOCK_BYTES, ExistsError, MissingError, ObjectInfo, size_of
from oid_async.options.places import Bucket
from oid_async.system.forks import refuse_forked_child

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

Result = TypeVar("Result")

# S3 and Azure take no more by one PUT (5 GB, 5000 MiB).
_MOST_AT_ONCE = 5 * 10**9
# `replace` sends what is larger than this in parts, four at once.
_ONE_PUT_BYTES = 64 << 20
# A request may take this long, and more by its bytes: a line that is slower than this is taken for a broken one.
_REQUEST_S, _SLOWEST = 60, 512 << 10
# What a whole-object read is given time for; larger ones are read in blocks.
_READ_BYTES = 64 << 20
# For how long a request is sent anew while the storage fails; the first and the longest pause between two, seconds.
_PATIENCE_S, _PAUSE_S, _LONGEST_PAUSE_S = 180.0, 0.2, 10.0
_LEAST_TRIES = 3
_MOST_CHANGES = 5
_CHECK = Patience(timeout_s=10, retries=2, for_s=10)


class _ChangedError(Exception):
    """An object is not the one any more that was begun to be read."""


class BucketStorage:
    """A prefix of a bucket. Raises StorageError, UsageError: one line each, without the library's own text."""

    def __init__(self, bucket: Bucket, endpoint_url: str | None) -> None:
        self._bucket = bucket
        self._endpoint_url = endpoint_url
        self._stores: dict[int, ObjectStore] = {}
        self._lock = Lock()
        self._closed = Event()

    def close(self) -> None:
        """Send no request anew any more: what fails from now on has failed."""
        self._closed.set()

    def check(self) -> None:
        """Raise UsageError for a bucket that cannot be used; waits for half a minute at most.

        It makes one request, and more only if that fails by what may pass.
        """
        refuse_forked_child()
        # Before the import: without the extra there is no obstore, and this says so.
        store = open_store(self._bucket, self._endpoint_url, _CHECK)
        import obstore

        give_up = time.monotonic() + _CHECK.for_s
        for tries in count(1):
            try:
                next(iter(obstore.list(store, chunk_size=1)), None)
                return
            except Exception as error:
                # A storage that fails now and then is no wrong one; the library does not send a list anew by itself.
                if tries < _LEAST_TRIES and is_passing(error) and time.monotonic() < give_up:
                    time.sleep(_PAUSE_S)
                    continue
                url = self.configured_url()
                refused = refusal(error, self._bucket, url, "be listed", is_check=True)
                if url is None and self._bucket.scheme == "s3" and "another region" in str(refused):
                    region = bucket_region(self._bucket.name)
                    refused = UsageError(f"{refused}{(region and f' (it is in {region})') or ''}")
                raise refused from None

    def configured_url(self) -> str | None:
        """Return where the storage is, None for the provider's own place. Raises UsageError."""
        return configured_url(self._bucket, self._endpoint_url)

    def create(self, key: str, body: bytes | Path) -> str | None:
        """Write an object if its key is free. Raises ExistsError, whatever bytes are there: maybe these very ones."""
        import obstore

        with _bytes_of(body) as data:
            size = len(data)
            if size > _MOST_AT_ONCE:
                raise StorageError(f"{self._bucket}/{key}: {size:,} bytes are more than one PUT takes (5 GB)")
            # Typed as bytes: what is mapped into memory is taken without a copy, too.
            put = self._tried("be written to", key, lambda: obstore.put(self._store(size), key, data, mode="create"))
        return bare(put["e_tag"])

    def replace(self, key: str, body: bytes | Path) -> str | None:
        """Write an object in place of what has its key."""
        import obstore

        size = size_of(body)
        if size <= _ONE_PUT_BYTES:
            with _bytes_of(body) as data:
                put = self._tried(
                    "be written to", key, lambda: obstore.put(self._store(size), key, data, use_multipart=False)
                )
            return bare(put["e_tag"])
        # Read in blocks: of a file that is mapped every page would count as memory of this process.
        put = self._tried(
            "be written to",
            key,
            lambda: obstore.put(
                self._store(size), key, body, use_multipart=True, chunk_size=BLOCK_BYTES, max_concurrency=4
            ),
        )
        return bare(put["e_tag"])

    def get(self, key: str) -> bytes:
        """Return the bytes of an object. Raises MissingError."""
        import obstore

        return self._tried("be read", key, lambda: bytes(obstore.get(self._store(_READ_BYTES), key).bytes()))

    def get_file(self, key: str, path: Path) -> ObjectInfo:
        """Write the bytes of an object to a file, in blocks. Raises MissingError, StorageError for a full disk."""

        def read() -> ObjectInfo:
            info, blocks = self._blocks(key)
            with storage_errors(path), path.open("wb") as file:
                for block in blocks:
                    file.write(block)
            return info

        return self._unchanged(key, read)

    def get_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object; neighbours come by one request. Raises MissingError."""
        import obstore

        store = self._store(sum(sizes))
        parts = self._tried("be read", key, lambda: obstore.get_ranges(store, key, starts=starts, lengths=sizes))
        return [bytes(part) for part in parts]

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the storage says of an object, None if there is none."""
        import obstore

        try:
            found = self._tried("be read", key, lambda: obstore.head(self._store(), key))
        except MissingError:
            return None
        return ObjectInfo(key, found["size"], bare(found["e_tag"]))

    def md5(self, key: str) -> str:
        """Return the MD5 of an object, hexadecimal, by reading it. Raises MissingError."""

        def read() -> str:
            digest = hashlib.md5(usedforsecurity=False)
            for block in self._blocks(key)[1]:
                digest.update(block)
            return digest.hexdigest()

        return self._unchanged(key, read)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a folder's name."""
        import obstore

        last: str | None = None
        pages = obstore.list(self._store(), prefix or None)

        def next_page() -> Any:
            nonlocal pages
            try:
                return next(pages, None)
            except Exception:
                # A listing that fails half-way goes on behind the last key that it gave.
                pages = obstore.list(self._store(), prefix or None, offset=last)
                raise

        while (page := self._tried("be listed", prefix, next_page)) is not None:
            for each in page:
                last = each["path"]
                yield ObjectInfo(each["path"], each["size"], bare(each["e_tag"]))

    def leftovers(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield nothing: what is unfinished in a bucket is not listed; a lifecycle rule removes it."""
        return iter(())

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        try:
            self._tried("be deleted from", key, lambda: obstore.delete(self._store(), key))
        except MissingError:
            pass

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object within the storage, in place of what has the other key. Raises MissingError."""
        import obstore

        self._tried("be written to", source, lambda: obstore.copy(self._store(_ONE_PUT_BYTES), source, target))
        found = self.head(target)
        if found is None:
            raise MissingError(target)
        return found

    def _blocks(self, key: str) -> tuple[ObjectInfo, Iterator[bytes]]:
        """Return what is known of an object, and its bytes in blocks. Raises MissingError."""
        import obstore

        found = self._tried("be read", key, lambda: obstore.head(self._store(), key))
        size, etag = found["size"], found["e_tag"]
        # Of an object that is replaced meanwhile no blocks of the old and the new one come together.
        unchanged: GetOptions = {"if_match": etag} if etag is not None and etag.startswith('"') else {}

        def block(start: int) -> bytes:
            options: GetOptions = {**unchanged, "range": (start, min(start + BLOCK_BYTES, size))}
            store = self._store(BLOCK_BYTES)
            return self._tried("be read", key, lambda: bytes(obstore.get(store, key, options=options).bytes()))

        return ObjectInfo(key, size, bare(etag)), (block(start) for start in range(0, size, BLOCK_BYTES))

    def _unchanged(self, key: str, read: Callable[[], Result]) -> Result:
        """Read an object in blocks; from its beginning again if it is replaced meanwhile."""
        for _ in range(_MOST_CHANGES):
            try:
                return read()
            except _ChangedError:
                continue
        raise StorageError(f"{self._bucket}/{key}: it is replaced again and again while it is read; try again later")

    def _store(self, size: int = 0) -> "ObjectStore":
        """Return the client for requests that carry so many bytes: its timeout covers the whole of one."""
        needed_s = _REQUEST_S + size // _SLOWEST
        # By powers of two, so that there are few: each has connections of its own.
        timeout_s = 1 << (needed_s - 1).bit_length()
        with self._lock:
            if timeout_s not in self._stores:
                patience = Patience(timeout_s=timeout_s, retries=10, for_s=60)
                self._stores[timeout_s] = open_store(self._bucket, self._endpoint_url, patience)
            return self._stores[timeout_s]

    def _tried(self, action: str, key: str, call: Callable[[], Result]) -> Result:
        """Carry out a request; while the storage fails by something that passes, again and again for three minutes."""
        import obstore

        refuse_forked_child()
        give_up: float | None = None
        pause_s = _PAUSE_S
        for tries in count(1):
            try:
                return call()
            except obstore.exceptions.AlreadyExistsError:
                raise ExistsError(key) from None
            except obstore.exceptions.PreconditionError:
                raise _ChangedError(key) from None
            except OidError:
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError) and is_object_missing(error):
                    raise MissingError(key) from None
                # From the first failure on: what is large may have taken longer than that until it failed.
                give_up = give_up or time.monotonic() + _PATIENCE_S
                is_over = tries >= _LEAST_TRIES and time.monotonic() + pause_s > give_up
                if is_over or not is_passing(error) or self._closed.is_set():
                    # Without its cause: the library's text holds addresses, and signatures in them.
                    url = self.configured_url()
                    raise refusal(error, self._bucket, url, action) from None
            self._closed.wait(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError


@contextmanager
def _bytes_of(body: bytes | Path) -> Iterator[bytes]:
    """Yield what is to be an object; a file is mapped into memory, which its writer must not shorten meanwhile."""
    if isinstance(body, bytes):
        yield body
        return
    with storage_errors(body):
        file = body.open("rb")
    with file:
        if body.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield cast("bytes", mapped)


def bare(etag: str | None) -> str | None:
    """Return an ETag without its quotes."""
    return None if etag is None else etag.strip('"')
