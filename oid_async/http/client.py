"""The HTTP client of one run: connections are made and kept, every request is admitted and counted, redirects followed.

Every attempt ends: each of its phases has a limit (see `Limits`). Connecting has a timer of its own; for what follows
one timer checks all connections that are busy, so that an image costs none.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from multidict import CIMultiDict
from yarl import URL

from oid_async.errors import UsageError
from oid_async.http.address_guard import AddressGuard, Endpoint, endpoint, literal, refused_for
from oid_async.http.connecting import Connector, NotConnectedError
from oid_async.http.connection import Connection, KeepAliveHandler
from oid_async.http.hanging import HangingWatch
from oid_async.http.host import ClosedHostError, Host
from oid_async.http.hosts import LEAST_WAIT_S, Hosts
from oid_async.http.pool import ConnectionPool
from oid_async.http.retry import FetchError, Limits, status_error
from oid_async.http.spare_bodies import SpareBodies
from oid_async.http.urls import Origin, Route, next_hop, parse_url
from oid_async.redaction import redacted
from oid_async.version import __version__

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_WITH_OBJECT = (200, 206)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_HEADERS: Mapping[str, str] = {}
_BODY_FAILURES = ("timeout", "truncated", "network")
_PROXY_SCHEMES = ("http", "https")
_PORTION_BYTES = 16384.0
_MOST_ORIGINS = 4096  # a table may name a new host in every row
_CLOSED_UNUSED = 3  # connections in a row that the other side closes while they wait to be admitted
_COMMON_HEADERS = (
    f"User-Agent: oid-async/{__version__} (Open Images downloader)\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
)


@dataclass(frozen=True, slots=True, eq=False)
class _OriginAccess:
    """How one origin is reached: by which proxy, if any; or why it is refused. `site` is one of its URLs."""

    site: URL
    endpoint: Endpoint
    refusal: str | None
    proxy: URL | None


class Asker(Protocol):
    """The image that is requested."""

    @property
    def host(self) -> Host:
        """Return the host whose window it counts against."""
        ...

    @property
    def retried(self) -> bool:
        """Return whether it has failed before."""
        ...


class RequestChain(KeepAliveHandler, Protocol):
    """Continues from a plain response with the next request to the same origin: see `Client.request`.

    `route` and `began` are those of the request in progress; `has_advanced` is False for the first one.
    """

    route: Route
    began: float
    has_advanced: bool


class Client:
    """Owns the connections. Made within a running loop, used as `async with`.

    `requests` counts what was really sent: each hop of a redirect, and requests lost on a stale connection. `allowed`
    are the endpoints that may be connected to although they are not public. No cookies are kept and no credentials
    sent; bodies are requested as they are (identity) and never unpacked here. Proxies are those of the environment; a
    proxy resolves names itself, so that only the host as written in the URL can then be checked. With
    `reports_closed_hosts` a redirect to a host that is closed raises ClosedHostError instead of waiting for it.
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
        self._throttle_lock = asyncio.Lock()
        self._proxies = _proxies()
        self._pool = ConnectionPool(connections, limits, hosts.clock)
        self._hanging = HangingWatch(hosts, self._pool.busy)
        self._accesses: dict[tuple[str, Endpoint], _OriginAccess] = {}
        self._connector = Connector(self._guard.make_socket)

    async def __aenter__(self) -> Self:
        self._pool.watch()
        self._hanging.watch()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._hanging.close()
        self._pool.close()
        await self._connector.close()
        # Closing a TLS transport takes one more iteration of the loop; without it Python warns of an open socket.
        await asyncio.sleep(0)

    @property
    def spare_bodies(self) -> SpareBodies:
        """Return where the memory of a body goes once it is stored."""
        return self._pool.spare_bodies

    @property
    def is_throttled(self) -> bool:
        """Return whether all bodies share a limit on bytes a second."""
        return self._throttle is not None

    @property
    def transfers_end(self) -> float:
        """Return when the requests that are under way end at the latest, if nothing more comes."""
        return self.hosts.clock() + self._pool.longest_left_s

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] = _NO_HEADERS, *, method: str = "GET"
    ) -> AsyncIterator["Response"]:
        """GET (or HEAD) a URL and yield the response, as `request` returns it."""
        response = await self.request(Route.of(parse_url(url)), headers, method=method)
        try:
            yield response
        except FetchError as error:
            response.record_failure(error)
            raise
        finally:
            response.close()

    async def request(
        self,
        route: Route,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        method: str = "GET",
        chain: RequestChain | None = None,
        asked_by: Asker | None = None,
    ) -> "Response":
        """Send a GET (or HEAD), follow up to five redirects, return the response (200, 206, 304); the caller closes it.

        Raises FetchError for every other end. Offline every request ends as `network` at once. A `chain` may continue
        with other requests to the same origin after the first response; the response or error is then the last one's.
        `asked_by` is whose request it is, if the transfer counts against the window of a host.
        """
        if self._offline:
            raise FetchError("network", "no request is made with --offline", hopeless=True, unsent=True)
        first: float | None = None
        for _ in range(self.limits.redirects + 1):
            response = await self._send(method, route, headers, first, chain, asked_by)
            if chain is not None:
                route, chain = chain.route, None
            first = response.began if first is None else first
            try:
                if response.status not in _REDIRECTS:
                    self._check_status(response)
                    response.connection.set_time_left(self.limits.attempt_s - (self.hosts.clock() - first))
                    return response
                response.host.responded(response.began)
                route = Route.of(next_hop(route.url(), response.headers.get("Location", "")))
            except BaseException as error:
                if isinstance(error, FetchError):
                    response.count_failure(error)
                response.close()
                raise
            response.close()
        too_many = FetchError("redirect", f"more than {self.limits.redirects} redirects")
        response.count_failure(too_many)
        raise too_many

    async def _send(
        self,
        method: str,
        route: Route,
        headers: Mapping[str, str],
        first: float | None,
        chain: RequestChain | None,
        asked_by: Asker | None,
    ) -> "Response":
        """Send one request, return the response with its head. `first` is when an earlier hop was admitted, if any."""
        access = self._accesses.get((route.origin.scheme, route.origin.endpoint)) or self._find_access(route.origin)
        host, target, of_image = self.hosts.named(route.origin.host), route.origin.endpoint, asked_by is not None
        if access.refusal:
            self._notify_refusal(access.refusal)
            if of_image:
                host.measures.failed("blocked")
            raise FetchError("blocked", access.refusal, unsent=True)
        if self._reports_closed_hosts and first is not None and host.is_closed(self.hosts.clock()):
            # The image has to wait in the queue of the host that it was redirected to, not in this worker.
            raise ClosedHostError(host)
        await self.hosts.until_open(host, target)
        request, is_head = _encode_request(method, route, headers, access.proxy), method == "HEAD"
        may_be_kept = True
        while True:
            connection, is_fresh = await self._admitted_connection(
                access, host, may_be_kept=may_be_kept, of_image=of_image
            )
            began = self.hosts.clock()
            self.requests += 1
            host.measures.requested(of_image=of_image)
            if chain is not None:
                chain.began = began
            connection.counted_for = asked_by.host if asked_by is not None else None
            try:
                await connection.send(request, is_head=is_head, handler=chain)
            except FetchError as error:
                self._pool.drop(connection)
                if chain is not None and chain.has_advanced:
                    # Once for each that it has advanced to: on a new connection a failure is the image's own.
                    began, is_fresh, chain.has_advanced = chain.began, False, False
                    request = self.encode_request(chain.route)
                if is_fresh or connection.bytes_received or error.kind != "network":
                    retried = asked_by is not None and asked_by.retried
                    self._record_failure(error, host, target, began, of_image=of_image, retried=retried)
                    raise
                # It had been idle and was closed just now: then the request is sent once more.
                may_be_kept = False
            except BaseException:
                self._pool.drop(connection)
                raise
            else:
                if of_image:
                    host.measures.first_byte.add(connection.head_at - connection.sent_at)
                began = chain.began if chain is not None else began
                return Response(self, connection, access, host, began, of_image=of_image)

    def encode_request(self, route: Route) -> bytes:
        """Return the bytes of a plain GET to an origin that has been requested from before."""
        access = self._accesses[route.origin.scheme, route.origin.endpoint]
        return _encode_request("GET", route, _NO_HEADERS, access.proxy)

    async def _admitted_connection(
        self, access: "_OriginAccess", host: Host, *, may_be_kept: bool, of_image: bool
    ) -> tuple[Connection, bool]:
        """Return a connection on which a request may be sent now, and whether it is a new one. Raises FetchError.

        A request is admitted once it has its connection: making one takes as long as the other side likes, and requests
        admitted earlier would be sent in a burst, or after the host has asked us to wait.
        """
        for _ in range(_CLOSED_UNUSED):
            connection = self._pool.take(access) if may_be_kept else None
            is_fresh = connection is None
            if connection is None:
                connection = await self._connect(access, host, of_image=of_image)
            try:
                await self.hosts.admit(host, access.endpoint)
            except BaseException:
                self._pool.drop(connection)
                raise
            if connection.is_usable:
                return connection, is_fresh
            # Closed by the other side while it waited to be admitted: no request was sent on it.
            self._pool.drop(connection)
        error = FetchError("network", "connections are closed before anything is asked", unsent=True)
        self._record_failure(error, host, access.endpoint, self.hosts.clock(), of_image=of_image)
        raise error

    async def _connect(self, access: "_OriginAccess", host: Host, *, of_image: bool) -> Connection:
        """Make a new connection. Raises FetchError."""
        target, proxy = access.endpoint, access.proxy
        attempt = self._guard.connect_attempt(
            endpoint(proxy) if proxy is not None else target, trusted=proxy is not None
        )
        began, limit_s = self.hosts.clock(), self.limits.connect_s
        try:
            async with asyncio.timeout(limit_s) as timer:
                with self._pool.connecting():
                    connection = await self._make_connection(access)
                host.measures.connected(attempt.connecting_s, of_image=of_image)
                return connection
        except FetchError as error:
            self._record_failure(error, host, target, began, of_image=of_image)
            raise
        except (NotConnectedError, TimeoutError) as error:
            if timer.expired() or isinstance(error, TimeoutError):
                failed = FetchError("timeout", f"no connection within {limit_s:.0f} s", unsent=True)
            else:
                failed = error.failure
            if refusal := refused_for(attempt):
                self._notify_refusal(refusal)
                failed = FetchError("blocked", refusal, unsent=True)
            self._record_failure(failed, host, target, began, of_image=of_image)
            raise failed from error
        finally:
            if attempt.look_up_s is not None and of_image:
                host.measures.dns.add(attempt.look_up_s)

    async def _make_connection(self, access: "_OriginAccess") -> Connection:
        """Connect and speak TLS on it; to a proxy, or where that fails, aiohttp does both.

        Then it tries all addresses of a name, and its errors say what is wrong.
        """
        site, limit_s = access.site, self.limits.connect_s
        if site.scheme == "https" and access.proxy is None:
            made = await self._connector.connect(site.with_scheme("http").with_port(site.port), None, limit_s)
            try:
                tls = await self._pool.start_tls(made, (site.raw_host or "").rstrip("."))
                return self._pool.add(made, tls)
            except (OSError, ValueError):
                made.close()
            except BaseException:
                made.close()
                raise
        return self._pool.add(await self._connector.connect(site, access.proxy, limit_s))

    def _record_failure(
        self, error: FetchError, host: Host, target: Endpoint, began: float, *, of_image: bool, retried: bool = False
    ) -> None:
        """Update the host's state after a request that got no response."""
        now = self.hosts.clock()
        if of_image and not error.exhausted:
            host.measures.failed(error.kind)
        if error.exhausted or error.kind in ("blocked", "bad_url"):
            return
        if error.unsent or error.hopeless:
            host.connect_failed(error, target, began, now)
        elif error.kind != "bad_response":
            host.request_failed(error, began, now, no_response=True, retried=retried)

    def _check_status(self, response: "Response") -> None:
        """Update the host's state. Raises FetchError for a response that is not the object."""
        host, began = response.host, response.began
        if response.status in (200, 206, 304):
            host.responded(began)
            return
        error, now = status_error(response.status, response.headers), self.hosts.clock()
        if response.status in (429, 503) or error.retry_after_s is not None:
            host.asked_to_wait(error, began, now)
        elif error.kind == "server_error":
            host.request_failed(error, began, now, no_response=False)
        else:
            host.responded(began)
        raise error

    def _notify_refusal(self, refusal: str) -> None:
        self.hosts.notify_once(f"blocked: {refusal}")

    def _find_access(self, origin: Origin) -> _OriginAccess:
        if len(self._accesses) >= _MOST_ORIGINS:
            self._accesses.clear()
        if origin.scheme == "https":
            _check_certificates()
        refusal = self._guard.refuse(origin.site)
        access = _OriginAccess(origin.site, origin.endpoint, refusal, None if refusal else self._proxy_for(origin.site))
        self._accesses[origin.scheme, origin.endpoint] = access
        return access

    def _proxy_for(self, url: URL) -> URL | None:
        """Return the environment's proxy for a URL; None for an allowed host on this machine, too."""
        proxy = self._proxies.get(url.scheme)
        if proxy is None:
            return None
        from urllib.request import proxy_bypass

        if proxy_bypass(f"{url.raw_host}:{url.port}"):
            return None
        if self._guard.is_allowed(url):
            address = literal(url.raw_host or "")
            if url.raw_host == "localhost" or (address is not None and address.is_loopback):
                return None
        return proxy

    async def wait_for_rate(self, size: int, host: Host) -> None:
        """Wait until --limit-rate allows that many more bytes; this time does not count as the server's."""
        if self._throttle is None:
            return
        began = self.hosts.clock()
        while size > 0:
            part = min(size, int(self._throttle.max_rate))
            # One after another and in equal parts: the limiter alone would always serve the smallest first.
            async with self._throttle_lock:
                await self._throttle.acquire(part)
            size -= part
        if (now := self.hosts.clock()) - began >= LEAST_WAIT_S:
            host.note_wait("limit_rate", began, now)

    def release(self, connection: Connection, access: "_OriginAccess") -> None:
        """Keep a connection for the next request if it can serve one, else close it."""
        if connection.is_reusable:
            self._pool.keep(connection, access)
        else:
            self._pool.drop(connection)


class Response:
    """The response to a request, its body still to be read; close it. `began` is when the request was admitted."""

    __slots__ = ("_access", "_client", "_of_image", "began", "connection", "host")

    def __init__(
        self,
        client: Client,
        connection: Connection,
        access: "_OriginAccess",
        host: Host,
        began: float,
        *,
        of_image: bool,
    ) -> None:
        self._of_image = of_image
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
        """Return the length of the body as sent, None if the head does not state it."""
        return self.connection.length

    async def read_whole(self) -> bytes | bytearray:
        """Return a body of known length. Raises FetchError; its first bytes are then in `connection.body_start`."""
        return await self.connection.read_whole()

    async def chunks(self, *, no_deadline: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives, as sent. Raises FetchError, also when it is too slow or takes too long.

        `no_deadline` lifts the limit on the whole attempt, for a table of gigabytes on a slow line.
        """
        if no_deadline:
            self.connection.set_time_left(None)
        while chunk := await self.connection.read():
            await self._client.wait_for_rate(len(chunk), self.host)
            yield chunk

    def record_failure(self, error: FetchError) -> None:
        """Update the host's state after a body that broke off."""
        self.count_failure(error)
        if error.kind in _BODY_FAILURES:
            self.host.request_failed(error, self.began, self._client.hosts.clock(), no_response=False)

    def count_failure(self, error: FetchError) -> None:
        """Count a response that is not the image for the report of the run."""
        if self._of_image and not error.exhausted:
            self.host.measures.failed(error.kind)

    def close(self) -> None:
        """Give the connection back, or drop it if the body was not read to its end."""
        if self.status in _WITH_OBJECT:
            self.host.measures.sent(self.connection.body_bytes, of_image=self._of_image)
        self._client.release(self.connection, self._access)


def _encode_request(method: str, route: Route, headers: Mapping[str, str], proxy: URL | None) -> bytes:
    """Return the bytes of a request, which has no body."""
    path, more = route.path, headers
    if proxy is not None and route.origin.scheme == "http":
        path = str(route.url())
        if proxy.user is not None:
            from aiohttp import encode_basic_auth  # what asks a proxy has imported it

            login = encode_basic_auth(proxy.user, proxy.password or "")
            more = {**headers, "Proxy-Authorization": login}
    lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    text = f"{method} {path} HTTP/1.1\r\nHost: {route.origin.header}\r\n{_COMMON_HEADERS}{lines}\r\n"
    return text.encode("latin-1", "replace")


def _make_throttle(rate: float | None) -> "AsyncLimiter | None":
    """Return a limiter of `rate` bytes a second, in portions of at most a tenth of a second; None for no limit."""
    if rate is None:
        return None
    from aiolimiter import AsyncLimiter

    portion = min(_PORTION_BYTES, max(1024.0, rate / 10))
    return AsyncLimiter(portion, portion / rate)


def _check_certificates() -> None:
    """Raise UsageError where the environment names certificates that are not there: OpenSSL would trust nobody."""
    for name, is_there in (("SSL_CERT_FILE", os.path.isfile), ("SSL_CERT_DIR", os.path.isdir)):
        where = os.environ.get(name)
        # SSL_CERT_DIR may be a list, as PATH is.
        if where and not any(map(is_there, where.split(os.pathsep) if name == "SSL_CERT_DIR" else [where])):
            raise UsageError(f"{name}: no such {'file' if name == 'SSL_CERT_FILE' else 'folder'}: {where}")


def _proxies() -> dict[str, URL]:
    """Return the environment's proxies, by the scheme of the requested URL. Raises UsageError for an unusable one."""
    # On macOS and Windows the system has settings of its own. Elsewhere most need no import of what reads them.
    if sys.platform not in ("darwin", "win32") and not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    from urllib.request import getproxies

    proxies = {}
    for scheme, text in getproxies().items():
        if scheme not in _PROXY_SCHEMES:
            continue
        url = text if "://" in text else f"http://{text}"
        try:
            proxy = URL(url)
            is_usable = proxy.scheme in _PROXY_SCHEMES and proxy.host and proxy.port
        except (ValueError, IndexError):
            is_usable = False
        if not is_usable:
            raise UsageError(
                f"{scheme}_proxy is {redacted(url)!r} in the environment; only http and https proxies can be used"
            )
        proxies[scheme] = proxy
    return proxies
