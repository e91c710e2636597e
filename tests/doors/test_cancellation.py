"""Stopping: cancelled, left half-way, interrupted, killed. Nothing stray, nothing torn, and it goes on from there."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from aiohttp import web
from blockbuster import BlockBuster
from support.published import Box, Dataset, Image
from support.saved import plan_of_unfinished
from support.slow_origin import Slow, origin_in_a_thread

import oid_async
from oid_async.cli import running
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin, folder

pytestmark = pytest.mark.programs

SPLITS = ["train", "validation", "test"]


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Slow, str]]:
    """A slow look-alike without staged failures, and its address."""
    objects = Slow(staged=False)
    async with Origin(objects.serve) as origin:
        yield objects, origin.url


def litter(savepath: Path) -> list[str]:
    """Return what a stopped run must not leave behind."""
    state = savepath / ".oid_async"
    notes = {state / name for name in ("lock", "journal.tsv", "site.json", "files.parquet", "files.md5")}
    kept = {state / "kept" / "query.json", *plan_of_unfinished(savepath)}
    return [str(path) for path in set(state.rglob("*")) - notes - kept if path.is_file()]


def stray_tasks() -> list[str]:
    """Return the names of tasks of ours that still run."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [repr(task) for task in others if "/oid_async/" in repr(task) and "/origin/" not in repr(task)]


def whole(objects: Lookalike, savepath: Path) -> int:
    """Check that every file under images/ is one of the look-alike's images, byte by byte; return how many."""
    sums = {hashlib.md5(objects.body(photo)).hexdigest() for photo in objects.photos.values()}
    files = list((savepath / "images").iterdir())
    for file in files:
        assert hashlib.md5(file.read_bytes()).hexdigest() in sums, file
    return len(files)


async def test_download_can_be_cancelled_at_any_await_and_resumed(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """Cancelling leaves no task, no temporary and a folder that the next call completes."""
    objects, url = slow
    objects.pause_s = 0.04
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        task = asyncio.create_task(
            oid_async.download(mirror=url, splits=SPLITS, savepath=tmp_path / "out", concurrency=8)
        )
        await asyncio.sleep(delay_s)
        if not task.cancel():  # it was done before
            break
        with pytest.raises(asyncio.CancelledError):
            await task
        assert litter(tmp_path / "out") == []
        assert stray_tasks() == []
        if (tmp_path / "out" / "images").exists():
            whole(objects, tmp_path / "out")
    report = await oid_async.download(mirror=url, splits=SPLITS, savepath=tmp_path / "out")
    assert (report.selected, report.present + report.downloaded) == (320, 320)
    assert whole(objects, tmp_path / "out") == 320


async def test_a_stream_can_be_left_half_way(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """Leaving the block stops the run: no task, no temporary, what was handed out is on the disk."""
    _, url = slow
    seen = []
    async with oid_async.stream(mirror=url, splits=SPLITS, savepath=tmp_path / "out", concurrency=8) as outcomes:
        async for outcome in outcomes:
            seen.append(outcome)
            if len(seen) == 20:
                break
    assert stray_tasks() == []
    assert litter(tmp_path / "out") == []
    for outcome in seen:
        assert outcome.status == "downloaded"
        assert outcome.path is not None
        assert outcome.path.stat().st_size == outcome.bytes
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert outcomes.report.downloaded < 320


async def test_a_stream_read_to_its_end_hands_out_every_image_once(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """Every selected image has one outcome, the second time as present, and the tables are written."""
    _, url = slow
    for status in ("downloaded", "present"):
        async with oid_async.stream(mirror=url, splits=SPLITS, savepath=tmp_path / "out") as outcomes:
            seen = [outcome async for outcome in outcomes]
        assert len({outcome.image_id for outcome in seen}) == len(seen) == 320
        assert {outcome.status for outcome in seen} == {status}
    assert len(pl.read_parquet(tmp_path / "out" / "manifest.parquet")) == 320


async def test_a_slow_consumer_slows_the_run_down(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """While nobody takes outcomes the server is not asked for more than queues and workers hold."""
    objects, url = slow
    objects.pause_s = 0.0
    async with oid_async.stream(
        mirror=url, splits=["train"], savepath=tmp_path / "out", concurrency=2, names="id"
    ) as outcomes:
        await anext(aiter(outcomes))
        await asyncio.sleep(0.5)
        asked = outcomes.report.downloaded
        assert asked <= 256 + 64 + 8
    assert stray_tasks() == []


async def test_a_slow_consumer_misses_nothing(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """Outcomes that wait in the queue when the last image lands are handed out all the same."""
    objects, url = slow
    objects.pause_s = 0.0
    seen = 0
    async with oid_async.stream(mirror=url, splits=SPLITS, savepath=tmp_path / "out") as outcomes:
        async for _ in outcomes:
            seen += 1
            await asyncio.sleep(0.003)
    assert seen == outcomes.report.downloaded == 320


async def test_a_name_that_is_no_text_is_left_alone(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """A file under images/ whose name is not UTF-8 is somebody else's and breaks nothing."""
    objects, url = slow
    objects.pause_s = 0.0
    images = tmp_path / "out" / "images"
    images.mkdir(parents=True)
    foreign = os.fsencode(images) + b"/\xff\xfe.jpg"
    await asyncio.to_thread(lambda: open(foreign, "wb").close())
    report = await oid_async.download(mirror=url, splits=["test"], savepath=tmp_path / "out")
    assert report.downloaded == 40
    assert foreign in [os.fsencode(path) for path in images.iterdir()]


async def test_a_stream_raises_what_the_run_raises(tmp_path: Path) -> None:
    """A wrong class ends the iteration with the error itself."""
    async with (
        Origin(Lookalike().serve) as origin,
        oid_async.stream(categories=["Footbal"], mirror=origin.url, savepath=tmp_path) as outcomes,
    ):
        with pytest.raises(oid_async.errors.UsageError, match="Footbal"):
            await anext(aiter(outcomes))


async def test_the_loop_is_never_blocked(slow: tuple[Slow, str], tmp_path: Path) -> None:
    """blockbuster finds no blocking call on the loop in a whole run, fresh and repeated."""
    _, url = slow
    download = oid_async.download  # imported before: that reads files
    guard = BlockBuster(scanned_modules=["oid_async"], excluded_modules=["oid_async.origin"])
    guard.activate()
    try:
        for downloaded in (320, 0):
            report = await download(mirror=url, splits=SPLITS, savepath=tmp_path / "out")
            assert report.downloaded == downloaded
    finally:
        guard.deactivate()


def command(url: str, savepath: Path) -> list[str]:
    """Return the command line of a whole run."""
    words = [sys.executable, "-m", "oid_async", "download", "--mirror", url, "--split", "all", "--json"]
    return [*words, "--savepath", str(savepath), "--concurrency", "8"]


def journalled(savepath: Path) -> set[str]:
    """Return the ids whose lines stand whole in the journal."""
    journal = savepath / ".oid_async" / "journal.tsv"
    text = journal.read_bytes() if journal.exists() else b""
    return {line.split(b"\t")[0].decode() for line in text[: text.rfind(b"\n") + 1].splitlines()}


def tree(savepath: Path) -> dict[str, object]:
    """Return a finished folder's files and contents, without its state folder."""
    found: dict[str, object] = {}
    for path in sorted(savepath.rglob("*")):
        name = str(path.relative_to(savepath))
        if path.is_dir() or name.startswith(".oid_async"):
            continue
        if name == "manifest.parquet":
            found[name] = pl.read_parquet(path).rows()
        elif name == "query.json":
            query = json.loads(path.read_text())
            query["query"].pop("savepath")
            found[name] = query
        elif name == "failures.csv":
            found[name] = pl.read_csv(path).drop("Attempts").rows()
        else:
            found[name] = path.read_bytes()
    return found


def wait_for_images(savepath: Path, more: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has landed this many more images than it found."""
    images = savepath / "images"
    before = len(os.listdir(images)) if images.exists() else 0
    deadline = time.monotonic() + 30
    while more and time.monotonic() < deadline and process.poll() is None:
        if images.exists() and len(os.listdir(images)) >= before + more:
            return
        time.sleep(0.005)


class Counted:
    """Serves a folder to programs, an image after a pause, and counts what is asked for."""

    def __init__(self, root: Path) -> None:
        self.pause_s = 0.0
        self.asked: Counter[str] = Counter()
        self._answer = folder(root)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer from the folder, and count it."""
        key = request.match_info["key"]
        if key.endswith(".jpg"):
            await asyncio.sleep(self.pause_s)
            self.asked[Path(key).stem] += 1
        return await self._answer(request)


def two_thousand(root: Path) -> Path:
    """Publish 2,000 tiny images, forty of one name, forty not there."""
    images = [
        Image(
            f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
            "same_o.jpg" if number % 50 == 7 else f"{number:05}_o.jpg",
            stored=number % 50 != 9,
        )
        for number in range(2000)
    ]
    return Dataset([("/m/01", "Ball")], images, [Box(image.image_id, "/m/01") for image in images]).publish(root)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_at_random_moments_it_comes_to_the_same_tree(tmp_path: Path, kills: int) -> None:
    """However often it is killed, the last run leaves a calm run's tree; only what was in flight is asked for twice."""
    objects = Counted(two_thousand(tmp_path / "mirror"))
    bodies = {body.read_bytes() for body in (tmp_path / "mirror").rglob("*.jpg")}
    chance = random.Random(kills)
    out = tmp_path / "out"
    with origin_in_a_thread(objects) as url:
        subprocess.run(command(url, tmp_path / "calm"), check=False, capture_output=True, timeout=60)
        objects.asked.clear()
        # Slow enough that the kills do not see the last image: eight workers, some hundred images a second.
        objects.pause_s = 0.04
        most, journalled_once = min(150, 1200 // kills), Counter[str]()
        for number in range(kills):
            process = subprocess.Popen(command(url, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for_images(out, chance.randrange(1, most) if number % 3 else 0, process)
            time.sleep(chance.uniform(0, 0.02) if number % 3 else chance.uniform(0.1, 0.9))
            assert process.poll() is None, "the run was over before it could be killed"
            process.kill()
            process.wait()
            if (out / "images").exists():
                assert all(path.read_bytes() in bodies for path in (out / "images").iterdir())
            for image_id in journalled(out):
                journalled_once.setdefault(image_id, objects.asked[image_id])
        objects.pause_s = 0.0
        again = subprocess.run(command(url, out), check=False, capture_output=True, timeout=60)
    assert len(journalled_once) > kills
    assert {image_id: objects.asked[image_id] for image_id in journalled_once} == journalled_once
    assert 2000 <= objects.asked.total() <= 2000 + 8 * kills
    assert again.returncode == 1
    assert json.loads(again.stdout)["failures"] == {"not_found": 40}
    assert litter(out) == []
    assert tree(out) == tree(tmp_path / "calm")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_cleanly(tmp_path: Path, number: int, code: int) -> None:
    """SIGINT and SIGTERM end within five seconds with a true report and nothing left behind."""
    objects = Slow()
    objects.pause_s = 0.1
    with origin_in_a_thread(objects) as url:
        process = subprocess.Popen(
            command(url, tmp_path / "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        images = tmp_path / "out" / "images"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (images.exists() and len(os.listdir(images)) > 10):
            time.sleep(0.02)
        sent = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == code, err
    report = json.loads(out)
    assert report["interrupted"]
    assert report["downloaded"] == len(journalled(tmp_path / "out")) - report["failed"] == len(os.listdir(images))
    assert report["pending"] == report["selected"] - report["downloaded"] - report["failed"] > 0
    assert litter(tmp_path / "out") == []


# Run as a program: the store's writes of images hang from the tenth on, as on a network disk that does not answer.
_HANGING = """
import sys, time
from oid_async.cli import running
from oid_async.cli import main as cli
from oid_async.store import image_writer as landing

write, written, sign = landing.write_all, [], sys.argv.pop(1)

def hang(file, data):
    written.append(file)
    if len(written) > 10:
        open(sign, "w").close()
        time.sleep(60)
    write(file, data)

landing.write_all = hang
running.PATIENCE_S = float(sys.argv.pop(1))
cli.run_program()
"""


@contextmanager
def hanging_write(url: str, tmp_path: Path, patience_s: float) -> Iterator[subprocess.Popen[str]]:
    """Start a run whose writes hang, and yield it once they do."""
    hangs = tmp_path / "it-hangs"
    words = [sys.executable, "-c", _HANGING, str(hangs), str(patience_s), *command(url, tmp_path / "out")[3:]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(hangs.exists, process)
        yield process
        process.kill()


@contextmanager
def stalling_server(objects: Slow, url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a run whose server sends nothing any more, and yield it once all wait."""
    words = command(url, tmp_path / "out")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: objects.waiting >= 8, process)
        yield process
        process.kill()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


def test_a_hanging_write_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """With a write that hangs, the first Ctrl-C ends within five seconds with a true report; the next run completes."""
    objects = Slow(staged=False)
    objects.pause_s = 0.0
    with origin_in_a_thread(objects) as url:
        with hanging_write(url, tmp_path, 1.0) as process:
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            # The patience was cut from four seconds to one, so that a busy machine ends in time, too.
            assert time.monotonic() - sent < 4
        assert running.PATIENCE_S <= 4
        assert process.returncode == 130, err
        report = json.loads(out)
        assert report["interrupted"]
        # What the hanging batch has renamed is on the disk and neither counted nor journalled.
        assert report["downloaded"] == len(journalled(tmp_path / "out")) <= 10
        assert report["selected"] == 320 == report["downloaded"] + report["pending"]
        whole(objects, tmp_path / "out")
        again = subprocess.run(command(url, tmp_path / "out"), check=False, capture_output=True, timeout=60)
    assert again.returncode == 0
    assert whole(objects, tmp_path / "out") == 320
    assert litter(tmp_path / "out") == []


@pytest.mark.parametrize("place", ["disk", pytest.param("server", marks=pytest.mark.slow)])
def test_a_second_signal_ends_at_once(tmp_path: Path, place: str) -> None:
    """A second Ctrl-C ends the run at once, whatever hangs, and the next one sweeps and completes."""
    objects = Slow(staged=False)
    objects.pause_s = 0.0
    objects.stalls = place == "server"
    with origin_in_a_thread(objects) as url:
        hanging = hanging_write(url, tmp_path, 4.0) if place == "disk" else stalling_server(objects, url, tmp_path)
        with hanging as process:
            process.send_signal(signal.SIGINT)
            time.sleep(0.25)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            # Half a second, and what a busy machine adds; the patience of the first signal is four.
            assert time.monotonic() - sent < 2
        assert process.returncode == 130
        objects.stalls = False
        again = subprocess.run(command(url, tmp_path / "out"), check=False, capture_output=True, timeout=60)
    assert again.returncode == 0
    assert whole(objects, tmp_path / "out") == 320
    assert litter(tmp_path / "out") == []
