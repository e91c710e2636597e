"""One HTTP/1.1 connection: a request is sent, its response is received, then perhaps the next one.

    idle ──send──▶ head ──▶ body ──▶ complete ──done──▶ idle

`http/connecting.py` makes the connection, `http/tls.py` speaks TLS on it; `http/usual_head.py` reads a usual head as a
whole, llhttp, through httptools, parses all others.
The exchange itself is our own, because every image costs one: aiohttp's takes four times as much of a processor for a
small image, twice as much for a usual one (`benchmarks/README.md`). A body of known length is received straight into
the memory that it is stored from.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import field
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import httptools
from multidict import CIMultiDict

from oid_async.http.connecting import MadeConnection
from oid_async.http.opt_out import is_opt_out_header
from oid_async.http.retry import FetchError, Limits
from oid_async.http.spare_bodies import SpareBodies
from oid_async.http.tls import TlsTransport
from oid_async.http.usual_head import lines_of, match_usual_head
from oid_async.quick_values import define

if TYPE_CHECKING:
    from oid_async.http.host import Host

# The most that is read at once. One buffer serves all connections of a loop: it is emptied before the loop continues.
SCRATCH_BYTES = 256 << 10
# A head, and all of a small body or the first part of a larger one, which is then copied once more.
_FIRST_READ_BYTES = 64 << 10
# How much of a body that is read in pieces may be queued; with more, reading from the connection pauses.
_PAUSE_BYTES = 256 << 10
_MOST_HEAD_BYTES = 64 << 10
_MOST_BETWEEN_BYTES = SCRATCH_BYTES + _MOST_HEAD_BYTES  # trailers, and extensions of chunks
_MOST_HEADERS = 256
_START_BYTES = 16
_CHECKS_A_WINDOW = 4  # how soon after its window a slow body is noticed: a quarter of it later at most
_SILENT_S = 5.0
_NO_BODY = frozenset({204, 304})


class _Transport(Protocol):
    """What is used of a transport: asyncio's, or `TlsTransport`."""

    def set_protocol(self, protocol: "Connection", /) -> None: ...
    def write(self, data: bytes, /) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class KeepAliveHandler(Protocol):
    """Takes plain responses and continues with the next request. Called in the loop's callbacks: it must not wait."""

    def accepts(self, connection: "Connection") -> bool:
        """Return whether the response whose head has come is plain: its whole body is to be received in memory."""

    def next_request(self, connection: "Connection", body: bytes | bytearray) -> bytes | None:
        """Take the body of a plain response and return the next request; None leaves the body to `send`'s caller."""


class Connection(asyncio.BufferedProtocol):
    """Requests and responses on one connection. `scratch` is shared with the other connections of the loop.

    `connection` is what was made, `tls` what is spoken on it, unless aiohttp has agreed on TLS itself or there is none;
    whole bodies are received into memory from `spare`.
    Its owner calls `check_limits` now and then while `is_busy`: that enforces the limits on a response's head and body.
    `bytes_received` counts the bytes of the current response, its head included, `body_bytes` those of its body.
    `counted_for` is the host whose window the transfer counts against, if any; `is_hanging` is kept by `HangingWatch`.
    `sent_at` and `head_at` are when, on `clock`, the request was sent and the head of the response came.
    """

    def __init__(
        self,
        connection: MadeConnection,
        limits: Limits,
        scratch: memoryview,
        clock: Callable[[], float] = monotonic,
        *,
        tls: TlsTransport | None = None,
        spare: SpareBodies | None = None,
    ) -> None:
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            raise FetchError("network", "the connection was closed as soon as it was made", unsent=True)
        self._connection = connection
        self._connected = protocol
        self._transport: _Transport = transport if tls is None else tls
        self._limits = limits
        self._spare = spare or SpareBodies()
        self._scratch = scratch
        self._clock = clock
        self.sent_at = self.head_at = 0.0
        self._first = scratch[:_FIRST_READ_BYTES]
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._handler: KeepAliveHandler | None = None
        self._error: FetchError | None = None
        self.is_busy = False
        self.idle_since = 0.0
        self.counted_for: Host | None = None
        self._begin(is_head=False)
        self._transport.set_protocol(self)

    def _begin(self, *, is_head: bool) -> None:
        self.status = 0
        self.etag: str | None = None
        self.encoding = ""
        self.opt_out_lines: tuple[tuple[bytes, bytes], ...] = ()
        self._lines: list[tuple[bytes, bytes]] = []
        self._usual_head = b""
        self.length: int | None = None
        self.bytes_received = 0
        self.body_bytes = 0
        self._has_head = False
        self._is_complete = False
        self._is_head = is_head
        self.is_hanging = False
        self._keeps_alive = False
        self._until_eof = False
        self._left: int | None = None
        self._pieces: deque[bytes] = deque()
        self._queued = 0
        self._body: bytearray | None = None  # of a response that is received as a whole, once it is begun
        self._unfilled: memoryview | None = None  # the part of it that is still to come
        self._between = 0  # bytes that have come since the last of the body
        self._body_start = b""
        self._timer = _ResponseTimer(self._limits)
        self._parser: httptools.HttpResponseParser | None = None  # made for a response that needs it

    # --- called by its owner ---------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Return whether a request may be sent."""
        return self._error is None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Return whether the response has ended and another request may be sent."""
        return self._is_complete and self._keeps_alive and self.is_usable

    async def send(self, request: bytes, *, is_head: bool = False, handler: KeepAliveHandler | None = None) -> None:
        """Send a request and wait for the head of its response. Raises FetchError.

        Then `status`, `length`, `etag`, `encoding` (Content-Encoding in lower case, "" for none), `headers` and
        `opt_out_lines` (those that `http.opt_out` reads) are set: with a `handler` those of the first response that it
        has not taken. `is_head`: the method is HEAD.
        """
        self._begin(is_head=is_head)
        self.is_busy = True
        if self._error is None:
            self.sent_at = self._clock()
            self._transport.write(request)
        self._handler = handler
        try:
            while not self._has_head:
                await self._wait()
        finally:
            self._handler = None

    def set_time_left(self, seconds: float | None) -> None:
        """Set how much of the attempt's time is left for the body; None: no limit."""
        self._timer.left_s = seconds

    async def read_whole(self) -> bytes | bytearray:
        """Return a body of known length. Raises FetchError; `body_start` then has its first bytes."""
        if self._body is None and not self._is_complete:
            self._begin_body()
            self._resume()
        try:
            while not self._is_complete:
                await self._wait()
        except FetchError:
            assert self._body is not None
            self._body_start = bytes(self._body[: min(_START_BYTES, self.body_bytes)])
            raise
        finally:
            self._unfilled = None
        return self._whole_body()

    def _begin_body(self) -> None:
        """Allocate the body, whose length is known."""
        assert self.length is not None
        # One more byte than stated: what a server sends behind the body must not pass for its next response.
        body = self._body = self._spare.take(self.length + 1)
        at = 0
        for piece in self._pieces:
            body[at : at + len(piece)] = piece
            at += len(piece)
        self._pieces.clear()
        self._unfilled = memoryview(body)[at:]

    def _whole_body(self) -> bytes | bytearray:
        """Return the body, which is complete. The loop must have released its view of it."""
        body = self._body
        if body is None:
            return b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        del body[self.length :]
        return body

    async def read(self) -> bytes:
        """Return what has come of the body, b"" at its end. Raises FetchError once all that came is read."""
        if self._body is not None:
            # It was to be received as a whole, but that was given up.
            body, self._body, self._unfilled = self._body, None, None
            self._pieces.append(bytes(memoryview(body)[: self.body_bytes]))
        while not self._pieces:
            if self._is_complete:
                return b""
            await self._wait()
        chunk = b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        self._pieces.clear()
        self._queued = 0
        self._resume()
        return chunk

    @property
    def headers(self) -> CIMultiDict[str]:
        """Return all headers of the response."""
        lines = lines_of(self._usual_head) if self._usual_head else self._lines
        return CIMultiDict((name.decode("ascii", "replace"), _text(value)) for name, value in lines)

    @property
    def body_start(self) -> bytes:
        """Return the first bytes of a body that `read_whole` could not get to its end."""
        return self._body_start

    def silent_s(self, passed_s: float) -> float:
        """Return for how long as good as nothing has come that is waited for, `passed_s` after the last call."""
        return self._timer.silent_s(passed_s, self.bytes_received) if self._waiter is not None else 0.0

    def set_idle(self, now: float) -> None:
        """Mark the connection as idle: its response has been read."""
        self.is_busy = False
        self.counted_for = None
        self.idle_since = now
        self._pieces.clear()
        self._resume()

    def abort(self) -> None:
        """Close the connection at once: the other side is not waited for."""
        self._fail(FetchError("network", "the connection was closed"))

    @property
    def left_s(self) -> float:
        """Return how long the response may still take, if nothing more comes of one that has been silent."""
        return self._timer.longest_s(has_head=self._has_head)

    def check_limits(self, passed_s: float) -> None:
        """Fail with `timeout` if the server is over a limit, `passed_s` after the last check."""
        if self._waiter is None:
            return  # nobody waits for the server
        if late := self._timer.late(passed_s, self.body_bytes if self._has_head else None):
            self._fail(FetchError("timeout", late))

    # --- called by the loop ----------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        if self._unfilled is not None:
            return self._unfilled
        return self._scratch if self._has_head else self._first

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that have come."""
        self.bytes_received += nbytes
        if self._unfilled is not None:
            self._fill(self._unfilled, nbytes)
        elif not self.is_busy:
            self._fail(FetchError("network", "the server says what nobody asked for"))
        elif self._is_complete:
            self._keeps_alive = False
        elif self._left is not None:
            # Where a counted body ends needs no parser.
            self._keeps_alive = self._keeps_alive and nbytes <= self._left
            self._take(bytes(self._scratch[: min(nbytes, self._left)]))
            self._wake()
        else:
            if self._parser is not None or not self._take_usual_head(nbytes):
                self._parse(self._scratch[:nbytes])
            self._wake()

    def eof_received(self) -> None:
        """Note that the server sends no more; the transport then closes."""
        if self._has_head and self._until_eof and self._error is None:
            self._is_complete = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on to the waiting task, and to what made the connection."""
        self._fail(self._lost(exc))
        self._connected.connection_lost(exc)

    # --- called by llhttp ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note a second response to one request; a 1xx before the response does not count."""
        if self._has_head:
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers are ignored."""
        if self._has_head:
            return
        if len(self._lines) >= _MOST_HEADERS:
            raise ValueError(f"more than {_MOST_HEADERS} headers")
        self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        """Find out where the body will end."""
        if self._has_head:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._lines.clear()
            return
        self._note_head(status, keeps_alive=self._parser.should_keep_alive())
        in_chunks, is_coded = self._read_lines()
        if self._is_head or status in _NO_BODY:
            self._is_complete = True
        elif is_coded:
            self.length = None
            self._until_eof = not in_chunks
        elif self.length is None:
            self._until_eof = True
        else:
            self._left = self.length
            self._is_complete = not self._left

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, out of its chunks."""
        if self._has_head and not self._is_complete:
            self._take(body)

    def on_message_complete(self) -> None:
        """Note the end of a body in chunks."""
        if self._has_head and self._left is None and not self._until_eof:
            self._is_complete = True

    # --- private ---------------------------------------------------------------------------------------------------

    def _note_head(self, status: int, *, keeps_alive: bool) -> None:
        self.status, self._has_head, self.head_at = status, True, self._clock()
        self._timer.begin_body()
        self._keeps_alive = keeps_alive

    def _take_usual_head(self, nbytes: int) -> bool:
        """Take the first bytes of a response if they are a usual head, and what came behind it; return whether so."""
        head = None if self._is_head else match_usual_head(self._scratch, nbytes)
        if head is None:
            return False
        at, length, etag = head.end(), int(head["length"]), head["etag"]
        self._usual_head = head[0]
        self.etag = _text(etag) if etag is not None else None
        self.length = self._left = length
        self._is_complete = not length
        self._note_head(200, keeps_alive=nbytes <= at + length)
        if nbytes > at and length:
            self._take(bytes(self._scratch[at : min(nbytes, at + length)]))
        return True

    def _read_lines(self) -> tuple[bool, bool]:
        """Set the attributes that come from headers; return whether the body is chunked, and whether it is coded."""
        in_chunks = is_coded = False
        for name, value in self._lines:
            # By length first: of eight headers or so four matter. (12 is Content-Type's, too.)
            match len(name):
                case 4 if name.lower() == b"etag":
                    self.etag = _text(value)
                case 12 | 15 if is_opt_out_header(name):
                    self.opt_out_lines += ((name, value),)
                case 14 if name.lower() == b"content-length":
                    self.length = int(value)
                case 16 if name.lower() == b"content-encoding":
                    self.encoding = _text(value).lower().replace("identity", "")
                case 17 if name.lower() == b"transfer-encoding":
                    is_coded, in_chunks = True, b"chunked" in value.lower()
        return in_chunks, is_coded

    def _fill(self, unfilled: memoryview, nbytes: int) -> None:
        assert self._left is not None
        self._unfilled = None
        if nbytes < self._left:
            self.body_bytes += nbytes
            self._left -= nbytes
            self._unfilled = unfilled[nbytes:]
        else:
            self._keeps_alive = self._keeps_alive and nbytes == self._left
            self.body_bytes += self._left
            self._is_complete = True
            self._wake()

    def _parse(self, data: memoryview) -> None:
        self._between += len(data)
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            # As browsers do, and aiohttp: old servers fold headers and end lines with LF alone.
            self._parser.set_dangerous_leniencies(
                lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
            )
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._is_complete:
                self._keeps_alive = False  # only the bytes behind it make no sense
                return
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            text = " ".join(str(cause).split())[:200] or "the connection is turned into something else"
            failed = FetchError("truncated" if self._has_head else "bad_response", text)
            failed.not_http = not self._has_head and len(self._lines) < _MOST_HEADERS
            self._fail(failed)
            return
        if not self._has_head and self.bytes_received > _MOST_HEAD_BYTES:
            self._fail(FetchError("bad_response", f"a head of more than {_MOST_HEAD_BYTES} bytes"))
        elif self._between > _MOST_BETWEEN_BYTES and not self._is_complete:
            self._fail(FetchError("truncated", f"more than {_MOST_BETWEEN_BYTES} bytes between its chunks"))

    def _take(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        self._between = 0
        self._pieces.append(piece)
        if self._left is not None:
            self._left -= len(piece)
            self._is_complete = self._left <= 0
        self._queued += len(piece)
        if self._queued > _PAUSE_BYTES and not self._is_complete:
            self._transport.pause_reading()

    def _resume(self) -> None:
        # A closed TLS transport cannot even be asked whether it reads.
        if self._error is None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def _lost(self, exc: Exception | None) -> FetchError:
        why = f": {' '.join(str(exc).split())[:200]}" if exc is not None else ""
        if not self._has_head:
            return FetchError("network", f"the server hung up without an answer{why}")
        wanted = "the end of its chunks" if self.length is None else f"{self.length} bytes"
        return FetchError("truncated", f"the server hung up after {self.body_bytes} bytes, before {wanted}{why}")

    def _fail(self, error: FetchError) -> None:
        """End the connection: bytes that have come already can still be read."""
        if self._error is None:
            self._error = error
            self._transport.abort()
            # Book-keeping of what made it; the transport itself closes in the loop's next iteration.
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
        """Wake the waiting task, unless the handler takes what has come."""
        if self._waiter is None or self._waiter.done():
            return
        if self._handler is None or self._error is not None or not self._is_handled(self._handler):
            self._waiter.set_result(None)

    def _is_handled(self, handler: KeepAliveHandler) -> bool:
        """Return whether the handler takes what has come."""
        if not self._has_head:
            return True  # there is nothing to take yet
        if not self._is_complete:
            if self._body is None:
                if not handler.accepts(self):
                    return False
                self._begin_body()
            return True
        if self._body is None:
            return handler.accepts(self) and self._send_next(handler)
        # The loop still has its view of the body; in its next iteration it has released it.
        self._loop.call_soon(self._continue)
        return True

    def _continue(self) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if self._handler is None or self._error is not None or not self._send_next(self._handler):
            self._waiter.set_result(None)

    def _send_next(self, handler: KeepAliveHandler) -> bool:
        request = handler.next_request(self, self._whole_body()) if self.is_reusable else None
        if request is None:
            return False
        self._begin(is_head=False)
        self.sent_at = self._clock()
        self._transport.write(request)
        return True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip()


@define
class _ResponseTimer:
    """Measures how long one response takes, in seconds in which we wait for the server. `left_s` limits its body."""

    limits: Limits
    left_s: float | None = None
    _waited_s: float = 0.0
    _silent_s: float = 0.0
    _received: int = 0
    _heard: int = -1
    _unheard_s: float = 0.0
    _seen: list[int] = field(default_factory=lambda: [0])

    def begin_body(self) -> None:
        self._waited_s = 0.0

    def longest_s(self, *, has_head: bool) -> float:
        """Return how long the response may still take; one that is not silent now as long as the attempt may."""
        limits = self.limits
        if not has_head:
            return limits.first_byte_s - self._waited_s
        left_s = (limits.attempt_s if self.left_s is None else self.left_s) - self._waited_s
        return min(left_s, limits.silence_s - self._silent_s) if self._silent_s > _SILENT_S else left_s

    def silent_s(self, passed_s: float, received: int) -> float:
        """Return for how long no more has come than `slow_bytes_s` allows; `received` are bytes of head and body."""
        silent_s = self._unheard_s + passed_s
        if self._heard < 0 or received - self._heard > self.limits.slow_bytes_s * silent_s:
            self._heard, silent_s = received, 0.0
        self._unheard_s = silent_s
        return silent_s

    def late(self, passed_s: float, received: int | None) -> str | None:
        """Return which limit is exceeded, if any; `received` is the body's bytes so far, None before the head."""
        limits = self.limits
        self._waited_s += passed_s
        if received is None:
            return f"no answer within {limits.first_byte_s:.0f} s" if self._waited_s > limits.first_byte_s else None
        self._silent_s = 0.0 if received != self._received else self._silent_s + passed_s
        self._received = received
        if self._silent_s > limits.silence_s:
            return f"nothing came for {limits.silence_s:.0f} s"
        if self.left_s is not None and self._waited_s > self.left_s:
            return f"the body took too long: over {limits.attempt_s:.0f} s"
        if self._waited_s * _CHECKS_A_WINDOW >= limits.slow_s * len(self._seen):
            self._seen.append(received)
            before = self._seen[-1 - _CHECKS_A_WINDOW] if len(self._seen) > _CHECKS_A_WINDOW else None
            if before is not None and received - before < limits.slow_s * limits.slow_bytes_s:
                return f"the body took too long: slower than {limits.slow_bytes_s:.0f} bytes/s"
        return None
