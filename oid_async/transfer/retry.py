"""What went wrong, and whether to ask again: the one classification and the one policy. Pure, no I/O."""

import email.utils
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from oid_async.report import FINAL_KINDS

# One fresh try for what a broken proxy or a torn cache may have caused, before the verdict is final.
ONCE_MORE = frozenset({"checksum", "empty", "not_image"})
_STATUS_KINDS = {401: "forbidden", 403: "forbidden", 404: "not_found", 408: "timeout", 410: "gone", 429: "rate_limited"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one transfer may cost. Times in seconds, sizes in bytes.

    `retries` counts attempts after the first; a retry waits a random time of up to `backoff_s` x 2^n, at most
    `backoff_cap_s` (full jitter: a thousand clients that failed together must not come back together). `max_wait_s` is
    how long a host that asks us to wait is waited for in all. Bodies above `memory_bytes` are streamed to disk.
    """

    retries: int = 4
    connect_s: float = 10.0
    silence_s: float = 30.0
    attempt_s: float = 600.0
    backoff_s: float = 0.5
    backoff_cap_s: float = 30.0
    max_wait_s: float = 900.0
    max_image_bytes: int = 64 << 20
    memory_bytes: int = 1 << 20
    redirects: int = 5


class FetchError(Exception):
    """One attempt failed: a failure kind and what happened in words.

    `retry_after_s` is how long the host asks us to wait, if it does; `hopeless` says it asks for more than we wait;
    `status` is the HTTP status, if it came to one.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        hopeless: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.hopeless = hopeless


@dataclass(slots=True)
class Attempts:
    """How often one thing was asked for and what went wrong: decides whether to ask again, and how soon."""

    limits: Limits
    made: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def wait_s(self, error: FetchError, jitter: float, limits: Limits | None = None) -> float | None:
        """Return how long to wait before asking again, None to give up; `limits` replaces the usual ones this once.

        No wait of our own when the host has named one: the host as a whole is then left alone for that long.
        """
        if error.hopeless or not may_retry(error.kind, self.made, self.seen, limits or self.limits):
            return None
        self.seen[error.kind] += 1
        return 0.0 if error.retry_after_s is not None else backoff_s(self.made, self.limits, jitter)


def is_final(kind: str) -> bool:
    """Return whether a failure kind is final for the object; everything else passes and may be asked again."""
    return kind in FINAL_KINDS


def may_retry(kind: str, attempts: int, seen: Mapping[str, int], limits: Limits) -> bool:
    """Return whether to ask again after this many attempts, `seen` counting the earlier failures by kind."""
    if kind in ONCE_MORE:
        return not seen.get(kind)
    return not is_final(kind) and attempts <= limits.retries


def backoff_s(attempts: int, limits: Limits, jitter: float) -> float:
    """Return the wait before the next attempt; `jitter` is uniform in 0 to 1.

    >>> backoff_s(1, Limits(), 1.0), backoff_s(3, Limits(), 0.5), backoff_s(20, Limits(), 1.0)
    (0.5, 1.0, 30.0)
    """
    return jitter * min(limits.backoff_cap_s, limits.backoff_s * 2.0 ** min(attempts - 1, 60))


def status_error(status: int, headers: Mapping[str, str]) -> FetchError:
    """Return what an answer that is neither 200 nor a redirect means."""
    kind = _STATUS_KINDS.get(status, "server_error" if status >= 500 else "bad_response")
    wait = retry_after_s(headers) if status in (429, 503) else None
    return FetchError(kind, f"HTTP {status}", retry_after_s=wait, status=status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a Retry-After asks for, None if there is none or it makes no sense.

    A date is taken relative to the answer's own Date, so that a wrong local clock does no harm.

    >>> retry_after_s({"Retry-After": "7"})
    7.0
    >>> retry_after_s({"Retry-After": "Wed, 21 Oct 2026 07:28:10 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    10.0
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return min(float(value), 1e9)
    try:
        until = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        wait = (until - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, wait) if math.isfinite(wait) else None


def connection_error(error: BaseException) -> FetchError:
    """Return what an exception of aiohttp's means: the only place that knows its error tree."""
    # Whoever has such an error has imported it; a run that asks nobody need not.
    import aiohttp

    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number) if number and number > 0 else str(error.os_error)
        return FetchError("network", f"cannot connect to {error.host}:{error.port}: {reason}")
    if isinstance(error, aiohttp.InvalidURL | UnicodeError):
        return FetchError("bad_url", text)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", text)
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated", text)
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("bad_response", text)
    return FetchError("network", text)
