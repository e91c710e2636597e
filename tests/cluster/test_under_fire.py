"""Whole runs past one machine while workers, drivers, schedulers fail: nothing is lost, nothing is twice."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.cluster_runs import (
    PART_SIZE,
    Command,
    CountingOrigin,
    Place,
    assert_same,
    bucket_place,
    counting_origin,
    folder_place,
    images_of,
    kill,
    noise_in,
    pid_behind,
    planned_parts,
    recorded_parts,
    small_dataset,
)
from support.faulty_storage import Fault, FaultyStorage
from support.seaweed import Seaweed, seaweed

from oid_async import download
from oid_async.objects.store import Objects
from oid_async.options.places import Bucket

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# So many images have a box, of 240.
IMAGES = 180
# How many rounds the slow tests take; the quick ones take 3.
ROUNDS = int(os.environ.get("OID_ASYNC_ROUNDS", "50"))
DASK = "distributed.cli.dask"
RESETS: tuple[Fault, ...] = ("reset",)
NewPlace = Callable[[str], Place]


class Field:
    """An origin, and commands that download from it with three workers."""

    def __init__(self, url: str, origin: CountingOrigin, folder: Path) -> None:
        self.url, self.origin, self.folder = url, origin, folder
        self.reference: dict[str, bytes] = {}
        # One cache for all runs; a folder for temporaries, to see what is left there.
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.env = {"OID_ASYNC_CACHE": str(folder / "cache"), "TMPDIR": str(self.temporary)}

    def download(self, place: Place, *args: object, cluster: str = "local:3", **env: str) -> Command:
        """Start a download to a place."""
        words = [
            "download",
            "--no-files",
            "--format",
            "webdataset",
            "--mirror",
            self.url,
            "--split",
            "all",
            *place.args,
        ]
        words += ["--cluster", cluster, "--part-size", PART_SIZE, "--max-failures", "50", *args]
        return Command(*words, folder=self.folder / "outputs", env={**place.env, **self.env, **env})

    def run_alone(self, place: Place) -> dict[str, bytes]:
        """Return what one task leaves, with nothing going wrong."""
        with self.download(place, cluster="array") as command:
            ended = command.finish()
        assert ended.code == 0, ended.stderr
        assert not noise_in(ended.stderr)
        return place.read()


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Serve 240 images, and have them downloaded by one task of nothing going wrong, to compare with."""
    folder = tmp_path_factory.mktemp("field")
    with counting_origin(small_dataset().publish(folder / "mirror"), pause_s=0.1) as served:
        made = Field(*served, folder)
        made.reference = made.run_alone(folder_place(folder / "reference"))
        assert len(recorded_parts(made.reference)) > 9
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """Return a SeaweedFS with an empty bucket `fire`."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as started:
        started.make_bucket("fire")
        yield started


@pytest.fixture(params=["folder", "bucket"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> NewPlace:
    """Return what makes places to download to: folders, or prefixes of a bucket."""
    if request.param == "folder":
        return lambda name: folder_place(tmp_path / name)
    started = request.getfixturevalue("server")
    return lambda name: bucket_place(started, f"{tmp_path.name}/{name}")


@pytest.fixture
def new_folder(tmp_path: Path) -> NewPlace:
    """Return what makes folders to download to, for what does not depend on the storage."""
    return lambda name: folder_place(tmp_path / name)


def killed_round(field: Field, place: Place, number: int) -> str:
    """Kill a worker at a random moment of a run; compare all that it leaves. Return a line about it."""
    drawn = random.Random(number)
    field.origin.forget()
    begun = time.monotonic()
    enough, pause_s = drawn.randrange(1, IMAGES), drawn.random() * 0.3
    with field.download(place) as command:
        fate = "no worker left to kill"
        if command.wait_for(lambda: len(field.origin.times) >= enough):
            time.sleep(pause_s)
            workers = command.workers()
            if workers and kill(drawn.choice(workers)):
                fate = f"a worker killed at request {len(field.origin.times)}"
        ended = command.finish(120)
        assert ended.code == 0, ended
        assert not noise_in(ended.stderr), ended.stderr
        assert not command.left_after(5)
    found = place.read()
    assert_same(found, field.reference)
    assert recorded_parts(found) == planned_parts(found)
    assert not any("~" in key or "#" in key for key in found), "an orphan"
    return f"round {number}: {fate}, {len(field.origin.times)} requests, {time.monotonic() - begun:.1f} s"


@pytest.mark.parametrize("number", range(3))
def test_a_killed_worker_costs_nothing(field: Field, new_place: NewPlace, number: int) -> None:
    """Every object is as after a run on one machine."""
    print(killed_round(field, new_place("killed"), number))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_workers_cost_nothing_in_many_rounds(field: Field, new_place: NewPlace) -> None:
    """The same, often; a line a round."""
    for number in range(100, 100 + ROUNDS):
        print(killed_round(field, new_place(f"killed-{number}"), number), flush=True)


def test_a_storage_that_fails_now_and_then_is_left_whole(field: Field, server: Seaweed, tmp_path: Path) -> None:
    """A tenth of its requests fails, some after they were carried out: the same objects, and no others."""
    for number in range(200, 203):
        print(faulty_round(field, server, f"{tmp_path.name}/{number}", number))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_faulty_storage_is_left_whole_in_many_rounds(field: Field, server: Seaweed, tmp_path: Path) -> None:
    """The same, often; a line a round."""
    for number in range(300, 300 + ROUNDS):
        print(faulty_round(field, server, f"{tmp_path.name}/{number}", number), flush=True)


def faulty_round(field: Field, server: Seaweed, name: str, number: int) -> str:
    """Kill a worker while requests to the storage fail; compare all that is left."""
    with FaultyStorage(server.url, share=0.1, seed=number) as faulty:
        done = killed_round(field, bucket_place(server, name, faulty.url), number)
        return f"{done}, storage: {sum(faulty.requests.values())} requests, {dict(faulty.faults)}"


def test_a_reset_before_the_start_is_no_wrong_storage(server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is reset while the place is checked is tried again."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    with FaultyStorage(server.url, share=1.0, kinds=RESETS) as faulty:

        def heal() -> None:
            while not faulty.faults:
                time.sleep(0.01)
            faulty.share = 0.0

        threading.Thread(target=heal, daemon=True).start()
        Objects(Bucket("s3", "fire"), endpoint_url=faulty.url).check()
        assert faulty.faults["reset"] > 0


def test_a_killed_driver_is_run_again(field: Field, new_place: NewPlace) -> None:
    """Its workers end with it, and the next run asks the origin for images of parts without a record alone."""
    place = new_place("driver")
    field.origin.forget()
    with field.download(place) as command:
        assert command.wait_for(lambda: len(field.origin.times) >= 100)
        kill(psutil.Process(command.process.pid))
        assert not command.left_after(15)
    left = place.read()
    assert "manifest.parquet" not in left
    open_parts = planned_parts(left) - recorded_parts(left)
    assert open_parts
    field.origin.forget()
    with field.download(place) as command:
        ended = command.finish()
    assert ended.code == 0, ended
    assert set(field.origin.asked) == images_of(left, open_parts)
    assert max(field.origin.asked.values()) == 1
    assert_same(place.read(), field.reference)


def test_a_stopped_worker_is_copied(field: Field, new_folder: NewPlace) -> None:
    """The run ends by copies of what it holds, and leaves no process."""
    place = new_folder("stopped")
    field.origin.forget()
    with field.download(place) as command:
        assert command.wait_for(lambda: len(field.origin.times) >= 40)
        assert kill(command.workers()[0], signal.SIGSTOP)
        ended = command.finish(120)
        assert ended.code == 0, ended
        assert not noise_in(ended.stderr), ended.stderr
        assert not command.left_after(5)
    assert_same(place.read(), field.reference)


def test_a_part_that_kills_its_workers_is_named(field: Field, new_folder: NewPlace) -> None:
    """All other parts are committed, the end is not made; it works once the part does no harm."""
    place = new_folder("deadly")
    deadly = f"{sorted(images_of(field.reference, planned_parts(field.reference)))[50]}.jpg"

    def strike(key: str, port: int) -> None:
        if key.endswith(deadly) and (pid := pid_behind(port)):
            os.kill(pid, signal.SIGKILL)

    field.origin.on_image = strike
    try:
        with field.download(place) as command:
            ended = command.finish(180)
            assert not command.left_after(5)
    finally:
        field.origin.on_image = lambda key, port: None
    left = place.read()
    missing = planned_parts(left) - recorded_parts(left)
    assert ended.code == 3, ended
    assert len(missing) == 1, missing
    assert missing.pop().partition("/")[2] in ended.stderr
    assert not noise_in(ended.stderr), ended.stderr
    assert "manifest.parquet" not in left
    with field.download(place) as command:
        ended = command.finish()
    assert ended.code == 0, ended
    assert_same(place.read(), field.reference)


@contextmanager
def dask_cluster(folder: Path, workers: int = 3) -> Iterator[tuple[str, Command]]:
    """Start a scheduler and workers by hand; yield the address and the scheduler."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    quiet = ("--no-dashboard", "--host", "127.0.0.1")
    scheduler = Command(*quiet, "--port", 0, "--scheduler-file", file, folder=folder, program=f"{DASK}_scheduler")
    with scheduler:
        assert scheduler.wait_for(file.exists)
        some = ("--nworkers", workers, "--nthreads", 2, "--local-directory", folder)
        with Command(*quiet, *some, "--scheduler-file", file, folder=folder, program=f"{DASK}_worker"):
            yield json.loads(file.read_text())["address"], scheduler


def test_a_lost_scheduler_is_run_again(field: Field, new_folder: NewPlace, tmp_path: Path) -> None:
    """One line that says so, exit code 3; with another scheduler the run goes on, for the open parts alone."""
    place = new_folder("scheduler")
    field.origin.forget()
    with dask_cluster(tmp_path) as (address, scheduler), field.download(place, cluster=address) as command:
        assert command.wait_for(lambda: len(field.origin.times) >= 100)
        scheduler.process.kill()
        ended = command.finish(60)
    assert ended.code == 3, ended
    assert not noise_in(ended.stderr), ended.stderr
    left = place.read()
    open_parts = planned_parts(left) - recorded_parts(left)
    assert open_parts
    field.origin.forget()
    with dask_cluster(tmp_path) as (address, _), field.download(place, cluster=address) as command:
        ended = command.finish(60)
    assert ended.code == 0, ended
    assert not noise_in(ended.stderr), ended.stderr
    assert set(field.origin.asked) == images_of(left, open_parts)
    assert_same(place.read(), field.reference)


def test_a_rate_holds_over_all_workers(field: Field, new_folder: NewPlace) -> None:
    """With three workers the worst second at the origin has no more requests than one more than the rate."""
    field.origin.forget()
    with field.download(new_folder("rate"), "--rate", 60) as command:
        ended = command.finish()
    assert ended.code == 0, ended
    assert field.origin.worst_second() <= 61


def test_tasks_of_an_array_fill_gaps(field: Field, new_folder: NewPlace) -> None:
    """Of three tasks one is killed; the others commit its parts, and one of them makes the end."""
    place = new_folder("array")
    field.origin.forget()
    with ExitStack() as stack:
        tasks = []
        for task in range(3):
            names = {"TASK_ID": task, "JOB_ID": 77, "TASK_COUNT": 3, "TASK_MIN": 0, "TASK_MAX": 2}
            slurm = {f"SLURM_ARRAY_{name}": str(value) for name, value in names.items()}
            tasks.append(stack.enter_context(field.download(place, cluster="array", **slurm)))
        assert tasks[1].wait_for(lambda: len(field.origin.times) >= 60)
        tasks[1].process.kill()
        for task in (0, 2):
            ended = tasks[task].finish()
            assert ended.code == 0, ended
            assert not noise_in(ended.stderr), ended.stderr
    assert_same(place.read(), field.reference)


def small_job(field: Field, place: Place) -> None:
    """Run a job of a few images to its end: nothing aborts, nothing is said that should not be, nothing is left."""
    with field.download(place, "--ndata", 12, cluster="local:2") as command:
        ended = command.finish()
        assert ended.code == 0, ended
        assert not noise_in(ended.stderr), ended.stderr
        assert not command.left_after(3)


def test_a_small_job_ends_cleanly(field: Field, new_folder: NewPlace) -> None:
    """No abort at exit, no stray output, no process left."""
    small_job(field, new_folder("small"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_jobs_end_cleanly_each_time(field: Field, new_place: NewPlace) -> None:
    """Thirty times."""
    for number in range(30):
        small_job(field, new_place(f"small-{number}"))


async def test_a_program_downloads_within_its_own_loop(field: Field, new_folder: NewPlace) -> None:
    """`await download(cluster=...)` reports as the command does, and a cancelled one leaves nothing behind."""
    place, stopped = new_folder("awaited"), new_folder("cancelled")
    words: dict[str, Any] = {
        "mirror": field.url,
        "splits": ["all"],
        "no_files": True,
        "format": "webdataset",
        "part_size": PART_SIZE,
        "max_failures": 50,
    }
    before = set(psutil.Process().children(recursive=True))
    report = await download(savepath=str(place.args[1]), cluster="local:2", **words)
    assert (report.selected, report.downloaded + report.failed) == (IMAGES, IMAGES)
    assert_same(place.read(), field.reference)
    running = asyncio.ensure_future(download(savepath=str(stopped.args[1]), cluster="local:2", **words))
    field.origin.forget()
    while len(field.origin.times) < 40:  # noqa: ASYNC110 - the origin is in another thread
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=5)
    assert not alive
    assert len(asyncio.all_tasks()) == 1
