"""One image after another on one connection, without waking a task in between.

    task ──attempt──▶ request ──▶ response ─plain─▶ store ──▶ next_transfer ──▶ request ...
                                     └─anything else, or no next one─▶ the task goes on

Of a million responses nearly all are plain: 200, of a known length, complete. To pass each of them up through the tasks
and the next request down again costs more of a processor than the response itself; so both are done where the last
byte is received, and a task is woken for what is not plain.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from oid_async.http.host import Host
from oid_async.store.image_writer import ReceivedImage
from oid_async.transfer.image_transfer import ImageTransfer

if TYPE_CHECKING:
    from oid_async.http.client import Client
    from oid_async.http.connection import Connection


class _PlainResponses(Protocol):
    """Receives plain responses: status 200, a known length, and a body that is complete and fits into memory."""

    client: "Client"

    def accepts_plain(self, transfer: ImageTransfer, connection: "Connection") -> bool: ...
    def receive_plain(
        self, transfer: ImageTransfer, body: bytes | bytearray, connection: "Connection", began: float, now: float
    ) -> ReceivedImage: ...


class KeepAliveChain:
    """The images of one task, one after the other. `transfer` is the one that is being requested.

    `next_transfer` is given a transfer whose body has arrived and returns one of the same origin that may be requested
    at once in its place; None ends the chain. `store` then takes the body. Neither may wait; what they raise is raised
    by `Fetcher.attempt`.
    """

    def __init__(
        self,
        responses: _PlainResponses,
        transfer: ImageTransfer,
        *,
        next_transfer: Callable[[ImageTransfer], ImageTransfer | None],
        store: Callable[[ImageTransfer, ReceivedImage], None],
    ) -> None:
        self._client = responses.client
        self._responses = responses
        self._next_transfer = next_transfer
        self._store = store
        self.transfer = transfer
        self.route = transfer.route
        self.began = 0.0
        self.has_advanced = False
        self.failed: BaseException | None = None

    @property
    def host(self) -> Host:
        """Return the host of its images."""
        return self.transfer.host

    @property
    def retried(self) -> bool:
        """Return whether the image that is being requested has failed before."""
        return self.transfer.retried

    def start(self) -> "KeepAliveChain":
        """Start with `transfer`, and return the chain."""
        self.route, self.has_advanced = self.transfer.route, False
        return self

    def accepts(self, connection: "Connection") -> bool:
        """Return whether a response is plain so far."""
        return self._responses.accepts_plain(self.transfer, connection)

    def next_request(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        """Store the body and return the next request; None if the task has to go on from here."""
        try:
            return self._go_on(connection, body)
        except BaseException as error:
            # The loop would take it for an error of the connection.
            self.failed = error
            return None

    def _go_on(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        done, client = self.transfer, self._client
        transfer = self._next_transfer(done)
        if transfer is None:
            return None
        began = client.hosts.clock()
        image = self._responses.receive_plain(done, body, connection, self.began, began)
        self.transfer, self.route, self.began, self.has_advanced = transfer, transfer.route, began, True
        self._store(done, image)
        transfer.attempts.made += 1
        host = transfer.host
        host.requests += 1
        host.measures.requests += 1
        client.requests += 1
        return client.encode_request(transfer.route)
