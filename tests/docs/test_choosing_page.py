"""docs/choosing.md: its examples choose something, and what it says of negatives and of the order holds."""

import asyncio
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from support.random_queries import MirrorTables

from oid_async.cli.parser import make_parser
from oid_async.events import ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import select_images
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options
from oid_async.report import Plan
from oid_async.select.choose import Selection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "choosing.md"


def queries() -> list[str]:
    """Return the page's commands that select images, without their comments."""
    lines = (line.partition("  #")[0].strip() for line in PAGE.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.startswith(("oid-async plan ", "oid-async download "))]


@pytest.fixture(scope="module")
def examples(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the examples name: ids of the look-alike, and classes."""
    folder = tmp_path_factory.mktemp("examples")
    images = sorted((lookalike / "open-images-dataset").glob("*/*.jpg"))[:40:4]
    lines = [f"{path.parent.name}/{path.stem}" for path in images]
    (folder / "ids.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "classes.txt").write_text("Dog\nCat\nHorse\nCar\n", encoding="utf-8")
    return folder


def selected(options: Options, mirror: Path, scratch: Path) -> Selection:
    """Return what a query selects of a mirror folder, without a server."""
    tables = asyncio.run(gather_tables(options, MirrorTables(mirror, None), ignore, scratch))
    return select_images(tables, options.all_boxes).selection


@pytest.mark.parametrize("command", queries())
def test_an_example_chooses_something(
    command: str, lookalike: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query of the page, typed as it is, is understood and has images in the look-alike."""
    monkeypatch.chdir(examples)
    arguments = vars(make_parser().parse_args(shlex.split(command)[1:]))
    names = {each.name for each in fields(Options)}
    options = Options(**{name: value for name, value in arguments.items() if name in names})
    assert len(selected(options, lookalike, tmp_path).keys) > 0


def test_each_number_of_a_plan_is_on_the_page() -> None:
    """The table of what `--json` says names every field of a plan, and nothing else."""
    _, _, table = PAGE.read_text(encoding="utf-8").partition("| what `--json` says | meaning |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(each.name for each in fields(Plan))


@pytest.mark.parametrize("category", ["Person", "Man"])
def test_person_verified_absent_beside_a_box_man_is_no_negative(category: str, lookalike: Path, tmp_path: Path) -> None:
    """An image with a box Man of which somebody said that there is no person is no negative of either class."""
    contradicted = Options(categories=("Man",), verified_absent=("Person",), splits=SPLITS)
    beside = selected(contradicted, lookalike, tmp_path).keys
    found = selected(Options(categories=(category,), negatives=1000, splits=SPLITS), lookalike, tmp_path).negatives
    assert len(beside) > 0
    assert found is not None
    assert len(found.keys) > 0
    assert not set(found.keys) & set(beside)


def test_unlabelled_is_not_verified_absent(lookalike: Path, tmp_path: Path) -> None:
    """Of the many images without a dog those alone are negatives of which a person has said that there is none."""
    without = selected(Options(exclude=("Dog",), kinds=("none",), splits=SPLITS), lookalike, tmp_path).keys
    absent = selected(Options(verified_absent=("Dog",), kinds=("none",), splits=SPLITS), lookalike, tmp_path).keys
    found = selected(Options(categories=("Dog",), negatives=1000, splits=SPLITS), lookalike, tmp_path).negatives
    assert found is not None
    assert set(found.keys) <= set(absent) & set(without)
    assert 0 < len(found.keys) < len(without)
