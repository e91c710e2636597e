"""The published files as data: where each table stands, its columns, its size where it is known.

V7 is the current release; it re-uses most V4 to V6 files, so a release is a set of paths, not a folder: its class names
are V7's, its train boxes V6's, its other boxes V5's, its image tables V4's. Sources, as
checked in 2026-11: the download pages of Open Images V5 and V7 (paths), the git-annex records of another institution
(bytes and MD5, 2020) and HEAD probes (bytes, 2026). What no source states is None here and asserted nowhere.
"""

from collections.abc import Sequence

from oid_async.openimages.annotations import ANNOTATION_TABLES
from oid_async.openimages.published import (
    BOX_COLUMNS,
    CLASS_COLUMNS,
    CLICK_COLUMNS,
    IMAGE_COLUMNS,
    PublishedTable,
    TableKind,
)
from oid_async.openimages.vocabulary import Release, Split

__all__ = [
    "BOX_COLUMNS",
    "BUCKETS",
    "CLASS_COLUMNS",
    "CLICK_COLUMNS",
    "IMAGE_BUCKET",
    "IMAGE_COLUMNS",
    "MEAN_IMAGE_BYTES",
    "TABLES",
    "PublishedTable",
    "TableKind",
    "object_url",
    "published",
]

# Each published object is (bucket, key); these are the buckets' public addresses.
BUCKETS = {
    "openimages": "https://storage.googleapis.com/openimages",
    "localized-narratives": "https://storage.googleapis.com/localized-narratives",
    "open-images-dataset": "https://open-images-dataset.s3.amazonaws.com",
}
IMAGE_BUCKET = "open-images-dataset"

# The bucket's copies have a mean of about 315 kB (train tar bytes over images), used where no size is known.
MEAN_IMAGE_BYTES = 315_000

TABLES: tuple[PublishedTable, ...] = (
    PublishedTable(
        "classes",
        None,
        ("v4",),
        "openimages",
        "2018_04/class-descriptions-boxable.csv",
        CLASS_COLUMNS,
        rows=601,
    ),
    PublishedTable(
        "classes",
        None,
        ("v5", "v6"),
        "openimages",
        "v5/class-descriptions-boxable.csv",
        CLASS_COLUMNS,
        bytes=12_011,
        md5="9846fd22fd2e68b45e3f3810a4c2a32a",
        rows=601,
    ),
    PublishedTable(
        "classes",
        None,
        ("v7",),
        "openimages",
        "v7/oidv7-class-descriptions-boxable.csv",
        CLASS_COLUMNS,
        bytes=12_064,
        md5="c5e7cb6b85d0539b2105db2d1974681f",
    ),
    PublishedTable(
        "hierarchy",
        None,
        ("v4", "v5", "v6", "v7"),
        "openimages",
        "2018_04/bbox_labels_600_hierarchy.json",
        (),
    ),
    PublishedTable(
        "boxes",
        "train",
        ("v4", "v5"),
        "openimages",
        "2018_04/train/train-annotations-bbox.csv",
        BOX_COLUMNS,
        bytes=1_194_033_454,
        md5="dc89115275ad6d0c771bd6590aa71ac3",
        rows=14_610_229,
    ),
    PublishedTable(
        "boxes",
        "train",
        ("v6", "v7"),
        "openimages",
        "v6/oidv6-train-annotations-bbox.csv",
        BOX_COLUMNS + CLICK_COLUMNS,
        bytes=2_258_447_590,
        md5="3c3e70cfaba5757ea5c2604b19cac3b2",
        rows=14_610_229,
    ),
    PublishedTable(
        "boxes",
        "validation",
        ("v4",),
        "openimages",
        "2018_04/validation/validation-annotations-bbox.csv",
        BOX_COLUMNS,
        rows=204_621,
    ),
    PublishedTable(
        "boxes",
        "validation",
        ("v5", "v6", "v7"),
        "openimages",
        "v5/validation-annotations-bbox.csv",
        BOX_COLUMNS,
        bytes=25_105_048,
        md5="c5e8200df129ea6867e913e8b21fcab9",
        rows=303_980,
    ),
    PublishedTable(
        "boxes",
        "test",
        ("v4",),
        "openimages",
        "2018_04/test/test-annotations-bbox.csv",
        BOX_COLUMNS,
        rows=625_282,
    ),
    PublishedTable(
        "boxes",
        "test",
        ("v5", "v6", "v7"),
        "openimages",
        "v5/test-annotations-bbox.csv",
        BOX_COLUMNS,
        bytes=77_484_237,
        md5="1cc058a7003b4e73d47642276e9b123b",
        rows=937_327,
    ),
    PublishedTable(
        "images",
        "train",
        ("v4", "v5", "v6", "v7"),
        "openimages",
        "2018_04/train/train-images-boxable-with-rotation.csv",
        IMAGE_COLUMNS,
        bytes=638_407_721,
        md5="a4ac0bcedb5c2df4d1b1230dc6b41b8f",
        rows=1_743_042,
    ),
    PublishedTable(
        "images",
        "validation",
        ("v4", "v5", "v6", "v7"),
        "openimages",
        "2018_04/validation/validation-images-with-rotation.csv",
        IMAGE_COLUMNS,
        bytes=15_245_485,
        md5="643a54e43b0bab8acce8817b4a569780",
        rows=41_620,
    ),
    PublishedTable(
        "images",
        "test",
        ("v4", "v5", "v6", "v7"),
        "openimages",
        "2018_04/test/test-images-with-rotation.csv",
        IMAGE_COLUMNS,
        bytes=45_227_339,
        md5="d832feb775b3cb78077bf8ae350adce5",
        rows=125_436,
    ),
    *ANNOTATION_TABLES,
)


def published(kind: TableKind, splits: Sequence[Split], release: Release = "v7") -> list[PublishedTable]:
    """Return the tables of one kind that a release publishes for these splits, in the order of the splits.

    >>> [table.name for table in published("boxes", ["validation"])]
    ['validation-annotations-bbox.csv']
    """
    tables = [table for table in TABLES if table.kind == kind and release in table.releases]
    return [table for split in (None, *splits) for table in tables if table.split == split]


def object_url(bucket: str, key: str, mirror: str | None = None) -> str:
    """Return where an object is fetched from: its public address, or MIRROR/<bucket>/<key>.

    >>> object_url("open-images-dataset", "train/000002b66c9c498e.jpg")
    'https://open-images-dataset.s3.amazonaws.com/train/000002b66c9c498e.jpg'
    >>> object_url("openimages", "v7/x.csv", "http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/openimages/v7/x.csv'
    """
    base = f"{mirror.rstrip('/')}/{bucket}" if mirror else BUCKETS[bucket]
    return f"{base}/{key}"
