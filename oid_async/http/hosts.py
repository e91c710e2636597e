"""The state of each host: how many transfers it can take at once, until when it has to be left alone, whether it is up.

Two numbers control a host. `window`, how many transfers may be in flight to it, grows with every response and shrinks
on trouble, as TCP's does. `not_before` is the time before which no request is sent: the host asked for that
(Retry-After), or it is down and the next probe is due then. After such a pause the window is one: one image finds out,
the others wait and lose no try. A host that has made us wait longer than `max_wait_s` in all is given up for the run.

An object that fails does not mean a host in trouble, and must not slow down the others:

- One that is asked to wait (429, 503, Retry-After) waits by itself. The host as a whole is left alone once `_ASKS`
  answers in a row, or more than a fifth of them for long, ask for that.
- One that hangs does not count against the window: see `http/hanging.py`.
- A hang-up, a time-out or a 500 shrinks the window only when no response succeeds any more, and never below `_LEAST`.
  Only when many requests in a row, over a long time, got no response at all is the host taken for one that is down.

A host that has not answered once in this run is waited for less: it is given up `unanswered_s` after nothing else is
left to do. Who knows what is left to do notes it in `Hosts.idle_since`.
"""

import asyncio
import random
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from aiolimiter import AsyncLimiter
from yarl import URL

from oid_async.http.address_guard import Endpoint
from oid_async.http.estimator import FLOOR, ConcurrencyEstimator
from oid_async.http.retry import FetchError
from oid_async.options.defaults import FLICKR_RATE, MAX_WAIT_S, TIMEOUT_S, UNANSWERED_S

FLICKR = "staticflickr.com"
_START = 8.0  # a dead host costs this many connections at most, and a live one doubles it with each round trip
_LEAST = 4.0
_DOWN_AFTER = 3  # connections in a row that were not even made
_SILENT_AFTER = 16  # requests in a row that got no response at all, over three times the patience for one
# Answers in a row that ask to wait; of a host that has a cap, where it is likely that they are about all of its images.
_ASKS = 32
_ASKS_OF_CAPPED = 4
_ASKS_A_PLACE = 4  # in the window
_ASK_WEIGHT = 4  # successes that outweigh one of them
# A transfer hangs when nothing has come of it for so many times as long as a response of its host takes, at least this.
_HANGING_TIMES = 4
_HANGING_S = 0.02
_HANGING_PROBE_S = 0.25
_MOST_HANGING = 64
# Of a host that has not answered yet: before and after its first failure. With the first window it gets 64 requests.
_MOST_HANGING_OF_NEW, _MOST_HANGING_OF_SILENT = 56, 8
_LOST_AFTER = 5  # failed connections in a row to one endpoint of a host whose others respond
_PROBE_CAP_S = 120.0
_PAUSE_WORTH_A_LINE_S = 5.0
_LOOK_S = 1.0  # how often who waits for a host that has never answered looks whether it was given up
# A retry budget as botocore keeps one: a host in trouble must not get five times the requests for it.
_BUDGET_SHARE = 0.2
_BUDGET_FREE = 500
_SPACING_S = 0.05
# How many seconds' worth of a capped host's requests may be in flight or wait for the cap.
_CAPPED_S = 2.0
# Of the times that are said: beyond the first a time is said with its date, beyond the second it is no date any more.
_SAME_DAY_S = 12 * 3600.0
_FAR_S = 365 * 24 * 3600.0
_MOST_KNOWN = 4096
_MOST_NOTIFIED = 10
_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')


@dataclass(slots=True)
class EtagTrust:
    """Whether one host's ETags are the MD5s of its bodies: None until seen, then True or False for the run.

    No document states it for the bucket, so a mismatch counts only after a match.
    """

    host: str
    is_md5: bool | None = None

    def contradicts(self, etag: str | None, md5: str | None) -> tuple[str | None, str | None] | None:
        """Compare an MD5 with an ETag, if both are known; return (reason to refuse, note for the user) if not equal."""
        stated = etag_md5(etag)
        if stated is None or md5 is None or self.is_md5 is False:
            return None
        if stated == md5:
            self.is_md5 = True
            return None
        if self.is_md5:
            return "checksum", None
        self.is_md5 = False
        return None, f"{self.host}: its ETags are not the MD5s of what it sends; that check is off for this run"


@dataclass(slots=True, eq=False)
class Host:
    """One host's state. Times are on the monotonic clock, in seconds.

    `waited_s` adds up how long the host has made us wait. Once it is given up, `gave_up` is the error of every further
    request; `lost` has that error for single endpoints, where a host has several. `has_answered`: some answer came in
    this run, be it an error; `unanswered_since` is when the first request failed without one. `trouble` is the last
    error that said something of the host; `is_said`: the user knows that it is down. `in_flight` counts the images that
    the scheduler has started for this host, `hanging` how many of them hang and do not count against the window;
    `patience_s` is how long one response is waited for. `estimator` estimates `most`, where that is not given; `notify`
    is given messages for the user; `on_close` is called when the host is closed (paused) or given up.
    """

    name: str
    limiter: AsyncLimiter | None
    etags: EtagTrust
    most: float = 64.0
    max_wait_s: float = MAX_WAIT_S
    patience_s: float = TIMEOUT_S
    notify: Callable[[str], None] = lambda _: None
    estimator: ConcurrencyEstimator | None = None
    jitter: Callable[[], float] = random.random
    on_close: Callable[["Host"], None] = lambda _: None
    window: float = _START
    in_flight: int = 0
    hanging: int = 0
    not_before: float = 0.0
    waited_s: float = 0.0
    gave_up: FetchError | None = None
    lost: dict[Endpoint, FetchError] = field(default_factory=dict)
    has_answered: bool = False
    unanswered_since: float | None = None
    trouble: str = ""
    is_said: bool = False
    requests: int = 0
    _threshold: float = 1e9
    _shrunk_at: float = -1.0
    _has_responded: bool = False
    _unreached: int = 0
    _unreached_endpoints: Counter[Endpoint] = field(default_factory=Counter)
    _silent: int = 0
    _silent_since: float = 0.0
    _downs: int = 0
    _pauses: int = 0
    _asks: int = 0
    _response_s: float = 0.0
    _failures: int = 0
    _retries: int = 0
    _retry_at: float = 0.0

    def __post_init__(self) -> None:
        self.window = min(self.window, self.most)

    def may_take(self, now: float) -> bool:
        """Return whether one more image may be started; of a host that was given up each one may fail at once."""
        return self.gave_up is not None or (now >= self.not_before and self.in_flight - self.hanging < self.window)

    def is_closed(self, now: float) -> bool:
        """Return whether no request may be sent to it just now, however few are in flight."""
        return self.gave_up is None and now < self.not_before

    def is_healthy(self, now: float) -> bool:
        """Return whether other processes may use it too: it has no cap, it responds, no trouble lately."""
        is_open = self.window >= min(_START, self.most) and now >= self.not_before
        return self._has_responded and is_open and self.limiter is None and self.gave_up is None

    @property
    def is_unanswered(self) -> bool:
        """Return whether requests were sent to it or tried, and not one was answered in this run."""
        return not self.has_answered and self.unanswered_since is not None

    @property
    def is_down(self) -> bool:
        """Return whether it is being probed, or none of its answers has come yet: its requests are likely in vain."""
        return self._downs > 0 or self.is_unanswered

    def patience_ends(self, now: float) -> float:
        """Return until when a host that is down is waited for at most, were it for `max_wait_s` alone."""
        return max(self.not_before, now) + self.max_wait_s - self.waited_s

    def give_up_at(self, idle_since: float | None, unanswered_s: float) -> float | None:
        """Return when a host that has not answered once is given up, None while that is not in sight.

        That is `unanswered_s` after nothing else is left to do (`idle_since`, None while there is), or after its own
        first failure, if it has failed often enough by then.
        """
        if idle_since is None or self.has_answered or self.unanswered_since is None:
            return None
        return max(idle_since, self.unanswered_since) + unanswered_s

    def give_up_unanswered(self) -> bool:
        """Give up a host that has not answered once, without asking it again; return whether it had its chances."""
        if self._unreached + self._silent < _DOWN_AFTER:
            return False
        self._give_up(FetchError("network", self.trouble))
        return True

    def given_up(self, endpoint: Endpoint) -> FetchError | None:
        """Return the error of every further request to an endpoint of this host, None while requests may be sent."""
        return self.gave_up or self.lost.get(endpoint)

    def responded(self, began: float) -> None:
        """Note a response that shows the host at work: any status but one that asks to wait, or an error of its own.

        A request that began before the last trouble does not count: it shows nothing about the time after it.
        """
        self.has_answered = True
        if began < self._shrunk_at:
            return
        self._has_responded = True
        self._failures = self._pauses = 0
        if self._asks:
            self._asks -= 1
        self._note_alive()
        # One more for each response doubles the window with each round trip; above the threshold it grows by one.
        self.window = min(self.most, self.window + (1.0 if self.window < self._threshold else 1.0 / self.window))

    def delivered(self, size: int, began: float, now: float) -> None:
        """Note a body of so many bytes that has been received."""
        self._took(now - began)
        if self.estimator is not None:
            self.estimator.delivered(size, now - began, now)
            self.most = self.estimator.limit
            self.window = min(self.window, self.most)

    def served(self, began: float) -> None:
        """Note an image that another process has received from it."""
        self.requests += 1
        self.responded(began)

    def asked_to_wait(self, error: FetchError, began: float, now: float) -> None:
        """Apply a 429, a 503, a Retry-After: if it is the host's wish more than the image's, the host is left alone.

        With Retry-After for that long; a 429 without it pauses a moment, a 503 without it halves the window.
        """
        self._note_alive()
        self.trouble = str(error)
        self._took(now - began)
        self._asks += _ASK_WEIGHT
        # Where few are in flight fewer are enough: behind a pause a few images find out.
        least = _ASKS if self.limiter is None else _ASKS_OF_CAPPED
        enough = min(least, int(self.most), _ASKS_A_PLACE * int(self.window))
        if self._asks < _ASK_WEIGHT * enough:
            return
        self._asks = 0
        wait_s = error.retry_after_s
        if wait_s is None:
            is_bare = error.kind == "rate_limited"
            if self._shrink(began, now, 1.0 if is_bare else self.window / 2) and is_bare:
                # The host has not asked for this wait: it does not count in `waited_s`.
                moment_s = self.jitter() * min(30.0, 0.5 * 2.0 ** min(self._pauses, 10))
                self.not_before = max(self.not_before, now + moment_s)
                self._pauses += 1
                self.on_close(self)
            return
        if self._gives_up(FetchError("rate_limited", f"{error}, longer than --max-wait"), now, wait_s):
            error.hopeless = True
            return
        if wait_s >= _PAUSE_WORTH_A_LINE_S and now + wait_s > self.not_before + 1.0:
            self.notify(f"{self.name} asks us to wait {wait_s:.0f} s ({error})")
        self._shrink(began, now, 1.0)
        self.pause(wait_s, now=now)

    def connect_failed(self, error: FetchError, endpoint: Endpoint, began: float, now: float) -> None:
        """Note a connection that could not be made: trouble of the host or of one endpoint, not of the image."""
        self.trouble = str(error)
        self._note_unanswered(now)
        self._unreached += 1
        self._unreached_endpoints[endpoint] += 1
        in_a_row = self._unreached_endpoints[endpoint]
        if error.hopeless or (error.unknown_name and in_a_row > 1):
            if self.name == FLICKR:
                self._give_up_endpoint(error, endpoint)
            else:
                self._give_up(error)
        elif self.name == FLICKR and self._has_responded and in_a_row >= _LOST_AFTER:
            self._give_up_endpoint(error, endpoint)
        elif self._unreached >= _DOWN_AFTER or self._downs:
            self._probe_later(error, began, now)

    def request_failed(
        self, error: FetchError, began: float, now: float, *, no_response: bool, retried: bool = False
    ) -> None:
        """Note a hang-up, a time-out, a 5xx: trouble of one object as likely as of the host, until all requests fail.

        `no_response`: not even the head of a response came. `retried`: the object has failed before, which says nothing
        more of a host that has responded.
        """
        self.trouble = str(error)
        if retried and self.has_answered and not self._downs:
            return
        self._failures += 1
        if not no_response:
            self._note_alive()
        else:
            self._note_unanswered(now)
            self._silent_since = now if not self._silent else self._silent_since
            self._silent += 1
            long_s = 3 * self.patience_s
            if self._downs or (self._silent >= _SILENT_AFTER and now - self._silent_since >= long_s):
                self._probe_later(error, began, now)
                return
        if self._failures >= 2 * self.window > 2 * _LEAST and self._shrink(began, now, self.window / 2):
            self.window = max(_LEAST, self.window)
            self._failures = 0

    def pause(self, seconds: float, *, now: float) -> None:
        """Leave the host alone for this long; pauses do not add up, the latest end holds."""
        until = now + seconds
        if until > self.not_before:
            self.waited_s += until - max(self.not_before, now)
            self.not_before = until
            self.on_close(self)

    def retry_delay_s(self, now: float) -> float:
        """Return how long to delay one more retry: retries beyond the budget are spaced out, never dropped."""
        self._retries += 1
        if self._retries <= max(_BUDGET_FREE, _BUDGET_SHARE * self.requests):
            return 0.0
        self._retry_at = max(now, self._retry_at) + _SPACING_S
        return self._retry_at - now

    def hangs(self, silent_s: float, now: float) -> bool:
        """Return whether a transfer of which nothing has come for so long is taken for one that hangs.

        While the host is down or has just been left alone one image is to find out, and may take its time.
        """
        if self._downs and now - silent_s >= self._shrunk_at:
            return False
        least_s = _HANGING_S if self.window >= _LEAST else _HANGING_PROBE_S
        return silent_s >= max(least_s, _HANGING_TIMES * self._response_s)

    def most_hanging(self) -> int:
        """Return how many transfers may hang without counting: few of a host that is silent all the time."""
        if self.has_answered:
            return _MOST_HANGING
        return _MOST_HANGING_OF_SILENT if self.is_unanswered else _MOST_HANGING_OF_NEW

    def is_idle(self, now: float) -> bool:
        """Return whether nothing would be lost by forgetting this host."""
        at_rest = self.limiter is None or self.limiter.has_capacity(self.limiter.max_rate)
        return (
            not self.in_flight and now >= self.not_before and self.gave_up is None and at_rest and not self._unreached
        )

    def _took(self, seconds: float) -> None:
        """Note how long a response took, its body included."""
        self._response_s += (seconds - self._response_s) / 8 if self._response_s else seconds

    def _note_alive(self) -> None:
        """Note that the host responds: counts of failures in a row start again."""
        self.has_answered, self.is_said = True, False
        self._unreached = self._silent = self._downs = 0
        self._unreached_endpoints.clear()

    def _note_unanswered(self, now: float) -> None:
        if self.unanswered_since is None:
            self.unanswered_since = now

    def _probe_later(self, error: FetchError, began: float, now: float) -> None:
        """Pause a host that is down, each time twice as long; then one image finds out."""
        if began < self._shrunk_at:
            return
        wait_s = (0.75 + self.jitter() / 2) * min(_PROBE_CAP_S, 2.0 ** min(self._downs, 10))
        if self._gives_up(FetchError("network", str(error)), now, wait_s):
            error.hopeless = True
            return
        if wait_s >= _PAUSE_WORTH_A_LINE_S and not self.is_said:
            self.is_said = True
            left_s = self.patience_ends(now) - now
            self.notify(f"{self.name} is down ({error}); {asked_until(left_s)}")
        self._downs += self._shrink(began, now, 1.0)
        self.pause(wait_s, now=now)

    def _give_up_endpoint(self, error: FetchError, endpoint: Endpoint) -> None:
        """Give up one endpoint of a host: its others may well respond."""
        error.hopeless = True
        if endpoint not in self.lost and len(self.lost) < _MOST_KNOWN:
            self.lost[endpoint] = error.again()
            self.notify(f"{endpoint[0]}:{endpoint[1]} is given up for this run: {error}")

    def _shrink(self, began: float, now: float, window: float) -> bool:
        """Shrink the window, once for all requests that were in flight; return whether this call did."""
        if began < self._shrunk_at:
            return False
        self._shrunk_at = now
        self._threshold = max(1.0, self.window / 2)
        self.window = max(1.0, window)
        return True

    def _gives_up(self, error: FetchError, now: float, wait_s: float) -> bool:
        """Give the host up if it would make us wait longer than is left of `max_wait_s`; return whether it is so."""
        until = max(self.not_before, now + wait_s)
        longer_s = until - max(self.not_before, now)
        if self.waited_s + longer_s <= self.max_wait_s:
            return False
        self._give_up(error)
        return True

    def _give_up(self, error: FetchError) -> None:
        if self.gave_up is None:
            error.hopeless = True
            self.gave_up = error
            self.notify(f"{self.name} is given up for this run: {error}")
            self.on_close(self)


class ClosedHostError(FetchError):
    """The image was redirected to another host, `host`, which has to be waited for first."""

    def __init__(self, host: Host) -> None:
        super().__init__("network", f"redirected to {host.name}, which wants to be left alone")
        self.host = host


@dataclass(slots=True)
class Hosts:
    """All hosts of one run, and its rate cap: at most `rate` requests per `period` seconds and host.

    `most` limits how many transfers may be in flight to one host; with `estimates_concurrency` each host estimates how
    many it needs, `floor` at least. `max_wait_s` is how long a host that is down or asks for it is waited for in all,
    `patience_s` how long one response is. `notify` is given messages for the user, one line each; `on_close` each host
    that is closed or given up, `on_room` each of which more transfers hang, so that it may get more requests.
    `host_type` makes a host.

    `idle_since` is since when nothing but waiting is left to do, None while there is; `unanswered_s` is how long a host
    that has not answered once is waited for then. From the start on each table is waited for; images set it to None.
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
    host_type: Callable[..., Host] = Host
    unanswered_s: float = UNANSWERED_S
    idle_since: float | None = None
    _most_known: int = _MOST_KNOWN
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
        if name not in self._known:
            self._forget_idle()
            self._known[name] = self._make(name)
        return self._known[name]

    def closed(self) -> list[Host]:
        """Return the hosts that may not be used just now: closed, or given up."""
        now = self.clock()
        return [host for host in self._known.values() if host.gave_up is not None or now < host.not_before]

    def _make(self, name: str) -> Host:
        rate = (FLICKR_RATE if name == FLICKR else 0.0) if self.rate is None else self.rate
        period = self.period if self.rate else 1.0
        limiter = make_limiter(rate, period)
        # Images that only wait for a capped host would occupy the transfers of those that need not wait.
        most = float(self.most) if limiter is None else min(self.most, max(_LEAST, _CAPPED_S * rate / period))
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
        )

    async def admit(self, host: Host, endpoint: Endpoint) -> None:
        """Wait until one more request may be sent to an endpoint of the host. Raises FetchError if it was given up."""
        while True:
            await self.until_open(host, endpoint)
            if host.limiter is None:
                break
            await host.limiter.acquire()
            if host.not_before <= self.clock():
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
            await self.sleep(min(wait, _LOOK_S) if is_unanswered else wait)

    def _give_up_if_due(self, host: Host) -> bool:
        """Give up a host that has never answered and was waited for long enough; return whether it was."""
        at = host.give_up_at(self.idle_since, self.unanswered_s)
        return at is not None and self.clock() >= at and host.give_up_unanswered()

    def _say_waiting(self, host: Host) -> None:
        """Say what is waited for, once it has taken a moment: a small request has no scheduler that would."""
        now, since = self.clock(), host.unanswered_since
        if host.is_said or self.idle_since is None or since is None or now - since < _PAUSE_WORTH_A_LINE_S:
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
            self._most_known = max(_MOST_KNOWN, 2 * len(self._known))


def asked_until(left_s: float) -> str:
    """Return a text on a host that is down: until when it is asked again, by the clock on the wall.

    >>> asked_until(60.0)  # doctest: +ELLIPSIS
    'it is asked again until ...:...:... (60 s) at the latest'
    """
    return f"it is asked again until {clock_text(left_s)} at the latest"


def clock_text(left_s: float) -> str:
    """Return the local time in so many seconds, with its date if that is far, and the seconds."""
    left_s = max(0.0, left_s)
    if left_s > _FAR_S:
        return f"a time {left_s:.3g} s from now"
    form = "%H:%M:%S" if left_s < _SAME_DAY_S else "%Y-%m-%d %H:%M"
    return f"{time.strftime(form, time.localtime(time.time() + left_s))} ({left_s:.0f} s)"


def host_name(url: URL) -> str:
    """Return the key of a URL's host: its name and port; all of *.staticflickr.com is one host.

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


def etag_md5(etag: str | None) -> str | None:
    """Return the base64 MD5 that a strong ETag of 32 hex digits states, None for any other form (S3 multipart, weak).

    >>> etag_md5('"d41d8cd98f00b204e9800998ecf8427e"'), etag_md5('"abc-2"')
    ('1B2M2Y8AsgTpgAmY7PhCfg==', None)
    """
    digits = _MD5_ETAG.fullmatch(etag or "")
    return b64encode(bytes.fromhex(digits[1])).decode() if digits else None
