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
    """Ranges (start, stop) to request, in order, and how many of the members, in order, each has.

    `bytes` is the sum of their sizes, `members` of the wanted members.
    """

    parts: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    is_complete: bool
    bytes: int
    members: int


def choose_ranges(members: Sequence[tuple[int, int]], archive_bytes: int) -> Ranges:
    """Return the ranges to request for members at these offsets (start, stop), in order.

    All of the archive, in large parts, if that is cheaper: a request counts as much as 64 KiB.

    >>> choose_ranges([(0, 100), (110, 200), (9_000_000, 9_000_100)], 10**9).parts
    ((0, 200), (9000000, 9000100))
    """
    close, every = _joined(members, _WASTE), _joined(members, float("inf"))
    close_bytes, all_bytes = (sum(stop - start for start, stop, _ in parts) for parts in (close, every))
    is_all = close_bytes + len(close) * _REQUEST_BYTES >= archive_bytes + len(every) * _REQUEST_BYTES
    parts, size = (every, all_bytes) if close and is_all else (close, close_bytes)
    spans = tuple((start, stop) for start, stop, _ in parts)
    wanted = sum(stop - start for start, stop in members)
    return Ranges(spans, tuple(count for _, _, count in parts), bool(close and is_all), size, wanted)


def _joined(members: Iterable[tuple[int, int]], waste: float) -> list[tuple[int, int, int]]:
    """Join neighbours as long as the bytes between them are a small share of the wanted bytes: start, stop, members.

    Members may overlap where an archive lies.
    """
    parts: list[tuple[int, int, int]] = []
    start = stop = wanted = between = count = 0
    for first, last in members:
        gap, end = max(0, first - stop), max(stop, last)
        more = end - max(first, stop)
        fits = end - start <= _MOST_BYTES and between + gap <= waste * (wanted + more)
        if count and (fits or last <= stop):
            stop, wanted, between, count = end, wanted + more, between + gap, count + 1
            continue
        if count:
            parts.append((start, stop, count))
        start, stop, wanted, between, count = first, last, last - first, 0, 1
    if count:
        parts.append((start, stop, count))
    return parts
