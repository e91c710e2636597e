"""Looking up names for aiohttp."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic

from aiohttp.abc import AbstractResolver, ResolveResult

from oid_async.http.address_guard import note_look_up

_LOOK_UPS_AT_ONCE = 32


class Resolver(AbstractResolver):
    """Resolves names. A look-up that hangs delays neither the disk, which has other threads, nor soon other names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOK_UPS_AT_ONCE, thread_name_prefix="oid_async-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises OSError."""
        look_up = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        began = monotonic()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        finally:
            note_look_up(monotonic() - began)
        results = []
        for kind, _, protocol, _, address in found:
            scope = f"%{address[3]}" if kind == socket.AF_INET6 and len(address) > 3 and address[3] else ""
            results.append(
                ResolveResult(
                    hostname=host,
                    host=f"{address[0]}{scope}",
                    port=int(address[1]),
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        """Close without waiting for look-ups: one that hangs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
