"""COCO: annotations/instances_<split>.json and captions_<split>.json, images/<split>/<FileName>.

    {"info": {...}, "categories": [{id, name, supercategory, mid}, ...],
     "annotations": [{id, image_id, category_id, bbox: [x, y, width, height], area, iscrowd, segmentation, attributes}],
     "images": [{id, width, height, file_name, license, ...}], "licenses": [{id, name, url}]}

Pixels, from 0; categories from 1. An image's id is the first 53 bits of its ImageID, so that it is the same in every
export and a number in every language; annotations are counted from 1 in order of ImageID. `segmentation` is the mask's
run lengths, and empty where there is no mask. For evaluation images have `pos_category_ids` and `neg_category_ids`, as
LVIS has them, if labels were saved, and `hierarchy` is the tree of the categories, if the download has kept one.
https://cocodataset.org/#format-data describes the format.
"""

import json
import re
from collections.abc import Sequence
from typing import IO, Any, ClassVar

import polars as pl

from oid_async.dataset.kept_hierarchy import kept_hierarchy
from oid_async.formats.class_tree import class_tree
from oid_async.formats.source import CLASS, FLAG_NAMES, Span, count_objects, objects
from oid_async.formats.verified import NEGATIVE, POSITIVE, verified_classes
from oid_async.formats.writer import ExportContext
from oid_async.openimages.ids import KEY
from oid_async.openimages.kinds import KindName
from oid_async.store.changes import CHANGES
from oid_async.version import __version__

# A published coordinate has six decimals, and an image may be one pixel wide.
_DECIMALS = 6
_CC = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([0-9.]+)")


class Coco:
    """Writes one JSON file per split; its images wait in a second file, which is appended at the end."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "segmentation", "narrative")
    side_kinds: ClassVar[Sequence[KindName]] = ("label",)
    names: ClassVar[Sequence[str]] = (r"annotations/(?:instances|captions)_{split}\.json",)
    names_by_image: ClassVar[Sequence[str]] = (r"images/{split}/[^/]+\.(?i:jpg)",)

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._licenses = {url: at for at, url in enumerate(context.source.licenses(), 1) if url is not None}
        self._number = context.source.short_numbers()
        self._has_shapes = context.source.has_shapes
        self._has_captions = "narrative" in context.source.kinds
        self._documents: dict[str, _Document] = {}
        self._last_id: dict[str, int] = {}

    def write(self, span: Span) -> None:
        """Write a span."""
        images = self._images(self._with_verified(span))
        counts: dict[str, int] = {}
        annotations, captions = {}, {}
        if self._has_shapes:
            rows = self._with_masks(objects(span))
            annotations = self._annotations(span, rows)
            counts |= count_objects(rows)
        if self._has_captions:
            captions = self._captions(span)
            counts["narrative"] = sum(map(len, captions.values()))
        for (split,), rows in images.group_by("Split", maintain_order=True):
            if self._has_shapes or not self._has_captions:
                self._document(f"instances_{split}").add(rows.get_column("json"), annotations.get(str(split)))
            if self._has_captions:
                self._document(f"captions_{split}").add(rows.get_column("json"), captions.get(str(split)))
        self._context.place(span.images, "images", "{split}")
        self._context.wrote(images, counts)

    def finish(self) -> None:
        """Write the licences at the end of each file."""
        licenses = [{"id": number, "name": _license_name(url), "url": url} for url, number in self._licenses.items()]
        for document in self._documents.values():
            document.close(json.dumps(licenses, ensure_ascii=False))

    def _document(self, name: str) -> "_Document":
        if name not in self._documents:
            classes = self._context.source.classes
            categories = [
                {"id": number, "name": name, "supercategory": "", "mid": label}
                for number, (name, label) in enumerate(zip(classes.names, classes.labels, strict=True), 1)
            ]
            info = {
                "description": "A selection of Open Images",
                "url": "https://storage.googleapis.com/openimages/web/index.html",
                "version": f"oid-async {__version__}",
                "year": 2022,
                "contributor": "Google LLC (annotations, CC BY 4.0); the images' authors, see author and license",
            }
            head: dict[str, Any] = {"info": info}
            if not name.startswith("captions"):
                head["categories"] = categories
                if (hierarchy := kept_hierarchy(self._context.source.dataset)) is not None:
                    head["hierarchy"] = class_tree(classes, hierarchy)
            self._documents[name] = _Document(self._context, name, json.dumps(head, ensure_ascii=False)[:-1])
        return self._documents[name]

    def _with_verified(self, span: Span) -> pl.DataFrame:
        """Return the images with the numbers of the categories that a person has verified in them."""
        has_labels, has_roles = "label" in span.rows, "VerifiedAbsent" in span.images.columns
        if not (self._has_shapes and (has_labels or has_roles)):
            return span.images
        # Without labels nobody knows what else was verified as being there.
        names = [*([POSITIVE] if has_labels else []), NEGATIVE]
        numbers = {label: number + 1 for label, number in self._context.source.classes.numbers.items()}
        found = verified_classes(span, numbers).select("ImageID", *names)
        images = span.images.join(found, on="ImageID", how="left", maintain_order="left")
        return images.with_columns(pl.col(name).fill_null(pl.lit([], pl.List(pl.Int64))) for name in names)

    def _images(self, images: pl.DataFrame) -> pl.DataFrame:
        image = pl.struct(
            id=self._number,
            width="OutWidth",
            height="OutHeight",
            file_name="FileName",
            license=pl.col("License").replace_strict(self._licenses, default=None, return_dtype=pl.Int64),
            flickr_url="OriginalURL",
            coco_url="URL",
            date_captured=pl.lit(""),
            open_images_id="ImageID",
            author="Author",
            author_url="AuthorProfileURL",
            title="Title",
            landing_url="OriginalLandingURL",
            rotation="Rotation",
        )
        if self._context.source.made_smaller_to is not None:
            image = image.struct.with_fields(changes=pl.col(CHANGES))
        if "Role" in images.columns:
            image = image.struct.with_fields(role=pl.col("Role"), verified_absent=pl.col("VerifiedAbsent"))
        verified = {name: pl.col(name) for name in (POSITIVE, NEGATIVE) if name in images.columns}
        if verified:
            image = image.struct.with_fields(**verified)
        return images.select("Split", json=image.struct.json_encode())

    def _annotations(self, span: Span, rows: pl.DataFrame) -> dict[str, pl.Series]:
        """Return the JSON of each object by split."""
        rows = rows.join(span.images.select("ImageID", KEY, "Place"), on="ImageID", maintain_order="left")
        width, height = pl.col("OutWidth").cast(pl.Float64), pl.col("OutHeight").cast(pl.Float64)
        x, y = pl.col("XMin") * width, pl.col("YMin") * height
        across, down = (pl.col("XMax") - pl.col("XMin")) * width, (pl.col("YMax") - pl.col("YMin")) * height
        annotation = pl.struct(
            image_id=self._number,
            category_id=pl.col(CLASS) + 1,
            bbox=pl.concat_list(value.round(_DECIMALS) for value in (x, y, across, down)),
            area=pl.coalesce(pl.col("mask_area").cast(pl.Float64), across * down).round(_DECIMALS),
            iscrowd=(pl.col("IsGroupOf") == 1).cast(pl.Int8),
            attributes=pl.struct(pl.col(flag).alias(name) for flag, name in FLAG_NAMES.items()),
        )
        rows = rows.with_columns(json=annotation.struct.json_encode())
        found = {}
        for (split,), part in rows.group_by("Split", maintain_order=True):
            first = self._last_id.get(str(split), 0) + 1
            self._last_id[str(split)] = first + len(part) - 1
            ids = pl.int_range(first, first + pl.len(), dtype=pl.Int64)
            text = pl.concat_str(
                pl.lit('{"id":'),
                ids.cast(pl.String),
                pl.lit(',"segmentation":'),
                pl.col("segmentation"),
                pl.lit(","),
                pl.col("json").str.slice(1),
            )
            found[str(split)] = part.select(text=text).to_series()
        return found

    def _with_masks(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `segmentation` as JSON and `mask_area` in pixels, null where there is no mask."""
        masks = rows.filter(pl.col("MaskPath").is_not_null()).select("MaskPath", "OutWidth", "OutHeight")
        if not len(masks):
            return rows.with_columns(segmentation=pl.lit("[]"), mask_area=pl.lit(None, pl.Int64))
        masks = masks.unique("MaskPath", maintain_order=True)
        packed = list(self._context.pictures.run_lengths(masks.rows()))
        encoded = [
            json.dumps({"size": [height, width], "counts": text})
            for (text, _), (_, width, height) in zip(packed, masks.iter_rows(), strict=True)
        ]
        found = masks.select("MaskPath").with_columns(
            segmentation=pl.Series(encoded, dtype=pl.String),
            mask_area=pl.Series([area for _, area in packed], dtype=pl.Int64),
        )
        rows = rows.join(found, on="MaskPath", how="left", maintain_order="left")
        return rows.with_columns(pl.col("segmentation").fill_null("[]"))

    def _captions(self, span: Span) -> dict[str, pl.Series]:
        """Return the JSON of each caption by split."""
        rows = span.of("narrative").join(
            span.images.select("ImageID", KEY, "Place"), on="ImageID", maintain_order="left"
        )
        found = {}
        for (split,), part in rows.group_by("Split", maintain_order=True):
            name = f"captions {split}"
            first = self._last_id.get(name, 0) + 1
            self._last_id[name] = first + len(part) - 1
            caption = pl.struct(
                id=pl.int_range(first, first + pl.len(), dtype=pl.Int64),
                image_id=self._number,
                caption="caption",
                annotator_id="annotator_id",
            )
            found[str(split)] = part.select(text=caption.struct.json_encode()).to_series()
        return found


class _Document:
    """One JSON file: annotations are written as they come, images into a second file until it is closed."""

    def __init__(self, context: ExportContext, name: str, head: str) -> None:
        self._path = context.folder("annotations") / f"{name}.json"
        self._images_path = self._path.with_suffix(".images")
        self._file: IO[bytes] = context.files.enter_context(self._path.open("wb"))
        self._images: IO[bytes] = context.files.enter_context(self._images_path.open("w+b"))
        self._file.write(f'{head}, "annotations": [\n'.encode())
        self._first = [True, True]

    def add(self, images: pl.Series, annotations: pl.Series | None) -> None:
        self._lines(0, self._images, images)
        if annotations is not None:
            self._lines(1, self._file, annotations)

    def _lines(self, which: int, file: IO[bytes], lines: pl.Series) -> None:
        if len(lines):
            file.write(b"" if self._first[which] else b",\n")
            self._first[which] = False
            file.write(lines.str.join(",\n").item().encode())

    def close(self, licenses: str) -> None:
        self._file.write(b'\n], "images": [\n')
        self._images.seek(0)
        while block := self._images.read(1 << 20):
            self._file.write(block)
        self._file.write(f'\n], "licenses": {licenses}}}\n'.encode())
        self._file.close()
        self._images.close()
        self._images_path.unlink()


def _license_name(url: str) -> str:
    known = _CC.search(url)
    return f"CC {known[1].upper()} {known[2]}" if known else url
