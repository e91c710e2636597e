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

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oid_async.http.address_guard import Endpoint
from oid_async.http.estimator import ConcurrencyEstimator
from oid_async.http.etag import EtagTrust
from oid_async.http.retry import FetchError
from oid_async.http.wait_text import asked_until
from oid_async.measures.host import HostMeasures, WaitReason
from oid_async.options.defaults import MAX_WAIT_S, TIMEOUT_S

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

FLICKR = "staticflickr.com"
_START = 8.0  # a dead host costs this many connections at most, and a live one doubles it with each round trip
LEAST_WINDOW = 4.0
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
PAUSE_WORTH_A_LINE_S = 5.0
# A retry budget as botocore keeps one: a host in trouble must not get five times the requests for it.
_BUDGET_SHARE = 0.2
_BUDGET_FREE = 500
_SPACING_S = 0.05
MOST_KNOWN = 4096


@dataclass(slots=True, eq=False, repr=False)
class Host:
    """One host's state. Times are on the monotonic clock, in seconds.

    `waited_s` adds up how long the host has made us wait. Once it is given up, `gave_up` is the error of every further
    request; `lost` has that error for single endpoints, where a host has several. `has_answered`: some answer came in
    this run, be it an error; `unanswered_since` is when the first request failed without one. `chances` is how often
    it was asked anew after it was given up. `trouble` is the last error that said something of the host; `is_said`: the
    user knows that it is down. `in_flight` counts the images that the scheduler has started for this host, `hanging`
    how many of them hang and do not count against the window; `patience_s` is how long one response is waited for.
    `estimator` estimates `most`, where that is not given; `notify` is given messages for the user; `on_close` is called
    when the host is closed (paused) or given up; `measures` are for the report of the run.
    """

    name: str
    limiter: "AsyncLimiter | None"
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
    chances: int = 0
    trouble: str = ""
    is_said: bool = False
    requests: int = 0
    measures: HostMeasures = field(default_factory=HostMeasures)
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

    @property
    def is_busy(self) -> bool:
        """Return whether nothing may be started before something has ended, or its window has grown."""
        return self.gave_up is None and self.in_flight - self.hanging >= self.window

    def is_closed(self, now: float) -> bool:
        """Return whether no request may be sent to it just now, however few are in flight."""
        return self.gave_up is None and now < self.not_before

    def is_unusable(self, now: float) -> bool:
        """Return whether it may not be used just now: closed, or given up."""
        return self.gave_up is not None or now < self.not_before

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
        window = self.window
        if window != self.most:
            self.window = min(self.most, window + (1.0 if window < self._threshold else 1.0 / window))

    def delivered(self, size: int, began: float, now: float) -> None:
        """Note a body of so many bytes that has been received."""
        seconds, estimator = now - began, self.estimator
        self._took(seconds)
        if estimator is not None and estimator.delivered(size, seconds, now):
            self.most = estimator.limit
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
                self.note_wait("paused", now, now + moment_s)
                self._pauses += 1
                self.on_close(self)
            return
        if self._gives_up(FetchError("rate_limited", f"{error}, longer than --max-wait"), now, wait_s):
            error.hopeless = True
            return
        if wait_s >= PAUSE_WORTH_A_LINE_S and now + wait_s > self.not_before + 1.0:
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
        if self._failures >= 2 * self.window > 2 * LEAST_WINDOW and self._shrink(began, now, self.window / 2):
            self.window = max(LEAST_WINDOW, self.window)
            self._failures = 0

    def pause(self, seconds: float, *, now: float) -> None:
        """Leave the host alone for this long; pauses do not add up, the latest end holds."""
        until = now + seconds
        if until > self.not_before:
            self.waited_s += until - max(self.not_before, now)
            self.not_before = until
            self.note_wait("paused", now, until)
            self.on_close(self)

    def note_wait(self, reason: WaitReason, began: float, until: float) -> None:
        """Note for the report that something waits for this host, or did."""
        self.measures.waited(reason, began, until)

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
        least_s = _HANGING_S if self.window >= LEAST_WINDOW else _HANGING_PROBE_S
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
        if self._unreached_endpoints:
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
        if wait_s >= PAUSE_WORTH_A_LINE_S and not self.is_said:
            self.is_said = True
            left_s = self.patience_ends(now) - now
            self.notify(f"{self.name} is down ({error}); {asked_until(left_s)}")
        self._downs += self._shrink(began, now, 1.0)
        self.pause(wait_s, now=now)

    def _give_up_endpoint(self, error: FetchError, endpoint: Endpoint) -> None:
        """Give up one endpoint of a host: its others may well respond."""
        error.hopeless = True
        if endpoint not in self.lost and len(self.lost) < MOST_KNOWN:
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
