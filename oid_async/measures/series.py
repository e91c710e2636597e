"""Sums over time in memory of a fixed size: a run of a minute or of a week fills the same number of intervals."""

from collections.abc import Callable
from typing import Any

_MOST_INTERVALS = 600
_FIRST_S = 1.0


class Series:
    """What was added in each interval since the start; too many intervals are joined in pairs, of twice the length.

    `names` are those of the columns, `clock` is in seconds.
    """

    def __init__(self, names: tuple[str, ...], clock: Callable[[], float], *, most: int = _MOST_INTERVALS) -> None:
        self._clock = clock
        self._most = most
        self._began = clock()
        self.interval_s = _FIRST_S
        self._columns: dict[str, list[int]] = {name: [] for name in names}

    def add(self, *counts: int) -> None:
        """Add to the current interval; a number for each column."""
        while (place := int((self._clock() - self._began) / self.interval_s)) >= self._most:
            self.interval_s *= 2
            for name, values in self._columns.items():
                self._columns[name] = [sum(values[at : at + 2]) for at in range(0, len(values), 2)]
        for values, count in zip(self._columns.values(), counts, strict=True):
            values.extend([0] * (place + 1 - len(values)))
            values[place] += count

    def as_json(self) -> dict[str, Any]:
        """Return the length of an interval in seconds and the columns, up to the last interval to which was added."""
        return {"interval_s": self.interval_s, **{name: list(values) for name, values in self._columns.items()}}
