"""TLS between a plain transport and the protocol of its connection, which receives into its own memory.

    transport ──records──▶ TlsTransport ──plain bytes──▶ the protocol's buffer
              ◀──records──              ◀──write────────

asyncio's own TLS costs a fifth more of a processor for an image of 300 KB (`benchmarks/README.md`): layers that every
connection may need, and none of these does. OpenSSL, through `ssl`, does the work here as there. Who owns the
connection cannot tell the two apart: this is a transport, as far as a `Connection` uses one.
"""

import asyncio
import ssl
from typing import Protocol, cast

_CLOSED = "the connection was closed during the TLS handshake"


def make_context() -> ssl.SSLContext:
    """Return what TLS connections have in common: certificates are checked. Reads files: it takes some 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Protocol(Protocol):
    """Receives what is decrypted: a BufferedProtocol whose buffers are memoryviews."""

    def get_buffer(self, sizehint: int, /) -> memoryview: ...
    def buffer_updated(self, nbytes: int, /) -> None: ...
    def eof_received(self) -> None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...


class TlsTransport(asyncio.BufferedProtocol):
    """The client's side of TLS on a connected `transport`; `handshake` comes first, then a protocol is set.

    `scratch` is shared with other connections of the loop: what is received into it is copied at once.
    """

    def __init__(
        self, transport: asyncio.Transport, context: ssl.SSLContext, server_hostname: str, scratch: memoryview
    ) -> None:
        self._transport = transport
        self._scratch = scratch
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._loop = asyncio.get_running_loop()
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        self._protocol: _Protocol | None = None
        self._is_paused = False
        self._error: Exception | None = None

    async def handshake(self) -> None:
        """Agree on keys and check the certificate. Raises OSError (ssl.SSLError is one), with the transport closed."""
        self._transport.set_protocol(self)
        try:
            self._shake()
            await self._shaken
        except BaseException:
            self._transport.abort()
            raise

    # --- a transport, for the protocol -----------------------------------------------------------------------------

    def set_protocol(self, protocol: _Protocol) -> None:
        """Set who receives from here on."""
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._tls.write(data)
        self._transport.write(self._outgoing.read())

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether it is closed, or being closed."""
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        """Return whether bytes are received."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading`."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again, what has come already first."""
        self._is_paused = False
        self._transport.resume_reading()
        self._loop.call_soon(self._receive)

    # --- a protocol, for the plain transport -----------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next records."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take the records that have come."""
        self._incoming.write(self._scratch[:nbytes])
        if self._protocol is None:
            self._shake()
        else:
            self._receive()

    def eof_received(self) -> None:
        """Pass on what has come before the end, then the end; the transport then closes."""
        if self._protocol is not None:
            self._receive()
            self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end, and an error of TLS that has caused it."""
        error = self._error or exc
        if self._protocol is not None:
            self._protocol.connection_lost(error)
        elif not self._shaken.done():
            self._shaken.set_exception(error or ConnectionResetError(_CLOSED))

    # --- private ---------------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        if self._shaken.done():
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._shaken.set_exception(error)
        else:
            self._shaken.set_result(None)
        self._send_pending()

    def _send_pending(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _receive(self) -> None:
        """Decrypt what has come into the protocol's buffers, until it wants no more."""
        protocol = self._protocol
        assert protocol is not None
        try:
            while not self._is_paused and not self._transport.is_closing():
                filled, has_ended = self._fill(protocol.get_buffer(-1))
                if filled:
                    protocol.buffer_updated(filled)
                if has_ended:
                    protocol.eof_received()
                    self._transport.close()
                    return
                if not filled:
                    break
        except ssl.SSLError as error:
            self._error = error
            self._transport.abort()
            return
        self._send_pending()  # an answer to a record that is not for the protocol, such as a new key

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Decrypt into a buffer; return how many bytes, and whether the other side has ended TLS.

        A call gives one record at most. Whether anything is left is asked first: an exception costs more.
        """
        read, incoming, pending = self._tls.read, self._incoming, self._tls.pending
        filled, wanted = 0, len(buffer)
        try:
            while filled < wanted and (incoming.pending or pending()):
                # With a buffer it returns a number: typeshed does not say so.
                count = cast(int, read(wanted - filled, buffer[filled:] if filled else buffer))
                if not count:
                    return filled, True
                filled += count
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        return filled, False
