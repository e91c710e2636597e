"""A page of images as plain values: the facts of each, and its largest boxes."""

from typing import Any

import polars as pl

from oid_async.errors import InputError
from oid_async.gallery.manifest_rows import ROW
from oid_async.gallery.snapshot import Snapshot
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import FLAGS
from oid_async.tables.reading import reading

_MOST_BOXES = 60
_SIDES = ("XMin", "YMin", "XMax", "YMax")


def page_of(snapshot: Snapshot, rows: pl.DataFrame) -> dict[str, Any]:
    """Return `images` and `classes` of an answer; see `Catalog.images`. `rows` are of the manifest."""
    counts = _counts(snapshot, rows.get_column(ROW))
    boxes, classes = _boxes(snapshot, rows, counts)
    images = [
        {
            "image_id": row["ImageID"],
            "split": row["Subset"],
            "file_name": row["FileName"],
            "status": row["Status"],
            "reason": row["Reason"],
            "role": row["Role"],
            "width": row["Width"],
            "height": row["Height"],
            "bytes": row["Bytes"],
            "boxes": boxes.get(row[ROW], []),
            "rows": counts.get(row[ROW], {}),
        }
        for row in rows.iter_rows(named=True)
    ]
    return {"classes": classes, "images": images}


def _counts(snapshot: Snapshot, numbers: pl.Series) -> dict[int, dict[str, int]]:
    """Return how many rows of each kind the images have, by row number; empty while there is no index."""
    index = snapshot.index
    if index is None:
        return {}
    try:
        with reading(index.file):
            counted = index.counts_of(numbers)
    except InputError:
        return {}  # somebody has removed it: it is made again
    kinds = [kind for kind in KINDS if kind in index.kinds]
    return {row[ROW]: {kind: row[kind] for kind in kinds} for row in counted.iter_rows(named=True)}


def _boxes(
    snapshot: Snapshot, page: pl.DataFrame, counts: dict[int, dict[str, int]]
) -> tuple[dict[int, list[list[Any]]], list[list[str]]]:
    """Return the boxes to draw by row number, and the classes that they name."""
    saved = page.filter(Status="ok")
    expected = None
    if snapshot.index is not None and not snapshot.index.has_twins and "bbox" in snapshot.index.kinds:
        expected = sum(counts.get(number, {}).get("bbox", 0) for number in saved.get_column(ROW))
    rows = snapshot.rows("bbox", saved.get_column("ImageID").to_list(), expected)
    if rows is None or not len(rows):
        return {}, []
    # Of an id in two splits a row says by its file name which one it is of.
    rows = rows.join(saved.select(ROW, "ImageID", named="FileName"), on="ImageID", how="inner", maintain_order="left")
    rows = rows.filter((pl.col("FileName") == pl.col("named")).fill_null(True))
    drawn = rows.with_columns(clipped(name) for name in _SIDES).with_columns(
        area=(pl.col("XMax") - pl.col("XMin")) * (pl.col("YMax") - pl.col("YMin")),
        bits=pl.sum_horizontal((pl.col(flag) == 1).cast(pl.Int32) * (1 << k) for k, flag in enumerate(FLAGS.values())),
    )
    drawn = drawn.drop_nulls("area").sort(ROW, "area", descending=[False, True], maintain_order=True)
    drawn = drawn.group_by(ROW, maintain_order=True).head(_MOST_BOXES)
    classes = classes_in(drawn, [("LabelName", "Category")])
    places = {label: place for place, (label, _) in enumerate(classes)}
    boxes: dict[int, list[list[Any]]] = {}
    for number, label, *sides, bits in drawn.select(ROW, "LabelName", *_SIDES, "bits").iter_rows():
        boxes.setdefault(number, []).append([places[label], *sides, bits])
    return boxes, classes


def clipped(name: str) -> pl.Expr:
    """Return the expression of a side of a box within the image; null for what is not a number."""
    side = pl.col(name)
    return pl.when(side.is_finite()).then(side.clip(0.0, 1.0)).alias(name)


def classes_in(rows: pl.DataFrame, columns: list[tuple[str, str]]) -> list[list[str]]:
    """Return the labels in some columns with their names, each once."""
    found: dict[str, list[str]] = {}
    for label, name in columns:
        for mid, called in rows.select(label, name).unique(maintain_order=True).iter_rows():
            if mid is not None:
                found.setdefault(mid, [mid, called or mid])
    return list(found.values())
