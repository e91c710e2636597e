"""An export replaces what an export wrote and nothing else, and every file that it wrote stands in its list."""

import asyncio
import hashlib
import json
import os
import shutil
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import run_cli
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.dataset.export_list import LIST, MARKER, files_in, read_list
from oid_async.errors import InputError, StorageError, UsageError
from oid_async.jobs.export_folder import ExportFolder
from oid_async.openimages.kinds import KINDS
from oid_async.options.export import FORMATS
from oid_async.store.folder import Folder

ONE, TWO = "000000a1000000a1", "000000b2000000b2"
OLD = Path(__file__).parents[1] / "old_folders" / "0.1.0" / "exported"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return SavedFolder([SavedImage(ONE), SavedImage(TWO)], [SavedBox(ONE)]).write(tmp_path / "s")


async def export(savepath: Path, name: str = "yolo", **options: Any) -> Path:
    return Path((await oid_async.export(savepath=savepath, format=name, **options)).out)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {path: (folder / path).read_bytes() for path in files_in(folder).get_column("path")}


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("name", FORMATS)
async def test_the_list_has_every_file(saved: Path, tmp_path: Path, name: str, copy: bool) -> None:
    """Size and MD5 of whatever was written, linked, made smaller or packed; a second export takes its place."""
    pl.read_parquet(saved / "manifest.parquet").with_columns(
        MD5=pl.Series([md5(path.read_bytes()) for path in sorted((saved / "images").iterdir())])
    ).write_parquet(saved / "manifest.parquet")
    out = await export(saved, name, out=tmp_path / "e", copy=copy, max_side=64 if copy else 32)
    listed = read_list(out)
    assert listed is not None
    found = {path: body for path, body in contents(out).items() if path != LIST}
    assert {path: (size, digest) for path, size, digest in listed[0].iter_rows()} == {
        path: (len(body), md5(body)) for path, body in found.items()
    }
    assert MARKER in found
    other = "voc" if name == "coco" else "coco"
    await export(saved, other, out=tmp_path / "e")
    now = set(contents(out)) - {LIST}
    assert now == set(read_list(out)[0].get_column("path"))  # type: ignore[index]
    assert sorted(os.listdir(tmp_path)) == ["e", "s"]


def md5(body: bytes) -> str:
    return b64encode(hashlib.md5(body).digest()).decode()


@pytest.mark.parametrize(
    "path",
    ["runs/detect/train/weights/best.pt", "notes.txt", "images/train/mine.jpg", "labels/train.cache", ".DS_Store"],
)
async def test_what_others_put_there_stops_the_export(saved: Path, path: str) -> None:
    """It is named, and every file is what it was; a trainer's cache is said to be one."""
    out = await export(saved)
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_text("mine")
    before = contents(out)
    with pytest.raises(
        UsageError, match=f"{path} is no file that the export wrote.*{'cache' if '.cache' in path else ''}"
    ):
        await export(saved)
    with pytest.raises(UsageError, match=path):
        await export(saved, "coco", out=out)
    assert contents(out) == before
    (out / path).unlink()
    await export(saved)


@pytest.mark.parametrize("path", ["data.yaml", "labels/train/161_o.txt", "images/train/161_o.jpg"])
async def test_a_file_that_was_changed_stops_the_export(tmp_path: Path, path: str) -> None:
    """Labels mended by hand, of the same size too, or a picture put in place of ours are nobody's to remove."""
    saved = SavedFolder([SavedImage(ONE, name="161_o.jpg")], [SavedBox(ONE)]).write(tmp_path / "s")
    out = await export(saved)
    assert (out / path).is_file()
    body = (out / path).read_bytes()
    changed = body[:-2] + b"7\n"
    while time.time_ns() < os.lstat(out / MARKER).st_ctime_ns + 20_000_000:
        os.stat(out)
    (out / "x").write_bytes(changed)
    (out / "x").replace(out / path)
    if path.startswith("images"):
        frame = pl.read_parquet(saved / "manifest.parquet").with_columns(MD5=pl.lit(md5(body)))
        frame.write_parquet(saved / "manifest.parquet")
        listed = read_list(out)
        assert listed is not None
        frame = listed[0].with_columns(md5=pl.when(path=path).then(pl.lit(md5(body))).otherwise("md5"))
        frame.write_parquet(out / LIST)
    with pytest.raises(UsageError, match=f"{path} was changed since the export wrote it"):
        await export(saved)
    assert (out / path).read_bytes() == changed


async def test_a_copy_of_an_export_is_replaced_too(saved: Path, tmp_path: Path) -> None:
    """Copied, moved, its images linked elsewhere or fetched anew: what is in it is what the export wrote."""
    out = await export(saved)
    copy = shutil.copytree(out, tmp_path / "copy")
    await export(saved, out=copy)
    for image in (saved / "images").iterdir():
        body = image.read_bytes()
        image.unlink()
        image.write_bytes(body)
    shutil.copytree(saved / "images", tmp_path / "links", copy_function=os.link)
    await export(saved, "coco", out=out)


@pytest.mark.parametrize("more", [None, "best.pt", "images/validation/mine.png", "images/validation/mine.jpg"])
async def test_an_export_of_0_1_0_is_told_by_its_names(tmp_path: Path, more: str | None) -> None:
    """It has no list: the names of its format, and one picture an image at most, are ours."""
    folder = shutil.copytree(OLD, tmp_path / "old")
    out = folder / "export" / "coco"
    if more is not None:
        (out / more).write_text("mine")
        with pytest.raises(UsageError, match=f"{more} is no file|holds 7 files like images/validation"):
            await export(folder, "coco")
        assert (out / more).read_text() == "mine"
    else:
        await export(folder, "coco")
        assert (out / LIST).is_file()


async def test_places_that_are_none(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download's own folder, above it, in its images, a home, a file, a link to nothing: each is told in a line."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "pictures").symlink_to(saved / "images")
    places = [saved, tmp_path, saved / "images", saved / "images" / "e", saved / "narrative", home]
    before = contents(saved)
    for place in (*places, tmp_path / "file", tmp_path / "nowhere", tmp_path / "pictures"):
        done = run_cli("export", saved, "--format", "coco", "--out", place)
        assert (done.code, done.stderr.count("\n")) == (2, 1), place
        assert f"--out {place}: " in done.stderr
    assert contents(saved) == before


async def test_a_link_to_a_folder_stays_a_link(saved: Path, tmp_path: Path) -> None:
    """Who has linked the place of exports to a larger disk finds them there."""
    (tmp_path / "large").mkdir()
    (tmp_path / "e").symlink_to(tmp_path / "large")
    for name in ("coco", "yolo"):
        await export(saved, name, out=tmp_path / "e")
        assert (tmp_path / "e").is_symlink()
    assert (tmp_path / "large" / "data.yaml").is_file()


async def test_a_link_inside_an_export_is_foreign(saved: Path, tmp_path: Path) -> None:
    """A folder that was moved away and linked is not looked into, and not removed."""
    out = await export(saved)
    (out / "images" / "train").rename(tmp_path / "moved")
    (out / "images" / "train").symlink_to(tmp_path / "moved")
    with pytest.raises(UsageError, match="images/train is no file"):
        await export(saved)
    assert len(list((tmp_path / "moved").iterdir())) == 2


async def test_killed_while_the_folders_change_places(saved: Path) -> None:
    """The earlier export gets its name back; where only its removal was cut short, it is removed."""
    out = await export(saved)
    stage = out.parent / ".yolo.oid_async"
    before = contents(out)
    stage.mkdir()
    out.rename(stage / "before")
    with pytest.raises(UsageError, match="nearest"):
        await export(saved, class_map=write(saved.parent / "map", "Persom\n"))
    assert contents(out) == before
    stage.mkdir(exist_ok=True)
    shutil.copytree(out, stage / "before")
    (stage / "before" / "data.yaml").unlink()
    await export(saved)
    assert sorted(os.listdir(out.parent)) == ["yolo"]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


async def test_what_comes_in_the_very_moment_is_kept(saved: Path) -> None:
    """A trainer that writes while the folders change places loses nothing: the earlier export stays, and is named."""
    out = await export(saved)
    place = ExportFolder(out, Folder(saved))
    with place.stage() as stage:
        shutil.copytree(out, stage / "before")
        write(stage / "before" / "best.pt", "weights")
        kept = place._remove_before()
    assert kept == out.with_name("yolo.kept")
    assert (out.with_name("yolo.kept") / "best.pt").read_text() == "weights"


async def test_a_download_asks_before_it_fetches(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """An export that cannot take its place stops the download before the first request for a table."""
    query: dict[str, Any] = {"categories": ["Football"], "splits": ["validation"], "format": "yolo"}
    await oid_async.download(**query, mirror=lookalike, savepath=tmp_path / "d")
    write(tmp_path / "d" / "export" / "yolo" / "notes.txt", "mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        await oid_async.download(**query, mirror="http://127.0.0.1:1", offline=True, savepath=tmp_path / "d")


async def test_shards_of_a_download_leave_other_files_alone(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """A new folder must be empty; what comes into it later stays, and a file in a shard's place stops the run."""
    query: dict[str, Any] = {"categories": ["Football"], "format": "webdataset", "no_files": True, "mirror": lookalike}
    out = tmp_path / "out"
    out.mkdir()
    write(out / "notes.txt", "mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        await oid_async.download(**query, savepath=tmp_path / "d", out=out)
    (out / "notes.txt").unlink()
    report = await oid_async.download(**query, savepath=tmp_path / "d", out=out, splits=["validation", "train"])
    listed = read_list(out)
    assert listed is not None
    assert {path: digest for path, _, digest in listed[0].iter_rows()} == {
        path.name: md5(path.read_bytes()) for path in (*out.glob("*.tar"), out / "README.md")
    }
    kept = [write(out / name, "mine") for name in ("backup.tar.gz", "test-000000.tar", "train-000009.tar")]
    await oid_async.download(**query, savepath=tmp_path / "d", out=out, splits=["validation", "train"])
    assert all(path.read_text() == "mine" for path in kept)
    assert report.export["images"] > 0


async def test_where_nothing_can_be_written(saved: Path) -> None:
    """A read-only place is the machine's exit code."""
    with pytest.raises(StorageError):
        await export(saved, out=Path("/proc/x"))


# --- tables that are not what the run wrote ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory, lookalike: Path) -> Path:
    """A finished download of every kind."""
    folder = tmp_path_factory.mktemp("tables")
    query: dict[str, Any] = {"kinds": ["all"], "splits": ["validation"], "categories": ["Football"]}
    asyncio.run(oid_async.download(**query, mirror=lookalike, savepath=folder / "d", cache_dir=folder / "cache"))
    return folder / "d"


@pytest.mark.parametrize("table", [kind.file for kind in KINDS.values()])
async def test_a_table_that_was_cut_is_noticed(all_kinds: Path, tmp_path: Path, table: str) -> None:
    """In a line or behind one, with a record of what was written or, in a line, without it: named, exit 2."""
    folder = shutil.copytree(all_kinds, tmp_path / "d")
    path = folder / table
    whole = path.read_bytes()
    for body, edited in (
        (whole[:-9], False),
        (whole[: len(whole) // 2].rpartition(b"\n")[0] + b"\n", False),
        (whole[:-1], True),
        (whole[:-9] + b"\n", True),
        (whole[:-3] + b"0" + whole[-2:], False),
        (None, False),
    ):
        path.unlink()
        if body is not None:
            path.write_bytes(body)
        with pytest.raises(InputError, match=f"{table}: it .*verify .*--repair") as raised:
            await export(folder, "fiftyone" if "narrative" not in table else "coco", edited=edited)
        assert "\n" not in str(raised.value)
        path.write_bytes(whole)
    shutil.rmtree(folder / ".oid_async")
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=f"{table}: it ends within a line"):
        await export(folder, "coco")


async def test_edited_tables_are_taken_when_that_is_said(all_kinds: Path, tmp_path: Path) -> None:
    """Rows that a person has removed stay away, at both doors; `download --format` writes its tables anew."""
    folder = shutil.copytree(all_kinds, tmp_path / "d")
    lines = (folder / "bbox" / "bbox.csv").read_text().splitlines(keepends=True)
    write(folder / "bbox" / "bbox.csv", "".join(lines[:3]))
    done = run_cli("export", folder, "--format", "coco")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "--edited" in done.stderr
    done = run_cli("export", folder, "--format", "coco", "--edited", "--json")
    assert json.loads(done.stdout)["annotations"]["bbox"] == 2
    assert (await oid_async.export(savepath=folder, format="voc", edited=True)).annotations == {"bbox": 2}
