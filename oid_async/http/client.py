"""The HTTP client of one run: connections made by aiohttp, every request admitted and counted, redirects by hand.

Every attempt ends: each of its phases has a limit (see `Limits`). Connecting has a timer of its own; for what follows
one timer looks after all connections that are busy, so that an image costs none.
"""

import asyncio
import socket
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiolimiter import AsyncLimiter
from multidict import CIMultiDict
from yarl import URL

from oid_async.errors import UsageError
from oid_async.http.address_guard import AddressGuard, Endpoint, endpoint, literal, was_refused
from oid_async.http.connection import SCRATCH_BYTES, Connection, KeepAliveHandler
from oid_async.http.hosts import ClosedHostError, Host, Hosts
from oid_async.http.retry import FetchError, Limits, connection_error, status_error
from oid_async.http.urls import Origin, Route, next_hop, parse_url
from oid_async.version import __version__

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_HEADERS: Mapping[str, str] = {}
_STUMBLES = ("timeout", "truncated", "network")
_PROXY_SCHEMES = ("http", "https")
_IDLE_S = 4.0  # one idle connection of each of a thousand hosts would leave no descriptor for the next
_LOOK_UPS_AT_ONCE = 32
_PORTION_BYTES = 16384.0
_MOST_ORIGINS = 4096  # a table may name a new host in every row
_CLOSED_UNUSED = 3  # connections in a row that the other side closes while they wait for their turn
_LOOKS_A_LIMIT = 8  # how often within the shortest limit the busy connections are looked at
_LOOK_S = (0.005, 0.5)
_ALWAYS = (
    f"User-Agent: oid-async/{__version__} (Open Images downloader)\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
)


@dataclass(frozen=True, slots=True, eq=False)
class _OriginAccess:
    """How one origin is come by: why it may not be asked, if so; the proxy to it. `site` is one of its URLs."""

    site: URL
    asked: Endpoint
    refused: str | None
    proxy: URL | None


class RequestChain(KeepAliveHandler, Protocol):
    """Goes on from a plain answer to the next request of the same origin: see `Client.ask`.

    `route` and `began` are those of the request that is under way; `has_gone_on` says that it is not the first one.
    """

    route: Route
    began: float
    has_gone_on: bool


class Client:
    """Owns the connections. `requests` counts what was really sent: hops, and what a stale connection swallowed.

    `allowed` are the endpoints that may be connected to although they are not public. No cookies are kept and no
    credentials sent; bodies are asked for as they are (identity) and never unpacked unseen. Proxies are those of the
    environment; one sees to the names itself, so that only what a URL says of its host can then be judged here. With
    `reports_closed_hosts` a redirect to a host that is closed raises ElsewhereError instead of waiting for it.
    """

    def __init__(
        self,
        hosts: Hosts,
        limits: Limits,
        *,
        connections: int,
        allowed: Iterable[Endpoint] = (),
        offline: bool = False,
        reports_closed_hosts: bool = False,
    ) -> None:
        self._offline = offline
        self._reports_closed_hosts = reports_closed_hosts
        self.hosts = hosts
        self.limits = limits
        self.requests = 0
        self._guard = AddressGuard(allowed)
        self._throttle = _make_throttle(limits.rate_bytes_s)
        self._turn = asyncio.Lock()
        self._proxies = _proxies()
        self._pool = ConnectionPool(connections, limits)
        self._accesses: dict[tuple[str, Endpoint], _OriginAccess] = {}
        self._connector: aiohttp.TCPConnector | None = None

    async def __aenter__(self) -> Self:
        self._resolver = _Resolver()
        self._connector = aiohttp.TCPConnector(
            limit=0,  # ours to keep
            ttl_dns_cache=300,
            resolver=self._resolver,
            socket_factory=self._guard.make_socket,
        )
        self._pool.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._connector is not None:
            self._pool.close()
            await self._connector.close()
            await self._resolver.close()
            # Closing a TLS transport takes one more turn of the loop; without it Python warns of an open socket.
            await asyncio.sleep(0)

    @property
    def is_throttled(self) -> bool:
        """Return whether all bodies share a limit on bytes a second."""
        return self._throttle is not None

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] = _NO_HEADERS, *, method: str = "GET"
    ) -> AsyncIterator["Response"]:
        """GET (or HEAD) a URL and yield the answer, as `ask` returns it."""
        answer = await self.ask(Route.of(parse_url(url)), headers, method=method)
        try:
            yield answer
        except FetchError as error:
            answer.blame(error)
            raise
        finally:
            answer.close()

    async def ask(
        self,
        target: Route,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        method: str = "GET",
        chain: RequestChain | None = None,
    ) -> "Response":
        """GET (or HEAD) what is there, following up to five redirects; return the answer, 200, 206 or 304. Close it.

        Raises FetchError for every other end. Offline every GET ends as `network` at once. A `chain` may go on with
        other requests to the same origin from the first answer; answer or error are then those of the last of them.
        """
        if self._offline:
            raise FetchError("network", "no request is made with --offline", hopeless=True, unsent=True)
        first: float | None = None
        for _ in range(self.limits.redirects + 1):
            answer = await self._send(method, target, headers, first, chain)
            if chain is not None:
                target, chain = chain.route, None
            first = answer.began if first is None else first
            try:
                if answer.status not in _REDIRECTS:
                    self._heed(answer)
                    answer.connection.allow(self.limits.attempt_s - (self.hosts.clock() - first))
                    return answer
                answer.host.answered(answer.began)
                target = Route.of(next_hop(target.url(), answer.headers.get("Location", "")))
            except BaseException:
                answer.close()
                raise
            answer.close()
        raise FetchError("redirect", f"more than {self.limits.redirects} redirects")

    async def _send(
        self, method: str, target: Route, headers: Mapping[str, str], first: float | None, chain: RequestChain | None
    ) -> "Response":
        """Send one request and return the answer once its head is there.

        `first` is when the first hop of the attempt was admitted, if this is another one.
        """
        access = self._accesses.get((target.origin.scheme, target.origin.asked)) or self._find_access(target.origin)
        if access.refused:
            self._tell_refused(access.refused)
            raise FetchError("blocked", access.refused, unsent=True)
        host, asked = self.hosts.named(target.origin.host), target.origin.asked
        if self._reports_closed_hosts and first is not None and host.is_closed(self.hosts.clock()):
            # Not in this worker's hands: the image waits in the lane of the host that it was sent on to.
            raise ClosedHostError(host)
        await self.hosts.opened(host, asked)
        request, is_head_alone = _request(method, target, headers, access.proxy), method == "HEAD"
        may_be_kept = True
        while True:
            connection, is_fresh = await self._admitted(access, host, may_be_kept=may_be_kept)
            began = self.hosts.clock()
            self.requests += 1
            if chain is not None:
                chain.began = began
            try:
                await connection.send(request, is_head_alone=is_head_alone, relay=chain)
            except FetchError as error:
                self._pool.drop(connection)
                if chain is not None and chain.has_gone_on:
                    began, is_fresh = chain.began, False
                    request = self.request_for(chain.route)
                if is_fresh or connection.heard or error.kind != "network":
                    self._blame(error, host, asked, began)
                    raise
                # It had been kept and was closed just now: then the request is sent once more.
                may_be_kept = False
            except BaseException:
                self._pool.drop(connection)
                raise
            else:
                return Response(self, connection, access, host, chain.began if chain is not None else began)

    def request_for(self, target: Route) -> bytes:
        """Return the request for what is there, to an origin that is being asked already."""
        return _request("GET", target, _NO_HEADERS, self._accesses[target.origin.scheme, target.origin.asked].proxy)

    async def _admitted(self, access: "_OriginAccess", host: Host, *, may_be_kept: bool) -> tuple[Connection, bool]:
        """Return a connection on which a request may be sent now, and whether it is a new one. Raises FetchError.

        Admitted is what has its connection: making one takes as long as the other side likes, and what was admitted
        before would be sent in a heap, or after the host has asked to be left alone.
        """
        for _ in range(_CLOSED_UNUSED):
            connection = self._pool.take(access) if may_be_kept else None
            is_fresh = connection is None
            if connection is None:
                connection = await self._connect(access, host)
            try:
                await self.hosts.admit(host, access.asked)
            except BaseException:
                self._pool.drop(connection)
                raise
            if connection.is_usable:
                return connection, is_fresh
            # Closed by the other side while it waited for its turn: nothing was asked on it.
            self._pool.drop(connection)
        error = FetchError("network", "connections are closed before anything is asked", unsent=True)
        self._blame(error, host, access.asked, self.hosts.clock())
        raise error

    async def _connect(self, access: "_OriginAccess", host: Host) -> Connection:
        """Have a connection made. Raises FetchError."""
        assert self._connector is not None, "used outside its context"
        asked, proxy = access.asked, access.proxy
        visit = self._guard.visit(endpoint(proxy) if proxy is not None else asked, trusted=proxy is not None)
        began, limit_s = self.hosts.clock(), self.limits.connect_s
        failed: FetchError
        try:
            async with asyncio.timeout(limit_s) as timer:
                loop = asyncio.get_running_loop()
                request = aiohttp.ClientRequest("GET", access.site, loop=loop, proxy=proxy)
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=limit_s)
                with self._pool.room():
                    return self._pool.made(await self._connector.connect(request, [], timeout))
        except FetchError as error:
            self._blame(error, host, asked, began)
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if timer.expired():
                failed = FetchError("timeout", f"no connection within {limit_s:.0f} s", unsent=True)
            else:
                failed = connection_error(error)
            if refused := was_refused(visit):
                self._tell_refused(refused)
                failed = FetchError("blocked", refused, unsent=True)
            self._blame(failed, host, asked, began)
            raise failed from error

    def _blame(self, error: FetchError, host: Host, asked: Endpoint, began: float) -> None:
        """Let the host's state learn from a request that got no answer."""
        now = self.hosts.clock()
        if error.exhausted or error.kind in ("blocked", "bad_url"):
            return
        if error.unsent or error.hopeless:
            host.unreachable(error, asked, began, now)
        elif error.kind != "bad_response":
            host.stumbled(error, began, now, silent=True)

    def _heed(self, answer: "Response") -> None:
        """Raise for an answer that is not the object, and let the host's state learn from any."""
        host, began = answer.host, answer.began
        if answer.status in (200, 206, 304):
            host.answered(began)
            return
        error, now = status_error(answer.status, answer.headers), self.hosts.clock()
        if answer.status in (429, 503) or error.retry_after_s is not None:
            host.asked_to_wait(error, began, now)
        elif error.kind == "server_error":
            host.stumbled(error, began, now, silent=False)
        else:
            host.answered(began)
        raise error

    def _tell_refused(self, refused: str) -> None:
        self.hosts.tell_once(f"blocked: {refused}")

    def _find_access(self, origin: Origin) -> _OriginAccess:
        if len(self._accesses) >= _MOST_ORIGINS:
            self._accesses.clear()
        refused = self._guard.refuse(origin.site)
        access = _OriginAccess(origin.site, origin.asked, refused, None if refused else self._proxy_for(origin.site))
        self._accesses[origin.scheme, origin.asked] = access
        return access

    def _proxy_for(self, target: URL) -> URL | None:
        """Return the environment's proxy for a URL. What the user has named on this machine is asked directly."""
        proxy = self._proxies.get(target.scheme)
        if proxy is None or urllib.request.proxy_bypass(f"{target.raw_host}:{target.port}"):
            return None
        if self._guard.is_allowed(target):
            address = literal(target.raw_host or "")
            if target.raw_host == "localhost" or (address is not None and address.is_loopback):
                return None
        return proxy

    async def wait_for_rate(self, size: int) -> None:
        """Wait for so many bytes' worth of --limit-rate; that is no slowness of the server's."""
        if self._throttle is None:
            return
        while size > 0:
            part = min(size, int(self._throttle.max_rate))
            # In turns and in equal parts: the limiter alone would serve the smallest wish first, for ever.
            async with self._turn:
                await self._throttle.acquire(part)
            size -= part

    def take_back(self, connection: Connection, access: "_OriginAccess") -> None:
        """Keep a connection for the next request, if it can serve one."""
        if connection.can_go_on:
            self._pool.keep(connection, access)
        else:
            self._pool.drop(connection)


class Response:
    """The answer to a request, its body still to be read. Whoever has it closes it.

    `length` is that of the body as sent, None where nothing says so; `began` is when the request was admitted.
    """

    __slots__ = ("_access", "_client", "began", "connection", "host")

    def __init__(
        self, client: Client, connection: Connection, access: "_OriginAccess", host: Host, began: float
    ) -> None:
        self._client = client
        self._access = access
        self.connection = connection
        self.host = host
        self.began = began

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self.connection.status

    @property
    def headers(self) -> CIMultiDict[str]:
        """Return the headers."""
        return self.connection.headers

    @property
    def length(self) -> int | None:
        """Return how many bytes the body has, as far as its head says."""
        return self.connection.length

    async def read_whole(self) -> bytes | bytearray:
        """Return the body, whose length is known. Raises FetchError; its first bytes are then in `connection.start`."""
        return await self.connection.read_whole()

    async def chunks(self, *, endless: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives, as sent. Raises FetchError, also when it is too slow or takes too long.

        `endless` lifts the limit on the whole attempt, for a table of gigabytes on a slow line.
        """
        if endless:
            self.connection.allow(None)
        while chunk := await self.connection.read():
            await self._client.wait_for_rate(len(chunk))
            yield chunk

    def blame(self, error: FetchError) -> None:
        """Let the host's state learn from a body that broke off."""
        if error.kind in _STUMBLES:
            self.host.stumbled(error, self.began, self._client.hosts.clock(), silent=False)

    def close(self) -> None:
        """Give the connection back, or drop it if the body was not read to its end."""
        self._client.take_back(self.connection, self._access)


class ConnectionPool:
    """The connections of one client: at most `most`, busy ones watched, idle ones kept a while for the next request."""

    def __init__(self, most: int, limits: Limits) -> None:
        self._most = most
        self._limits = limits
        self._all: set[Connection] = set()
        self._pending = 0
        self._idle: dict[_OriginAccess, deque[Connection]] = {}
        shortest_s = min(limits.first_byte_s, limits.silence_s, limits.slow_s / 4, limits.attempt_s)
        self._look_s = min(max(shortest_s / _LOOKS_A_LIMIT, _LOOK_S[0]), _LOOK_S[1])
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to look after the connections."""
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time()
        self._timer = self._loop.call_later(self._look_s, self._look)

    def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._all):
            self.drop(connection)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Count a connection that is being made; the one that has been idle longest is closed for it if need be."""
        self._make_room()
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def _make_room(self) -> None:
        if len(self._all) + self._pending >= self._most:
            idle = [connections[0] for connections in self._idle.values() if connections]
            if idle:
                oldest = min(idle, key=lambda connection: connection.idle_since)
                self._forget(oldest)
                self.drop(oldest)

    def made(self, transport: aiohttp.connector.Connection) -> Connection:
        """Return the new connection's wire. Raises FetchError for one that is gone already."""
        connection = Connection(transport, self._limits, self._scratch)
        self._all.add(connection)
        return connection

    def take(self, access: _OriginAccess) -> Connection | None:
        """Return a connection that was kept, the one used last; None if there is none."""
        idle = self._idle.get(access)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            self._all.discard(connection)
        return None

    def keep(self, connection: Connection, access: _OriginAccess) -> None:
        """Take a connection whose answer has ended."""
        connection.rest(self._loop.time())
        self._idle.setdefault(access, deque()).append(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        self._all.discard(connection)
        connection.abort()

    def _forget(self, connection: Connection) -> None:
        for connections in self._idle.values():
            if connections and connections[0] is connection:
                connections.popleft()

    def _look(self) -> None:
        now = self._loop.time()
        # When this program was held up itself, no server is to blame for the time that is gone.
        passed_s, self._looked_at = min(now - self._looked_at, 2 * self._look_s), now
        for connection in self._all:
            if connection.is_busy:
                connection.tick(passed_s)
        for access, connections in list(self._idle.items()):
            while connections and (now - connections[0].idle_since > _IDLE_S or not connections[0].is_usable):
                self.drop(connections.popleft())
            if not connections:
                del self._idle[access]
        self._timer = self._loop.call_later(self._look_s, self._look)


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own: a resolver that hangs must not hold up the disk, nor other names soon."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOK_UPS_AT_ONCE, thread_name_prefix="oid_async-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises OSError."""
        look_up = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        results = []
        for kind, _, protocol, _, where in found:
            scope = f"%{where[3]}" if kind == socket.AF_INET6 and len(where) > 3 and where[3] else ""
            results.append(
                ResolveResult(
                    hostname=host,
                    host=f"{where[0]}{scope}",
                    port=int(where[1]),
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        """Wait for no look-up: one that hangs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _request(method: str, target: Route, headers: Mapping[str, str], proxy: URL | None) -> bytes:
    """Return the head of a request, which is all of it. Raises FetchError for what cannot stand in one."""
    path, more = target.path, headers
    if proxy is not None and target.origin.scheme == "http":
        path = str(target.url())
        if proxy.user is not None:
            login = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
            more = {**headers, "Proxy-Authorization": login}
    lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    text = f"{method} {path} HTTP/1.1\r\nHost: {target.origin.header}\r\n{_ALWAYS}{lines}\r\n"
    return text.encode("latin-1", "replace")


def _make_throttle(rate: float | None) -> AsyncLimiter | None:
    """Return a limiter of bytes: at most `rate` a second, in portions of a tenth of a second at most."""
    if rate is None:
        return None
    portion = min(_PORTION_BYTES, max(1024.0, rate / 10))
    return AsyncLimiter(portion, portion / rate)


def _proxies() -> dict[str, URL]:
    """Return the environment's proxies by the scheme of what is asked. Raises UsageError for one of another kind."""
    proxies = {}
    for scheme, text in urllib.request.getproxies().items():
        if scheme not in _PROXY_SCHEMES:
            continue
        try:
            proxy = URL(text if "://" in text else f"http://{text}")
            is_usable = proxy.scheme in _PROXY_SCHEMES and proxy.host and proxy.port
        except (ValueError, IndexError):
            is_usable = False
        if not is_usable:
            raise UsageError(f"{scheme}_proxy is {text!r} in the environment; only http and https proxies can be used")
        proxies[scheme] = proxy
    return proxies
