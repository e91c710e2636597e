"""A saved folder with all that a format may stumble over: names, sizes, boxes, masks, ids, flags, labels, points."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl

from support.published import read_csv
from support.saved import NAMES, SavedBox, SavedFolder, SavedImage, rectangle

# MID -> name; each differs from the others, some by little.
ODD_NAMES = {
    "/m/01": "Traffic light",
    "/m/02": "Traffic_light",
    "/m/03": "traffic light",
    "/m/04": "Say \"hi\", <b>'x'</b> & co",
    "/m/05": "a/b\\c",
    "/m/06": "Café 🐶 ñ",
    "/m/07": "line\nend\r\ttab",
    "/m/08": "50% _off_ %20",
    "/m/09": " blank ",
    "/m/010": "DontCare",
    "/m/011": "no: Traffic light",
    "/m/012": "#1 -1 nan",
    "/m/013": "\u2028\x85\xa0\u3000",
}
TITLE = 'a\x07 "q" <b> & ]]> \ufffe\r\n\t é🐶'
SIDES = (
    ("0", "1", "0", "1"),
    ("0.333333", "0.666667", "0.1", "0.100001"),
    ("0.5", "0.5", "0.25", "0.75"),
    ("1", "1", "0", "0"),
    ("0", "0.000001", "0.999999", "1"),
    ("-0.005", "1.005", "0", "1"),
)
FLAGS = (
    ("0", "0", "0", "0", "0"),
    ("1", "0", "1", "0", "0"),
    ("0", "1", "0", "1", "1"),
    ("-1", "-1", "-1", "-1", "-1"),
)
# id, width, height, split, file name
IMAGES = (
    ("0000048549557964", 64, 48, "train", ""),
    ("0000048549557965", 1, 1, "train", "one pixel.jpg"),
    ("1234567890abcdef", 1, 1024, "validation", "tall.v1.é🐶.jpg"),
    ("my own id, 7", 640, 3, "test", "quote'n & <name>.jpg"),
    ("nothing", 33, 21, "train", "nothing_o.jpg"),
    ("ffffffffffffffff", 20, 10, None, "last_o.jpg"),
)
TWIN = "0000048549557964"


def odd_folder(path: Path) -> Path:
    """Write the folder; each image but `nothing` has boxes of every class, and one id is in two splits."""
    images = [
        SavedImage(each, width, height, split, title=TITLE, name=name) for each, width, height, split, name in IMAGES
    ]
    boxes = [
        SavedBox(image_id, label, SIDES[place % len(SIDES)], FLAGS[place % len(FLAGS)])
        for image_id, *_ in IMAGES
        if image_id != "nothing"
        for place, label in enumerate(ODD_NAMES)
    ]
    alone = SavedBox(TWIN, "/m/05", ("0.1", "0.2", "0.3", "0.4"))
    whole, nothing = rectangle(64, 48, (0, 0, 64, 48)), rectangle(64, 48, (0, 0, 0, 0))
    masks = [(boxes[0], whole), (alone, rectangle(32, 24, (3, 7, 9, 8))), (boxes[1], nothing)]
    masks.append((boxes[13], rectangle(5, 5, (0, 0, 5, 5), bits=False)))
    with patch.dict(NAMES, ODD_NAMES):
        SavedFolder(images, boxes, masks, list(ODD_NAMES)).write(path)
    _write_labels(path)
    _add_twin(path)
    return path


def table_boxes(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return FileName -> (name, left, top, right, bottom) of its boxes in their order, fractions within the image."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in read_csv(path / "bbox" / "bbox.csv"):
        sides = (min(max(float(row[side]), 0), 1) for side in ("XMin", "YMin", "XMax", "YMax"))
        found.setdefault(row["FileName"], []).append((row["Category"], *sides))
    return found


def _write_labels(path: Path) -> None:
    """Write image-level labels and points: what is there, what is not, what is not sure."""
    labels = [
        (TWIN, "verification", label, str(place % 2), name) for place, (label, name) in enumerate(ODD_NAMES.items())
    ]
    columns = ["ImageID", "Source", "LabelName", "Confidence", "Category"]
    rows = pl.DataFrame(labels, schema=columns, orient="row").with_columns(FileName=pl.lit("77_o.jpg"))
    answers = ("yes", "no", "unsure")
    points = [
        (TWIN, "0.25", "1", label, answers[place % 3], "ih", "3", "0", "1", name)
        for place, (label, name) in enumerate(ODD_NAMES.items())
    ]
    columns = [
        "ImageId",
        "X",
        "Y",
        "Label",
        "EstimatedYesNo",
        "Source",
        "YesVotes",
        "NoVotes",
        "UnsureVotes",
        "Category",
    ]
    found = pl.DataFrame(points, schema=columns, orient="row").with_columns(FileName=pl.lit("77_o.jpg"))
    for frame, name in ((rows, "label/labels.csv"), (found, "point/points.csv")):
        (path / name).parent.mkdir()
        file_name = SavedImage(TWIN).file_name
        frame.with_columns(FileName=pl.lit(file_name)).write_csv(path / name)


def _add_twin(path: Path) -> None:
    """Give the first image's id to a second image, of another split."""
    manifest = pl.read_parquet(path / "manifest.parquet")
    first = manifest.filter(ImageID=TWIN)
    (path / "images" / "twin_o.jpg").write_bytes((path / "images" / first.item(0, "FileName")).read_bytes())
    twin = first.with_columns(FileName=pl.lit("twin_o.jpg"), Subset=pl.lit("validation"))
    rows = pl.concat([manifest, twin]).with_row_index("at").sort("ImageID", "at").drop("at")
    rows.write_parquet(path / "manifest.parquet")
    boxes = pl.read_csv(path / "bbox" / "bbox.csv", infer_schema=False)
    more = boxes.filter(ImageID=TWIN).head(2).with_columns(FileName=pl.lit("twin_o.jpg"))
    pl.concat([boxes, more]).sort("ImageID", maintain_order=True).write_csv(path / "bbox" / "bbox.csv")
