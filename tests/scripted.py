"""A server that misbehaves on request: raw sockets, so that HTTP itself may be broken. Loopback only."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(status: int, body: bytes = b"", length: int | None = -1, **headers: str) -> bytes:
    """Return the bytes of an answer; `length` None sends no Content-Length, a number replaces the true one."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length == -1 else length}")
    else:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Scripted:
    """Answers each path with its script, one step a request, the last step for ever; 404 where there is none."""

    scripts: dict[str, list[Answer]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode().split("?", 1)[0]
                self.heads[path] = head.decode()
                self.times.append(asyncio.get_running_loop().time())
                steps = self.scripts.get(path, [http(404)])
                step = steps[min(self.requests[path], len(steps) - 1)]
                self.requests[path] += 1
                if not isinstance(step, bytes):
                    await step(writer)
                    break
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
