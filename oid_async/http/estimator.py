"""How many transfers one host can use at once, estimated from the rate and the duration of transfers. Pure.

The number in flight that just keeps a host and the line to it busy is the rate at which images come times the time one
takes when nothing delays it; with fewer the line is idle in between, with more they wait for one another. Twice that
number shows whether a higher rate is possible: while it is, each round trip doubles it (as TCP's BBR does).
"""

from collections import deque
from dataclasses import field

from oid_async.quick_values import define

# Fewer help on no line, and on a short one more than needed do no harm: they keep every processor busy.
FLOOR = 64
MOST = 512
_GAIN = 2.0
# All bodies in flight together: four fifths of a second of a 1 Gbit line.
BYTES_UNDER_WAY = 96 << 20
_FEW = 8
_LEAST_S = 0.1
_ROUNDS = 10


@define
class ConcurrencyEstimator:
    """Estimates `limit`, how many transfers may be in flight to a host: `floor` at least, `most` at most.

    A round lasts as long as an image takes. The time of an undelayed image is the least mean of a few images in a row:
    one small image does not count, nor do images that waited for others.
    """

    floor: float = FLOOR
    most: float = MOST
    limit: float = 0.0
    _shortest_s: float = float("inf")
    _few: int = 0
    _few_s: float = 0.0
    _began: float | None = None
    _images: int = 0
    _bytes: int = 0
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=_ROUNDS))

    def __post_init__(self) -> None:
        self.floor = min(self.floor, self.most)
        self.limit = self.floor

    def delivered(self, size: int, seconds: float, now: float) -> bool:
        """Note an image of so many bytes that was received, and how long it took since its request.

        Return whether `limit` may be another one now.
        """
        if self._began is None:
            self._began = now - seconds
        self._images += 1
        self._bytes += size
        self._few += 1
        self._few_s += seconds
        if self._few < _FEW:
            return False
        mean_s = self._few_s / self._few
        self._few, self._few_s = 0, 0.0
        self._shortest_s = min(self._shortest_s, mean_s)
        passed_s = now - self._began
        if passed_s < max(_LEAST_S, mean_s):
            return False
        self._rates.append(self._images / passed_s)
        wanted = _GAIN * max(self._rates) * self._shortest_s
        by_bytes = BYTES_UNDER_WAY * self._images / max(1, self._bytes)
        self.limit = max(self.floor, min(wanted, by_bytes, self.most))
        self._began, self._images, self._bytes = now, 0, 0
        return True
