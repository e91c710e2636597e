"""The intent log: the lines of images that are about to get their names, for the run after a crash.

    .oid_async/intents/<process>-0.tsv, <process>-1.tsv      lines as in the journal

An image's line is written here before the image is renamed, and to the journal after that, some dozens at a time. What
is killed between the two leaves files that the journal does not know; here it stands where their bytes came from, which
the files do not say. The next run takes over the lines whose files are what they say.

Each process has two files and begins the other one when one is full: the older one goes, whose lines are journalled
long since. Nothing is synced: after a power cut a file whose line is lost is adopted by its check.
"""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from oid_async.report import Outcome
from oid_async.store.disk import OPENER, discard, is_plain
from oid_async.store.journal_line import line_of

# A process has far fewer images stored and not journalled: a worker some hundreds, a run some dozens.
_LINES = 4096


class IntentLog:
    """The intent log of one process, from any of its threads. Nothing is made before the first line."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder = folder
        self._paths = tuple(f"{folder}{os.sep}{process}-{number}.tsv" for number in range(2))
        self._lock = threading.Lock()
        self._file: int | None = None
        self._number = 1
        self._left = 0

    def add(self, outcome: Outcome) -> bytes:
        """Write the line of an image that is about to be renamed, and return it. Raises OSError."""
        line = line_of(outcome)
        with self._lock:
            if not self._left:
                self._turn()
            self._left -= 1
            assert self._file is not None
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return line

    def close(self, *, keep: bool) -> None:
        """Close the files, and remove them unless they are to be kept for the next run."""
        if self._file is None:
            return
        os.close(self._file)
        self._file, self._left = None, 0
        if not keep:
            for path in self._paths:
                discard(path)
            with suppress(OSError):
                self._folder.rmdir()

    def _turn(self) -> None:
        """Begin the other file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._paths[1 - self._number]
        discard(path)
        file = OPENER(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        if self._file is not None:
            os.close(self._file)
        self._file, self._number, self._left = file, 1 - self._number, _LINES

    def owns(self, path: Path) -> bool:
        """Return whether a file is of this log."""
        return str(path) in self._paths


def intent_files(folder: Path) -> Iterator[Path]:
    """Yield the files of all logs in a folder, in order of their names."""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(path for path in folder.iterdir() if path.suffix == ".tsv" and is_plain(path))
