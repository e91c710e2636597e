"""The two standard streams as the command line finds them: well, closed, full, or with nobody reading.

What is told on stderr is a courtesy: what cannot be written there is dropped, and the work goes on. What is answered on
stdout was asked for: that it could not be written is an error, after the work is done.
"""

import sys
from typing import IO, cast

from oid_async.errors import StorageError


class OutputError(StorageError):
    """What was asked for is done and cannot be said: stdout is closed, full or takes no such text."""


def tell(text: str) -> None:
    """Write a line to stderr if it can be written. With stderr closed, print() would write it to stdout."""
    stream = never_failing(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()


def answer(text: str) -> None:
    """Write a line to stdout and see it out. Raises UnansweredError, or BrokenPipeError when its reader has gone."""
    if sys.stdout is None:
        raise OutputError("stdout is closed: the answer could not be written")
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"stdout: the answer could not be written ({reason})") from error


def flush() -> None:
    """See out what can be."""
    for stream in (sys.stdout, sys.stderr):
        never_failing(stream).flush()


def never_failing(stream: IO[str] | None) -> IO[str]:
    """Return a stream, or one that is not there, as one whose writes never fail."""
    return cast("IO[str]", _NeverFailing(stream))


class _NeverFailing:
    """A stream that may not be there, or not take what is written to it."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                pass  # a courtesy
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                pass

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False
