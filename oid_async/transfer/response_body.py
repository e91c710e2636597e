"""The body of one response: counted, bounded, in memory or in a temporary file that a later attempt continues."""

import asyncio
import errno
import zlib
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from oid_async.concurrency import run_to_end
from oid_async.errors import storage_error
from oid_async.http.opt_out import opt_out, reason_for
from oid_async.http.resume import complete_length, is_strong, request_rest
from oid_async.http.retry import FetchError, Limits, is_final
from oid_async.quick_values import define
from oid_async.report import OPTED_OUT
from oid_async.store.image_check import Expected, refuse_start
from oid_async.transfer.image_transfer import PartialBody

if TYPE_CHECKING:
    from oid_async.http.client import Response
    from oid_async.http.connection import Connection

_UNPACKED_AT_ONCE = 256 << 10  # a bomb then costs little memory, and no long stop of the event loop
_START_BYTES = 16
# Sixty-four images of the usual 300 KB fit, and more while a distant host has more under way; above that bodies go to
# the disk early.
LEAST_HELD_BYTES = 20 << 20
LEAST_SPOOLED = 128 << 10
_DRAINED_BYTES = 64 << 10
_DRAINED_S = 1.0


@define
class BodyMemory:
    """How many bytes all bodies of a run hold in memory, and how many they may."""

    held: int = 0
    most: int = LEAST_HELD_BYTES


class ResponseBody:
    """A body that is being received: counted, bounded, in memory up to `memory_bytes`, above that in a temporary file.

    While all bodies together hold much a smaller one goes to its file, too. `partial` describes what an earlier attempt
    has left in the file.
    """

    def __init__(
        self, part: str, limits: Limits, expected: Expected, memory: BodyMemory, partial: PartialBody | None = None
    ) -> None:
        self.chunks: list[bytes | bytearray] = []
        self.spooled = partial is not None
        self.size = partial.size if partial is not None else 0
        self._part = part
        self._limits = limits
        self._memory = memory
        self._expected = expected
        self._partial = partial
        self._limit = limits.max_image_bytes if expected.size is None else min(limits.max_image_bytes, expected.size)
        self._held = 0
        self._start = b""
        self._has_begun = partial is not None
        self._etag: str | None = None
        self._total: int | None = None

    def conditions(self) -> dict[str, str]:
        """Return the headers of the request: for the rest of the body, if its first part is here already."""
        return request_rest(self._partial.size, self._partial.etag) if self._partial is not None else {}

    async def receive(self, response: "Response", *, in_pieces: bool = False) -> None:
        """Read the whole body. Raises FetchError as soon as it cannot be the image any more."""
        await self._check_start(response)
        decoder = zlib.decompressobj(47) if response.connection.encoding in ("gzip", "x-gzip", "deflate") else None
        length = response.length
        if decoder is None:
            self._total = None if length is None else self.size + length
            self._etag = response.connection.etag or (self._partial.etag if self._partial is not None else None)
        try:
            if decoder is None and length is not None and not in_pieces and self._fits_memory(length):
                await self._add(await self._read_whole(response, length))
            else:
                await self._read_pieces(response, decoder)
        except FetchError as error:
            if error.kind != "truncated":
                raise
            # The most specific kind wins: half a placeholder is a placeholder.
            kind = (refuse_start(self._start) if self._start else None) or "truncated"
            raise FetchError(kind, str(error)) from error
        if self.spooled:
            await self._flush()

    def _fits_memory(self, length: int) -> bool:
        """Return whether a body of this length may be read in one go, into memory."""
        is_wanted = length <= self._limit and self._expected.size in (None, length)
        crowded = self._memory.held + length > self._memory.most and length > LEAST_SPOOLED
        return is_wanted and not self.spooled and not crowded and length <= self._limits.memory_bytes

    async def _read_whole(self, response: "Response", length: int) -> bytes | bytearray:
        self._memory.held += length
        try:
            return await response.read_whole()
        except FetchError:
            self._start = response.connection.body_start
            raise
        finally:
            self._memory.held -= length

    async def _read_pieces(self, response: "Response", decoder: "zlib._Decompress | None") -> None:
        async with aclosing(response.chunks()) as chunks:
            async for raw in chunks:
                # No server should compress what was requested as it is; if one does, only what may be kept is unpacked.
                for chunk in _unpacked(decoder, raw) if decoder else (raw,):
                    await self._add(chunk)

    async def keep(self, error: FetchError) -> PartialBody | None:
        """Keep the first bytes of a large body that broke off, for the next attempt to continue; else discard them."""
        if not is_final(error.kind) and not error.exhausted:
            if self._partial is not None and not self._start:
                return self._partial
            etag = self._etag
            if self.spooled and self.size >= self._limits.resume_bytes and etag is not None and is_strong(etag):
                await self._flush()
                return PartialBody(self.size, etag, self._total)
        await self.discard()
        return None

    def hand_over(self) -> tuple[list[bytes | bytearray], int]:
        """Return the chunks in memory and their size in bytes; the memory counts as held until the image is stored."""
        chunks, held = self.chunks, self._held
        self.chunks, self._held = [], 0
        return chunks, held

    async def discard(self) -> None:
        """Remove what was received so far, from memory and disk."""
        self._release()
        if self.spooled:
            await remove_part(self._part)

    async def _check_start(self, response: "Response") -> None:
        """Find out whether the response is the complete body or the rest of it. Raises FetchError if it is neither.

        So it does for an image that is not for us.
        """
        partial = self._partial
        if response.status in (200, 206) and (refusal := opted_out(response.connection, self._limits)) is not None:
            await _drain(response)
            raise refusal
        if response.status == 206 and partial is not None:
            length = complete_length(response.headers, have=partial.size, total=partial.total, etag=partial.etag)
            if length is not None and not response.connection.encoding:
                self._start = b"\xff\xd8\xff"  # its start was checked when it was received
                return
            await self._restart()
            got = response.headers.get("Content-Range", "no Content-Range")
            raise FetchError("truncated", f"asked for the rest from byte {partial.size}, got {got}")
        if response.status != 200:
            raise FetchError("bad_response", f"HTTP {response.status} to a plain GET")
        if partial is not None:
            await self._restart()

    async def _restart(self) -> None:
        await self.discard()
        self._partial, self.spooled, self.size, self._has_begun = None, False, 0, False

    async def _add(self, chunk: bytes | bytearray) -> None:
        if len(self._start) < _START_BYTES and chunk:
            self._start += chunk[: _START_BYTES - len(self._start)]
            self._check_length()
        self.size += len(chunk)
        if self.size > self._limit:
            raise FetchError(refuse_start(self._start) or "too_large", f"more than {self._limit} bytes")
        self.chunks.append(chunk)
        self._held += len(chunk)
        self._memory.held += len(chunk)
        crowded = self._memory.held > self._memory.most and self._held > LEAST_SPOOLED
        if crowded or self._held > self._limits.memory_bytes:
            self.spooled = True
            await self._flush()

    def _check_length(self) -> None:
        """Refuse a body of the wrong length, once its first bytes show what else it may be. Raises FetchError."""
        total, wanted = self._total, self._expected.size
        if total is None or (total <= self._limit and wanted in (None, total)):
            return
        kind = refuse_start(self._start) or ("too_large" if total > self._limit else "checksum")
        raise FetchError(kind, f"{total} bytes, allowed are {self._limit if total > self._limit else wanted}")

    async def _flush(self) -> None:
        if not self.chunks:
            return
        try:
            await run_to_end(self._append(self.chunks))
            self._has_begun = True
            self._release()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise FetchError("network", "no descriptor left for a temporary file", exhausted=True) from error
            raise storage_error(error, Path(self._part).parent) from error

    async def _append(self, chunks: list[bytes | bytearray]) -> None:
        # A worker process that died may have left a file there: only what this body has begun is continued.
        async with aiofiles.open(self._part, "ab" if self._has_begun else "wb") as file:
            await file.writelines(chunks)

    def _release(self) -> None:
        self._memory.held -= self._held
        self.chunks, self._held = [], 0


def opted_out(connection: "Connection", limits: Limits) -> FetchError | None:
    """Return the error of an answer that says that its image is not for us, None if it does not."""
    rule = opt_out(connection.opt_out_lines, limits.respect_opt_out) if connection.opt_out_lines else None
    if rule is None:
        return None
    error = FetchError(OPTED_OUT, f"the answer says {rule}")
    error.reason = reason_for(rule)
    return error


async def _drain(response: "Response") -> None:
    """Read a short body that is not wanted, for the sake of its connection; a longer one costs more than a new one."""
    if response.length is not None and response.length <= _DRAINED_BYTES:
        with suppress(FetchError, TimeoutError):
            async with asyncio.timeout(_DRAINED_S):
                await response.read_whole()


async def remove_part(part: str) -> None:
    """Remove a temporary file if it is there."""
    with suppress(OSError):
        await run_to_end(aiofiles.os.unlink(part))


def _unpacked(decoder: "zlib._Decompress", raw: bytes) -> Iterator[bytes]:
    """Yield the content of compressed bytes, a portion at a time."""
    try:
        while raw and not decoder.eof:
            yield decoder.decompress(raw, _UNPACKED_AT_ONCE)
            raw = decoder.unconsumed_tail
    except zlib.error as error:
        raise FetchError("not_image", f"sent as compressed, which it is not: {error}") from error
