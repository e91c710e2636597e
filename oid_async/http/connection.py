"""One connection that speaks HTTP/1.1: a request goes out, its answer comes back, then perhaps the next one.

    idle ──send──▶ head ──▶ body ──▶ whole ──done──▶ idle

aiohttp has made the connection (names, addresses, TLS, proxies); llhttp, by way of httptools, says what the bytes
mean. Only the exchange itself is our own, because every image costs one: aiohttp's takes four times as much of a
processor for a small image, twice as much for a usual one (`benchmarks/README.md`). A body whose length is known is
received straight into the memory that it is stored from.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import httptools
from multidict import CIMultiDict

from oid_async.http.retry import FetchError, Limits

# What is read at once. One piece of memory serves all connections of a loop: it is emptied before the loop goes on.
SCRATCH_BYTES = 256 << 10
# A head, and all of a small body or the first part of a larger one, which is then copied once more.
_FIRST_READ_BYTES = 64 << 10
# Of a body that is taken piece by piece this much may wait; beyond it the connection is not read.
_PAUSE_BYTES = 256 << 10
_MOST_HEAD_BYTES = 64 << 10
_MOST_BETWEEN_BYTES = SCRATCH_BYTES + _MOST_HEAD_BYTES  # trailers, and extensions of chunks
_MOST_HEADERS = 256
_START_BYTES = 16
_CHECKS_A_WINDOW = 4  # how soon after its window a slow body is noticed: a quarter of it later at most
_NO_BODY = frozenset({204, 304})


class KeepAliveHandler(Protocol):
    """What goes on from one answer to the next request. It is asked within the loop's callbacks: it must not wait."""

    def takes(self, connection: "Connection") -> bool:
        """Return whether the answer whose head is there is a plain one, to be received whole, in memory."""

    def goes_on(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        """Take the body of a plain answer and return the next request; None if whoever waits has to take it."""


class Connection(asyncio.BufferedProtocol):
    """The exchange on one connection. `scratch` is shared with the other connections of the loop.

    Its owner calls `tick` now and then while `is_busy`: that keeps the limits on an answer's head and body.
    """

    def __init__(self, connection: aiohttp.connector.Connection, limits: Limits, scratch: memoryview) -> None:
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            raise FetchError("network", "the connection was closed as soon as it was made", unsent=True)
        self._connection = connection
        self._connected = protocol
        self._transport = transport
        self._limits = limits
        self._scratch = scratch
        self._first = scratch[:_FIRST_READ_BYTES]
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._relay: KeepAliveHandler | None = None
        self._error: FetchError | None = None
        self.is_busy = False
        self.idle_since = 0.0
        self._begin(is_head_alone=False)
        transport.set_protocol(self)

    def _begin(self, *, is_head_alone: bool) -> None:
        self.status = 0
        self.etag: str | None = None
        self.encoding = ""
        self._lines: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.heard = 0  # bytes of the answer, its head included
        self._received = 0  # bytes of its body
        self._has_head = False
        self._is_whole = False
        self._is_head_alone = is_head_alone
        self._keeps_alive = False
        self._until_eof = False
        self._left: int | None = None
        self._pieces: deque[bytes] = deque()
        self._queued = 0
        self._body: bytearray | None = None  # of an answer that is received whole, once it is begun
        self._room: memoryview | None = None  # what is left of it to fill
        self._between = 0  # bytes that have come since the last of the body
        self._start = b""
        self._patience = _AnswerTimer(self._limits)
        self._parser = httptools.HttpResponseParser(self)
        # As browsers do, and aiohttp: old servers fold headers and end lines with LF alone.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    # --- what its owner asks for -----------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Return whether a request may be sent."""
        return self._error is None and not self._transport.is_closing()

    @property
    def can_go_on(self) -> bool:
        """Return whether the answer has come to its end and another one may follow."""
        return self._is_whole and self._keeps_alive and self.is_usable

    async def send(self, request: bytes, *, is_head_alone: bool = False, relay: KeepAliveHandler | None = None) -> None:
        """Send a request and wait for the head of its answer. Raises FetchError.

        Then `status`, `length`, `etag`, `encoding` (Content-Encoding in lower case, "" for none) and `headers` stand:
        with a `relay` those of the first answer that it has not gone on from.
        """
        self._begin(is_head_alone=is_head_alone)
        self.is_busy = True
        if self._error is None:
            self._transport.write(request)
        self._relay = relay
        try:
            while not self._has_head:
                await self._wait()
        finally:
            self._relay = None

    def allow(self, seconds: float | None) -> None:
        """Say how much of the attempt's time is left for the body; None: as much as it takes."""
        self._patience.left_s = seconds

    async def read_whole(self) -> bytes | bytearray:
        """Return the body, whose length is known. Raises FetchError; `start` then has its first bytes."""
        if self._body is None and not self._is_whole:
            self._begin_body()
            self._resume()
        try:
            while not self._is_whole:
                await self._wait()
        except FetchError:
            assert self._body is not None
            self._start = bytes(self._body[: min(_START_BYTES, self._received)])
            raise
        finally:
            self._room = None
        return self._whole_body()

    def _begin_body(self) -> None:
        """Make room for all of the body, whose length is known."""
        assert self.length is not None
        # One more byte than there should be: what a server sends behind the body must not pass for its next answer.
        body = self._body = bytearray(self.length + 1)
        at = 0
        for piece in self._pieces:
            body[at : at + len(piece)] = piece
            at += len(piece)
        self._pieces.clear()
        self._room = memoryview(body)[at:]

    def _whole_body(self) -> bytes | bytearray:
        """Return the body, which is whole. The loop must have let go of its view of it."""
        body = self._body
        if body is None:
            return b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        del body[self.length :]
        return body

    async def read(self) -> bytes:
        """Return what has come of the body, b"" at its end. Raises FetchError once all that came is read."""
        if self._body is not None:
            # It was to be received whole, and something has come between.
            body, self._body, self._room = self._body, None, None
            self._pieces.append(bytes(memoryview(body)[: self._received]))
        while not self._pieces:
            if self._is_whole:
                return b""
            await self._wait()
        chunk = b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        self._pieces.clear()
        self._queued = 0
        self._resume()
        return chunk

    @property
    def headers(self) -> CIMultiDict[str]:
        """Return all headers of the answer."""
        return CIMultiDict((name.decode("ascii", "replace"), _text(value)) for name, value in self._lines)

    @property
    def start(self) -> bytes:
        """Return the first bytes of a body that `read_whole` could not get to its end."""
        return self._start

    def rest(self, now: float) -> None:
        """Say that the answer is dealt with and the connection idle."""
        self.is_busy = False
        self.idle_since = now
        self._pieces.clear()
        self._resume()

    def abort(self) -> None:
        """Close the connection without ceremony: the other side is not waited for."""
        self._break(FetchError("network", "the connection was closed"))

    def tick(self, passed_s: float) -> None:
        """Look after the limits, `passed_s` after the last look. Whoever waits for the server hears of it."""
        if self._waiter is None:
            return  # it is our turn, not the server's
        if late := self._patience.late(passed_s, self._received if self._has_head else None):
            self._break(FetchError("timeout", late))

    # --- what the loop tells ---------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        if self._room is not None:
            return self._room
        return self._scratch if self._has_head else self._first

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        self.heard += nbytes
        if self._room is not None:
            self._fill(self._room, nbytes)
        elif not self.is_busy:
            self._break(FetchError("network", "the server says what nobody asked for"))
        elif self._is_whole:
            self._keeps_alive = False
        elif self._left is not None:
            # Where a counted body ends needs no parser.
            self._keeps_alive = self._keeps_alive and nbytes <= self._left
            self._take(bytes(self._scratch[: min(nbytes, self._left)]))
            self._wake()
        else:
            self._parse(self._scratch[:nbytes])
            self._wake()

    def eof_received(self) -> None:
        """Note that the server has nothing more to say; the transport then closes."""
        if self._has_head and self._until_eof and self._error is None:
            self._is_whole = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and aiohttp, which made the connection."""
        self._break(self._lost(exc))
        self._connected.connection_lost(exc)

    # --- what llhttp tells -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note a second answer to one request; the first may be a 1xx, which is none yet."""
        if self._has_head:
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers say nothing that is wanted."""
        if self._has_head:
            return
        if len(self._lines) >= _MOST_HEADERS:
            raise ValueError(f"more than {_MOST_HEADERS} headers")
        self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        """Find out where the body will end."""
        if self._has_head:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._lines.clear()
            return
        self.status, self._has_head = status, True
        self._patience.begin_body()
        self._keeps_alive = self._parser.should_keep_alive()
        in_chunks, is_coded = self._read_lines()
        if self._is_head_alone or status in _NO_BODY:
            self._is_whole = True
        elif is_coded:
            self.length = None
            self._until_eof = not in_chunks
        elif self.length is None:
            self._until_eof = True
        else:
            self._left = self.length
            self._is_whole = not self._left

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, out of its chunks."""
        if self._has_head and not self._is_whole:
            self._take(body)

    def on_message_complete(self) -> None:
        """Note the end of a body in chunks."""
        if self._has_head and self._left is None and not self._until_eof:
            self._is_whole = True

    # --- inside ----------------------------------------------------------------------------------------------------

    def _read_lines(self) -> tuple[bool, bool]:
        """Take from the headers what every answer is asked for; return whether the body comes in chunks, or coded."""
        in_chunks = is_coded = False
        for name, value in self._lines:
            # By length first: of eight headers or so four matter.
            match len(name):
                case 4 if name.lower() == b"etag":
                    self.etag = _text(value)
                case 14 if name.lower() == b"content-length":
                    self.length = int(value)
                case 16 if name.lower() == b"content-encoding":
                    self.encoding = _text(value).lower().replace("identity", "")
                case 17 if name.lower() == b"transfer-encoding":
                    is_coded, in_chunks = True, b"chunked" in value.lower()
        return in_chunks, is_coded

    def _fill(self, room: memoryview, nbytes: int) -> None:
        assert self._left is not None
        self._room = None
        if nbytes < self._left:
            self._received += nbytes
            self._left -= nbytes
            self._room = room[nbytes:]
        else:
            self._keeps_alive = self._keeps_alive and nbytes == self._left
            self._received += self._left
            self._is_whole = True
            self._wake()

    def _parse(self, data: memoryview) -> None:
        self._between += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._is_whole:
                self._keeps_alive = False  # only what comes behind it makes no sense
                return
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            text = " ".join(str(cause).split())[:200] or "the connection is turned into something else"
            self._break(FetchError("truncated" if self._has_head else "bad_response", text))
            return
        if not self._has_head and self.heard > _MOST_HEAD_BYTES:
            self._break(FetchError("bad_response", f"a head of more than {_MOST_HEAD_BYTES} bytes"))
        elif self._between > _MOST_BETWEEN_BYTES and not self._is_whole:
            self._break(FetchError("truncated", f"more than {_MOST_BETWEEN_BYTES} bytes between its chunks"))

    def _take(self, piece: bytes) -> None:
        self._received += len(piece)
        self._between = 0
        self._pieces.append(piece)
        if self._left is not None:
            self._left -= len(piece)
            self._is_whole = self._left <= 0
        self._queued += len(piece)
        if self._queued > _PAUSE_BYTES and not self._is_whole:
            self._transport.pause_reading()

    def _resume(self) -> None:
        # One that was closed is not even to be asked whether it reads: a TLS transport then has nothing left to ask.
        if self._error is None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def _lost(self, exc: Exception | None) -> FetchError:
        why = f": {' '.join(str(exc).split())[:200]}" if exc is not None else ""
        if not self._has_head:
            return FetchError("network", f"the server hung up without an answer{why}")
        wanted = "the end of its chunks" if self.length is None else f"{self.length} bytes"
        return FetchError("truncated", f"the server hung up after {self._received} bytes, before {wanted}{why}")

    def _break(self, error: FetchError) -> None:
        """Come to an end: what is here already can still be read."""
        if self._error is None:
            self._error = error
            self._transport.abort()
            # aiohttp's book-keeping; the transport's own closing takes another turn of the loop.
            self._connection.close()
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        """Wake whoever waits, unless there is a relay that goes on by itself."""
        if self._waiter is None or self._waiter.done():
            return
        if self._relay is None or self._error is not None or not self._is_relayed(self._relay):
            self._waiter.set_result(None)

    def _is_relayed(self, relay: KeepAliveHandler) -> bool:
        """Return whether the relay sees to what has come."""
        if not self._has_head:
            return True  # there is nothing to see to yet
        if not self._is_whole:
            if self._body is None:
                if not relay.takes(self):
                    return False
                self._begin_body()
            return True
        if self._body is None:
            return relay.takes(self) and self._goes_on(relay)
        # The loop still has its view of the room; in a moment it has let go of it.
        self._loop.call_soon(self._go_on)
        return True

    def _go_on(self) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if self._relay is None or self._error is not None or not self._goes_on(self._relay):
            self._waiter.set_result(None)

    def _goes_on(self, relay: KeepAliveHandler) -> bool:
        request = relay.goes_on(self, self._whole_body()) if self.can_go_on else None
        if request is None:
            return False
        self._begin(is_head_alone=False)
        self._transport.write(request)
        return True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip()


@dataclass(slots=True)
class _AnswerTimer:
    """How long one answer has been waited for, in seconds in which it was the server's turn."""

    limits: Limits
    left_s: float | None = None
    _waited_s: float = 0.0
    _still_s: float = 0.0
    _received: int = 0
    _seen: list[int] = field(default_factory=lambda: [0])

    def begin_body(self) -> None:
        self._waited_s = 0.0

    def late(self, passed_s: float, received: int | None) -> str | None:
        """Return what took too long, if anything did; `received` are the body's bytes so far, None before its head."""
        limits = self.limits
        self._waited_s += passed_s
        if received is None:
            return f"no answer within {limits.first_byte_s:.0f} s" if self._waited_s > limits.first_byte_s else None
        self._still_s = 0.0 if received != self._received else self._still_s + passed_s
        self._received = received
        if self._still_s > limits.silence_s:
            return f"nothing came for {limits.silence_s:.0f} s"
        if self.left_s is not None and self._waited_s > self.left_s:
            return f"the body took too long: over {limits.attempt_s:.0f} s"
        if self._waited_s * _CHECKS_A_WINDOW >= limits.slow_s * len(self._seen):
            self._seen.append(received)
            before = self._seen[-1 - _CHECKS_A_WINDOW] if len(self._seen) > _CHECKS_A_WINDOW else None
            if before is not None and received - before < limits.slow_s * limits.slow_bytes_s:
                return f"the body took too long: slower than {limits.slow_bytes_s:.0f} bytes/s"
        return None
