"""What held a run up, as far as its numbers tell: one or two sentences."""

from collections.abc import Mapping
from typing import Any

from oid_async.pages.elements import number
from oid_async.redaction import printable

# From this share of the run on a wait is said to have held it up, or the processors to have been busy.
_MUCH = 0.5
_BUSY = 0.8
_REASONS = {
    "rate_cap": "requests to {host} waited for the rate cap",
    "limit_rate": "the bytes of {host} waited for --limit-rate",
    "paused": "{host} was left alone, because it was down or had asked to wait",
    "retry_after": "images of {host} waited because it had asked for that (Retry-After)",
    "backoff": "images of {host} waited to be tried again",
}
_ADVICE = {
    "rate_cap": " A higher --rate is faster, if the host agrees.",
    "limit_rate": " A higher --limit-rate is faster.",
    "backoff": " Others were fetched meanwhile.",
}


def what_held_up(run: Mapping[str, Any]) -> list[str]:
    """Return what held the run up, a sentence or two, and how many images failed of what.

    Of the time that the images took, it was a wait that lasted for half of it, else the processors if they were busy
    for four fifths of the run, else the network and the hosts. Where they took less than half of the run, that
    is said, too.
    """
    report = run.get("report") or {}
    found = _most_failed(report)
    if not report.get("downloaded") and not report.get("failed"):
        return [*found, "No image was fetched: there was nothing left to do, or the run ended before."]
    seconds = float(report.get("seconds") or 0)
    if seconds <= 0:
        return ["The run was too short to say what held it up.", *found]
    taken = _taken_s(run.get("throughput") or {}, seconds)
    rest: list[str] = []
    if taken < _MUCH * seconds:
        share = number(100 * taken / seconds, 0)
        rest = [f"The images took {share} % of this run; tables, selection, masks and results took the rest."]
    return [_holding(run, seconds, taken), *rest, *found]


def _taken_s(throughput: Mapping[str, Any], seconds: float) -> float:
    """Return the time from the first to the last interval in which an image landed or failed, at most the whole run."""
    columns = [throughput.get(name) or [] for name in ("images", "failed")]
    busy = [index for column in columns for index, count in enumerate(column) if count]
    if not busy:
        return seconds
    return min(seconds, (max(busy) - min(busy) + 1) * float(throughput.get("interval_s") or 1))


def _holding(run: Mapping[str, Any], seconds: float, taken: float) -> str:
    hosts = run.get("hosts") or {}
    busy = _busy_share(run.get("cpu") or {}, seconds)
    waited, reason, host = _longest_wait(hosts, of_images=False)
    if waited >= _MUCH * taken:
        return _waited(waited, reason, host, taken)
    if busy is not None and busy >= _BUSY:
        return f"The processor held this run up: each of its processes used {number(100 * busy, 0)} % of a core."
    waited, reason, host = _longest_wait(hosts, of_images=True)
    if waited >= _MUCH * taken:
        return _waited(waited, reason, host, taken)
    idle = "" if busy is None else f" and its processes used {number(100 * busy, 0)} % of a core each"
    return (
        f"Nothing waited for a cap or a host for long{idle}: "
        "what remains are the line, the disk and how fast the hosts answer."
    )


def _waited(waited: float, reason: str, host: str, taken: float) -> str:
    what = _REASONS.get(reason, f"{{host}}: {reason}").replace("{host}", printable(host))
    share = min(100, 100 * waited / taken)
    return f"For {number(share, 0)} % of the time that the images took, {what}.{_ADVICE.get(reason, '')}"


def _longest_wait(hosts: Mapping[str, Mapping[str, Any]], *, of_images: bool) -> tuple[float, str, str]:
    """Return the longest wait, its reason and its host: those of single images for another try, or all others."""
    waits = [
        (float(wait.get("seconds") or 0), str(reason), str(host))
        for host, measured in hosts.items()
        for reason, wait in (measured.get("waits") or {}).items()
        if (reason == "backoff") == of_images
    ]
    return max(waits, default=(0.0, "", ""))


def _busy_share(cpu: Mapping[str, Any], seconds: float) -> float | None:
    if not cpu:
        return None
    spent = float(cpu.get("user_s") or 0) + float(cpu.get("system_s") or 0)
    return min(1.0, spent / (seconds * max(1, int(cpu.get("processes") or 1))))


def _most_failed(report: Mapping[str, Any]) -> list[str]:
    failures = report.get("failures") or {}
    if not failures:
        return []
    kind, count = max(failures.items(), key=lambda pair: pair[1])
    failed = number(report.get("failed") or sum(failures.values()))
    named = "all" if number(count) == failed else f"{number(count)} of them"
    return [f"{failed} images failed, {named} as {kind}."]
