"""A saved folder like that of a finished run, written by a test: images, boxes, masks of its choosing."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from PIL import Image

from oid_async.store.annotation_table import IMAGE_FIELDS
from oid_async.store.results import MANIFEST_SCHEMA
from support.published import tiny_jpeg

FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
SIDES = ("XMin", "XMax", "YMin", "YMax")
BOX_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", *SIDES, *FLAGS)
_MASK_SIDES = tuple(f"Box{side}" for side in SIDES)
MASK_COLUMNS = ("MaskPath", "ImageID", "LabelName", "BoxID", *_MASK_SIDES, "PredictedIoU", "Clicks")
NAMES = {"/m/01g317": "Person", "/m/01226z": "Football", "/m/0bt9lr": "Dog"}
# What boxes may be of in addition.
_MORE_NAMES = {"/m/04yx4": "Man", "/m/01yrx": "Cat"}


@dataclass(frozen=True, slots=True)
class SavedBox:
    """A box row; coordinates as they are written in the CSV, flags in the order of the columns."""

    image_id: str
    label: str = "/m/01g317"
    sides: tuple[str, str, str, str] = ("0.25", "0.75", "0.25", "0.75")  # XMin, XMax, YMin, YMax
    flags: tuple[str, str, str, str, str] = ("0", "0", "0", "0", "0")


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image of this size in pixels."""

    image_id: str
    width: int = 64
    height: int = 48
    subset: str | None = "train"
    rotation: float | None = 0.0
    title: str = "A title"
    picture: bytes | None = None
    name: str = ""

    @property
    def file_name(self) -> str:
        return self.name or f"{int(self.image_id[:8], 16)}_o.jpg"


@dataclass(frozen=True, slots=True)
class SavedFolder:
    """The content of a saved folder; a mask is its box and its picture."""

    images: Sequence[SavedImage]
    boxes: Sequence[SavedBox] = ()
    masks: Sequence[tuple[SavedBox, bytes]] = ()
    labels: Sequence[str] = field(default_factory=lambda: list(NAMES))

    def write(self, path: Path) -> Path:
        """Write manifest, tables and images below `path`."""
        (path / "images").mkdir(parents=True)
        rows = []
        for image in sorted(self.images, key=lambda image: image.image_id):
            body = image.picture or tiny_jpeg(image.image_id, image.width, image.height)
            (path / "images" / image.file_name).write_bytes(body)
            known = {
                "ImageID": image.image_id,
                "Subset": image.subset,
                "FileName": image.file_name,
                "Status": "ok",
                "Bytes": len(body),
                "Width": image.width,
                "Height": image.height,
                "Rotation": image.rotation,
                "License": "https://creativecommons.org/licenses/by/2.0/",
                "Author": "Ann & Bob <x>",
                "AuthorProfileURL": "https://www.flickr.com/people/1/",
                "Title": image.title,
                "OriginalURL": f"https://farm1.staticflickr.com/1/{image.file_name}",
                "OriginalLandingURL": "https://www.flickr.com/photos/1/2",
            }
            rows.append({name: known.get(name) for name in MANIFEST_SCHEMA})
        pl.DataFrame(rows, schema=MANIFEST_SCHEMA).write_parquet(path / "manifest.parquet")
        (path / "ATTRIBUTION.csv").write_text("ImageID,FileName\n")
        sizes = {image.image_id: (image.file_name, "", image.width, image.height) for image in self.images}
        boxes = [
            (box.image_id, "xclick", box.label, "1", *box.sides, *box.flags, _called(box.label), *sizes[box.image_id])
            for box in sorted(self.boxes, key=lambda box: box.image_id)
        ]
        _table(path / "bbox" / "bbox.csv", (*BOX_COLUMNS, "Category", *IMAGE_FIELDS), boxes)
        labels = [(label, _called(label)) for label in self.labels]
        _table(path / "bbox" / "label_data.csv", ("LabelName", "Category"), labels)
        if self.masks:
            self._write_masks(path / "segmentation", sizes)
        return path

    def _write_masks(self, path: Path, sizes: dict[str, tuple[str, str, int, int]]) -> None:
        (path / "masks").mkdir(parents=True)
        rows = []
        for number, (box, png) in enumerate(sorted(self.masks, key=lambda mask: mask[0].image_id)):
            name = f"{box.image_id}_{box.label[1:].replace('/', '')}_{number:08x}.png"
            (path / "masks" / name).write_bytes(png)
            row = (name, box.image_id, box.label, f"{number:08x}", *box.sides, "0.9", "", _called(box.label))
            rows.append((*row, *sizes[box.image_id]))
        _table(path / "segmentation.csv", (*MASK_COLUMNS, "Category", *IMAGE_FIELDS), rows)


def _called(label: str) -> str:
    return _MORE_NAMES.get(label) or NAMES[label]


def rectangle(width: int, height: int, box: tuple[int, int, int, int], *, bits: bool = True) -> bytes:
    """Return a mask: a PNG of this size, inside of the box (left, top, right, bottom) white."""
    image = Image.new("1" if bits else "L", (width, height), 0)
    image.paste(1 if bits else 255, box)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def picture(width: int, height: int, orientation: int | None = None) -> bytes:
    """Return a JPEG with colours, and with the EXIF orientation if one is given."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def _table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def plan_of_unfinished(savepath: Path) -> set[Path]:
    """Return the files of the plan that a run which has not come to its end leaves for readers; none after an end."""
    plan = savepath / ".oid_async" / "plan"
    return {plan / "plan.json", *plan.glob("[0-9]*.parquet")} if (plan / "plan.json").exists() else set()
