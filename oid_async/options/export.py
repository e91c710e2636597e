"""The options of an export, which `export` and `download --format` share."""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from oid_async.errors import UsageError
from oid_async.options.readers import FILE, FOLDER, MARGIN, SIZE, SWITCH, Reader, one_of
from oid_async.options.table import option, read_values
from oid_async.quick_values import frozen

Format = Literal[
    "coco",
    "yolo",
    "voc",
    "webdataset",
    "imagefolder",
    "parquet",
    "fiftyone",
    "kitti",
    "cvat",
    "labelstudio",
    "tfrecord",
    "crops",
]
GroupBoxes = Literal["mark", "drop"]

FORMATS: tuple[Format, ...] = get_args(Format)
# The parts of --splits are named like the published splits.
_PARTS = ("train", "validation", "test")


def _read_shares(label: str, value: Any) -> str:
    shares(value)
    return str(value)


def _read_side(label: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"--max-side takes a number of pixels, not {value!r}")
    return value


def _read_area(label: str, value: object) -> float | str:
    """Return square pixels as a number, a share of the image's area as 'P%'."""
    text = str(value).strip() if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"--min-box-area takes square pixels such as 100, or a share such as 0.5%, not {value!r}")
    return text if text.endswith("%") and number else number


_option = partial(option, heading="export")


@frozen(kw_only=True)
class ExportOptions:
    """The options of one export, checked when made. Without `format` the others may not be given. Raises UsageError."""

    format: Format | None = _option(
        None,
        one_of(FORMATS),
        "--format",
        metavar="NAME",
        help="what to write: coco (Detectron2, MMDetection), yolo (Ultralytics), voc (Pascal VOC), webdataset "
        "(streaming from shards), imagefolder (Hugging Face datasets, as files), parquet (one table, images "
        "inside), fiftyone (the FiftyOne app), kitti (KITTI's label files: NVIDIA TAO), cvat (CVAT for images), "
        "labelstudio (tasks for Label Studio), tfrecord (TensorFlow) or crops (a picture a box, a folder a class)",
    )
    out: Path | None = _option(
        None,
        FOLDER,
        "--out",
        help="where the export is written",
        default_text="SAVEPATH/export/<format>",
    )
    export_splits: str | None = _option(
        None,
        Reader(_read_shares, "80/10/10", "one to three shares"),
        "--splits",
        help="shares of train, validation and test, by a hash of ImageID, in place of the published splits",
    )
    max_side: int | None = _option(
        None,
        Reader(_read_side, "N", "1 pixel or more", int),
        "--max-side",
        help="images whose longer side has more than N pixels are made smaller, their masks alike",
    )
    copy: bool = _option(
        False, SWITCH, "--copy", help="copy images into the export, in place of hard links, which take no space"
    )
    min_box_area: float | str = _option(
        0.0,
        Reader(_read_area, "X", "square pixels such as 100, or a share such as 0.5%"),
        "--min-box-area",
        help="leave out boxes and masks smaller than X square pixels of the exported image, or with % of its area",
    )
    group_boxes: GroupBoxes = _option(
        "mark",
        one_of(get_args(GroupBoxes)),
        "--group-boxes",
        help="boxes around a group: marked where the format has a place for it, or left out",
    )
    no_masks: bool = _option(
        False, SWITCH, "--no-masks", help="boxes alone, also where masks were saved: yolo then has lines of boxes"
    )
    class_map: str | None = _option(
        None,
        FILE,
        "--class-map",
        help="classes to keep, one a line, in the order of their numbers; 'Man,Person' has Man counted as Person",
    )
    shard_size: int = _option(
        1 << 30, SIZE, "--shard-size", help="the most bytes of one shard of webdataset, parquet and tfrecord"
    )
    margin: str = _option(
        "0%",
        MARGIN,
        "--margin",
        help="of crops alone: cut out P% of the width of a box more on its left and right, and of its height above and "
        "below, as far as the image goes",
    )
    no_files: bool = _option(
        False,
        SWITCH,
        "--no-files",
        help="no image files: annotations alone; a download to webdataset packs images as they are received and keeps "
        "no files",
    )

    def __post_init__(self) -> None:
        read_values(self)
        self.check_export()

    def check_export(self) -> None:
        """Refuse options of an export that contradict each other, or that are given without a format."""
        if self.copy and self.no_files:
            raise UsageError("--copy and --no-files contradict each other")
        if self.format is not None:
            if self.format != "crops" and self.margin != ExportOptions.__dataclass_fields__["margin"].default:
                raise UsageError(f"--margin is about crops, and --format is {self.format}: leave it out")
            return
        for name, field in ExportOptions.__dataclass_fields__.items():
            if getattr(self, name) != field.default:
                raise UsageError(f"{field.metadata['flags'][0]} is about an export: say --format, too")


def shares(text: str) -> list[tuple[str, Fraction]]:
    """Return the names of the parts of `80/10/10` and where each one ends, of 1.

    >>> [(name, str(end)) for name, end in shares("80/10/10")]
    [('train', '4/5'), ('validation', '9/10'), ('test', '1')]
    """
    try:
        numbers = [Fraction(part.strip().removesuffix("%")) for part in text.split("/")]
    except (ValueError, AttributeError, ZeroDivisionError):
        numbers = []
    if not 1 <= len(numbers) <= len(_PARTS) or min(numbers) < 0 or not sum(numbers):
        raise UsageError(f"--splits takes the shares of {', '.join(_PARTS)}, such as 80/10/10, not {text!r}")
    total = sum(numbers, Fraction())
    return [(name, sum(numbers[: at + 1], Fraction()) / total) for at, name in enumerate(_PARTS[: len(numbers)])]
