"""What the program says and takes beside the tables: hints, trees, odd given tables, clearing by parts."""

import json
from pathlib import Path

import polars as pl
import pytest
from support.notes import notes_into
from support.published import read_csv, typed

import oid_async
from oid_async.errors import InputError
from oid_async.metadata.paths import published_folder
from oid_async.openimages.catalogue import published


@pytest.fixture
def mirror(lookalike: Path) -> str:
    return str(lookalike)


def boxes_of(lookalike: Path) -> pl.DataFrame:
    (table,) = published("boxes", ["validation"])
    return pl.read_csv(lookalike / table.bucket / table.key, infer_schema=False)


async def notes_of(**query: object) -> list[str]:
    notes: list[str] = []

    await oid_async.plan(on_event=notes_into(notes), **query)  # type: ignore[arg-type]
    return notes


async def test_excluding_a_class_with_subclasses_is_hinted_at(mirror: str) -> None:
    """Who excludes Person keeps Man and Woman, and is told how not to."""
    hint = "Person: 2 subclasses; --with-subclasses excludes them too"
    assert hint in await notes_of(mirror=mirror, splits=["validation"], categories=["Tree"], exclude=["Person"])
    query = {"mirror": mirror, "splits": ["validation"], "exclude": ["Person"], "with_subclasses": True}
    assert hint not in await notes_of(**query)


def test_a_tree_shows_what_is_below(mirror: str, tmp_path: Path) -> None:
    """`classes --tree` with a pattern shows the subclasses too; classes outside the hierarchy follow; circles end."""
    shown = typed("classes", "person", "--tree", "--mirror", mirror)
    assert [line.split()[1] for line in shown.stdout.splitlines()[:3]] == ["Person", "Man", "Woman"]
    own = tmp_path / "own.csv"
    own.write_text("/m/zz1,Golden retriever\n/m/01g317,Person\n")
    shown = typed("classes", "--tree", "--mirror", mirror, "--label", own)
    assert {"Person", "Golden"} <= {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("/m/")}
    circle = {"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/b", "Subcategory": [{"LabelName": "/m/a"}]}]}
    (table,) = published("hierarchy", ())
    path = tmp_path / "site" / table.bucket / table.key
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"LabelName": "/m/0bl9f", "Subcategory": [circle]}))
    own.write_text("/m/a,A\n/m/b,B\n")
    shown = typed("classes", "--tree", "--mirror", tmp_path / "site", "--label", own)
    assert (shown.code, [line.split()[1] for line in shown.stdout.splitlines()[:2]]) == (0, ["A", "B"])


def test_a_class_is_found_by_the_name_of_another_release(mirror: str) -> None:
    """`classes donut` finds V4's Doughnut."""
    shown = typed("classes", "donut", "--release", "v4", "--mirror", mirror, "--json")
    assert [row["class_name"] for row in json.loads(shown.stdout)["classes"]] == ["Doughnut"]


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.Int8, pl.Float64, pl.String], ids=str)
async def test_flags_of_any_type_are_heeded(dtype: pl.DataType, lookalike: Path, tmp_path: Path) -> None:
    """A given table may hold its flags as Boolean, number or text: the same boxes match."""
    boxes = boxes_of(lookalike)
    wanted = boxes.filter(pl.col("IsOccluded") == "1").get_column("ImageID").n_unique()
    own = tmp_path / "boxes.parquet"
    number = pl.col("IsOccluded").cast(pl.Int8)
    boxes.with_columns(number if dtype == pl.String else number.cast(dtype)).write_parquet(own)
    query = {"mirror": str(lookalike), "annotation": own, "splits": ["validation"]}
    assert (await oid_async.plan(**query, is_occluded=True)).selected == wanted > 0  # type: ignore[arg-type]


async def test_a_table_that_cannot_be_saved_is_refused_first(lookalike: Path, tmp_path: Path) -> None:
    """A column of lists has no place in a CSV: said before any image is fetched."""
    own = tmp_path / "boxes.parquet"
    boxes_of(lookalike).with_columns(Points=pl.concat_list("XMin", "YMin")).write_parquet(own)
    with pytest.raises(InputError, match=r"'Points' holds List"):
        await oid_async.plan(mirror=str(lookalike), annotation=own, splits=["validation"])


async def test_published_columns_of_our_names_are_marked_apart(lookalike: Path, tmp_path: Path) -> None:
    """A given box table may have Category, and Category_published too: all of it is saved."""
    own = tmp_path / "boxes.csv"
    boxes_of(lookalike).with_columns(Category=pl.lit("a"), Category_published=pl.lit("b")).write_csv(own)
    await oid_async.download(
        mirror=str(lookalike), annotation=own, splits=["validation"], limit=1, savepath=tmp_path / "d"
    )
    row = read_csv(tmp_path / "d" / "bbox" / "bbox.csv")[0]
    assert (row["Category_published"], row["Category_published_published"]) == ("b", "a")


async def test_counts_beyond_any_are_all(mirror: str) -> None:
    """A limit larger than any number of images is no limit."""
    plain = await oid_async.plan(mirror=mirror, splits=["validation"])
    large = await oid_async.plan(mirror=mirror, splits=["validation"], limit=10**30, limit_per_class=10**30)
    assert plain.selected == large.selected > 0


def test_clear_takes_only_the_release_it_is_told(mirror: str, cache_dir: Path) -> None:
    """`metadata clear --release v4` leaves V7's own tables."""
    for release in ("v4", "v7"):
        typed("metadata", "pull", "--split", "validation", "--release", release, "--mirror", mirror)
    site = Path(mirror).absolute().as_uri()
    typed("metadata", "clear", "--release", "v4", "--mirror", mirror)
    for release, there in (("v4", False), ("v7", True)):
        (table,) = published("boxes", ["validation"], release)  # type: ignore[arg-type]
        assert (published_folder(cache_dir, site, table) / "current.json").exists() == there


def test_offline_needs_no_mirror_folder(lookalike: Path, tmp_path: Path) -> None:
    """What is cached of a folder that is away now can be asked all the same."""
    link = tmp_path / "site"
    link.symlink_to(lookalike)
    first = typed("plan", "--split", "validation", "--mirror", link, "--json")
    link.unlink()
    again = typed("plan", "--split", "validation", "--mirror", link, "--json", "--offline")
    assert json.loads(again.stdout)["selected"] == json.loads(first.stdout)["selected"] > 0


def test_classes_says_how_many_rows_it_left_out(mirror: str, tmp_path: Path) -> None:
    """Damaged rows of a class table are told as one note on stderr; the list on stdout is that of the others."""
    own = tmp_path / "classes.csv"
    own.write_text("/m/01,Ball\n/m/02\n,Nameless\n/m/03,Goat\n")
    shown = typed("classes", "--label", own, "--mirror", mirror, "--json")
    assert [row["class_name"] for row in json.loads(shown.stdout)["classes"]] == ["Ball", "Goat"]
    (note,) = [line for line in shown.stderr.splitlines() if "damaged" in line]
    assert note == f"{own}: 2 damaged rows are left out, first line 2: 1 field where 2 are needed"
    assert "damaged" not in typed("classes", "--label", own, "--mirror", mirror, "--quiet").stderr
