"""`verify`: every file against the manifest; `--repair`: what is damaged comes back by the same query."""

import asyncio
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from support.notes import notes_into
from support.published import Box, Dataset, Image, counted_origin, read_manifest, tiny_jpeg, tree, write_table

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import InputError, LockedError, UsageError
from oid_async.events import Checked, Event
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock

BALL, PERSON = "/m/018xm", "/m/01g317"
IDS = [f"{number:016x}" for number in range(0x10, 0x1C)]
NAMES = {image_id: f"{image_id}_o.jpg" for image_id in IDS}


def publish(folder: Path, holes: Iterable[str] = ()) -> Path:
    images = [Image(image_id, NAMES[image_id], stored=image_id not in holes) for image_id in IDS]
    boxes = [Box(image_id, PERSON if at % 4 == 3 else BALL) for at, image_id in enumerate(IDS)]
    return Dataset([(BALL, "Ball"), (PERSON, "Person")], images, boxes).publish(folder)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a mirror, and with d, which holds all of its images. Only read it."""
    folder = tmp_path_factory.mktemp("master")
    query: dict[str, Any] = {"mirror": publish(folder / "mirror"), "savepath": folder / "d"}
    asyncio.run(oid_async.download(**query, cache_dir=folder / "cache"))
    return folder


@pytest.fixture
def mirror(master: Path, tmp_path: Path) -> Path:
    return shutil.copytree(master / "mirror", tmp_path / "mirror")


@pytest.fixture
def saved(master: Path, tmp_path: Path) -> Path:
    """Return a folder with all the images of the master's mirror, which repairs it."""
    return shutil.copytree(master / "d", tmp_path / "d")


def picture(savepath: Path, at: int) -> Path:
    return savepath / "images" / NAMES[IDS[at]]


def stamps(folder: Path) -> dict[str, int]:
    """Return when each file and folder was last written."""
    return {str(path): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


async def repaired(savepath: Path, **given: Any) -> oid_async.Verification:
    """Repair a folder from the mirror that it was filled from, which a call must name itself."""
    mirror = json.loads((savepath / "query.json").read_text())["query"]["mirror"]
    return await oid_async.verify(savepath=savepath, repair=True, **{"mirror": mirror, **given})


def forget_record(savepath: Path) -> None:
    """Leave a folder without a record of files, as version 0.1.0 did."""
    for name in ("files.parquet", "files.md5"):
        (savepath / ".oid_async" / name).unlink()


def found_by_kind(found: oid_async.Verification) -> dict[str, list[str]]:
    return {
        kind: [finding.file_name for finding in found.findings(kind)] for kind in found.counts if kind != "unchecked"
    }


async def test_a_whole_folder_is_clean_and_nothing_is_written(saved: Path) -> None:
    """Verifying changes no file, makes none, and finds nothing where nothing is wrong."""
    before = stamps(saved)
    found = await oid_async.verify(savepath=saved)
    assert found.clean
    assert (found.checked, found.unselected, found.repaired) == (len(IDS), 0, 0)
    assert found.missing == found.truncated == found.altered == found.extra == ()
    assert stamps(saved) == before


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff\xd9")


def _flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: list[tuple[Callable[[Path], None], str, str]] = [
    (Path.unlink, "missing", "no such file"),
    (_shorten, "truncated", "bytes"),
    (_empty, "truncated", "0 of"),
    (_lengthen, "altered", "instead of"),
    (_flip, "altered", "MD5"),
    (_make_folder, "altered", "a folder"),
    (_link_nowhere, "altered", "a link to nothing"),
    (_make_pipe, "altered", "not a file"),
]


@pytest.mark.parametrize(("damage", "kind", "words"), DAMAGES, ids=lambda value: getattr(value, "__name__", None))
async def test_each_damage_has_its_kind(damage: Callable[[Path], None], kind: str, words: str, saved: Path) -> None:
    """One damaged file is one finding, with its image, its name and what is wrong."""
    size = picture(saved, 5).stat().st_size
    damage(picture(saved, 5))
    found = await oid_async.verify(savepath=saved)
    assert not found.clean
    (finding,) = found.findings()
    assert (finding.kind, finding.image_id, finding.file_name) == (kind, IDS[5], NAMES[IDS[5]])
    assert words in finding.detail
    assert (finding.expected_bytes, finding.selected) == (size, True)
    assert getattr(found, kind) == (finding,)


@pytest.mark.parametrize("seed", range(4))
async def test_findings_equal_a_brute_force_a_few_rows_at_a_time(seed: int, saved: Path) -> None:
    """Any number of damages is found, each once, also when the manifest is read in many slices by both threads."""
    chance = random.Random(seed)
    wanted: dict[str, list[str]] = {"missing": [], "truncated": [], "altered": [], "extra": []}
    for at in chance.sample(range(len(IDS)), chance.randint(1, len(IDS))):
        damage, kind, _ = chance.choice(DAMAGES)
        damage(picture(saved, at))
        wanted[kind].append(NAMES[IDS[at]])
    for name in chance.sample(("a.jpg", "b.txt", ".hidden", "no jpeg"), 2):
        (saved / "images" / name).write_bytes(b"mine")
        wanted["extra"].append(name)
    counts: list[int] = []
    with (
        patch("oid_async.dataset.audit._SLICE_ROWS", 5),
        patch("oid_async.dataset.audit._BATCH_ROWS", 2),
        patch("oid_async.dataset.audit._NAMES_AT_ONCE", 3),
    ):
        found = await oid_async.verify(
            savepath=saved, on_event=lambda event: counts.append(event.done) if isinstance(event, Checked) else None
        )
    assert found_by_kind(found) == {kind: sorted(names) for kind, names in wanted.items()}
    assert counts == sorted(counts)
    assert counts[-1] == found.checked + found.files
    assert found.checked == len(IDS)


@pytest.mark.parametrize(("damage", "kind"), [(_flip, None), (_shorten, "truncated"), (_lengthen, "altered")])
async def test_without_md5_size_and_markers_decide(
    damage: Callable[[Path], None], kind: str | None, saved: Path
) -> None:
    """A manifest without MD5 (or without sizes too) is held against the size, the JPEG's start and its end."""
    forget_record(saved)
    manifest = pl.read_parquet(saved / "manifest.parquet")
    manifest.with_columns(MD5=pl.lit(None, pl.String)).write_parquet(saved / "manifest.parquet")
    damage(picture(saved, 0))
    body = picture(saved, 1).read_bytes()
    picture(saved, 1).write_bytes(body[:-2] + b"\0\0")
    picture(saved, 2).write_bytes(b"<html>".ljust(len(picture(saved, 2).read_bytes())))
    found = await oid_async.verify(savepath=saved)
    by_image = {finding.image_id: (finding.kind, finding.detail) for finding in found.findings()}
    assert by_image.pop(None) == ("unchecked", found.unchecked[-1].detail)
    assert by_image.pop(IDS[1]) == ("altered", "the end of the JPEG is missing")
    assert by_image.pop(IDS[2]) == ("altered", "does not start as a JPEG does")
    assert [kind for kind, _ in by_image.values()] == ([kind] if kind else [])
    manifest.with_columns(MD5=pl.lit(None, pl.String), Bytes=pl.lit(None, pl.Int64)).write_parquet(
        saved / "manifest.parquet"
    )
    again = {finding.image_id: finding.kind for finding in (await oid_async.verify(savepath=saved)).findings()}
    assert (again[IDS[1]], again[IDS[2]]) == ("truncated", "altered")


async def test_images_of_earlier_queries_are_checked_by_the_journal(mirror: Path, saved: Path) -> None:
    """What the last query does not select counts as unselected; damaged it is a finding, deleted it is nobody's."""
    await oid_async.download(categories=["Person"], mirror=mirror, savepath=saved)
    found = await oid_async.verify(savepath=saved)
    assert found.clean
    assert (found.checked, found.unselected) == (12, 9)
    _shorten(picture(saved, 0))
    picture(saved, 1).unlink()
    (finding,) = (await oid_async.verify(savepath=saved)).findings()
    assert (finding.kind, finding.image_id, finding.selected) == ("truncated", IDS[0], False)
    notes: list[str] = []
    mended = await repaired(saved, on_event=notes_into(notes))
    assert mended.clean, "it is out of the way; a query that selects it fetches it"
    assert any("kept in" in note for note in notes)
    report = await oid_async.download(mirror=mirror, savepath=saved)
    assert (report.downloaded, report.present) == (2, 10)


async def test_a_lost_journal_makes_them_extra(mirror: Path, saved: Path) -> None:
    """Without .oid_async the manifest alone says what belongs here."""
    await oid_async.download(categories=["Person"], mirror=mirror, savepath=saved)
    for path in sorted((saved / ".oid_async").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (saved / ".oid_async").rmdir()
    found = await oid_async.verify(savepath=saved)
    assert (len(found.extra), found.checked, found.unselected) == (9, 3, 0)
    assert not (saved / ".oid_async").exists()


def test_odd_names_are_told_on_one_line_each(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An extra file may be called anything; its line stays a line and can be printed."""
    for name in (b"two\nlines", b"tab\there", b"\xff\xfe.jpg", "Žofie.jpg".encode()):
        Path(os.fsdecode(os.fsencode(saved / "images") + b"/" + name)).write_bytes(b"mine")
    (saved / "images" / "album").mkdir()
    assert cli.main(["verify", str(saved)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == [
        r"\xff\xfe.jpg",
        "album",
        r"tab\there",
        r"two\nlines",
        "Žofie.jpg",
    ]
    assert {line.split("\t")[0] for line in lines} == {"extra"}


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _rename_column(path: Path) -> None:
    pl.read_parquet(path).rename({"FileName": "Name"}).write_parquet(path)


def _lead_outside(path: Path) -> None:
    frame = pl.read_parquet(path)
    frame.with_columns(FileName=pl.lit("../../secret")).write_parquet(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_tear, "cannot be read"),
        (_empty, "cannot be read"),
        (_rename_column, "'FileName'"),
        (_lead_outside, "secret"),
    ],
)
def test_without_a_usable_manifest_there_is_one_line_and_exit_2(
    damage: Callable[[Path], None], words: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest that is torn, foreign or leads outside is refused in one line; a repair makes it anew."""
    damage(saved / "manifest.parquet")
    forget_record(saved)
    assert cli.main(["verify", str(saved)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "manifest.parquet" in said.err
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    mirror = json.loads((saved / "query.json").read_text())["query"]["mirror"]
    assert cli.main(["verify", str(saved), "--repair", "--mirror", mirror]) == 0
    assert len(read_manifest(saved)) == len(IDS)


async def test_a_folder_in_use_is_not_verified(saved: Path) -> None:
    """While a run is on verify raises LockedError; while verify is on, so does a run."""
    lock = FolderLock.take(Folder(saved))
    try:
        with pytest.raises(LockedError, match=str(saved)):
            await oid_async.verify(savepath=saved)
    finally:
        lock.release()
    refused: list[bool] = []

    def claim(event: Event) -> None:
        if isinstance(event, Checked) and not refused:
            with pytest.raises(LockedError):
                FolderLock.take(Folder(saved))
            refused.append(True)

    assert (await oid_async.verify(savepath=saved, on_event=claim)).clean
    assert refused
    FolderLock.take(Folder(saved)).release()


async def test_a_lock_that_cannot_be_opened_is_no_obstacle(saved: Path) -> None:
    """A folder whose lock may not be opened, as on a read-only disk of somebody else's, can be verified."""
    with patch("oid_async.store.lock.OPENER", side_effect=PermissionError(13, "Permission denied")):
        assert (await oid_async.verify(savepath=saved)).clean


async def test_wrong_arguments_are_refused() -> None:
    """An empty path and a repair that is neither True nor False are wrong usage."""
    with pytest.raises(UsageError, match="savepath"):
        await oid_async.verify(savepath="")
    with pytest.raises(UsageError, match="repair"):
        await oid_async.verify(savepath="d", repair="yes")  # type: ignore[arg-type]


async def test_a_verification_can_be_cancelled(saved: Path) -> None:
    """Cancelled at any event it stops, leaves no task, and gives the lock back."""
    tasks: list[asyncio.Task[oid_async.Verification]] = []

    def stop(event: Event) -> None:
        tasks[0].cancel()

    with patch("oid_async.dataset.audit._BATCH_ROWS", 1):
        tasks.append(asyncio.create_task(oid_async.verify(savepath=saved, on_event=stop)))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    FolderLock.take(Folder(saved)).release()


async def test_repair_brings_everything_back(mirror: Path, tmp_path: Path) -> None:
    """What is missing, truncated or altered is fetched once each and nothing else; the tree is what it was."""
    savepath = tmp_path / "d"
    async with counted_origin(mirror) as (url, asked):
        await oid_async.download(mirror=url, savepath=savepath)
        before = tree(savepath)
        for at, (damage, _, _) in enumerate(DAMAGES):
            damage(picture(savepath, at))
        (savepath / "images" / "mine.jpg").write_bytes(b"mine")
        asked.clear()
        found = await repaired(savepath)
        pictures = {key: count for key, count in asked.items() if key.endswith(".jpg")}
    assert pictures == {f"{IMAGE_BUCKET}/train/{image_id}.jpg": 1 for image_id in IDS[: len(DAMAGES)]}
    assert found.repaired == len(DAMAGES)
    assert [finding.file_name for finding in found.findings()] == ["mine.jpg"]
    (savepath / "images" / "mine.jpg").unlink()
    assert tree(savepath) == before
    assert not (savepath / ".oid_async" / "damaged").exists()
    assert (await repaired(savepath)).repaired == 0


async def test_a_folder_with_files_in_an_images_place_is_kept(saved: Path) -> None:
    """Somebody's files are moved out of the way and stay, whatever comes in their place."""
    _make_folder(picture(saved, 0))
    (picture(saved, 0) / "letter.txt").write_text("mine")
    found = await repaired(saved)
    assert (found.clean, found.repaired) == (True, 1)
    assert (saved / ".oid_async" / "damaged" / NAMES[IDS[0]] / "letter.txt").read_text() == "mine"


async def test_what_cannot_be_had_again_is_said_and_kept(mirror: Path, saved: Path) -> None:
    """An image that is gone from its source stays a finding; its damaged file is kept until a replacement lands."""
    await oid_async.download(mirror=mirror, savepath=saved)
    original = mirror / IMAGE_BUCKET / "train" / f"{IDS[3]}.jpg"
    body = original.read_bytes()
    original.unlink()
    _shorten(picture(saved, 3))
    _flip(picture(saved, 4))
    half = picture(saved, 3).read_bytes()
    notes: list[str] = []
    found = await repaired(saved, on_event=notes_into(notes))
    (finding,) = found.findings()
    assert (finding.kind, finding.image_id, found.repaired) == ("missing", IDS[3], 1)
    assert finding.detail == "cannot be had again: not_found"
    kept = saved / ".oid_async" / "damaged" / NAMES[IDS[3]]
    assert kept.read_bytes() == half
    assert os.listdir(kept.parent) == [kept.name]
    assert any(str(kept.parent) in note and "kept" in note for note in notes)
    assert read_manifest(saved)[3]["Status"] == "failed"
    for found in (await oid_async.verify(savepath=saved), await repaired(saved)):
        (finding,) = found.findings()
        assert (finding.kind, finding.file_name) == ("missing", NAMES[IDS[3]])
    original.write_bytes(body)
    assert (await repaired(saved)).clean
    assert not kept.parent.exists()


async def test_a_repair_that_was_cut_off_goes_on(saved: Path) -> None:
    """Files that were moved away before their images came are missing, and the next repair brings them back."""
    aside = saved / ".oid_async" / "damaged"
    aside.mkdir()
    for at in (0, 1):
        picture(saved, at).rename(aside / picture(saved, at).name)
    assert len((await oid_async.verify(savepath=saved)).missing) == 2
    _shorten(picture(saved, 2))
    found = await repaired(saved)
    assert (found.clean, found.repaired) == (True, 3)
    assert not aside.exists()


async def test_repair_survives_a_lost_journal(saved: Path) -> None:
    """With the journal deleted the images come back under their names."""
    before = tree(saved)
    (saved / ".oid_async" / "journal.tsv").unlink()
    _shorten(picture(saved, 2))
    picture(saved, 4).unlink()
    found = await repaired(saved)
    assert (found.clean, found.repaired) == (True, 3)
    after = tree(saved)
    # The folder was made elsewhere: the query is now that of this one.
    assert json.loads(after.pop("query.json"))["query"].pop("savepath") == str(saved)
    del before["query.json"]
    assert after == before


async def test_repair_works_from_another_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What query.json names elsewhere this call must name, relative to where it is made."""
    publish(tmp_path / "work" / "mirror")
    rows = [{"ImageID": image_id, "LabelName": BALL} for image_id in IDS[:3]]
    write_table(tmp_path / "work" / "boxes.csv", ["ImageID", "LabelName"], rows)
    (tmp_path / "work" / "ids.txt").write_text("\n".join(IDS[:2]))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("OID_ASYNC_MIRROR", "mirror")
    await oid_async.download(annotation="boxes.csv", image_ids="ids.txt", savepath="d", cache_dir="cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OID_ASYNC_MIRROR", "http://127.0.0.1:9")
    _flip(picture(Path("work/d"), 1))
    given: Any = {"mirror": "work/mirror", "cache_dir": "work/cache"}
    with pytest.raises(UsageError, match="--annotation"):
        await oid_async.verify(savepath="work/d", repair=True, **given)
    given |= {"annotation": "work/boxes.csv", "image_ids": "work/ids.txt"}
    found = await oid_async.verify(savepath="work/d", repair=True, **given)
    assert (found.clean, found.checked, found.repaired) == (True, 2, 1)
    os.rename("work/d", "moved")
    _shorten(picture(Path("moved"), 0))
    assert (await oid_async.verify(savepath="moved", repair=True, **given)).clean, "a folder may be moved"
    assert set(os.listdir(tmp_path)) == {"moved", "work"}


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"query": 5}', '{"query": {"colour": 1}}', '{"query": {"limit": "x"}}']
)
async def test_without_a_usable_query_nothing_is_moved(text: str | None, saved: Path) -> None:
    """A query.json that cannot be repeated is refused before a damaged file is touched; verifying needs none."""
    _shorten(picture(saved, 0))
    (saved / "query.json").unlink()
    shutil.rmtree(saved / ".oid_async" / "kept")
    if text is not None:
        (saved / "query.json").write_text(text)
    with pytest.raises(InputError, match=r"query\.json.*run the download again"):
        await oid_async.verify(savepath=saved, repair=True)
    assert picture(saved, 0).exists()


def test_the_command_prints_findings_and_repairs(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Findings on stdout a line each, a summary on stderr, exit 1; as JSON one object; repaired: exit 0."""
    savepath = saved
    assert cli.main(["verify", str(savepath)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "12 images and 6 other files checked" in said.err
    picture(savepath, 0).unlink()
    _flip(picture(savepath, 1))
    assert cli.main(["verify", str(savepath)]) == 1
    said = capsys.readouterr()
    assert [line.split("\t")[:3] for line in said.out.splitlines()] == [
        ["missing", NAMES[IDS[0]], IDS[0]],
        ["altered", NAMES[IDS[1]], IDS[1]],
    ]
    assert "1 missing, 0 truncated, 1 altered, 0 extra, 0 unchecked" in said.err
    assert "--repair" in said.err
    assert cli.main(["verify", str(savepath), "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")
    assert cli.main(["verify", str(savepath), "--json"]) == 1
    given = json.loads(capsys.readouterr().out)
    assert list(given) == [
        *("savepath", "checked", "missing", "truncated", "altered", "extra", "unchecked"),
        *("unselected", "unhashed", "repaired", "files", "clean"),
    ]
    assert (given["savepath"], given["checked"], given["clean"]) == (str(savepath), 12, False)
    (missing,) = given["missing"]
    assert missing == {
        "image_id": IDS[0],
        "file_name": NAMES[IDS[0]],
        "detail": "no such file",
        "bytes": None,
        "expected_bytes": len(Image(IDS[0]).body),
        "selected": True,
        "path": f"images/{NAMES[IDS[0]]}",
    }
    mirror = json.loads((savepath / "query.json").read_text())["query"]["mirror"]
    assert cli.main(["verify", str(savepath), "--repair", "--json", "--mirror", mirror]) == 0
    given = json.loads(capsys.readouterr().out)
    assert (given["clean"], given["repaired"]) == (True, 2)


def test_the_demo_can_be_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The look-alike is started again for what its demo has lost; what fails on purpose is no finding."""
    savepath = tmp_path / "d"
    assert cli.main(["demo", str(savepath), "--quiet"]) == 0
    names = sorted(os.listdir(savepath / "images"))
    before = tree(savepath)
    (savepath / "images" / names[0]).unlink()
    (savepath / "images" / names[1]).write_bytes(tiny_jpeg("another"))
    assert cli.main(["verify", str(savepath), "--quiet"]) == 1
    assert cli.main(["verify", str(savepath), "--repair", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert tree(savepath) == before
