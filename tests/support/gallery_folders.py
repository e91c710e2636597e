"""Folders to look at: one in which every text is hostile, one whose boxes and masks are found again by their pixels."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from oid_async.dataset.tables import SCHEMAS
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.store.results import MANIFEST_SCHEMA, ROLE_SCHEMA
from support.saved import rectangle

GREY = (118, 118, 118)
# What a file of someone else may hold where a name, a title or a caption belongs.
HOSTILE_TEXTS = (
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "'\"><svg onload=alert(3)>",
    "javascript:alert(4)",
    "&lt;b&gt;bold&lt;/b&gt;<b>bold</b>",
    "\u202egnp.exe\u2066 \u200f\u061c",
    "\x1b[31mred\x1b[0m\x07\x9b2J",
    "[bold red]markup[/] [link=https://stranger.example]x[/link]",
    "__proto__",
    "constructor",
    "{{7*7}} ${alert(5)} %s%n",
    "a&class=b#c?d=%2F..%2F+e",
    "line one\nline two\r\nline three\u2028four",
    "long " + "W" * 9995,
    "spaced " + "word " * 1500,
    "name with comma, \"quotes\" and 'apostrophes'",
)
# Addresses of pages that must not become links, then those that may.
HOSTILE_LINKS = (
    "javascript:alert(6)",
    " javascript:alert(7)",
    "JaVaScRiPt:alert(8)",
    "java\tscript:alert(9)",
    "data:text/html,<script>alert(10)</script>",
    "//stranger.example/photo",
    "file:///etc/passwd",
    "vbscript:x",
    "blob:http://stranger.example/1",
)
GOOD_LINK = "https://www.flickr.com/photos/1/2?a=1&b=2"


def uniform(width: int, height: int, colour: tuple[int, int, int] = GREY) -> bytes:
    """Return a JPEG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG", quality=95)
    return out.getvalue()


def image_id(number: int) -> str:
    """Return an ImageID; they are in the order of their numbers."""
    return f"{number:016x}"


def label(number: int) -> str:
    """Return a MID; names that differ have MIDs that differ."""
    return f"/m/{number:05x}"


def manifest_row(number: int, body: bytes, size: tuple[int, int], **other: Any) -> dict[str, Any]:
    """Return the manifest's row of a saved image; `other` replaces columns."""
    return {
        "ImageID": image_id(number),
        "Subset": "train",
        "FileName": f"{number}_o.jpg",
        "Status": "ok",
        "Source": "cvdf",
        "URL": f"https://example.org/{number}.jpg",
        "Bytes": len(body),
        "Width": size[0],
        "Height": size[1],
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "Author": "Ann",
        "AuthorProfileURL": "https://www.flickr.com/people/1/",
        "Title": "A title",
        "OriginalURL": f"https://farm1.staticflickr.com/1/{number}_o.jpg",
        "OriginalLandingURL": GOOD_LINK,
        **other,
    }


def write_folder(
    path: Path,
    images: Sequence[tuple[dict[str, Any], bytes | None]],
    tables: Mapping[KindName, Sequence[Mapping[str, Any]]],
    masks: Mapping[str, bytes] | None = None,
) -> Path:
    """Write manifest, images, tables of annotations and mask pictures as a finished run leaves them.

    An image without bytes has no file. A row's columns that are not given are empty.
    """
    (path / "images").mkdir(parents=True)
    for row, body in images:
        if body is not None:
            (path / "images" / row["FileName"]).write_bytes(body)
    rows = sorted((row for row, _ in images), key=lambda row: row["ImageID"])
    has_roles = any("Role" in row for row in rows)
    schema = {**MANIFEST_SCHEMA, **(ROLE_SCHEMA if has_roles else {})}
    data = [{name: row.get(name) for name in schema} for row in rows]
    pl.DataFrame(data, schema=schema).write_parquet(path / "manifest.parquet")
    (path / "ATTRIBUTION.csv").write_text("ImageID,FileName\n")
    known = {row["ImageID"]: row for row in rows}
    for kind, given in tables.items():
        file = path / KINDS[kind].file
        file.parent.mkdir(parents=True, exist_ok=True)
        if KINDS[kind].is_json:
            file.write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
            continue
        columns = dict.fromkeys(SCHEMAS[kind], pl.String)
        texts = [_as_text({**_facts(known[row["ImageID"]]), **row}, columns) for row in given]
        pl.DataFrame(texts, schema=columns).write_csv(file)
    for name, body in (masks or {}).items():
        file = path / "segmentation" / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    return path


def box_row(number: int, mid: str, name: str, sides: tuple[float, float, float, float], **flags: int) -> dict[str, Any]:
    """Return a row of boxes; `sides` are XMin, XMax, YMin, YMax, as fractions."""
    every = dict.fromkeys(("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"), 0) | flags
    named = dict(zip(("XMin", "XMax", "YMin", "YMax"), sides, strict=True))
    return {
        "ImageID": image_id(number),
        "Source": "xclick",
        "LabelName": mid,
        "Confidence": 1,
        **named,
        **every,
        "Category": name,
    }


def mask_row(
    number: int, path: str, mid: str, name: str, sides: tuple[float, float, float, float], **other: Any
) -> dict[str, Any]:
    """Return a row of masks."""
    named = dict(zip(("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"), sides, strict=True))
    row = {"MaskPath": path, "ImageID": image_id(number), "LabelName": mid, "BoxID": f"{number:08x}"}
    return {**row, **named, "PredictedIoU": 0.9, "Category": name, **other}


# The one box and the one mask of the folder of pixels: XMin, XMax, YMin, YMax.
PIXEL_BOX = (0.1337, 0.5219, 0.2511, 0.8013)
PIXEL_MASK = (0.6, 0.9, 0.3, 0.7)
PIXEL_SIZE = (1024, 683)
# Images with that mask, and the size of its PNG: published masks are smaller than their image, too.
MASK_SIZES = {2: (1024, 683), 3: (256, 171)}


def white_part(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what is white in a mask's PNG of this size, in its pixels."""
    left, right, top, bottom = PIXEL_MASK
    return round(left * size[0]), round(top * size[1]), round(right * size[0]), round(bottom * size[1])


def pixel_folder(path: Path) -> Path:
    """Write a folder of three uniform images: 1 has one box, 2 and 3 have one mask."""
    body = uniform(*PIXEL_SIZE)
    names = {number: f"{image_id(number)}_m00001_0000000{number}.png" for number in MASK_SIZES}
    return write_folder(
        path,
        [(manifest_row(number, body, PIXEL_SIZE), body) for number in (1, 2, 3)],
        {
            "bbox": [box_row(1, label(1), "Dog", PIXEL_BOX)],
            "segmentation": [mask_row(number, name, label(1), "Dog", PIXEL_MASK) for number, name in names.items()],
        },
        {names[number]: rectangle(*size, white_part(size)) for number, size in MASK_SIZES.items()},
    )


def hostile_folder(path: Path) -> Path:
    """Write a folder of an image for each hostile text, in every column that holds text, and one for each link.

    The images after them failed (their FileName, Reason and Detail are hostile, too).
    """
    images: list[tuple[dict[str, Any], bytes | None]] = []
    tables: dict[KindName, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    body = uniform(64, 48)
    for number, text in enumerate(HOSTILE_TEXTS, 1):
        texts = dict.fromkeys(("Author", "AuthorProfileURL", "Title", "License", "OriginalURL", "URL"), text)
        texts |= {"OriginalLandingURL": text, "Source": "original"}
        images.append((manifest_row(number, body, (64, 48), **texts), body))
        _add_hostile_rows(tables, number, text)
    for number, link in enumerate(HOSTILE_LINKS, len(images) + 1):
        links = dict.fromkeys(("OriginalLandingURL", "AuthorProfileURL", "OriginalURL", "License"), link)
        images.append((manifest_row(number, body, (64, 48), **links), body))
    for number, text in enumerate(HOSTILE_TEXTS[:4], len(images) + 1):
        failed = {"Status": "failed", "Reason": "not_found", "FileName": text, "Title": text, "Bytes": None}
        images.append((manifest_row(number, body, (64, 48), **failed), None))
    write_folder(path, images, tables)
    failures = [
        {"ImageID": row["ImageID"], "URL": row["Title"], "Reason": "not_found", "Detail": row["Title"], "Attempts": "1"}
        for row, _ in images
        if row["Status"] == "failed"
    ]
    pl.DataFrame(failures).write_csv(path / "failures.csv")
    return path


def _add_hostile_rows(tables: dict[KindName, list[dict[str, Any]]], number: int, text: str) -> None:
    mid, other = label(number), label(number + 1)
    pair = {"LabelName1": mid, "LabelName2": other, "RelationshipLabel": text, "Category1": text, "Category2": text}
    sides = {f"{side}{end}": value for end in "12" for side, value in _SIDES.items()}
    tables["bbox"].append(box_row(number, mid, text, (0.1, 0.9, 0.1, 0.9)))
    tables["segmentation"].append(mask_row(number, text, mid, text, (0.1, 0.9, 0.1, 0.9)))
    tables["relationship"].append({"ImageID": image_id(number), **pair, **sides})
    tables["label"].append(
        {"ImageID": image_id(number), "Source": text, "LabelName": mid, "Confidence": 1, "Category": text}
    )
    tables["point"].append(
        {
            "ImageID": image_id(number),
            "X": 0.5,
            "Y": 0.5,
            "Label": mid,
            "EstimatedYesNo": text,
            "Source": text,
            "TextLabel": text,
            "Category": text,
        }
    )
    tables["narrative"].append(
        {"dataset_id": text, "image_id": image_id(number), "annotator_id": 1, "caption": text, "voice_recording": text}
    )


def real_folder(path: Path, real: Path) -> Path:
    """Write a folder of real JPEGs with real boxes: of those images that have most of them, as few of both belong."""
    about = pl.read_csv(real / "images.csv", infer_schema=False)
    boxes = pl.read_csv(real / "bbox" / "mpeg-vcm-detection-bbox.csv", infer_schema=False)
    crowded = boxes.group_by("ImageID").len().sort("len", "ImageID", descending=[True, False])["ImageID"]
    of_image = dict(zip(crowded[: len(about)], about["image_id"], strict=True))
    images = []
    for number, (name, found, width, height) in enumerate(
        about.select("path", "image_id", "width", "height").iter_rows()
    ):
        body = (real / name).read_bytes()
        images.append((manifest_row(number, body, (int(width), int(height)), ImageID=found), body))
    rows = boxes.filter(pl.col("ImageID").is_in(list(of_image))).with_columns(
        pl.col("ImageID").replace_strict(of_image),
        Category=pl.col("LabelName").str.to_titlecase(),
        LabelName="/m/" + pl.col("LabelName").str.replace_all(" ", "_"),
        Source=pl.lit("xclick"),
        Confidence=pl.lit("1"),
    )
    return write_folder(path, images, {"bbox": rows.sort("ImageID").to_dicts()})


_SIDES = {"XMin": 0.2, "XMax": 0.6, "YMin": 0.2, "YMax": 0.6}


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("FileName", "OriginalURL", "Width", "Height")}


def _as_text(row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: None if row.get(name) is None else str(row[name]) for name in columns}
