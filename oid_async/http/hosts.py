"""All hosts of one run: which are known, who may send a request when, and the rate cap of each."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import field
from time import monotonic
from typing import TYPE_CHECKING

from yarl import URL

from oid_async.http.address_guard import Endpoint
from oid_async.http.estimator import FLOOR, ConcurrencyEstimator
from oid_async.http.etag import EtagTrust
from oid_async.http.host import FLICKR, LEAST_WINDOW, MOST_KNOWN, PAUSE_WORTH_A_LINE_S, Host
from oid_async.http.wait_text import asked_until
from oid_async.measures.run import RunMeasures
from oid_async.options.defaults import FLICKR_RATE, MAX_WAIT_S, TIMEOUT_S, UNANSWERED_S
from oid_async.quick_values import define

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_LOOK_S = 1.0  # how often who waits for a host that has never answered looks whether it was given up
# How many seconds' worth of a capped host's requests may be in flight or wait for the cap.
_CAPPED_S = 2.0
_MOST_NOTIFIED = 10
_WORTH_SAYING_S = 2.0
# How often a host that was given up is asked anew without an answer: with the first time it is waited for four times.
_MOST_CHANCES = 3
LEAST_WAIT_S = 0.001  # what took less is no wait


@define
class Hosts:
    """All hosts of one run, and its rate cap: at most `rate` requests per `period` seconds and host.

    `most` limits how many transfers may be in flight to one host; with `estimates_concurrency` each host estimates how
    many it needs, `floor` at least. `max_wait_s` is how long a host that is down or asks for it is waited for in all,
    `patience_s` how long one response is. `notify` is given messages for the user, one line each; `on_close` each host
    that is closed or given up, `on_room` each of which more transfers hang, so that it may get more requests.
    `host_type` makes a host. `on_wait` is called when a table or another small request begins to wait for a host, with
    the host's name and the seconds, and with 0 seconds when that is over.

    `idle_since` is since when nothing but waiting is left to do, None while there is; `unanswered_s` is how long a host
    that has not answered once is waited for then. From the start on each table is waited for; images set it to None.
    `measures` are those of the run.
    """

    rate: float | None
    period: float
    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    most: int = 64
    estimates_concurrency: bool = False
    floor: float = FLOOR
    max_wait_s: float = MAX_WAIT_S
    patience_s: float = TIMEOUT_S
    notify: Callable[[str], None] = lambda _: None
    on_close: Callable[[Host], None] = lambda _: None
    on_room: Callable[[Host], None] = lambda _: None
    on_wait: Callable[[str, float], None] = lambda name, seconds: None
    host_type: Callable[..., Host] = Host
    unanswered_s: float = UNANSWERED_S
    idle_since: float | None = None
    measures: RunMeasures = field(default_factory=RunMeasures)
    _most_known: int = MOST_KNOWN
    _known: dict[str, Host] = field(default_factory=dict)
    _notified: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.idle_since = self.clock()

    @property
    def hanging_share(self) -> int:
        """Return how many transfers of one host may hang without counting: other hosts need theirs."""
        return self.most // 4 if len(self._known) > 1 else self.most * 3 // 4

    def waits_until(self, host: Host) -> float:
        """Return until when a host that is down is waited for at most, if it stays so."""
        give_up_at = host.give_up_at(self.idle_since, self.unanswered_s)
        latest = host.patience_ends(self.clock())
        return latest if give_up_at is None else min(latest, give_up_at)

    def give_up_unanswered(self) -> None:
        """Give up the hosts that have never answered and were waited for long enough, if only waiting is left."""
        for host in list(self._known.values()):
            self._give_up_if_due(host)

    def release(self) -> None:
        """Note that no image is under way any more: who was cut off has given no place back."""
        for host in self._known.values():
            host.in_flight = 0

    def forgive(self) -> None:
        """Begin anew with the hosts that were given up, and with what was given up of others; caps go on.

        A host that has not answered since gets few such chances: however many ask, nobody waits for it for ever.
        """
        for name, host in self._known.items():
            host.lost.clear()
            chances = 0 if host.has_answered else host.chances
            if host.gave_up is not None and chances < _MOST_CHANCES:
                self._known[name] = fresh = self._make(name)
                fresh.limiter = host.limiter
                fresh.chances = chances + 1

    def say_down(self, names: Iterable[str]) -> None:
        """Note that the user knows of these hosts that they are down."""
        for name in names:
            self.named(name).is_said = True

    def notify_once(self, text: str) -> None:
        """Notify the user of something that many images have in common: each text once, and only the first few."""
        if text not in self._notified and len(self._notified) < _MOST_NOTIFIED:
            self._notified.add(text)
            self.notify(text)

    def named(self, name: str) -> Host:
        """Return the host of this name, as `host_name` returns it."""
        host = self._known.get(name)
        if host is None:
            self._forget_idle()
            host = self._known[name] = self._make(name)
        return host

    def hanging(self) -> dict[str, int]:
        """Return how many transfers hang, by the name of their host."""
        return {host.name: host.hanging for host in self._known.values() if host.hanging}

    def closed(self) -> list[Host]:
        """Return the hosts that may not be used just now: closed, or given up."""
        now = self.clock()
        return [host for host in self._known.values() if host.is_unusable(now)]

    def cap_per_s(self, name: str) -> float | None:
        """Return how many requests a second a host of this name may get, None for no cap."""
        rate = self._rate_of(name)
        return rate / (self.period if self.rate else 1.0) if rate else None

    def _rate_of(self, name: str) -> float:
        return (FLICKR_RATE if name == FLICKR else 0.0) if self.rate is None else self.rate

    def _make(self, name: str) -> Host:
        rate = self._rate_of(name)
        period = self.period if self.rate else 1.0
        limiter = make_limiter(rate, period)
        # Images that only wait for a capped host would occupy the transfers of those that need not wait.
        most = float(self.most) if limiter is None else min(self.most, max(LEAST_WINDOW, _CAPPED_S * rate / period))
        estimator = (
            ConcurrencyEstimator(floor=self.floor, most=most)
            if self.estimates_concurrency and limiter is None
            else None
        )
        return self.host_type(
            name,
            limiter,
            EtagTrust(name),
            most=most if estimator is None else estimator.limit,
            estimator=estimator,
            max_wait_s=self.max_wait_s,
            patience_s=self.patience_s,
            notify=self.notify,
            on_close=lambda host: self.on_close(host),
            measures=self.measures.of_host(name),
        )

    async def admit(self, host: Host, endpoint: Endpoint) -> None:
        """Wait until one more request may be sent to an endpoint of the host. Raises FetchError if it was given up."""
        while True:
            await self.until_open(host, endpoint)
            if host.limiter is None:
                break
            began = self.clock()
            await host.limiter.acquire()
            if (now := self.clock()) - began >= LEAST_WAIT_S:
                host.note_wait("rate_cap", began, now)
            if host.not_before <= now:
                break
        host.requests += 1

    async def until_open(self, host: Host, endpoint: Endpoint) -> None:
        """Wait while the host is closed. Raises FetchError if it was given up."""
        while True:
            if (error := host.given_up(endpoint)) is not None:
                raise error.again()
            is_unanswered = host.is_unanswered
            if is_unanswered:
                if self._give_up_if_due(host):
                    continue
                self._say_waiting(host)
            wait = host.not_before - self.clock()
            if wait <= 0:
                return
            if is_unanswered:
                await self.sleep(min(wait, _LOOK_S))
            else:
                await self._wait(host.name, wait)

    def retrying(self, url: str) -> Callable[[float], Awaitable[None]]:
        """Return `sleep` for who waits for the next attempt at a URL."""

        async def sleep(seconds: float) -> None:
            await self._wait(host_name(URL(url)), seconds)

        return sleep

    async def _wait(self, name: str, seconds: float) -> None:
        # Of images the scheduler knows what waits.
        if seconds < _WORTH_SAYING_S or self.idle_since is None:
            await self.sleep(seconds)
            return
        self.on_wait(name, seconds)
        try:
            await self.sleep(seconds)
        finally:
            self.on_wait(name, 0.0)

    def _give_up_if_due(self, host: Host) -> bool:
        """Give up a host that has never answered and was waited for long enough; return whether it was."""
        at = host.give_up_at(self.idle_since, self.unanswered_s)
        return at is not None and self.clock() >= at and host.give_up_unanswered()

    def _say_waiting(self, host: Host) -> None:
        """Say what is waited for, once it has taken a moment: a small request has no scheduler that would."""
        now, since = self.clock(), host.unanswered_since
        if host.is_said or self.idle_since is None or since is None or now - since < PAUSE_WORTH_A_LINE_S:
            return
        host.is_said = True
        left_s = self.waits_until(host) - now
        self.notify(f"waiting for {host.name} ({host.trouble}); {asked_until(left_s)}, then it is given up")

    def _forget_idle(self) -> None:
        """Keep the number of hosts bounded: a table may name a new one in every row."""
        if len(self._known) >= self._most_known:
            now = self.clock()
            self._known = {name: host for name, host in self._known.items() if not host.is_idle(now)}
            # Checking all of them again is worth it only once twice as many are known.
            self._most_known = max(MOST_KNOWN, 2 * len(self._known))


def host_name(url: URL) -> str:
    """Return the key of a URL's host: its name and port; all of *.staticflickr.com is one host.

    >>> host_name(URL("https://farm3.staticflickr.com/1/a.jpg")), host_name(URL("http://127.0.0.1:8080/x"))
    ('staticflickr.com', '127.0.0.1:8080')
    """
    host = (url.host or "").rstrip(".").lower()
    if host == FLICKR or host.endswith("." + FLICKR):
        return FLICKR
    return f"{host}:{url.port}"


def make_limiter(rate: float, period: float) -> "AsyncLimiter | None":
    """Return a limiter of at most `rate` requests in any window of `period` seconds, None for no cap.

    A leaky bucket of size b that drains at r lets b + r x period through in its worst window, and AsyncLimiter(R, 1)
    has b = R: it starts about 2R in its first second. So the bucket is small (3 % of the rate, at least one request)
    and the drain makes up the rest; a bucket of one alone is too slow above some hundred requests a second.
    """
    if not rate:
        return None
    from aiolimiter import AsyncLimiter

    if rate < 1:
        return AsyncLimiter(1, period / rate)
    bucket = max(1.0, 0.03 * rate)
    drain = 0.97 * rate
    return AsyncLimiter(bucket, bucket * period / drain)
