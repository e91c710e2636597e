"""The worker processes of a run, seen from the run: who is given what, what comes of it, and what if one dies.

    lanes ──offer──▶ Crew ──images──▶ worker process: one attempt each, bodies checked, written, renamed
      ▲ ▲                                   │
      │ └──bring──── back: not settled ◀────┤
      └────settle─── landed ◀───────────────┘──▶ collector: journal, report, sink

The run goes on fetching by itself; workers take what they have room for. They are given only images of hosts that are
well and not capped, so that one process alone counts a cap, waits for a host and probes it. What a worker cannot settle
in one attempt comes back into the lanes with all that was learnt, and what a dead one had in hand as if nobody had
asked for it, but for files that it had already given their names: they are adopted.

A worker is started with `python -m`, never forked, and is gone when the run is: it sees its line close.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from oid_async.concurrency import finished, in_thread
from oid_async.errors import OidError, StorageError
from oid_async.http.hosts import Host, Hosts, host_name
from oid_async.http.urls import parse_url
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS
from oid_async.report import Outcome
from oid_async.transfer.collector import Collector
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Failed, ImageTransfer, PartialBody, Target
from oid_async.transfer.scheduler import HostScheduler
from oid_async.workers.messages import (
    LINE_BYTES,
    WorkerSettings,
    line,
    next_line,
    pack_target,
    unpack_error,
    unpack_outcomes,
)
from oid_async.workers.starter import WorkerStarter, kill

Adopt = Callable[[str, str, str | None, str | None], Outcome | None]

# What a worker has in hand beyond what it transfers: enough while this process is busy with something else.
_AHEAD = 192
_SEND_AT_ONCE = 32
_STOP_S = 2.0
_SILENT_S = 60.0  # beyond the longest attempt
_GRACE_S = 0.3
# One that died is replaced once; whatever ends it may lie in wait for the next one, too.
_LIVES = 2


class WorkerPool:
    """`size` worker processes. `adopt` takes back a file that a dead one has left under its final name.

    `images` is where they store, `tell` is given what a user should know, `starter` are where they come from.
    """

    def __init__(
        self,
        size: int,
        settings: WorkerSettings,
        hosts: Hosts,
        adopt: Adopt,
        *,
        images: Path,
        tell: Callable[[str], None],
        starter: WorkerStarter,
    ) -> None:
        self.starter = starter
        self.settings = settings
        self.hosts = hosts
        self.adopt = adopt
        self.images = images
        self.tell = tell
        self._dismissed = asyncio.Event()
        first = object_url(IMAGE_BUCKET, "", settings.mirror) if settings.sources[0] == "cvdf" else None
        self._bucket = host_name(parse_url(first)) if first is not None else None
        self._members = [_Worker(self) for _ in range(size)]

    @property
    def is_dismissed(self) -> bool:
        """Whether there is nothing more to do."""
        return self._dismissed.is_set()

    @property
    def transfers(self) -> int:
        """How many transfers all of them may have on at once."""
        return len(self._members) * self.settings.workers

    @property
    def requests(self) -> int:
        """How many requests the workers have sent."""
        return sum(member.requests for member in self._members)

    def members(
        self, fetcher: Fetcher, collector: Collector, scheduler: HostScheduler[ImageTransfer]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what looks after each worker process, from its start to its end."""
        self.hosts.on_close = self._tell_of
        for member in self._members:
            yield member.run(fetcher, collector, scheduler)

    def take(self, target: Target) -> bool:
        """Give an image of the plan to a worker that has room for it; return whether that was done.

        Only what is asked of the bucket first, as nearly all is: nothing has to be parsed to see that.
        """
        plain = self._bucket is not None and target.known is None and target.subset in SPLITS
        return plain and self._give(target, self.hosts.named(self._bucket or ""))

    def take_job(self, job: ImageTransfer) -> bool:
        """Do the same with a job that nobody has made a request for yet."""
        return not (job.before or job.attempts.made or job.is_back) and self._give(job.target, job.host)

    def _give(self, target: Target, host: Host) -> bool:
        member = min(self._members, key=_load)
        now = self.hosts.clock()
        if not member.has_room or not host.is_well(now):
            return False
        member.give(target, host, now)
        return True

    async def wait_a_moment(self) -> None:
        """Wait whether the run is over before a worker would be up: then none need be started."""
        if self.starter.are_there:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._dismissed.wait(), _GRACE_S)

    def dismiss(self) -> None:
        """Say that there is nothing more to do: each worker ends, and what looks after it too."""
        self._dismissed.set()
        for member in self._members:
            member.dismiss()

    def _tell_of(self, host: Host) -> None:
        # All of them, whatever they were given: a redirect may lead anywhere.
        for member in self._members:
            member.tell_of(host)


class _Worker:
    """One worker process, and what it has in hand: bounded, since it is given no more before that has landed."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        # Twice what it transfers at most: in the end the others have nothing to do while it works that off.
        self._most = pool.settings.workers + min(_AHEAD, pool.settings.workers)
        self._in_hand: dict[str, tuple[Target, Host, float]] = {}
        self._unsent: list[list[Any]] = []
        self._told: set[str] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_ready = False
        self._may_send = False
        self._has_landed = False
        self._asked = 0
        self._asked_before = 0
        self._heard: asyncio.Queue[list[list[Any]] | StorageError | None] = (
            asyncio.Queue()
        )  # bounded by what is in hand

    @property
    def requests(self) -> int:
        return self._asked_before + self._asked

    @property
    def load(self) -> int:
        return len(self._in_hand) if self._is_ready else sys.maxsize

    @property
    def has_room(self) -> bool:
        return self._is_ready and len(self._in_hand) < self._most

    def give(self, target: Target, host: Host, now: float) -> None:
        self._in_hand[target.image_id] = (target, host, now)
        if host.name not in self._told:
            self._told.add(host.name)
            self.tell_of(host)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_images)
        self._unsent.append(pack_target(target))
        if len(self._unsent) >= _SEND_AT_ONCE:
            self._send_images()

    def tell_of(self, host: Host) -> None:
        """Tell how things stand with a host."""
        gone = host.gave_up
        given_up = [gone.kind, str(gone)] if gone is not None else None
        self._send("host", host.name, host.not_before, host.etags.is_md5, given_up)

    def dismiss(self) -> None:
        if self._is_ready:
            self._hang_up()
            asyncio.get_running_loop().call_later(_STOP_S, self._kill)
        elif self._process is not None:
            # It has nothing in hand; waiting for it to come up would cost what the run has just saved.
            self._kill()

    async def run(self, fetcher: Fetcher, collector: Collector, scheduler: HostScheduler[ImageTransfer]) -> None:
        """Start the process, hear it out, and start it once more if it dies at work."""
        self._fetcher, self._collector, self._scheduler = fetcher, collector, scheduler
        await self._pool.wait_a_moment()
        for _ in range(_LIVES):
            if self._pool.is_dismissed:
                return
            try:
                code = await self._live()
            except OSError as error:
                why = error.strerror or error
                self._pool.tell(f"a worker process cannot be started ({why}); the run goes on without it")
                return
            if self._pool.is_dismissed:
                return
            await self._take_over(code)
            if not self._has_landed:
                return

    async def _live(self) -> int:
        """Return how the process ended; whatever ends this ends it."""
        started = await self._pool.starter.take()
        self._process = started.process
        try:
            reader, self._writer = await asyncio.open_connection(sock=started.line, limit=LINE_BYTES)
        except BaseException:
            await finished(started.send_away())
            raise
        try:
            if self._pool.is_dismissed:
                self._kill()
            self._writer.write(self._pool.settings.line())
            self._may_send = True
            for host in self._pool.hosts.closed():
                self.tell_of(host)
            try:
                await self._listen(reader)
            except asyncio.CancelledError:
                if self._is_ready:
                    await finished(self._wind_up(reader))
                else:
                    self._kill()
                raise
        finally:
            self._is_ready = self._may_send = False
            self._has_landed |= self._asked > 0
            self._asked_before, self._asked = self.requests, 0
            self._told.clear()
            self._unsent.clear()
            self._writer.close()
            await finished(self._end())
        assert self._process is not None
        return self._process.returncode or 0

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Hear the process out. What it tells of a host counts at once, however long its images wait to be entered."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._enter())
            while told := await self._next_line(reader):
                self._heed(told)
            self._heard.put_nowait(None)

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next line; a process that says nothing for longer than any attempt takes is ended."""
        while True:
            try:
                async with asyncio.timeout(self._pool.settings.limits.attempt_s + _SILENT_S):
                    return await next_line(reader)
            except TimeoutError:
                if self._in_hand and self._heard.empty():
                    self._kill()

    async def _enter(self) -> None:
        """Enter what has landed, as fast as that is taken; there is no more of it than was given out."""
        while (landed := await self._heard.get()) is not None:
            if isinstance(landed, StorageError):
                raise landed
            await self._landed(landed)

    def _heed(self, told: bytes) -> None:
        kind, *content = json.loads(told)
        if kind == "ready":
            self._is_ready = True
            self._scheduler.settle(0)  # there is room now
            if self._pool.is_dismissed:
                self._hang_up()
        elif kind == "landed":
            self._asked = content[0]
            self._heard.put_nowait(content[1])
        elif kind == "back":
            self._take_back(*content)
        elif kind == "trouble":
            self._learn(*content)
        elif kind == "note":
            self._pool.hosts.tell_once(content[0])
        elif kind == "stopped":
            self._stopped(*content)

    def _stopped(self, kind: str, text: str) -> None:
        if kind == StorageError.kind:
            self._heard.put_nowait(StorageError(text))  # it ends the run, once all that landed before is entered
            return
        self._pool.tell(f"a worker process has failed, which is a bug: {text}")

    async def _landed(self, packed: list[list[Any]]) -> None:
        outcomes = unpack_outcomes(packed, self._pool.images)
        await self._collector.enter(outcomes)
        for outcome in outcomes:
            _, host, began = self._in_hand.pop(outcome.image_id)
            if outcome.status == "downloaded":
                host.served(began)
        self._scheduler.settle(len(outcomes))
        await self._collector.deliver(outcomes)

    def _take_back(self, requests: int, packed: list[Any]) -> None:
        self._asked = requests
        image_id, note, made, seen, partial, delay_s = packed
        target, _, _ = self._in_hand.pop(image_id)
        job = self._fetcher.recall(target, note)
        assert isinstance(job, ImageTransfer), "an image without a source left has failed"
        job.is_back = True
        job.attempts.made = made
        job.attempts.seen.update(seen)
        job.partial = PartialBody(*partial) if partial is not None else None
        if delay_s > 0:
            # The budget of a host's retries is one for all processes.
            delay_s = max(delay_s, job.host.retry_delay_s(self._pool.hosts.clock()))
        self._scheduler.bring(job, delay_s)

    def _learn(self, name: str, method: str, packed: list[Any], asked: list[Any], began: float, silent: bool) -> None:
        """Let a host's state learn from what a worker has met, as if it had been met here; and tell what it is now."""
        host, error, now = self._pool.hosts.named(name), unpack_error(packed), self._pool.hosts.clock()
        if method == "asked_to_wait":
            host.asked_to_wait(error, began, now)
        elif method == "unreachable":
            host.unreachable(error, (asked[0], asked[1]), began, now)
        else:
            host.stumbled(error, began, now, silent=silent)
        self.tell_of(host)

    async def _take_over(self, code: int) -> None:
        """Take back what a dead worker had in hand: what it has stored is adopted, the rest is asked for."""
        begun = [self._fetcher.begin(target) for target, _, _ in self._in_hand.values()]
        jobs = [job for job in begun if isinstance(job, ImageTransfer)]
        failed = [job.outcome for job in begun if isinstance(job, Failed)]
        self._in_hand.clear()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._pool.tell(f"a worker process ended ({how}); what it had in hand is asked for again")
        ended = failed + await in_thread(self._adopted, jobs)
        await self._collector.enter(ended)
        known = {outcome.image_id for outcome in ended}
        for job in jobs:
            if job.target.image_id not in known:
                self._scheduler.bring(job, 0.0)
        self._scheduler.settle(len(ended))
        await self._collector.deliver(ended)

    def _adopted(self, jobs: list[ImageTransfer]) -> list[Outcome]:
        found = []
        for job in jobs:
            target, known = job.target, job.target.original
            size = str(known.size) if known.size is not None else None
            outcome = self._pool.adopt(target.image_id, target.file_name, size, known.md5)
            if outcome is not None:
                found.append(replace(outcome, status="downloaded", url=job.written, attempts=1))
        return found

    async def _wind_up(self, reader: asyncio.StreamReader) -> None:
        """Stop a process at work, and write down what it has stored up to then."""
        self._hang_up()
        with suppress(TimeoutError, OidError):
            while not self._heard.empty():
                if isinstance(landed := self._heard.get_nowait(), list):
                    await self._collector.enter(unpack_outcomes(landed, self._pool.images))
            async with asyncio.timeout(_STOP_S):
                while told := await next_line(reader):
                    kind, *content = json.loads(told)
                    if kind == "landed":
                        self._asked = content[0]
                        await self._collector.enter(unpack_outcomes(content[1], self._pool.images))

    async def _end(self) -> None:
        """See that the process is gone: by itself in a moment, or by force."""
        if self._process is None:
            return
        with suppress(TimeoutError):
            # Its line is closed: it ends by itself. A signal to one that just has would take its exit code away.
            async with asyncio.timeout(_STOP_S / 2):
                await self._process.wait()
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        assert self._process is not None
        kill(self._process)

    def _hang_up(self) -> None:
        if self._may_send and self._writer is not None and not self._writer.is_closing():
            self._may_send = False
            with suppress(OSError):
                self._writer.write_eof()

    def _send_images(self) -> None:
        if self._unsent:
            images, self._unsent = self._unsent, []
            self._send("images", images)

    def _send(self, *content: Any) -> None:
        if self._may_send and self._writer is not None and not self._writer.is_closing():
            self._writer.write(line(*content))


def _load(member: _Worker) -> int:
    return member.load
