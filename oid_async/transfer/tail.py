"""The tail of a run: the plan was read to its end, and what is left waits for hosts, for retries, or hangs.

    scheduler ──left, once a second──▶ Tail ──idle_since──▶ Hosts: who has never answered is given up a minute later
                                         └──one line──▶ the user: what is waited for, why, until when

Decisions only, on the clock of the run.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from oid_async.http.hosts import Hosts
from oid_async.http.wait_text import asked_until, clock_text
from oid_async.quick_values import frozen
from oid_async.transfer.scheduler import InHand, Left

LOOK_S = 1.0
# Nothing has ended for this long, or nothing can within it: then it is worth a line.
_WORTH_A_LINE_S = 5.0
_NEARLY_OVER_S = 2.0
_HANGS_AFTER_S = 20.0
# The same is said again when the time that was named has passed, but not at every attempt.
_SAID_FOR_S = 60.0
_MOST_NAMED = 3

Cause = Literal["down", "closed", "retry", "hanging"]


@frozen
class Wait:
    """So many images wait for a host, for one cause, until a time on the run's clock; `next_at` is when they may move.

    `trouble` is the last error of the host.
    """

    name: str
    images: int
    cause: Cause
    until: float
    next_at: float
    trouble: str = ""

    def text(self, now: float) -> str:
        """Return it in words."""
        one = self.images == 1
        images, left_s = "1 image" if one else f"{self.images:,} images", self.until - now
        wait = "waits" if one else "wait"
        if self.cause == "down":
            fail = "it fails" if one else "they fail"
            return f"{images} {wait} for {self.name} ({self.trouble}); {asked_until(left_s)}, then {fail}"
        if self.cause == "closed":
            return f"{images} {wait} for {self.name} until {clock_text(left_s)}, as it asks for ({self.trouble})"
        if self.cause == "retry":
            return f"{images} {wait} until {clock_text(left_s)} for the next attempt at {self.name} ({self.trouble})"
        hang = "hangs" if one else "hang"
        return f"{images} {hang} at {self.name}; what sends nothing more is cut off by {clock_text(left_s)}"


def waits(
    left: Sequence[Left], in_hand: Sequence[InHand], hosts: Hosts, *, hanging_until: float | None
) -> list[Wait] | None:
    """Return what is waited for; None if there is something else to do.

    `in_hand` are the images that worker processes have. `hanging_until`: transfers that are under way have
    made no progress for a while, and end then; None if they are to be taken for transfers at work.
    """
    now, found = hosts.clock(), []
    for one in left:
        host = one.host
        if host.gave_up is not None:
            return None
        if host.is_down:
            images = one.queued + one.in_flight + one.retries
            until = hosts.waits_until(host)
            found.append(Wait(host.name, images, "down", until, max(now, host.not_before), host.trouble))
            continue
        is_closed = host.is_closed(now)
        if one.in_flight:
            if hanging_until is None or host.limiter is not None:
                return None
            found.append(Wait(host.name, one.in_flight, "hanging", hanging_until, hanging_until))
        elif one.queued and not is_closed:
            return None
        if one.queued and is_closed:
            found.append(Wait(host.name, one.queued, "closed", host.not_before, host.not_before, host.trouble))
        if one.retries:
            found.append(Wait(host.name, one.retries, "retry", one.retry_at, one.retry_at, host.trouble))
    if in_hand and hanging_until is None:
        return None
    return _merged(found + [Wait(host.name, images, "hanging", end, end) for host, images, end in in_hand])


def _merged(found: Sequence[Wait]) -> list[Wait]:
    """Return one wait for each host and cause: this process and others may have images of the same host."""
    merged: dict[tuple[str, Cause], Wait] = {}
    for wait in found:
        before = merged.get((wait.name, wait.cause))
        images, until = (before.images, before.until) if before is not None else (0, wait.until)
        merged[wait.name, wait.cause] = replace(wait, images=images + wait.images, until=max(until, wait.until))
    return list(merged.values())


class Tail:
    """Watches the tail of one run.

    `look` is given what the scheduler has left and how many images are neither there nor done (`HostScheduler.left`),
    what worker processes have in hand, and when the transfers under way end if nothing more comes.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._unfinished = -1
        self._moved_at = 0.0
        self._said: set[tuple[str, Cause]] = set()
        self._said_at = self._said_until = float("-inf")

    def look(self, left: Sequence[Left], elsewhere: int, *, in_hand: Sequence[InHand], transfers_end: float) -> None:
        """Note whether only waiting is left, give up the hosts whose time is over, and say what is waited for."""
        hosts, now = self._hosts, self._hosts.clock()
        unfinished = elsewhere + sum(one.queued + one.in_flight + one.retries for one in left)
        if unfinished != self._unfinished:
            self._unfinished, self._moved_at = unfinished, now
        hangs = now - self._moved_at >= _HANGS_AFTER_S
        are_stored = elsewhere > sum(images for _, images, _ in in_hand)
        found = None if are_stored else waits(left, in_hand, hosts, hanging_until=transfers_end if hangs else None)
        if found is None or any(wait.cause == "hanging" for wait in found):
            hosts.idle_since = None
        elif hosts.idle_since is None:
            hosts.idle_since = now
            # From now on it is known until when the hosts that are down are waited for.
            found = waits(left, in_hand, hosts, hanging_until=None)
            self._said = {(name, cause) for name, cause in self._said if cause != "down"}
        hosts.give_up_unanswered()
        # What is down is said here from now on, with the time that then holds.
        hosts.say_down(wait.name for wait in found or () if wait.cause == "down")
        if found and self._is_worth_a_line(found, now):
            self._said = {(wait.name, wait.cause) for wait in found}
            self._said_at, self._said_until = now, max(wait.until for wait in found)
            hosts.notify(in_words(found, now))

    def _is_worth_a_line(self, found: Sequence[Wait], now: float) -> bool:
        """Return whether it takes a while, and was not said yet."""
        if max(wait.until for wait in found) - now < _NEARLY_OVER_S:
            return False
        if now - self._moved_at < _WORTH_A_LINE_S and min(wait.next_at for wait in found) - now < _WORTH_A_LINE_S:
            return False
        is_over = now > self._said_until and now - self._said_at >= _SAID_FOR_S
        return is_over or not {(wait.name, wait.cause) for wait in found} <= self._said


def in_words(found: Sequence[Wait], now: float) -> str:
    """Return one line on what is waited for, the most images first."""
    found = sorted(found, key=lambda wait: -wait.images)
    named, others = found[:_MOST_NAMED], found[_MOST_NAMED:]
    parts = [wait.text(now) for wait in named]
    if others:
        last = clock_text(max(wait.until for wait in others) - now)
        images = sum(wait.images for wait in others)
        parts.append(f"{images:,} more {'waits' if images == 1 else 'wait'}, at the latest until {last}")
    return "; ".join(parts)
