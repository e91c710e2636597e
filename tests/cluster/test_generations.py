"""What the next generation holds, as tables: which images, whom they are asked of, under which numbers."""

from pathlib import Path

import polars as pl
import pytest
from support.published_plans import MadePlan

from oid_async.cluster.part_outcomes import part_outcomes
from oid_async.cluster.part_shard import PartShard
from oid_async.cluster.published import Begun, Generation
from oid_async.cluster.record import RECORD_SCHEMA
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY

FLICKR, ELSEWHERE = "https://farm1.staticflickr.com/1/a.jpg", "https://example.org/a.jpg"
Row = tuple[int, str, str | None, str | None]


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty place."""
    return Objects(tmp_path / "place")


def asked(plan: MadePlan, generation: Generation | None) -> dict[str, list[Row]]:
    """Return of each part: number, sources, what waits and what is remembered of each image."""
    assert generation is not None
    return {
        part.name: [
            (int(image_id, 16), *fields)
            for image_id, *fields in plan.images(part).select("ImageID", "Sources", "Next", "Known").rows()
        ]
        for part in generation.parts
    }


def test_the_first_generation_asks_up_to_the_first_capped_host(objects: Objects) -> None:
    """What stands behind a host with a cap waits with it; an image that has to wait altogether is asked of nobody."""
    plan = MadePlan(objects, {1: FLICKR, 2: ELSEWHERE}, sources=("cvdf", "original", "thumbnail"))
    assert asked(plan, plan.generations[0]) == {
        "train-000000": [(1, "cvdf", "original,thumbnail", None), (2, "cvdf,original,thumbnail", None, None)]
    }


@pytest.mark.parametrize(
    ("rate", "sources"),
    [
        (None, [("", "original,cvdf"), ("original,cvdf", None)]),
        (0.0, [("original,cvdf", None), ("original,cvdf", None)]),
    ],
)
def test_a_rate_says_which_hosts_are_capped(
    objects: Objects, rate: float | None, sources: list[tuple[str, str | None]]
) -> None:
    """By default Flickr is, with a rate of 0 nobody."""
    plan = MadePlan(
        objects, {1: FLICKR, 2: ELSEWHERE}, sources=("original", "cvdf"), begun=Begun("query", rate, capped=False)
    )
    (part,) = plan.generations[0].parts
    assert plan.images(part).select("Sources", "Next").rows() == sources
    assert plan.images(part).get_column("Action").to_list()[0] == ("pending" if rate is None else "fetch")


def test_images_that_waited_come_next_and_alone(objects: Objects) -> None:
    """Who had no uncapped source left is asked of the capped one, in order, under the next numbers."""
    plan = MadePlan(objects, {1: FLICKR, 2: FLICKR, 3: FLICKR, 4: FLICKR, 5: ELSEWHERE})
    ends = {1: "cvdf:not_found|original", 2: "ok", 3: "cvdf:gone|original", 4: "cvdf:timeout", 5: "ok"}
    plan.commit(0, ends)
    second = plan.next().publish()
    assert second is not None
    assert (second.number, second.capped) == (1, True)
    rows = [(1, "original", None, "cvdf:not_found"), (3, "original", None, "cvdf:gone")]
    assert asked(plan, second) == {"train-000003": rows}
    assert plan.generations == [plan.generations[0], second]
    boxes = plan.images(second.parts[0]).explode("bbox").unnest("bbox", separator=".").get_column("bbox.ImageID")
    assert boxes.to_list() == [f"{number:016x}" for number, *_ in rows]


def test_failures_are_asked_again_by_the_next_run_alone(objects: Objects) -> None:
    """Passing ones, of the sources that have not failed for good; a run that did the work itself asks nobody again."""
    plan = MadePlan(objects, {1: ELSEWHERE, 2: ELSEWHERE, 3: FLICKR, 4: ELSEWHERE})
    ends = {1: "cvdf:timeout", 2: "cvdf:not_found; original:network", 3: "cvdf:timeout", 4: "cvdf:gone; original:gone"}
    plan.commit(0, ends)
    assert plan.next().publish() is None
    again = plan.next(retries=True).publish()
    assert again is not None
    assert not again.capped
    assert asked(plan, again) == {
        "train-000002": [(1, "cvdf,original", None, None), (2, "original", None, "cvdf:not_found")],
        "train-000003": [(3, "cvdf", "original", None)],
    }


def test_retry_failed_asks_everybody_of_everything(objects: Objects) -> None:
    """Final failures too, with nothing remembered; what was saved since is not asked for."""
    plan = MadePlan(objects, {1: ELSEWHERE, 2: ELSEWHERE, 3: ELSEWHERE})
    plan.commit(0, {1: "cvdf:gone; original:gone", 2: "cvdf:timeout", 3: "ok"})
    plan.next(retries=True).publish()
    plan.commit(1, {2: "ok"})
    again = plan.next(retries=True, retry_failed=True).publish()
    assert asked(plan, again) == {"train-000003": [(1, "cvdf,original", None, None)]}
    plan.commit(2, {1: "cvdf:gone; original:gone"})
    assert plan.next(retries=True).publish() is None, "nobody is left to ask"


def test_opt_outs_are_asked_again_once_they_are_not_respected(objects: Objects) -> None:
    """Those of search engines by a usual run, all by one that respects none; no other source before them."""
    plan = MadePlan(objects, {1: ELSEWHERE, 2: ELSEWHERE, 3: ELSEWHERE})
    ends = {1: "cvdf:opted_out (noai)", 2: "cvdf:not_found; original:opted_out (noindex)", 3: "ok"}
    plan.commit(0, ends)
    assert plan.next(retries=True, respect_opt_out="noindex").publish() is None
    again = plan.next(retries=True).publish()
    assert asked(plan, again) == {"train-000002": [(2, "original", None, "cvdf:not_found")]}
    plan.commit(1, {2: "ok"})
    assert plan.next(retries=True).publish() is None
    last = plan.next(retries=True, respect_opt_out=False).publish()
    assert asked(plan, last) == {"train-000003": [(1, "cvdf,original", None, None)]}


def test_an_opt_out_leaves_no_source_to_wait_for() -> None:
    """An image that it ends has failed, also where a host with a cap would have been asked next."""
    images = pl.DataFrame(
        {
            KEY: [1, 2],
            "FileName": [None, None],
            "Action": ["fetch"] * 2,
            "Status": ["failed"] * 2,
            "Reason": ["opted_out", "not_found"],
            "Detail": ["cvdf:opted_out (noai)", "cvdf:not_found"],
            "Next": ["original"] * 2,
        }
    )
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in RECORD_SCHEMA.items() if name not in images.columns]
    images = images.with_columns(pl.col(KEY).cast(pl.UInt64), pl.col("FileName").cast(pl.String), *missing)
    found = part_outcomes(images, PartShard())
    assert found.select("Status", "Reason", "Next").rows() == [
        ("failed", "opted_out", None),
        ("pending", None, "original"),
    ]


def test_a_retry_of_capped_hosts_alone_is_capped(objects: Objects) -> None:
    """Where every image is left to a host with a cap one task does it, without a generation before that."""
    plan = MadePlan(objects, {1: FLICKR, 2: FLICKR})
    plan.commit(0, {1: "cvdf:gone|original", 2: "cvdf:gone|original"})
    plan.next().publish()
    plan.commit(1, {1: "cvdf:gone; original:timeout", 2: "cvdf:gone; original:rate_limited"})
    again = plan.next(retries=True).publish()
    assert again is not None
    assert again.capped
    assert [row[1:3] for row in asked(plan, again)["train-000002"]] == [("original", None)] * 2


def test_rows_of_several_generations_are_merged_in_order(objects: Objects) -> None:
    """A part is in order of ImageID, whichever generations its images failed in; splits stay apart."""
    images = {number: FLICKR if number % 3 else ELSEWHERE for number in range(1, 13)}
    plan = MadePlan(objects, images, split_of=lambda number: "train" if number < 10 else "test")
    plan.commit(0, {number: "cvdf:gone|original" if number % 3 else "cvdf:timeout" for number in images})
    plan.next().publish()
    plan.commit(1, dict.fromkeys(images, "cvdf:gone; original:timeout"))
    again = asked(plan, plan.next(retries=True, rate=0.0).publish())
    assert [name for name in again if name.startswith("test")] == ["test-000003", "test-000004"]
    numbers = [[row[0] for row in rows] for name, rows in again.items() if name.startswith("train")]
    assert numbers == [[1, 2], [3, 4], [5, 6], [7, 8], [9]]


def test_a_job_that_published_the_last_generation_retries_nothing(objects: Objects) -> None:
    """A late task of an array finds all done, which is no reason to ask again; another job is one."""
    plan = MadePlan(objects, {1: ELSEWHERE}, job="7")
    plan.commit(0, {1: "cvdf:timeout"})
    assert plan.next(retries=True, job="7").publish() is None
    assert plan.next(retries=True, job="8").publish() is not None


def test_a_generation_that_was_begun_is_gone_on_with_as_it_was(objects: Objects) -> None:
    """Whoever comes second makes the same parts, whatever its own options are."""
    plan = MadePlan(objects, {1: ELSEWHERE, 2: ELSEWHERE})
    plan.commit(0, {1: "cvdf:timeout", 2: "cvdf:gone; original:gone"})
    first = plan.next(retries=True, retry_failed=True, rate=5.0)
    second = plan.next()
    calls = iter([False, False, False, True])
    assert first.publish(lambda: next(calls)) is None
    assert len(plan.generations) == 1
    published = second.publish()
    assert published is not None
    assert published.capped
    assert asked(plan, published) == {
        "train-000001": [(1, "cvdf,original", None, None), (2, "cvdf,original", None, None)]
    }
    assert first.publish() == published
