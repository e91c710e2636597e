"""docs/choosing.md: its examples choose something, and what it says of negatives and of the order holds."""

import asyncio
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from support.random_queries import MirrorTables

from oid_async.cli.parser import make_parser
from oid_async.events import ignore
from oid_async.jobs.gather import gather_tables
from oid_async.jobs.selection import select_images
from oid_async.options.query import Options

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


@pytest.mark.parametrize("command", queries())
def test_an_example_chooses_something(
    command: str, lookalike: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query of the page, typed as it is, is understood and has images in the look-alike."""
    monkeypatch.chdir(examples)
    arguments = vars(make_parser().parse_args(shlex.split(command)[1:]))
    names = {each.name for each in fields(Options)}
    options = Options(**{name: value for name, value in arguments.items() if name in names})
    cache = MirrorTables(lookalike, None)
    tables = asyncio.run(gather_tables(options, cache, ignore, tmp_path))
    assert len(select_images(tables, options.all_boxes).selection.keys) > 0
