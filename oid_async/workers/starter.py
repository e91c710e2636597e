"""How many worker processes a run has, and their start, also early: while the run decides what they are to fetch.

A worker takes a third of a second of one processor to start, in which a run that only reads its tables leaves all
others idle. A worker that is not needed in the end is stopped before it gets its first message.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from oid_async.concurrency import run_to_end, wait_until_done
from oid_async.options.query import Options
from oid_async.options.readers import amount
from oid_async.quick_values import frozen
from oid_async.system.sockets import can_share_sockets

_PROGRAM = "oid_async.workers.process"
# Starting a worker takes half a second of one core's time. Of images of the usual 300 KB, 4,000 take two thirds of the
# time with one more process; of images of 24 KB, 5,000 take as long with it as without (measured, two cores).
_IMAGES_EACH = 2_500
# More than two were not measured: more than four start only if --processes names them.
_MOST_AUTO = 4


@frozen
class StartedWorker:
    """A process that has got no message yet, and the run's end of the socket to it."""

    process: Process
    socket: socket.socket

    async def stop(self) -> None:
        """End the process and wait for its end."""
        # In this order: a signal to one that has just ended by itself would take its exit code away.
        kill(self.process)
        self.socket.close()
        await wait_for_end(self.process)


class WorkerStarter:
    """Starts `count` processes early, and stops those that were not taken. Use as `async with`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._starting: list[asyncio.Task[StartedWorker]] = []

    async def __aenter__(self) -> Self:
        self._starting = [asyncio.create_task(start()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await run_to_end(self.stop_unused())

    @property
    def has_unused(self) -> bool:
        """Return whether a process that was started early is left."""
        return bool(self._starting)

    async def stop_unused(self) -> None:
        """Stop the processes that were not taken."""
        while self._starting:
            with suppress(OSError):
                await (await self._starting.pop()).stop()

    async def take(self) -> StartedWorker:
        """Return a process, one that was started early if any is left. Raises OSError."""
        while self._starting:
            started = await run_to_end(self._starting.pop())
            if started.process.returncode is None:
                return started
            started.socket.close()
        return await start()


async def start() -> StartedWorker:
    """Start a worker process. Raises OSError when that cannot be done."""
    own, other = socket.socketpair()
    try:
        with other:
            return StartedWorker(await _spawn(other), own)
    except BaseException:
        own.close()
        raise


def kill(process: Process) -> None:
    """End a process by force, if it has not ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


async def wait_for_end(process: Process) -> int:
    """Wait until a process has ended, and return its exit code; then nothing of it is open here."""
    code = await process.wait()
    assert process.stdout is not None
    await process.stdout.read()
    return code


async def _spawn(other: socket.socket) -> Process:
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            sys.executable or "",
            "-P",
            "-m",
            _PROGRAM,
            stdin=other.fileno(),
            stdout=PIPE,  # its heartbeat
            stderr=DEVNULL,
            # Signals from a terminal are for the run.
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await wait_until_done(spawning)
        if not spawning.cancelled() and spawning.exception() is None:
            kill(spawning.result())
            await wait_for_end(spawning.result())
        raise


def early_workers(options: Options, processors: int, listed: int | None = None) -> int:
    """Return how many workers to start before the images are known: one, if many images are likely.

    A list names `listed` images at most.

    >>> early_workers(Options(processes="auto"), 8), early_workers(Options(processes="auto", limit=100), 8)
    (1, 0)
    >>> early_workers(Options(processes="auto"), 8, 100), early_workers(Options(processes="auto"), 8, 100_000)
    (0, 1)
    >>> early_workers(Options(), 8)
    0
    """
    if options.rate or options.limit_rate is not None or options.offline or options.packs or processors < 2:
        return 0
    if not can_share_sockets():
        return 0
    # How many images a share is, or one split's -1, is not known before they are selected.
    counts = amount(options.limit)
    numbers = counts.values() if isinstance(counts, Mapping) else (counts,)
    most = sum(number if isinstance(number, int) else _IMAGES_EACH for number in numbers)
    few = most < _IMAGES_EACH or (listed is not None and listed < _IMAGES_EACH)
    return int(options.processes == "auto" and not few)


def process_count(options: Options, uncapped: int, max_transfers: int, processors: int) -> int:
    """Return how many processes share the work, this one included.

    `uncapped` images are requested from hosts without a cap; at most `max_transfers` are under way at once.

    >>> process_count(Options(processes="auto"), 2000, 64, 8), process_count(Options(processes="auto"), 5000, 64, 8)
    (1, 3)
    >>> process_count(Options(processes=2), 100, 64, 8), process_count(Options(processes=2, rate=10.0), 100, 64, 8)
    (2, 1)
    """
    # A cap, on requests or bytes, is counted by one process, and one can do all that a cap allows.
    if not uncapped or options.rate or options.limit_rate is not None or options.offline or not can_share_sockets():
        return 1
    if isinstance(options.processes, int):
        return min(options.processes, max_transfers)
    return max(1, min(processors, _MOST_AUTO, max_transfers, 1 + uncapped // _IMAGES_EACH))
