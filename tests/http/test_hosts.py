"""How fast a host is asked, on a clock that runs as fast as the test: caps in any window, pauses that hold."""

import asyncio
import random
import re
from bisect import bisect_left
from typing import Any

import pytest
from support.fasttime import run_fast
from yarl import URL

from oid_async.http import host as host_module
from oid_async.http.etag import EtagTrust
from oid_async.http.host import FLICKR, Host
from oid_async.http.hosts import Hosts, host_name, make_limiter
from oid_async.http.retry import FetchError, Limits, with_retries
from oid_async.http.wait_text import clock_text
from oid_async.options.defaults import FLICKR_RATE

CVDF = URL("https://open-images-dataset.s3.amazonaws.com/train/0000048549557964.jpg")
HERE = ("x.org", 443)
FLICKR_PHOTO = URL("https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg")


def hosts_on_loop_time(rate: float | None, period: float = 1.0) -> Hosts:
    return Hosts(rate, period, clock=asyncio.get_running_loop().time)


async def admissions(hosts: Hosts, host: Host, seconds: float, *, workers: int) -> list[float]:
    """Return when requests were admitted, from the start, while this many workers ask without a pause."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    admitted: list[float] = []

    async def work() -> None:
        while True:
            await hosts.admit(host, HERE)
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


def test_a_host_that_was_given_up_gets_another_chance() -> None:
    """Whoever asks anew begins anew with it; its cap, and all that is known of other hosts, go on."""
    hosts = Hosts(5.0, 1.0)
    lost, well = hosts.named("lost.org:443"), hosts.named("well.org:443")
    lost.gave_up = FetchError("network", "refused")
    well.in_flight = 3
    hosts.forgive()
    fresh = hosts.named("lost.org:443")
    assert (fresh.gave_up, fresh.limiter, hosts.named("well.org:443")) == (None, lost.limiter, well)
    hosts.release()
    assert well.in_flight == 0


def test_a_host_that_never_answers_gets_few_further_chances() -> None:
    """A thousand parts that are tried anew do not wait for it a thousand times; one answer begins the count anew."""
    hosts = Hosts(None, 1.0)

    def chances() -> int:
        for count in range(10):
            host = hosts.named("lost.org:443")
            host.gave_up = FetchError("network", "refused")
            hosts.forgive()
            if hosts.named("lost.org:443") is host:
                return count
        return 10

    assert chances() == 3
    hosts.named("lost.org:443").has_answered = True
    assert chances() == 3


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
    assert hosts.named(host_name(FLICKR_PHOTO)) is hosts.named(host_name(URL("https://c1.staticflickr.com/6/a_z.jpg")))
    assert hosts.named(host_name(CVDF)) is hosts.named(host_name(CVDF.with_path("/test/00e4060885034751.jpg")))
    assert hosts.named(host_name(URL("http://127.0.0.1:1/"))) is not hosts.named(host_name(URL("http://127.0.0.1:2/")))
    assert hosts.named(host_name(CVDF)).etags.host == host_name(CVDF)


@pytest.mark.parametrize(
    ("rate", "url", "capped"),
    [(None, FLICKR_PHOTO, True), (None, CVDF, False), (0.0, FLICKR_PHOTO, False), (5.0, CVDF, True)],
)
def test_who_is_capped(rate: float | None, url: URL, capped: bool) -> None:
    """By default Flickr alone is capped; a given rate holds for every host, 0 for none."""
    assert (Hosts(rate, 1.0).named(host_name(url)).limiter is not None) is capped


def test_no_cap_is_no_limiter() -> None:
    """A rate of 0 makes no limiter at all, and admits any number at once."""
    assert make_limiter(0, 1.0) is None

    async def ask() -> float:
        hosts = hosts_on_loop_time(0.0)
        start = asyncio.get_running_loop().time()
        for _ in range(5000):
            await hosts.admit(hosts.named(host_name(CVDF)), HERE)
        return asyncio.get_running_loop().time() - start

    assert run_fast(ask()) == 0.0


@pytest.mark.parametrize("rate", [1, 2, 5, 10, 33, 34, 100, 500])
def test_rate_holds_in_every_second(rate: int) -> None:
    """Saturated for five seconds: no window of one second starts more than the rate, and 90 % of it is used."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(float(rate))
        return await admissions(hosts, hosts.named(host_name(CVDF)), 5.0, workers=64)

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
        return await admissions(hosts, hosts.named(host_name(CVDF)), seconds, workers=16)

    times = run_fast(ask())
    assert most_in_a_window(times, period) <= max(1, rate + max(1, 0.03 * rate))
    if rate < 1:
        assert most_in_a_window(times, period / rate) == 1
    assert len(times) >= 0.9 * rate * seconds / period


def test_idle_time_is_not_saved_up() -> None:
    """A host that was left alone for a minute still gets no more than the rate in a second."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(100.0)
        await admissions(hosts, hosts.named(host_name(CVDF)), 1.0, workers=32)
        await asyncio.sleep(60.0)
        return await admissions(hosts, hosts.named(host_name(CVDF)), 3.0, workers=32)

    assert most_in_a_window(run_fast(ask()), 1.0) <= 103


def test_flickr_is_asked_ten_times_a_second_by_default() -> None:
    """Without any option Flickr gets ten requests a second in all, over all of its names."""

    async def ask() -> list[float]:
        hosts = hosts_on_loop_time(None)
        loop = asyncio.get_running_loop()
        start = loop.time()
        times: list[float] = []
        while loop.time() - start < 5.0:
            await hosts.admit(hosts.named(host_name(URL(f"https://farm{len(times) % 9}.staticflickr.com/a.jpg"))), HERE)
            times.append(loop.time() - start)
        return times

    times = run_fast(ask())
    assert most_in_a_window(times, 1.0) <= FLICKR_RATE + 1
    assert len(times) >= 45


def test_hosts_do_not_slow_each_other() -> None:
    """Each host has the whole rate to itself."""

    async def ask() -> tuple[list[float], list[float]]:
        hosts = hosts_on_loop_time(20.0)
        jobs = [
            admissions(hosts, hosts.named(host_name(URL(f"http://127.0.0.1:{port}/"))), 5.0, workers=8)
            for port in (1, 2)
        ]
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
        host = hosts.named(host_name(CVDF))
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
            await hosts.admit(host, HERE)
            trickled.append(hosts.clock() - start)

    times = run_fast(ask())
    assert len(pauses) == 12
    for asked, until in pauses:
        early = [time for time in times if asked < time < until]
        assert not early, (asked, until)
    assert max(times) > pauses[-1][1]


def test_pauses_do_not_add_up() -> None:
    """The latest end holds; what is counted as waited is the time covered, once."""
    host = Hosts(None, 1.0).named(host_name(CVDF))
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
        host = hosts.named(host_name(CVDF))
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
        host = hosts.named(host_name(CVDF))
        start = hosts.clock()
        host.pause(5.0, now=start)
        waiting = [asyncio.create_task(hosts.admit(host, HERE)) for _ in range(4)]
        await asyncio.sleep(1.0)
        for task in waiting[:3]:
            task.cancel()
        await asyncio.wait(waiting)
        assert [task.cancelled() for task in waiting] == [True, True, True, False]
        return hosts.clock() - start

    assert 5.0 <= run_fast(ask()) <= 8.0


# The window, the probe, patience --------------------------------------------------------------------------------------


def make_host(**settings: Any) -> Host:
    """Return a host without chance in it: every random wait is its mean."""
    return Host("x.org:443", None, EtagTrust("x.org:443"), jitter=lambda: 0.5, **settings)


def asks_to_wait(seconds: float | None = None) -> FetchError:
    return FetchError("rate_limited", "HTTP 429", retry_after_s=seconds)


def ask_to_wait_as_a_whole(host: Host, error: FetchError, began: float, now: float) -> None:
    """Let as many images in a row be asked to wait as make it the host's own wish; the last one by this error."""
    like_it = FetchError(error.kind, str(error), retry_after_s=error.retry_after_s)
    for _ in range(min(host_module._ASKS, int(host.most), 4 * int(host.window)) - 1):
        host.asked_to_wait(like_it, began, now)
        assert not host.is_closed(now)
    host.asked_to_wait(error, began, now)


def refused() -> FetchError:
    return FetchError("network", "cannot connect to x.org:443: Connection refused", unsent=True)


def hung_up() -> FetchError:
    return FetchError("network", "Server disconnected")


def test_the_window_doubles_with_each_round_trip_up_to_what_is_allowed() -> None:
    """Every answer opens it by one, so that a round of them doubles it; it never passes --concurrency."""
    host = make_host(most=64.0)
    rounds = []
    for _ in range(4):
        for _ in range(int(host.window)):
            host.responded(1.0)
        rounds.append(host.window)
    assert rounds == [16.0, 32.0, 64.0, 64.0]
    assert make_host(most=2.0).window == 2.0


def test_trouble_halves_once_for_all_that_was_under_way() -> None:
    """Sixty-four answers of 503 to one round of requests are one trouble, not sixty-four."""
    host = make_host(window=64.0)
    for _ in range(64):
        host.asked_to_wait(FetchError("server_error", "HTTP 503"), began=1.0, now=2.0)
    assert host.window == 32.0
    ask_to_wait_as_a_whole(host, FetchError("server_error", "HTTP 503"), began=2.5, now=3.0)
    assert host.window == 16.0
    host.responded(began=1.5)
    assert host.window == 16.0, "what began before the trouble tells nothing of what came after"
    for _ in range(16):
        host.responded(began=4.0)
    assert 16.5 < host.window < 17.5, "behind the threshold it grows by one with each round trip"


def test_after_a_pause_one_image_finds_out() -> None:
    """Retry-After closes the host; then one probe goes first, and its answer opens the window again."""
    host = make_host(window=32.0)
    ask_to_wait_as_a_whole(host, asks_to_wait(10.0), began=1.0, now=2.0)
    assert host.is_closed(11.9)
    assert not host.may_take(11.9)
    assert host.may_take(12.0)
    host.in_flight = 1
    assert not host.may_take(12.0)
    host.responded(began=12.0)
    assert host.may_take(12.1)
    assert host.waited_s == 10.0


def test_a_bare_429_pauses_longer_each_time() -> None:
    """Without Retry-After the pauses double, with chance in them, up to half a minute."""
    host, ends = make_host(max_wait_s=1e9), []
    for number in range(10):
        now = 100.0 * number
        ask_to_wait_as_a_whole(host, asks_to_wait(), began=now, now=now)
        ends.append(host.not_before - now)
    assert ends == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]


def test_an_image_that_is_asked_to_wait_waits_by_itself() -> None:
    """One answer in five may ask for it, and thirty of the first ones: then the host goes on as if there were none."""
    host, now = make_host(window=32.0), 1.0
    for number in range(30):
        host.asked_to_wait(asks_to_wait((1.0, 3600.0, 1e9, None)[number % 4]), began=now, now=now)
    for number in range(3000):
        now += 0.01
        host.asked_to_wait(asks_to_wait(5.0), began=now, now=now) if number % 6 == 5 else host.responded(now)
    assert (host.not_before, host.waited_s, host.gave_up) == (0.0, 0.0, None)
    assert host.window == 64.0


def test_a_host_that_asks_again_and_again_is_left_alone() -> None:
    """With one success in three answers the wish is the host's, however its other answers are strewn in between."""
    host, answers = make_host(window=64.0), 0
    while not host.is_closed(1.0):
        host.responded(1.0) if answers % 3 == 2 else host.asked_to_wait(asks_to_wait(5.0), began=1.0, now=1.0)
        answers += 1
    assert 40 < answers < 80
    assert host.not_before == 6.0


def test_what_hangs_leaves_its_place_to_others() -> None:
    """A transfer hangs after four times as long as a response takes; that of a host that is down never does."""
    host = make_host()
    assert not host.hangs(0.01, now=10.0)
    assert host.hangs(0.05, now=10.0), "nothing is known of it yet"
    host.in_flight = 8
    assert not host.may_take(10.0)
    host.hanging = 3
    assert host.may_take(10.0)
    for _ in range(50):
        host.delivered(1000, began=9.0, now=10.0)
    assert not host.hangs(3.0, now=10.0)
    assert host.hangs(4.5, now=10.0)
    for _ in range(3):
        host.connect_failed(refused(), HERE, began=11.0, now=12.0)
    assert not host.hangs(30.0, now=60.0), "the probe of a host that is down"
    assert host.hangs(60.0, now=60.0), "what was under way before it was"


def test_of_a_host_that_is_silent_few_hang_without_counting() -> None:
    """Forty hanging images at the front of the plan hide no good host; one that stays silent is asked for less."""
    host = make_host()
    assert host.most_hanging() + host.window == 64
    host.request_failed(hung_up(), began=1.0, now=31.0, no_response=True)
    assert host.most_hanging() == 8
    host.responded(32.0)
    assert host.most_hanging() == 64


def test_one_host_alone_may_have_more_transfers_that_hang() -> None:
    """With a small --concurrency hanging images must not be all that is under way; other hosts need their share."""
    all_hosts = Hosts(None, 1.0, most=64)
    all_hosts.named("a:80")
    assert all_hosts.hanging_share == 48
    all_hosts.named("b:80")
    assert all_hosts.hanging_share == 16


def test_an_image_that_fails_again_says_nothing_of_its_host() -> None:
    """Sixteen images that never get an answer do not make a host of it that is down, if others did get one."""
    host = make_host()
    host.responded(1.0)
    for number in range(16 * 5):
        now = 30.0 * (1 + number // 16)
        host.request_failed(hung_up(), began=now, now=now, no_response=True, retried=number >= 16)
    assert not host.is_closed(150.0)


def test_a_host_that_cannot_be_reached_is_probed_ever_more_seldom_and_given_up() -> None:
    """Three refused connections close it; probes come after 1, 2, 4, ... 120 s; a quarter of an hour is the end."""
    told: list[str] = []
    host = make_host(notify=told.append)
    now, probes = 0.0, []
    for _ in range(3):
        host.connect_failed(refused(), HERE, began=now, now=now)
    while host.gave_up is None:
        assert host.is_closed(now)
        assert host.may_take(host.not_before)
        probes.append(host.not_before - now)
        now = host.not_before
        host.connect_failed(refused(), HERE, began=now, now=now)
    assert probes == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, *[120.0] * 6]
    assert now <= 900.0
    assert host.gave_up.hopeless
    assert host.may_take(now), "its other images may fail at once"
    assert told[-1].startswith("x.org:443 is given up for this run: cannot connect")


def test_a_probe_that_is_answered_ends_the_down_time() -> None:
    """One answer, and it takes three refusals again; what was waited for so far counts on: patience is for the run."""
    host = make_host()
    for began in (0.0, 0.0, 0.0, 1.0, 3.0, 7.0):
        host.connect_failed(refused(), HERE, began=began, now=began)
    assert host.waited_s > 10.0
    host.responded(began=30.0)
    assert (host.waited_s, host.window) == (15.0, 2.0)
    host.connect_failed(refused(), HERE, began=31.0, now=31.0)
    assert not host.is_closed(31.0), "one refused connection says nothing yet"


@pytest.mark.parametrize("patience", [0.0, 5.0, 900.0])
def test_longer_waits_than_our_patience_are_not_waited_for(patience: float) -> None:
    """A Retry-After beyond --max-wait gives the host up at once; one within is kept to the second."""
    host, error = make_host(max_wait_s=patience), asks_to_wait(patience + 0.5)
    ask_to_wait_as_a_whole(host, error, began=1.0, now=1.0)
    assert error.hopeless
    assert host.gave_up is not None
    assert host.gave_up.kind == "rate_limited"
    host, error = make_host(max_wait_s=patience), asks_to_wait(patience)
    ask_to_wait_as_a_whole(host, error, began=1.0, now=1.0)
    assert not error.hopeless
    assert host.not_before == 1.0 + patience


def small_requests(limits: Limits, count: int, *, silent_s: float = 0.0) -> tuple[list[float], list[str], int]:
    """Let so many small requests, six at once, try a host that refuses or is silent.

    Returns when each has failed, the lines, and how many tries there were.
    """

    async def run() -> tuple[list[float], list[str], int]:
        told: list[str] = []
        clock = asyncio.get_running_loop().time
        hosts = Hosts(None, 1.0, clock=clock, notify=told.append)
        host, began, tried, at_once = hosts.named("dead:80"), clock(), 0, asyncio.Semaphore(6)

        async def attempt() -> None:
            nonlocal tried
            await hosts.until_open(host, HERE)
            tried += 1
            sent_at, error = clock(), refused()
            if silent_s:
                await asyncio.sleep(silent_s)
                error = FetchError("timeout", "no answer within 30 s")
                host.request_failed(error, sent_at, clock(), no_response=True)
            else:
                host.connect_failed(error, HERE, sent_at, clock())
            raise error

        async def request() -> float:
            async with at_once:
                with pytest.raises(FetchError):
                    await with_retries(attempt, limits, sleep=asyncio.sleep)
            return clock() - began

        return sorted(await asyncio.gather(*(request() for _ in range(count)))), told, tried

    return run_fast(run())


def test_the_clock_on_the_wall_has_its_limits() -> None:
    """A time of today is a time, a later one has its date, and a --max-wait of ages overflows nothing."""
    assert re.fullmatch(r"\d\d:\d\d:\d\d \(60 s\)", clock_text(60.4))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \(200000 s\)", clock_text(2e5))
    assert clock_text(1e300) == "a time 1e+300 s from now"
    assert re.fullmatch(r"\d\d:\d\d:\d\d \(0 s\)", clock_text(-3.0))


def test_masks_and_tables_wait_a_minute_for_a_host_that_never_answers() -> None:
    """A thousand small requests to a port that refuses end after a minute in all, with one line said meanwhile."""
    ended, told, tried = small_requests(Limits(), 1000)
    assert ended[-1] == pytest.approx(60.0, abs=2.0)
    assert tried < 100
    assert [re.sub(r"\d\d:\d\d:\d\d \(\d+ s\)", "TIME", line) for line in told] == [
        "waiting for dead:80 (cannot connect to x.org:443: Connection refused); it is asked again until TIME "
        "at the latest, then it is given up",
        "dead:80 is given up for this run: cannot connect to x.org:443: Connection refused",
    ]
    silent, told, tried = small_requests(Limits(), 1, silent_s=30.0)
    assert 90.0 < silent[0] < 110.0
    assert (len(told), tried) == (2, 3)
    ended, told, _ = small_requests(Limits(retries=0), 3)
    assert ended[-1] < 1.0
    assert told == []


def test_broken_objects_do_not_look_like_a_broken_host() -> None:
    """Time-outs and hang-ups shrink the window only when nothing else comes back, and never below four."""
    host = make_host(window=32.0)
    for _ in range(63):
        host.request_failed(hung_up(), began=1.0, now=1.0, no_response=False)
    assert host.window == 32.0
    host.responded(began=1.0)
    for number in range(1000):
        host.request_failed(hung_up(), began=2.0 + number, now=2.0 + number, no_response=False)
    assert host.window == 4.0
    assert not host.is_closed(2000.0)
    assert host.gave_up is None


def test_a_host_that_never_answers_is_down_in_the_end() -> None:
    """Many requests over a long while without one head of an answer: then one image probes, and patience runs out."""
    host, now = make_host(patience_s=30.0, max_wait_s=20.0), 0.0
    for number in range(15):
        now = 30.0 * (number // 8)
        host.request_failed(hung_up(), began=now, now=now, no_response=True)
    assert not host.is_closed(now)
    while host.gave_up is None:
        now = max(now + 30.0, host.not_before)
        host.request_failed(hung_up(), began=now, now=now, no_response=True)
    assert now < 300.0
    quick = make_host()
    for number in range(1000):
        quick.request_failed(hung_up(), began=number / 100, now=number / 100, no_response=True)
    assert not quick.is_closed(10.0), "images that fail at once have their own tries"


def test_one_name_of_flickr_is_not_all_of_it() -> None:
    """A name that is none, or has the wrong certificate, is given up alone; the others of its host go on."""
    told: list[str] = []
    host = Host(FLICKR, None, EtagTrust(FLICKR), jitter=lambda: 0.5, notify=told.append)
    good, bad, dead = ("live.staticflickr.com", 443), ("a.b.staticflickr.com", 443), ("farm1.staticflickr.com", 4443)
    host.connect_failed(FetchError("network", "certificate", hopeless=True, unsent=True), bad, began=0.0, now=0.0)
    assert host.given_up(bad) is not None
    assert host.given_up(good) is None
    host.responded(began=0.1)
    for number in range(20):
        host.connect_failed(refused(), dead, began=number, now=number)
        if number % 2:
            host.responded(began=number)
    assert host.gave_up is None
    for number in range(20, 26):
        host.connect_failed(refused(), dead, began=1e3 + number, now=1e3 + number)
    assert host.given_up(dead) is not None
    assert host.given_up(good) is None
    assert len(told) == 2


def test_retries_beyond_the_budget_are_spaced_out() -> None:
    """Five hundred are free, then a fifth of the requests; what is more comes twenty a second, and always comes."""
    host = make_host()
    assert {host.retry_delay_s(0.0) for _ in range(500)} == {0.0}
    assert [host.retry_delay_s(0.0) for _ in range(4)] == pytest.approx([0.05, 0.10, 0.15, 0.20])
    assert host.retry_delay_s(100.0) == pytest.approx(0.05)
    host.requests = 10_000
    assert host.retry_delay_s(100.0) == 0.0


def test_a_host_that_was_given_up_admits_nobody() -> None:
    """Whoever asks on is told the same failure, as an exception of its own."""

    async def ask() -> None:
        hosts = hosts_on_loop_time(None)
        host = hosts.named(host_name(CVDF))
        host.gave_up = FetchError("network", "gone", hopeless=True)
        raised = []
        for _ in range(2):
            with pytest.raises(FetchError, match="gone") as caught:
                await hosts.admit(host, HERE)
            raised.append(caught.value)
        assert raised[0] is not raised[1]

    run_fast(ask())


def test_hosts_are_forgotten_when_there_are_too_many() -> None:
    """A table may name a new host in every row: idle ones are let go, those in trouble or in use are not."""
    hosts = Hosts(None, 1.0, clock=lambda: 0.0)
    busy, closed = hosts.named(host_name(URL("http://busy.org/"))), hosts.named(host_name(URL("http://closed.org/")))
    busy.in_flight = 1
    closed.pause(60.0, now=0.0)
    for number in range(20_000):
        hosts.named(host_name(URL(f"http://h{number}.org/")))
    assert len(hosts._known) <= 4098
    assert hosts.named(host_name(URL("http://busy.org/"))) is busy
    assert hosts.named(host_name(URL("http://closed.org/"))) is closed


def test_a_capped_host_takes_no_more_than_its_rate_can_use() -> None:
    """Ten a second keep twenty images in flight busy; more would only hold places that others could use."""
    hosts = Hosts(None, 1.0, most=64)
    assert hosts.named(host_name(FLICKR_PHOTO)).most == 20.0
    assert hosts.named(host_name(CVDF)).most == 64.0


def test_what_is_told_of_many_images_is_told_once() -> None:
    """The same line comes once, and after ten different ones no more."""
    told: list[str] = []
    hosts = Hosts(None, 1.0, notify=told.append)
    for number in range(40):
        hosts.notify_once(f"blocked: {number // 2}")
    assert told == [f"blocked: {number}" for number in range(10)]


async def test_who_waits_for_a_small_request_is_told() -> None:
    """From the start of a wait of seconds to its end, however it ends; of images the scheduler knows what waits."""
    told: list[tuple[str, float]] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds > 100:
            raise asyncio.CancelledError

    hosts = Hosts(None, 1.0, sleep=sleep, on_wait=lambda *wait: told.append(wait))
    wait = hosts.retrying("https://tables.test/b.csv")
    await wait(0.5)
    await wait(5.0)
    with pytest.raises(asyncio.CancelledError):
        await wait(500.0)
    hosts.idle_since = None
    await wait(5.0)
    assert told == [("tables.test:443", seconds) for seconds in (5.0, 0.0, 500.0, 0.0)]
    assert slept == [0.5, 5.0, 500.0, 5.0]
