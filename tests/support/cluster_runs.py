"""Whole runs past one machine: an origin that counts, the program as processes that are killed, what a place holds."""

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl
import psutil
from aiohttp import web

from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.openimages.vocabulary import Split
from oid_async.origin.server import published_object
from support.published import Box, Dataset, Finished, Image
from support.seaweed import Seaweed, s3_environment
from support.slow_origin import origin_in_a_thread

MARK = "OID_ASYNC_TEST_RUN"
# With a mirror an image is forecast by the published sizes, about 300 KB: so many of them make a part of `PART_SIZE`.
PART_SIZE = "4M"
LABELS = (("/m/01", "Cat"), ("/m/02", "Dog"), ("/m/03", "Straße"))
# Nobody says these of a run that goes well, whatever else it says.
NOISE = ("Traceback", "distributed", "WARNING", "ERROR", "Debug source", "resource_tracker", "Task was destroyed")


def small_dataset(images: int = 240, seed: int = 20) -> Dataset:
    """Return a dataset of two splits: some images have no box, some are not in the bucket."""
    drawn = random.Random(seed)
    made: list[Image] = []
    boxes: list[Box] = []
    for number in range(images):
        split: Split = "validation" if number % 5 == 0 else "train"
        image = Image(f"{drawn.getrandbits(64):016x}", split=split, stored=number % 23 != 7)
        made.append(image)
        boxes += [
            Box(image.image_id, drawn.choice(LABELS)[0], f"0.{drawn.randrange(9)}", split) for _ in range(number % 4)
        ]
    return Dataset(LABELS, made, drawn.sample(boxes, len(boxes)))


class CountingOrigin:
    """Serves a mirror folder from memory, each image `pause_s` late, and writes down when each image was asked for.

    `on_image` is called with each image's key and the port of who asks, before the answer; it may kill.
    """

    def __init__(self, root: Path, pause_s: float = 0.02) -> None:
        self.pause_s = pause_s
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.on_image: Callable[[str, int], None] = lambda key, port: None
        self._bodies = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request as the public buckets do."""
        key = request.match_info["key"]
        if key.startswith(IMAGE_BUCKET):
            self.asked[key.removeprefix(f"{IMAGE_BUCKET}/").removesuffix(".jpg")] += 1
            self.times.append(time.monotonic())
            assert request.transport is not None
            self.on_image(key, request.transport.get_extra_info("peername")[1])
            await asyncio.sleep(self.pause_s)
        if key not in self._bodies:
            raise web.HTTPNotFound
        return published_object(request, self._bodies[key], "image/jpeg" if key.endswith("jpg") else "text/csv")

    def forget(self) -> None:
        """Count from zero again."""
        self.asked.clear()
        self.times.clear()

    def worst_second(self) -> int:
        """Return the most requests for images that came within any one second."""
        times, first, worst = sorted(self.times), 0, 0
        for last, moment in enumerate(times):
            while moment - times[first] >= 1.0:
                first += 1
            worst = max(worst, last - first + 1)
        return worst


@contextmanager
def counting_origin(root: Path, pause_s: float = 0.02) -> Iterator[tuple[str, CountingOrigin]]:
    """Serve a mirror folder from a thread; yield the address and the counts."""
    origin = CountingOrigin(root, pause_s)
    with origin_in_a_thread(origin) as url:
        yield url, origin


def pid_behind(port: int) -> int | None:
    """Return the process that has this port of loopback as its own end of a connection."""
    for found in psutil.net_connections("tcp4"):
        if found.laddr and found.laddr.port == port and found.pid and found.pid != os.getpid():
            return int(found.pid)
    return None


class Command:
    """The program as a process of its own, and all the processes that it starts, which can be found by a mark."""

    def __init__(self, *args: object, folder: Path, env: Mapping[str, str] | None = None, program: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = uuid.uuid4().hex
        self._outputs = folder / f"{self._mark}.out", folder / f"{self._mark}.err"
        command = [sys.executable, "-m", program or "oid_async", *map(str, args)]
        with self._outputs[0].open("wb") as out, self._outputs[1].open("wb") as err:
            marked = os.environ | {MARK: self._mark} | dict(env or {})
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=marked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Return all that live of it: the program, its workers, whoever was left without a parent."""
        return [process for process in psutil.process_iter() if _has_mark(process, self._mark)]

    def workers(self) -> list[psutil.Process]:
        """Return the workers that its engine has started."""
        return [process for process in self.processes() if "oid_async.cluster.local_worker" in _words(process)]

    def output(self) -> tuple[str, str]:
        """Return what it has written so far."""
        out, err = (path.read_text(errors="replace") for path in self._outputs)
        return out, err

    def finish(self, timeout_s: float = 60) -> Finished:
        """Wait for its end; say what it has written if it does not come."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s: {self.output()[1][-3000:]}") from None
        return Finished(code, *self.output())

    def wait_for(self, what: Callable[[], object], timeout_s: float = 60) -> bool:
        """Wait until something is true; False if the program ends before."""
        end = time.monotonic() + timeout_s
        while not what():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, f"it never came: {self.output()[1][-3000:]}"
            time.sleep(0.01)
        return True

    def left_after(self, seconds: float) -> list[str]:
        """Return the processes that still live after so many seconds at most."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return [_words(process) for process in left]


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; False if the process has gone by itself."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


@dataclass(frozen=True)
class Place:
    """Somewhere that a run writes to: the arguments that say so, the environment it needs, and all that it holds."""

    args: Sequence[object]
    read: Callable[[], dict[str, bytes]]
    env: Mapping[str, str] = field(default_factory=dict)


def folder_place(path: Path) -> Place:
    """Return a shared folder as a place."""

    def read() -> dict[str, bytes]:
        files = [each for each in path.rglob("*") if each.is_file()]
        return {str(each.relative_to(path)): each.read_bytes() for each in files}

    return Place(("--savepath", path), read)


def bucket_place(server: Seaweed, name: str, url: str | None = None) -> Place:
    """Return a prefix of the bucket `fire` as a place; runs reach the server by another `url`, if one is given."""
    client = server.client()

    def read() -> dict[str, bytes]:
        keys = server.keys("fire", f"{name}/")
        bodies = {key: client.get_object(Bucket="fire", Key=key)["Body"].read() for key in keys}
        return {key.removeprefix(f"{name}/"): body for key, body in bodies.items()}

    return Place(("--savepath", f"s3://fire/{name}"), read, s3_environment(url or server.url))


def published_of(objects: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what a place shows its users, in a form that two runs of one query share: Parquet as rows, JSON as values.

    What tells of a run or of a storage, not of the images, is left out: seconds, requests, places, ETags.
    """
    return {key: _comparable(key, body) for key, body in objects.items() if not key.startswith(".oid_async/")}


def _comparable(key: str, body: bytes) -> Any:
    if key == "manifest.parquet":
        return pl.read_parquet(io.BytesIO(body)).to_dicts()
    if key == "shards.json":
        listed = json.loads(body)
        for shard in listed["shards"]:
            shard.pop("etag", None)
        return listed
    if key == "report.json":
        report = json.loads(body)
        same = ("selected", "present", "downloaded", "failed", "pending", "bad_rows", "failures", "sources")
        return {"rows": report["selected"], **{name: report[name] for name in same[3:] if name in report}}
    if key == "query.json":
        document = json.loads(body)
        return document | {"query": document["query"] | dict.fromkeys(("savepath", "endpoint_url", "cache_dir"))}
    return hashlib.md5(body, usedforsecurity=False).hexdigest() if key.startswith("shards/") else body


def assert_same(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    """Compare two places object by object: none lost, none left over, none different."""
    ours, theirs = published_of(found), published_of(expected)
    assert sorted(ours) == sorted(theirs)
    different = [key for key in ours if ours[key] != theirs[key]]
    assert not different, f"{different}: {[(ours[key], theirs[key]) for key in different[:1]]}"


def records_of(objects: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the rows of all records, in order of their keys."""
    bodies = (body for key, body in sorted(objects.items()) if key.startswith(".oid_async/records/"))
    return [row for body in bodies for row in pl.read_parquet(io.BytesIO(body)).to_dicts()]


def planned_parts(objects: Mapping[str, bytes]) -> set[str]:
    """Return generation and name of every part that is published."""
    prefix = ".oid_async/plan/"
    keys = (key for key in objects if key.startswith(prefix) and key.endswith(".parquet"))
    return {key.removeprefix(prefix).removesuffix(".parquet") for key in keys}


def recorded_parts(objects: Mapping[str, bytes]) -> set[str]:
    """Return generation and name of every part that is committed."""
    prefix = ".oid_async/records/"
    return {key.removeprefix(prefix).removesuffix(".parquet") for key in objects if key.startswith(prefix)}


def images_of(objects: Mapping[str, bytes], parts: set[str]) -> set[str]:
    """Return split/ImageID of the images of published parts."""
    found: set[str] = set()
    for part in parts:
        split = part.partition("/")[2].rpartition("-")[0]
        ids = pl.read_parquet(io.BytesIO(objects[f".oid_async/plan/{part}.parquet"]), columns=["ImageID"])
        found |= {f"{split}/{image_id}" for image_id in ids["ImageID"]}
    return found


def noise_in(text: str) -> list[str]:
    """Return the lines that no user should see."""
    return [line for line in text.splitlines() if any(word in line for word in NOISE)]
