"""`verify` and its repair beyond images: masks, recordings, exports, and what a repair takes from query.json."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.published import tree

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import InputError, UsageError


@pytest.fixture(scope="module")
def master(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with masks and recordings, next to the cache of its tables. Only read it."""
    folder = tmp_path_factory.mktemp("master")
    query: Any = {"mirror": lookalike, "savepath": folder / "d", "cache_dir": folder / "cache"}
    kinds = ["bbox", "segmentation", "narrative"]
    asyncio.run(oid_async.download(**query, kinds=kinds, splits=["validation"], traces=True, voice=True))
    return folder


@pytest.fixture
def saved(master: Path, tmp_path: Path) -> Path:
    return shutil.copytree(master / "d", tmp_path / "d")


@pytest.fixture
def given(master: Path, lookalike: Path) -> dict[str, Any]:
    """Return what a call that repairs names itself."""
    return {"mirror": lookalike, "cache_dir": master / "cache"}


def first(folder: Path) -> Path:
    return folder / sorted(os.listdir(folder))[0]


async def test_the_same_download_brings_cut_masks_and_recordings_back(saved: Path, given: dict[str, Any]) -> None:
    """A mask or recording that is missing or cut is fetched again; the others are not."""
    before = tree(saved)
    kinds = ["bbox", "segmentation", "narrative"]
    query: Any = {"kinds": kinds, "splits": ["validation"], "traces": True, "voice": True, "savepath": saved, **given}
    await oid_async.download(**query)  # the folder was made elsewhere: its query.json is now that of this one
    before["query.json"] = (saved / "query.json").read_bytes()
    os.truncate(first(saved / "segmentation" / "masks"), 50)
    first(saved / "narrative" / "voice").unlink()
    counts = (await oid_async.verify(savepath=saved)).counts
    assert (counts["truncated"], counts["missing"]) == (1, 1)
    report = await oid_async.download(**query)
    assert (report.masks["downloaded"], report.recordings["downloaded"]) == (1, 1)
    assert tree(saved) == before
    assert (await oid_async.verify(savepath=saved)).clean


async def test_a_folder_without_a_record_is_unchecked_until_a_repair(saved: Path, given: dict[str, Any]) -> None:
    """With .oid_async deleted only images are checked; a cut mask is fetched again, then all is on record."""
    shutil.rmtree(saved / ".oid_async")
    os.truncate(first(saved / "segmentation" / "masks"), 50)
    found = await oid_async.verify(savepath=saved)
    assert {finding.kind for finding in found.findings()} == {"unchecked"}
    assert {"manifest.parquet", "query.json", "bbox/bbox.csv"} < {finding.path for finding in found.unchecked}
    assert (await oid_async.verify(savepath=saved, repair=True, **given)).clean
    assert first(saved / "segmentation" / "masks").stat().st_size > 50


@pytest.mark.parametrize("recorded", [True, False])
async def test_damaged_lines_behind_the_record_are_found(saved: Path, given: dict[str, Any], recorded: bool) -> None:
    """A line of an interrupted run with a flipped byte is a finding; a repair makes the journal anew."""
    journal = saved / ".oid_async" / "journal.tsv"
    if not recorded:
        for name in ("files.parquet", "files.md5"):
            (saved / ".oid_async" / name).unlink()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(journal.read_bytes() + lines[-1] + lines[-1].replace(b"ok", b"oj"))
    before = tree(saved)
    found = [finding for finding in (await oid_async.verify(savepath=saved)).findings() if finding.kind != "unchecked"]
    assert [(each.kind, each.file_name, each.detail) for each in found] == [
        ("altered", "journal.tsv", "1 damaged line, which does not count")
    ]
    assert (await oid_async.verify(savepath=saved, repair=True, **given)).clean
    after = tree(saved)
    assert after["manifest.parquet"] == before["manifest.parquet"]


async def test_foreign_files_among_masks_are_extra_and_stay(saved: Path, given: dict[str, Any]) -> None:
    """A file that no run has written is named and left alone."""
    mine = saved / "segmentation" / "masks" / "mine.png"
    mine.write_bytes(b"mine")
    for found in (
        await oid_async.verify(savepath=saved),
        await oid_async.verify(savepath=saved, repair=True, **given),
    ):
        (finding,) = found.extra
        assert (finding.path, finding.image_id) == ("segmentation/masks/mine.png", None)
    assert mine.read_bytes() == b"mine"


async def test_a_list_and_its_copy_that_are_both_lost_are_asked_for(saved: Path, given: dict[str, Any]) -> None:
    """A repair never runs with another list than the query had."""
    ids = oid_async.open(saved).images.collect().get_column("ImageID").to_list()
    await oid_async.download(image_ids=ids[:3], splits=["validation"], savepath=saved, **given)
    (saved / "image_ids.txt").write_text(ids[5])
    assert (await oid_async.verify(savepath=saved, repair=True, **given)).clean
    assert (saved / "image_ids.txt").read_text().split() == ids[:3]
    (saved / "image_ids.txt").write_text(ids[5])
    (saved / ".oid_async" / "kept" / "image_ids.txt").unlink()
    with pytest.raises(InputError, match=r"image_ids\.txt.*--image-ids"):
        await oid_async.verify(savepath=saved, repair=True, **given)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"mirror": "http://127.0.0.1:9"}, "--mirror"),
        ({"allow_hosts": ["127.0.0.1:9"]}, "--allow-host"),
        ({"annotation": "/etc/passwd"}, "--annotation"),
        ({"label": "file:///etc/passwd"}, "--label"),
        ({"image_url": "http://127.0.0.1:9/x.csv"}, "--imageURL"),
        ({"image_url": "http://2130706433/x.csv"}, "--imageURL"),
        ({"annotation": "https://x.org/boxes.csv?REDACTED"}, "--annotation"),
        ({"image_ids": "/etc/passwd"}, "--image-ids"),
        ({"exclude_ids": "../exclude_ids.txt"}, "--exclude-ids"),
        ({"category_file": "/elsewhere/categories.txt"}, "--category-file"),
    ],
)
async def test_what_query_json_names_this_call_must_name(
    change: dict[str, Any], option: str, saved: Path, given: dict[str, Any]
) -> None:
    """No mirror, private host or local path is taken from a query.json: exit 2 names the option to give."""
    shutil.rmtree(saved / ".oid_async")
    content = json.loads((saved / "query.json").read_text())
    content["query"] |= change
    (saved / "query.json").write_text(json.dumps(content))
    if option == "--mirror":
        del given["mirror"]
    with pytest.raises(UsageError, match=option):
        await oid_async.verify(savepath=saved, repair=True, **given)


async def test_a_repair_writes_nowhere_else(saved: Path, given: dict[str, Any], tmp_path: Path) -> None:
    """`out`, `cache_dir`, `format` and how fast to fetch are not taken from query.json, and stay what they were."""
    shutil.rmtree(saved / ".oid_async")
    content = json.loads((saved / "query.json").read_text())
    odd = {"out": str(tmp_path / "out"), "format": "yolo", "cache_dir": str(tmp_path / "cache"), "rate": 0.001}
    content["query"] |= odd
    (saved / "query.json").write_text(json.dumps(content))
    first(saved / "images").unlink()
    assert (await oid_async.verify(savepath=saved, repair=True, **given)).clean
    assert os.listdir(tmp_path) == ["d"]
    assert json.loads((saved / "query.json").read_text())["query"]["rate"] == 0.001


async def test_exports_are_checked_and_written_anew(saved: Path, given: dict[str, Any]) -> None:
    """What an export wrote is compared with its list; a damaged one is made again, unless others' files are in it."""
    for name in ("yolo", "voc"):
        await oid_async.export(savepath=saved, format=name)
    before = tree(saved / "export")
    assert (await oid_async.verify(savepath=saved, exports=True)).clean
    label = next((saved / "export" / "voc").rglob("*.xml"))
    label.write_bytes(label.read_bytes()[:-3])
    (saved / "export" / "yolo" / "data.yaml").unlink()
    assert (await oid_async.verify(savepath=saved)).clean
    found = await oid_async.verify(savepath=saved, exports=True)
    assert [finding.path for finding in found.truncated] == [str(label.relative_to(saved))]
    assert [finding.path for finding in found.missing] == ["export/yolo/data.yaml"]
    (saved / "export" / "voc" / "best.pt").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"best\.pt"):
        await oid_async.verify(savepath=saved, exports=True, repair=True, **given)
    (saved / "export" / "voc" / "best.pt").unlink()
    mended = await oid_async.verify(savepath=saved, exports=True, repair=True, **given)
    assert (mended.clean, mended.repaired) == (True, 2)
    after = tree(saved / "export")
    assert {name: body for name, body in after.items() if "/." not in name} == {
        name: body for name, body in before.items() if "/." not in name
    }


def test_options_of_a_repair_go_with_repair(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--mirror without --repair is wrong usage; what was lost for good may be allowed for."""
    assert cli.main(["verify", str(saved), "--mirror", "x"]) == 2
    assert "--repair" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, '{"query":' * 100_000, "\0", '{"query": {"source": [[]]}, "site": 5}'])
def test_an_odd_query_is_one_line(text: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in query.json, a repair says in one line why it cannot be repeated."""
    shutil.rmtree(saved / ".oid_async")
    (saved / "query.json").write_text(text)
    assert cli.main(["verify", str(saved), "--repair", "--quiet", "--mirror", "http://127.0.0.1:9"]) == 2
    said = capsys.readouterr().err
    assert "query.json" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("lost", ["removed", "cut"])
async def test_the_mark_of_an_export_is_checked_and_comes_back(saved: Path, given: dict[str, Any], lost: str) -> None:
    """A marker that is gone or cut is a finding; a repair writes it anew from the list, and so the export."""
    await oid_async.export(savepath=saved, format="coco")
    marker = saved / "export" / "coco" / ".oid_async-export.json"
    if lost == "removed":
        marker.unlink()
    else:
        marker.write_bytes(marker.read_bytes()[:100])
    found = await oid_async.verify(savepath=saved, exports=True)
    assert [finding.path for finding in found.findings()] == ["export/coco/.oid_async-export.json"]
    assert (await oid_async.verify(savepath=saved, exports=True, repair=True, **given)).clean
    assert (await oid_async.verify(savepath=saved, exports=True)).clean
