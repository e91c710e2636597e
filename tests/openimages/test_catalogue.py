"""The published files as data, and the examples in the pure modules."""

import base64
import csv
from pathlib import Path
from typing import get_args

import pytest

from oid_async.openimages.catalogue import BUCKETS, IMAGE_BUCKET, object_url, published
from oid_async.openimages.catalogue_tables import (
    BOX_COLUMNS,
    CLASS_COLUMNS,
    CLICK_COLUMNS,
    IMAGE_COLUMNS,
    TABLES,
    PublishedTable,
    TableKind,
)
from oid_async.openimages.vocabulary import SPLITS, Release, Split

OFFICIAL = Path(__file__).resolve().parents[3] / "shared" / "real" / "official" / "official-files.csv"
GOOGLE = "https://storage.googleapis.com/openimages"

CLASS_HEADER = "LabelName,DisplayName"
BOX_HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
CLICK_HEADER = "XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
IMAGE_HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
    "Thumbnail300KURL,Rotation"
)

V7: dict[tuple[str, str | None], tuple[str, int | None, str]] = {
    ("classes", None): (f"{GOOGLE}/v7/oidv7-class-descriptions-boxable.csv", 12_064, CLASS_HEADER),
    ("hierarchy", None): (f"{GOOGLE}/2018_04/bbox_labels_600_hierarchy.json", None, ""),
    ("boxes", "train"): (
        f"{GOOGLE}/v6/oidv6-train-annotations-bbox.csv",
        2_258_447_590,
        f"{BOX_HEADER},{CLICK_HEADER}",
    ),
    ("boxes", "validation"): (f"{GOOGLE}/v5/validation-annotations-bbox.csv", 25_105_048, BOX_HEADER),
    ("boxes", "test"): (f"{GOOGLE}/v5/test-annotations-bbox.csv", 77_484_237, BOX_HEADER),
    ("images", "train"): (
        f"{GOOGLE}/2018_04/train/train-images-boxable-with-rotation.csv",
        638_407_721,
        IMAGE_HEADER,
    ),
    ("images", "validation"): (
        f"{GOOGLE}/2018_04/validation/validation-images-with-rotation.csv",
        15_245_485,
        IMAGE_HEADER,
    ),
    ("images", "test"): (f"{GOOGLE}/2018_04/test/test-images-with-rotation.csv", 45_227_339, IMAGE_HEADER),
}


def url_of(table: PublishedTable, mirror: str | None = None) -> str:
    return object_url(table.bucket, table.key, mirror)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["boxes", "images"])
def test_every_v7_table_of_a_split_is_published(kind: TableKind, split: Split) -> None:
    """Each split has one table of boxes and one of images, at the address, of the size and header that is published."""
    (table,) = published(kind, [split])
    url, size, header = V7[kind, split]
    assert url_of(table) == url
    assert table.bytes == size
    assert ",".join(table.columns) == header
    assert table.split == split
    assert table.name == url.rsplit("/", 1)[-1]


def test_v7_classes_serve_every_split() -> None:
    """One class table serves all splits, whichever are asked for."""
    url, size, header = V7["classes", None]
    for splits in ((), SPLITS, ("test",)):
        (table,) = published("classes", splits)
        assert (url_of(table), table.bytes, ",".join(table.columns)) == (url, size, header)


def test_v7_is_these_tables_and_no_others() -> None:
    """Nothing is listed twice, under a guessed name, or without a place in this test."""
    of_boxes = ("classes", "hierarchy", "boxes", "images")  # the others stand in test_kinds.py
    listed = [
        ((table.kind, table.split), url_of(table))
        for table in TABLES
        if "v7" in table.releases and table.kind in of_boxes
    ]
    assert len(listed) == len(V7)
    assert dict(listed) == {key: url for key, (url, _, _) in V7.items()}


def test_tables_come_in_the_order_of_the_splits_asked_for() -> None:
    """Asked for several splits, the tables stand in the order that was asked for."""
    assert [table.split for table in published("images", ["test", "train"])] == ["test", "train"]
    assert published("boxes", []) == []


BOXES_OF = {
    "v4": ("2018_04/train/train-", "2018_04/validation/validation-", "2018_04/test/test-"),
    "v5": ("2018_04/train/train-", "v5/validation-", "v5/test-"),
    "v6": ("v6/oidv6-train-", "v5/validation-", "v5/test-"),
    "v7": ("v6/oidv6-train-", "v5/validation-", "v5/test-"),
}
CLASSES_OF = {
    "v4": "2018_04/class-descriptions-boxable.csv",
    "v5": "v5/class-descriptions-boxable.csv",
    "v6": "v5/class-descriptions-boxable.csv",
    "v7": "v7/oidv7-class-descriptions-boxable.csv",
}


@pytest.mark.parametrize("release", get_args(Release))
def test_a_release_is_a_set_of_paths(release: Release) -> None:
    """Each release has the tables that its download page links, most of them in the folder of an earlier one."""
    assert [table.key for table in published("boxes", SPLITS, release)] == [
        f"{start}annotations-bbox.csv" for start in BOXES_OF[release]
    ]
    assert [table.key for table in published("classes", (), release)] == [CLASSES_OF[release]]
    assert [table.key for table in published("images", SPLITS, release)] == [
        table.key for table in published("images", SPLITS)
    ]
    assert len(published("hierarchy", (), release)) == 1


def test_only_v6_and_v7_train_boxes_have_clicks() -> None:
    """The other box tables have the thirteen columns, whatever their release."""
    with_clicks = {table.key for table in TABLES if table.columns == BOX_COLUMNS + CLICK_COLUMNS}
    assert with_clicks == {"v6/oidv6-train-annotations-bbox.csv"}
    assert {table.columns for table in TABLES if table.kind == "boxes" and table.key not in with_clicks} == {
        BOX_COLUMNS
    }


def test_unknown_release_publishes_nothing() -> None:
    """A release that is not known has no tables, rather than those of another one."""
    assert published("boxes", SPLITS, "v99") == []  # type: ignore[arg-type]


def test_md5_of_the_class_table_is_what_its_bucket_says() -> None:
    """The hex MD5 here and the base64 one that the bucket sends are the same bytes."""
    (table,) = published("classes", ())
    assert table.md5 is not None
    assert base64.b64encode(bytes.fromhex(table.md5)).decode() == "xefLa4XQU5shBdstGXRoHw=="


@pytest.mark.parametrize(
    ("kind", "split", "md5", "rows"),
    [
        ("boxes", "train", "3c3e70cfaba5757ea5c2604b19cac3b2", 14_610_229),
        ("boxes", "validation", "c5e8200df129ea6867e913e8b21fcab9", 303_980),
        ("boxes", "test", "1cc058a7003b4e73d47642276e9b123b", 937_327),
        ("images", "train", "a4ac0bcedb5c2df4d1b1230dc6b41b8f", 1_743_042),
        ("images", "validation", "643a54e43b0bab8acce8817b4a569780", 41_620),
        ("images", "test", "d832feb775b3cb78077bf8ae350adce5", 125_436),
    ],
)
def test_identity_of_a_table(kind: TableKind, split: Split, md5: str, rows: int) -> None:
    """MD5 and rows are those on record."""
    (table,) = published(kind, [split])
    assert (table.md5, table.rows) == (md5, rows)


def test_catalogue_agrees_with_the_record_of_official_files() -> None:
    """Where another institution recorded size and MD5 of a file at its address, the catalogue says the same."""
    if not OFFICIAL.is_file():
        pytest.skip("the record of official files is not here")
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        record = {row["url"]: row for row in csv.DictReader(file)}
    both = [(table, record[url_of(table)]) for table in TABLES if url_of(table) in record]
    assert len(both) >= 5
    for table, row in both:
        assert table.bytes == int(row["bytes"]), table.name
        assert table.md5 == row["md5"], table.name


def test_columns_are_the_published_headers() -> None:
    """The headers, written out: XMax stands before YMin, and the clicks are every X, then every Y."""
    assert ",".join(CLASS_COLUMNS) == CLASS_HEADER
    assert ",".join(BOX_COLUMNS) == BOX_HEADER
    assert ",".join(CLICK_COLUMNS) == CLICK_HEADER
    assert ",".join(IMAGE_COLUMNS) == IMAGE_HEADER


@pytest.mark.parametrize(
    ("bucket", "key", "mirror", "url"),
    [
        (
            "open-images-dataset",
            "train/0123456789abcdef.jpg",
            None,
            "https://open-images-dataset.s3.amazonaws.com/train/0123456789abcdef.jpg",
        ),
        (
            "localized-narratives",
            "annotations/open_images_test_captions.jsonl",
            None,
            "https://storage.googleapis.com/localized-narratives/annotations/open_images_test_captions.jsonl",
        ),
        ("openimages", "v7/x.csv", None, "https://storage.googleapis.com/openimages/v7/x.csv"),
        ("openimages", "v7/x.csv", "", "https://storage.googleapis.com/openimages/v7/x.csv"),
        (
            "openimages",
            "v6/oidv6-train-annotations-bbox.csv",
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8000/openimages/v6/oidv6-train-annotations-bbox.csv",
        ),
        (
            "open-images-dataset",
            "train/0123456789abcdef.jpg",
            "http://127.0.0.1:8000/",
            "http://127.0.0.1:8000/open-images-dataset/train/0123456789abcdef.jpg",
        ),
        (
            "localized-narratives",
            "annotations/x.jsonl",
            "https://mirror.example.org/oid//",
            "https://mirror.example.org/oid/localized-narratives/annotations/x.jsonl",
        ),
    ],
)
def test_object_stands_at_its_bucket_or_below_the_mirror(bucket: str, key: str, mirror: str | None, url: str) -> None:
    """Every object has a public address, and with a mirror URL/<bucket>/<key>, slash at the end or not."""
    assert object_url(bucket, key, mirror) == url


def test_every_table_stands_in_a_known_bucket() -> None:
    """The buckets are the three that are published, and every table is in one of them."""
    assert set(BUCKETS) == {"openimages", "localized-narratives", IMAGE_BUCKET}
    assert {table.bucket for table in TABLES} <= set(BUCKETS)
    assert all(not table.key.startswith("/") for table in TABLES)
