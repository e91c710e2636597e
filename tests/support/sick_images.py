"""A bucket in which some images are sick, on its own clock: it notes when each good one was sent."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from support.received import JPEG

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(JPEG), JPEG)
_BUSY = b"HTTP/1.1 %d X\r\n%sContent-Length: 0\r\n\r\n"
_DRIP_S = 0.02
_WAIT = b"Retry-After: 1\r\n"
# What the first requests of a sick image get, before nothing more comes; after them it is well. None: a byte at a time.
SICK: dict[str, list[bytes | None]] = {
    "429": [_BUSY % (429, _WAIT)],
    "503": [_BUSY % (503, b""), _BUSY % (503, b"")],
    "503 with Retry-After": [_BUSY % (503, _WAIT)],
    "429 without Retry-After": [_BUSY % (429, b"")],
    "hanging heads": [b""] * 9,
    "hanging bodies": [_OK[: len(_OK) // 2]] * 9,
    "dripping bodies": [None] * 9,
}


@dataclass
class Bucket:
    """Serves images after `pause_s`; `sick` names the kind of those that are sick, by ImageID.

    `seconds` is the time from the first request to the last good image, `asked` when each image was asked for, from the
    first request on. `all_good` is set once so many good images were sent as there are.
    """

    images: int
    sick: Mapping[str, str]
    pause_s: float
    asked: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    all_good: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _began: float | None = None
    _turns: Counter[str] = field(default_factory=Counter)
    _sent: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve until the block ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Talk(self), "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def answer(self, image_id: str, transport: asyncio.WriteTransport) -> None:
        """Answer one request, a good image later."""
        loop = asyncio.get_running_loop()
        self._began = loop.time() if self._began is None else self._began
        self.asked.setdefault(image_id, []).append(loop.time() - self._began)
        steps = SICK[self.sick[image_id]] if image_id in self.sick else []
        turn = self._turns[image_id]
        self._turns[image_id] += 1
        step = steps[turn] if turn < len(steps) else _OK
        if step is None:
            self._drip(transport, _OK)
        elif turn < len(steps):
            transport.write(step)
        else:
            loop.call_later(self.pause_s, self._send, image_id, transport)

    def _drip(self, transport: asyncio.WriteTransport, rest: bytes) -> None:
        if rest and not transport.is_closing():
            transport.write(rest[:1])
            asyncio.get_running_loop().call_later(_DRIP_S, self._drip, transport, rest[1:])

    def _send(self, image_id: str, transport: asyncio.WriteTransport) -> None:
        if transport.is_closing():
            return
        transport.write(_OK)
        if image_id not in self.sick:
            self._sent += 1
            self.seconds = asyncio.get_running_loop().time() - (self._began or 0.0)
            if self._sent == self.images - len(self.sick):
                self.all_good.set()


class _Talk(asyncio.Protocol):
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            name = head.split(b" ", 2)[1].rsplit(b"/", 1)[1]
            self._bucket.answer(name.removesuffix(b".jpg").decode(), self._transport)
