"""A tiny published dataset with rows of every kind, drawn by chance, and how it lies in a mirror folder."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import (
    CLICK_COLUMNS,
    TABLES,
    PublishedTable,
    TableKind,
)
from oid_async.openimages.vocabulary import FLAGS, SPLITS, Split
from support.published import write_bytes, write_table
from support.random_queries import FLAG_TEXTS, IDS, LABELS, Edge, hierarchy_json, random_edges, random_split

# Besides those with boxes: classes that labels and points alone name.
OTHER_LABELS = ("/m/05", "/m/06")
ATTRIBUTES = (("/m/0a", "Wooden"), ("/m/0b", "Shiny"))
PREDICATES = (("at", "at"), ("holds", "holds"), ("on", "on (top of)"), ("is", "is"))
MORE_IDS = (*IDS, *(f"{number * 0x0F1E2D3C4B5A697 % 2**64:016x}" for number in range(3, 13)))
NAMES = ("Person", "Human face", "Ball", "Straße", "Cat")
AUTHORS = ("Ana", "Bo", "O'Hara", "")
CAPTIONS = ("A dog runs.", "Two cats, one dog", "In the foreground there is a Cat", "A tree")
ROWS_OF: tuple[TableKind, ...] = (
    *("boxes", "masks", "relationships", "captions", "human_labels", "machine_labels", "points"),
)
# Sides whose products lie on and beside round shares of an image; published boxes reach a little over its edges.
PLACES = ("0", "0.100000", "0.2", "0.3", "0.4", "0.7", "0.90000000", "1.0", "-0.005", "1.005")
ANSWERS = ("yes", "no", "unsure", "yes", "")
Fields = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A row of a split's table of annotations: its fields as published, what is not named is empty."""

    table: TableKind
    split: Split
    fields: Fields

    @property
    def image_id(self) -> str:
        """The image it is of."""
        names = ("ImageID", "ImageId", "image_id")
        return next(self.fields[name] for name in names if name in self.fields)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it names."""
        names = ("LabelName", "LabelName1", "LabelName2", "Label")
        return tuple(self.fields[name] for name in names if name in self.fields)


@dataclass(frozen=True)
class Picture:
    """An image: its row of the image table; without `boxable` only the table of all images has it."""

    fields: Fields
    boxable: bool

    @property
    def image_id(self) -> str:
        return self.fields["ImageID"]

    @property
    def split(self) -> Split:
        return next(split for split in SPLITS if split == self.fields["Subset"])


@dataclass(frozen=True)
class World:
    """What is published. `edges` are (label, what is below it, Subcategory or Part); `boxable` and `others` classes."""

    boxable: Sequence[tuple[str, str]]
    others: Sequence[tuple[str, str]]
    edges: Sequence[Edge]
    pictures: Sequence[Picture]
    rows: Sequence[Row]

    @cached_property
    def home(self) -> dict[str, Split]:
        """The split of each image."""
        return {picture.image_id: picture.split for picture in self.pictures}

    def publish(self, root: Path) -> Path:
        """Write every table of V7 as a mirror folder holds it, without images, and return that folder."""
        for table in (table for table in TABLES if "v7" in table.releases):
            path = root / table.bucket / table.key
            if table.kind == "hierarchy":
                write_bytes(path, hierarchy_json(self.edges, LABELS, in_full=len(self.rows) % 2 == 0).encode())
            elif table.kind == "captions":
                lines = [json.dumps(dict(row.fields)) for row in self._of(table)]
                write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
            elif table.columns:
                write_table(path, table.columns, self._fields(table))
        return root

    def _of(self, table: PublishedTable) -> Iterable[Row]:
        return (row for row in self.rows if (row.table, row.split) == (table.kind, table.split))

    def _fields(self, table: PublishedTable) -> Iterable[dict[str, str]]:
        names = {
            "classes": self.boxable,
            "all_classes": (*self.boxable, *self.others),
            "attributes": ATTRIBUTES,
            "predicates": PREDICATES,
        }
        if table.kind in names:
            return [{"LabelName": label, "DisplayName": name} for label, name in names[table.kind]]
        if table.kind in ROWS_OF:
            return [{name: row.fields.get(name, "") for name in table.columns} for row in self._of(table)]
        every = table.split is None  # the table of all images
        there = [each for each in self.pictures if every or (each.boxable and each.split == table.split)]
        return [dict(each.fields) for each in there]


def random_world(chance: random.Random) -> World:
    """Draw a dataset: twin names, images without rows, rows of images that are nowhere or in another split."""
    boxable = [(label, chance.choice(NAMES)) for label in chance.sample(LABELS, chance.randint(3, 5))]
    others = [(label, chance.choice((*NAMES, "Snow", "Fog"))) for label in OTHER_LABELS]
    ids = chance.sample(MORE_IDS, chance.randint(10, len(MORE_IDS)))
    pictures = [_picture(chance, image_id) for image_id in ids]
    home = {picture.image_id: picture.split for picture in pictures}
    labels = [label for label, _ in boxable]
    every = [*labels, *labels, *LABELS, *OTHER_LABELS]
    rows: list[Row] = []
    for table in ROWS_OF:
        for _ in range(chance.choice((6, *[45, 60, 75] * 4))):
            image_id = chance.choice([*ids, *ids, *ids, *ids, *MORE_IDS])
            is_stray = chance.random() < 0.05 or image_id not in home
            split = random_split(chance) if is_stray else home[image_id]
            of_classes = labels if table in ("boxes", "masks", "relationships") and chance.random() < 0.9 else every
            rows.append(Row(table, split, _fields(chance, table, image_id, of_classes)))
    # A table of narratives without a line is refused.
    rows += [Row("captions", split, _fields(chance, "captions", ids[0], every)) for split in SPLITS]
    return World(boxable, others, random_edges(chance), pictures, rows)


def crowded_world(chance: random.Random, images: int, classes: int) -> World:
    """Draw boxes alone, many of few classes and few of many, in images of two splits that mostly have several."""
    boxable = [(f"/m/0{number:02d}", f"Class {number}") for number in range(classes)]
    chance.shuffle(boxable)
    pictures = [_picture(chance, f"{chance.getrandbits(64):016x}") for _ in range(images)]
    rows = []
    for picture in pictures:
        for _ in range(chance.choice((0, 1, 2, 3, 5))):
            label = boxable[int(classes * chance.random() ** 3)][0]
            rows.append(Row("boxes", picture.split, _fields(chance, "boxes", picture.image_id, (label,))))
    return World(boxable, (), (), pictures, rows)


def _picture(chance: random.Random, image_id: str) -> Picture:
    split = random_split(chance)
    fields = {
        "ImageID": image_id,
        "Subset": split,
        "OriginalURL": f"https://farm1.staticflickr.com/7/{image_id[:4]}_o.jpg",
        "License": f"https://creativecommons.org/licenses/{chance.choice(('by', 'by-sa'))}/2.0/",
        "Author": chance.choice(AUTHORS),
        "Title": chance.choice(("Žofie, 7", "100%", "")),
        "OriginalSize": chance.choice(("", "999", "1000", "123456789012")),
        "Rotation": chance.choice(("0.0", "90.0", "")),
    }
    return Picture(fields, split != "train" or chance.random() < 0.7)


def _fields(chance: random.Random, table: TableKind, image_id: str, labels: Sequence[str]) -> dict[str, str]:
    label = chance.choice(labels)
    match table:
        case "captions":
            return {"image_id": image_id, "annotator_id": "1", "caption": chance.choice(CAPTIONS)}
        case "points":
            row = {"ImageId": image_id, "X": "0.5", "Y": "0.25", "Label": label, "Source": "ih"}
            return row | {"EstimatedYesNo": chance.choice(ANSWERS), "YesVotes": "1"}
        case "human_labels":
            return _label(image_id, label, chance.choice(("0", "0", "1", "1", "0.0", "1.0")))
        case "machine_labels":
            return _label(image_id, label, chance.choice(("0.5", "0.8", "0.9", "1.0")))
        case "masks":
            return _mask(image_id, label, chance)
        case "relationships":
            return _relationship(image_id, label, chance, labels)
    row = _label(image_id, label, "1") | _sides(chance)
    return row | {column: chance.choice(FLAG_TEXTS) for column in FLAGS.values()} | dict.fromkeys(CLICK_COLUMNS, "0.5")


def _label(image_id: str, label: str, confidence: str) -> dict[str, str]:
    return {"ImageID": image_id, "Source": "verification", "LabelName": label, "Confidence": confidence}


def _sides(chance: random.Random, name: str = "{}") -> dict[str, str]:
    sides: dict[str, str] = {}
    for axis in "XY":
        low, high = sorted(chance.choices(PLACES, k=2), key=float)
        sides |= {name.format(f"{axis}Min"): low, name.format(f"{axis}Max"): high}
    return sides


def _mask(image_id: str, label: str, chance: random.Random) -> dict[str, str]:
    box_id = f"{chance.getrandbits(32):08x}"
    name = f"{image_id}_{label[1:].replace('/', '')}_{box_id}.png"
    row = {"MaskPath": name, "ImageID": image_id, "LabelName": label, "BoxID": box_id}
    return row | _sides(chance, "Box{}") | {"PredictedIoU": ""}


def _relationship(image_id: str, label: str, chance: random.Random, labels: Sequence[str]) -> dict[str, str]:
    predicate = chance.choice([token for token, _ in PREDICATES])
    second = chance.choice(ATTRIBUTES)[0] if predicate == "is" else chance.choice(labels)
    sides = {f"{side}{number}": chance.choice(PLACES) for side in ("XMin", "XMax", "YMin", "YMax") for number in "12"}
    row = {"ImageID": image_id, "LabelName1": label, "LabelName2": second, "RelationshipLabel": predicate}
    return row | sides


def tables_of(kind: TableKind) -> list[PublishedTable]:
    """Return the published tables of a kind, of every split."""
    return published(kind, SPLITS)
