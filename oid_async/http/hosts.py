"""What we know of each host: how much it takes at once, until when it wants to be left alone, whether it is there.

Two numbers rule a host. `window`, how many transfers may be in flight to it, grows with every answer and shrinks on
trouble, as TCP's does. `not_before` is the moment before which nobody asks it: it said so (Retry-After), or it is down
and the next probe is due then. After such a pause the window is one: one image finds out, the others wait and lose no
try. A host that has made us wait longer than `max_wait_s` in all is given up for the run.

An object that fails is no host in trouble: a hang-up, a time-out or a 500 shrinks the window only when nothing else
comes back any more, and never below `_LEAST`. Only when not one answer has come for a long while, to many requests, is
the host taken for one that is down.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from aiolimiter import AsyncLimiter
from yarl import URL

from oid_async.http.address_guard import Endpoint
from oid_async.http.estimator import FLOOR, ConcurrencyEstimator
from oid_async.http.etags import EtagTrust
from oid_async.http.retry import FetchError
from oid_async.options.defaults import FLICKR_RATE, MAX_WAIT_S, TIMEOUT_S

FLICKR = "staticflickr.com"
_START = 8.0  # a dead host costs this many connections at most, and a live one doubles it with each round trip
_LEAST = 4.0
_DOWN_AFTER = 3  # connections in a row that were not even made
_SILENT_AFTER = 16  # requests in a row that got no answer at all, over three times the patience for one
_LOST_AFTER = 5  # connections in a row to one name of a host whose others answer
_PROBE_CAP_S = 120.0
_PAUSE_WORTH_A_LINE_S = 5.0
# A retry budget as botocore keeps one: a host in trouble must not get five times the requests for it.
_BUDGET_SHARE = 0.2
_BUDGET_FREE = 500
_SPACING_S = 0.05
# How many seconds' worth of a capped host's requests may be in flight or wait for the cap.
_CAPPED_S = 2.0
_MOST_KNOWN = 4096
_MOST_TOLD = 10


@dataclass(slots=True, eq=False)
class Host:
    """One host's state. Times are on the monotonic clock, in seconds.

    `waited_s` adds up what the host has made us wait; `gave_up` is how every further request ends, `lost` how those to
    one of its names do, where a host has several. `in_flight` counts the images that the lanes have given out for this
    host; `patience_s` is how long one answer is waited for. `estimator` finds out `most`, where that is not given;
    `on_close` is called when it is closed or given up.
    """

    name: str
    limiter: AsyncLimiter | None
    etags: EtagTrust
    most: float = 64.0
    max_wait_s: float = MAX_WAIT_S
    patience_s: float = TIMEOUT_S
    tell: Callable[[str], None] = lambda _: None
    estimator: ConcurrencyEstimator | None = None
    jitter: Callable[[], float] = random.random
    on_close: Callable[["Host"], None] = lambda _: None
    window: float = _START
    in_flight: int = 0
    not_before: float = 0.0
    waited_s: float = 0.0
    gave_up: FetchError | None = None
    lost: dict[Endpoint, FetchError] = field(default_factory=dict)
    requests: int = 0
    _threshold: float = 1e9
    _eased_at: float = -1.0
    _has_answered: bool = False
    _unreached: int = 0
    _unreached_names: Counter[Endpoint] = field(default_factory=Counter)
    _silent: int = 0
    _silent_since: float = 0.0
    _downs: int = 0
    _pauses: int = 0
    _stumbles: int = 0
    _retries: int = 0
    _retry_at: float = 0.0

    def __post_init__(self) -> None:
        self.window = min(self.window, self.most)

    def may_take(self, now: float) -> bool:
        """Return whether one more image may be asked for; of a host that was given up each one may fail at once."""
        return self.gave_up is not None or (now >= self.not_before and self.in_flight < self.window)

    def is_closed(self, now: float) -> bool:
        """Return whether nothing can be had of it just now, however few are in flight."""
        return self.gave_up is None and now < self.not_before

    def is_well(self, now: float) -> bool:
        """Return whether other processes may ask it too: uncapped, it answers, and no trouble of late."""
        at_ease = self.window >= min(_START, self.most)
        return (
            self._has_answered and at_ease and self.limiter is None and self.gave_up is None and now >= self.not_before
        )

    def given_up(self, asked: Endpoint) -> FetchError | None:
        """Return how every further request to a name of this host ends, None if it may be asked."""
        return self.gave_up or self.lost.get(asked)

    def answered(self, began: float) -> None:
        """Note an answer that shows the host at work: any status but a plea to wait or an error of its own.

        What was under way before the last trouble says nothing of what came after it.
        """
        if began < self._eased_at:
            return
        self._has_answered = True
        self._stumbles = self._pauses = 0
        self._is_there()
        # One more for each answer doubles the window with each round trip; behind the threshold it grows by one.
        self.window = min(self.most, self.window + (1.0 if self.window < self._threshold else 1.0 / self.window))

    def delivered(self, size: int, began: float, now: float) -> None:
        """Note a body that has come, from a request that began then."""
        if self.estimator is not None:
            self.estimator.delivered(size, now - began, now)
            self.most = self.estimator.limit
            self.window = min(self.window, self.most)

    def served(self, began: float) -> None:
        """Note an image that another process has got of it."""
        self.requests += 1
        self.answered(began)

    def asked_to_wait(self, error: FetchError, began: float, now: float) -> None:
        """Heed a 429 or a 5xx. With Retry-After nobody asks before that has passed; a bare 429 pauses a moment."""
        self._is_there()
        wait_s = error.retry_after_s
        if wait_s is None:
            is_bare = error.kind == "rate_limited"
            if self._ease(began, now, 1.0 if is_bare else self.window / 2) and is_bare:
                # Our own idea, and no wait that the host has made us.
                moment_s = self.jitter() * min(30.0, 0.5 * 2.0 ** min(self._pauses, 10))
                self.not_before = max(self.not_before, now + moment_s)
                self._pauses += 1
                self.on_close(self)
            return
        if self._gives_up(FetchError("rate_limited", f"{error}, longer than --max-wait"), now, wait_s):
            error.hopeless = True
            return
        if wait_s >= _PAUSE_WORTH_A_LINE_S and now + wait_s > self.not_before + 1.0:
            self.tell(f"{self.name} asks us to wait {wait_s:.0f} s ({error})")
        self._ease(began, now, 1.0)
        self.pause(wait_s, now=now)

    def unreachable(self, error: FetchError, asked: Endpoint, began: float, now: float) -> None:
        """Note a connection that could not be made: the host's trouble, or one of its names', not the image's."""
        self._unreached += 1
        self._unreached_names[asked] += 1
        in_a_row = self._unreached_names[asked]
        if error.hopeless or (error.unknown_name and in_a_row > 1):
            if self.name == FLICKR:
                self._lose(error, asked)
            else:
                self._gives_up(error, now, None)
        elif self.name == FLICKR and self._has_answered and in_a_row >= _LOST_AFTER:
            self._lose(error, asked)
        elif self._unreached >= _DOWN_AFTER or self._downs:
            self._is_down(error, began, now)

    def stumbled(self, error: FetchError, began: float, now: float, *, silent: bool) -> None:
        """Note a hang-up, a time-out, a 5xx: of one object as likely as of the host, until nothing else comes back.

        `silent` says that not even the head of an answer came.
        """
        self._stumbles += 1
        if not silent:
            self._is_there()
        else:
            self._silent_since = now if not self._silent else self._silent_since
            self._silent += 1
            long_s = 3 * self.patience_s
            if self._downs or (self._silent >= _SILENT_AFTER and now - self._silent_since >= long_s):
                self._is_down(error, began, now)
                return
        if self._stumbles >= 2 * self.window > 2 * _LEAST and self._ease(began, now, self.window / 2):
            self.window = max(_LEAST, self.window)
            self._stumbles = 0

    def pause(self, seconds: float, *, now: float) -> None:
        """Leave the host alone for this long; pauses do not add up, the latest end holds."""
        until = now + seconds
        if until > self.not_before:
            self.waited_s += until - max(self.not_before, now)
            self.not_before = until
            self.on_close(self)

    def retry_delay_s(self, now: float) -> float:
        """Return how long one more retry is held back: retries beyond the budget are spaced out, never dropped."""
        self._retries += 1
        if self._retries <= max(_BUDGET_FREE, _BUDGET_SHARE * self.requests):
            return 0.0
        self._retry_at = max(now, self._retry_at) + _SPACING_S
        return self._retry_at - now

    def is_idle(self, now: float) -> bool:
        """Return whether nothing would be lost by forgetting this host."""
        at_rest = self.limiter is None or self.limiter.has_capacity(self.limiter.max_rate)
        return (
            not self.in_flight and now >= self.not_before and self.gave_up is None and at_rest and not self._unreached
        )

    def _is_there(self) -> None:
        """Note that something answers: what is counted in a row starts anew."""
        self._unreached = self._silent = self._downs = 0
        self._unreached_names.clear()

    def _is_down(self, error: FetchError, began: float, now: float) -> None:
        """Leave a host alone that is not there, each time twice as long; then one image finds out."""
        if began < self._eased_at:
            return
        wait_s = (0.75 + self.jitter() / 2) * min(_PROBE_CAP_S, 2.0 ** min(self._downs, 10))
        if self._gives_up(FetchError("network", str(error)), now, wait_s):
            error.hopeless = True
            return
        if wait_s >= _PAUSE_WORTH_A_LINE_S:
            self.tell(f"{self.name} is down ({error}); asking again in {wait_s:.0f} s")
        self._downs += self._ease(began, now, 1.0)
        self.pause(wait_s, now=now)

    def _lose(self, error: FetchError, asked: Endpoint) -> None:
        """Give up one name of a host: its others may well answer."""
        error.hopeless = True
        if asked not in self.lost and len(self.lost) < _MOST_KNOWN:
            self.lost[asked] = error.again()
            self.tell(f"{asked[0]}:{asked[1]} is given up for this run: {error}")

    def _ease(self, began: float, now: float, window: float) -> bool:
        """Shrink the window, once for all requests that were under way; return whether this was the one that did."""
        if began < self._eased_at:
            return False
        self._eased_at = now
        self._threshold = max(1.0, self.window / 2)
        self.window = max(1.0, window)
        return True

    def _gives_up(self, error: FetchError, now: float, wait_s: float | None) -> bool:
        """Give the host up if it is hopeless (no wait would help) or asks for more patience than is left."""
        if wait_s is not None:
            until = max(self.not_before, now + wait_s)
            longer_s = until - max(self.not_before, now)
            if self.waited_s + longer_s <= self.max_wait_s:
                return False
        if self.gave_up is None:
            error.hopeless = True
            self.gave_up = error
            self.tell(f"{self.name} is given up for this run: {error}")
            self.on_close(self)
        return True


class ClosedHostError(FetchError):
    """The image was sent on to another host, which has to be waited for first."""

    def __init__(self, host: Host) -> None:
        super().__init__("network", f"redirected to {host.name}, which wants to be left alone")
        self.host = host


@dataclass(slots=True)
class Hosts:
    """All hosts of one run, and its rate cap: at most `rate` requests per `period` seconds and host.

    `most` bounds what may be in flight to one host, and with `estimates_concurrency` each host estimates what it needs
    of that, from `floor` on; `max_wait_s` how long one that is down or asks for it is waited for, `patience_s` how long
    one answer is. `tell` is given what a user should know of a host, a line at a time; `on_close` each host that is
    closed or given up.
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
    tell: Callable[[str], None] = lambda _: None
    on_close: Callable[[Host], None] = lambda _: None
    kind: Callable[..., Host] = Host
    _most_known: int = _MOST_KNOWN
    _known: dict[str, Host] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def tell_once(self, text: str) -> None:
        """Tell something that would be told of many images, the first few times that it is another thing."""
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            self.tell(text)

    def of(self, url: URL) -> Host:
        """Return the host of a URL; all of *.staticflickr.com is one host."""
        return self.named(host_name(url))

    def named(self, name: str) -> Host:
        """Return the host of this name."""
        if name not in self._known:
            self._forget_idle()
            self._known[name] = self._make(name)
        return self._known[name]

    def closed(self) -> list[Host]:
        """Return the hosts that nobody may ask just now: closed, or given up."""
        now = self.clock()
        return [host for host in self._known.values() if host.gave_up is not None or now < host.not_before]

    def _make(self, name: str) -> Host:
        rate, period = self._rate_of(name), self.period if self.rate else 1.0
        limiter = make_limiter(rate, period)
        # Images that only wait for a capped host's next moment would hold the places of those that need not.
        most = float(self.most) if limiter is None else min(self.most, max(_LEAST, _CAPPED_S * rate / period))
        estimator = (
            ConcurrencyEstimator(floor=self.floor, most=most)
            if self.estimates_concurrency and limiter is None
            else None
        )
        return self.kind(
            name,
            limiter,
            EtagTrust(name),
            most=most if estimator is None else estimator.limit,
            estimator=estimator,
            max_wait_s=self.max_wait_s,
            patience_s=self.patience_s,
            tell=self.tell,
            on_close=lambda host: self.on_close(host),
        )

    async def admit(self, host: Host, asked: Endpoint) -> None:
        """Wait until one more request may be sent to a name of the host. Call it where requests are really sent.

        Raises FetchError for one that was given up.
        """
        while True:
            await self.opened(host, asked)
            if host.limiter is None:
                break
            await host.limiter.acquire()
            if host.not_before <= self.clock():
                break
        host.requests += 1

    async def opened(self, host: Host, asked: Endpoint) -> None:
        """Wait while the host wants to be left alone. Raises FetchError for one that was given up."""
        while True:
            if (gone := host.given_up(asked)) is not None:
                raise gone.again()
            wait = host.not_before - self.clock()
            if wait <= 0:
                return
            await self.sleep(wait)

    def _rate_of(self, name: str) -> float:
        if self.rate is not None:
            return self.rate
        return FLICKR_RATE if name == FLICKR else 0.0

    def _forget_idle(self) -> None:
        """Keep the number of hosts bounded: a table may name a new one in every row."""
        if len(self._known) >= self._most_known:
            now = self.clock()
            self._known = {name: host for name, host in self._known.items() if not host.is_idle(now)}
            # Not before twice as many are known is it worth looking at all of them again.
            self._most_known = max(_MOST_KNOWN, 2 * len(self._known))


def host_name(url: URL) -> str:
    """Return the key under which a host is known.

    >>> host_name(URL("https://farm3.staticflickr.com/1/a.jpg")), host_name(URL("http://127.0.0.1:8080/x"))
    ('staticflickr.com', '127.0.0.1:8080')
    """
    host = (url.host or "").rstrip(".").lower()
    if host == FLICKR or host.endswith("." + FLICKR):
        return FLICKR
    return f"{host}:{url.port}"


def make_limiter(rate: float, period: float) -> AsyncLimiter | None:
    """Return a limiter of at most `rate` requests in any window of `period` seconds, None for no cap.

    A leaky bucket of size b that drains at r lets b + r x period through in its worst window, and AsyncLimiter(R, 1)
    has b = R: it starts about 2R in its first second. So the bucket is small (3 % of the rate, at least one request)
    and the drain makes up the rest; a bucket of one alone is too slow above some hundred requests a second.
    """
    if not rate:
        return None
    if rate < 1:
        return AsyncLimiter(1, period / rate)
    bucket = max(1.0, 0.03 * rate)
    drain = 0.97 * rate
    return AsyncLimiter(bucket, bucket * period / drain)
