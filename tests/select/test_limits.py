"""`--ndata`, `--balanced` and `--limit-per-class` on small tables: how many images of what, and what is said of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import Box, Dataset, Image, write_table
from support.random_queries import MirrorTables, written

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.events import ignore
from oid_async.jobs.gathering import gather
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import remarks, select_images
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options
from oid_async.select.query import read_image_keys
from oid_async.tables.reading import TableFile

CLASSES = [("/m/0", "Ball"), ("/m/1", "Cat"), ("/m/2", "Dog"), ("/m/3", "Axe")]
# Images 1 to 12, four of each split in turn. Ball is frequent, Axe rare.
LABELS = {
    **dict.fromkeys((1, 2, 3, 4, 5), "/m/0"),
    6: "/m/0 /m/1",
    7: "/m/1",
    8: "/m/1 /m/2",
    9: "/m/2",
    10: "/m/2 /m/0",
    11: "/m/0 /m/2 /m/3",
    12: "/m/0",
}
DATASET = Dataset(
    CLASSES,
    [Image(f"{number:016x}", split=SPLITS[number % 3]) for number in LABELS],
    [
        Box(f"{number:016x}", label, split=SPLITS[number % 3])
        for number, text in LABELS.items()
        for label in text.split()
    ],
)


async def selected(folder: Path, **query: Any) -> tuple[list[int], list[str]]:
    """Return the numbers of the images that a query selects, and what is said of it."""
    mirror = DATASET.publish(folder / "mirror")
    if lines := query.get("image_ids"):
        query["image_ids"] = written(folder / "ids.txt", "\n".join(lines))
    given = {"savepath": folder / "d", "splits": ["all"], **query}
    options = Options.of(**{name: value for name, value in given.items() if value is not None})
    tables = await gather_tables(options, MirrorTables(mirror, None), ignore, folder)
    found = select_images(tables, options.all_boxes)
    return found.selection.keys.to_list(), list(remarks(tables, found))


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"limit": "50%"}, [1, 2, 3, 4, 5, 6]),
        ({"limit": "33.4%"}, [1, 2, 3, 4]),
        ({"limit": "0.1%"}, [1]),
        ({"limit": "100%"}, list(LABELS)),
        ({"limit": "50%", "image_ids": ["f" * 16]}, []),
        ({"limit": "50%", "categories": ["Cat"], "exclude": ["Dog"]}, [6]),
        ({"limit": "50%", "limit_per_class": 1, "categories": ["Cat", "Dog"]}, [6]),
        ({"limit": "50%", "shard": "2/4"}, [2, 6]),
        ({"limit": {"train": 2, "test": -1}}, [2, 3, 5, 6, 8, 11]),
        ({"limit": "validation=1,train=0"}, [1]),
        ({"limit": "validation=9", "splits": ["validation"]}, [1, 4, 7, 10]),
        # Without --split those are read that are counted.
        ({"limit": "train=1,validation=2", "splits": None}, [1, 3, 4]),
        ({"limit": "test=2", "splits": None, "image_ids": ["test/0000000000000005", "train/0000000000000003"]}, [5]),
    ],
    ids=str,
)
async def test_shares_and_numbers_of_splits(query: dict[str, Any], numbers: list[int], tmp_path: Path) -> None:
    """A share is rounded down, one image at least; of splits that are not named no image is taken."""
    assert (await selected(tmp_path, **query))[0] == numbers


async def test_a_split_that_is_counted_and_not_asked_for_is_said(tmp_path: Path) -> None:
    """--split leaves images out that --ndata would count: none of them are selected, and a line says what to do."""
    found, remarked = await selected(tmp_path, limit="train=2,test=4", splits=["train"])
    assert found == [3, 6]
    assert "--ndata counts images of test, which are not looked in: say --split test, too" in remarked


async def test_splits_are_not_counted_without_subset(tmp_path: Path) -> None:
    """An image table of one's own that names no splits is refused, by its name."""
    rows = [{"ImageID": f"{number:016x}", "OriginalURL": "http://a.example/a.jpg"} for number in (1, 2)]
    table = write_table(tmp_path / "images.csv", ["ImageID", "OriginalURL"], rows)
    with pytest.raises(InputError, match=r"images\.csv: column 'Subset' is missing, by which --ndata train=1"):
        await selected(tmp_path, image_url=table, limit="train=1", splits=None)


async def test_a_given_image_table_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an id is in two splits and which images there are come of one reading; then nothing of it is kept."""
    read: list[str] = []

    def counted(tables: Sequence[TableFile], *args: Any) -> pl.DataFrame:
        read.extend(table.name for table in tables)
        return read_image_keys(tables, *args)

    monkeypatch.setattr(gather, "read_image_keys", counted)
    rows = [
        {"ImageID": f"{number:016x}", "Subset": split, "OriginalURL": "http://a.example/a.jpg"}
        for number, split in ((1, "train"), (2, "test"))
    ]
    table = write_table(tmp_path / "images.csv", ["ImageID", "Subset", "OriginalURL"], rows)
    options = Options.of(savepath=tmp_path / "d", image_url=table, kinds=["none"])
    tables = await gather_tables(options, MirrorTables(DATASET.publish(tmp_path / "m"), None), ignore, tmp_path)
    assert select_images(tables, options.all_boxes).selection.keys.to_list() == [1, 2]
    assert len(read) == 1
    assert tables.image_keys().height == 2
    assert len(read) == 2


@pytest.mark.parametrize(
    ("query", "numbers", "said"),
    [
        # Axe has 11, which is a Dog and a Ball; Cat takes 6, which is a Ball, and 7.
        (
            {"balanced": 2},
            [6, 7, 8, 11],
            [
                "--balanced 2: 1 of 4 classes has fewer images, all of which are taken: Axe 1",
                "--balanced 2: 1 of 4 classes has more images, which other classes bring: Cat 3",
            ],
        ),
        ({"balanced": 2, "categories": ["Ball", "Dog"]}, [1, 2, 8, 9], None),
        ({"balanced": 1, "categories": ["Cat", "Dog", "Ball"]}, [6, 8], None),
        ({"balanced": 3, "categories": ["Ball", "Axe"]}, [1, 2, 11], None),
        ({"balanced": 1, "categories": ["Dog"]}, [8], ["--balanced 1: exactly so many images for every class"]),
        ({"balanced": 1, "categories": ["Dog"], "exclude": ["Cat"]}, [9], None),
        ({"balanced": 2, "limit": "50%", "categories": ["Cat", "Dog"]}, [6, 7], None),
        ({"balanced": 2, "shard": "1/2"}, [6, 8], None),
        ({"balanced": 0}, [], None),
    ],
    ids=str,
)
async def test_balanced_from_the_rarest_on(
    query: dict[str, Any], numbers: list[int], said: list[str] | None, tmp_path: Path
) -> None:
    """Images that a rarer class brought count for the others; what is more or less than asked for is said."""
    found, remarked = await selected(tmp_path, **query)
    assert found == numbers
    assert said is None or [remark for remark in remarked if "balanced" in remark] == said


async def test_a_plan_counts_each_class_of_balanced(tmp_path: Path) -> None:
    """The classes of a plan are those that were balanced, by name, without categories too; the overshoot shows."""
    mirror = DATASET.publish(tmp_path / "mirror")
    plan = await oid_async.plan(mirror=mirror, splits=["all"], balanced=4, savepath=tmp_path / "d")
    _, remarked = await selected(tmp_path, balanced=4)
    report = await oid_async.download(mirror=mirror, splits=["all"], balanced=1, savepath=tmp_path / "d")
    assert plan.selected == 7
    assert "--balanced 4: 2 of 4 classes have fewer images, all of which are taken: Axe 1, Cat 3" in remarked
    assert report.downloaded == report.selected == 2


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"where": "Cat | Dog", "limit_per_class": 1}, [6, 8]),
        ({"where": "Cat | Dog", "limit_per_class": 2}, [6, 7, 8, 9]),
        # What none of the classes has is left out: 1 has a ball, which is not asked to be there.
        ({"where": "(Ball | Dog) - Axe", "limit_per_class": 3}, [1, 2, 3, 8, 9, 10]),
        ({"where": "Ball - Cat", "limit_per_class": 2, "categories": ["Dog"]}, [10, 11]),
        ({"where": "Dog | Ball", "limit_per_class": 1, "categories": ["Cat"]}, [6, 8]),
        ({"where": "bbox:Dog", "limit_per_class": 2, "kinds": ["none"]}, [8, 9]),
        ({"where": "Dog | Dog", "limit_per_class": 2}, [8, 9]),
        ({"limit_per_class": 1}, [1, 6, 8, 11]),
    ],
    ids=str,
)
async def test_limit_per_class_counts_what_where_names(
    query: dict[str, Any], numbers: list[int], tmp_path: Path
) -> None:
    """Each name that is not behind a minus is a class as a category is; only those that meet all else are counted."""
    assert (await selected(tmp_path, **query))[0] == numbers


@pytest.mark.parametrize("other", [{"limit_per_class": 2}, {"top_up": True}], ids=str)
def test_balanced_stands_without_other_limits(other: dict[str, Any]) -> None:
    """Two rules for a class contradict each other, and what fails of a balanced selection is not replaced."""
    with pytest.raises(UsageError, match="--balanced cannot stand with"):
        Options.of(balanced=2, **other)
