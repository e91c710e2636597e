"""Writing to stdout and stderr, which may be closed, full, or have no reader: the one place where lines leave.

A message on stderr that cannot be written is dropped; a result on stdout that cannot be written is an error. Names and
messages come from tables, servers and files: their control characters leave as escapes, into a pipe, too, since what
reads it may show it. Each argument of a function is one line, whatever it holds.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, TextIO, cast

from oid_async.errors import StorageError
from oid_async.redaction import printable, printable_lines


class OutputError(StorageError):
    """The work is done and its result cannot be written: stdout is closed, full or takes no such text."""


def print_message(*lines: str) -> None:
    """Write lines to stderr if they can be written. With stderr closed, print() would write them to stdout."""
    stream = forgiving(sys.stderr)
    stream.write("".join(f"{printable(line)}\n" for line in lines))
    stream.flush()


def print_result(*lines: str) -> None:
    """Write lines to stdout and flush it. Raises OutputError, or BrokenPipeError when its reader has gone."""
    _write_result("\n".join(map(printable, lines)))


def print_row(fields: Iterable[str]) -> None:
    """Write a line of fields to stdout, tabs between. Raises as `print_result`."""
    print_rows([fields])


def print_rows(rows: Iterable[Iterable[str]]) -> None:
    """Write lines of fields to stdout, tabs between. Raises as `print_result`."""
    _write_result("\n".join("\t".join(map(printable, fields)) for fields in rows))


def print_json(document: dict[str, Any]) -> None:
    """Write a value as JSON in one line to stdout; what a terminal obeys is escaped in it. Raises as `print_result`."""
    # json leaves none but DEL, which stands in no place but a text.
    _write_result(json.dumps(document).replace("\x7f", "\\u007f"))


def result_stream() -> BinaryIO:
    """Return stdout for the bytes of a result. Writing raises as `print_result`; this raises OutputError if closed."""
    if sys.stdout is None:
        raise OutputError("stdout is closed: the answer could not be written")
    return cast("BinaryIO", _ResultStream(sys.stdout.buffer))


def print_help(text: str) -> None:
    """Write a text of ours as it is, with its colours, to stdout. Raises as `print_result`."""
    _write_result(text)


def print_drawing(text: str) -> None:
    """Write a drawing as it is, with its colours, to stdout; what it shows was made printable. As `print_result`."""
    _write_result(text)


def terminal_width() -> int | None:
    """Return how many columns the terminal has that stdout is, None if it is none."""
    stream = forgiving(sys.stdout)
    return shutil.get_terminal_size().columns if stream.isatty() else None


def takes(signs: str) -> bool:
    """Return whether the encoding of stdout has these characters."""
    return sys.stdout is None or _encodable(signs, sys.stdout) == signs


def _write_result(text: str) -> None:
    if sys.stdout is None:
        raise OutputError("stdout is closed: the answer could not be written")
    with _output_errors():
        sys.stdout.write(f"{_encodable(text, sys.stdout)}\n")
        sys.stdout.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    """Raise what stdout refuses as OutputError, but for a reader that has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"stdout: the answer could not be written ({reason})") from error


class _ResultStream:
    """The bytes of stdout."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def writelines(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            with _output_errors():
                self._stream.write(block)
        with _output_errors():
            self._stream.flush()


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


def guard_stderr() -> None:
    """Let nobody write control characters to stderr: not a library's warning, a log line or a traceback of Python's."""
    if sys.stderr is not None:
        sys.stderr = cast("TextIO", _OthersStream(sys.stderr))


class _OthersStream:
    """A stream as others see it; `own` is the stream itself."""

    def __init__(self, own: IO[str]) -> None:
        self.own = own

    def write(self, text: str) -> int:
        self.own.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class _ForgivingStream:
    """A stream that may be missing, or refuse what is written to it."""

    def __init__(self, stream: "IO[str] | _OthersStream | None") -> None:
        self._stream = stream.own if isinstance(stream, _OthersStream) else stream
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
