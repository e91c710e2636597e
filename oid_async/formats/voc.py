"""Pascal VOC: Annotations/<stem>.xml, JPEGImages/<FileName>, ImageSets/Main/<split>.txt, dataset_meta.json.

Boxes are in whole pixels; the first pixel of a row is 1, and both ends belong to the box, so that no box is narrower
than a pixel. `difficult` marks a box around a group: evaluation leaves these out. Depiction, inside, licence, changes
and rotation, which VOC does not know, are in elements that its readers ignore.
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html describes the format.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import polars as pl

from oid_async.formats.file_record import HashedFile, write_hashed
from oid_async.formats.source import CLASS, FLAG_NAMES, Span
from oid_async.formats.texts import write_dataset_meta
from oid_async.formats.writer import ExportContext
from oid_async.formats.xml_text import distinct_in_xml, element_text
from oid_async.openimages.kinds import KindName

_PIXELS = ("xmin", "ymin", "xmax", "ymax")


class Voc:
    """Writes one XML file an image."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox",)
    names: ClassVar[Sequence[str]] = (r"ImageSets/Main/{split}\.txt",)
    names_by_image: ClassVar[Sequence[str]] = (r"JPEGImages/[^/]+\.(?i:jpg)", r"Annotations/[^/]+\.xml")

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._annotations = context.folder("Annotations")
        self._classes = distinct_in_xml(context.source.classes.names)
        self._names = list(map(element_text, self._classes))

    def write(self, span: Span) -> None:
        """Write a span."""
        calls = ((part, self._names, str(self._annotations)) for part in span.parts())
        written = 0
        for boxes, files in self._context.pictures.each(_write_documents, calls, 1):
            written += boxes
            self._context.pictures.record.hashed_files(files)
        for name, split in span.images.select("FileName", "Split").iter_rows():
            self._context.text_file("ImageSets", "Main", f"{split}.txt").write(f"{_stem(name)}\n")
        if not self._context.options.no_files:
            self._context.pictures.place(span.images, self._context.folder("JPEGImages"))
        self._context.wrote(span.images, {"bbox": written})

    def finish(self) -> None:
        """Close the files, and write the classes for datumaro, which knows those of VOC alone."""
        self._context.files.close()
        write_dataset_meta(self._context.stage, self._classes)


def _write_documents(span: Span, names: Sequence[str], folder: str) -> tuple[int, list[HashedFile]]:
    """Write the documents of a span, and return the number of their boxes, and what was written."""
    found = _by_image(_with_pixels(span.of("bbox"))) if "bbox" in span.rows else {}
    files = []
    for image in span.images.iter_rows(named=True):
        objects = "".join(_object(row, names) for row in found.get(image["ImageID"], ()))
        about = "".join(f"  {line}\n" for line in _lines(image))
        text = f"<annotation>\n{about}{objects}</annotation>\n"
        files.append(write_hashed(f"{folder}{os.sep}{_stem(image['FileName'])}.xml", text.encode()))
    return sum(map(len, found.values())), files


def _stem(file_name: str) -> str:
    return file_name.rpartition(".")[0]


def _object(row: dict[str, Any], names: Sequence[str]) -> str:
    box = "".join(f"<{name}>{row[name]}</{name}>" for name in _PIXELS)
    flags = {name: max(row[flag], 0) for flag, name in FLAG_NAMES.items()}
    flags["difficult"] = flags.pop("group_of")
    elements = "".join(f"<{name}>{value}</{name}>" for name, value in flags.items())
    return (
        f"  <object><name>{names[row[CLASS]]}</name><pose>Unspecified</pose>{elements}<bndbox>{box}</bndbox></object>\n"
    )


def _with_pixels(boxes: pl.DataFrame) -> pl.DataFrame:
    """Add xmin, ymin, xmax, ymax: whole pixels from 1, the last one included."""
    found = []
    for axis, side in (("X", "OutWidth"), ("Y", "OutHeight")):
        size = pl.col(side).cast(pl.Float64)
        start, end = ((pl.col(f"{axis}{which}") * size).round().cast(pl.Int64) for which in ("Min", "Max"))
        # Narrower than a pixel: the pixel that has its middle.
        middle = ((pl.col(f"{axis}Min") + pl.col(f"{axis}Max")) / 2 * size).floor().cast(pl.Int64)
        middle = pl.min_horizontal(middle, pl.col(side).cast(pl.Int64) - 1)
        start, end = (
            pl.when(end > start).then(known).otherwise(other) for known, other in ((start, middle), (end, middle + 1))
        )
        found += [(start + 1).alias(f"{axis.lower()}min"), end.alias(f"{axis.lower()}max")]
    return boxes.with_columns(found)


def _by_image(rows: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row["ImageID"], []).append(row)
    return found


def _lines(image: dict[str, Any]) -> Iterator[str]:
    def element(name: str, value: Any) -> str:
        return "" if value is None else f"<{name}>{element_text(str(value))}</{name}>"

    yield "<folder>JPEGImages</folder>"
    yield element("filename", image["FileName"])
    source = {"database": "Open Images", "annotation": "Google LLC, CC BY 4.0", "image": "flickr"}
    source |= {"image_id": image["ImageID"], "license": image["License"], "url": image["OriginalLandingURL"]}
    source |= {"title": image["Title"], "changes": image["Changes"], "rotation": image["Rotation"]}
    yield f"<source>{''.join(element(name, value) for name, value in source.items())}</source>"
    yield f"<owner>{element('flickrid', image['AuthorProfileURL'])}{element('name', image['Author'])}</owner>"
    yield f"<size><width>{image['OutWidth']}</width><height>{image['OutHeight']}</height><depth>3</depth></size>"
    yield "<segmented>0</segmented>"
