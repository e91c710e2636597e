"""Exports with a file for each image, YOLO and VOC, read some thousand images at a time. Blocking.

Each part is two frames: images (Subset, Width, Height) and their boxes (IMAGE, LabelName, Category, XMin, XMax, YMin,
YMax as fractions, flags, Width, Height). A class is known by its name alone, which stands in LabelName, too.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.vocabulary import FLAGS
from oid_async.statistics.tables import IMAGE
from oid_async.store.disk import read_plain

Part = tuple[pl.DataFrame, pl.DataFrame]
IMAGES_SCHEMA: dict[str, type[pl.DataType]] = {"Subset": pl.String, "Width": pl.Int32, "Height": pl.Int32}
BOXES_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((IMAGE, "LabelName", "Category"), pl.String),
    **dict.fromkeys(SIDES, pl.Float64),
    **dict.fromkeys(FLAGS.values(), pl.Int8),
    "Width": pl.Int32,
    "Height": pl.Int32,
}
_AT_ONCE = 4096
_NAME = re.compile(r"\s+([0-9]{1,9}):\s*(.*?)\s*$")
# What VOC calls a flag.
_VOC_FLAGS = {column: option.removeprefix("is_") for option, column in FLAGS.items()} | {"IsGroupOf": "difficult"}


def yolo_parts(export: Path) -> Iterator[Part]:
    """Yield the images and boxes of a YOLO export; the size of an image is not known there. Raises OSError."""
    names = _yolo_names(export / "data.yaml")
    for split in _folders(export / "labels"):
        files = _files(export / "labels" / split, ".txt")
        while some := list(islice(files, _AT_ONCE)):
            texts = [read_plain(path).decode("utf-8", "replace") for path in some]
            yield (
                _images([split] * len(some)),
                _yolo_boxes([f"{split}/{Path(path).stem}" for path in some], texts, names),
            )


def _yolo_names(path: Path) -> pl.DataFrame:
    """Return the number of each class, as text, and its name; of what is no name there is none."""
    found: dict[str, str] = {}
    try:
        lines = read_plain(path).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        if (named := _NAME.fullmatch(line)) is not None:
            text = named[2]
            try:
                found[named[1]] = str(json.loads(text)) if text.startswith('"') else text.strip("'")
            except ValueError:
                continue
    return pl.DataFrame(
        {"number": list(found), "name": list(found.values())}, schema=dict.fromkeys(("number", "name"), pl.String)
    )


def _yolo_boxes(stems: Sequence[str], texts: Sequence[str], names: pl.DataFrame) -> pl.DataFrame:
    lines = pl.DataFrame({IMAGE: stems, "line": texts}).with_columns(pl.col("line").str.split("\n")).explode("line")
    words = lines.select(IMAGE, pl.col("line").str.strip_chars().str.split(" ")).filter(pl.col("line").list.len() >= 5)
    numbers = pl.col("line").list.slice(1).list.eval(pl.element().cast(pl.Float64, strict=False))
    rows = words.select(IMAGE, number=pl.col("line").list.first(), numbers=numbers)
    is_box = pl.col("numbers").list.len() == 4
    sides = []
    for place, axis in enumerate("XY"):
        middle, extent = pl.col("numbers").list.get(place), pl.col("numbers").list.get(place + 2)
        along = pl.col("numbers").list.gather_every(2, place)
        low, high = middle - extent / 2, middle + extent / 2
        sides.append(pl.when(is_box).then(low).otherwise(along.list.min()).alias(f"{axis}Min"))
        sides.append(pl.when(is_box).then(high).otherwise(along.list.max()).alias(f"{axis}Max"))
    named = rows.join(names, on="number", how="left", maintain_order="left")
    name = pl.coalesce("name", "number")
    return _of_schema(named.select(IMAGE, *sides, LabelName=name, Category=name), BOXES_SCHEMA)


def voc_parts(export: Path) -> Iterator[Part]:
    """Yield the images and boxes of a VOC export. Raises OSError, InputError for what is no XML of it."""
    splits = _voc_splits(export / "ImageSets" / "Main")
    files = _files(export / "Annotations", ".xml")
    while some := list(islice(files, _AT_ONCE)):
        images, boxes = [], []
        for path in some:
            image, rows = _voc_image(path)
            images.append({"Subset": splits.get(Path(path).stem), **image})
            boxes += rows
        yield pl.DataFrame(images, schema=IMAGES_SCHEMA), pl.DataFrame(boxes, schema=BOXES_SCHEMA)


def _voc_splits(folder: Path) -> dict[str, str]:
    """Return the split of each image by the stem of its file."""
    lists = list(_files(folder, ".txt")) if folder.is_dir() else []
    return {stem: Path(path).stem for path in lists for stem in read_plain(path).decode("utf-8", "replace").split("\n")}


def _voc_image(path: str) -> tuple[dict[str, int | None], list[dict[str, Any]]]:
    try:
        root = ElementTree.fromstring(read_plain(path))
        size = {name: int(root.findtext(f"size/{name.lower()}") or "") for name in ("Width", "Height")}
        return dict(size), [_voc_box(each, Path(path).stem, size) for each in root.iterfind("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: it is not as a VOC export is written ({error})") from error


def _voc_box(element: ElementTree.Element, stem: str, size: dict[str, int]) -> dict[str, Any]:
    """Return a box; its pixels are counted from 1, and the last one belongs to it."""
    name = element.findtext("name") or ""
    pixels = {side: float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "xmax", "ymin", "ymax")}
    sides = {
        f"{axis}{end}": (pixels[f"{axis.lower()}{end.lower()}"] - (end == "Min")) / max(size[extent], 1)
        for axis, extent in (("X", "Width"), ("Y", "Height"))
        for end in ("Min", "Max")
    }
    flags = {column: int(element.findtext(flag) or -1) for column, flag in _VOC_FLAGS.items()}
    return {IMAGE: stem, "LabelName": name, "Category": name, **sides, **flags, **size}


def _images(splits: Sequence[str]) -> pl.DataFrame:
    return _of_schema(pl.DataFrame({"Subset": splits}, schema={"Subset": pl.String}), IMAGES_SCHEMA)


def _of_schema(frame: pl.DataFrame, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Return a frame with all columns of a schema, unknown where it has none: null, a flag -1."""
    missing = {name: dtype for name, dtype in schema.items() if name not in frame.columns}
    flags = set(FLAGS.values())
    return frame.with_columns(
        pl.lit(-1 if name in flags else None, dtype).alias(name) for name, dtype in missing.items()
    ).select(list(schema))


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _files(folder: Path, ending: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (
            entry.path for entry in entries if entry.name.endswith(ending) and entry.is_file(follow_symlinks=False)
        )
