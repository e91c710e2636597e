"""The plan as targets: what is to be fetched in order, what is delivered without a request, any target by its place."""

from pathlib import Path
from typing import Any

import polars as pl

from oid_async.openimages.ids import KEY
from oid_async.report import Outcome
from oid_async.store.image_check import Expected
from oid_async.transfer.image_transfer import Target
from oid_async.transfer.targets import Targets

IMAGES = Path("/data/images")
SCHEMA = {
    KEY: pl.UInt64,
    "ImageID": pl.String,
    "FileName": pl.String,
    "Action": pl.String,
    "Reason": pl.String,
    "Known": pl.String,
    "Subset": pl.String,
    "OriginalURL": pl.String,
    "OriginalSize": pl.String,
    "OriginalMD5": pl.String,
    "Thumbnail300KURL": pl.String,
    "CopyBytes": pl.Int64,
}


def row(key: int, action: str = "fetch", **fields: Any) -> dict[str, Any]:
    name = f"{key:016x}"
    return {KEY: key, "ImageID": name, "FileName": f"{name}.jpg", "Action": action, "Subset": "train"} | fields


def write_plan(folder: Path, *files: list[dict[str, Any]]) -> list[Path]:
    """Write a plan of these files and return their paths."""
    paths = [folder / f"{number}.parquet" for number in range(len(files))]
    for path, rows in zip(paths, files, strict=True):
        pl.DataFrame(rows, schema=SCHEMA).write_parquet(path)
    return paths


PLAN = [
    [row(1), row(2, "present"), row(3, Known="cvdf:not_found", OriginalURL="http://x/3.jpg", OriginalSize="12.0")],
    [],
    [
        row(4, "failed", Reason="gone", Known="cvdf:not_found; original:gone"),
        row(5, OriginalMD5="1B2M2Y8AsgTpgAmY7PhCfg==", Thumbnail300KURL="http://x/5t.jpg", CopyBytes=77),
    ],
]


async def test_only_what_is_to_be_fetched_becomes_a_target(tmp_path: Path) -> None:
    """Targets come file by file in the order of the rows, with all that their row holds."""
    targets = [target async for target in Targets(write_plan(tmp_path, *PLAN), IMAGES)]
    assert [target.image_id for target in targets] == [f"{key:016x}" for key in (1, 3, 5)]
    plain, known, full = targets
    assert plain == Target(0, plain.image_id, f"{plain.image_id}.jpg", "train", None, Expected(), None, None, None)
    assert (known.known, known.original_url, known.original) == ("cvdf:not_found", "http://x/3.jpg", Expected(12, None))
    assert full.original == Expected(None, "1B2M2Y8AsgTpgAmY7PhCfg==")
    assert (full.thumbnail_url, full.copy_bytes) == ("http://x/5t.jpg", 77)


async def test_any_targets_are_read_again_by_their_places(tmp_path: Path) -> None:
    """A place leads to the same target, in whatever order and from whichever files places are given."""
    targets = Targets(write_plan(tmp_path, *PLAN), IMAGES)
    found = [target async for target in targets]
    places = [target.place for target in found]
    assert len(set(places)) == 3
    assert all(place < 1 << 48 for place in places)
    assert await targets.read(places) == found
    assert await targets.read([places[2], places[0], places[2]]) == [found[2], found[0], found[2]]
    assert await targets.read([]) == []


async def test_what_needs_no_request_is_delivered(tmp_path: Path) -> None:
    """A consumer gets an Outcome of each image that is there or known to have failed, between the targets."""
    order: list[Any] = []

    async def deliver(outcome: Outcome) -> None:
        order.append(outcome)

    async for target in Targets(write_plan(tmp_path, *PLAN), IMAGES, deliver):
        order.append(int(target.image_id, 16))
    present = Outcome(f"{2:016x}", "present", f"/data/images/{2:016x}.jpg", None, None, subset="train")
    failed = Outcome(f"{4:016x}", "failed", None, "gone", "cvdf:not_found; original:gone", subset="train")
    assert order == [1, present, 3, failed, 5]


async def test_what_was_delivered_before_is_not_delivered_again(tmp_path: Path) -> None:
    """Keys of an earlier round bring no second Outcome; what is still to be fetched comes all the same."""
    order: list[int] = []

    async def deliver(outcome: Outcome) -> None:
        order.append(-int(outcome.image_id, 16))

    earlier = pl.Series([1, 2], dtype=pl.UInt64)
    async for target in Targets(write_plan(tmp_path, *PLAN), IMAGES, deliver, earlier):
        order.append(int(target.image_id, 16))
    assert order == [1, 3, -4, 5]


async def test_a_plan_may_say_which_sources_an_image_is_asked_of(tmp_path: Path) -> None:
    """With the column Sources alone each source's bytes are checked as ever; an image that waits is no target."""
    path = tmp_path / "train-000000.parquet"
    rows = [row(1, OriginalMD5="1B2M2Y8AsgTpgAmY7PhCfg==", CopyBytes=77), row(2, "pending")]
    plan = pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.Series("Sources", ["cvdf,thumbnail", ""]))
    plan.write_parquet(path)
    delivered: list[Outcome] = []

    async def deliver(outcome: Outcome) -> None:
        delivered.append(outcome)

    (target,) = [each async for each in Targets([path], IMAGES, deliver)]
    assert target.sources == ("cvdf", "thumbnail")
    assert target.expected("cvdf") == Expected(77, None)
    assert target.expected("thumbnail") == Expected()
    assert target.expected("original") == Expected(None, "1B2M2Y8AsgTpgAmY7PhCfg==")
    assert await Targets([path], IMAGES).read([0]) == [target]
    assert not delivered
