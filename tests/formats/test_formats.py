"""Exports, read back by programs that are not ours or by hand, and held against the saved tables."""

import asyncio
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.hostile_jpegs import REFUSED
from support.notes import notes_into
from support.published import read_csv, read_manifest, run_cli, typed
from support.real_folder import needs_real, real_folder
from support.saved import NAMES, SavedBox, SavedFolder, SavedImage, picture, rectangle
from support.shards import members

import oid_async
from oid_async.errors import InputError, LockedError, StorageError, UsageError
from oid_async.events import Note, ignore
from oid_async.jobs.demo import look_alike_run
from oid_async.openimages.catalogue_tables import PAIR_SIDES
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.export import FORMATS
from oid_async.options.query import Options

# pycocotools 2.0.11 hands arrays to numpy the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

ONE, TWO, THREE = "0000048549557964", "1234567890abcdef", "ffffffffffffffff"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the demo, of every split, with all that is said of them."""
    root = tmp_path_factory.mktemp("formats")
    options = Options(savepath=root / "d", cache_dir=root / "cache", splits=SPLITS, kinds=("all",), limit=120)
    asyncio.run(look_alike_run(options, ignore).download())
    return root / "d"


async def exported(savepath: Path, format: str, **options: Any) -> Path:
    report = await oid_async.export(savepath=savepath, format=format, **options)
    return Path(report.out)


def boxes_by_image(savepath: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return FileName -> (name, XMin, YMin, XMax, YMax) of its boxes, sorted."""
    found = defaultdict(list)
    for row in read_csv(savepath / "bbox" / "bbox.csv"):
        sides = (float(row[side]) for side in ("XMin", "YMin", "XMax", "YMax"))
        found[row["FileName"]].append((row["Category"], *sides))
    return {name: sorted(boxes) for name, boxes in found.items()}


def close(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], within: float) -> bool:
    """Return whether each box has its counterpart, of its class and no side further off than that."""
    left = list(other)
    for name, *sides in one:
        for found in left:
            if found[0] == name and all(abs(a - b) <= within for a, b in zip(sides, found[1:], strict=True)):
                left.remove(found)
                break
        else:
            return False
    return not left


# --- COCO ----------------------------------------------------------------------------------------------------------


def coco_boxes(out: Path, split: str) -> dict[str, list[tuple[Any, ...]]]:
    coco = COCO(str(out / "annotations" / f"instances_{split}.json"))
    found = defaultdict(list)
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        across, down = image["width"], image["height"]
        box = (x / across, y / down, (x + width) / across, (y + height) / down)
        found[image["file_name"]].append((coco.cats[annotation["category_id"]]["name"], *box))
    return found


async def test_coco_loads_and_the_truth_scores_one(demo: Path, tmp_path: Path) -> None:
    """pycocotools reads every split; boxes and masks held against themselves have an AP of 1."""
    out = await exported(demo, "coco", out=tmp_path / "coco")
    for split in ("train", "validation", "test"):
        coco = COCO(str(out / "annotations" / f"instances_{split}.json"))
        annotations = [annotation for annotation in coco.dataset["annotations"] if not annotation["iscrowd"]]
        for kind, wanted in (("bbox", annotations), ("segm", [each for each in annotations if each["segmentation"]])):
            truth = COCO()
            truth.dataset = coco.dataset | {"annotations": [dict(each) for each in wanted]}
            truth.createIndex()
            shape = "bbox" if kind == "bbox" else "segmentation"
            found = [{"score": 1.0, **{k: each[k] for k in ("image_id", "category_id", shape)}} for each in wanted]
            judge = COCOeval(truth, truth.loadRes(found), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            assert judge.stats[0] == pytest.approx(1.0), (split, kind)


async def test_coco_has_what_the_tables_say(demo: Path, tmp_path: Path) -> None:
    """Boxes, sizes, crowds, masks, captions, licences and authors are those of the saved tables."""
    out = await exported(demo, "coco", out=tmp_path / "coco")
    manifest = {row["FileName"]: row for row in read_manifest(demo) if row["Status"] == "ok"}
    wanted = boxes_by_image(demo)
    seen, crowds, masks, captions = 0, 0, 0, Counter[str]()
    for split in ("train", "validation", "test"):
        for name, boxes in coco_boxes(out, split).items():
            assert close(boxes, wanted[name], 1e-6), name
        document = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
        licenses = {each["id"]: each["url"] for each in document["licenses"]}
        names = {}
        for image in document["images"]:
            row = manifest[image["file_name"]]
            names[image["id"]] = image["file_name"]
            assert (image["width"], image["height"]) == (row["Width"], row["Height"])
            assert (image["author"], licenses[image["license"]]) == (row["Author"], row["License"])
            assert image["id"] == int(row["ImageID"], 16) >> 11
            assert row["Subset"] == split
            assert (out / "images" / split / image["file_name"]).samefile(demo / "images" / image["file_name"])
        seen += len(document["images"])
        crowds += sum(each["iscrowd"] for each in document["annotations"])
        masks += sum(bool(each["segmentation"]) for each in document["annotations"])
        said = json.loads((out / "annotations" / f"captions_{split}.json").read_text())
        captions.update(f"{names[each['image_id']]} {each['caption']}" for each in said["annotations"])
    assert seen == len(manifest)
    assert crowds == sum(row["IsGroupOf"] == "1" for row in read_csv(demo / "bbox" / "bbox.csv")) > 0
    assert masks == len(read_csv(demo / "segmentation" / "segmentation.csv")) > 50
    file_names = {row["ImageID"]: name for name, row in manifest.items()}
    lines = (demo / "narrative" / "narratives.jsonl").read_text().splitlines()
    spoken = [json.loads(line) for line in lines]
    assert captions == Counter(f"{file_names[each['image_id']]} {each['caption']}" for each in spoken)


async def test_coco_masks_are_the_masks(demo: Path, tmp_path: Path) -> None:
    """Each run-length mask decodes to the saved picture, in its image's size."""
    out = await exported(demo, "coco", out=tmp_path / "coco", no_files=True)
    areas, pictures = Counter[int](), Counter[int]()
    for split in ("train", "validation", "test"):
        document = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
        for each in document["annotations"]:
            if each["segmentation"]:
                decoded = coco_masks.decode(each["segmentation"])
                assert int(decoded.sum()) == each["area"]
                areas[int(decoded.sum())] += 1
    for row in read_csv(demo / "segmentation" / "segmentation.csv"):
        with Image.open(demo / "segmentation" / "masks" / row["MaskPath"]) as image:
            size = (int(row["Width"]), int(row["Height"]))
            pictures[sum(image.convert("L").resize(size, Image.Resampling.NEAREST).histogram()[128:])] += 1
    assert areas == pictures
    assert not (out / "images").exists()


async def test_coco_ids_do_not_depend_on_the_selection(tmp_path: Path) -> None:
    """An image has the same id in an export of one and of many; ids fit in 53 bits; annotations count from 1."""
    images = [SavedImage(image_id) for image_id in (ONE, TWO, THREE)]
    many = SavedFolder(images, [SavedBox(image.image_id) for image in images]).write(tmp_path / "many")
    one = SavedFolder(images[1:2], [SavedBox(TWO)]).write(tmp_path / "one")
    documents = [
        json.loads(((await exported(path, "coco")) / "annotations" / "instances_train.json").read_text())
        for path in (many, one)
    ]
    ids = [{each["open_images_id"]: each["id"] for each in document["images"]} for document in documents]
    assert ids[0][TWO] == ids[1][TWO]
    assert max(ids[0].values()) < 2**53
    assert [each["id"] for each in documents[0]["annotations"]] == [1, 2, 3]


async def test_two_images_of_one_number_are_counted_instead(tmp_path: Path) -> None:
    """Should the first 53 bits of two ids be the same, images are numbered from 1: no two share an id."""
    images = [SavedImage("00000000aaaaa800"), SavedImage("00000001aaaaa800"), SavedImage("00000001aaaaafff")]
    named = [SavedImage(image.image_id, subset="train") for image in images]
    path = tmp_path / "d"
    # Their file names differ by the first eight digits alone.
    SavedFolder(named[:2]).write(path)
    manifest = pl.read_parquet(path / "manifest.parquet")
    twin = manifest.tail(1).with_columns(ImageID=pl.lit(images[2].image_id), FileName=pl.lit("twin.jpg"))
    os.link(path / "images" / images[1].file_name, path / "images" / "twin.jpg")
    pl.concat([manifest, twin]).write_parquet(path / "manifest.parquet")
    out = await exported(path, "coco")
    document = json.loads((out / "annotations" / "instances_train.json").read_text())
    assert [each["id"] for each in document["images"]] == [1, 2, 3]


# --- YOLO, VOC -----------------------------------------------------------------------------------------------------


def rows_of(question: str) -> list[tuple[Any, ...]]:
    relation = duckdb.sql(question)
    assert relation is not None
    return relation.fetchall()


def yolo_boxes(out: Path, names: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for path in (out / "labels").rglob("*.txt"):
        lines = [line.split() for line in path.read_text().splitlines()]
        boxes = []
        for number, *values in lines:
            x, y, width, height = map(float, values)
            boxes.append((names[int(number)], x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        found[path.stem] = sorted(boxes)
    return found


def yolo_names(out: Path) -> list[str]:
    text = (out / "data.yaml").read_text(encoding="utf-8")
    return [json.loads(name) for name in re.findall(r"^  \d+: (.*)$", text, re.MULTILINE)]


async def test_yolo_boxes_are_the_tables(demo: Path, tmp_path: Path) -> None:
    """Every image has one label file with its boxes; an image without any has an empty one."""
    out = await exported(demo, "yolo", out=tmp_path / "y", no_masks=True)
    wanted = boxes_by_image(demo)
    found = yolo_boxes(out, yolo_names(out))
    manifest = [row for row in read_manifest(demo) if row["Status"] == "ok"]
    assert found.keys() == {row["FileName"].removesuffix(".jpg") for row in manifest}
    for stem, boxes in found.items():
        assert close(boxes, wanted.get(f"{stem}.jpg", []), 1e-6), stem
    for row in manifest:
        assert (out / "images" / row["Subset"] / row["FileName"]).samefile(demo / "images" / row["FileName"])
    yaml = (out / "data.yaml").read_text()
    assert "train: images/train\nval: images/validation\ntest: images/test\n" in yaml


async def test_yolo_image_without_boxes_has_an_empty_file(tmp_path: Path) -> None:
    """What nothing is said of is a background; with one split alone it is named as val, too."""
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], [SavedBox(TWO)]).write(tmp_path / "d")
    out = await exported(path, "yolo")
    sizes = {file.name: file.stat().st_size for file in (out / "labels" / "train").iterdir()}
    assert sizes[SavedImage(ONE).file_name.replace(".jpg", ".txt")] == 0
    assert "train: images/train\nval: images/train" in (out / "data.yaml").read_text()


async def test_yolo_polygons_cover_the_masks(tmp_path: Path) -> None:
    """With masks each line is a polygon: of a mask its outline, of a box without one its corners; parts are joined."""
    masked = SavedBox(ONE, sides=("0.125", "0.5", "0.25", "0.75"))
    plain = SavedBox(ONE, "/m/0bt9lr", sides=("0.5", "1", "0", "0.5"))
    picture = Image.open(io.BytesIO(rectangle(64, 48, (8, 12, 20, 36))))
    picture.paste(1, (24, 12, 32, 36))
    png = io.BytesIO()
    picture.save(png, "PNG")
    path = SavedFolder([SavedImage(ONE)], [masked, plain], [(masked, png.getvalue())]).write(tmp_path / "d")
    out = await exported(path, "yolo")
    lines = next((out / "labels" / "train").iterdir()).read_text().splitlines()
    polygon = [float(value) for value in lines[0].split()[1:]]
    assert lines[1].split() == ["2", "0.5", "0.0", "1.0", "0.0", "1.0", "0.5", "0.5", "0.5"]
    points = [(polygon[at] * 64 - 0.5, polygon[at + 1] * 48 - 0.5) for at in range(0, len(polygon), 2)]
    drawn = coco_masks.decode(
        coco_masks.merge(coco_masks.frPyObjects([[value + 0.5 for point in points for value in point]], 48, 64))
    )
    wanted = pl.Series(picture.convert("L").tobytes()) > 0
    both = pl.Series(drawn.ravel()) > 0
    assert (both & wanted).sum() / (both | wanted).sum() > 0.95  # type: ignore[operator]
    report = json.loads((out / ".oid_async-export.json").read_text())
    assert report["annotations"] == {"bbox": 2, "segmentation": 1}


def voc_boxes(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    for path in (out / "Annotations").iterdir():
        root = ET.parse(path).getroot()
        boxes = []
        for each in root.iter("object"):
            box = each.find("bndbox")
            assert box is not None
            left, top, right, bottom = (int(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((each.findtext("name"), left - 1, top - 1, right, bottom))
        found[root.findtext("filename", "")] = boxes
    return found


async def test_voc_boxes_are_the_tables(demo: Path, tmp_path: Path) -> None:
    """Boxes lie within half a pixel; flags, sizes, authors and lists of each split are those of the tables."""
    out = await exported(demo, "voc", out=tmp_path / "v")
    sizes = {row["FileName"]: row for row in read_manifest(demo) if row["Status"] == "ok"}
    wanted, found = boxes_by_image(demo), voc_boxes(out)
    assert found.keys() == sizes.keys()
    for name, boxes in found.items():
        width, height = sizes[name]["Width"], sizes[name]["Height"]
        pixels = [
            (called, left * width, top * height, right * width, bottom * height)
            for called, left, top, right, bottom in wanted.get(name, [])
        ]
        assert close(boxes, pixels, 0.5 + 1e-9), name
    flags = Counter[str]()
    for path in (out / "Annotations").iterdir():
        root = ET.parse(path).getroot()
        row = sizes[root.findtext("filename", "")]
        assert root.findtext("owner/name") == row["Author"]
        for each in root.iter("object"):
            flags.update(name for name in ("difficult", "truncated", "occluded") if each.findtext(name) == "1")
    rows = read_csv(demo / "bbox" / "bbox.csv")
    columns = {"difficult": "IsGroupOf", "truncated": "IsTruncated", "occluded": "IsOccluded"}
    assert flags == Counter({name: sum(row[column] == "1" for row in rows) for name, column in columns.items()})
    lists = {path.stem: path.read_text().split() for path in (out / "ImageSets" / "Main").iterdir()}
    assert {name: len(stems) for name, stems in lists.items()} == Counter(row["Subset"] for row in sizes.values())


async def test_voc_holds_what_xml_cannot(tmp_path: Path) -> None:
    """Control characters and markup in a title leave a file that parses."""
    path = SavedFolder([SavedImage(ONE, title="a\x07 <b> & ]]> \ufffe\r z")]).write(tmp_path / "d")
    out = await exported(path, "voc")
    root = ET.parse(next((out / "Annotations").iterdir())).getroot()
    assert root.findtext("source/title") == "a <b> & ]]> \r z"


async def test_class_names_with_control_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format takes them and keeps them; VOC leaves out what XML cannot hold, and YAML has escapes."""
    name = "Dog\x1b[31m\x7f\x85\x9b\u2028\u202e\r\n\ufffe <é🐶>"
    monkeypatch.setitem(NAMES, "/m/0bt9lr", name)
    monkeypatch.setitem(NAMES, "/m/01226z", f"{name}\x1b")
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, "/m/0bt9lr"), SavedBox(ONE, "/m/01226z")]).write(
        tmp_path / "d"
    )
    out = {form: await exported(path, form) for form in FORMATS}
    document = json.loads((out["coco"] / "annotations" / "instances_train.json").read_text())
    assert name in [category["name"] for category in document["categories"]]
    root = ET.parse(next((out["voc"] / "Annotations").iterdir())).getroot()
    plain = name.replace("\x1b", "").replace("\ufffe", "")
    assert {each.text for each in root.iterfind("object/name")} == {plain, f"{plain} (2)"}
    text = (out["yolo"] / "data.yaml").read_bytes().decode()
    assert name in yolo_names(out["yolo"])
    assert re.fullmatch(r"[\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]+", text)


# --- extreme boxes, every format -----------------------------------------------------------------------------------

SIDE = st.one_of(
    st.sampled_from([0, 1, 500_000, 999_999, 1_000_000]),
    st.integers(0, 1_000_000),
    st.integers(0, 64).map(lambda pixel: pixel * 1_000_000 // 64),
)
SPAN_OF = st.tuples(SIDE, SIDE).map(sorted)
EXTREMES = st.lists(st.tuples(SPAN_OF, SPAN_OF, st.sampled_from(sorted(NAMES))), min_size=1, max_size=6)
SIZES = st.sampled_from([(1, 1), (1, 1024), (64, 48), (1024, 683), (683, 1024)])


@settings(max_examples=5, deadline=None)
@given(rows=EXTREMES, size=SIZES)
def test_extreme_boxes_survive_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], size: tuple[int, int]
) -> None:
    """Boxes of no area, at borders, of one pixel are read back as in the CSV; in VOC within half a pixel, or as one."""
    path = tmp_path_factory.mktemp("extreme")

    def text(value: int) -> str:
        return f"{value / 1_000_000:.6f}"

    boxes = [
        SavedBox(ONE, label, (text(across[0]), text(across[1]), text(down[0]), text(down[1])))
        for across, down, label in rows
    ]
    image = SavedImage(ONE, *size)
    SavedFolder([image], boxes).write(path / "d")
    wanted = boxes_by_image(path / "d")[image.file_name]
    outs = {
        name: asyncio.run(exported(path / "d", name)) for name in ("coco", "yolo", "voc", "fiftyone", "imagefolder")
    }
    assert close(coco_boxes(outs["coco"], "train")[image.file_name], wanted, 1e-6 / min(size) + 1e-9)
    found = yolo_boxes(outs["yolo"], yolo_names(outs["yolo"]))
    assert close(found[image.file_name.removesuffix(".jpg")], wanted, 1e-6)
    names = {row["MID"]: row["Name"] for row in read_csv_pairs(outs["fiftyone"] / "metadata" / "classes.csv")}
    detections = [row for row in read_csv(outs["fiftyone"] / "labels" / "detections.csv") if row["ImageID"] == ONE]
    sides = ("XMin", "YMin", "XMax", "YMax")
    assert close([(names[row["LabelName"]], *(float(row[side]) for side in sides)) for row in detections], wanted, 0)
    line = json.loads((outs["imagefolder"] / "train" / "metadata.jsonl").read_text())
    objects = line["objects"]
    pixels = [(name, *box) for name, box in zip(objects["category"], objects["bbox"], strict=True)]
    width, height = size
    scaled = [(name, x * width, y * height, (z - x) * width, (w - y) * height) for name, x, y, z, w in wanted]
    assert close(pixels, scaled, 1e-6)
    for box in voc_boxes(outs["voc"])[image.file_name]:
        name, left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    thick = [each for each in scaled if each[3] >= 1.5 and each[4] >= 1.5]
    rest = list(voc_boxes(outs["voc"])[image.file_name])
    for name, x, y, across, down in thick:
        assert any(close([(name, x, y, x + across, y + down)], [box], 0.5 + 1e-6) for box in rest)


def read_csv_pairs(path: Path) -> list[dict[str, str]]:
    return read_csv(path)


# --- WebDataset, imagefolder, Parquet, FiftyOne --------------------------------------------------------------------


async def test_webdataset_holds_every_image_once(demo: Path, tmp_path: Path) -> None:
    """Shards keep their size, hold the saved bytes by ImageID, and all samples have the same files."""
    out = await exported(demo, "webdataset", out=tmp_path / "w", shard_size="300K")
    manifest = {row["ImageID"]: row for row in read_manifest(demo) if row["Status"] == "ok"}
    seen: dict[str, dict[str, bytes]] = {}
    shards = sorted(out.glob("*.tar"))
    assert len(shards) > 4
    for shard in shards:
        assert shard.stat().st_size <= 300 << 10
        part = members(shard)
        assert not part.keys() & seen.keys()
        assert {manifest[key]["Subset"] for key in part} == {shard.name.rpartition("-")[0]}
        seen |= part
    assert sorted(seen) == sorted(manifest)
    assert {tuple(files) for files in seen.values()} == {("jpg", "json", "png")}
    boxes = Counter(row["ImageID"] for row in read_csv(demo / "bbox" / "bbox.csv"))
    masks = 0
    for key, files in seen.items():
        row, said = manifest[key], json.loads(files["json"])
        assert files["jpg"] == (demo / "images" / row["FileName"]).read_bytes()
        assert len(said["objects"]["bbox"]) == boxes[key]
        assert (said["author"], said["license"]) == (row["Author"], row["License"])
        with Image.open(io.BytesIO(files["png"])) as numbers:
            assert numbers.size == (said["width"], said["height"])
            seen_numbers = set(numbers.tobytes()) - {0}
        packed = said["objects"]["segmentation"]
        there = {number for number, each in enumerate(packed, 1) if each is not None}
        masks += len(there)
        assert seen_numbers <= there
    assert masks == len(read_csv(demo / "segmentation" / "segmentation.csv"))


# Kills itself in the middle of a sample: the n-th one that this process writes, after so many bytes of it.
KILLED = """
import asyncio, io, os, signal, sys
import oid_async, oid_async.formats.shards as shards
left, torn = int(sys.argv[3]), int(sys.argv[4])
class Torn(io.FileIO):
    def write(self, data):
        global left
        left -= 1
        if left:
            return super().write(data)
        super().write(data[:torn])
        os.kill(os.getpid(), signal.SIGKILL)
shards.open_shard = lambda path, mode: Torn(path, mode)
asyncio.run(oid_async.export(savepath=sys.argv[1], format="webdataset", out=sys.argv[2], shard_size="300K"))
"""


@pytest.mark.programs
def test_a_killed_export_ends_in_the_same_shards(demo: Path, tmp_path: Path) -> None:
    """Killed in the middle of samples and run again, an export has the bytes of one that nobody disturbed."""
    whole = asyncio.run(exported(demo, "webdataset", out=tmp_path / "whole", shard_size="300K"))
    progress = tmp_path / ".killed.oid_async" / "export" / "progress.json"
    done = []
    for samples, torn in ((1, 0), (80, 700), (25, 100_000)):
        command = [sys.executable, "-c", KILLED, demo, tmp_path / "killed", samples, torn]
        ended = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=60)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        done.append(json.loads(progress.read_text())["notes"]["done"] if progress.exists() else 0)
        assert not (tmp_path / "killed").exists()
    assert done == sorted(done)
    assert done[0] == 0 < done[-1]
    out = asyncio.run(exported(demo, "webdataset", out=tmp_path / "killed", shard_size="300K"))
    assert {p.name: p.read_bytes() for p in out.glob("*.tar")} == {p.name: p.read_bytes() for p in whole.glob("*.tar")}
    assert not (out / "progress.json").exists()
    assert not progress.parent.exists()


async def test_imagefolder_lines_speak_of_files(demo: Path, tmp_path: Path) -> None:
    """Every line of metadata.jsonl has its file beside it and the same fields as all others."""
    out = await exported(demo, "imagefolder", out=tmp_path / "i")
    fields, boxes = set(), 0
    for path in out.glob("*/metadata.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        names = {line["file_name"] for line in lines}
        assert names == {file.name for file in path.parent.glob("*.jpg")}
        fields |= {json.dumps([*line, *line["objects"], *line["points"]]) for line in lines}
        boxes += sum(len(line["objects"]["bbox"]) for line in lines)
    assert len(fields) == 1
    assert boxes == len(read_csv(demo / "bbox" / "bbox.csv"))


async def test_duckdb_reads_the_parquet(demo: Path, tmp_path: Path) -> None:
    """Rows, bytes and nested lists are there for a program that is not ours; files keep their size."""
    out = await exported(demo, "parquet", out=tmp_path / "p", shard_size="300K")
    assert len(list(out.glob("train-*.parquet"))) > 2
    table = f"'{out}/*.parquet'"
    counted = rows_of(
        f"select count(*), sum(len(objects.bbox)), sum(len(masks)), sum(len(labels.label)), sum(len(captions)), "
        f"sum(len(relationships.predicate)), sum(len(points.xy)) from {table}"
    )
    names = ("bbox/bbox", "segmentation/segmentation", "label/labels", "relationship/relationship", "point/points")
    boxes, masks, labels, relations, points = (len(read_csv(demo / f"{name}.csv")) for name in names)
    captions = len((demo / "narrative" / "narratives.jsonl").read_text().splitlines())
    images = [row for row in read_manifest(demo) if row["Status"] == "ok"]
    assert counted == [(len(images), boxes, masks, labels, captions, relations, points)]
    for path, body in rows_of(f"select image.path, image.bytes from {table}"):
        assert body == (demo / "images" / path).read_bytes()


async def test_fiftyone_has_all_five_label_files(demo: Path, tmp_path: Path) -> None:
    """The importer's layout: images by id, every label file with its columns and as many rows as the tables."""
    out = await exported(demo, "fiftyone", out=tmp_path / "f")
    rows = {path.stem: read_csv(path) for path in (out / "labels").glob("*.csv")}
    tables = {
        "classifications": "label/labels",
        "detections": "bbox/bbox",
        "relationships": "relationship/relationship",
        "segmentations": "segmentation/segmentation",
        "points": "point/points",
    }
    assert {name: len(found) for name, found in rows.items()} == {
        name: len(read_csv(demo / f"{table}.csv")) for name, table in tables.items()
    }
    assert next(iter(rows["points"][0])) == "ImageId"
    for row in rows["segmentations"]:
        mask = out / "labels" / "masks" / row["MaskPath"][0].upper() / row["MaskPath"]
        assert mask.samefile(demo / "segmentation" / "masks" / row["MaskPath"])
    ids = {row["ImageID"] for row in read_manifest(demo) if row["Status"] == "ok"}
    assert {path.stem for path in (out / "data").iterdir()} == ids
    listed = [line for path in (out / "metadata").glob("*.txt") for line in path.read_text().split()]
    assert sorted(listed) == sorted(ids)
    attributes = {row["MID"] for row in read_csv(out / "metadata" / "attributes.csv")}
    used = {row["LabelName2"] for row in rows["relationships"] if row["RelationshipLabel"] == "is"}
    assert attributes == used
    classes = {row["MID"] for row in read_csv(out / "metadata" / "classes.csv")}
    for name, columns in (("classifications", ["LabelName"]), ("detections", ["LabelName"])):
        assert {row[column] for row in rows[name] for column in columns} <= classes


async def test_fiftyone_of_boxes_alone_has_headers(tmp_path: Path) -> None:
    """A label type that was not saved has a file with its header: without one the importer fails."""
    path = SavedFolder([SavedImage(TWO)], [SavedBox(TWO)]).write(tmp_path / "d")
    out = await exported(path, "fiftyone")
    lines = {file.name: len(file.read_text().splitlines()) for file in (out / "labels").glob("*.csv")}
    assert lines == {
        "classifications.csv": 1,
        "detections.csv": 2,
        "relationships.csv": 1,
        "segmentations.csv": 1,
        "points.csv": 1,
    }


async def test_fiftyone_never_sees_ids_that_are_all_numbers(tmp_path: Path) -> None:
    """Were all ids digits, its importer would find no labels: then a row of no image is added, else none."""
    for ids, more in (([ONE], 1), ([ONE, "00012e4511111111"], 1), ([ONE, TWO], 0)):
        images = [SavedImage(image_id, name=f"{image_id}.jpg") for image_id in ids]
        path = SavedFolder(images, [SavedBox(image_id) for image_id in ids]).write(tmp_path / str(len(ids)) / str(more))
        out = await exported(path, "fiftyone")
        found = [row["ImageID"] for row in read_csv(out / "labels" / "detections.csv")]
        assert found == [*ids, *["no-image"] * more]


# --- real pictures and rows ----------------------------------------------------------------------------------------


@needs_real
async def test_real_pictures_with_real_boxes(tmp_path: Path) -> None:
    """Real JPEGs under real boxes: every format has them all, boxes read back, smaller pictures decode."""
    saved = real_folder(tmp_path / "d")
    counts = (len(read_manifest(saved)), len(read_csv(saved / "bbox" / "bbox.csv")))
    wanted = boxes_by_image(saved)
    for name in FORMATS:
        report = await oid_async.export(savepath=saved, format=name, max_side=300)
        assert (report.images, report.annotations["bbox"]) == counts
    coco = saved / "export" / "coco"
    found = coco_boxes(coco, "train")
    for image in json.loads((coco / "annotations" / "instances_train.json").read_text())["images"]:
        assert close(found[image["file_name"]], wanted[image["file_name"]], 1e-6)
        with Image.open(coco / "images" / "train" / image["file_name"]) as smaller:
            assert smaller.size == (image["width"], image["height"])
            assert max(smaller.size) == 300
            smaller.load()
    for stem, found_boxes in yolo_boxes(saved / "export" / "yolo", list(NAMES.values())).items():
        assert close(found_boxes, wanted[f"{stem}.jpg"], 1e-6)


# --- options -------------------------------------------------------------------------------------------------------


def mixed(number: int) -> int:
    """Return splitmix64 as the contract writes it, of seed 0."""
    z = (number + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


async def test_splits_follow_the_hash(demo: Path, tmp_path: Path) -> None:
    """--splits gives an image the part that its id says, whatever else is exported."""
    out = await exported(demo, "coco", out=tmp_path / "c", splits="70/20/10")
    ends = {"train": Fraction(7, 10), "validation": Fraction(9, 10), "test": Fraction(1)}
    seen = 0
    for name in ends:
        document = json.loads((out / "annotations" / f"instances_{name}.json").read_text())
        seen += len(document["images"])
        for image in document["images"]:
            share = Fraction(mixed(int(image["open_images_id"], 16)), 2**64)
            assert name == next(part for part, end in ends.items() if share < end)
    assert seen == sum(row["Status"] == "ok" for row in read_manifest(demo))


@pytest.mark.parametrize("processes", [2, pytest.param(1, marks=pytest.mark.slow)])
async def test_max_side_makes_images_and_masks_smaller(tmp_path: Path, processes: int) -> None:
    """Longer images come down to N, shorter ones stay the same file; boxes are in pixels of what is there."""
    large, small = SavedImage(ONE, 200, 100, picture=picture(200, 100, 6)), SavedImage(TWO, 40, 30)
    box = SavedBox(ONE, sides=("0.1", "0.5", "0.2", "0.6"))
    mask = (box, rectangle(400, 200, (40, 40, 200, 120)))
    folder = SavedFolder([large, small], [box, SavedBox(TWO)], [mask] * (300 if processes > 1 else 1))
    path = folder.write(tmp_path / "d")
    out = await exported(path, "coco", max_side=50, processes=processes)
    with Image.open(out / "images" / "train" / large.file_name) as image:
        assert image.size == (50, 25)
        assert image.getexif()[0x0112] == 6, "how to turn it is kept, and not done"
        image.load()
    assert (out / "images" / "train" / small.file_name).samefile(path / "images" / small.file_name)
    document = json.loads((out / "annotations" / "instances_train.json").read_text())
    assert [(each["width"], each["height"]) for each in document["images"]] == [(50, 25), (40, 30)]
    first = document["annotations"][0]
    assert first["bbox"] == [5, 5, 20, 10]
    assert first["segmentation"]["size"] == [25, 50]
    assert list(coco_masks.toBbox(first["segmentation"])) == [5, 5, 20, 10]
    shards = await exported(path, "webdataset", max_side=50, processes=processes)
    files = members(shards / "train-000000.tar")[ONE]
    with Image.open(io.BytesIO(files["jpg"])) as image, Image.open(io.BytesIO(files["png"])) as numbers:
        assert image.size == numbers.size == (50, 25)
    fiftyone = await exported(path, "fiftyone", max_side=50, processes=processes)
    with Image.open(next((fiftyone / "labels" / "masks").rglob("*.png"))) as image:
        assert image.size == (50, 25)
        assert image.convert("L").getbbox() == (5, 5, 25, 15)


ORPHANS = """
import asyncio, os, sys, time
import oid_async, oid_async.formats.processes as processes
pool_of = processes.ProcessPoolExecutor
def told(*args, **settings):
    pool = pool_of(*args, **settings)
    told = pool.map(processes._apply, [os.getpid] * 2, [[()], [()]])
    print(*{pid for pids in told for pid in pids}, flush=True)
    time.sleep(60)
processes.ProcessPoolExecutor = told
asyncio.run(oid_async.export(savepath=sys.argv[1], format="coco", processes=2))
"""


@pytest.mark.programs
def test_a_killed_export_takes_its_processes_along(demo: Path) -> None:
    """After SIGKILL no process that made pictures is left."""
    script = [sys.executable, "-c", ORPHANS, str(demo)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert pids
    for pid in pids:
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"process {pid} is still there")


@pytest.mark.parametrize(("least", "left"), [(0, 3), (500, 2), (800, 1), ("20%", 2), ("26%", 1)])
async def test_small_boxes_are_left_out(tmp_path: Path, least: float | str, left: int) -> None:
    """--min-box-area takes square pixels of the exported image, or a share; what is left out is counted."""
    sides = [("0", "1", "0", "1"), ("0.25", "0.75", "0.25", "0.75"), ("0", "0.1", "0", "0.1")]
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, sides=each) for each in sides]).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format="coco", min_box_area=least)
    assert report.annotations == {"bbox": left}
    assert report.left_out == ({"bbox: area": 3 - left} if left < 3 else {})


async def test_group_boxes_are_marked_or_left_out(tmp_path: Path) -> None:
    """A box around a group is a crowd in COCO and difficult in VOC, or left out when that is asked for."""
    group = SavedBox(ONE, flags=("0", "0", "1", "0", "0"))
    path = SavedFolder([SavedImage(ONE)], [group, SavedBox(ONE, "/m/0bt9lr")]).write(tmp_path / "d")
    out = await exported(path, "coco")
    document = json.loads((out / "annotations" / "instances_train.json").read_text())
    assert [each["iscrowd"] for each in document["annotations"]] == [1, 0]
    report = await oid_async.export(savepath=path, format="coco", group_boxes="drop")
    assert (report.annotations, report.left_out) == ({"bbox": 1}, {"bbox: group": 1})


async def test_classes_are_mapped_in_the_order_of_the_file(tmp_path: Path) -> None:
    """--class-map says which classes there are, in which order, and what counts as what; the rest is left out."""
    boxes = [SavedBox(ONE, label) for label in NAMES]
    path = SavedFolder([SavedImage(ONE)], boxes).write(tmp_path / "d")
    listed = tmp_path / "map.csv"
    listed.write_text("dog,animal\n/m/01226z,thing\n")
    out = await exported(path, "yolo", class_map=listed)
    assert yolo_names(out) == ["animal", "thing"]
    lines = next((out / "labels" / "train").iterdir()).read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"]
    report = json.loads((out / ".oid_async-export.json").read_text())
    assert report["left_out"] == {"bbox: class": 1}
    listed.write_text("dog,animal\nfootbal\n")
    with pytest.raises(UsageError, match=r"line 2: no class 'footbal'.*nearest: Football"):
        await exported(path, "yolo", class_map=listed)


CONTRADICTIONS = [
    ("dog,animal\nDog,pet\n", r"line 2: 'Dog' is to be 'pet', and 'animal' by line 1"),
    ("dog\n\n# mine\n/m/0bt9lr,pet\n", r"line 4: '/m/0bt9lr' is to be 'pet', and 'Dog' by line 1"),
    ("dog,0\nFootball,0\n", r"line 1: '0' is a number"),
    ("dog,animal,3\n", r"line 1: it takes NAME or NAME,NEW NAME"),
    (",animal\n", r"line 1: it takes NAME"),
    ("\n# nothing\n", r"names no class"),
    ("dog\0\n", r"line 1: no class 'dog\\x00'"),
]


@pytest.mark.parametrize(("text", "said"), CONTRADICTIONS)
async def test_a_class_map_that_contradicts_itself_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """What cannot be meant is an error that names the line, never a map of something else."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, label) for label in NAMES]).write(tmp_path / "d")
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        await exported(path, "yolo", class_map=tmp_path / "map.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
async def test_a_class_map_may_be_what_a_spreadsheet_writes(encoding: str, tmp_path: Path) -> None:
    """Encodings with their mark, CRLF, quotes, comments and the header of label_data.csv are tolerated."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, label) for label in NAMES]).write(tmp_path / "d")
    text = 'LabelName,Category\r\n/m/0bt9lr,"animal, alive"\r\n\r\nFootball  # round\r\nfootball\r\n'
    (tmp_path / "map.csv").write_bytes(text.encode(encoding))
    assert yolo_names(await exported(path, "yolo", class_map=tmp_path / "map.csv")) == ["animal, alive", "Football"]


async def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    """--copy copies, without it images are links; either way what is there is the saved image."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    for copy in (True, False):
        out = await exported(path, "imagefolder", copy=copy)
        image = out / "train" / SavedImage(ONE).file_name
        assert image.samefile(path / "images" / image.name) is not copy
        assert image.read_bytes() == (path / "images" / image.name).read_bytes()


async def test_rotation_is_said_and_not_done(tmp_path: Path) -> None:
    """How an image is to be turned stands beside it; its pixels, size and boxes are as saved."""
    image = SavedImage(ONE, rotation=90.0)
    path = SavedFolder([image], [SavedBox(ONE)]).write(tmp_path / "d")
    document = json.loads(((await exported(path, "coco")) / "annotations" / "instances_train.json").read_text())
    assert document["images"][0]["rotation"] == 90
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (64, 48)


async def test_links_on_another_disk_are_symbolic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no hard link can be made a symbolic one takes no space either, and leads to the image from anywhere."""

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "another disk")

    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.chdir(tmp_path)
    out = await exported(Path("d"), "voc", out=tmp_path / "out" / "v")
    image = out / "JPEGImages" / SavedImage(ONE).file_name
    assert image.is_symlink()
    assert image.samefile(path / "images" / image.name)


async def test_ids_of_a_users_own(tmp_path: Path) -> None:
    """An id that is not 16 hex digits keeps its box; a shard has no dot in it, and in FiftyOne it must name a file."""
    images = [SavedImage("my.photo/1", name="a.jpg"), SavedImage("z" * 120, name="b.jpg", subset=None)]
    boxes = [SavedBox(image.image_id, "/m/0bt9lr") for image in images]
    path = SavedFolder(images, boxes).write(tmp_path / "d")
    shard = members(await exported(path, "webdataset") / "train-000000.tar")
    assert list(shard) == ["my%2Ephoto%2F1", "z" * 120]
    assert [json.loads(files["json"])["image_id"] for files in shard.values()] == [image.image_id for image in images]
    document = json.loads((await exported(path, "coco") / "annotations" / "instances_train.json").read_text())
    assert (
        len({image["id"] for image in document["images"]} & {each["image_id"] for each in document["annotations"]}) == 2
    )
    report = await oid_async.export(savepath=path, format="yolo", splits="50/50")
    assert sum(report.splits.values()) == 2
    with pytest.raises(InputError, match="cannot name a file, and FiftyOne"):
        await exported(path, "fiftyone")


async def test_a_subset_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    """What a table says of the split becomes the name of a folder, and nothing else."""
    path = SavedFolder([SavedImage(ONE, subset="../../up")], [SavedBox(ONE)]).write(tmp_path / "d")
    for name in FORMATS:
        report = await oid_async.export(savepath=path, format=name, out=tmp_path / "out" / name)
        assert report.splits == {"______up": 1}
    assert sorted(os.listdir(tmp_path)) == ["d", "out"]
    assert "val: images/______up" in (tmp_path / "out" / "yolo" / "data.yaml").read_text()


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_of_an_empty_selection(tmp_path: Path, name: str) -> None:
    """No image is an export of none, not an error."""
    path = SavedFolder([]).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format=name)
    assert (report.images, report.splits) == (0, {})
    assert report.out == str(path / "export" / name)


@pytest.mark.parametrize("kind", ["none", *KINDS])
async def test_every_format_of_each_kind_alone(demo: Path, tmp_path: Path, kind: str) -> None:
    """Whatever alone was saved is exported, or said to have no place; the images are there in any case."""
    others = [other.folder for name, other in KINDS.items() if name != kind]
    path = tmp_path / "d"
    shutil.copytree(demo, path, copy_function=os.link, ignore=shutil.ignore_patterns(*others, "export", ".oid_async"))
    images = sum(row["Status"] == "ok" for row in read_manifest(path))
    for name in FORMATS:
        said: list[str] = []

        def listen(event: object, said: list[str] = said) -> None:
            if isinstance(event, Note):
                said.append(event.text)

        report = await oid_async.export(savepath=path, format=name, out=tmp_path / name, on_event=listen, no_files=True)
        assert report.images == images
        homeless = any(line.startswith(f"{name} has no place for") for line in said)
        assert (sum(report.annotations.values()) > 0) is (kind != "none" and not homeless)


BROKEN = {
    "image: not there": "000000d100000001",
    "image: cut or changed": "000000d200000002",
    "image: no width and height": "000000d300000003",
    "image: no picture that Pillow reads": "000000d400000004",
    "image: no size or no scan in it": "000000d500000005",
}


@pytest.mark.parametrize("name", FORMATS)
async def test_a_broken_image_holds_up_no_other(tmp_path: Path, name: str) -> None:
    """Missing, cut, without a size, refused by Pillow: left out with its rows, counted and named; the rest is there."""
    images = [SavedImage(ONE), SavedImage(TWO)]
    pictures = {
        "image: no picture that Pillow reads": REFUSED["no tables"],
        "image: no size or no scan in it": b"no JPEG",
    }
    images += [SavedImage(each, picture=pictures.get(why)) for why, each in BROKEN.items()]
    path = SavedFolder(images, [SavedBox(image.image_id) for image in images]).write(tmp_path / "d")
    missing, cut, unsized, refused, odd = (SavedImage(each).file_name for each in BROKEN.values())
    (path / "images" / missing).unlink()
    os.truncate(path / "images" / cut, 90)
    manifest = pl.read_parquet(path / "manifest.parquet")
    width = pl.when(FileName=unsized).then(None).otherwise("Width").alias("Width")
    manifest.with_columns(width).write_parquet(path / "manifest.parquet")
    said: list[str] = []

    report = await oid_async.export(savepath=path, format=name, max_side=32, on_event=notes_into(said))
    assert (report.images, report.annotations) == (2, {"bbox": 2})
    assert report.left_out == {**dict.fromkeys(BROKEN, 1), "bbox: image left out": 5}
    for why, image_id in BROKEN.items():
        assert f"left out: 1 of {why} ({SavedImage(image_id).file_name})" in said
    assert f"oid-async verify {path} --repair fetches the images again that were left out" in said
    found = str(read_texts(Path(report.out)))
    assert not any(each.removesuffix(".jpg") in found for each in (missing, cut, unsized, refused, odd))
    full = await oid_async.export(savepath=path, format=name, out=tmp_path / "full")
    # Crops are decoded in any case.
    assert full.images == (2 if name == "crops" else 3)


def read_texts(folder: Path) -> list[str]:
    return [
        each.read_text() for each in folder.rglob("*") if each.suffix in (".txt", ".json", ".jsonl", ".csv", ".xml")
    ]


async def test_a_folder_of_nothing_but_broken_images_is_an_error(tmp_path: Path) -> None:
    """Nothing exported is no success."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE)]).write(tmp_path / "d")
    (path / "images" / SavedImage(ONE).file_name).unlink()
    with pytest.raises(InputError, match=r"none of its images can be exported; left out: 1 of image: not there"):
        await exported(path, "coco", out=tmp_path / "out" / "x")
    assert list((tmp_path / "out").iterdir()) == []
    report = await oid_async.export(savepath=path, format="coco", no_files=True)
    assert report.images == 1


@pytest.mark.parametrize("name", ["coco", "yolo", "webdataset", "parquet", "fiftyone"])
async def test_a_broken_mask_is_left_out(tmp_path: Path, name: str) -> None:
    """Its box stays; the other masks are there."""
    boxes = [SavedBox(ONE), SavedBox(TWO)]
    whole = io.BytesIO()
    Image.new("1", (64, 48), 1).save(whole, "PNG")
    masks = [(boxes[0], whole.getvalue()), (boxes[1], whole.getvalue()[:50])]
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], boxes, masks).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format=name)
    assert report.annotations == {"bbox": 2, "segmentation": 1}
    assert report.left_out == {"segmentation: no mask that Pillow reads": 1}


@pytest.mark.parametrize("name", FORMATS)
async def test_boxes_are_clipped_to_their_image(tmp_path: Path, name: str) -> None:
    """A little outside is clipped; wholly outside, turned round or far out is left out and counted."""
    sides = {
        "clipped": ("-0.005", "0.5", "0.5", "1.009999"),
        "no area": ("0.5", "0.5", "0.1", "0.2"),
        "beyond": ("1.0", "1.005", "0.1", "0.2"),
        "turned": ("0.6", "0.5", "0.1", "0.2"),
        "pixels": ("10", "50", "10", "20"),
    }
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE, sides=each) for each in sides.values()]).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format=name)
    # What has no area cannot be cut out.
    empty = {"bbox: less than 1 x 1 px": 1} if name == "crops" else {}
    assert report.annotations == {"bbox": 2 - len(empty)}
    assert report.left_out == {"bbox: outside the image": 2, "bbox: turned round": 1, **empty}
    out, file_name = Path(report.out), SavedImage(ONE).file_name
    boxes: list[tuple[Any, ...]] = []
    if name == "coco":
        boxes = [box[1:] for box in coco_boxes(out, "train")[file_name]]
    elif name == "yolo":
        boxes = [box[1:] for box in yolo_boxes(out, yolo_names(out))[file_name.removesuffix(".jpg")]]
    elif name == "fiftyone":
        rows = [row for row in read_csv(out / "labels" / "detections.csv") if row["ImageID"] == ONE]
        boxes = [tuple(float(row[side]) for side in ("XMin", "YMin", "XMax", "YMax")) for row in rows]
    if boxes:
        assert min(map(min, boxes)) == 0
        assert max(map(max, boxes)) == pytest.approx(1)


LABELS_OF_PAIR = ("LabelName1", "LabelName2")


async def test_points_and_pairs_are_clipped_too(tmp_path: Path) -> None:
    """Relationship boxes and points in every format that has them; far out is left out and counted."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    pair = ",".join(("ImageID", *LABELS_OF_PAIR, *PAIR_SIDES, "RelationshipLabel", "Category1", "Category2"))
    rows = ["-0.004,0.5,0,1.003,0,1,0,1", "0,1,0,1,0,1,0,90"]
    (path / "relationship").mkdir()
    lines = "".join(f"{ONE},/m/1,/m/2,{row},at,A,B\n" for row in rows)
    (path / "relationship" / "relationship.csv").write_text(f"{pair}\n{lines}")
    (path / "point").mkdir()
    lines = "".join(f"{ONE},{row},/m/1,yes,A\n" for row in ("-0.004,1.004", "0.3,0.25", "200,100"))
    (path / "point" / "points.csv").write_text(f"ImageID,X,Y,Label,EstimatedYesNo,Category\n{lines}")
    left = {"point: outside the image": 1, "relationship: outside the image": 1}
    report = await oid_async.export(savepath=path, format="imagefolder")
    assert (report.annotations["point"], report.annotations["relationship"], report.left_out) == (2, 1, left)
    line = json.loads((Path(report.out) / "train" / "metadata.jsonl").read_text())
    assert line["points"]["xy"] == [[0, 48], [19.2, 12]]
    assert line["relationships"]["subject_bbox"] == [[0, 0, 32, 48]]
    report = await oid_async.export(savepath=path, format="fiftyone")
    points = read_csv(Path(report.out) / "labels" / "points.csv")
    assert [(row["X"], row["Y"]) for row in points if row["ImageId"] == ONE] == [("0", "1"), ("0.3", "0.25")]


async def test_rows_that_name_no_class_or_place_are_left_out(tmp_path: Path) -> None:
    """Of tables that a user has changed: counted, and in no format an error; a class without a name has its MID."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE), SavedBox(ONE, "/m/0bt9lr")]).write(tmp_path / "d")
    boxes = path / "bbox" / "bbox.csv"
    boxes.write_text(boxes.read_text().replace(",/m/01g317,", ",,"))
    pair = ",".join(("ImageID", *LABELS_OF_PAIR, *PAIR_SIDES, "RelationshipLabel", "Category1", "Category2"))
    tables = {
        "label/labels.csv": (
            "ImageID,Source,LabelName,Confidence,Category",
            *("verification,/m/1,x,", "verification,,1,A", ",/m/2,0,B"),
        ),
        "point/points.csv": (
            "ImageID,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,Category",
            *("0.5,0.5,/m/1,,ih,,x,0,", "0.5,0.5,,yes,ih,1,0,0,A", "0.5,?,/m/1,yes,ih,1,0,0,A"),
        ),
        "relationship/relationship.csv": (
            pair,
            *(
                "/m/1,/m/2,0,1,0,1,0,1,0,1,at,,",
                "/m/1,,0,1,0,1,0,1,0,1,at,A,B",
                "/m/1,/m/2,0,1,0,1,0,1,0,1,,A,B",
                "/m/1,/m/2,nan,1,0,1,0,1,0,1,at,A,B",
            ),
        ),
    }
    for name, (head, *rows) in tables.items():
        (path / name).parent.mkdir()
        (path / name).write_text("\n".join((head, *(f"{ONE},{row}" for row in rows), "")))
    (path / "narrative").mkdir()
    captions = "".join(json.dumps({"image_id": ONE, "caption": caption}) + "\n" for caption in (None, "A dog."))
    (path / "narrative" / "narratives.jsonl").write_text(captions)
    left = {
        "bbox: no class": 1,
        "label: no class": 1,
        "narrative: no caption": 1,
        "point: no class": 1,
        "point: no numbers": 1,
        "relationship: no class": 2,
        "relationship: no numbers": 1,
    }
    for form in FORMATS:
        report = await oid_async.export(savepath=path, format=form)
        kept = {"bbox": 1, "label": 2, "narrative": 1, "point": 1, "relationship": 1}
        assert report.annotations.items() <= kept.items(), form
        known = {reason: count for reason, count in left.items() if reason.partition(":")[0] in report.annotations}
        assert report.left_out == known, form
    record = (path / "export" / "tfrecord" / "train-00000-of-00001.tfrecord").read_bytes()
    assert b"image/point/text\x12\x08\x0a\x06\x0a\x04/m/1" in record


async def test_columns_that_a_user_has_removed(tmp_path: Path) -> None:
    """A class without names has its MIDs; without a column that says what or where it is, the table is named."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE)], labels=[]).write(tmp_path / "d")
    (path / "label").mkdir()
    (path / "label" / "labels.csv").write_text(f"ImageID,LabelName\n{ONE},/m/1\n")
    boxes = pl.read_csv(path / "bbox" / "bbox.csv", infer_schema=False).drop("Category")
    boxes.write_csv(path / "bbox" / "bbox.csv")
    out = await exported(path, "cvat")
    assert [row["label"] for row in read_csv(out / "labels.csv")] == ["/m/01g317", "/m/1"]
    line = json.loads((await exported(path, "imagefolder") / "train" / "metadata.jsonl").read_text())
    assert (line["objects"]["category"], line["labels"]["category"]) == (["/m/01g317"], [None])
    (path / "point").mkdir()
    (path / "point" / "points.csv").write_text(f"ImageID,X,Label\n{ONE},0.5,/m/1\n")
    with pytest.raises(InputError, match=r"points\.csv: column 'Y' is missing: its points cannot be exported"):
        await exported(path, "cvat")
    boxes.drop("XMax").write_csv(path / "bbox" / "bbox.csv")
    with pytest.raises(InputError, match=r"bbox\.csv: column 'XMax' is missing: its boxes cannot be exported"):
        await exported(path, "kitti")


@pytest.mark.parametrize("name", FORMATS)
async def test_rows_that_do_not_fit_are_an_error(tmp_path: Path, name: str) -> None:
    """A table with rows of an image that the manifest does not have is no half export."""
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], [SavedBox(ONE), SavedBox(TWO)]).write(tmp_path / "d")
    manifest = pl.read_parquet(path / "manifest.parquet")
    manifest.head(1).write_parquet(path / "manifest.parquet")
    with pytest.raises(InputError, match="2 rows of bbox were planned and 1 written"):
        await exported(path, name)
    assert not (path / "export" / name).exists()


async def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """What is no export of ours is not replaced; an earlier export is."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        await exported(path, "coco", out=mine)
    assert (mine / "letter.txt").read_text() == "dear"
    out = await exported(path, "coco", out=tmp_path / "out")
    again = await exported(path, "voc", out=tmp_path / "out")
    assert out == again
    assert {entry.name for entry in out.iterdir()} >= {"JPEGImages", "Annotations"}
    assert not (out / "annotations").exists()


async def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    """It is one line and the machine's exit code, not a traceback."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x", Path("/proc/x")):
        with pytest.raises(StorageError):
            await exported(path, "coco", out=place)


async def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    """Where no download has ended there is nothing to export, and one line says so."""
    with pytest.raises(InputError, match="there is no manifest to export from"):
        await exported(tmp_path, "coco")


async def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    """While one export writes there, another says so and leaves its work alone."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    stage = tmp_path / ".out.oid_async"
    (stage / "export").mkdir(parents=True)
    held = os.open(stage, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(LockedError, match="another export into it is on"):
        await exported(path, "coco", out=tmp_path / "out")
    assert (stage / "export").is_dir()
    os.close(held)
    await exported(path, "coco", out=tmp_path / "out")
    assert not stage.exists()


async def test_cancelled_it_leaves_nothing(demo: Path, tmp_path: Path) -> None:
    """Whoever cancels an export gets the loop back soon, and finds neither an export nor a rest of one."""

    def listen(event: object) -> None:
        if isinstance(event, Note):
            task.cancel()

    task = asyncio.create_task(exported(demo, "coco", out=tmp_path / "out" / "c", on_event=listen))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "out").iterdir()) == []


async def test_whoever_listens_is_called_on_the_loop_and_may_stop_it(demo: Path, tmp_path: Path) -> None:
    """What a sink raises ends the export, which leaves nothing."""
    loop = asyncio.get_running_loop()

    def listen(event: object) -> None:
        assert asyncio.get_running_loop() is loop
        raise RuntimeError("enough")

    async def hold_up_the_loop() -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251 - on purpose
            await asyncio.sleep(0)

    # The export is done before a loop that is busy has called the sink even once.
    busy = asyncio.create_task(hold_up_the_loop())
    try:
        with pytest.raises(RuntimeError, match="enough"):
            await exported(demo, "coco", out=tmp_path / "out" / "c", on_event=listen)
    finally:
        busy.cancel()
    assert list((tmp_path / "out").iterdir()) == []


# --- the other door ------------------------------------------------------------------------------------------------


def test_the_command_line_exports(tmp_path: Path) -> None:
    """`export` prints one object with --json; a wrong format and a format left out are usage errors."""
    path = SavedFolder([SavedImage(ONE)], [SavedBox(ONE)]).write(tmp_path / "d")
    done = run_cli("export", path, "--format", "yolo", "--json")
    report = json.loads(done.stdout)
    assert (done.code, report["images"], report["annotations"]) == (0, 1, {"bbox": 1})
    assert Path(report["out"]) == path / "export" / "yolo"
    wrong = typed("export", path, "--format", "darknet")
    assert wrong.code == 2
    assert "coco, yolo, voc" in wrong.stderr
    none = typed("export", path, "--json")
    assert none.code == 2
    assert "--format" in json.loads(none.stdout)["error"]["message"]


async def test_download_exports_too(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """`download --format` exports what landed, with the options of export; query.json is of the query alone."""
    report = await oid_async.download(
        categories=["Football"], splits=["validation"], mirror=lookalike, savepath=tmp_path / "d", format="yolo"
    )
    assert report.export["images"] == report.downloaded
    assert (tmp_path / "d" / "export" / "yolo" / "data.yaml").is_file()
    assert "format" not in json.loads((tmp_path / "d" / "query.json").read_text())["query"]
    assert report.as_json()["export"]["format"] == "yolo"


def test_export_options_need_a_format() -> None:
    """An option of an export without one is a slip that is told."""
    with pytest.raises(UsageError, match="--max-side is about an export: say --format"):
        Options(max_side=5)
