"""One connection and its answers: however they are cut, whatever follows them, on either event loop."""

import asyncio
import os
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from support.scripted import Scripted, http
from yarl import URL

from oid_async.http.address_guard import Endpoint, endpoint
from oid_async.http.client import Client
from oid_async.http.connection import SCRATCH_BYTES, Connection
from oid_async.http.host import Host
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError, Limits

LIMITS = Limits(first_byte_s=5.0, silence_s=5.0)
BODY = bytes(range(256)) * 4


class Connected(asyncio.Protocol):
    """Stands for aiohttp's protocol on a connection that it has made."""

    is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


class Made:
    """Stands for a connection of aiohttp's."""

    def __init__(self, transport: asyncio.Transport, protocol: Connected) -> None:
        self.transport, self.protocol = transport, protocol
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        self.transport.close()


def on_connection(made: Made) -> Connection:
    return Connection(made, LIMITS, memoryview(bytearray(SCRATCH_BYTES)))


@asynccontextmanager
async def connected_pair() -> AsyncGenerator[tuple[Connection, socket.socket, Made]]:
    """Yield a connection, the socket at its other end, and what aiohttp would have made."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Connected, sock=ours)
    made = Made(transport, protocol)
    connection = on_connection(made)
    try:
        yield connection, theirs, made
    finally:
        connection.abort()
        theirs.close()
        await asyncio.sleep(0)


async def send_bytes(theirs: socket.socket, answer: bytes, cuts: list[int], *, hang_up: bool = False) -> None:
    """Send a response cut at these places, each part by itself."""
    loop = asyncio.get_running_loop()
    for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
        await loop.sock_sendall(theirs, answer[start:end])
        for _ in range(3):
            await asyncio.sleep(0)
    if hang_up:
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)


async def fetch(connection: Connection, *, whole: bool) -> bytes:
    await connection.send(b"GET / HTTP/1.1\r\n\r\n")
    if whole and connection.length is not None:
        return bytes(await connection.read_whole())
    body = b""
    while chunk := await connection.read():
        body += chunk
    return body


CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i : i + 100]), BODY[i : i + 100]) for i in range(0, len(BODY), 100))
HEAD = b'HTTP/1.1 200 OK\r\nETag: "a"\r\n'
# name, answer, whether the server then hangs up, whether the connection may serve another request
ANSWERS: list[tuple[str, bytes, bool, bool]] = [
    ("counted", HEAD + b"Content-Length: 1024\r\n\r\n" + BODY, False, True),
    ("counted, told to close", HEAD + b"Connection: close\r\nContent-Length: 1024\r\n\r\n" + BODY, False, False),
    ("in chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + b"0\r\n\r\n", False, True),
    (
        "in chunks, a trailer",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + b"0\r\nA: b\r\n\r\n",
        False,
        True,
    ),
    ("to the end", HEAD + b"\r\n" + BODY, True, False),
    ("HTTP/1.0", b'HTTP/1.0 200 OK\r\nETag: "a"\r\n\r\n' + BODY, True, False),
    (
        "after a 103",
        b'HTTP/1.1 103 Early\r\nETag: "b"\r\n\r\n' + HEAD + b"Content-Length: 1024\r\n\r\n" + BODY,
        False,
        True,
    ),
    ("lines that end with LF", b'HTTP/1.1 200 OK\nETag: "a"\nContent-Length: 1024\n\n' + BODY, False, True),
]
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop, uvloop.new_event_loop]


def on(loop: Callable[[], asyncio.AbstractEventLoop], job: Awaitable[Any]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await job

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("answer", "hangs_up", "goes_on"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_an_answer_is_the_same_however_it_is_cut(
    answer: bytes, hangs_up: bool, goes_on: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Status, ETag and body come out whole, read in one go or piece by piece, and the connection's future is known."""

    async def check(cuts: list[int], *, whole: bool) -> None:
        async with connected_pair() as (connection, theirs, _):
            _, body = await asyncio.gather(
                send_bytes(theirs, answer, cuts, hang_up=hangs_up), fetch(connection, whole=whole)
            )
            assert (connection.status, connection.etag, body) == (200, '"a"', BODY)
            assert connection.is_reusable == goes_on

    async def job() -> None:
        chance = random.Random(5)
        ways = [
            [],
            list(range(1, len(answer) - 1000)),
            *(sorted(chance.sample(range(1, len(answer)), 3)) for _ in range(12)),
        ]
        for cuts in ways:
            await check(cuts, whole=True)
            await check(cuts, whole=False)

    on(loop, job())


BROKEN: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "network"),
    ("half a head", HEAD, "network"),
    ("half a body", HEAD + b"Content-Length: 1024\r\n\r\n" + BODY[:-1], "truncated"),
    ("half its chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED, "truncated"),
    ("a chunk that is none", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX", "truncated"),
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n\r\n", "bad_response"),
    ("two lengths", HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "bad_response"),
    (
        "length and chunks",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "bad_response",
    ),
    ("no number", HEAD + b"Content-Length: many\r\n\r\na", "bad_response"),
    ("an endless head", HEAD + b"X: y\r\n" * 20_000, "bad_response"),
    ("an upgrade", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "bad_response"),
]


@pytest.mark.parametrize(("answer", "kind"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
async def test_a_broken_answer_has_its_kind(answer: bytes, kind: str) -> None:
    """What is no whole answer raises one FetchError, and the connection is closed, for aiohttp's books too."""
    async with connected_pair() as (connection, theirs, made):
        sending_all = asyncio.create_task(send_bytes(theirs, answer, [], hang_up=True))
        with pytest.raises(FetchError) as caught:
            await fetch(connection, whole=True)
        assert caught.value.kind == kind
        sending_all.cancel()
        await asyncio.wait([sending_all])
        await asyncio.sleep(0.01)
        assert not connection.is_usable
        assert (made.closed, made.protocol.is_lost) == (1, True)


@pytest.mark.parametrize(
    "behind", [b"junk", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"\r\n\r\n\x00"]
)
@pytest.mark.parametrize("size", [10, 300_000])
async def test_what_follows_an_answer_never_passes_for_the_next_one(behind: bytes, size: int) -> None:
    """Another image's bytes behind a body end the use of the connection: the next answer is what was asked for."""

    async def both(writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, os.urandom(size)) + behind)

    async with Scripted({"/a.jpg": [both], "/b.jpg": [http(200, b"right")]}) as server:
        allowed = [endpoint(URL(server.url))]
        async with Client(Hosts(None, 1.0), LIMITS, connections=1, allowed=allowed) as client:
            for _ in range(5):
                async with client.get(f"{server.url}/a.jpg") as answer:
                    assert len(await answer.read_whole()) == size
                async with client.get(f"{server.url}/b.jpg") as answer:
                    assert bytes(await answer.read_whole()) == b"right"


async def test_a_kept_connection_that_was_closed_costs_one_request_more(tmp_path: Path) -> None:
    """The request is sent once more, on a new connection, and both are counted; a new one's hang-up is an error."""

    async def once(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with Scripted({"/a.jpg": [http(200, b"a")], "/b.jpg": [once, http(200, b"b")], "/c.jpg": [once]}) as server:
        allowed = [endpoint(URL(server.url))]
        async with Client(Hosts(None, 1.0), LIMITS, connections=1, allowed=allowed) as client:
            for path in ("a", "b"):
                async with client.get(f"{server.url}/{path}.jpg") as answer:
                    assert bytes(await answer.read_whole()) == path.encode()
            assert client.requests == sum(server.requests.values()) == 3
            with pytest.raises(FetchError) as caught:
                await _ask(client, f"{server.url}/c.jpg")
            assert caught.value.kind == "network"
            assert client.requests == sum(server.requests.values()) == 5
            assert server.connections == 3


async def _ask(client: Client, url: str) -> None:
    async with client.get(url):
        pass


async def test_a_body_in_pieces_is_not_read_faster_than_it_is_taken() -> None:
    """What the server sends meanwhile stays in the sockets: memory holds a bounded part of a large body."""
    async with connected_pair() as (connection, theirs, _):
        loop = asyncio.get_running_loop()
        size = 32 << 20
        sending = asyncio.create_task(
            loop.sock_sendall(theirs, HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        )
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        taken, largest = 0, 0
        while chunk := await connection.read():
            taken, largest = taken + len(chunk), max(largest, len(chunk))
            if taken < 4 << 20:
                await asyncio.sleep(0.005)
        await sending
        assert taken == size
        assert largest <= 2 * SCRATCH_BYTES


@pytest.mark.parametrize("length", [b"", b"Content-Length: 900000\r\n"])
async def test_a_body_can_be_taken_after_its_tls_connection_has_ended(length: bytes) -> None:
    """What has come counts, though the server hangs up while it waits to be taken."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + length + b"\r\n" + bytes(900_000))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Connected, "127.0.0.1", port, ssl=trusting, server_hostname="127.0.0.1"
        )
        connection = on_connection(Made(transport, protocol))
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        taken = 0
        with suppress(FetchError):
            while chunk := await connection.read():
                taken += len(chunk)
                await asyncio.sleep(0.05)
        connection.abort()
        await asyncio.sleep(0.01)
    assert 0 < taken <= 900_000


async def test_a_connection_that_ends_before_anything_is_asked_costs_no_request() -> None:
    """A server that closes an unused connection, with a 408 that nobody asked for, gets the request on the next one."""
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            writer.write(http(408))
            writer.close()
            return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(200, b"right"))
        await writer.drain()
        writer.close()

    class Slow(Hosts):
        """Lets a request wait for its turn as a cap does."""

        async def admit(self, host: Host, asked: Endpoint) -> None:
            await asyncio.sleep(0.05)
            await super().admit(host, asked)

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(Slow(None, 1.0), LIMITS, connections=1, allowed=[("127.0.0.1", port)]) as client:
            async with client.get(f"http://127.0.0.1:{port}/a.jpg") as answer:
                assert bytes(await answer.read_whole()) == b"right"
            assert (client.requests, connections) == (1, 2)
