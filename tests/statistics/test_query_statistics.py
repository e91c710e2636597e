"""The numbers of a query are those of the folder that its download fills, before an image is fetched."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.duckdb_statistics import Asked
from support.published import counted_origin

import oid_async
from oid_async.errors import UsageError
from oid_async.events import Event, Note
from oid_async.statistics.value import Statistics

# What is known of saved images alone.
_OF_SAVED = ("of", "savepath", "images", "sources", "box_aspect", "image_sizes", "notes")


def of_query(mirror: Path, *, cache_dir: Path | None = None, **select: Any) -> Statistics:
    """Return the statistics of a query to a mirror folder."""
    return asyncio.run(oid_async.stats(mirror=mirror, cache_dir=cache_dir, **select))


@pytest.mark.parametrize(
    "select",
    [
        {"kinds": ["all"], "splits": ["validation"]},
        {
            "categories": ["Person", "Window"],
            "exclude": ["Cat"],
            "is_occluded": "no",
            "negatives": 9,
            "limit": 60,
            "kinds": ["bbox", "label", "narrative"],
            "splits": ["train", "validation"],
            "shuffle": True,
        },
    ],
    ids=["everything", "a choice with negatives"],
)
def test_numbers_of_a_query_are_those_of_its_download(lookalike: Path, tmp_path: Path, select: dict[str, Any]) -> None:
    """Every number but those that saved images alone tell; these are empty."""
    savepath = tmp_path / "saved"
    before = of_query(lookalike, **select).as_json()
    assert not savepath.exists()
    asyncio.run(oid_async.download(mirror=lookalike, savepath=savepath, offline=False, **select))
    after = asyncio.run(oid_async.stats(savepath)).as_json()
    assert before["classes"]
    assert sum(map(len, before["box_positions"]["counts"])) == 24 * 24
    for name in before.keys() - _OF_SAVED:
        assert before[name] == after[name], name
    assert before["images"] == dict.fromkeys(after["images"]) | {"selected": after["images"]["ok"]}
    assert before["box_aspect"]["counts"] == before["image_sizes"]["most_common"] == []
    assert (before["of"], before["savepath"], before["sources"]) == ("query", None, {})
    assert "no image is fetched" in before["notes"][-1]
    if "negatives" in select:
        assert before["roles"] == {"selected": 60, "negative": 7}
        assert sum(each["absent_negatives"] for each in before["classes"]) >= 7
        assert Asked(savepath).classes() == {each["label"]: each for each in after["classes"]}


async def test_no_image_is_requested(lookalike: Path, cache_dir: Path) -> None:
    """Tables are fetched once, and nothing else; offline the cache answers."""
    query = oid_async.Query(categories=["Dog"], splits=["validation"])
    async with counted_origin(lookalike) as (url, requests):
        notes: list[Event] = []
        found = await oid_async.stats(query=query, mirror=url, on_event=notes.append)
        assert requests
        assert not [path for path in requests if path.endswith(".jpg")]
        requests.clear()
        again = await oid_async.stats(query=query, mirror=url, offline=True)
        assert not requests
    assert found == again
    assert set(found.notes) <= {event.text for event in notes if isinstance(event, Note)}


def test_a_query_that_selects_nothing_has_numbers(lookalike: Path) -> None:
    """Nothing is selected, which is said; counts are 0, histograms empty."""
    found = of_query(lookalike, categories=["Dog", "Boat", "Cat", "Person"], match="all", splits=["validation"])
    assert (found.images.selected, found.classes, found.licenses) == (0, (), {})
    assert found.kinds == {"bbox": 0}
    assert "nothing selected" in " ".join(found.notes)


def test_images_without_annotations_are_counted(lookalike: Path) -> None:
    """With `kinds=["none"]` images have licences and authors, and no rows."""
    found = of_query(lookalike, kinds=["none"], splits=["validation"])
    assert found.images.selected == found.splits["validation"] == sum(found.licenses.values()) == 40
    assert (found.kinds, found.classes, found.boxes_per_image.counts) == ({}, (), ())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({}, "stats of what?"),
        ({"is_occluded": None}, "stats of what?"),
        ({"savepath": "d", "categories": ["Dog"]}, "--category is of a query"),
        ({"savepath": "d", "mirror": "m"}, "--mirror is of a query"),
        ({"savepath": "d", "query": oid_async.Query(categories=["Dog"])}, "not both"),
        ({"query": oid_async.Query(categories=["Dog"]), "categories": ["Cat"]}, "a part of the query"),
        ({"categories": []}, "names nothing"),
        ({"categories": ["Dog"], "html": "-"}, "for the command line"),
    ],
)
async def test_what_is_meant_must_be_clear(call: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A folder or a query, not both, not neither: UsageError says both ways."""
    with pytest.raises(UsageError, match=said):
        await oid_async.stats(**call)


async def test_an_unknown_keyword_is_a_type_error() -> None:
    """As of any function: a keyword of `download` that says how to fetch images is none of these."""
    with pytest.raises(TypeError, match="retries"):
        await oid_async.stats(categories=["Dog"], retries=3)  # type: ignore[call-arg]
