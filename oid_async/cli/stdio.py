"""Writing to stdout and stderr, which may be closed, full, or have no reader.

A message on stderr that cannot be written is dropped; a result on stdout that cannot be written is an error.
"""

import sys
from typing import IO, cast

from oid_async.errors import StorageError


class OutputError(StorageError):
    """The work is done and its result cannot be written: stdout is closed, full or takes no such text."""


def print_message(text: str) -> None:
    """Write a line to stderr if it can be written. With stderr closed, print() would write it to stdout."""
    stream = forgiving(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()


def print_result(text: str) -> None:
    """Write a line to stdout and flush it. Raises OutputError, or BrokenPipeError when its reader has gone."""
    if sys.stdout is None:
        raise OutputError("stdout is closed: the answer could not be written")
    try:
        sys.stdout.write(f"{_encodable(text, sys.stdout)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"stdout: the answer could not be written ({reason})") from error


def _encodable(text: str, stream: IO[str]) -> str:
    """Return a text with escapes for what the encoding of a stream does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def error_document(kind: str, message: str) -> dict[str, dict[str, str]]:
    """Return what --json prints in place of a result."""
    return {"error": {"kind": kind, "message": message}}


def flush_streams() -> None:
    """Flush both streams as far as they can be written."""
    for stream in (sys.stdout, sys.stderr):
        forgiving(stream).flush()


def forgiving(stream: IO[str] | None) -> IO[str]:
    """Return a stream whose writes never fail, in place of one that may be missing or closed."""
    return cast("IO[str]", _ForgivingStream(stream))


class _ForgivingStream:
    """A stream that may be missing, or refuse what is written to it."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                pass  # the text was a courtesy
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
