"""Tasks for Label Studio, read back by hand: regions in per cent, brush strokes, the configuration, addresses."""

import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from support.odd_folder import ODD_NAMES, TITLE, odd_folder, table_boxes
from support.published import read_csv, read_manifest
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.formats.mask_shapes import brush_mask

ONE, TWO = "0000048549557964", "1234567890abcdef"


def tasks_of(out: Path) -> list[dict[str, Any]]:
    """Return the tasks of every split; each stands in a line of its own."""
    found = []
    for path in sorted(out.glob("tasks_*.json")):
        tasks = json.loads(path.read_text())
        assert path.read_text().count("\n") == len(tasks) + 2
        assert all(task["data"]["split"] == path.stem.removeprefix("tasks_") for task in tasks)
        found += tasks
    return found


def results(task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    (annotation,) = task["annotations"]
    return [each for each in annotation["result"] if each["type"] == kind]


def brushed(rle: list[int], width: int, height: int) -> Any:
    """Return a brush stroke as bool [height, width]: the decoder of the package rle-pack, in Python."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, count = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * count if is_run else [take(word) for _ in range(count)]
    pixels = np.array(values).reshape(height, width, 4)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 3] == 255


async def test_labelstudio_has_what_the_tables_say(tmp_path: Path) -> None:
    """Every box, mask, flag, label and picture; the configuration has each name that the tasks use."""
    saved = odd_folder(tmp_path / "odd")
    report = await oid_async.export(savepath=saved, format="labelstudio", out=tmp_path / "l")
    out = Path(report.out)
    config = ET.parse(out / "label_config.xml").getroot()
    controls = {each.get("name"): [item.get("value") for item in each] for each in config}
    plain = [name.replace("\ufffe", "") for name in ODD_NAMES.values()]
    assert sorted(map(str, controls["box"])) == sorted(plain)
    assert controls["box"] == controls["mask"]
    manifest, wanted, counts = (
        {row["FileName"]: row for row in read_manifest(saved)},
        table_boxes(saved),
        Counter[str](),
    )
    tasks = tasks_of(out)
    assert len({task["id"] for task in tasks}) == len(tasks) == len(manifest)
    for task in tasks:
        data = task["data"]
        row = manifest.pop(data["file_name"])
        place = urlsplit(data["image"])
        assert (place.path, place.query[:2]) == ("/data/local-files/", "d=")
        file = out / unquote(place.query[2:])
        assert file.samefile(saved / "images" / row["FileName"])
        assert (data["title"], data["author"], data["license"]) == (TITLE, row["Author"], row["License"])
        boxes = [
            (
                *each["value"]["rectanglelabels"],
                each["value"]["x"] / 100,
                each["value"]["y"] / 100,
                (each["value"]["x"] + each["value"]["width"]) / 100,
                (each["value"]["y"] + each["value"]["height"]) / 100,
            )
            for each in results(task, "rectanglelabels")
        ]
        rows = wanted.get(row["FileName"], [])
        assert [box[0] for box in boxes] == [box[0] for box in rows]
        assert [box[1:] for box in boxes] == [pytest.approx(box[1:], abs=2e-8) for box in rows]
        for each in results(task, "brushlabels"):
            counts["masks"] += 1
            assert (each["original_width"], each["original_height"]) == (row["Width"], row["Height"])
            assert each["value"]["brushlabels"][0] in controls["mask"]
            brushed(each["value"]["rle"], row["Width"], row["Height"])
        by_id = {each["id"]: each for each in results(task, "rectanglelabels")}
        for each in results(task, "choices"):
            assert {by_id[each["id"]]["meta"][word.replace(" ", "_")] for word in each["value"]["choices"]} == {1}
        labels = {
            each["from_name"]: [word for (word,) in each["value"]["taxonomy"]] for each in results(task, "taxonomy")
        }
        for name, words in labels.items():
            counts[name] += len(words)
            assert set(words) <= set(controls[name])
    assert not manifest
    rows_of = Counter(row["Confidence"] for row in read_csv(saved / "label" / "labels.csv"))
    assert counts == {"masks": report.annotations["segmentation"], "labels": rows_of["1"], "absent": rows_of["0"]}


def test_a_brush_stroke_is_the_mask(tmp_path: Path) -> None:
    """Runs of every length, noise, nothing, all: what a decoder makes of it is the picture."""
    random = np.random.default_rng(7)
    drawn = {
        "noise": random.random((31, 47)) > 0.5,
        "long": np.zeros((300, 200), bool),
        "nothing": np.zeros((1, 1), bool),
    }
    drawn["long"][150:, 7:] = True
    drawn["all"] = np.ones((200, 200), bool)
    for name, mask in drawn.items():
        height, width = mask.shape
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        assert (brushed(list(brush_mask(str(tmp_path / f"{name}.png"), width, height)), width, height) == mask).all()


async def test_labelstudio_takes_the_options_of_an_export(tmp_path: Path) -> None:
    """Without files the addresses lead to the saved images; smaller ones say their size; captions and no boxes."""
    saved = SavedFolder([SavedImage(ONE), SavedImage(TWO, name="a b#?.jpg")], [SavedBox(ONE)]).write(tmp_path / "d")
    (saved / "narrative").mkdir()
    lines: list[dict[str, Any]] = [
        {"image_id": ONE, "annotator_id": 1, "caption": text, "dataset_id": "x", "timed_caption": [], "traces": []}
        for text in ("one <b>", 'two "é"')
    ]
    (saved / "narrative" / "narratives.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    report = await oid_async.export(savepath=saved, format="labelstudio", no_files=True)
    one, two = tasks_of(Path(report.out))
    assert [each["value"]["text"] for each in results(one, "textarea")] == [["one <b>", 'two "é"']]
    assert (two["annotations"], two["data"]["image"]) == (
        [{"result": []}],
        "/data/local-files/?d=images/a%20b%23%3F.jpg",
    )
    assert report.annotations == {"bbox": 1, "narrative": 2}
    report = await oid_async.export(savepath=saved, format="labelstudio", max_side=32)
    one, two = tasks_of(Path(report.out))
    (box,) = results(one, "rectanglelabels")
    assert (box["original_width"], box["original_height"], box["value"]["width"]) == (32, 24, 50)
    empty = await oid_async.export(savepath=SavedFolder([]).write(tmp_path / "e"), format="labelstudio")
    assert tasks_of(Path(empty.out)) == []
