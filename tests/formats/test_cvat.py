"""CVAT's annotations.xml, read back with Python's own parser and held against the saved tables."""

import asyncio
import json
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.odd_folder import ODD_NAMES, TITLE, TWIN, odd_folder, table_boxes
from support.published import read_csv, read_manifest
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

import oid_async

ONE, TWO = "0000048549557964", "1234567890abcdef"
FLAGS = {"truncated": "IsTruncated", "group_of": "IsGroupOf", "depiction": "IsDepiction", "inside": "IsInside"}
STATES = {"0": "false", "1": "true", "-1": "unknown"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_folder(tmp_path_factory.mktemp("cvat") / "odd")


@pytest.fixture(scope="module")
def out(odd: Path) -> Path:
    return asyncio.run(exported(odd))


async def exported(savepath: Path, **options: Any) -> Path:
    return Path((await oid_async.export(savepath=savepath, format="cvat", **options)).out)


def images_of(out: Path) -> dict[str, ET.Element]:
    """Return split/name -> the element of each image, in their order."""
    root = ET.parse(out / "annotations.xml").getroot()
    assert (root.tag, root.findtext("version")) == ("annotations", "1.1")
    images = root.findall("image")
    assert [image.get("id") for image in images] == [str(number) for number in range(len(images))]
    return {f"{image.get('subset')}/{image.get('name')}": image for image in images}


def inside(element: ET.Element) -> dict[str | None, str | None]:
    return {each.get("name"): each.text for each in element.findall("attribute")}


def numbers(element: ET.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


def drawn(mask: ET.Element, width: int, height: int) -> bytes:
    """Return a mask of its image's size, a byte a pixel."""
    left, top, across, down = (int(mask.attrib[name]) for name in ("left", "top", "width", "height"))
    crop = b"".join(
        bytes([value]) * int(run) for run, value in zip(mask.attrib["rle"].split(","), cycle((0, 255)), strict=False)
    )
    assert len(crop) == across * down
    picture = Image.new("L", (width, height))
    picture.paste(Image.frombytes("L", (across, down), crop), (left, top))
    return picture.tobytes()


def test_cvat_boxes_are_the_tables(odd: Path, out: Path) -> None:
    """Each image has its boxes in their order, with every flag; its size, picture, licence, author and title."""
    found, wanted = images_of(out), table_boxes(odd)
    rows = read_csv(odd / "bbox" / "bbox.csv")
    for row in read_manifest(odd):
        name, split = row["FileName"], row["Subset"] or "train"
        image = found.pop(f"{split}/{name}")
        width, height = numbers(image, "width", "height")
        assert (width, height) == (row["Width"], row["Height"])
        boxes, those = image.findall("box"), [each for each in rows if each["FileName"] == name]
        assert [box.get("label") for box in boxes] == [each["Category"] for each in those]
        for box, (_, *sides), each in zip(boxes, wanted.get(name, []), those, strict=True):
            pixels = [side * size for side, size in zip(sides, (width, height) * 2, strict=True)]
            assert numbers(box, "xtl", "ytl", "xbr", "ybr") == pytest.approx(pixels, abs=1e-6)
            assert box.get("occluded") == each["IsOccluded"].replace("-1", "0")
            assert inside(box) == {flag: STATES[each[column]] for flag, column in FLAGS.items()}
        assert (image.get("author"), image.get("license")) == (row["Author"], row["License"])
        assert image.get("title") == TITLE.replace("\x07", "").replace("\ufffe", "")
        assert (out / "images" / split / name).samefile(odd / "images" / name)
    assert not found


def test_cvat_declares_what_it_uses(out: Path) -> None:
    """Every label has one declaration with all its attributes; a flag is chosen from three values."""
    root = ET.parse(out / "annotations.xml").getroot()
    declared: dict[str | None, set[str | None]] = {}
    for label in root.iterfind("meta/project/labels/label"):
        name = label.findtext("name")
        assert name not in declared
        declared[name] = {each.findtext("name") for each in label.iter("attribute")}
        for each in label.iter("attribute"):
            kind, values = each.findtext("input_type"), each.findtext("values", "").split("\n")
            assert (kind, values) == (
                ("select", ["unknown", "false", "true"]) if each.findtext("name") in FLAGS else ("text", [""])
            )
    assert list(declared)[: len(ODD_NAMES)] == list(ODD_NAMES.values())
    for shape in (*root.iter("box"), *root.iter("mask"), *root.iter("tag"), *root.iter("points")):
        assert set(inside(shape)) <= declared[shape.get("label")]
    listed = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert {each["name"]: {inner["name"] for inner in each["attributes"]} for each in listed} == declared
    subsets = root.findtext("meta/project/subsets", "").split("\n")
    assert subsets == [each.text for each in root.iter("subset")] == ["train", "validation", "test"]


def test_cvat_masks_are_the_masks(odd: Path, out: Path) -> None:
    """Each mask is its picture in the image's size; with its box it is a group, of two in the file; one has no box."""
    found = images_of(out)
    rows = {row["MaskPath"]: row for row in read_csv(odd / "segmentation" / "segmentation.csv")}
    seen = []
    for image in found.values():
        size = (int(image.attrib["width"]), int(image.attrib["height"]))
        those = [row for row in rows.values() if row["FileName"] == image.get("name")]
        pictures = []
        for row in those:
            with Image.open(odd / "segmentation" / "masks" / row["MaskPath"]) as picture:
                pictures.append(picture.convert("L").resize(size, Image.Resampling.NEAREST).tobytes())
        masks = image.findall("mask")
        assert Counter(drawn(mask, *size) for mask in masks) == Counter(pictures)
        assert not any(inside(mask) for mask in masks)
        seen += masks
    assert len(seen) == len(rows)
    groups = [box.get("group_id") for image in found.values() for box in image.findall("box") if box.get("group_id")]
    assert groups == ["1", "2", "3"]
    assert sorted((mask.get("group_id") or "", mask.attrib["label"]) for mask in seen)[:1] == [("", "a/b\\c")]


def test_cvat_tags_and_points_of_what_is_not_there(odd: Path, out: Path) -> None:
    """What a person has not seen, or was not sure of, has a label of its own; labels.csv says what each label is."""
    image = next(image for image in images_of(out).values() if image.get("open_images_id") == TWIN)
    labels = {row["label"]: (row["answer"], row["name"]) for row in read_csv(out / "labels.csv")}
    rows = read_csv(odd / "label" / "labels.csv")
    assert {tag.get("subset") for tag in image.findall("tag")} == {image.get("subset")}
    tags = [(*labels[tag.attrib["label"]], inside(tag)["confidence"]) for tag in image.findall("tag")]
    assert tags == [("yes" if row["Confidence"] == "1" else "no", row["Category"], row["Confidence"]) for row in rows]
    rows = read_csv(odd / "point" / "points.csv")
    points = [(*labels[point.attrib["label"]], inside(point)["answer"]) for point in image.findall("points")]
    assert points == [(row["EstimatedYesNo"], row["Category"], row["EstimatedYesNo"]) for row in rows]
    assert {point.get("points") for point in image.findall("points")} == {"16.000000,48.000000"}
    assert labels["no: Traffic light"] == ("yes", "no: Traffic light")
    assert labels["no: Traffic light (2)"] == ("no", "Traffic light")


async def test_cvat_takes_the_options_of_an_export(tmp_path: Path) -> None:
    """Groups can be left out, images made smaller with boxes and masks, classes mapped, splits drawn, no files."""
    boxes = [
        SavedBox(ONE, sides=("0", "1", "0.5", "1"), flags=("0", "0", "1", "0", "0")),
        SavedBox(ONE, "/m/0bt9lr", sides=("0.25", "0.75", "0", "1")),
    ]
    masks = [(boxes[1], rectangle(64, 48, (16, 0, 48, 48)))]
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], boxes, masks).write(tmp_path / "d")
    (tmp_path / "map").write_text("Dog,Beast\nPerson\n")
    given: dict[str, Any] = {"class_map": str(tmp_path / "map"), "splits": "0/100", "no_files": True}
    out = await exported(path, group_boxes="drop", max_side=32, **given)
    one, two = images_of(out).values()
    box, mask = one
    assert (box.tag, box.get("label"), numbers(box, "xtl", "ytl", "xbr", "ybr")) == ("box", "Beast", [8, 0, 24, 24])
    assert (mask.get("label"), numbers(mask, "left", "top", "width", "height")) == ("Beast", [8, 0, 16, 24])
    assert mask.get("rle") == "0,384"
    assert (one.get("subset"), one.get("width"), len(two)) == ("validation", "32", 0)
    assert not (out / "images").exists()


async def test_cvat_without_any_annotation(tmp_path: Path) -> None:
    """Images of which nothing was saved are in the file all the same."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    (image,) = images_of(await exported(path)).values()
    assert len(image) == 0
