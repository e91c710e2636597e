"""One image after another on one connection, without waking a task in between.

    worker ──attempt──▶ ask ──▶ answer ─plain─▶ landed ──▶ following ──▶ ask ...
                                   └─anything else, or nothing follows─▶ the worker goes on

Of a million answers nearly all are plain: 200, of a known length, whole. To carry each of them up through the tasks
and the next request down again costs more of a processor than the answer itself; so both are done where the last byte
comes in, and a task is woken for what is not plain.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from oid_async.http.urls import Route
from oid_async.store.image_writer import ReceivedImage
from oid_async.transfer.image_transfer import ImageTransfer

if TYPE_CHECKING:
    from oid_async.http.client import Client
    from oid_async.http.connection import Connection


class PlainResponses(Protocol):
    """Receives plain responses: status 200, of a known length, complete and small enough for memory."""

    def takes(self, job: ImageTransfer, connection: "Connection") -> bool:
        """Return whether the response whose head has arrived is plain."""

    def arrived(
        self, job: ImageTransfer, body: bytes | bytearray, etag: str | None, began: float, now: float
    ) -> ReceivedImage:
        """Return the image of a plain response."""


class KeepAliveChain:
    """The images of one worker. `job` is the one that is being asked for.

    `following` is given a job whose body has come and returns one that may be asked for at once in its place, of the
    same origin; None ends the streak. `landed` then takes the body. Neither may wait; what they raise is raised by
    `Fetcher.attempt`.
    """

    job: ImageTransfer
    route: Route
    began: float

    def __init__(
        self,
        client: "Client",
        fetcher: PlainResponses,
        *,
        following: Callable[[ImageTransfer], ImageTransfer | None],
        landed: Callable[[ImageTransfer, ReceivedImage], None],
    ) -> None:
        self._client = client
        self._fetcher = fetcher
        self._following = following
        self._landed = landed
        self.has_gone_on = False
        self.failed: BaseException | None = None

    def begin(self) -> "KeepAliveChain":
        """Begin with `job`."""
        self.route, self.has_gone_on = self.job.route, False
        return self

    def takes(self, connection: "Connection") -> bool:
        """Return whether an answer is plain so far."""
        return self._fetcher.takes(self.job, connection)

    def goes_on(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        """Hand the body on and return the next request; None: the worker takes it from here."""
        try:
            return self._next(connection, body)
        except BaseException as error:
            # The loop would take it for the connection's fault.
            self.failed = error
            return None

    def _next(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        done, client = self.job, self._client
        job = self._following(done)
        if job is None:
            return None
        began = client.hosts.clock()
        image = self._fetcher.arrived(done, body, connection.etag, self.began, began)
        self.job, self.route, self.began, self.has_gone_on = job, job.route, began, True
        self._landed(done, image)
        job.attempts.made += 1
        job.host.requests += 1
        client.requests += 1
        return client.request_for(job.route)
