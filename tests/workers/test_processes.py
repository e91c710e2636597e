"""More than one process: the same result, one cap, one journal; nothing lost when one dies, and none left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.published import Dataset, Image, image_names, tree, write_table
from support.scripted import Scripted, http

import oid_async
from oid_async.http import host
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.options.query import Options
from oid_async.origin.server import Origin, folder
from oid_async.transfer.image_transfer import Target
from oid_async.transfer.pipeline import Pipeline
from oid_async.transfer.targets import Targets
from oid_async.workers import pool as pools

pytestmark = pytest.mark.cluster

IMAGES = [Image(f"{number:016x}", split="validation") for number in range(1, 401)]
QUERY: dict[str, Any] = {"splits": ["validation"], "kinds": ["none"], "names": "id", "source": ["cvdf"]}
COUNTED = ("requests", "images", "bytes", "retries", "failures")  # of each host, for the report of a run
BY_HAND = 24  # how many images go by before the workers are up


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder of 400 tiny images. Only read it."""
    return Dataset([], IMAGES, []).publish(tmp_path_factory.mktemp("published"))


class HeldBack:
    """The targets of a plan. All but the first of them wait until all workers have space for images."""

    def __init__(self, targets: Targets, pool: Any, watched: "Watched") -> None:
        self.read = targets.read
        self.rests = targets.rests
        self._targets = targets
        self._pool = pool
        self._watched = watched

    async def __aiter__(self) -> AsyncIterator[Target]:
        passed, pool = 0, self._pool
        async for target in self._targets:
            if passed == BY_HAND and pool is not None:
                workers = self._watched.workers = pool._workers
                while not all(worker.space > 0 for worker in workers) or not hosts_are_well(pool):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            passed += 1
            yield target


def hosts_are_well(pool: Any) -> bool:
    return any(host.is_healthy(pool.hosts.clock()) for host in pool.hosts._known.values())


class Watched:
    """What the workers of the runs of one test did. Most images are held back until all workers are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results = 0
        self.workers: Sequence[Any] = ()
        finish, run = pools._Worker._finish, Pipeline.run

        def count(worker: Any, results: Any) -> None:
            self.results += len(results.copies.image_ids) + len(results.outcomes)
            finish(worker, results)

        async def wait(pipeline: Any) -> None:
            pipeline._targets = HeldBack(pipeline._targets, pipeline._pool, self)
            await run(pipeline)

        monkeypatch.setattr(pools._Worker, "_finish", count)
        monkeypatch.setattr(Pipeline, "run", wait)

    def pids(self) -> list[int]:
        return [worker._process.pid for worker in self.workers]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """See to it that workers get their part of even a small run."""
    return Watched(monkeypatch)


Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bucket:
    """Serves the images; `before` may answer in their place. Knows when each image was asked for."""

    def __init__(self, published: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.before: Callable[[str, int], web.Response | None] = lambda key, turn: None
        self.pause_s = 0.0
        self.pausing = self.most_pausing = 0
        self.held_from = sys.maxsize
        self.held = 0
        self.release = asyncio.Event()
        self._folder = folder(published)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        if not key.startswith(IMAGE_BUCKET):
            return await self._folder(request)
        name = key.rpartition("/")[2].removesuffix(".jpg")
        self.asked[name] += 1
        self.times.append(time.monotonic())
        if sum(self.asked.values()) > self.held_from:
            self.held += 1
            await self.release.wait()
        if self.pause_s:
            self.pausing += 1
            self.most_pausing = max(self.most_pausing, self.pausing)
            await asyncio.sleep(self.pause_s)
            self.pausing -= 1
        return self.before(name, self.asked[name]) or await self._folder(request)


@pytest.fixture
async def bucket(published: Path) -> AsyncIterator[tuple[Bucket, str]]:
    """A bucket and its address."""
    objects = Bucket(published)
    async with Origin(objects.serve) as origin:
        yield objects, origin.url


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def is_alive(pid: int) -> bool:
    """Return whether a process runs still; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def journalled(savepath: Path) -> set[str]:
    """Return the file names of the journal's lines."""
    lines = (savepath / ".oid_async" / "journal.tsv").read_text().splitlines()
    return {fields[3] for line in lines if (fields := line.split("\t"))[1] == "ok"}


def whole(savepath: Path) -> bool:
    """Return whether all images are there, each byte for byte, and nothing else."""
    bodies = {f"{image.image_id}.jpg": image.body for image in IMAGES}
    return {path.name: path.read_bytes() for path in (savepath / "images").iterdir()} == bodies


def trouble(name: str, turn: int) -> web.Response | None:
    """Answer some images with what may go wrong: for good, always, once."""
    number = int(name, 16)
    if number % 40 == 7:
        return web.Response(status=404)
    if number % 100 == 50:
        return web.Response(status=500)
    if number % 50 == 20 and turn == 1:
        return web.Response(status=502)
    if number % 50 == 30 and turn == 1:
        return web.Response(body=b"<html>", content_type="text/html")
    return None


async def test_the_result_does_not_depend_on_the_number_of_processes(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path
) -> None:
    """Tree, tables, report, what each host did and requests are the same with three processes as with one.

    Whatever goes wrong.
    """
    objects, url = bucket
    objects.before = trouble
    reports, asked, measured = [], [], []
    for processes in (1, 3):
        objects.asked.clear()
        report = await oid_async.download(
            mirror=url, savepath=tmp_path / str(processes), processes=processes, retries=1, **QUERY
        )
        told = report.as_json()
        del told["seconds"], told["savepath"]
        reports.append(told)
        asked.append(dict(objects.asked))
        [host] = report.hosts.values()
        times = {name: host[name]["count"] for name in ("first_byte_ms", "total_ms")}
        measured.append({**times, **{name: host[name] for name in COUNTED}})
    assert reports[0] == reports[1]
    assert measured[0] == measured[1]
    assert (measured[0]["requests"], measured[0]["images"]) == (reports[0]["requests"], reports[0]["downloaded"])
    assert reports[0]["failures"] == {"not_found": 10, "server_error": 4}
    assert reports[0]["requests"] == sum(asked[0].values())
    assert asked[0] == asked[1]
    assert watched.results > 200
    trees = [tree(tmp_path / str(processes)) for processes in (1, 3)]
    for found in trees:
        query = json.loads(found.pop("query.json"))
        assert "processes" not in query["query"]
    assert trees[0] == trees[1]
    assert not any(map(is_alive, watched.pids()))


async def test_a_worker_process_uses_all_of_its_places(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path
) -> None:
    """Where answers take a while, as many requests are on as may be: what a host turns out to bear, all ask for."""
    objects, url = bucket
    objects.pause_s = 0.1
    report = await oid_async.download(mirror=url, savepath=tmp_path / "d", processes=2, concurrency=48, **QUERY)
    assert report.failed == 0
    assert watched.results > 100
    # Without the worker process's there are 24.
    assert objects.most_pausing > 40


async def test_a_host_that_asks_to_wait_is_left_alone_by_all(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a host as a whole asks one process to wait, no other one asks before that has passed."""
    monkeypatch.setattr(host, "_ASKS", 1)
    objects, url = bucket
    told: list[float] = []

    def busy(name: str, turn: int) -> web.Response | None:
        if len(objects.times) < 150 or told:
            return None
        told.append(time.monotonic())
        return web.Response(status=503, headers={"Retry-After": "2"})

    objects.before, objects.pause_s = busy, 0.01
    report = await oid_async.download(mirror=url, savepath=tmp_path / "out", processes=3, concurrency=12, **QUERY)
    assert (report.downloaded, report.requests) == (400, 401)
    assert watched.results > 50
    # Requests on their way then still arrive, and the other processes learn of it milliseconds later, on a busy machine
    # a moment later.
    assert [at - told[0] for at in objects.times if 0.8 < at - told[0] < 1.99] == []
    assert max(objects.times) > told[0] + 1.99


@pytest.mark.slow
async def test_a_host_that_never_answered_holds_no_run_with_workers(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that workers are sent on to a port that refuses wait in the run, which gives the host up for all."""
    monkeypatch.setattr("oid_async.transfer.tail._WORTH_A_LINE_S", 1.0)
    objects, url = bucket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = free.getsockname()[1]
    lacking = {image.image_id for image in IMAGES[100::40]}

    def send_on(name: str, turn: int) -> web.Response | None:
        there = f"http://127.0.0.1:{dead}/{name}.jpg"
        return web.Response(status=302, headers={"Location": there}) if name in lacking else None

    objects.before = send_on
    notes: list[str] = []
    query = QUERY | {"mirror": url, "savepath": tmp_path / "out", "allow_hosts": [f"127.0.0.1:{dead}"]}
    run = Run(
        Options.of(**query, processes=2),
        lambda event: notes.append(getattr(event, "text", "")),
        limits=Limits(unanswered_s=4.0),
    )
    report = await run.download()
    assert (report.downloaded, report.failures) == (400 - len(lacking), {"network": len(lacking)})
    assert watched.results > 100
    assert report.seconds < 25
    assert sum(f"8 images wait for 127.0.0.1:{dead} (" in note for note in notes) == 1
    assert sum("is given up for this run" in note for note in notes) == 1


async def test_the_next_source_is_capped_for_all_together(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that the bucket lacks are asked of Flickr by one process alone, at its rate, once each."""
    objects, url = bucket
    lacking = {image.image_id for image in IMAGES[100::20]}
    objects.before = lambda name, turn: web.Response(status=404) if name in lacking else None
    rows = [
        {"ImageID": image.image_id, "Subset": "validation", "OriginalURL": image.url.replace("https:", "http:")}
        for image in IMAGES
    ]
    table = write_table(tmp_path / "images.csv", ["ImageID", "Subset", "OriginalURL"], rows)
    bodies = {row["OriginalURL"]: image for row, image in zip(rows, IMAGES, strict=True)}
    async with Scripted() as flickr:
        flickr.scripts = {route: [http(200, image.body)] for route, image in bodies.items()}
        monkeypatch.setenv("http_proxy", flickr.url)
        query = QUERY | {"source": ["cvdf", "original"]}
        report = await oid_async.download(mirror=url, image_url=table, savepath=tmp_path / "out", processes=3, **query)
    assert report.sources == {"cvdf": 400 - len(lacking), "original": len(lacking)}
    assert report.requests == 400 + len(lacking) == sum(objects.asked.values()) + len(flickr.asked)
    assert watched.results > 200
    times = flickr.times
    assert max(sum(at <= other < at + 1.0 for other in times) for at in times) <= 11


async def test_a_worker_that_is_killed_costs_no_image(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path
) -> None:
    """What a killed worker had in hand is adopted or asked for again; it is replaced once, and said so."""
    objects, url = bucket
    objects.pause_s = 0.02
    killed: list[int] = []

    def kill(event: object) -> None:
        report = getattr(event, "report", None)
        if report is not None and report.downloaded > 150 and len(killed) < 2 and watched.pids()[0] not in killed:
            killed.append(watched.pids()[0])
            os.kill(killed[-1], signal.SIGKILL)
        if text := getattr(event, "text", ""):
            notes.append(text)

    notes: list[str] = []
    report = await oid_async.download(
        mirror=url, savepath=tmp_path / "out", processes=2, concurrency=16, on_event=kill, **QUERY
    )
    assert killed
    assert sum("a worker process ended (signal 9)" in note for note in notes) == len(killed)
    assert (report.downloaded, report.failed, report.pending) == (400, 0, 0)
    assert whole(tmp_path / "out")
    assert journalled(tmp_path / "out") == set(image_names(tmp_path / "out"))


async def test_a_worker_that_is_stopped_does_not_hold_the_run(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that gets no processor any more (SIGSTOP) is ended, said so, and what it had in hand is fetched."""
    monkeypatch.setattr("oid_async.workers.heartbeat._SILENT_S", 4.5)
    objects, url = bucket
    objects.pause_s = 0.02
    stopped: list[int] = []
    notes: list[str] = []

    def stop(event: object) -> None:
        report = getattr(event, "report", None)
        if report is not None and report.downloaded > 150 and not stopped:
            stopped.append(watched.pids()[0])
            os.kill(stopped[0], signal.SIGSTOP)
        if text := getattr(event, "text", ""):
            notes.append(text)

    began = time.monotonic()
    report = await oid_async.download(
        mirror=url, savepath=tmp_path / "out", processes=2, concurrency=16, on_event=stop, **QUERY
    )
    assert time.monotonic() - began < 30
    assert [note for note in notes if "worker process" in note] == [
        "a worker process has given no sign of life for 4 s and was ended; what it had in hand is asked for again"
    ]
    assert (report.downloaded, report.failed, report.pending) == (400, 0, 0)
    assert whole(tmp_path / "out")
    assert journalled(tmp_path / "out") == set(image_names(tmp_path / "out"))
    assert not is_alive(stopped[0])


async def test_a_slow_consumer_slows_workers_down_and_may_leave(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers get no more than they have room for; whoever leaves the block leaves no process behind."""
    monkeypatch.setattr(pools, "_LEAST_AHEAD", 8)
    monkeypatch.setattr("oid_async.api.runs._WAITING_OUTCOMES", 1)
    objects, url = bucket
    async with oid_async.stream(mirror=url, savepath=tmp_path / "out", processes=2, concurrency=4, **QUERY) as outcomes:
        taken = [await anext(outcomes) for _ in range(60)]
        asked_then = sum(objects.asked.values())
        for _ in range(20):  # a batch may be on its way
            await asyncio.sleep(0.01)
        assert sum(objects.asked.values()) <= asked_then + 64 < 300
    assert len({outcome.image_id for outcome in taken}) == 60
    assert watched.results
    assert not any(map(is_alive, watched.pids()))
    assert journalled(tmp_path / "out") == set(image_names(tmp_path / "out"))
    assert not list((tmp_path / "out" / ".oid_async").glob("tmp/*"))


@asynccontextmanager
async def half_way(bucket: tuple[Bucket, str], savepath: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield the program at work with a worker process, each with its eight transfers under way."""
    objects, url = bucket
    objects.held_from, objects.pause_s = 40, 0.005
    process = await start(url, savepath)
    while objects.held < 16:  # noqa: ASYNC110 - more than one process may have on at once
        await asyncio.sleep(0.01)
    objects.release.set()
    while sum(objects.asked.values()) < 150:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    yield process
    objects.pause_s = 0.0


async def start(url: str, savepath: Path) -> asyncio.subprocess.Process:
    """Start the program as a user does, in a process group of its own as a shell would."""
    words = ["--mirror", url, "--split", "validation", "--kind", "none", "--names", "id", "--processes", "2"]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oid_async", "download", *words, "--concurrency", "16", "--json"),
        *("--savepath", str(savepath)),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


async def ended(pids: Iterable[int]) -> bool:
    """Wait a moment for processes to end and return whether all have."""
    deadline = time.monotonic() + 5
    while alive := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            return False
        pids = alive
        await asyncio.sleep(0.01)
    return True


async def test_a_killed_run_takes_its_workers_along(bucket: tuple[Bucket, str], tmp_path: Path) -> None:
    """After kill -9 no worker goes on, and the next run completes the folder without asking again for what landed."""
    objects, url = bucket
    async with half_way(bucket, tmp_path / "out") as process:
        workers = children(process.pid)
        process.kill()
        await process.communicate()
        assert len(workers) == 1
        assert await ended(workers)
    there = set(image_names(tmp_path / "out"))
    objects.asked.clear()
    process = await start(url, tmp_path / "out")
    told, _ = await process.communicate()
    report = json.loads(told)
    assert (process.returncode, report["present"]) == (0, len(there))
    assert {f"{name}.jpg" for name in objects.asked} & there == set()
    assert whole(tmp_path / "out")


async def test_an_interrupt_ends_all_processes(bucket: tuple[Bucket, str], tmp_path: Path) -> None:
    """Ctrl-C reaches the run; its workers land what they have at hand, it is journalled, and all are gone in time."""
    async with half_way(bucket, tmp_path / "out") as process:
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        told, _ = await process.communicate()
        assert time.monotonic() - began < 5
    report = json.loads(told)
    assert (process.returncode, report["interrupted"]) == (130, True)
    assert len(workers) == 1
    assert await ended(workers)
    assert journalled(tmp_path / "out") == set(image_names(tmp_path / "out"))
    assert report["downloaded"] == len(image_names(tmp_path / "out"))
    assert not list((tmp_path / "out" / ".oid_async").glob("tmp/*"))


@pytest.mark.slow
async def test_an_interrupt_does_not_wait_for_a_stopped_worker(bucket: tuple[Bucket, str], tmp_path: Path) -> None:
    """A worker that is stopped (SIGSTOP) does not keep Ctrl-C from ending everything within its five seconds."""
    async with half_way(bucket, tmp_path / "out") as process:
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        told, _ = await process.communicate()
        assert time.monotonic() - began < 5
    report = json.loads(told)
    assert (process.returncode, report["interrupted"]) == (130, True)
    assert await ended(workers)
    assert report["downloaded"] <= len(image_names(tmp_path / "out"))


async def test_a_disk_that_says_no_to_a_worker_stops_the_run(
    bucket: tuple[Bucket, str], watched: Watched, tmp_path: Path
) -> None:
    """What the machine says no with in a worker ends the run with one line; all that landed is journalled."""
    _, url = bucket
    temporaries = tmp_path / "out" / ".oid_async" / "tmp"

    def spoil(event: object) -> None:
        report = getattr(event, "report", None)
        if report is not None and report.downloaded > 100 and temporaries.exists():
            temporaries.rename(tmp_path / "gone")

    with pytest.raises(oid_async.errors.StorageError, match="cannot be written to"):
        await oid_async.download(mirror=url, savepath=tmp_path / "out", processes=2, on_event=spoil, **QUERY)
    assert not any(map(is_alive, watched.pids()))
    assert journalled(tmp_path / "out") == set(image_names(tmp_path / "out"))


@pytest.mark.slow
async def test_a_worker_that_cannot_start_is_done_without(
    bucket: tuple[Bucket, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run says so and goes on alone, be it that no process can be made, that it ends at once or never is ready."""
    monkeypatch.setattr("oid_async.workers.heartbeat._START_S", 1.0)
    objects, url = bucket
    notes: list[str] = []
    ways = [
        ("_PROGRAM", "oid_async.no_such_module", 0.05),
        ("sys.executable", "/no/python", 0.05),
        ("_PROGRAM", "support.sleeping_worker", 0.5),
    ]
    for name, value, objects.pause_s in ways:
        with monkeypatch.context() as patch:
            patch.setattr(f"oid_async.workers.starter.{name}", value)
            report = await oid_async.download(
                mirror=url,
                savepath=tmp_path / value.replace("/", ""),
                processes=2,
                limit=100,
                concurrency=16,
                on_event=lambda event: notes.append(getattr(event, "text", "")),
                **QUERY,
            )
        assert report.downloaded == 100
    said = [note for note in notes if note.startswith("a worker process")]
    assert [note.partition("; ")[0] for note in said] == [
        "a worker process ended (exit code 1)",
        "a worker process cannot be started (No such file or directory)",
        "a worker process did not start within 1 s and was ended",
    ]


async def test_a_small_run_starts_no_process(
    bucket: tuple[Bucket, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` chooses one process for a few images, as does a cap whatever was asked for."""

    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("a process was to be started")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    _, url = bucket
    ways: list[dict[str, Any]] = [{"processes": "auto"}, {"processes": 2, "rate": 1e4}, {"processes": None}]
    for number, how in enumerate(ways):
        report = await oid_async.download(mirror=url, savepath=tmp_path / str(number), limit=50, **how, **QUERY)
        assert report.downloaded == 50
