"""The HTTP client of one run: a session set up on purpose, every real send admitted and counted, redirects by hand."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from yarl import URL

from oid_async.transfer.hosts import Hosts
from oid_async.transfer.retry import FetchError, Limits, connection_error, status_error
from oid_async.transfer.urls import next_hop, parse_url
from oid_async.version import __version__

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BUFFER = 1 << 20  # aiohttp's 64 KiB pauses and resumes the socket many times within one 300 KB image
_NO_HEADERS: Mapping[str, str] = {}


class Client:
    """Owns the session. `requests` counts what was really sent: redirect hops and aiohttp's silent re-sends too.

    No cookies are kept and no credentials sent; bodies are asked for as they are (identity) and never unpacked unseen.
    """

    def __init__(self, hosts: Hosts, limits: Limits, *, connections: int, offline: bool = False) -> None:
        self._offline = offline
        self.hosts = hosts
        self.limits = limits
        self.requests = 0
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = self.limits
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s),
            headers={
                "User-Agent": f"oid-async/{__version__} (Open Images downloader)",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            middlewares=[self._admit],
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()
            # Closing a TLS transport takes one more turn of the loop; without it Python warns of an open socket.
            await asyncio.sleep(0)

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] = _NO_HEADERS, *, method: str = "GET"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET (or HEAD) a URL, following up to five redirects, and yield the answer once it is 200, 206 or 304.

        Raises FetchError for every other end. Read the body with `chunks`, which raises FetchError too. Offline every
        GET ends as `network` at once.
        """
        target = parse_url(url)
        if self._offline:
            raise FetchError("network", "no request is made with --offline", hopeless=True)
        for _ in range(self.limits.redirects + 1):
            response = await self._send(method, target, headers)
            try:
                if response.status not in _REDIRECTS:
                    if response.status not in (200, 206, 304):
                        self._heed(response)
                    yield response
                    return
                target = next_hop(target, response.headers.get("Location", ""))
            finally:
                # Drops the connection if the body was not read to its end, else gives it back to the pool.
                response.close()
        raise FetchError("redirect", f"more than {self.limits.redirects} redirects")

    async def chunks(self, response: aiohttp.ClientResponse, *, endless: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives, as sent. Raises FetchError; one attempt may last ten minutes in all.

        `endless` lifts that limit, for a table of gigabytes on a slow line; silence is cut off all the same.
        """
        try:
            async with asyncio.timeout(None if endless else self.limits.attempt_s):
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise connection_error(error) from error

    async def _send(self, method: str, target: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        assert self._session is not None, "used outside its context"
        try:
            return await self._session.request(method, target, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise connection_error(error) from error

    def _heed(self, response: aiohttp.ClientResponse) -> None:
        """Raise for an answer that is not the object, and leave a host alone that asks for it."""
        error = status_error(response.status, response.headers)
        if error.retry_after_s is not None:
            host = self.hosts.of(response.url)
            error.hopeless = host.waited_s + error.retry_after_s > self.limits.max_wait_s
            if not error.hopeless:
                host.pause(error.retry_after_s, now=self.hosts.clock())
        raise error

    async def _admit(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await self.hosts.admit(self.hosts.of(request.url))
        self.requests += 1
        return await handler(request)
