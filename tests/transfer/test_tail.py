"""The tail of a run: who never answered is given up a minute after all else, and one line says what is waited for."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from support.fasttime import run_fast

from oid_async.http.host import Host
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError
from oid_async.transfer.scheduler import HostScheduler, InHand, Left
from oid_async.transfer.tail import Tail

PATIENCE_S = 60.0


def refused(name: str) -> FetchError:
    return FetchError("network", f"cannot connect to {name}: Connection refused", unsent=True)


@dataclass
class Run:
    """The hosts of a run on a clock of its own, what is left of each, and what the user was told, and when."""

    now: float = 5000.0
    left: dict[str, Left] = field(default_factory=dict)
    told: list[tuple[float, str]] = field(default_factory=list)
    elsewhere: int = 0
    in_hand: list[InHand] = field(default_factory=list)
    max_wait_s: float = 900.0

    def __post_init__(self) -> None:
        self.hosts = Hosts(
            None,
            1.0,
            clock=lambda: self.now,
            notify=lambda text: self.told.append((self.now, text)),
            max_wait_s=self.max_wait_s,
        )
        self.hosts.idle_since = None
        self.began = self.now
        self.tail = Tail(self.hosts)

    def add(self, name: str, queued: int = 0, in_flight: int = 0, retries: int = 0, retry_in_s: float = 0.0) -> Host:
        host = self.hosts.named(name)
        host.jitter = lambda: 0.5
        self.left[name] = Left(host, queued, in_flight, retries, self.now + retry_in_s)
        return host

    def refuse(self, host: Host) -> None:
        host.connect_failed(refused(host.name), (host.name, 80), self.now, self.now)

    def seconds(self, count: int, *, dead: tuple[Host, ...] = ()) -> Iterator[float]:
        """Let seconds pass, look at each, and yield the time since the start; dead hosts fail every probe."""
        for _ in range(count):
            self.now += 1.0
            for host in dead:
                if host.gave_up is None and self.now >= host.not_before:
                    self.refuse(host)
            self.tail.look(
                list(self.left.values()), self.elsewhere, in_hand=self.in_hand, transfers_end=self.now + 300.0
            )
            yield self.now - self.began

    def lines(self) -> list[str]:
        return [re.sub(r"\d\d:\d\d:\d\d", "TIME", text) for _, text in self.told]


def given_up_after(run: Run, *dead: Host, within_s: int = 1200) -> list[float]:
    """Return after how many seconds each of these hosts was given up."""
    ends: dict[str, float] = {}
    for second in run.seconds(within_s, dead=dead):
        ends |= {host.name: second for host in dead if host.gave_up is not None and host.name not in ends}
        if len(ends) == len(dead):
            break
    return [ends[host.name] for host in dead]


def test_hosts_that_never_answered_are_given_up_a_minute_after_all_else() -> None:
    """Two dead hosts end at the same moment, counted from when the last image of the others was done."""
    run = Run()
    dead, too, live = run.add("dead:80", queued=3), run.add("too:80", queued=2), run.add("live:80", in_flight=4)
    for host in (dead, dead, dead, too, too, too):
        run.refuse(host)
    live.responded(run.now)
    for _ in run.seconds(200, dead=(dead, too)):
        assert dead.gave_up is None
    del run.left["live:80"]
    run.began = run.now
    assert given_up_after(run, dead, too) == [61.0, 61.0]
    assert run.lines()[-3:] == [
        "3 images wait for dead:80 (cannot connect to dead:80: Connection refused); "
        "it is asked again until TIME (60 s) at the latest, then they fail; "
        "2 images wait for too:80 (cannot connect to too:80: Connection refused); "
        "it is asked again until TIME (60 s) at the latest, then they fail",
        "dead:80 is given up for this run: cannot connect to dead:80: Connection refused",
        "too:80 is given up for this run: cannot connect to too:80: Connection refused",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        FetchError("server_error", "HTTP 500", status=500),
        FetchError("rate_limited", "HTTP 429", retry_after_s=1.0),
        FetchError("server_error", "HTTP 503", retry_after_s=None),
        None,
    ],
)
def test_a_host_that_has_answered_keeps_the_patience_of_max_wait(answer: FetchError | None) -> None:
    """Whatever it answered, be it an error: then it is there, and is waited for a quarter of an hour."""
    run = Run()
    host = run.add("was-there:80", queued=3)
    if answer is None:
        host.responded(run.now)
    elif answer.status == 500:
        host.request_failed(answer, run.now, run.now, no_response=False)
    else:
        host.asked_to_wait(answer, run.now, run.now)
    run.now += 2.0
    for _ in range(3):
        run.refuse(host)
    (seconds,) = given_up_after(run, host)
    assert 400.0 < seconds < 905.0
    waits = [line for line in run.lines() if line.startswith("3 images wait for was-there:80 (cannot")]
    assert len(waits) == 1
    assert "is asked again until TIME (" in waits[0]


def test_a_smaller_max_wait_holds_for_all() -> None:
    """With --max-wait 10 the minute is not waited out, and the line says so."""
    run = Run(max_wait_s=10.0)
    dead = run.add("dead:80", queued=3)
    for _ in range(3):
        run.refuse(dead)
    (seconds,) = given_up_after(run, dead)
    assert seconds <= 10.0
    assert not any("(60 s)" in line for line in run.lines())


def test_one_failed_connection_is_no_dead_host() -> None:
    """A single image that was refused once has its own retries; three refusals in all are what counts."""
    run = Run()
    host = run.add("x:80", retries=1, retry_in_s=200.0)
    run.refuse(host)
    for _ in run.seconds(100):
        pass
    assert host.gave_up is None
    run.refuse(host)
    run.refuse(host)
    assert given_up_after(run, host) == [101.0]


def test_what_is_waited_for_is_said_once() -> None:
    """A host's Retry-After, a retry, a host that is down: one line each, however many seconds pass; short ones none."""
    run = Run()
    asks = run.add("asks:80", queued=2)
    asks.responded(run.now)
    for _ in range(32):
        asks.asked_to_wait(FetchError("rate_limited", "HTTP 429", retry_after_s=40.0), run.now, run.now)
    run.told.clear()
    for _ in run.seconds(39):
        pass
    assert run.lines() == ["2 images wait for asks:80 until TIME (39 s), as it asks for (HTTP 429)"]
    short = Run()
    for second in short.seconds(60):
        # An image that is requested again after a moment, and again.
        short.add("sick:80", retries=1, retry_in_s=1.0).responded(short.now)
        assert second
    assert short.told == []
    long = Run()
    sick = long.add("sick:80", retries=1, retry_in_s=25.0)
    sick.asked_to_wait(FetchError("rate_limited", "HTTP 429", retry_after_s=25.0), long.now, long.now)
    for _ in long.seconds(24):
        pass
    assert long.lines() == ["1 image waits until TIME (24 s) for the next attempt at sick:80 (HTTP 429)"]


def test_transfers_that_hang_are_said_and_count_as_something_to_do() -> None:
    """Ours and a worker's that end nothing for twenty seconds are named once; meanwhile nobody is given up."""
    run = Run()
    dead, live = run.add("dead:80", queued=1), run.add("live:80", in_flight=3)
    live.responded(run.now)
    for _ in range(3):
        run.refuse(dead)
    run.elsewhere, run.in_hand = 2, [(live, 2, run.now + 600.0)]
    for second in run.seconds(120, dead=(dead,)):
        assert second <= 20 or any("5 images hang at live:80" in line for line in run.lines())
    assert dead.gave_up is None
    hanging = [line for line in run.lines() if "hang at" in line]
    assert len(hanging) == 1
    assert "5 images hang at live:80; what sends nothing more is cut off by TIME (579 s)" in hanging[0]


def test_what_is_being_stored_is_nothing_that_hangs() -> None:
    """A consumer that takes a minute for each image is not told that transfers hang."""
    run = Run()
    run.add("live:80", in_flight=3).responded(run.now)
    run.elsewhere = 1
    for _ in run.seconds(120):
        pass
    assert run.told == []


def test_a_hundred_dead_hosts_are_one_line() -> None:
    """The three with most images are named, the others counted."""
    run = Run()
    dead = tuple(run.add(f"h{number}:80", queued=1 + number % 50) for number in range(100))
    for host in dead:
        for _ in range(3):
            run.refuse(host)
    for _ in run.seconds(30, dead=dead):
        pass
    (line,) = run.lines()
    assert line.startswith("50 images wait for h49:80 (")
    assert line.endswith("; 2,401 more wait, at the latest until TIME (55 s)")


@dataclass(slots=True)
class Image:
    """An image as the scheduler sees it."""

    place: int
    host: Host
    saved_state: str | None = "0 "

    def can_follow(self, other: "Image") -> bool:
        return False


def test_what_a_given_up_host_holds_is_let_go_at_once() -> None:
    """Queued, waiting for a retry, or kept as a place in the plan: all its images are handed out, to fail."""

    async def go() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        hosts = Hosts(None, 1.0, clock=loop.time)
        dead = hosts.named("dead:80")
        images = [Image(place, dead) for place in range(100)]

        async def load(places: list[tuple[int, str]]) -> list[Image]:
            return [images[place] for place, _ in places]

        scheduler = HostScheduler[Image](load, capacity=4, clock=loop.time)  # type: ignore[arg-type]
        dead.pause(500.0, now=loop.time())
        for image in images:
            await scheduler.put(image)
        assert scheduler.left() is None
        scheduler.end_of_plan()
        scheduler.add_external()
        scheduler.return_external(Image(100, dead, None), 300.0)
        assert scheduler.left() == ([Left(dead, 100, 0, 1, loop.time() + 300.0)], 0)

        async def work() -> int:
            taken = 0
            while (image := await scheduler.take_next()) is not None:
                taken += 1
                scheduler.release_host(image.host)
                scheduler.finish()
            return taken

        began, working = loop.time(), asyncio.create_task(work())
        await asyncio.sleep(7.0)
        dead.gave_up = refused("dead:80")
        scheduler.release_given_up()
        taken = await working
        scheduler.close()
        return taken, loop.time() - began

    taken, seconds = run_fast(go())
    assert taken == 101
    assert seconds < 8.0
