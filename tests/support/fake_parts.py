"""A worker of parts that fetches nothing: it sleeps as long as its part's `bytes` say in milliseconds, and says so.

What is to go wrong stands in the part's `md5`: kill, unreachable, refuse, bug, hang, kill-once:FILE.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from oid_async.cluster.published import Part
from oid_async.cluster.record import Record
from oid_async.cluster.work import MOST_TRIES, PartProgress, PartResult, WorkSettings
from oid_async.errors import StorageError


class FakeWorker:
    """Sleeps for a part, and notes its end in the folder that the settings name."""

    def __init__(self, settings: WorkSettings) -> None:
        self._folder = Path(cast(Any, settings).folder)
        self._is_closed = False

    def run(self, part: Part, *, attempt: int, progress: Callable[[PartProgress], None]) -> PartResult:
        """Do as the part says."""
        what, _, file = part.md5.partition(":")
        (self._folder / f"{part.name}.{os.getpid()}.{attempt}.{time.time_ns()}").touch()
        progress(PartProgress(part.name, ""))
        end = time.monotonic() + part.bytes / 1000
        while time.monotonic() < end and not self._is_closed:
            time.sleep(0.02)
        if what == "kill" or (what == "kill-once" and not Path(file).exists()):
            if file:
                Path(file).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "refuse":
            raise StorageError("the disk is full")
        if what == "bug":
            raise ValueError("a fault")
        if what == "unreachable" and attempt < MOST_TRIES:
            return PartResult(part.name, "unreachable", None)
        progress(PartProgress(part.name, "", landed=part.images))
        return PartResult(part.name, "committed", Record(0, part.name, "", None, part.images, part.images))

    def close(self) -> None:
        """Leave a sign that this was called, and end what is under way."""
        self._is_closed = True
        (self._folder / f"closed.{os.getpid()}").touch()


def fake_settings(folder: Path) -> WorkSettings:
    """Return settings that name the folder for notes."""
    return cast(WorkSettings, SimpleNamespace(folder=str(folder)))


def fake_parts(*words: str | int) -> list[Part]:
    """Return a part for each word: milliseconds, or what is to go wrong."""
    return [
        Part(0, "train", number, 10, word if isinstance(word, int) else 50, word if isinstance(word, str) else "")
        for number, word in enumerate(words)
    ]
