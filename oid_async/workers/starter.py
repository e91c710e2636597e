"""Starting worker processes, also early: while the run still decides what they are to fetch.

A worker takes a third of a second of one processor to start, in which a run that only reads its tables leaves all
others idle. A worker that is not needed in the end is stopped before it gets its first message.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from oid_async.concurrency import run_to_end, wait_until_done

_PROGRAM = "oid_async.workers.process"


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """A process that has got no message yet, and the run's end of the socket to it."""

    process: Process
    socket: socket.socket

    async def stop(self) -> None:
        """End the process and wait for its end."""
        # In this order: a signal to one that has just ended by itself would take its exit code away.
        kill(self.process)
        self.socket.close()
        await self.process.wait()


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


async def _spawn(other: socket.socket) -> Process:
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            sys.executable or "",
            "-P",
            "-m",
            _PROGRAM,
            stdin=other.fileno(),
            stdout=DEVNULL,
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
            await spawning.result().wait()
        raise
