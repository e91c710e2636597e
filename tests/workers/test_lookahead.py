"""How many images a worker is given ahead goes with its speed."""

import pytest

from oid_async.workers.pool import Lookahead


@pytest.mark.parametrize(
    ("transfers", "rate", "images"), [(32, 100, 32), (32, 5000, 400), (32, 50_000, 512), (192, 1000, 192), (1, 10, 1)]
)
def test_a_quick_worker_is_given_more(transfers: int, rate: int, images: int) -> None:
    """Eight hundredths of a second, at least as many as it transfers, at most 512."""
    ahead = Lookahead(transfers)
    assert ahead.images == min(transfers, 192)
    for quarter in range(400, 404):
        ahead.note_finished(rate // 4, quarter / 4)
    assert ahead.images == pytest.approx(images, abs=1)


def test_a_worker_that_slows_down_is_given_less_again() -> None:
    """The last quarter of a second counts, not the whole run."""
    ahead = Lookahead(32)
    for quarter in range(400, 410):
        ahead.note_finished(2000, quarter / 4)
    assert ahead.images == 512
    ahead.note_finished(10, 103.0)
    assert ahead.images == 32
