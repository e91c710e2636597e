"""Histograms and series: right within their resolution, the same size whatever they count, and added up exactly."""

import random
import sys

import pytest

from oid_async.measures.histogram import Histogram
from oid_async.measures.host import Wait
from oid_async.measures.run import RunMeasures
from oid_async.measures.series import Series


@pytest.mark.parametrize("mean_s", [0.00003, 0.002, 0.05, 30.0])
def test_quantiles_are_right_within_three_percent(mean_s: float) -> None:
    """A quantile is the value of its rank, within the width of a bucket; the longest one is exact."""
    rnd, times = random.Random(1), Histogram()
    values = sorted(rnd.expovariate(1 / mean_s) for _ in range(20_000))
    for value in values:
        times.add(value)
    for share in (0.5, 0.9, 0.99):
        assert times.quantile_s(share) == pytest.approx(values[int(share * len(values)) - 1], rel=1 / 32, abs=1e-6)
    assert (times.count, times.longest_s, times.quantile_s(1.0)) == (20_000, values[-1], values[-1])


def test_a_histogram_is_as_large_with_a_million_values_as_with_one() -> None:
    """What is counted are buckets: no value is kept."""
    times = Histogram()
    before = [sys.getsizeof(getattr(times, name)) for name in Histogram.__slots__]
    for number in range(100_000):
        times.add(number**2 / 1e6)
    assert [sys.getsizeof(getattr(times, name)) for name in Histogram.__slots__] == before
    assert max(before) < 10_000


def test_what_no_clock_should_give_is_counted_all_the_same() -> None:
    """A negative duration counts as none, one of years in the last bucket."""
    times = Histogram()
    for seconds in (-1.0, -1e-9, 0.0, 1e9):
        times.add(seconds)
    assert times.count == 4
    assert times.quantile_s(0.75) == pytest.approx(0.0, abs=1e-6)
    assert times.longest_s == 1e9


def test_two_histograms_added_up_are_one_of_all_values() -> None:
    """Also by way of the plain values that a worker process sends."""
    rnd = random.Random(2)
    one, other, both = Histogram(), Histogram(), Histogram()
    for number in range(1000):
        seconds = rnd.random()
        (one if number % 3 else other).add(seconds)
        both.add(seconds)
    one.add_all(Histogram.from_json(other.as_json()))
    assert one.as_json() == both.as_json()
    assert one.in_ms() == both.in_ms()


def test_a_series_that_is_full_doubles_its_interval() -> None:
    """Nothing is lost by it, and there are never more intervals than it has room for."""
    now = [0.0]
    series = Series(("images", "bytes"), lambda: now[0], most=4)
    for second in range(1000):
        now[0] = float(second)
        series.add(1, 100)
        columns = series.as_json()
        assert len(columns["images"]) <= 4
        assert (sum(columns["images"]), sum(columns["bytes"])) == (second + 1, 100 * (second + 1))
    assert columns["interval_s"] == 256.0
    assert columns["images"] == [256, 256, 256, 232]


def test_waits_at_the_same_time_count_once() -> None:
    """The seconds are those of the run in which anything waited; of a wait that goes on only what has passed."""
    wait = Wait()
    for began, until in ((0.0, 2.0), (1.0, 2.0), (1.0, 3.0), (10.0, 20.0)):
        wait.add(began, until)
    assert wait.as_json(30.0) == {"count": 4, "seconds": 13.0}
    assert wait.as_json(12.0) == {"count": 4, "seconds": 5.0}


def test_hosts_beyond_a_number_are_summed_as_others() -> None:
    """A table may name a new host in every row: what is kept of them is bounded."""
    run = RunMeasures(lambda: 0.0, most_hosts=2)
    for number in range(5):
        host = run.of_host(f"{number}.org:443")
        host.requested(of_image=True)
        host.received(100, 0.0, 0.1, 0.2)
    hosts = run.hosts()
    assert list(hosts) == ["0.org:443", "1.org:443", "others"]
    assert [host["requests"] for host in hosts.values()] == [1, 1, 3]


def test_what_a_worker_sends_is_added_and_not_sent_twice() -> None:
    """Packed are the counts and times since the last packing; the host goes on with the same object."""
    run, worker = RunMeasures(lambda: 0.0), RunMeasures(lambda: 0.0)
    for _ in range(2):
        host = worker.of_host("x.org:443")
        host.requested(of_image=True)
        host.received(100, 0.0, 0.05, 0.06)
        host.failed("timeout")
        host.retried("timeout")
        run.add_packed(worker.pack())
    assert worker.pack() == {}
    found = run.hosts()["x.org:443"]
    assert (found["requests"], found["images"], found["bytes"]) == (2, 2, 200)
    assert (found["failures"], found["retries"]) == ({"timeout": 2}, {"timeout": 2})
    assert (found["first_byte_ms"]["count"], found["first_byte_ms"]["p50"]) == (2, pytest.approx(50, rel=1 / 32))
