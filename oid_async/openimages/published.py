"""What a published table is, and the columns of each kind, as published.

Sources, as checked in 2026-11: the headers of real files and the readers of public tools; of the point labels' header
line no copy was found, its columns are those that a public reader names, in its order.
"""

from dataclasses import dataclass
from typing import Literal

from oid_async.openimages.vocabulary import Split

TableKind = Literal[
    "classes",
    "all_classes",
    "mask_classes",
    "attributes",
    "predicates",
    "hierarchy",
    "images",
    "boxes",
    "masks",
    "relationships",
    "captions",
    "human_labels",
    "machine_labels",
    "points",
]

CLASS_COLUMNS = ("LabelName", "DisplayName")
BOX_COLUMNS = (
    "ImageID",
    "Source",
    "LabelName",
    "Confidence",
    "XMin",
    "XMax",
    "YMin",
    "YMax",
    "IsOccluded",
    "IsTruncated",
    "IsGroupOf",
    "IsDepiction",
    "IsInside",
)
# The V6 train boxes append the four extreme clicks: every X first, then every Y.
CLICK_COLUMNS = tuple(f"XClick{number}{axis}" for axis in "XY" for number in (1, 2, 3, 4))
MASK_COLUMNS = (
    "MaskPath",
    "ImageID",
    "LabelName",
    "BoxID",
    "BoxXMin",
    "BoxXMax",
    "BoxYMin",
    "BoxYMax",
    "PredictedIoU",
    "Clicks",
)
RELATIONSHIP_COLUMNS = (
    "ImageID",
    "LabelName1",
    "LabelName2",
    "XMin1",
    "XMax1",
    "YMin1",
    "YMax1",
    "XMin2",
    "XMax2",
    "YMin2",
    "YMax2",
    "RelationshipLabel",
)
LABEL_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")
# The only tables that write ImageId.
POINT_COLUMNS = (
    "ImageId",
    "X",
    "Y",
    "Label",
    "EstimatedYesNo",
    "Source",
    "YesVotes",
    "NoVotes",
    "UnsureVotes",
    "TextLabel",
)
IMAGE_COLUMNS = (
    "ImageID",
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
    "Rotation",
)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One published table. `split` is None where one file serves all; bytes, md5 (hex) and rows are None if unknown."""

    kind: TableKind
    split: Split | None
    releases: tuple[str, ...]
    bucket: str
    key: str
    columns: tuple[str, ...]
    bytes: int | None = None
    md5: str | None = None
    rows: int | None = None

    @property
    def name(self) -> str:
        """The file's own name, as messages call it."""
        return self.key.rsplit("/", 1)[-1]
