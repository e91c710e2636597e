"""Exports of a place: what they hold is what an export of the same images as files holds, in every format."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from support.places import look_alike_files, make_place
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

import oid_async
from oid_async.errors import InputError
from oid_async.options.export import FORMATS

SOME = ("train", "test", "train")


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


def content(out: Path) -> dict[str, str]:
    """Return the MD5 of each file of an export, but its marker and list, which name its source."""
    found = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".oid_async"))
    return {str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["tars", "parquet"])
@pytest.mark.cluster
def test_an_export_of_a_place_is_that_of_files(
    format: str, kind: str, files: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """File for file the same bytes, but masks that are copied: those of shards have one bit a pixel."""
    reports, place = [], request.getfixturevalue(kind)
    for source in (files, place):
        reports.append(asyncio.run(oid_async.export(savepath=source, format=format, out=tmp_path / source.name)))
    one, other = (report.as_json() | {"seconds": 0, "savepath": "", "out": ""} for report in reports)
    assert one == other
    assert one["images"] > 20
    mine, theirs = content(tmp_path / place.name), content(tmp_path / "d")
    assert mine.keys() == theirs.keys()
    differ = {name for name in mine if mine[name] != theirs[name]}
    assert all("mask" in name.lower() for name in differ), sorted(differ)[:9]
    assert one["annotations"].get("segmentation", 9) > 5
    assert not list(place.glob("export"))


def test_few_images_of_a_place_are_exported(tmp_path: Path) -> None:
    """Images and masks of two shards, counted as ever; a mask that no shard holds is left out by its name."""
    images = [
        SavedImage(f"{number:08x}00000000", subset=split) for number, split in enumerate(("train", "test", "train"), 1)
    ]
    boxes = [SavedBox(each.image_id) for each in images]
    masks = [(box, rectangle(64, 48, (16, 12, 48, 36))) for box in boxes]
    files = SavedFolder(images, boxes=boxes, masks=masks).write(tmp_path / "files")
    place = asyncio.run(make_place(files, tmp_path / "place"))
    for format in ("coco", "voc"):
        for source in (files, place):
            asyncio.run(oid_async.export(savepath=source, format=format, out=tmp_path / format / source.name))
        assert content(tmp_path / format / "place") == content(tmp_path / format / "files")
    table = place / "segmentation" / "segmentation.csv"
    table.write_text(table.read_text().replace("0000000100000000_", "../../../../x_", 1))
    with pytest.raises(InputError, match="where the download wrote"):
        asyncio.run(oid_async.export(savepath=place, format="coco", out=tmp_path / "less"))
    report = asyncio.run(oid_async.export(savepath=place, format="coco", out=tmp_path / "less", edited=True))
    assert (report.images, report.left_out) == (3, {"segmentation: no mask": 1})
    next((place / "shards").glob("test-*")).unlink()
    with pytest.raises(InputError, match=r"test-000000\.tar: it is not there"):
        asyncio.run(oid_async.export(savepath=place, format="yolo", out=tmp_path / "none", edited=True))
    assert not (tmp_path / "none").exists()


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_images_made_smaller_for_their_shards_have_their_own_size(kind: str, files: Path, tmp_path: Path) -> None:
    """An export of them is one of the files at that size; a verification looks for no bytes of the larger ones."""
    place = asyncio.run(make_place(files, tmp_path / "place", kind, max_side=100))
    assert asyncio.run(oid_async.verify(savepath=place, deep=True)).clean
    for format in ("coco", "webdataset"):
        asyncio.run(oid_async.export(savepath=place, format=format, out=tmp_path / format / "place"))
        asyncio.run(oid_async.export(savepath=files, format=format, out=tmp_path / format / "files", max_side=100))
        assert content(tmp_path / format / "place") == content(tmp_path / format / "files")
