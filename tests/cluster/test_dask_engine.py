"""Parts by real Dask workers, which only sleep: lost, stopped, refusing ones, a scheduler that goes, an interrupt."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.comm.core import CommClosedError
from support.dask_cluster import dask
from support.fake_parts import FakeWorker, fake_parts, fake_settings

from oid_async.cluster import dask_engine
from oid_async.cluster.dask_engine import DaskEngine
from oid_async.cluster.published import Generation, Part
from oid_async.cluster.work import PartProgress, PartResult
from oid_async.errors import StorageError, UsageError

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("dask")]
Values = list[PartResult | PartProgress]


@asynccontextmanager
async def engine(cluster: str, folder: Path) -> AsyncIterator[DaskEngine]:
    """Yield an engine of fake workers, which leave their notes in a folder."""
    async with DaskEngine(cluster, fake_settings(folder), print, FakeWorker) as opened:
        yield opened


async def carried_out(
    cluster: str, folder: Path, parts: list[Part], *, capped: bool = False
) -> tuple[list[str], Values]:
    """Return which parts were given up, and all that was reported."""
    values: Values = []
    async with engine(cluster, folder) as opened:
        given_up = await opened.run(Generation(0, parts, capped=capped), values.append)
        await asyncio.sleep(0)
    assert children() == []
    return given_up, values


def children() -> list[int]:
    """Return the worker processes of this one."""
    found = psutil.Process().children(recursive=True)
    return [each.pid for each in found if "local_worker" in " ".join(each.cmdline())]


def notes(folder: Path, pattern: str) -> list[Path]:
    """Return what the fake workers have noted."""
    return list(folder.glob(pattern))


def done(values: Values) -> list[str]:
    """Return the parts that were committed."""
    return sorted(value.part for value in values if isinstance(value, PartResult) and value.end == "committed")


async def until(happened: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until something has happened, and return it."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return found


async def test_all_parts_are_carried_out(tmp_path: Path) -> None:
    """Each once, progress comes with it, and in the end the workers have closed what they had open."""
    given_up, values = await carried_out("local:2", tmp_path, fake_parts(*[40] * 30))
    assert given_up == []
    assert done(values) == [f"train-{number:06}" for number in range(30)]
    assert len([value for value in values if isinstance(value, PartProgress)]) == 60
    assert len(notes(tmp_path, "train-*")) == 30
    assert len(notes(tmp_path, "closed.*")) == 2


async def test_a_killed_worker_costs_one_more_try(tmp_path: Path) -> None:
    """A new one takes its place, at --cluster local:1 too."""
    parts = fake_parts(50, f"kill-once:{tmp_path / 'killed'}", 50, 50)
    given_up, values = await carried_out("local:1", tmp_path, parts)
    assert given_up == []
    assert len(done(values)) == 4


async def test_a_part_that_kills_four_workers_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """No other part is given up for it."""
    given_up, values = await carried_out("local:2", tmp_path, fake_parts(50, "kill", 50, 50, 50, 50))
    assert given_up == ["train-000001"]
    assert len(done(values)) == 5
    assert len(notes(tmp_path, "train-000001.*")) == 4


async def test_a_stopped_worker_does_not_hold_the_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts are copied, the run ends, and nothing of it is left."""
    monkeypatch.setattr("oid_async.cluster.workers_seen.SILENT_S", 2.0)
    async with engine("local:2", tmp_path) as opened:
        values: Values = []
        run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[300] * 8)), values.append))
        await until(lambda: len(notes(tmp_path, "train-*")) == 4)
        os.kill(children()[0], signal.SIGSTOP)
        assert await asyncio.wait_for(run, 20) == []
    assert len(done(values)) == 8
    assert children() == []


async def test_a_stopped_worker_with_the_capped_parts_is_ended_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two must never ask a capped host at the same time."""
    monkeypatch.setattr(dask_engine, "_END_SILENT_S", 2.0)
    async with engine("local:2", tmp_path) as opened:
        values: Values = []
        run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[300] * 4), capped=True), values.append))
        first = await until(lambda: notes(tmp_path, "train-*"))
        os.kill(int(first[0].name.split(".")[1]), signal.SIGSTOP)
        assert await asyncio.wait_for(run, 30) == []
    assert len(done(values)) == 4


async def test_capped_parts_are_of_one_worker(tmp_path: Path) -> None:
    """However many there are."""
    _, values = await carried_out("local:2", tmp_path, fake_parts(*[30] * 8), capped=True)
    assert len(done(values)) == 8
    assert len({path.name.split(".")[1] for path in notes(tmp_path, "train-*")}) == 1


async def test_an_unreachable_part_is_tried_four_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is committed with its failures."""
    monkeypatch.setattr("oid_async.cluster.dispatch._AGAIN_AFTER_S", (0.1,))
    given_up, values = await carried_out("local:2", tmp_path, fake_parts(20, "unreachable"))
    assert given_up == []
    assert len(done(values)) == 2
    assert sorted(path.name.split(".")[2] for path in notes(tmp_path, "train-000001.*")) == ["1", "2", "3", "4"]


async def test_a_disk_that_refuses_everywhere_stops_the_run(tmp_path: Path) -> None:
    """With its own line, once no worker is left that has not refused."""
    with pytest.raises(StorageError, match="the disk is full"):
        await carried_out("local:2", tmp_path, fake_parts(50, "refuse", 50))
    assert children() == []


async def test_a_fault_of_the_program_stops_the_run(tmp_path: Path) -> None:
    """It comes as it was raised at the worker."""
    with pytest.raises(ValueError, match="a fault"):
        await carried_out("local:2", tmp_path, fake_parts(50, "bug"))


async def test_an_interrupt_ends_within_five_seconds(tmp_path: Path) -> None:
    """Parts that would take minutes are left, processes are not."""
    async with engine("local:2", tmp_path) as opened:
        run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[60_000] * 8)), lambda value: None))
        await until(lambda: len(notes(tmp_path, "train-*")) == 4)
        began = time.monotonic()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert time.monotonic() - began < 5
    assert len(notes(tmp_path, "closed.*")) == 2
    assert children() == []


async def test_a_worker_that_has_not_joined_ends_with_its_run(tmp_path: Path) -> None:
    """A run that is killed before its workers are there leaves none behind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        words = ("-m", "oid_async.cluster.local_worker", address, "early", str(tmp_path))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment
        )
        await asyncio.sleep(2)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_cluster_that_is_up_is_joined_and_left_as_it_was(tmp_path: Path) -> None:
    """Twice: its workers go on after the first run."""
    with dask("a", "b") as (address, scheduler, workers):
        for _ in range(2):
            given_up, values = await carried_out(address, tmp_path, fake_parts(*[40] * 10))
            assert given_up == []
            assert len(done(values)) == 10
        assert [process.poll() for process in (scheduler, *workers)] == [None] * 3


async def test_a_scheduler_that_goes_while_a_result_comes_is_lost_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks within the answer: the same line, no fault of the program."""

    async def broken(self: Client, *_: object, **__: object) -> None:
        raise CommClosedError("connection reset by peer")

    monkeypatch.setattr(Client, "_gather", broken)
    with pytest.raises(StorageError, match=r"scheduler is lost.*run the same command again"):
        await carried_out("local:1", tmp_path, fake_parts(1))


async def test_a_lost_scheduler_ends_the_run_with_a_line(tmp_path: Path) -> None:
    """It says that the same command goes on."""
    with dask("a") as (address, scheduler, _):
        async with engine(address, tmp_path) as opened:
            run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[60_000] * 3)), lambda value: None))
            await until(lambda: notes(tmp_path, "train-*"))
            began = time.monotonic()
            scheduler.terminate()
            with pytest.raises(StorageError, match=r"scheduler at .* is lost.*run the same command again"):
                await run
        assert time.monotonic() - began < 10


async def test_a_run_goes_on_with_the_workers_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings them back; when none is left and none comes a line says so."""
    monkeypatch.setattr(dask_engine, "_NEXT_WORKER_S", 2.0)
    with dask("a", "b") as (address, _, workers):
        async with engine(address, tmp_path) as opened:
            values: Values = []
            run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[500] * 8)), values.append))
            await until(lambda: len(notes(tmp_path, "train-*")) == 4)
            psutil.Process(workers[0].pid).children()[0].kill()
            assert await run == []
            assert len(done(values)) == 8
            run = asyncio.create_task(opened.run(Generation(0, fake_parts(*[60_000] * 2)), values.append))
            await asyncio.sleep(1)
            psutil.Process(workers[1].pid).children()[0].kill()
            with pytest.raises(StorageError, match="no worker is there"):
                await run


async def test_an_address_where_nothing_answers_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens there, or something that is no scheduler."""
    monkeypatch.setattr("oid_async.cluster.dask_cluster._CONNECT_S", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UsageError, match="no Dask scheduler answers"):
            await carried_out(f"tcp://127.0.0.1:{port}", tmp_path, [])
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        await carried_out(f"tcp://127.0.0.1:{port}", tmp_path, [])
    with pytest.raises(UsageError, match="TLS"):
        await carried_out(f"tls://127.0.0.1:{port}", tmp_path, [])


async def test_a_cluster_with_another_version_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the versions, and what to install."""
    monkeypatch.setattr("oid_async.cluster.dask_cluster.__version__", "9.9")
    said = r"the scheduler has oid-async .*, this is 9\.9; install the same"
    with dask("a") as (address, _, _), pytest.raises(UsageError, match=said):
        await carried_out(address, tmp_path, [])


async def test_a_run_without_a_worker_says_so_and_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers may wait in a queue: it waits for them, with a line, and not for ever."""
    monkeypatch.setattr(dask_engine, "_TELL_S", 0.2)
    monkeypatch.setattr(dask_engine, "_FIRST_WORKER_S", 1.0)
    said: list[str] = []
    with dask() as (address, _, _):
        async with DaskEngine(address, fake_settings(tmp_path), said.append, FakeWorker) as opened:
            with pytest.raises(StorageError, match="no worker is there"):
                await opened.run(Generation(0, fake_parts(10)), lambda value: None)
    assert said == [f"--cluster {address}: no worker is there yet; the run waits for one"]


SCRIPT = """
    import asyncio, pathlib, sys
    from support.fake_parts import FakeWorker, fake_parts, fake_settings
    from oid_async.cluster.dask_engine import DaskEngine
    from oid_async.cluster.published import Generation

    async def main():
        folder = pathlib.Path(sys.argv[1])
        with (folder / "begun").open("a") as file: file.write("x")
        async with DaskEngine("local:2", fake_settings(folder), print, FakeWorker) as engine:
            await engine.run(Generation(0, fake_parts(*[20] * 6)), lambda value: None)

    asyncio.run(main())
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_script_without_a_main_guard_runs_once_and_ends_quietly(tmp_path: Path, rounds: int) -> None:
    """Workers do not import it again; nothing is printed, nothing aborts."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(rounds):
        command = [sys.executable, "-W", "default", str(script), str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (tmp_path / "begun").read_text() == "x" * rounds
