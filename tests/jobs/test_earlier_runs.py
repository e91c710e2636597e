"""How fast earlier runs were: noted at the end of a download, told by a plan, and nothing else of them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.published import publish_lookalike

import oid_async
from oid_async.jobs.planning import earlier_runs
from oid_async.jobs.planning.earlier_runs import EarlierRun, earlier_run, note_run
from oid_async.options.query import Options
from oid_async.report import Report
from oid_async.screen.plan_text import announce

REPORT = Report(downloaded=1000, bytes=31_000_000, sources={"cvdf": 1000})
NOTE = "earlier_runs.json"


def noted(cache: Path, group: str = "bucket", seconds: float = 10.0, report: Report = REPORT, **query: Any) -> Path:
    note_run(cache, group, "cvdf", Options(**query), report, seconds)
    return cache / NOTE


def told(cache: Path, group: str = "bucket", **query: Any) -> EarlierRun | None:
    return earlier_run(cache, group, Options(**query))


def test_a_plan_tells_the_time_of_the_users_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download notes its speed, and the plans of the same mirror tell how long it takes; those of others do not."""
    monkeypatch.setattr(earlier_runs, "_LEAST_S", 0.0)
    mirror = publish_lookalike(tmp_path / "mirror")
    query: dict[str, Any] = {"mirror": mirror, "cache_dir": tmp_path / "cache"}
    first = asyncio.run(oid_async.plan(**query, savepath=tmp_path / "d"))
    assert (first.seconds_estimated, first.earlier_run) == (None, {})
    report = asyncio.run(oid_async.download(**query, savepath=tmp_path / "d"))
    assert report.downloaded >= 100
    plan = asyncio.run(oid_async.plan(**query, savepath=tmp_path / "other"))
    run = plan.earlier_run
    assert run["images"] == report.downloaded
    assert plan.seconds_estimated == pytest.approx(plan.to_download / run["images_per_s"], abs=0.1)
    assert announce(plan).endswith(f"/s) of your run of {run['day']})")
    slow = asyncio.run(oid_async.plan(**query, savepath=tmp_path / "other", limit_rate=1000))
    assert slow.seconds_estimated == plan.bytes / 1000
    there = asyncio.run(oid_async.plan(**query, savepath=tmp_path / "d"))
    assert there.seconds_estimated is None
    # No name, path or address is in it.
    text = (tmp_path / "cache" / NOTE).read_text()
    assert str(tmp_path) not in text
    (group,) = json.loads(text)["fetched_by_group"]
    assert group.startswith("mirror-")


def test_the_latest_run_that_tells_something_counts(tmp_path: Path) -> None:
    """Small, slowed and mixed runs are not noted, nor those whose images came from elsewhere."""
    noted(tmp_path)
    run = told(tmp_path)
    assert run is not None
    assert (run.bytes_per_s, run.images_per_s, run.images) == (3_100_000, 100, 1000)
    for report in (
        replace(REPORT, downloaded=99, sources={"cvdf": 99}),
        replace(REPORT, bytes=0),
        replace(REPORT, sources={"cvdf": 899, "original": 101}),
    ):
        noted(tmp_path, report=report)
    noted(tmp_path, seconds=0.5)
    noted(tmp_path, rate=5)
    noted(tmp_path, limit_rate=1000)
    assert told(tmp_path) == run
    noted(tmp_path, seconds=5.0)
    noted(tmp_path, "flickr", seconds=100.0)
    latest, flickr = told(tmp_path), told(tmp_path, "flickr")
    assert latest is not None
    assert flickr is not None
    assert (latest.bytes_per_s, flickr.bytes_per_s) == (6_200_000, 310_000)
    # That run kept to the cap of Flickr, which this one does not.
    assert told(tmp_path, "flickr", rate=50) is None
    assert told(tmp_path, "mirror-0") is None


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("foreign", [a_folder, a_link, b"{}", b'["mine"]'])
def test_what_is_not_ours_stays(foreign: Callable[[Path], None] | bytes, tmp_path: Path) -> None:
    """A folder, link or file of somebody's is neither believed nor replaced, and costs no run anything."""
    path = tmp_path / NOTE
    path.write_bytes(foreign) if isinstance(foreign, bytes) else foreign(path)
    before = path.lstat()
    assert told(tmp_path) is None
    noted(tmp_path)
    assert path.lstat() == before
    assert told(tmp_path) is None
    assert [each.name for each in tmp_path.iterdir()] == [NOTE]


@pytest.mark.parametrize(
    "text",
    ["", "\0\0\0", '{"fetched_by_group": {"bucket"', '{"fetched_by_group": []}']
    + [
        json.dumps({"fetched_by_group": {"bucket": run}})
        for run in (
            7,
            {"bytes_per_s": 0, "images_per_s": 1, "images": 100, "day": "2026-11-20"},
            {"bytes_per_s": "1e999", "images_per_s": 1, "images": 100, "day": "2026-11-20"},
            {"bytes_per_s": 1, "images_per_s": 1, "images": 100, "day": "\x1b[31m"},
            {"bytes_per_s": 1, "images_per_s": 1, "images": 100},
        )
    ],
)
def test_a_damaged_note_is_no_note_and_is_replaced(text: str, tmp_path: Path) -> None:
    """Torn, emptied, or with nonsense in it: nothing is told, and the next run notes its own."""
    (tmp_path / NOTE).write_text(text)
    assert told(tmp_path) is None
    noted(tmp_path)
    assert told(tmp_path) is not None
