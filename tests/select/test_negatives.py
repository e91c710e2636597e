"""--negatives: images that a person has verified to be without a category, beside the selected ones."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import polars as pl
import pytest
from support.published import Box, Dataset, Image, Label, write_table
from support.random_queries import MirrorTables

from oid_async.errors import InputError
from oid_async.events import ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import remarks, select_images
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split
from oid_async.options.query import Options
from oid_async.select.limits import NO_TOP_UP, TopUpState

PERSON, MAN, CAT, DOG = "/m/p", "/m/m", "/m/c", "/m/d"
CLASSES = ((PERSON, "Person"), (MAN, "Man"), (CAT, "Cat"), (DOG, "Dog"))


def image_id(number: int) -> str:
    return f"{number:016x}"


def _keys(numbers: Sequence[int]) -> pl.Series:
    return pl.Series(KEY, numbers, pl.UInt64)


def _list(place: Path, ids: Sequence[str]) -> Path:
    path = place / "ids.txt"
    path.write_text("\n".join(ids))
    return path


def split_of(number: int) -> Split:
    return "train" if number < 30 else "validation"


def published(
    boxes: Sequence[tuple[int, str]], absent: Mapping[str, Sequence[int]], labels: Mapping[str, Sequence[int]] = {}
) -> Dataset:
    """Return a dataset of images 0 to 29 of train and 30 to 39 of validation; Man is below Person."""
    said = [*((absent, "0"), (labels, "1"))]
    return Dataset(
        CLASSES,
        [Image(image_id(number), split=split_of(number)) for number in range(40)],
        [Box(image_id(number), label, split=split_of(number)) for number, label in boxes],
        below={PERSON: (MAN,)},
        labels=[
            Label(image_id(number), label, confidence, split_of(number))
            for numbers_of, confidence in said
            for label, numbers in numbers_of.items()
            for number in numbers
        ],
    )


class Answer(NamedTuple):
    """The numbers of the images that are selected and of the negatives, what is absent in these, and what is said."""

    selected: list[int]
    negatives: list[int]
    absent: list[list[str]]
    notes: list[str]


def ask(
    dataset: Dataset, place: Path, state: TopUpState = NO_TOP_UP, *, form: str = "published", **query: Any
) -> Answer:
    """Return what a query for Person and negatives selects."""
    if not (place / "mirror").exists():
        dataset.publish(place / "mirror")
    options = Options.of(**{"categories": ["Person"], "negatives": 100, **query})
    cache = MirrorTables(place / "mirror", None if form == "published" else place / form)
    tables = asyncio.run(gather_tables(options, cache, ignore, place))
    found = select_images(tables, options.all_boxes, state)
    negatives = found.selection.negatives
    assert negatives is not None
    numbers = [int(key) for key in negatives.keys]
    absent = negatives.roles(negatives.keys).get_column("VerifiedAbsent").to_list() if numbers else []
    selected = [int(key) for key in found.selection.keys if key not in numbers]
    return Answer(selected, numbers, absent, list(remarks(tables, found)))


PLAIN = published([(1, PERSON), (2, MAN), (3, PERSON)], {PERSON: (2, 3, 4, 5), CAT: (6,)}, {MAN: (5,), CAT: (4,)})


@pytest.mark.parametrize("with_subclasses", [False, True])
@pytest.mark.parametrize("form", ["published", "sorted"])
def test_a_subclass_is_presence(tmp_path: Path, form: str, with_subclasses: bool) -> None:
    """Person verified absent beside a box Man, or a human label Man, is no negative, with and without subclasses."""
    with patch("oid_async.metadata.convert._SORTED_FROM_ROWS", 0):
        found = ask(PLAIN, tmp_path, form=form, with_subclasses=with_subclasses)
    assert found.selected == ([1, 2, 3] if with_subclasses else [1, 3])
    assert (found.negatives, found.absent) == ([4], [[PERSON]])
    assert [note for note in found.notes if "negatives" in note] == [
        "1 negatives, not 100: no more are verified to be without the categories"
    ]


def test_absence_counts_for_the_own_class_alone(tmp_path: Path) -> None:
    """Man verified absent says nothing of Person, also when its subclasses are selected; as a category it does."""
    dataset = published([(1, PERSON)], {MAN: (2,), DOG: (2, 3)})
    assert ask(dataset, tmp_path, with_subclasses=True).negatives == []
    assert ask(dataset, tmp_path, categories=["Person", "Man"]).negatives == [2]
    both = ask(dataset, tmp_path, categories=["Dog", "Man"])
    assert (both.negatives, both.absent) == ([2, 3], [[DOG, MAN], [DOG]])


def test_any_box_is_presence_whatever_its_flags(tmp_path: Path) -> None:
    """Flags, --where, --ndata and box counts choose what is selected; negatives neither obey nor know them."""
    dataset = published([(1, PERSON), (2, PERSON), (4, CAT)], {PERSON: (1, 3, 4, 5), CAT: (3,)})
    assert ask(dataset, tmp_path, is_occluded="yes")[:2] == ([], [3, 4, 5])
    assert ask(dataset, tmp_path, limit=1)[:2] == ([1], [3, 4, 5])
    assert ask(dataset, tmp_path, where="Person & Cat")[:2] == ([], [3, 4, 5])
    assert ask(dataset, tmp_path, where="Person", kinds=["label"], select_by="bbox")[:2] == ([1, 2], [3, 4, 5])


def test_negatives_obey_split_exclude_and_lists(tmp_path: Path) -> None:
    """An excluded class, another split, and what the lists leave out is no negative either."""
    dataset = published([(1, PERSON), (31, PERSON), (4, CAT)], {PERSON: (*range(2, 8), *range(32, 36))})
    assert ask(dataset, tmp_path).negatives == list(range(2, 8))
    assert ask(dataset, tmp_path, exclude=["Cat"]).negatives == [2, 3, 5, 6, 7]
    assert ask(dataset, tmp_path, splits=["validation"]).negatives == list(range(32, 36))
    listed = [image_id(number) for number in (1, 3, 5)]
    assert ask(dataset, tmp_path, image_ids=_list(tmp_path, listed)).negatives == [3, 5]
    assert ask(dataset, tmp_path, exclude_ids=_list(tmp_path, listed)).negatives == [2, 4, 6, 7]


def test_number_share_order_and_parts(tmp_path: Path) -> None:
    """A share is rounded half up, of what all limits leave; the order is that of the query; parts share both kinds."""
    people = range(10)
    dataset = published([(number, PERSON) for number in people], {PERSON: (*range(12, 29), *range(32, 36))})
    splits = ["train", "validation"]
    assert ask(dataset, tmp_path, negatives=3, splits=splits).negatives == [12, 13, 14]
    assert len(ask(dataset, tmp_path, negatives="10%").negatives) == 1
    assert len(ask(dataset, tmp_path, negatives="60%").negatives) == 15
    # 5 * 9 / 91 = 0.4945, 5 * 10 / 90 = 0.556, 3 * 50 / 50 = 3; 1 * 1 / 3 = 0.333, 1 * 33.4 / 66.6 = 0.5015
    nearly_all = ask(dataset, tmp_path, negatives="99.999999999999999999%", limit=5).notes[-1]
    assert nearly_all.startswith("17 negatives, not 4999")
    halves = {(5, "9%"): 0, (5, "10%"): 1, (3, "50%"): 3, (1, "25%"): 0, (1, "33.4%"): 1}
    for (limit, share), count in halves.items():
        assert len(ask(dataset, tmp_path, negatives=share, limit=limit).negatives) == count
    shuffled = ask(dataset, tmp_path, negatives=4, shuffle=True, seed=7, splits=splits).negatives
    assert set(shuffled) < {*range(12, 29), *range(32, 36)}
    assert shuffled != [12, 13, 14, 15]
    whole = ask(dataset, tmp_path, negatives=5, limit=6)
    parts = [ask(dataset, tmp_path, negatives=5, limit=6, shard=f"{number}/3") for number in (1, 2, 3)]
    assert [(part.selected, part.negatives) for part in parts] == [
        ([0, 3], [12, 15]),
        ([1, 4], [13, 16]),
        ([2, 5], [14]),
    ]
    assert sorted(number for part in parts for number in part.selected) == whole.selected


def test_failed_negatives_are_topped_up(tmp_path: Path) -> None:
    """With --top-up the next negatives in order come in place of those that failed; the share does not move."""
    dataset = published([(number, PERSON) for number in range(8)], {PERSON: range(12, 20)})
    tables: dict[str, Any] = {"negatives": "50%", "limit": 4, "top_up": True}
    assert ask(dataset, tmp_path, **tables)[:2] == ([0, 1, 2, 3], [12, 13, 14, 15])
    failed = TopUpState(failed=_keys([1, 13, 14]))
    assert ask(dataset, tmp_path, failed, **tables)[:2] == ([0, 1, 2, 3, 4], [12, 13, 14, 15, 16, 17])


def test_own_boxes_count_and_own_ids_are_refused(tmp_path: Path) -> None:
    """A box table of one's own is presence, too; to images of other ids the published labels say nothing."""
    dataset = published([(4, PERSON)], {PERSON: (2, 4)})
    rows = [{"ImageID": image_id(number), "LabelName": label} for number, label in ((1, PERSON), (2, MAN))]
    boxes = write_table(tmp_path / "boxes.csv", ("ImageID", "LabelName"), rows)
    assert ask(dataset, tmp_path, annotation=boxes, splits=["train"])[:2] == ([1], [4])
    ids = [f"photo {number}" for number in range(4)]
    own_boxes = write_table(
        tmp_path / "own.csv", ("ImageID", "LabelName"), [{"ImageID": each, "LabelName": PERSON} for each in ids]
    )
    own_images = write_table(
        tmp_path / "images.csv",
        ("ImageID", "OriginalURL"),
        [{"ImageID": each, "OriginalURL": "http://a.example/1.jpg"} for each in ids],
    )
    with pytest.raises(InputError, match=r"images\.csv: .*published labels .*leave --negatives out"):
        ask(dataset, tmp_path, annotation=own_boxes, image_url=own_images)
    with pytest.raises(InputError, match=r"images\.csv: .*published narratives .*leave --caption out"):
        ask(dataset, tmp_path, annotation=own_boxes, image_url=own_images, negatives=None, caption="a")
