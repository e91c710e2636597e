"""Memory of bodies that are stored, used again for bodies that come.

The system gives fresh memory a page at a time, when it is first touched: some thirty page faults for an image of 300
KB, a sixth of the system's share of it (measured). Memory that has just been written to the disk is still in the
processor's cache, too.
"""

import threading

# As many as are stored at once in a thread's batch, or in the loop; more would only be held.
_MOST = 16
# A body beyond this, the original of a large photo, is seldom followed by another one.
_MOST_BYTES = 1 << 20
# Room for a next one that is somewhat larger.
_ROUNDED_BYTES = 64 << 10
_ZEROS = bytes(_MOST_BYTES)
_HEADER_BYTES = bytearray().__sizeof__()


class SpareBodies:
    """Gives memory to the connections of one loop; any thread may give it back, once nothing else refers to it."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """Return a bytearray of this size; its content is undefined."""
        if (spare := self._take_spare(size)) is not None:
            return _resized(spare, size)
        if size > _MOST_BYTES - _ROUNDED_BYTES:
            return bytearray(size)
        body = bytearray(max(size, min(2 * size, -(-size // _ROUNDED_BYTES) * _ROUNDED_BYTES)))
        del body[size:]
        return body

    def give(self, body: bytes | bytearray) -> None:
        """Take back the memory of a body, unless enough is spare; None but bytearrays can be used again."""
        if isinstance(body, bytearray) and len(body) <= _MOST_BYTES:
            with self._lock:
                if len(self._spare) >= _MOST:
                    del self._spare[0]
                self._spare.append(body)

    def _take_spare(self, size: int) -> bytearray | None:
        with self._lock:
            # The one given last first. A bytearray keeps its memory while it is at least half full, else it is moved.
            for number in range(len(self._spare) - 1, -1, -1):
                room = self._spare[number].__sizeof__() - _HEADER_BYTES
                if size < room <= 2 * size:
                    return self._spare.pop(number)
        return None


def _resized(body: bytearray, size: int) -> bytearray:
    have = len(body)
    if size <= have:
        del body[size:]
    else:
        body += memoryview(_ZEROS)[: size - have]
    return body
