"""The numbers of a saved folder are those that DuckDB counts in the same files."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.duckdb_statistics import Asked
from support.gallery_folders import label, manifest_row, write_folder
from support.saved import SIDES

import oid_async
from oid_async.errors import InputError
from oid_async.statistics import classes

_NAMES = ("Person", "Bat", "Bat", "Café [red]", "")
_PLACES = ("0", "0.1", "0.25", "0.4999", "0.5", "0.73", "1", "-0.004", "1.009")


def random_folder(path: Path, seed: int, *, hexadecimal: bool = True) -> Path:
    """Write a folder of every kind: failed and pending images, negatives, boxes at and over the edge, odd flags.

    Two MIDs have one name, one class has none. Ids that are not `hexadecimal` are a user's own.
    """
    chance = random.Random(seed)
    images: list[tuple[dict[str, Any], bytes | None]] = []
    for number in range(1, 41):
        status = chance.choice(("ok", "ok", "ok", "failed", "pending"))
        size = (chance.choice((64, 640, 1024)), chance.choice((48, 480, 768)))
        row = manifest_row(number, b"", size) | {
            "Status": status,
            "Subset": chance.choice(("train", "validation", None)),
            "Source": chance.choice(("cvdf", "original")),
            "Author": chance.choice(("Ann", "Bo", "O'Hara", "", None)),
            "License": chance.choice(("https://creativecommons.org/licenses/by/2.0/", "", None)),
            "Bytes": chance.randrange(10**6),
            "Role": "selected",
            "VerifiedAbsent": [],
        }
        if not hexadecimal:
            row["ImageID"] = f"photo {number}"
        if status != "ok":
            row |= {"Width": None, "Height": None, "Bytes": None, "Source": None, "Reason": None}
            row["Reason"] = chance.choice(("gone", "timeout")) if status == "failed" else None
        elif chance.random() < 0.2:
            row |= {"Role": "negative", "VerifiedAbsent": [label(1), label(2)][: chance.randint(1, 2)]}
        images.append((row, None))
    saved = [row for row, _ in images if row["Status"] == "ok"]
    kinds: Any = {kind: [] for kind in ("bbox", "segmentation", "relationship", "label", "point", "narrative")}
    for row in saved:
        for kind, rows in kinds.items():
            rows += [_row(chance, kind, row["ImageID"]) for _ in range(chance.choice((0, 0, 1, 2, 5)))]
    return write_folder(path, images, kinds)


def _row(chance: random.Random, kind: str, image_id: str) -> dict[str, Any]:
    if kind == "narrative":
        return {"image_id": image_id, "caption": "A dog."}
    number = chance.randrange(5)
    named = {"LabelName": label(number), "Category": _NAMES[number] or None, "Label": label(number)}
    if kind == "relationship":
        other = chance.randrange(5)
        sides = {"LabelName1": label(number), "Category1": _NAMES[number], "LabelName2": label(other)}
        predicate = chance.choice(("holds", "is", "on"))
        return {"ImageID": image_id, **sides, "Category2": _NAMES[other], "RelationshipLabel": predicate}
    if kind == "bbox":
        for axis in "XY":
            low, high = sorted(chance.choices(_PLACES, k=2), key=float)
            named |= {f"{axis}Min": low, f"{axis}Max": high}
        flags = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
        named |= {flag: chance.choice(("1", "0", "-1", "1.0", "")) for flag in flags}
    if kind == "label":
        source = chance.choice(("verification", "crowdsource-verification", "machine", None))
        named |= {"Source": source, "Confidence": chance.choice(("0", "0.0", "1", "0.7"))}
    return {"ImageID": image_id, **named}


def assert_as_duckdb(found: dict[str, Any], savepath: Path) -> None:
    """Check every number of a folder that has boxes."""
    asked = Asked(savepath)
    images = {name: found["images"][name] for name in ("ok", "failed", "pending")}
    assert images == dict.fromkeys(images, 0) | asked.counts("Status")
    assert asked.rows("select count(*), sum(Bytes) filter (Status = 'ok') from images") == [
        (found["images"]["selected"], found["images"]["bytes"])
    ]
    for name, column, where in (
        ("splits", "Subset", "true"),
        ("roles", "Role", "true"),
        ("sources", "Source", "Status = 'ok'"),
        ("reasons", "Reason", "Status = 'failed'"),
        ("licenses", "License", "true"),
    ):
        assert found[name] == asked.counts(column, where), name
        assert list(found[name].values()) == sorted(found[name].values(), reverse=True)
    people = asked.counts("Author", "Author != ''")
    assert found["authors"]["count"] == len(people)
    assert dict(found["authors"]["most"]).items() <= people.items()
    assert [number for _, number in found["authors"]["most"]] == sorted(people.values(), reverse=True)[:20]
    for kind in asked.kinds:
        assert [(found["kinds"][kind],)] == asked.rows(f"select count(*) from {kind}")
    expected = asked.classes()
    for each in expected.values():
        each["class_name"] = each["class_name"] or next(
            name["class_name"] for name in found["classes"] if name["label"] == each["label"]
        )
    assert {each["label"]: each for each in found["classes"]} == expected
    order = [(-each["images"], each["class_name"].casefold(), each["label"]) for each in found["classes"]]
    assert order == sorted(order)
    together = found["cooccurrence"]
    assert together["labels"] == [each["label"] for each in found["classes"] if each["images"]][:25]
    assert together["images"] == asked.together(together["labels"])
    assert found["boxes_per_image"] == asked.boxes_per_image()
    assert found["flags"] == asked.flags()
    assert found["box_positions"]["counts"] == asked.positions()
    for name, table, value, histogram in (
        ("share", "boxes", "share", found["box_share"]),
        ("aspect", "boxes", "aspect", found["box_aspect"]),
        ("width", "images", "Width", found["image_sizes"]["widths"]),
        ("height", "images", "Height", found["image_sizes"]["heights"]),
        ("megapixels", "images", "Width::double * Height / 1e6", found["image_sizes"]["megapixels"]),
    ):
        answer = asked.histogram(table, value, histogram["edges"])
        assert histogram == answer | {"median": pytest.approx(answer["median"], rel=1e-15)}, name
    sizes = {(width, height): count for width, height, count in found["image_sizes"]["most_common"]}
    counted = "select Width, Height, count(*) from images where Width is not null group by 1, 2"
    assert sizes == {(width, height): count for width, height, count in asked.rows(counted)}


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_a_random_folder_are_those_of_duckdb(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number, of every kind; with hex ids, those of a user's own, and when classes are counted in small runs."""
    savepath = random_folder(tmp_path / "saved", seed, hexadecimal=seed != 1)
    if seed == 2:
        monkeypatch.setattr(classes, "_ROWS_AT_ONCE", 5)
    found = asyncio.run(oid_async.stats(savepath))
    assert (found.of, found.savepath, found.notes) == ("folder", str(savepath), ())
    assert_as_duckdb(found.as_json(), savepath)
    assert {each.label: each.class_name for each in found.classes}[label(4)] == label(4)
    names = found.cooccurrence.classes
    assert len(set(names)) == len(names)
    assert f"Bat ({label(1)})" in names


def test_boxes_are_clipped_to_their_image(tmp_path: Path) -> None:
    """A box that reaches over the edge has the share, shape and centre of what is within."""
    row = manifest_row(1, b"", (200, 100))
    box = dict(zip(SIDES, ("-0.01", "0.5", "0.5", "1.01"), strict=True))
    boxes = [{"ImageID": row["ImageID"], "LabelName": label(1), "Category": "Dog", **box}]
    found = asyncio.run(oid_async.stats(write_folder(tmp_path / "saved", [(row, None)], {"bbox": boxes})))
    assert (found.box_share.median, found.box_aspect.median) == (0.25, 2.0)
    assert found.box_positions.counts[18][6] == 1
    assert found.flags["IsInside"].unknown == 1


def test_one_id_in_two_splits_is_two_images(tmp_path: Path) -> None:
    """Rows are of the image that their FileName names."""
    rows = [manifest_row(1, b"", (8, 8)), manifest_row(1, b"", (8, 8), Subset="test", FileName="1_o_test.jpg")]
    boxes = [
        {"ImageID": row["ImageID"], "LabelName": label(1), "Category": "Dog", "FileName": row["FileName"]}
        for row in (*rows, rows[0])
    ]
    savepath = write_folder(tmp_path / "saved", [(row, None) for row in rows], {"bbox": boxes})
    found = asyncio.run(oid_async.stats(savepath))
    assert found.boxes_per_image.counts == ((1, 1), (2, 1))
    assert found.classes[0].images == 2


def test_a_folder_without_images_or_rows_has_numbers(tmp_path: Path) -> None:
    """Nothing was selected: counts are 0, histograms empty."""
    savepath = write_folder(tmp_path / "saved", [], {"bbox": []})
    found = asyncio.run(oid_async.stats(savepath))
    assert (found.images.selected, found.kinds, found.classes) == (0, {"bbox": 0}, ())
    assert found.box_share.counts == found.image_sizes.widths.counts == ()
    assert found.boxes_per_image.counts == ()


def test_a_table_that_was_cut_is_counted_with_a_note(tmp_path: Path) -> None:
    """What is not as it was written is said; a table without ImageID is none of annotations."""
    row = manifest_row(1, b"", (8, 8))
    boxes = [{"ImageID": row["ImageID"], "LabelName": label(1), "Category": "Dog"}] * 2
    savepath = write_folder(tmp_path / "saved", [(row, None)], {"bbox": boxes})
    table = savepath / "bbox" / "bbox.csv"
    table.write_bytes(table.read_bytes()[:-3])
    found = asyncio.run(oid_async.stats(savepath))
    assert found.kinds == {"bbox": 2}
    assert "it ends within a line" in found.notes[0]
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="column 'ImageID' is missing"):
        asyncio.run(oid_async.stats(savepath))


def test_a_class_without_saved_rows_is_called_as_the_query_calls_it(tmp_path: Path) -> None:
    """Without saved boxes there is no label_data.csv, which has the names of what is absent in negatives."""
    row = manifest_row(1, b"", (8, 8)) | {"Role": "negative", "VerifiedAbsent": [label(1)]}
    savepath = write_folder(tmp_path / "saved", [(row, None)], {"narrative": []})
    (savepath / "query.json").write_text(json.dumps({"categories": {"Dog": [label(1)]}}))
    found = asyncio.run(oid_async.stats(savepath))
    assert [(each.class_name, each.verified_absent) for each in found.classes] == [("Dog", 1)]
