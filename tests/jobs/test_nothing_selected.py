"""Nothing selected: one line with each category's count, and what each condition alone would leave."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.notes import notes_into
from support.published import Box, Dataset, Image, write_table

import oid_async
from oid_async.cli.main import main
from oid_async.openimages.catalogue import published

BALL, PERSON, TREE = "/m/018xm", "/m/01g317", "/m/07j7r"
IDS = [f"{number:016x}" for number in range(1, 7)]
GROUP, SINGLE = (("IsGroupOf", "1"),), (("IsGroupOf", "0"),)
# Three balls (one a group), two persons, one tree; the last image has no box.
BOXES = [
    Box(IDS[0], BALL, flags=SINGLE),
    Box(IDS[0], BALL, "0.9", flags=SINGLE),
    Box(IDS[1], BALL, flags=GROUP),
    Box(IDS[2], BALL, flags=SINGLE),
    Box(IDS[3], PERSON, flags=SINGLE),
    Box(IDS[4], PERSON, flags=GROUP),
    Box(IDS[4], TREE, flags=SINGLE),
]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = [(BALL, "Ball"), (PERSON, "Person"), (TREE, "Tree")]
    root = Dataset(classes, [Image(image_id) for image_id in IDS], BOXES).publish(tmp_path_factory.mktemp("none"))
    (labels,) = published("human_labels", ["train"])
    rows = [{"ImageID": IDS[5], "Source": "verification", "LabelName": BALL, "Confidence": "0"}]
    write_table(root / labels.bucket / labels.key, labels.columns, rows)
    (names,) = published("all_classes", ())
    write_table(root / names.bucket / names.key, names.columns, [{"LabelName": BALL, "DisplayName": "Ball"}])
    return root


async def line_of(mirror: Path, **query: Any) -> str:
    notes: list[str] = []
    plan = await oid_async.plan(mirror=mirror, on_event=notes_into(notes), **query)
    assert plan.selected == 0
    (line,) = [note for note in notes if note.startswith("nothing selected")]
    return line


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            {"categories": ["Ball", "Tree"], "match": "all"},
            "Ball 3, Tree 1; each condition alone would leave, of 6 images: "
            "Ball 3; Tree 1; all categories (--type inter) 0",
        ),
        (
            {"categories": ["Tree"], "is_group_of": True, "exclude": ["Person"]},
            "Tree 0; each condition alone would leave, of 6 images: Tree 1; --exclude Person 4; --is-group-of yes 2",
        ),
        (
            {"categories": ["Ball"], "min_boxes": 3, "max_boxes": 9, "min_area": "99%"},
            "Ball 3; --min-boxes 3 0; --max-boxes 9 0; --min-area 99% 0",
        ),
        (
            {
                "categories": ["Ball"],
                "where": "Person - Tree",
                "verified_absent": ["Ball"],
                "image_where": "Author = 'x'",
            },
            "Ball 3; --where Person - Tree 1; --verified-absent Ball 1; --image-where Author = 'x' 0",
        ),
        (
            {"categories": ["Ball"], "image_ids": [IDS[4]], "exclude_ids": [IDS[0]]},
            "Ball 3; --image-ids 1; --exclude-ids 5",
        ),
        (
            {"image_ids": [IDS[5]]},
            "none asked for; each condition alone would leave, of 6 images: any boxes 5; --image-ids 1",
        ),
        (
            {"is_group_of": True, "min_area": "99%"},
            "none asked for; each condition alone would leave, of 6 images: "
            "boxes that match 0; --is-group-of yes 2; --min-area 99% 0",
        ),
        ({"categories": ["Ball"], "limit": 0}, "Ball 3; 3 images meet every condition, none is left by limit or part"),
    ],
    ids=str,
)
async def test_the_line_says_which_condition_empties_the_set(query: dict[str, Any], said: str, mirror: Path) -> None:
    """Each condition by itself: of a category whatever its flags, of box numbers with the categories."""
    assert (await line_of(mirror, **query)).endswith(said)


async def test_a_single_condition_is_not_said_twice(mirror: Path) -> None:
    """Where there is one condition its count is all there is to say."""
    line = await line_of(mirror, categories=["Tree"], splits=["validation"])
    assert line == "nothing selected; images of each category: Tree 0"


def test_json_stays_one_object(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line is a note on stderr; stdout holds the plan alone; exit 0."""
    words = ["plan", "--category", "Tree", "--exclude", "Tree", "--mirror", str(mirror), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["selected"] == 0
    assert "Tree 1; --exclude Tree 5" in printed.err
