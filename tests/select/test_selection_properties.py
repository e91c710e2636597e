"""Any small dataset and any query: what is selected and saved equals a brute force in plain Python.

The brute force reads the contract, not the program: sets and loops over the rows, no table library.
"""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, Unpack
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published import Box, Dataset, Image, columns_of, image_names, read_csv, read_manifest, write_bytes
from support.random_queries import (
    FLAG_TEXTS,
    IDS,
    LABELS,
    SEEDS,
    Line,
    MirrorTables,
    below,
    hierarchy_json,
    plain_name,
    random_edges,
    random_lines,
    random_split,
    random_word,
    splitmix64,
    written,
)

import oid_async
from oid_async.events import ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import SelectionResult, remarks, select_images
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS, TableKind
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import FLAGS, SPLITS, Split
from oid_async.options.keywords import QueryOptions
from oid_async.options.query import Options
from oid_async.options.query_table import Match
from oid_async.select.limits import shuffled

_Row = TypeVar("_Row", Image, Box)
BAD_ID = "abcdef01234567890"
UNKNOWN_LABELS = ("/m/0zzz", "")
NAMES = ("Person", "Human face", "Ball", "Straße")
URL_ENDS = ("a_o.jpg", "A_o.JPG", "b_o.jpg", "c_o.jpg", "d_o.jpg")
FORMS = (("published",), ("copied",), ("sorted",), ("published", "sorted"))


@dataclass(frozen=True)
class Case:
    """A dataset, a hierarchy and a query on them, as a user types it.

    `tree` is the published hierarchy, `below` what it says: (label, direct subclass). The lists are None when they are
    not given, `seed` is None without --shuffle.
    """

    dataset: Dataset
    below: frozenset[tuple[str, str]]
    tree: str
    words: tuple[str, ...]
    file_words: tuple[str, ...]
    with_subclasses: bool
    match: Match
    exclude: tuple[str, ...]
    flags: tuple[tuple[str, bool], ...]
    image_ids: tuple[Line, ...] | None
    exclude_ids: tuple[Line, ...] | None
    limit: int | None
    limit_per_class: int | None
    seed: int | None
    splits: tuple[Split, ...]
    kind: str
    all_boxes: bool

    def publish(self, root: Path, *, pictures: bool = True) -> Path:
        """Write the dataset as a mirror folder holds it and return that folder."""
        (hierarchy,) = published("hierarchy", ())
        write_bytes(root / hierarchy.bucket / hierarchy.key, self.tree.encode())
        images = [replace(image, stored=pictures and image.image_id != BAD_ID) for image in self.dataset.images]
        return replace(self.dataset, images=images).publish(root)

    def query(self, folder: Path) -> QueryOptions:
        """Return the query for the Python door; its files are written into a folder."""
        query: QueryOptions = {
            "categories": self.words,
            "with_subclasses": self.with_subclasses,
            "match": self.match,
            "exclude": self.exclude,
            "limit": self.limit,
            "limit_per_class": self.limit_per_class,
            "shuffle": self.seed is not None,
            "seed": self.seed or 0,
            "splits": self.splits,
            "kinds": [self.kind],
            "all_boxes": self.all_boxes,
        }
        # Nothing named is everything, by leaving the option out.
        query = {name: value for name, value in query.items() if value not in ([], ())}  # type: ignore[assignment]
        query.update(dict(self.flags))  # type: ignore[typeddict-item]
        if self.file_words:
            query["category_file"] = written(folder / "categories.txt", "\r\n\r\n".join(self.file_words))
        if self.image_ids is not None:
            query["image_ids"] = written(folder / "listed.txt", "\n".join(line.text for line in self.image_ids))
        if self.exclude_ids is not None:
            query["exclude_ids"] = written(folder / "banned.txt", "\n".join(line.text for line in self.exclude_ids))
        return query

    @property
    def reads_boxes(self) -> bool:
        """Whether boxes say what is selected or saved."""
        asks = self.words or self.file_words or self.exclude or self.flags or self.limit_per_class is not None
        return self.kind == "bbox" or bool(asks)

    @property
    def is_bare(self) -> bool:
        """Whether a list that names the split of every image is all there is to know: no table is needed."""
        return not self.reads_boxes and self.image_ids is not None and all(line.split for line in self.named)

    @property
    def named(self) -> list[Line]:
        """The lines of the id list that name an image."""
        return [line for line in self.image_ids or () if line.image_id]

    @cached_property
    def asked(self) -> tuple[Split, ...]:
        """The splits whose tables count: those asked for, else those that every line of a list names, or train too."""
        said = {line.split for line in self.named}
        said = said if said and None not in said else {*said, "train"}
        return tuple(split for split in SPLITS if split in (self.splits or said))

    @cached_property
    def images(self) -> dict[str, Split]:
        """The images there are to choose from, with their splits."""
        if self.is_bare:
            lines = [line for line in self.named if not self.splits or line.split in self.splits]
            lines.sort(key=lambda line: SPLITS.index(line.split or "test"), reverse=True)
            return {line.image_id: line.split for line in lines if line.split}
        images = [image for image in self.dataset.images if image.image_id != BAD_ID]
        return {image.image_id: image.split for image in images if image.split in self.asked}

    @cached_property
    def boxes(self) -> list[Box]:
        """The undamaged box rows that count, in published order."""
        boxes = [box for split in self.asked for box in self.dataset.boxes if box.split == split]
        return [box for box in boxes if box.image_id != BAD_ID]

    @cached_property
    def damaged(self) -> list[tuple[str, int]]:
        """The rows without an id in the tables that count: file name, physical line."""
        found = []
        sides: list[tuple[TableKind, Sequence[Box | Image], bool]] = [
            ("boxes", self.dataset.boxes, self.reads_boxes),
            ("images", self.dataset.images, not self.is_bare),
        ]
        for kind, rows, is_read in sides:
            for table in published(kind, self.asked if is_read else ()):
                ids = [row.image_id for row in rows if row.split == table.split]
                found += [(table.name, line) for line, image_id in enumerate(ids, 2) if image_id == BAD_ID]
        return found

    def meaning(self, word: str) -> tuple[str, ...]:
        """Return every MID that a word means by itself."""
        if word in dict(self.dataset.classes):
            return (word,)
        return tuple(label for label, name in self.dataset.classes if plain_name(name) == plain_name(word))

    def subclasses(self, labels: Sequence[str]) -> set[str]:
        """Return what stands below labels at any depth, without themselves."""
        return below(labels, self.below)

    def counted(self, labels: Sequence[str]) -> set[str]:
        """Return labels, with their subclasses if these were asked for."""
        return {*labels, *(self.subclasses(labels) if self.with_subclasses else ())}

    @cached_property
    def plain_categories(self) -> list[tuple[str, ...]]:
        """What each category means by itself; what counts the same labels is one category."""
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for labels in (self.meaning(word) for word in (*self.words, *self.file_words)):
            found.setdefault(frozenset(self.counted(labels)), labels)
        return list(found.values())

    @cached_property
    def categories(self) -> list[set[str]]:
        """The labels that count as each category."""
        return [self.counted(labels) for labels in self.plain_categories]

    @cached_property
    def wanted(self) -> set[str]:
        """The labels of all categories."""
        return set().union(*self.categories)

    def fits(self, box: Box) -> bool:
        """Return whether a box is what the flags ask for."""
        answers = {"1": True, "1.0": True, "0": False, "0.0": False}
        return all(answers.get(dict(box.flags)[FLAGS[name]]) is wanted for name, wanted in self.flags)

    def having(self, labels: Iterable[str]) -> set[str]:
        """Return the images of the image table with a fitting box of any of these labels."""
        labels = set(labels)
        return {box.image_id for box in self.boxes if box.label in labels and self.fits(box)} & self.images.keys()

    @cached_property
    def annotated(self) -> set[str]:
        """The images with a fitting box of any category, or of any class without categories; in the table or not."""
        boxes = [box for box in self.boxes if self.fits(box)]
        return {box.image_id for box in boxes if not self.categories or box.label in self.wanted}

    @cached_property
    def matching(self) -> set[str]:
        """The images that match, before anything is taken away."""
        if self.categories:
            hits = [self.having(labels) for labels in self.categories]
            return set.intersection(*hits) if self.match == "all" else set.union(*hits)
        if self.kind == "none" and not self.flags and self.limit_per_class is None:
            return set(self.images)
        return self.annotated & self.images.keys()

    def place(self, image_id: str) -> int:
        """Return where an image stands in the order."""
        number = int(image_id, 16)
        return number if self.seed is None else splitmix64(number, self.seed)

    def listed(self, lines: Iterable[Line], image_id: str) -> bool:
        """Return whether any of the lines names this image."""
        return any(line.names(image_id, self.images[image_id]) for line in lines)

    @cached_property
    def selected(self) -> list[str]:
        """The selected ids in order of ImageID."""
        banned = self.counted([label for word in self.exclude for label in self.meaning(word)])
        ids = self.matching - {box.image_id for box in self.boxes if box.label in banned}
        if self.image_ids is not None:
            ids = {image_id for image_id in ids if self.listed(self.image_ids, image_id)}
        if self.exclude_ids is not None:
            ids = {image_id for image_id in ids if not self.listed(self.exclude_ids, image_id)}
        if self.limit_per_class is not None:
            classes = self.categories or [{label} for label in {box.label for box in self.boxes}]
            firsts = [sorted(ids & self.having(labels), key=self.place)[: self.limit_per_class] for labels in classes]
            ids = {image_id for some in firsts for image_id in some}
        return sorted(sorted(ids, key=self.place)[: self.limit])

    @cached_property
    def unknown(self) -> list[str]:
        """What the id list names that no table has: an image once, a line that names none as often as it is there."""
        said = []
        for line in self.image_ids or ():
            text = f"{line.split}/{line.image_id}" if line.split else line.image_id
            if not line.image_id:
                said.append(line.text.strip())
            elif text not in said and not (line.image_id in self.images and self.listed((line,), line.image_id)):
                said.append(text)
        return said

    @cached_property
    def saved(self) -> list[int]:
        """The box rows to be saved, in order: places in `boxes`."""
        every = self.all_boxes or not self.categories
        fitting = [self.fits(box) and (every or box.label in self.wanted) for box in self.boxes]
        ids = self.selected if self.kind == "bbox" else ()
        return [
            place
            for image_id in ids
            for place, box in enumerate(self.boxes)
            if box.image_id == image_id and fitting[place]
        ]

    @cached_property
    def saved_classes(self) -> set[str]:
        """The labels that label_data.csv lists."""
        return set(dict(self.dataset.classes)) if self.all_boxes or not self.categories else self.wanted

    @cached_property
    def file_names(self) -> dict[str, str]:
        """The name of each selected image: the lower id keeps what others would be called too."""
        natural = {image.image_id: image.file_name for image in self.dataset.images}
        names: dict[str, str] = {}
        for image_id in self.selected:
            name = f"{image_id}.jpg" if self.is_bare else natural[image_id]
            if name.casefold() in {taken.casefold() for taken in names.values()}:
                name = f"{name[:-4]}_{image_id}{name[-4:]}"
            names[image_id] = name
        return names

    @cached_property
    def there(self) -> set[str]:
        """The selected images whose picture is where the tables or the list say."""
        stored = {(image.image_id, image.split) for image in self.dataset.images}
        return {image_id for image_id in self.selected if (image_id, self.images[image_id]) in stored}

    @property
    def split_counts(self) -> dict[str, int]:
        """The selected images of each split that has any."""
        splits = [self.images[image_id] for image_id in self.selected]
        return {split: splits.count(split) for split in SPLITS if split in splits}


# How often a query has what.
OPTIONS = {
    "words": 0.8,
    "file_words": 0.2,
    "with_subclasses": 0.6,
    "all": 0.4,
    "exclude": 0.3,
    "flags": 0.35,
    "image_ids": 0.25,
    "exclude_ids": 0.2,
    "limit": 0.35,
    "limit_per_class": 0.35,
    "seed": 0.7,
    "splits": 0.6,
    "none": 0.25,
    "all_boxes": 0.6,
    "no_boxes": 0.15,
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a dataset and a query on it.

    The dataset has twin names, images without boxes, boxes without images, repeated and damaged rows. What shrinks is
    what there is at all; the rest follows from a seed: what Hypothesis draws by itself is too much alike, and two of
    three such queries select nothing.
    """
    chance = random.Random(draw(st.integers(0, 2**64)))
    # Nearly always all bits are set; shrinking leaves one, and so one option, or none.
    most = 2 ** len(OPTIONS) - 1
    kept = draw(st.sampled_from([0, *(1 << at for at in range(len(OPTIONS))), *[most] * 200]))
    has = {name: chance.random() < share and bool(kept >> at & 1) for at, (name, share) in enumerate(OPTIONS.items())}
    flags = _flags(chance) if has["flags"] else ()
    most_images = draw(st.sampled_from((0, *[len(IDS)] * 19)))
    most_boxes = draw(st.sampled_from((0, 4, *[24, 36, 48] * 8)))
    dataset = _dataset(chance, [FLAGS[name] for name, _ in flags], most_images, most_boxes)
    home = {image.image_id: image.split for image in dataset.images if image.image_id != BAD_ID}
    edges = random_edges(chance)
    is_complete = has["no_boxes"] and chance.random() < 0.5
    if has["no_boxes"]:
        has |= dict.fromkeys(("words", "file_words", "exclude", "flags", "limit_per_class"), False)
        has |= {"none": True, "image_ids": has["image_ids"] or is_complete}
        flags = ()

    def words(name: str, most: int) -> tuple[str, ...]:
        return tuple(random_word(chance, dataset.classes) for _ in range(chance.randint(1, most) if has[name] else 0))

    def lines(name: str, length: int, in_splits: bool) -> tuple[Line, ...] | None:
        return random_lines(chance, home, IDS, length, in_splits=in_splits) if has[name] else None

    case = Case(
        dataset=dataset,
        below=frozenset((above, child) for above, child, how in edges if how == "Sub"),
        tree=hierarchy_json(edges, in_full=chance.random() < 0.5),
        words=words("words", 3),
        file_words=words("file_words", 2),
        with_subclasses=has["with_subclasses"],
        match="any",
        exclude=words("exclude", chance.choice((1, 1, 2))),
        flags=flags,
        image_ids=lines("image_ids", 12, is_complete),
        exclude_ids=lines("exclude_ids", 4, False),
        limit=chance.choice((1, 1, 1, 2, 2, 3, 3, 0)) if has["limit"] else None,
        limit_per_class=chance.choice((1, 1, 1, 2, 2, 3, 3, 0)) if has["limit_per_class"] else None,
        seed=chance.choice(SEEDS) if has["seed"] else None,
        splits=chance.choice((SPLITS, SPLITS, SPLITS, ("train", "test"), ("train", "validation"), ("test",)))
        if has["splits"]
        else (),
        kind="none" if has["none"] else "bbox",
        all_boxes=has["all_boxes"] and not has["none"],
    )
    return replace(case, match="all") if has["all"] and case.categories else case


def _flags(chance: random.Random) -> tuple[tuple[str, bool], ...]:
    return tuple((name, chance.random() < 0.5) for name in chance.sample(sorted(FLAGS), chance.choice((1, 1, 2))))


def _dataset(chance: random.Random, flags: Sequence[str], most_images: int, most_boxes: int) -> Dataset:
    classes = [(label, chance.choice(NAMES)) for label in chance.sample(LABELS, chance.randint(2, 5))]
    ids = chance.sample(IDS, min(most_images, chance.randint(5, len(IDS))))
    images = [Image(image_id, chance.choice(URL_ENDS), random_split(chance)) for image_id in ids]
    home = {image.image_id: image.split for image in images}
    images += images[:1] if chance.random() < 0.5 else []
    images += [Image(BAD_ID, "e_o.jpg", random_split(chance))] if chance.random() < 0.2 else []
    boxes = []
    for _ in range(most_boxes):
        image_id = chance.choice([*ids, *ids, *ids, *ids, *IDS, BAD_ID])
        label = chance.choice([*[label for label, _ in classes] * 4, *LABELS, *UNKNOWN_LABELS])
        is_stray = chance.random() < 0.1 or image_id not in home
        split = random_split(chance) if is_stray else home[image_id]
        said = tuple((name, chance.choice(FLAG_TEXTS)) for name in flags)
        boxes.append(Box(image_id, label, chance.choice(("0", "0.5", "0.500000")), split, said))
    return Dataset(classes, _usable(images), _usable(boxes))


def _usable(rows: list[_Row]) -> list[_Row]:
    """Drop the damaged rows of each split that has more of them than others: such a table is refused."""
    bad = Counter(row.split for row in rows if row.image_id == BAD_ID)
    good = Counter(row.split for row in rows if row.image_id != BAD_ID)
    return [row for row in rows if row.image_id != BAD_ID or bad[row.split] <= good[row.split]]


async def answer(case: Case, folder: Path, cache: MirrorTables) -> SelectionResult:
    """Return what the published tables answer to a case's query."""
    options = Options.of(**case.query(folder))
    inputs = await gather_tables(options, cache, ignore, folder)
    assert inputs.bad_rows.select("File", "Line").rows() == case.damaged
    found = select_images(inputs, options.all_boxes)
    list(remarks(inputs, found))
    return found


@settings(max_examples=8, deadline=None, derandomize=True)
@given(cases(), st.sampled_from(FORMS), st.sampled_from((16, 9, 6)))
def test_selection_equals_brute_force(case: Case, forms: Sequence[str], slice_rows: int) -> None:
    """Eight queries for boxes, lists and forms of tables; test_choosing has every option, the slow twin more."""
    assert_selection_equals_brute_force(case, forms, slice_rows)


@pytest.mark.slow
@settings(max_examples=140, deadline=None, derandomize=True)
@given(cases(), st.sampled_from(FORMS), st.sampled_from((16, 9, 6)))
def test_selection_equals_brute_force_in_many_more(case: Case, forms: Sequence[str], slice_rows: int) -> None:
    """More of them, in each form of the tables."""
    assert_selection_equals_brute_force(case, forms, slice_rows)


def assert_selection_equals_brute_force(case: Case, forms: Sequence[str], slice_rows: int) -> None:
    """The selected images, and all that is counted of them, equal a brute force for any dataset and query.

    Whether the tables are read as published, converted, or converted and sorted as large ones are, a few rows a slice.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mirror = case.publish(folder, pictures=False)
        for form in forms:
            with (
                patch("oid_async.metadata.convert._SORTED_FROM_ROWS", 0 if form == "sorted" else 1000),
                patch("oid_async.metadata.convert._SLICE_ROWS", slice_rows),
            ):
                tables = MirrorTables(mirror, None if form == "published" else folder / form)
                _check(case, asyncio.run(answer(case, folder, tables)))


def _check(case: Case, found: SelectionResult) -> None:
    selection = found.selection
    assert selection.keys.name == KEY
    assert [f"{key:016x}" for key in selection.keys] == case.selected
    assert selection.splits == case.split_counts
    assert list(selection.candidates.values()) == [len(case.having(labels)) for labels in case.categories]
    assert list(selection.added.values()) == [
        0 if case.with_subclasses else len(case.having(case.subclasses(labels)) - case.having(labels))
        for labels in case.plain_categories
    ]
    assert found.unknown_ids.to_list() == case.unknown
    if case.kind == "bbox":
        assert found.annotations == {"bbox": len(case.saved)}
        assert selection.unlisted == len(case.annotated - case.images.keys())


@settings(max_examples=4, deadline=None, derandomize=True)
@given(cases(), st.booleans())
def test_saved_folder_equals_brute_force(case: Case, is_large: bool) -> None:
    """A whole download saves what the brute force does, the plan before it said so, a second one asks for nothing.

    Also when tables and plan are worked off a few rows at a time, as large ones are some thousands at a time.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        patch("oid_async.select.plan._SPAN_ROWS", 2 if is_large else 4096),
        patch("oid_async.metadata.convert._SORTED_FROM_ROWS", 0 if is_large else 1000),
        patch("oid_async.metadata.convert._SLICE_ROWS", 9),
    ):
        mirror, savepath = case.publish(Path(name, "mirror")), Path(name, "d")
        query = case.query(Path(name))
        query |= {"savepath": savepath, "mirror": mirror, "cache_dir": Path(name, "cache")}

        async def run() -> tuple[oid_async.Plan, oid_async.Report]:
            return await oid_async.plan(**query), await oid_async.download(**query)

        plan, report = asyncio.run(run())
        _check_report(case, plan, report)
        _check_folder(case, mirror, savepath)
        again = asyncio.run(oid_async.download(**query))
        assert (again.selected, again.downloaded, again.requests) == (len(case.selected), 0, 0)
        assert (again.present, again.failed, again.unselected) == (report.downloaded, report.failed, 0)


def _check_report(case: Case, plan: oid_async.Plan, report: oid_async.Report) -> None:
    missing = len(case.selected) - len(case.there)
    assert (report.selected, report.present, report.pending) == (len(case.selected), 0, 0)
    assert (report.downloaded, report.failures) == (len(case.there), {"not_found": missing} if missing else {})
    assert report.bad_rows == len(case.damaged)
    assert (plan.selected, plan.present) == (report.selected, report.present)
    assert plan.to_download == report.downloaded + report.failed
    assert plan.requests == report.requests
    assert plan.splits == case.split_counts
    assert list(plan.candidates.values()) == [len(case.having(labels)) for labels in case.categories]
    assert plan.annotations == ({} if case.kind == "none" else {"bbox": len(case.saved)})
    if not missing:
        assert {source: count for source, count in plan.sources.items() if count} == report.sources


def _check_folder(case: Case, mirror: Path, savepath: Path) -> None:
    names = case.file_names
    manifest = [(row["ImageID"], row["Subset"], row["FileName"]) for row in read_manifest(savepath)]
    there = {image_id: names[image_id] if image_id in case.there else None for image_id in names}
    assert manifest == [(image_id, case.images[image_id], name) for image_id, name in there.items()]
    assert image_names(savepath) == sorted(name for name in there.values() if name)
    for image_id in case.there:
        assert (savepath / "images" / names[image_id]).read_bytes() == Image(image_id).body
    unknown = savepath / "unknown_ids.txt"
    assert unknown.exists() is bool(case.unknown)
    assert case.unknown == (unknown.read_text(encoding="utf-8").splitlines() if case.unknown else [])
    if case.kind == "none":
        assert not (savepath / "bbox").exists()
        return
    class_names = dict(case.dataset.classes)
    label_rows = read_csv(savepath / "bbox" / "label_data.csv")
    assert len(label_rows) == len(case.saved_classes)
    assert {row["LabelName"]: row["Category"] for row in label_rows} == {
        label: class_names.get(label, label) for label in case.saved_classes
    }
    _check_boxes(case, mirror, savepath / "bbox" / "bbox.csv")


def _check_boxes(case: Case, mirror: Path, path: Path) -> None:
    """Compare bbox.csv with the rows of the published files, column by column as text."""
    columns = [*BOX_COLUMNS, *(CLICK_COLUMNS if "train" in case.asked else ())]
    assert columns_of(path) == [*columns, "Category", "FileName", "OriginalURL", "Width", "Height"]
    tables = published("boxes", case.asked)
    rows = [row for table in tables for row in read_csv(mirror / table.bucket / table.key) if row["ImageID"] != BAD_ID]
    class_names = dict(case.dataset.classes)
    images = {image.image_id: image for image in case.dataset.images}
    expected = []
    for row in (rows[place] for place in case.saved):
        image = images[row["ImageID"]]
        width, height = map(str, image.size)
        expected.append(
            {column: row.get(column, "") for column in columns}
            | {"Category": class_names.get(row["LabelName"], row["LabelName"])}
            | {"FileName": case.file_names[image.image_id], "OriginalURL": image.url, "Width": width, "Height": height}
        )
    assert read_csv(path) == expected


@pytest.mark.parametrize("seed", [*SEEDS, -1234567890123456789012, 0x9E3779B97F4A7C15, 2**64 - 0x9E3779B97F4A7C15])
def test_shuffled_order_is_splitmix64(seed: int) -> None:
    """The order of --shuffle is the contract's, bit for bit, for any key and any whole number as seed."""
    chance = random.Random(seed)
    keys = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, *(chance.getrandbits(64) for _ in range(2000))]
    places = pl.DataFrame({KEY: keys}, schema={KEY: pl.UInt64}).select(shuffled(seed)).to_series()
    assert places.dtype == pl.UInt64
    assert places.to_list() == [splitmix64(key, seed) for key in keys]


def test_splitmix64_of_the_contract() -> None:
    """The plain Python order gives the published first numbers of splitmix64 with state 0 and 1234567."""
    assert splitmix64(0, 0) == 0xE220A8397B1DCDAF
    assert splitmix64(0, 1234567) == splitmix64(1234567, 0) == 6457827717110365317


TWINS = Dataset(
    [("/m/0", "Ball"), ("/m/01", "Ball"), ("/m/02", "Cat")],
    [Image(image_id) for image_id in IDS[:4]],
    [Box(IDS[0], "/m/0"), Box(IDS[1], "/m/01"), Box(IDS[2], "/m/02")],
    below={"/m/0": ["/m/01"]},
)


async def planned(folder: Path, **query: Unpack[QueryOptions]) -> oid_async.Plan:
    """Plan on TWINS: a Ball, a Ball below the first one, a Cat and an image of nothing."""
    full: QueryOptions = {**query, "mirror": TWINS.publish(folder / "mirror"), "savepath": folder / "d"}
    return await oid_async.plan(**full)


@pytest.mark.parametrize("kind", ["bbox", "none"])
async def test_an_empty_list_selects_nothing(kind: str, tmp_path: Path) -> None:
    """An id list without a line leaves no image over, and is no error."""
    plan = await planned(tmp_path, categories=["Cat"], image_ids=written(tmp_path / "ids.txt", "\n"), kinds=[kind])
    assert (plan.selected, plan.candidates) == (0, {"Cat": 1})


async def test_categories_that_subclasses_make_equal(tmp_path: Path) -> None:
    """Ball means two classes, /m/0 one of them that has the other one below: with subclasses both are the same."""
    plan = await planned(tmp_path, categories=["Ball", "/m/0"], with_subclasses=True, match="all")
    assert plan.selected == 2
    assert set(plan.candidates.values()) == {2}


async def test_exclude_takes_nothing_else_away(tmp_path: Path) -> None:
    """With --kind none every image is selected, with --exclude every one without that class: also one of nothing."""
    assert (await planned(tmp_path, kinds=["none"])).selected == 4
    assert (await planned(tmp_path, kinds=["none"], exclude=["Ball"])).selected == 2
    ids = written(tmp_path / "ids.txt", f"{IDS[0]}\n{IDS[3]}\n")
    assert (await planned(tmp_path, kinds=["none"], exclude=["Ball"], image_ids=ids)).selected == 1
