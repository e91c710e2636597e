"""`--min-area --max-area --min-boxes --max-boxes --point-answer`: which rows match, are saved and are counted."""

import csv
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.published import Box, Dataset, Image, write_table
from support.random_queries import MirrorTables

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.events import ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import select_images
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, POINT_COLUMNS
from oid_async.options.keywords import QueryOptions
from oid_async.options.query import Options

CLASSES = [("/m/0", "Ball"), ("/m/1", "Cat"), ("/m/2", "Dog")]


def box(number: int, label: str, xmin: str, xmax: str, ymin: str, ymax: str, **flags: str) -> Box:
    """Return a box of the image of a number."""
    sides = {"XMax": xmax, "YMin": ymin, "YMax": ymax}
    return Box(f"{number:016x}", label, xmin, flags=tuple((sides | flags).items()))


BOXES = [
    # Exactly 1 % and 2 %, by numbers that have no exact binary form.
    box(1, "/m/0", "0.1", "0.2", "0.3", "0.4"),
    box(2, "/m/0", "0.7", "0.9", "0.6", "0.7"),
    box(3, "/m/0", "0.1", "0.2", "0.3", "0.399999"),
    box(3, "/m/1", "0.0", "1.0", "0.0", "1.0"),
    box(4, "/m/1", "0.1", "0.2", "0.3", "0.400001", IsOccluded="1"),
    box(4, "/m/0", "0.5", "0.5", "0.5", "0.6"),
    box(5, "/m/0", "0", "0.5", "0", "0.5"),
    box(5, "/m/0", "0", "0.4", "0", "0.4"),
    box(5, "/m/1", "0", "0.3", "0", "0.3"),
]
DATASET = Dataset(CLASSES, [Image(f"{number:016x}") for number in range(1, 7)], BOXES)


async def selected(folder: Path, dataset: Dataset = DATASET, *, sorted_tables: bool = False, **query: Any) -> list[int]:
    """Return the numbers of the images that a query selects, from tables as published or as the cache keeps them."""
    mirror = dataset.publish(folder / "mirror")
    options = Options.of(**{"savepath": folder / "d", **query})
    with patch("oid_async.metadata.convert._SORTED_FROM_ROWS", 0), patch("oid_async.metadata.convert._SLICE_ROWS", 3):
        cache = MirrorTables(mirror, folder / "converted" if sorted_tables else None)
        tables = await gather_tables(options, cache, ignore, folder)
    return select_images(tables, options.all_boxes).selection.keys.to_list()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"categories": ["Ball"], "min_area": "1%"}, [1, 2, 5]),
        ({"categories": ["Ball"], "max_area": "1%"}, [1, 3, 4]),
        ({"categories": ["Ball"], "min_area": "1%", "max_area": "1%"}, [1]),
        ({"categories": ["Ball"], "min_area": "2%", "max_area": "2%"}, [2]),
        ({"categories": ["Cat"], "min_area": "1%", "max_area": "10%"}, [4, 5]),
        ({"categories": ["Ball"], "max_area": "0%"}, [4]),
        ({"categories": ["Cat"], "min_area": "100%"}, [3]),
        ({"min_area": "1%", "max_area": "1.5%"}, [1, 4]),
        ({"categories": ["Ball", "Cat"], "match": "all", "min_area": "1%"}, [5]),
        # Any box excludes; a name of --where obeys, behind a minus it does not.
        ({"categories": ["Ball"], "exclude": ["Cat"], "min_area": "1%"}, [1, 2]),
        ({"where": "Ball", "min_area": "1%"}, [1, 2, 5]),
        ({"where": "Cat - Ball", "min_area": "1%"}, []),
        ({"kinds": ["none"], "min_area": "20%"}, [3, 5]),
        ({"min_boxes": 2}, [3, 4, 5]),
        ({"min_boxes": 2, "max_boxes": 2}, [3, 4]),
        ({"max_boxes": 1}, [1, 2]),
        ({"max_boxes": 0}, []),
        ({"categories": ["Ball", "Cat"], "min_boxes": 3}, [5]),
        ({"categories": ["Ball"], "min_boxes": 2}, [5]),
        ({"categories": ["Ball"], "min_boxes": 2, "min_area": "20%"}, []),
        ({"categories": ["Ball"], "max_boxes": 1, "min_area": "20%"}, [5]),
        ({"is_occluded": "yes", "min_area": "1%"}, [4]),
        ({"kinds": ["none"], "max_boxes": 1}, [1, 2]),
        ({"where": "Ball", "min_boxes": 3}, [5]),
    ],
    ids=str,
)
async def test_boxes_of_some_area_and_number(query: dict[str, Any], numbers: list[int], tmp_path: Path) -> None:
    """An area bounds what matches, both ends included; the number counts what matches, of all categories together."""
    assert await selected(tmp_path, sorted_tables=True, **query) == numbers


async def test_an_area_says_what_is_saved(tmp_path: Path) -> None:
    """Boxes of another area are not saved, nor with every class; the numbers are saved as published."""
    query: dict[str, Any] = {"mirror": DATASET.publish(tmp_path / "mirror"), "min_area": "1%", "categories": ["Cat"]}
    plan = await oid_async.plan(**query, all_boxes=True, savepath=tmp_path / "e")
    report = await oid_async.download(**query, savepath=tmp_path / "d")
    with (tmp_path / "d" / "bbox" / "bbox.csv").open() as file:
        rows = [(int(row["ImageID"], 16), row["YMax"]) for row in csv.DictReader(file)]
    assert (report.selected, rows) == (3, [(3, "1.0"), (4, "0.400001"), (5, "0.3")])
    assert plan.annotations == {"bbox": 5}


async def test_boxes_without_numbers_have_no_area(tmp_path: Path) -> None:
    """In a user's own table such rows are damaged; a table without a side is refused by that column's name."""
    rows = [{"ImageID": f"{number:016x}", "LabelName": "/m/0"} for number in (1, 2, 3, 4)]
    full: list[dict[str, str]] = [row | {"XMin": "0", "YMin": "0", "XMax": "0.5", "YMax": "1"} for row in rows]
    full[1]["XMax"] = "nan"
    full[2]["YMax"] = ""
    table = write_table(tmp_path / "boxes.csv", BOX_COLUMNS, full)
    assert await selected(tmp_path, annotation=table, min_area="1%") == [1, 4]
    bare = write_table(tmp_path / "bare.csv", ["ImageID", "LabelName", "XMin", "XMax", "YMin"], [*rows, *rows])
    with pytest.raises(InputError, match=r"bare\.csv: column 'YMax' is missing"):
        await selected(tmp_path, annotation=bare, max_area="1%")


@pytest.fixture
def pointed(tmp_path: Path) -> Path:
    """A mirror whose images 1 to 4 have points."""
    mirror = DATASET.publish(tmp_path / "mirror")
    names = ("Label", "EstimatedYesNo")
    points = [(1, "/m/0", "yes"), (1, "/m/1", "no"), (2, "/m/0", "no"), (3, "/m/0", "unsure"), (4, "/m/1", "yes")]
    for split in ("train", "val", "test"):
        rows = [
            {"ImageId": f"{number:016x}", "X": "0.5", "Y": "0.5"} | dict(zip(names, told, strict=True))
            for number, *told in points
            if split == "train"
        ]
        write_table(mirror / "openimages" / f"v7/oidv7-{split}-annotations-point-labels.csv", POINT_COLUMNS, rows)
    write_table(mirror / "openimages" / "v7/oidv7-class-descriptions.csv", ["LabelName", "DisplayName"], [])
    with (mirror / "openimages" / "v7/oidv7-class-descriptions.csv").open("a") as file:
        csv.writer(file).writerows(CLASSES)
    return mirror


@pytest.mark.parametrize(
    ("query", "numbers", "points"),
    [
        ({"kinds": ["point"], "point_answer": "yes"}, [1, 4], 2),
        ({"kinds": ["point"], "point_answer": "unsure"}, [3], 1),
        ({"kinds": ["point"], "point_answer": "no", "categories": ["Ball"]}, [2], 1),
        ({"kinds": ["point"], "point_answer": "yes", "categories": ["Ball"], "exclude": ["Cat"]}, [], 0),
        ({"kinds": ["bbox", "point"], "point_answer": "yes"}, [1, 2, 3, 4, 5], 2),
        ({"where": "point:Ball", "point_answer": "no"}, [2], None),
        ({"where": "bbox:Ball - point:Ball", "point_answer": "no"}, [4, 5], None),
        ({"kinds": ["none"], "select_by": "point", "point_answer": "no"}, [1, 2], None),
    ],
    ids=str,
)
async def test_points_that_were_answered_so(
    query: dict[str, Any], numbers: list[int], points: int | None, pointed: Path, tmp_path: Path
) -> None:
    """The answer says which points match and are saved; an excluded class and one behind a minus take any point."""
    options = Options.of(**{"savepath": tmp_path / "d", **query})
    found = select_images(await gather_tables(options, MirrorTables(pointed, None), ignore, tmp_path), False)
    assert found.selection.keys.to_list() == numbers
    assert found.annotations.get("point") == points


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"min_boxes": 3, "max_boxes": 2}, "--min-boxes 3 is more than --max-boxes 2"),
        ({"min_area": "2%", "max_area": "1%"}, "--min-area 2% is more than --max-area 1%"),
        ({"min_area": "0.01"}, "min-area\\) takes a share such as 1%"),
        ({"min_area": 0.01}, "min-area\\) takes a share such as 1%"),
        ({"max_area": "101%"}, "max-area\\) takes a share"),
        ({"min_boxes": -1}, "--min-boxes"),
        ({"point_answer": "maybe"}, "point-answer\\) is one of yes, no, unsure"),
    ],
    ids=str,
)
def test_contradictions_are_refused(query: QueryOptions, words: str) -> None:
    """What no box or image can be is refused before anything is read."""
    with pytest.raises(UsageError, match=words):
        Options.of(**query)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"kinds": ["label"], "min_area": "1%"}, "--min-area is of boxes, and labels select; say --select-by bbox"),
        ({"kinds": ["point"], "max_boxes": 2}, "--max-boxes is of boxes, and points select"),
        ({"kinds": ["label"], "is_occluded": "no"}, "--is-occluded is of boxes"),
        ({"point_answer": "yes"}, "--point-answer is of points, and none are saved or asked for"),
        ({"point_answer": "yes", "where": "Ball"}, "--point-answer is of points"),
    ],
    ids=str,
)
async def test_conditions_of_another_kind_are_refused(
    query: QueryOptions, words: str, pointed: Path, tmp_path: Path
) -> None:
    """A condition on boxes needs boxes that select, one on points needs points that are asked for."""
    with pytest.raises(UsageError, match=words):
        await gather_tables(Options.of(**query), MirrorTables(pointed, None), ignore, tmp_path)
