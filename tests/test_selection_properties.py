"""Any small dataset and any query: what is selected and saved equals a brute force in plain Python."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from support import Box, Dataset, Image, read_csv, read_manifest

import oid_async
from oid_async.openimages.catalogue import TableKind, published
from oid_async.openimages.classes import Classes
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.tables import TableFile
from oid_async.options import SPLITS, Match, Split
from oid_async.select.selection import Query, annotated, choose, listed

# Ids that sort otherwise as signed numbers, as floats or without their zeros.
IDS = (
    *("0000000000000000", "0000048549557964", "000004854955796a", "00e4060885034751"),
    *("7fffffffffffffff", "8000000000000000", "9e99999999999999", "ffffffffffffffff"),
)
LABELS = ("/m/0", "/m/01", "/m/02", "/m/03", "/m/04")
UNKNOWN_LABEL = "/m/0zzz"
NAMES = ("Person", "Human face", "Ball", "Straße")
URL_ENDS = ("a_o.jpg", "A_o.JPG", "b_o.jpg", "c_o.jpg", "d_o.jpg")


@dataclass(frozen=True)
class Case:
    """A dataset and a query on it; `words` are the categories as a user types them."""

    dataset: Dataset
    words: tuple[str, ...]
    match: Match
    splits: tuple[Split, ...]
    limit: int | None

    @property
    def boxes(self) -> list[Box]:
        """The box rows of the query's splits, in published order."""
        return [box for split in self.splits for box in self.dataset.boxes if box.split == split]

    @property
    def images(self) -> dict[str, Image]:
        """The image rows of the query's splits by id."""
        return {image.image_id: image for image in self.dataset.images if image.split in self.splits}

    def labels(self, word: str) -> set[str]:
        """Return every MID that a word means."""
        if word in dict(self.dataset.classes):
            return {word}
        return {label for label, name in self.dataset.classes if _plain(name) == _plain(word)}

    def has(self, image_id: str, word: str) -> bool:
        """Return whether an image has a box of what a word means."""
        return any(box.image_id == image_id and box.label in self.labels(word) for box in self.boxes)

    def annotated(self) -> set[str]:
        """Return the ids that have a box of any category, or any box at all when there is none."""
        ids = {box.image_id for box in self.boxes}
        return {image_id for image_id in ids if not self.words or any(self.has(image_id, word) for word in self.words)}

    def selected(self) -> list[str]:
        """Return the selected ids in order."""
        wanted = all if self.match == "all" else any
        ids = self.annotated() & self.images.keys()
        matching = sorted(
            image_id for image_id in ids if not self.words or wanted(self.has(image_id, word) for word in self.words)
        )
        return matching if self.limit is None else matching[: self.limit]

    def file_names(self) -> dict[str, str]:
        """Return the name of each selected image: the lower id keeps what others would be called too."""
        names: dict[str, str] = {}
        for image_id in self.selected():
            name = self.images[image_id].file_name
            if name.casefold() in {taken.casefold() for taken in names.values()}:
                name = f"{name[:-4]}_{image_id}{name[-4:]}"
            names[image_id] = name
        return names

    def saved(self) -> list[tuple[str, ...]]:
        """Return what bbox.csv holds: id, label, XMin, Category, FileName of each row, in order."""
        class_names = dict(self.dataset.classes)
        wanted = {label for word in self.words for label in self.labels(word)}
        names = self.file_names()
        return [
            (image_id, box.label, box.xmin, class_names.get(box.label, box.label), names[image_id])
            for image_id in self.selected()
            for box in self.boxes
            if box.image_id == image_id and (not self.words or box.label in wanted)
        ]


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a dataset with twin names, images without boxes, boxes without images, repeated rows; and a query on it."""
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=5, unique=True))
    classes = [(label, draw(st.sampled_from(NAMES))) for label in labels]
    split = st.sampled_from(SPLITS)
    ids = draw(st.lists(st.sampled_from(IDS), min_size=draw(st.sampled_from((0, 4, 6))), max_size=8, unique=True))
    images = [Image(image_id, draw(st.sampled_from(URL_ENDS)), draw(split)) for image_id in ids]
    home = {image.image_id: image.split for image in images}

    def make_box(image_id: str, label: str, xmin: str, elsewhere: Split) -> Box:
        return Box(image_id, label, xmin, home.get(image_id, elsewhere))

    box = st.builds(
        make_box,
        st.sampled_from([*ids, *ids, *IDS]),
        st.sampled_from([*labels, UNKNOWN_LABEL]),
        st.sampled_from(["0", "0.5", "0.500000"]),
        split,
    )
    boxes = draw(st.lists(box, min_size=draw(st.sampled_from((0, 8, 16))), max_size=24))
    name = st.sampled_from([name for _, name in classes])
    word = st.one_of(name, name.map(str.upper), name.map(lambda name: name.replace(" ", "_")), st.sampled_from(labels))
    words = tuple(draw(st.lists(word, max_size=3)))
    match: Match = draw(st.sampled_from(("any", "all"))) if words else "any"
    splits = draw(st.just(SPLITS) | st.sets(split, min_size=1).map(lambda some: tuple(sorted(some, key=SPLITS.index))))
    limit = draw(st.none() | st.integers(0, 4))
    return Case(Dataset(classes, images, boxes), words, match, splits, limit)


def _tables(root: Path, kind: TableKind, splits: Sequence[Split]) -> list[TableFile]:
    return [TableFile(root / table.bucket / table.key, table.name) for table in published(kind, splits)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_selection_equals_brute_force(case: Case) -> None:
    """The selected images, and what is counted of them, equal a brute force for any dataset and query."""
    with tempfile.TemporaryDirectory() as folder:
        root = case.dataset.publish(Path(folder))
        categories = Classes.read(_tables(root, "classes", ())[0]).resolve_all(case.words)
        query = Query(categories=categories, match=case.match, limit=case.limit)
        pairs = annotated(_tables(root, "boxes", case.splits), IdForm(), query)
        images = listed(_tables(root, "images", case.splits), IdForm(), case.splits)
        found = choose(pairs, images, query)
    selected = case.selected()
    assert [f"{key:016x}" for key in found.keys] == selected
    assert found.keys.name == KEY
    assert found.unlisted == len(case.annotated() - case.images.keys())
    assert found.rows == len(case.saved())
    assert sum(found.splits.values()) == len(selected)
    for split, count in found.splits.items():
        assert count == sum(case.images[image_id].split == split for image_id in selected)
    assert not found.damaged_boxes
    assert not found.damaged_images


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cases(), st.sampled_from((2, 4096)))
def test_saved_folder_equals_brute_force(case: Case, span_rows: int) -> None:
    """A whole download saves the images, names and box rows of the brute force, and a second one asks for nothing.

    Also when the plan is worked off two images at a time, as a large one is some thousands at a time.
    """
    with tempfile.TemporaryDirectory() as folder, patch("oid_async.select.plan._SPAN_ROWS", span_rows):
        mirror, savepath = case.dataset.publish(Path(folder, "mirror")), Path(folder, "d")

        async def download() -> oid_async.Report:
            return await oid_async.download(
                categories=case.words,
                match=case.match,
                splits=case.splits,
                limit=case.limit,
                savepath=savepath,
                mirror=mirror,
                cache_dir=Path(folder, "cache"),
            )

        report = asyncio.run(download())
        names = case.file_names()
        assert (report.selected, report.downloaded, report.failed) == (len(names), len(names), 0)
        assert [(row["ImageID"], row["FileName"]) for row in read_manifest(savepath)] == list(names.items())
        for image_id, name in names.items():
            assert (savepath / "images" / name).read_bytes() == Image(image_id).body
        columns = ("ImageID", "LabelName", "XMin", "Category", "FileName")
        rows = [tuple(row[name] for name in columns) for row in read_csv(savepath / "bbox" / "bbox.csv")]
        assert rows == case.saved()
        again = asyncio.run(download())
        assert (again.present, again.requests, again.unselected) == (len(names), 0, 0)
