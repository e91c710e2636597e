"""The closed vocabularies of the dataset: splits, releases, sources of an image, the flags of a box."""

from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
Release = Literal["v4", "v5", "v6", "v7"]
# The sources of an image: the public bucket's copy, the original at Flickr, its thumbnail of 300,000 pixels.
Source = Literal["cvdf", "original", "thumbnail"]
LabelSource = Literal["human", "machine"]
# Which images there are to choose from: those of the splits with boxes, or all of them.
ImageSet = Literal["boxable", "all"]

SPLITS: tuple[Split, ...] = get_args(Split)
RELEASES: tuple[Release, ...] = get_args(Release)
# What people call the splits, in lists and in tables of their own.
OTHER_SPLITS: dict[str, Split] = {"val": "validation", "valid": "validation"}
SOURCES: tuple[Source, ...] = get_args(Source)
# The flags of a box: the option's name, and the column of the box table (1, 0, or -1 for unknown).
FLAGS = {
    "is_occluded": "IsOccluded",
    "is_truncated": "IsTruncated",
    "is_group_of": "IsGroupOf",
    "is_depiction": "IsDepiction",
    "is_inside": "IsInside",
}
