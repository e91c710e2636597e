"""The catalogue of published objects: which tables a release has, and the URLs of tables, images and archives.

V7 is the current release; it re-uses most V4 to V6 files, so a release is a set of paths, not a folder: its class names
are V7's, its train boxes V6's, its other boxes V5's, its image tables V4's. The tables themselves are listed in
`openimages.catalogue_tables`.
"""

from collections.abc import Sequence

from oid_async.openimages.catalogue_tables import NARRATIVES_BUCKET, TABLES, PublishedTable, TableKind
from oid_async.openimages.vocabulary import RELEASES, Release, Split

# Each published object is (bucket, key); these are the buckets' public addresses.
BUCKETS = {
    "openimages": "https://storage.googleapis.com/openimages",
    NARRATIVES_BUCKET: "https://storage.googleapis.com/localized-narratives",
    "open-images-dataset": "https://open-images-dataset.s3.amazonaws.com",
}
IMAGE_BUCKET = "open-images-dataset"

# The bucket's copies have a mean of about 315 kB (train tar bytes over images), used where no size is known.
MEAN_IMAGE_BYTES = 315_000
# The images of train, and those of them with boxes: the bucket has exactly these (rows of the published tables).
TRAIN_IMAGES, TRAIN_IMAGES_IN_BUCKET = 9_011_219, 1_743_042
# The bytes of the 16 archives of each split over its masks (git-annex records and rows of the tables, 2026-11).
MEAN_MASK_BYTES: dict[Split, int] = {"train": 1665, "validation": 2328, "test": 2302}


def published(kind: TableKind, splits: Sequence[Split], release: Release = "v7") -> list[PublishedTable]:
    """Return the tables of one kind that a release publishes for these splits, in the order of the splits.

    >>> [table.name for table in published("boxes", ["validation"])]
    ['validation-annotations-bbox.csv']
    """
    tables = [table for table in TABLES if table.kind == kind and release in table.releases]
    return [table for split in (None, *splits) for table in tables if table.split == split]


def lacking(kind: TableKind, splits: Sequence[Split], release: Release) -> list[Split]:
    """Return the splits of which a release publishes no table of a kind that has one for each split.

    >>> lacking("relationships", ["train", "test"], "v4"), lacking("points", ["train"], "v7")
    (['test'], [])
    """
    there = {table.split for table in published(kind, splits, release)}
    return [split for split in splits if split not in there]


def releases_with(kind: TableKind, splits: Sequence[Split]) -> list[Release]:
    """Return the releases that publish the tables of a kind for all of these splits.

    >>> releases_with("masks", ["test"]), releases_with("points", ["train"])
    (['v5', 'v6', 'v7'], ['v7'])
    """
    return [release for release in RELEASES if not lacking(kind, splits, release)]


def object_url(bucket: str, key: str, mirror: str | None = None) -> str:
    """Return the URL of an object: its public address, or MIRROR/<bucket>/<key>.

    >>> object_url("open-images-dataset", "train/000002b66c9c498e.jpg")
    'https://open-images-dataset.s3.amazonaws.com/train/000002b66c9c498e.jpg'
    >>> object_url("openimages", "v7/x.csv", "http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/openimages/v7/x.csv'
    """
    base = f"{mirror.rstrip('/')}/{bucket}" if mirror else BUCKETS[bucket]
    return f"{base}/{key}"


def trace_keys(split: Split) -> list[tuple[str, int | None]]:
    """Return the keys of a split's full narratives, with traces, in order, and their bytes where known."""
    if split == "train":
        sizes = (
            1_670_796_438,
            1_660_754_136,
            1_664_364_631,
            1_670_967_039,
            1_665_523_338,
            1_668_790_337,
            1_674_287_330,
            1_665_195_554,
            1_665_105_792,
            1_660_651_072,
        )
        name = "annotations/open_images_train_v6_localized_narratives-{:05}-of-00010.jsonl"
        return [(name.format(number), size) for number, size in enumerate(sizes)]
    return [(f"annotations/open_images_{split}_localized_narratives.jsonl", None)]


def mask_archive(split: Split, digit: str) -> str:
    """Return the key of the archive that holds the masks of the images whose id begins with this hex digit.

    >>> mask_archive("train", "0")
    'v5/train-masks/train-masks-0.zip'
    """
    return f"v5/{split}-masks/{split}-masks-{digit}.zip"
