"""A server that misbehaves on request: raw sockets, so that HTTP itself may be broken. Loopback only."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(status: int, body: bytes = b"", length: int | None = -1, **headers: str) -> bytes:
    """Return the bytes of a response; `length` None sends no Content-Length, a number replaces the true one."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length == -1 else length}")
    else:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Counted:
    """A connection's writer that counts what it has sent for one path."""

    writer: asyncio.StreamWriter
    sent: Counter[str]
    path: str

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self.writer.transport

    def write(self, data: bytes) -> None:
        self.sent[self.path] += len(data)
        self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()


_TURNS = 16


async def ends_seen() -> None:
    """Let a server of this loop see the ends of connections: those that it has not even accepted take some turns."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


@dataclass
class Scripted:
    """Serves each path by its script, one step a request, the last step for ever; 404 where there is none."""

    scripts: dict[str, list[Answer]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    asked: list[tuple[str, float]] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    fixed_port: int = 0
    all_heads: list[str] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    url: str = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.fixed_port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        await ends_seen()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode().split("?", 1)[0]
                self.heads[path] = head.decode()
                self.all_heads.append(head.decode())
                self.times.append(asyncio.get_running_loop().time())
                steps = self.scripts.get(path, [http(404)])
                step = steps[min(self.requests[path], len(steps) - 1)]
                self.requests[path] += 1
                self.asked.append((path, self.times[-1]))
                if not isinstance(step, bytes):
                    await step(Counted(writer, self.sent, path))  # type: ignore[arg-type]
                    break
                self.sent[path] += len(step)
                writer.write(step)
                await writer.drain()
                if b"Connection: close" in step or _promises_more(step):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _promises_more(step: bytes) -> bool:
    head, _, body = step.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
    return bool(lengths) and lengths[0] > len(body)
