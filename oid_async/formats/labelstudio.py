"""Label Studio: tasks_<split>.json, a task an image a line; label_config.xml; images/<split>/<FileName>.

    box       rectanglelabels  x, y, width, height in per cent of the image; original_width, original_height in pixels
    mask      brushlabels      run lengths (`mask_shapes.brush_mask`)
    flags     choices of a region: those that are set; all five, -1 for unknown, are in its `meta`
    labels    taxonomy         labels of the image that are confirmed; `absent` those verified not to be there
    caption   textarea

`b7` and `m7` are the box and the mask of the seventh object. https://labelstud.io/guide/export describes tasks,
https://labelstud.io/guide/storage how the files of a folder are served: as `/data/local-files/?d=`, then their path
below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, which is to be the folder of the export.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import polars as pl

from oid_async.formats.samples import ABOUT
from oid_async.formats.source import CLASS, FLAG_NAMES, Span, objects
from oid_async.formats.verified import confidence
from oid_async.formats.writer import ExportContext
from oid_async.formats.xml_text import distinct_in_xml
from oid_async.openimages.kinds import KindName

_DECIMALS = 6
# Images whose regions are held at once: those of a mask of noise take megabytes.
_PART = 16
_LABEL_NAME = pl.coalesce("Category", "LabelName")
_LOCAL_FILES = "/data/local-files/?d="
_IMAGE = "image"
_FLAG_WORDS = {flag: name.replace("_", " ") for flag, name in FLAG_NAMES.items()}
_ROLES = {"role": "Role", "verified_absent": "VerifiedAbsent"}


class LabelStudio:
    """Writes the tasks of each split one by one."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "segmentation", "narrative", "label")
    names: ClassVar[Sequence[str]] = (r"tasks_{split}\.json", r"label_config\.xml")
    names_by_image: ClassVar[Sequence[str]] = (r"images/{split}/[^/]+\.(?i:jpg)",)

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        source = context.source
        self._names = distinct_in_xml(source.classes.names) if source.has_shapes else []
        # Name of a class that labels of images have -> what it is in the configuration.
        self._image_names: dict[str, str] = {}
        if "label" in source.kinds:
            names = source.distinct("label", name=_LABEL_NAME).to_series().to_list()
            self._image_names = dict(zip(names, distinct_in_xml(names), strict=True))
        self._begun: set[str] = set()
        self._count = 0

    def write(self, span: Span) -> None:
        """Write a span."""
        for part in span.parts(_PART):
            self._write_tasks(part)
        self._context.place(span.images, "images", "{split}")
        self._context.wrote(span.images, {kind: len(span.of(kind)) for kind in span.rows})

    def _write_tasks(self, span: Span) -> None:
        regions, labels, captions = self._regions(span), self._labels(span), self._captions(span)
        about = ABOUT | {name: column for name, column in _ROLES.items() if column in span.images.columns}
        columns = (pl.col(column).alias(name) for name, column in about.items())
        for image in span.images.select(columns).iter_rows(named=True):
            image_id = image["image_id"]
            size = {"original_width": image.pop("width"), "original_height": image.pop("height")}
            found = [
                *({**each, **size, "image_rotation": 0} for each in regions.get(image_id, ())),
                *labels.get(image_id, ()),
                *captions.get(image_id, ()),
            ]
            task = {"data": {_IMAGE: self._address(image), **image}, "annotations": [{"result": found}]}
            self._write(image["split"], task)

    def finish(self) -> None:
        """End the lists of tasks, and write label_config.xml."""
        for split in self._context.source.splits:
            self._context.text_file(_tasks(split)).write("\n]\n" if split in self._begun else "[]\n")
        (self._context.stage / "label_config.xml").write_text("\n".join(self._config()) + "\n", encoding="utf-8")
        self._context.files.close()

    def _write(self, split: str, task: dict[str, Any]) -> None:
        file = self._context.text_file(_tasks(split))
        file.write(",\n" if split in self._begun else "[\n")
        self._begun.add(split)
        self._count += 1
        file.write(json.dumps({"id": self._count, **task}, ensure_ascii=False))

    def _address(self, image: dict[str, Any]) -> str:
        """Return where Label Studio has an image from: below the export, or, without files there, below SAVEPATH."""
        folder = "images" if self._context.options.no_files else f"images/{image['split']}"
        return _LOCAL_FILES + quote(f"{folder}/{image['file_name']}")

    def _regions(self, span: Span) -> dict[str, list[dict[str, Any]]]:
        """Return ImageID -> the boxes and masks of its objects, and choices for the flags that are set."""
        if not {"bbox", "segmentation"} & span.rows.keys():
            return {}
        rows = objects(span)
        rows = rows.with_columns(nth=pl.int_range(1, pl.len() + 1).over("ImageID"))
        shown = rows.drop_nulls("MaskPath").select("MaskPath", "OutWidth", "OutHeight").rows()
        masks = self._context.pictures.brush_masks(shown)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows.iter_rows(named=True):
            name = self._names[row[CLASS]]
            regions = found.setdefault(row["ImageID"], [])
            meta = {"mid": row["LabelName"], **{FLAG_NAMES[flag]: row[flag] for flag in FLAG_NAMES}}
            if row["has_box"]:
                regions += _box(row, name, meta)
            if row["MaskPath"] is not None:
                value = {"format": "rle", "rle": list(next(masks)), "brushlabels": [name]}
                regions.append({**_result(f"m{row['nth']}", "mask", "brushlabels", value), "meta": meta})
        return found

    def _labels(self, span: Span) -> dict[str, list[dict[str, Any]]]:
        """Return ImageID -> the labels of the whole image, confirmed and absent ones."""
        found: dict[str, list[dict[str, Any]]] = {}
        if "label" not in span.rows:
            return found
        rows = span.of("label")
        is_absent = (confidence(rows.columns) == 0).fill_null(False)
        rows = rows.with_columns(is_absent=is_absent, name=_LABEL_NAME)
        grouped = rows.group_by("ImageID", "is_absent", maintain_order=True).agg(
            pl.col("name").unique(maintain_order=True)
        )
        for image_id, is_absent, names in grouped.iter_rows():
            which = "absent" if is_absent else "labels"
            value = {"taxonomy": [[self._image_names[name]] for name in names]}
            found.setdefault(image_id, []).append(_result(which, which, "taxonomy", value))
        return found

    def _captions(self, span: Span) -> dict[str, list[dict[str, Any]]]:
        """Return ImageID -> its captions, as one text area."""
        if "narrative" not in span.rows:
            return {}
        grouped = span.rows["narrative"].group_by("ImageID", maintain_order=True).agg("caption")
        return {
            image_id: [_result("caption", "caption", "textarea", {"text": captions})]
            for image_id, captions in grouped.iter_rows()
        }

    def _config(self) -> Iterator[str]:
        """Yield the lines of the labelling configuration."""
        kinds = self._context.source.kinds
        yield "<View>"
        yield f'  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>'
        tags = {"bbox": ("RectangleLabels", "box"), "segmentation": ("BrushLabels", "mask")}
        for tag, name in (tags[kind] for kind in tags if kind in kinds and self._names):
            yield from _control(tag, f'name="{name}"', "Label", self._names)
        if self._names:
            yield from _control(
                "Choices", 'name="flags" choice="multiple" perRegion="true"', "Choice", _FLAG_WORDS.values()
            )
        for name in ("labels", "absent") if self._image_names else ():
            yield from _control("Taxonomy", f'name="{name}"', "Choice", self._image_names.values())
        yield f'  <TextArea name="caption" toName="{_IMAGE}" editable="true"/>'
        yield "</View>"


def _tasks(split: str) -> str:
    return f"tasks_{split}.json"


def _result(number: str, control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "from_name": control, "to_name": _IMAGE, "type": kind, "value": value}


def _box(row: dict[str, Any], name: str, meta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the region of a box, and the choice of the flags that are set, if any is."""
    edges = {
        "x": row["XMin"],
        "y": row["YMin"],
        "width": row["XMax"] - row["XMin"],
        "height": row["YMax"] - row["YMin"],
    }
    place = {side: round(100 * share, _DECIMALS) for side, share in edges.items()} | {"rotation": 0}
    number = f"b{row['nth']}"
    yield {**_result(number, "box", "rectanglelabels", {**place, "rectanglelabels": [name]}), "meta": meta}
    if chosen := [word for flag, word in _FLAG_WORDS.items() if row[flag] == 1]:
        yield _result(number, "flags", "choices", {**place, "choices": chosen})


def _control(tag: str, attributes: str, item: str, values: Iterable[str]) -> Iterator[str]:
    yield f'  <{tag} {attributes} toName="{_IMAGE}">'
    for value in values:
        yield f"    <{item} value={quoteattr(value)}/>"
    yield f"  </{tag}>"
