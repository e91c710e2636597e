"""The tables of an export as they are counted: its objects are boxes, of the classes that its own files name.

    yolo           labels/<split>/<stem>.txt: centres and sides, or outlines, of which the box around is taken
    coco           annotations/instances_<split>.json, an annotation or an image a line, as the export writes it
    voc            Annotations/<stem>.xml, ImageSets/Main/<split>.txt
    imagefolder    <split>/metadata.jsonl
    parquet        <split>-00000.parquet ..., without the pictures

Of other formats a line says what to count instead: their files hold the images, or are read by others alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.export_list import MARKER
from oid_async.errors import InputError, UsageError
from oid_async.openimages.vocabulary import FLAGS
from oid_async.statistics.export_files import BOXES_SCHEMA, IMAGES_SCHEMA, Part, voc_parts, yolo_parts
from oid_async.statistics.tables import COLUMNS, IMAGE, IMAGE_SCHEMA, Tables, Workplace
from oid_async.store.atomic import read_json
from oid_async.store.disk import plain_file
from oid_async.store.results import SELECTED
from oid_async.tables.reading import pattern_of

# A character that no JSON text holds as it is, so that Polars takes a line for a field.
_NEVER = "\x01"
_MOST_HEAD = 64 << 20
_FLAGS = {column: option.removeprefix("is_") for option, column in FLAGS.items()}
_NUMBERS = pl.List(pl.Float64)
_OBJECTS: dict[str, pl.DataType | type[pl.DataType]] = {
    "bbox": pl.List(_NUMBERS),
    **dict.fromkeys(("category", "label"), pl.List(pl.String)),
    **dict.fromkeys(_FLAGS.values(), pl.List(pl.Int8)),
}
_SAMPLE: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("image_id", "split", "license", "author"), pl.String),
    **dict.fromkeys(("width", "height"), pl.Int32),
    "objects": pl.Struct(_OBJECTS),
    "role": pl.String,
}
_ANNOTATION = pl.Struct(
    {
        "image_id": pl.Int64,
        "category_id": pl.Int64,
        "bbox": _NUMBERS,
        "attributes": pl.Struct(dict.fromkeys(_FLAGS.values(), pl.Int8)),
    }
)
_IMAGE = pl.Struct(
    {"id": pl.Int64, "width": pl.Int32, "height": pl.Int32, "license": pl.Int64, "author": pl.String, "role": pl.String}
)


def export_format(folder: Path) -> str | None:
    """Return the format of the export that a folder is, None for a folder that is none."""
    match read_json(folder / MARKER):
        case {"format": str(name)}:
            return name
    return None


def export_tables(folder: Path, name: str, work: Workplace) -> Tables:
    """Return the tables of an export. Raises InputError for files that are not as they are written, UsageError."""
    readers: Mapping[str, Callable[[Path, Workplace], Tables]] = {
        "yolo": lambda export, work: _of_parts(yolo_parts(export), work),
        "voc": lambda export, work: _of_parts(voc_parts(export), work),
        "coco": _coco,
        "imagefolder": _image_folder,
        "parquet": _parquet,
    }
    if name not in readers:
        raise UsageError(
            f"{folder}: of an export as {name} nothing is counted, only of {', '.join(readers)}; count the folder that "
            "it was made of: oid-async stats SAVEPATH"
        )
    with work.errors():
        return readers[name](folder, work)


def _of_parts(parts: Iterator[Part], work: Workplace) -> Tables:
    """Return the tables of an export that is read part by part; each is written into a file of its own."""
    files: list[list[Path]] = [[], []]
    for number, part in enumerate(parts):
        work.check()
        for which, frame in enumerate(part):
            files[which].append(work.folder / f"part-{number:05}-{which}.parquet")
            frame.write_parquet(files[which][-1], compression="lz4")
    images, boxes = (
        pl.scan_parquet(some, glob=False) if some else pl.LazyFrame(schema=schema)
        for some, schema in zip(files, (IMAGES_SCHEMA, BOXES_SCHEMA), strict=True)
    )
    return _tables(images, boxes)


def _image_folder(export: Path, work: Workplace) -> Tables:
    files = sorted(path for path in export.glob("*/metadata.jsonl") if path.is_file() and not path.is_symlink())
    # The folder says which split it is.
    return _of_samples(
        [
            pl.scan_ndjson(pattern_of(path), schema=_SAMPLE).with_columns(split=pl.lit(path.parent.name))
            for path in files
        ]
    )


def _parquet(export: Path, work: Workplace) -> Tables:
    files = sorted(path for path in export.glob("*-*.parquet") if path.is_file() and not path.is_symlink())
    frames = []
    for path in files:
        frame = pl.scan_parquet(path, glob=False)
        there = frame.collect_schema()
        if missing := [name for name in _SAMPLE if name not in there and name != "role"]:
            raise InputError(f"{path}: column {missing[0]!r} is missing; it is no file of a parquet export")
        role = pl.col("role") if "role" in there else pl.lit(None, pl.String).alias("role")
        frames.append(frame.select(*(name for name in _SAMPLE if name != "role"), role))
    return _of_samples(frames)


def _of_samples(samples: list[pl.LazyFrame]) -> Tables:
    """Return the tables of an export with one sample an image (see `formats.samples`)."""
    every = pl.concat(samples) if samples else pl.LazyFrame(schema=_SAMPLE)
    images = every.select(
        Subset="split", Width="width", Height="height", License="license", Author="author", Role="role"
    )
    image = pl.concat_str("split", pl.lit("/"), "image_id").alias(IMAGE)
    objects = [pl.col("objects").struct.field(name) for name in _OBJECTS]
    rows = every.select(image, *objects, Width="width", Height="height").explode(list(_OBJECTS)).drop_nulls("bbox")
    flags = {column: pl.col(name) for column, name in _FLAGS.items()}
    boxes = rows.select(IMAGE, "Width", "Height", *_sides(), LabelName="label", Category="category", **flags)
    return _tables(images, boxes)


def _sides() -> list[pl.Expr]:
    """Return the sides of a box as fractions, of bbox [x, y, width, height] in pixels and the size of the image."""
    sides = []
    for place, (axis, size) in enumerate((("X", "Width"), ("Y", "Height"))):
        start, extent = pl.col("bbox").list.get(place), pl.col("bbox").list.get(place + 2)
        sides += [(start / pl.col(size)).alias(f"{axis}Min"), ((start + extent) / pl.col(size)).alias(f"{axis}Max")]
    return sides


def _coco(export: Path, work: Workplace) -> Tables:
    files = sorted(path for path in export.glob("annotations/instances_*.json") if path.is_file())
    images, boxes = [], []
    for path in files:
        split = path.stem.removeprefix("instances_")
        categories, licenses = _coco_ends(path)
        lines = _lines(path)
        # Within a text a quote is escaped: these are keys.
        rows = lines.filter(pl.col("line").str.starts_with('{"id":')).select(pl.col("line").str.strip_suffix(","))
        is_annotation = pl.col("line").str.contains('"category_id":', literal=True)
        known = _decoded(rows.filter(~is_annotation), _IMAGE)
        sizes = known.select(image_id="id", Width="width", Height="height")
        found = _decoded(rows.filter(is_annotation), _ANNOTATION).join(sizes, on="image_id", how="inner")
        flags = [pl.col("attributes").struct.field(name).alias(column) for column, name in _FLAGS.items()]
        found = found.join(categories.lazy(), on="category_id", how="left")
        image = pl.concat_str(pl.lit(f"{split}/"), pl.col("image_id").cast(pl.String)).alias(IMAGE)
        boxes.append(found.select(image, "LabelName", "Category", *_sides(), *flags, "Width", "Height"))
        license_url = pl.col("license").replace_strict(licenses, default=None, return_dtype=pl.String)
        images.append(
            known.select(
                pl.lit(split).alias("Subset"),
                Width="width",
                Height="height",
                License=license_url,
                Author="author",
                Role="role",
            )
        )
    if not files:
        raise InputError(f"{export}: it has no annotations/instances_*.json, so no boxes to count")
    return _tables(pl.concat(images), pl.concat(boxes))


def _lines(path: Path) -> pl.LazyFrame:
    """Scan the lines of a text file as `line`."""
    return pl.scan_csv(
        path,
        has_header=False,
        separator=_NEVER,
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        glob=False,
    )


def _decoded(lines: pl.LazyFrame, shape: pl.Struct) -> pl.LazyFrame:
    return lines.select(pl.col("line").str.json_decode(shape)).unnest("line")


def _coco_ends(path: Path) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return category_id, LabelName, Category of the first line, the licences of the last. Raises InputError."""
    with plain_file(path) as file:
        head = file.readline(_MOST_HEAD)
        file.seek(max(0, path.stat().st_size - _MOST_HEAD))
        tail = file.read().rpartition(b'\n], "licenses": ')[2]
    try:
        found: dict[str, Any] = json.loads(head.rstrip() + b"]}")
        rows = [(int(each["id"]), str(each["mid"]), str(each["name"])) for each in found["categories"]]
        licenses = {int(each["id"]): str(each["url"]) for each in json.loads(tail.rstrip().removesuffix(b"}"))}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: it is not as a COCO export is written, a line an annotation ({error})") from error
    schema = {"category_id": pl.Int64, "LabelName": pl.String, "Category": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row"), licenses


def _tables(images: pl.LazyFrame, boxes: pl.LazyFrame) -> Tables:
    """Return tables of these images and boxes, with what they do not have as unknown."""
    there = images.collect_schema().names()
    unknown = (pl.lit(None, dtype).alias(name) for name, dtype in IMAGE_SCHEMA.items() if name not in there)
    images = images.with_columns(unknown).with_columns(pl.col("Role").fill_null(SELECTED), Status=pl.lit("ok"))
    flags = (pl.col(flag).fill_null(-1) for flag in _FLAGS)
    return Tables(
        "export", images.select(*IMAGE_SCHEMA), {"bbox": boxes.with_columns(flags).select(IMAGE, *COLUMNS["bbox"])}
    )
