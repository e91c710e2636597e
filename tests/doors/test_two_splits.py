"""One id in two splits is two images: asked, saved, read and exported apart."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import tiny_jpeg
from support.scripted import Scripted, http

import oid_async
from oid_async.errors import InputError

TWIN, OTHER = "00000000000000a1", "00000000000000b2"
BODIES = {
    f"/open-images-dataset/{split}/{image_id}.jpg": tiny_jpeg(f"{split} {image_id}")
    for split, image_id in (("train", TWIN), ("validation", TWIN), ("validation", OTHER))
}
SAVED = [("train", TWIN), ("validation", TWIN), ("validation", OTHER)]


def body(split: str, image_id: str) -> bytes:
    return BODIES[f"/open-images-dataset/{split}/{image_id}.jpg"]


@contextmanager
def _tables(folder: Path) -> Iterator[dict[str, Any]]:
    (folder / "classes.csv").write_text("/m/01226z,Football\n")
    rows = "".join(f"{image_id},/m/01226z,0.1,0.5,0.1,0.5\n" for image_id in (TWIN, TWIN, OTHER))
    (folder / "boxes.csv").write_text(f"ImageID,LabelName,XMin,XMax,YMin,YMax\n{rows}")
    images = "".join(f"{image_id},{split},https://h/{image_id}_o.jpg\n" for split, image_id in reversed(SAVED))
    (folder / "images.csv").write_text(f"ImageID,Subset,OriginalURL\n{images}")
    yield {name: folder / f"{file}.csv" for name, file in zip(TABLES, ("classes", "boxes", "images"), strict=True)}


TABLES = ("label", "annotation", "image_url")


@pytest.mark.parametrize("by_list", [True, False], ids=["id-list", "tables"])
async def test_one_id_in_two_splits_is_two_images(tmp_path: Path, by_list: bool) -> None:
    """Both are fetched, found again, whole, read by split/ID, and exported each with its own rows."""
    (tmp_path / "ids.txt").write_text("".join(f"{split}/{image_id}\n" for split, image_id in reversed(SAVED)))
    out = tmp_path / "out"
    with _tables(tmp_path) as tables:
        query: dict[str, Any] = {"image_ids": tmp_path / "ids.txt", "kinds": ["none"]} if by_list else tables
        async with Scripted({path: [http(200, jpeg)] for path, jpeg in BODIES.items()}) as server:
            for downloaded in (3, 0):
                report = await oid_async.download(**query, mirror=server.url, savepath=out)
                assert (report.selected, report.downloaded, report.failed) == (3, downloaded, 0)
    assert (await oid_async.verify(savepath=out)).clean
    dataset = oid_async.open(out)
    rows = dataset.images.select("Subset", "ImageID", "FileName").collect().rows()
    assert [row[:2] for row in rows] == SAVED
    stem = TWIN if by_list else f"{TWIN}_o"
    assert [row[2] for row in rows[:2]] == [f"{stem}.jpg", f"{stem}_{TWIN}_validation.jpg"]
    for split, image_id in SAVED:
        assert dataset.image(f"{split}/{image_id}") == body(split, image_id)
    assert dataset.image(OTHER) == body("validation", OTHER)
    with pytest.raises(InputError, match=f"say train/{TWIN} or validation/{TWIN}"):
        dataset.image(TWIN)
    for number, source in enumerate((out, out / "manifest.parquet")):
        again = await oid_async.repeat(source, savepath=tmp_path / f"again{number}", offline=True)
        assert again.present == 3
        assert oid_async.open(tmp_path / f"again{number}").image(f"train/{TWIN}") == body("train", TWIN)
    if by_list:
        return
    assert pl.read_csv(out / "bbox" / "bbox.csv").get_column("ImageID").to_list() == [TWIN] * 4 + [OTHER]
    await oid_async.export(savepath=out, format="coco", out=tmp_path / "coco")
    counts = {}
    for split in ("train", "validation"):
        found = json.loads((tmp_path / "coco" / "annotations" / f"instances_{split}.json").read_text())
        for image in found["images"]:
            boxes = [box for box in found["annotations"] if box["image_id"] == image["id"]]
            counts[split, image["file_name"]] = len(boxes)
    assert counts == {("train", rows[0][2]): 2, ("validation", rows[1][2]): 2, ("validation", rows[2][2]): 1}


async def test_list_that_was_corrected_to_another_split_is_another_image(tmp_path: Path) -> None:
    """An image saved from one split is not taken for the one of its id in another."""
    async with Scripted({path: [http(200, jpeg)] for path, jpeg in BODIES.items()}) as server:
        for split in ("train", "validation"):
            report = await oid_async.download(
                image_ids=[f"{split}/{TWIN}"], kinds=["none"], mirror=server.url, savepath=tmp_path / "out"
            )
            assert (report.downloaded, report.present) == (1, 0)
            assert oid_async.open(tmp_path / "out").image(TWIN) == body(split, TWIN)


async def test_masks_of_an_id_in_two_splits(lookalike: Path, tmp_path: Path) -> None:
    """The masks of such an image are saved, each once, from the archive of its split."""
    mirror = tmp_path / "mirror"
    shutil.copytree(lookalike, mirror)
    tables = mirror / "openimages"
    masks, images, files = (
        "v5/{}-annotations-object-segmentation.csv",
        "2018_04/{0}/{0}-images-with-rotation.csv",
        "../open-images-dataset/{}",
    )
    rows = [line.split(",") for line in (tables / masks.format("test")).read_text().splitlines()[1:]]
    twin = rows[0][1]
    other = (tables / masks.format("validation")).read_text().splitlines()[1].split(",")[1]
    for form in (masks, images):
        path = tables / form.format("validation")
        path.write_text(path.read_text().replace(other, twin))
    folder = tables / files.format("validation")
    (folder / f"{other}.jpg").rename(folder / f"{twin}.jpg")
    query: dict[str, Any] = {"mirror": mirror, "cache_dir": tmp_path / "c", "savepath": tmp_path / "d"}
    await oid_async.download(**query, splits=["validation", "test"], kinds=["segmentation"])
    dataset = oid_async.open(tmp_path / "d")
    saved = {path.name for path in (tmp_path / "d" / "segmentation" / "masks").iterdir()}
    assert dataset.images.filter(ImageID=twin).collect().height == 2
    assert dataset.masks.filter(ImageID=twin).collect().get_column("FileName").n_unique() == 2
    assert {name for name, image_id, *_ in rows if image_id == twin} <= saved
