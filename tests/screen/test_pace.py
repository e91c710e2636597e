"""How fast something goes and how long it will take."""

import pytest

from oid_async.events import Checked, Hold, Holding, Landed, Planned, Stage, TableProgress
from oid_async.report import Plan, Report
from oid_async.screen.activity import Activity
from oid_async.screen.pace import Pace


def test_pace_is_that_of_the_last_minute() -> None:
    """A fast start is forgotten after a minute, and nothing is known of the first seconds."""
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(2.0, 2_000)
    assert pace.per_s() is None
    for second in range(3, 200):
        pace.add(float(second), 2_000 + 10 * second)
    assert pace.per_s() == pytest.approx(10.0)


def test_a_pause_is_forgotten_at_once() -> None:
    """While nothing comes the pace falls to nothing; when it goes on it is soon the old one, whatever lay between."""
    pace = Pace()
    for second in range(31):
        pace.add(float(second), 50 * second)
    for second in range(31, 150):
        pace.add(float(second), 1500)
        assert pace.is_stalled(second) is (second >= 34)
    assert pace.per_s() == 0.0
    for second in range(150, 156):
        pace.add(float(second), 1500 + 50 * (second - 149))
    assert pace.per_s() == pytest.approx(50.0)


def test_slow_is_no_pause() -> None:
    """One image in twenty seconds is a pace, not a pause after each image."""
    pace = Pace()
    for second in range(301):
        pace.add(float(second), second // 20)
        assert not pace.is_stalled(second) or second < 80
    assert pace.per_s() == pytest.approx(0.05, rel=0.1)


def planned(to_download: int, seconds: float | None = None) -> Planned:
    """Return the event of a plan of so many images."""
    plan = Plan.__new__(Plan)
    for name, value in {"selected": to_download, "present": 0, "to_download": to_download, "seconds": seconds}.items():
        object.__setattr__(plan, name, value)
    return Planned(plan)


def run_of(activity: Activity, report: Report, seconds: range, images_per_s: int) -> None:
    """Let so many images land each second, 10 kB each."""
    for second in seconds:
        report.downloaded += images_per_s
        report.bytes += images_per_s * 10_000
        report.pending -= images_per_s
        activity.note(Landed((), report))
        activity.sample(float(second))


def test_images_in_one_line() -> None:
    """Counts, bytes a second, failures, the time left by the last minute, and what holds the run up behind it."""
    activity, report = Activity(), Report(savepath="d", failed=2, pending=49_998)
    activity.note(planned(50_000))
    run_of(activity, report, range(1), 308)
    assert activity.lines(0.0) == ["310 of 50000 images, 2 failed"]
    run_of(activity, report, range(1, 4), 308)
    assert activity.lines(3.0) == ["1234 of 50000 images, 3.1 MB/s, 2 failed, about 3 min left"]
    activity.note(Holding((Hold("retries", count=3), Hold("paused", "h", 7), Hold("hanging", "h:80", 1))))
    assert activity.lines(3.0)[0].endswith("left; waiting for h; 1 transfer hangs at h:80; 3 retries wait")
    activity.note(Holding())
    assert activity.lines(3.0)[0].endswith("left")


def test_time_left_knows_of_caps() -> None:
    """A cap counts before there is a pace, and while other hosts are fast: what waits for it takes its time."""
    activity, report = Activity(), Report(savepath="d", pending=1000)
    activity.note(planned(1000, seconds=600.0))
    activity.sample(0.0)
    assert activity.lines(0.0) == ["0 of 1000 images, about 10 min left"]
    run_of(activity, report, range(10), 50)
    assert activity.tasks["images"].left_s() == pytest.approx(300.0)
    activity.note(Holding((Hold("capped", "staticflickr.com", 800, per_s=2.0, by_default=True),)))
    assert activity.lines(10.0) == [
        "500 of 1000 images, 555.6 kB/s, about 7 min left; capped at 2 requests/s for staticflickr.com by default"
    ]


def test_each_stage_has_a_line() -> None:
    """Tables in bytes, steps, files that are checked; where nothing is counted the stage, and since when."""
    activity = Activity()
    activity.note(Stage("reading the tables"))
    activity.sample(0.0)
    assert activity.lines(45.0) == ["reading the tables, 45 s so far"]
    for second in range(10):
        activity.note(TableProgress("b.csv", 800_000_000 + 40_000_000 * second, 2_300_000_000))
        activity.sample(float(second))
    assert activity.lines(9.0) == ["fetching b.csv: 1.2 of 2.3 GB, 40.0 MB/s, about 28 s left"]
    activity.note(TableProgress("b.csv", 2_300_000_000, 2_300_000_000, finished=True))
    activity.note(TableProgress("b.csv to Parquet", 0, None, unit="step"))
    assert activity.lines(9.0) == ["b.csv to Parquet"]
    activity.note(TableProgress("b.csv to Parquet", 3, 40, unit="step"))
    activity.note(Checked(5, 20))
    assert activity.lines(9.0) == ["b.csv to Parquet: 3 of 40", "5 of 20 files checked"]
    activity.note(Stage("writing the result tables"))
    assert activity.lines(9.0) == ["writing the result tables"]
