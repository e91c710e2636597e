"""The HTTP client of one run: a session set up on purpose, every real send admitted and counted, redirects by hand.

Every attempt ends: each of its phases has a limit (see `Limits`), kept by one timer for the head of the answer and one
watchdog for its body. aiohttp's own read time-out is per read, so that a server which sends a byte a second never
meets it.
"""

import asyncio
import socket
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiolimiter import AsyncLimiter
from yarl import URL

from oid_async.errors import UsageError
from oid_async.transfer.addresses import Endpoint, Guard, endpoint, literal, was_refused
from oid_async.transfer.hosts import ElsewhereError, Host, Hosts
from oid_async.transfer.retry import FetchError, Limits, connection_error, status_error
from oid_async.transfer.urls import next_hop, parse_url
from oid_async.version import __version__

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# aiohttp's 64 KiB pauses and resumes the socket many times within one 300 KB image; it holds up to twice this much of
# each connection when a server sends faster than we read.
_READ_BUFFER = 256 << 10
_NO_HEADERS: Mapping[str, str] = {}
_CHECKS_A_WINDOW = 4  # how soon after its window a slow body is noticed: a quarter of it later at most
_PROXY_SCHEMES = ("http", "https")
_IDLE_S = 4.0  # one idle connection of each of a thousand hosts would leave no descriptor for the next
_LOOK_UPS_AT_ONCE = 32
_PORTION_BYTES = 16384.0


class Client:
    """Owns the session. `requests` counts what was really sent: redirect hops and aiohttp's silent re-sends too.

    `allowed` are the endpoints that may be connected to although they are not public. No cookies are kept and no
    credentials sent; bodies are asked for as they are (identity) and never unpacked unseen. Proxies are those of the
    environment; one sees to the names itself, so that only what a URL says of its host can then be judged here. With
    `in_lanes` a redirect to a host that is closed raises ElsewhereError instead of waiting for it.
    """

    def __init__(
        self,
        hosts: Hosts,
        limits: Limits,
        *,
        connections: int,
        allowed: Iterable[Endpoint] = (),
        offline: bool = False,
        in_lanes: bool = False,
    ) -> None:
        self._offline = offline
        self._in_lanes = in_lanes
        self.hosts = hosts
        self.limits = limits
        self.requests = 0
        self._connections = connections
        self._guard = Guard(allowed)
        self._throttle = _make_throttle(limits.rate_bytes_s)
        self._turn = asyncio.Lock()
        self._proxies = _proxies()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = self.limits
        self._resolver = _Resolver()
        connector = _Connector(
            self._admit,
            limit=self._connections,
            ttl_dns_cache=300,
            keepalive_timeout=_IDLE_S,
            resolver=self._resolver,
            socket_factory=self._guard.make_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s),
            headers={
                "User-Agent": f"oid-async/{__version__} (Open Images downloader)",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()
            await self._resolver.close()
            # Closing a TLS transport takes one more turn of the loop; without it Python warns of an open socket.
            await asyncio.sleep(0)

    @asynccontextmanager
    async def get(
        self, url: URL | str, headers: Mapping[str, str] = _NO_HEADERS, *, method: str = "GET"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET (or HEAD) a URL, following up to five redirects, and yield the answer once it is 200, 206 or 304.

        Raises FetchError for every other end. Read the body with `reading`, which raises FetchError too. Offline every
        GET ends as `network` at once.
        """
        target = parse_url(url) if isinstance(url, str) else url
        if self._offline:
            raise FetchError("network", "no request is made with --offline", hopeless=True, unsent=True)
        first: float | None = None
        for _ in range(self.limits.redirects + 1):
            response, host, began = await self._send(method, target, headers, first)
            first = began if first is None else first
            try:
                if response.status not in _REDIRECTS:
                    self._heed(response, host, began)
                    try:
                        yield response
                    except FetchError as error:
                        if error.kind in ("timeout", "truncated", "network"):
                            host.stumbled(error, began, self.hosts.clock(), silent=False)
                        raise
                    return
                host.answered(began)
                target = next_hop(target, response.headers.get("Location", ""))
            finally:
                # Drops the connection if the body was not read to its end, else gives it back to the pool.
                response.close()
        raise FetchError("redirect", f"more than {self.limits.redirects} redirects")

    @asynccontextmanager
    async def reading(
        self, response: aiohttp.ClientResponse, *, endless: bool = False
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """Yield the body's chunks as they arrive, as sent, for as long as the block lasts.

        Raises FetchError from the chunks, and `timeout` from the block when the body is too slow or takes too long.
        `endless` lifts the limit on the whole attempt, for a table of gigabytes on a slow line.
        """
        limits = self.limits
        watch = _Watch(limits)
        chunks = self._chunks(response, watch)
        left_s = limits.attempt_s - _SENDING.get().spent_s(self.hosts.clock())
        try:
            async with asyncio.timeout(None if endless else left_s) as guard:
                watch.start(guard)
                try:
                    yield chunks
                finally:
                    watch.stop()
                    await chunks.aclose()
        except TimeoutError as error:
            why = (
                f"slower than {limits.slow_bytes_s:.0f} bytes/s" if watch.is_slow else f"over {limits.attempt_s:.0f} s"
            )
            raise FetchError("timeout", f"the body took too long: {why}") from error

    async def _chunks(self, response: aiohttp.ClientResponse, watch: "_Watch") -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in response.content.iter_any():
                watch.received += len(chunk)
                if self._throttle is not None:
                    await self._wait_for_rate(self._throttle, len(chunk), watch)
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise connection_error(error) from error

    async def _wait_for_rate(self, throttle: AsyncLimiter, size: int, watch: "_Watch") -> None:
        """Wait for so many bytes' worth of --limit-rate; that is no slowness of the server's."""
        with watch.resting():
            while size > 0:
                part = min(size, int(throttle.max_rate))
                # In turns and in equal parts: the limiter alone would serve the smallest wish first, for ever.
                async with self._turn:
                    await throttle.acquire(part)
                size -= part

    async def _send(
        self, method: str, target: URL, headers: Mapping[str, str], first: float | None
    ) -> tuple[aiohttp.ClientResponse, Host, float]:
        """Send one request and return the answer once its head is there, its host, and when it was admitted.

        `first` is when the first hop of the attempt was, if this is another one.
        """
        assert self._session is not None, "used outside its context"
        if refused := self._guard.refuse(target):
            self._tell_refused(refused)
            raise FetchError("blocked", refused, unsent=True)
        host, asked = self.hosts.of(target), endpoint(target)
        if self._in_lanes and first is not None and host.is_closed(self.hosts.clock()):
            # Not in this worker's hands: the image waits in the lane of the host that it was sent on to.
            raise ElsewhereError(host)
        await self.hosts.opened(host, asked)
        proxy = self._proxy_for(target)
        visit = self._guard.visit(endpoint(proxy) if proxy is not None else asked, trusted=proxy is not None)
        sending = _Sending(host, asked, self.limits, self.hosts.clock(), first)
        _SENDING.set(sending)
        try:
            async with asyncio.timeout(None) as sending.timer:
                response = await self._session.request(
                    method, target, headers=headers, allow_redirects=False, proxy=proxy
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failed = sending.late() if sending.is_late() else connection_error(error)
            if refused := was_refused(visit):
                self._tell_refused(refused)
                failed = FetchError("blocked", refused, unsent=True)
            self._blame(failed, sending)
            raise failed from error
        return response, host, sending.began

    def _blame(self, error: FetchError, sending: "_Sending") -> None:
        """Let the host's state learn from a request that got no answer."""
        now, host = self.hosts.clock(), sending.host
        if error.exhausted or error.kind in ("blocked", "bad_url"):
            return
        if error.unsent or error.hopeless:
            host.unreachable(error, sending.asked, sending.began, now)
        elif error.kind != "bad_response":
            host.stumbled(error, sending.began, now, silent=True)

    def _heed(self, response: aiohttp.ClientResponse, host: Host, began: float) -> None:
        """Raise for an answer that is not the object, and let the host's state learn from any."""
        if response.status in (200, 206, 304):
            host.answered(began)
            return
        error, now = status_error(response.status, response.headers), self.hosts.clock()
        if response.status in (429, 503) or error.retry_after_s is not None:
            host.asked_to_wait(error, began, now)
        elif error.kind == "server_error":
            host.stumbled(error, began, now, silent=False)
        else:
            host.answered(began)
        raise error

    def _tell_refused(self, refused: str) -> None:
        self.hosts.tell_once(f"blocked: {refused}")

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

    async def _admit(self, sending: "_Sending") -> None:
        """Wait until a request that has its connection may be sent on it, and count it."""
        await self.hosts.admit(sending.host, sending.asked)
        self.requests += 1
        sending.send(self.hosts.clock())


class _Connector(aiohttp.TCPConnector):
    """Admits each request where it is really sent: once it has its connection, be it new or kept alive.

    Connecting takes as long as the other side likes; what was admitted before would be sent in a heap, or after the
    host has asked to be left alone.
    """

    def __init__(self, admit: "Callable[[_Sending], Awaitable[None]]", **settings: Any) -> None:
        super().__init__(**settings)
        self._admit = admit

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """Return a connection on which the request may be sent now."""
        sending = _SENDING.get()
        sending.connect()
        connection = await super().connect(req, traces, timeout)
        sending.rest()
        try:
            await self._admit(sending)
        except BaseException:
            connection.close()
            raise
        return connection


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


@dataclass(slots=True)
class _Sending:
    """One request on its way: when it began, or was sent, and the timer of what comes next: the connection, the head.

    The timer rests while the request waits to be admitted, and starts anew when aiohttp sends it once more.
    """

    host: Host
    asked: Endpoint
    limits: Limits
    began: float
    first: float | None = None
    is_sent: bool = False
    timer: asyncio.Timeout | None = None

    def connect(self) -> None:
        self.is_sent = False
        self._due_in(self.limits.connect_s)

    def rest(self) -> None:
        self._due_in(None)

    def send(self, now: float) -> None:
        self.began, self.is_sent = now, True
        self._due_in(self.limits.first_byte_s)

    def spent_s(self, now: float) -> float:
        """Return how much of the attempt's time is gone, the hops before this one included."""
        return now - (self.began if self.first is None else self.first)

    def is_late(self) -> bool:
        return self.timer is not None and self.timer.expired()

    def late(self) -> FetchError:
        if not self.is_sent:
            return FetchError("timeout", f"no connection within {self.limits.connect_s:.0f} s", unsent=True)
        return FetchError("timeout", f"no answer within {self.limits.first_byte_s:.0f} s")

    def _due_in(self, seconds: float | None) -> None:
        if self.timer is not None and not self.timer.expired():
            self.timer.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


_SENDING: ContextVar[_Sending] = ContextVar("oid_async_sending")


class _Watch:
    """The watchdog of one body: looks every quarter of a window whether enough came in the last whole one."""

    def __init__(self, limits: Limits) -> None:
        self.received = 0
        self.is_slow = False
        self._step_s = limits.slow_s / _CHECKS_A_WINDOW
        self._wanted = limits.slow_s * limits.slow_bytes_s
        self._floor = limits.slow_bytes_s
        self._rested_s = 0.0
        self._rests_from: float | None = None
        self._seen: list[tuple[int, float]] = [(0, 0.0)]
        self._guard: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, guard: asyncio.Timeout) -> None:
        self._guard = guard
        self._timer = asyncio.get_running_loop().call_later(self._step_s, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Leave out the time that the body waits for us."""
        assert self._guard is not None
        clock = asyncio.get_running_loop().time
        self._rests_from, due = clock(), self._guard.when()
        self._guard.reschedule(None)
        try:
            yield
        finally:
            rested_s = clock() - self._rests_from
            self._rested_s, self._rests_from = self._rested_s + rested_s, None
            if due is not None and not self._guard.expired():
                self._guard.reschedule(due + rested_s)

    def _look(self) -> None:
        assert self._guard is not None
        loop = asyncio.get_running_loop()
        rested_s = self._rested_s + (loop.time() - self._rests_from if self._rests_from is not None else 0.0)
        self._seen.append((self.received, rested_s))
        if len(self._seen) > _CHECKS_A_WINDOW:
            before, rested_before_s = self._seen.pop(0)
            wanted = self._wanted - self._floor * (rested_s - rested_before_s)
            if self.received - before < wanted:
                self.is_slow = True
                with suppress(RuntimeError):  # it has just expired by itself
                    self._guard.reschedule(loop.time())
                return
        self._timer = loop.call_later(self._step_s, self._look)


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
