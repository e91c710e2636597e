"""Who waits for which host: the queue between the plan and the workers, one lane a host.

    feeder ──put──▶ lane: ready (jobs) ◀──refill── rest (places in the plan, 8 bytes each)
      offer ◀──┘      │    ▲                  └──▶ offer (what other processes take comes back by settle, or bring)
                    take   └── put_back: after a pause (a retry), or at once for the image's next source
                      ▼    │
                     workers

A worker is given only what can be asked for now, so that a host that is capped, paused or down holds nobody else up.
Jobs are objects only while there are few: of a host that is closed the lane keeps their places in the plan, and reads
them again when it opens. Nothing here does I/O of its own; `reload` reads the plan.
"""

import asyncio
import heapq
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from oid_async.http.hosts import Host


class ImageTransfer(Protocol):
    """What waits: something to be asked of a host.

    `place` is where the plan has it. `note` says in text what must be remembered of a job whose place alone is kept;
    None for one that must stay an object, because it is in the middle of being asked for.
    """

    @property
    def host(self) -> Host:
        """Return the host that it waits for."""

    @property
    def place(self) -> int:
        """Return where in the plan it stands."""

    @property
    def note(self) -> str | None:
        """Return what must be remembered beside its place."""

    def follows(self, other: Any) -> bool:
        """Return whether it can be asked for on the connection that another job's body has come on."""


J = TypeVar("J", bound=ImageTransfer)
_NOTE_BITS = 16
_YIELD_EVERY = 64
_STUCK_S = 0.05
_FEWEST_OBJECTS = 1024


class _HostQueue(Generic[J]):
    """The jobs of one host, first come first served."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ready: deque[J] = deque()
        self.rest = array("Q")
        self.taken = 0  # how much of `rest` has been read
        self.is_loading = False
        self.is_listed = False
        self.has_alarm = False

    @property
    def is_empty(self) -> bool:
        return not self.ready and not self.has_rest

    @property
    def has_rest(self) -> bool:
        return self.taken < len(self.rest)

    def next_places(self, most: int) -> "array[int]":
        places = self.rest[self.taken : self.taken + most]
        self.taken += len(places)
        if self.taken == len(self.rest):
            self.rest, self.taken = array("Q"), 0
        return places


class HostScheduler(Generic[J]):
    """Hands jobs to workers. `reload` makes jobs of (place, note) pairs; it is awaited by the worker that needs them.

    `room` is how many jobs from the plan one lane may hold as objects; twice as many, but no fewer than a thousand, may
    all of them together.
    `offer` is asked to take each job that comes from the plan off our hands, and returns whether it has.
    """

    def __init__(
        self,
        reload: Callable[[Sequence[tuple[int, str]]], Awaitable[Sequence[J]]],
        *,
        room: int,
        clock: Callable[[], float],
        offer: Callable[[J], bool] | None = None,
    ) -> None:
        self._reload = reload
        self._offer = offer or (lambda _: False)
        self._room = room
        self._most = max(_FEWEST_OBJECTS, 2 * room)
        self._clock = clock
        self._scheduler: dict[Host, _HostQueue[J]] = {}
        self._listed: deque[_HostQueue[J]] = deque()  # lanes that may have something to give
        self._alarms: list[tuple[float, int, _HostQueue[J]]] = []  # lanes of closed hosts, by when they open
        self._later: list[tuple[float, int, J]] = []  # retries, by when they are due
        self._order = count()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._feeder: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._notes: dict[str, int] = {}
        self._note_texts: list[str] = []
        self._held = 0  # jobs that are objects: in a lane, later, or with a worker
        self._unfinished = 0
        self._ended = False
        self._puts = 0
        self._ahead = 0
        self._has_looked = False

    async def put(self, job: J) -> None:
        """Take a job from the plan. Waits while there is enough to do."""
        self._unfinished += 1
        while not self._offer(job):
            lane = self._lane(job.host)
            if job.host.is_closed(self._clock()) and job.note is not None:
                if lane.has_rest or len(lane.ready) >= self._room or self._held >= self._most:
                    self._keep_place(lane, job)
                    self._puts += 1
                    if self._puts % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                    return
                break
            crowded = (self._held >= self._most and not self._idle) or len(self._later) >= self._most
            if not crowded and not lane.has_rest and len(lane.ready) < self._room:
                break
            if self._ahead and self._idle and job.note is not None:
                self._ahead -= 1
                self._keep_place(lane, job)
                return
            await self._wait_for_room()
        else:
            return
        self._held += 1
        lane.ready.append(job)
        self._list(lane)

    def lend(self) -> None:
        """Count a job of the plan that somebody else was given before it came here; `settle` or `bring` ends that."""
        self._unfinished += 1

    async def _wait_for_room(self) -> None:
        """Wait until something has gone on.

        If nothing has for a moment while workers are idle, the lane that is full may be that of a host which hardly
        answers: then a stretch of the plan is read ahead, for what others can be asked for.
        """
        loop = asyncio.get_running_loop()
        self._feeder = loop.create_future()
        timer = loop.call_later(_STUCK_S, self._read_ahead, self._feeder)
        try:
            await self._feeder
        finally:
            timer.cancel()

    def _read_ahead(self, waiting: "asyncio.Future[None]") -> None:
        if not waiting.done():
            # Of a run on one host there is nothing else to be found.
            self._ahead = self._room if len(self._scheduler) > 1 or not self._has_looked else 0
            self._has_looked = True
            waiting.set_result(None)

    def end(self) -> None:
        """Say that the plan has no more."""
        self._ended = True
        self._wake_all_if_done()

    async def take(self) -> J | None:
        """Return a job whose host can be asked now, waiting for one; None when all are finished."""
        while True:
            job, lane = self._next()
            if job is not None:
                # More may be there for others who wait.
                if self._listed:
                    self._wake()
                return job
            if lane is not None:
                await self._refill(lane)
                continue
            if self._is_done():
                return None
            self._wake_feeder()
            self._set_timer()
            await turn(self._idle)

    def follow(self, job: J) -> J | None:
        """Return another job of the same host, to be asked for in place of one that needs its host no more.

        None when there is none at hand that belongs to the same origin, when others wait for their turn, and when the
        host is to be asked less.
        """
        host, now = job.host, self._clock()
        lane = self._scheduler.get(host)
        if lane is None or not lane.ready or len(self._listed) > 1 or (self._later and self._later[0][0] <= now):
            return None
        if host.gave_up is not None or now < host.not_before or host.in_flight > host.window:
            return None
        if not lane.ready[0].follows(job):
            return None
        if self._idle and host.in_flight < host.window:
            self._list(lane)  # it has learnt that it may be asked more
        if len(lane.ready) <= self._room // 2:
            self._wake_feeder()
        return lane.ready.popleft()

    def put_back(self, job: J, delay_s: float, *, taken_from: Host | None = None) -> None:
        """Give back a job that is to be asked again after a delay, or of another host than it was taken from.

        `taken_from` is None if its host was let go before.
        """
        if taken_from is not None:
            self.let_go(taken_from)
        self._place(job, delay_s)

    def bring(self, job: J, delay_s: float) -> None:
        """Take back a job that was offered and not brought to its end."""
        self._held += 1
        self._place(job, delay_s)

    def settle(self, count: int) -> None:
        """Say that so many jobs that were lent or offered have come to their end: others may be offered now."""
        self._unfinished -= count
        self._wake_feeder()
        self._wake_all_if_done()

    def _place(self, job: J, delay_s: float) -> None:
        if delay_s > 0:
            heapq.heappush(self._later, (self._clock() + delay_s, next(self._order), job))
            self._set_timer()
            return
        lane = self._lane(job.host)
        if job.note is not None and (lane.has_rest or len(lane.ready) >= self._room):
            self._keep_place(lane, job)
            self._held -= 1
        else:
            lane.ready.append(job)
        self._list(lane)

    def finish(self) -> None:
        """Say that a job whose host was let go has come to its end."""
        self._held -= 1
        self._unfinished -= 1
        self._wake_all_if_done()

    def close(self) -> None:
        """Stop the timer; for the end of the run, however it comes."""
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> tuple[J | None, _HostQueue[J] | None]:
        """Return a job that can be asked for, or a lane that has to read its next ones from the plan first."""
        now = self._clock()
        self._promote(now)
        while self._listed:
            lane = self._listed[0]
            if lane.is_empty or lane.is_loading:
                self._unlist()
            elif not lane.host.may_take(now):
                self._unlist()
                if lane.host.is_closed(now) and not lane.has_alarm:
                    lane.has_alarm = True
                    heapq.heappush(self._alarms, (lane.host.not_before, next(self._order), lane))
                # A busy host's lane is listed again when one of its images is done.
            elif lane.ready:
                lane.host.in_flight += 1
                self._listed.rotate(-1)
                self._wake_feeder()
                return lane.ready.popleft(), None
            else:
                lane.is_loading = True
                return None, lane
        return None, None

    async def _refill(self, lane: _HostQueue[J]) -> None:
        packed = lane.next_places(self._room)
        try:
            jobs = await self._reload(
                [(item >> _NOTE_BITS, self._note_texts[item & (1 << _NOTE_BITS) - 1]) for item in packed]
            )
        finally:
            lane.is_loading = False
        for job in jobs:
            if self._offer(job):
                continue
            self._held += 1
            home = self._lane(job.host)
            home.ready.append(job)
            self._list(home)
        if not lane.is_empty:
            self._list(lane)  # it was passed over while it was read for

    def _keep_place(self, lane: _HostQueue[J], job: J) -> None:
        note = job.note
        assert note is not None
        # Notes are histories such as "cvdf:not_found": a few dozen differ, whatever the number of images.
        number = self._notes.setdefault(note, len(self._notes))
        if number == len(self._note_texts):
            self._note_texts.append(note)
        lane.rest.append(job.place << _NOTE_BITS | number)
        self._list(lane)

    def _promote(self, now: float) -> None:
        """Put what is due in front of its lane, and list the lanes whose hosts open."""
        while self._later and self._later[0][0] <= now:
            job = heapq.heappop(self._later)[2]
            lane = self._lane(job.host)
            lane.ready.appendleft(job)
            self._list(lane)
        while self._alarms and self._alarms[0][0] <= now:
            lane = heapq.heappop(self._alarms)[2]
            lane.has_alarm = False
            self._list(lane)

    def let_go(self, host: Host) -> None:
        """Say that nothing more is under way to a host for a job that was taken: another one may be asked for."""
        host.in_flight -= 1
        lane = self._scheduler.get(host)
        if lane is not None and not lane.is_empty:
            self._list(lane)
        self._wake()
        self._wake_feeder()

    def _lane(self, host: Host) -> _HostQueue[J]:
        lane = self._scheduler.get(host)
        if lane is None:
            if len(self._scheduler) > self._most:
                self._scheduler = {host: lane for host, lane in self._scheduler.items() if self._is_needed(lane)}
            lane = self._scheduler[host] = _HostQueue(host)
        return lane

    @staticmethod
    def _is_needed(lane: _HostQueue[J]) -> bool:
        return not lane.is_empty or lane.is_loading or lane.host.in_flight > 0

    def _list(self, lane: _HostQueue[J]) -> None:
        if lane.has_alarm and lane.host.is_closed(self._clock()):
            return
        if not lane.is_listed:
            lane.is_listed = True
            self._listed.append(lane)
        self._wake()

    def _unlist(self) -> None:
        self._listed.popleft().is_listed = False

    def _wake(self) -> None:
        wake(self._idle)

    def _wake_feeder(self) -> None:
        if self._feeder is not None and not self._feeder.done():
            self._feeder.set_result(None)

    def _is_done(self) -> bool:
        return self._ended and self._unfinished == 0

    def _wake_all_if_done(self) -> None:
        if self._is_done():
            while self._idle:
                self._wake()

    def _set_timer(self) -> None:
        """Wake a worker when the next retry is due or the next host opens."""
        due = min((heap[0][0] for heap in (self._later, self._alarms) if heap), default=None)
        if due is None:
            return
        if self._timer is not None:
            if self._rings_at <= due:
                return
            self._timer.cancel()
        self._rings_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake()
        self._wake_feeder()


async def turn(waiting: deque[asyncio.Future[None]]) -> None:
    """Wait to be woken; a turn that is not used, because its task was cancelled, is passed on."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            wake(waiting)
        raise


def wake(waiting: deque[asyncio.Future[None]]) -> None:
    """Wake the one that has waited longest."""
    while waiting:
        waiter = waiting.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return
