"""Where the gallery listens, and the address that a browser is given for it."""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Self

from oid_async.errors import UsageError
from oid_async.system.sockets import take_port_alone

_BACKLOG, _MOST_PORT = 128, 65_535
# What "every address of this machine" is, and how this machine itself calls on it.
_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gallery listens: an address of this machine or a name of it, and a port, 0 for any free one."""

    host: str
    port: int

    @classmethod
    def read(cls, host: str, port: int) -> Self:
        """Return a place. Raises UsageError for a text that is none."""
        host = host.strip()
        bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        if not bare or any(sign in bare for sign in "/@?# "):
            raise UsageError(
                f"--host takes an address of this machine such as 127.0.0.1, or a name of it, not {host!r}"
            )
        if not 0 <= port <= _MOST_PORT:
            raise UsageError(f"--port takes a number up to {_MOST_PORT}, 0 for any free port, not {port}")
        return cls(bare, port)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a port of an address of this machine, any free one for 0. Blocking.

    Raises UsageError, naming --host or --port, where that is not possible.
    """
    try:
        family, _, _, _, address = min(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE),
            key=lambda found: found[0] != socket.AF_INET,
        )
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: no address of this machine has this name") from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        take_port_alone(listening)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise UsageError(_why(error, host, port)) from error
    return listening


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: another program listens there; name another port, or leave it out to have a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port {port}: this user may not listen there; name one above 1023, or leave it out to have a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: it is no address of this machine"
    return f"--host {host}: cannot listen there ({error.strerror or error})"


def base_url(listening: socket.socket, host: str) -> str:
    """Return the address of the page, without a token, as this machine itself opens it."""
    name = _EVERY.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"


def is_open_to_others(listening: socket.socket) -> bool:
    """Return whether other machines may reach the port."""
    return not ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
