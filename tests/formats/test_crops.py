"""Crops: each box of a pixel at least is a picture in the folder of its class, and says so in the tables."""

import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat
from support.odd_folder import ODD_NAMES, odd_folder, table_boxes
from support.published import read_csv, read_manifest, typed
from support.saved import SavedBox, SavedFolder, SavedImage, picture

import oid_async
from oid_async.dataset.export_list import read_list
from oid_async.errors import UsageError
from oid_async.formats.class_folders import class_folders
from oid_async.formats.crops import _stem

ONE, TWO = "0000048549557964", "1234567890abcdef"


async def exported(savepath: Path, **options: Any) -> Path:
    return Path((await oid_async.export(savepath=savepath, format="crops", **options)).out)


def found_in(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*.jpg")}


def edges(row: dict[str, str]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(row[name]) for name in ("Left", "Top", "Right", "Bottom"))
    return left, top, right, bottom


async def test_crops_of_odd_tables(tmp_path: Path) -> None:
    """Boxes of a pixel at least have their crop, others are counted and named; folders lead back to the classes."""
    saved = odd_folder(tmp_path / "odd")
    report = await oid_async.export(savepath=saved, format="crops", out=tmp_path / "c")
    out = Path(report.out)
    rows, classes = read_csv(out / "labels.csv"), read_csv(out / "classes.csv")
    size = {row["FileName"]: (row["Width"], row["Height"]) for row in read_manifest(saved)}
    wanted = Counter(
        (name, box[0])
        for name, boxes in table_boxes(saved).items()
        for box in boxes
        if min((box[3] - box[1]) * size[name][0], (box[4] - box[2]) * size[name][1]) > 1 - 1e-6
    )
    assert Counter((row["FileName"], row["Category"]) for row in rows) == wanted
    every = sum(map(len, table_boxes(saved).values()))
    assert report.annotations == {"bbox": len(rows)}
    assert report.left_out == {"bbox: less than 1 x 1 px": every - len(rows)}
    assert found_in(out) == {row["File"] for row in rows}
    names = {row["Folder"]: row["Category"] for row in classes}
    assert sorted(names.values()) == sorted(ODD_NAMES.values())
    assert {row["LabelName"]: row["Category"] for row in classes} == ODD_NAMES
    for row in rows:
        split, folder, _ = row["File"].split("/")
        assert names[folder] == row["Category"]
        left, top, right, bottom = edges(row)
        with Image.open(out / row["File"]) as crop:
            assert crop.size == (int(row["Width"]), int(row["Height"])) == (right - left, bottom - top)
        assert split in ("train", "validation", "test")
    credits = read_csv(out / "ATTRIBUTION.csv")
    assert {row["FileName"] for row in credits} == {row["FileName"] for row in rows}
    assert {row["Changes"].rpartition("; ")[2] for row in credits} == {"cropped"}
    listed = read_list(out)
    assert listed is not None
    assert {row["File"] for row in rows} < set(listed[0].get_column("path"))


async def test_crops_have_the_pixels_of_their_boxes(tmp_path: Path) -> None:
    """As Pillow cuts them out, within what JPEG loses: of colours, of grey, of a turned image, with a margin."""
    grey = io.BytesIO()
    Image.linear_gradient("L").resize((90, 70)).save(grey, "JPEG", quality=95)
    images = [SavedImage(ONE, 200, 100, picture=picture(200, 100, 6)), SavedImage(TWO, 90, 70, picture=grey.getvalue())]
    sides = [("0.1", "0.6", "0.2", "0.9"), ("0", "1", "0", "1"), ("0.9", "1", "0", "0.3")]
    boxes = [SavedBox(image.image_id, sides=each) for image in images for each in sides]
    saved = SavedFolder(images, boxes).write(tmp_path / "d")
    for margin, first in (("0%", (20, 20, 120, 90)), ("10%", (10, 13, 130, 97)), ("250%", (0, 0, 200, 100))):
        out = await exported(saved, margin=margin, out=tmp_path / margin)
        rows = read_csv(out / "labels.csv")
        assert edges(rows[0]) == first
        for row in rows:
            with Image.open(saved / "images" / row["FileName"]) as image, Image.open(out / row["File"]) as crop:
                assert (crop.mode, crop.getexif().get(0x0112)) == (image.mode, image.getexif().get(0x0112))
                difference = ImageChops.difference(image.crop(edges(row)), crop)
                assert max(ImageStat.Stat(difference).mean) < 3, row["File"]
        assert [row["File"][-6:] for row in rows] == ["_1.jpg", "_2.jpg", "_3.jpg"] * 2


async def test_crops_are_made_smaller_themselves(tmp_path: Path) -> None:
    """--max-side is about a crop: small boxes stay as they are, and no side is less than a pixel."""
    sides = [("0", "1", "0", "1"), ("0", "0.1", "0", "0.1"), ("0", "1", "0", "0.005")]
    image = SavedImage(ONE, 400, 200, picture=picture(400, 200))
    saved = SavedFolder([image], [SavedBox(ONE, sides=each) for each in sides]).write(tmp_path / "d")
    out = await exported(saved, max_side=50)
    rows = read_csv(out / "labels.csv")
    assert [(row["Width"], row["Height"]) for row in rows] == [("50", "25"), ("40", "20"), ("50", "1")]
    for row in rows:
        with Image.open(out / row["File"]) as crop:
            assert crop.size == (int(row["Width"]), int(row["Height"]))
    assert read_csv(out / "ATTRIBUTION.csv")[0]["Changes"].endswith("resized to at most 50 px; cropped")


async def test_crops_take_the_options_of_an_export(tmp_path: Path) -> None:
    """Groups, classes of a map, splits by hash; without files the tables alone; a margin belongs to crops."""
    boxes = [SavedBox(ONE, flags=("0", "0", "1", "0", "0")), SavedBox(ONE, "/m/0bt9lr"), SavedBox(TWO, "/m/01226z")]
    saved = SavedFolder([SavedImage(ONE), SavedImage(TWO)], boxes).write(tmp_path / "d")
    (tmp_path / "map").write_text("Dog,Animal\nPerson,Animal\n")
    out = await exported(saved, group_boxes="drop", class_map=tmp_path / "map", splits="0/100")
    assert [path.rpartition("/")[0] for path in found_in(out)] == ["validation/Animal"]
    out = await exported(saved, no_files=True)
    assert (found_in(out), len(read_csv(out / "labels.csv"))) == (set(), 3)
    assert {"cropped" in row["Changes"] for row in read_csv(out / "ATTRIBUTION.csv")} == {False}
    for margin in ("10", "-1%", "x%", 10, "1e3%"):
        with pytest.raises(UsageError, match="--margin"):
            await exported(saved, margin=margin)
    with pytest.raises(UsageError, match="--margin is about crops"):
        await oid_async.export(savepath=saved, format="coco", margin="10%")


def test_a_margin_on_the_command_line(tmp_path: Path) -> None:
    """It is a share of the box; with another format it is a usage error."""
    saved = SavedFolder([SavedImage(ONE)], [SavedBox(ONE)]).write(tmp_path / "d")
    done = typed("export", saved, "--format", "voc", "--margin", "5%")
    assert (done.code, "--margin is about crops" in done.stderr) == (2, True)
    done = typed("export", saved, "--format", "crops", "--margin", "5%", "--json")
    assert (done.code, json.loads(done.stdout)["annotations"]) == (0, {"bbox": 1})


NAMES = st.one_of(
    st.text(max_size=40), st.sampled_from(["con", "NUL.txt", "..", "a/b", "a:b", "A:B", "ß", "SS", "com1 "])
)


@given(st.lists(NAMES, unique=True, max_size=8))
@settings(max_examples=25, deadline=None)
def test_folders_of_classes_are_safe(names: list[str]) -> None:
    """Whatever the names: each folder another one, for every system, and none hidden, cut, or too long."""
    folders = class_folders([name.encode(errors="ignore").decode() for name in names])
    assert len({unicodedata.normalize("NFD", folder).casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder
        assert len(folder.encode()) <= 255
        assert not set('<>:"/\\|?*\0\n') & set(folder)
        assert folder[0] not in " .-_"
        assert folder[-1] not in " ."
        assert folder.partition(".")[0].casefold() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


def test_stems_of_crops_fit() -> None:
    """A number behind a name of 255 bytes is too much: two such names stay two."""
    one, two = (_stem("é" * 125 + end + ".jpg") for end in ("a", "b"))
    assert one != two
    assert max(len(each.encode()) for each in (one, two)) < 240
    assert _stem("a.b.jpg") == "a.b"
    assert max(len(each.encode()) for each in class_folders(["é" * 300, "é" * 299 + "a"])) < 200


def test_no_folder_is_a_split_to_datasets() -> None:
    """Its imagefolder would put `validation/train/1.jpg` into train, and into validation: it looks at small letters."""
    names = ["train", "my test-set", "val_9", "dev", "Training", "Test tube", "evaluate", "Train", "contest"]
    found = ["Train", "my Test-set", "Val_9", "Dev", "Training", "Test tube", "evaluate", "Train_2", "contest"]
    assert class_folders(names) == found
