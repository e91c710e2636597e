"""Making connections: in clear text to an address at once, all others by aiohttp.

The others are those to names and by proxies, and TLS where our own (`http/tls.py`), on a connection in clear text, has
failed. A mirror on this machine or in its network mostly has an address, and then nobody needs aiohttp: with the
certificates that it reads it takes a sixth of the processor time of a run of a hundred images to import (measured).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from yarl import URL

from oid_async.http.retry import FetchError, cannot_connect, connection_error
from oid_async.quick_values import value

if TYPE_CHECKING:
    import aiohttp

    from oid_async.http.resolver import Resolver

MakeSocket = Callable[[tuple[Any, ...]], socket.socket]
"""Makes the socket for one address, as getaddrinfo returns it. Raises OSError, PermissionError if it is refused."""


class MadeConnection(Protocol):
    """A connection that was made: its transport, and the protocol that is to be told of its end."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Return the transport, None if it was closed as soon as it was made."""

    @property
    def protocol(self) -> asyncio.BaseProtocol | None:
        """Return the protocol that it was made with, None if it was closed as soon as it was made."""

    def close(self) -> None:
        """Close it, if it is still open, and keep no books on it any more."""


class NotConnectedError(Exception):
    """No connection could be made; `failure` is what that means."""

    def __init__(self, failure: FetchError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Connector:
    """Makes the connections of one client."""

    def __init__(self, make_socket: MakeSocket) -> None:
        self._make_socket = make_socket
        self._by_aiohttp: aiohttp.TCPConnector | None = None
        self._resolver: Resolver | None = None

    async def connect(self, site: URL, proxy: URL | None, limit_s: float) -> MadeConnection:
        """Make a connection to the origin of a URL, by a proxy if one is named. Raises NotConnectedError.

        `limit_s` is for each address of a name; the caller sets a limit for all of it.
        """
        address = _address_in_clear(site) if proxy is None else None
        if address is not None:
            try:
                return await self._connect_to(address, site.port or 0)
            except OSError as error:
                raise NotConnectedError(cannot_connect(f"{site.raw_host}:{site.port}", error)) from error
        import aiohttp

        connector, loop = self._others(), asyncio.get_running_loop()
        try:
            request = aiohttp.ClientRequest("GET", site, loop=loop, proxy=proxy)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=limit_s)
            return await connector.connect(request, [], timeout)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            via = f"{proxy.host}:{proxy.port} ({site.scheme}_proxy)" if proxy is not None else None
            raise NotConnectedError(connection_error(error, via)) from error

    async def _connect_to(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> MadeConnection:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        where = (str(address), port) if address.version == 4 else (str(address), port, 0, 0)
        made = self._make_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where))
        try:
            made.setblocking(False)
            await loop.sock_connect(made, where)
            return _Clear(*await loop.create_connection(asyncio.Protocol, sock=made))
        except BaseException:
            made.close()
            raise

    def _others(self) -> "aiohttp.TCPConnector":
        if self._by_aiohttp is None:
            import aiohttp

            from oid_async.http.resolver import Resolver

            self._resolver = Resolver()
            self._by_aiohttp = aiohttp.TCPConnector(
                limit=0,  # the pool limits connections
                ttl_dns_cache=300,
                resolver=self._resolver,
                socket_factory=self._make_socket,
            )
        return self._by_aiohttp

    async def close(self) -> None:
        """Close what is open."""
        if self._by_aiohttp is not None and self._resolver is not None:
            await self._by_aiohttp.close()
            await self._resolver.close()


@value
class _Clear:
    """A connection to an address."""

    transport: asyncio.Transport
    protocol: asyncio.BaseProtocol

    def close(self) -> None:
        """Close it, if it is still open."""
        self.transport.close()


def _address_in_clear(site: URL) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a plain http URL names, None for a name, an odd spelling, a zone, or TLS.

    >>> _address_in_clear(URL("http://127.0.0.1:8080/a.jpg")), _address_in_clear(URL("http://[::1]/"))
    (IPv4Address('127.0.0.1'), IPv6Address('::1'))
    >>> _address_in_clear(URL("http://localhost/")), _address_in_clear(URL("https://127.0.0.1/"))
    (None, None)
    """
    host = site.raw_host or ""
    if site.scheme != "http" or "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
