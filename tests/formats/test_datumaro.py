"""datumaro and CVAT's SDK read exports, in an environment of their own, and find what the saved tables say."""

import asyncio
import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.named_folders import saved
from support.odd_folder import table_boxes
from support.published import read_csv, read_manifest
from support.reader_environments import answer
from support.real_folder import needs_real

import oid_async
from oid_async.formats.kitti import kitti_type

pytestmark = pytest.mark.slow

FOLDERS = ("demo", "odd", pytest.param("real", marks=needs_real))
# datumaro keeps two decimals of a pixel.
PIXELS = 0.0051

READ = """
import hashlib, json, sys
from datumaro.components.annotation import AnnotationType as Kind
from datumaro.components.dataset import Dataset

dataset = Dataset.import_from(sys.argv[1], sys.argv[2])
names = [label.name for label in dataset.categories()[Kind.label].items]
found = {}
for item in dataset:
    height, width = item.media.data.shape[:2]
    kinds = {kind: [each for each in item.annotations if each.type == kind] for kind in Kind}
    masks = [hashlib.md5(each.image.astype("uint8").tobytes()).hexdigest() for each in kinds[Kind.mask]]
    found.setdefault(item.subset, {})[item.id] = {
        "size": (width, height),
        "boxes": [(names[each.label], *each.points) for each in kinds[Kind.bbox]],
        "flags": [each.attributes for each in kinds[Kind.bbox]],
        "masks": masks,
        "tags": [(names[each.label], each.attributes) for each in kinds[Kind.label]],
        "points": [(names[each.label], *each.points) for each in kinds[Kind.points]],
    }
print(json.dumps({"names": names, "images": found}))
"""
DECODE = """
import hashlib, json, sys
import xml.etree.ElementTree as ET
from cvat_sdk.masks import decode_mask

found = {}
for image in ET.parse(sys.argv[1]).getroot().iter("image"):
    width, height = int(image.get("width")), int(image.get("height"))
    for mask in image.iter("mask"):
        left, top, across, down = (int(mask.get(name)) for name in ("left", "top", "width", "height"))
        points = [*map(int, mask.get("rle").split(",")), left, top, left + across - 1, top + down - 1]
        drawn = decode_mask(points, image_width=width, image_height=height)
        found.setdefault(image.get("name"), []).append(hashlib.md5(drawn.astype("uint8").tobytes()).hexdigest())
print(json.dumps(found))
"""
LABELS = """
import json, sys
from cvat_sdk import models

task = models.TaskWriteRequest(name="images", labels=json.load(open(sys.argv[1], encoding="utf-8")))
kinds = {each.input_type.value for label in task.labels for each in label.attributes}
assert kinds <= {"select", "text"}, kinds
print(json.dumps([label.name for label in task.labels]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the saved folders are made when they are first asked for."""
    return tmp_path_factory.mktemp("saved")


def read(python: Path, path: Path, form: str, reader: str = "", **options: Any) -> dict[str, Any]:
    """Export, and return what datumaro reads: names, and images by split and stem."""
    report = asyncio.run(oid_async.export(savepath=path, format=form, **options))
    return dict(answer(python, READ, report.out, reader or form))


def images_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return split -> stem -> row of the manifest."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_manifest(path):
        if row["Status"] == "ok":
            stem = row["FileName"].removesuffix(".jpg")
            found.setdefault(row["Subset"] or "train", {})[stem] = row
    return found


def check_boxes(path: Path, found: dict[str, Any], named: Any = str, within: float = PIXELS) -> None:
    """Raise AssertionError unless the images, their sizes and their boxes are those of the tables, in their order."""
    images, wanted = images_of(path), table_boxes(path)
    assert {split: set(each) for split, each in found["images"].items()} == {
        split: set(each) for split, each in images.items()
    }
    count = 0
    for split, stems in images.items():
        for stem, row in stems.items():
            item = found["images"][split][stem]
            assert item["size"] == [row["Width"], row["Height"]]
            boxes = wanted.get(row["FileName"], [])
            assert [box[0] for box in item["boxes"]] == [named(box[0]) for box in boxes]
            for (_, *sides), (_, *fractions) in zip(item["boxes"], boxes, strict=True):
                sizes = item["size"] * 2
                assert sides == pytest.approx([a * b for a, b in zip(fractions, sizes, strict=True)], abs=within)
            count += len(boxes)
    assert count == len(read_csv(path / "bbox" / "bbox.csv")) > 0


def drawn_masks(path: Path) -> dict[str, Counter[str]]:
    """Return FileName -> the MD5s of its masks in the image's size, a byte a pixel, 1 inside."""
    found: dict[str, Counter[str]] = {}
    table = path / "segmentation" / "segmentation.csv"
    for row in read_csv(table) if table.exists() else ():
        body = (path / "segmentation" / "masks" / row["MaskPath"]).read_bytes()
        with Image.open(io.BytesIO(body)) as image:
            pixels = image.convert("L").resize((int(row["Width"]), int(row["Height"])), Image.Resampling.NEAREST)
        digest = hashlib.md5(pixels.point(lambda value: value > 122).tobytes()).hexdigest()
        found.setdefault(row["FileName"], Counter())[digest] += 1
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_datumaro_reads_kitti(datumaro: Path, folders: Path, name: str) -> None:
    """Every image with its boxes, in the order of the classes; both flags where they are known."""
    path = saved(folders, name)
    found = read(datumaro, path, "kitti")
    check_boxes(path, found, kitti_type)
    names = [row["Category"] for row in read_csv(path / "bbox" / "label_data.csv")]
    assert found["names"][: len(names)] == list(map(kitti_type, names))
    flags = Counter((row["IsTruncated"], row["IsOccluded"]) for row in read_csv(path / "bbox" / "bbox.csv"))
    # datumaro takes -1 for true.
    wanted = Counter[tuple[bool, bool]]()
    for each, count in flags.items():
        wanted[each[0] != "0", each[1] != "0"] += count
    items = [item for stems in found["images"].values() for item in stems.values()]
    assert Counter((each["truncated"], each["occluded"]) for item in items for each in item["flags"]) == wanted


@pytest.mark.parametrize("name", FOLDERS)
def test_datumaro_reads_cvat(datumaro: Path, folders: Path, name: str) -> None:
    """Every image with its boxes, all five flags, masks, labels and points."""
    path = saved(folders, name)
    found = read(datumaro, path, "cvat")
    check_boxes(path, found)
    flags = {"occluded": "IsOccluded", "truncated": "IsTruncated", "group_of": "IsGroupOf"}
    flags |= {"depiction": "IsDepiction", "inside": "IsInside"}
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(path / "bbox" / "bbox.csv"):
        rows.setdefault(row["FileName"], []).append(row)
    states: dict[str, Any] = {"0": False, "1": True, "-1": "unknown"}
    masks = drawn_masks(path)
    for stems in found["images"].values():
        for stem, item in stems.items():
            for each, row in zip(item["flags"], rows.get(f"{stem}.jpg", []), strict=True):
                wanted = {flag: states[row[column]] for flag, column in flags.items()}
                assert each == wanted | {"occluded": wanted["occluded"] is True}
            assert Counter(item["masks"]) == masks.pop(f"{stem}.jpg", Counter())
    assert not masks
    items = [item for stems in found["images"].values() for item in stems.values()]
    for kind, table in (("tags", "label/labels.csv"), ("points", "point/points.csv")):
        labels = read_csv(path / table) if (path / table).exists() else []
        assert sum(len(item[kind]) for item in items) == len(labels)


@pytest.mark.parametrize("name", ["demo", "odd"])
def test_cvats_own_decoder_draws_the_masks(datumaro: Path, folders: Path, name: str) -> None:
    """What cvat-sdk makes of each mask's run lengths is the saved picture."""
    path = saved(folders, name)
    out = asyncio.run(oid_async.export(savepath=path, format="cvat", no_files=True, out=folders / "masks" / name)).out
    found = {image: Counter(masks) for image, masks in answer(datumaro, DECODE, f"{out}/annotations.xml").items()}
    assert found == drawn_masks(path)
    assert sum(map(len, found.values())) > 0


@pytest.mark.parametrize("name", ["demo", "odd"])
def test_cvats_sdk_takes_the_labels(datumaro: Path, folders: Path, name: str) -> None:
    """labels.json is what a request for a task may hold, with every label."""
    out = Path(asyncio.run(oid_async.export(savepath=saved(folders, name), format="cvat", no_files=True)).out)
    assert answer(datumaro, LABELS, out / "labels.json") == [row["label"] for row in read_csv(out / "labels.csv")]


@pytest.mark.parametrize("form", ["kitti", "cvat"])
def test_datumaro_reads_smaller_images(datumaro: Path, folders: Path, form: str) -> None:
    """With --max-side boxes and pictures are smaller alike; without group boxes there are as many less."""
    path = saved(folders, "demo")
    found = read(datumaro, path, form, max_side=100, group_boxes="drop", out=folders / "smaller" / form)
    items = [item for stems in found["images"].values() for item in stems.values()]
    assert all(max(item["size"]) == 100 for item in items)
    kept = [row for row in read_csv(path / "bbox" / "bbox.csv") if row["IsGroupOf"] != "1"]
    assert sum(len(item["boxes"]) for item in items) == len(kept)
    wide = [side / item["size"][at % 2] for item in items for box in item["boxes"] for at, side in enumerate(box[1:])]
    assert 0 <= min(wide) < 0.1
    assert 0.9 < max(wide) <= 1


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("form", "reader", "within"), [("voc", "voc_detection", 1.5001), ("yolo", "yolo", PIXELS)])
def test_datumaro_reads_older_formats(
    datumaro: Path, folders: Path, name: str, form: str, reader: str, within: float
) -> None:
    """VOC's classes are in dataset_meta.json, and its pixels whole and counted from 1; of YOLO it reads boxes alone."""
    path = saved(folders, name)
    found = read(datumaro, path, form, reader, no_masks=True, out=folders / form / name)
    check_boxes(path, found, within=within)
