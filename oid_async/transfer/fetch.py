"""Fetching one image: its sources in order, each requested until it responds; the body is returned to be stored.

`Fetcher.attempt` makes one attempt and returns how it ended: received, again after a delay, or failed. The scheduler
holds the `ImageTransfer` between attempts.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from oid_async.http.estimator import BYTES_UNDER_WAY
from oid_async.http.etag import EtagTrust
from oid_async.http.host import ClosedHostError, Host
from oid_async.http.retry import Attempts, FetchError, is_final
from oid_async.http.urls import Origin, Route, parse_url
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.report import OPTED_OUT, Outcome, kind_of, parse_detail, write_detail
from oid_async.store.failure_memory import write_asked
from oid_async.store.image_writer import ReceivedImage
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry, Target, parse_state
from oid_async.transfer.keep_alive import KeepAliveChain
from oid_async.transfer.response_body import (
    LEAST_HELD_BYTES,
    LEAST_SPOOLED,
    BodyMemory,
    ResponseBody,
    opted_out,
    remove_part,
)

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response
    from oid_async.http.connection import Connection

_HELD_EACH = 320 << 10
_NO_DESCRIPTOR_WAIT_S = 0.25


class _Bucket(NamedTuple):
    """The bucket of the images, or a mirror's copy: `path` and `url` go before the key of an image.

    `url` is what is written down.
    """

    origin: Origin
    path: str
    url: str


class Fetcher:
    """Fetches images one attempt at a time, from `sources` in order.

    `part` returns the temporary file of an image. `recorded_mirror` replaces the mirror's address in what is written
    down: an embedded origin has another address every time.
    """

    def __init__(
        self,
        client: "Client",
        *,
        sources: tuple[Source, ...],
        mirror: str | None,
        recorded_mirror: str | None,
        part: Callable[[str, str | None], str],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.client = client
        self._sources = sources
        self._mirror = mirror
        self._recorded_mirror = recorded_mirror
        self._part = part
        self._jitter = jitter
        self._memory = BodyMemory()
        self._bucket: _Bucket | None = None
        self._limits = client.limits
        self._window = 0.0  # for which `_memory.most` is right
        self.clock = client.hosts.clock

    def start(self, target: Target) -> ImageTransfer | Failed:
        """Return the transfer of an image of the plan; Failed if no source can be requested."""
        bucket, sources = self._bucket, target.sources or self._sources
        if bucket is None or sources[0] != "cvdf" or target.known is not None or not _has_plain_key(target):
            return self._choose_source(target, parse_detail(target.known), 0, None)
        # So it is for a million images of one bucket: its URL is parsed once, and what each needs is joined to it.
        key, host = f"{target.subset}/{target.image_id}.jpg", self.client.hosts.named(bucket.origin.host)
        route, url = Route(bucket.origin, bucket.path + key), bucket.url + key
        return ImageTransfer(target, {}, 0, Attempts(self._limits), "cvdf", route, url, host)

    def restore(self, target: Target, state: str) -> ImageTransfer | Failed:
        """Return the transfer that had this `saved_state`."""
        earlier_attempts, history, was_returned = parse_state(state)
        transfer = self._choose_source(target, history, earlier_attempts, None)
        if isinstance(transfer, ImageTransfer):
            transfer.was_returned = was_returned
        return transfer

    def release_memory(self, transfer: ImageTransfer) -> None:
        """Note that a transfer's body is no longer in memory."""
        self._memory.held -= transfer.held_bytes
        transfer.held_bytes = 0

    async def attempt(self, transfer: ImageTransfer, chain: KeepAliveChain) -> ReceivedImage | Retry | Failed:
        """Make one attempt. Raises StorageError when the disk fails.

        Only a failure that is final for the object moves on to the next source; a passing one ends as failed, because
        the next run may well get the better copy. The chain goes on with other transfers as long as their responses
        are plain; the result is then that of `chain.transfer`, the last one.
        """
        chain.transfer = transfer
        if (gone := transfer.host.given_up(transfer.route.origin.endpoint)) is not None:
            error = gone.again()
        else:
            transfer.attempts.made += 1
            try:
                if self._may_use_chain(transfer):
                    return await self._receive_in_chain(chain)
                return await self._receive(transfer)
            except FetchError as failed:
                error = failed
        transfer = chain.transfer
        end = self._handle_error(transfer, error)
        if transfer.partial is not None and (isinstance(end, Failed) or transfer.attempts.made == 0):
            # The image has failed, or has moved on to another source.
            transfer.partial = None
            await remove_part(self._part(transfer.target.image_id, transfer.target.subset))
        return end

    def handle_refusal(self, transfer: ImageTransfer, reason: str) -> Retry | Failed:
        """Decide what follows when a body was not the image; `reason` is a kind, perhaps with words behind it."""
        kind, host = kind_of(reason), transfer.served_by or transfer.host
        host.measures.refused(kind)
        transfer.served_by = None
        return self._handle_error(transfer, FetchError(kind, "the body is not the image"), reason)

    def _handle_error(self, transfer: ImageTransfer, error: FetchError, reason: str | None = None) -> Retry | Failed:
        """Decide what follows after an error; `reason` is written down for it, by default its kind."""
        if error.exhausted:
            transfer.attempts.made -= 1
            return Retry(_NO_DESCRIPTOR_WAIT_S, exhausted=True)
        if isinstance(error, ClosedHostError) and error.host.gave_up is None:
            transfer.attempts.made -= 1
            transfer.host = error.host
            return Retry(0.0)
        wait_s = transfer.attempts.wait_s(error, self._jitter())
        now = self.client.hosts.clock()
        if wait_s is not None:
            host, asked_s = transfer.host, error.retry_after_s or 0.0
            # While all images of it wait, this one waits behind the others, so that they take turns as its probe.
            delay_s = asked_s if host.is_closed(now) else max(wait_s, host.retry_delay_s(now))
            host.measures.retried(error.kind)
            if delay_s:
                host.note_wait("retry_after" if asked_s else "backoff", now, now + delay_s)
            return Retry(delay_s)
        transfer.history[transfer.source] = reason or error.reason
        transfer.earlier_attempts += transfer.attempts.made
        if not is_final(error.kind) or error.kind == OPTED_OUT:
            return self._failed(
                transfer.target,
                transfer.history,
                error.kind,
                transfer.source,
                transfer.recorded_url,
                transfer.earlier_attempts,
            )
        chosen = self._choose_source(transfer.target, transfer.history, transfer.earlier_attempts, transfer)
        return chosen if isinstance(chosen, Failed) else Retry(0.0)

    def _choose_source(
        self, target: Target, history: dict[str, str], earlier_attempts: int, transfer: ImageTransfer | None
    ) -> ImageTransfer | Failed:
        """Return a transfer, the given one or a new one, at the first source not known to have failed for good."""
        sources = target.sources or self._sources
        reason, last = "bad_url", sources[0]
        recorded_url = transfer.recorded_url if transfer is not None else None
        for source in sources:
            recorded = target.url(source, self._recorded_mirror)
            if source in history and is_final(kind := kind_of(history[source])):
                reason, last = kind, source
                if kind == OPTED_OUT:
                    recorded_url = recorded
                    break
                continue
            last = source
            if recorded is None:
                history[source] = reason = "bad_url"
                continue
            recorded_url = recorded
            try:
                route = self._route(target, source)
            except FetchError as error:
                history[source] = reason = error.kind
                continue
            host, attempts = self.client.hosts.named(route.origin.host), Attempts(self.client.limits)
            if transfer is None:
                return ImageTransfer(target, history, earlier_attempts, attempts, source, route, recorded_url, host)
            transfer.source, transfer.route, transfer.recorded_url = source, route, recorded_url
            transfer.host, transfer.attempts = host, attempts
            return transfer
        return self._failed(target, history, reason, last, recorded_url, earlier_attempts)

    def _failed(
        self, target: Target, history: dict[str, str], reason: str, source: str, url: str | None, attempts: int
    ) -> Failed:
        mirror = self._recorded_mirror
        sources = target.sources or self._sources
        finals = [each for each in sources if each in history and is_final(kind_of(history[each]))]
        asked = write_asked((each, target.url(each, mirror), target.expected(each)) for each in finals)
        detail, subset = write_detail(history), target.subset
        return Failed(
            Outcome(
                *(target.image_id, "failed", None, reason, detail, source, url),
                attempts=attempts,
                subset=subset,
                asked=asked,
            )
        )

    def _route(self, target: Target, source: Source) -> Route:
        """Return where a source has this image. Raises FetchError."""
        if source == "cvdf" and _has_plain_key(target):
            if self._bucket is None:
                route = Route.of(parse_url(object_url(IMAGE_BUCKET, "", self._mirror)))
                self._bucket = _Bucket(route.origin, route.path, object_url(IMAGE_BUCKET, "", self._recorded_mirror))
            return Route(self._bucket.origin, f"{self._bucket.path}{target.subset}/{target.image_id}.jpg")
        return Route.of(parse_url(target.url(source, self._mirror) or ""))

    def _may_use_chain(self, transfer: ImageTransfer) -> bool:
        """Return whether other transfers may follow this one on its connection."""
        return transfer.partial is None and transfer.host.limiter is None and not self.client.is_throttled

    async def _receive_in_chain(self, chain: KeepAliveChain) -> ReceivedImage:
        """Request the image of the chain and those that follow; return the last one."""
        try:
            response = await self.client.request(chain.transfer.route, chain=chain.start(), asked_by=chain)
        finally:
            self.release_memory(chain.transfer)
            if chain.failed is not None:
                raise chain.failed
        return await self._receive(chain.transfer, response)

    def accepts_plain(self, transfer: ImageTransfer, connection: "Connection") -> bool:
        """Return whether a response is plain as nearly all are: status 200, all of a body that fits into memory."""
        length, limits, memory = connection.length, self._limits, self._memory
        if connection.status != 200 or connection.encoding or not length:
            return False
        if connection.opt_out_lines and opted_out(connection, limits) is not None:
            return False
        if length > limits.max_image_bytes or length > limits.memory_bytes:
            return False
        if transfer.target.expected(transfer.source).size not in (None, length):
            return False
        if memory.held + length > memory.most and length > LEAST_SPOOLED:
            return False
        transfer.held_bytes = length
        memory.held += length
        return True

    def receive_plain(
        self, transfer: ImageTransfer, body: bytes | bytearray, connection: "Connection", began: float, now: float
    ) -> ReceivedImage:
        """Return the image of a plain response, to be stored."""
        host, size = transfer.host, len(body)
        host.responded(began)
        self._count_body(host, size, began, now)
        host.measures.received(size, connection.sent_at, connection.head_at, now)
        return self._received_image(transfer, [body], size, connection.etag, host.etags)

    def _count_body(self, host: Host, size: int, began: float, now: float) -> None:
        host.delivered(size, began, now)
        if host.window != self._window:
            self._window = host.window
            self._memory.most = max(LEAST_HELD_BYTES, min(BYTES_UNDER_WAY, int(host.window) * _HELD_EACH))

    async def _receive(self, transfer: ImageTransfer, response: "Response | None" = None) -> ReceivedImage:
        """Make one request, if there is no response yet; return the body, in memory or spooled to a temporary file."""
        target, expected = transfer.target, transfer.target.expected(transfer.source)
        partial, transfer.partial = transfer.partial, None
        body = ResponseBody(
            self._part(target.image_id, target.subset), self.client.limits, expected, self._memory, partial
        )
        try:
            if response is None:
                response = await self.client.request(transfer.route, body.conditions(), asked_by=transfer)
            try:
                await body.receive(response, in_pieces=self.client.is_throttled)
                etag, host, now = response.connection.etag, response.host, self.client.hosts.clock()
                self._count_body(host, body.size, response.began, now)
                host.measures.completed(response.connection.sent_at, now)
                transfer.served_by = host
            except FetchError as error:
                response.record_failure(error)
                raise
            finally:
                response.close()
        except FetchError as error:
            if error.status == 416 and partial is not None:
                # There is no such rest: the object is shorter now, and the server ignores If-Range.
                error = FetchError("truncated", f"asked for the rest from byte {partial.size}: {error}")
                await body.discard()
                raise error from None
            transfer.partial = await body.keep(error)
            raise
        except BaseException:
            await body.discard()
            raise
        chunks, transfer.held_bytes = body.hand_over()
        return self._received_image(transfer, chunks, body.size, etag, host.etags, spooled=body.spooled)

    def _received_image(
        self,
        transfer: ImageTransfer,
        chunks: list[bytes | bytearray],
        size: int,
        etag: str | None,
        etags: EtagTrust,
        *,
        spooled: bool = False,
    ) -> ReceivedImage:
        target = transfer.target
        return ReceivedImage(
            target.image_id,
            target.file_name,
            transfer.source,
            transfer.recorded_url,
            chunks,
            spooled,
            size,
            target.expected(transfer.source),
            etag if transfer.source == "cvdf" else None,
            etags,
            transfer.earlier_attempts + transfer.attempts.made,
            target.subset,
            self.client.spare_bodies,
        )


def _has_plain_key(target: Target) -> bool:
    """Return whether the bucket has the image under a name that needs no escapes."""
    return target.subset in SPLITS and target.image_id.isalnum() and target.image_id.isascii()
