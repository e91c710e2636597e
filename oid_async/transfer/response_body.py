"""The body of one response: counted, bounded, in memory or in a temporary file that a later attempt continues."""

import errno
import zlib
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from oid_async.concurrency import finished
from oid_async.errors import storage_error
from oid_async.http.resume import ask_for_rest, is_strong, whole_length
from oid_async.http.retry import FetchError, Limits, is_final
from oid_async.store.image_check import Expected, refuse_start
from oid_async.transfer.image_transfer import PartialBody

if TYPE_CHECKING:
    from oid_async.http.client import Response

_UNPACKED_AT_ONCE = 256 << 10  # a bomb goes off in portions that memory and the event loop do not feel
_START_BYTES = 16
# Sixty-four images of the usual 300 KB fit, and more where a host far away has more under way; beyond that bodies go to
# the disk early.
BASE_HELD_BYTES = 20 << 20
LEAST_SPOOLED = 128 << 10


@dataclass(slots=True)
class BodyMemory:
    """What all bodies of a run hold in memory, and what they may, in bytes."""

    held: int = 0
    most: int = BASE_HELD_BYTES


class ResponseBody:
    """A body as it arrives: counted, bounded, in memory up to `memory_bytes`, beyond that in a temporary file.

    So is a smaller one while all bodies together hold much. `partial` is what an earlier attempt has left in that file.
    """

    def __init__(
        self, part: str, limits: Limits, expected: Expected, shared: "BodyMemory", partial: PartialBody | None = None
    ) -> None:
        self.chunks: list[bytes | bytearray] = []
        self.spooled = partial is not None
        self.size = partial.size if partial is not None else 0
        self._part = part
        self._limits = limits
        self._shared = shared
        self._expected = expected
        self._partial = partial
        self._limit = limits.max_image_bytes if expected.size is None else min(limits.max_image_bytes, expected.size)
        self._held = 0
        self._start = b""
        self._is_begun = partial is not None
        self._etag: str | None = None
        self._total: int | None = None

    def conditions(self) -> dict[str, str]:
        """Return the headers of the request: for the rest of what is here already, if anything is."""
        return ask_for_rest(self._partial.size, self._partial.etag) if self._partial is not None else {}

    async def receive(self, answer: "Response", *, in_pieces: bool = False) -> None:
        """Read the whole body. Raises FetchError as soon as it cannot be the image any more."""
        await self._settle_start(answer)
        decoder = zlib.decompressobj(47) if answer.connection.encoding in ("gzip", "x-gzip", "deflate") else None
        length = answer.length
        if decoder is None:
            self._total = None if length is None else self.size + length
            self._etag = answer.connection.etag or (self._partial.etag if self._partial is not None else None)
        try:
            if decoder is None and length is not None and not in_pieces and self._takes_at_once(length):
                await self._take(await self._at_once(answer, length))
            else:
                await self._piece_by_piece(answer, decoder)
        except FetchError as error:
            if error.kind != "truncated":
                raise
            # The most specific kind wins: half a placeholder is a placeholder.
            kind = (refuse_start(self._start) if self._start else None) or "truncated"
            raise FetchError(kind, str(error)) from error
        if self.spooled:
            await self._flush()

    def _takes_at_once(self, length: int) -> bool:
        """Return whether a body of this length may be read in one go, into memory."""
        is_wanted = length <= self._limit and self._expected.size in (None, length)
        crowded = self._shared.held + length > self._shared.most and length > LEAST_SPOOLED
        return is_wanted and not self.spooled and not crowded and length <= self._limits.memory_bytes

    async def _at_once(self, answer: "Response", length: int) -> bytes | bytearray:
        self._shared.held += length
        try:
            return await answer.read_whole()
        except FetchError:
            self._start = answer.connection.start
            raise
        finally:
            self._shared.held -= length

    async def _piece_by_piece(self, answer: "Response", decoder: "zlib._Decompress | None") -> None:
        async with aclosing(answer.chunks()) as chunks:
            async for raw in chunks:
                # Nobody should compress what was asked for as it is; if someone does, unpack no more than may be kept.
                for chunk in _unpacked(decoder, raw) if decoder else (raw,):
                    await self._take(chunk)

    async def keep(self, error: FetchError) -> PartialBody | None:
        """Keep the first bytes of a large body that broke off, for the next attempt to go on; drop what is no use."""
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
        """Drop what was kept so far."""
        self._put_down()
        if self.spooled:
            await remove_part(self._part)

    async def _settle_start(self, answer: "Response") -> None:
        """Find out whether the answer is the whole or the rest of it."""
        partial = self._partial
        if answer.status == 206 and partial is not None:
            length = whole_length(answer.headers, have=partial.size, total=partial.total, etag=partial.etag)
            if length is not None and not answer.connection.encoding:
                self._start = b"\xff\xd8\xff"  # its start was judged when it came
                return
            await self._start_anew()
            said = answer.headers.get("Content-Range", "no Content-Range")
            raise FetchError("truncated", f"asked for the rest from byte {partial.size}, got {said}")
        if answer.status != 200:
            raise FetchError("bad_response", f"HTTP {answer.status} to a plain GET")
        if partial is not None:
            await self._start_anew()

    async def _start_anew(self) -> None:
        await self.discard()
        self._partial, self.spooled, self.size, self._is_begun = None, False, 0, False

    async def _take(self, chunk: bytes | bytearray) -> None:
        if len(self._start) < _START_BYTES and chunk:
            self._start += chunk[: _START_BYTES - len(self._start)]
            self._judge_length()
        self.size += len(chunk)
        if self.size > self._limit:
            raise FetchError(refuse_start(self._start) or "too_large", f"more than {self._limit} bytes")
        self.chunks.append(chunk)
        self._held += len(chunk)
        self._shared.held += len(chunk)
        crowded = self._shared.held > self._shared.most and self._held > LEAST_SPOOLED
        if crowded or self._held > self._limits.memory_bytes:
            self.spooled = True
            await self._flush()

    def _judge_length(self) -> None:
        """Refuse what says of itself that it is not the image, once its first bytes tell what else it may be."""
        said, wanted = self._total, self._expected.size
        if said is None or (said <= self._limit and wanted in (None, said)):
            return
        kind = refuse_start(self._start) or ("too_large" if said > self._limit else "checksum")
        raise FetchError(kind, f"{said} bytes, allowed are {self._limit if said > self._limit else wanted}")

    async def _flush(self) -> None:
        if not self.chunks:
            return
        try:
            await finished(self._append(self.chunks))
            self._is_begun = True
            self._put_down()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise FetchError("network", "no descriptor left for a temporary file", exhausted=True) from error
            raise storage_error(error, Path(self._part).parent) from error

    async def _append(self, chunks: list[bytes | bytearray]) -> None:
        # A worker process that died may have left something there: only what this body has begun is gone on with.
        async with aiofiles.open(self._part, "ab" if self._is_begun else "wb") as file:
            await file.writelines(chunks)

    def _put_down(self) -> None:
        self._shared.held -= self._held
        self.chunks, self._held = [], 0


async def remove_part(part: str) -> None:
    """Remove a temporary file if it is there."""
    with suppress(OSError):
        await finished(aiofiles.os.unlink(part))


def _unpacked(decoder: "zlib._Decompress", raw: bytes) -> Iterator[bytes]:
    """Yield what compressed bytes hold, a portion at a time."""
    try:
        while raw and not decoder.eof:
            yield decoder.decompress(raw, _UNPACKED_AT_ONCE)
            raw = decoder.unconsumed_tail
    except zlib.error as error:
        raise FetchError("not_image", f"sent as compressed, which it is not: {error}") from error
