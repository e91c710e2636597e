"""YOLO: data.yaml, images/<split>/<FileName>, labels/<split>/<stem>.txt, one line an object, numbers of 1.

    class x_center y_center width height          without masks
    class x1 y1 x2 y2 x3 y3 ...                   with masks: their outline, of a box without one its four corners

One file never mixes the two: readers take a whole file for one or the other (ultralytics does). An image without an
object has an empty label file: a background. https://docs.ultralytics.com/datasets/ describes both.
"""

import json
import re
from collections.abc import Sequence
from typing import ClassVar

import polars as pl

from oid_async.formats.label_files import NO_LABELS, joined_lines, write_label_files
from oid_async.formats.source import CLASS, Span, count_objects, objects
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName

# A centre is the mean of two coordinates of six decimals.
_DECIMALS = 7
# What YAML cannot hold as it is, or takes for a line end (yaml.org, production c-printable, section 5.4), and JSON can.
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_KEYS = {"train": "train", "validation": "val", "test": "test"}


class Yolo:
    """Writes label files span by span."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "segmentation")
    names: ClassVar[Sequence[str]] = (r"data\.yaml", r"ATTRIBUTION\.csv")
    names_by_image: ClassVar[Sequence[str]] = (r"images/{split}/[^/]+\.(?i:jpg)", r"labels/{split}/[^/]+\.txt")

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._has_classes = context.source.has_shapes
        for split in context.source.splits:
            context.folder("labels", split)
            if not context.options.no_files:
                context.folder("images", split)

    def write(self, span: Span) -> None:
        """Write a span."""
        has_shapes = bool({"bbox", "segmentation"} & span.rows.keys())
        rows = objects(span) if has_shapes else None
        labels = self._labels(span, rows) if rows is not None else NO_LABELS
        images = span.images.join(labels, on="ImageID", how="left", maintain_order="left")
        for (split,), part in images.group_by("Split", maintain_order=True):
            write_label_files(self._context, part, "labels", str(split))
        self._context.place(images, "images", "{split}")
        written = 0 if rows is None else int(images.get_column("text").str.count_matches("\n").sum())
        counts = {} if rows is None or written != len(rows) else count_objects(rows)
        self._context.wrote(images, counts)

    def finish(self) -> None:
        """Write data.yaml."""
        splits = self._context.source.splits
        first = splits[0] if splits else "train"
        lines = ["# A selection of Open Images; who to credit for each image stands in ATTRIBUTION.csv."]
        for split, key in _KEYS.items():
            if split in splits:
                lines.append(f"{key}: images/{split}")
            elif key != "test":
                lines.append(f"{key}: images/{first}  # no {split} images here: readers want the line all the same")
        names = self._context.source.classes.names if self._has_classes else ()
        lines += [f"nc: {len(names)}", "names:" if names else "names: []"]
        lines += [f"  {number}: {_quoted(name)}" for number, name in enumerate(names)]
        (self._context.stage / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _labels(self, span: Span, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ImageID and `text`, the content of its label file."""
        if "segmentation" in span.rows:
            shape = self._outlines(rows)
        else:
            centre = [(pl.col(f"{axis}Min") + pl.col(f"{axis}Max")) / 2 for axis in "XY"]
            extent = [pl.col(f"{axis}Max") - pl.col(f"{axis}Min") for axis in "XY"]
            shape = rows.select(pl.concat_str(_numbers(*centre, *extent), separator=" ")).to_series()
        return joined_lines(
            rows.select("ImageID", line=pl.concat_str(pl.col(CLASS).cast(pl.String), shape, separator=" "))
        )

    def _outlines(self, rows: pl.DataFrame) -> pl.Series:
        corners = [pl.col(name) for name in ("XMin", "YMin", "XMax", "YMin", "XMax", "YMax", "XMin", "YMax")]
        boxes = rows.select(pl.concat_str(_numbers(*corners), separator=" ")).to_series()
        masks = rows.select("MaskPath", "OutWidth", "OutHeight").with_row_index().drop_nulls("MaskPath")
        outlines = self._context.pictures.polygons(masks.drop("index").rows())
        found = {
            index: " ".join(map(repr, outline))
            for index, outline in zip(masks.get_column("index"), outlines, strict=True)
            if outline
        }
        if not found:
            return boxes
        return pl.Series([found.get(index, box) for index, box in enumerate(boxes)], dtype=pl.String)


def _numbers(*values: pl.Expr) -> list[pl.Expr]:
    return [value.round(_DECIMALS).cast(pl.String) for value in values]


def _quoted(name: str) -> str:
    """Return a text as YAML: that of JSON, with an escape for what YAML has no other form for."""
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(name, ensure_ascii=False))
