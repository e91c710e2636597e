"""CVAT for images 1.1: annotations.xml, images/<split>/<FileName>.

    <annotations> <version> <meta> <project> <labels> <subsets> <tasks>
      <image id name subset width height> <box> <mask> <tag> <points>

It is the file of a project, with a task a split, as CVAT and datumaro read it. Numbers are pixels, from 0. A box and
its mask are two shapes of one group. Licence and author are in attributes of <image> that these readers leave alone.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ describes the format.

A tag or a point of a class that is not there, or of which people were unsure, has a label of its own (`no: Dog`,
`unsure: Dog`): a reader that looks at nothing but labels would take it for a dog.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import polars as pl

from oid_async.formats.source import CLASS, FLAG_NAMES, ExportSource, Span, count_objects, objects
from oid_async.formats.texts import fixed_pixels
from oid_async.formats.verified import confidence
from oid_async.formats.writer import ExportContext
from oid_async.formats.xml_text import attribute_text, distinct_in_xml
from oid_async.openimages.catalogue_tables import VOTES
from oid_async.openimages.kinds import KindName
from oid_async.store.changes import CHANGES

_YES, _NO = "yes", "no"
# CVAT has an attribute of its own for this flag.
_OCCLUDED = "IsOccluded"
_FLAGS = {flag: name for flag, name in FLAG_NAMES.items() if flag != _OCCLUDED}
# A flag may be unknown: no checkbox says so.
_STATES = {-1: "unknown", 0: "false", 1: "true"}
# Name of an attribute of an annotation -> its column, of tags and of points.
_TAG_ATTRIBUTES = {"confidence": "Confidence", "source": "Source"}
_POINT_ATTRIBUTES = {"answer": "EstimatedYesNo", **{name.removesuffix("Votes").lower(): name for name in VOTES}}
# XML attribute of <image> that CVAT does not know -> column of the images.
_ABOUT = {
    "open_images_id": "ImageID",
    "license": "License",
    "author": "Author",
    "author_url": "AuthorProfileURL",
    "title": "Title",
    "landing_url": "OriginalLandingURL",
    "original_url": "OriginalURL",
    "rotation": "Rotation",
    "changes": CHANGES,
}


class Cvat:
    """Writes the one file image by image."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "segmentation", "label", "point")
    names: ClassVar[Sequence[str]] = (r"annotations\.xml", r"labels\.(?:csv|json)", r"ATTRIBUTION\.csv")
    names_by_image: ClassVar[Sequence[str]] = (r"images/{split}/[^/]+\.(?i:jpg)",)

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._labels = _Labels(context.source)
        self._file = context.text_file("annotations.xml")
        self._file.write(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{"".join(self._head())}')
        self._images = self._groups = 0
        for split in context.source.splits if not context.options.no_files else ():
            context.folder("images", split)

    def write(self, span: Span) -> None:
        """Write a span."""
        counts: dict[str, int] = {}
        lines = [pl.DataFrame(schema={"ImageID": pl.String, "line": pl.String})]
        if {"bbox", "segmentation"} & span.rows.keys():
            rows = objects(span)
            counts |= count_objects(rows)
            lines.append(self._shapes(rows))
        if "label" in span.rows:
            counts["label"] = len(span.rows["label"])
            lines.append(self._tags(span.of("label")))
        if "point" in span.rows:
            counts["point"] = len(span.rows["point"])
            lines.append(self._points(span.of("point")))
        found = pl.concat(lines).group_by("ImageID", maintain_order=True).agg(pl.col("line").str.join(""))
        images = span.images.join(found, on="ImageID", how="left", maintain_order="left")
        text = images.select(pl.concat_str(self._image(images), pl.col("line").fill_null(""), pl.lit("  </image>\n")))
        self._file.write("".join(text.to_series()))
        self._images += len(images)
        self._context.place(images, "images", "{split}")
        self._context.wrote(images, counts)

    def finish(self) -> None:
        """Close the file, and write which label is what."""
        self._file.write("</annotations>\n")
        self._context.files.close()
        known = self._labels.known
        known.select("label", "name", "answer", "mid").write_csv(self._context.stage / "labels.csv")
        labels = [
            {"name": label, "attributes": list(map(_declaration, each))}
            for label, each in known.select("label", "attributes").iter_rows()
        ]
        text = json.dumps(labels)
        (self._context.stage / "labels.json").write_text(f"{text}\n", encoding="utf-8")

    def _head(self) -> Iterator[str]:
        """Yield what stands before the images."""
        yield "  <version>1.1</version>\n  <meta>\n    <project>\n      <name>Open Images</name>\n      <labels>\n"
        for label, attributes in self._labels.known.select(attribute_text(pl.col("label")), "attributes").iter_rows():
            declared = "".join(map(_declared, attributes))
            yield f"        <label><name>{label}</name><attributes>{declared}</attributes></label>\n"
        splits = self._context.source.splits
        yield "      </labels>\n      <subsets>" + "\n".join(splits) + "</subsets>\n      <tasks>\n"
        for number, split in enumerate(splits, 1):
            mode = "<mode>annotation</mode>"
            yield f"        <task><id>{number}</id><name>{split}</name>{mode}<subset>{split}</subset></task>\n"
        yield "      </tasks>\n    </project>\n  </meta>\n"

    def _image(self, images: pl.DataFrame) -> pl.Expr:
        """Return the start of each image's element."""
        about = dict(_ABOUT)
        absent = pl.lit("")
        if "Role" in images.columns:
            about["role"] = "Role"
            absent = _attribute("verified_absent", pl.col("VerifiedAbsent").list.join(" "))
        return pl.concat_str(
            pl.lit("  <image"),
            _attribute("id", pl.int_range(self._images, self._images + pl.len())),
            _attribute("name", pl.col("FileName")),
            _attribute("subset", pl.col("Split")),
            _attribute("width", pl.col("OutWidth")),
            _attribute("height", pl.col("OutHeight")),
            *(_attribute(name, pl.col(column)) for name, column in about.items()),
            absent,
            pl.lit(">\n"),
        )

    def _shapes(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ImageID and `line`, the elements of each object: its box, its mask."""
        is_pair = pl.col("has_box") & pl.col("MaskPath").is_not_null()
        rows = self._with_masks(rows).with_columns(
            __group=pl.when(is_pair).then(is_pair.cum_sum() + self._groups),
            __label=self._labels.of_classes.gather(rows.get_column(CLASS)),
        )
        self._groups += rows.get_column("__group").count()
        common = [
            _attribute("label", pl.col("__label"), is_escaped=True),
            pl.lit(' source="file"'),
            _attribute("occluded", pl.col(_OCCLUDED).clip(0, 1)),
        ]
        ends = [pl.lit(' z_order="0"'), _attribute("group_id", pl.col("__group"))]
        sides = {"xtl": ("XMin", "OutWidth"), "ytl": ("YMin", "OutHeight")}
        sides |= {"xbr": ("XMax", "OutWidth"), "ybr": ("YMax", "OutHeight")}
        attributes = [
            _inner(name, pl.col(flag).replace_strict(_STATES, default="unknown", return_dtype=pl.String))
            for flag, name in _FLAGS.items()
        ]
        box = pl.concat_str(
            pl.lit("    <box"),
            *common,
            *(_attribute(name, _pixels(side, size)) for name, (side, size) in sides.items()),
            *ends,
            pl.lit(">"),
            *attributes,
            pl.lit("</box>\n"),
        )
        # No attributes: CVAT's reader of projects, which knows no masks, would take them for those of the box before.
        mask = pl.concat_str(pl.lit("    <mask"), *common, pl.col("__mask"), *ends, pl.lit("></mask>\n"))
        box = pl.when("has_box").then(box).otherwise(pl.lit(""))
        return rows.select("ImageID", line=pl.concat_str(box, mask.fill_null("")))

    def _with_masks(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `__mask`, the attributes of each object's mask, null where there is none."""
        masks = rows.select("MaskPath", "OutWidth", "OutHeight").drop_nulls("MaskPath")
        masks = masks.unique("MaskPath", maintain_order=True)
        texts = [
            f' rle="{mask.runs}" left="{mask.left}" top="{mask.top}" width="{mask.width}" height="{mask.height}"'
            for mask in self._context.pictures.crop_runs(masks.rows())
        ]
        found = masks.select("MaskPath", __mask=pl.Series(texts, dtype=pl.String))
        return rows.join(found, on="MaskPath", how="left", maintain_order="left")

    def _tags(self, rows: pl.DataFrame) -> pl.DataFrame:
        named = rows.with_columns(**_tag_label(rows.columns))
        start = [
            pl.lit("    <tag"),
            _attribute("label", pl.col("__label"), is_escaped=True),
            pl.lit(' source="file"'),
            # Without it CVAT's reader of projects forgets the image's.
            _attribute("subset", pl.col("Split")),
        ]
        return self._elements(named, start, _TAG_ATTRIBUTES, "tag")

    def _points(self, rows: pl.DataFrame) -> pl.DataFrame:
        named = rows.with_columns(**_point_label(rows.columns))
        xy = pl.concat_str(_pixels("X", "OutWidth"), _pixels("Y", "OutHeight"), separator=",")
        start = [
            pl.lit("    <points"),
            _attribute("label", pl.col("__label"), is_escaped=True),
            pl.lit(' source="file" occluded="0"'),
            _attribute("points", xy),
            pl.lit(' z_order="0"'),
        ]
        return self._elements(named, start, _POINT_ATTRIBUTES, "points")

    def _elements(
        self, rows: pl.DataFrame, start: Sequence[pl.Expr], columns: dict[str, str], tag: str
    ) -> pl.DataFrame:
        """Return ImageID and `line`, an element a row, of rows with `name` and `answer`."""
        labels = self._labels.known.select("name", "answer", __label=attribute_text(pl.col("label")))
        rows = rows.join(labels, on=["name", "answer"], how="left", maintain_order="left")
        inner = [_inner(name, pl.col(column)) for name, column in columns.items() if column in rows.columns]
        return rows.select("ImageID", line=pl.concat_str(*start, pl.lit(">"), *inner, pl.lit(f"</{tag}>\n")))


class _Labels:
    """The labels of an export: `known` has name, answer, mid, label (the text in the file), attributes ([names]).

    `of_classes` are those of the classes of boxes and masks by their number, as values of an XML attribute.
    """

    def __init__(self, source: ExportSource) -> None:
        frames = [_classes(source)]
        for kind, label, attributes in (
            ("label", _tag_label, _TAG_ATTRIBUTES),
            ("point", _point_label, _POINT_ATTRIBUTES),
        ):
            if kind in source.kinds:
                columns = source.dataset.table(kind).columns()
                found = source.distinct(kind, **label(columns))
                frames.append(found.with_columns(attributes=pl.lit(list(attributes))))
        every = pl.concat(frames, how="diagonal_relaxed")
        merged = every.group_by("name", "answer", maintain_order=True).agg(
            pl.col("mid").first(), pl.col("attributes").explode().drop_nulls().unique(maintain_order=True)
        )
        texts = [
            name if answer == _YES else f"{answer}: {name}" for name, answer in merged.select("name", "answer").rows()
        ]
        self.known = merged.with_columns(label=pl.Series(distinct_in_xml(texts), dtype=pl.String))
        count = len(frames[0])
        self.of_classes = self.known.head(count).select(attribute_text(pl.col("label"))).to_series()


def _classes(source: ExportSource) -> pl.DataFrame:
    classes = source.classes if source.has_shapes else None
    names, mids = (classes.names, classes.labels) if classes else ((), ())
    schema = {"name": pl.String, "mid": pl.String}
    attributes = list(_FLAGS.values()) if "bbox" in source.kinds else []
    return pl.DataFrame({"name": names, "mid": mids}, schema=schema).with_columns(
        answer=pl.lit(_YES), attributes=pl.lit(attributes, pl.List(pl.String))
    )


def _tag_label(columns: Sequence[str]) -> dict[str, pl.Expr]:
    """Return name, answer and mid of an image-level label: of Confidence 0 a person has verified that it is absent."""
    answer = pl.when(confidence(columns) == 0).then(pl.lit(_NO)).otherwise(pl.lit(_YES))
    return {"name": pl.coalesce("Category", "LabelName"), "answer": answer, "mid": pl.col("LabelName")}


def _point_label(columns: Sequence[str]) -> dict[str, pl.Expr]:
    """Return name, answer and mid of a point."""
    answer = pl.col(_POINT_ATTRIBUTES["answer"]).fill_null(_YES) if "EstimatedYesNo" in columns else pl.lit(_YES)
    return {"name": pl.coalesce("Category", "Label"), "answer": answer, "mid": pl.col("Label")}


def _declaration(name: str) -> dict[str, Any]:
    """Return an attribute as CVAT declares it: a flag is chosen of a list, all else is text."""
    is_flag = name in _FLAGS.values()
    return {
        "name": name,
        "mutable": False,
        "input_type": "select" if is_flag else "text",
        "default_value": _STATES[-1] if is_flag else "",
        "values": list(_STATES.values()) if is_flag else [],
    }


def _declared(name: str) -> str:
    """Return the declaration of an attribute in the file."""
    elements = _declaration(name) | {"values": "\n".join(_declaration(name)["values"])}
    return f"<attribute>{''.join(f'<{each}>{value}</{each}>' for each, value in elements.items())}</attribute>"


def _pixels(side: str, size: str) -> pl.Expr:
    return fixed_pixels(pl.col(side).cast(pl.Float64) * pl.col(size).cast(pl.Float64))


def _attribute(name: str, value: pl.Expr, *, is_escaped: bool = False) -> pl.Expr:
    """Return an XML attribute, nothing for null."""
    text = value if is_escaped else attribute_text(value.cast(pl.String))
    return pl.concat_str(pl.lit(f' {name}="'), text, pl.lit('"')).fill_null("")


def _inner(name: str, value: pl.Expr) -> pl.Expr:
    """Return CVAT's attribute of an annotation, nothing for null."""
    text = attribute_text(value.cast(pl.String))
    return pl.concat_str(pl.lit(f'<attribute name="{name}">'), text, pl.lit("</attribute>")).fill_null("")
