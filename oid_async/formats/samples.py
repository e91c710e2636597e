"""One sample per image, as plain values of one shape: for webdataset, imagefolder and parquet.

`objects` are boxes, each with its mask if there is one, then masks without a box; columns as lists side by side, as the
datasets library has them, `bbox` [x, y, width, height] in pixels of the exported image. A flag is 1, 0, or -1 for
unknown.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from oid_async.formats.classes import ExportClasses
from oid_async.formats.source import CLASS, FLAG_NAMES, Span, objects
from oid_async.openimages.catalogue_tables import PAIR_SIDES, SIDES, VOTES
from oid_async.openimages.kinds import KindName
from oid_async.store.changes import CHANGES

SAMPLE_KINDS: Sequence[KindName] = ("bbox", "segmentation", "narrative", "label", "relationship", "point")
# Sample field -> column of the images.
ABOUT = {
    "image_id": "ImageID",
    "split": "Split",
    "file_name": "FileName",
    "width": "OutWidth",
    "height": "OutHeight",
    "rotation": "Rotation",
    "license": "License",
    "author": "Author",
    "author_url": "AuthorProfileURL",
    "title": "Title",
    "original_url": "OriginalURL",
    "landing_url": "OriginalLandingURL",
    "changes": CHANGES,
}
# Tar shards have all of these but this one: shards that version 0.1.0 has begun end in the bytes of a fresh run's.
NOT_IN_SHARDS = "changes"
# Further fields of a dataset with negatives, which alone has these columns.
_ABOUT_ROLES = {"role": "Role", "verified_absent": "VerifiedAbsent"}
_BOX = pl.List(pl.List(pl.Float64))
_TEXTS, _NUMBERS = pl.List(pl.String), pl.List(pl.Float64)
_ROLE_SHAPES: dict[str, pl.DataType | type[pl.DataType]] = {"role": pl.String, "verified_absent": _TEXTS}
# The shape of a sample: every sample has every field.
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(ABOUT, pl.String),
    "width": pl.Int32,
    "height": pl.Int32,
    "rotation": pl.Float64,
    "objects": pl.Struct(
        {
            "bbox": _BOX,
            "category": _TEXTS,
            "category_id": pl.List(pl.Int64),
            "label": _TEXTS,
            **dict.fromkeys(FLAG_NAMES.values(), pl.List(pl.Int8)),
            "mask": _TEXTS,
            "has_box": pl.List(pl.Boolean),
        }
    ),
    "labels": pl.Struct({"category": _TEXTS, "label": _TEXTS, "confidence": _NUMBERS, "source": _TEXTS}),
    "captions": _TEXTS,
    "relationships": pl.Struct(
        {
            "subject": _TEXTS,
            "subject_label": _TEXTS,
            "subject_bbox": _BOX,
            "predicate": _TEXTS,
            "object": _TEXTS,
            "object_label": _TEXTS,
            "object_bbox": _BOX,
        }
    ),
    "points": pl.Struct(
        {
            "xy": _BOX,
            "category": _TEXTS,
            "label": _TEXTS,
            "answer": _TEXTS,
            "yes": _NUMBERS,
            "no": _NUMBERS,
            "unsure": _NUMBERS,
        }
    ),
}
_DECIMALS = 6


def schema(*, has_roles: bool) -> dict[str, pl.DataType | type[pl.DataType]]:
    """Return the shape of the samples of a dataset; `has_roles`: there are negatives among its images."""
    return _SCHEMA | _ROLE_SHAPES if has_roles else _SCHEMA


def samples(span: Span, classes: ExportClasses) -> Iterator[dict[str, Any]]:
    """Yield one sample per image, in order.

    In its objects `mask` is the MaskPath, None without a mask, and `has_box` is false for a mask alone.
    """
    about = ABOUT | {name: column for name, column in _ABOUT_ROLES.items() if column in span.images.columns}
    fields = {
        "objects": _objects(span, classes),
        "labels": _labels(span),
        "captions": _captions(span),
        "relationships": _relationships(span),
        "points": _points(span),
    }
    for row in span.images.select(pl.col(column).alias(name) for name, column in about.items()).iter_rows(named=True):
        for name, found in fields.items():
            shape = _SCHEMA[name]
            nothing: Any = {each.name: [] for each in shape.fields} if isinstance(shape, pl.Struct) else []
            row[name] = found.get(row["image_id"], nothing)
        yield row


def counted(sample: dict[str, Any]) -> dict[str, int]:
    """Return the number of rows of each kind in a sample."""
    return {
        "bbox": sum(sample["objects"]["has_box"]),
        "segmentation": sum(mask is not None for mask in sample["objects"]["mask"]),
        "narrative": len(sample["captions"]),
        "label": len(sample["labels"]["label"]),
        "relationship": len(sample["relationships"]["predicate"]),
        "point": len(sample["points"]["label"]),
    }


def _grouped(rows: pl.DataFrame, name: str, **columns: pl.Expr) -> dict[str, Any]:
    """Return ImageID -> the columns of its rows, each as a list."""
    grouped = rows.group_by("ImageID", maintain_order=True).agg(**columns)
    return dict(zip(grouped.get_column("ImageID"), grouped.drop("ImageID").to_struct(name).to_list(), strict=True))


def _pixels(*sides: str) -> pl.Expr:
    """Return the box between these four sides (XMin, XMax, YMin, YMax) as [x, y, width, height] in pixels."""
    x, end_x, y, end_y = (pl.col(side).cast(pl.Float64, strict=False) for side in sides)
    width, height = pl.col("OutWidth"), pl.col("OutHeight")
    values = (x * width, y * height, (end_x - x) * width, (end_y - y) * height)
    return pl.concat_list(value.round(_DECIMALS) for value in values)


def _objects(span: Span, classes: ExportClasses) -> dict[str, Any]:
    if not {"bbox", "segmentation"} & span.rows.keys():
        return {}
    rows = objects(span)
    names = pl.Series(classes.names, dtype=pl.String)
    rows = rows.with_columns(name=names.gather(rows.get_column(CLASS)), bbox=_pixels(*SIDES))
    return _grouped(
        rows,
        "objects",
        bbox=pl.col("bbox"),
        category=pl.col("name"),
        category_id=pl.col(CLASS).cast(pl.Int64),
        label=pl.col("LabelName"),
        **{name: pl.col(flag) for flag, name in FLAG_NAMES.items()},
        mask=pl.col("MaskPath"),
        has_box=pl.col("has_box"),
    )


def _column(rows: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in rows.columns else pl.lit(None, pl.String).alias(name)


def _number(rows: pl.DataFrame, name: str) -> pl.Expr:
    return _column(rows, name).cast(pl.Float64, strict=False)


def _labels(span: Span) -> dict[str, Any]:
    if "label" not in span.rows:
        return {}
    rows = span.rows["label"]
    rows = rows.select("ImageID", "Category", "LabelName", _number(rows, "Confidence"), _column(rows, "Source"))
    columns = {"category": "Category", "label": "LabelName", "confidence": "Confidence", "source": "Source"}
    return _grouped(rows, "labels", **{name: pl.col(column) for name, column in columns.items()})


def _captions(span: Span) -> dict[str, Any]:
    if "narrative" not in span.rows:
        return {}
    grouped = span.rows["narrative"].group_by("ImageID", maintain_order=True).agg("caption")
    return dict(grouped.iter_rows())


def _relationships(span: Span) -> dict[str, Any]:
    if "relationship" not in span.rows:
        return {}
    rows = span.of("relationship").with_columns(one=_pixels(*PAIR_SIDES[:4]), two=_pixels(*PAIR_SIDES[4:]))
    columns = {
        "subject": "Category1",
        "subject_label": "LabelName1",
        "subject_bbox": "one",
        "predicate": "RelationshipLabel",
        "object": "Category2",
        "object_label": "LabelName2",
        "object_bbox": "two",
    }
    return _grouped(rows, "relationships", **{name: pl.col(column) for name, column in columns.items()})


def _points(span: Span) -> dict[str, Any]:
    if "point" not in span.rows:
        return {}
    rows = span.of("point")
    x, y = _number(rows, "X") * pl.col("OutWidth"), _number(rows, "Y") * pl.col("OutHeight")
    rows = rows.select(
        "ImageID",
        "Category",
        "Label",
        _column(rows, "EstimatedYesNo"),
        *(_number(rows, name) for name in VOTES),
        xy=pl.concat_list(x.round(_DECIMALS), y.round(_DECIMALS)),
    )
    columns = {"xy": "xy", "category": "Category", "label": "Label", "answer": "EstimatedYesNo"}
    columns |= {"yes": "YesVotes", "no": "NoVotes", "unsure": "UnsureVotes"}
    return _grouped(rows, "points", **{name: pl.col(column) for name, column in columns.items()})
