"""A storage that fails now and then: a proxy on loopback before an S3 server, whose faults come by a seed.

The Host header goes on as it came: S3's signatures cover it.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self, get_args
from urllib.parse import unquote, urlsplit

# error: 500 or 503 in place of the request. reset: the connection is reset in place of the request. error_after,
# reset_after: the same once the server has carried the request out. cut: the answer ends in the middle of its body.
# slow: the request waits.
Fault = Literal["error", "reset", "error_after", "reset_after", "cut", "slow"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_BLOCK = 1 << 18
_ANSWER = b"HTTP/1.1 %d Fault\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b"


@dataclass
class FaultyStorage:
    """Passes on to `upstream` (http://HOST:PORT), but for a `share` of the requests, from 0 to 1.

    Whether the n-th request of a method and key fails, and how, depends on the `seed` alone. `methods` limits faults to
    some. `requests` counts by (method, path), `faults` by fault, `done` the requests that the server has carried out.
    All may be looked at, and `share` set, from any thread while it runs.
    """

    upstream: str
    share: float = 0.0
    seed: int = 0
    kinds: Collection[Fault] = FAULTS
    methods: Collection[str] | None = None
    slow_s: float = 0.5
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._run(started))
        self._loop.close()

    async def _run(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        self._talks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=_BLOCK)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out the requests of one connection, one after the other."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        parts = urlsplit(self.upstream)
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_BLOCK)
        try:
            while await self._one(reader, writer, server_reader, server_writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Cancelled by the end of the block: whoever still talks has its connection reset, too.
            _reset(writer)
        finally:
            for each in (writer, server_writer):
                each.close()
            self._talks.discard(task)

    async def _one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request on, or let it fail; return whether the connection goes on."""
        head = await _head(reader)
        if not head:
            return False
        method, target = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
        fault = self._next_fault(method, unquote(target.partition("?")[0]))
        if b"\r\nexpect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        body = await reader.readexactly(_length(head) or 0)
        if fault == "reset":
            _reset(writer)
            return False
        if fault == "error":
            await _send_error(writer, method)
            return True
        if fault == "slow":
            await asyncio.sleep(self.slow_s)
        server_writer.write(head + body)
        await server_writer.drain()
        answer = await _answer(server_reader, method)
        self.done[method, unquote(target.partition("?")[0])] += 1
        if fault == "error_after":
            await _send_error(writer, method)
            return True
        if fault == "cut":
            # Of an answer without a body nothing is left but its first bytes.
            end = answer.find(b"\r\n\r\n") + 4
            writer.write(answer[: end + (len(answer) - end) // 2] if len(answer) > end else answer[: end // 2])
            await writer.drain()
        if fault in ("cut", "reset_after"):
            _reset(writer, at_once=fault == "reset_after")
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _next_fault(self, method: str, path: str) -> Fault | None:
        self.requests[method, path] += 1
        dice = random.Random(f"{self.seed} {method} {path} {self.requests[method, path]}")
        if dice.random() >= self.share or (self.methods is not None and method not in self.methods):
            return None
        fault = dice.choice(sorted(self.kinds))
        self.faults[fault] += 1
        return fault


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


async def _answer(reader: asyncio.StreamReader, method: str) -> bytes:
    """Return a whole answer, head and body."""
    head = await _head(reader)
    status = int(head.split(b" ", 2)[1])
    if method == "HEAD" or status in (204, 304):
        return head
    if b"transfer-encoding: chunked" not in head.lower():
        return head + await reader.readexactly(_length(head) or 0)
    parts = [head]
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


async def _send_error(writer: asyncio.StreamWriter, method: str) -> None:
    body = b"" if method == "HEAD" else b"<Error><Code>InternalError</Code><Message>a fault</Message></Error>"
    writer.write(_ANSWER % (random.choice((500, 503)), len(body), body))
    await writer.drain()


def _reset(writer: asyncio.StreamWriter, *, at_once: bool = True) -> None:
    """Reset a connection; or, if not `at_once`, only end it behind what was sent."""
    if at_once:
        with suppress(OSError, AttributeError):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
