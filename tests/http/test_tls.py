"""TLS on a connection: however its records are cut, however it ends, and with whom it is not spoken."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import trustme
import uvloop
from support.scripted import Answer, Scripted, ends_seen, http

from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError, Limits
from oid_async.http.tls import TlsTransport, make_context

BODY = random.Random(1).randbytes(300_000)
AUTHORITY = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("127.0.0.1").configure_cert(SERVER)
STRANGER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
trustme.CA().issue_cert("127.0.0.1").configure_cert(STRANGER)


@pytest.fixture(autouse=True)
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


class Wire:
    """Stands for the plain transport: what is written on it is kept."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_closed = self.is_paused = False
        self.protocol: TlsTransport | None = None

    def set_protocol(self, protocol: TlsTransport) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.sent += data

    def take(self) -> bytes:
        sent, self.sent = self.sent, b""
        return sent

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Receiver:
    """Receives into buffers of any size, and pauses now and then."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.received = bytearray()
        self.ends: list[Exception | None] = []
        self.has_ended = False
        self.tls: TlsTransport | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        self.buffer = memoryview(bytearray(self.rnd.choice([1, 100, 16_384, 100_000])))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        if self.tls is not None and self.rnd.random() < 0.1:
            self.tls.pause_reading()

    def eof_received(self) -> None:
        self.has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)


class Pair:
    """Both sides of TLS in memory; `feed` passes what the server has sent on in pieces of any size."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd, self.wire = rnd, Wire()
        client = ssl.create_default_context()
        AUTHORITY.configure_trust(client)
        self.scratch = memoryview(bytearray(65_536))
        self.tls = TlsTransport(cast(asyncio.Transport, self.wire), client, "127.0.0.1", self.scratch)
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = SERVER.wrap_bio(self.into, self.out, server_side=True)

    async def shake(self) -> None:
        shaking = asyncio.ensure_future(self.tls.handshake())
        is_done = False
        while not shaking.done():
            await asyncio.sleep(0)
            self.into.write(self.wire.take())
            if not is_done:
                try:
                    self.server.do_handshake()
                    is_done = True
                except ssl.SSLWantReadError:
                    pass
            await self.feed()
        await shaking

    async def feed(self, most: int = 10_000) -> None:
        data = self.out.read()
        while data:
            while self.wire.is_paused:
                self.tls.resume_reading()
                await asyncio.sleep(0)
            piece, data = data[: (size := self.rnd.randint(1, most))], data[size:]
            self.scratch[: len(piece)] = piece
            self.tls.buffer_updated(len(piece))
        while self.wire.is_paused:
            self.tls.resume_reading()
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(12))
async def test_all_bytes_come_out_however_records_are_cut(seed: int) -> None:
    """Records in pieces of any size, buffers of any size, pauses between: the bytes are those that were sent."""
    rnd = random.Random(seed)
    pair, receiver = Pair(rnd), Receiver(rnd)
    await pair.shake()
    receiver.tls = pair.tls
    pair.tls.set_protocol(receiver)
    pair.tls.write(b"GET / HTTP/1.1\r\n\r\n")
    pair.into.write(pair.wire.take())
    assert pair.server.read(100) == b"GET / HTTP/1.1\r\n\r\n"
    at = 0
    while at < len(BODY):
        size = rnd.choice([1, 1_000, 16_384, 100_000])
        pair.server.write(BODY[at : at + size])
        at += size
        await pair.feed(rnd.choice([3_000, 20_000, 60_000]))
    assert bytes(receiver.received) == BODY
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    await pair.feed()
    assert (receiver.has_ended, pair.wire.is_closed) == (True, True)


async def test_what_was_changed_on_its_way_is_an_error() -> None:
    """A record of which one byte has flipped ends the connection, and none of it is handed on."""
    rnd = random.Random(0)
    pair, receiver = Pair(rnd), Receiver(rnd)
    await pair.shake()
    pair.tls.set_protocol(receiver)
    pair.server.write(BODY[:1_000])
    record = bytearray(pair.out.read())
    record[-5] ^= 1
    pair.scratch[: len(record)] = record
    pair.tls.buffer_updated(len(record))
    assert (bytes(receiver.received), pair.wire.is_closed) == (b"", True)
    pair.tls.connection_lost(None)
    assert isinstance(receiver.ends[0], ssl.SSLError)


def make_client(port: int, limits: Limits | None = None) -> Client:
    hosts = Hosts(None, 1.0, most=8, notify=lambda _: None)
    return Client(hosts, limits or Limits(connect_s=5.0), connections=8, allowed=[("127.0.0.1", port)])


async def ask_by_tls(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], limits: Limits | None = None
) -> None:
    """Ask a server for an image by TLS, which it does not speak itself."""
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            async with make_client(port, limits) as client:
                await whole(client, f"https://127.0.0.1:{port}/a")
        finally:
            await ends_seen()


async def whole(client: Client, url: str) -> bytes:
    async with client.get(url) as response:
        return bytes(await response.read_whole())


async def in_pieces(client: Client, url: str) -> bytes:
    body = b""
    async with client.get(url) as response:
        async for chunk in response.chunks():
            await asyncio.sleep(0)
            body += chunk
    return body


def test_images_come_over_tls_on_either_event_loop() -> None:
    """Whole bodies and bodies in pieces, one after another on one connection, with asyncio's loop and with uvloop."""

    async def check() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        scripts: dict[str, list[Answer]] = {"/a": [http(200, BODY)], "/b": [chunked], "/c": [http(200, BODY, None)]}
        async with Scripted(scripts, tls=SERVER) as server, make_client(server.port) as client:
            for read, path in ((whole, "a"), (in_pieces, "a"), (in_pieces, "b"), (whole, "a"), (in_pieces, "c")):
                assert await read(client, f"{server.url}/{path}") == BODY
            assert server.connections == 1

    for loop in (asyncio.SelectorEventLoop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(check())


async def test_certificates_are_read_once_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are made at the same time share what is read from files for the first of them."""
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(make_context())
        return made[-1]

    monkeypatch.setattr("oid_async.http.pool.make_context", make)
    async with Scripted({"/a": [http(200, BODY)]}, tls=SERVER) as server, make_client(server.port) as client:
        await asyncio.gather(*(whole(client, f"{server.url}/a") for _ in range(4)))
        assert (server.connections, len(made)) == (4, 1)


@pytest.mark.parametrize("is_said", [True, False])
async def test_half_a_body_is_truncated_whether_tls_ends_or_tcp(is_said: bool) -> None:
    """A server that ends TLS in the middle of a body has truncated it, and so has one that just hangs up."""

    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, BODY, 400_000))
        await writer.drain()
        if is_said:
            writer.close()
        else:
            writer.transport.abort()

    async with Scripted({"/a": [cut]}, tls=SERVER) as server, make_client(server.port) as client:
        with pytest.raises(FetchError, match="hung up after") as caught:
            await whole(client, f"{server.url}/a")
    assert caught.value.kind == "truncated"


async def test_a_stranger_is_named() -> None:
    """A certificate that nobody vouches for is no passing failure, and the message says what would help."""
    async with Scripted({"/a": [http(200, BODY)]}, tls=STRANGER) as server, make_client(server.port) as client:
        with pytest.raises(FetchError, match=r"certificate that cannot be trusted.*SSL_CERT_FILE") as caught:
            await whole(client, f"{server.url}/a")
        assert (caught.value.kind, caught.value.hopeless) == ("network", True)


async def test_who_speaks_no_tls_is_said_so() -> None:
    """Plain HTTP where TLS was to be spoken is one line, and the images of others go on."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(http(400))
        await writer.drain()
        writer.close()

    with pytest.raises(FetchError, match="does not speak TLS") as caught:
        await ask_by_tls(plain)
    assert caught.value.kind == "network"


async def test_who_says_nothing_is_not_waited_for_longer_than_for_a_connection() -> None:
    """A server that never answers the handshake costs the time that a connection may take."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises(FetchError, match="no connection within") as caught:
        await ask_by_tls(silent, Limits(connect_s=0.2))
    assert caught.value.kind == "timeout"
