"""Whole programs on a system without POSIX, as far as that can be played: see `support/other_system`."""

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import oid_async

pytestmark = [pytest.mark.programs, pytest.mark.timeout(300)]

OTHER_SYSTEM = Path(__file__).parents[1] / "support" / "other_system"
# Without locks, too: there a folder has no owner, and the cache none to write to it.
WINDOWS = "locks,links,held"


def environment(words: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(OTHER_SYSTEM), "OTHER_SYSTEM": words}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "oid_async", *map(str, arguments)]


def run(*arguments: object, words: str = WINDOWS, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command line there, and wait for its end."""
    return subprocess.run(
        command(*arguments), env=environment(words), capture_output=True, text=True, timeout=200, check=False, **more
    )


def python(program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a program there."""
    call = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(call, env=environment(WINDOWS), capture_output=True, text=True, timeout=100, check=False)


IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted(name for name in sys.argv[1:] if name not in sys.modules))
"""


def test_every_module_can_be_imported() -> None:
    """All but what needs PyTorch: nothing asks for a module, a function or a flag that is of POSIX alone."""
    names = [each.name for each in pkgutil.walk_packages(oid_async.__path__, "oid_async.")]
    # What is on the disk for Dask and PyTorch here is made for Linux.
    left_out = ("oid_async.torch.", "oid_async.cluster.dask_", "oid_async.cluster.local_worker")
    wanted = [name for name in names if not name.startswith(left_out)]
    assert len(wanted) > 250
    done = python(IMPORTS, *wanted)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("words", [WINDOWS, "locks,held"], ids=["links", "no links"])
def test_the_demo_and_what_follows(words: str, tmp_path: Path) -> None:
    """Download, again without a request, plan, exports, verify and repair, stats, prune, repeat: as everywhere."""
    demo = tmp_path / "demo"
    first, again = (json.loads(run("demo", demo, "--json", words=words).stdout) for _ in range(2))
    assert (first["downloaded"], first["failed"]) == (312, 8)
    assert (again["present"], again["requests"]) == (312, 0)
    # The second one of a format takes the place of the first.
    formats = ("yolo", "voc", "voc", "webdataset") if words == WINDOWS else ("yolo",)
    for format in formats:
        done = run("export", demo, "--format", format, words=words)
        assert (done.returncode, "fault" in done.stderr) == (0, False), done.stderr
    links = {path.stat().st_nlink for path in demo.glob("export/yolo/images/*/*.jpg")}
    assert (min(links) > 1) == (words == WINDOWS)
    checked = run("verify", demo, "--exports", words=words)
    assert (checked.returncode, checked.stderr.count("all whole")) == (0, 1), checked.stderr
    next(iter((demo / "images").iterdir())).unlink()
    assert json.loads(run("stats", demo, "--json", words=words).stdout)["images"]["ok"] == 312
    assert run("prune", demo, "--dry-run", words=words).returncode == 0
    done = run("repeat", demo, "--savepath", tmp_path / "again", "--offline", "--json", words=words)
    assert json.loads(done.stdout)["present"] == 311
    # Nothing is left beside an export for the lock on it, nor a temporary folder of the program's.
    assert sorted(path.name for path in (demo / "export").iterdir()) == sorted({*formats})


def test_one_process_does_the_work(lookalike: Path, tmp_path: Path) -> None:
    """Sockets cannot be given to other processes: those that were asked for are not started."""
    report = tmp_path / "report.json"
    query = ("--mirror", lookalike, "--category", "Dog", "--savepath", tmp_path / "d", "--report", report)
    done = run("download", *query, "--processes", 4)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["cpu"]["processes"] == 1


def test_lists_and_ids_go_through_pipes(lookalike: Path, tmp_path: Path) -> None:
    """A list on stdin, the ids of a plan on stdout: without a way to look whether a pipe is ready it is waited for."""
    asked = ("plan", "--mirror", lookalike, "--split", "validation")
    ids = run(*asked, "--category", "Dog", "--ids", "-").stdout
    assert ids.count("validation/") == 2
    some = "".join(line.partition("/")[2] for line in ids.splitlines(keepends=True))
    assert run(*asked, "--image-ids", "-", "--ids", "/dev/stdout", input=some).stdout == ids


def test_an_interrupt_ends_a_run_in_order(tmp_path: Path) -> None:
    """Signals come by a socket to a thread, which needs nothing of POSIX: 130, and no temporary is left."""
    demo = tmp_path / "demo"
    with subprocess.Popen(command("demo", demo), env=environment(WINDOWS), stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 100
        while time.monotonic() < end and not any((demo / "images").glob("*.jpg")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert process.returncode == 130
    assert not list(demo.rglob("*.part"))
    assert json.loads(run("demo", demo, "--json").stdout)["failed"] == 8


HOLD = """
import sys
from pathlib import Path
from oid_async.store.lock import FileLock
lock = FileLock.take(Path(sys.argv[1]), shared=sys.argv[2] == "shared")
print(None if lock is None else lock.is_held, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_locks_on_bytes_keep_others_out(kind: str, tmp_path: Path) -> None:
    """One writer, or many readers, each a process; whoever is killed gives the lock back."""
    path = tmp_path / "lock"
    path.touch() if kind == "file" else path.mkdir()
    # Of a folder there is one kind of lock.
    readers = ["shared", "shared"] if kind == "file" else ["exclusive"]
    holders: list[subprocess.Popen[str]] = []

    def take(how: str) -> str:
        holders.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, str(path), how],
                env=environment(WINDOWS),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert holders[-1].stdout is not None
        return holders[-1].stdout.readline().strip()

    try:
        assert [take(how) for how in readers] == ["True"] * len(readers)
        assert take("exclusive") == "None"
        for holder in holders:
            holder.kill()
            holder.wait()
        assert take("exclusive") == "True"
        assert take("shared") == "None"
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    """While a run is on in a folder another one ends with 4 and a line, and so does a reader."""
    demo = tmp_path / "demo"
    with subprocess.Popen(command("demo", demo, "--quiet"), env=environment(WINDOWS)) as process:
        end = time.monotonic() + 100
        while time.monotonic() < end and not any((demo / "images").glob("*.jpg")):
            time.sleep(0.02)
        others = run("demo", demo), run("export", demo, "--format", "coco")
        process.wait(100)
    assert [each.returncode for each in others] == [4, 4]
    assert all("another run is on in this folder (process " in each.stderr for each in others)


STREAM = """
import pickle
from pathlib import Path
from oid_async.errors import UsageError
from oid_async.torch.process import DownloaderProcess
try:
    DownloaderProcess(None)
except UsageError as error:
    print(error)
"""


def test_what_is_not_there_is_said_in_a_line(lookalike: Path, tmp_path: Path) -> None:
    """A Stream and a folder that workers share need what only POSIX has: one line says what to do instead."""
    assert "OpenImages" in python(STREAM).stdout
    place = tmp_path / "place"
    query = ("download", "--mirror", lookalike, "--category", "Dog", "--format", "webdataset", "--no-files")
    done = run(*query, "--cluster", "local:2", "--savepath", place)
    assert (done.returncode, len(done.stderr.splitlines()), "name a bucket" in done.stderr) == (2, 1, True), done.stderr
    assert not place.exists()


def test_the_cache_is_found_without_a_home(tmp_path: Path) -> None:
    """Without a home the cache is below the temporary folder, under a mark of the user's."""
    program = "from oid_async.metadata.paths import default_cache\nprint(*default_cache())"
    more = {"XDG_CACHE_HOME": str(tmp_path / "file" / "x"), "TMPDIR": str(tmp_path)}
    (tmp_path / "file").touch()
    call = [sys.executable, "-c", program]
    done = subprocess.run(
        call, env=environment(WINDOWS) | more, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.startswith(str(tmp_path / "oid-async-cache-")), done.stderr
