"""How fast a host is asked, on a clock that runs as fast as the test: caps in any window, pauses that hold."""

import asyncio
import math
import random
import selectors
from bisect import bisect_left
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from yarl import URL

from oid_async.transfer.hosts import FLICKR, FLICKR_RATE, Host, Hosts, host_name, make_limiter

CVDF = URL("https://open-images-dataset.s3.amazonaws.com/train/0000048549557964.jpg")
FLICKR_PHOTO = URL("https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg")

T = TypeVar("T")


class SkippingSelector(selectors.SelectSelector):
    """Does not wait for the time that the loop would sleep: it moves the clock there.

    As with epoll it wakes at whole milliseconds, so that a limiter must not count on being woken at once. Each turn of
    the loop takes a microsecond: who finds a rounding error left to wait for is not stuck.
    """

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("the loop waits for something that no time brings")
        self.now += max(1e-6, math.ceil(timeout * 1000 - 1e-6) / 1000)
        return super().select(0)


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds take no time."""

    def __init__(self) -> None:
        self._skipping = SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run_fast(job: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(job)


def hosts_on_loop_time(rate: float | None, period: float = 1.0) -> Hosts:
    return Hosts(rate, period, clock=asyncio.get_running_loop().time)


async def admissions(hosts: Hosts, host: Host, seconds: float, *, workers: int) -> list[float]:
    """Return when requests were admitted, from the start, while this many workers ask without a pause."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    admitted: list[float] = []

    async def work() -> None:
        while True:
            await hosts.admit(host)
            if loop.time() - start >= seconds:
                return
            admitted.append(loop.time() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return sorted(admitted)


def most_in_a_window(times: list[float], period: float) -> int:
    """Return the most of these (sorted) times that any window of this length holds, its end excluded."""
    return max(bisect_left(times, time + period - 1e-9) - first for first, time in enumerate(times))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://farm3.staticflickr.com/5310/a_o.jpg", FLICKR),
        ("https://c1.staticflickr.com/6/a_z.jpg", FLICKR),
        ("http://live.staticflickr.com/a.jpg", FLICKR),
        ("https://staticflickr.com/a.jpg", FLICKR),
        ("https://FARM1.StaticFlickr.COM/a.jpg", FLICKR),
        ("https://farm1.staticflickr.com./a.jpg", FLICKR),
        ("https://notstaticflickr.com/a.jpg", "notstaticflickr.com:443"),
        ("https://staticflickr.com.evil.org/a.jpg", "staticflickr.com.evil.org:443"),
        ("https://www.flickr.com/photos/1", "www.flickr.com:443"),
        ("http://x.org/a.jpg", "x.org:80"),
        ("https://x.org/a.jpg", "x.org:443"),
        ("https://x.org./a.jpg", "x.org:443"),
        ("http://127.0.0.1:8080/openimages/v7/x.csv", "127.0.0.1:8080"),
        ("http://127.0.0.1:8081/openimages/v7/x.csv", "127.0.0.1:8081"),
    ],
)
def test_host_name(url: str, name: str) -> None:
    """All of *.staticflickr.com is one host; every other host and port is its own."""
    assert host_name(URL(url)) == name


def test_host_state_is_shared_by_urls_of_one_host() -> None:
    """Two URLs of one host meet the same state, and another port another one."""
    hosts = Hosts(None, 1.0)
    assert hosts.of(FLICKR_PHOTO) is hosts.of(URL("https://c1.staticflickr.com/6/a_z.jpg"))
    assert hosts.of(CVDF) is hosts.of(CVDF.with_path("/test/00e4060885034751.jpg"))
    assert hosts.of(URL("http://127.0.0.1:1/")) is not hosts.of(URL("http://127.0.0.1:2/"))
    assert hosts.of(CVDF).etags.host == host_name(CVDF)


@pytest.mark.parametrize(
    ("rate", "url", "capped"),
    [(None, FLICKR_PHOTO, True), (None, CVDF, False), (0.0, FLICKR_PHOTO, False), (5.0, CVDF, True)],
)
def test_who_is_capped(rate: float | None, url: URL, capped: bool) -> None:
    """By default Flickr alone is capped; a given rate holds for every host, 0 for none."""
    assert (Hosts(rate, 1.0).of(url).limiter is not None) is capped


def test_no_cap_is_no_limiter() -> None:
    """A rate of 0 makes no limiter at all, and admits any number at once."""
    assert make_limiter(0, 1.0) is None

    async def ask() -> float:
        hosts = hosts_on_loop_time(0.0)
        start = asyncio.get_running_loop().time()
        for _ in range(5000):
            await hosts.admit(hosts.of(CVDF))
        return asyncio.get_running_loop().time() - start

    assert run_fast(ask()) == 0.0


@pytest.mark.parametrize("rate", [1, 2, 5, 10, 33, 34, 100, 500])
def test_rate_holds_in_every_second(rate: int) -> None:
    """Saturated for five seconds: no window of one second starts more than the rate, and 90 % of it is used."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(float(rate))
        return await admissions(hosts, hosts.of(CVDF), 5.0, workers=64)

    times = run_fast(ask())
    assert most_in_a_window(times, 1.0) <= rate + max(1, 0.03 * rate)
    assert len(times) >= 0.9 * rate * 5


@pytest.mark.parametrize(
    ("rate", "period", "seconds"),
    [(5, 5.0, 50.0), (10, 60.0, 600.0), (1, 10.0, 100.0), (100, 0.5, 4.0), (3, 0.1, 2.0), (0.5, 1.0, 40.0)],
)
def test_rate_holds_in_every_period(rate: float, period: float, seconds: float) -> None:
    """Any other period holds in the same way, and a rate below one is one request in a longer time."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(rate, period)
        return await admissions(hosts, hosts.of(CVDF), seconds, workers=16)

    times = run_fast(ask())
    assert most_in_a_window(times, period) <= max(1, rate + max(1, 0.03 * rate))
    if rate < 1:
        assert most_in_a_window(times, period / rate) == 1
    assert len(times) >= 0.9 * rate * seconds / period


def test_idle_time_is_not_saved_up() -> None:
    """A host that was left alone for a minute still gets no more than the rate in a second."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(100.0)
        await admissions(hosts, hosts.of(CVDF), 1.0, workers=32)
        await asyncio.sleep(60.0)
        return await admissions(hosts, hosts.of(CVDF), 3.0, workers=32)

    assert most_in_a_window(run_fast(ask()), 1.0) <= 103


def test_flickr_is_asked_ten_times_a_second_by_default() -> None:
    """Without any option Flickr gets ten requests a second in all, over all of its names."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(None)
        loop = asyncio.get_running_loop()
        start = loop.time()
        times: list[float] = []
        while loop.time() - start < 5.0:
            await hosts.admit(hosts.of(URL(f"https://farm{len(times) % 9}.staticflickr.com/a.jpg")))
            times.append(loop.time() - start)
        return times

    times = run_fast(ask())
    assert most_in_a_window(times, 1.0) <= FLICKR_RATE + 1
    assert len(times) >= 45


def test_hosts_do_not_slow_each_other() -> None:
    """Each host has the whole rate to itself."""

    async def ask() -> tuple[list[float], list[float]]:
        hosts = hosts_on_loop_time(20.0)
        jobs = [admissions(hosts, hosts.of(URL(f"http://127.0.0.1:{port}/")), 5.0, workers=8) for port in (1, 2)]
        one, other = await asyncio.gather(*jobs)
        return one, other

    assert all(len(times) >= 90 for times in run_fast(ask()))


@pytest.mark.parametrize("rate", [0.0, 3.0, 50.0, 500.0])
def test_pause_is_never_violated(rate: float) -> None:
    """While a host wants to be left alone nothing is admitted, also of what was waiting already; then it goes on."""
    chance = random.Random(int(rate))
    pauses: list[tuple[float, float]] = []

    async def pause_often(hosts: Hosts, host: Host, start: float) -> None:
        for _ in range(12):
            await asyncio.sleep(chance.uniform(0.0, 2.5))
            seconds = chance.choice((0.0, 0.3, 1.0, 4.0))
            host.pause(seconds, now=hosts.clock())
            pauses.append((hosts.clock() - start, host.not_before - start))

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(rate)
        host = hosts.of(CVDF)
        start = hosts.clock()
        async with asyncio.TaskGroup() as group:
            group.create_task(pause_often(hosts, host, start))
            # Without a cap the workers would never let the clock run: they ask once each, one after another.
            group.create_task(trickle(hosts, host, start))
            if rate:
                saturated = group.create_task(admissions(hosts, host, 60.0, workers=40))
        return trickled + (saturated.result() if rate else [])

    trickled: list[float] = []

    async def trickle(hosts: Hosts, host: Host, start: float) -> None:
        while hosts.clock() - start < 60.0:
            await asyncio.sleep(0.05)
            await hosts.admit(host)
            trickled.append(hosts.clock() - start)

    times = run_fast(ask())
    assert len(pauses) == 12
    for asked, until in pauses:
        early = [time for time in times if asked < time < until]
        assert not early, (asked, until)
    assert max(times) > pauses[-1][1]


def test_pauses_do_not_add_up() -> None:
    """The latest end holds; what is counted as waited is the time covered, once."""
    host = Hosts(None, 1.0).of(CVDF)
    host.pause(10.0, now=100.0)
    assert (host.not_before, host.waited_s) == (110.0, 10.0)
    host.pause(5.0, now=101.0)
    assert (host.not_before, host.waited_s) == (110.0, 10.0)
    host.pause(10.0, now=105.0)
    assert (host.not_before, host.waited_s) == (115.0, 15.0)
    host.pause(1.0, now=200.0)
    assert (host.not_before, host.waited_s) == (201.0, 16.0)


def test_burst_after_a_pause_keeps_to_the_rate() -> None:
    """Everything that waited for a pause to end does not start at once."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(20.0)
        host = hosts.of(CVDF)
        host.pause(30.0, now=hosts.clock())
        return await admissions(hosts, host, 35.0, workers=64)

    times = run_fast(ask())
    assert times[0] >= 30.0
    assert most_in_a_window(times, 1.0) <= 21
    assert len(times) >= 0.9 * 20 * 5


def test_waiting_can_be_cancelled() -> None:
    """Who waits for a paused or a slow host can be cancelled, and those behind still get through."""

    async def ask() -> float:
        hosts = hosts_on_loop_time(1.0)
        host = hosts.of(CVDF)
        start = hosts.clock()
        host.pause(5.0, now=start)
        waiting = [asyncio.create_task(hosts.admit(host)) for _ in range(4)]
        await asyncio.sleep(1.0)
        for task in waiting[:3]:
            task.cancel()
        await asyncio.wait(waiting)
        assert [task.cancelled() for task in waiting] == [True, True, True, False]
        return hosts.clock() - start

    assert 5.0 <= run_fast(ask()) <= 8.0
