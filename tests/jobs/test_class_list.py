"""`classes --kind`: the classes of each kind, for which kinds each is, and what of them is in the cached tables."""

import asyncio
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import oid_async
from oid_async.cli.listing_text import class_lines
from oid_async.errors import UsageError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.origin.annotations import ATTRIBUTES, MORE_CLASSES, PREDICATES
from oid_async.origin.lookalike import CLASSES
from oid_async.tables import rows as counted_rows


@pytest.fixture(scope="module")
def cached(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the options that use a cache with every table of validation."""
    folder = tmp_path_factory.mktemp("classes-cache")
    where: dict[str, Any] = {"mirror": lookalike, "cache_dir": folder}
    asyncio.run(oid_async.metadata_pull(kinds=["all"], splits=["validation"], **where))
    return where | {"offline": True}


def rows_of(lookalike: Path, kind: TableKind) -> list[dict[str, str]]:
    (table,) = published(kind, ["validation"])
    with (lookalike / table.bucket / table.key).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("kind", "table", "columns", "image"),
    [
        ("bbox", "boxes", ["LabelName"], "ImageID"),
        ("segmentation", "masks", ["LabelName"], "ImageID"),
        ("relationship", "relationships", ["LabelName1", "LabelName2"], "ImageID"),
        ("label", "human_labels", ["LabelName"], "ImageID"),
        ("point", "points", ["Label"], "ImageId"),
    ],
)
async def test_counts_are_those_of_the_tables(
    kind: str,
    table: TableKind,
    columns: list[str],
    image: str,
    lookalike: Path,
    cached: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images and rows of each class equal a plain count, also when images are counted in parts."""
    monkeypatch.setattr(counted_rows, "_MOST_COUNTED", 20)
    images: dict[str, set[str]] = {}
    rows: Counter[str] = Counter()
    for row in rows_of(lookalike, table):
        if float(row.get("Confidence", "1")) > 0 or kind != "label":
            for label in {row[column] for column in columns}:
                images.setdefault(label, set()).add(row[image])
                rows[label] += 1
    found = await oid_async.classes(kinds=[kind], **cached)
    assert any(images[label] for label in images)
    for each in (*found.rows, *found.attributes):
        expected = {"images": len(images.get(each.label, ())), "rows": rows[each.label]}
        assert each.annotations[kind]["validation"] == expected, each
        assert each.images == {"validation": expected["images"]}
    assert {each.label for each in (*found.rows, *found.attributes)} >= images.keys()


async def test_kinds_of_a_class(cached: dict[str, Any]) -> None:
    """Classes of boxes, those with masks, and those of labels and points alone; the kinds of each are true."""
    every = {row.label: set(row.kinds) for row in (await oid_async.classes(kinds=["all"], **cached)).rows}
    assert {label for label, kinds in every.items() if "bbox" in kinds} == set(CLASSES)
    assert {label for label, kinds in every.items() if kinds == {"label", "point"}} == set(MORE_CLASSES)
    for kind in ("bbox", "segmentation", "label", "point"):
        rows = (await oid_async.classes(kinds=[kind], **cached)).rows
        assert {row.label for row in rows} == {label for label, kinds in every.items() if kind in kinds}
    assert {row.label: set(row.kinds) for row in (await oid_async.classes(**cached)).rows}.items() <= every.items()


async def test_relationships_are_listed_with_names_and_attributes(lookalike: Path, cached: dict[str, Any]) -> None:
    """Beside the classes stand predicates and attributes with their counts, for people and as JSON, by PATTERN too."""
    found = await oid_async.classes(kinds=["relationship"], **cached)
    document = found.as_json()
    assert {row["label"]: row["class_name"] for row in document["predicates"]} == PREDICATES
    assert {row["label"] for row in document["attributes"]} == set(ATTRIBUTES)
    holds = [row["ImageID"] for row in rows_of(lookalike, "relationships") if row["RelationshipLabel"] == "holds"]
    count = f"holds  (validation {len(set(holds))} images {len(holds)} relationships)"
    assert any(line.endswith(count) for line in class_lines(found, tree=False))
    by_pattern = await oid_async.classes("inside", kinds=["relationship"], **cached)
    assert [row.class_name for row in (*by_pattern.rows, *by_pattern.predicates)] == ["inside of"]
    assert "predicates" not in (await oid_async.classes(**cached)).as_json()


async def test_what_is_no_class_of_boxes_is_pointed_to(cached: dict[str, Any]) -> None:
    """A PATTERN that finds nothing says which other names have it."""
    said = (await oid_async.classes("meadow", **cached)).nothing
    assert said is not None
    assert said.endswith("; 1 among the classes of image-level labels and points: --kind label")
    said = (await oid_async.classes("holds", **cached)).nothing
    assert said is not None
    assert said.endswith("; 1 among the names of relationships: --kind relationship")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ["narrative"]}, "narratives name no class"),
        ({"kinds": ["none"]}, "--kind none"),
        ({"kinds": ["point"], "release": "v5"}, "release v5 publishes no points; v7 has them"),
    ],
    ids=str,
)
async def test_kinds_without_classes_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Before anything is fetched."""
    with pytest.raises(UsageError, match=said):
        await oid_async.classes(mirror=tmp_path, **options)


async def test_pulling_what_a_release_lacks_is_refused(tmp_path: Path) -> None:
    """`metadata pull` of a kind that the release or the split does not have fetches nothing."""
    with pytest.raises(UsageError, match="release v4 publishes no relationships of test; it has those of train"):
        await oid_async.metadata_pull(mirror=tmp_path, kinds=["relationship"], splits=["test"], release="v4")
