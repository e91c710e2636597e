"""Every way of bad use ends in one clear line and its exit code, never in a traceback."""

import asyncio
import gzip
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.published import (
    Box,
    Dataset,
    Finished,
    Image,
    counted_origin,
    run_cli,
    tiny_jpeg,
    typed,
)

import oid_async
from oid_async.cli.main import main
from oid_async.errors import InputError, LockedError, OidError, StorageError, UnavailableError, UsageError
from oid_async.options.query import option_fields
from oid_async.origin.server import Origin, folder

ID, BALL = "0000048549557964", "/m/018xm"
BothWays = Callable[..., tuple[Finished, Finished]]
BOXES = "v6/oidv6-train-annotations-bbox.csv"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder of one image."""
    classes = [(BALL, "Football"), ("/m/0wdt60w", "Rugby ball"), ("/m/01g317", "Person")]
    return Dataset(classes, [Image(ID)], [Box(ID, BALL)]).publish(tmp_path / "mirror")


@pytest.fixture
def here(tmp_path: Path, mirror: Path) -> Path:
    """Return a folder full of things that are no tables."""
    folder = tmp_path / "here"
    folder.mkdir()
    rows = f"ImageID,LabelName\n{ID},{BALL}\n"
    for name, content in {
        "empty.csv": b"",
        "blank.csv": b"\n\n",
        "photo.csv": tiny_jpeg("not a table"),
        "zipped.csv": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03KLJ",
        "latin.csv": "ImageID,LabelName\nStraße".encode("latin-1"),
        "plain.csv.gz": rows.encode(),
        "plain.parquet": rows.encode(),
        "imageid.csv": rows.replace("ImageID", "imageid").encode(),
        "label.csv": rows.replace("LabelName", "Labels").encode(),
        "page.csv": b"<!DOCTYPE html>\n<title>Sign in, please</title>\n",
        "url.csv": f"ImageID,Subset,OriginalUrl\n{ID},train,https://x.org/a.jpg\n".encode(),
        "own.csv": f"ImageID,OriginalURL\n{ID},https://x.org/a.jpg\n".encode(),
        "bare.csv": b"ImageID,LabelName,OriginalURL\r\n\r\n",
        "cr.csv": rows.replace("\n", "\r").replace("LabelName", "LabelName,OriginalURL").encode(),
        "cr-classes.csv": b"LabelName,DisplayName\r/m/018xm,Football\r",
        "one.csv": b"/m/018xm\n/m/01g317\n",
        "file": b"",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "bare.csv.gz").write_bytes(gzip.compress(b'ImageID,"LabelName"'))
    pl.DataFrame(schema={"ImageID": pl.String, "OriginalURL": pl.String}).write_parquet(folder / "bare.parquet")
    return folder


@pytest.fixture
def both_ways(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> BothWays:
    """Return a way to run a command in `here`, then the same command with --json, inside this process for speed."""
    monkeypatch.chdir(here)
    monkeypatch.setattr("os.environ", dict(os.environ))  # the program sets variables of its own

    def run(*args: object) -> Finished:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return Finished(code, *capfd.readouterr())

    return lambda *args: (run(*args), run(*args, "--json"))


def assert_refused(plain: Finished, as_json: Finished, code: int, kind: str, *parts: str) -> None:
    """Check what both ways say: one line that holds every part on stderr, one JSON object on stdout."""
    assert "Traceback" not in plain.stderr + as_json.stderr
    assert (plain.code, as_json.code) == (code, code)
    assert plain.stdout == ""
    *before, line = plain.stderr.splitlines()
    assert line.startswith("oid-async: error: ")
    assert not [text for text in before if text.startswith("oid-async: error")]
    for part in parts:
        assert part in line
    error = json.loads(as_json.stdout)
    assert error == {"error": {"kind": kind, "message": error["error"]["message"]}}
    for part in parts:
        assert part in error["error"]["message"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--categ", "Football"], ["--categ"]),
        (["--jso"], ["--jso"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["Football"], ["Football"]),
        (["--category"], ["--category"]),
        (["--category", ""], ["--category"]),
        (["--type", "inter"], ["--type", "--category"]),
        (["--type", "both"], ["--type", "both", "inter"]),
        (["--split", "val"], ["--split", "val", "validation"]),
        (["--source", "web"], ["--source", "web", "thumbnail"]),
        (["--source", "cvdf,cvdf"], ["--source", "cvdf"]),
        (["--source", "cvdf,"], ["--source"]),
        (["--names", "title"], ["--names", "title"]),
        (["--kind", "mask"], ["--kind", "mask"]),
        (["--ndata", "many"], ["--ndata", "many"]),
        (["--ndata", "-2"], ["--ndata", "-2"]),
        (["--limit", "1.5"], ["limit", "1.5"]),
        (["--concurrency", "0"], ["--concurrency"]),
        (["--rate", "-1"], ["--rate"]),
        (["--rate", "nan"], ["--rate"]),
        (["--period", "0"], ["--period"]),
        (["--period", "inf"], ["--period"]),
        (["--allow-host", "localhost"], ["--allow-host", "localhost"]),
        (["--mirror", "nowhere"], ["--mirror", "nowhere"]),
        (["--mirror", "ftp://x.org/oid"], ["--mirror", "ftp://x.org/oid"]),
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused(words: list[str], parts: list[str], here: Path, both_ways: BothWays) -> None:
    """A value that cannot be used, an unknown option or an abbreviated one is named, exit 2."""
    assert_refused(*both_ways("download", *words), 2, "usage", *parts)
    assert not list(here.rglob("*.jpg"))


def test_a_wrong_option_is_one_line_for_a_user() -> None:
    """As started by a user a wrong option is one line and nothing else; --help shows what is right."""
    done = run_cli("download", "--categ", "Football")
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("oid-async: error: ")
    shown = run_cli("download", "--help")
    assert shown.code == 0
    for option in option_fields():
        assert all(flag in shown.stdout for flag in option.metadata["flags"])


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["downloa"], ["demo", "a", "b"]], ids=" ".join)
def test_wrong_commands_are_refused(words: list[str], here: Path) -> None:
    """No command, an unknown or abbreviated one, or one argument too many is refused, exit 2."""
    done = run_cli(*words, cwd=here)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("oid-async: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "kind", "parts"),
    [
        pytest.param(["--category", "Footbal"], "usage", ["'Footbal'", "nearest", "Football"], id="misspelt"),
        pytest.param(["--category", "ball"], "usage", ["'ball'", "Rugby ball"], id="half-a-name"),
        pytest.param(["--category", "/m/0nothing"], "usage", ["/m/0nothing"], id="unknown-mid"),
        pytest.param(["--category", "two\nlines"], "usage", ["two"], id="line-break"),
        pytest.param(["--annotation", "imageid.csv"], "input", ["imageid.csv", "'ImageID'", "'imageid'"], id="imageid"),
        pytest.param(["--annotation", "label.csv"], "input", ["label.csv", "'LabelName'", "'Labels'"], id="labels"),
        pytest.param(["--annotation", "page.csv"], "input", ["page.csv", "HTML"], id="web-page"),
        pytest.param(["--imageURL", "imageid.csv"], "input", ["imageid.csv", "'ImageID'", "'imageid'"], id="image-id"),
        pytest.param(["--imageURL", "url.csv"], "input", ["url.csv", "'OriginalURL'", "'OriginalUrl'"], id="url"),
        pytest.param(["--label", "one.csv"], "input", ["one.csv", "DisplayName"], id="one-column"),
        pytest.param(["--annotation", "empty.csv"], "input", ["empty.csv", "empty"], id="empty-boxes"),
        pytest.param(["--imageURL", "blank.csv"], "input", ["blank.csv", "empty"], id="blank-images"),
        pytest.param(["--label", "empty.csv"], "input", ["empty.csv", "empty"], id="empty-classes"),
        pytest.param(["--annotation", "bare.csv"], "input", ["bare.csv", "no rows"], id="bare-boxes"),
        pytest.param(["--annotation", "bare.csv.gz"], "input", ["bare.csv.gz", "no rows"], id="bare-gzip"),
        pytest.param(["--imageURL", "bare.csv"], "input", ["bare.csv", "no rows"], id="bare-images"),
        pytest.param(["--imageURL", "bare.parquet"], "input", ["bare.parquet", "no rows"], id="bare-parquet"),
        pytest.param(["--annotation", "cr.csv"], "input", ["cr.csv", "CR alone"], id="cr-boxes"),
        pytest.param(["--imageURL", "cr.csv"], "input", ["cr.csv", "CR alone"], id="cr-images"),
        pytest.param(["--label", "cr-classes.csv"], "input", ["cr-classes.csv", "CR alone"], id="cr-classes"),
        pytest.param(["--annotation", "photo.csv"], "input", ["photo.csv", "not a CSV"], id="photo"),
        pytest.param(["--label", "photo.csv"], "input", ["photo.csv", "not a CSV"], id="photo-classes"),
        pytest.param(["--imageURL", "zipped.csv"], "input", ["zipped.csv", "not a CSV"], id="gzip-called-csv"),
        pytest.param(["--annotation", "plain.csv.gz"], "input", ["plain.csv.gz", "gzip"], id="csv-called-gzip"),
        pytest.param(["--annotation", "plain.parquet"], "input", ["plain.parquet"], id="csv-called-parquet"),
        pytest.param(["--label", "nosuch.csv"], "input", ["nosuch.csv", "no such file"], id="no-such-file"),
        pytest.param(["--annotation", "file:///nosuch.csv"], "input", ["file:///nosuch.csv"], id="no-such-file-url"),
        pytest.param(["--imageURL", "."], "input", ["."], id="a-folder"),
        pytest.param(["--imageURL", "own.csv", "--source", "cvdf"], "input", ["own.csv", "Subset"], id="no-subset"),
    ],
)
def test_unusable_classes_and_tables_are_refused(
    words: list[str], kind: str, parts: list[str], mirror: Path, here: Path, both_ways: BothWays
) -> None:
    """An unknown class or an unusable table is named with what is nearest to it, exit 2, before any image."""
    command = ["download", *words, "--mirror", mirror, "--savepath", "d"]
    assert_refused(*both_ways(*command), 2, kind, *parts)
    assert not list((here / "d").rglob("*.jpg"))


@pytest.mark.parametrize("words", ["annotation=imageid.csv", "image_url=empty.csv", "annotation=photo.csv"])
async def test_a_wrong_given_table_costs_no_request(words: str, mirror: Path, here: Path, tmp_path: Path) -> None:
    """A given table that cannot be used is refused before anything is fetched."""
    option, _, name = words.partition("=")
    given: dict[str, Any] = {option: here / name}
    async with counted_origin(mirror) as (origin, asked):
        with pytest.raises(InputError):
            await oid_async.download(savepath=tmp_path / "d", mirror=origin, **given)
    assert sum(asked.values()) == 0


async def test_an_unknown_class_costs_tables_of_names_alone(mirror: Path, tmp_path: Path) -> None:
    """A misspelt class is noticed before the large tables are fetched; other kinds' names are asked for it once."""
    async with counted_origin(mirror) as (origin, asked):
        with pytest.raises(UsageError, match="Football"):
            await oid_async.download(categories=["Futball"], savepath=tmp_path / "d", mirror=origin)
    first, *others = asked
    assert first == "openimages/v7/oidv7-class-descriptions-boxable.csv"
    assert all("descriptions" in name for name in others)


@pytest.mark.parametrize(
    "query",
    [{"kinds": ["point"]}, {"select_by": "point"}, {"where": "Tree & point:Tree"}, {"caption": "a"}],
    ids=str,
)
async def test_what_a_release_lacks_costs_no_request(query: dict[str, Any], mirror: Path, tmp_path: Path) -> None:
    """A kind that the release does not have is refused before anything is fetched."""
    async with counted_origin(mirror) as (origin, asked):
        with pytest.raises(UsageError, match=r"release v5 publishes no .* of train; .*v7 ha"):
            await oid_async.plan(release="v5", savepath=tmp_path / "d", mirror=origin, **query)
    assert not asked


@pytest.mark.parametrize("savepath", ["file", "file/below"])
@pytest.mark.parametrize("command", ["download", "plan"])
def test_a_folder_that_cannot_be_made_is_the_machines_no(
    command: str, savepath: str, mirror: Path, here: Path, both_ways: BothWays
) -> None:
    """A savepath that is a file, or lies below one, stops a download with exit 3; a plan has no traceback either."""
    plain, as_json = both_ways(command, "--mirror", mirror, "--savepath", savepath)
    if command == "download":
        assert_refused(plain, as_json, 3, "storage", savepath)
    else:
        assert "Traceback" not in plain.stderr + as_json.stderr
        assert plain.code in (0, 3)
        assert isinstance(json.loads(as_json.stdout), dict)
    assert (here / "file").read_bytes() == b""


def test_a_cache_that_cannot_be_made_is_the_machines_no(mirror: Path, both_ways: BothWays) -> None:
    """A cache folder below a file stops the run with exit 3 and is named."""
    assert_refused(
        *both_ways("plan", "--mirror", mirror, "--cache-dir", "file/cache"),
        3,
        "storage",
        "file",
        "--cache-dir or OID_ASYNC_CACHE",
    )


def test_the_demo_needs_a_folder_too(both_ways: BothWays) -> None:
    """The demo into a folder that cannot be made ends like a download."""
    assert_refused(*both_ways("demo", "file/below"), 3, "storage", "file/below")


def test_a_mirror_nobody_listens_at_is_said_soon(here: Path) -> None:
    """A mirror that cannot be reached is exit 2 within ten seconds, with its address in one line."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound, not listening: refused, and nobody else gets the port meanwhile
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        started = monotonic()
        done = run_cli("download", "--mirror", url, cwd=here)
    assert monotonic() - started < 10
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("oid-async: error: ")
    assert url in done.stderr


def test_a_mirror_that_lacks_a_table_is_said(mirror: Path, both_ways: BothWays) -> None:
    """A published table that the mirror does not have is exit 2 and named."""
    (mirror / "openimages" / BOXES).unlink()
    done = both_ways("download", "--mirror", mirror, "--savepath", "d")
    assert_refused(*done, 2, "unavailable", "oidv6-train-annotations-bbox.csv", "no such file")


async def test_a_given_url_that_is_not_there_is_said(mirror: Path, tmp_path: Path) -> None:
    """A table given by an URL that answers 404 is named by that URL."""
    async with counted_origin(mirror) as (origin, _):
        with pytest.raises(UnavailableError, match=f"{origin}/gone.csv"):
            await oid_async.plan(annotation=f"{origin}/gone.csv", mirror=origin, savepath=tmp_path / "d")


async def test_a_second_run_in_the_same_folder_is_refused(mirror: Path, tmp_path: Path) -> None:
    """While one run owns a savepath another gets exit 4 or LockedError, and can go on once the first is done."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    answer = folder(mirror)

    async def hesitate(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await answer(request)

    command = ["download", "--mirror", mirror, "--savepath", tmp_path / "d"]
    async with Origin(hesitate) as origin:
        owner = asyncio.create_task(oid_async.download(savepath=tmp_path / "d", mirror=origin.url))
        await asked.wait()
        plain, as_json = [await asyncio.to_thread(run_cli, *command, *more) for more in ([], ["--json"])]
        with pytest.raises(LockedError, match="another run"):
            await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
        go_on.set()
        assert (await owner).downloaded == 1
    assert_refused(plain, as_json, 4, "locked", str(tmp_path / "d"))
    assert (await oid_async.download(savepath=tmp_path / "d", mirror=mirror)).present == 1


def test_json_prints_one_object_and_nothing_else(mirror: Path, tmp_path: Path) -> None:
    """--json puts exactly one object on stdout; messages stay on stderr; --quiet silences them."""
    command = ["--mirror", mirror, "--savepath", tmp_path / "d", "--json"]
    plan = typed("plan", *command)
    assert plan.stdout.count("\n") == 1
    assert json.loads(plan.stdout)["to_download"] == 1
    dry = typed("download", *command, "--dry-run", "--quiet")
    assert json.loads(dry.stdout).keys() == json.loads(plan.stdout).keys()
    assert dry.stderr == ""
    done = run_cli("download", *command)
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["downloaded"] == 1
    assert "1 image selected" in done.stderr


def test_quiet_says_nothing_but_errors(mirror: Path, here: Path) -> None:
    """--quiet says nothing when all is well, and one line when it is not."""
    done = run_cli("download", "--mirror", mirror, "--savepath", "d", "--quiet", cwd=here)
    assert done == Finished(0, "", "")
    assert len(list((here / "d/images").iterdir())) == 1
    wrong = run_cli("download", "--mirror", mirror, "--annotation", "empty.csv", "--quiet", cwd=here)
    assert (wrong.code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("oid-async: error: ")
    assert wrong.stderr.count("\n") == 1


def test_without_a_terminal_lines_are_plain(mirror: Path, here: Path) -> None:
    """Into a pipe go plain lines: no colour, no bars, no carriage returns."""
    done = run_cli("download", "--mirror", mirror, "--savepath", "d", cwd=here)
    shown = run_cli("download", "--help", cwd=here)
    assert done.code == shown.code == 0
    assert not {"\x1b", "\r"} & set(done.stderr + shown.stdout)
    assert done.stdout == shown.stderr == ""


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"match": "inter"}, UsageError),
        ({"limit": "3.5"}, UsageError),
        ({"limit": True}, UsageError),
        ({"limit": -2}, UsageError),
        ({"concurrency": 0}, UsageError),
        ({"period": 0.0}, UsageError),
        ({"splits": ["val"]}, UsageError),
        ({"source": ["web"]}, UsageError),
        ({"categories": [""]}, UsageError),
        ({"categories": [7]}, UsageError),
        ({"annotation": "nosuch.csv"}, InputError),
        ({"mirror": "nowhere"}, UsageError),
    ],
)
async def test_the_python_door_raises(query: dict[str, Any], error: type[OidError], tmp_path: Path) -> None:
    """The Python call raises from oid_async.errors, one line each, and prints nothing."""
    with pytest.raises(error) as caught:
        await oid_async.download(**{"savepath": tmp_path / "d", "mirror": tmp_path} | query)
    assert "\n" not in str(caught.value)


async def test_the_python_door_raises_for_the_machine(mirror: Path, here: Path) -> None:
    """A folder that cannot be made raises too."""
    with pytest.raises(StorageError, match="file"):
        await oid_async.download(savepath=here / "file/below", mirror=mirror)


def test_ids_of_a_users_own_need_boxes_of_their_own(lookalike: Path, tmp_path: Path) -> None:
    """An image table with ids of its own beside the published boxes is refused in one line that says what to do."""
    table = tmp_path / "own.csv"
    table.write_text("ImageID,OriginalURL\n1,http://x.org/1.jpg\n2,http://x.org/2.jpg\n")
    done = typed("plan", "--mirror", lookalike, "--imageURL", table, "--split", "validation")
    assert done.code == 2
    assert "--annotation" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_empty_savepath_is_refused(tmp_path: Path) -> None:
    """An unset shell variable must not fill the folder one stands in."""
    done = run_cli("download", "--savepath", "", "--category", "Football", cwd=tmp_path)
    assert (done.code, "--savepath is empty" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir() if path.name != "metadata-cache"] == []


def test_tables_whose_ids_never_meet_are_refused(tmp_path: Path) -> None:
    """No annotated image has a row in the image table: exit 2, both tables named, with ids of each."""
    (tmp_path / "classes.csv").write_text(f"{BALL},Ball\n/m/other,Other\n")
    images = tmp_path / "images.csv"
    boxes = tmp_path / "boxes.csv"
    tables = ["--label", tmp_path / "classes.csv", "--annotation", boxes, "--imageURL", images]
    for there, asked, hint in (("cam1", "cam1.jpg", "suffix such as .jpg"), (ID, "f" * 16, "different splits")):
        images.write_text(f"ImageID,OriginalURL\n{there},https://x.org/a.jpg\n")
        boxes.write_text(f"ImageID,LabelName\n{asked},{BALL}\n")
        done = typed("plan", *tables, "--savepath", tmp_path / "d")
        assert done.code == 2, done.stderr
        assert all(part in done.stderr for part in (str(boxes), str(images), there, asked, hint)), done.stderr
        boxes.write_text(f"ImageID,LabelName\n{there},/m/other\n")
        assert typed("plan", *tables, "--category", "Ball", "--savepath", tmp_path / "d").code == 0


def test_labels_that_never_meet_the_classes_are_refused(tmp_path: Path) -> None:
    """No label of the boxes is in the class table: exit 2, both tables named, with a label of each; one is enough."""
    (tmp_path / "classes.csv").write_text(f"{BALL},Ball\n/m/1,One\n")
    (tmp_path / "images.csv").write_text(f"ImageID,OriginalURL\n{ID},https://x.org/a.jpg\n")
    boxes = tmp_path / "boxes.csv"
    query = ["plan", "--label", tmp_path / "classes.csv", "--imageURL", tmp_path / "images.csv", "--annotation", boxes]
    for labels, code, hint in (
        (["/m/2"], 2, "one dataset?"),
        (["ball"], 2, "MIDs, not the names"),
        (["/m/2", "/m/1"], 0, ""),
    ):
        boxes.write_text("ImageID,LabelName\n" + "".join(f"{ID},{label}\n" for label in labels))
        done = typed(*query, "--category", "Ball", "--savepath", tmp_path / "d")
        assert done.code == code, done.stderr
        if code:
            assert all(part in done.stderr for part in (str(boxes), "classes.csv", labels[0], BALL, hint)), done.stderr
        assert typed(*query, "--savepath", tmp_path / "d").code == 0
