"""The JavaScript of the plotting library for a page, made by a process of its own while a run goes on.

Making it takes two seconds, in which the interpreter does nothing else: neither the event loop of a run nor one that is
interrupted can wait for that.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from typing import Self

from oid_async.concurrency import run_to_end
from oid_async.pages import plotting
from oid_async.workers.starter import kill, wait_for_end

_PROGRAM = "oid_async.pages.plotting"


class PlotLibrary:
    """Makes it for `oid_async.pages.plotting`, if it is `wanted`. Use as `async with`.

    `cpu_s` is the CPU time, user and system, of that process once it has ended: it is none of the run's.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._is_wanted = wanted and not plotting.has_bundle()
        self._making: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self.cpu_s = (0.0, 0.0)

    async def __aenter__(self) -> Self:
        if self._is_wanted:
            self._making = asyncio.create_task(self._make(), name="oid_async.plots")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._making is not None:
            self._making.cancel()
            await run_to_end(self._end(self._making))

    @property
    def is_ready(self) -> bool:
        """Return whether a page with plots can be made at once."""
        return plotting.has_bundle()

    async def ready(self) -> None:
        """Wait until it is made; where that fails who makes the page has to make it."""
        if self._making is not None:
            await asyncio.wait([self._making])

    async def _make(self) -> None:
        with suppress(OSError, ValueError):
            self._process = await run_to_end(_start(), release=self._keep)
            told, _ = await self._process.communicate()
            numbers, _, bundle = told.partition(b"\n")
            user, system = json.loads(numbers)
            plotting.keep_bundle(bundle.decode())
            self.cpu_s = (user, system)

    def _keep(self, process: Process) -> None:
        self._process = process

    async def _end(self, making: "asyncio.Task[None]") -> None:
        await asyncio.wait([making])
        if self._process is not None:
            kill(self._process)
            await wait_for_end(self._process)


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable or "", "-P", "-m", _PROGRAM),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,  # signals from a terminal are for the run
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )
