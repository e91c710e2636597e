"""Parts by Dask: who does what is decided here (`cluster.dispatch`), Dask carries it there and brings the result.

    Dispatcher ──assignment──▶ Client.submit, at one worker ──▶ carry_out (`cluster.dask_tasks`) ──▶ PartResult
         ▲                                                            │
         └── which workers there are, and are silent: asked of the scheduler     └ PartProgress, as an event

Everything of Dask lives on the loop of a thread of its own. A worker that is lost costs its parts one more try; with a
scheduler that is lost the run ends, and the same command goes on.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, Self

from distributed import KilledWorker
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

from oid_async.cluster.dask_cluster import check_versions, joined_cluster, local_cluster, part_workers, silenced
from oid_async.cluster.dask_tasks import MakeWorker, carry_out, read_progress, wait_for_worker
from oid_async.cluster.dispatch import MOST_LOSSES, Assignment, Dispatcher
from oid_async.cluster.engine_thread import EngineThread
from oid_async.cluster.local_workers import LocalWorkers
from oid_async.cluster.part_worker import PartWorker
from oid_async.cluster.published import Generation
from oid_async.cluster.work import ClosedError, PartProgress, PartResult, WorkSettings
from oid_async.cluster.workers_seen import WorkersSeen
from oid_async.concurrency import set_within
from oid_async.errors import OidError, StorageError

Report = Callable[[PartResult | PartProgress], None]

_LOOK_S = 0.5
_ANSWER_S = 30.0
# So long a run waits for a first worker (of a queue, for example), and for another one when all are lost.
_FIRST_WORKER_S = 1800.0
_NEXT_WORKER_S = 300.0
_TELL_S = 5.0
# A worker of this machine that is silent for so long is ended, and started again.
_END_SILENT_S = 60.0
# So many parts that wait are shown to a cluster that grows and shrinks by what waits.
_MOST_SHOWN = 1000


class DaskEngine:
    """Has parts carried out by Dask's workers: local ones (`local:N`), or those of a cluster that is up.

    Use as `async with`, on any loop. `note` takes lines for the user. Raises UsageError where there is no such cluster.
    """

    def __init__(
        self, cluster: str, settings: WorkSettings, note: Callable[[str], None], make: MakeWorker = PartWorker
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._note = note
        self._make = make
        self._name = f"oid-async-{secrets.token_hex(4)}"
        self._client: Any = None
        self._local: LocalWorkers | None = None
        self._seen = WorkersSeen()
        self._tell: Callable[[str], object] = note

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        try:
            self._stack.enter_context(silenced())
            self._thread = await self._stack.enter_async_context(EngineThread("oid_async-dask"))
            self._opened = AsyncExitStack()
            self._stack.push_async_callback(self._thread.run, self._opened.aclose)
            await self._thread.run(self._open)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    @property
    def workers(self) -> int:
        """How many workers are there at the moment."""
        return len(self._seen.workers)

    async def run(self, generation: Generation, report: Report) -> list[str]:
        """See `cluster.work.Engine`. Raises StorageError when no worker is left, or the scheduler is lost."""
        loop = asyncio.get_running_loop()
        self._tell = lambda text: loop.call_soon_threadsafe(self._note, text)

        def pass_on(value: PartResult | PartProgress) -> None:
            loop.call_soon_threadsafe(report, value)

        dispatcher = Dispatcher(generation.parts, capped=generation.capped)
        return await self._thread.run(lambda: self._carry_out(dispatcher, pass_on))

    async def _open(self) -> None:
        if self._cluster.startswith("local:"):
            count = int(self._cluster.removeprefix("local:"))
            self._client, self._local = await self._opened.enter_async_context(local_cluster(count))
        else:
            self._client = await self._opened.enter_async_context(joined_cluster(self._cluster))
            await check_versions(self._client, self._cluster)
        await self._opened.enter_async_context(part_workers(self._client, self._name, self._settings, self._make))

    async def _carry_out(self, dispatcher: Dispatcher, report: Report) -> list[str]:
        work = _Work(self._client, self._name, dispatcher, report, self._lost)
        self._client.subscribe_topic(self._name, work.on_event)
        watch = asyncio.create_task(self._watch(work))
        try:
            await work.until_over(watch)
        finally:
            watch.cancel()
            work.drop()
            if self._client.status == "running":
                self._client.unsubscribe_topic(self._name)
        return dispatcher.given_up

    async def _watch(self, work: "_Work") -> None:
        """Keep the dispatcher told of the workers. Raises StorageError when there is none for too long."""
        idle_since, has_had, has_told = monotonic(), False, False
        while True:
            await self._look(work)
            now = monotonic()
            if work.dispatcher.usable:
                idle_since, has_had, has_told = now, True, False
            elif now - idle_since > _TELL_S and not has_told:
                has_told = True
                self._tell(
                    f"--cluster {self._cluster}: {'all workers are lost' if has_had else 'no worker is there yet'}"
                    "; the run waits for one"
                )
            limit = _NEXT_WORKER_S if has_had else _FIRST_WORKER_S
            gone = self._local is not None and self._local.are_gone
            if gone or now - idle_since > limit:
                raise StorageError(self._no_worker())
            await asyncio.sleep(_LOOK_S if self.workers < 100 else 4 * _LOOK_S)

    async def _look(self, work: "_Work") -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                identity = await self._client.scheduler.identity(n_workers=-1)
        except (OSError, TimeoutError, AttributeError) as error:
            raise self._lost() from error
        if self._client.status != "running":
            raise self._lost()
        now = monotonic()
        states = self._seen.look(identity["workers"], now)
        work.set_workers(states)
        if self._local is not None:
            for name in self._seen.silent_for(_END_SILENT_S, now):
                self._local.end(str(identity["workers"][name]["name"]))
        else:
            work.show_waiting()

    def _lost(self) -> StorageError:
        where = "" if self._cluster.startswith("local:") else f" at {self._cluster}"
        return StorageError(
            f"the Dask scheduler{where} is lost; what has been committed stays: run the same command again to go on"
        )

    def _no_worker(self) -> str:
        if self._local is not None:
            why = f" ({self._local.trouble})" if self._local.trouble else ""
            return (
                f"--cluster {self._cluster}: no worker process can be started{why}; mend that, and run again to go on"
            )
        return (
            f"--cluster {self._cluster}: no worker is there, and none has come; start some, and run the same command "
            "again to go on"
        )


async def check_joining(cluster: str) -> None:
    """Raise UsageError if the cluster at an address cannot be joined, or has another version of the program."""

    async def join() -> None:
        async with joined_cluster(cluster) as client:
            await check_versions(client, cluster)

    with silenced():
        async with EngineThread("oid_async-dask") as thread:
            await thread.run(join)


class _Work:
    """The parts of one generation at the workers: assignments that are out, and what has come back."""

    def __init__(
        self, client: Any, name: str, dispatcher: Dispatcher, report: Report, lost: Callable[[], StorageError]
    ) -> None:
        self._lost = lost
        self.dispatcher = dispatcher
        self._client = client
        self._name = name
        self._report = report
        self._out: dict[int, Any] = {}
        self._waiters: set[asyncio.Task[None]] = set()
        self._shown: list[Any] = []
        self._changed = asyncio.Event()
        self._error: BaseException | None = None

    async def until_over(self, watch: "asyncio.Task[None]") -> None:
        """Hand out parts until all are done or given up. Raises what stops the run."""
        watch.add_done_callback(lambda _: self._changed.set())
        while not self.dispatcher.is_over:
            while (each := self.dispatcher.next(monotonic())) is not None:
                self._submit(each)
            self._changed.clear()
            await set_within(self._changed, _LOOK_S)
            if self._error is not None:
                raise self._error
            if watch.done():
                watch.result()

    def set_workers(self, states: Any) -> None:
        """Take note of which workers there are now."""
        for number in self.dispatcher.workers(states):
            self._out.pop(number, None)
        self._changed.set()

    def show_waiting(self) -> None:
        """Let a cluster that grows by what waits see how many parts do: by tasks that no worker can take."""
        wanted = min(self.dispatcher.wanting, _MOST_SHOWN)
        while len(self._shown) < wanted:
            key = f"oid-async-waiting-{secrets.token_hex(8)}"
            future = self._client.submit(wait_for_worker, key=key, pure=False, resources={f"{self._name}-none": 1})
            self._shown.append(future)
        del self._shown[wanted:]

    def on_event(self, event: tuple[float, Any]) -> None:
        """Pass on how far a part is."""
        self._report(read_progress(event[1]))

    def drop(self) -> None:
        """Let go of everything that is out: what runs at a worker ends there by itself."""
        for waiter in self._waiters:
            waiter.cancel()
        self._out.clear()
        self._shown.clear()

    def _submit(self, each: Assignment) -> None:
        future = self._client.submit(
            carry_out,
            self._name,
            each.part,
            each.attempt,
            key=f"{self._name}-{each.part.name}-{each.run}",
            workers=[each.worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._out[each.run] = future
        waiter = asyncio.create_task(self._wait(each, future))
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)

    async def _wait(self, each: Assignment, future: Any) -> None:
        try:
            result = await future
        except FutureCancelledError:
            if self._client.status != "running":
                self._error = self._error or self._lost()
            self.dispatcher.lost(each.run, 0)
        except CommClosedError:
            # The scheduler went while it handed out this result.
            self._error = self._error or self._lost()
        except KilledWorker:
            # Dask counts by itself, up to the number that its configuration allows.
            self.dispatcher.lost(each.run, MOST_LOSSES if self._client.status == "running" else 0)
        except ClosedError:
            self.dispatcher.lost(each.run, 0)  # the cluster takes its worker away
        except OidError as error:
            if not isinstance(error, StorageError) or not self.dispatcher.refused(each.run, monotonic()):
                self._error = self._error or error
        except Exception as error:
            self._error = self._error or error
        else:
            self.dispatcher.ended(each.run, result, monotonic())
            self._report(result)
        self._out.pop(each.run, None)
        self._changed.set()
