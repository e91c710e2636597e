"""The Python twins of `classes` and `metadata`: what the commands say, as values."""

import argparse
import asyncio
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.published import Box, Dataset, Image

import oid_async
from oid_async.cli import main as cli
from oid_async.cli.parser import make_parser
from oid_async.errors import UnavailableError, UsageError
from oid_async.events import Event

IDS = [f"{number:016x}" for number in (0x1F, 0x2A, 0x3B)]
DATASET = Dataset(
    classes=[("/m/01yrx", "Cat"), ("/m/0bt9lr", "Dog"), ("/m/04rky", "Mammal")],
    images=[Image(image_id) for image_id in IDS],
    boxes=[Box(IDS[0], "/m/01yrx"), Box(IDS[1], "/m/0bt9lr"), Box(IDS[1], "/m/0bt9lr", "0.25")],
    below={"/m/04rky": ["/m/0bt9lr"]},
)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return DATASET.publish(tmp_path / "mirror")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    assert cli.main([*words, "--json"]) == 0
    return ageless(json.loads(capsys.readouterr().out))


def ageless(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without the ages of tables, which go on while it is compared."""
    for table in answer.get("tables", ()):
        del table["age_s"]
    return answer


def test_they_return_what_the_commands_print(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each twin's value is, as JSON, the answer of its command; nothing is printed."""
    notes: list[Event] = []

    async def twins() -> list[object]:
        pulled = await oid_async.metadata_pull(mirror=mirror, splits=["train"], on_event=notes.append)
        listed = await oid_async.metadata_list(mirror=mirror)
        found = await oid_async.classes("mammal", tree=True, mirror=mirror)
        return [ageless(pulled.as_json()), ageless(listed.as_json()), found.as_json()]

    pulled, listed, found = asyncio.run(twins())
    captured = capsys.readouterr()
    assert (captured.out, captured.err, bool(notes)) == ("", "", True)
    where = ("--mirror", str(mirror))
    assert pulled == told(capsys, "metadata", "pull", "--split", "train", *where)
    assert listed == told(capsys, "metadata", "list", *where)
    assert found == told(capsys, "classes", "mammal", "--tree", *where)


async def test_classes_are_values(mirror: Path) -> None:
    """A class has its name, MID and what it has in each split that is cached, in order of name."""
    await oid_async.metadata_pull(mirror=mirror)
    found = await oid_async.classes(mirror=mirror)
    assert [(row.class_name, row.label, row.images, row.boxes) for row in found.rows] == [
        ("Cat", "/m/01yrx", {"train": 1}, {"train": 1}),
        ("Dog", "/m/0bt9lr", {"train": 1}, {"train": 2}),
        ("Mammal", "/m/04rky", {"train": 0}, {"train": 0}),
    ]
    assert found.rows[2].subclasses == ("Dog",)


async def test_a_table_says_where_a_mirror_has_it(mirror: Path, tmp_path: Path) -> None:
    """The same place from a folder, an address and the public buckets; below a folder it is the file's path."""
    from_folder = (await oid_async.metadata_list(mirror=mirror)).tables
    by_address = (await oid_async.metadata_list(mirror="http://mirror.example/open")).tables
    published = (await oid_async.metadata_list()).tables
    assert [row.place for row in from_folder] == [row.place for row in by_address] == [row.place for row in published]
    assert all(row.url == f"http://mirror.example/open/{row.place}" for row in by_address)
    assert all(row.url == f"{mirror.as_uri()}/{row.place}" for row in from_folder)
    boxes = next(row for row in from_folder if (row.kind, row.split) == ("boxes", "train"))
    assert boxes.place == "openimages/v6/oidv6-train-annotations-bbox.csv"
    assert (mirror / boxes.place).is_file()
    assert {row.place for row in published if row.kind == "sizes"} == {
        f"open-images-dataset/{split}/" for split in ("train", "validation", "test")
    }


async def test_a_table_that_a_folder_lacks_is_no_answer_of_a_server(mirror: Path) -> None:
    """Who has named a folder is told of a file that is not there, not of HTTP."""
    (mirror / "openimages/v6/oidv6-train-annotations-bbox.csv").unlink()
    with pytest.raises(UnavailableError, match=r"bbox.csv: not published at file:///.*bbox.csv \(no such file\)$"):
        await oid_async.metadata_pull(mirror=mirror)


async def test_they_can_be_cancelled(mirror: Path) -> None:
    """Cancelled anywhere they leave no task; the next call has the answer."""
    for _ in range(3):
        task = asyncio.create_task(oid_async.metadata_pull(mirror=mirror))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(table.cached for table in (await oid_async.metadata_pull(mirror=mirror)).tables)


async def test_wrong_use_is_refused(mirror: Path) -> None:
    """A wrong option, an unknown keyword and a table that is not cached are errors."""
    with pytest.raises(UsageError, match="--release"):
        await oid_async.classes(release="v3")
    with pytest.raises(UsageError, match="pattern"):
        await oid_async.classes(["Dog"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="concurrency"):
        await oid_async.metadata_pull(concurrency=3)  # type: ignore[call-arg]
    with pytest.raises(UnavailableError, match="not in the cache"):
        await oid_async.classes(mirror=mirror, offline=True)


def test_they_take_what_their_commands_take() -> None:
    """Keywords and options are the same, but for what shows a program, and for what hears of events."""
    commands = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    twins: dict[str, Callable[..., Any]] = {"classes": oid_async.classes, "metadata": oid_async.metadata_pull}
    twins["resolve"] = oid_async.resolve
    for command, twin in twins.items():
        offered = {action.dest for action in commands.choices[command]._actions}
        taken = set(inspect.signature(twin).parameters) - {"on_event", "progress"}
        assert taken == offered - {"help", "json", "quiet", "action"}
