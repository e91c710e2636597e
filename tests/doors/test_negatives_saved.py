"""Negatives from the query to the trainer: manifest, reader, repair, every export."""

import json
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import Box, Dataset, Image, Label, read_csv

import oid_async
from oid_async.options.export import FORMATS

PERSON, MAN, CAT = "/m/p", "/m/m", "/m/c"
IDS = [f"{number:016x}" for number in range(1, 7)]
# A person, a person with a cat, a verified negative of both categories with a box of a third class, another of one;
# Person is verified absent beside a box Man; nobody was asked about the last.
DATASET = Dataset(
    [(PERSON, "Person"), (MAN, "Man"), (CAT, "Cat"), ("/m/d", "Dog")],
    [Image(each, f"{place}_o.jpg") for place, each in enumerate(IDS, 1)],
    [Box(IDS[0], PERSON), Box(IDS[1], PERSON), Box(IDS[1], CAT), Box(IDS[2], "/m/d"), Box(IDS[4], MAN)],
    below={PERSON: (MAN,)},
    labels=[Label(IDS[2], CAT), Label(IDS[2], PERSON), Label(IDS[3], PERSON), Label(IDS[4], PERSON)],
)
NEGATIVES = {IDS[2]: sorted((CAT, PERSON)), IDS[3]: [PERSON]}
QUERY: dict[str, Any] = {"categories": ["Person", "Cat"], "negatives": "50%"}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DATASET.publish(tmp_path_factory.mktemp("mirror"))


async def test_negatives_are_saved_read_and_repaired(mirror: Path, tmp_path: Path) -> None:
    """The manifest says who is a negative of what, while the run is under way, when it is done, and after a repair."""
    query: dict[str, Any] = QUERY | {"mirror": mirror, "savepath": tmp_path / "d", "kinds": ["bbox", "label"]}
    await oid_async.plan(**query)
    pending = await oid_async.download(**query, offline=True)
    assert (pending.selected, pending.pending, pending.negatives) == (4, 4, 2)
    report = await oid_async.download(**query)
    assert (report.selected, report.downloaded, report.negatives) == (4, 4, 2)
    roles: dict[str, tuple[str, list[str]]] = {IDS[0]: ("selected", []), IDS[1]: ("selected", [])}
    roles |= {each: ("negative", mids) for each, mids in NEGATIVES.items()}
    (tmp_path / "d/images/3_o.jpg").unlink()
    assert (await oid_async.verify(savepath=tmp_path / "d", repair=True, mirror=mirror)).repaired == 1
    with oid_async.open(tmp_path / "d") as dataset:
        images = dataset.images.collect()
        assert dataset.report.negatives == 2
    assert images.schema["VerifiedAbsent"] == pl.List(pl.String)
    found = {each: (role, mids) for each, role, mids in images.select("ImageID", "Role", "VerifiedAbsent").iter_rows()}
    assert found == roles
    # Of the categories alone, as for any image: the dog is no category.
    assert {row["ImageID"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")} == set(IDS[:2])
    assert len([row for row in read_csv(tmp_path / "d/label/labels.csv") if row["Confidence"] == "0"]) == 3
    # Another query of the same folder has no roles any more.
    await oid_async.download(**{**query, "negatives": None})
    assert "Role" not in pl.read_parquet_schema(tmp_path / "d/manifest.parquet")


async def test_every_format_keeps_images_without_boxes(mirror: Path, tmp_path: Path) -> None:
    """A negative is an empty label file in YOLO, an image without annotations elsewhere; what can says its role."""
    savepath = tmp_path / "d"
    await oid_async.download(**QUERY, mirror=mirror, savepath=savepath)
    for name in FORMATS:
        report = await oid_async.export(savepath=savepath, format=name)
        assert (report.images, sum(report.left_out.values())) == (4, 3 if name == "crops" else 0)
    out = savepath / "export"
    assert [(out / f"yolo/labels/train/{place}_o.txt").stat().st_size > 0 for place in (1, 2, 3, 4)] == [1, 1, 0, 0]
    assert sorted(path.name for path in (out / "yolo/images/train").iterdir())[2:] == ["3_o.jpg", "4_o.jpg"]
    assert "nc: 2" in (out / "yolo/data.yaml").read_text()
    coco = json.loads((out / "coco/annotations/instances_train.json").read_text())
    annotated = {each["image_id"] for each in coco["annotations"]}
    assert {
        each["open_images_id"]: each["verified_absent"] for each in coco["images"] if each["id"] not in annotated
    } == NEGATIVES
    assert [each["role"] for each in coco["images"]] == ["selected", "selected", "negative", "negative"]
    assert "<object>" not in (out / "voc/Annotations/3_o.xml").read_text()
    assert (out / "voc/ImageSets/Main/train.txt").read_text().split() == ["1_o", "2_o", "3_o", "4_o"]
    assert [(out / f"kitti/train/label_2/{place}_o.txt").stat().st_size > 0 for place in (1, 2, 3, 4)] == [1, 1, 0, 0]
    images = ET.parse(out / "cvat/annotations.xml").getroot().findall("image")
    assert {
        each.get("open_images_id"): each.get("verified_absent", "").split() for each in images if not len(each)
    } == NEGATIVES
    assert [each.get("role") for each in images] == ["selected", "selected", "negative", "negative"]
    rows = pl.read_parquet(out / "parquet/train-00000.parquet").filter(role="negative")
    assert dict(rows.select("image_id", "verified_absent").iter_rows()) == NEGATIVES
    lines = map(json.loads, (out / "imagefolder/train/metadata.jsonl").read_text().splitlines())
    assert {each["image_id"]: each["verified_absent"] for each in lines if each["role"] == "negative"} == NEGATIVES
    rows_of = read_csv(out / "fiftyone/labels/classifications.csv")
    absences = [(row["ImageID"], row["LabelName"], row["Confidence"]) for row in rows_of]
    # The last row, of no image, keeps ids of digits text.
    assert absences[:-1] == [(each, mid, "0") for each, mids in NEGATIVES.items() for mid in mids]
    assert _packed(out / "webdataset") == NEGATIVES


async def test_negatives_are_packed(mirror: Path, tmp_path: Path) -> None:
    """Shards that are filled while images land say the role of each, too."""
    report = await oid_async.download(
        **QUERY, mirror=mirror, savepath=tmp_path / "d", format="webdataset", no_files=True
    )
    assert (report.negatives, report.export["images"]) == (2, 4)
    assert _packed(tmp_path / "d/export/webdataset") == NEGATIVES


def _packed(folder: Path) -> dict[str, list[str]]:
    """Return what is verified to be absent in each negative of the shards."""
    with tarfile.open(folder / "train-000000.tar") as shard:
        members = [shard.extractfile(name) for name in shard.getnames() if name.endswith(".json")]
        samples = [json.load(member) for member in members if member is not None]
    assert len(samples) == 4
    return {each["image_id"]: each["verified_absent"] for each in samples if each["role"] == "negative"}
