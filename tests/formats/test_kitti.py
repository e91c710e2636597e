"""KITTI's label files, read back by a few lines of Python and held against the saved tables."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.odd_folder import ODD_NAMES, odd_folder, table_boxes
from support.published import read_csv, read_manifest
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.formats.kitti import kitti_type

ONE, TWO = "0000048549557964", "1234567890abcdef"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_folder(tmp_path_factory.mktemp("kitti") / "odd")


async def exported(savepath: Path, **options: Any) -> Path:
    return Path((await oid_async.export(savepath=savepath, format="kitti", **options)).out)


def lines_of(out: Path) -> dict[str, list[list[str]]]:
    """Return split/stem -> the fields of each line."""
    return {
        f"{path.parts[-3]}/{path.stem}": [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        for path in out.glob("*/label_2/*.txt")
    }


def name_of(word: str) -> str:
    return unquote(word.replace("_", " "))


async def test_kitti_boxes_are_the_tables(odd: Path, tmp_path: Path) -> None:
    """Each image has a label file of its boxes in their order, of 15 fields; names are turned back; pictures beside."""
    out = await exported(odd, out=tmp_path / "k")
    wanted, found = table_boxes(odd), lines_of(out)
    names = Counter[str]()
    for row in read_manifest(odd):
        name, split = row["FileName"], row["Subset"] or "train"
        assert (out / split / "image_2" / name).samefile(odd / "images" / name)
        lines = found.pop(f"{split}/{name.removesuffix('.jpg')}")
        assert {len(line) for line in lines} <= {15}
        boxes = [
            (name_of(line[0]), *(float(value) / row[side] for value, side in zip(line[4:8], SIZES, strict=True)))
            for line in lines
        ]
        rows = wanted.get(name, [])
        assert [box[0] for box in boxes] == [box[0] for box in rows]
        assert [box[1:] for box in boxes] == [pytest.approx(box[1:], abs=1e-6) for box in rows]
        names.update(box[0] for box in boxes)
        assert {" ".join(line[3:4] + line[8:]) for line in lines} <= {"-10 -1 -1 -1 -1000 -1000 -1000 -10"}
    assert not found
    assert set(names) == set(ODD_NAMES.values())


SIZES = ("Width", "Height", "Width", "Height")


async def test_kitti_flags_and_classes(odd: Path, tmp_path: Path) -> None:
    """Truncated and occluded are 1, 0, -1 for unknown; classes.csv and dataset_meta.json have every type in order."""
    out = await exported(odd, out=tmp_path / "k", no_files=True)
    flags = Counter((line[1], line[2]) for lines in lines_of(out).values() for line in lines)
    rows = read_csv(odd / "bbox" / "bbox.csv")
    assert flags == Counter((row["IsTruncated"], row["IsOccluded"]) for row in rows)
    assert len(flags) == 4
    with (out / "classes.csv").open(newline="", encoding="utf-8") as file:
        classes = list(csv.DictReader(file))
    assert {row["mid"]: row["name"] for row in classes} == ODD_NAMES
    assert [name_of(row["type"]) for row in classes] == list(ODD_NAMES.values())
    assert json.loads((out / "dataset_meta.json").read_text())["labels"] == [row["type"] for row in classes]
    assert not list(out.glob("*/image_2"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2))
def test_kitti_types_are_words_that_can_be_turned_back(names: list[str]) -> None:
    """Whatever a class is called, its type is one word of ASCII, and the name again."""
    words = list(map(kitti_type, names))
    assert list(map(name_of, words)) == names
    assert all(word.isascii() and word.isprintable() and word.split() == [word] for word in words)


async def test_kitti_takes_the_options_of_an_export(tmp_path: Path) -> None:
    """Groups can be left out, images made smaller with their boxes, classes mapped, splits drawn; no box, no line."""
    boxes = [
        SavedBox(ONE, sides=("0", "1", "0.5", "1"), flags=("0", "0", "1", "0", "0")),
        SavedBox(ONE, "/m/0bt9lr", sides=("0.25", "0.75", "0", "1")),
    ]
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO)], boxes).write(tmp_path / "d")
    (tmp_path / "map").write_text("Dog,DontCare\nPerson\n")
    out = await exported(path, group_boxes="drop", max_side=32, class_map=str(tmp_path / "map"), splits="0/100")
    found = lines_of(out)
    stems = [f"validation/{SavedImage(each).file_name.removesuffix('.jpg')}" for each in (ONE, TWO)]
    assert [[line[0], *line[4:8]] for line in found[stems[0]]] == [
        ["DontCare", "8.000000", "0.000000", "24.000000", "24.000000"]
    ]
    assert found[stems[1]] == []
    with Image.open(out / "validation" / "image_2" / SavedImage(ONE).file_name) as image:
        assert image.size == (32, 24)
    assert [*read_csv(out / "classes.csv")[0].values()] == ["DontCare", "DontCare", "/m/0bt9lr"]
