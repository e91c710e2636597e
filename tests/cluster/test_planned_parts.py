"""What `plan` says of a download past one machine: how many parts, how long a rate cap makes it."""

import json
from pathlib import Path

import pytest
from support.published import Box, Dataset, Image, typed
from support.published_plans import MadePlan

from oid_async.cluster.array_task import ArrayTask
from oid_async.cluster.published import Begun
from oid_async.events import ignore
from oid_async.http.retry import Limits
from oid_async.jobs.distributing.run import DistributedRun
from oid_async.objects.store import Objects
from oid_async.options.query import Options
from oid_async.report import Report

pytestmark = pytest.mark.cluster
IMAGES = [Image(f"{number:016x}") for number in range(1, 22)]
PARTS = ("--format", "webdataset", "--no-files", "--part-size", "3M", "--cluster", "local:2")


@pytest.mark.parametrize(
    ("options", "seconds", "capped"),
    [
        ((), None, False),
        (("--source", "original"), 2.1, True),
        (("--source", "cvdf,original"), None, False),
        (("--source", "original", "--rate", "0"), None, False),
        (("--rate", "3", "--period", "2"), 14.0, True),
    ],
)
def test_a_plan_counts_parts_and_the_seconds_of_a_cap(
    tmp_path: Path, options: tuple[str, ...], seconds: float | None, capped: bool
) -> None:
    """By bytes, and by the hosts that are asked first: ten a second of Flickr, or as --rate says of any."""
    boxes = [Box(image.image_id, "/m/1") for image in IMAGES]
    mirror = Dataset([("/m/1", "Cat")], IMAGES, boxes).publish(tmp_path / "mirror")
    place = tmp_path / "place"
    words = ("plan", "--mirror", mirror, "--savepath", place, *PARTS, *options)
    plan = json.loads(typed(*words, "--json").stdout)
    assert plan["seconds"] == seconds
    assert plan["parts"] == {"count": 3, "place": str(place), "capped": capped}
    alone = ", one after the other by one alone, as a rate cap holds" if capped else ""
    said = typed(*words).stdout
    assert "21 images selected: 21 to fetch (6.6 MB at 315.0 kB each" in said
    assert f" in about 3 parts to {place}{alone}\n" in said
    assert not place.exists()


@pytest.mark.parametrize(
    ("published", "asked", "alone"),
    [(None, None, False), (None, 5.0, True), (5.0, None, True), (0.0, 0.0, False), (0.0, None, True)],
)
async def test_one_task_alone_asks_whoever_has_a_cap_now(
    tmp_path: Path, published: float | None, asked: float | None, alone: bool
) -> None:
    """Whatever --rate a plan was published with, that of this run holds over the whole cluster."""
    place = Objects(tmp_path / "place")
    begun = Begun("query", published, capped=bool(published))
    plan = MadePlan(place, {1: "https://farm1.staticflickr.com/1/a.jpg"}, begun=begun)
    options = Options(savepath=tmp_path / "place", format="webdataset", no_files=True, cluster="array", rate=asked)
    run = DistributedRun(options, ignore, Report(), limits=Limits(), serve=None, site=None, task=ArrayTask())
    assert (await run._as_asked(plan.generations[0])).capped == alone
