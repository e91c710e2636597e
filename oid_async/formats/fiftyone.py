"""The folder that FiftyOne's Open Images importer reads (fiftyone.types.OpenImagesV7Dataset).

    data/<ImageID>.jpg                        all splits: FiftyOne knows none here
    labels/detections.csv ...                 with classifications, relationships, segmentations, points: all five
    labels/masks/<first digit>/<MaskPath>
    metadata/classes.csv ...                  attributes, segmentation_classes, point_classes, hierarchy.json
    metadata/<split>.txt                      its ImageIDs, for the importer's option image_ids

A missing file of a label type fails the import, so a file without rows has its header. The hierarchy is that of the
classes of boxes and masks; flat, where the download has kept none.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar

import polars as pl

from oid_async.dataset.kept_hierarchy import kept_hierarchy
from oid_async.errors import InputError
from oid_async.formats.class_tree import class_tree
from oid_async.formats.source import FLAG_NAMES, Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.catalogue_tables import (
    BOX_COLUMNS,
    LABEL_COLUMNS,
    MASK_COLUMNS,
    MASK_SIDES,
    POINT_COLUMNS,
    RELATIONSHIP_COLUMNS,
    SIDES,
)
from oid_async.openimages.kinds import KindName

# Ids that pandas reads as numbers: 0000048549557964, and 00012e4511111111 too.
_NUMBER = r"^[0-9]+(e[0-9]+)?$"
_NO_IMAGE = "no-image"
# File -> its kind and its columns, which the importer reads as they are published.
_FILES: dict[str, tuple[KindName, tuple[str, ...]]] = {
    "classifications": ("label", LABEL_COLUMNS),
    "detections": ("bbox", BOX_COLUMNS),
    "relationships": ("relationship", RELATIONSHIP_COLUMNS),
    "segmentations": ("segmentation", MASK_COLUMNS),
    "points": ("point", POINT_COLUMNS),
}


class FiftyOne:
    """Writes the label files span by span, and the class tables at the end."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "segmentation", "relationship", "label", "point")
    names: ClassVar[Sequence[str]] = (
        r"ATTRIBUTION\.csv",
        r"labels/(?:classifications|detections|relationships|segmentations|points)\.csv",
        r"labels/masks/[^/]+/[^/]+\.png",
        r"metadata/(?:classes|attributes|segmentation_classes|point_classes)\.csv",
        r"metadata/hierarchy\.json",
        r"metadata/{split}\.txt",
    )
    names_by_image: ClassVar[Sequence[str]] = (r"data/[^/]+\.(?i:jpg)",)

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        labels = context.folder("labels")
        self._labels: dict[str, IO[bytes]] = {}
        for name, (_, columns) in _FILES.items():
            self._labels[name] = self._context.files.enter_context((labels / f"{name}.csv").open("wb"))
            self._labels[name].write(f"{','.join(columns)}\n".encode())
        # The last row of each label file, and the files with an id that does not look like a number.
        self._last: dict[str, pl.DataFrame] = {}
        self._has_text: set[str] = set()
        self._classes: dict[str, str] = {}
        self._chosen: dict[str, str] = dict(context.source.dataset.chosen_classes().iter_rows())
        self._attributes: dict[str, str] = {}
        self._mask_classes: dict[str, None] = {}
        self._point_classes: dict[str, str] = {}
        self._data = context.folder("data")
        context.folder("metadata")

    def write(self, span: Span) -> None:
        """Write a span."""
        counts: dict[str, int] = {}
        for name, (kind, columns) in _FILES.items():
            if kind in span.rows:
                rows = span.of(kind)
                self._rows(name, rows, columns)
                counts[kind] = len(rows)
        if "label" not in span.rows and "VerifiedAbsent" in span.images.columns:
            self._rows("classifications", self._absences(span.images), LABEL_COLUMNS)
        self._collect_classes(span)
        if not self._context.options.no_files:
            names = [_file_name(image_id) for image_id in span.images.get_column("ImageID")]
            self._context.pictures.place(span.images, self._data, names)
        if "segmentation" in span.rows:
            self._place_masks(span)
        for split, image_id in span.images.select("Split", "ImageID").iter_rows():
            self._context.text_file("metadata", f"{split}.txt").write(f"{image_id}\n")
        self._context.wrote(span.images, counts)

    def _absences(self, images: pl.DataFrame) -> pl.DataFrame:
        """Return what is verified to be absent in negatives as labels of Confidence 0, which the importer reads."""
        rows = images.select("ImageID", LabelName="VerifiedAbsent").explode("LabelName").drop_nulls("LabelName")
        for label in rows.get_column("LabelName").unique():
            self._classes.setdefault(label, self._chosen.get(label, label))
        return rows.with_columns(Source=pl.lit("verification"), Confidence=pl.lit("0"))

    def _rows(self, name: str, rows: pl.DataFrame, columns: Sequence[str]) -> None:
        if name == "segmentations":
            rows = rows.rename(dict(zip(SIDES, MASK_SIDES, strict=True)))
        elif name == "points":
            rows = rows.rename({"ImageID": "ImageId"})
        missing = [pl.lit(_default(column)).alias(column) for column in columns if column not in rows.columns]
        rows = rows.with_columns(missing).select(columns)
        rows.write_csv(self._labels[name], include_header=False)
        if len(rows):
            self._last[name] = rows.tail(1)
        if rows.select(~pl.col(_id_column(name)).str.contains(_NUMBER)).to_series().any():
            self._has_text.add(name)

    def _keep_ids_text(self) -> None:
        """Add a row of no image to a file in which all ids look like numbers.

        The importer reads the file with pandas, which would make numbers of them; it would then find no label, without
        a message (FiftyOne 1.22.1). It skips rows of images that are not there.
        """
        for name, row in self._last.items():
            if name not in self._has_text:
                row = row.with_columns(pl.lit(_NO_IMAGE).alias(_id_column(name)))
                row.write_csv(self._labels[name], include_header=False)

    def _place_masks(self, span: Span) -> None:
        facts = span.images.select("ImageID", "OutWidth", "OutHeight", smaller=pl.col("OutWidth") != pl.col("Width"))
        masks = span.rows["segmentation"].select("ImageID", "MaskPath").join(facts, on="ImageID", maintain_order="left")

        def target(mask_path: str) -> Path:
            return self._context.folder("labels", "masks", mask_path[:1].upper()) / mask_path

        self._context.pictures.place_masks(masks.drop("ImageID").unique("MaskPath", maintain_order=True), target)

    def _collect_classes(self, span: Span) -> None:
        rows = span.rows

        def named(kind: KindName, label: str, category: str) -> dict[str, str]:
            if kind not in rows:
                return {}
            pairs = rows[kind].select(label, pl.coalesce(category, label).alias(category)).unique().sort(label)
            return dict(pairs.drop_nulls().iter_rows())

        self._classes |= named("label", "LabelName", "Category") | named("relationship", "LabelName1", "Category1")
        if "relationship" in rows:
            second = rows["relationship"].select("RelationshipLabel", "LabelName2", "Category2").unique()
            for relation, label, name in second.sort("LabelName2").iter_rows():
                known = self._attributes if relation == "is" else self._classes
                known[label] = name or label
        self._point_classes |= named("point", "Label", "Category")
        if "segmentation" in rows:
            self._mask_classes |= dict.fromkeys(rows["segmentation"].get_column("LabelName").unique().sort())

    def finish(self) -> None:
        """Write the class tables and close all files."""
        self._keep_ids_text()
        self._context.files.close()
        metadata = self._context.stage / "metadata"
        classes = self._context.source.classes
        boxed = {label: classes.names[number] for label, number in classes.numbers.items()}
        _write_pairs(metadata / "classes.csv", {**self._classes, **boxed})
        _write_pairs(metadata / "attributes.csv", self._attributes)
        _write_pairs(metadata / "point_classes.csv", self._point_classes)
        lines = "".join(f"{label}\n" for label in sorted(self._mask_classes))
        (metadata / "segmentation_classes.csv").write_text(lines, encoding="utf-8")
        tree = class_tree(classes, kept_hierarchy(self._context.source.dataset))
        (metadata / "hierarchy.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")


def _file_name(image_id: str) -> str:
    """Return the name that the importer looks for. Raises InputError for an id of a user's own that is no file name."""
    if "/" in image_id or "\0" in image_id or image_id.startswith("."):
        raise InputError(
            f"ImageID {image_id!r} cannot name a file, and FiftyOne knows images by that: choose another format"
        )
    return f"{image_id}.jpg"


def _id_column(name: str) -> str:
    return "ImageId" if name == "points" else "ImageID"


def _default(column: str) -> str:
    """Return the value of a column that a table of a user's own does not have."""
    if column in FLAG_NAMES:
        return "-1"
    return "1" if column == "Confidence" else ""


def _write_pairs(path: Path, names: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("MID", "Name"))
        writer.writerows(sorted(names.items()))
