"""Runs on a real Slurm, on loopback: an array with a killed task, and workers that dask-jobqueue starts.

Slow: Slurm is installed by apt where it is missing and that is allowed, dask-jobqueue comes with the extra slurm-test.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.clusters_page import shown_file
from support.published import run_cli, tree
from support.slow_origin import Slow, origin_in_a_thread
from support.slurm import Slurm, SlurmMissingError, running_slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
# What the page's examples select, here in parts of a few images.
QUERY = ("--category", "Person", "--format", "webdataset", "--no-files", "--part-size", "2500K", "--concurrency", "2")
# What says how it went and where it lies.
ABOUT_THE_RUN = ("report.json", "query.json")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Return a Slurm with eight processors, or skip where there can be none."""
    try:
        with running_slurm(tmp_path_factory.mktemp("slurm")) as slurm:
            yield slurm
    except SlurmMissingError as why:
        pytest.skip(str(why))


@pytest.fixture
def origin() -> Iterator[tuple[str, Slow]]:
    """Return the address of an origin that takes 0.4 s an image, and itself."""
    objects = Slow(staged=False)
    objects.pause_s = 0.4
    with origin_in_a_thread(objects) as url:
        yield url, objects


def run_on_one_machine(url: str, place: Path) -> dict[str, object]:
    """Return what one task outside of any array saves."""
    done = run_cli("download", "--mirror", url, *QUERY, "--savepath", place, "--cluster", "array")
    assert done.code == 0, done.stderr
    return saved(place)


def saved(place: Path) -> dict[str, object]:
    """Return every file of a finished run that says what was saved."""
    return {name: content for name, content in tree(place).items() if name not in ABOUT_THE_RUN}


def test_a_killed_task_of_an_array_leaves_no_gap(slurm: Slurm, origin: tuple[str, Slow], tmp_path: Path) -> None:
    """The page's array, one of four tasks is killed: the others do its parts, and all is what one machine saves."""
    url, objects = origin
    place, script = tmp_path / "person", tmp_path / "download.sh"
    more = f"--mirror {url} {' '.join(QUERY[-4:])}"
    program = f"echo $$ > {tmp_path}/pid-$SLURM_ARRAY_TASK_ID; exec {sys.executable} -m oid_async"
    text = shown_file("download.sh").replace("/shared", str(tmp_path)).replace("\noid-async", f"\n{program}")
    script.write_text(text.replace("--cluster array", f"--cluster array {more}"))
    words = ("--parsable", "--array=0-3", "--mem=1G", "--requeue", "-o", f"{tmp_path}/out-%a.txt")
    job = slurm.call("sbatch", *words, str(script)).strip()
    first_records(place, 3)
    os.kill(int((tmp_path / "pid-2").read_text()), signal.SIGKILL)
    states = slurm.wait(job, seconds=120)
    said = "\n".join(path.read_text() for path in sorted(tmp_path.glob("out-*.txt")))
    assert states == {"0": "COMPLETED", "1": "COMPLETED", "2": "FAILED", "3": "COMPLETED"}, said
    asked = sum(count for key, count in objects.requests.items() if key.endswith(".jpg"))
    objects.pause_s = 0
    assert saved(place) == run_on_one_machine(url, tmp_path / "alone")
    images = len({key for key in objects.requests if key.endswith(".jpg")})
    # What is fetched twice is no more than what was under way: two parts of the killed task.
    print(f"{images} images, {asked} requests, {len(list((place / 'shards').iterdir()))} shards")
    assert asked < 1.5 * images


def test_workers_of_dask_jobqueue_are_joined_by_their_address(
    slurm: Slurm, origin: tuple[str, Slow], tmp_path: Path
) -> None:
    """The page's script starts a scheduler and workers in Slurm jobs; a download joins it, and survives a lost job."""
    pytest.importorskip("dask_jobqueue", reason='needs pip install "oid-async[slurm-test]"')
    url, objects = origin
    place = tmp_path / "data"
    started = time.monotonic()
    with dask_in_slurm(slurm, tmp_path) as address:
        words = ["--mirror", url, *QUERY, "--savepath", str(place), "--cluster", address]
        command = [sys.executable, "-m", "oid_async", "download", *words]
        run = subprocess.Popen(
            command, env=slurm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        first_records(place, 2)
        jobs = slurm.call("squeue", "-h", "-t", "running", "-n", "oid-worker", "-o", "%A").split()
        slurm.call("scancel", "--signal=KILL", "--full", jobs[0])
        _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    print(f"{time.monotonic() - started:.1f} s with jobs {jobs}")
    objects.pause_s = 0
    assert saved(place) == run_on_one_machine(url, tmp_path / "alone")


@contextmanager
def dask_in_slurm(slurm: Slurm, folder: Path) -> Iterator[str]:
    """Run the page's script until the block is left; yield the address of its scheduler."""
    script = folder / "start_workers.py"
    script.write_text(shown_file("start_workers.py"))
    # On this machine alone, which has less memory; the page leaves both to the cluster.
    loopback: Mapping[str, str] = {
        "DASK_JOBQUEUE__SLURM__SCHEDULER_OPTIONS": '{"host": "127.0.0.1", "dashboard_address": None}',
        "DASK_JOBQUEUE__SLURM__WORKER_EXTRA_ARGS": '["--host", "127.0.0.1", "--no-dashboard"]',
        "DASK_JOBQUEUE__SLURM__LOG_DIRECTORY": str(folder),
    }
    command = ["timeout", "240", sys.executable, str(script)]
    environment = {**slurm.environment, **loopback}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def first_records(place: Path, count: int) -> None:
    """Wait until so many parts are committed."""
    end = time.monotonic() + 60
    while len(list((place / ".oid_async/records/00").glob("*.parquet"))) < count:
        assert time.monotonic() < end, "no part is committed"
        time.sleep(0.05)
