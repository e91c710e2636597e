"""A histogram of durations in memory of a fixed size, whatever the number of values.

Buckets are as wide as a 32nd of the power of two below their values, so that a quantile is right within 1/32 of itself
(3 %); below 64 microseconds they are one microsecond wide. As in HdrHistogram (http://hdrhistogram.org), the bucket of
a value follows from its highest bits: no logarithm, no search.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

_BITS = 5
_IN_OCTAVE = 1 << _BITS
_MOST_US = (1 << 36) - 1  # 19 hours: longer than anything that has a limit
_BUCKETS = (36 - _BITS + 1) << _BITS


class Histogram:
    """Counts durations in seconds. `longest_s` is the longest one, to the microsecond."""

    __slots__ = ("_counts", "longest_s")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS  # adding to an array of numbers takes a third longer
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration; one under zero, as a clock that was set may give it, counts as zero."""
        microseconds = int(seconds * 1e6)
        if seconds > self.longest_s:
            self.longest_s = seconds
        if _IN_OCTAVE <= microseconds <= _MOST_US:
            shift = microseconds.bit_length() - _BITS - 1
            self._counts[(shift << _BITS) + (microseconds >> shift)] += 1
        else:
            self._counts[min(max(microseconds, 0), _BUCKETS - 1)] += 1

    @property
    def count(self) -> int:
        """Return how many durations were counted."""
        return sum(self._counts)

    def quantile_s(self, share: float) -> float:
        """Return the duration that this share of all does not exceed, within the width of its bucket; 0 for none.

        It is the middle of the bucket that holds the value of that rank, of the last bucket the longest duration.

        >>> times = Histogram()
        >>> for seconds in (0.05, 0.05, 0.2, 1.0): times.add(seconds)
        >>> round(times.quantile_s(0.5), 3), round(times.quantile_s(0.75), 2), times.quantile_s(1.0)
        (0.05, 0.2, 1.0)
        """
        return self._quantile_s(share, list(self._filled()))

    def _quantile_s(self, share: float, filled: Sequence[tuple[int, int]]) -> float:
        total, seen = sum(count for _, count in filled), 0
        for bucket, count in filled:
            seen += count
            if share * total <= seen < total:
                return _middle_s(bucket)
        return self.longest_s

    def in_ms(self) -> dict[str, float]:
        """Return p50, p90, p99 and max in milliseconds, and the count."""
        filled = list(self._filled())
        quantiles = {f"p{percent}": self._quantile_s(percent / 100, filled) for percent in (50, 90, 99)}
        values = {name: round(1000 * seconds, 3) for name, seconds in (quantiles | {"max": self.longest_s}).items()}
        return values | {"count": sum(count for _, count in filled)}

    def add_all(self, other: "Histogram") -> None:
        """Add what another one has counted."""
        for bucket, count in other._filled():
            self._counts[bucket] += count
        self.longest_s = max(self.longest_s, other.longest_s)

    def as_json(self) -> list[Any]:
        """Return it as plain values: the longest duration, then bucket and count of each bucket that is not empty."""
        return [self.longest_s, *(number for filled in self._filled() for number in filled)]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Return the histogram of these values."""
        histogram = cls()
        histogram.longest_s = values[0]
        for bucket, count in zip(values[1::2], values[2::2], strict=True):
            histogram._counts[bucket] = count
        return histogram

    def _filled(self) -> Iterator[tuple[int, int]]:
        return ((bucket, count) for bucket, count in enumerate(self._counts) if count)


def _middle_s(bucket: int) -> float:
    """Return the middle of the durations that a bucket counts."""
    shift = (bucket >> _BITS) - 1
    if shift <= 0:
        return (bucket + 0.5) / 1e6
    least = (bucket - (shift << _BITS)) << shift
    return (least + (1 << shift) / 2) / 1e6
