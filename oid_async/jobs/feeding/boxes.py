"""The boxes of some thousand images at a time, as arrays: what a target of a detector is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.dataset.tables import SCHEMAS, column
from oid_async.formats.classes import ExportClasses
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.ids import KEY
from oid_async.store.annotation_rows import AnnotationRows, SavedAnnotations
from oid_async.store.annotation_table import label_data
from oid_async.tables.reading import reading

if TYPE_CHECKING:
    import numpy as np

SIDES = ("XMin", "XMax", "YMin", "YMax")
_GROUP = "IsGroupOf"
_LABEL = "LabelName"
_COLUMNS = (_LABEL, *SIDES, _GROUP)
_AT = "__at"
_NONE = pl.DataFrame(schema={_AT: pl.UInt32, _LABEL: pl.Int64, **dict.fromkeys(SIDES, pl.Float64), _GROUP: pl.UInt8})


@dataclass(frozen=True, slots=True)
class SampleBoxes:
    """The boxes of one image, in published order.

    `sides` are XMin, XMax, YMin, YMax as fractions, float64 [N, 4], nan for what is no number; `labels` int64 [N], from
    1; `groups` uint8 [N], 1 for a box around a group.
    """

    sides: "np.ndarray[Any, Any]"
    labels: "np.ndarray[Any, Any]"
    groups: "np.ndarray[Any, Any]"


class SliceBoxes:
    """The boxes of a slice of images, by the place of the image in the slice."""

    def __init__(self, rows: pl.DataFrame, images: int) -> None:
        at = rows.get_column(_AT)
        self._starts = at.search_sorted(pl.Series(range(images + 1), dtype=at.dtype), "left").to_list()
        sides = rows.select(pl.col(SIDES).fill_null(float("nan")))
        self._sides = sides.to_numpy(order="c")
        self._labels = rows.get_column(_LABEL).to_numpy()
        self._groups = rows.get_column(_GROUP).to_numpy()

    def of(self, image: int) -> SampleBoxes:
        """Return the boxes of one image."""
        rows = slice(self._starts[image], self._starts[image + 1])
        return SampleBoxes(self._sides[rows], self._labels[rows], self._groups[rows])


class BoxReader:
    """Reads the boxes that a run would save, and numbers their classes as its exports do.

    `wanted` returns the keys of all images that may be asked for; `scratch` is a folder for what must be copied.
    Without saved boxes no image has any. Blocking.
    """

    def __init__(
        self, tables: GatheredTables, *, all_boxes: bool, wanted: Callable[[], pl.Series], scratch: Path
    ) -> None:
        saved = tables.saved_annotations(all_boxes=all_boxes)
        boxes = next((each for each in saved if each.source.kind.name == "bbox"), None)
        self._rows = None if boxes is None else AnnotationRows(boxes, tables.ids, wanted, scratch)
        self.classes = ExportClasses.of([] if boxes is None else self._named(boxes, wanted))

    def read(self, keys: pl.Series) -> SliceBoxes:
        """Return the boxes of some images (unique keys), of which each has its place in `keys`. Raises InputError."""
        at = pl.DataFrame({KEY: keys, _AT: range(len(keys))}, schema_overrides={_AT: pl.UInt32})
        if self._rows is None:
            return SliceBoxes(_NONE, len(keys))
        ordered = keys.sort()
        with reading(self._rows.read_from):
            rows = self._rows.of(ordered, ordered).collect(engine="streaming")
        numbers = {label: number + 1 for label, number in self.classes.numbers.items()}
        number = pl.col(_LABEL).replace_strict(numbers, default=None, return_dtype=pl.Int64)
        found = rows.select(KEY, *_columns(self._rows.columns)).with_columns(number).drop_nulls(_LABEL)
        return SliceBoxes(found.join(at, on=KEY, how="inner").sort(_AT, maintain_order=True), len(keys))

    def _named(self, boxes: SavedAnnotations, wanted: Callable[[], pl.Series]) -> list[tuple[str, str]]:
        """Return MID and name of the classes of label_data.csv, in its order, then those of other rows by MID."""
        names = boxes.source.class_names
        chosen = list(label_data(boxes.labels, names).iter_rows())
        if boxes.labels is not None or self._rows is None or not len(keys := wanted()):
            return chosen
        known = {label for label, _ in chosen}
        with reading(self._rows.read_from):
            labels = self._rows.of(keys, keys).select(pl.col(_LABEL).unique()).collect(engine="streaming")
        others = sorted(set(labels.to_series().drop_nulls()) - known)
        return [*chosen, *((label, names.get(label, label)) for label in others)]


def _columns(present: list[str]) -> list[pl.Expr]:
    schema = SCHEMAS["bbox"]
    typed = [column(name, schema[name], present) for name in _COLUMNS[:-1]]
    return [*typed, (column(_GROUP, schema[_GROUP], present) == 1).cast(pl.UInt8).alias(_GROUP)]
