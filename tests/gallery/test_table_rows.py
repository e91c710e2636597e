"""The rows of a few images in a saved table: by bisecting, and by scanning where the order is not that of ImageID."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from oid_async.dataset.tables import SavedTable
from oid_async.errors import InputError
from oid_async.gallery import table_rows
from oid_async.gallery.table_rows import TableRows

HEADER = ["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "Category", "FileName"]


def rows_of(ids: Sequence[str], chance: random.Random) -> list[list[str]]:
    return [
        [each, f"/m/{place}", "0.1", "0.2", "0.3", "0.4", chance.choice(["Dog", 'a "b", c', "Ünï"]), f"{each}.jpg"]
        for place, each in enumerate(ids)
    ]


def write_boxes(folder: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER, end: str = "\n") -> Path:
    path = folder / "bbox" / "bbox.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=end).writerows([header, *rows])
    return folder


def found_in(folder: Path, ids: Sequence[str], expected: int | None = None) -> list[tuple[str, str]]:
    table = TableRows(SavedTable.under(folder, "bbox"))
    try:
        return [(row[0], row[1]) for row in table.of(ids, expected=expected).select("ImageID", "LabelName").iter_rows()]
    finally:
        table.close()


def expected_of(rows: Sequence[Sequence[str]], ids: Sequence[str]) -> list[tuple[str, str]]:
    kept = [(row[0], row[1]) for row in rows if row[0] in ids]
    return sorted(kept, key=lambda row: row[0])


@pytest.fixture
def bisects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bisect tables of some KB as if they had some GB."""
    monkeypatch.setattr(table_rows, "_SMALL_BYTES", 0)
    monkeypatch.setattr(table_rows, "_LINEAR_BYTES", 256)
    monkeypatch.setattr(table_rows, "_BLOCK_BYTES", 128)


@pytest.mark.usefixtures("bisects")
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_found_wherever_they_stand(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """First, last, scattered and neighbouring images, ids without rows, CRLF, a last line without its break."""
    chance = random.Random(seed)
    known = sorted(f"{chance.getrandbits(64):016x}" for _ in range(200))
    ids = [each for each in known if chance.random() < 0.9 for _ in range(chance.choice([1, 2, 30]))]
    rows = rows_of(ids, chance)
    folder = write_boxes(tmp_path, rows, end=chance.choice(["\n", "\r\n"]))
    path = folder / "bbox" / "bbox.csv"
    if seed % 2:
        path.write_bytes(path.read_bytes().rstrip(b"\r\n"))

    def refuse(*_: object) -> pl.DataFrame:
        raise AssertionError("the table was scanned")

    monkeypatch.setattr(TableRows, "_scanned", refuse)
    for wanted in ([known[0]], [known[-1]], known[50:80], chance.sample(known, 30), ["0" * 16, "f" * 16], known, []):
        assert found_in(folder, wanted) == expected_of(rows, wanted)


Change = Callable[[list[list[str]]], list[list[str]]]
CHANGES: dict[str, Change] = {
    "shuffled": lambda rows: random.Random(1).sample(rows, len(rows)),
    "sorted by class": lambda rows: sorted(rows, key=lambda row: row[1]),
    "appended at the end": lambda rows: [*rows[3:], *rows[:3]],
    "added in front": lambda rows: [*rows[-3:], *rows[:-3]],
    "line breaks in fields": lambda rows: [[*row[:6], "two\nlines, \r\n of it", row[7]] for row in rows],
}


@pytest.mark.usefixtures("bisects")
@pytest.mark.parametrize("name", CHANGES)
def test_a_table_in_another_order_is_scanned(tmp_path: Path, name: str) -> None:
    """Nothing is missing, and nothing wrong is shown, of a table that somebody has edited."""
    chance = random.Random(2)
    ids = [each for each in sorted(f"{chance.getrandbits(64):016x}" for _ in range(150)) for _ in range(3)]
    rows = CHANGES[name](rows_of(ids, chance))
    folder = write_boxes(tmp_path, rows)
    for wanted in (ids[:30], ids[-30:], chance.sample(ids, 20)):
        assert found_in(folder, wanted) == expected_of(rows, wanted)


@pytest.mark.usefixtures("bisects")
def test_rows_that_hide_are_found_once_their_number_is_known(tmp_path: Path) -> None:
    """Two rows have changed places, which no probe sees: the count of the index says that one is missing."""
    ids = [f"{number:016x}" for number in range(400)]
    rows = rows_of(ids, random.Random(3))
    rows[201], rows[263] = rows[263], rows[201]
    folder = write_boxes(tmp_path, rows)
    assert found_in(folder, [ids[263]], expected=1) == [(ids[263], "/m/263")]


def test_columns_may_stand_anywhere(tmp_path: Path) -> None:
    """The ImageID of a table of a user's own need not come first; pandas has put its index there."""
    rows = [[str(place), *row[1:], row[0]] for place, row in enumerate(rows_of(["a", "b", "b", "c"], random.Random(4)))]
    folder = write_boxes(tmp_path, rows, ["", *HEADER[1:], "ImageID"])
    assert found_in(folder, ["b"]) == [("b", "/m/1"), ("b", "/m/2")]


def test_narratives_are_found_by_their_image_id(tmp_path: Path) -> None:
    """Their lines are JSON, whatever the caption quotes."""
    (tmp_path / "narrative").mkdir()
    lines: list[dict[str, Any]] = [
        {"caption": f'say "{number}" \n "image_id": "zz"', "image_id": f"{number:016x}", "traces": [[{"x": 0.1}]]}
        for number in range(50)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "narrative" / "narratives.jsonl").write_text(text, encoding="utf-8")
    table = TableRows(SavedTable.under(tmp_path, "narrative"))
    found = table.of([lines[7]["image_id"], lines[31]["image_id"]])
    assert [json.loads(line) for line in found.get_column("line")] == [lines[7], lines[31]]
    table.close()


def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A row with other fields than the header has stops a scan, too."""
    folder = write_boxes(tmp_path, [["a", "1", "2"], ["b"] * 30])
    with pytest.raises(InputError, match=r"bbox\.csv"):
        found_in(folder, ["b"])
