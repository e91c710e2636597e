"""Where we may connect: to the public internet, and to the few host:port pairs a user has named.

A table from the internet may contain http://169.254.169.254/, and so may any redirect. The address that is really
connected to counts, so the policy is applied twice: `refuse` before a request, to the host as written in the URL, and
`AddressGuard.make_socket` at every connect, to the address that a name was resolved to (which may change any time).
"""

import ipaddress
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import field
from time import monotonic
from typing import Any

from yarl import URL

from oid_async.quick_values import define

Endpoint = tuple[str, int]
"""(host as written, lower case, without a trailing dot; port)"""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 prefixes that carry an IPv4 address in their last 32 bits: mapped, compatible (deprecated), NAT64 (RFC 6052).
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "::ffff:0:0:0/96")))
# RFC 8215: local translation prefixes; deprecated site-local addresses, which Python's is_global lets through.
_LOCAL = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "fec0::/10")))


def endpoint(url: URL) -> Endpoint:
    """Return the host and port of a URL.

    >>> endpoint(URL("https://X.org./a.jpg")), endpoint(URL("http://[::1]:8080/"))
    (('x.org', 443), ('::1', 8080))
    """
    return (url.raw_host or "").rstrip(".").lower(), url.port or 0


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint of an `--allow-host HOST:PORT`.

    >>> parse_endpoint("Localhost:8080"), parse_endpoint("[0:0:0:0:0:0:0:1]:80")
    (('localhost', 8080), ('::1', 80))
    """
    try:
        return endpoint(URL(f"http://{text}"))
    except (ValueError, IndexError):
        host, _, port = text.rpartition(":")
        return host.strip("[]").rstrip(".").lower(), int(port)


def literal(host: str) -> IPAddress | None:
    """Return the IP address that a URL's host is, in any spelling that a resolver accepts; None for a name.

    >>> literal("127.0.0.1"), literal("2130706433"), literal("0x7f.1"), literal("x.org")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), None)
    """
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        # Every C library accepts these as IPv4 addresses: one to four parts, decimal, octal or hexadecimal.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to the public internet; one that carries another address is judged by that.

    >>> is_public(ipaddress.ip_address("::ffff:127.0.0.1")), is_public(ipaddress.ip_address("8.8.8.8"))
    (False, True)
    """
    if isinstance(address, ipaddress.IPv6Address):
        carries = int(address) > 1 and any(address in network for network in _CARRIERS)
        carried = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if carries else []
        if address.sixtofour is not None:
            carried.append(address.sixtofour)
        if address.teredo is not None:
            carried += address.teredo
        if carried:
            return all(map(is_public, carried))
        if any(address in network for network in _LOCAL):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


@define
class _ConnectAttempt:
    """One connection being made: to which endpoint, how many addresses were tried, and which were refused.

    `look_up_s` is how long its name was looked up, None where that was not done for it.
    """

    endpoint: Endpoint
    is_trusted: bool = False
    tried: int = 0
    refused: list[str] = field(default_factory=list)
    look_up_s: float | None = None
    _began: float | None = None

    def try_next(self) -> None:
        """Note that a connection to one more address is begun."""
        self.tried += 1
        if self._began is None:
            self._began = monotonic()

    @property
    def connecting_s(self) -> float:
        """Return how long ago the first address was tried."""
        return 0.0 if self._began is None else monotonic() - self._began


_ATTEMPT: ContextVar[_ConnectAttempt | None] = ContextVar("oid_async_connect_attempt", default=None)


class AddressGuard:
    """The policy of one client: `allowed` endpoints may be anywhere, all others must be public.

    `allowed` holds hosts as written: allowing 127.0.0.1:8080 does not allow a name that means it, nor another port.
    """

    def __init__(self, allowed: Iterable[Endpoint]) -> None:
        self._allowed = frozenset(allowed)

    def refuse(self, url: URL) -> str | None:
        """Return why a URL must not be requested, judged by the URL alone; None if it may."""
        target = endpoint(url)
        if target in self._allowed:
            return None
        host, address = target[0], literal(target[0])
        is_local_name = host == "localhost" or host.endswith(".localhost")
        if is_local_name or (address is not None and not is_public(address)):
            return refusal(target, host)
        return None

    def is_allowed(self, url: URL) -> bool:
        """Return whether the user has allowed this endpoint."""
        return endpoint(url) in self._allowed

    def connect_attempt(self, target: Endpoint, *, trusted: bool = False) -> _ConnectAttempt:
        """Begin to record the connections that this task makes from here on, to `target`; see `refused_for`.

        A proxy is `trusted`: the user's environment names it, mostly at a private address.
        """
        attempt = _ConnectAttempt(target, trusted)
        _ATTEMPT.set(attempt)
        return attempt

    def make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one address; aiohttp calls it at every connect. Raises PermissionError if not allowed."""
        family, kind, protocol, _, where = info
        attempt = _ATTEMPT.get()
        if attempt is not None:
            attempt.try_next()
        is_open = attempt is not None and (attempt.is_trusted or attempt.endpoint in self._allowed)
        if not is_open and not is_public(ipaddress.ip_address(where[0])):
            if attempt is not None:
                attempt.refused.append(str(where[0]))
            raise PermissionError(f"{where[0]} is not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)


def note_look_up(seconds: float) -> None:
    """Note how long the name of the connection that is being made was looked up."""
    if (attempt := _ATTEMPT.get()) is not None:
        attempt.look_up_s = seconds


def refused_for(attempt: _ConnectAttempt) -> str | None:
    """Return why no connection was made, if every address that was tried was refused; else None."""
    refused = attempt.refused
    return refusal(attempt.endpoint, refused[0]) if refused and len(refused) == attempt.tried else None


def refusal(target: Endpoint, address: str) -> str:
    """Return a message on what is refused and what would allow it."""
    host, port = f"[{target[0]}]" if ":" in target[0] else target[0], target[1]
    means = "" if address == target[0] else f" (which is {address})"
    return f"{host}:{port}{means} is not a public address; --allow-host {host}:{port} would allow it"
