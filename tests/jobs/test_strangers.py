"""A folder from somebody else: nothing that it names, and no link in it, leads a command out of it.

Quick here: some files, some values. All of them, by hand: pytest -m slow tests/jobs/test_strangers.py
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.errors import InputError, OidError, UsageError
from oid_async.jobs.own_places import own_places
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.store.journal import Journal
from oid_async.store.written_files import RECORD, RECORD_SUM, read_record, write_record

UNKNOWN_ID = "0123456789abcdef"


class Watch:
    """What is opened or listed below some places, and which hosts are looked up or connected to.

    Links count as where they lead, unless they are not followed. A hook cannot be taken away: there is one for all.
    """

    def __init__(self) -> None:
        self.places: tuple[str, ...] = ()
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.places:
            return
        if event in ("socket.connect", "socket.getaddrinfo"):
            self.seen.append(f"{event} {args[1] if event == 'socket.connect' else args[:2]}")
        elif event in ("open", "os.scandir", "os.listdir") and isinstance(args[0], str | bytes | os.PathLike):
            path = os.fsdecode(args[0])
            not_followed = event == "open" and isinstance(args[2], int) and args[2] & os.O_NOFOLLOW
            where = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            where = where if not_followed else os.path.realpath(path)
            if where.startswith(self.places):
                self.seen.append(f"{event} {path}")

    @contextmanager
    def of(self, *places: str) -> Iterator[list[str]]:
        self.seen, self.places = [], places
        try:
            yield self.seen
        finally:
            self.places = ()


@pytest.fixture(scope="module")
def watch() -> Watch:
    watch = Watch()
    sys.addaudithook(watch)
    return watch


@pytest.fixture(scope="module")
def query(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the folder below was filled with."""
    folder = tmp_path_factory.mktemp("stranger")
    return {"mirror": lookalike, "splits": ["validation"], "cache_dir": folder / "cache"}


@pytest.fixture(scope="module")
def master(query: dict[str, Any]) -> Path:
    """Return a folder with files of every kind, an export, and a file that no run has written. Only read it."""
    savepath: Path = query["cache_dir"].with_name("d")

    async def fill() -> None:
        await oid_async.download(**query, savepath=savepath, kinds=["none"], limit=8)
        ids = oid_async.open(savepath).images.collect().get_column("ImageID").to_list()[:6]
        query["image_ids"] = (*ids, UNKNOWN_ID)
        query.update(kinds=["all"], traces=True, voice=True)
        await oid_async.download(**query, savepath=savepath)
        await oid_async.export(savepath=savepath, format="coco")

    asyncio.run(fill())
    return savepath


def commands(savepath: Path, query: dict[str, Any]) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what may be done with a folder, by name."""

    def read() -> None:
        with oid_async.open(savepath, cache_dir=query["cache_dir"]) as saved:
            tables = (saved.images, saved.boxes, saved.masks, saved.relationships, saved.narratives, saved.labels)
            for table in (*tables, saved.points):
                table.collect()
            assert saved.report.selected >= 0
            for image_id in saved.images.filter(Status="ok").collect().get_column("ImageID"):
                saved.image(image_id)

    given: Any = {"mirror": query["mirror"], "cache_dir": query["cache_dir"]}
    return {
        "download": lambda: oid_async.download(**query, savepath=savepath),
        "open": lambda: asyncio.to_thread(read),
        "verify": lambda: oid_async.verify(savepath=savepath, exports=True, deep=True),
        "prune": lambda: oid_async.prune(savepath),
        "export": lambda: oid_async.export(savepath=savepath, format="coco"),
        "shards": lambda: oid_async.export(savepath=savepath, format="webdataset"),
        "repair": lambda: oid_async.verify(savepath=savepath, repair=True, exports=True, **given),
    }


def footprint(place: Path) -> dict[str, object]:
    """Return every file below a folder with its bytes and time of change, every folder."""
    found: dict[str, object] = {}
    for path in place.rglob("*"):
        state = path.lstat()
        found[str(path)] = None if path.is_dir() else (state.st_mtime_ns, path.read_bytes())
    return found


def sample(savepath: Path, most: int) -> list[str]:
    """Return every file and folder of a SAVEPATH, of folders with many files of one sort so many of each."""
    names = sorted(str(path.relative_to(savepath)) for path in savepath.rglob("*"))
    kept: list[str] = []
    crowded = ("images/", "segmentation/masks/", "narrative/voice/", "export/coco/images/validation/")
    for name in names:
        start = next((start for start in crowded if name.startswith(start)), None)
        if start is None or sum(each.startswith(start) for each in kept) < most:
            kept.append(name)
    return kept


def put(sort: str, path: Path, outside: Path) -> None:
    """Replace a file or folder by something else of its name; what was there is `outside` afterwards, or gone."""
    if sort == "hard link":
        os.rename(path, outside / "x")
        os.link(outside / "x", path)
        return
    if sort == "link":
        shutil.move(path, outside / "x")
        path.symlink_to(outside / "x")
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if sort == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if sort == "link to a device" else outside / "nothing")


async def refusal(run: Callable[[], Awaitable[object]]) -> str:
    """Run a command; return why it is refused, nothing if it is not."""
    try:
        await asyncio.wait_for(run(), 60)
    except OidError as error:
        return str(error)
    return ""


async def try_each(
    master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path, sort: str, names: Iterable[str]
) -> None:
    """Put something else in the place of each file, and run every command; nothing is opened nor changed outside."""
    for name in names:
        for command in commands(tmp_path / "d", query):
            savepath, outside = tmp_path / "d", tmp_path / "outside"
            for folder in (savepath, outside):
                shutil.rmtree(folder, ignore_errors=True)
            outside.mkdir()
            shutil.copytree(master, savepath, symlinks=True)
            if sort == "hard link" and (savepath / name).is_dir():
                continue
            put(sort, savepath / name, outside)
            before = footprint(outside)
            with watch.of(str(outside), "/dev/zero") as seen:
                assert "\n" not in await refusal(commands(savepath, query)[command])
            assert footprint(outside) == before, (name, command)
            assert not [each for each in seen if not each.startswith("socket")], (name, command)


SOME = (".oid_async/journal.tsv", "images", "manifest.parquet")


@pytest.mark.parametrize("sort", ["link", pytest.param("hard link", marks=pytest.mark.slow), "pipe"])
async def test_no_link_of_some_files_is_followed(
    master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path, sort: str
) -> None:
    """What stands in the place of a journal, a lock, a table, images/ is not opened; no command hangs or crashes."""
    await try_each(master, query, watch, tmp_path, sort, SOME if sort == "link" else SOME[:1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sort", ["link", "link to nothing", "link to a device", "hard link", "pipe"])
async def test_no_link_is_followed(
    master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path, sort: str
) -> None:
    """Whatever stands in the place of any file or folder of ours is not opened, written to, or waited for."""
    await try_each(master, query, watch, tmp_path, sort, sample(master, 2))


def unfinished(master: Path, savepath: Path) -> dict[str, Any]:
    """Copy a folder as a run that was interrupted and has lost its plan leaves it; return its query.json."""
    shutil.copytree(master, savepath)
    content: dict[str, Any] = json.loads((savepath / "query.json").read_text()) | {"unfinished": {"first_line": 0}}
    (savepath / "manifest.parquet").unlink()
    for name in ("files.parquet", "files.md5"):
        (savepath / ".oid_async" / name).unlink()
    shutil.rmtree(savepath / ".oid_async" / "kept")
    return content


def values(outside: Path) -> list[Any]:
    """Return what query.json may say of anything."""
    paths = ["/etc/passwd", str(outside), str(outside / "x"), f"file://{outside}/x", "//server/share", "~root", "../x"]
    odd = [
        "",
        "\0",
        "\ud800",
        "a\nb\x1b[31m",
        "http://127.0.0.1:9/x.csv",
        "http://[::1/",
        "s3://b/k",
        "-",
        "x" * 10_000_000,
    ]
    return [*paths, *odd, None, True, -1, 0, 10**30, 1e308, float("nan"), [], {}, [[[]]], {"a": {}}, ["x"], [1], [None]]


async def try_values(master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path, step: int) -> None:
    """Give each key of query.json each value, every `step`th of them; return what was seen outside."""
    savepath, outside = tmp_path / "d", tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("ImageID,LabelName\n")
    content = unfinished(master, savepath)
    whole = tmp_path / "whole"
    shutil.copytree(master, whole)
    (whole / "images" / os.listdir(whole / "images")[0]).unlink()
    shutil.rmtree(whole / ".oid_async" / "kept")
    (whole / ".oid_async" / "files.parquet").unlink()
    keys = [*((name,) for name in content), *(("query", name) for name in content["query"])]
    places = [(names, value) for names in keys for value in values(outside)]
    before = footprint(outside)
    for names, value in places[::step]:
        changed = json.loads(json.dumps(content))
        (changed["query"] if names[0] != names[-1] else changed)[names[-1]] = value
        text = json.dumps(changed)
        (savepath / "query.json").write_text(text)
        (whole / "query.json").write_text(json.dumps({**json.loads(text), "unfinished": None}))
        tries = {name: commands(savepath, query)[name] for name in ("open", "export", "verify", "prune")}
        tries["repair"] = commands(whole, query)["repair"]
        for command, run in tries.items():
            with watch.of(str(outside), "/etc/passwd") as seen:
                words = await refusal(run)
            asked = [each for each in seen if each.startswith("socket")]
            hosts = [each for each in asked if "127.0.0.1', 9)" in each or "127.0.0.1" not in each]
            assert "\n" not in words
            assert len(words) < 100_000
            assert not hosts, (names, value, command)
            assert not [each for each in seen if not each.startswith("socket")], (names, value, command)
    assert footprint(outside) == before


async def test_no_value_of_query_json_leads_out_of_the_folder(
    master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path
) -> None:
    """A path, a host, a number too large, a list: it is used or refused in a line, and nothing outside is opened."""
    await try_values(master, query, watch, tmp_path, 601)


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_no_value_of_any_key_leads_out_of_the_folder(
    master: Path, query: dict[str, Any], watch: Watch, tmp_path: Path
) -> None:
    """Every key with some of the values, and every value with some keys: all pairs would take half an hour."""
    await try_values(master, query, watch, tmp_path, 7)


async def test_what_the_users_own_run_has_used_need_not_be_named(
    query: dict[str, Any], tmp_path: Path, cache_dir: Path
) -> None:
    """An interrupted run with a cache, a table and a list of its own is read as it is, a copy is not."""
    mirror, savepath = Path(query["mirror"]), tmp_path / "d"
    boxes, ids = tmp_path / "boxes.csv", tmp_path / "ids.txt"
    shutil.copyfile(mirror / "openimages" / "v5" / "validation-annotations-bbox.csv", boxes)
    own: Any = {"mirror": mirror, "splits": ["validation"], "cache_dir": tmp_path / "cache"}
    own |= {"annotation": boxes, "image_ids": ids}
    ids.write_text("\n".join(query["image_ids"][:6]))
    async with oid_async.stream(**own, savepath=savepath) as outcomes:
        await anext(outcomes)
    shutil.rmtree(savepath / ".oid_async" / "plan")
    assert own_places(Folder(savepath)).keys() == {"cache_dir", "annotation", "image_ids"}
    with oid_async.open(savepath) as saved:
        assert saved.images.collect().height == 6
        rows = saved.boxes.collect().height
    assert rows
    shutil.copytree(savepath, tmp_path / "copy")
    with pytest.raises(UsageError, match=r"boxes\.csv.*--annotation"):
        oid_async.open(tmp_path / "copy")
    with pytest.raises(UsageError, match=r"ids\.txt.*--image-ids"):
        await oid_async.export(savepath=tmp_path / "copy", format="coco", annotation=boxes)
    with pytest.raises(InputError, match="cache, name that with --cache-dir"):
        await oid_async.verify(savepath=tmp_path / "copy", annotation=boxes, image_ids=ids)
    given: Any = {"annotation": boxes, "image_ids": ids, "cache_dir": tmp_path / "cache"}
    with oid_async.open(tmp_path / "copy", **given) as saved:
        assert saved.boxes.collect().height == rows
    (tmp_path / "boxes.csv").rename(tmp_path / "moved.csv")
    with oid_async.open(savepath, annotation=tmp_path / "moved.csv") as saved:
        assert saved.boxes.collect().height == rows
    assert cache_dir.name not in os.listdir(tmp_path)


def test_a_linked_folder_is_named_and_savepath_may_be_a_link(tmp_path: Path) -> None:
    """A link in the place of a folder is refused before anything is written; SAVEPATH itself may be one."""
    real = SavedFolder([SavedImage("0000000000000001")], [SavedBox("0000000000000001")]).write(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    assert oid_async.open(tmp_path / "link").image("0000000000000001")
    (real / "images").rename(tmp_path / "images")
    (real / "images").symlink_to(tmp_path / "images")
    for run in (lambda: oid_async.open(real), lambda: FolderLock.take(Folder(real))):
        with pytest.raises(UsageError, match=r"images: it is a link.*make SAVEPATH itself the link"):
            run()


def test_a_hard_link_of_journal_or_lock_keeps_its_bytes(tmp_path: Path) -> None:
    """What is written in place is written into a file of its own: another name of it may be a backup's."""
    folder = Folder(tmp_path / "d")
    folder.images.mkdir(parents=True)
    (folder.images / "a.jpg").touch()
    for name in ("lock", "journal.tsv"):
        folder.state.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine\n")
        os.link(tmp_path / name, folder.state / name)
    lock = FolderLock.take(folder)
    journal = Journal(folder.journal)
    journal.forget_failures()
    journal.close()
    lock.release()
    assert folder.journal.read_text().startswith("mine\n\tforget")
    assert [(tmp_path / name).read_text() for name in ("lock", "journal.tsv")] == ["mine\n", "mine\n"]


@pytest.mark.parametrize("path", ["segmentation/masks/../../../x", "/x", "narrative/voice/./x", "a//b"])
async def test_no_path_of_a_record_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    """A record that names a file outside is damaged: nothing is read, moved or removed by it."""
    savepath = SavedFolder([SavedImage("0000000000000001")], [SavedBox("0000000000000001")]).write(tmp_path / "d")
    folder = Folder(savepath)
    folder.tmp.mkdir(parents=True)
    write_record(folder, pl.DataFrame({"path": [path], "bytes": [1], "md5": ["x"]}))
    assert read_record(folder) is None
    found = await oid_async.verify(savepath=savepath)
    assert {finding.path for finding in found.altered} == {RECORD}
    assert (savepath / RECORD_SUM).exists()
