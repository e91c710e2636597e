"""What we know of each host: how fast we may ask, how long it wants to be left alone, whether its ETags are MD5s."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from aiolimiter import AsyncLimiter
from yarl import URL

from oid_async.store.verify import EtagTrust

# Flickr's own published advice is one request a second per key for its API; its static hosts publish none. Ten a second
# is what the tool that this one replaces was used with, and is polite for a site that serves these photos for nothing.
FLICKR = "staticflickr.com"
FLICKR_RATE = 10.0


@dataclass(slots=True)
class Host:
    """One host's state. `not_before` is on the monotonic clock; `waited_s` adds up what the host made us wait."""

    name: str
    limiter: AsyncLimiter | None
    etags: EtagTrust
    not_before: float = 0.0
    waited_s: float = 0.0

    def pause(self, seconds: float, *, now: float) -> None:
        """Leave the host alone for this long; pauses do not add up, the latest end holds."""
        until = now + seconds
        if until > self.not_before:
            self.waited_s += until - max(self.not_before, now)
            self.not_before = until


@dataclass(slots=True)
class Hosts:
    """All hosts of one run, and its rate cap: at most `rate` requests per `period` seconds and host."""

    rate: float | None
    period: float
    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _known: dict[str, Host] = field(default_factory=dict)

    def of(self, url: URL) -> Host:
        """Return the host of a URL; all of *.staticflickr.com is one host."""
        name = host_name(url)
        if name not in self._known:
            limiter = make_limiter(self._rate_of(name), self.period if self.rate else 1.0)
            self._known[name] = Host(name, limiter, EtagTrust(name))
        return self._known[name]

    async def admit(self, host: Host) -> None:
        """Wait until one more request may be sent to the host. Call it where requests are really sent."""
        while True:
            if host.limiter is not None:
                await host.limiter.acquire()
            wait = host.not_before - self.clock()
            if wait <= 0:
                return
            await self.sleep(wait)

    def _rate_of(self, name: str) -> float:
        if self.rate is not None:
            return self.rate
        return FLICKR_RATE if name == FLICKR else 0.0


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
