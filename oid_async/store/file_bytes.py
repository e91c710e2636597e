"""A file with the methods of `bytes`, read in blocks: a large body is checked without being held in memory."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Self, overload

from oid_async.store.disk import OPENER, open_plain

_BLOCK_BYTES = 1 << 18


class FileBytes:
    """The content of a file, with the methods of `bytes`, read in blocks. A context that closes it. Raises OSError.

    A link is only followed with `follows_links`: exports hold links where a disk knows no hard ones.
    """

    def __init__(self, path: str | Path, *, follows_links: bool = False) -> None:
        self._file = OPENER(path, os.O_RDONLY) if follows_links else open_plain(path)
        try:
            self._size = os.fstat(self._file).st_size
        except OSError:
            os.close(self._file)
            raise
        self._start = 0
        self._block = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...

    @overload
    def __getitem__(self, key: slice) -> bytes: ...

    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._size)
            return b"".join(self._blocks(start, stop))[::step]
        if not 0 <= key < self._size:
            raise IndexError(key)
        if not self._start <= key < self._start + len(self._block):
            self._start, self._block = key, self._read(key, min(key + _BLOCK_BYTES, self._size))
        return self._block[key - self._start]

    def endswith(self, tail: bytes) -> bool:
        """Return whether these are the last bytes."""
        return self[max(0, self._size - len(tail)) :] == tail

    def count(self, wanted: bytes) -> int:
        """Return how often it occurs, occurrences that overlap counted once, from the start."""
        found, rest = 0, b""
        for block in self._blocks(0, self._size):
            data = rest + block
            here = data.count(wanted)
            found += here
            # The last bytes may start one more, except for those that end one which was counted here.
            keep = len(wanted) - 1
            while keep and data[: len(data) - keep].count(wanted) < here:
                keep -= 1
            rest = data[len(data) - keep :] if keep else b""
        return found

    def find(self, wanted: bytes, start: int = 0) -> int:
        """Return where one byte occurs first, at `start` or behind it; -1 if it does not."""
        low = start
        for block in self._blocks(start, self._size):
            at = block.find(wanted)
            if at >= 0:
                return low + at
            low += len(block)
        return -1

    def rfind(self, wanted: bytes, start: int = 0) -> int:
        """Return where it occurs last, at `start` or behind it; -1 if it does not."""
        stop, block = self._size, max(_BLOCK_BYTES, len(wanted))
        while stop - start >= len(wanted):
            low = max(start, stop - block)
            at = self._read(low, stop).rfind(wanted)
            if at >= 0:
                return low + at
            if low == start:
                break
            stop = low + len(wanted) - 1
        return -1

    def md5_base64(self) -> str:
        """Return the MD5 as Open Images writes it."""
        digest = hashlib.md5(usedforsecurity=False)
        for block in self._blocks(0, self._size):
            digest.update(block)
        return b64encode(digest.digest()).decode()

    def _blocks(self, start: int, stop: int) -> Iterator[bytes]:
        for low in range(start, stop, _BLOCK_BYTES):
            yield self._read(low, min(low + _BLOCK_BYTES, stop))

    def _read(self, start: int, stop: int) -> bytes:
        """Read all of a span; less only where the file was cut after it was opened."""
        data = os.pread(self._file, stop - start, start)
        while len(data) < stop - start and (more := os.pread(self._file, stop - start - len(data), start + len(data))):
            data += more
        return data
