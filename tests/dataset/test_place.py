"""`oid_async.open` of a place that a download past one machine has filled: the same frames and bytes as of files."""

import asyncio
import shutil
from pathlib import Path

import polars as pl
import pytest
from support.places import look_alike_files, make_place
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.dataset.place_files import BucketFiles
from oid_async.errors import InputError
from oid_async.jobs.opening import open_place
from oid_async.objects.store import Objects

# Plain tests read a few images; those of the demo, of every split and kind, are read where there is time.
whole = pytest.mark.cluster
SOME = ("train", "test", "train")
FRAMES = ("boxes", "masks", "relationships", "narratives", "labels", "points")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the demo, of every split, with all kinds of annotations, as files."""
    return asyncio.run(look_alike_files(tmp_path_factory.mktemp("place")))


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


@whole
@pytest.mark.parametrize("format", ["tars", "parquet"])
def test_a_folder_place_reads_as_one_of_files(format: str, files: Path, request: pytest.FixtureRequest) -> None:
    """Frames, bytes, classes, query and counts are those of the files."""
    place = request.getfixturevalue(format)
    with oid_async.open(place) as saved:
        same(saved, oid_async.open(files))
        assert saved.savepath == place
        shards = saved.images.filter(Status="ok").select(pl.col("Shard").n_unique()).collect().item()
        assert shards >= 3


@whole
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


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images in two shards, of a folder of files next to it."""
    root = tmp_path_factory.mktemp("few")
    saved = [
        SavedImage(f"{number:08x}00000000", subset=split) for number, split in enumerate(("train", "test", "train"), 1)
    ]
    source = SavedFolder(saved, boxes=[SavedBox(each.image_id) for each in saved]).write(root / "files")
    return asyncio.run(make_place(source, root / "place"))


def test_a_place_reads_as_the_files_it_was_made_of(few: Path) -> None:
    """Frames and bytes are those of the files, of a folder and of what is fetched; nothing is left behind."""
    files, fetched = oid_async.open(few.with_name("files")), BucketFiles(Objects(few))
    with oid_async.open(few) as one, open_place(fetched, "read") as other:
        for saved in (one, other):
            assert saved.images.collect().drop("Shard", "ShardOffset").equals(files.images.collect())
            assert saved.boxes.collect().equals(files.boxes.collect())
            for number in (3, 1, 2):
                assert saved.image(f"{number:08x}00000000") == files.image(f"{number:08x}00000000")
        assert fetched.folder.path.exists()
    assert not fetched.folder.path.exists()


def test_a_place_that_is_not_finished_says_what_to_do(few: Path, tmp_path: Path) -> None:
    """A plan without a manifest is a run to be gone on with; a folder without either is none of ours; both one line."""
    place = tmp_path / "d"
    shutil.copytree(few, place)
    (place / "manifest.parquet").unlink()
    with pytest.raises(InputError, match="has not come to its end"):
        oid_async.open(place)
    with pytest.raises(InputError, match="has not come to its end"):
        open_place(BucketFiles(Objects(place)), "read")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no download has filled it"):
        open_place(BucketFiles(Objects(tmp_path / "empty")), "read")


def test_what_a_manifest_names_stays_within_the_shards(few: Path, tmp_path: Path) -> None:
    """A Shard elsewhere, a wrong offset, a shard that was cut or is gone: one line each, never another file's bytes."""
    place = tmp_path / "d"
    shutil.copytree(few, place)
    manifest = pl.read_parquet(place / "manifest.parquet")
    (one, shard, offset) = manifest.filter(Status="ok").select("ImageID", "Shard", "ShardOffset").row(0)
    is_one = pl.col("ImageID") == one

    def said(changes: dict[str, pl.Expr]) -> str:
        columns = {name: pl.when(is_one).then(value).otherwise(name) for name, value in changes.items()}
        manifest.with_columns(**columns).write_parquet(place / "manifest.parquet")
        with pytest.raises(InputError) as caught:
            oid_async.open(place).image(one)
        return str(caught.value)

    for name in ("../manifest.parquet", "/etc/passwd", "shards/../query.json", "manifest.parquet"):
        assert "names no shard" in said({"Shard": pl.lit(name)})
    assert "no image begins at byte" in said({"ShardOffset": pl.lit(offset + 512)})
    with (place / shard).open("r+b") as file:
        file.truncate(offset + 10)
    assert "it was cut" in said({"ShardOffset": pl.lit(offset)})
    (place / shard).unlink()
    assert "it is not there" in said({"ShardOffset": pl.lit(offset)})


@whole
@pytest.mark.parametrize("format", ["tars", "parquet"])
def test_stats_and_repeat_read_a_place(
    format: str, files: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Counts are those of the files, and the images come out of the shards again."""
    place = request.getfixturevalue(format)
    one, other = (asyncio.run(oid_async.stats(each)).as_json() | {"savepath": ""} for each in (place, files))
    assert one == other
    report = asyncio.run(oid_async.repeat(place, savepath=tmp_path / "again", offline=True))
    assert report.present == report.selected == 40
    for path in (files / "images").iterdir():
        assert (tmp_path / "again" / "images" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="its images are in shards/"):
        asyncio.run(oid_async.prune(place))
