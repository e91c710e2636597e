"""The fault table, row by row: a server that misbehaves, and what becomes of the image, of the requests, of the time.

Every case asserts the outcome and its kind, the requests the server saw, the bytes it got rid of, and how long it took.
Limits are shortened so that a minute's patience takes half a second.
"""

import asyncio
import base64
import dataclasses
import errno
import gzip
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import trustme
from support.hostile import JPEG, bomb, endless_body, endless_header, endless_headers, ident, write_tables
from support.notes import notes_into
from support.published import Box, Dataset, Image, tiny_jpeg
from support.scripted import Answer, Scripted, http

from oid_async.errors import UsageError
from oid_async.events import Event, Landed, ignore
from oid_async.http import address_guard as addresses
from oid_async.http import host
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.report import Report
from oid_async.transfer.response_body import ResponseBody

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 600
HTML = b"<!DOCTYPE html><title>Sign in</title>" + b" " * 600
QUICK = Limits(
    retries=2,
    backoff_s=0.001,
    connect_s=1.0,
    first_byte_s=0.3,
    silence_s=0.3,
    slow_s=0.4,
    attempt_s=2.0,
    max_wait_s=5.0,
    max_image_bytes=200_000,
)
LARGE = Limits(backoff_s=0.001, silence_s=1.0, memory_bytes=40_000, resume_bytes=100_000, max_image_bytes=4_000_000)


def md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


@dataclass
class Ended:
    """How a run ended."""

    report: Report
    seconds: float
    notes: list[str]
    savepath: Path

    def details(self) -> dict[str, str]:
        """Return the Detail of each image that failed, by its id."""
        failures = self.savepath / "failures.csv"
        if not failures.exists():
            return {}
        rows = pl.read_csv(failures, infer_schema=False).select("ImageID", "Detail").rows()
        return dict(rows)

    def saved(self) -> dict[str, bytes]:
        """Return the bytes of each saved image, by its name."""
        return {path.name: path.read_bytes() for path in (self.savepath / "images").iterdir()}


async def download(
    folder: Path,
    urls: list[Any],
    *,
    limits: Limits = QUICK,
    allow: list[int] | None = None,
    **options: Any,
) -> Ended:
    """Download originals: each a URL, or (URL, OriginalSize, OriginalMD5)."""
    rows = [(url, None, None) if isinstance(url, str) else url for url in urls]
    query = write_tables(folder / "tables", rows) | {"source": ["original"], "names": "id", "savepath": folder / "out"}
    query |= {"allow_hosts": [f"127.0.0.1:{port}" for port in allow or []]} | options
    notes: list[str] = []

    began = time.monotonic()
    report = await Run(Options.of(**query), notes_into(notes), limits=limits).download()
    assert not (folder / "out" / ".oid_async" / "tmp").exists()
    assert report.selected == report.present + report.downloaded + report.failed + report.pending
    return Ended(report, time.monotonic() - began, notes, folder / "out")


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def reset_after(head: bytes, body: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Send this, then reset the connection."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    return step


def stall_after(start: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Send this, then nothing, for longer than anybody waits."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        await asyncio.sleep(30)

    return step


def drip(start: bytes, rest: bytes, pause_s: float = 0.05) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Send the rest a byte at a time: never silent, never done."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        for byte in rest:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_s)

    return step


def chunked(*parts: bytes, end: bool) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if end else b"")


OK = http(200, JPEG)
HEAD = f"HTTP/1.1 200 X\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode()

# name, answers, kind (None: it lands), requests at the server, seconds at most on a machine that is busy otherwise:
# without a limit of ours those that stall would take thirty and more, those without an end for ever
ROWS: list[tuple[str, list[Answer], str | None, int, float]] = [
    ("500 to the end", [http(500)], "server_error", 3, 20.0),
    ("502 then 504 then the image", [http(502), http(504), OK], None, 3, 20.0),
    ("429 to the end", [http(429)], "rate_limited", 3, 10.0),
    ("404", [http(404)], "not_found", 1, 20.0),
    ("410", [http(410)], "gone", 1, 20.0),
    ("403", [http(403)], "forbidden", 1, 20.0),
    ("401", [http(401)], "forbidden", 1, 20.0),
    ("408 then the image", [http(408), OK], None, 2, 20.0),
    ("400", [http(400)], "bad_response", 1, 20.0),
    ("no answer, hangs up", [hang_up], "network", 3, 20.0),
    ("no answer once", [hang_up, OK], None, 2, 20.0),
    ("accepts, never answers", [stall_after(b"")], "timeout", 3, 8.0),
    ("a header a byte at a time", [drip(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 500)], "timeout", 3, 8.0),
    ("stalls in the body", [stall_after(HEAD + JPEG[:300])], "timeout", 3, 8.0),
    ("a body a byte at a time", [drip(HEAD, JPEG)], "timeout", 3, 8.0),
    ("reset in the body", [reset_after(HEAD, JPEG[:500])], "truncated", 3, 20.0),
    ("reset in the body once", [reset_after(HEAD, JPEG[:500]), OK], None, 2, 20.0),
    ("short body", [http(200, JPEG[:-9], length=len(JPEG))], "truncated", 3, 20.0),
    ("cut chunked body", [chunked(JPEG[:300], end=False)], "truncated", 3, 20.0),
    ("whole chunked body", [chunked(JPEG[:300], JPEG[300:], end=True)], None, 1, 20.0),
    ("cut without a length", [http(200, JPEG[:-9], length=None)], "truncated", 3, 20.0),
    ("whole without a length", [http(200, JPEG, length=None)], None, 1, 20.0),
    ("redirect loop", [http(302, Location="/0.jpg")], "redirect", 6, 20.0),
    ("redirect to nowhere", [http(302)], "redirect", 1, 20.0),
    ("redirect to file:", [http(302, Location="file:///etc/passwd")], "blocked", 1, 20.0),
    ("redirect to ftp:", [http(302, Location="ftp://127.0.0.1/a.jpg")], "blocked", 1, 20.0),
    ("html", [http(200, HTML, Content_Type="image/jpeg")], "not_image", 2, 20.0),
    ("html that is cut", [http(200, HTML, length=5000)], "not_image", 2, 20.0),
    ("html of a terabyte", [http(200, HTML, length=10**12)], "not_image", 2, 20.0),
    ("the wrong type, the right bytes", [http(200, JPEG, Content_Type="text/html")], None, 1, 20.0),
    ("a PNG", [http(200, PNG)], "placeholder", 1, 20.0),
    ("a PNG called a JPEG, cut", [http(200, PNG, length=5000, Content_Type="image/jpeg")], "placeholder", 1, 20.0),
    ("photo unavailable", [http(302, Location="/images/photo_unavailable_l.png")], "placeholder", 1, 20.0),
    ("no bytes", [http(200)], "empty", 2, 20.0),
    ("no bytes of many", [http(200, length=500)], "truncated", 3, 20.0),
    ("gzip that nobody asked for", [http(200, gzip.compress(JPEG), Content_Encoding="gzip")], None, 1, 20.0),
    ("gzip bomb", [http(200, bomb(), Content_Encoding="gzip")], "too_large", 1, 20.0),
    ("endless body", [endless_body], "too_large", 1, 20.0),
    ("a body that says it is endless", [http(200, JPEG, length=10**12)], "too_large", 1, 20.0),
    ("endless header", [endless_header], "bad_response", 1, 20.0),
    ("endless headers", [endless_headers], "bad_response", 1, 20.0),
    ("not HTTP", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "bad_response", 2, 20.0),
    ("not HTTP, once", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", OK], None, 2, 20.0),
    ("206 to a plain GET", [http(206, JPEG, Content_Range="bytes 0-9/10")], "bad_response", 1, 20.0),
    (
        "a name from the server",
        [http(200, JPEG, Content_Disposition='attachment; filename="../../up.jpg"')],
        None,
        1,
        5.0,
    ),
    ("a cookie", [http(200, JPEG, Set_Cookie="a=b; Path=/")], None, 1, 20.0),
]


@pytest.mark.parametrize(
    ("answers", "kind", "requests", "within_s"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
async def test_each_row_of_the_fault_table(
    tmp_path: Path, answers: list[Answer], kind: str | None, requests: int, within_s: float
) -> None:
    """One stable kind, no more requests than the fault deserves, nothing kept that is not the image, and it ends."""
    async with Scripted({"/0.jpg": answers}) as server:
        ended = await download(tmp_path, [f"{server.url}/0.jpg"], allow=[server.port])
    report = ended.report
    assert report.failures == ({} if kind is None else {kind: 1})
    assert ended.details() == ({} if kind is None else {ident(0): f"original:{kind}"})
    assert ended.saved() == ({} if kind is not None else {f"{ident(0)}.jpg": JPEG})
    assert (sum(server.requests.values()), report.requests) == (requests, requests)
    assert report.bytes == (0 if kind is not None else len(JPEG))
    # What is in flight when a body is refused: this side's buffer and the two sockets'.
    assert server.sent["/0.jpg"] < QUICK.max_image_bytes + (8 << 20)
    assert ended.seconds < within_s
    assert set(os.listdir(tmp_path)) <= {"out", "tables", "metadata-cache"}


@pytest.mark.parametrize(
    ("body", "size", "digest", "kind", "requests"),
    [
        (JPEG, len(JPEG), md5(JPEG), None, 1),
        (JPEG + b"x" * 10, len(JPEG), md5(JPEG), "too_large", 1),
        (JPEG[:-30], len(JPEG), md5(JPEG), "checksum", 2),
        (JPEG[:-2] + b"x\xff\xd9", len(JPEG) + 1, md5(JPEG), "checksum", 2),
        (JPEG, len(JPEG), "AAAAAAAAAAAAAAAAAAAAAA==", "checksum", 2),
        (PNG, len(JPEG), md5(JPEG), "placeholder", 1),
        (HTML, len(JPEG), md5(JPEG), "not_image", 2),
    ],
)
async def test_the_published_size_and_md5_decide_about_an_original(
    tmp_path: Path, body: bytes, size: int, digest: str, kind: str | None, requests: int
) -> None:
    """A body that is not what the table says is never saved, and a wrong length ends it before it is read."""
    async with Scripted({"/0.jpg": [http(200, body)]}) as server:
        ended = await download(tmp_path, [(f"{server.url}/0.jpg", size, digest)], allow=[server.port])
    assert ended.report.failures == ({} if kind is None else {kind: 1})
    assert server.requests["/0.jpg"] == requests


async def test_an_endless_original_is_cut_off_one_byte_after_its_size(tmp_path: Path) -> None:
    """OriginalSize bounds a body that names no length of its own, far below --max-image-bytes."""
    async with Scripted({"/0.jpg": [endless_body]}) as server:
        ended = await download(tmp_path, [(f"{server.url}/0.jpg", len(JPEG), md5(JPEG))], allow=[server.port])
    assert ended.report.failures == {"too_large": 1}


# Hosts that ask us to wait, or are down -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, pytest.param(503, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["seconds", "date", "date of a wrong clock"])
async def test_retry_after_holds_for_the_whole_host(tmp_path: Path, status: int, form: str) -> None:
    """With one transfer at once, nothing is asked of a host before its Retry-After; afterwards all images land."""
    wait: Any = {"Retry_After": "1"}
    if form != "seconds":
        year = 2026 if form == "date" else 1999
        wait = {"Date": f"Wed, 02 Dec {year} 10:00:00 GMT", "Retry_After": f"Wed, 02 Dec {year} 10:00:01 GMT"}
    scripts: dict[str, list[Answer]] = {f"/{number}.jpg": [OK] for number in range(40)}
    scripts["/3.jpg"] = [http(status, **wait), OK]
    async with Scripted(scripts) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(40)]
        ended = await download(tmp_path, urls, allow=[server.port], concurrency=1)
        answered = next(at for path, at in server.asked if path == "/3.jpg")
        after = [at for _, at in server.asked if at > answered]
    assert ended.report.downloaded == 40
    assert min(after) - answered >= 1.0
    assert len(server.asked) == 41


async def test_retry_after_beyond_our_patience_ends_the_host_at_once(tmp_path: Path) -> None:
    """A host that wants a day is not asked again: its other images fail as rate_limited without a request."""
    async with Scripted({f"/{n}.jpg": [http(429, Retry_After="86400")] for n in range(300)}) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(300)]
        ended = await download(tmp_path, urls, allow=[server.port])
    assert ended.report.failures == {"rate_limited": 300}
    assert 32 <= sum(server.requests.values()) <= 40
    assert ended.seconds < 20
    assert any("given up" in note and "86400" not in note.split("HTTP")[0] for note in ended.notes)


async def test_an_image_with_a_wait_beyond_our_patience_fails_alone(tmp_path: Path) -> None:
    """One image that wants a day, or again and again more than is left of --max-wait, ends itself, not its host."""
    scripts: dict[str, list[Answer]] = {f"/{n}.jpg": [OK] for n in range(60)}
    scripts["/3.jpg"] = [http(429, Retry_After="86400")]
    scripts["/4.jpg"] = [http(503, Retry_After="1")]
    async with Scripted(scripts) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(60)]
        limits = dataclasses.replace(QUICK, max_wait_s=1.5)
        ended = await download(tmp_path, urls, allow=[server.port], limits=limits)
    assert (ended.report.downloaded, ended.report.failures) == (58, {"rate_limited": 1, "server_error": 1})
    assert (server.requests["/3.jpg"], server.requests["/4.jpg"]) == (1, 2)


async def test_a_host_that_waits_slows_nobody_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one host is paused for seconds, hundreds of another's images land: no worker waits for the first."""
    monkeypatch.setattr(host, "_ASKS", 1)
    slow_scripts: dict[str, list[Answer]] = {f"/{n}.jpg": [OK] for n in range(300)}
    slow_scripts["/0.jpg"] = [http(429, Retry_After="2"), OK]
    quick_scripts: dict[str, list[Answer]] = {f"/{n}.jpg": [OK] for n in range(300)}
    async with Scripted(slow_scripts) as slow, Scripted(quick_scripts) as quick:
        # All of the slow host's images stand before the quick one's in the plan.
        urls = [f"{server.url}/{number}.jpg" for server in (slow, quick) for number in range(300)]
        ended = await download(tmp_path, urls, allow=[slow.port, quick.port], concurrency=8)
        resumed = min(at for path, at in slow.asked if at > slow.asked[0][1] + 1.9)
        assert max(at for _, at in quick.asked) < resumed
    assert ended.report.downloaded == 600


def closed_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def test_a_dead_host_costs_a_handful_and_slows_nobody_down(tmp_path: Path, monkeypatch: Any) -> None:
    """200 images of a host that refuses connections cost a few attempts in all; the live host's land meanwhile."""
    tried: list[int] = []
    make_socket = addresses.AddressGuard.make_socket

    def counted(self: addresses.AddressGuard, info: tuple[Any, ...]) -> socket.socket:
        tried.append(info[4][1])
        return make_socket(self, info)

    monkeypatch.setattr(addresses.AddressGuard, "make_socket", counted)
    dead = closed_port()
    async with Scripted({f"/{n}.jpg": [OK] for n in range(200)}) as live:
        urls = [f"http://127.0.0.1:{port}/{n}.jpg" for port in (dead, live.port) for n in range(200)]
        limits = Limits(backoff_s=0.001, max_wait_s=3.0)
        ended = await download(tmp_path, urls, allow=[dead, live.port], limits=limits)
        last = live.times[-1] - live.times[0]
    assert (ended.report.downloaded, ended.report.failures) == (200, {"network": 200})
    assert tried.count(dead) <= 14
    assert ended.report.requests == 200
    # The dead host was waited for 3 s; the live one is not slowed down by that.
    assert last < 2.9
    assert ended.seconds < 20
    assert any(f"127.0.0.1:{dead} is given up" in note for note in ended.notes)


async def test_a_host_that_never_answered_does_not_hold_a_finished_run(tmp_path: Path) -> None:
    """Images of two dead ports end soon after all others, at the same time, and one line said until when they wait."""
    dead, dead_too = closed_port(), closed_port()
    async with Scripted({f"/{n}.jpg": [OK] for n in range(50)}) as live:
        urls = [f"http://127.0.0.1:{port}/{n}.jpg" for n, port in enumerate((dead, dead, dead, dead_too))]
        urls += [f"{live.url}/{n}.jpg" for n in range(50)]
        limits = Limits(backoff_s=0.001, unanswered_s=8.0, retries=20)
        ended = await download(tmp_path, urls, allow=[dead, dead_too, live.port], limits=limits)
    assert (ended.report.downloaded, ended.report.failures) == (50, {"network": 4})
    assert 8.0 < ended.seconds < 30.0
    waits = [note for note in ended.notes if "asked again until" in note]
    assert len(waits) == 1
    assert f"3 images wait for 127.0.0.1:{dead} (cannot connect to 127.0.0.1:{dead}: Connection refused)" in waits[0]
    assert sum("is given up" in note for note in ended.notes) == 2
    assert len(ended.notes) == 4


async def test_a_host_that_comes_back_loses_no_image(tmp_path: Path) -> None:
    """A host that is down when the run starts and up two seconds later gets all its images asked for."""
    port = closed_port()

    async def come_up() -> Scripted:
        await asyncio.sleep(2.0)
        server = Scripted({f"/{n}.jpg": [OK] for n in range(60)})
        server.fixed_port = port
        return await server.__aenter__()

    coming = asyncio.create_task(come_up())
    urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(60)]
    ended = await download(tmp_path, urls, allow=[port], limits=Limits(backoff_s=0.001))
    await (await coming).__aexit__()
    assert (ended.report.downloaded, ended.report.failed) == (60, 0)
    assert ended.report.requests == 60


async def test_one_image_of_a_dead_host_fails_after_its_tries(tmp_path: Path) -> None:
    """A single image does not wait a quarter of an hour: it has its own few tries."""
    limits = Limits(retries=3, backoff_s=0.001)
    ended = await download(tmp_path, [f"http://127.0.0.1:{(port := closed_port())}/0.jpg"], allow=[port], limits=limits)
    assert (ended.report.failures, ended.report.requests) == ({"network": 1}, 0)
    assert ended.seconds < 20


@pytest.mark.parametrize(
    ("error", "look_ups"), [(socket.EAI_NONAME, 2), (getattr(socket, "EAI_NODATA", socket.EAI_NONAME), 2)]
)
async def test_a_name_that_is_none_is_looked_up_twice(
    tmp_path: Path, monkeypatch: Any, error: int, look_ups: int
) -> None:
    """NXDOMAIN is host-wide after its second look-up: no image waits for it, none is asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if str(host) == "photos.example":
            asked.append(str(host))
            raise socket.gaierror(error, "Name or service not known")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    urls = [f"https://photos.example/{number}.jpg" for number in range(20)]
    ended = await download(tmp_path, urls, limits=QUICK, concurrency=1)
    assert (ended.report.failures, ended.report.requests) == ({"network": 20}, 0)
    assert len(asked) == look_ups
    assert ended.seconds < 20


async def test_a_certificate_that_cannot_be_trusted_ends_the_host(tmp_path: Path) -> None:
    """No downgrade, no second try, no request: a certificate of nobody's is host-wide and final for the run."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with Scripted({f"/{n}.jpg": [OK] for n in range(10)}, tls=tls) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(10)]
        ended = await download(tmp_path, urls, allow=[server.port], concurrency=1)
    assert (ended.report.failures, sum(server.requests.values())) == ({"network": 10}, 0)
    assert server.connections <= 1
    assert any("certificate" in note for note in ended.notes)


# Going on where a large body broke off --------------------------------------------------------------------------------

BIG = tiny_jpeg("big", 8, 8)[:-2] + b"\x11" * 400_000 + b"\xff\xd9"
HALF = 200_000


def part_of(body: bytes, start: int, *, etag: str = '"one"', claim: int | None = None) -> bytes:
    at = start if claim is None else claim
    return http(206, body[start:], Content_Range=f"bytes {at}-{len(body) - 1}/{len(body)}", ETag=etag)


def cut_big(etag: str | None = '"one"') -> Answer:
    """Send half and reset, once the half has been read: what nobody has read when a connection breaks is lost."""
    named: Any = {} if etag is None else {"ETag": etag}
    return reset_after(http(200, length=len(BIG), **named), BIG[:HALF])


RESUMES: list[tuple[str, list[Answer], list[str | None]]] = [
    ("the rest", [cut_big(), part_of(BIG, HALF)], [None, f"bytes={HALF}-"]),
    ("Range ignored", [cut_big(), http(200, BIG, ETag='"one"')], [None, f"bytes={HALF}-"]),
    ("changed meanwhile", [cut_big(), http(200, BIG, ETag='"two"')], [None, f"bytes={HALF}-"]),
    ("the wrong place", [cut_big(), part_of(BIG, HALF - 7, claim=HALF - 7), http(200, BIG)], [None, "bytes", None]),
    ("another object's rest", [cut_big(), part_of(BIG, HALF, etag='"two"'), http(200, BIG)], [None, "bytes", None]),
    ("no such rest", [cut_big(), http(416), http(200, BIG)], [None, "bytes", None]),
    ("busy in between", [cut_big(), http(500), part_of(BIG, HALF)], [None, "bytes", f"bytes={HALF}-"]),
    ("a weak ETag", [cut_big('W/"one"'), http(200, BIG)], [None, None]),
    ("no ETag", [cut_big(None), http(200, BIG)], [None, None]),
]


@pytest.mark.parametrize(("answers", "ranges"), [case[1:] for case in RESUMES], ids=[case[0] for case in RESUMES])
async def test_a_large_body_goes_on_where_it_broke_off(
    tmp_path: Path, answers: list[Answer], ranges: list[str | None]
) -> None:
    """Only a strong ETag and exactly the right place make two parts one body; anything else starts again."""
    async with Scripted({"/0.jpg": answers}) as server:
        url = (f"{server.url}/0.jpg", len(BIG), md5(BIG))
        ended = await download(tmp_path, [url], allow=[server.port], limits=LARGE)
    assert ended.report.downloaded == 1
    assert ended.saved() == {f"{ident(0)}.jpg": BIG}
    asked = [next((line for line in head.split("\r\n") if line.startswith("Range")), None) for head in server.all_heads]
    assert len(asked) == len(ranges)
    for said, wanted in zip(asked, ranges, strict=True):
        assert (said is None) == (wanted is None)
        assert wanted is None or wanted in (said or "")


# What we may connect to -----------------------------------------------------------------------------------------------

SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "user:secret@127.0.0.1",
    "private.example",
]


@pytest.fixture
def private_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let private.example be 127.0.0.1, without a resolver."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if str(host).endswith("private.example"):
            return real("127.0.0.1", port, *rest, **named)
        return real(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("hop", ["first", pytest.param("second", marks=pytest.mark.slow)])
async def test_no_spelling_of_a_private_address_is_connected_to(
    tmp_path: Path, private_name: None, spelling: str, hop: str
) -> None:
    """Loopback by any name, in the table or in a redirect, is blocked before a connection, and the message says so."""
    async with Scripted({"/0.jpg": [OK]}) as private, Scripted() as open_door:
        there = f"http://{spelling}:{private.port}/0.jpg"
        open_door.scripts["/0.jpg"] = [http(302, Location=there)]
        url = there if hop == "first" else f"{open_door.url}/0.jpg"
        ended = await download(tmp_path, [url], allow=[open_door.port])
        assert private.connections == 0
    assert ended.report.failures == {"blocked": 1}
    assert any("not a public address" in note and "--allow-host" in note for note in ended.notes)
    assert ended.report.requests == (1 if hop == "second" else 0)


async def test_a_name_that_changes_its_answer_is_checked_at_every_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was public when it was looked up first, and private at the connect, meets the check all the same."""
    answers = iter(["8.8.8.8"])
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if str(host) == "rebind.example":
            return real(next(answers, "127.0.0.1"), port, *rest, **named)
        return real(host, port, *rest, **named)

    async with Scripted({"/0.jpg": [OK]}) as private:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert socket.getaddrinfo("rebind.example", 80)[0][4][0] == "8.8.8.8"
        ended = await download(tmp_path, [f"http://rebind.example:{private.port}/0.jpg"])
        assert private.connections == 0
    assert ended.report.failures == {"blocked": 1}


async def test_allowing_one_port_allows_no_other(tmp_path: Path) -> None:
    """--allow-host is exact: neither another port nor another name of the same address comes with it."""
    async with Scripted({"/0.jpg": [OK]}) as allowed, Scripted({"/0.jpg": [OK]}) as other:
        urls = [f"{allowed.url}/0.jpg", f"{other.url}/0.jpg", f"http://localhost:{allowed.port}/0.jpg"]
        ended = await download(tmp_path, urls, allow=[allowed.port])
        assert (allowed.connections, other.connections) == (1, 0)
    assert (ended.report.downloaded, ended.report.failures) == (1, {"blocked": 2})


async def test_what_was_blocked_is_asked_for_once_it_is_allowed(tmp_path: Path) -> None:
    """Doing what the message says helps: a remembered refusal ends when the allow-list grows; else it is kept."""
    async with Scripted({"/0.jpg": [OK]}) as server, Scripted({"/1.jpg": [OK]}) as door:
        door.scripts["/1.jpg"] = [http(302, Location=f"{server.url}/0.jpg")]
        urls = [f"{door.url}/1.jpg"]
        assert (await download(tmp_path, urls, allow=[door.port])).report.failures == {"blocked": 1}
        assert (await download(tmp_path, urls, allow=[door.port])).report.requests == 0
        assert (await download(tmp_path, urls, allow=[door.port, server.port])).report.downloaded == 1


async def test_a_table_named_by_url_allows_no_image_there(tmp_path: Path) -> None:
    """A table may be fetched from where the user says; what it lists must be public or allowed all the same."""
    async with Scripted() as server:
        given = write_tables(tmp_path / "tables", [(f"{server.url}/0.jpg", None, None)])
        server.scripts = {
            "/images.csv": [http(200, given["image_url"].read_bytes())],
            "/0.jpg": [OK],
        }
        query = given | {"image_url": f"{server.url}/images.csv", "source": ["original"], "names": "id"}
        report = await Run(Options.of(**query, savepath=tmp_path / "out"), ignore, limits=QUICK).download()
    assert report.failures == {"blocked": 1}
    assert server.requests == {"/images.csv": 1}


async def test_https_is_never_left_for_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect from https to http is blocked without a request to where it leads."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    made = ssl.create_default_context(cafile=str(bundle))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", made)
    async with Scripted({"/0.jpg": [OK]}) as plain, Scripted({}, tls=tls) as secure:
        secure.scripts = {"/0.jpg": [http(302, Location=f"{plain.url}/0.jpg")], "/1.jpg": [OK]}
        urls = [f"{secure.url}/0.jpg", f"{secure.url}/1.jpg"]
        ended = await download(tmp_path, urls, allow=[plain.port, secure.port])
        assert plain.connections == 0
    assert (ended.report.downloaded, ended.report.failures) == (1, {"blocked": 1})


# Limits on bytes and requests -----------------------------------------------------------------------------------------


async def test_limit_rate_holds_and_trips_no_watchdog(tmp_path: Path) -> None:
    """Bytes come no faster than asked for, and what waits for that is not called slow."""
    body = tiny_jpeg("x", 8, 8)[:-2] + b"\x11" * 30_000 + b"\xff\xd9"
    async with Scripted({f"/{n}.jpg": [http(200, body)] for n in range(8)}) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(8)]
        limits = Limits(backoff_s=0.001, slow_s=0.2, slow_bytes_s=400_000.0, rate_bytes_s=120_000.0)
        ended = await download(tmp_path, urls, allow=[server.port], limits=limits, limit_rate="120000")
    assert ended.report.downloaded == 8
    wanted_s = 8 * len(body) / 120_000
    assert 0.85 * wanted_s <= ended.seconds <= wanted_s + 2.0


async def test_many_retries_are_spaced_out_and_none_is_dropped(tmp_path: Path) -> None:
    """Beyond the budget a host's retries come one by one; every image still gets all of its own."""
    count = 280
    async with Scripted({f"/{n}.jpg": [http(500), http(500), OK] for n in range(count)}) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(count)]
        ended = await download(tmp_path, urls, allow=[server.port], limits=Limits(backoff_s=0.001))
    assert ended.report.downloaded == count
    assert set(server.requests.values()) == {3}
    # 560 retries are 60 beyond the 500 that are free.
    assert ended.seconds > 60 * 0.05 * 0.9


# Proxies --------------------------------------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_is_used_and_judged_by_what_urls_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public names go through the proxy, at whatever address it stands; private literals are blocked all the same."""
    async with Scripted({"http://photos.example/0.jpg": [OK]}) as proxy, Scripted({"/1.jpg": [OK]}) as direct:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        urls = ["http://photos.example/0.jpg", f"{direct.url}/1.jpg", "http://10.1.2.3/2.jpg", "http://localhost/3.jpg"]
        ended = await download(tmp_path, urls, allow=[direct.port])
    assert (ended.report.downloaded, ended.report.failures) == (2, {"blocked": 2})
    assert proxy.requests == {"http://photos.example/0.jpg": 1}
    assert direct.requests == {"/1.jpg": 1}
    assert "Authorization" not in proxy.all_heads[0]


async def test_no_proxy_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_name: None) -> None:
    """A host that no_proxy names is asked directly, and then its address decides."""
    async with Scripted() as proxy, Scripted({"/0.jpg": [OK]}) as direct:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "private.example")
        ended = await download(tmp_path, [f"http://private.example:{direct.port}/0.jpg"])
        assert (proxy.connections, direct.connections) == (0, 0)
    assert ended.report.failures == {"blocked": 1}


async def test_a_proxy_of_another_kind_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be used is a usage error that names the variable, not a failure of every image."""
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(UsageError, match="https_proxy"):
        await download(tmp_path, ["https://photos.example/0.jpg"])


# The machine's own limits ---------------------------------------------------------------------------------------------


async def test_no_descriptor_left_costs_no_image_a_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE at a connect sends the image back and a worker home; with descriptors again every image lands."""
    make_socket, refusals = addresses.AddressGuard.make_socket, iter(range(40))

    def starved(self: addresses.AddressGuard, info: tuple[Any, ...]) -> socket.socket:
        if next(refusals, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return make_socket(self, info)

    async with Scripted({f"/{n}.jpg": [OK] for n in range(50)}) as server:
        monkeypatch.setattr(addresses.AddressGuard, "make_socket", starved)
        urls = [f"{server.url}/{number}.jpg" for number in range(50)]
        ended = await download(tmp_path, urls, allow=[server.port], limits=Limits(retries=0))
    assert (ended.report.downloaded, ended.report.requests) == (50, 50)


async def test_a_name_that_nobody_answers_for_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs is cut off as a connection that is not made."""
    release = threading.Event()
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if str(host) == "slow.example":
            release.wait(20)
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        limits = Limits(retries=1, connect_s=0.3, backoff_s=0.001)
        ended = await download(tmp_path, ["http://slow.example/0.jpg"], limits=limits)
    finally:
        release.set()
    assert (ended.report.failures, ended.report.requests) == ({"timeout": 1}, 0)
    assert ended.seconds < 15


async def test_an_image_that_is_listed_twice_is_fetched_once_and_said(tmp_path: Path) -> None:
    """Of two rows of one ImageID with different URLs the first counts, and the user is told."""
    async with Scripted({"/0.jpg": [OK], "/other.jpg": [http(200, PNG)]}) as server:
        tables = write_tables(tmp_path / "tables", [(f"{server.url}/0.jpg", None, None)])
        with tables["image_url"].open("a") as file:
            file.write(f"{ident(0)},train,{server.url}/other.jpg,,\n{ident(0)},train,{server.url}/0.jpg,,\n")
        query = tables | {"source": ["original"], "names": "id", "savepath": tmp_path / "out"}
        notes: list[str] = []
        options = Options.of(**query, allow_hosts=[f"127.0.0.1:{server.port}"])
        report = await Run(options, lambda event: notes.append(str(event)), limits=QUICK).download()
    assert (report.selected, report.downloaded) == (1, 1)
    assert server.requests == {"/0.jpg": 1}
    assert any("1 images stand in the image table with more than one OriginalURL" in note for note in notes)


async def test_a_table_that_may_have_been_cut_is_said(tmp_path: Path) -> None:
    """A table without a length or a hash, ended by a hang-up, is used, and the user is told what nobody can tell."""
    boxes = [Box(ident(number), "/m/0") for number in range(50)]
    published = Dataset([("/m/0", "Ball")], [Image(ident(number)) for number in range(50)], boxes)
    root = await asyncio.to_thread(published.publish, tmp_path / "mirror")
    files = {f"/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}
    scripts: dict[str, list[Answer]] = {name: [http(200, body)] for name, body in files.items()}
    (key,) = (name for name in files if "train-annotations-bbox" in name)
    scripts[key] = [http(200, files[key][: files[key].rfind(b"\n", 0, 1000) + 1], length=None)]
    notes: list[str] = []
    async with Scripted(scripts) as server:
        options = Options.of(mirror=server.url, categories=["Ball"], savepath=tmp_path / "out")
        plan = await Run(options, lambda event: notes.append(str(event)), limits=QUICK).plan()
    assert 0 < plan.selected < 50
    assert any("did not say how long it is" in note for note in notes)


# What a hunt for bugs has found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["bytes " + "9" * 5000 + "-1/1", "bytes 1-" + "9" * 5000 + "/*", "bytes ٣-9/10"])
async def test_no_content_range_breaks_the_run(tmp_path: Path, said: str) -> None:
    """Thousands of digits, or digits of other scripts, are no rest: the body is asked for from its start."""
    head = f'HTTP/1.1 206 X\r\nContent-Length: 0\r\nETag: "one"\r\nContent-Range: {said}\r\n\r\n'.encode()
    async with Scripted({"/0.jpg": [cut_big(), head, http(200, BIG)]}) as server:
        limits = dataclasses.replace(LARGE, retries=3)
        ended = await download(tmp_path, [f"{server.url}/0.jpg"], allow=[server.port], limits=limits)
    assert ended.report.failures in ({}, {"bad_response": 1})
    assert ended.saved() in ({}, {f"{ident(0)}.jpg": BIG})


async def test_a_spool_that_cannot_be_opened_leaves_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE while a large body is spooled costs a fresh start: no byte of it is lost in the file."""
    append, failures = ResponseBody._append, iter([OSError(errno.EMFILE, "Too many open files")])

    async def starved(self: ResponseBody, chunks: list[bytes | bytearray]) -> None:
        if self.size > 150_000 and (error := next(failures, None)) is not None:
            raise error
        await append(self, chunks)

    async def slowly(writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, length=len(BIG), ETag='"one"'))
        for start in range(0, len(BIG), 50_000):
            writer.write(BIG[start : start + 50_000])
            await writer.drain()
            await asyncio.sleep(0.01)

    monkeypatch.setattr(ResponseBody, "_append", starved)
    async with Scripted({"/0.jpg": [slowly]}) as server:
        ended = await download(tmp_path, [f"{server.url}/0.jpg"], allow=[server.port], limits=LARGE)
    assert ended.saved() == {f"{ident(0)}.jpg": BIG}


async def test_bytes_behind_a_whole_body_do_no_harm(tmp_path: Path) -> None:
    """If all bytes and the MD5 are there the image is good, whatever follows on the connection."""

    async def junk(writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, JPEG, Connection="close"))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"junk")

    async with Scripted({"/0.jpg": [junk]}) as server:
        ended = await download(tmp_path, [(f"{server.url}/0.jpg", len(JPEG), md5(JPEG))], allow=[server.port])
    assert ended.saved() == {f"{ident(0)}.jpg": JPEG}


async def test_an_image_that_is_always_hung_up_on_is_asked_for_as_often_as_others(tmp_path: Path) -> None:
    """Behind others on a kept connection it is asked for once more, on a new one, and then it has had that try."""
    count, sick = 240, range(120, 240, 20)
    paths = [f"/open-images-dataset/validation/{ident(number)}.jpg" for number in range(count)]
    steps: dict[str, list[Answer]] = {path: [http(200, JPEG)] for path in paths}
    ids = [f"validation/{ident(number)}" for number in range(count)]
    query: dict[str, Any] = {"kinds": ["none"], "image_ids": ids, "cache_dir": tmp_path / "cache"}
    async with asyncio.timeout(20), Scripted(steps | {paths[number]: [hang_up] for number in sick}) as server:
        report = await Run(
            Options.of(**query, savepath=tmp_path / "out", mirror=server.url), ignore, limits=QUICK
        ).download()
    assert report.failures == {"network": len(sick)}
    assert report.downloaded == count - len(sick)
    asked = [server.requests[paths[number]] for number in sick]
    assert min(asked) >= 1 + QUICK.retries
    assert max(asked) <= 2 * (1 + QUICK.retries)


@pytest.mark.parametrize(("status", "wait", "at_least"), [(500, "1", 1.0), (502, "0.6", 1.0), (429, "0", 0.0)])
async def test_every_form_of_retry_after_is_kept(tmp_path: Path, status: int, wait: str, at_least: float) -> None:
    """With any 5xx, with a fraction (rounded up); a wait of nothing is no leave to hammer."""
    async with Scripted({"/0.jpg": [http(status, Retry_After=wait), OK]}) as server:
        ended = await download(tmp_path, [f"{server.url}/0.jpg"], allow=[server.port])
        gap = server.times[1] - server.times[0]
    assert ended.report.downloaded == 1
    assert gap >= at_least


async def test_trouble_of_a_proxy_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot connect says nothing final of the image: the next run asks again."""
    async with Scripted({"photos.example:443": [http(503)]}) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        limits = Limits(retries=1, backoff_s=0.001)
        ended = await download(tmp_path, ["https://photos.example/0.jpg"], limits=limits)
    assert (ended.report.failures, ended.report.requests) == ({"network": 1}, 0)


@pytest.mark.parametrize("text", ["http://h:notaport", "http://[::1", "h:99999", "socks5://h:1080"])
async def test_a_proxy_that_is_none_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Whatever stands in the environment ends in one line that names the variable."""
    monkeypatch.setenv("http_proxy", text)
    with pytest.raises(UsageError, match="http_proxy"):
        await download(tmp_path, ["http://photos.example/0.jpg"])


async def test_a_hop_to_a_host_that_waits_holds_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are sent on to a paused host wait in its queue, one probes, and a third host goes on meanwhile."""
    monkeypatch.setattr(host, "_ASKS", 1)
    clock = asyncio.get_running_loop().time
    responded: list[float] = []

    async with Scripted() as first, Scripted() as paused, Scripted() as third:

        def paused_at() -> float:
            return next((at for path, at in paused.asked if path == "/0.jpg"), clock())

        async def respond(writer: asyncio.StreamWriter) -> None:
            if clock() >= paused_at() + 1.9:
                if not responded:
                    await asyncio.sleep(0.2)
                responded.append(clock())
            writer.write(OK)
            await writer.drain()

        for number in range(20):
            first.scripts[f"/{number}.jpg"] = [http(302, Location=f"{paused.url}/{number}.jpg")]
            paused.scripts[f"/{number}.jpg"] = [respond]
        paused.scripts["/0.jpg"] = [http(429, Retry_After="2"), respond]
        third.scripts = {f"/{number}.jpg": [OK] for number in range(100)}
        urls = [f"{first.url}/{number}.jpg" for number in range(20)]
        urls += [f"{third.url}/{number}.jpg" for number in range(100)]
        limits = dataclasses.replace(QUICK, attempt_s=1.5)
        ports = [first.port, paused.port, third.port]
        ended = await download(tmp_path, urls, allow=ports, concurrency=8, limits=limits)
        resumed = [at for _, at in paused.asked if at >= paused_at() + 1.9]
        assert max(third.times) < min(resumed)
        # One probes, and the one that was asked to wait comes back by itself: no other before they have a response.
        assert sum(at < min(responded) for at in resumed) <= 2
    assert ended.report.downloaded == 120


async def test_a_resolver_that_hangs_holds_up_no_other_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While twenty names are looked up in vain, the images of a host that is known land on the disk."""
    release = threading.Event()
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if str(host).endswith(".slow.example"):
            release.wait(20)
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with Scripted({f"/{n}.jpg": [OK] for n in range(40)}) as server:
        urls = [f"http://h{number}.slow.example/0.jpg" for number in range(20)]
        urls += [f"{server.url}/{number}.jpg" for number in range(40)]
        limits = Limits(retries=0, connect_s=4.0)
        try:
            (tmp_path / "out" / "images").mkdir(parents=True)
            running = asyncio.create_task(download(tmp_path, urls, allow=[server.port], limits=limits))
            async with asyncio.timeout(3.5):
                while len(os.listdir(tmp_path / "out" / "images")) < 40:  # noqa: ASYNC110 - a file sets no event
                    await asyncio.sleep(0.05)
        finally:
            release.set()
        ended = await running
    assert ended.report.downloaded == 40


async def test_limit_rate_serves_large_and_small_alike(tmp_path: Path) -> None:
    """A large image gets its share beside many small ones, it does not wait for their end."""
    small = tiny_jpeg("s", 8, 8)[:-2] + b"\x11" * 8_000 + b"\xff\xd9"
    large = tiny_jpeg("l", 8, 8)[:-2] + b"\x11" * 150_000 + b"\xff\xd9"
    scripts: dict[str, list[Answer]] = {f"/{n}.jpg": [http(200, small)] for n in range(1, 80)}
    landed: list[str] = []
    async with Scripted(scripts | {"/0.jpg": [http(200, large)]}) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(80)]
        rows = write_tables(tmp_path / "tables", [(url, None, None) for url in urls])
        query = rows | {"source": ["original"], "names": "id", "savepath": tmp_path / "out", "limit_rate": "400K"}
        options = Options.of(**query, concurrency=4, allow_hosts=[f"127.0.0.1:{server.port}"])

        def listen(event: Event) -> None:
            if isinstance(event, Landed):
                landed.extend(outcome.image_id for outcome in event.outcomes)

        await Run(options, listen).download()
    assert len(landed) == 80
    assert landed.index(ident(0)) < 78


async def test_a_host_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Sixty images of a host that accepts and is silent do not wait out their tries one after the other."""
    async with Scripted({f"/{n}.jpg": [stall_after(b"")] for n in range(60)}) as server:
        urls = [f"{server.url}/{number}.jpg" for number in range(60)]
        limits = Limits(retries=4, backoff_s=0.001, first_byte_s=0.2, silence_s=0.2, slow_s=0.2, max_wait_s=2.0)
        ended = await download(tmp_path, urls, allow=[server.port], limits=limits)
    assert ended.report.failed == 60
    assert set(ended.report.failures) <= {"network", "timeout"}
    assert sum(server.requests.values()) < 120
    assert ended.seconds < 10
