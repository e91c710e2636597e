"""Fetching one file for the cache: asked for with validators, resumed where it was cut, checked when it is whole.

A cut costs what was in flight: the next attempt, of this run or a later one, asks for the rest with Range and If-Range.
Only a strong ETag vouches that it is the rest of the same file; without one the file is fetched from its start.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING

from oid_async.concurrency import in_thread, wait_until_done
from oid_async.http.resume import complete_length, is_strong, request_rest
from oid_async.http.retry import FetchError, with_retries
from oid_async.metadata.entry import CacheEntry, Identity
from oid_async.store.atomic import read_json, write_json

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class _Promise:
    """What the server said of the file whose first bytes are here; `md5` is base64, as x-goog-hash gives it."""

    url: str
    total: int | None
    etag: str | None
    last_modified: str | None
    md5: str | None

    @property
    def can_resume(self) -> bool:
        return is_strong(self.etag)


class FileFetch:
    """One file on its way to `entry.raw`. `moved` is told of each block's bytes, `room` asked, in a
    thread, before the body comes."""

    def __init__(
        self,
        client: "Client",
        entry: CacheEntry,
        url: str,
        kept: Identity | None,
        *,
        moved: Callable[[int, int, int | None], None],
        room: Callable[[int | None, int], None],
        patient: bool = True,
    ) -> None:
        self._client = client
        self._entry = entry
        self._url = url
        self._kept = kept
        self._moved = moved
        self._room = room
        # A person waits for the first table: an address with nobody behind it is said so within two seconds.
        self._limits = client.limits if patient else replace(client.limits, retries=0)
        self._impatient = replace(client.limits, retries=min(self._limits.retries, 2))
        self._reached = 0
        self._progress = False
        self.is_unsure = False
        """Whether the server said neither how long the file is nor its MD5, and ended it by hanging up."""

    async def run(self) -> Identity | None:
        """Return the identity of the whole file in `entry.raw`, None if the kept version is still the latest.

        Raises FetchError. An attempt that got further than any before counts as none: a bad line gets there in the end.
        """
        return await with_retries(
            self._attempt,
            self._limits,
            sleep=self._client.hosts.sleep,
            has_progressed=lambda: self._progress,
            network_limits=self._impatient,
        )

    async def _attempt(self) -> Identity | None:
        self._progress = False
        promise, have = await asyncio.to_thread(self._so_far)
        try:
            async with self._client.get(self._url, self._conditions(promise, have)) as response:
                if response.status != 304:
                    return await self._body(response, promise, have)
        except FetchError as error:
            if error.status != 416 or not have:
                raise
            # There is no such rest: the file has become shorter, and the server does not heed If-Range.
            await in_thread(self._entry.forget_raw)
            raise FetchError("truncated", f"asked for the rest from byte {have}: {error}") from error
        if promise is not None and have == promise.total:
            return await self._whole(promise, have, await in_thread(self._hash_so_far))
        if self._kept is not None:
            return None
        raise FetchError("bad_response", "HTTP 304 to what is not here")

    async def _body(self, response: "Response", promise: _Promise | None, have: int) -> Identity:
        """Receive the file or the rest of it."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError("bad_response", "the table was sent compressed although not asked for so")
        if response.status == 206:
            length = None
            if promise is not None:
                length = complete_length(response.headers, have=have, total=promise.total, etag=promise.etag)
            if promise is None or length is None:
                await in_thread(self._entry.forget_raw)
                said = response.headers.get("Content-Range", "no Content-Range")
                raise FetchError("truncated", f"asked for the rest from byte {have}, got {said}")
            promise = replace(promise, total=length)
        else:
            promise, have = _promise(self._url, response), 0
        chunked = "Transfer-Encoding" in response.headers
        self.is_unsure = promise.total is None and promise.md5 is None and not chunked
        size, md5 = await self._receive(response, promise, have)
        return await self._whole(promise, size, md5)

    def _so_far(self) -> tuple[_Promise | None, int]:
        """Return what is here of the file and how much; nothing if it could not be resumed anyway."""
        with suppress(OSError, ValueError, TypeError):
            promise = _Promise(**read_json(self._entry.raw_note))
            have = self._entry.raw.stat().st_size
            if promise.url == self._url and promise.can_resume and 0 < have <= (promise.total or have):
                return promise, have
        return None, 0

    def _conditions(self, promise: _Promise | None, have: int) -> dict[str, str]:
        if promise is not None and promise.etag is not None:
            if have == promise.total:
                return {"If-None-Match": promise.etag}
            return request_rest(have, promise.etag)
        kept = self._kept
        if kept is None:
            return {}
        conditions = {"If-None-Match": kept.etag, "If-Modified-Since": None if kept.etag else kept.last_modified}
        return {name: value for name, value in conditions.items() if value}

    async def _receive(self, response: "Response", promise: _Promise, have: int) -> tuple[int, str]:
        """Stream the body to disk in large blocks, each a thread hop; return the file's size and hex MD5.

        The first read follows the headers at once: what a connection has brought and nobody has read when it breaks is
        lost.
        """
        spool = _Spool(self._entry, promise, have, self._room)
        block = bytearray()
        try:
            try:
                async with aclosing(response.chunks(no_deadline=True)) as chunks:
                    block += await _meanwhile(anext(chunks, b""), in_thread(spool.open))
                    async for chunk in chunks:
                        block += chunk
                        if len(block) >= _BLOCK:
                            full, block = block, bytearray()
                            await self._store(spool, full, promise.total)
            finally:
                # What came before a cut is kept: the next attempt goes on from there.
                if block:
                    await self._store(spool, block, promise.total)
        finally:
            await in_thread(spool.close)
        return spool.size, spool.md5.hexdigest()

    async def _store(self, spool: "_Spool", block: bytearray, total: int | None) -> None:
        await in_thread(spool.write, block)
        self._progress |= spool.size > self._reached
        self._reached = max(self._reached, spool.size)
        self._moved(len(block), spool.size, total)

    async def _whole(self, promise: _Promise, size: int, md5: str) -> Identity:
        """Return the identity of a file that is whole. Raises FetchError `truncated` or `checksum`."""
        if promise.total is not None and size != promise.total:
            raise FetchError("truncated", f"{size} of {promise.total} bytes arrived")
        if promise.md5 is not None and promise.md5 != base64.b64encode(bytes.fromhex(md5)).decode():
            await in_thread(self._entry.forget_raw)
            self._progress = False
            raise FetchError("checksum", f"its MD5 is not {promise.md5}, which the server says it is")
        if promise.total is None:
            # Now it is known: should the run end before the file is used, the next one sees that it is whole.
            await in_thread(_note, self._entry, replace(promise, total=size))
        return Identity(self._url, size, promise.etag, promise.last_modified, md5)

    def _hash_so_far(self) -> str:
        with self._entry.raw.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _Spool:
    """The file being written, hashed as it grows: hashing a gigabyte afterwards would take seconds. Blocking.

    It goes on behind the first `have` bytes, or starts anew with 0; the note beside it says of what before any byte is
    there, once there is room.
    """

    def __init__(
        self, entry: CacheEntry, promise: _Promise, have: int, room: Callable[[int | None, int], None]
    ) -> None:
        self._entry = entry
        self._promise = promise
        self._have = have
        self._room = room
        self._file: IO[bytes] | None = None
        self.size = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    def open(self) -> None:
        self._room(self._promise.total, self._have)
        if not self._have:
            self._entry.forget_raw()
        _note(self._entry, self._promise)
        self._file = self._entry.raw.open("r+b" if self._have else "wb")
        while self.size < self._have and (block := self._file.read(min(_BLOCK, self._have - self.size))):
            self.md5.update(block)
            self.size += len(block)

    def write(self, block: bytes | bytearray) -> None:
        assert self._file is not None
        self._file.write(block)
        self._file.flush()
        self.md5.update(block)
        self.size += len(block)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def _meanwhile(read: Awaitable[bytes], opening: Awaitable[None]) -> bytes:
    """Return what is read, once the other is done too; if that fails, the reading is called off."""
    reading = asyncio.ensure_future(read)
    try:
        await opening
    except BaseException:
        reading.cancel()
        await wait_until_done(reading)
        if not reading.cancelled():
            reading.exception()
        raise
    return await reading


def _note(entry: CacheEntry, promise: _Promise) -> None:
    write_json(entry.raw_note, asdict(promise))


def _promise(url: str, response: "Response") -> _Promise:
    hashes = ",".join(response.headers.getall("x-goog-hash", []))
    md5 = re.search(r"(?:^|[,\s])md5=([A-Za-z0-9+/]{22}==)", hashes)
    headers = response.headers
    return _Promise(url, response.length, headers.get("ETag"), headers.get("Last-Modified"), md5[1] if md5 else None)
