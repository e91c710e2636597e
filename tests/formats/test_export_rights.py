"""Who to credit, under which licence, and what was done to an image: in every export."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import read_csv
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.options.export import FORMATS

ONE, TWO, THREE = "0000048549557964", "1234567890abcdef", "ffffffffffffffff"
AUTHOR, LICENCE = "Ann & Bob <x>", "https://creativecommons.org/licenses/by/2.0/"
RESIZED = "copy of at most 1024 px; resized to at most 50 px"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large and a small image of the bucket, and one that is broken."""
    path = tmp_path_factory.mktemp("rights") / "d"
    images = [SavedImage(ONE, 200, 100), SavedImage(TWO, 40, 30), SavedImage(THREE, picture=b"no picture")]
    SavedFolder(images, [SavedBox(each.image_id) for each in images]).write(path)
    manifest = pl.read_parquet(path / "manifest.parquet").with_columns(Source=pl.lit("cvdf"))
    manifest.write_parquet(path / "manifest.parquet")
    return path


async def exported(folder: Path, name: str, out: Path, **options: Any) -> Path:
    await oid_async.export(savepath=folder, format=name, out=out, **options)
    return out


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_credits(folder: Path, tmp_path: Path, name: str) -> None:
    """Author and licence are in what the format writes, or in a table beside it."""
    out = await exported(folder, name, tmp_path / "out")
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for said in (AUTHOR, LICENCE):
        forms = {said, said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"), json.dumps(said)[1:-1]}
        forms.add(said.replace("/", "\\/"))
        assert any(form.encode() in written for form in forms), (name, said)


@pytest.mark.parametrize("name", ["yolo", "fiftyone"])
async def test_the_table_of_an_export_is_of_its_images(folder: Path, tmp_path: Path, name: str) -> None:
    """Images that are left out are not in it; those that were made smaller say so, the others do not."""
    rows = read_csv(await exported(folder, name, tmp_path / "out", max_side=50) / "ATTRIBUTION.csv")
    assert [(row["ImageID"], row["Changes"]) for row in rows] == [(ONE, RESIZED), (TWO, "copy of at most 1024 px")]
    assert {(row["Author"], row["License"]) for row in rows} == {(AUTHOR, LICENCE)}


async def test_without_images_none_is_made_smaller(folder: Path, tmp_path: Path) -> None:
    """With --no-files the export holds no image, so that Changes are those of the saved ones."""
    out = await exported(folder, "yolo", tmp_path / "out", max_side=50, no_files=True)
    assert {row["Changes"] for row in read_csv(out / "ATTRIBUTION.csv")} == {"copy of at most 1024 px"}


async def test_changes_stand_where_a_format_has_a_place(folder: Path, tmp_path: Path) -> None:
    """COCO (of images made smaller), VOC, imagefolder and Parquet."""
    out = {
        name: await exported(folder, name, tmp_path / name, max_side=50)
        for name in ("coco", "voc", "imagefolder", "parquet")
    }
    images = json.loads((out["coco"] / "annotations/instances_train.json").read_text())["images"]
    lines = (out["imagefolder"] / "train/metadata.jsonl").read_text().splitlines()
    expected = [RESIZED, "copy of at most 1024 px"]
    assert [image["changes"] for image in images] == [json.loads(line)["changes"] for line in lines] == expected
    assert pl.read_parquet(out["parquet"] / "*.parquet").get_column("changes").to_list() == expected
    assert f"<changes>{RESIZED}</changes>" in next(iter(sorted((out["voc"] / "Annotations").iterdir()))).read_text()
