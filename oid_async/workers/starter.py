"""Starting worker processes, also ahead of time: while it is being decided what they are to fetch.

A worker takes a third of a second of one processor to come up, in which a run that only reads its tables leaves all
others idle. Who is not needed in the end is sent away before having heard anything.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from oid_async.concurrency import finished, settled

_PROGRAM = "oid_async.workers.process"


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """A process that has not been told anything yet, and our end of the line to it."""

    process: Process
    line: socket.socket

    async def send_away(self) -> None:
        """End the process and wait for that."""
        # In this order: a signal to one that has just ended by itself would take its exit code away.
        kill(self.process)
        self.line.close()
        await self.process.wait()


class WorkerStarter:
    """Up to `count` processes started ahead of time; those that nobody took are sent away. Use as `async with`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._starting: list[asyncio.Task[StartedWorker]] = []

    async def __aenter__(self) -> Self:
        self._starting = [asyncio.create_task(start()) for _ in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finished(self.send_away())

    @property
    def are_there(self) -> bool:
        """Return whether any are left."""
        return bool(self._starting)

    async def send_away(self) -> None:
        """Send away those that nobody took."""
        while self._starting:
            with suppress(OSError):
                await (await self._starting.pop()).send_away()

    async def take(self) -> StartedWorker:
        """Return a process, one of those that were started if there is any left. Raises OSError."""
        while self._starting:
            started = await finished(self._starting.pop())
            if started.process.returncode is None:
                return started
            started.line.close()
        return await start()


async def start() -> StartedWorker:
    """Start a worker process. Raises OSError when that cannot be done."""
    own, its = socket.socketpair()
    try:
        with its:
            return StartedWorker(await _spawn(its), own)
    except BaseException:
        own.close()
        raise


def kill(process: Process) -> None:
    """End a process by force, if it has not ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


async def _spawn(its: socket.socket) -> Process:
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            sys.executable or "",
            "-P",
            "-m",
            _PROGRAM,
            stdin=its.fileno(),
            stdout=DEVNULL,
            stderr=DEVNULL,
            # What a terminal signals is for the run to heed.
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await settled(spawning)
        if not spawning.cancelled() and spawning.exception() is None:
            kill(spawning.result())
            await spawning.result().wait()
        raise
