"""The published tables as data: path, columns, and bytes, MD5 and rows as far as any source states them.

Sources, as checked in 2026-11: the download pages of Open Images V5 and V7 (paths), the headers of real files and the
readers of public tools (columns), the git-annex records of another institution (bytes and MD5, 2020) and HEAD probes
(bytes, 2026). Of the point labels' header line no copy was found, its columns are those that a public reader names, in
its order. An unknown size, MD5 or count is None here and asserted nowhere.

Two traps: V7's label and point files have `val` where all others have `validation`, and no V7 masks, relationships or
narratives were ever published: they are those of V5 and V6.
"""

from typing import Literal

from oid_async.openimages.vocabulary import FLAGS, SPLITS, Split
from oid_async.quick_values import frozen

TableKind = Literal[
    "classes",
    "all_classes",
    "mask_classes",
    "attributes",
    "predicates",
    "hierarchy",
    "images",
    "all_images",
    "boxes",
    "masks",
    "relationships",
    "captions",
    "human_labels",
    "machine_labels",
    "points",
]

CLASS_COLUMNS = ("LabelName", "DisplayName")
LABEL_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")
SIDES = ("XMin", "XMax", "YMin", "YMax")
BOX_COLUMNS = (*LABEL_COLUMNS, *SIDES, *FLAGS.values())
# The V6 train boxes append the four extreme clicks: every X first, then every Y.
CLICK_COLUMNS = tuple(f"XClick{number}{axis}" for axis in "XY" for number in (1, 2, 3, 4))
MASK_SIDES = tuple(f"Box{side}" for side in SIDES)
MASK_COLUMNS = ("MaskPath", "ImageID", "LabelName", "BoxID", *MASK_SIDES, "PredictedIoU", "Clicks")
PAIR_SIDES = tuple(f"{side}{number}" for number in (1, 2) for side in SIDES)
RELATIONSHIP_COLUMNS = ("ImageID", "LabelName1", "LabelName2", *PAIR_SIDES, "RelationshipLabel")
VOTES = ("YesVotes", "NoVotes", "UnsureVotes")
# The only tables that write ImageId.
POINT_COLUMNS = ("ImageId", "X", "Y", "Label", "EstimatedYesNo", "Source", *VOTES, "TextLabel")
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


@frozen
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
        """The file's own name, for messages."""
        return self.key.rsplit("/", 1)[-1]


NARRATIVES_BUCKET = "localized-narratives"
# Bytes and MD5 of the files.
_FILES: dict[str, tuple[int, str | None]] = {
    "v5/class-descriptions-boxable.csv": (12_011, "9846fd22fd2e68b45e3f3810a4c2a32a"),
    "v7/oidv7-class-descriptions-boxable.csv": (12_064, "c5e7cb6b85d0539b2105db2d1974681f"),
    "2018_04/train/train-annotations-bbox.csv": (1_194_033_454, "dc89115275ad6d0c771bd6590aa71ac3"),
    "v6/oidv6-train-annotations-bbox.csv": (2_258_447_590, "3c3e70cfaba5757ea5c2604b19cac3b2"),
    "v5/validation-annotations-bbox.csv": (25_105_048, "c5e8200df129ea6867e913e8b21fcab9"),
    "v5/test-annotations-bbox.csv": (77_484_237, "1cc058a7003b4e73d47642276e9b123b"),
    "2018_04/train/train-images-boxable-with-rotation.csv": (638_407_721, "a4ac0bcedb5c2df4d1b1230dc6b41b8f"),
    "2018_04/validation/validation-images-with-rotation.csv": (15_245_485, "643a54e43b0bab8acce8817b4a569780"),
    "2018_04/test/test-images-with-rotation.csv": (45_227_339, "d832feb775b3cb78077bf8ae350adce5"),
    "2018_04/image_ids_and_rotation.csv": (3_348_497_077, None),
    "v7/oidv7-class-descriptions.csv": (501_178, "2aacb919b207c50f2a084822a5c2736c"),
    "v5/classes-segmentation.txt": (3_352, "f53e4734bb4132b256e8eb408f761108"),
    "2019_01/challenge-2018-attributes-description.csv": (107, "5c17d3b7f1be317b653f2a9cda471479"),
    "v6/oidv6-attributes-description.csv": (254, "f1c6378f1f6805242719dd5764a50a6d"),
    "2019_01/challenge-2018-relationships-description.csv": (135, "1991b3b7a21bc278c9d344c7b58828e3"),
    "v6/oidv6-relationships-description.csv": (418, "723b4cefcc6a6ca14a925b4a168cc7f8"),
    "v5/train-annotations-object-segmentation.csv": (806_943_628, "fa69369843fcf6e294d9195aeed1f2c6"),
    "v5/validation-annotations-object-segmentation.csv": (2_920_821, "dbfa09320082b635e8b96989c971128d"),
    "v5/test-annotations-object-segmentation.csv": (8_752_779, "707198de1a855cefde26d3fe35f7a6ce"),
    "2019_01/train/challenge-2018-train-vrd.csv": (41_928_675, "3119caa6464d4c65e443b0f7ae09ecf4"),
    "v5/validation-annotations-vrd.csv": (446_854, "dc9ca72dd39348ff915feb7984261ef0"),
    "v5/test-annotations-vrd.csv": (1_378_994, "f65063eb66401263a2d27df556d3f652"),
    "v6/oidv6-train-annotations-vrd.csv": (356_502_626, "955a24718760f378dd09220709402af5"),
    "v6/oidv6-validation-annotations-vrd.csv": (3_065_339, "1b2861c792a62de654746d0310849394"),
    "v6/oidv6-test-annotations-vrd.csv": (9_308_608, "384e68decfe1b39fd95228ee2f8bd701"),
    "v7/oidv7-train-annotations-human-imagelabels.csv": (2_735_816_020, None),
    "v7/oidv7-val-annotations-human-imagelabels.csv": (28_392_297, None),
    "v7/oidv7-test-annotations-human-imagelabels.csv": (93_606_939, None),
}
# Rows of the label tables.
_LABEL_ROWS = {
    "2018_04/train/train-annotations-human-imagelabels.csv": 27_894_289,
    "2018_04/validation/validation-annotations-human-imagelabels.csv": 551_390,
    "2018_04/test/test-annotations-human-imagelabels.csv": 1_667_399,
    "2018_04/train/train-annotations-machine-imagelabels.csv": 78_977_695,
    "2018_04/validation/validation-annotations-machine-imagelabels.csv": 512_093,
    "2018_04/test/test-annotations-machine-imagelabels.csv": 1_545_835,
    "v5/validation-annotations-human-imagelabels.csv": 595_339,
    "v5/test-annotations-human-imagelabels.csv": 1_799_883,
    "v5/train-annotations-machine-imagelabels.csv": 164_819_642,
    "v5/validation-annotations-machine-imagelabels.csv": 681_179,
    "v5/test-annotations-machine-imagelabels.csv": 2_061_177,
    "v6/oidv6-train-annotations-human-imagelabels.csv": 57_524_352,
}


def _table(
    kind: TableKind,
    split: Split | None,
    releases: str,
    key: str,
    columns: tuple[str, ...] = (),
    *,
    rows: int | None = None,
    bucket: str = "openimages",
) -> PublishedTable:
    size, md5 = _FILES.get(key, (None, None))
    rows = _LABEL_ROWS.get(key) if rows is None else rows
    return PublishedTable(kind, split, tuple(releases.split()), bucket, key, columns, size, md5, rows)


def _boxes() -> list[PublishedTable]:
    kind: TableKind = "boxes"
    train, columns = "train-annotations-bbox.csv", BOX_COLUMNS
    return [
        _table(kind, "train", "v4 v5", f"2018_04/train/{train}", columns, rows=14_610_229),
        _table(kind, "train", "v6 v7", f"v6/oidv6-{train}", columns + CLICK_COLUMNS, rows=14_610_229),
        _table(kind, "validation", "v4", "2018_04/validation/validation-annotations-bbox.csv", columns, rows=204_621),
        _table(kind, "validation", "v5 v6 v7", "v5/validation-annotations-bbox.csv", columns, rows=303_980),
        _table(kind, "test", "v4", "2018_04/test/test-annotations-bbox.csv", columns, rows=625_282),
        _table(kind, "test", "v5 v6 v7", "v5/test-annotations-bbox.csv", columns, rows=937_327),
    ]


def _images() -> list[PublishedTable]:
    known: dict[Split, tuple[str, int]] = {
        "train": ("train-images-boxable-with-rotation.csv", 1_743_042),
        "validation": ("validation-images-with-rotation.csv", 41_620),
        "test": ("test-images-with-rotation.csv", 125_436),
    }
    return [
        *(
            _table("images", split, "v4 v5 v6 v7", f"2018_04/{split}/{name}", IMAGE_COLUMNS, rows=rows)
            for split, (name, rows) in known.items()
        ),
        _table("all_images", None, "v4 v5 v6 v7", "2018_04/image_ids_and_rotation.csv", IMAGE_COLUMNS, rows=9_178_275),
    ]


def _names() -> list[PublishedTable]:
    """Return the tables of names. The full one has every class that labels and points use."""
    full: TableKind = "all_classes"
    return [
        _table(full, None, "v4", "2018_04/class-descriptions.csv", CLASS_COLUMNS),
        _table(full, None, "v5", "v5/class-descriptions.csv", CLASS_COLUMNS),
        _table(full, None, "v6", "v6/oidv6-class-descriptions.csv", CLASS_COLUMNS),
        _table(full, None, "v7", "v7/oidv7-class-descriptions.csv", CLASS_COLUMNS, rows=20_931),
        _table("mask_classes", None, "v5 v6 v7", "v5/classes-segmentation.txt", rows=350),
        _table("attributes", None, "v4 v5", "2019_01/challenge-2018-attributes-description.csv", CLASS_COLUMNS, rows=5),
        _table("attributes", None, "v6 v7", "v6/oidv6-attributes-description.csv", CLASS_COLUMNS, rows=15),
        _table("predicates", None, "v4 v5", "2019_01/challenge-2018-relationships-description.csv", CLASS_COLUMNS),
        _table("predicates", None, "v6 v7", "v6/oidv6-relationships-description.csv", CLASS_COLUMNS),
    ]


def _masks() -> list[PublishedTable]:
    rows: dict[Split, int] = {"train": 2_686_666, "validation": 24_730, "test": 74_102}
    return [
        _table("masks", split, "v5 v6 v7", f"v5/{split}-annotations-object-segmentation.csv", MASK_COLUMNS, rows=count)
        for split, count in rows.items()
    ]


def _relationships() -> list[PublishedTable]:
    kind: TableKind = "relationships"
    columns = RELATIONSHIP_COLUMNS
    rows: dict[Split, int] = {"train": 3_174_291, "validation": 27_243, "test": 82_746}
    return [
        _table(kind, "train", "v4 v5", "2019_01/train/challenge-2018-train-vrd.csv", columns),
        _table(kind, "validation", "v5", "v5/validation-annotations-vrd.csv", columns, rows=3_991),
        _table(kind, "test", "v5", "v5/test-annotations-vrd.csv", columns),
        *(
            _table(kind, split, "v6 v7", f"v6/oidv6-{split}-annotations-vrd.csv", columns, rows=count)
            for split, count in rows.items()
        ),
    ]


def _captions() -> list[PublishedTable]:
    """Return the narratives without their traces: 138 MB for train where the full objects have 16.7 GB."""
    known: dict[Split, tuple[str, int | None]] = {
        "train": ("open_images_train_v6_captions.jsonl", 507_444),
        "validation": ("open_images_validation_captions.jsonl", 41_691),
        "test": ("open_images_test_captions.jsonl", 126_020),
    }
    return [
        _table("captions", split, "v6 v7", f"annotations/{name}", rows=rows, bucket=NARRATIVES_BUCKET)
        for split, (name, rows) in known.items()
    ]


def _labels() -> list[PublishedTable]:
    tables = []
    kinds: dict[str, TableKind] = {"human": "human_labels", "machine": "machine_labels"}
    for source, kind in kinds.items():
        for split in SPLITS:
            name = f"annotations-{source}-imagelabels.csv"
            short = "val" if split == "validation" else split
            early = "v5" if source == "human" and split == "train" else "v5 v6"
            tables += [
                _table(kind, split, "v4", f"2018_04/{split}/{split}-{name}", LABEL_COLUMNS),
                _table(kind, split, early, f"v5/{split}-{name}", LABEL_COLUMNS),
                _table(kind, split, "v7", f"v7/oidv7-{short}-{name}", LABEL_COLUMNS),
            ]
    late = "v6/oidv6-train-annotations-human-imagelabels.csv"
    return [*tables, _table("human_labels", "train", "v6", late, LABEL_COLUMNS)]


def _points() -> list[PublishedTable]:
    return [
        _table("points", split, "v7", f"v7/oidv7-{short}-annotations-point-labels.csv", POINT_COLUMNS)
        for split, short in zip(SPLITS, ("train", "val", "test"), strict=True)
    ]


TABLES: tuple[PublishedTable, ...] = (
    _table("classes", None, "v4", "2018_04/class-descriptions-boxable.csv", CLASS_COLUMNS, rows=601),
    _table("classes", None, "v5 v6", "v5/class-descriptions-boxable.csv", CLASS_COLUMNS, rows=601),
    _table("classes", None, "v7", "v7/oidv7-class-descriptions-boxable.csv", CLASS_COLUMNS),
    _table("hierarchy", None, "v4 v5 v6 v7", "2018_04/bbox_labels_600_hierarchy.json"),
    *_boxes(),
    *_images(),
    *_names(),
    *_masks(),
    *_relationships(),
    *_captions(),
    *_labels(),
    *_points(),
)
