"""The scheduler: the queues between the plan and the transfer tasks, one for each host.

    feed ──put──▶ queue of a host: ready (objects) ◀──load── places in the plan, 8 bytes each
    delegate ◀──┘      │    ▲                         └──▶ delegate (another process; it ends by finish_external,
                 take_next  │                                        or the item comes back by return_external)
                       ▼    └── requeue: after a delay (a retry), or at once for the image's next source
                transfer tasks

A task is given only what can be requested now, so a host that is capped, paused or down does not delay the others.
Items are objects only while there are few: for a host that is closed the queue keeps their places in the plan, and
reads them again when the host opens. Nothing here does I/O of its own; `load` reads the plan.
"""

import asyncio
import heapq
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from oid_async.concurrency import WaitQueue
from oid_async.http.host import Host
from oid_async.quick_values import define


class _Schedulable(Protocol):
    """An item that waits for its host to be free: see `ImageTransfer`. `place` is its place in the plan.

    `saved_state` is kept with the place, as text; None if it is between two attempts and must stay an object.
    """

    @property
    def host(self) -> Host: ...
    @property
    def place(self) -> int: ...
    @property
    def saved_state(self) -> str | None: ...
    def can_follow(self, other: Any) -> bool: ...


Item = TypeVar("Item", bound=_Schedulable)
_STATE_BITS = 16
_YIELD_EVERY = 64
_STUCK_S = 0.05
_MIN_OBJECTS = 1024


@define
class Left:
    """The images of one host that are not finished: `queued`, with a task (`in_flight`), or waiting for a retry.

    `retry_at` is when the last of its `retries` is due.
    """

    host: Host
    queued: int
    in_flight: int
    retries: int = 0
    retry_at: float = 0.0


# How many images of a host a worker process has, and when its attempts at them end at the latest.
InHand = tuple[Host, int, float]


class _HostQueue(Generic[Item]):
    """The items of one host, first in, first out: those that are objects, then places in the plan."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ready: deque[Item] = deque()
        self.places = array("Q")
        self.places_read = 0
        self.is_loading = False
        self.is_candidate = False
        self.waits_to_open = False

    @property
    def is_empty(self) -> bool:
        return not self.ready and not self.has_places

    @property
    def has_places(self) -> bool:
        return self.places_read < len(self.places)

    def next_places(self, most: int) -> "array[int]":
        places = self.places[self.places_read : self.places_read + most]
        self.places_read += len(places)
        if self.places_read == len(self.places):
            self.places, self.places_read = array("Q"), 0
        return places


class HostScheduler(Generic[Item]):
    """Gives items to tasks. `load` makes items of (place, saved state) pairs; the task that needs them awaits it.

    One queue holds at most `capacity` items from the plan as objects; all queues together hold twice as many, but no
    fewer than a thousand.
    `delegate` is called with each item from the plan and returns whether another process has taken it.
    """

    def __init__(
        self,
        load: Callable[[Sequence[tuple[int, str]]], Awaitable[Sequence[Item]]],
        *,
        capacity: int,
        clock: Callable[[], float],
        delegate: Callable[[Item], bool] | None = None,
    ) -> None:
        self._load = load
        self._delegate = delegate
        self._capacity = capacity
        self._max_objects = max(_MIN_OBJECTS, 2 * capacity)
        self._clock = clock
        self._queues: dict[Host, _HostQueue[Item]] = {}
        self._candidates: deque[_HostQueue[Item]] = deque()  # queues that may have an item for a task
        self._closed: list[tuple[float, int, _HostQueue[Item]]] = []  # queues of closed hosts, by when they open
        self._retries: list[tuple[float, int, Item]] = []  # by when they are due
        self._order = count()
        self._idle_tasks = WaitQueue()
        self._feeder: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._states: dict[str, int] = {}
        self._state_texts: list[str] = []
        self._objects = 0  # items that are objects: in a queue, in `_retries`, or with a task
        self._unfinished = 0
        self._plan_ended = False
        self._puts = 0
        self._read_ahead = 0
        self._has_read_ahead = False

    async def put(self, item: Item) -> None:
        """Add an item from the plan. Waits while the queues hold enough."""
        self._unfinished += 1
        host = item.host
        while self._delegate is None or not self._delegate(item):
            queue = self._queue(host)
            if host.is_closed(self._clock()) and item.saved_state is not None:
                if queue.has_places or len(queue.ready) >= self._capacity or self._objects >= self._max_objects:
                    self._keep_place(queue, item)
                    self._puts += 1
                    if self._puts % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                    return
                break
            crowded = (self._objects >= self._max_objects and not self._idle_tasks) or (
                len(self._retries) >= self._max_objects
            )
            if not crowded and not queue.has_places and len(queue.ready) < self._capacity:
                break
            if self._read_ahead and self._idle_tasks and item.saved_state is not None:
                self._read_ahead -= 1
                self._keep_place(queue, item)
                return
            await self._wait_for_space()
        else:
            return
        self._objects += 1
        queue.ready.append(item)
        # To wake a task for a busy host would be in vain, and that for nearly every image of a plan.
        if not host.is_busy:
            self._add_candidate(queue)

    def add_external(self) -> None:
        """Count an image of the plan that is handled elsewhere, until `finish_external` or `return_external`."""
        self._unfinished += 1

    def finish_external(self, count: int) -> None:
        """Count so many images that are handled elsewhere as finished: others may be delegated now."""
        self._unfinished -= count
        self._wake_feeder()
        self._wake_all_if_done()

    def return_external(self, item: Item, delay_s: float) -> None:
        """Take back an item that was handled elsewhere and not finished there."""
        self._objects += 1
        self._enqueue(item, delay_s)

    async def _wait_for_space(self) -> None:
        """Wait until a task has taken something.

        If none has for a moment while tasks are idle, the queue that is full may be that of a host which hardly
        responds: then a part of the plan is read ahead, to find images of other hosts.
        """
        loop = asyncio.get_running_loop()
        self._feeder = loop.create_future()
        timer = loop.call_later(_STUCK_S, self._allow_read_ahead, self._feeder)
        try:
            await self._feeder
        finally:
            timer.cancel()

    def _allow_read_ahead(self, waiting: "asyncio.Future[None]") -> None:
        if not waiting.done():
            # A run on one host has nothing else to be found.
            self._read_ahead = self._capacity if len(self._queues) > 1 or not self._has_read_ahead else 0
            self._has_read_ahead = True
            waiting.set_result(None)

    def end_of_plan(self) -> None:
        """Note that nothing more will be put."""
        self._plan_ended = True
        self._wake_all_if_done()

    async def take_next(self) -> Item | None:
        """Return an item whose host can be requested now, waiting for one; None when all are finished."""
        while True:
            item, queue = self._pick()
            if item is not None:
                # There may be more for other tasks that wait.
                if self._candidates:
                    self._idle_tasks.wake_first()
                return item
            if queue is not None:
                await self._load_places(queue)
                continue
            if self._is_done():
                return None
            self._wake_feeder()
            self._set_timer()
            await self._idle_tasks.wait()

    def take_next_for(self, done: Item) -> Item | None:
        """Return another item of the same host, to be requested in place of one that needs its host no more.

        None when there is none ready of the same origin, when other hosts wait for a task, and when the host is to get
        fewer requests.
        """
        host, now = done.host, self._clock()
        queue = self._queues.get(host)
        if queue is None or not queue.ready or len(self._candidates) > 1:
            return None
        if self._retries and self._retries[0][0] <= now:
            return None
        counted = host.in_flight - host.hanging
        if host.gave_up is not None or now < host.not_before or counted > host.window:
            return None
        if not queue.ready[0].can_follow(done):
            return None
        if self._idle_tasks and counted < host.window:
            self._add_candidate(queue)  # it may get more requests than before
        if len(queue.ready) <= self._capacity // 2:
            self._wake_feeder()
        return queue.ready.popleft()

    def requeue(self, item: Item, delay_s: float, *, taken_from: Host | None = None) -> None:
        """Take back an item, after a delay or for another host; `taken_from` is the host to release, if any."""
        if taken_from is not None:
            self.release_host(taken_from)
        self._enqueue(item, delay_s)

    def release_host(self, host: Host) -> None:
        """Note that an item that was taken needs its host no more: the next one may be requested."""
        host.in_flight -= 1
        self.give_room(host)
        self._wake_feeder()

    def give_room(self, host: Host) -> None:
        """Note that the host may get more requests than before."""
        queue = self._queues.get(host)
        if queue is not None and not queue.is_empty:
            self._add_candidate(queue)
        self._idle_tasks.wake_first()

    def finish(self) -> None:
        """Count an item as finished whose host was released."""
        self._objects -= 1
        self._unfinished -= 1
        if not self._unfinished:
            self._wake_all_if_done()

    def ends_with(self, count: int) -> bool:
        """Return whether nothing is left but so many items, at most, which are not finished yet."""
        return self._plan_ended and self._unfinished <= count

    def left(self, *, rests: bool = False) -> tuple[list[Left], int] | None:
        """Return what is left once the whole plan was put, by host, and how many images are neither there nor done.

        Those are handled elsewhere, or are being stored. None while there is more of the plan; a plan that `rests` may
        go on later.
        """
        if not (self._plan_ended or rests):
            return None
        found = self.waiting()
        counted = sum(of_host.queued + of_host.in_flight + of_host.retries for of_host in found)
        return found, self._unfinished - counted

    def waiting(self) -> list[Left]:
        """Return the images of each host that were put and are neither finished nor being stored."""
        left = {
            host: Left(host, len(queue.ready) + len(queue.places) - queue.places_read, host.in_flight)
            for host, queue in self._queues.items()
        }
        for due, _, item in self._retries:
            of_host = left.setdefault(item.host, Left(item.host, 0, item.host.in_flight))
            of_host.retries += 1
            of_host.retry_at = max(of_host.retry_at, due)
        return [of_host for of_host in left.values() if of_host.queued or of_host.in_flight or of_host.retries]

    def retries(self) -> Iterator[Item]:
        """Yield the items that wait for their next attempt."""
        return (item for _, _, item in self._retries)

    def release_given_up(self) -> None:
        """Let go, to fail, what waits for hosts that were given up while none of their images was under way."""
        waiting = [entry for entry in self._retries if entry[2].host.gave_up is None]
        if len(waiting) < len(self._retries):
            given_up = [entry[2] for entry in self._retries if entry[2].host.gave_up is not None]
            self._retries = waiting
            heapq.heapify(self._retries)
            for item in given_up:
                self._enqueue(item, 0.0)
        for host, queue in self._queues.items():
            if host.gave_up is not None and not queue.is_empty:
                self._add_candidate(queue)

    def close(self) -> None:
        """Stop the timer; for the end of the run, however it comes."""
        if self._timer is not None:
            self._timer.cancel()

    def _enqueue(self, item: Item, delay_s: float) -> None:
        if delay_s > 0:
            heapq.heappush(self._retries, (self._clock() + delay_s, next(self._order), item))
            self._set_timer()
            return
        queue = self._queue(item.host)
        if item.saved_state is not None and (queue.has_places or len(queue.ready) >= self._capacity):
            self._keep_place(queue, item)
            self._objects -= 1
        else:
            queue.ready.append(item)
        self._add_candidate(queue)

    def _pick(self) -> tuple[Item | None, _HostQueue[Item] | None]:
        """Return an item that can be requested, or a queue that has to load its next ones from the plan first."""
        now = self._clock()
        self._release_due(now)
        while self._candidates:
            queue = self._candidates[0]
            if queue.is_empty or queue.is_loading:
                self._drop_candidate()
            elif not queue.host.may_take(now):
                self._drop_candidate()
                if queue.host.is_closed(now) and not queue.waits_to_open:
                    queue.waits_to_open = True
                    heapq.heappush(self._closed, (queue.host.not_before, next(self._order), queue))
                # The queue of a busy host is a candidate again when one of its images is done.
            elif queue.ready:
                queue.host.in_flight += 1
                self._candidates.rotate(-1)
                self._wake_feeder()
                return queue.ready.popleft(), None
            else:
                queue.is_loading = True
                return None, queue
        return None, None

    async def _load_places(self, queue: _HostQueue[Item]) -> None:
        packed = queue.next_places(self._capacity)
        try:
            items = await self._load(
                [(entry >> _STATE_BITS, self._state_texts[entry & (1 << _STATE_BITS) - 1]) for entry in packed]
            )
        finally:
            queue.is_loading = False
        for item in items:
            if self._delegate is not None and self._delegate(item):
                continue
            self._objects += 1
            own_queue = self._queue(item.host)
            own_queue.ready.append(item)
            self._add_candidate(own_queue)
        if not queue.is_empty:
            self._add_candidate(queue)  # it was dropped while it was loading

    def _keep_place(self, queue: _HostQueue[Item], item: Item) -> None:
        state = item.saved_state
        assert state is not None
        # States are histories such as "cvdf:not_found": a few dozen differ, whatever the number of images.
        number = self._states.setdefault(state, len(self._states))
        if number == len(self._state_texts):
            self._state_texts.append(state)
        queue.places.append(item.place << _STATE_BITS | number)
        self._add_candidate(queue)

    def _release_due(self, now: float) -> None:
        """Put retries that are due behind what waits, and make the queues of hosts that open candidates.

        Behind: an image that has failed must not hold up those that have not been tried.
        """
        while self._retries and self._retries[0][0] <= now:
            item = heapq.heappop(self._retries)[2]
            queue = self._queue(item.host)
            queue.ready.append(item)
            self._add_candidate(queue)
        while self._closed and self._closed[0][0] <= now:
            queue = heapq.heappop(self._closed)[2]
            queue.waits_to_open = False
            self._add_candidate(queue)

    def _queue(self, host: Host) -> _HostQueue[Item]:
        queue = self._queues.get(host)
        if queue is None:
            if len(self._queues) > self._max_objects:
                self._queues = {host: queue for host, queue in self._queues.items() if self._is_needed(queue)}
            queue = self._queues[host] = _HostQueue(host)
        return queue

    @staticmethod
    def _is_needed(queue: _HostQueue[Item]) -> bool:
        return not queue.is_empty or queue.is_loading or queue.host.in_flight > 0

    def _add_candidate(self, queue: _HostQueue[Item]) -> None:
        if queue.waits_to_open and queue.host.is_closed(self._clock()):
            return
        if not queue.is_candidate:
            queue.is_candidate = True
            self._candidates.append(queue)
        self._idle_tasks.wake_first()

    def _drop_candidate(self) -> None:
        self._candidates.popleft().is_candidate = False

    def _wake_feeder(self) -> None:
        if self._feeder is not None and not self._feeder.done():
            self._feeder.set_result(None)

    def _is_done(self) -> bool:
        return self._plan_ended and self._unfinished == 0

    def _wake_all_if_done(self) -> None:
        if self._is_done():
            while self._idle_tasks:
                self._idle_tasks.wake_first()

    def _set_timer(self) -> None:
        """Wake a task when the next retry is due or the next host opens."""
        due = min((heap[0][0] for heap in (self._retries, self._closed) if heap), default=None)
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._idle_tasks.wake_first()
        self._wake_feeder()
