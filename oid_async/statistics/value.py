"""`Statistics`: what `stats` returns, of a saved folder, a query or an export. Plain values, light to import."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# What the numbers are of.
Subject = Literal["folder", "query", "export"]


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many images there are: selected = ok + failed + pending, and `bytes` of those that are ok.

    Of a query only `selected` is known, of an export `ok` images are selected; what is not known is None.
    """

    selected: int = 0
    ok: int | None = None
    failed: int | None = None
    pending: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """What there is of one class: `label` is its MID, `class_name` what it is called, or the MID where nothing says it.

    `images` have a row of the class, of any kind: a box, a mask, either side of a relationship, a label of Confidence
    above 0, a point; `images_by_kind` counts those of each kind alone. `boxes`, `masks`, `relationships` (one counts
    once, also with the class on both sides), `labels` (of Confidence above 0) and `points` are rows. What an object
    `is`, an attribute such as Wooden, is no class. `flags` are the boxes with a flag set to yes, by flag.

    `verified_absent` are the images of which a person has verified that the class is not in them: `absent_labels` are
    rows of human labels of Confidence 0, `absent_negatives` the negatives that were chosen for it (the manifest's
    VerifiedAbsent). One image may be in both.
    """

    label: str
    class_name: str
    images: int = 0
    boxes: int = 0
    masks: int = 0
    relationships: int = 0
    labels: int = 0
    points: int = 0
    verified_absent: int = 0
    absent_labels: int = 0
    absent_negatives: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    images_by_kind: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoxesPerImage:
    """How many boxes an image has: `counts` are pairs (boxes, images with so many), in order of the boxes.

    Of all saved images, of a query of all selected ones; those without a box count as 0. None where no boxes are saved.
    """

    counts: tuple[tuple[int, int], ...] = ()
    mean: float | None = None
    median: float | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram: `counts[i]` values are at least `edges[i]` and below `edges[i + 1]`, the last edge included.

    The first and the last count have what is beyond the edges, too. `median` is that of the values themselves, None
    without any; then `edges` and `counts` are empty.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    median: float | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the centres of boxes are: `counts[row][column]`, from the upper left; the image is divided evenly.

    A centre on a line counts below and to the right of it, one on the last line within the image.
    """

    rows: int = 24
    columns: int = 24
    counts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Cooccurrence:
    """Which classes are in an image together: of those that most images have, at most 25.

    `images[i][j]` have both classes; on the diagonal are the images of a class. `labels` and `classes` are their MIDs
    and names, a name that several MIDs have with its MID.
    """

    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    images: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """The sizes of the images where they are known, those of the saved files: pixels, and millions of them.

    `most_common` are (width, height, images), at most 20.
    """

    widths: Histogram = Histogram()
    heights: Histogram = Histogram()
    megapixels: Histogram = Histogram()
    most_common: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class FlagCounts:
    """The boxes of which a flag is 1 (yes), 0 (no), or anything else: -1 or missing (unknown)."""

    yes: int = 0
    no: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Authors:
    """The authors of the images: `count` different ones, and (author, images) of the 20 with most images."""

    count: int = 0
    most: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers about the images and annotations of a saved folder, a query, or an export: `await oid_async.stats(...)`.

    Boxes are clipped to their image first; the tables keep the published numbers. What a source has not is empty: of a
    query nothing is fetched but tables, so bytes, sizes in pixels and the aspect of boxes are unknown.

    Attributes:
        of: what the numbers are of, `folder`, `query` or `export`.
        savepath: the folder, None for a query.
        images: the images by status.
        splits: selected images by split.
        roles: selected images by role (selected, negative).
        sources: saved images by where they came from.
        reasons: failed images by the kind of failure.
        kinds: rows of annotations by kind (bbox, segmentation, ...); kinds that are not saved are not in it.
        classes: the counts of each class, most images first, then by name and MID.
        boxes_per_image: how many boxes an image has.
        box_share: the share of its image that a box covers, from 0 to 1.
        box_aspect: width / height of boxes in pixels, where the size of the image is known and neither side is 0.
        box_positions: where the centres of boxes are, in 24 x 24 fields.
        cooccurrence: which classes are in an image together.
        image_sizes: widths, heights, megapixels.
        flags: the flags of boxes (IsOccluded, ...) by their value.
        licenses: selected images by the URL of their licence; "" is unknown.
        authors: who made the selected images.
        notes: what a reader should know, a line each.
    """

    of: Subject
    savepath: str | None = None
    images: ImageCounts = ImageCounts()
    splits: dict[str, int] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    classes: tuple[ClassCounts, ...] = ()
    boxes_per_image: BoxesPerImage = BoxesPerImage()
    box_share: Histogram = Histogram()
    box_aspect: Histogram = Histogram()
    box_positions: Positions = Positions()
    cooccurrence: Cooccurrence = Cooccurrence()
    image_sizes: ImageSizes = ImageSizes()
    flags: dict[str, FlagCounts] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)
    authors: Authors = Authors()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as one JSON object's worth of plain values: dicts, lists, texts, numbers, None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    """Return a value with lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
