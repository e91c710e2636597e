"""A small published dataset for `oid_async.torch.Stream`, an origin that counts, and programs that train from it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.origin.server import folder
from support.published import Box, Dataset, Image

IMAGES = 23
MISSING = 2
# Those that the bucket has.
THERE = IMAGES - MISSING
_CLASSES = [("/m/1", "Cat"), ("/m/2", "Dog"), ("/m/3", "Fish")]
_END_S = 30.0


def image_id(number: int) -> str:
    """Return the id of an image: the first two are not in the bucket."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def publish(root: Path) -> Path:
    """Write the dataset as a mirror folder: two images answer 404, each image has as many boxes as its number mod 4."""
    images = [Image(image_id(number), stored=number > MISSING) for number in range(1, IMAGES + 1)]
    boxes = [
        Box(image.image_id, _CLASSES[count % 3][0], flags=(("IsGroupOf", "1" if count == 2 else "0"),))
        for number, image in enumerate(images)
        for count in range(1 + number % 4)
    ]
    return Dataset(_CLASSES, images, boxes).publish(root)


def break_image(root: Path, number: int) -> None:
    """Give an image a table that no decoder takes, behind a header that says nothing of it."""
    path = root / IMAGE_BUCKET / "train" / f"{image_id(number)}.jpg"
    body = bytearray(path.read_bytes())
    body[body.index(b"\xff\xc4") + 5] = 0xFF
    path.write_bytes(body)


class CountingOrigin:
    """A mirror folder that counts the requests for images, by key, and can make the images of some keys wait."""

    def __init__(self, root: Path) -> None:
        self._serve = folder(root)
        self.asked: Counter[str] = Counter()
        self.is_down = threading.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        key = request.path.partition(f"{IMAGE_BUCKET}/")[2]
        if key:
            self.asked[key] += 1
            if self.is_down.is_set():
                return web.Response(status=503)
        return await self._serve(request)


def start(program: str, *args: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a program of Python, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        process_group=0,
    )


def run(program: str, *args: object, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end; return its exit code, stdout and stderr."""
    with start(program, *args, **environment) as process:
        try:
            out, err = process.communicate(timeout=4 * _END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out, err


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail after half a minute."""
    end = time.monotonic() + _END_S
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process runs, and is no mere entry of one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
