"""Lists that come by a pipe or from Python: read once, kept in SAVEPATH, counted where they name nothing."""

import asyncio
import json
import os
import threading
from pathlib import Path

import polars as pl
import pytest
from support.published import Box, Dataset, Image

import oid_async
from oid_async.cli.main import main
from oid_async.errors import InputError, UsageError
from oid_async.openimages.catalogue import published

HERE, THERE, NOWHERE = "0000048549557964", "00e4060885034751", "fe600639ac5f36c1"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror with an image of train and one of validation."""
    images = [Image(HERE, "a.jpg", "train"), Image(THERE, "b.jpg", "validation")]
    boxes = [Box(HERE, "/m/01", "0.1", "train", ()), Box(THERE, "/m/01", "0.1", "validation", ())]
    return Dataset([("/m/01", "Cat")], images, boxes, {}).publish(tmp_path / "mirror")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Return a named pipe."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def written_into(fifo: Path, text: str) -> threading.Thread:
    writer = threading.Thread(target=fifo.write_text, args=(text,))
    writer.start()
    return writer


async def test_a_pipe_is_read_once_and_kept(mirror: Path, fifo: Path, tmp_path: Path) -> None:
    """query.json names the kept list, the same list again is the same query, and what was saved is whole by it."""
    savepath, reports, digests = tmp_path / "d", [], []
    for _ in range(2):
        writer = written_into(fifo, f"# mine\ntrain/{HERE}.jpg\n")
        reports.append(
            await oid_async.download(
                image_ids=fifo, kinds=["none"], mirror=mirror, cache_dir=tmp_path / "c", savepath=savepath
            )
        )
        writer.join()
        document = json.loads((savepath / "query.json").read_text())
        digests.append(document["digest"])
        assert document["query"]["image_ids"] == str(savepath / "image_ids.txt")
        assert (savepath / "image_ids.txt").read_text() == f"# mine\ntrain/{HERE}.jpg\n"
    assert [(report.downloaded, report.present) for report in reports] == [(1, 0), (0, 1)]
    assert digests[0] == digests[1]
    assert (await oid_async.verify(savepath=savepath)).clean


async def test_sequences_are_lists(mirror: Path, tmp_path: Path) -> None:
    """From Python a list may be given itself; a later query without it takes the kept file away again."""
    savepath = tmp_path / "d"

    async def plan_and_download(**more: object) -> tuple[int, int]:
        query = {"mirror": mirror, "cache_dir": tmp_path / "c", "savepath": savepath, "splits": ["all"], **more}
        plan = await oid_async.plan(**query)  # type: ignore[arg-type]
        report = await oid_async.download(**query)  # type: ignore[arg-type]
        return plan.selected, report.selected

    assert await plan_and_download(image_ids=(HERE, f"val/{THERE}"), exclude_ids=[THERE]) == (1, 1)
    assert (savepath / "exclude_ids.txt").read_text() == f"{THERE}\n"
    assert await plan_and_download(category_file=["cat", "Cat # not a dog"]) == (2, 2)
    assert json.loads((savepath / "categories.txt").read_text()) == ["cat", "Cat # not a dog"]
    assert not (savepath / "image_ids.txt").exists()
    with pytest.raises(UsageError, match=r"image_ids.*names nothing"):
        await plan_and_download(image_ids=[])
    assert await plan_and_download(image_ids=pl.Series([HERE]), exclude_ids=[]) == (1, 1)
    assert not (savepath / "exclude_ids.txt").exists()


async def test_a_plan_writes_nothing_to_savepath(mirror: Path, tmp_path: Path) -> None:
    """What came by a pipe is read for a plan, and not kept."""
    await oid_async.plan(image_ids=[f"train/{HERE}"], kinds=["none"], mirror=mirror, savepath=tmp_path / "d")
    assert not (tmp_path / "d").exists()


async def test_a_file_of_the_users_own_is_never_replaced(mirror: Path, tmp_path: Path) -> None:
    """A foreign image_ids.txt stops the run before anything; given as a file it is read where it is."""
    own = tmp_path / "d" / "image_ids.txt"
    own.parent.mkdir()
    own.write_text(f"train/{HERE}\n")
    query: oid_async.QueryOptions = {"kinds": ["none"], "mirror": mirror, "savepath": own.parent}
    assert (await oid_async.download(image_ids=own, **query)).downloaded == 1
    with pytest.raises(UsageError, match=r"image_ids\.txt: .* a file of your own"):
        await oid_async.download(image_ids=[f"validation/{THERE}"], **query)
    assert own.read_text() == f"train/{HERE}\n"
    # An empty query takes no file away either.
    await oid_async.download(**query, splits=["validation"])
    assert own.exists()


async def test_a_pipe_nobody_writes_to_can_be_cancelled(mirror: Path, fifo: Path, tmp_path: Path) -> None:
    """Waiting for a list ends when the caller cancels, and leaves nothing."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(oid_async.plan(image_ids=fifo, mirror=mirror, savepath=tmp_path / "d"), 0.3)


def test_stdin_is_read_for_one_list(tmp_path: Path) -> None:
    """Two lists from stdin, under whatever name, are refused."""
    options = ["--image-ids", "-", "--exclude-ids", "/dev/stdin", "--savepath", str(tmp_path)]
    assert main(["plan", *options]) == 2


@pytest.mark.parametrize("option", ["--image-ids", "--exclude-ids", "--category-file"])
def test_an_empty_path_is_no_way_to_ask_for_everything(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script's variable that is not set must not select all images."""
    assert main(["plan", option, "", "--savepath", str(tmp_path)]) == 2
    assert f"{option}) is empty" in capsys.readouterr().err


def test_a_closed_stdin_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a stdin the message says so."""
    monkeypatch.setattr("sys.stdin", None)
    assert main(["plan", "--image-ids", "-", "--savepath", str(tmp_path)]) == 2
    assert "stdin: cannot be read as a list (it is closed)" in capsys.readouterr().err


def download(mirror: Path, folder: Path, lines: str, *more: str) -> int:
    (folder / "ids.txt").write_text(lines)
    options = ["--mirror", str(mirror), "--cache-dir", str(folder / "c"), "--savepath", str(folder / "d"), *more]
    return main(["download", "--image-ids", str(folder / "ids.txt"), *options])


@pytest.mark.parametrize(
    ("lines", "allowed", "code"),
    [
        (f"{HERE}\n", (), 0),
        (f"{HERE}\n{NOWHERE}\n", (), 1),
        pytest.param(f"{HERE}\nkitten\n", (), 1, marks=pytest.mark.slow),
        (f"{HERE}\n{NOWHERE}\n", ("--max-failures", "1"), 0),
        pytest.param(f"{HERE}\n{NOWHERE}\n", ("--max-failures", "50%"), 0, marks=pytest.mark.slow),
        (f"{HERE}\n{NOWHERE}\n", ("--max-failures", "49%"), 1),
        (f"{NOWHERE}\n", (), 1),
        ("", (), 0),
    ],
)
def test_unknown_ids_end_with_exit_1(
    mirror: Path, lines: str, allowed: tuple[str, ...], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a list names that no table has counts in the report and against --max-failures."""
    assert download(mirror, tmp_path, lines, *allowed, "--json") == code
    report = json.loads(capsys.readouterr().out)
    assert report["unknown_ids"] == len(lines.split()) - (HERE in lines)
    assert report["selected"] == (HERE in lines)


def test_the_hint_names_the_split_from_cached_tables_alone(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids of another split are said to be there once its image table is cached, and nothing is fetched for that."""
    assert download(mirror, tmp_path, f"{HERE}\n{THERE}\n") == 1
    assert "validation" not in capsys.readouterr().err
    assert main(
        ["metadata", "pull", "--split", "validation", "--mirror", str(mirror), "--cache-dir", str(tmp_path / "c")]
    ) in (0, 2)
    capsys.readouterr()
    assert download(mirror, tmp_path, f"{HERE}\n{THERE}\n") == 1
    assert "1 of these is in validation: say --split validation" in capsys.readouterr().err
    (table,) = published("images", ("test",))
    assert not list((tmp_path / "c").rglob(f"*{table.name}*"))
    assert download(mirror, tmp_path, f"train/{HERE}\ntrain/{THERE}\n", "--split", "all") == 1
    assert "1 of these is in validation: list them as validation/ImageID" in capsys.readouterr().err


def test_exclusions_never_fail(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown ids of --exclude-ids are no failure; what is no id is said."""
    (tmp_path / "not.txt").write_text(f"{NOWHERE}\nkitten\x1b[31m\n")
    assert download(mirror, tmp_path, f"{HERE}\n", "--exclude-ids", str(tmp_path / "not.txt")) == 0
    said = capsys.readouterr().err
    assert "1 entry is no ImageID: line 2 'kitten?[31m'" in said
    (tmp_path / "not.txt").write_text("kitten\n")
    assert download(mirror, tmp_path, f"{HERE}\n", "--exclude-ids", str(tmp_path / "not.txt")) == 0
    (tmp_path / "not.txt").write_bytes(b"\xff\xd8\xff\xe0JFIF")
    assert download(mirror, tmp_path, f"{HERE}\n", "--exclude-ids", str(tmp_path / "not.txt")) == 2


def test_a_category_file_has_the_same_forms(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Comments, quotes, JSON and UTF-16 are read, and a file that names no class is an error that says so."""
    given = tmp_path / "classes.txt"
    options = [
        "plan",
        "--json",
        "--mirror",
        str(mirror),
        "--cache-dir",
        str(tmp_path / "c"),
        "--category-file",
        str(given),
    ]
    for text in ('"Cat"\r\n\r\n# all\r\n', '["cat"]', "\tCAT  # mine\r"):
        given.write_bytes(text.encode("utf-16"))
        assert main(options) == 0
        assert json.loads(capsys.readouterr().out)["classes"] == {"Cat": 1}
    given.write_text("# nothing\n\n")
    assert main(options) == 2
    assert "it names no class" in capsys.readouterr().out


async def test_a_wrong_list_does_not_replace_the_kept_one(mirror: Path, tmp_path: Path) -> None:
    """A list that cannot be used leaves the folder as it was."""
    query: oid_async.QueryOptions = {"kinds": ["none"], "mirror": mirror, "savepath": tmp_path / "d"}
    await oid_async.download(image_ids=[f"train/{HERE}"], **query)
    with pytest.raises(InputError, match=r"image_ids: .*no line names an image"):
        await oid_async.download(image_ids=["kitten"], **query)
    assert (tmp_path / "d" / "image_ids.txt").read_text() == f"train/{HERE}\n"
