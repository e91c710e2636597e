"""Label Studio's converter, TensorFlow, tfrecord and datasets read exports, and find what the saved tables say."""

import asyncio
import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from support.named_folders import saved
from support.odd_folder import table_boxes
from support.published import read_csv, read_manifest
from support.reader_environments import answer
from support.real_folder import needs_real

import oid_async

pytestmark = pytest.mark.slow

FOLDERS = ("demo", "odd", pytest.param("real", marks=needs_real))

# What Label Studio says of its own export, and its conversions to COCO and YOLO.
CONVERT = """
import glob, hashlib, json, logging, os, sys
import numpy
from label_studio_sdk.converter import Converter, brush
from label_studio_sdk.label_interface import LabelInterface

logging.disable(logging.CRITICAL)
out, work = sys.argv[1:3]
config = os.path.join(out, "label_config.xml")
interface = LabelInterface(open(config, encoding="utf-8").read())
interface.validate()
found = {"errors": [], "coco": {}, "yolo": 0, "masks": {}}
for path in sorted(glob.glob(os.path.join(out, "tasks_*.json"))):
    for task in json.load(open(path, encoding="utf-8")):
        for annotation in task["annotations"]:
            if not interface.validate_annotation(annotation):
                found["errors"].append(task["data"]["file_name"])
            for each in annotation["result"]:
                if each["type"] == "brushlabels":
                    size = each["original_height"], each["original_width"]
                    drawn = brush.decode_rle(each["value"]["rle"]).reshape(*size, 4)[:, :, 3] > 0
                    digest = hashlib.md5(drawn.astype("uint8").tobytes()).hexdigest()
                    found["masks"].setdefault(task["data"]["file_name"], []).append(digest)
    converter = Converter(config, work, download_resources=False)
    split = os.path.join(work, os.path.basename(path))
    converter.convert_to_coco(path, split + ".coco", is_dir=False)
    document = json.load(open(split + ".coco/result.json"))
    names = {each["id"]: each["name"] for each in document["categories"]}
    images = {each["id"]: each["file_name"] for each in document["images"]}
    for name in images.values():
        found["coco"].setdefault(name, [])
    for each in document["annotations"]:
        x, y, width, height = each["bbox"]
        box = [names[each["category_id"]], x, y, x + width, y + height]
        found["coco"][images[each["image_id"]]].append(box)
    converter.convert_to_yolo(path, split + ".yolo", is_dir=False)
    found["yolo"] += sum(len(open(each).read().splitlines()) for each in glob.glob(split + ".yolo/labels/*.txt"))
print(json.dumps(found))
"""
# Both parse whole records; TensorFlow raises DataLossError where a checksum is wrong.
TENSORFLOW = """
import glob, hashlib, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf

sides = ("xmin", "ymin", "xmax", "ymax")
many = {f"image/object/bbox/{side}": tf.io.VarLenFeature(tf.float32) for side in sides}
many |= {f"image/object/{key}": tf.io.VarLenFeature(tf.int64) for key in ("class/label", "has_box")}
many |= {f"image/object/{key}": tf.io.VarLenFeature(tf.string) for key in ("class/text", "mask")}
one = {f"image/{key}": tf.io.FixedLenFeature([], tf.string) for key in ("encoded", "filename", "key/sha256")}
found = {}
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.tfrecord"))):
    for record in tf.data.TFRecordDataset(path):
        row = tf.io.parse_single_example(record, many | one)
        values = {key: row[key].values.numpy().tolist() for key in many}
        body = row["image/encoded"].numpy()
        assert hashlib.sha256(body).hexdigest().encode() == row["image/key/sha256"].numpy()
        shape = tf.io.decode_jpeg(body).shape
        masks = [tf.io.decode_png(png, channels=1).numpy()[:, :, 0] > 0 for png in values["image/object/mask"]]
        assert all(mask.shape == shape[:2] for mask in masks)
        boxes = zip(
            [each.decode() for each in values["image/object/class/text"]],
            *(values[f"image/object/bbox/{side}"] for side in sides),
        )
        found[row["image/filename"].numpy().decode()] = {
            "size": [shape[1], shape[0]],
            "boxes": [box for box, there in zip(boxes, values["image/object/has_box"]) if there],
            "masks": [hashlib.md5(mask.astype("uint8").tobytes()).hexdigest() for mask in masks],
            "labels": values["image/object/class/label"],
        }
print(json.dumps(found))
"""
TFRECORD = """
import glob, json, sys
from tfrecord.reader import tfrecord_loader

found = {}
for path in sorted(glob.glob(sys.argv[1] + "/*.tfrecord")):
    for row in tfrecord_loader(path, None):
        boxes = [row[f"image/object/bbox/{side}"].tolist() for side in ("xmin", "ymin", "xmax", "ymax")]
        found[bytes(row["image/filename"]).decode()] = list(zip(*boxes))
print(json.dumps(found))
"""
IMAGEFOLDER = """
import json, sys
from collections import Counter
import datasets

found = {}
for split, rows in datasets.load_dataset("imagefolder", data_dir=sys.argv[1], cache_dir=sys.argv[2]).items():
    # Of one class alone datasets makes no label.
    names = rows.features["label"].names if "label" in rows.features else ["Person"]
    found[split] = Counter(names[each.get("label", 0)] for each in rows if each["image"].load())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the saved folders are made when they are first asked for."""
    return tmp_path_factory.mktemp("saved")


def read(python: Path, program: str, path: Path, form: str, *words: object, **options: Any) -> dict[str, Any]:
    """Export, and return what a reader finds in it."""
    report = asyncio.run(oid_async.export(savepath=path, format=form, **options))
    return dict(answer(python, program, report.out, *words))


def images_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["FileName"]: row for row in read_manifest(path) if row["Status"] == "ok"}


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
def test_label_studio_converts_its_tasks(label_studio: Path, folders: Path, tmp_path: Path, name: str) -> None:
    """The configuration and every annotation are valid; its COCO has the boxes of the tables, its brush the masks."""
    path = saved(folders, name)
    found = read(label_studio, CONVERT, path, "labelstudio", tmp_path)
    images, wanted, count = images_of(path), table_boxes(path), 0
    assert found["errors"] == []
    assert len(found["coco"]) == len(images)
    by_name = {each.rpartition("/")[2]: boxes for each, boxes in found["coco"].items()}
    for file_name, row in images.items():
        sizes = (row["Width"], row["Height"]) * 2
        rows = [(box[0], *(a * b for a, b in zip(box[1:], sizes, strict=True))) for box in wanted.get(file_name, [])]
        boxes = by_name[quote(file_name)]
        assert sorted(box[0] for box in boxes) == sorted(row[0] for row in rows)
        for box, other in zip(sorted(boxes), sorted(rows), strict=True):
            assert box[1:] == pytest.approx(other[1:], abs=1e-4)
        count += len(rows)
    assert count == found["yolo"] == len(read_csv(path / "bbox" / "bbox.csv"))
    assert {name: Counter(masks) for name, masks in found["masks"].items()} == drawn_masks(path)


@pytest.mark.parametrize("name", FOLDERS)
def test_tensorflow_parses_every_example(tensorflow: Path, folders: Path, name: str) -> None:
    """Checksums, pictures, masks, boxes to 32 bits; tfrecord, which knows no TensorFlow, finds the same boxes."""
    path = saved(folders, name)
    found = read(tensorflow, TENSORFLOW, path, "tfrecord", shard_size="2M")
    images, wanted = images_of(path), table_boxes(path)
    assert found.keys() == images.keys()
    masks = drawn_masks(path)
    for file_name, each in found.items():
        assert each["size"] == [images[file_name]["Width"], images[file_name]["Height"]]
        rows = wanted.get(file_name, [])
        assert [box[0] for box in each["boxes"]] == [row[0] for row in rows]
        assert [box[1:] for box in each["boxes"]] == [pytest.approx(row[1:], abs=6e-8) for row in rows]
        assert min(each["labels"], default=1) >= 1
        assert Counter(each["masks"]) >= masks.get(file_name, Counter())
    other = answer(tensorflow, TFRECORD, path / "export" / "tfrecord")
    assert other.keys() == found.keys()
    assert sum(map(len, other.values())) >= sum(len(each["boxes"]) for each in found.values())


@pytest.mark.parametrize("name", FOLDERS)
def test_datasets_finds_the_classes_of_crops(imagefolder: Path, folders: Path, tmp_path: Path, name: str) -> None:
    """Each split has as many pictures of each class as the table says; one level of folders, as torchvision wants."""
    path = saved(folders, name)
    found = read(imagefolder, IMAGEFOLDER, path, "crops", tmp_path)
    out = path / "export" / "crops"
    wanted: dict[str, Counter[str]] = {}
    for row in read_csv(out / "labels.csv"):
        split, folder, _ = row["File"].split("/")
        wanted.setdefault(split, Counter())[folder] += 1
    assert {split: Counter(counts) for split, counts in found.items()} == wanted
    for split in wanted:
        folders_of = list((out / split).iterdir())
        assert all(each.is_dir() and any(each.iterdir()) for each in folders_of)
