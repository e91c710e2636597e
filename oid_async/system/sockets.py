"""Sockets: a port of one's own, and whether one can be given to a process that is started."""

import os
import socket


def take_port_alone(listening: socket.socket) -> None:
    """Let a socket have a port right after another program gave it up, and alone. Call it before `bind`."""
    # Elsewhere SO_REUSEADDR means the first alone: no two programs can listen at one port anyway. Windows has the first
    # by itself; its SO_REUSEADDR would let two listen.
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    listening.setsockopt(socket.SOL_SOCKET, option, 1)


def can_share_sockets() -> bool:
    """Return whether a process that is started can be given an open socket by its number, as worker processes are."""
    return hasattr(socket, "AF_UNIX") and hasattr(os, "fork")
