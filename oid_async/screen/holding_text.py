"""What holds a run up, as a person reads it."""

import time

from oid_async.events import Hold, HoldCause, Holding
from oid_async.http.wait_text import time_text
from oid_async.report import counted, size_text

_MOST_KINDS = 3
# What is only said when nothing else holds up the run, or beside it.
_ORDER: tuple[HoldCause, ...] = (
    *("paused", "down", "unanswered", "disk", "consumer", "capped", "limited", "hanging", "retries", "workers"),
)


def holding_texts(holding: Holding) -> list[str]:
    """Return each thing in words, the worst first."""
    return [hold_text(hold) for hold in sorted(holding.holds, key=lambda hold: (_ORDER.index(hold.cause), -hold.count))]


def hold_text(hold: Hold) -> str:
    """Return one thing in words.

    >>> hold_text(Hold("retries", count=14, kinds=(("server_error", 12), ("timeout", 2))))
    '14 retries wait (12 server_error, 2 timeout)'
    >>> hold_text(Hold("capped", "staticflickr.com", 40, per_s=10.0, by_default=True))
    'capped at 10 requests/s for staticflickr.com by default'
    """
    trouble = f" ({hold.trouble})" if hold.trouble else ""
    match hold.cause:
        case "paused":
            return f"waiting for {hold.host}{_until(hold)}{trouble}"
        case "down":
            return f"{hold.host} is down{trouble}, asked again{_until(hold)} at the latest"
        case "unanswered":
            return f"no answer yet from {hold.host}{trouble}"
        case "capped":
            return f"capped at {_rate(hold.per_s)} for {hold.host} by {'default' if hold.by_default else '--rate'}"
        case "limited":
            return f"capped at {size_text(int(hold.per_s or 0))}/s by --limit-rate"
        case "disk":
            return f"the disk is slow: {counted(hold.count, 'image')} wait to be written"
        case "consumer":
            return f"{counted(hold.count, 'outcome')} wait to be taken"
        case "hanging":
            return f"{counted(hold.count, 'transfer')} {'hangs' if hold.count == 1 else 'hang'} at {hold.host}"
        case "retries":
            kinds = ", ".join(f"{count} {kind}" for kind, count in hold.kinds[:_MOST_KINDS])
            wait = "1 retry waits" if hold.count == 1 else f"{hold.count} retries wait"
            return f"{wait} ({kinds})" if kinds else wait
    have = "process has" if hold.count == 1 else "processes have"
    return f"{hold.count} worker {have} not started yet"


def capped_left_s(holding: Holding) -> float:
    """Return how long the images that wait for a host with a cap take at least, in seconds."""
    capped = [hold for hold in holding.holds if hold.cause == "capped" and hold.per_s]
    return max((hold.count / hold.per_s for hold in capped if hold.per_s), default=0.0)


def _until(hold: Hold) -> str:
    return "" if hold.until is None else f" until {time_text(hold.until - time.time())}"


def _rate(per_s: float | None) -> str:
    """Return a rate in the unit that a person would choose."""
    per_s = per_s or 0.0
    return f"{per_s:.3g} requests/s" if per_s >= 1 else f"{60 * per_s:.3g} requests/min"
