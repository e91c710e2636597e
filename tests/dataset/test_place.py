"""`oid_async.open` of a place that a download past one machine has filled: the same frames and bytes as of files."""

import asyncio
from pathlib import Path

import polars as pl
import pytest
from support.places import make_place

import oid_async
from oid_async.dataset.place_files import BucketFiles
from oid_async.events import ignore
from oid_async.jobs.demo import look_alike_run
from oid_async.jobs.opening import open_place
from oid_async.objects.store import Objects
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options

FRAMES = ("boxes", "masks", "relationships", "narratives", "labels", "points")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the demo, of every split, with all kinds of annotations, as files."""
    root = tmp_path_factory.mktemp("place")
    options = Options(savepath=root / "d", cache_dir=root / "cache", splits=SPLITS, kinds=("all",), limit=40)
    asyncio.run(look_alike_run(options, ignore).download())
    return root / "d"


@pytest.fixture(scope="module")
def tars(files: Path) -> Path:
    """The same as a place of tar shards."""
    return asyncio.run(make_place(files, files.with_name("tars")))


@pytest.fixture(scope="module")
def parquet(files: Path) -> Path:
    """The same as a place of Parquet shards."""
    return asyncio.run(make_place(files, files.with_name("parquet"), "parquet"))


def same(one: oid_async.SavedDataset, other: oid_async.SavedDataset) -> None:
    """Check that two datasets hold the same frames, images, counts."""
    mine = one.images.collect().drop("Shard", "ShardOffset")
    assert mine.equals(other.images.collect())
    for name in FRAMES:
        assert getattr(one, name).collect().equals(getattr(other, name).collect())
    ids = mine.filter(Status="ok").get_column("ImageID").to_list()
    assert len(ids) > 20
    for image_id in ids:
        assert one.image(image_id) == other.image(image_id)
    assert one.kinds == other.kinds
    counts = one.report.as_json(), other.report.as_json()
    for name in ("selected", "present", "failed", "bytes", "failures", "sources", "bad_rows"):
        assert counts[0][name] == counts[1][name]
    assert one.chosen_classes().equals(other.chosen_classes())
    assert one.query["query"] == other.query["query"]


@pytest.mark.parametrize("format", ["tars", "parquet"])
def test_a_folder_place_reads_as_one_of_files(format: str, files: Path, request: pytest.FixtureRequest) -> None:
    """Frames, bytes, classes, query and counts are those of the files."""
    place = request.getfixturevalue(format)
    with oid_async.open(place) as saved:
        same(saved, oid_async.open(files))
        assert saved.savepath == place
        shards = saved.images.filter(Status="ok").select(pl.col("Shard").n_unique()).collect().item()
        assert shards >= 3


@pytest.mark.parametrize("format", ["tars", "parquet"])
def test_of_a_bucket_no_more_is_fetched_than_is_asked_for(
    format: str, files: Path, request: pytest.FixtureRequest
) -> None:
    """Tables come when they are asked for, images by ranges; nothing is left behind."""
    fetched = BucketFiles(Objects(request.getfixturevalue(format)))
    with open_place(fetched, "read") as saved:
        folder = fetched.folder.path
        image_id = saved.images.filter(Status="ok").collect().item(0, "ImageID")
        assert len(saved.image(image_id)) > 0
        assert "label" in saved.kinds
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert {name for name in names if not name.startswith("shards/")} == {"manifest.parquet"}
        assert len(names) == (1 if format == "tars" else 2)
        same(saved, oid_async.open(files))
    assert not folder.exists()
