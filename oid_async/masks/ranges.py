"""The choice of an archive's byte ranges that hold the wanted members: few requests, few bytes. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Members that are close share a request; at most this share of it may be bytes between them, which are not needed.
_WASTE = 0.15
# A range is held in memory, and requested again when it breaks off.
_MOST_BYTES = 8 << 20
# A request costs about as much time as these bytes: 50 ms of a 10 Mbit/s line.
_REQUEST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges (start, stop) to request, in order. `bytes` is the sum of their sizes, `members` of the wanted members."""

    parts: tuple[tuple[int, int], ...]
    is_complete: bool
    bytes: int
    members: int


def choose_ranges(members: Sequence[tuple[int, int]], archive_bytes: int) -> Ranges:
    """Return the ranges to request for members at these offsets (start, stop), in order.

    All of the archive, in large parts, if that is cheaper: a request counts as much as 64 KiB.

    >>> choose_ranges([(0, 100), (110, 200), (9_000_000, 9_000_100)], 10**9).parts
    ((0, 200), (9000000, 9000100))
    """
    close = _joined(members, _WASTE)
    wanted = sum(stop - start for start, stop in members)
    size = sum(stop - start for start, stop in close)
    every = _joined(members, float("inf"))
    if close and size + len(close) * _REQUEST_BYTES >= archive_bytes + len(every) * _REQUEST_BYTES:
        return Ranges(tuple(every), True, sum(stop - start for start, stop in every), wanted)
    return Ranges(tuple(close), False, size, wanted)


def _joined(members: Iterable[tuple[int, int]], waste: float) -> list[tuple[int, int]]:
    """Join neighbours as long as the bytes between them are a small share of the wanted bytes."""
    parts: list[tuple[int, int]] = []
    start = stop = wanted = between = 0
    for first, last in members:
        gap = first - stop
        more = last - first
        fits = last - start <= _MOST_BYTES and between + gap <= waste * (wanted + more)
        if wanted and fits and gap >= 0:
            stop, wanted, between = last, wanted + more, between + gap
            continue
        if wanted:
            parts.append((start, stop))
        start, stop, wanted, between = first, last, more, 0
    if wanted:
        parts.append((start, stop))
    return parts
