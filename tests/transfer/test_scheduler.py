"""The scheduler, on a clock that runs as fast as the test: no image is lost, held up, or requested too early."""

import asyncio
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fasttime import run_fast

from oid_async.http.etag import EtagTrust
from oid_async.http.host import Host
from oid_async.http.retry import FetchError
from oid_async.transfer.scheduler import HostScheduler


@dataclass(slots=True)
class Task:
    """An item of a test: `place` is its number, `tries` how often it still goes wrong."""

    place: int
    host: Host
    tries: int = 0
    then: Host | None = None
    asked: bool = False

    @property
    def saved_state(self) -> str | None:
        return None if self.asked else "0 "

    def can_follow(self, other: "Task") -> bool:
        return self.host is other.host


def host(name: str, *, most: float = 64.0, window: float = 8.0, **rest: float) -> Host:
    return Host(name, None, EtagTrust(name), most=most, window=window, jitter=lambda: 0.5, **rest)  # type: ignore[arg-type]


@dataclass
class World:
    """Schedules items with workers that take `cost_s` each; records what was requested when, by host."""

    tasks: list[Task]
    workers: int = 8
    capacity: int = 16
    cost_s: float = 0.01
    costs: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[float, str, int]] = field(default_factory=list)
    finished: Counter[int] = field(default_factory=Counter)
    helped: int = 0
    loaded: int = 0
    objects: int = 0

    async def run(self) -> float:
        loop = asyncio.get_running_loop()
        by_place = {task.place: task for task in self.tasks}

        async def load(places: Sequence[tuple[int, str]]) -> list[Task]:
            self.loaded += len(places)
            await asyncio.sleep(0.001)
            return [by_place[place] for place, _ in places]

        in_hand: set[int] = set()

        def delegate(task: Task) -> bool:
            if len(in_hand) >= self.helped or task.asked or task.host.is_closed(loop.time()):
                return False
            in_hand.add(task.place)
            loop.call_later(self.cost_s, end_elsewhere, task)
            return True

        def end_elsewhere(task: Task) -> None:
            in_hand.remove(task.place)
            if task.tries:
                task.tries, task.asked = task.tries - 1, True
                scheduler.return_external(task, 0.05)
            elif task.then is not None:
                task.host, task.then = task.then, None
                scheduler.return_external(task, 0.0)
            else:
                self.finished[task.place] += 1
                scheduler.finish_external(1)

        scheduler = HostScheduler[Task](load, capacity=self.capacity, clock=loop.time, delegate=delegate)

        async def feed() -> None:
            for task in self.tasks:
                await scheduler.put(task)
            scheduler.end_of_plan()

        async def work() -> None:
            while (task := await scheduler.take_next()) is not None:
                now, target = loop.time(), task.host
                assert target.gave_up is not None or not target.is_closed(now)
                assert target.gave_up is not None or target.in_flight <= max(1, int(target.window) + 1)
                self.asked.append((now, target.name, task.place))
                await asyncio.sleep(self.costs.get(target.name, self.cost_s))
                task.asked = True
                if task.tries:
                    task.tries -= 1
                    scheduler.requeue(task, 0.05, taken_from=target)
                elif task.then is not None:
                    task.host, task.then, task.asked = task.then, None, False
                    scheduler.requeue(task, 0.0, taken_from=target)
                else:
                    self.finished[task.place] += 1
                    scheduler.release_host(target)
                    scheduler.finish()

        start = loop.time()
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            for _ in range(self.workers):
                group.create_task(work())
        scheduler.close()
        return loop.time() - start

    def assert_each_once(self) -> None:
        assert self.finished == Counter(task.place for task in self.tasks)


async def no_load(places: Sequence[tuple[int, str]]) -> list[Task]:
    raise AssertionError(places)


def test_every_image_is_finished_once() -> None:
    """Images of one host pass through in order, as many at a time as there are workers."""
    a = host("a")
    world = World([Task(place, a) for place in range(500)])
    seconds = run_fast(world.run())
    world.assert_each_once()
    assert [place for _, _, place in world.asked] == list(range(500))
    assert seconds < 500 / 8 * 0.01 * 1.5
    assert a.in_flight == 0


@dataclass(eq=False)
class CountingHost(Host):
    """A host that counts how often a task asks whether it may take one more."""

    asked: int = 0

    def may_take(self, now: float) -> bool:
        self.asked += 1
        return super().may_take(now)


def test_no_task_is_woken_for_a_busy_host() -> None:
    """Images that are put for a host with as many transfers as it may have wake no task, until one has ended."""

    async def scenario() -> None:
        busy = CountingHost("a", None, EtagTrust("a"), most=4.0)
        scheduler = HostScheduler[Task](no_load, capacity=99, clock=asyncio.get_running_loop().time)
        taking = [asyncio.create_task(scheduler.take_next()) for _ in range(20)]
        for place in range(60):
            await scheduler.put(Task(place, busy))
            await asyncio.sleep(0)
            if place == 20:
                asked = busy.asked
        assert busy.asked == asked
        assert sum(task.done() for task in taking) == 4
        scheduler.release_host(busy)
        await asyncio.sleep(0.001)
        assert sum(task.done() for task in taking) == 5
        for task in taking:
            task.cancel()

    run_fast(scenario())


def test_a_closed_host_holds_nobody_up() -> None:
    """A host that is paused for a minute has its many images put aside; the other's pass at once, then its own."""
    closed, other = host("closed"), host("other")
    tasks = [Task(place, closed) for place in range(2000)] + [Task(place, other) for place in range(2000, 2400)]

    async def go() -> World:
        world = World(tasks)
        closed.pause(60.0, now=asyncio.get_running_loop().time())
        await world.run()
        return world

    world = run_fast(go())
    world.assert_each_once()
    start = world.asked[0][0]
    assert max(at for at, name, _ in world.asked if name == "other") - start < 10
    assert min(at for at, name, _ in world.asked if name == "closed") - start >= 59.9
    assert [place for _, name, place in world.asked if name == "closed"] == list(range(2000))


def test_what_is_put_aside_costs_eight_bytes() -> None:
    """A hundred thousand images of a closed host are kept as places in the plan, not as objects."""
    closed = host("closed")

    async def go() -> int:
        async def load(places: Sequence[tuple[int, str]]) -> list[Task]:
            raise AssertionError("nobody takes")

        scheduler = HostScheduler[Task](load, capacity=16, clock=asyncio.get_running_loop().time)
        closed.pause(1e6, now=asyncio.get_running_loop().time())
        await scheduler.put(Task(0, closed))
        before = tracemalloc.get_traced_memory()[0]
        for place in range(1, 100_001):
            await scheduler.put(Task(place, closed))
        grown = tracemalloc.get_traced_memory()[0] - before
        scheduler.close()
        return grown

    tracemalloc.start()
    try:
        assert run_fast(go()) < 100_000 * 20
    finally:
        tracemalloc.stop()


def test_the_feeder_waits_while_a_busy_host_has_enough() -> None:
    """The plan is read no further than a busy host's queue has space: nothing is put aside for being slow."""
    a = host("a", most=2.0, window=2.0)
    world = World([Task(place, a) for place in range(300)])
    run_fast(world.run())
    world.assert_each_once()
    assert world.loaded == 0


def test_a_host_that_hardly_answers_holds_nobody_up() -> None:
    """Every second image is of a host that takes a minute for each: the others land at their own pace."""
    slow, quick = host("slow", most=4.0, window=4.0), host("quick")
    tasks = [Task(place, slow if place % 2 else quick) for place in range(4000)]
    world = World(tasks, workers=16, capacity=32, costs={"slow": 60.0})
    run_fast(world.run())
    world.assert_each_once()
    start = world.asked[0][0]
    assert max(at for at, name, _ in world.asked if name == "quick") - start < 120.0


def test_what_others_take_does_not_wait_for_the_plan() -> None:
    """While the own workers hang on a host that does not answer, those that have room are given all the rest."""
    a = host("a", most=2.0, window=2.0)
    world = World([Task(place, a) for place in range(300)], workers=2, capacity=4, cost_s=0.01, helped=8)
    world.costs["a"] = 1000.0
    seconds = run_fast(world.run())
    world.assert_each_once()
    assert len(world.asked) <= 10
    assert seconds < 6000


def test_a_retry_waits_in_no_workers_hands() -> None:
    """One worker passes a hundred images while one of them waits for its retry, which then goes first."""
    a = host("a")
    tasks = [Task(place, a, tries=3 if place == 0 else 0) for place in range(100)]
    world = World(tasks, workers=1)
    seconds = run_fast(world.run())
    world.assert_each_once()
    assert seconds == pytest.approx(103 * 0.01, rel=0.2)
    assert [place for _, _, place in world.asked].count(0) == 4


def test_the_next_source_has_a_queue_of_its_own() -> None:
    """Images that move on to a host which is capped do not hold up those that need only the first."""
    first, second = host("first"), host("second", most=1.0, window=1.0)
    tasks = [Task(place, first, then=second if place % 2 else None) for place in range(400)]
    world = World(tasks)
    run_fast(world.run())
    world.assert_each_once()
    start = world.asked[0][0]
    assert max(at for at, name, _ in world.asked if name == "first") - start < 400 * 0.01 / 8 * 3
    assert sum(name == "second" for _, name, _ in world.asked) == 200
    assert world.loaded > 0


def test_a_host_that_was_given_up_lets_its_images_go() -> None:
    """However many wait and however long it was to be left alone: all are handed out at once, to fail."""
    dead = host("dead", window=1.0)
    world = World([Task(place, dead) for place in range(1000)], cost_s=4.0)

    async def go() -> float:
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            dead.gave_up = FetchError("network", "gone", hopeless=True)

        # Both while its first image is under way, which then brings the news.
        loop.call_later(1.0, lambda: dead.pause(500.0, now=loop.time()))
        loop.call_later(3.0, give_up)
        return await world.run()

    seconds = run_fast(go())
    world.assert_each_once()
    assert seconds < 1000 * 4.0 / 8 + 10


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_whatever_hosts_do_every_image_ends_once(seed: int) -> None:
    """Random hosts that pause, shrink, die and come back; random retries, sources and help: all end, none twice."""
    chance = random.Random(seed)
    hosts = [host(f"h{n}", most=float(chance.randint(1, 20)), window=float(chance.randint(1, 8))) for n in range(5)]
    tasks = [
        Task(
            place,
            chance.choice(hosts[: chance.randint(1, 5)]),
            tries=chance.choice((0, 0, 0, 0, 1, 3)),
            then=chance.choice((None, None, None, *hosts)),
        )
        for place in range(chance.randint(0, 600))
    ]
    world = World(
        tasks, workers=chance.randint(1, 12), capacity=chance.randint(1, 20), cost_s=chance.choice((0.0, 0.01))
    )
    world.helped = chance.choice((0, 0, 3, 40))

    async def trouble() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(30):
            await asyncio.sleep(chance.uniform(0, 0.3))
            one = chance.choice(hosts)
            what = chance.randrange(5)
            if what == 0:
                one.pause(chance.uniform(0.01, 5), now=loop.time())
            elif what == 1:
                one.connect_failed(
                    FetchError("network", "refused", unsent=True), (one.name, 80), loop.time(), loop.time()
                )
            elif what == 2:
                error = FetchError("rate_limited", "HTTP 429", retry_after_s=chance.choice((None, 0.5, 3.0)))
                one.asked_to_wait(error, loop.time(), loop.time())
            elif what == 3:
                one.responded(loop.time())
            else:
                one.request_failed(
                    FetchError("network", "reset"), loop.time(), loop.time(), no_response=chance.random() < 0.5
                )

    async def go() -> None:
        troubling = asyncio.create_task(trouble())
        await asyncio.wait_for(world.run(), 10_000)
        troubling.cancel()
        await asyncio.wait([troubling])

    run_fast(go())
    world.assert_each_once()
    assert all(one.in_flight == 0 for one in hosts)
