"""One image: its sources in order, each asked until it answers, the body handed on to be checked and stored.

`Fetcher.fetch` owns a transfer from its first request to its outcome. Nobody else decides what is asked again.
"""

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from oid_async.errors import storage_error
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.options import SPLITS, Source
from oid_async.report import Outcome, parse_detail, write_detail
from oid_async.store.landing import Arrival, Landing
from oid_async.store.verify import Expected, refuse_start
from oid_async.threads import finished
from oid_async.transfer.retry import Attempts, FetchError, Limits, is_final

if TYPE_CHECKING:
    import aiohttp

    from oid_async.transfer.client import Client


@dataclass(frozen=True, slots=True)
class Target:
    """One image to fetch: a row of the plan. `known` holds the sources whose final failure is remembered."""

    image_id: str
    file_name: str
    subset: str | None
    original_url: str | None
    original_size: int | None
    original_md5: str | None
    thumbnail_url: str | None
    known: str | None

    def url(self, source: Source, mirror: str | None) -> str | None:
        """Return where a source has this image, None if it has none."""
        if source == "cvdf":
            return (
                object_url(IMAGE_BUCKET, f"{self.subset}/{self.image_id}.jpg", mirror)
                if self.subset in SPLITS
                else None
            )
        return self.original_url if source == "original" else self.thumbnail_url

    def expected(self, source: Source) -> Expected:
        """Return what the image table says of a source's bytes: OriginalSize and OriginalMD5 are the original's."""
        return Expected(self.original_size, self.original_md5) if source == "original" else Expected()


@dataclass(frozen=True, slots=True)
class _Question:
    """One image asked of one source: `address` is where the request goes, `url` what is written down of it."""

    target: Target
    source: Source
    address: str
    url: str
    before: int


Land = Callable[[Arrival], Awaitable[Landing]]


class Fetcher:
    """Fetches images one at a time, from `sources` in order. `land` checks and stores a body; `part` names a spool.

    `written` stands for the mirror's address in what is written down: an embedded origin has another one every time.
    """

    def __init__(
        self,
        client: "Client",
        land: Land,
        *,
        sources: tuple[Source, ...],
        mirror: str | None,
        written: str | None,
        part: Callable[[str], str],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._land = land
        self._sources = sources
        self._mirror = mirror
        self._written = written
        self._part = part
        self._jitter = jitter

    async def fetch(self, target: Target) -> Outcome | None:
        """Bring one image in. Returns None once it has landed, the failed Outcome otherwise.

        Only what is final for the object moves on to the next source; a passing fault ends as failed, because the next
        run may well get the better copy. Raises StorageError when the disk says no.
        """
        history = parse_detail(target.known)
        attempts, url, reason = 0, None, "bad_url"
        for source in self._sources:
            if source in history and is_final(history[source]):
                reason = history[source]
                continue
            url = target.url(source, self._written)
            address = target.url(source, self._mirror)
            if url is None or address is None:
                history[source] = reason = "bad_url"
                continue
            error, tried = await self._ask(_Question(target, source, address, url, attempts))
            attempts += tried
            if error is None:
                return None
            history[source] = reason = error.kind
            if not is_final(error.kind):
                break
        return Outcome(target.image_id, "failed", None, reason, write_detail(history), source, url, attempts=attempts)

    async def _ask(self, question: _Question) -> tuple[FetchError | None, int]:
        """Ask one source until it answers for good; return the failure (None: landed) and the attempts it took."""
        attempts = Attempts(self._client.limits)
        while True:
            attempts.made += 1
            try:
                arrival = await self._receive(question)
                arrival.attempts = question.before + attempts.made
                landing = await self._land(arrival)
                if landing.reason is None:
                    return None, attempts.made
                error = FetchError(landing.reason, "the body is not the image")
            except FetchError as failed:
                error = failed
            wait_s = attempts.wait_s(error, self._jitter())
            if wait_s is None:
                return error, attempts.made
            await asyncio.sleep(wait_s)

    async def _receive(self, question: _Question) -> Arrival:
        """Make one attempt and return the body, small ones in memory, large ones spooled to a temporary file."""
        target, source = question.target, question.source
        expected = target.expected(source)
        async with self._client.get(question.address) as response:
            if response.status != 200:
                raise FetchError("bad_response", f"HTTP {response.status} to a plain GET")
            limit = self._limit(response, expected)
            body = Body(self._part(target.image_id), limit, self._client.limits)
            try:
                await body.receive(self._client, response, expected)
            except BaseException:
                await body.discard()
                raise
            return Arrival(
                image_id=target.image_id,
                file_name=target.file_name,
                source=source,
                url=question.url,
                chunks=body.chunks,
                spooled=body.spooled,
                size=body.size,
                expected=expected,
                etag=response.headers.get("ETag") if source == "cvdf" else None,
                etags=self._client.hosts.of(response.url).etags,
            )

    def _limit(self, response: "aiohttp.ClientResponse", expected: Expected) -> int:
        """Return how many bytes a body may have; refuse at once what says that it is larger."""
        limit = self._client.limits.max_image_bytes
        if response.content_length is not None and response.content_length > limit:
            raise FetchError("too_large", f"{response.content_length} bytes, allowed are {limit}")
        return limit if expected.size is None else min(limit, expected.size)


class Body:
    """A body as it arrives: counted, bounded, in memory up to `memory_bytes`, beyond that in a temporary file."""

    def __init__(self, part: str, limit: int, limits: Limits) -> None:
        self.chunks: list[bytes] = []
        self.spooled = False
        self.size = 0
        self._part = part
        self._limit = limit
        self._memory_bytes = limits.memory_bytes
        self._held = 0

    async def receive(self, client: "Client", response: "aiohttp.ClientResponse", expected: Expected) -> None:
        """Read the whole body. Raises FetchError as soon as it cannot be the image any more."""
        wrong_size = expected.size is not None and response.content_length not in (None, expected.size)
        decoder = zlib.decompressobj(47) if response.headers.get("Content-Encoding") in ("gzip", "deflate") else None
        async with aclosing(client.chunks(response)) as chunks:
            async for raw in chunks:
                # Nobody should compress what was asked for as it is; if someone does, unpack no more than may be kept.
                chunk = self._unpack(decoder, raw) if decoder else raw
                if self.size == 0 and chunk:
                    self._judge_start(chunk, wrong_size and not decoder, response, expected)
                self.size += len(chunk)
                if self.size > self._limit:
                    raise FetchError("too_large", f"more than {self._limit} bytes")
                await self._keep(chunk)
        if self.spooled:
            await self._flush()

    async def discard(self) -> None:
        """Drop what was kept so far."""
        self.chunks = []
        if self.spooled:
            with suppress(OSError):
                await finished(aiofiles.os.unlink(self._part))

    def _unpack(self, decoder: "zlib._Decompress", raw: bytes) -> bytes:
        try:
            return decoder.decompress(raw, self._limit + 1 - self.size)
        except zlib.error as error:
            raise FetchError("not_image", f"sent as compressed, which it is not: {error}") from error

    def _judge_start(
        self, chunk: bytes, wrong_size: bool, response: "aiohttp.ClientResponse", expected: Expected
    ) -> None:
        if not wrong_size:
            return
        kind = refuse_start(chunk[:16])
        if kind is None:
            kind = "too_large" if (response.content_length or 0) > (expected.size or 0) else "checksum"
        raise FetchError(kind, f"{response.content_length} bytes, OriginalSize says {expected.size}")

    async def _keep(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self._held += len(chunk)
        if self._held > self._memory_bytes:
            self.spooled = True
            await self._flush()

    async def _flush(self) -> None:
        block, self.chunks, self._held = b"".join(self.chunks), [], 0
        try:
            await finished(self._append(block))
        except OSError as error:
            raise storage_error(error, Path(self._part).parent) from error

    async def _append(self, block: bytes) -> None:
        async with aiofiles.open(self._part, "ab") as file:
            await file.write(block)
