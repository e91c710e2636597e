"""What holds up a run: paused, silent and capped hosts, hanging transfers, retries, a slow disk, late workers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.published import Box, Dataset, Image

import oid_async
from oid_async.events import Event, Hold, Holding, Stage
from oid_async.http.host import FLICKR
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError
from oid_async.transfer import pipeline
from oid_async.transfer.holding import HoldingWatch, Stores, Workers
from oid_async.transfer.scheduler import Left


class Run:
    """A run on a clock of its own, and what it has said of what holds it up."""

    def __init__(self, rate: float | None = None, limit_bytes_s: float | None = None) -> None:
        self.now = 5000.0
        self.hosts = Hosts(rate, 1.0, clock=lambda: self.now)
        self.sent: list[tuple[Hold, ...]] = []
        self.watch = HoldingWatch(self.hosts, self._take, limit_bytes_s=limit_bytes_s, wall=lambda: self.now + 1e9)
        self.left: list[Left] = []
        self.retries: dict[str, int] = {}
        self.stores = Stores()
        self.workers = Workers()

    def _take(self, event: Event) -> None:
        assert isinstance(event, Holding)
        self.sent.append(event.holds)

    def look(self, seconds: int = 1, each: Callable[[], None] = lambda: None) -> tuple[Hold, ...]:
        """Look once a second, and return what was sent last."""
        for _ in range(seconds):
            self.now += 1.0
            each()
            self.watch.look(self.left, self.retries, self.stores, self.workers)
        return self.sent[-1] if self.sent else ()


def test_nothing_is_said_of_a_run_that_goes_on() -> None:
    """Hosts that answer, whatever waits for them, are no event at all."""
    run = Run()
    host = run.hosts.named("a:443")
    host.has_answered = True
    run.left = [Left(host, 500, 64)]
    run.look(10)
    run.watch.end()
    assert run.sent == []


def test_a_pause_has_its_end_on_the_wall() -> None:
    """Until when, for how many, and why; sent once, and once more when it is over."""
    run = Run()
    host = run.hosts.named("a:443")
    host.has_answered, host.trouble = True, "HTTP 429"
    run.left = [Left(host, 500, 2)]
    host.pause(30.0, now=run.now)
    (hold,) = run.look()
    assert (hold.cause, hold.host, hold.count, hold.trouble) == ("paused", "a:443", 502, "HTTP 429")
    assert hold.until == 5030.0 + 1e9
    run.look(40)
    assert run.sent[-1] == ()
    assert len(run.sent) == 2


def test_a_host_that_says_nothing_is_named() -> None:
    """One that refuses at once, one whose first answer is long in coming after some seconds, one that is down."""
    run = Run()
    refused, slow, down = (run.hosts.named(name) for name in ("refused:1", "slow:2", "down:3"))
    down.has_answered = True
    for host in (refused, *[down] * 3):
        host.connect_failed(FetchError("network", "refused"), (host.name, 1), run.now, run.now)
    run.left = [Left(refused, 3, 0), Left(slow, 2, 8), Left(down, 1, 0)]
    assert {(hold.cause, hold.host) for hold in run.look()} == {("unanswered", "refused:1"), ("down", "down:3")}
    assert ("unanswered", "slow:2") in {(hold.cause, hold.host) for hold in run.look(5)}
    slow.measures.images = 1  # in a worker process
    assert ("unanswered", "slow:2") not in {(hold.cause, hold.host) for hold in run.look()}
    slow.measures.images, slow.has_answered = 0, True
    assert ("unanswered", "slow:2") not in {(hold.cause, hold.host) for hold in run.look()}


@pytest.mark.parametrize(("rate", "per_s", "by_default"), [(None, 10.0, True), (5.0, 5.0, False)])
def test_a_cap_is_said_while_it_is_what_is_waited_for(rate: float | None, per_s: float, by_default: bool) -> None:
    """Flickr's own by default, else --rate; not where fewer requests are wanted than it allows."""
    run = Run(rate)
    host = run.hosts.named(FLICKR)
    host.has_answered = True
    run.left = [Left(host, 90, 10)]
    assert run.look(3) == ()
    waits = run.look(3, lambda: host.note_wait("rate_cap", run.now - 0.9, run.now))
    assert waits == (Hold("capped", FLICKR, 100, per_s=per_s, by_default=by_default),)
    assert run.look(2) == ()


def test_a_mirror_folder_is_called_by_its_path() -> None:
    """Not by the port that serves it in this run, of which nobody has heard."""
    run = Run(5.0)
    run.hosts.measures.known_as["127.0.0.1:43349"] = "file:///srv/mirror"
    host = run.hosts.named("127.0.0.1:43349")
    host.has_answered = True
    run.left = [Left(host, 90, 10)]
    run.look()
    (hold,) = run.look(1, lambda: host.note_wait("rate_cap", run.now - 0.9, run.now))
    assert hold == Hold("capped", "file:///srv/mirror", 100, per_s=5.0)


def test_the_cap_on_bytes_is_said() -> None:
    """While bodies wait for it."""
    run = Run(limit_bytes_s=2e6)
    host = run.hosts.named("a:443")
    host.has_answered = True
    run.left = [Left(host, 90, 10)]
    waits = run.look(3, lambda: host.note_wait("limit_rate", run.now - 0.9, run.now))
    assert waits == (Hold("limited", per_s=2e6),)


def test_what_hangs_hangs_for_a_while() -> None:
    """A transfer that is silent for a moment is none; those of worker processes count."""
    run = Run()
    host = run.hosts.named("a:443")
    host.has_answered = True
    run.left = [Left(host, 0, 10)]
    flicker = iter([3, 0, 3, 0, 3, 0])

    def hang() -> None:
        host.hanging = next(flicker)

    assert run.look(6, hang) == ()
    host.hanging = 2
    run.workers = Workers([(host, 5, 0.0)], {"a:443": 1})
    assert run.look(4) == (Hold("hanging", "a:443", 3),)


def test_retries_disk_and_workers_are_counted() -> None:
    """Retries by kind, the most first; a disk that stays behind; who takes outcomes slowly; processes that start."""
    run = Run()
    run.retries = {"timeout": 2, "server_error": 12}
    assert run.look() == (Hold("retries", count=14, kinds=(("server_error", 12), ("timeout", 2))),)
    run.retries = {}
    run.stores = Stores(64, is_full=True)
    assert run.look() == ()
    assert run.look() == (Hold("disk", count=64),)
    run.stores = Stores(64, is_full=True, is_delivering=True)
    assert run.look() == (Hold("consumer", count=64),)
    run.stores = Stores()
    run.workers = Workers(starting=1)
    assert run.look(2) == ()
    assert run.look(4) == (Hold("workers", count=1),)


async def test_a_run_says_what_holds_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens to a capped run hears of its stages and of the cap, and in the end that nothing holds it up."""
    monkeypatch.setattr(pipeline, "LOOK_S", 0.05)
    images = [Image(f"{number:016x}") for number in range(1, 16)]
    boxes = [Box(image.image_id, "/m/018xm") for image in images]
    mirror = Dataset([("/m/018xm", "Football")], images, boxes).publish(tmp_path / "mirror")
    events: list[Event] = []
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d", rate=20, on_event=events.append)
    holding = [event for event in events if isinstance(event, Holding)]
    assert "capped" in {hold.cause for event in holding for hold in event.holds}
    assert holding[-1] == Holding()
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["reading the tables", "choosing the images", "writing the result tables"]
