"""Where we may connect: to the public internet, and to the few host:port pairs a user has named.

A table from the internet may say http://169.254.169.254/, and so may any redirect. What counts is the address that is
really connected to, so the policy is asked twice: `refuse` before a request, for what stands in the URL itself, and
`AddressGuard.make_socket` at every connect, for what a name turned out to mean (this time: names change their answers).
"""

import ipaddress
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

Endpoint = tuple[str, int]
"""(host as written, lower case, without a trailing dot; port)"""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 prefixes that carry an IPv4 address in their last 32 bits: mapped, compatible (deprecated), NAT64 (RFC 6052).
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "::ffff:0:0:0/96")))
# RFC 8215: local translation prefixes; deprecated site-local addresses, which Python's is_global lets through.
_LOCAL = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "fec0::/10")))


def endpoint(url: URL) -> Endpoint:
    """Return the host and port that a URL names.

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
    """Return the address that a host of a URL is, in any spelling that a resolver would take for one; None for a name.

    >>> literal("127.0.0.1"), literal("2130706433"), literal("0x7f.1"), literal("x.org")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), None)
    """
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        # What every C library takes for an IPv4 address: one to four parts, decimal, octal or hexadecimal.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to the public internet, looking into those that carry another one.

    >>> is_public(ipaddress.ip_address("::ffff:127.0.0.1")), is_public(ipaddress.ip_address("8.8.8.8"))
    (False, True)
    """
    if isinstance(address, ipaddress.IPv6Address):
        carried = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if _is_carrier(address) else []
        if address.sixtofour is not None:
            carried.append(address.sixtofour)
        if address.teredo is not None:
            carried += address.teredo
        if carried:
            return all(map(is_public, carried))
        if any(address in network for network in _LOCAL):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _is_carrier(address: ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _CARRIERS) and int(address) > 1


@dataclass(slots=True)
class _ConnectAttempt:
    """One connection being made: to whom, and which addresses were tried and refused on the way."""

    asked: Endpoint
    is_trusted: bool = False
    tried: int = 0
    refused: list[str] = field(default_factory=list)


_VISIT: ContextVar[_ConnectAttempt | None] = ContextVar("oid_async_visit", default=None)


class AddressGuard:
    """The policy of one client: `allowed` endpoints may be anywhere, all others must be public.

    `allowed` holds hosts as written: allowing 127.0.0.1:8080 does not allow a name that means it, nor another port.
    """

    def __init__(self, allowed: Iterable[Endpoint]) -> None:
        self._allowed = frozenset(allowed)

    def refuse(self, url: URL) -> str | None:
        """Return why a URL must not be asked, as far as the URL itself tells; None if it may."""
        asked = endpoint(url)
        if asked in self._allowed:
            return None
        address = literal(asked[0])
        if (address is not None and not is_public(address)) or _is_local_name(asked[0]):
            return refusal(asked, asked[0])
        return None

    def is_allowed(self, url: URL) -> bool:
        """Return whether the user has named this endpoint."""
        return endpoint(url) in self._allowed

    def visit(self, asked: Endpoint, *, trusted: bool = False) -> _ConnectAttempt:
        """Say who is asked by the connections that this task makes from here on; `was_refused` tells afterwards.

        A proxy is `trusted`: it stands in the user's environment, mostly at a private address.
        """
        visit = _ConnectAttempt(asked, trusted)
        _VISIT.set(visit)
        return visit

    def make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one address; aiohttp calls it at every connect, with the address itself.

        Raises PermissionError for an address that is not allowed.
        """
        family, kind, protocol, _, where = info
        visit = _VISIT.get()
        if visit is not None:
            visit.tried += 1
        is_open = visit is not None and (visit.is_trusted or visit.asked in self._allowed)
        if not is_open and not is_public(ipaddress.ip_address(where[0])):
            if visit is not None:
                visit.refused.append(str(where[0]))
            raise PermissionError(f"{where[0]} is not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)


def was_refused(visit: _ConnectAttempt) -> str | None:
    """Return why no connection was made, if it was for the addresses alone that the host turned out to have."""
    return refusal(visit.asked, visit.refused[0]) if visit.refused and len(visit.refused) == visit.tried else None


def refusal(asked: Endpoint, address: str) -> str:
    """Say what is refused and what would allow it."""
    host = f"[{asked[0]}]" if ":" in asked[0] else asked[0]
    means = "" if address == asked[0] else f" (which is {address})"
    return f"{host}:{asked[1]}{means} is not a public address; --allow-host {host}:{asked[1]} would allow it"


def _is_local_name(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")
