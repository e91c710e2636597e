"""Fetching one file for the cache: requested with validators, resumed after a break, checked when complete.

A break costs what was in flight: the next attempt, of this run or a later one, requests the rest with Range and
If-Range. Only a strong ETag guarantees the rest of the same file; without one the file is fetched from its start.
"""

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING

from oid_async.concurrency import in_thread, wait_until_done
from oid_async.http.resume import complete_length, is_strong, request_rest
from oid_async.http.retry import FetchError, with_retries
from oid_async.metadata.entry import CacheEntry, Identity
from oid_async.metadata.integrity import is_header_text
from oid_async.metadata.paths import recorded_url
from oid_async.store.atomic import read_json, write_json
from oid_async.store.disk import md5_of, open_plain, plain_file
from oid_async.system.boots import boot_id

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_BLOCK = 4 << 20
_TELL_S = 1.0


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """The file as the server described it with its first bytes; `md5` is base64, as x-goog-hash gives it.

    `url` is without its query, which may hold a secret; the folder of the entry tells URLs apart. `boot` is that of the
    machine in which the first bytes came.
    """

    url: str
    total: int | None
    etag: str | None
    last_modified: str | None
    md5: str | None
    boot: str = ""

    @property
    def can_resume(self) -> bool:
        # A power cut may have spoiled bytes that are here. The MD5 of all of them would show it. 0.1.0 noted no boot.
        return is_strong(self.etag) and (self.md5 is not None or self.boot in ("", boot_id()))


class FileFetch:
    """Fetches one file to `entry.raw`; `cached` is the identity of the cached version.

    `stored` is called with (bytes of the block, bytes so far, total or None) after each block, and once a second within
    one with 0 for its bytes; `check_space` with (total or None, bytes so far) before the body comes, in a thread.
    Without `patient` there is one attempt.
    """

    def __init__(
        self,
        client: "Client",
        entry: CacheEntry,
        url: str,
        cached: Identity | None,
        *,
        stored: Callable[[int, int, int | None], None],
        check_space: Callable[[int | None, int], None],
        patient: bool = True,
    ) -> None:
        self._client = client
        self._entry = entry
        self._url = url
        self._recorded_url = recorded_url(url)
        self._cached = cached
        self._stored = stored
        self._check_space = check_space
        # A person waits for the first table: an address where nothing responds is reported within two seconds.
        self._limits = client.limits if patient else replace(client.limits, retries=0)
        self._impatient = replace(client.limits, retries=min(self._limits.retries, 2))
        self._reached = 0
        self._has_progressed = False

    async def run(self) -> tuple[Identity | None, bool]:
        """Return the identity of the complete file in `entry.raw`, None if the cached version is still the latest.

        The second value is True if the server stated neither length nor MD5 and ended the file by hanging up: then it
        may be cut. Raises FetchError. An attempt that got further than any before does not count.
        """
        return await with_retries(
            self._attempt,
            self._limits,
            sleep=self._client.hosts.retrying(self._url),
            has_progressed=lambda: self._has_progressed,
            network_limits=self._impatient,
        )

    async def _attempt(self) -> tuple[Identity | None, bool]:
        self._has_progressed = False
        remote, have = await asyncio.to_thread(self._so_far)
        try:
            async with self._client.get(self._url, self._conditions(remote, have)) as response:
                if response.status != 304:
                    return await self._body(response, remote, have)
        except FetchError as error:
            if error.status != 416 or not have:
                raise
            # There is no such rest: the file has become shorter, and the server ignores If-Range.
            await in_thread(self._entry.forget_raw)
            raise FetchError("truncated", f"asked for the rest from byte {have}: {error}") from error
        if remote is not None and have == remote.total:
            return await self._checked(remote, have, await in_thread(self._hash_so_far)), False
        if self._cached is not None:
            return None, False
        raise FetchError("bad_response", "HTTP 304 to what is not here")

    async def _body(self, response: "Response", remote: _RemoteFile | None, have: int) -> tuple[Identity, bool]:
        """Receive the file or the rest of it; return what `run` returns."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError("bad_response", "the table was sent compressed although not asked for so")
        if response.status == 206:
            length = None
            if remote is not None:
                length = complete_length(response.headers, have=have, total=remote.total, etag=remote.etag)
            if remote is None or length is None:
                await in_thread(self._entry.forget_raw)
                content_range = response.headers.get("Content-Range", "no Content-Range")
                raise FetchError("truncated", f"asked for the rest from byte {have}, got {content_range}")
            remote = replace(remote, total=length)
        else:
            remote, have = _remote_file(self._recorded_url, response), 0
        chunked = "Transfer-Encoding" in response.headers
        size, md5 = await self._receive(response, remote, have)
        is_unsure = remote.total is None and remote.md5 is None and not chunked
        return await self._checked(remote, size, md5), is_unsure

    def _so_far(self) -> tuple[_RemoteFile | None, int]:
        """Return the file of which bytes are here and how many; None and 0 if it cannot be resumed."""
        with suppress(OSError, TypeError):
            remote = _RemoteFile(**read_json(self._entry.raw_note))
            have = self._entry.raw_bytes()
            if not all(map(is_header_text, (remote.etag, remote.url, remote.md5 or "", remote.last_modified or ""))):
                return None, 0
            if remote.url == self._recorded_url and remote.can_resume and 0 < have <= (remote.total or have):
                return remote, have
        return None, 0

    def _conditions(self, remote: _RemoteFile | None, have: int) -> dict[str, str]:
        if remote is not None and remote.etag is not None:
            if have == remote.total:
                return {"If-None-Match": remote.etag}
            return request_rest(have, remote.etag)
        cached = self._cached
        if cached is None:
            return {}
        conditions = {"If-None-Match": cached.etag, "If-Modified-Since": None if cached.etag else cached.last_modified}
        return {name: value for name, value in conditions.items() if value}

    async def _receive(self, response: "Response", remote: _RemoteFile, have: int) -> tuple[int, str]:
        """Stream the body to disk in large blocks, each a thread hop; return the file's size and hex MD5.

        The first read follows the headers at once: bytes that have come but are not read when the connection breaks are
        lost.
        """
        spool = _Spool(self._entry, remote, have, self._check_space)
        block = bytearray()
        told_at, clock = float("-inf"), self._client.hosts.clock
        try:
            try:
                async with aclosing(response.chunks(no_deadline=True)) as chunks:
                    block += await _meanwhile(anext(chunks, b""), in_thread(spool.open))
                    async for chunk in chunks:
                        block += chunk
                        if len(block) >= _BLOCK:
                            full, block = block, bytearray()
                            await self._store(spool, full, remote.total)
                        elif (now := clock()) - told_at >= _TELL_S:
                            # On a slow line a block takes a minute.
                            told_at = now
                            self._stored(0, spool.size + len(block), remote.total)
            finally:
                # Bytes before a break are kept: the next attempt resumes after them.
                if block:
                    await self._store(spool, block, remote.total)
        finally:
            await in_thread(spool.close)
        return spool.size, spool.md5.hexdigest()

    async def _store(self, spool: "_Spool", block: bytearray, total: int | None) -> None:
        await in_thread(spool.write, block)
        self._has_progressed |= spool.size > self._reached
        self._reached = max(self._reached, spool.size)
        self._stored(len(block), spool.size, total)

    async def _checked(self, remote: _RemoteFile, size: int, md5: str) -> Identity:
        """Return the identity of a complete file. Raises FetchError `truncated` or `checksum`."""
        if remote.total is not None and size != remote.total:
            raise FetchError("truncated", f"{size} of {remote.total} bytes arrived")
        if remote.md5 is not None and remote.md5 != base64.b64encode(bytes.fromhex(md5)).decode():
            await in_thread(self._entry.forget_raw)
            self._has_progressed = False
            raise FetchError("checksum", f"its MD5 is not {remote.md5}, which the server says it is")
        if remote.total is None:
            # Now it is known: if the run ends before the file is used, the next one sees that it is complete.
            await in_thread(_write_note, self._entry, replace(remote, total=size))
        return Identity(self._recorded_url, size, remote.etag, remote.last_modified, md5)

    def _hash_so_far(self) -> str:
        with plain_file(self._entry.raw) as file:
            return md5_of(file).hexdigest()


class _Spool:
    """The file being written, hashed as it grows: hashing a gigabyte afterwards would take seconds. Blocking.

    `open` checks the space on the disk and writes the note on the file; writing continues behind the first `have`
    bytes, with 0 from the start.
    """

    def __init__(
        self, entry: CacheEntry, remote: _RemoteFile, have: int, check_space: Callable[[int | None, int], None]
    ) -> None:
        self._entry = entry
        self._remote = remote
        self._have = have
        self._check_space = check_space
        self._file: IO[bytes] | None = None
        self.size = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    def open(self) -> None:
        self._check_space(self._remote.total, self._have)
        if not self._have:
            self._entry.forget_raw()
        _write_note(self._entry, self._remote)
        # Never through a link: what is here already was seen to be a plain file.
        flags = os.O_RDWR | (0 if self._have else os.O_CREAT | os.O_EXCL)
        self._file = os.fdopen(open_plain(self._entry.raw, flags), "r+b")
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
    """Return what is read, once `opening` is done too; if that fails, cancel the reading."""
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


def _remote_file(url: str, response: "Response") -> _RemoteFile:
    headers = response.headers
    hashes = ",".join([*headers.getall("x-goog-hash", []), f"md5={headers.get('Content-MD5', '')}"])
    md5 = re.search(r"(?:^|[,\s])md5=([A-Za-z0-9+/]{22}==)", hashes)
    etag, changed = headers.get("ETag"), headers.get("Last-Modified")
    return _RemoteFile(url, response.length, etag, changed, md5[1] if md5 else None)


def _write_note(entry: CacheEntry, remote: _RemoteFile) -> None:
    """Note what the bytes that come are of, and in which boot. Blocking."""
    write_json(entry.raw_note, asdict(replace(remote, boot=boot_id())))
