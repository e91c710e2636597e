"""How many transfers a host can use is found out from how fast they come."""

import heapq

import pytest

from oid_async.http.estimator import BYTES_UNDER_WAY, FLOOR, MOST, ConcurrencyEstimator


def settle(round_trip_s: float, most_a_s: float, *, size: int = 300_000, seconds: float = 20.0) -> list[float]:
    """Play a host this far away, behind something that lets so many images a second through; return all limits."""
    pace, now, free, limits = ConcurrencyEstimator(), 0.0, 0.0, []
    window = 8.0
    under_way: list[tuple[float, float]] = []
    while now < seconds:
        while len(under_way) < min(window, pace.limit):
            free = max(free, now + round_trip_s) + 1 / most_a_s
            heapq.heappush(under_way, (free, now))
        now, began = heapq.heappop(under_way)
        pace.delivered(size, now - began, now)
        window += 1.0
        limits.append(pace.limit)
    return limits


@pytest.mark.parametrize(
    ("round_trip_s", "most_a_s"), [(0.05, 2000.0), (0.2, 600.0), (0.2, 1200.0), (0.1, 1500.0), (0.3, 500.0)]
)
def test_a_line_far_away_is_filled_within_a_dozen_round_trips(round_trip_s: float, most_a_s: float) -> None:
    """The limit reaches what keeps the line busy, soon, and goes to no more than about twice that."""
    needed = most_a_s * round_trip_s
    limits = settle(round_trip_s, most_a_s, size=100_000)
    assert needed <= limits[-1] <= max(FLOOR, min(MOST, 2.5 * needed))
    soon = settle(round_trip_s, most_a_s, size=100_000, seconds=14 * round_trip_s)
    assert soon[-1] >= needed


@pytest.mark.parametrize("most_a_s", [3.0, 40.0, 1000.0, 5000.0])
def test_a_host_that_is_near_or_slow_gets_no_more_than_the_floor(most_a_s: float) -> None:
    """Where more transfers only wait for one another there are no more."""
    assert max(settle(0.001, most_a_s, seconds=5.0)) == FLOOR


def test_what_is_under_way_is_bounded_in_bytes() -> None:
    """Images of two megabytes each are not asked for five hundred at a time."""
    size = 2_000_000
    assert settle(0.3, 1000.0, size=size)[-1] <= max(FLOOR, BYTES_UNDER_WAY / size)


def test_a_few_descriptors_bound_it_too() -> None:
    """The most that was given holds, below the floor as well."""
    pace = ConcurrencyEstimator(most=20)
    for number in range(1000):
        pace.delivered(1000, 0.2, number / 1000)
    assert pace.limit == 20
