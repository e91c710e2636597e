"""The worker processes of `--cluster local:N`, as the run has them: started, started again, stopped."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from oid_async.system.processes import available_processors

_PROGRAM = "oid_async.cluster.local_worker"
_LAST_S = 2.0
# A worker that ends so soon after its start has not begun: after some such starts in a row it is not started again.
_START_S = 10.0
_MOST_STARTS = 3
_PAUSES_S = (0.0, 0.5, 2.0)
_EARLY_S = 0.2


class LocalWorkers:
    """N processes that join one scheduler; each is started again when it ends too early. Use as `async with`."""

    def __init__(self, count: int, address: str, folder: Path) -> None:
        self._count = count
        self._address = address
        self._folder = folder
        self._processes: dict[str, Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self.trouble = ""

    async def __aenter__(self) -> "LocalWorkers":
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.wait(self._keepers)
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        if self._processes:
            ends = [asyncio.ensure_future(process.wait()) for process in self._processes.values()]
            await asyncio.wait(ends, timeout=_LAST_S + 0.5)
            for process in self._processes.values():
                _kill(process)
            await asyncio.wait(ends)

    @property
    def are_gone(self) -> bool:
        """Return whether no process is left, and none is started any more."""
        return all(keeper.done() for keeper in self._keepers)

    def end(self, name: str) -> None:
        """End a worker by force, by the name that it has in Dask: one that is stopped cannot end itself."""
        if (process := self._processes.get(name)) is not None:
            _kill(process)

    async def _keep(self, number: int) -> None:
        """Keep one worker running."""
        failed_starts = starts = 0
        while failed_starts < _MOST_STARTS:
            await asyncio.sleep(_PAUSES_S[failed_starts])
            starts += 1
            name, began = f"local-{number}-{starts}", monotonic()
            try:
                process = await self._start(name)
            except OSError as error:
                self.trouble, failed_starts = f"{error.strerror or error}", failed_starts + 1
                continue
            self._processes[name] = process
            code = await process.wait()
            del self._processes[name]
            is_early = monotonic() - began < _START_S
            failed_starts = failed_starts + 1 if is_early and code == 1 else 0
            if is_early and code != 1:
                await asyncio.sleep(_EARLY_S)
            if code == 1:
                self.trouble = _last_line(self._folder / f"{name}.err")

    async def _start(self, name: str) -> Process:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment.setdefault("POLARS_MAX_THREADS", str(max(1, available_processors() // self._count)))
        with (self._folder / f"{name}.err").open("wb") as errors:
            return await asyncio.create_subprocess_exec(
                sys.executable or "",
                *self._words(name),
                stdin=PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                # Signals from a terminal are for the run.
                start_new_session=True,
                env=environment,
            )

    def _words(self, name: str) -> Sequence[str]:
        return ("-P", "-m", _PROGRAM, self._address, name, str(self._folder))


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


def _last_line(path: Path) -> str:
    """Return the last line that a worker has written, as a rule its error."""
    lines: list[Any] = []
    with suppress(OSError):
        lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
