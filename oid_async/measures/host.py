"""What is measured of one host: counts, and how long it takes for what; adding to it takes a microsecond at most."""

from collections.abc import Mapping
from typing import Any, Literal

from oid_async.measures.histogram import Histogram

WaitReason = Literal["rate_cap", "paused", "retry_after", "backoff", "limit_rate"]
_COUNTS = ("requests", "images", "bytes", "connections", "other_requests", "other_bytes", "other_connections")
_TIMES = ("first_byte", "total", "dns", "connect")
_KINDS = ("retries", "failures")


class Wait:
    """How often, and how long, something waited for one reason.

    The time of the run in which anything waited counts: waits at the same time count once.
    """

    __slots__ = ("_until", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._until = float("-inf")

    def add(self, began: float, until: float) -> None:
        """Add a wait, which may have begun, or ended, but before none that was added earlier did both."""
        self.count += 1
        if until > self._until:
            self.seconds += until - max(began, self._until)
            self._until = until

    def as_json(self, now: float) -> dict[str, float]:
        """Return the count and the seconds until now."""
        return {"count": self.count, "seconds": round(self.seconds - max(0.0, self._until - now), 3)}


class HostMeasures:
    """What is measured of one host, or of several that are summed.

    Requests, images, bytes and connections are those of the images; what the same host is asked for besides (tables,
    archives of masks, recordings) counts as `other_...`. Durations are in seconds: `first_byte` from a request to the
    head of its response, `total` to the last byte of a body that came whole, `dns` of one look-up, `connect` of TCP and
    TLS. `retries` and `failures` count attempts by failure kind.
    """

    __slots__ = (*_COUNTS, *_TIMES, *_KINDS, "waits")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.requests = self.images = self.bytes = self.connections = 0
        self.other_requests = self.other_bytes = self.other_connections = 0
        self.first_byte, self.total, self.dns, self.connect = (Histogram() for _ in _TIMES)
        self.retries: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.waits: dict[str, Wait] = {}

    def received(self, size: int, sent: float, head: float, ended: float) -> None:
        """Count the image of a response: its size, when it was requested, when its head came and when its last byte."""
        self.images += 1
        self.bytes += size
        self.first_byte.add(head - sent)
        self.total.add(ended - sent)

    def requested(self, *, of_image: bool) -> None:
        """Count a request."""
        if of_image:
            self.requests += 1
        else:
            self.other_requests += 1

    def sent(self, size: int, *, of_image: bool) -> None:
        """Count the bytes that came of a body, whole or not."""
        if of_image:
            self.bytes += size
        else:
            self.other_bytes += size

    def connected(self, seconds: float, *, of_image: bool) -> None:
        """Count a connection, and how long TCP and TLS took."""
        if of_image:
            self.connections += 1
            self.connect.add(seconds)
        else:
            self.other_connections += 1

    def completed(self, sent: float, ended: float) -> None:
        """Count the image of a response whose bytes are counted elsewhere."""
        self.images += 1
        self.total.add(ended - sent)

    def refused(self, kind: str) -> None:
        """Count a body that came whole, and was no image after all."""
        self.images -= 1
        self.failed(kind)

    def failed(self, kind: str) -> None:
        """Count an attempt that failed."""
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def retried(self, kind: str) -> None:
        """Count an attempt that is to be made because one failed."""
        self.retries[kind] = self.retries.get(kind, 0) + 1

    def waited(self, reason: WaitReason, began: float, until: float) -> None:
        """Add a wait, on the clock of the run."""
        if reason not in self.waits:
            self.waits[reason] = Wait()
        self.waits[reason].add(began, until)

    @property
    def is_empty(self) -> bool:
        """Return whether nothing has happened."""
        return not any(getattr(self, name) for name in (*_COUNTS, *_KINDS, "waits"))

    def as_json(self, now: float) -> dict[str, Any]:
        """Return it as the report of a run shows it, durations in milliseconds."""
        times = {f"{name}_ms": getattr(self, name).in_ms() for name in _TIMES}
        other = {name: getattr(self, f"other_{name}") for name in ("requests", "bytes", "connections")}
        return {
            **{name: getattr(self, name) for name in _COUNTS[:4]},
            **times,
            "retries": dict(sorted(self.retries.items())),
            "waits": {reason: wait.as_json(now) for reason, wait in sorted(self.waits.items())},
            "failures": dict(sorted(self.failures.items())),
            "other": other,
        }

    def pack(self) -> dict[str, Any]:
        """Return all but the waits, as plain values that `add_packed` takes: a worker process waits for no host."""
        counts = {name: count for name in (*_COUNTS, *_KINDS) if (count := getattr(self, name))}
        return counts | {name: times.as_json() for name in _TIMES if (times := getattr(self, name)).count}

    def add_packed(self, packed: Mapping[str, Any]) -> None:
        """Add what another process has measured."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + packed.get(name, 0))
        for name in _KINDS:
            counts = getattr(self, name)
            for kind, count in packed.get(name, {}).items():
                counts[kind] = counts.get(kind, 0) + count
        for name in _TIMES:
            if name in packed:
                getattr(self, name).add_all(Histogram.from_json(packed[name]))
