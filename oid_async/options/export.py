"""What may be asked of an export, once for both doors: `download --format` takes the same options as `export`."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from oid_async.errors import UsageError
from oid_async.options import readers as values

Format = Literal["coco", "yolo", "voc", "webdataset", "imagefolder", "parquet", "fiftyone"]
GroupBoxes = Literal["mark", "drop"]

FORMATS: tuple[Format, ...] = get_args(Format)
# What the parts of --splits are called: as the published ones.
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """One export. Values are checked when the object is made; raises UsageError, naming the option.

    Without `format` there is none: the other options may then not be given.
    """

    format: Format | None = values.option(
        None,
        "--format",
        metavar="NAME",
        choices=FORMATS,
        doc=f"what to write, one of {', '.join(FORMATS)}",
    )
    out: Path | None = values.option(
        None, "--out", kind=Path, metavar="DIR", doc="where the export lands; default SAVEPATH/export/<format>"
    )
    export_splits: str | None = values.option(
        None,
        "--splits",
        metavar="80/10/10",
        doc="shares of train, validation and test, by a hash of ImageID, in place of the published splits",
    )
    max_side: int | None = values.option(
        None,
        "--max-side",
        kind=int,
        metavar="N",
        doc="images whose longer side has more than N pixels are made smaller, their masks alike",
    )
    copy: bool = values.option(
        False, "--copy", kind=bool, doc="copy images into the export; default: hard links, which take no space"
    )
    min_box_area: float | str = values.option(
        0.0,
        "--min-box-area",
        metavar="X",
        doc="leave out boxes and masks smaller than X square pixels of the exported image, or with % of its area",
    )
    group_boxes: GroupBoxes = values.option(
        "mark",
        "--group-boxes",
        choices=get_args(GroupBoxes),
        metavar="mark|drop",
        doc="boxes around a group: marked where the format has a place for it, or left out; default mark",
    )
    no_masks: bool = values.option(
        False, "--no-masks", kind=bool, doc="boxes alone, also where masks were saved: yolo then has lines of boxes"
    )
    class_map: str | None = values.option(
        None,
        "--class-map",
        metavar="FILE",
        doc="classes to keep, one a line, in the order of their numbers; 'Man,Person' has Man counted as Person",
    )
    shard_size: int = values.option(
        1 << 30, "--shard-size", metavar="SIZE", doc="the most bytes of one shard of webdataset and parquet; default 1G"
    )
    no_files: bool = values.option(
        False,
        "--no-files",
        kind=bool,
        doc="no image files: annotations alone; a download to webdataset packs images as they land and keeps no files",
    )

    def __post_init__(self) -> None:
        self._settle_export()

    def _settle_export(self) -> None:
        put = object.__setattr__
        if self.format is not None:
            put(self, "format", values.member(self, "format", self.format, FORMATS))
        if self.out is not None:
            place = values.place(self, "out")
            if not place:
                raise UsageError("--out is empty")
            put(self, "out", Path(place))
        if self.export_splits is not None:
            shares(self.export_splits)
        if self.max_side is not None and (not _is_whole(self.max_side) or self.max_side < 1):
            raise UsageError(f"--max-side takes a number of pixels, not {self.max_side!r}")
        for name in ("copy", "no_files", "no_masks"):
            values.check_switch(self, name)
        if self.copy and self.no_files:
            raise UsageError("--copy and --no-files contradict each other")
        put(self, "min_box_area", _area(self.min_box_area))
        put(self, "group_boxes", values.member(self, "group_boxes", self.group_boxes, get_args(GroupBoxes)))
        put(self, "class_map", values.place(self, "class_map") or None)
        put(self, "shard_size", values.size(self, "shard_size"))
        if self.format is None:
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


def _area(value: object) -> float | str:
    """Return square pixels as a number, a share of the image's area as 'P%'."""
    text = str(value).strip() if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"--min-box-area takes square pixels such as 100, or a share such as 0.5%, not {value!r}")
    return text if text.endswith("%") and number else number


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def export_fields() -> Iterable[str]:
    """Return the names of the fields, in the order of the help page."""
    return tuple(ExportOptions.__dataclass_fields__)
