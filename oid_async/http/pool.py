"""The connections of one client: how many there are, which are idle, and that none of them hangs."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from time import monotonic

from oid_async.concurrency import in_thread
from oid_async.http.connecting import MadeConnection
from oid_async.http.connection import SCRATCH_BYTES, Connection
from oid_async.http.retry import Limits
from oid_async.http.spare_bodies import SpareBodies
from oid_async.http.tls import TlsTransport, make_context

_IDLE_S = 4.0  # one idle connection of each of a thousand hosts would leave no descriptor for the next
_CHECKS_A_LIMIT = 8  # how often within the shortest limit the busy connections are checked
_CHECK_S = (0.005, 0.5)


class ConnectionPool:
    """Keeps at most `most` connections: one timer checks the busy ones; idle ones wait a while for the next request.

    Idle connections are kept by the origin that they lead to; `clock` times what is sent and received. Made within a
    running loop; `watch` starts the timer, `close` ends it.
    """

    def __init__(self, most: int, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._limits = limits
        self._clock = clock
        self._all: set[Connection] = set()
        self._pending = 0
        self._idle: dict[Hashable, deque[Connection]] = {}
        shortest_s = min(limits.first_byte_s, limits.silence_s, limits.slow_s / 4, limits.attempt_s)
        self._check_s = min(max(shortest_s / _CHECKS_A_LIMIT, _CHECK_S[0]), _CHECK_S[1])
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.spare_bodies = SpareBodies()
        self._tls_context: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._checked_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin to check the connections."""
        self._checked_at = self._loop.time()
        self._timer = self._loop.call_later(self._check_s, self._check)

    def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._all):
            self.drop(connection)

    @property
    def longest_left_s(self) -> float:
        """Return the longest time that a busy connection, or one that is being made, has left if nothing more comes."""
        busy = [connection.left_s for connection in self._all if connection.is_busy]
        return max(busy, default=self._limits.connect_s)

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Count a connection that is being made; if there are too many, close the one that has been idle longest."""
        if len(self._all) + self._pending >= self._most:
            queues = [connections for connections in self._idle.values() if connections]
            if queues:
                self.drop(min(queues, key=lambda connections: connections[0].idle_since).popleft())
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def add(self, made: MadeConnection, tls: TlsTransport | None = None) -> Connection:
        """Return the connection on what was just made. Raises FetchError for one that is closed already."""
        connection = Connection(made, self._limits, self._scratch, self._clock, tls=tls, spare=self.spare_bodies)
        self._all.add(connection)
        return connection

    async def start_tls(self, made: MadeConnection, server_hostname: str) -> TlsTransport:
        """Return TLS on a plain connection, after its handshake. Raises OSError; it is closed then."""
        async with self._tls_lock:  # the first connections of a run are made at once
            if self._tls_context is None:
                self._tls_context = await in_thread(make_context)
        if made.transport is None:
            raise ConnectionResetError("the connection was closed as soon as it was made")
        tls = TlsTransport(made.transport, self._tls_context, server_hostname, self._scratch)
        await tls.handshake()
        return tls

    def take(self, origin: Hashable) -> Connection | None:
        """Return the idle connection to an origin that was used last, None if there is none."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            self._all.discard(connection)
        return None

    def keep(self, connection: Connection, origin: Hashable) -> None:
        """Keep a connection whose response has ended as an idle one."""
        connection.set_idle(self._loop.time())
        self._idle.setdefault(origin, deque()).append(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        self._all.discard(connection)
        connection.abort()

    def busy(self) -> Iterator[Connection]:
        """Yield the connections whose response has not been read yet."""
        return (connection for connection in self._all if connection.is_busy)

    def _check(self) -> None:
        now = self._loop.time()
        # When this program was held up itself, no server is to blame for the time that is gone.
        passed_s, self._checked_at = min(now - self._checked_at, 2 * self._check_s), now
        for connection in self.busy():
            connection.check_limits(passed_s)
        for origin, connections in list(self._idle.items()):
            while connections and (now - connections[0].idle_since > _IDLE_S or not connections[0].is_usable):
                self.drop(connections.popleft())
            if not connections:
                del self._idle[origin]
        self._timer = self._loop.call_later(self._check_s, self._check)
