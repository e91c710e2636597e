"""Exports by several processes: the same bytes, and an end in one line when one of them is killed."""

import asyncio
import hashlib
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.saved import SavedBox, SavedFolder, SavedImage, picture, rectangle

import oid_async
from oid_async.dataset.image_store import missing_file
from oid_async.errors import NotPlainError, StorageError
from oid_async.formats import processes
from oid_async.formats.registry import WRITERS
from oid_async.jobs import export as export_job
from oid_async.options.export import FORMATS, Format

pytestmark = pytest.mark.cluster
IMAGES = 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two splits with boxes, every third with a mask; two that are no pictures, one broken mask."""
    images, boxes, masks = [], [], []
    for number in range(1, IMAGES + 1):
        body = b"\xff\xd8\xff\xd9" if number in (7, 30) else picture(64, 48)
        subset = "train" if number % 4 else "validation"
        images.append(SavedImage(f"{number:08x}00000000", subset=subset, picture=body, name=f"{number}.jpg"))
        boxes += [SavedBox(images[-1].image_id, label) for label in ("/m/01g317", "/m/0bt9lr")]
        if not number % 3:
            mask = rectangle(64, 48, (16, 12, 48, 36))
            masks.append((boxes[-2], mask if number != 9 else mask[:60]))
    return SavedFolder(images, boxes, masks).write(tmp_path_factory.mktemp("processes") / "d")


@pytest.fixture(autouse=True)
def shared_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small spans, and processes for however little work."""
    monkeypatch.setattr(processes, "_WORTH_A_POOL", 0)
    monkeypatch.setattr(export_job, "SPAN_ROWS", 16)
    monkeypatch.setattr(export_job, "_SLOW_SPAN_ROWS", 16)


def content(out: Path) -> dict[str, str]:
    found = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".oid_async"))
    return {str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("format", FORMATS)
def test_several_processes_write_what_one_writes(format: Format, saved: Path, tmp_path: Path) -> None:
    """Every file has the same bytes, and what is left out is the same, named in the same order."""
    reports = [
        asyncio.run(
            oid_async.export(savepath=saved, format=format, max_side=40, processes=count, out=tmp_path / str(count))
        )
        for count in (1, 2)
    ]
    one, other = (report.as_json() | {"seconds": 0, "out": ""} for report in reports)
    assert one == other
    assert one["images"] == IMAGES - 2
    assert content(tmp_path / "1") == content(tmp_path / "2")


def killing(monkeypatch: pytest.MonkeyPatch, format: Format, act: Any) -> None:
    """Let something happen when the second span of a format is written."""
    writer: Any = WRITERS[format]
    write, spans = writer.write, []

    def some(self: object, span: object) -> None:
        write(self, span)
        spans.append(span)
        if len(spans) == 2:
            act()

    monkeypatch.setattr(writer, "write", some)


@pytest.mark.parametrize("format", ["coco", "voc", "webdataset"])
def test_a_process_that_is_killed_ends_the_export(format: Format, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to do, wherever the export is; there is no export."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    killing(monkeypatch, format, kill)
    with pytest.raises(StorageError, match=r"was killed.*--processes 1"):
        asyncio.run(oid_async.export(savepath=saved, format=format, processes=2))
    assert not (saved / "export" / format).exists()
    assert not multiprocessing.active_children()


async def test_an_export_by_several_processes_can_be_cancelled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends within five seconds, with its processes, and nothing has the name."""
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        go_on.wait(30)

    killing(monkeypatch, "coco", wait)
    task = asyncio.ensure_future(oid_async.export(savepath=saved, format="coco", processes=2))
    await asyncio.to_thread(reached.wait, 60)
    started = time.monotonic()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 5
    assert not multiprocessing.active_children()
    assert not (saved / "export" / "coco").exists()


def test_an_interrupt_never_reaches_a_process_that_starts() -> None:
    """Ctrl-C goes to all processes of a terminal: one that imports modules would write a traceback."""
    with processes.process_pool(2, 1 << 20) as pool:
        assert pool is not None
        (blocked,) = pool.each(signal.pthread_sigmask, [(signal.SIG_BLOCK, ())])
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    """Each process imports the script again, and would start processes of its own: one line says what to do."""
    script = tmp_path / "script.py"
    script.write_text(
        "from oid_async.formats.processes import process_pool\n"
        "with process_pool(2, 1 << 20) as pool:\n"
        "    print(list(pool.each(abs, [(-1,)])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("oid_async.errors.StorageError: ")
    assert 'under `if __name__ == "__main__":`' in last
    assert not done.stdout


def test_errors_of_a_process_are_errors_of_the_program() -> None:
    """An error that cannot be sent would end the pool, as if a process had been killed."""
    for error in (NotPlainError("a pipe", "p.png"), StorageError("full"), missing_file("p.png")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_a_daemon_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a user's own pool may start no others."""
    monkeypatch.setitem(multiprocessing.current_process().__dict__["_config"], "daemon", True)
    with processes.process_pool(2, 1 << 20) as pool:
        assert pool is None


def test_whoever_waits_for_a_killed_process_is_told() -> None:
    """Where the work is asked for, in whatever thread or task: a download that packs shards shares it, too."""
    with processes.process_pool(2, 1 << 20) as pool:
        assert pool is not None
        assert list(pool.each(abs, [(-1,)])) == [1]
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(StorageError, match=r"was killed.*--processes 1"):
            list(pool.each(abs, [(-1,)]))
