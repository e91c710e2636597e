"""The worker pool: the worker processes of a run as the run sees them, and what happens when one dies.

    scheduler ──delegate──▶ WorkerPool ──images──▶ worker process: one attempt each, bodies checked, written, renamed
      ▲ ▲                                    │
      │ └──return_external──── returned ◀────┤
      └────finish_external──── results ◀─────┘──▶ collector: journal, report, sink

The run goes on fetching by itself; workers take as many images as they have space for. They are given only images of
hosts that are well and not capped, so that one process alone counts a cap, waits for a host and probes it. An image
that needs more than one attempt comes back to the scheduler with the state of its attempts. The images of a dead worker
come back as if they had not been requested, except for files that it had already renamed to their final names: these
are adopted.

A worker is started with `python -m`, never forked, and ends with its run: it sees its socket close.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from oid_async.concurrency import in_thread, run_to_end
from oid_async.errors import OidError, StorageError
from oid_async.http.host import Host
from oid_async.http.hosts import Hosts, host_name
from oid_async.http.urls import parse_url
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS
from oid_async.report import Outcome
from oid_async.transfer.collector import Collector
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Failed, ImageTransfer, PartialBody, Target
from oid_async.transfer.scheduler import HostScheduler, InHand
from oid_async.workers.heartbeat import reason_to_end
from oid_async.workers.messages import (
    LINE_BYTES,
    Fields,
    Results,
    WorkerSettings,
    encode,
    pack_target,
    read_line,
    unpack_error,
)
from oid_async.workers.starter import WorkerStarter, kill, wait_for_end

# What a worker has ahead lasts for `_AHEAD_S` at the speed that it had in the last `_LOOK_S`. A turn of this process's
# loop takes some 8 ms where it stores images as well, and on a busy machine it waits some dozen more for a processor:
# 80 ms outlast both. `_MOST_AHEAD` bounds what a quick one (6,400 images a second) still has when others have no more.
_LEAST_AHEAD, _MOST_AHEAD = 192, 512
_AHEAD_S = 0.08
_LOOK_S = 0.25
_SEND_AT_ONCE = 32
_STOP_S = 2.0
_SILENT_S = 60.0  # beyond the longest attempt
_GRACE_S = 0.3
# A worker that died is replaced once: what ended it may end the next one, too.
_STARTS = 2


class Lookahead:
    """How many images a worker is given in addition to those that it transfers: `images`.

    As many as it fetches while this process is at something else, such as its own images or the disk; no more, as in
    the end the other processes have nothing to do while it finishes these.
    """

    def __init__(self, transfers: int) -> None:
        self._least = min(_LEAST_AHEAD, transfers)
        self._finished = 0
        self._since = 0.0
        self.images = self._least

    def note_finished(self, count: int, now: float) -> None:
        """Count images that it has finished; every quarter of a second its speed is looked at."""
        self._finished += count
        if (took := now - self._since) >= _LOOK_S:
            self.images = max(self._least, min(round(self._finished / took * _AHEAD_S), _MOST_AHEAD))
            self._finished, self._since = 0, now


class WorkerPool:
    """`size` worker processes, taken from `starter`; `supervise` starts them.

    `adopt` returns the Outcome of a file that a dead worker has left under its final name, `images` is the folder where
    workers store, `notify` is called with texts for the user.
    """

    def __init__(
        self,
        size: int,
        settings: WorkerSettings,
        hosts: Hosts,
        adopt: Callable[[str, str, str | None, str | None], Outcome | None],
        *,
        images: Path,
        notify: Callable[[str], None],
        starter: WorkerStarter,
    ) -> None:
        self.starter = starter
        self.settings = settings
        self.hosts = hosts
        self.adopt = adopt
        self.images = images
        self.notify = notify
        self._size = size
        self._stopping = asyncio.Event()
        first = object_url(IMAGE_BUCKET, "", settings.mirror) if settings.sources[0] == "cvdf" else None
        self._bucket = host_name(parse_url(first)) if first is not None else None
        self._workers: list[_Worker] = []

    @property
    def is_stopping(self) -> bool:
        """Return whether nothing is left to do."""
        return self._stopping.is_set()

    @property
    def max_transfers(self) -> int:
        """Return how many images all workers may request at once."""
        return self._size * self.settings.max_transfers

    @property
    def requests(self) -> int:
        """Return how many requests the workers have sent."""
        return sum(worker.requests for worker in self._workers)

    def supervise(
        self, fetcher: Fetcher, collector: Collector, scheduler: HostScheduler[ImageTransfer]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield one coroutine for each worker, which runs from its start to its end."""
        self._workers = [_Worker(self, fetcher, collector, scheduler) for _ in range(self._size)]
        self.hosts.on_close = self._send_host
        for worker in self._workers:
            yield worker.run()

    def accept_target(self, target: Target) -> bool:
        """Give a worker with space an image that is first requested from the bucket; return whether one had space."""
        is_usual = self._bucket is not None and target.known is None and target.sources is None
        plain = is_usual and target.subset in SPLITS
        return plain and self._assign(target, self.hosts.named(self._bucket or ""))

    def accept(self, transfer: ImageTransfer) -> bool:
        """Give a worker an image for which no request was made yet; return whether one had space for it."""
        is_new = not (transfer.earlier_attempts or transfer.attempts.made or transfer.was_returned)
        return is_new and self._assign(transfer.target, transfer.host)

    def _assign(self, target: Target, host: Host) -> bool:
        worker = max(self._workers, key=_space)
        if worker.space <= 0 or not host.is_healthy(now := self.hosts.clock()):
            return False
        worker.assign(target, host, now)
        return True

    async def wait_for_early_end(self) -> None:
        """Wait whether the run ends before a worker would have started: then none is started."""
        if self.starter.has_unused:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _GRACE_S)

    def in_hand(self) -> list[InHand]:
        """Return what the workers are fetching, but for those whose results wait to be recorded."""
        return [of_host for worker in self._workers for of_host in worker.in_hand()]

    def hanging(self) -> Counter[str]:
        """Return how many transfers of the workers hang, by the name of their host."""
        return sum((worker.hanging for worker in self._workers), Counter())

    @property
    def starting(self) -> int:
        """Return how many workers have not said yet that they are ready."""
        return sum(worker.is_starting for worker in self._workers)

    def stop(self) -> None:
        """Let all workers and their coroutines end: nothing is left to fetch."""
        self._stopping.set()
        for worker in self._workers:
            worker.stop()

    def _send_host(self, host: Host) -> None:
        # To all of them, whatever they were given: a redirect may lead to any host.
        for worker in self._workers:
            worker.send_host(host)


class _Worker:
    """One worker process, and the images that are assigned to it: no more than it has space for."""

    def __init__(
        self, pool: WorkerPool, fetcher: Fetcher, collector: Collector, scheduler: HostScheduler[ImageTransfer]
    ) -> None:
        self._pool = pool
        self._fetcher = fetcher
        self._collector = collector
        self._scheduler = scheduler
        self._ahead = Lookahead(pool.settings.max_transfers)
        self._assigned: dict[str, tuple[Target, Host, float]] = {}
        self._unsent: list[Fields] = []
        self._known_hosts: set[str] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_ready = False
        self.hanging: Counter[str] = Counter()
        self._may_send = False
        self._has_worked = False
        self._end_reason: str | None = None
        self._requests = 0
        self._earlier_requests = 0
        # Bounded by what is assigned.
        self._results: asyncio.Queue[Results | StorageError | None] = asyncio.Queue()

    @property
    def requests(self) -> int:
        return self._earlier_requests + self._requests

    @property
    def is_starting(self) -> bool:
        return self._process is not None and self._may_send and not self._is_ready

    @property
    def space(self) -> int:
        if not self._is_ready:
            return 0
        return self._pool.settings.max_transfers + self._ahead.images - len(self._assigned)

    def in_hand(self) -> list[InHand]:
        """Return what is being fetched; nothing while there are results to be recorded."""
        if not self._results.empty():
            return []
        counts = Counter(host for _, host, _ in self._assigned.values())
        last = max((began for _, _, began in self._assigned.values()), default=0.0)
        return [(host, count, last + self._pool.settings.limits.attempt_s) for host, count in counts.items()]

    def assign(self, target: Target, host: Host, now: float) -> None:
        self._assigned[target.image_id] = (target, host, now)
        if host.name not in self._known_hosts:
            self._known_hosts.add(host.name)
            self.send_host(host)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_images)
        self._unsent.append(pack_target(target))
        if len(self._unsent) >= _SEND_AT_ONCE:
            self._send_images()

    def send_host(self, host: Host) -> None:
        """Send the state of a host."""
        gone = host.gave_up
        gave_up = [gone.kind, str(gone)] if gone is not None else None
        self._send("host", host.name, host.not_before, host.etags.is_md5, gave_up)

    def stop(self) -> None:
        if self._is_ready:
            self._send_end()
            asyncio.get_running_loop().call_later(_STOP_S, self._kill)
        elif self._process is not None:
            # Nothing is assigned to it; waiting until it has started would cost what the run has just saved.
            self._kill()

    async def run(self) -> None:
        """Start the process, read its messages, and start it once more if it dies at work."""
        await self._pool.wait_for_early_end()
        for _ in range(_STARTS):
            if self._pool.is_stopping:
                return
            try:
                code = await self._run_process()
            except OSError as error:
                why = error.strerror or error
                self._pool.notify(f"a worker process cannot be started ({why}); the run goes on without it")
                return
            if self._pool.is_stopping:
                return
            await self._recover(code)
            if not self._has_worked:
                return

    async def _run_process(self) -> int:
        """Run one process and return its exit code. However this ends, the process has ended."""
        started = await self._pool.starter.take()
        self._process, self._end_reason = started.process, None
        self._pool.hosts.measures.workers += 1
        try:
            reader, self._writer = await asyncio.open_connection(sock=started.socket, limit=LINE_BYTES)
        except BaseException:
            await run_to_end(started.stop())
            raise
        try:
            if self._pool.is_stopping:
                self._kill()
            self._writer.write(self._pool.settings.encode())
            self._may_send = True
            for host in self._pool.hosts.closed():
                self.send_host(host)
            try:
                await self._read_messages(reader)
            except asyncio.CancelledError:
                if self._is_ready:
                    await run_to_end(self._drain(reader))
                else:
                    self._kill()
                raise
        finally:
            self._is_ready = self._may_send = False
            self.hanging.clear()
            self._has_worked |= self._requests > 0
            self._earlier_requests, self._requests = self.requests, 0
            self._known_hosts.clear()
            self._unsent.clear()
            self._writer.close()
            await run_to_end(self._wait_for_end())
        return self._process.returncode or 0

    async def _read_messages(self, reader: asyncio.StreamReader) -> None:
        """Apply all messages of the process. Those about a host count at once, however long results wait."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch_heartbeat())
            group.create_task(self._record_results())
            while line := await self._read_line(reader):
                self._apply(line)
            watching.cancel()
            self._results.put_nowait(None)

    async def _watch_heartbeat(self) -> None:
        """Kill a process that is stopped or blocked; what it has in hand then comes back as that of a dead one."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._end_reason = await reason_to_end(self._process.stdout)
        if self._end_reason is not None:
            self._kill()

    async def _read_line(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next line. A process that sends nothing for longer than any attempt takes is killed."""
        while True:
            try:
                async with asyncio.timeout(self._pool.settings.limits.attempt_s + _SILENT_S):
                    return await read_line(reader)
            except TimeoutError:
                if self._assigned and self._results.empty():
                    self._kill()

    async def _record_results(self) -> None:
        """Record results as fast as the collector takes them; there are no more than were assigned."""
        while (results := await self._results.get()) is not None:
            if isinstance(results, StorageError):
                raise results
            await self._record(results)

    def _apply(self, line: bytes) -> None:
        kind, *content = json.loads(line)
        if kind == "ready":
            self._is_ready = True
            self._scheduler.finish_external(0)  # wakes the feeder: there is space now
            if self._pool.is_stopping:
                self._send_end()
        elif kind == "results":
            self._requests = content[0]
            self._take_results(Results.unpack(content[1], content[2], self._pool.images))
        elif kind == "returned":
            self._take_back(*content)
        elif kind == "trouble":
            self._apply_trouble(*content)
        elif kind == "measures":
            self._pool.hosts.measures.add_packed(content[0])
        elif kind == "hanging":
            self.hanging = Counter(content[0])
        elif kind == "note":
            self._pool.hosts.notify_once(content[0])
        elif kind == "stopped":
            stopped_by, text = content
            if stopped_by == StorageError.kind:
                self._results.put_nowait(StorageError(text))  # ends the run, once all earlier results are recorded
            else:
                self._pool.notify(f"a worker process has failed, which is a bug: {text}")

    def _take_results(self, results: Results) -> None:
        """Record copies here and now if nothing has to be waited for.

        By a task it would be a turn of the loop later, some 8 ms where it stores images as well, and the process would
        have run out of images before it gets the next ones.
        """
        if results.outcomes or not self._results.empty() or not self._collector.is_quick:
            self._results.put_nowait(results)
            return
        if results.copies.image_ids:
            self._collector.record_copies_now(results.copies)
        self._finish(results)

    async def _record(self, results: Results) -> None:
        await self._collector.record_results(results.copies, results.outcomes)
        self._finish(results)
        if self._collector.delivers:
            await self._collector.deliver([*results.copies.outcomes(), *results.outcomes])

    def _finish(self, results: Results) -> None:
        copies, outcomes = results.copies, results.outcomes
        stored = [outcome.image_id for outcome in outcomes if outcome.status == "downloaded"]
        for image_id in (*copies.image_ids, *stored):
            _, host, began = self._assigned.pop(image_id)
            host.served(began)
        for outcome in outcomes:
            if outcome.status == "failed":
                del self._assigned[outcome.image_id]
        count = len(copies.image_ids) + len(outcomes)
        self._ahead.note_finished(count, self._pool.hosts.clock())
        self._scheduler.finish_external(count)

    def _take_back(
        self,
        requests: int,
        image_id: str,
        state: str,
        attempts: Fields,
        partial: Fields | None,
        delay_s: float,
    ) -> None:
        """Give an image whose attempt was not the last back to the scheduler."""
        self._requests = requests
        target, _, _ = self._assigned.pop(image_id)
        transfer = self._fetcher.restore(target, state)
        assert isinstance(transfer, ImageTransfer), "an image without a source left has failed"
        transfer.was_returned = True
        transfer.attempts.made, seen, transfer.attempts.waited_s = attempts
        transfer.attempts.seen.update(seen)
        transfer.partial = PartialBody(*partial) if partial is not None else None
        now = self._pool.hosts.clock()
        if delay_s > 0:
            # All processes share one budget of retries for a host.
            delay_s = max(delay_s, transfer.host.retry_delay_s(now))
            transfer.host.note_wait("retry_after" if transfer.attempts.waited_s else "backoff", now, now + delay_s)
        self._scheduler.return_external(transfer, delay_s)

    def _apply_trouble(
        self, name: str, method: str, packed: Fields, asked: Fields, began: float, silent: bool, has_answered: bool
    ) -> None:
        """Apply an error of the worker to a host, as if it had happened here, and send the worker the new state."""
        host, error, now = self._pool.hosts.named(name), unpack_error(packed), self._pool.hosts.clock()
        host.has_answered |= has_answered
        if method == "asked_to_wait":
            host.asked_to_wait(error, began, now)
        elif method == "unreachable":
            host.connect_failed(error, (asked[0], asked[1]), began, now)
        else:
            host.request_failed(error, began, now, no_response=silent)
        self.send_host(host)

    async def _recover(self, code: int) -> None:
        """Take back the images of a dead worker: what it has stored is adopted, the rest is requested again."""
        had_images = bool(self._assigned)
        restarted = [self._fetcher.start(target) for target, _, _ in self._assigned.values()]
        transfers = [transfer for transfer in restarted if isinstance(transfer, ImageTransfer)]
        failed = [end.outcome for end in restarted if isinstance(end, Failed)]
        self._assigned.clear()
        how = f"ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
        if self._end_reason is not None:
            how = f"{self._end_reason} and was ended"
        follows = "what it had in hand is asked for again" if had_images else "it had nothing in hand"
        self._pool.notify(f"a worker process {how}; {follows}")
        ended = failed + await in_thread(self._adopt, transfers)
        await self._collector.record(ended)
        recorded = {outcome.image_id for outcome in ended}
        for transfer in transfers:
            if transfer.target.image_id not in recorded:
                self._scheduler.return_external(transfer, 0.0)
        self._scheduler.finish_external(len(ended))
        await self._collector.deliver(ended)

    def _adopt(self, transfers: list[ImageTransfer]) -> list[Outcome]:
        """Return the outcomes of the images that are stored already."""
        found = []
        for transfer in transfers:
            target, expected = transfer.target, transfer.target.original
            size = str(expected.size) if expected.size is not None else None
            outcome = self._pool.adopt(target.image_id, target.file_name, size, expected.md5)
            if outcome is not None:
                found.append(
                    replace(
                        outcome,
                        status="downloaded",
                        source=transfer.source,
                        url=transfer.recorded_url,
                        attempts=1,
                        subset=target.subset,
                    )
                )
        return found

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        """Stop a process at work, and record what it has stored until then."""
        self._send_end()
        with suppress(TimeoutError, OidError):
            while not self._results.empty():
                if isinstance(results := self._results.get_nowait(), Results):
                    await self._collector.record_results(results.copies, results.outcomes)
            async with asyncio.timeout(_STOP_S):
                while line := await read_line(reader):
                    kind, *content = json.loads(line)
                    if kind == "results":
                        self._requests = content[0]
                        results = Results.unpack(content[1], content[2], self._pool.images)
                        await self._collector.record_results(results.copies, results.outcomes)
                    elif kind == "measures":
                        self._pool.hosts.measures.add_packed(content[0])

    async def _wait_for_end(self) -> None:
        """Wait until the process has ended: by itself in a moment, or by force."""
        if self._process is None:
            return
        with suppress(TimeoutError):
            # Its socket is closed: it ends by itself. A signal to one that just has would take its exit code away.
            async with asyncio.timeout(_STOP_S / 2):
                await self._process.wait()
        self._kill()
        await wait_for_end(self._process)

    def _kill(self) -> None:
        assert self._process is not None
        kill(self._process)

    def _send_end(self) -> None:
        """End the stream to the process: it then stops."""
        if self._may_send and self._writer is not None and not self._writer.is_closing():
            self._may_send = False
            with suppress(OSError):
                self._writer.write_eof()

    def _send_images(self) -> None:
        if self._unsent:
            images, self._unsent = self._unsent, []
            self._send("images", images)

    def _send(self, *message: Any) -> None:
        if self._may_send and self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(*message))


_space = attrgetter("space")
