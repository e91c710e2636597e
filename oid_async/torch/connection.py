"""The trainer's side of a downloader's socket: questions, and the frames of their answers. Needs no torch."""

import json
import socket
from collections.abc import Mapping
from typing import Any, Self

from oid_async.errors import InputError, LockedError, OidError, StorageError, UnavailableError, UsageError
from oid_async.torch.messages import PREFIX, Head, question

_GONE = (
    "the downloader of this Stream has ended (was it killed, or out of memory?): make a new Stream and load its state"
)


def _own_line(message: str) -> str:
    """Return the one line of an error that torch has wrapped into a worker's traceback.

    >>> _own_line("Caught UsageError in DataLoader worker process 0.\\nOriginal Traceback ...\\na.b.UsageError: No!\\n")
    'No!'
    """
    if not message.startswith("Caught "):
        return message
    last = message.rstrip().rsplit("\n", 1)[-1]
    return last.partition(": ")[2] or last


class _OneLineError(OidError):
    """An error that torch may raise again in the trainer: from its message alone, which it has made of many lines."""

    def __init__(self, message: str) -> None:
        super().__init__(_own_line(message))


class StreamUsageError(_OneLineError, UsageError):
    """A UsageError of a Stream, in any of its processes."""


class StreamInputError(_OneLineError, InputError):
    """An InputError of a Stream, in any of its processes."""


class StreamUnavailableError(_OneLineError, UnavailableError):
    """An UnavailableError of a Stream, in any of its processes."""


class StreamStorageError(_OneLineError, StorageError):
    """A StorageError of a Stream, in any of its processes."""


class StreamLockedError(_OneLineError, LockedError):
    """A LockedError of a Stream, in any of its processes."""


class StreamInternalError(_OneLineError):
    """A fault of the downloader, whose traceback is on stderr."""


_ERRORS: Mapping[str, type[OidError]] = {
    "usage": StreamUsageError,
    "input": StreamInputError,
    "unavailable": StreamUnavailableError,
    "storage": StreamStorageError,
    "locked": StreamLockedError,
}


class Connection:
    """One question to a downloader, and its answers; a context that closes it. Raises OidError."""

    def __init__(self, address: str, asked: Head) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(address)
            self._socket.sendall(question(asked))
        except OSError as error:
            self._socket.close()
            raise StreamUnavailableError(_GONE) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._socket.close()

    def close(self) -> None:
        """Close it. Safe to call twice."""
        self._socket.close()

    def receive(self) -> tuple[Head, bytearray]:
        """Wait for a frame and return its head and body. Raises the error that it holds."""
        head_bytes, body_bytes = PREFIX.unpack(self._read(PREFIX.size))
        head: dict[str, Any] = json.loads(self._read(head_bytes))
        if "error" in head:
            kind, message = head["error"]
            raise _ERRORS.get(kind, StreamInternalError)(message)
        return head, self._read(body_bytes)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            try:
                count = self._socket.recv_into(view[done:])
            except ConnectionError:
                count = 0
            if not count:
                raise StreamUnavailableError(_GONE)
            done += count
        return data


def ask(address: str, asked: Head) -> Head:
    """Ask one thing of a downloader and return the answer. Raises OidError."""
    with Connection(address, asked) as connection:
        return connection.receive()[0]
