"""The metadata cache against servers that cut, change and lie: what is kept is what was published, fetched once."""

import asyncio
import base64
import errno
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Any, Self

import polars as pl
import pytest
from support.notes import notes_into
from support.published import Finished, run_cli, write_bytes
from yarl import URL

import oid_async
from oid_async.errors import InputError, StorageError, UnavailableError
from oid_async.events import Event, Note, Sink, TableProgress, ignore
from oid_async.http.address_guard import endpoint
from oid_async.http.client import Client, Response
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.jobs.listed import TableRow
from oid_async.jobs.listings import Listings
from oid_async.metadata import cache as cache_module
from oid_async.metadata import convert, fetch
from oid_async.metadata.cache import Cache, MetadataCache
from oid_async.metadata.entry import CacheEntry, Identity
from oid_async.openimages.catalogue import object_url, published
from oid_async.openimages.catalogue_tables import TABLES, PublishedTable
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin, folder
from oid_async.report import Plan
from oid_async.store.lock import FileLock
from oid_async.tables.reading import TableFile

CLASSES = published("classes", ())[0]
BOXES = published("boxes", ["validation"])[0]
IMAGES = published("images", ["validation"])[0]
HIERARCHY = published("hierarchy", ())[0]
# What a plan without categories reads; with some it looks at the hierarchy too.
READ = [CLASSES, IMAGES, BOXES]

QUICK = Limits(backoff_s=0.001)
ONE_TRY = Limits(backoff_s=0.001, retries=0)
MIB = 1 << 20
OTHER_MD5 = base64.b64encode(hashlib.md5(b"other bytes").digest()).decode()


def path_of(table: PublishedTable) -> str:
    """Return where a table stands on a mirror."""
    return f"/{table.bucket}/{table.key}"


def noise(size: int, seed: int = 1) -> bytes:
    """Return a class table of so many bytes, of which no part looks like another. The cache keeps it as it is."""
    chance = random.Random(seed)
    lines = b"".join(
        b"/m/%s,%s\n" % (chance.randbytes(6).hex().encode(), chance.randbytes(80).hex().encode())
        for _ in range(size // 177)
    )
    return lines + b"/m/0,%s\n" % (b"x" * (size - len(lines) - 6))


def digest(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def is_start_of(body: bytes, path: Path) -> bool:
    """Return whether a file holds what a body begins with; large bodies are not for pytest to explain."""
    return body.startswith(path.read_bytes())


def quoted_md5(body: bytes) -> str:
    return f'"{digest(body)}"'


def base64_md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


@dataclass
class Held:
    """A published object and how it answers.

    `etag` is the MD5 unless told, None for none; `lines` are further header lines. `cuts` says after how many bytes of
    body the next answers break off, one an answer; `then` is what stands here once the first answer was given.
    `hold` waits with the rest of a body after so many bytes until the store's gate opens. `length` is a false length.
    """

    body: bytes
    etag: str | None = ""
    lines: tuple[str, ...] = ()
    cuts: list[int] = field(default_factory=list)
    then: "Held | None" = None
    hold: int | None = None
    length: int | None = None
    quirk: str = ""

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = quoted_md5(self.body)


@dataclass
class Taken:
    """Counts the bytes of body that clients have taken from their connections."""

    count: int = 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Count what the program's own client takes.

    What the system has received and nobody has read is lost when a connection is reset, so that what a cut costs
    depends on the moment. A store that knows what was taken cuts when that is everything it sent.
    """
    counter, chunks = Taken(), Response.chunks

    async def counted(self: Response, *, no_deadline: bool = False) -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks(self, no_deadline=no_deadline)) as pieces:
            async for piece in pieces:
                counter.count += len(piece)
                yield piece

    monkeypatch.setattr(Response, "chunks", counted)
    return counter


@dataclass
class Asked:
    """A request as the store saw it, and what it answered: `start` is where in the object, `sent` bytes of body."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    start: int = 0
    sent: int = 0


class Store:
    """A store of objects as the public buckets are: ranges, validators, HEAD. Raw sockets, so that it may also lie."""

    def __init__(self, objects: dict[str, Held], taken: Taken | None = None) -> None:
        self.objects = objects
        self._taken = taken
        self.log: list[Asked] = []
        self.gate = asyncio.Event()
        self.pause_s = 0.0
        self.url = ""
        self._talks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        talks = list(self._talks)
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    @property
    def bodies(self) -> Counter[str]:
        """How often each object's body was sent from its start."""
        return Counter(asked.path for asked in self.log if asked.method == "GET" and asked.status == 200)

    def of(self, table: PublishedTable) -> list[Asked]:
        """Return the requests for one table."""
        return [asked for asked in self.log if asked.path == path_of(table)]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._talks.discard(task)
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection is still of use."""
        first, *lines = head.decode().split("\r\n")
        method, path = first.split("?")[0].split(" ")[:2]
        pairs = (line.split(": ", 1) for line in lines if line)
        asked = Asked(method, path, {name.lower(): value for name, value in pairs})
        self.log.append(asked)
        held = self.objects.get(path)
        if held is None:
            asked.status = 404
            writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
            return True
        said = self._settle(asked, held)
        body = b"" if asked.status in (304, 416) else held.body[asked.start :]
        length = held.length - asked.start if held.length is not None else len(body)
        said += [*held.lines, *([f"ETag: {held.etag}"] if held.etag else []), f"Content-Length: {length}"]
        writer.write("\r\n".join([f"HTTP/1.1 {asked.status} X", *said]).encode() + b"\r\n\r\n")
        cut = held.cuts.pop(0) if held.cuts and body else None
        if held.then is not None:
            self.objects[path] = held.then
        if method == "HEAD" or not body:
            return True
        before = self._taken.count if self._taken else 0
        await self._send(asked, held, body[:cut], writer)
        if cut is not None and (taken := self._taken) is not None:
            await until(lambda: taken.count - before >= asked.sent)
        return cut is None and length == len(body)

    def _settle(self, asked: Asked, held: Held) -> list[str]:
        """Decide status and start; return what is to be said of them."""
        asked.status = 200
        known = asked.headers.get("if-modified-since")
        if held.etag is not None and asked.headers.get("if-none-match") == held.etag:
            asked.status = 304
            return []
        if known is not None and f"Last-Modified: {known}" in held.lines:
            asked.status = 304
            return []
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        heeds = held.quirk != "deaf to If-Range"
        if wanted is None or held.quirk == "no ranges" or (heeds and asked.headers.get("if-range") != held.etag):
            return []
        start, total = int(wanted[1]), len(held.body)
        if start >= total:
            asked.status = 416
            return [f"Content-Range: bytes */{total}"]
        asked.status = 206
        asked.start = start - 7 if held.quirk == "another place" else start
        told = total + 1 if held.quirk == "another length" else total
        where = f"Content-Range: bytes {asked.start}-{told - 1}/{told}"
        return [] if held.quirk == "no place" else [where]

    async def _send(self, asked: Asked, held: Held, body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.pause_s)
        step = 64 << 10
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            if held.hold is not None and at + len(piece) > held.hold:
                await self.gate.wait()
            writer.write(piece)
            await writer.drain()
            asked.sent += len(piece)


@asynccontextmanager
async def opened(url: str, root: Path, *, limits: Limits = QUICK, sink: Sink = ignore) -> AsyncIterator[MetadataCache]:
    """Open a cache as a run does."""
    async with (
        Client(Hosts(None, 1.0), limits, connections=8, allowed=[endpoint(URL(url))]) as client,
        MetadataCache(client, sink, root=root, mirror=url, site=url) as cache,
    ):
        yield cache


async def bring(url: str, root: Path, table: PublishedTable = CLASSES, **how: Any) -> tuple[bytes, Identity]:
    """Have one table as one run would; return its bytes and what is known of it."""
    async with opened(url, root, **how) as cache:
        file, identity = await cache.published(table)
        assert file.path.is_file()
        assert file.path.stat().st_size == identity.bytes
        return file.path.read_bytes(), identity


def place_of(url: str, root: Path, table: PublishedTable = CLASSES) -> CacheEntry:
    """Return where a cache folder keeps a table of a mirror."""
    return Cache(root, url).entry(table)


def versions(entry: CacheEntry) -> list[str]:
    """Return the versions of a table that lie in the cache, those in the making included."""
    return sorted(path.name for path in entry.folder.iterdir() if path.is_dir())


def rows_of(table: TableFile) -> list[tuple[Any, ...]]:
    """Return the rows of a converted table."""
    return pl.read_parquet(table.parts).rows()


@once
def published_bytes() -> dict[str, bytes]:
    return {f"/openimages/{key}": body for key, body in Lookalike(staged=False).tables.items()}


def lookalike_store(taken: Taken | None = None) -> Store:
    """Return a store of the look-alike's tables."""
    return Store({path: Held(body) for path, body in published_bytes().items()}, taken)


@once
def large_boxes() -> bytes:
    """Return a box table of more than one block, 4 MiB."""
    rows = (f"{n:016x},xclick,/m/01226z,1,0,0.5,0,0.5,0,0,0,0,{'0' * 60}\n" for n in range(60_000))
    return f"{','.join(BOXES.columns)}\n{''.join(rows)}".encode()


def told(plan: Plan) -> dict[str, Any]:
    """Return what a plan says of the selection, without what this run moved and the disk has."""
    return {name: value for name, value in asdict(plan).items() if name not in ("metadata_bytes", "disk_free")}


async def plan(url: str, limits: Limits = QUICK, sink: Sink = ignore, **query: Any) -> dict[str, Any]:
    """Plan a run on the validation split and return what it tells."""
    options = Options.of(mirror=url, splits=["validation"], **query)
    return told(await Run(options, sink, limits=limits).plan())


async def cli(*args: object) -> Finished:
    """Run the program while this loop serves it."""
    return await asyncio.to_thread(run_cli, *args)


def start_plan(url: str, cache_dir: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start the program on a plan of the validation split; its answer goes to a file."""
    words = [sys.executable, "-m", "oid_async", "plan", "--mirror", url, "--split", "validation", "--json"]
    with out.open("wb") as answer:
        return subprocess.Popen([*words, "--cache-dir", str(cache_dir)], stdout=answer, stderr=subprocess.DEVNULL)


async def ended(process: "subprocess.Popen[bytes]") -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), 30)


async def until(met: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110 - other processes and threads set no event of this loop's
            await asyncio.sleep(0.002)


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, locks left out."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def folders_of(folder: Path) -> list[Path]:
    """Return a folder and all below it."""
    return [folder, *(path for path in folder.rglob("*") if path.is_dir())]


def at_work() -> list[str]:
    """Return the stacks of other threads that are inside the program, its embedded origin left out."""
    others = (frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident())
    stacks = ("".join(traceback.format_stack(frame)) for frame in others)
    return [stack for stack in stacks if "/oid_async/" in stack and "/oid_async/origin/" not in stack]


def open_below(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open; nothing where the system does not tell."""
    found = []
    for number in os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []:
        link = Path("/proc/self/fd", number)
        name = str(link.readlink()) if link.is_symlink() else ""
        found += [name] if name.startswith(f"{folder}/") else []
    return found


# Resuming -------------------------------------------------------------------------------------------------------------


async def test_a_table_that_is_cut_ten_times_is_fetched_once_in_eleven_parts(cache_dir: Path, taken: Taken) -> None:
    """Each part starts where the last one ended, asked for with Range and If-Range; the whole is what was published."""
    # Parts of less than a block, of more than one, and of a single byte.
    sizes = [100_003, 1, 6 * MIB, 4 * MIB, 5, *[300_000] * 5, 77_777]
    body = noise(sum(sizes))
    seen: list[int] = []

    def sink(event: Event) -> None:
        assert isinstance(event, TableProgress)
        assert (event.name, event.total) == (CLASSES.name, len(body))
        seen.append(event.done)

    async with (
        Store({path_of(CLASSES): Held(body, cuts=sizes[:10])}, taken) as store,
        # A cut that brought something is no failed try: one retry is enough for any number of them.
        opened(store.url, cache_dir, limits=Limits(backoff_s=0.001, retries=1), sink=sink) as cache,
    ):
        file, identity = await cache.published(CLASSES)
        assert digest(file.path.read_bytes()) == digest(body)
        assert (identity.md5, identity.bytes) == (digest(body), len(body))
        assert [asked.status for asked in store.log] == [200, *[206] * 10]
        starts = [sum(sizes[:number]) for number in range(11)]
        assert [asked.start for asked in store.log] == starts
        assert [asked.sent for asked in store.log] == sizes
        assert "range" not in store.log[0].headers
        assert [asked.headers["range"] for asked in store.log[1:]] == [f"bytes={start}-" for start in starts[1:]]
        assert {asked.headers["if-range"] for asked in store.log[1:]} == {quoted_md5(body)}
        assert cache.fetched_bytes == len(body)
        entry = place_of(store.url, cache_dir)
        assert not entry.raw.exists()
        assert not entry.raw_note.exists()
    assert seen == sorted(seen)
    assert seen[-1] == len(body)


async def test_what_a_failed_run_has_got_the_next_one_does_not_ask_for(cache_dir: Path, taken: Taken) -> None:
    """A run that ends in a cut says which table it could not have; the next one goes on from what is there."""
    body = published_bytes()[path_of(BOXES)]
    async with lookalike_store() as calm:
        expected = await plan(calm.url, cache_dir=cache_dir / "calm")
    async with lookalike_store(taken) as store:
        store.objects[path_of(BOXES)].cuts = [4000, 3000]
        entry = place_of(store.url, cache_dir, BOXES)
        for there in (4000, 7000):
            with pytest.raises(UnavailableError, match=f"^{BOXES.name}: .*truncated"):
                await plan(store.url, ONE_TRY)
            assert entry.raw.read_bytes() == body[:there]
            assert versions(entry) == []
        assert await plan(store.url, ONE_TRY) == expected
        assert [(asked.start, asked.sent) for asked in store.of(BOXES)] == [
            (0, 4000),
            (4000, 3000),
            (7000, len(body) - 7000),
        ]
        assert not entry.raw.exists()


@pytest.mark.programs
async def test_a_run_that_is_killed_in_the_middle_of_a_table_leaves_its_blocks_to_the_next(
    cache_dir: Path, tmp_path: Path
) -> None:
    """After SIGKILL the next run asks for the rest behind the last block that was written, not from the start."""
    async with lookalike_store() as store:
        store.objects[path_of(BOXES)] = Held(large_boxes(), hold=5 * MIB)
        entry = place_of(store.url, cache_dir, BOXES)
        process = start_plan(store.url, cache_dir, tmp_path / "answer")
        await until(lambda: entry.raw.exists() and entry.raw.stat().st_size >= 4 * MIB)
        process.kill()
        assert await ended(process) == -9
        there = entry.raw.stat().st_size
        store.gate.set()
        async with opened(store.url, cache_dir) as cache:
            table, identity = await cache.published(BOXES)
            assert len(rows_of(table)) == 60_000
        assert identity.md5 == digest(large_boxes())
        assert [(asked.status, asked.start) for asked in store.of(BOXES)] == [(200, 0), (206, there)]


@pytest.mark.parametrize("etag", [None, f"W/{quoted_md5(b'x')}"], ids=["no ETag", "weak ETag"])
async def test_without_a_strong_etag_a_cut_table_is_fetched_from_its_start(cache_dir: Path, etag: str | None) -> None:
    """Nothing vouches that a rest is the rest of the same file, so none is asked for, in this run or in the next."""
    body = noise(50_000)
    async with Store({path_of(CLASSES): Held(body, etag, cuts=[30_000, 20_000, 10_000])}) as store:
        with pytest.raises(UnavailableError):
            await bring(store.url, cache_dir, limits=ONE_TRY)
        fetched, identity = await bring(store.url, cache_dir)
        assert fetched == body
        assert identity.etag == etag
        assert [asked.start for asked in store.log] == [0] * 4
        assert all("range" not in asked.headers and "if-range" not in asked.headers for asked in store.log)


OLD, NEW = noise(50_000, 2), noise(50_000, 3)
OLD_CLASSES, NEW_CLASSES = b"/m/01,Old\n", b"/m/01,New one\n"
LONGER, SHORTER = noise(60_000, 4), noise(40_000, 5)
CHANGES = {
    "changed": Held(NEW),
    "changed, longer": Held(LONGER),
    "changed, shorter": Held(SHORTER),
    "changed, no ETag any more": Held(NEW, None),
    "changed, If-Range is not heeded": Held(NEW, quirk="deaf to If-Range"),
    "changed, longer, If-Range is not heeded": Held(LONGER, quirk="deaf to If-Range"),
    "changed, shorter, If-Range is not heeded": Held(SHORTER, quirk="deaf to If-Range"),
    "Range is not heeded": Held(OLD, quirk="no ranges"),
    "part from another place": Held(OLD, quirk="another place"),
    "part of another length": Held(OLD, quirk="another length"),
    "part of no said place": Held(OLD, quirk="no place"),
}


@pytest.mark.parametrize("next_run", [False, True], ids=["same run", "next run"])
@pytest.mark.parametrize("change", CHANGES)
async def test_parts_of_two_files_are_never_put_together(
    cache_dir: Path, taken: Taken, change: str, next_run: bool
) -> None:
    """Whatever the server does between two parts, the table is one whole published file, the one that stands there."""
    then = CHANGES[change]
    async with Store({path_of(CLASSES): Held(OLD, cuts=[30_000], then=then)}, taken) as store:
        if next_run:
            with pytest.raises(UnavailableError):
                await bring(store.url, cache_dir, limits=ONE_TRY)
        fetched, identity = await bring(store.url, cache_dir)
        assert store.log[1].headers["range"] == "bytes=30000-"
        assert store.log[1].headers["if-range"] == quoted_md5(OLD)
        assert fetched == then.body
        assert (identity.etag, identity.md5) == (then.etag, digest(then.body))
        assert len(store.log) <= 3
        assert store.log[-1].start == 0


async def test_a_table_that_shrank_is_fetched_anew(cache_dir: Path, taken: Taken) -> None:
    """When there is more here than there now is to fetch, a server may say 416: what is here is then of no use."""
    then = Held(noise(20_000, 6), quirk="deaf to If-Range")
    async with Store({path_of(CLASSES): Held(OLD, cuts=[30_000], then=then)}, taken) as store:
        fetched, _ = await bring(store.url, cache_dir)
        assert fetched == then.body


async def test_a_folder_mirror_whose_table_shrank_is_fetched_anew(cache_dir: Path, tmp_path: Path) -> None:
    """A table of a folder mirror that was cut and then replaced by a smaller one is had all the same."""
    path = tmp_path / "mirror" / path_of(CLASSES)[1:]
    write_bytes(path, OLD)
    async with Origin(folder(tmp_path / "mirror")) as origin:
        fetched, identity = await bring(origin.url, cache_dir)
        entry = place_of(origin.url, cache_dir)
        assert entry.try_clear()
        entry.raw.write_bytes(fetched[:30_000])
        note = {"url": f"{origin.url}{path_of(CLASSES)}", "total": len(OLD), "etag": identity.etag}
        entry.raw_note.write_text(json.dumps({**note, "last_modified": None, "md5": None}))
        write_bytes(path, noise(20_000, 6))
        assert (await bring(origin.url, cache_dir))[0] == noise(20_000, 6)


async def test_a_304_to_nothing_is_no_table(cache_dir: Path) -> None:
    """A server that says 'not modified' to whom has nothing is refused by name."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 304 X\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"^{CLASSES.name}: .*304"):
            await bring(url, cache_dir)


# Noticing changes -----------------------------------------------------------------------------------------------------


async def test_a_changed_table_is_noticed_and_the_old_version_goes(cache_dir: Path) -> None:
    """A table that is cached is asked for with its validators: 304 costs no body, a new file is used at once."""
    async with lookalike_store() as store:
        first = await plan(store.url)
        assert await plan(store.url) == first
        assert [asked.status for asked in store.of(BOXES)] == [200, 304]
        entry = place_of(store.url, cache_dir, BOXES)
        (old,) = versions(entry)
        lines = published_bytes()[path_of(BOXES)].splitlines(keepends=True)
        gone = lines[1][:16]
        store.objects[path_of(BOXES)] = Held(b"".join(line for line in lines if not line.startswith(gone)))
        second = await plan(store.url)
        assert second["selected"] == first["selected"] - 1
        assert second["annotations"]["bbox"] == first["annotations"]["bbox"] - sum(
            line.startswith(gone) for line in lines
        )
        (new,) = versions(entry)
        assert new != old
        assert [asked.status for asked in store.of(BOXES)] == [200, 304, 200]
        assert store.bodies[path_of(IMAGES)] == 1


async def test_without_an_etag_a_table_is_asked_for_by_its_date(cache_dir: Path) -> None:
    """Last-Modified will do to know that a table is still the same; with neither it is fetched every time."""
    dates = [f"Last-Modified: Mon, 0{day} Jun 2026 07:28:00 GMT" for day in (1, 2)]
    async with Store({}) as store:
        for body, lines in (
            (OLD_CLASSES, dates[:1]),
            (OLD_CLASSES, dates[:1]),
            (NEW_CLASSES, dates[1:]),
            (NEW_CLASSES, []),
            (NEW_CLASSES, []),
        ):
            store.objects[path_of(CLASSES)] = Held(body, None, tuple(lines))
            assert (await bring(store.url, cache_dir))[0] == body
        assert [asked.status for asked in store.log] == [200, 304, 200, 200, 200]


async def test_a_change_is_noticed_though_the_clock_was_ahead(cache_dir: Path) -> None:
    """A cache that was last checked 'tomorrow' (a wrong clock, a copied folder) is asked about all the same."""
    async with Store({path_of(CLASSES): Held(OLD_CLASSES)}) as store:
        await bring(store.url, cache_dir)
        store.objects[path_of(CLASSES)] = Held(NEW_CLASSES)
        for path in files_below(cache_dir):
            os.utime(path, (path.stat().st_mtime + 86400,) * 2)
        assert (await bring(store.url, cache_dir))[0] == NEW_CLASSES


async def test_a_version_that_a_run_reads_stays_until_nobody_does(cache_dir: Path) -> None:
    """A newer version does not take the old one from under a run that reads it; afterwards it goes."""
    bodies = [published_bytes()[path_of(BOXES)]]
    for _ in range(2):
        header, _, rest = bodies[-1].split(b"\n", 2)
        bodies.append(header + b"\n" + rest)
    async with lookalike_store() as store:
        entry = place_of(store.url, cache_dir, BOXES)
        async with opened(store.url, cache_dir) as reader:
            old, _ = await reader.published(BOXES)
            before = rows_of(old)
            store.objects[path_of(BOXES)] = Held(bodies[1])
            async with opened(store.url, cache_dir) as other:
                new, _ = await other.published(BOXES)
                assert new.path != old.path
                assert len(rows_of(new)) == len(before) - 1
                assert rows_of(old) == before
                assert versions(entry) == sorted([old.path.name, new.path.name])
                # The one that reads the old version meets the new one from now on, and has both until its end.
                assert (await reader.published(BOXES))[0].path == new.path
            assert rows_of(old) == before
        store.objects[path_of(BOXES)] = Held(bodies[2])
        async with opened(store.url, cache_dir) as last:
            assert versions(entry) != [old.path.name]
            newest, _ = await last.published(BOXES)
            assert versions(entry) == [newest.path.name]


async def test_a_cached_table_is_used_and_said_so_while_its_server_is_in_trouble(cache_dir: Path) -> None:
    """5xx, a cut or nobody there: the copy of the last run will do, in one line; 'not published any more' will not."""
    notes: list[str] = []

    async with Store({path_of(CLASSES): Held(OLD)}) as store:
        await bring(store.url, cache_dir)
        store.objects[path_of(CLASSES)] = Held(NEW, cuts=[100] * 9, etag=None)
        assert (await bring(store.url, cache_dir, sink=notes_into(notes)))[0] == OLD
        store.objects.clear()
        with pytest.raises(UnavailableError, match=f"^{CLASSES.name}: not published at {store.url}.*404"):
            await bring(store.url, cache_dir)
    # Nobody is at that address any more.
    assert (await bring(store.url, cache_dir, sink=notes_into(notes)))[0] == OLD
    assert len(notes) == 2
    assert all(
        note.startswith(f"{CLASSES.name}: ") and re.search(r"; the copy of \d{4}-\d\d-\d\d is used$", note)
        for note in notes
    )


async def test_a_table_given_by_url_is_cached_like_the_published(cache_dir: Path) -> None:
    """It is asked for with its validators, a change is noticed, and offline the copy will do."""
    async with Store({"/mine.csv": Held(b"/m/1,One\n")}) as store:
        for body, status in ((b"/m/1,One\n", 200), (b"/m/1,One\n", 304), (b"/m/1,Uno\n", 200)):
            store.objects["/mine.csv"] = Held(body)
            async with opened(store.url, cache_dir) as cache:
                table, identity = await cache.given(f"{store.url}/mine.csv?a=b")
                assert (table.path.read_bytes(), table.name) == (body, f"{store.url}/mine.csv?REDACTED")
            assert store.log[-1].status == status
        async with MetadataCache(None, ignore, root=cache_dir, mirror=None, site=None) as cache:
            assert (await cache.given(f"{store.url}/mine.csv?a=b"))[1] == identity
        assert len(store.log) == 3


# What the server says of the bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["x-goog-hash: crc32c=AAAAAA==", "x-goog-hash: md5={md5}"], id="two headers"),
        pytest.param(["x-goog-hash: md5={md5}", "x-goog-hash: crc32c=AAAAAA=="], id="two headers, MD5 first"),
        pytest.param(["x-goog-hash: crc32c=AAAAAA==,md5={md5}"], id="one header"),
        pytest.param(["x-goog-hash: md5={md5}, crc32c=AAAAAA=="], id="one header, MD5 first"),
        pytest.param(["X-Goog-Hash: md5={md5}"], id="alone"),
        pytest.param(["Content-MD5: {md5}"], id="of another store"),
    ],
)
async def test_the_md5_that_a_server_names_decides(cache_dir: Path, lines: list[str]) -> None:
    """A table that has it is taken; one that has not is fetched once more and then refused by name, and not kept."""
    body = noise(30_000)
    right = Held(body, lines=tuple(line.format(md5=base64_md5(body)) for line in lines))
    wrong = Held(body, lines=tuple(line.format(md5=OTHER_MD5) for line in lines))
    async with Store({path_of(CLASSES): right}) as store:
        assert (await bring(store.url, cache_dir / "right"))[0] == body
        assert len(store.log) == 1
        store.objects[path_of(CLASSES)] = wrong
        with pytest.raises(UnavailableError, match=f"^{CLASSES.name}: .*checksum"):
            await bring(store.url, cache_dir)
        assert [asked.start for asked in store.log[1:]] == [0, 0]
        entry = place_of(store.url, cache_dir)
        assert versions(entry) == []
        assert entry.current_version() is None
        assert not entry.raw.exists()
        # One fresh try may be all it takes.
        store.objects[path_of(CLASSES)] = Held(body, lines=wrong.lines, then=right)
        assert (await bring(store.url, cache_dir))[0] == body
        assert len(store.log) == 5


async def test_the_md5_counts_for_a_table_that_came_in_parts(cache_dir: Path, taken: Taken) -> None:
    """A rest that the server passes off as the rest of the same file is found out by its MD5, and all is had anew."""
    mixed = OLD[:30_000] + NEW[30_000:]
    lines = (f"x-goog-hash: md5={base64_md5(OLD)}",)
    then = Held(mixed, quoted_md5(OLD), lines, then=Held(OLD, lines=lines))
    async with Store({path_of(CLASSES): Held(OLD, lines=lines, cuts=[30_000], then=then)}, taken) as store:
        assert (await bring(store.url, cache_dir))[0] == OLD
        assert [(asked.status, asked.start) for asked in store.log] == [(200, 0), (206, 30_000), (200, 0)]


@pytest.mark.parametrize("etag", [None, ""], ids=["no ETag", "ETag"])
async def test_a_body_shorter_than_promised_is_truncated(cache_dir: Path, etag: str | None) -> None:
    """Fewer bytes than Content-Length are never taken for the table; the number of tries is bounded."""
    body = noise(30_000)
    async with Store({path_of(CLASSES): Held(body, etag, length=30_010)}) as store:
        with pytest.raises(UnavailableError, match=f"^{CLASSES.name}: .*truncated"):
            await bring(store.url, cache_dir, limits=Limits(backoff_s=0.001, retries=2))
        assert versions(place_of(store.url, cache_dir)) == []
        assert len(store.log) <= 4
        store.objects[path_of(CLASSES)] = Held(body, etag)
        assert (await bring(store.url, cache_dir))[0] == body


async def test_a_table_without_a_length_is_had_again_after_the_conversion_was_lost(cache_dir: Path) -> None:
    """A whole body of unknown length is no reason to ask for what is behind its end."""
    body = published_bytes()[path_of(BOXES)]
    head = f"HTTP/1.1 200 X\r\nETag: {quoted_md5(body)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if f"Range: bytes={len(body)}-".encode() in asked[-1]:
            writer.write(f"HTTP/1.1 416 X\r\nContent-Range: bytes */{len(body)}\r\nContent-Length: 0\r\n\r\n".encode())
        elif b"If-None-Match" in asked[-1]:
            writer.write(b"HTTP/1.1 304 X\r\n\r\n")
        else:
            writer.write(head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            full = OSError(errno.ENOSPC, "No space left on device")
            patch.setattr("oid_async.metadata.wanted.convert", raises(full))
            async with opened(url, cache_dir) as cache:
                with pytest.raises(StorageError):
                    await cache.published(BOXES)
        async with opened(url, cache_dir) as cache:
            table, _ = await cache.published(BOXES)
            assert len(rows_of(table)) == body.count(b"\n") - 1


def raises(error: BaseException) -> Callable[..., Any]:
    def function(*args: object, **named: object) -> Any:
        raise error

    return function


@pytest.mark.parametrize("body", [b"", b"ImageID,Source\n1,2\n", b"\x89PNG\r\n\0\0\0"], ids=["empty", "column", "PNG"])
async def test_what_is_no_box_table_is_refused_by_name_and_asked_for_again(cache_dir: Path, body: bytes) -> None:
    """A body that cannot be read as the table is an InputError that names it; the next run fetches it anew."""
    async with lookalike_store() as store:
        good = store.objects[path_of(BOXES)]
        store.objects[path_of(BOXES)] = Held(body)
        for _ in range(2):
            with pytest.raises(InputError, match=f"^{BOXES.name}: "):
                await plan(store.url)
        assert store.bodies[path_of(BOXES)] == 2
        assert place_of(store.url, cache_dir, BOXES).current_version() is None
        store.objects[path_of(BOXES)] = good
        assert (await plan(store.url))["selected"] == 40
        assert len(versions(place_of(store.url, cache_dir, BOXES))) == 1


# Several runs at once -------------------------------------------------------------------------------------------------


async def test_two_processes_share_the_work(cache_dir: Path, tmp_path: Path) -> None:
    """Two programs that start together on an empty cache fetch each table once and say the same."""
    async with lookalike_store() as store:
        store.pause_s = 0.2
        names = ["one", "two"]
        runs = [start_plan(store.url, cache_dir, tmp_path / name) for name in names]
        assert [await ended(run) for run in runs] == [0, 0]
        assert store.bodies == {path_of(table): 1 for table in READ}
        answers = [json.loads((tmp_path / name).read_text()) for name in names]
        assert answers[0]["selected"] == 40
        moved = [answer.pop("metadata_bytes") for answer in answers]
        assert sum(moved) == sum(len(published_bytes()[path_of(table)]) for table in READ)
        for answer in answers:
            del answer["disk_free"]
        assert answers[0] == answers[1]


async def test_two_runs_on_one_loop_share_the_work(cache_dir: Path) -> None:
    """asyncio.gather of two plans on an empty cache fetches each table once."""
    async with lookalike_store() as store:
        store.pause_s = 0.05
        first, second = await asyncio.gather(plan(store.url), plan(store.url))
        assert first == second
        assert store.bodies == {path_of(table): 1 for table in READ}


async def test_a_run_that_waits_says_so(cache_dir: Path) -> None:
    """Who waits for another run's table is told after a second, once, and has it when that run is done with it."""
    notes: list[Event] = []
    async with Store({path_of(CLASSES): Held(OLD, hold=0)}) as store:
        fetching = asyncio.create_task(bring(store.url, cache_dir))
        await until(lambda: bool(store.log))

        def sink(event: Event) -> None:
            notes.append(event)
            store.gate.set()

        assert (await bring(store.url, cache_dir, sink=sink))[0] == OLD
        await fetching
        assert notes == [Note(f"{CLASSES.name}: another run is fetching it; waiting for that")]
        assert len(store.log) == 1


# The next table beside a conversion -----------------------------------------------------------------------------------


def conversion_that_waits(monkeypatch: pytest.MonkeyPatch, goes_on: Callable[[], bool]) -> list[str]:
    """Let the conversion of the image table go on once something is so; return the tables whose conversion began."""
    began: list[str] = []
    monkeypatch.setattr(cache_module, "_WORTH_FETCHING_BESIDE", 0)

    def convert_when(raw: TableFile, *args: Any, **how: Any) -> tuple[str, ...]:
        began.append(raw.name)
        stop = time.monotonic() + 30
        while raw.name == IMAGES.name and not goes_on() and not how["stopped"]() and time.monotonic() < stop:
            time.sleep(0.002)
        return convert.convert(raw, *args, **how)

    monkeypatch.setattr("oid_async.metadata.wanted.convert", convert_when)
    return began


async def test_the_next_table_is_fetched_while_a_large_one_is_converted(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boxes come while image rows become Parquet; they are converted after them, and the plan is the same."""
    async with lookalike_store() as store:
        expected = await plan(store.url, cache_dir=cache_dir / "calm")
        store.log.clear()
        began = conversion_that_waits(monkeypatch, lambda: place_of(store.url, cache_dir, BOXES).raw.exists())
        assert await plan(store.url, cache_dir=cache_dir) == expected
        assert began == [IMAGES.name, BOXES.name]
        assert store.bodies == {path_of(table): 1 for table in READ}


async def test_a_run_that_ends_in_a_conversion_ends_the_fetch_beside_it(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When cancelled, no thread, no task and no lock of either table is left, and the next run has both."""
    async with lookalike_store() as store:
        expected = await plan(store.url, cache_dir=cache_dir / "calm")
        store.log.clear()
        store.objects[path_of(BOXES)].hold = 100
        began = conversion_that_waits(monkeypatch, lambda: False)
        task = asyncio.create_task(plan(store.url, cache_dir=cache_dir))
        await until(lambda: bool(store.of(BOXES)) and bool(began))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_work() == []
        assert open_below(cache_dir) == []
        monkeypatch.undo()
        store.gate.set()
        assert await plan(store.url, cache_dir=cache_dir) == expected


async def test_a_table_beside_a_conversion_that_cannot_be_had_is_said_once(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image table is converted and kept though the boxes fail meanwhile; then the run ends as it does otherwise."""
    async with lookalike_store() as store:
        del store.objects[path_of(BOXES)]
        conversion_that_waits(monkeypatch, lambda: bool(store.of(BOXES)))
        with pytest.raises(UnavailableError, match=f"^{BOXES.name}: not published at"):
            await plan(store.url, cache_dir=cache_dir)
        assert len(store.of(BOXES)) == 1
        assert place_of(store.url, cache_dir, IMAGES).current_version() is not None


# Offline --------------------------------------------------------------------------------------------------------------


async def test_offline_asks_nothing_and_says_the_same(cache_dir: Path) -> None:
    """After one online run a plan needs no request."""
    async with lookalike_store() as store:
        online = await plan(store.url, categories=["Person", "Ball"], with_subclasses=True)
        asked = len(store.log)
        offline = await plan(store.url, categories=["Person", "Ball"], with_subclasses=True, offline=True)
        assert offline == online
        assert len(store.log) == asked
    # Nor does it need anybody to be there.
    assert await plan(store.url, categories=["Person", "Ball"], with_subclasses=True, offline=True) == online


async def test_offline_with_an_empty_cache_names_what_is_missing() -> None:
    """Exit 2, one line that names the table and --offline, and nobody was asked."""
    async with lookalike_store() as store:
        query = ("plan", "--offline", "--mirror", store.url, "--split", "validation")
        plain = await cli(*query)
        assert (plain.code, plain.stdout) == (2, "")
        (line,) = plain.stderr.splitlines()
        assert line.startswith("oid-async: error: ")
        assert CLASSES.name in line
        assert "--offline" in line
        said = await cli(*query, "--json")
        assert (said.code, json.loads(said.stdout)["error"]["kind"]) == (2, "unavailable")
        assert store.log == []


async def test_offline_with_another_splits_table_missing_names_that(cache_dir: Path) -> None:
    """What the cache has of one split is no help for another."""
    async with lookalike_store() as store:
        await plan(store.url)
        with pytest.raises(UnavailableError, match=r"^test-images-with-rotation\.csv: not in the cache.*--offline"):
            await oid_async.plan(mirror=store.url, splits=["validation", "test"], offline=True)
        # Another site's tables are not this one's.
        with pytest.raises(UnavailableError, match="--offline"):
            await oid_async.plan(mirror="http://127.0.0.1:9/", splits=["validation"], offline=True)


async def test_offline_knows_a_folder_mirror_by_its_name(lookalike: Path) -> None:
    """A folder is served from another port every time; its tables are found in the cache all the same."""
    online = await plan(str(lookalike))
    assert await plan(str(lookalike), offline=True) == online
    assert await plan(lookalike.as_uri(), offline=True) == online


async def test_offline_images_that_are_missing_are_pending_and_are_fetched_online_later(tmp_path: Path) -> None:
    """`download --offline` asks nothing and journals nothing; what is missing is `pending`, and the next run has it."""
    objects = Lookalike(staged=False)
    async with Origin(objects.serve) as origin:
        query: Any = {"mirror": origin.url, "splits": ["validation"], "savepath": tmp_path / "out"}
        await oid_async.plan(**query)
        asked = objects.requests.total()
        report = await oid_async.download(**query, offline=True)
        assert (report.selected, report.pending, report.failed, report.failures) == (40, 40, 0, {})
        assert report.requests == 0
        assert objects.requests.total() == asked
        images = oid_async.open(tmp_path / "out").images.collect()
        assert images.select("Status", "Reason", "FileName").unique().rows() == [("pending", None, None)]
        assert not (tmp_path / "out" / "failures.csv").exists()
        assert not (tmp_path / "out" / ".oid_async" / "journal.tsv").read_text()
        words = (
            "--mirror",
            origin.url,
            "--split",
            "validation",
            "--savepath",
            tmp_path / "out",
            "--max-failures",
            "100%",
        )
        offline = await asyncio.to_thread(run_cli, "download", "--offline", *words)
        assert offline.code == 1
        assert "40 images are pending: nothing is requested with --offline; run again without it" in offline.stderr
        report = await oid_async.download(**query)
        assert (report.downloaded, report.failed) == (40, 0)
        asked = objects.requests.total()
        report = await oid_async.download(**query, offline=True)
        assert (report.present, report.failed) == (40, 0)
        assert objects.requests.total() == asked


# `oid-async metadata` -------------------------------------------------------------------------------------------------


async def listed(url: str, splits: list[str], *, ask: bool = False) -> dict[str, TableRow]:
    rows = await Listings(Options.of(mirror=url, splits=splits), ignore).tables(ask=ask)
    return {row.name: row for row in rows}


async def test_the_metadata_command_lists_pulls_and_clears(cache_dir: Path) -> None:
    """`list` asks nothing and tells what is cached, `pull` brings it, `clear` removes it and says how much."""
    async with lookalike_store() as store:

        async def metadata(*words: str) -> tuple[dict[str, Any], str]:
            done = await cli("metadata", *words, "--mirror", store.url, "--json")
            assert done.code == 0, done.stderr
            answer = json.loads(done.stdout)
            assert answer["cache_dir"] == str(cache_dir)
            return {table["name"]: table for table in answer["tables"]}, done.stderr

        before, _ = await metadata("list")
        assert store.log == []
        there = {table.name for table in TABLES if "v7" in table.releases}
        assert set(before) == there | {f"{split}.sizes" for split in SPLITS}
        assert not any(table["cached"] or table["cached_bytes"] for table in before.values())
        pulled, _ = await metadata("pull", "--split", "validation")
        assert set(pulled) == {table.name for table in (*READ, HIERARCHY)}
        assert store.bodies == {path_of(table): 1 for table in (*READ, HIERARCHY)}
        asked = len(store.log)
        after, _ = await metadata("list")
        assert len(store.log) == asked
        for name, table in after.items():
            assert table["cached"] == (name in pulled), name
            assert (table["cached_bytes"] > 0) == (name in pulled), name
            assert (table["age_s"] is not None) == (name in pulled), name
        for published_table in READ:
            assert after[published_table.name]["bytes"] == len(published_bytes()[path_of(published_table)])
        cleared, said = await metadata("clear")
        assert "freed" in said
        assert not any(table["cached"] or table["cached_bytes"] for table in cleared.values())
        assert len(store.log) == asked
        assert files_below(cache_dir) == []


async def test_sizes_are_asked_for_with_head(cache_dir: Path) -> None:
    """`metadata list --sizes` asks for each table's size and fetches none; what is not there has no new size."""
    async with lookalike_store() as store:
        del store.objects[path_of(IMAGES)]
        rows = await listed(store.url, ["validation"], ask=True)
        asked = Counter((each.method, each.path) for each in store.log)
        wanted = [table for table in TABLES if "v7" in table.releases and table.split in (None, "validation")]
        assert asked == {("HEAD", path_of(table)): 1 for table in wanted}
        assert rows[BOXES.name].bytes == len(published_bytes()[path_of(BOXES)])
        assert rows[IMAGES.name].bytes == IMAGES.bytes
        assert not any(row.cached for row in rows.values())


async def test_clear_takes_only_the_splits_it_is_told(cache_dir: Path) -> None:
    """`metadata clear --split validation` leaves the other splits' tables, and those that serve all, where they are."""
    async with lookalike_store() as store:
        await oid_async.plan(mirror=store.url, splits=["validation", "test"])
        options = Options.of(mirror=store.url, splits=["validation"])
        await Listings(options, ignore).clear()
        rows = await listed(store.url, ["validation", "test"])
        gone = {row.name for row in rows.values() if not row.cached}
        read = {table.name for split in ("validation", "test") for table in TABLES if table.split == split}
        boxes_and_images = {table.name for table in TABLES if table.kind in ("boxes", "images", "classes", "hierarchy")}
        assert gone & boxes_and_images & (read | {HIERARCHY.name}) == {BOXES.name, IMAGES.name, HIERARCHY.name}
        bodies = store.bodies
        await oid_async.plan(mirror=store.url, splits=["validation", "test"])
        assert store.bodies - bodies == {path_of(BOXES): 1, path_of(IMAGES): 1}


async def test_clear_keeps_what_a_run_reads(cache_dir: Path) -> None:
    """A table that a run has pinned stays readable, and that it stays is said; one that is being fetched, too."""
    notes: list[str] = []

    async with lookalike_store() as store:
        store.objects[path_of(CLASSES)].hold = 0
        listings = Listings(Options.of(mirror=store.url), notes_into(notes))
        async with opened(store.url, cache_dir) as reader:
            table, _ = await reader.published(BOXES)
            before = rows_of(table)
            await reader.published(IMAGES)
            fetching = asyncio.create_task(bring(store.url, cache_dir))
            await until(place_of(store.url, cache_dir).raw.exists)
            await listings.clear()
            assert rows_of(table) == before
            assert {f"{name}: in use by a run, not removed" for name in (BOXES.name, IMAGES.name, CLASSES.name)} == {
                note for note in notes if "freed" not in note
            }
            store.gate.set()
            assert (await fetching)[0] == published_bytes()[path_of(CLASSES)]
        notes.clear()
        await listings.clear()
        assert [note for note in notes if "freed" not in note] == []
        assert files_below(cache_dir) == []


async def test_clear_of_a_cache_that_may_only_be_read_is_the_machines_no(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be removed is a StorageError that names the folder, no traceback."""
    async with lookalike_store() as store:
        await plan(store.url)
        monkeypatch.setattr(CacheEntry, "lock", refuse_to_lock)
        with pytest.raises(StorageError, match=re.escape(str(cache_dir))):
            await Listings(Options.of(mirror=store.url), ignore).clear()


# The machine ----------------------------------------------------------------------------------------------------------


def refuse_to_lock(self: CacheEntry) -> FileLock | None:
    raise PermissionError(errno.EACCES, "Permission denied", str(self.folder))


async def test_a_cache_that_may_only_be_read_will_do(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tables in it and a server that says 304, a read-only cache folder is as good as any."""
    async with lookalike_store() as store:
        expected = await plan(store.url)
        bodies = store.bodies
        monkeypatch.setattr(CacheEntry, "lock", refuse_to_lock)
        assert await plan(store.url) == expected
        assert store.bodies == bodies
        assert [asked.status for asked in store.of(BOXES)] == [200, 304]
        # What it lacks cannot be put there.
        with pytest.raises(StorageError, match="no permission"):
            await oid_async.plan(mirror=store.url, splits=["test"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_cache_folder_without_write_permission_will_do(cache_dir: Path) -> None:
    """The same with the permissions really taken away, on line and off."""
    async with lookalike_store() as store:
        expected = await plan(store.url)
        folders = folders_of(cache_dir)
        try:
            for path in files_below(cache_dir):
                path.chmod(0o444)
            for path in folders:
                path.chmod(0o555)
            assert await plan(store.url) == expected
            assert await plan(store.url, offline=True) == expected
            assert store.bodies == {path_of(table): 1 for table in READ}
        finally:
            for path in folders:
                path.chmod(0o755)


async def test_a_disk_too_small_for_a_table_is_said_before_it_is_fetched(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the table and for turning it is asked for once its size is known; too little is exit 3."""
    usage = shutil.disk_usage(cache_dir.parent)
    body = published_bytes()[path_of(BOXES)]
    async with lookalike_store() as store:
        store.objects[path_of(BOXES)].hold = 0
        # Room for the table, and hardly any for turning it.
        free = int(len(body) * 1.2)
        monkeypatch.setattr("oid_async.store.disk.shutil.disk_usage", lambda path: usage._replace(free=free))
        async with opened(store.url, cache_dir) as cache:
            with pytest.raises(StorageError, match=f"^{BOXES.name}: .*--cache-dir") as caught:
                await cache.published(BOXES)
            assert caught.value.exit_code == 3
            assert cache.fetched_bytes == 0
        assert [asked.sent for asked in store.of(BOXES)] == [0]
        assert not place_of(store.url, cache_dir, BOXES).raw.exists()
        assert open_below(cache_dir) == []
        free = len(body) * 3
        store.objects[path_of(BOXES)] = Held(body)
        async with opened(store.url, cache_dir) as cache:
            await cache.published(BOXES)


async def test_room_is_asked_for_only_what_is_not_there_yet(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was cut goes on when the rest fits; what it has fetched must not be counted as still to come."""
    (table,) = published("boxes", ["train"])
    usage = shutil.disk_usage(cache_dir.parent)
    free = 0
    monkeypatch.setattr("oid_async.store.disk.shutil.disk_usage", lambda path: usage._replace(free=free))
    async with (
        Client(Hosts(None, 1.0), QUICK, connections=1) as client,
        MetadataCache(client, ignore, root=cache_dir, mirror=None, site=None) as cache,
    ):
        with pytest.raises(StorageError, match="--cache-dir") as caught:
            cache.check_space([table])
        needed = re.search(r"([\d.]+) GB are needed", str(caught.value))
        assert needed is not None
        free = int(float(needed[1]) * 1e9) - 1_000_000_000
        with pytest.raises(StorageError, match="--cache-dir"):
            cache.check_space([table])
        entry = cache.cache.entry(table)
        entry.folder.mkdir(parents=True)
        with entry.raw.open("wb") as raw:
            raw.truncate(2_000_000_000)
        note = {"url": object_url(table.bucket, table.key), "total": table.bytes, "etag": '"a"'}
        entry.raw_note.write_text(json.dumps({**note, "last_modified": None, "md5": None}))
        assert cache.check_space([table]) == free


async def test_a_disk_that_fills_up_in_a_block_leaves_no_byte_twice(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a block was written when the disk was full: the next run goes on from exactly what is there."""
    write = fetch._Spool.write
    body = noise(6 * MIB)
    full = [True]

    def fills_up(self: fetch._Spool, block: bytes) -> None:
        if full:
            full.clear()
            write(self, block[: len(block) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, block)

    monkeypatch.setattr(fetch._Spool, "write", fills_up)
    async with Store({path_of(CLASSES): Held(body)}) as store:
        with pytest.raises(StorageError, match="disk is full"):
            await bring(store.url, cache_dir)
        assert is_start_of(body, place_of(store.url, cache_dir).raw)
        assert digest((await bring(store.url, cache_dir))[0]) == digest(body)


async def test_a_disk_that_fills_up_in_a_conversion_costs_no_second_fetch(cache_dir: Path) -> None:
    """ENOSPC while a table is turned is a StorageError; what was fetched stays, and the next run goes on from it."""
    sink_parquet = pl.LazyFrame.sink_parquet

    def fills_up(frame: pl.LazyFrame, path: Path, **how: Any) -> Any:
        if path.parent.name == "building" and BOXES.name in str(path):
            path.write_bytes(b"PAR1")
            raise OSError(errno.ENOSPC, "No space left on device")
        return sink_parquet(frame, path, **how)

    async with lookalike_store() as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pl.LazyFrame, "sink_parquet", fills_up)
            with pytest.raises(StorageError, match="disk is full"):
                await plan(store.url)
        assert (await plan(store.url))["selected"] == 40
        assert store.bodies == {path_of(table): 1 for table in READ}
        assert len(versions(place_of(store.url, cache_dir, BOXES))) == 1


@pytest.mark.parametrize("step", ["open", "write"], ids=["read-only", "full"])
async def test_a_new_version_that_cannot_be_stored_costs_the_good_copy_nothing(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A disk that is full, or may only be read: the copy is used, in one line, and all space given back."""
    notes: list[str] = []

    def refuse(self: fetch._Spool, *block: bytes) -> None:
        raise OSError(errno.EROFS if step == "open" else errno.ENOSPC, "refused")

    async with Store({path_of(CLASSES): Held(OLD)}) as store:
        await bring(store.url, cache_dir)
        store.objects[path_of(CLASSES)] = Held(NEW)
        with monkeypatch.context() as patch:
            patch.setattr(fetch._Spool, step, refuse)
            assert (await bring(store.url, cache_dir, sink=notes_into(notes)))[0] == OLD
        assert not place_of(store.url, cache_dir).raw.exists()
        (note,) = notes
        assert re.search("its new version cannot be stored .*; the copy of .* is used$", note)
        async with MetadataCache(None, ignore, root=cache_dir, mirror=store.url, site=store.url) as cache:
            assert (await cache.published(CLASSES))[0].path.read_bytes() == OLD
        assert (await bring(store.url, cache_dir))[0] == NEW


# Cancelling -----------------------------------------------------------------------------------------------------------


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_plan_can_be_cancelled_while_a_table_comes(cache_dir: Path, taken: Taken) -> None:
    """It leaves no thread at work and no file open, and what came is not asked for again."""
    async with lookalike_store() as store:
        store.objects[path_of(BOXES)] = Held(large_boxes(), hold=5 * MIB)
        entry = place_of(store.url, cache_dir, BOXES)
        task = asyncio.create_task(oid_async.plan(mirror=store.url, splits=["validation"]))
        # The last piece was taken behind the first block: nothing is being written any more.
        sent = (5 * MIB) // (64 << 10) * (64 << 10)
        small = sum(len(published_bytes()[path_of(table)]) for table in (CLASSES, IMAGES))
        await until(lambda: taken.count == small + sent)
        await cancelled(task)
        assert at_work() == []
        assert open_below(cache_dir) == []
        assert is_start_of(large_boxes(), entry.raw)
        assert entry.raw.stat().st_size == sent
        store.gate.set()
        await oid_async.plan(mirror=store.url, splits=["validation"])
        assert [(asked.status, asked.start) for asked in store.of(BOXES)] == [(200, 0), (206, sent)]
        assert "building" not in versions(entry)
        assert not entry.raw.exists()


async def test_a_call_that_is_cancelled_while_a_block_is_written_leaves_it_once(cache_dir: Path) -> None:
    """What is there afterwards is the beginning of the table, and the next call makes the table of it."""
    write = fetch._Spool.write
    body = noise(10 * MIB)
    loop = asyncio.get_running_loop()

    def cancelling(self: fetch._Spool, block: bytes) -> None:
        write(self, block)
        loop.call_soon_threadsafe(task.cancel)

    async with Store({path_of(CLASSES): Held(body, hold=5 * MIB)}) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch._Spool, "write", cancelling)
            task = asyncio.create_task(bring(store.url, cache_dir))
            with pytest.raises(asyncio.CancelledError):
                await task
        assert open_below(cache_dir) == []
        assert is_start_of(body, place_of(store.url, cache_dir).raw)
        store.gate.set()
        assert digest((await bring(store.url, cache_dir))[0]) == digest(body)


async def test_a_plan_can_be_cancelled_while_a_table_is_turned(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion stops at its next step, before the call returns; the next call does not fetch the table again."""
    async with lookalike_store() as calm:
        expected = await plan(calm.url, cache_dir=cache_dir / "calm")
    monkeypatch.setattr(convert, "_SORTED_FROM_ROWS", 0)
    monkeypatch.setattr(convert, "_SLICE_ROWS", 3)
    steps: list[TableProgress] = []

    def sink(event: Event) -> None:
        if isinstance(event, TableProgress) and event.unit == "step" and event.name.startswith(BOXES.name):
            steps.append(event)
            task.cancel()

    async with lookalike_store() as store:
        task = asyncio.create_task(oid_async.plan(mirror=store.url, splits=["validation"], on_event=sink))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_work() == []
        assert open_below(cache_dir) == []
        assert 0 < len(steps) < steps[0].total  # type: ignore[operator]
        entry = place_of(store.url, cache_dir, BOXES)
        assert entry.current_version() is None
        assert await plan(store.url) == expected
        assert store.bodies[path_of(BOXES)] == 1
        assert "building" not in versions(entry)
        assert not entry.raw.exists()


@pytest.mark.parametrize(("step", "offline"), [("lock", False), ("pin", False), ("pin", True)])
async def test_a_plan_that_is_cancelled_as_it_takes_a_lock_gives_it_back(
    cache_dir: Path, step: str, offline: bool
) -> None:
    """A lock that is got in a thread after the call was cancelled is not left behind: the next call has it."""
    loop = asyncio.get_running_loop()
    returning = threading.Event()
    real = getattr(CacheEntry, step)

    def late(self: CacheEntry, *args: Any) -> FileLock | None:
        got: FileLock | None = real(self, *args)
        if not returning.is_set():
            returning.set()
            loop.call_soon_threadsafe(task.cancel)
            # The thread is still at it when the cancellation arrives.
            time.sleep(0.05)
        return got

    async with lookalike_store() as store:
        await plan(store.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CacheEntry, step, late)
            task = asyncio.create_task(oid_async.plan(mirror=store.url, splits=["validation"], offline=offline))
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: at_work() == [])
        left = open_below(cache_dir)
        for name in left:
            close_by_name(name)
        assert left == []


def close_by_name(name: str) -> None:
    """Close what a test found open, so that no other test meets it."""
    for number in os.listdir("/proc/self/fd"):
        link = Path("/proc/self/fd", number)
        if link.is_symlink() and str(link.readlink()) == name:
            os.close(int(number))


async def test_a_plan_that_is_cancelled_at_its_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that a plan works in is gone with it, also when it was cancelled as it was made; no warning."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for turns in range(1, 6):
            task = asyncio.create_task(oid_async.plan(mirror="http://127.0.0.1:9", splits=["validation"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(task)
            await until(lambda: at_work() == [])
        await asyncio.sleep(0.1)
    assert [str(warning.message) for warning in warned] == []
    assert [name for name in os.listdir(tmp_path) if name.startswith("oid-async-")] == []


async def test_a_plan_can_be_cancelled_at_many_moments(cache_dir: Path) -> None:
    """Whenever it is cancelled, nothing is left open or at work, and the last call says what a calm one does."""
    async with lookalike_store() as calm:
        expected = await plan(calm.url, cache_dir=cache_dir / "calm")
    async with lookalike_store() as store:
        for number in range(40):
            events: list[Event] = []
            task = asyncio.create_task(oid_async.plan(mirror=store.url, splits=["validation"], on_event=events.append))
            for _ in range(number * 3):
                await asyncio.sleep(0)
            await asyncio.sleep(0.001 * (number % 20))
            if not task.cancel():
                break
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: at_work() == [])
            assert open_below(cache_dir) == []
        assert await plan(store.url) == expected


async def test_an_error_of_the_sink_stops_the_run_in_a_conversion_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sink raises stops the run, whichever event it was given."""
    monkeypatch.setattr(convert, "_SORTED_FROM_ROWS", 0)
    monkeypatch.setattr(convert, "_SLICE_ROWS", 3)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    def sink(event: Event) -> None:
        if isinstance(event, TableProgress) and event.unit == "step":
            raise ZeroDivisionError

    async with lookalike_store() as store:
        with pytest.raises(ZeroDivisionError):
            await plan(store.url, sink=sink)
