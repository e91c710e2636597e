"""The images of a state and their order, against a brute force over the rows of random folders."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.gallery_folders import manifest_row, write_folder

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import UsageError
from oid_async.gallery.catalog import Catalog
from oid_async.gallery.state import State
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.openimages.vocabulary import FLAGS
from oid_async.store.folder import Folder

Row = dict[str, Any]
NAMES = {"/m/a": "Dog", "/m/b": "Dog", "/m/c": "Sky, cloudy", "/m/d": '"Cat" <b>&', "/m/e": "Person", "/m/f": "Tree"}
WORDS = ["Straße", "a red DOG", "two cats", "İstanbul", "ÄRGER", "100 %", "a.*b"]
AREAS = [0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 1.0]


class World:
    """A random folder: its rows as Python objects, for the brute force, and as the tables of a folder."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.images = [self._image(number) for number in range(40)]
        twins = [{**self._image(number), "Subset": "validation", "FileName": f"{number}_v.jpg"} for number in (3, 17)]
        self.images = sorted(
            [
                {**row, "Subset": "train"} if row["ImageID"] in {t["ImageID"] for t in twins} else row
                for row in self.images
            ]
            + twins,
            key=lambda row: (row["ImageID"], row["Subset"]),
        )
        saved = [row for row in self.images if row["Status"] == "ok"]
        self.tables: dict[KindName, list[tuple[Row, Row]]] = {
            kind: [(row, self._row(kind, row)) for row in saved for _ in range(self.chance.choice([0, 0, 1, 2, 5]))]
            for kind in KINDS
        }
        # Narratives name no file: those of an id in two splits are of the first image.
        first = {row["ImageID"]: row for row in reversed(saved)}
        self.tables["narrative"] = [(first[row["ImageID"]], each) for row, each in self.tables["narrative"]]

    def _image(self, number: int) -> Row:
        status = self.chance.choice(["ok", "ok", "ok", "ok", "failed", "pending"])
        is_ok = status == "ok"
        row = manifest_row(number, b"", (640, 480))
        return {
            **row,
            "Subset": self.chance.choice(["train", "validation", "test"]),
            "Status": status,
            "FileName": f"{self.chance.randrange(10**6)}_{number}.jpg" if is_ok else None,
            "Reason": None if is_ok else self.chance.choice(["not_found", "gone"]) if status == "failed" else None,
            "Source": self.chance.choice(["cvdf", "original"]) if is_ok else None,
            "Bytes": self.chance.randrange(5) * 1000 if is_ok else None,
            "Role": self.chance.choice(["selected", "selected", "negative"]),
            "VerifiedAbsent": [],
        }

    def _row(self, kind: KindName, image: Row) -> Row:
        chance, label = self.chance, self.chance.choice(list(NAMES))
        named = {"LabelName": label, "Category": NAMES[label]}
        row: Row = {"ImageID": image["ImageID"], "FileName": image["FileName"]}
        if kind == "bbox":
            place = {"XMin": 0.0, "XMax": chance.choice(AREAS), "YMin": 0.0, "YMax": chance.choice(AREAS)}
            return {**row, **named, **place, **{flag: chance.choice([-1, 0, 1]) for flag in FLAGS.values()}}
        if kind == "relationship":
            other = chance.choice(list(NAMES))
            sides = {"LabelName1": label, "Category1": NAMES[label], "LabelName2": other, "Category2": NAMES[other]}
            return {**row, **sides, "RelationshipLabel": "at"}
        if kind == "narrative":
            return {"image_id": image["ImageID"], "caption": " ".join(chance.choices(WORDS, k=3))}
        if kind == "point":
            return {**row, "Label": label, "Category": NAMES[label], "X": 0.5, "Y": 0.5}
        if kind == "label":
            return {**row, **named, "Confidence": chance.choice([0, 1])}
        return {**row, **named, "MaskPath": f"{image['FileName']}.png", "BoxID": "00"}

    def write(self, path: Path) -> Path:
        tables = {kind: [each for _, each in rows] for kind, rows in self.tables.items()}
        return write_folder(path, [(row, None) for row in self.images], tables)

    def state(self) -> list[tuple[str, str]]:
        """Return random parameters."""
        chance = self.chance
        words: list[tuple[str, str]] = []
        some: dict[str, Callable[[], str]] = {
            "class": lambda: chance.choice(["dog", "/m/a", "sky,_cloudy", '"Cat" <b>&', "Person", "Tree"]),
            "without": lambda: chance.choice(["Dog", "/m/c", "Tree"]),
            "flag": lambda: f"{chance.choice(list(FLAGS.values()))}:{chance.choice(['yes', 'no'])}",
            "split": lambda: chance.choice(["train", "val", "test"]),
            "source": lambda: chance.choice(["cvdf", "original"]),
            "status": lambda: chance.choice(["ok", "failed", "pending"]),
            "reason": lambda: chance.choice(["not_found", "gone"]),
            "role": lambda: chance.choice(["selected", "negative"]),
            "kind": lambda: chance.choice(list(KINDS)),
            "caption": lambda: chance.choice(["dog", "STRASSE", "straße", "ärger", "%", ".*", "cats a"]),
            "min_area": lambda: chance.choice(["1", "5", "25", "6.25"]),
            "max_area": lambda: chance.choice(["25", "50", "100", "35"]),
        }
        for name in chance.sample(list(some), chance.choice([0, 1, 1, 2, 2, 3])):
            repeats = chance.choice([1, 1, 2, 3]) if name in ("class", "split", "flag", "without") else 1
            words += [(name, some[name]()) for _ in range(repeats)]
        sort = chance.choice(["image_id", "boxes", "area", "bytes", "file_name", "status"])
        return [
            *words,
            ("match", chance.choice(["any", "all"])),
            ("sort", sort),
            ("order", chance.choice(["asc", "desc"])),
        ]

    def expected(self, state: State) -> list[tuple[str, str]]:
        """Return split and ImageID of the images of a state, in its order, the plain way."""
        found = [row for row in self.images if self._is_shown(row, state)]
        keys: dict[str, Callable[[Row], Any]] = {
            "boxes": lambda row: len(self._rows("bbox", row)),
            "area": lambda row: max((area(box) for box in self._area_of(row, state)), default=None),
            "bytes": lambda row: row["Bytes"],
            "file_name": lambda row: row["FileName"],
            "status": lambda row: row["Status"],
        }
        if state.sort == "image_id":
            found = found[::-1] if state.order == "desc" else found
        else:
            key = keys[state.sort]
            known = [row for row in found if key(row) is not None]
            # reverse=True keeps equal ones in order, too.
            known.sort(key=key, reverse=state.order == "desc")
            found = known + [row for row in found if key(row) is None]
        return [(row["Subset"], row["ImageID"]) for row in found]

    def _rows(self, kind: KindName, image: Row) -> list[Row]:
        return [row for owner, row in self.tables[kind] if owner is image]

    def _is_shown(self, image: Row, state: State) -> bool:
        facts = {
            "Subset": state.splits,
            "Source": state.sources,
            "Status": state.statuses,
            "Reason": state.reasons,
            "Role": state.roles,
        }
        if any(values and image[column] not in values for column, values in facts.items()):
            return False
        if state.kind is not None and not self._rows(state.kind, image):
            return False
        if any(self._has(image, name, None) for name in state.without):
            return False
        if state.caption and not any(
            state.caption.lower() in row["caption"].lower() for row in self._rows("narrative", image)
        ):
            return False
        has_boxes = state.flags or state.min_area is not None or state.max_area is not None
        if not state.classes:
            return not has_boxes or bool(self._matching(image, state, None))
        kind = "bbox" if has_boxes and state.kind is None else state.kind
        each = [
            self._has(image, name, kind) and (not has_boxes or bool(self._matching(image, state, name)))
            for name in state.classes
        ]
        return all(each) if state.match == "all" else any(each)

    def _has(self, image: Row, name: str, kind: KindName | None) -> bool:
        kinds = [each for each, facts in KINDS.items() if facts.has_classes and kind in (None, each)]
        return any(
            is_called(row[label], name)
            for each in kinds
            for row in self._rows(each, image)
            if row.get("Confidence", 1) != 0
            for label in KINDS[each].labels
        )

    def _area_of(self, image: Row, state: State) -> list[Row]:
        if not state.classes:
            return self._matching(image, state, None)
        return [box for name in state.classes for box in self._matching(image, state, name)]

    def _matching(self, image: Row, state: State, name: str | None) -> list[Row]:
        return [
            box
            for box in self._rows("bbox", image)
            if (name is None or is_called(box["LabelName"], name))
            and all(box[flag] == value for flag, value in state.flags)
            and (state.min_area is None or area(box) >= state.min_area / 100 - 1e-12)
            and (state.max_area is None or area(box) <= state.max_area / 100 + 1e-12)
        ]


def area(box: Row) -> float:
    return float((box["XMax"] - box["XMin"]) * (box["YMax"] - box["YMin"]))


def is_called(label: str, name: str) -> bool:
    return name in (label, NAMES[label]) or name.replace("_", " ").casefold() == NAMES[label].casefold()


def opened(path: Path) -> Catalog:
    """Return the catalog of a folder, its index made."""
    catalog = Catalog(lambda: SavedDataset(Folder(path)))
    catalog.update(lambda: False)
    return catalog


def shown(catalog: Catalog, words: Sequence[tuple[str, str]], limit: int = 1000) -> list[tuple[str, str]]:
    page = catalog.images(State.read(words), limit=limit)
    assert page["total"] == len(page["images"])
    return [(image["split"], image["image_id"]) for image in page["images"]]


@pytest.mark.parametrize("seed", range(3))
def test_a_state_shows_what_a_brute_force_finds(tmp_path: Path, seed: int) -> None:
    """Random filters and orders give the images that the rows themselves give, in the same order."""
    world = World(seed)
    catalog = opened(world.write(tmp_path / "folder"))
    sizes: list[int] = []
    for _ in range(40):
        words = world.state()
        if dict(words).get("kind") == "narrative" and dict(words).get("class"):
            with pytest.raises(UsageError, match="narratives name no class"):
                shown(catalog, words)
        else:
            assert shown(catalog, words) == world.expected(State.read(words)), words
            sizes.append(len(world.expected(State.read(words))))
    catalog.close()
    assert len({size for size in sizes if 0 < size < len(world.images)}) > 5


def test_an_image_has_the_place_at_which_it_is_shown(tmp_path: Path) -> None:
    """Whatever the filters and the order are: who opens an image by its address can turn to the next one."""
    world = World(4)
    catalog = opened(world.write(tmp_path / "folder"))
    for words in (
        [],
        [("order", "desc")],
        [("sort", "bytes"), ("status", "ok")],
        [("class", "Dog"), ("sort", "boxes")],
    ):
        images = shown(catalog, words)
        places = {image: catalog.place(State.read(words), *image)["place"] for image in world.expected(State())}
        assert places == {image: images.index(image) if image in images else None for image in places}, words
    assert catalog.place(State(), "train", "0")["place"] is None
    catalog.close()


def test_a_name_that_no_class_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A slip of the finger is told from a class without images."""
    catalog = opened(World(1).write(tmp_path / "folder"))
    with pytest.raises(UsageError, match="unknown class 'Persn'; nearest: Person"):
        shown(catalog, [("class", "Persn")])
    catalog.close()


def test_a_folder_without_images_answers_every_state(tmp_path: Path) -> None:
    """A query that selected nothing leaves tables with a head alone, and no rows to count."""
    catalog = opened(write_folder(tmp_path / "folder", [], {"bbox": []}))
    for words in ([("sort", "boxes")], [("sort", "area"), ("status", "ok")], [("kind", "bbox")], [("min_area", "1")]):
        assert shown(catalog, words) == []
    catalog.close()
