"""The heartbeat of a worker process, by which the run tells one that is stopped from one that has much to do.

    worker: thread ──b"+": its loop turns, b"-": it is blocked──▶ stdout, a pipe ──▶ run: reason_to_end

A process that is stopped, or swapped out for good, stops with all its threads. A disk that blocks its loop, which
writes images, does not stop the thread: for that a worker is given more time.
"""

import asyncio
import os
import threading
import time
from contextlib import suppress

_LOOK_S = 1.0
_BEATS_AT_ONCE = 4096
_BEAT_S = 2.0
_TURNS, _BLOCKED = b"+", b"-"
_STDOUT = 1
# Under heavy load a beat may be late, and a worker that is ended in vain costs what it had in hand.
_SILENT_S = 20.0
_BLOCKED_S = 120.0
_START_S = 60.0


class Heartbeat(threading.Thread):
    """Writes a beat every two seconds to the process's stdout, as long as somebody may read it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="oid_async-heartbeat", daemon=True)
        self._loop = loop
        self._has_turned = True

    def run(self) -> None:
        """Beat until the run, or the loop, is gone."""
        while True:
            has_turned, self._has_turned = self._has_turned, False
            try:
                os.write(_STDOUT, _TURNS if has_turned else _BLOCKED)
                if has_turned:
                    self._loop.call_soon_threadsafe(self._note_turn)
            except (OSError, RuntimeError):
                return
            time.sleep(_BEAT_S)

    def _note_turn(self) -> None:
        self._has_turned = True


async def reason_to_end(beats: asyncio.StreamReader) -> str | None:
    """Listen to a worker, and return why it is to be ended; None once it has ended by itself."""
    monitor, clock = HeartbeatMonitor(), asyncio.get_running_loop().time
    looked_at = clock()
    while True:
        heard = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                if not (heard := await beats.read(_BEATS_AT_ONCE)):
                    return None
        passed_s, looked_at = clock() - looked_at, clock()
        if (reason := monitor.look(passed_s, heard)) is not None:
            return reason


class HeartbeatMonitor:
    """What the run knows of one worker's beats.

    Time counts only as far as the run itself was awake to hear them: of a machine that was suspended, or a run that
    was stopped or held up, no worker is to blame.
    """

    def __init__(self) -> None:
        self._has_beaten = False
        self._silent_s = 0.0
        self._blocked_s = 0.0

    def look(self, passed_s: float, beats: bytes) -> str | None:
        """Return why a worker is to be ended, None while it seems well.

        `beats` are those that came in the `passed_s` since the last look.
        """
        passed_s = min(passed_s, 2 * _LOOK_S)
        self._has_beaten |= bool(beats)
        self._silent_s = 0.0 if beats else self._silent_s + passed_s
        self._blocked_s = 0.0 if _TURNS in beats else self._blocked_s + passed_s
        if not self._has_beaten:
            return f"did not start within {_START_S:.0f} s" if self._silent_s > _START_S else None
        if self._silent_s > _SILENT_S:
            return f"has given no sign of life for {_SILENT_S:.0f} s"
        return f"has been blocked for {_BLOCKED_S:.0f} s" if self._blocked_s > _BLOCKED_S else None
