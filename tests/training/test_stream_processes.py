"""Processes of a Stream end with each other, say one line about it, and never hang."""

import os
import pickle
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
from support import streams
from support.slow_origin import origin_in_a_thread

from oid_async.errors import UnavailableError, UsageError
from oid_async.torch import Stream

# Of the dataset of these tests two images answer 404.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.* could not be had")]

_TRAIN = """
import os, sys, time
from oid_async.torch import Stream
stream = Stream(mirror=sys.argv[1], cache_dir=sys.argv[2], window=4)
print(stream._process.pid, stream.address, flush=True)
loader = stream.loader(2, int(sys.argv[3]), **({"multiprocessing_context": "fork"} if sys.argv[3] != "0" else {}))
batches = iter(loader)
next(batches)
print("training", flush=True)
# One long sleep would miss an interrupt that another thread of the process gets.
for _ in range(12_000):
    time.sleep(0.05)
"""
_RANK = """
import os, sys, warnings
import torch, torch.distributed as dist
from oid_async.torch import Stream
warnings.simplefilter("ignore")
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=int(sys.argv[4]), world_size=2)
stream = Stream(mirror=sys.argv[1], cache_dir=sys.argv[2])
ids = [int(target["image_id"], 16) % 2**62 for _, targets in stream.loader(4) for target in targets]
every = [torch.zeros(len(ids), dtype=torch.int64) for _ in range(2)]
dist.all_gather(every, torch.tensor(ids))
print(stream.rank, stream.ranks, len(ids), len(set(torch.cat(every).tolist())))
stream.close()
dist.destroy_process_group()
"""
_NO_GUARD = """
import sys
import polars as pl
pl.DataFrame({"a": range(100_000)}).lazy().group_by(pl.col("a") % 7).len().collect(engine="streaming")
from oid_async.torch import Stream
stream = Stream(mirror=sys.argv[1], cache_dir=sys.argv[2])
loader = stream.loader(4, 2, multiprocessing_context="fork")
print(sum(len(targets) for _, targets in loader))
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder of 23 images, of which two answer 404."""
    return streams.publish(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def options(mirror: Path, cache_dir: Path) -> dict[str, Any]:
    """Return what each Stream of a test is made with."""
    return {"mirror": mirror, "cache_dir": cache_dir}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporaries of the test and of what it starts."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def pid_of(stream: Stream) -> int:
    assert stream._process is not None
    return stream._process.pid


@pytest.mark.parametrize("workers", [0, 2])
def test_who_waits_for_a_killed_downloader_is_told_at_once(lookalike: Path, cache_dir: Path, workers: int) -> None:
    """One line, in the trainer and through a worker's traceback; so does whoever asks later, and the state is kept."""
    with Stream(mirror=lookalike, cache_dir=cache_dir, window=4) as stream:
        loader = stream.loader(2, workers, **({"multiprocessing_context": "fork"} if workers else {}))
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        os.kill(pid_of(stream), signal.SIGKILL)
        with pytest.raises(UnavailableError) as raised:
            for _ in batches:
                pass
        assert re.match(r"^the downloader of this Stream has ended [^\n]*$", str(raised.value))
        with pytest.raises(UnavailableError, match="has ended"):
            next(iter(stream))
        assert loader.state_dict()["position"] >= state["position"]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_downloader_ends_with_its_trainer(lookalike: Path, cache_dir: Path, temporary: Path, workers: int) -> None:
    """However it is ended: the downloader is gone soon after, and its temporary folders with it."""
    with streams.start(_TRAIN, lookalike, cache_dir, workers) as trainer:
        assert trainer.stdout is not None
        pid, address = trainer.stdout.readline().split()
        assert trainer.stdout.readline() == "training\n"
        assert Path(address).exists()
        trainer.kill()
        trainer.wait()
        streams.wait_until(lambda: not streams.is_alive(int(pid)), "the downloader goes on without its trainer")
        streams.wait_until(lambda: not list(temporary.glob("oid_async*")), "a temporary folder is left")


def test_an_interrupt_is_the_trainers_alone(lookalike: Path, cache_dir: Path, temporary: Path) -> None:
    """After Ctrl-C there is one traceback, of the trainer, and nothing is left."""
    with streams.start(_TRAIN, lookalike, cache_dir, 0) as trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline().split()[0])
        assert trainer.stdout.readline() == "training\n"
        os.killpg(trainer.pid, signal.SIGINT)
        err = trainer.communicate(timeout=60)[1]
    assert err.count("Traceback") == 1, err
    assert err.endswith("KeyboardInterrupt\n"), err
    streams.wait_until(lambda: not streams.is_alive(pid), "the downloader goes on")
    assert not list(temporary.glob("oid_async*"))


def test_a_stream_that_nobody_has_ends_its_downloader(options: dict[str, Any], temporary: Path) -> None:
    """Garbage collection ends it; so do `close` and the end of a with block, after which it says so."""
    stream = Stream(**options)
    pid = pid_of(stream)
    del stream
    assert not streams.is_alive(pid)
    with Stream(**options) as closed:
        pid = pid_of(closed)
    closed.close()
    assert not streams.is_alive(pid)
    assert not list(temporary.glob("oid_async*"))
    with pytest.raises(UnavailableError, match="has ended"):
        len(closed)


def test_a_stream_is_small_when_it_goes_to_a_worker(options: dict[str, Any]) -> None:
    """What is pickled is an address and settings; a copy in another process ends nothing."""
    with Stream(image_ids=[f"train/{number:016x}" for number in range(5000)], kinds=["none"], **options) as stream:
        packed = pickle.dumps(stream)
        copy = pickle.loads(packed)
        assert len(packed) < 10_000
        del copy
        assert streams.is_alive(pid_of(stream))


def test_a_long_path_for_temporaries_is_no_obstacle(
    options: dict[str, Any], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has 108 bytes at most: it lies elsewhere then."""
    deep = temporary / ("d" * 120)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with Stream(**options) as stream:
        assert len(list(stream)) == streams.THERE
        assert len(stream.address) < 104


@pytest.mark.parametrize("workers", [0, 2])
def test_tables_that_cannot_be_had_are_one_line(cache_dir: Path, workers: int) -> None:
    """An origin that refuses connections: what `download` would say, through a worker's traceback as well."""
    with Stream(mirror="http://127.0.0.1:9", cache_dir=cache_dir, max_wait=0.2, retries=0) as stream:
        loader = stream.loader(2, workers, **({"multiprocessing_context": "fork"} if workers else {}))
        with pytest.raises(UnavailableError) as raised:
            next(iter(loader))
        assert re.match(r"^[^\n]*127\.0\.0\.1:9[^\n]*$", str(raised.value))
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
            len(stream)


def test_an_unknown_class_is_named(options: dict[str, Any]) -> None:
    """What only the tables can tell raises from the first sample, as `download` does."""
    with Stream(categories=["Catt"], **options) as stream, pytest.raises(UsageError, match="nearest"):
        next(iter(stream))


def test_images_that_cannot_be_had_end_an_epoch_with_an_error(mirror: Path, cache_dir: Path) -> None:
    """A source that is down fails every image in passing: one line with their number, no epoch without samples."""
    origin = streams.CountingOrigin(mirror)
    origin.is_down.set()
    with (
        origin_in_a_thread(origin) as url,
        Stream(mirror=url, cache_dir=cache_dir, max_wait=0.1, retries=0) as stream,
    ):
        with pytest.raises(UnavailableError, match=r"none of the 23 images .* \(server_error 23\)"):
            list(stream)
        origin.is_down.clear()
        assert len(list(stream)) == streams.THERE


def test_a_slow_trainer_slows_the_downloader_down(lookalike: Path, cache_dir: Path) -> None:
    """No more than the window is fetched ahead of what was taken, and of what fits into the sockets."""
    origin = streams.CountingOrigin(lookalike)
    with origin_in_a_thread(origin) as url, Stream(mirror=url, cache_dir=cache_dir, window=8) as stream:
        samples = iter(stream)
        next(samples)
        streams.wait_until(lambda: len(origin.asked) >= 9, "nothing is fetched ahead")
        # Images of the look-alike have some 10 KB; a socket takes some 200 KB.
        asked = len(origin.asked)
        assert asked < 80
        assert len(list(samples)) == len(stream) - 1


def test_final_failures_are_asked_for_once(mirror: Path, cache_dir: Path) -> None:
    """An image that answers 404 is not asked for again in later epochs of the same run."""
    origin = streams.CountingOrigin(mirror)
    with origin_in_a_thread(origin) as url, Stream(mirror=url, cache_dir=cache_dir) as stream:
        for _ in range(3):
            assert len(list(stream)) == streams.THERE
    counts = [origin.asked[f"train/{streams.image_id(number)}.jpg"] for number in range(1, 24)]
    assert counts == [1, 1, *[3] * streams.THERE]


def test_ranks_of_a_process_group(mirror: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Two processes of torch.distributed have as many samples each, and all images between them."""
    arguments = (mirror, cache_dir, tmp_path / "group")
    with streams.start(_RANK, *arguments, 0) as first, streams.start(_RANK, *arguments, 1) as second:
        found = sorted([first.communicate(timeout=100), second.communicate(timeout=100)])
    assert [out for out, _ in found] == [f"{rank} 2 12 {streams.THERE}\n" for rank in range(2)], found


def test_ranks_of_a_launcher(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK and WORLD_SIZE say which rank it is, as torchrun sets them."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with Stream(**options) as stream, warnings.catch_warnings():
        assert (stream.rank, stream.ranks, len(stream)) == (1, 3, 8)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UsageError, match="RANK and WORLD_SIZE"):
        Stream(**options)


def test_a_program_without_a_main_guard_after_polars(mirror: Path, cache_dir: Path) -> None:
    """Forked workers of a plain script, whose parent has used Polars: nothing hangs, everything comes."""
    code, out, err = streams.run(_NO_GUARD, mirror, cache_dir)
    assert (code, out) == (0, f"{streams.THERE}\n"), err
    assert "Traceback" not in err
