"""A file with the methods of `bytes`, read in blocks: a large body is checked without being held in memory."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Self, overload

from oid_async.store.disk import OPENER, open_plain
from oid_async.system.positions import pread

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
            if 0 < stop - start <= _BLOCK_BYTES:
                return self._read(start, stop)[::step]
            return b"".join(self._blocks(start, stop))[::step]
        if not 0 <= key < self._size:
            raise IndexError(key)
        block, low = self.block_of(key, key + 1)
        return block[key - low]

    def block_of(self, start: int, stop: int) -> tuple[bytes, int]:
        """Return some bytes with this span of the file among them, and where they begin. The last ones are kept."""
        if not self._start <= start <= stop <= self._start + len(self._block):
            high = min(max(stop, start + _BLOCK_BYTES), self._size)
            self._start, self._block = start, self._read(start, high)
        return self._block, self._start

    def endswith(self, tail: bytes) -> bool:
        """Return whether these are the last bytes."""
        return self[max(0, self._size - len(tail)) :] == tail

    def count(self, wanted: bytes, start: int = 0, stop: int | None = None) -> int:
        """Return how often it occurs in a span, occurrences that overlap counted once, from the start."""
        found, rest = 0, b""
        for block in self._blocks(start, self._size if stop is None else min(stop, self._size)):
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
        while start < self._size:
            block, low = self.block_of(start, start + 1)
            at = block.find(wanted, start - low)
            if at >= 0:
                return low + at
            start = low + len(block)
        return -1

    def rfind(self, wanted: bytes, start: int = 0, stop: int | None = None) -> int:
        """Return where it occurs last in a span; -1 if it does not."""
        stop = self._size if stop is None else min(stop, self._size)
        size = max(_BLOCK_BYTES, len(wanted))
        while stop - start >= len(wanted):
            # First in what is kept: who looks for one after the other looks through the same bytes.
            is_kept = self._start + len(wanted) <= stop <= self._start + len(self._block)
            low = max(start, self._start if is_kept else stop - size)
            block, block_at = self.block_of(low, stop)
            at = block.rfind(wanted, low - block_at, stop - block_at)
            if at >= 0:
                return block_at + at
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
        """Return all of a span. A file that was cut after it was opened reads as zeros from there on."""
        if self._start <= start <= stop <= self._start + len(self._block):
            return self._block[start - self._start : stop - self._start]
        data = pread(self._file, stop - start, start)
        while len(data) < stop - start and (more := pread(self._file, stop - start - len(data), start + len(data))):
            data += more
        return data.ljust(stop - start, b"\0")
