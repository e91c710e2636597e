"""The numbers of an export are those of the folder that it was made of, as far as its format holds them."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.saved import SavedBox, SavedFolder, SavedImage, picture, rectangle

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.statistics.value import Statistics

_IDS = ("000000aa00000001", "000000bb00000001", "000000cc00000001", "000000dd00000001")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of four images in two splits: one without a box, two of one class, one of three."""
    images = [SavedImage(each, 100, 50, "train", picture=picture(100, 50)) for each in _IDS[:3]]
    images.append(SavedImage(_IDS[3], 40, 80, "validation", picture=picture(40, 80)))
    boxes = [
        SavedBox(_IDS[0], "/m/01g317", ("0.1", "0.5", "0.2", "0.6"), ("1", "0", "0", "-1", "0")),
        SavedBox(_IDS[0], "/m/01g317", ("0", "1", "0", "1")),
        SavedBox(_IDS[3], "/m/01g317", ("0.5", "1", "0.25", "1")),
        SavedBox(_IDS[3], "/m/01226z", ("0.25", "0.5", "0.5", "0.75")),
        SavedBox(_IDS[3], "/m/0bt9lr", ("0.125", "0.25", "0.125", "0.5")),
    ]
    return SavedFolder(images, boxes).write(tmp_path_factory.mktemp("export") / "saved")


def exported(saved: Path, tmp_path: Path, format: str, **options: Any) -> Path:
    out = tmp_path / format
    asyncio.run(oid_async.export(savepath=saved, format=format, out=out, **options))
    return out


def numbers(path: Path) -> Statistics:
    return asyncio.run(oid_async.stats(path))


@pytest.mark.parametrize("format", ["yolo", "coco", "voc", "imagefolder", "parquet"])
def test_numbers_of_an_export_are_those_of_its_folder(saved: Path, tmp_path: Path, format: str) -> None:
    """Classes, boxes an image, shares, shapes, centres, what is together, splits: of each format that is counted."""
    of_folder, found = numbers(saved), numbers(exported(saved, tmp_path, format))
    assert (found.of, found.images.selected, found.images.ok, found.notes) == ("export", 4, 4, ())
    assert (found.images.failed, found.images.pending, found.images.bytes) == (None, None, None)
    assert found.splits == of_folder.splits == {"train": 3, "validation": 1}
    named = {(each.class_name, each.images, each.boxes) for each in of_folder.classes}
    assert {(each.class_name, each.images, each.boxes) for each in found.classes} == named
    assert found.boxes_per_image == of_folder.boxes_per_image
    assert found.cooccurrence.classes[0] == "Person"
    assert {sum(row) for row in found.cooccurrence.images} == {sum(row) for row in of_folder.cooccurrence.images}
    assert found.box_share.counts == of_folder.box_share.counts
    assert found.box_share.median == pytest.approx(of_folder.box_share.median, rel=1e-6)
    assert found.box_positions == of_folder.box_positions
    if format == "yolo":
        # Its files know neither the size of an image nor flags.
        assert (found.box_aspect.counts, found.flags, found.image_sizes.most_common) == ((), {}, ())
    else:
        assert found.box_aspect.counts == of_folder.box_aspect.counts
        assert found.image_sizes == of_folder.image_sizes
        assert found.flags["IsOccluded"].yes == 1
        known = of_folder.flags if format != "voc" else {}  # unknown is no there
        assert found.flags.items() >= known.items()
    if format in ("coco", "imagefolder", "parquet"):
        assert found.licenses == of_folder.licenses
        assert found.authors == of_folder.authors
        assert {each.label for each in found.classes} == {each.label for each in of_folder.classes}


def test_an_outline_counts_as_the_box_around_it(tmp_path: Path) -> None:
    """YOLO writes masks as outlines of many corners."""
    box = SavedBox(_IDS[0], "/m/01g317", ("0.25", "0.75", "0.25", "0.75"))
    image = SavedImage(_IDS[0], 64, 48, picture=picture(64, 48))
    mask = rectangle(64, 48, (16, 12, 47, 35))
    saved = SavedFolder([image], [box], [(box, mask)]).write(tmp_path / "saved")
    found = numbers(exported(saved, tmp_path, "yolo"))
    assert found.kinds == {"bbox": 1}
    assert found.box_share.median == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("format", ["webdataset", "fiftyone"])
def test_an_export_that_is_not_counted_says_what_is(saved: Path, tmp_path: Path, format: str) -> None:
    """One line, before anything is read: what to count instead."""
    with pytest.raises(UsageError, match="count the folder that it was made of"):
        numbers(exported(saved, tmp_path, format))


def test_files_that_were_changed_are_named(saved: Path, tmp_path: Path) -> None:
    """JSON that another program wrote anew, XML that was cut: InputError names the file."""
    coco = exported(saved, tmp_path, "coco")
    file = coco / "annotations" / "instances_train.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))
    with pytest.raises(InputError, match="instances_train"):
        numbers(coco)
    voc = exported(saved, tmp_path, "voc")
    (cut := sorted((voc / "Annotations").iterdir())[0]).write_text("<annotation><object>")
    with pytest.raises(InputError, match=cut.name):
        numbers(voc)


def test_labels_of_another_hand_are_counted(saved: Path, tmp_path: Path) -> None:
    """What is no number has no share, a class without a name is its number; other files are left alone."""
    yolo = exported(saved, tmp_path, "yolo")
    labels = yolo / "labels" / "train"
    (labels / "new.txt").write_text("7 0.5 0.5 0.2 0.2\n0 x 0.5 0.2 0.2\n\nnonsense\n")
    (labels / "notes.md").write_text("0 0.5 0.5 0.2 0.2\n")
    before, found = numbers(exported(saved, tmp_path / "again", "yolo")), numbers(yolo)
    assert found.images == replace(before.images, selected=5, ok=5)
    assert found.kinds == {"bbox": before.kinds["bbox"] + 2}
    assert sum(found.box_share.counts) == before.kinds["bbox"] + 1
    assert "7" in {each.class_name for each in found.classes}
