"""What holds up the images of a run at the moment: found once a second, from what scheduler, hosts and collector know.

    scheduler ──waiting──▶ HoldingWatch ──Holding, when it has changed──▶ sink
    hosts, collector, worker pool ──▶┘

Decisions only, on the clock of the run. Nothing found means: the network, or the hosts, are what takes the time.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from oid_async.events import Hold, Holding, Sink
from oid_async.http.host import Host
from oid_async.http.hosts import Hosts
from oid_async.measures.host import WaitReason
from oid_async.quick_values import frozen
from oid_async.transfer.scheduler import InHand, Left

# What passes by itself in a moment is not worth saying.
_PASSING_S = 1.0
_LOOKS = 3
# A cap holds a run up if something waits for it in so much of the time.
_SHARE = 0.5
_MOST = 8


@frozen
class Stores:
    """How what was received is stored: `waiting` images wait, so many that nothing more may be received if `is_full`.

    `is_delivering`: that is because the outcomes are not taken.
    """

    waiting: int = 0
    is_full: bool = False
    is_delivering: bool = False


@frozen
class Workers:
    """What the worker processes of a run have in hand, how many transfers hang there, and how many have not started."""

    in_hand: Sequence[InHand] = ()
    hanging: Mapping[str, int] | None = None
    starting: int = 0


_NO_WORKERS = Workers()


class HoldingWatch:
    """Looks at one run; see `look`. `limit_bytes_s` is the cap on the bytes of all transfers together, if any."""

    def __init__(
        self, hosts: Hosts, sink: Sink, *, limit_bytes_s: float | None, wall: Callable[[], float] = time.time
    ) -> None:
        self._hosts = hosts
        self._sink = sink
        self._wall_clock = wall
        self._limit_bytes_s = limit_bytes_s
        self._sent: tuple[Hold, ...] = ()
        self._looked_at = hosts.clock()
        self._waited: dict[tuple[str, WaitReason], float] = {}
        self._hung: deque[Counter[str]] = deque(maxlen=_LOOKS)
        self._unanswered: Counter[str] = Counter()
        self._full = self._starting = 0

    def look(
        self, waiting: Sequence[Left], retries: Mapping[str, int], stores: Stores, workers: Workers = _NO_WORKERS
    ) -> None:
        """Find what holds the run up, and send it if that has changed.

        `waiting` are the images of each host, `retries` counts those that wait for an attempt by the kind of failure.
        """
        now = self._hosts.clock()
        hosts = self._with_workers(waiting, workers)
        holds = [hold for of_host in hosts if (hold := self._of_host(of_host, now)) is not None]
        holds += self._hanging(hosts, workers)
        holds += self._limited(hosts)
        holds += self._storing(stores)
        if count := sum(retries.values()):
            kinds = sorted(retries.items(), key=lambda item: (-item[1], item[0]))
            holds.append(Hold("retries", count=count, kinds=tuple(kinds)))
        self._starting = self._starting + 1 if workers.starting else 0
        if self._starting > _LOOKS:
            holds.append(Hold("workers", count=workers.starting))
        self._looked_at = now
        called = self._hosts.measures.known_as
        worst = sorted(holds, key=lambda hold: -hold.count)[:_MOST]
        self._send(tuple(replace(hold, host=called.get(hold.host, hold.host)) for hold in worst))

    def end(self) -> None:
        """Note that nothing is held up any more."""
        self._send(())

    def _send(self, holds: tuple[Hold, ...]) -> None:
        if holds != self._sent:
            self._sent = holds
            self._sink(Holding(holds))

    def _with_workers(self, waiting: Sequence[Left], workers: Workers) -> list[Left]:
        """Return what waits for each host, with what worker processes have of it."""
        hosts = {of_host.host: of_host for of_host in waiting}
        for host, images, _ in workers.in_hand:
            of_host = hosts.get(host) or Left(host, 0, 0)
            hosts[host] = Left(host, of_host.queued, of_host.in_flight + images, of_host.retries, of_host.retry_at)
        return [of_host for of_host in hosts.values() if of_host.host.gave_up is None]

    def _of_host(self, of_host: Left, now: float) -> Hold | None:
        """Return how a host holds up its images, None if it does not."""
        host, images = of_host.host, of_host.queued + of_host.in_flight + of_host.retries
        if not images:
            return None
        # Of the images that come to worker processes the host's measures know.
        has_answered = host.has_answered or host.measures.images > 0
        self._unanswered[host.name] = 0 if has_answered else self._unanswered[host.name] + 1
        if host.is_unanswered or self._unanswered[host.name] > _LOOKS:
            return Hold("unanswered", host.name, images, trouble=host.trouble)
        if host.is_down:
            return Hold("down", host.name, images, self._wall(self._hosts.waits_until(host), now), trouble=host.trouble)
        if host.is_closed(now):
            is_long = host.not_before - now > _PASSING_S
            until = self._wall(host.not_before, now)
            return Hold("paused", host.name, images, until, trouble=host.trouble) if is_long else None
        per_s = self._hosts.cap_per_s(host.name)
        if per_s is None or not of_host.queued + of_host.in_flight:
            return None
        is_slow = per_s < 1 and host.limiter is not None and not host.limiter.has_capacity()
        if not is_slow and not self._waits_for(host, "rate_cap"):
            return None
        by_default = self._hosts.rate is None
        return Hold("capped", host.name, images, per_s=per_s, by_default=by_default)

    def _hanging(self, hosts: Sequence[Left], workers: Workers) -> list[Hold]:
        """Return the transfers of each host that have hung for some looks: any may for a moment."""
        hung = Counter(workers.hanging or {})
        for of_host in hosts:
            hung[of_host.host.name] += of_host.host.hanging
        self._hung.append(hung)
        if len(self._hung) < _LOOKS:
            return []
        least = {name: min(earlier[name] for earlier in self._hung) for name in hung}
        return [Hold("hanging", name, count) for name, count in least.items() if count]

    def _limited(self, hosts: Sequence[Left]) -> list[Hold]:
        if self._limit_bytes_s is None:
            return []
        waits = [self._waits_for(of_host.host, "limit_rate") for of_host in hosts]
        return [Hold("limited", per_s=self._limit_bytes_s)] if any(waits) else []

    def _storing(self, stores: Stores) -> list[Hold]:
        self._full = self._full + 1 if stores.is_full else 0
        if self._full < 2:
            return []
        return [Hold("consumer" if stores.is_delivering else "disk", count=stores.waiting)]

    def _waits_for(self, host: Host, reason: WaitReason) -> bool:
        """Return whether something has waited for this most of the time since the last look."""
        wait = host.measures.waits.get(reason)
        seconds = wait.seconds if wait is not None else 0.0
        before = self._waited.get((host.name, reason), 0.0)
        self._waited[host.name, reason] = seconds
        return seconds - before >= _SHARE * max(self._hosts.clock() - self._looked_at, 1e-3)

    def _wall(self, until: float, now: float) -> float:
        """Return the second on the wall's clock of a time of the run's."""
        return float(round(self._wall_clock() + until - now))
