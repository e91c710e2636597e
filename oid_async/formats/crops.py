"""Crops: <split>/<class>/<stem>_<n>.jpg, one picture a box; labels.csv, a row a crop; classes.csv, a row a MID.

    train/Dog/4523_o_1.jpg    the first box of images/4523_o.jpg, in published order of the boxes that are exported
    labels.csv                File, ImageID, FileName, LabelName, Category, the box in fractions, its flags; in pixels
                              of the saved image what was cut (Left, Top, Right, Bottom); Width and Height of the crop
    classes.csv               Folder, LabelName, Category

A folder a class below a folder a split is what torchvision's ImageFolder and the imagefolder of datasets read. Edges
are rounded to whole pixels, halves up; `margin` widens a box on each side by its share of the box, within the image.
With `max_side` the crops are made smaller, not the images they are cut from.
"""

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import polars as pl

from oid_async.formats.class_folders import class_folders
from oid_async.formats.source import CLASS, FLAG_NAMES, Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.kinds import KindName
from oid_async.options.readers import share
from oid_async.store.changes import CHANGES, and_also

# A number and `.jpg` come behind a stem; the longest name that every file system takes has 255 bytes.
_MOST_STEM_BYTES = 230
_DECIMALS = 6
_LABELS = {
    **{name: name for name in ("File", "ImageID", "FileName", "LabelName", "Category", *SIDES, *FLAG_NAMES)},
    **{name: name for name in ("Left", "Top", "Right", "Bottom")},
    "Width": "CropWidth",
    "Height": "CropHeight",
}


class Crops:
    """Cuts the boxes of a span out of its images."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox",)
    names: ClassVar[Sequence[str]] = (r"labels\.csv", r"classes\.csv", r"ATTRIBUTION\.csv")
    names_by_image: ClassVar[Sequence[str]] = ()

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._names = context.source.classes.names if context.source.has_shapes else ()
        self._folders = class_folders(self._names)
        self._margin = float(share(context.options.margin))
        context.text_file("labels.csv").write(",".join(_LABELS) + "\n")

    def write(self, span: Span) -> None:
        """Write a span."""
        crops = self._crops(span) if "bbox" in span.rows else None
        if crops is not None and not self._context.options.no_files:
            refused = self._context.pictures.cut(crops, self._context.stage)
            span = self._context.source.without(span, refused, {})
            crops = crops.join(span.images, on="ImageID", how="semi", maintain_order="left")
        if crops is not None and len(crops):
            table = crops.select(pl.col(column).alias(name) for name, column in _LABELS.items())
            self._context.text_file("labels.csv").write(table.write_csv(include_header=False))
        rows = {} if crops is None else {"bbox": len(crops)}
        self._context.wrote(span.images, rows, credited=self._cropped(span.images, crops))

    def finish(self) -> None:
        """Write classes.csv."""
        numbers = self._context.source.classes.numbers if self._names else {}
        rows = [(self._folders[number], label, self._names[number]) for label, number in numbers.items()]
        table = pl.DataFrame(rows, schema=dict.fromkeys(("Folder", "LabelName", "Category"), pl.String), orient="row")
        table.write_csv(self._context.stage / "classes.csv")
        self._context.files.close()

    def _cropped(self, images: pl.DataFrame, crops: pl.DataFrame | None) -> pl.DataFrame:
        """Return the images that have a crop; those of which one was made smaller, too, say so in their Changes."""
        if crops is None:
            return images.clear()
        if self._context.options.no_files:
            return images.join(crops, on="ImageID", how="semi", maintain_order="left")
        smaller = pl.col("CropWidth") < pl.col("Right") - pl.col("Left")
        smaller |= pl.col("CropHeight") < pl.col("Bottom") - pl.col("Top")
        found = images.join(
            crops.group_by("ImageID").agg(smaller.any().alias("__smaller")), on="ImageID", maintain_order="left"
        )
        resized = pl.when("__smaller").then(pl.lit(f"resized to at most {self._context.options.max_side} px"))
        return found.with_columns(and_also(pl.col(CHANGES), resized).alias(CHANGES))

    def _crops(self, span: Span) -> pl.DataFrame:
        """Return the boxes with File, Category, what is cut in pixels, and the size of the crop."""
        boxes = span.of("bbox")
        names, folders = (pl.Series(words, dtype=pl.String) for words in (self._names, self._folders))
        number = boxes.get_column(CLASS)
        nth = pl.int_range(1, pl.len() + 1).over("ImageID").cast(pl.String)
        boxes = boxes.with_columns(
            *_edges("X", "OutWidth", ("Left", "Right"), self._margin),
            *_edges("Y", "OutHeight", ("Top", "Bottom"), self._margin),
            Category=names.gather(number),
            __stem=pl.Series(map(_stem, boxes.get_column("FileName")), dtype=pl.String),
            __folder=folders.gather(number),
        )
        file = pl.concat_str("Split", pl.lit("/"), "__folder", pl.lit("/"), "__stem", pl.lit("_"), nth, pl.lit(".jpg"))
        width, height = pl.col("Right") - pl.col("Left"), pl.col("Bottom") - pl.col("Top")
        scale = pl.lit(1.0)
        if (most := self._context.options.max_side) is not None:
            scale = pl.min_horizontal(scale, most / pl.max_horizontal(width, height))
        size = [(side * scale).round().clip(lower_bound=1).cast(pl.Int64) for side in (width, height)]
        return boxes.with_columns(File=file, CropWidth=size[0], CropHeight=size[1])


def _edges(axis: str, side: str, names: tuple[str, str], margin: float) -> list[pl.Expr]:
    """Return the edges of the crop along an axis in whole pixels; there is one pixel between them at least."""
    size = pl.col(side).cast(pl.Float64)
    start, end = pl.col(f"{axis}Min"), pl.col(f"{axis}Max")
    more = (end - start) * margin
    pixels = [(edge.clip(0, 1) * size).round(_DECIMALS) for edge in (start - more, end + more)]
    first = pl.min_horizontal((pixels[0] + 0.5).floor(), size - 1)
    last = pl.max_horizontal((pixels[1] + 0.5).floor(), first + 1)
    return [first.cast(pl.Int64).alias(names[0]), last.cast(pl.Int64).alias(names[1])]


def _stem(file_name: str) -> str:
    """Return the name of an image without its ending; of a very long one the start, and a hash of all of it."""
    stem = file_name.rpartition(".")[0]
    if len(stem.encode()) <= _MOST_STEM_BYTES:
        return stem
    start = stem.encode()[: _MOST_STEM_BYTES - 17].decode(errors="ignore")
    return f"{start}_{hashlib.sha256(file_name.encode()).hexdigest()[:16]}"
