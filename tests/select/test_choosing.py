"""Any query over every option that chooses: what is selected and saved equals the contract, read in plain Python."""

import asyncio
import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.choosing import TABLE_OF, WITH_CLASSES, Condition, Query, Reading, Where, greedy
from support.random_queries import SEEDS, MirrorTables, random_lines, random_word
from support.small_world import ATTRIBUTES, MORE_IDS, PREDICATES, World, crowded_world, random_world

from oid_async.events import ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import SelectionResult, remarks, select_images
from oid_async.openimages.ids import KEY, ROW
from oid_async.openimages.vocabulary import FLAGS, SPLITS
from oid_async.options.query import Options
from oid_async.tables.rows import rows_of

# Conditions on the image table: SQL, and what it means in Python, where an empty field is NULL and compares as nothing.
IMAGE_CONDITIONS: tuple[tuple[str, Condition], ...] = (
    ("Author = 'Ana'", lambda image: image["Author"] == "Ana"),
    ("Author <> 'Ana'", lambda image: image["Author"] not in ("Ana", "")),
    ("(Author IS DISTINCT FROM 'Ana') AND License LIKE '%/by/2.0/'", lambda image: (
        image["Author"] != "Ana" and image["License"].endswith("/by/2.0/")
    )),
    ("Author = 'O''Hara' OR Rotation = 90", lambda image: image["Author"] == "O'Hara" or image["Rotation"] == "90.0"),
    ("OriginalSize >= 1000", lambda image: image["OriginalSize"] not in ("", "999")),
    ("OriginalSize IS NULL", lambda image: image["OriginalSize"] == ""),
    ("NOT (Rotation = 0.0)", lambda image: image["Rotation"] == "90.0"),
    ("Title IN ('100%', 'x') AND Subset = 'train'", lambda image: (
        image["Title"] == "100%" and image["Subset"] == "train"
    )),
)  # fmt: skip
# How often a query has what.
SHARES = {
    "words": 0.75,
    "file_words": 0.15,
    "with_subclasses": 0.5,
    "match_all": 0.15,
    "exclude": 0.15,
    "flags": 0.15,
    "min_area": 0.2,
    "max_area": 0.15,
    "point_answer": 0.6,
    "min_boxes": 0.2,
    "max_boxes": 0.2,
    "where": 0.2,
    "caption": 0.06,
    "triplets": 0.08,
    "verified_absent": 0.06,
    "machine": 0.3,
    "min_confidence": 0.3,
    "image_where": 0.2,
    "image_ids": 0.1,
    "exclude_ids": 0.15,
    "limit_per_class": 0.3,
    "balanced": 0.3,
    "limit": 0.4,
    "negatives": 0.5,
    "shard": 0.2,
    "seed": 0.5,
    "splits": 0.8,
    "kinds": 0.6,
    "select_by": 0.2,
    "all_boxes": 0.4,
    "every_image": 0.3,
}


def drawn(number: int, without: frozenset[str] = frozenset()) -> tuple[World, Query, random.Random]:
    """Return the dataset and the query of a number; leaving an option out draws all others as they were."""
    chance = random.Random(f"choosing {number}")
    world = random_world(chance)
    has = {name for name, share in SHARES.items() if chance.random() < share}
    return world, random_query(chance, world, has - without), chance


def random_query(chance: random.Random, world: World, has: set[str]) -> Query:
    """Return a query with these options as far as they go together."""
    query = Query(
        kinds=_kinds(chance) if "kinds" in has else ("bbox",),
        select_by=chance.choice(WITH_CLASSES) if "select_by" in has else None,
        splits=chance.choice((SPLITS, SPLITS, ("train", "test"), ("validation",))) if "splits" in has else (),
        seed=chance.choice(SEEDS) if "seed" in has else None,
        every_image="every_image" in has,
        machine="machine" in has,
        min_confidence=chance.choice((0.5, 0.8, 1.0)) if "min_confidence" in has else None,
        with_subclasses="with_subclasses" in has,
    )
    query = replace(query, all_boxes="all_boxes" in has and query.kinds != ("none",))
    reading = Reading(world, query)
    classes = reading.classes(query.selecting)

    def words(name: str, most: int) -> tuple[str, ...]:
        return tuple(random_word(chance, classes) for _ in range(chance.randint(1, most) if name in has else 0))

    if query.selecting in WITH_CLASSES:
        query = replace(query, words=words("words", 3), file_words=words("file_words", 2), exclude=words("exclude", 1))
        query = replace(query, where=_where(chance, reading, 2) if "where" in has else None)
    query = _conditions(chance, world, query, has)
    return _numbers(chance, world, query, has)


def _kinds(chance: random.Random) -> tuple[str, ...]:
    if chance.random() < 0.2:
        return (chance.choice(("none", "all")),)
    return tuple(sorted(chance.sample(sorted(TABLE_OF), chance.choice((1, 1, 1, 2)))))


def _where(chance: random.Random, reading: Reading, depth: int) -> Where:
    if depth == 0 or chance.random() < 0.3:
        kind = chance.choice((None, None, *WITH_CLASSES, "absent"))
        looked_up = {None: reading.query.selecting, "absent": "label"}.get(kind, kind)
        word = random_word(chance, reading.classes(looked_up or "bbox"))
        return Where(kind=kind, word=word, with_subclasses=chance.random() < 0.3)
    left, right = (_where(chance, reading, depth - 1) for _ in range(2))
    return Where(chance.choice("&||-"), left, right)


def _conditions(chance: random.Random, world: World, query: Query, has: set[str]) -> Query:
    every = [*world.boxable, *world.others]
    if query.selecting == "bbox":
        flags = chance.sample(sorted(FLAGS), 1) if "flags" in has else []
        query = replace(
            query,
            flags=tuple((name, chance.random() < 0.5) for name in flags),
            min_area=chance.choice(("1%", "2%", "12.5%", "4%", "0%")) if "min_area" in has else None,
            max_area=chance.choice(("1%", "9%", "49%", "100%", "63%")) if "max_area" in has else None,
            min_boxes=chance.choice((1, 2, 2, 3)) if "min_boxes" in has else None,
            max_boxes=chance.choice((3, 3, 4, 5)) if "max_boxes" in has else None,
        )
    if query.min_area and query.max_area and Reading.share(query.min_area) > Reading.share(query.max_area):
        query = replace(query, max_area=None)
    points = query.selecting == "point" or {"point", "all"}.intersection(query.kinds)
    return replace(
        query,
        point_answer=chance.choice(("yes", "yes", "no", "unsure")) if points and "point_answer" in has else None,
        match_all=bool("match_all" in has and query.every_word),
        caption=chance.choice(("(?i)cat", r"dog\b", "^A ")) if "caption" in has else None,
        triplets=tuple(_triplet(chance, world) for _ in range(chance.choice((1, 2)) if "triplets" in has else 0)),
        verified_absent=(random_word(chance, every),) if "verified_absent" in has else (),
        image_where=chance.choice(IMAGE_CONDITIONS) if "image_where" in has else None,
    )


def _triplet(chance: random.Random, world: World) -> tuple[str, str, str]:
    first = random_word(chance, world.boxable)
    predicate = chance.choice(PREDICATES)
    second = random_word(chance, ATTRIBUTES if predicate[0] == "is" else world.boxable)
    parts = [first, chance.choice(predicate), second]
    for at in range(3):
        parts[at] = "*" if chance.random() < 0.4 else parts[at]
    return parts[0], parts[1], parts[2]


def _numbers(chance: random.Random, world: World, query: Query, has: set[str]) -> Query:
    # A list of split/ImageID lines alone, without another question, needs no table: test_selection_properties has it.
    may_be_bare = query.kinds == ("none",) and not (query.asks_rows or query.exclude or query.restricts)
    lists = has - {"image_ids"} if may_be_bare else has
    by_class = query.selecting in WITH_CLASSES
    counts = (1, 1, 2, 2, 3, 4)
    numbers = (1, 2, 4, 7, -1)
    limits = (*numbers, "10%", "34%", "50%", "100%", "12.5%", "train=2,validation=1", "test=1", "train=3,test=0")
    return replace(
        query,
        image_ids=random_lines(chance, world.home, MORE_IDS, 24) if "image_ids" in lists else None,
        exclude_ids=random_lines(chance, world.home, MORE_IDS, 4) if "exclude_ids" in has else None,
        limit_per_class=chance.choice(counts) if by_class and "limit_per_class" in has else None,
        balanced=chance.choice(counts) if by_class and "balanced" in has - _if("limit_per_class", has) else None,
        limit=chance.choice(limits) if "limit" in has else None,
        negatives=chance.choice((1, 2, 5, 0, "10%", "50%", "33%", "20%", "80%"))
        if query.every_word and "negatives" in has
        else None,
        shard=chance.choice(((1, 2), (2, 2), (2, 3))) if "shard" in has else None,
    )


def _if(name: str, has: set[str]) -> set[str]:
    return {"balanced"} if name in has else set()


@dataclass(frozen=True)
class Answer:
    """What the program selects, and the rows that it would save: (ImageID, their text) of each kind, sorted."""

    found: SelectionResult
    saved: dict[str, list[tuple[str, str]]]


async def answer(query: Query, folder: Path, cache: MirrorTables) -> Answer:
    """Return what the program answers."""
    options = Options.of(**query.keywords(folder))
    inputs = await gather_tables(options, cache, ignore, folder)
    found = select_images(inputs, options.all_boxes)
    list(remarks(inputs, found))
    saved: dict[str, list[tuple[str, str]]] = {}
    for annotations in inputs.saved_annotations(all_boxes=options.all_boxes):
        source, rows = annotations.source, saved.setdefault(annotations.source.kind.name, [])
        for table in source.tables:
            frame = rows_of(source, table, inputs.ids, found.selection.keys, labels=annotations.labels).collect()
            rows += [(f"{row[KEY]:016x}", _text(row)) for row in frame.iter_rows(named=True)]
    return Answer(found, {kind: sorted(rows) for kind, rows in saved.items()})


def _text(row: Mapping[str, Any]) -> str:
    """Return a row as text: its fields but for the id, clicks and what is empty; a narrative as its caption."""
    if "caption" in row:
        return str(row["caption"])
    left_out = (KEY, ROW, "ImageID", "ImageId")
    names = [name for name in sorted(row) if name not in left_out and not name.startswith("XClick")]
    return json.dumps({name: row[name] for name in names if row[name]})


def program(world: World, query: Query, chance: random.Random) -> Answer:
    """Return the program's answer, from tables as published, or converted and sorted as large ones are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        converted = chance.choice((None, None, folder / "converted"))
        cache = MirrorTables(world.publish(folder / "mirror"), converted)
        with (
            patch("oid_async.metadata.convert._SORTED_FROM_ROWS", chance.choice((0, 1000))),
            patch("oid_async.metadata.convert._SLICE_ROWS", 9),
        ):
            return asyncio.run(answer(query, folder, cache))


def seen(answer: Answer) -> dict[str, Any]:
    """Return the program's answer in plain values."""
    selection = answer.found.selection
    roles = selection.negatives.roles(selection.keys) if selection.negatives and len(selection.keys) else None
    return {
        "roles": roles.get_column("Role").to_list() if roles is not None else ["selected"] * len(selection.keys),
        "absent": roles.get_column("VerifiedAbsent").to_list() if roles is not None else [[]] * len(selection.keys),
        "selected": [f"{key:016x}" for key in selection.keys],
        "splits": selection.splits,
        # Of the categories alone: without any, --balanced counts every class.
        "candidates": [selection.candidates[name] for name in selection.added],
        "classes": [selection.classes[name] for name in selection.added],
        "annotations": dict(answer.found.annotations),
        "saved": answer.saved,
    }


def read(reading: Reading) -> dict[str, Any]:
    """Return the contract's answer in the same form."""
    return {
        "roles": list(reading.roles.values()),
        "absent": [reading.negatives.get(image_id, []) for image_id in reading.roles],
        "selected": list(reading.roles),
        "splits": reading.split_counts,
        "candidates": reading.candidate_counts,
        "classes": reading.class_counts,
        "annotations": {kind: len(reading.saved(kind)) for kind in reading.saved_kinds},
        "saved": {
            kind: sorted((row.image_id, _text(row.fields)) for row in reading.saved(kind))
            for kind in reading.saved_kinds
        },
    }


def faults(number: int, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return where the program and the contract differ: what was found, and what is right."""
    world, query, chance = drawn(number, without)
    try:
        found, wanted = seen(program(world, query, chance)), read(Reading(world, query))
    except Exception as error:
        return {"raised": repr(error)}
    return {name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]}


def assert_equal(number: int) -> None:
    """Fail with the fewest options that still differ, if the answers to a number differ."""
    if not faults(number):
        return
    without: frozenset[str] = frozenset()
    for name in SHARES:
        without |= {name} if faults(number, without | {name}) else set()
    _, query, _ = drawn(number, without)
    given = {each.name: getattr(query, each.name) for each in fields(Query)}
    given = {name: value for name, value in given.items() if value not in (None, (), False)}
    raise AssertionError(f"{number} without {sorted(without)}: {given}: {faults(number, without)}")


@pytest.mark.parametrize("block", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_chosen_equals_the_contract(block: int) -> None:
    """A dozen random queries over every option that chooses; the slow tests ask three hundred others."""
    for number in range(20 if block else 12):
        assert_equal(20 * block + number)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2, 17))
def test_what_is_chosen_equals_the_contract_300_times(block: int) -> None:
    """Three hundred random queries over every option that chooses."""
    for number in range(20):
        assert_equal(20 * block + number)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_balanced_is_the_greedy_choice(seed: int) -> None:
    """The images of --balanced on random tables of many classes are those that a plain loop over the classes takes."""
    chance = random.Random(f"balanced {seed}")
    world = crowded_world(chance, 150, 24)
    for count in (1, 3, 8, 40):
        words = tuple(name for _, name in chance.sample(world.boxable, chance.choice((0, 2, 9, 24))))
        query = Query(words=words, balanced=count, seed=chance.choice(SEEDS), splits=SPLITS)
        assert seen(program(world, query, chance)) == read(Reading(world, query)), query


@pytest.mark.parametrize(
    ("candidates", "count", "chosen"),
    [
        # The rare class is served first, and its images count for the frequent one.
        ([["a", "b", "c", "d"], ["c", "d"]], 2, {"c", "d"}),
        # As asked where two are equally rare.
        ([["a", "b"], ["b", "c"]], 1, {"a", "b"}),
        # What a class has not, it cannot give.
        ([["a"], ["b", "c", "d"]], 3, {"a", "b", "c", "d"}),
        # Ever more of the first class than asked for: the others need them.
        ([["a", "b", "c"], ["b"], ["c"]], 1, {"b", "c"}),
        ([[], ["a"]], 5, {"a"}),
    ],
)
def test_the_plain_greedy(candidates: list[list[str]], count: int, chosen: set[str]) -> None:
    """The loop that stands for the contract does what the contract says."""
    assert greedy(candidates, count) == chosen
