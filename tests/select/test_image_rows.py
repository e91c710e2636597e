"""The rows of selected images, whatever order their tables are in, without all of them in memory."""

import random
from pathlib import Path

import polars as pl
import pytest

from oid_async.openimages.ids import KEY, IdForm
from oid_async.select import idlist, image_rows
from oid_async.select.idlist import read_ids, write_image_rows
from oid_async.select.image_rows import ImageRows
from oid_async.tables.reading import TableFile

RUN = 50


def shuffled(folder: Path, name: str, *, seed: int) -> tuple[TableFile, pl.DataFrame]:
    """A table of 300 images in no order, some of them twice, as a file of this name."""
    chance = random.Random(seed)
    numbers = [chance.getrandbits(64) for _ in range(300)]
    numbers += numbers[:20]
    chance.shuffle(numbers)
    rows = pl.DataFrame({
        "ImageID": [f"{number:016x}" for number in numbers],
        "Subset": "train",
        "OriginalURL": [f"https://a.example/{place}" for place in range(len(numbers))],
    })  # fmt: skip
    path = folder / name
    if path.suffix == ".parquet":
        rows.write_parquet(path)
    else:
        rows.write_csv(path)
    return TableFile(path, name), rows


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
def test_spans_have_the_selected_rows_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans bring the selected images' rows of all tables, by id, then as published; copies are runs of some rows."""
    monkeypatch.setattr(image_rows, "_RUN_ROWS", RUN)
    first, rows = shuffled(tmp_path, name, seed=1)
    second, more = shuffled(tmp_path, f"more-{name}", seed=2)
    both = pl.concat([rows, more]).with_row_index("at").with_columns(IdForm().key())
    keys = both.get_column(KEY).unique().sort().gather_every(3)
    reader = ImageRows([first, second], IdForm(), (), keys, ("Subset", "OriginalURL"), tmp_path)
    copies = list(tmp_path.glob("rows-*.parquet"))
    assert copies
    assert all(pl.scan_parquet(copy).select(pl.len()).collect().item() <= RUN for copy in copies)
    found = pl.concat(reader.of(keys.slice(start, 70)) for start in range(0, len(keys), 70))
    expected = both.filter(pl.col(KEY).is_in(keys.implode())).sort(KEY, "at")
    assert found.get_column("OriginalURL").to_list() == expected.get_column("OriginalURL").to_list()
    assert found.get_column("Author").null_count() == len(found)
    reader.close()
    assert not list(tmp_path.glob("rows-*.parquet"))


def test_without_images_no_table_is_read(tmp_path: Path) -> None:
    """A run again that finds every image there does not read through a table of gigabytes, which may be gone."""
    gone = TableFile(tmp_path / "gone.csv", "gone.csv")
    ImageRows([gone], IdForm(), (), pl.Series(KEY, [], pl.UInt64), ("Subset",), tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_list_of_ids_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image table that a list of ids stands for is in parts, in order, and nothing of it is copied."""
    monkeypatch.setattr(idlist, "_PART_ROWS", 40)
    numbers = [random.Random(3).getrandbits(64) + place for place in range(100)]
    (tmp_path / "ids.txt").write_text("".join(f"train/{number % 2**64:016x}\n" for number in reversed(numbers)))
    found = read_ids(tmp_path / "ids.txt", "ids.txt", IdForm())
    table = write_image_rows(found, (), tmp_path / "listed")
    assert table.is_sorted
    assert [pl.read_parquet(part).height for part in table.parts] == [40, 40, 20]
    keys = found.rows.get_column(KEY).sort()
    reader = ImageRows([table], IdForm(), ("train",), keys, ("Subset",), tmp_path)
    assert reader.of(keys).get_column(KEY).to_list() == keys.to_list()
    assert not list(tmp_path.glob("rows-*.parquet"))
