"""One image: its sources in order, each asked until it answers, the body handed on to be checked and stored.

An `ImageTransfer` is an image on its way: which source it has come to and what went wrong before. `Fetcher.attempt`
makes one attempt and says what comes of it: received, again after a delay, or failed. The scheduler holds it meanwhile.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from oid_async.http.estimator import BYTES_UNDER_WAY
from oid_async.http.etags import EtagTrust
from oid_async.http.hosts import ClosedHostError, Host
from oid_async.http.retry import Attempts, FetchError, is_final
from oid_async.http.urls import Route, parse_url
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import Source
from oid_async.report import Outcome, parse_detail, write_detail
from oid_async.store.image_writer import ReceivedImage
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry, Target
from oid_async.transfer.keep_alive import KeepAliveChain
from oid_async.transfer.response_body import BASE_HELD_BYTES, LEAST_SPOOLED, BodyMemory, ResponseBody, remove_part

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response
    from oid_async.http.connection import Connection

_HELD_EACH = 320 << 10
_NO_DESCRIPTOR_WAIT_S = 0.25
_BACK = "+"


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
    ) -> KeepAliveChain:
        """Return what one worker needs to go on from one job to the next without being woken."""
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
        self, job: ImageTransfer, keep_alive: KeepAliveChain | None = None
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
            await remove_part(self._part(job.target.image_id))
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

    async def _receive_in(self, keep_alive: KeepAliveChain) -> ReceivedImage:
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
        if shared.held + length > shared.most and length > LEAST_SPOOLED:
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
        self._shared.most = max(BASE_HELD_BYTES, min(BYTES_UNDER_WAY, int(host.window) * _HELD_EACH))

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
        chunks, job.held = body.hand_over()
        return self._arrival(job, chunks, body.size, etag, host.etags, spooled=body.spooled)

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
