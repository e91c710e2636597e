"""One image: its sources in order, each asked until it answers, the body handed on to be checked and stored.

An `ImageTransfer` is an image on its way: which source it has come to and what went wrong before. `Fetcher.attempt`
makes one attempt and says what comes of it: received, again after a delay, or failed. The scheduler holds it meanwhile.
"""

import errno
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from oid_async.concurrency import finished
from oid_async.errors import storage_error
from oid_async.http.estimator import BYTES_UNDER_WAY
from oid_async.http.etags import EtagTrust
from oid_async.http.hosts import ClosedHostError, Host
from oid_async.http.resume import ask_for_rest, is_strong, whole_length
from oid_async.http.retry import Attempts, FetchError, Limits, is_final
from oid_async.http.urls import Route, parse_url
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.report import Outcome, parse_detail, write_detail
from oid_async.store.image_check import Expected, refuse_start
from oid_async.store.image_writer import ReceivedImage

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response
    from oid_async.http.connection import Connection
    from oid_async.transfer.keep_alive import KeepAliveChain

_UNPACKED_AT_ONCE = 256 << 10  # a bomb goes off in portions that memory and the event loop do not feel
_START_BYTES = 16
# Sixty-four images of the usual 300 KB fit, and more where a host far away has more under way; beyond that bodies go to
# the disk early.
_HELD_BYTES = 20 << 20
_HELD_EACH = 320 << 10
_LEAST_SPOOLED = 128 << 10
_NO_DESCRIPTOR_WAIT_S = 0.25
_BACK = "+"
_NOTHING = Expected()


@dataclass(frozen=True, slots=True)
class Target:
    """One image to fetch: a row of the plan, and its `place` there. `known` holds the failures that are remembered."""

    place: int
    image_id: str
    file_name: str
    subset: str | None
    original_url: str | None
    original: Expected
    thumbnail_url: str | None
    known: str | None
    copy_bytes: int | None = None

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
        """Return what is known of a source's bytes: OriginalSize and OriginalMD5 are the original's.

        `copy_bytes` is the size of the bucket's copy, where its listing was fetched.
        """
        if source == "original":
            return self.original
        return _NOTHING if source != "cvdf" or self.copy_bytes is None else Expected(self.copy_bytes, None)


@dataclass(frozen=True, slots=True)
class PartialBody:
    """The first bytes of a body that broke off, in its temporary file: how many, of what, of how many in all."""

    size: int
    etag: str
    total: int | None


@dataclass(slots=True)
class ImageTransfer:
    """One image on its way to its outcome.

    `source` is the one it has come to: `route` is where its request goes, `written` what is written down of that.
    `history` has the failure kind of each source that is done with, `before` the attempts they took. `held` are its
    body's bytes in memory until it has landed; `is_back`: another process has had it and given it back.
    """

    target: Target
    history: dict[str, str]
    before: int
    attempts: Attempts
    source: Source
    route: Route
    written: str
    host: Host
    partial: PartialBody | None = None
    held: int = 0
    is_back: bool = False

    @property
    def place(self) -> int:
        """Where in the plan the image stands."""
        return self.target.place

    @property
    def note(self) -> str | None:
        """What `Fetcher.recall` needs beside the target; None once this source has been asked."""
        back = _BACK if self.is_back else ""
        return None if self.attempts.made else f"{back}{self.before} {write_detail(self.history)}"

    def follows(self, other: "ImageTransfer") -> bool:
        """Return whether it can be asked for on the connection that another job's body has come on."""
        return self.route.origin is other.route.origin and self.partial is None


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again, of the job's host as it stands now, after a delay; `exhausted` says that descriptors ran out."""

    delay_s: float
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """No source has it, or the one that may has failed to the end."""

    outcome: Outcome


class Fetcher:
    """Fetches images one attempt at a time, from `sources` in order.

    `part` names the temporary file of an image. `written` stands for the mirror's address in what is written down: an
    embedded origin has another one every time.
    """

    def __init__(
        self,
        client: "Client",
        *,
        sources: tuple[Source, ...],
        mirror: str | None,
        written: str | None,
        part: Callable[[str], str],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._sources = sources
        self._mirror = mirror
        self._written = written
        self._part = part
        self._jitter = jitter
        self._shared = BodyMemory()
        self._bucket: Route | None = None

    def keep_alive(
        self,
        *,
        following: Callable[[ImageTransfer], ImageTransfer | None],
        landed: Callable[[ImageTransfer, ReceivedImage], None],
    ) -> "KeepAliveChain":
        """Return what one worker needs to go on from one job to the next without being woken."""
        from oid_async.transfer.keep_alive import KeepAliveChain

        return KeepAliveChain(self._client, self, following=following, landed=landed)

    def begin(self, target: Target) -> ImageTransfer | Failed:
        """Return the job of an image of the plan; Failed if there is nothing to ask for."""
        return self._turn(target, parse_detail(target.known), 0, None)

    def recall(self, target: Target, note: str) -> ImageTransfer | Failed:
        """Return the job that left this note behind."""
        before, _, detail = note.partition(" ")
        job = self._turn(target, parse_detail(detail), int(before.removeprefix(_BACK)), None)
        if isinstance(job, ImageTransfer):
            job.is_back = before.startswith(_BACK)
        return job

    def settled(self, job: ImageTransfer) -> None:
        """Say that a job's body is no longer in memory."""
        self._shared.held -= job.held
        job.held = 0

    async def attempt(
        self, job: ImageTransfer, keep_alive: "KeepAliveChain | None" = None
    ) -> ReceivedImage | Retry | Failed:
        """Make one attempt. Raises StorageError when the disk says no.

        Only what is final for the object moves on to the next source; a passing fault ends as failed, because the next
        run may well get the better copy. A `keep_alive` chain goes on with other jobs as long as their bodies come
        whole; what is returned is then the end of `keep_alive.job`, the last one.
        """
        if keep_alive is not None:
            keep_alive.job = job
        if (gone := job.host.given_up(job.route.origin.asked)) is not None:
            error = gone.again()
        else:
            job.attempts.made += 1
            try:
                if keep_alive is not None and self._may_go_on(job):
                    return await self._receive_in(keep_alive)
                return await self._receive(job)
            except FetchError as failed:
                error = failed
        if keep_alive is not None:
            job = keep_alive.job
        end = self._judge(job, error)
        if job.partial is not None and (isinstance(end, Failed) or job.attempts.made == 0):
            # The image has failed, or has turned to another source.
            job.partial = None
            await _unlink(self._part(job.target.image_id))
        return end

    def refused(self, job: ImageTransfer, reason: str) -> Retry | Failed:
        """Decide what comes of a job whose body was not the image."""
        return self._judge(job, FetchError(reason, "the body is not the image"))

    def _judge(self, job: ImageTransfer, error: FetchError) -> Retry | Failed:
        """Decide what comes after a failure."""
        if error.exhausted:
            job.attempts.made -= 1
            return Retry(_NO_DESCRIPTOR_WAIT_S, exhausted=True)
        if isinstance(error, ClosedHostError) and error.host.gave_up is None:
            job.attempts.made -= 1
            job.host = error.host
            return Retry(0.0)
        wait_s = job.attempts.wait_s(error, self._jitter())
        now = self._client.hosts.clock()
        if wait_s is not None:
            # A host that is closed makes all its images wait: behind the others, so that they take turns in probing.
            return Retry(0.0 if job.host.is_closed(now) else max(wait_s, job.host.retry_delay_s(now)))
        job.history[job.source] = error.kind
        job.before += job.attempts.made
        if not is_final(error.kind):
            return Failed(self._outcome(job.target, job.history, error.kind, job.source, job.written, job.before))
        turned = self._turn(job.target, job.history, job.before, job)
        return turned if isinstance(turned, Failed) else Retry(0.0)

    def _turn(
        self, target: Target, history: dict[str, str], before: int, job: ImageTransfer | None
    ) -> ImageTransfer | Failed:
        """Turn to the first source that may have the image and is not known to have failed for good."""
        reason, last = "bad_url", self._sources[0]
        written = job.written if job is not None else None
        for source in self._sources:
            if source in history and is_final(history[source]):
                reason, last = history[source], source
                continue
            last = source
            written_here = target.url(source, self._written)
            if written_here is None:
                history[source] = reason = "bad_url"
                continue
            written = written_here
            try:
                route = self._route(target, source)
            except FetchError as error:
                history[source] = reason = error.kind
                continue
            host, attempts = self._client.hosts.named(route.origin.host), Attempts(self._client.limits)
            if job is None:
                return ImageTransfer(target, history, before, attempts, source, route, written, host)
            job.source, job.route, job.written, job.host, job.attempts = source, route, written, host, attempts
            return job
        return Failed(self._outcome(target, history, reason, last, written, before))

    def _route(self, target: Target, source: Source) -> Route:
        """Return where a source has this image. Raises FetchError."""
        if source == "cvdf" and target.image_id.isalnum() and target.image_id.isascii():
            # A million images of one bucket need its URL taken apart once.
            if self._bucket is None:
                self._bucket = Route.of(parse_url(object_url(IMAGE_BUCKET, "", self._mirror)))
            return Route(self._bucket.origin, f"{self._bucket.path}{target.subset}/{target.image_id}.jpg")
        return Route.of(parse_url(target.url(source, self._mirror) or ""))

    def _outcome(
        self, target: Target, history: dict[str, str], reason: str, source: str, url: str | None, attempts: int
    ) -> Outcome:
        detail = write_detail(history)
        return Outcome(target.image_id, "failed", None, reason, detail, source, url, attempts=attempts)

    def _may_go_on(self, job: ImageTransfer) -> bool:
        """Return whether other jobs may follow this one on its connection."""
        return job.partial is None and job.host.limiter is None and not self._client.is_throttled

    async def _receive_in(self, keep_alive: "KeepAliveChain") -> ReceivedImage:
        """Ask for the streak's job and for those that follow; return the last one's body."""
        try:
            answer = await self._client.ask(keep_alive.job.route, chain=keep_alive.begin())
        finally:
            self.settled(keep_alive.job)
            if keep_alive.failed is not None:
                raise keep_alive.failed
        return await self._receive(keep_alive.job, answer)

    def takes(self, job: ImageTransfer, connection: "Connection") -> bool:
        """Return whether an answer is the plain one that nearly all are: the whole of a body that fits into memory."""
        length, wanted, shared = connection.length, job.target.expected(job.source).size, self._shared
        if connection.status != 200 or connection.encoding or not length:
            return False
        limits = self._client.limits
        if length > min(limits.max_image_bytes, limits.memory_bytes) or wanted not in (None, length):
            return False
        if shared.held + length > shared.most and length > _LEAST_SPOOLED:
            return False
        job.held = length
        shared.held += length
        return True

    def arrived(
        self, job: ImageTransfer, body: bytes | bytearray, etag: str | None, began: float, now: float
    ) -> ReceivedImage:
        """Return the body of a plain answer, for the one who stores it."""
        host = job.host
        host.answered(began)
        self._delivered(host, len(body), began, now)
        return self._arrival(job, [body], len(body), etag, host.etags)

    def _delivered(self, host: Host, size: int, began: float, now: float) -> None:
        host.delivered(size, began, now)
        self._shared.most = max(_HELD_BYTES, min(BYTES_UNDER_WAY, int(host.window) * _HELD_EACH))

    async def _receive(self, job: ImageTransfer, answer: "Response | None" = None) -> ReceivedImage:
        """Return the body of an answer, small ones in memory, large ones spooled to a temporary file.

        Without an answer one request is made.
        """
        target, expected = job.target, job.target.expected(job.source)
        partial, job.partial = job.partial, None
        body = ResponseBody(self._part(target.image_id), self._client.limits, expected, self._shared, partial)
        try:
            if answer is None:
                answer = await self._client.ask(job.route, body.conditions())
            try:
                await body.receive(answer, in_pieces=self._client.is_throttled)
                etag, host = answer.connection.etag, answer.host
                self._delivered(host, body.size, answer.began, self._client.hosts.clock())
            except FetchError as error:
                answer.blame(error)
                raise
            finally:
                answer.close()
        except FetchError as error:
            if error.status == 416 and partial is not None:
                # There is no such rest: what is there now is shorter, and the server does not heed If-Range.
                error = FetchError("truncated", f"asked for the rest from byte {partial.size}: {error}")
                await body.discard()
                raise error from None
            job.partial = await body.keep(error)
            raise
        except BaseException:
            await body.discard()
            raise
        return self._arrival(job, body.hand_over(job), body.size, etag, host.etags, spooled=body.spooled)

    def _arrival(
        self,
        job: ImageTransfer,
        chunks: list[bytes | bytearray],
        size: int,
        etag: str | None,
        etags: EtagTrust,
        *,
        spooled: bool = False,
    ) -> ReceivedImage:
        target = job.target
        return ReceivedImage(
            target.image_id,
            target.file_name,
            job.source,
            job.written,
            chunks,
            spooled,
            size,
            target.expected(job.source),
            etag if job.source == "cvdf" else None,
            etags,
            job.before + job.attempts.made,
        )


@dataclass(slots=True)
class BodyMemory:
    """What all bodies of a run hold in memory, and what they may, in bytes."""

    held: int = 0
    most: int = _HELD_BYTES


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
        crowded = self._shared.held + length > self._shared.most and length > _LEAST_SPOOLED
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

    def hand_over(self, job: ImageTransfer) -> list[bytes | bytearray]:
        """Return what is held in memory, for the one who stores it; until then the job answers for it."""
        chunks, job.held = self.chunks, self._held
        self.chunks, self._held = [], 0
        return chunks

    async def discard(self) -> None:
        """Drop what was kept so far."""
        self._put_down()
        if self.spooled:
            await _unlink(self._part)

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
        crowded = self._shared.held > self._shared.most and self._held > _LEAST_SPOOLED
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


async def _unlink(part: str) -> None:
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
