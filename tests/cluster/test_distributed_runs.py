"""Whole runs past one machine, as a user starts them: engines, exit codes, an interrupt, several at one place."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.published import counted_origin, publish_lookalike, tree

import oid_async
from oid_async.errors import UsageError

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("dask")]
IMAGES, PARTS = 40, 14
QUERY = ("--split", "validation", "--format", "webdataset", "--no-files", "--part-size", "1M")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder with the look-alike, which nobody changes."""
    return publish_lookalike(tmp_path_factory.mktemp("mirror"))


async def begun(place: Path, *words: str, **environment: str) -> Process:
    """Start the program."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oid_async", "download", *QUERY, "--savepath", str(place), *words),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | environment,
    )


async def ended(process: Process) -> tuple[int, dict[str, Any], str]:
    """Return exit code, the report of --json, and what was said."""
    stdout, stderr = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode is not None
    return process.returncode, json.loads(stdout or "{}"), stderr.decode()


async def run(place: Path, *words: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """Run the program to its end."""
    return await ended(await begun(place, "--json", *words, **environment))


def shards(place: Path) -> dict[str, bytes]:
    """Return the bytes of shards by name."""
    return {path.name: path.read_bytes() for path in (place / "shards").iterdir()}


def records(place: Path) -> int:
    """Return how many parts are committed."""
    return len(list((place / ".oid_async" / "records").rglob("*.parquet")))


async def until_committed(place: Path, count: int) -> None:
    """Wait until so many parts are committed."""
    end = time.monotonic() + 60
    while records(place) < count:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def images(asked: Counter[str]) -> Counter[str]:
    """Return how often each image was asked for."""
    return Counter({key: count for key, count in asked.items() if key.endswith(".jpg")})


async def test_every_engine_brings_the_same_bytes(mirror: Path, tmp_path: Path) -> None:
    """Local workers and one process alone; a run on a finished place asks for no image and starts nothing."""
    async with counted_origin(mirror) as (url, asked):
        code, report, said = await run(tmp_path / "array", "--cluster", "array", "--mirror", url)
        assert (code, report["selected"], report["downloaded"]) == (0, IMAGES, IMAGES)
        assert "by this process" in said
        assert set(images(asked).values()) == {1}
        asked.clear()
        code, report, _ = await run(tmp_path / "array", "--cluster", "local:2", "--mirror", url)
        assert (code, report["present"], report["requests"]) == (0, IMAGES, 0)
        assert not images(asked)
    code, report, said = await run(tmp_path / "local", "--cluster", "local:2", "--mirror", str(mirror))
    assert (code, report["downloaded"], report["failed"], report["pending"]) == (0, IMAGES, 0, 0)
    assert report["requests"] == IMAGES
    assert report["sources"] == {"cvdf": IMAGES}
    assert "by 2 workers on this machine" in said
    assert "distributed" not in said
    assert "tornado" not in said
    assert shards(tmp_path / "local") == shards(tmp_path / "array")


async def test_a_part_of_an_earlier_generation_is_made_again_once_its_record_is_removed(tmp_path: Path) -> None:
    """As the end advises where a shard is lost, also after another generation; no other image is asked for."""
    mirror, place = publish_lookalike(tmp_path / "mirror"), tmp_path / "place"
    gone = sorted((mirror / "open-images-dataset" / "validation").glob("*.jpg"))[0]
    gone.unlink()
    async with counted_origin(mirror) as (url, asked):
        words = ("--cluster", "array", "--mirror", url)
        code, report, _ = await run(place, *words)
        assert (code, report["downloaded"], report["failed"]) == (1, IMAGES - 1, 1)
        code, report, _ = await run(place, *words, "--retry-failed")
        assert (code, report["failed"], records(place)) == (1, 1, PARTS + 1)
        (place / "shards" / "validation-000005.tar").unlink()
        code, report, _ = await run(place, *words)
        assert code == 3
        assert "records/00/validation-000005.parquet" in str(report)
        before = shards(place)
        (place / ".oid_async" / "records" / "00" / "validation-000005.parquet").unlink()
        asked.clear()
        code, report, _ = await run(place, *words)
        assert (code, report["selected"], report["failed"], report["pending"]) == (1, IMAGES, 1, 0)
        assert sum(images(asked).values()) == report["downloaded"] == 3
    assert records(place) == PARTS + 1
    assert before.items() < shards(place).items()
    assert shards(place).keys() - before.keys() == {"validation-000005.tar"}


async def test_a_killed_task_of_an_array_leaves_no_gap(mirror: Path, tmp_path: Path) -> None:
    """The others carry its parts out and make the end, whoever is first."""
    async with counted_origin(mirror) as (url, _):
        words = ("--json", "--cluster", "array", "--mirror", url, "--concurrency", "1")
        job = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_JOB_ID": "9"}
        place = tmp_path / "place"
        tasks = [await begun(place, *words, SLURM_ARRAY_TASK_ID=str(4 + index), **job) for index in range(3)]
        await until_committed(place, 1)
        tasks[1].kill()
        ends = [await ended(task) for task in tasks]
    assert [code for code, _, _ in ends] == [0, -9, 0]
    for _, report, _ in (ends[0], ends[2]):
        assert (report["selected"], report["failed"], report["pending"]) == (IMAGES, 0, 0)
    assert len(list((place / "shards").iterdir())) == PARTS


@pytest.mark.parametrize(("cluster", "number"), [("local:2", signal.SIGINT), ("array", signal.SIGTERM)])
async def test_an_interrupted_run_ends_soon_and_the_next_one_goes_on(
    mirror: Path, tmp_path: Path, cluster: str, number: signal.Signals
) -> None:
    """Within five seconds, with 130 or 143; then only parts without a record are asked for."""
    async with counted_origin(mirror) as (url, asked):
        words = ("--cluster", cluster, "--mirror", url, "--concurrency", "1")
        place = tmp_path / "place"
        process = await begun(place, "--json", *words)
        await until_committed(place, 1)
        since = time.monotonic()
        process.send_signal(number)
        code, report, said = await ended(process)
        assert time.monotonic() - since < 5
        assert code == 128 + number
        assert report["interrupted"]
        assert report["selected"] == IMAGES == sum(report[name] for name in ("present", "downloaded", "pending"))
        assert "run the same command again to go on" in said
        committed = records(place)
        asked.clear()
        code, report, _ = await run(place, *words)
    assert (code, report["present"] + report["downloaded"]) == (0, IMAGES)
    assert sum(images(asked).values()) <= IMAGES - 2 * committed
    assert len(list((place / "shards").iterdir())) == PARTS


async def test_two_runs_of_one_query_share_a_place(mirror: Path, tmp_path: Path) -> None:
    """Started at the same moment: both end well, and the place is as one run leaves it."""
    async with counted_origin(mirror) as (url, _):
        words = ("--json", "--cluster", "array", "--mirror", url)
        both = [await begun(tmp_path / "place", *words) for _ in range(2)]
        ends = [await ended(process) for process in both]
        assert [(code, report["selected"], report["failed"]) for code, report, _ in ends] == [(0, IMAGES, 0)] * 2
        await run(tmp_path / "one", *words)
    assert shards(tmp_path / "place") == shards(tmp_path / "one")


async def test_what_fails_is_asked_again_by_the_next_run_alone(mirror: Path, tmp_path: Path) -> None:
    """Final failures with --retry-failed, by a generation of their own; --max-failures allows them."""
    missing = sorted((mirror / "open-images-dataset" / "validation").iterdir())[:2]
    away = [path.rename(path.with_suffix(".away")) for path in missing]
    place = tmp_path / "place"
    async with counted_origin(mirror) as (url, asked):
        words = ("--cluster", "array", "--mirror", url)
        try:
            code, report, said = await run(place, *words)
            assert (code, report["failures"]) == (1, {"not_found": 2})
            assert f"{place}/failures.csv" in said
            asked.clear()
            code, report, _ = await run(place, *words, "--max-failures", "2")
            assert (code, report["failed"], report["present"]) == (0, 2, IMAGES - 2)
            assert not images(asked)
        finally:
            for path in away:
                path.rename(path.with_suffix(".jpg"))
        code, report, said = await run(place, *words, "--retry-failed")
        assert (code, report["failed"], report["downloaded"]) == (0, 0, 2)
        assert sum(images(asked).values()) == 2
        assert "2 images failed before and are asked for again" in said
        code, report, _ = await run(place, *words, "--category", "Person")
        assert code == 2
        assert "holds another query" in report["error"]["message"]
        before = tree(place)
        code, report, _ = await run(place, "--mirror", url, "--part-size", "512M")
        assert code == 2
        assert "only --cluster goes on with" in report["error"]["message"]
        assert tree(place) == before


async def test_with_a_rate_one_worker_asks(mirror: Path, tmp_path: Path) -> None:
    """It is said before the start, and holds for all workers together."""
    async with counted_origin(mirror) as (url, asked):
        since = time.monotonic()
        words = ("--mirror", url, "--rate", "20")
        code, report, said = await run(tmp_path / "place", "--cluster", "local:3", *words)
    assert (code, report["failed"]) == (0, 0)
    assert "by one of 3 workers on this machine alone, as a rate cap holds" in said
    assert time.monotonic() - since > sum(images(asked).values()) / 20 - 1


async def test_a_program_awaits_it_on_its_own_loop(mirror: Path, tmp_path: Path) -> None:
    """Cancelled, it leaves nothing running; awaited again it goes on. The loop turns all the time."""
    given: dict[str, Any] = {
        "splits": ["validation"],
        "format": "webdataset",
        "no_files": True,
        "savepath": tmp_path / "place",
        "cluster": "local:2",
        "mirror": mirror,
        "part_size": "1M",
    }
    first = asyncio.create_task(oid_async.download(**given))
    await until_committed(tmp_path / "place", 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    report = await oid_async.download(**given)
    assert report.present + report.downloaded == report.selected == 40
    assert report.present >= 1
    with pytest.raises(UsageError, match="--offline"):
        await oid_async.download(**given, offline=True)


async def test_a_wrong_address_is_found_before_any_table_is_fetched(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of a large split are gigabytes; nothing is written either."""
    monkeypatch.setattr("oid_async.cluster.dask_cluster._CONNECT_S", 1.0)
    async with counted_origin(mirror) as (url, asked):
        with pytest.raises(UsageError, match="no Dask scheduler answers"):
            await oid_async.download(
                savepath=tmp_path / "place",
                cluster="tcp://127.0.0.1:1",
                format="webdataset",
                no_files=True,
                mirror=url,
                cache_dir=tmp_path / "cache",
            )
    assert not asked
    assert not (tmp_path / "place").exists()


async def test_a_place_of_something_else_is_refused_before_any_table_is_fetched(mirror: Path, tmp_path: Path) -> None:
    """Foreign shards, and another query: nothing is asked for."""
    shard = tmp_path / "taken" / "shards" / "train-000000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"x")
    same: dict[str, Any] = {"cluster": "array", "format": "webdataset", "no_files": True, "splits": ["validation"]}
    local = {"mirror": mirror, "cache_dir": tmp_path / "c", **same, "cluster": "local:1"}
    await oid_async.download(savepath=tmp_path / "a", **local)
    async with counted_origin(mirror) as (url, asked):
        asks: dict[str, Any] = {"mirror": url, "cache_dir": tmp_path / "cache", **same}
        with pytest.raises(UsageError, match="no plan of a download"):
            await oid_async.download(savepath=tmp_path / "taken", **asks)
        with pytest.raises(UsageError, match="another query"):
            await oid_async.download(savepath=tmp_path / "a", limit=3, **asks)
    assert not asked
