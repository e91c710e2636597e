"""What Open Images' own metric needs, in exports: worked out by hand, then by implementations that are not ours.

The official one is `object_detection` of the TensorFlow models (docs/formats.md, "Evaluation"); FiftyOne has another.
What is not installed is skipped by name.
"""

import importlib
import json
import os
import re
import shutil
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.saved import SavedBox, SavedFolder, SavedImage, picture

import oid_async
from oid_async.errors import InputError
from oid_async.formats.class_tree import class_tree
from oid_async.formats.classes import ExportClasses
from oid_async.openimages.hierarchy import Hierarchy

PERSON, MAN, CAT, DOG = "/m/01g317", "/m/04yx4", "/m/01yrx", "/m/0bt9lr"
ONE, TWO = "000000010000000a", "000000020000000b"
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
GROUP = ("0", "0", "1", "0", "0")
# In fractions: XMin, XMax, YMin, YMax.
LEFT, RIGHT = ("0.0", "0.25", "0.0", "0.5"), ("0.5", "1.0", "0.0", "1.0")
TREE = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [{"LabelName": PERSON, "Subcategory": [{"LabelName": MAN}]}, {"LabelName": CAT}],
}
LABELS = (
    (ONE, "verification", PERSON, "1"),
    (ONE, "verification", MAN, "1"),
    (ONE, "verification", CAT, "0"),
    (ONE, "machine", DOG, "0.9"),
    (TWO, "crowdsource-verification", CAT, "1.0"),
    (TWO, "verification", DOG, "1"),
    (TWO, "verification", "/m/other", "1"),
)


def hand_made(path: Path) -> Path:
    """Write a folder: a man beside a group of people, no cat; and a cat and a dog."""
    images = [SavedImage(each, 80, 40, picture=picture(80, 40)) for each in (ONE, TWO)]
    boxes = [
        SavedBox(ONE, MAN, LEFT),
        SavedBox(ONE, PERSON, RIGHT, GROUP),
        SavedBox(TWO, CAT, LEFT),
        SavedBox(TWO, DOG, RIGHT),
    ]
    SavedFolder(images, boxes, labels=[PERSON, MAN, CAT, DOG]).write(path)
    (path / "label").mkdir()
    names = {image.image_id: image.file_name for image in images}
    lines = ["ImageID,Source,LabelName,Confidence,Category,FileName,OriginalURL,Width,Height"]
    lines += [f"{image_id},{source},{mid},{sure},,{names[image_id]},,80,40" for image_id, source, mid, sure in LABELS]
    (path / "label" / "labels.csv").write_text("\n".join(lines) + "\n")
    (path / "bbox" / "hierarchy.json").write_text(json.dumps(TREE))
    return path


async def coco_of(path: Path, **options: Any) -> dict[str, Any]:
    report = await oid_async.export(savepath=path, format="coco", **options)
    found: dict[str, Any] = json.loads((Path(report.out) / "annotations" / "instances_train.json").read_text())
    return found


async def test_images_say_which_classes_a_person_has_verified(tmp_path: Path) -> None:
    """By category ids, in COCO: no labels of machines, nor of other classes; the hierarchy, with names; group boxes."""
    found = await coco_of(hand_made(tmp_path / "d"))
    assert [each["name"] for each in found["categories"]] == ["Person", "Man", "Cat", "Dog"]
    verified = [(each["pos_category_ids"], each["neg_category_ids"]) for each in found["images"]]
    assert verified == [([1, 2], [3]), ([3, 4], [])]
    assert [each["iscrowd"] for each in found["annotations"]] == [0, 1, 0, 0]
    assert [each["attributes"]["group_of"] for each in found["annotations"]] == [0, 1, 0, 0]
    assert found["hierarchy"] == {
        "LabelName": "Entity",
        "Subcategory": [
            {"LabelName": "Person", "Subcategory": [{"LabelName": "Man"}]},
            {"LabelName": "Cat"},
            {"LabelName": "Dog"},
        ],
    }
    report = await oid_async.export(savepath=tmp_path / "d", format="fiftyone", no_files=True)
    assert json.loads((Path(report.out) / "metadata" / "hierarchy.json").read_text()) == found["hierarchy"]


async def test_mapped_classes_are_verified_as_one(tmp_path: Path) -> None:
    """With a class map a class is there if one of its labels is, and absent if all that are verified are."""
    (tmp_path / "map.csv").write_text("Person,Body\nMan,Body\nCat,Pet\nDog,Pet\n")
    found = await coco_of(hand_made(tmp_path / "d"), class_map=tmp_path / "map.csv")
    verified = [(each["pos_category_ids"], each["neg_category_ids"]) for each in found["images"]]
    assert verified == [([1], [2]), ([2], [])]
    below = [each["LabelName"] for each in found["hierarchy"]["Subcategory"]]
    assert below == ["Body", "Pet"]


async def test_without_labels_or_hierarchy_nothing_is_made_up(tmp_path: Path) -> None:
    """A folder of version 0.1.0 has neither: no such fields in COCO, a flat tree in FiftyOne's folder."""
    path = hand_made(tmp_path / "d")
    (path / "label" / "labels.csv").unlink()
    (path / "bbox" / "hierarchy.json").unlink()
    found = await coco_of(path)
    assert "hierarchy" not in found
    assert not {"pos_category_ids", "neg_category_ids"} & found["images"][0].keys()
    report = await oid_async.export(savepath=path, format="fiftyone", no_files=True)
    tree = json.loads((Path(report.out) / "metadata" / "hierarchy.json").read_text())
    assert [each["LabelName"] for each in tree["Subcategory"]] == ["Person", "Man", "Cat", "Dog"]


def test_absurd_hierarchies_end() -> None:
    """A circle, a chain without end in sight, and diamonds upon diamonds become a tree of each class all the same."""
    labels = [f"/m/{number:02}" for number in range(60)]
    classes = ExportClasses.of((label, label) for label in labels)
    circle: dict[str, tuple[str, ...]] = {label: (labels[(at + 1) % 60],) for at, label in enumerate(labels)}
    diamonds: dict[str, tuple[str, ...]] = {
        label: (labels[at + 1], labels[at + 2]) for at, label in enumerate(labels[:-2])
    }
    for children in (circle, diamonds, {}):
        tree = class_tree(classes, Hierarchy(labels[0], children))
        assert set(re.findall(r"/m/[0-9]+", json.dumps(tree))) == set(labels)


async def test_a_download_keeps_the_hierarchy(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """As it is published, beside the first table whose classes it has; `verify` knows it, another query removes it."""
    out = tmp_path / "d"
    query: dict[str, Any] = {"splits": ["validation"], "limit": 3, "mirror": lookalike}
    await oid_async.download(kinds=["bbox", "label"], savepath=out, **query)
    (published,) = (lookalike / "openimages").rglob("*hierarchy.json")
    assert (out / "bbox" / "hierarchy.json").read_bytes() == published.read_bytes()
    (out / "bbox" / "hierarchy.json").write_text("{}")
    with pytest.raises(InputError, match=r"hierarchy\.json: damaged; run the same download again"):
        await oid_async.export(savepath=out, format="coco", edited=True)
    found = await oid_async.verify(savepath=out)
    assert [finding.path for finding in found.findings()] == ["bbox/hierarchy.json"]
    await oid_async.download(kinds=["bbox", "label"], savepath=out, **query)
    # A later run that cannot have it takes nothing away.
    less = tmp_path / "mirror"
    shutil.copytree(lookalike, less, copy_function=os.link)
    (less / published.relative_to(lookalike)).unlink()
    await oid_async.download(kinds=["label"], savepath=out, cache_dir=tmp_path / "c", **query | {"mirror": less})
    assert (out / "label" / "hierarchy.json").read_bytes() == published.read_bytes()
    # But what is damaged is nothing to keep.
    (out / "label" / "hierarchy.json").write_text('{"LabelName": "x"}')
    events: list[object] = []
    again = query | {"mirror": less, "cache_dir": tmp_path / "c"}
    await oid_async.download(kinds=["label"], savepath=out, on_event=events.append, **again)
    assert "label/hierarchy.json is damaged" in str(events)
    assert not list(out.glob("*/hierarchy.json"))
    await oid_async.download(kinds=["label"], savepath=out, **query)
    await oid_async.download(kinds=["point"], savepath=out, **query)
    assert not list(out.glob("*/hierarchy.json"))


# --- by programs that are not ours ----------------------------------------------------------------------------------


def predictions(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return detections in the hand-made case, as COCO's tools take them.

    The man is found as a Man and as a Person; the group twice, as one; a cat where there is none, before the cat that
    there is; a dog in an image of which nobody knows whether one is in it, before the dog that there is.
    """
    ids = {each["name"]: each["id"] for each in found["categories"]}
    images = {each["open_images_id"]: each["id"] for each in found["images"]}
    rows = [
        (ONE, "Man", [0, 0, 20, 20], 0.9),
        (ONE, "Person", [0, 0, 20, 20], 0.8),
        (ONE, "Person", [40, 0, 20, 20], 0.5),
        (ONE, "Person", [60, 20, 20, 20], 0.4),
        (ONE, "Cat", [40, 0, 40, 40], 0.7),
        (ONE, "Dog", [0, 0, 80, 40], 0.6),
        (TWO, "Cat", [0, 0, 20, 20], 0.6),
        (TWO, "Dog", [40, 0, 40, 40], 0.5),
    ]
    return [
        {"image_id": images[image_id], "category_id": ids[name], "bbox": box, "score": score}
        for image_id, name, box, score in rows
    ]


# With the truth expanded the Person on the man is right; else it is wrong, and before the group.
WITH_TREE = {"Person": 1.0, "Man": 1.0, "Cat": 0.5, "Dog": 1.0}
WITHOUT = WITH_TREE | {"Person": 0.5}


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """Return the page's function, with the official implementation. Of TensorFlow it needs names alone."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("object_detection")
    pytest.importorskip("absl")
    monkeypatch.setattr(numpy, "float", float, raising=False)  # it is of the time of numpy 1
    label_maps = "object_detection.utils.label_map_util"
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1", label_maps):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name in ("compat", "compat.v1"):
        parent, _, child = f"tensorflow.{name}".rpartition(".")
        setattr(sys.modules[parent], child, sys.modules[f"tensorflow.{name}"])
    by_id = "create_category_index"
    setattr(sys.modules[label_maps], by_id, lambda categories: {each["id"]: each for each in categories})
    utils = importlib.import_module("object_detection.utils")
    monkeypatch.setattr(utils, "label_map_util", sys.modules[label_maps], raising=False)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def evaluate" in block)
    names: dict[str, Any] = {}
    exec(code, names)

    def by_class(*args: Any, **options: Any) -> dict[str, float]:
        scores = names["evaluate"](*args, **options)
        found = {name.rpartition("/")[2]: score for name, score in scores.items() if "/AP@" in name}
        assert scores["OpenImagesDetectionChallenge_Precision/mAP@0.5IOU"] == pytest.approx(mean(found.values()))
        return found

    return by_class


def mean(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
async def test_the_official_metric_is_that_of_the_hand(
    evaluate: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    """Group, parent, absent and unverified class, with the truth expanded and without; 1.0 for the truth."""
    found = await coco_of(hand_made(tmp_path / "d"))
    assert evaluate(found, predictions(found)) == pytest.approx(WITH_TREE)
    assert evaluate(found, predictions(found), expand=False) == pytest.approx(WITHOUT)
    truth = [each | {"score": 1.0} for each in found["annotations"]]
    assert set(evaluate(found, truth, expand=False).values()) == {1.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
async def test_the_official_metric_of_the_demos_truth_is_one(
    evaluate: Callable[..., dict[str, float]], lookalike: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """Of all classes with boxes: as published, and with truth and detections expanded by the hierarchy."""
    out = tmp_path / "d"
    await oid_async.download(kinds=["bbox", "label"], splits=["train"], mirror=lookalike, savepath=out)
    found = await coco_of(out)
    truth = [each | {"score": 1.0} for each in found["annotations"]]
    scores = evaluate(found, truth, expand=False)
    assert len(scores) > 20
    assert {score for score in scores.values() if score == score} == {1.0}
    names = {each["name"]: each["id"] for each in found["categories"]}
    above = [(names[tree["LabelName"]], names[each]) for tree in nodes(found["hierarchy"]) for each in below(tree)]
    truth += [each | {"category_id": up} for each in truth for up, down in above if each["category_id"] == down]
    assert {score for score in evaluate(found, truth).values() if score == score} == {1.0}


def nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for each in tree.get("Subcategory", ()):
        yield each
        yield from nodes(each)


def below(tree: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(each["LabelName"] for each in nodes(tree)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
async def test_fiftyone_evaluates_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the page's call: 1.0 for the truth, and what was worked out by hand, without a hierarchy."""
    for name, value in (
        ("DO_NOT_TRACK", "1"),
        ("DATABASE_VALIDATION", "false"),
        ("DATABASE_DIR", str(tmp_path / "db")),
    ):
        monkeypatch.setenv(f"FIFTYONE_{name}", value)
    fiftyone = pytest.importorskip("fiftyone")
    path = hand_made(tmp_path / "d")
    # FiftyOne takes a machine's label for a verified one.
    labels = path / "label" / "labels.csv"
    labels.write_text("".join(line for line in labels.open() if ",machine," not in line))
    found = predictions(await coco_of(path))
    report = await oid_async.export(savepath=path, format="fiftyone")
    kinds = ["detections", "classifications"]
    dataset = fiftyone.Dataset.from_dir(report.out, dataset_type=fiftyone.types.OpenImagesV7Dataset, label_types=kinds)
    assert dataset.info["hierarchy"]["Subcategory"][0]["LabelName"] == "Person"
    names, truth = ["Person", "Man", "Cat", "Dog"], defaultdict(list)
    for each in found:
        truth[each["image_id"]].append(each)
    for sample, rows in zip(dataset.sort_by("filepath"), (truth[key] for key in sorted(truth)), strict=True):
        sample["predictions"] = detections(fiftyone, names, rows)
        own = [(each.label, each.bounding_box, 1.0) for each in sample["detections"].detections]
        sample["same"] = fiftyone.Detections(
            detections=[fiftyone.Detection(label=a, bounding_box=b, confidence=c) for a, b, c in own]
        )
        sample.save()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "open-images" in block)
    scope: dict[str, Any] = {"dataset": dataset}
    exec(code, scope)
    assert {name: scope["results"].mAP(classes=[name]) for name in names} == pytest.approx(WITHOUT)
    exec(code.replace('"predictions"', '"same"'), scope)
    assert scope["results"].mAP() == pytest.approx(1.0)


def detections(fiftyone: Any, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Any:
    """Return detections of an image of 80 x 40 pixels as FiftyOne has them."""
    made = []
    for each in rows:
        x, y, width, height = each["bbox"]
        box = [x / 80, y / 40, width / 80, height / 40]
        label = names[each["category_id"] - 1]
        made.append(fiftyone.Detection(label=label, bounding_box=box, confidence=each["score"]))
    return fiftyone.Detections(detections=made)
