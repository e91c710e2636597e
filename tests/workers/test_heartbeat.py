"""The heartbeat of a worker: one that is stopped is noticed soon, one that is merely slow is left in peace."""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from oid_async.workers import heartbeat
from oid_async.workers.heartbeat import Heartbeat, HeartbeatMonitor


def ended_after(looks: Iterator[tuple[float, bytes]]) -> tuple[float, str | None]:
    """Return after how many seconds a worker is ended and why, None if it never is."""
    monitor, passed_s = HeartbeatMonitor(), 0.0
    for seconds, beats in looks:
        passed_s += seconds
        if (reason := monitor.look(seconds, beats)) is not None:
            return passed_s, reason
    return passed_s, None


def looks(count: int, beat: bytes = b"", every: int = 2) -> Iterator[tuple[float, bytes]]:
    """Yield one look a second, and a beat with some of them."""
    for second in range(count):
        yield 1.0, beat if second % every == 0 else b""


@pytest.mark.parametrize(
    ("parts", "after_s", "reason"),
    [
        ([looks(600, b"+")], 600, None),
        ([looks(10, b"+"), looks(100)], 30, "has given no sign of life for 20 s"),
        ([looks(600, b"+", every=15)], 600, None),
        # A disk that blocks the loop for half a minute, and one that never comes back.
        ([looks(10, b"+"), looks(30, b"-"), looks(60, b"+")], 100, None),
        ([looks(10, b"+"), looks(600, b"-")], 130, "has been blocked for 120 s"),
        # The start is slow on a busy machine; a worker that never starts is no help.
        ([looks(50), looks(10, b"+")], 60, None),
        ([looks(200)], 61, "did not start within 60 s"),
        # The machine was suspended, or the run was stopped: it was not there to hear.
        ([looks(10, b"+"), iter([(3600.0, b"")]), looks(60, b"+")], 3670, None),
        ([looks(10, b"+"), iter([(30.0, b"")] * 5), looks(60, b"+")], 220, None),
    ],
)
def test_who_is_ended_and_when(parts: list[Iterator[tuple[float, bytes]]], after_s: float, reason: str | None) -> None:
    """Silence of twenty seconds ends a worker, a blocked loop two minutes; time nobody listened does not count."""
    ended_s, why = ended_after(look for part in parts for look in part)
    assert why == reason
    assert ended_s == pytest.approx(after_s, abs=2.0)


def wait_for(beats: bytes, reading: int) -> None:
    """Block until such beats come: however late a busy machine is, they come in the end."""
    while beats not in os.read(reading, 4096):
        time.sleep(0.05)


async def test_a_blocked_loop_still_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loop is held up the thread says so; with the loop, or the reader, gone it ends."""
    reading, writing = os.pipe()
    monkeypatch.setattr(heartbeat, "_BEAT_S", 0.01)
    monkeypatch.setattr(heartbeat, "_STDOUT", writing)
    thread = Heartbeat(asyncio.get_running_loop())
    thread.start()
    await asyncio.to_thread(wait_for, b"++", reading)
    wait_for(b"--", reading)  # in the loop, which is what a slow disk does to it
    await asyncio.to_thread(wait_for, b"++", reading)
    os.close(reading)
    await asyncio.to_thread(thread.join, 5.0)
    assert not thread.is_alive()
    os.close(writing)
