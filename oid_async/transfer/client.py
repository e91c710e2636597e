"""The HTTP client of one run: a session set up on purpose, every real send admitted and counted, redirects by hand.

Every attempt ends: each of its phases has a limit (see `Limits`), kept by one timer for the head of the answer and one
watchdog for its body. aiohttp's own read time-out is per read, so that a server which sends a byte a second never
meets it.
"""

import asyncio
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Self

import aiohttp
from aiolimiter import AsyncLimiter
from yarl import URL

from oid_async.errors import UsageError
from oid_async.transfer.addresses import Endpoint, Guard, endpoint, literal, was_refused
from oid_async.transfer.hosts import Host, Hosts
from oid_async.transfer.retry import FetchError, Limits, connection_error, status_error
from oid_async.transfer.urls import next_hop, parse_url
from oid_async.version import __version__

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BUFFER = 1 << 20  # aiohttp's 64 KiB pauses and resumes the socket many times within one 300 KB image
_NO_HEADERS: Mapping[str, str] = {}
_CHECKS_A_WINDOW = 4  # how soon after its window a slow body is noticed: a quarter of it later at most
_PROXY_SCHEMES = ("http", "https")


class Client:
    """Owns the session. `requests` counts what was really sent: redirect hops and aiohttp's silent re-sends too.

    `allowed` are the endpoints that may be connected to although they are not public. No cookies are kept and no
    credentials sent; bodies are asked for as they are (identity) and never unpacked unseen. Proxies are those of the
    environment; one sees to the names itself, so that only what a URL says of its host can then be judged here.
    """

    def __init__(
        self,
        hosts: Hosts,
        limits: Limits,
        *,
        connections: int,
        allowed: Iterable[Endpoint] = (),
        offline: bool = False,
    ) -> None:
        self._offline = offline
        self.hosts = hosts
        self.limits = limits
        self.requests = 0
        self._connections = connections
        self._guard = Guard(allowed)
        self._throttle = _make_throttle(limits.rate_bytes_s)
        self._proxies = _proxies()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = self.limits
        sent = aiohttp.TraceConfig()
        sent.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, ttl_dns_cache=300, socket_factory=self._guard.make_socket
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s),
            headers={
                "User-Agent": f"oid-async/{__version__} (Open Images downloader)",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            middlewares=[self._admit],
            trace_configs=[sent],
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()
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
                            host.stumbled(began, self.hosts.clock())
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
            self._tell_refused(target, refused)
            raise FetchError("blocked", refused, unsent=True)
        host, asked = self.hosts.of(target), endpoint(target)
        proxy = self._proxy_for(target)
        visit = self._guard.visit(endpoint(proxy) if proxy is not None else asked, trusted=proxy is not None)
        sending = _Sending(self.limits, first)
        _SENDING.set(sending)
        try:
            async with asyncio.timeout(None) as sending.head:
                response = await self._session.request(
                    method, target, headers=headers, allow_redirects=False, proxy=proxy, trace_request_ctx=sending
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failed = connection_error(error) if not sending.is_late() else sending.late()
            if refused := was_refused(visit):
                self._tell_refused(target, refused)
                failed = FetchError("blocked", refused, unsent=True)
            if failed.unsent:
                self.requests -= 1
                host.requests -= 1
            self._blame(failed, host, sending.began)
            raise failed from error
        return response, host, sending.began

    def _blame(self, error: FetchError, host: Host, began: float) -> None:
        now = self.hosts.clock()
        if error.exhausted or error.kind in ("blocked", "bad_url"):
            return
        if error.unsent or error.hopeless:
            host.unreachable(error, began, now)
        elif error.kind != "bad_response":
            host.stumbled(began, now)

    def _heed(self, response: aiohttp.ClientResponse, host: Host, began: float) -> None:
        """Raise for an answer that is not the object, and let the host's state learn from any."""
        if response.status in (200, 206, 304):
            host.answered(began)
            return
        error = status_error(response.status, response.headers)
        if response.status in (429, 503):
            host.asked_to_wait(error, began, self.hosts.clock())
        elif error.kind == "server_error":
            host.stumbled(began, self.hosts.clock())
        else:
            host.answered(began)
        raise error

    def _tell_refused(self, target: URL, refused: str) -> None:
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

    async def _admit(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        sending = _SENDING.get()
        sending.rest()
        await self.hosts.admit(self.hosts.of(request.url))
        self.requests += 1
        sending.connect(self.hosts.clock())
        return await handler(request)


@dataclass(slots=True)
class _Sending:
    """One request on its way: when it was admitted, and the timer of what comes next: the connection, then the head.

    The timer rests while the request waits to be admitted, and starts anew when aiohttp sends it once more.
    """

    limits: Limits
    first: float | None = None
    began: float = 0.0
    is_sent: bool = False
    head: asyncio.Timeout | None = None

    def rest(self) -> None:
        self._due_in(None)

    def connect(self, now: float) -> None:
        self.began, self.is_sent = now, False
        self._due_in(self.limits.connect_s)

    def sent(self) -> None:
        self.is_sent = True
        self._due_in(self.limits.first_byte_s)

    def spent_s(self, now: float) -> float:
        """Return how much of the attempt's time is gone, the hops before this one included."""
        return now - (self.began if self.first is None else self.first)

    def is_late(self) -> bool:
        return self.head is not None and self.head.expired()

    def late(self) -> FetchError:
        if not self.is_sent:
            return FetchError("timeout", f"no connection within {self.limits.connect_s:.0f} s", unsent=True)
        return FetchError("timeout", f"no answer within {self.limits.first_byte_s:.0f} s")

    def _due_in(self, seconds: float | None) -> None:
        if self.head is not None and not self.head.expired():
            self.head.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


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


async def _note_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent()


def _make_throttle(rate: float | None) -> AsyncLimiter | None:
    """Return a limiter of bytes: at most `rate` a second, in portions of a tenth of a second."""
    if rate is None:
        return None
    portion = max(1024.0, rate / 10)
    return AsyncLimiter(portion, portion / rate)


def _proxies() -> dict[str, URL]:
    """Return the environment's proxies by the scheme of what is asked. Raises UsageError for one of another kind."""
    proxies = {}
    for scheme, text in urllib.request.getproxies().items():
        if scheme in _PROXY_SCHEMES:
            proxy = URL(text if "://" in text else f"http://{text}")
            if proxy.scheme not in _PROXY_SCHEMES or not proxy.host:
                raise UsageError(
                    f"{scheme}_proxy is {text!r} in the environment; only http and https proxies can be used"
                )
            proxies[scheme] = proxy
    return proxies
