"""Whose turn it is to make the end, where many tasks see the last record at the same time.

    .oid_async/end/<records>.json      who makes it, and a number that grows as long as that task lives

This saves work and keeps nobody out: two ends at once do no harm, and a turn that is not used passes on.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from oid_async.cluster.layout import ENDS
from oid_async.errors import OidError
from oid_async.events import Note, Sink, Stage
from oid_async.objects.store import ExistsError, MissingError, Objects

BEAT_S = 10.0
LOOK_S = 3.0
# So long nothing is heard of a task that lives, whatever its storage does.
SILENT_S = 60.0
# After so long one of two that take a silent task's turn sees that it was the other.
_SETTLE_S = 1.0


class EndTurn:
    """The turn of one task, for the end of these records (a text that tells them from others). Blocking."""

    def __init__(self, objects: Objects, records: str) -> None:
        self._objects = objects
        self._key = f"{ENDS}/{records[:16]}.json"
        self._who = secrets.token_hex(8)

    def wait(self, is_finished: Callable[[], bool], sink: Sink) -> bool:
        """Wait until somebody has made the end (False), or it is this task's turn (True)."""
        seen, since = b"", time.monotonic()
        while not is_finished():
            there = self._taken_or_there()
            if there is None:
                return self._is_needed(is_finished)
            now = time.monotonic()
            if there != seen:
                if not seen:
                    sink(Note("another task writes the result tables; this one waits for it"))
                seen, since = there, now
            elif now - since > SILENT_S:
                self._objects.put(self._key, self._body(0))
                time.sleep(_SETTLE_S)
                if self._taken_or_there() is None:
                    return self._is_needed(is_finished)
                continue
            sink(Stage("another task writes the result tables"))
            time.sleep(LOOK_S)
        return False

    def _is_needed(self, is_finished: Callable[[], bool]) -> bool:
        """Return whether the end is still to be made: who had the turn before may have made it just now."""
        if not is_finished():
            return True
        with suppress(OidError):
            self._objects.delete([self._key])
        return False

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the others know that this task lives, as long as the block lasts; then give the turn back."""
        ended = Event()

        def beat() -> None:
            number = 0
            while not ended.wait(BEAT_S):
                number += 1
                with suppress(OidError):  # the end itself meets the same storage, and says so
                    self._objects.put(self._key, self._body(number))

        thread = Thread(target=beat, name="oid_async-turn", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OidError):
                self._objects.delete([self._key])

    def _taken_or_there(self) -> bytes | None:
        """Take the turn if nobody has it; return None if it is this task's, else what another one says."""
        with suppress(ExistsError):
            self._objects.put_new(self._key, self._body(0))
            return None
        try:
            there = self._objects.get(self._key)
        except MissingError:
            return b""
        return None if json.loads(there)["who"] == self._who else there

    def _body(self, number: int) -> bytes:
        return json.dumps({"who": self._who, "beat": number}).encode()
