"""KITTI: <split>/label_2/<stem>.txt, one line an object with 15 fields, and <split>/image_2/<FileName>.

    type truncated occluded alpha left top right bottom height width length x y z rotation_y

The box is in pixels, from 0; what is about three dimensions is as KITTI has it where nothing is known: alpha and
rotation_y -10, height, width and length -1, the place -1000. The readme.txt of KITTI's object devkit
(https://www.cvlibs.net/datasets/kitti/eval_object.php) describes the fields.

Blanks separate fields, so that a class is written as its `type`, as KITTI itself has it (Person_sitting).
A box around a group keeps its class: a `DontCare` region has none, and readers drop it.
"""

from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

import polars as pl

from oid_async.formats.classes import ExportClasses
from oid_async.formats.label_files import NO_LABELS, joined_lines, write_label_files
from oid_async.formats.source import CLASS, Span
from oid_async.formats.texts import fixed_pixels, write_dataset_meta
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName

_NO_ALPHA = "-10"
_NO_SPACE = "-1 -1 -1 -1000 -1000 -1000 -10"


class Kitti:
    """Writes label files span by span."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox",)
    names: ClassVar[Sequence[str]] = (r"classes\.csv", r"dataset_meta\.json", r"ATTRIBUTION\.csv")
    names_by_image: ClassVar[Sequence[str]] = (r"{split}/image_2/[^/]+\.(?i:jpg)", r"{split}/label_2/[^/]+\.txt")

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._classes = context.source.classes if context.source.has_shapes else ExportClasses.of(())
        self._types = [kitti_type(name) for name in self._classes.names]
        for split in context.source.splits:
            context.folder(split, "label_2")
            if not context.options.no_files:
                context.folder(split, "image_2")

    def write(self, span: Span) -> None:
        """Write a span."""
        rows = span.of("bbox") if "bbox" in span.rows else None
        labels = NO_LABELS if rows is None else self._labels(rows)
        images = span.images.join(labels, on="ImageID", how="left", maintain_order="left")
        for (split,), part in images.group_by("Split", maintain_order=True):
            write_label_files(self._context, part, str(split), "label_2")
        self._context.place(images, "{split}", "image_2")
        written = 0 if rows is None else int(images.get_column("text").str.count_matches("\n").sum())
        self._context.wrote(images, {} if rows is None else {"bbox": written})

    def finish(self) -> None:
        """Write which type is which class, for people and, in the order of the classes, for datumaro."""
        stage, classes = self._context.stage, self._classes
        columns = {"type": self._types, "name": classes.names, "mid": classes.labels}
        pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).write_csv(stage / "classes.csv")
        write_dataset_meta(stage, self._types)

    def _labels(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ImageID and `text`, the content of its label file."""
        types = pl.Series("type", self._types, dtype=pl.String).gather(rows.get_column(CLASS))
        sides = [
            fixed_pixels(pl.col(f"{axis}{which}") * pl.col(side).cast(pl.Float64))
            for which in ("Min", "Max")
            for axis, side in (("X", "OutWidth"), ("Y", "OutHeight"))
        ]
        fields = [
            types,
            "IsTruncated",
            "IsOccluded",
            pl.lit(_NO_ALPHA),
            *sides,
            pl.lit(_NO_SPACE),
        ]
        return joined_lines(rows.select("ImageID", line=pl.concat_str(fields, separator=" ")))


def kitti_type(name: str) -> str:
    """Return a class name as one word: `_` for a blank, percent signs for what is no letter, digit, `-`, `.` or `~`.

    `urllib.parse.unquote(word.replace("_", " "))` is the name again; no two names have one word.

    >>> kitti_type("Traffic light"), kitti_type("Café_1")
    ('Traffic_light', 'Caf%C3%A9%5F1')
    """
    return quote(name, safe=" ").replace("_", "%5F").replace(" ", "_")
