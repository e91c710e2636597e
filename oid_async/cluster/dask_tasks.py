"""What Dask runs on a worker: its PartWorker, one for a run and process, and the task that carries out a part there."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from distributed import WorkerPlugin, get_worker

from oid_async.cluster.published import Part
from oid_async.cluster.work import PartProgress, PartResult, Worker, WorkSettings
from oid_async.events import Hold

MakeWorker = Callable[[WorkSettings], Worker]


class PartPlugin(WorkerPlugin):
    """Has what a worker process needs for one run, which `name` tells from others; made with its first part."""

    def __init__(self, name: str, settings: WorkSettings, make: MakeWorker) -> None:
        self.name = name
        self._settings = settings
        self._make = make

    def setup(self, worker: Any) -> None:
        """Take note that this process may be asked for parts."""
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._is_closed = False

    async def teardown(self, worker: Any) -> None:
        """End what is under way here; the loop of the worker goes on meanwhile."""
        await asyncio.to_thread(self.close)

    def worker(self) -> Worker:
        """Return the worker of parts of this process. Called by several threads."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the run is over")
            if self._worker is None:
                self._worker = self._make(self._settings)
            return self._worker

    def close(self) -> None:
        """End what is under way here."""
        with self._lock:
            self._is_closed = True
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def carry_out(name: str, part: Part, attempt: int) -> PartResult:
    """Carry out a part in this worker process, for the run of this name. Raises as `cluster.work.Worker` does."""
    here = get_worker()
    plugin = cast(PartPlugin, here.plugins[name])

    def report(progress: PartProgress) -> None:
        here.log_event(name, asdict(progress) | {"worker": here.address})

    return plugin.worker().run(part, attempt=attempt, progress=report)


def read_progress(values: Mapping[str, Any]) -> PartProgress:
    """Return what a worker has said of its progress, after its way through Dask's messages."""

    def pairs(found: Iterable[Sequence[Any]]) -> tuple[tuple[str, int], ...]:
        return tuple((kind, count) for kind, count in found)

    holds = tuple(Hold(**{**hold, "kinds": pairs(hold["kinds"])}) for hold in values["holding"])
    notes, failures = tuple(values["notes"]), pairs(values["failures"])
    return PartProgress(**{**values, "failures": failures, "holding": holds, "notes": notes})


def wait_for_worker() -> None:
    """Do nothing: a task that no worker can take tells a cluster that grows and shrinks that parts wait."""
