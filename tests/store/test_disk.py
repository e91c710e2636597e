"""The disk says no: full, read-only, broken, out of descriptors, or the power goes. Nothing is lost or stays torn."""

import asyncio
import builtins
import errno
import fcntl
import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from aiohttp import web
from support.notes import notes_into
from support.published import Box, Dataset, Image, run_cli, tiny_jpeg, tree
from support.saved import plan_of_unfinished

import oid_async
from oid_async.errors import LockedError, StorageError
from oid_async.events import Event
from oid_async.http.descriptors import most_workers
from oid_async.http.etag import EtagTrust
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.origin.server import Origin
from oid_async.report import Outcome, Report
from oid_async.store.disk import Opener
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock, LastRun
from oid_async.store.image_check import Expected, JpegHeader, is_complete, md5_base64, read_header, refuse
from oid_async.store.image_writer import ImageWriter, ReceivedImage
from oid_async.store.journal import Journal, scan_journal
from oid_async.store.recovery import RecoveryReport, recover_after_boot
from oid_async.system.boots import boot_id

# Notes of what a run used outside of SAVEPATH.
PLACES = ("places.json", "places.stamp")
_LASTING = (".jpg", ".csv", ".parquet", ".json")
IDS = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 13)]


def ignore(_: Event) -> None:
    """Take an event and do nothing."""


class Pictures:
    """Serves a tiny picture for every id, and counts what is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.url = ""

    async def serve(self, request: web.Request) -> web.Response:
        image_id = Path(request.match_info["key"]).stem
        self.asked[image_id] += 1
        body = tiny_jpeg(image_id)
        etag = hashlib.md5(body).hexdigest()
        return web.Response(body=body, content_type="image/jpeg", headers={"ETag": f'"{etag}"'})


@pytest.fixture
async def pictures() -> AsyncIterator[Pictures]:
    """A server of tiny pictures; its address is `url`."""
    found = Pictures()
    async with Origin(found.serve) as origin:
        found.url = origin.url
        yield found


def listed(folder: Path, ids: list[str]) -> Path:
    """Write an id list that needs no table."""
    path = folder / "ids.txt"
    path.write_text("".join(f"train/{image_id}\n" for image_id in ids))
    return path


async def fetch(pictures: Pictures, savepath: Path, ids: list[str] = IDS, **options: Any) -> Report:
    """Download these pictures by id, no table asked for, and return the report."""
    query: dict[str, Any] = {"kinds": ["none"], "concurrency": 4} | options
    if "image_ids" not in query:
        query["image_ids"] = listed(savepath.parent, ids)
    return await Run(Options.of(mirror=pictures.url, savepath=savepath, **query), ignore).download()


def saved_tree(savepath: Path) -> dict[str, Any]:
    """Return what a run leaves for people, without the place it stands in."""
    found = tree(savepath)
    found["query.json"] = found["query.json"].replace(str(savepath).encode(), b"SAVEPATH")
    return found


def litter(savepath: Path) -> list[str]:
    """Return the files that no run may leave behind, temporaries of any kind."""
    names = ("lock", "journal.tsv", "site.json", "files.parquet", "files.md5", "kept/query.json", *PLACES)
    notes = {f".oid_async/{name}" for name in names}
    there = set(savepath.rglob("*")) - plan_of_unfinished(savepath)
    files = {str(path.relative_to(savepath)) for path in there if path.is_file()}
    return sorted(name for name in files - notes if name.startswith(".oid_async") or not name.endswith(_LASTING))


def journalled(savepath: Path) -> set[str]:
    """Return the ids of a consistent journal: each file is there, and is what its line says."""
    lines = scan_journal(savepath / ".oid_async" / "journal.tsv").collect()
    for line in lines.iter_rows(named=True):
        body = (savepath / "images" / line["FileName"]).read_bytes()
        assert (line["Status"], line["Bytes"]) == ("ok", len(body))
        assert body == tiny_jpeg(line["ImageID"])
    return set(lines.get_column("ImageID"))


def whole_images(savepath: Path) -> set[str]:
    """Return the ids of the files under images/, each of which is a whole picture and nothing else."""
    images = savepath / "images"
    files = list(images.iterdir()) if images.exists() else []
    for file in files:
        assert file.read_bytes() == tiny_jpeg(file.stem), file
    return {file.stem for file in files}


class Faults:
    """Fails the n-th call that the store makes to the system, or all from the n-th on, with one errno."""

    CALLS = ("open", "write", "pwrite", "rename", "replace", "fsync", "ftruncate", "mkdir")
    ROOT = str(Path(oid_async.__file__).parent)
    OURS = (f"{ROOT}{os.sep}store{os.sep}", f"{ROOT}{os.sep}run.py")

    def __init__(self, number: int, at: int, *, stays: bool) -> None:
        self.number = number
        self.at = at
        self.stays = stays
        self.seen = 0
        self._guard = threading.Lock()

    @property
    def struck(self) -> bool:
        return self.seen >= self.at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the store and the system until the patch is undone."""
        for name in self.CALLS:
            patch.setattr(os, name, self._between(getattr(os, name)))
        patch.setattr(io, "open", self._between(io.open))
        patch.setattr(builtins, "open", self._between(builtins.open))

    def _between(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def between(*args: Any, **kwargs: Any) -> Any:
            if self._is_ours(sys._getframe(1)) and self._strikes():
                raise OSError(self.number, os.strerror(self.number))
            return call(*args, **kwargs)

        return between

    def _strikes(self) -> bool:
        with self._guard:
            self.seen += 1
            return self.seen == self.at or (self.stays and self.seen > self.at)

    def _is_ours(self, frame: FrameType | None) -> bool:
        while frame is not None and not frame.f_code.co_filename.startswith(self.ROOT):
            # Sweeping opens folders to read them, and a disk that is full lets that be.
            if "/lib/python" not in frame.f_code.co_filename or frame.f_code.co_filename == shutil.__file__:
                return False
            frame = frame.f_back
        return frame is not None and frame.f_code.co_filename.startswith(self.OURS)


async def run_with_fault(pictures: Pictures, savepath: Path, calm: dict[str, Any], faults: Faults) -> bool:
    """Run once with a fault and once without, hold what is promised against both; return whether the fault struck."""
    pictures.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        try:
            await fetch(pictures, savepath)
        except StorageError:
            assert faults.struck
        else:
            assert saved_tree(savepath) == calm
    # What has its name and could not be journalled stands in the intent log.
    assert [name for name in litter(savepath) if not name.startswith(".oid_async/intents/")] == []
    done, there = journalled(savepath), whole_images(savepath)
    assert done <= there
    asked = dict(pictures.asked)
    report = await fetch(pictures, savepath)
    assert (report.failed, report.present + report.downloaded) == (0, len(IDS))
    assert {image_id: pictures.asked[image_id] for image_id in done} == {image_id: asked[image_id] for image_id in done}
    assert report.downloaded <= len(IDS) - len(done)
    assert saved_tree(savepath) == calm
    assert litter(savepath) == []
    return faults.struck


async def sweep(pictures: Pictures, folder: Path, step: int, number: int, *, stays: bool) -> int:
    """Fail every `step`-th call in turn until a run passes untouched; return how many were failed."""
    await fetch(pictures, folder / "calm")
    calm = saved_tree(folder / "calm")
    failed = 0
    while await run_with_fault(pictures, folder / f"out{failed}", calm, Faults(number, 1 + failed * step, stays=stays)):
        failed += 1
    return failed


@pytest.mark.parametrize(
    ("number", "stays", "step"), [(errno.ENOSPC, True, 23), pytest.param(errno.EIO, False, 13, marks=pytest.mark.slow)]
)
async def test_any_call_may_fail(pictures: Pictures, tmp_path: Path, number: int, stays: bool, step: int) -> None:
    """Whichever call fails, the run stops with a StorageError or succeeds, and the next one completes the same tree."""
    assert await sweep(pictures, tmp_path, step, number, stays=stays) > 60 // step


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("stays", [True, False])
async def test_every_call_may_fail(pictures: Pictures, tmp_path: Path, number: int, stays: bool) -> None:
    """Every single call of a run fails in turn, once or from then on: nothing is lost."""
    assert await sweep(pictures, tmp_path, 1, number, stays=stays) > 60


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "file system is read-only"),
        (errno.EACCES, "no permission to write"),
        (errno.EIO, "input/output error"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "whole system has too many open files"),
        (errno.EXDEV, "two file systems"),
        (errno.ENOTDIR, "Not a directory"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_message_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    """The machine's no, met at an image's rename, is an error of exit 3 and one line that says which it is."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with writing_to(tmp_path / "out") as (folder, writer):
        monkeypatch.setattr("oid_async.store.image_writer.os.rename", refuse)
        with pytest.raises(StorageError) as caught:
            writer.write_batch([arrival(folder, tiny_jpeg("a"))])
        assert list(folder.tmp.iterdir()) == list(folder.images.iterdir()) == []
    assert caught.value.exit_code == 3
    assert words in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1


def failing_open(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
    """Let the store's next openings fail so many times."""
    real, left = os.open, [times]

    def fail(path: Any, flags: int, *others: Any, **named: Any) -> int:
        if left[0] and str(path).endswith(".part"):
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(path, flags, *others, **named)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_opening_waits_for_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Without a descriptor left an opening is tried again for a bounded time, and not at all for another reason."""
    time = FakeTime()
    opener = Opener(wait_s=1.0, pause_s=0.25, clock=time.clock, sleep=time.sleep)
    failing_open(monkeypatch, number, 3)
    os.close(opener(tmp_path / "a.part", os.O_WRONLY | os.O_CREAT))
    assert time.naps == 3
    failing_open(monkeypatch, number, 1000)
    with pytest.raises(OSError, match="Too many open files"):
        opener(tmp_path / "b.part", os.O_WRONLY | os.O_CREAT)
    assert time.now == pytest.approx(100.75 + 1.0)
    failing_open(monkeypatch, errno.EACCES, 1)
    with pytest.raises(PermissionError):
        opener(tmp_path / "c.part", os.O_WRONLY | os.O_CREAT)
    assert time.now == pytest.approx(101.75)


async def test_images_wait_for_a_descriptor(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few refused openings neither fail an image nor stop the run, nor cost a request."""
    failing_open(monkeypatch, errno.EMFILE, 4)
    report = await fetch(pictures, tmp_path / "out")
    assert (report.downloaded, report.failed, report.requests) == (12, 0, 12)


def arrival(
    folder: Folder, body: bytes, *, spooled: bool = False, image_id: str = IDS[0], **others: Any
) -> ReceivedImage:
    """Return a body as it has arrived, in its temporary file if it is spooled."""
    if spooled:
        Path(folder.temporary(image_id)).write_bytes(body)
    about: dict[str, Any] = {"expected": Expected(), "etag": None, "etags": EtagTrust("h")} | others
    chunks = [] if spooled else [body]
    return ReceivedImage(image_id, f"{image_id}.jpg", "cvdf", "http://h/x.jpg", chunks, spooled, len(body), **about)


@contextmanager
def locked(path: Path, **settings: Any) -> Iterator[tuple[FolderLock, ImageWriter]]:
    """Yield the lock of a folder and a writer into it."""
    lock = FolderLock.take(Folder(path))
    journal = Journal(lock.folder.journal)
    try:
        yield lock, ImageWriter(lock.folder, journal, **settings)
    finally:
        journal.close()
        lock.release()


@contextmanager
def writing_to(path: Path, **settings: Any) -> Iterator[tuple[Folder, ImageWriter]]:
    """Yield a folder that is owned and a writer into it."""
    with locked(path, **settings) as (lock, writer):
        yield lock.folder, writer


def test_without_descriptors_for_good_it_says_what_to_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no descriptor comes free in time, the run stops with a line that names ulimit -n."""
    time = FakeTime()
    opener = Opener(clock=time.clock, sleep=time.sleep)
    with writing_to(tmp_path / "out", opener=opener) as (folder, writer):
        with monkeypatch.context() as patch:
            failing_open(patch, errno.EMFILE, 10_000)
            with pytest.raises(StorageError, match="ulimit -n"):
                writer.write_batch([arrival(folder, tiny_jpeg("a"))])
        assert 15 < time.now - 100 < 60
        assert list(folder.tmp.iterdir()) == list(folder.images.iterdir()) == []


def limited(limit: str, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python under a limit of descriptors."""
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_demo_runs_with_64_descriptors(tmp_path: Path) -> None:
    """The demo, its embedded origin in the same process, does what it must with 64 descriptors."""
    done = limited("-n 64", "-m", "oid_async", "demo", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "exactly those that were staged" in done.stderr


def test_mirror_folder_is_read_with_64_descriptors(tmp_path: Path) -> None:
    """Five hundred images come from a mirror folder with 64 descriptors, whatever concurrency is asked for."""
    images = [Image(f"{number * 7919 + 0xABCDEF012345:016x}", f"{number:05}_o.jpg") for number in range(500)]
    mirror = Dataset([("/m/01", "Ball")], images, [Box(image.image_id, "/m/01") for image in images]).publish(
        tmp_path / "mirror"
    )
    words = ["-m", "oid_async", "download", "--mirror", mirror, "--savepath", tmp_path / "out", "--concurrency", "256"]
    done = limited("-n 64", *words)
    assert done.returncode == 0, done.stderr
    assert "Too many open files" not in done.stderr
    assert len(list((tmp_path / "out" / "images").iterdir())) == 500


@pytest.mark.parametrize(
    ("wanted", "limit", "granted"),
    [(64, 20_000, 64), (64, 256, 64), (64, 255, 63), (64, 64, 2), (64, 0, 2), (1, 64, 1), (500, None, 500)],
)
def test_transfers_leave_room_for_files(wanted: int, limit: int | None, granted: int) -> None:
    """Connections are at most a third of what 64 descriptors for everything else leave, and at least two."""
    assert most_workers(wanted, limit) == granted


def test_command_line_takes_all_descriptors_it_may_have() -> None:
    """The command line raises its soft limit to the hard one; importing and using the package does not."""
    code = "from oid_async.cli import main as cli\nfrom oid_async.cli.parser import make_parser\n"
    code += "from oid_async.system.processes import open_files_limit\n"
    code += "{}\nprint(open_files_limit())"
    assert limited("-Sn 100; ulimit -Hn 512", "-c", code.format("cli.main(['no-such'])")).stdout == "512\n"
    assert limited("-Sn 100; ulimit -Hn 512", "-c", code.format("make_parser()")).stdout == "100\n"


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory, as root can; skip the test where that is not allowed."""
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, option: str) -> None:
    """Change an option of a file system that `mounted` has made."""
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


@pytest.mark.parametrize("below", ["", "new", "new/deeper"])
async def test_read_only_place_is_refused_before_any_request(pictures: Pictures, tmp_path: Path, below: str) -> None:
    """On a read-only file system, for root too, one line says so before the first request."""
    with mounted(tmp_path / "disk", "size=1m,mode=755") as disk:
        (disk / "images").mkdir()
        remount(disk, "ro")
        with pytest.raises(StorageError, match="read-only") as caught:
            await fetch(pictures, disk / below, image_ids=listed(tmp_path, IDS))
    assert caught.value.exit_code == 3
    assert not pictures.asked


@pytest.mark.parametrize("below", ["", "deep/down/d"])
def test_file_in_the_way_is_refused_with_one_line(tmp_path: Path, below: str) -> None:
    """A SAVEPATH that is a file, or lies below one, is exit 3 and one line, before any request."""
    (tmp_path / "file").write_text("somebody's")
    words = ["download", "--mirror", "http://127.0.0.1:9", "--savepath", tmp_path / "file" / below]
    done = run_cli(*words, "--kind", "none", "--image-ids", listed(tmp_path, IDS))
    assert done.code == 3
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "file") in done.stderr
    assert (tmp_path / "file").read_text() == "somebody's"


@pytest.mark.parametrize("call", ["rename", "unlink", "write", "open"])
@pytest.mark.parametrize("below", ["new", "new/deeper", "there"])
def test_what_a_run_does_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, below: str) -> None:
    """A folder in which files cannot be made, written, renamed or removed is refused, and left as it was."""
    (tmp_path / "there" / "mine").mkdir(parents=True)
    real = getattr(os, call)

    def refuse(path: Any, *others: Any, **named: Any) -> Any:
        of_the_probe = call == "write" or "probe" in str(path)
        if of_the_probe and sys._getframe(1).f_code.co_filename.startswith(Faults.ROOT):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *others, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match="no permission"):
            FolderLock.take(Folder(tmp_path / below))
    if call != "unlink":  # what cannot be removed stays
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there", "there/mine"]
    FolderLock.take(Folder(tmp_path / below)).release()


async def test_failures_are_kept_though_no_image_came(pictures: Pictures, tmp_path: Path) -> None:
    """A new folder into which nothing landed but lines of failures keeps them when the run is stopped."""
    with writing_to(tmp_path / "out") as (_, writer):
        writer.write_batch([Outcome(IDS[0], "failed", None, "gone", "cvdf:gone", "cvdf", "http://h/x.jpg", attempts=1)])
    assert scan_journal(tmp_path / "out" / ".oid_async" / "journal.tsv").collect().height == 1


async def test_small_disk_fills_up_and_goes_on_when_enlarged(tmp_path: Path) -> None:
    """A disk of 2 MB ends the run at once with no litter; with room it goes on and asks for nothing again."""
    bodies = {image_id: b"".join([tiny_jpeg(image_id)[:2], _PADDING, tiny_jpeg(image_id)[2:]]) for image_id in IDS}
    asked: Counter[str] = Counter()

    async def serve(request: web.Request) -> web.Response:
        image_id = Path(request.match_info["key"]).stem
        asked[image_id] += 1
        return web.Response(body=bodies[image_id], content_type="image/jpeg")

    with mounted(tmp_path / "disk", "size=2m") as disk:
        async with Origin(serve) as origin:
            options = Options.of(
                mirror=origin.url,
                savepath=disk / "out",
                kinds=["none"],
                image_ids=listed(tmp_path, IDS),
                concurrency=4,
            )
            with pytest.raises(StorageError, match="disk is full"):
                await asyncio.wait_for(Run(options, ignore).download(), 10)
            assert litter(disk / "out") == []
            landed = {path.stem: path.read_bytes() for path in (disk / "out" / "images").iterdir()}
            assert 0 < len(landed) < 12
            assert landed == {image_id: bodies[image_id] for image_id in landed}
            remount(disk, "size=8m")
            before = dict(asked)
            report = await Run(options, ignore).download()
        assert (report.present, report.downloaded) == (len(landed), 12 - len(landed))
        assert {image_id: asked[image_id] for image_id in landed} == {image_id: before[image_id] for image_id in landed}
        assert {path.stem: path.read_bytes() for path in (disk / "out" / "images").iterdir()} == bodies


def test_lock_says_who(tmp_path: Path) -> None:
    """Who is refused learns the owner's process, host and start; an owner that has left is not named."""
    owner = FolderLock.take(Folder(tmp_path / "out"))
    with pytest.raises(LockedError) as caught:
        FolderLock.take(Folder(tmp_path / "out"))
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    (owner.folder.images / "a.jpg").touch()
    owner.confirm("this boot")
    owner.release()
    assert (owner.folder.state / "lock").read_text() == "\nboot this boot\n"


def test_of_two_that_start_at_once_one_works(tmp_path: Path) -> None:
    """Started at the very same moment, in a new folder or an old one, one of four owns it, the others are refused."""
    for number in range(25):
        place = tmp_path / f"out{number % 5}"
        start, end = threading.Barrier(4), threading.Barrier(4)
        told: list[str] = []

        def own(folder: Folder, start: threading.Barrier, end: threading.Barrier, told: list[str]) -> None:
            start.wait(10)
            lock = None
            try:
                lock = FolderLock.take(folder)
                told.append("owner")
            except LockedError as error:
                told.append(str(error))
            end.wait(10)
            if lock is not None:
                lock.release()

        threads = [threading.Thread(target=own, args=(Folder(place), start, end, told)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert told.count("owner") == 1
        assert len(told) == 4
        assert all(f"process {os.getpid()} on " in words for words in told if words != "owner")


def test_owner_who_takes_his_folder_away_leaves_no_double_lock(tmp_path: Path) -> None:
    """Whoever opens the lock while an empty folder is taken away starts again: a lock that is gone locks nothing."""
    first = FolderLock.take(Folder(tmp_path / "out"))
    real = fcntl.flock
    raced: list[int] = []

    def flock(file: int, operation: int) -> None:
        if not raced:
            raced.append(file)
            first.release()  # between the opening of the file and its lock
        real(file, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        second = FolderLock.take(Folder(tmp_path / "out"))
    with pytest.raises(LockedError):
        FolderLock.take(Folder(tmp_path / "out"))
    second.release()
    assert raced


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
async def test_without_locks_two_runs_do_no_harm(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where flock is not known a run goes on and says so; a second one at the same time tears and mixes nothing."""

    def flock(_: int, __: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    notes: list[str] = []
    ids = listed(tmp_path, IDS)
    options = Options.of(mirror=pictures.url, savepath=tmp_path / "out", kinds=["none"], image_ids=ids, concurrency=2)
    await asyncio.gather(Run(options, notes_into(notes)).download(), Run(options, notes_into(notes)).download())
    assert sum("no locks" in note for note in notes) == 2
    for path in (tmp_path / "out" / "images").iterdir():
        assert path.read_bytes() == tiny_jpeg(path.stem.split("_")[0])
    report = await Run(options, ignore).download()
    assert (report.present, report.failed) == (12, 0)
    assert litter(tmp_path / "out") == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing says what a descriptor stands for")
async def test_tables_are_on_the_disk_before_they_have_their_names(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table is synced before the first is renamed, then the folders; manifest, query and journal come last."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(file: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def note_replace(source: Any, target: Any) -> None:
        if Path(target).parent.name != "kept":
            calls.append(f"name {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    await fetch(pictures, tmp_path / "out")
    tables = ["manifest.parquet", "query.json"]
    # The record of files comes with the tables, and once more with what is fetched after them.
    notes = ("site.json", "plan.json", "files.parquet", "files.md5", ".oid_async", *PLACES)
    calls = [call for call in calls if not call.endswith(notes)]
    assert calls[:2] == ["sync query.json", "name query.json"]  # at the start
    assert calls[2:4] == ["sync ATTRIBUTION.csv", "name ATTRIBUTION.csv"]
    assert sorted(calls[4:6]) == ["sync images", "sync out"]
    assert calls[6:10] == [*(f"sync {name}" for name in tables), *(f"name {name}" for name in tables)]
    assert calls[10:] == ["sync out", "sync journal.tsv"]


TEARS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "cut": lambda body: body[:-20],
    "nuls": lambda body: body[:100] + bytes(len(body) - 100),
    "all nuls": lambda body: bytes(len(body)),
    "other bytes": lambda body: body[:60] + b"\x55" + body[61:],
}


@pytest.mark.parametrize("tear", TEARS)
async def test_power_cut_is_found_out(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tear: str
) -> None:
    """Files that another boot finds torn are removed, said in one note and fetched again; the rest is not asked for."""
    report = await fetch(pictures, tmp_path / "out")
    calm = saved_tree(tmp_path / "out")
    notes: list[str] = []
    for image_id in IDS[:3]:
        path = tmp_path / "out" / "images" / f"{image_id}.jpg"
        path.write_bytes(TEARS[tear](path.read_bytes()))
    monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
    options = Options.of(
        mirror=pictures.url, savepath=tmp_path / "out", kinds=["none"], image_ids=tmp_path / "ids.txt", concurrency=4
    )
    report = await Run(options, notes_into(notes)).download()
    assert (report.present, report.downloaded) == (9, 3)
    assert [note for note in notes if "torn" in note] == [
        "the machine was started anew since the last run; of the 12 files that landed last 3 were torn: removed, "
        "to be fetched again"
    ]
    assert saved_tree(tmp_path / "out") == calm
    assert [pictures.asked[image_id] for image_id in IDS] == [2] * 3 + [1] * 9


async def test_only_another_boot_and_only_the_last_minutes_are_looked_at(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same boot nothing is read; in another, what landed long before the journal's end is left to verify."""
    await fetch(pictures, tmp_path / "out")
    old, new = (tmp_path / "out" / "images" / f"{image_id}.jpg" for image_id in IDS[:2])
    for path, age_s in ((old, 700), (new, 500)):
        path.write_bytes(b"torn")
        changed = (tmp_path / "out" / ".oid_async" / "journal.tsv").stat().st_mtime - age_s
        os.utime(path, (changed, changed))
    assert (await fetch(pictures, tmp_path / "out")).present == 12
    monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
    assert (await fetch(pictures, tmp_path / "out")).downloaded == 1
    assert old.read_bytes() == b"torn"
    assert new.read_bytes() == tiny_jpeg(IDS[1])


@pytest.mark.parametrize("ended", [True, False])
async def test_torn_file_without_a_line(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """After a run that did not end, a torn image whose line was lost gives its name back; a foreign file stays."""
    await fetch(pictures, tmp_path / "out", IDS[:6])
    folder = Folder(tmp_path / "out")
    torn, text = folder.images / f"{IDS[8]}.jpg", folder.images / f"{IDS[9]}.jpg"
    torn.write_bytes(tiny_jpeg(IDS[8])[:-30])
    text.write_text("somebody's notes")
    if not ended:
        lock = folder.state / "lock"
        lock.write_text(f"process 7 on a machine{lock.read_text()}")
    monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
    report = await fetch(pictures, tmp_path / "out")
    assert (report.present, report.downloaded) == (6, 6)
    assert text.read_text() == "somebody's notes"
    assert (torn.read_bytes() == tiny_jpeg(IDS[8])) is not ended
    assert (folder.images / f"{IDS[8]}_{IDS[8]}.jpg").exists() is ended


def test_boot_is_noted_once_it_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that was cut short is made again: until its end the note speaks of the boot before."""
    with locked(tmp_path / "out") as (lock, writer):
        recover_after_boot(lock, "first")
        writer.write_batch([arrival(lock.folder, tiny_jpeg("a"))])
    note = lock.folder.state / "lock"
    note.write_text(f"process 7 on a machine that went down{note.read_text()}")
    with locked(tmp_path / "out") as (lock, _):
        assert lock.last_run == LastRun(ended=False, boot="first")
    with monkeypatch.context() as patch:
        patch.setattr("oid_async.store.recovery.saved_last", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "out") as (lock, _):
            recover_after_boot(lock, "second")
    with locked(tmp_path / "out") as (lock, _):
        assert lock.last_run == LastRun(ended=False, boot="first")
        assert recover_after_boot(lock, "second") == RecoveryReport(read=1)
    with locked(tmp_path / "out") as (lock, _):
        assert lock.last_run == LastRun(ended=True, boot="second")
        assert recover_after_boot(lock, "second") == RecoveryReport()


def test_latest_line_of_a_file_decides(tmp_path: Path) -> None:
    """A file that was fetched again, as other bytes, is held against its latest line."""
    with writing_to(tmp_path / "out") as (folder, writer):
        for text in ("before", "after"):
            (folder.images / f"{IDS[0]}.jpg").unlink(missing_ok=True)
            writer.write_batch([arrival(folder, tiny_jpeg(text))])
    with locked(tmp_path / "out") as (lock, _):
        assert recover_after_boot(lock, "another") == RecoveryReport(read=2)
        assert (lock.folder.images / f"{IDS[0]}.jpg").read_bytes() == tiny_jpeg("after")


def test_boot_has_a_name(tmp_path: Path) -> None:
    """The boot is what the system says it is; where it says nothing all boots are one."""
    (tmp_path / "id").write_text("a46b1008-73b0\n")
    assert boot_id(tmp_path / "id") == "a46b1008-73b0"
    assert boot_id(tmp_path / "nothing") == boot_id(tmp_path) == "unknown"


# Two comment segments of the greatest length: a body of 131 kB with what is around them.
_PADDING = (b"\xff\xfe\xff\xff" + bytes(65533)) * 3


def odd_bodies(chance: random.Random) -> Iterator[bytes]:
    """Yield bodies like JPEGs, cut, padded, wrong, with markers where blocks meet."""
    marks = [b"\xff\xd8\xff", b"\xff\xd9", b"\xff", b"\xd8", b"\xd9", b"\0"]
    pieces = [*marks, b"\xff\xe0\x00\x04ab", b"\xff\xda\x00\x02"]
    whole = tiny_jpeg("a body")
    yield from (b"", b"\xff", whole, whole[:-1], whole[:-2], whole + b"padding", whole[:30], whole + whole, bytes(40))
    for _ in range(60):
        start = chance.choice([b"", b"\xff\xd8", whole[: chance.randrange(len(whole))]])
        yield start + b"".join(chance.choices(pieces, k=chance.randrange(30)))
        at = chance.randrange(len(whole))
        yield whole[:at] + chance.randbytes(1) + whole[at + 1 :]


@pytest.mark.parametrize("block_bytes", [3, 7, 64, 1 << 18])
def test_file_is_judged_as_its_bytes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Read in blocks, whatever their size, a body has the header, the end, the MD5 and the verdict it has in memory."""
    monkeypatch.setattr("oid_async.store.file_bytes._BLOCK_BYTES", block_bytes)
    chance = random.Random(block_bytes)
    path = tmp_path / "body"
    for body in odd_bodies(chance):
        path.write_bytes(body)
        with FileBytes(path) as file:
            header = read_header(body)
            assert read_header(file) == header
            assert is_complete(file, header) == is_complete(body, header)
            assert is_complete(file, JpegHeader(None, None, None)) == is_complete(body, JpegHeader(None, None, None))
            assert (md5 := md5_base64(file)) == md5_base64(body)
            for expected in (Expected(), Expected(len(body), "other"), Expected(len(body) - 1, None)):
                assert refuse(file, header, md5, expected) == refuse(body, header, md5, expected)
            assert (len(file), file[:16], file[3:-2]) == (len(body), body[:16], body[3:-2])
            for wanted in (b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xff", b"\xd9"):
                assert file.count(wanted) == body.count(wanted)
                assert file.endswith(wanted) == body.endswith(wanted)
                start = chance.randrange(len(body) + 2)
                assert file.rfind(wanted, start) == body.rfind(wanted, start)


def test_large_bodies_land_without_being_held_in_memory(tmp_path: Path) -> None:
    """A spooled body of 24 MB is checked and landed with a megabyte of memory, and refused all the same when wrong."""
    small = tiny_jpeg("large", 640, 480)
    body = small[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * 370 + small[2:]
    with writing_to(tmp_path / "out") as (folder, writer):
        whole = arrival(folder, body, spooled=True, expected=Expected(len(body), md5_base64(body)))
        cut = arrival(folder, body[:-2], spooled=True, image_id=IDS[1])
        tracemalloc.start()
        try:
            results = writer.write_batch([whole, cut])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20
        assert [landing.reason for landing in results] == [None, "truncated"]
        assert results[0].outcome is not None
        assert (results[0].outcome.width, results[0].outcome.height) == (640, 480)
        assert [path.name for path in folder.images.iterdir()] == [f"{IDS[0]}.jpg"]
        assert list(folder.tmp.iterdir()) == []


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x01", b"\xff\xe0\x00\x02"])
def test_endless_header_keeps_nobody_busy(filler: bytes) -> None:
    """A header of millions of fill bytes or empty segments is given up on, not walked for seconds."""
    header = read_header(b"\xff\xd8" + filler * (8_000_000 // len(filler)) + tiny_jpeg("x")[2:])
    assert header == JpegHeader(None, None, None)
