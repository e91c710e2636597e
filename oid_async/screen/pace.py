"""How fast something goes, by the last minute alone: the speed since the start says little after a pause. Pure."""

from collections import deque

WINDOW_S = 60.0
# Of less than this nothing can be said yet.
_LEAST_S = 3.0
# A pause is so many times as long as usually passes between two samples in which something came, and at least this.
_PAUSE_TIMES = 10
_PAUSE_S = 10.0
_STALL_TIMES = 4
_STALL_S = 4.0


class Pace:
    """The speed of a count that only grows, from samples of it; times in seconds, on any one clock.

    >>> pace = Pace()
    >>> for second in range(5):
    ...     pace.add(float(second), 20 * second)
    >>> pace.per_s()
    20.0
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._grew_at: float | None = None
        self._usual_gap_s: float | None = None

    def add(self, now: float, count: int) -> None:
        """Note how many there are now. Behind a pause the window begins anew: it says nothing of what follows."""
        samples = self._samples
        if samples and count != samples[-1][1]:
            self._note_growth(now)
        samples.append((now, count))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()

    def _note_growth(self, now: float) -> None:
        before, self._grew_at = self._grew_at, now
        if before is None:
            return
        gap_s, usual_s = now - before, self._usual_gap_s
        if usual_s is not None and gap_s >= max(_PAUSE_S, _PAUSE_TIMES * usual_s):
            last = self._samples[-1]
            self._samples.clear()
            self._samples.append(last)
        else:
            self._usual_gap_s = gap_s if usual_s is None else usual_s + (gap_s - usual_s) / 8

    def is_stalled(self, now: float) -> bool:
        """Return whether nothing has come for much longer than usual: then its pace says nothing of what is left."""
        if self._grew_at is None:
            return False
        return now - self._grew_at >= max(_STALL_S, _STALL_TIMES * (self._usual_gap_s or 0.0))

    def per_s(self) -> float | None:
        """Return how many came a second in the last minute; None while that is not known."""
        if not self._samples:
            return None
        (began, first), (now, last) = self._samples[0], self._samples[-1]
        return None if now - began < _LEAST_S else max(0, last - first) / (now - began)
