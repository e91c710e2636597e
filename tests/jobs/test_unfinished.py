"""Reading the folder of a run that has not come to its end: the tables are what the run would write now."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import run_cli, typed
from support.slow_origin import Slow, origin_in_a_thread

import oid_async
from oid_async.errors import InputError
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin
from oid_async.store.journal import scan_journal

RUN = (sys.executable, "-m", "oid_async", "download", "--concurrency", "4", "--kind", "bbox", "--kind", "label")


def begin(url: str, savepath: Path, *words: str, images: int = 10) -> subprocess.Popen[str]:
    """Start a run in a process of its own, and return once some images are there."""
    command = [*RUN, "--mirror", url, "--savepath", str(savepath), "--split", "all", *words]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(list(savepath.glob("images/*"))) < images and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return run


async def begin_here(objects: Lookalike, savepath: Path, **query: Any) -> None:
    """Run until the first image is there."""
    async with Origin(objects.serve) as origin:
        outcomes = oid_async.stream(mirror=origin.url, savepath=savepath, splits=["validation"], **query)
        async with outcomes:
            await anext(outcomes)


def footprint(savepath: Path) -> dict[str, tuple[int, int]]:
    """Return every file and folder of a SAVEPATH with its size and time of change."""
    found = {str(path): path.lstat() for path in (savepath, *savepath.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def rows(savepath: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of every table of a folder, as `open` gives them."""
    with oid_async.open(savepath) as saved:
        tables = {"images": saved.images, "boxes": saved.boxes, "labels": saved.labels}
        return {name: table.collect().rows() for name, table in tables.items()}


def landed_ids(tables: dict[str, list[tuple[Any, ...]]]) -> list[str]:
    """Return the ids of the saved images."""
    return [row[0] for row in tables["images"] if row[3] == "ok"]


def check_against_journal(savepath: Path) -> int:
    """Check an unfinished folder against its journal and return how many images are saved."""
    journal = scan_journal(savepath / ".oid_async" / "journal.tsv").filter(Status="ok").collect()
    landed = dict(journal.select("ImageID", "FileName").iter_rows())
    before = footprint(savepath)
    with oid_async.open(savepath) as saved:
        images = saved.images.collect()
        assert dict(images.filter(Status="ok").select("ImageID", "FileName").iter_rows()) == landed
        others = images.filter(pl.col("Status") != "ok")
        assert others.get_column("FileName").null_count() == others.get_column("MD5").null_count() == len(others)
        assert set(saved.boxes.collect().get_column("ImageID")) <= set(landed)
        for image_id, name in list(landed.items())[:3]:
            assert saved.image(image_id) == (savepath / "images" / name).read_bytes()
        report = saved.report
        assert (report.present, report.selected) == (len(landed), 320)
        assert report.pending == 320 - len(landed) - report.failed > 0
        assert f"{len(landed)} of 320 images are saved" in saved.notes[0]
        with pytest.raises(InputError, match="was not saved"):
            saved.image(others.get_column("ImageID")[0])
    assert footprint(savepath) == before
    return len(landed)


@pytest.mark.programs
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGKILL))],
)
def test_an_interrupted_run_can_be_read(tmp_path: Path, number: signal.Signals) -> None:
    """While it is on, after a signal, without its plan, without its journal: the same tables; then the run goes on."""
    objects, out = Slow(staged=False), tmp_path / "out"
    objects.pause_s = 0.05
    with origin_in_a_thread(objects) as url:
        run = begin(url, out)
        with oid_async.open(out) as saved:
            assert 0 < saved.report.present < saved.report.pending
        run.send_signal(number)
        _, err = run.communicate(timeout=30)
        while objects.waiting:
            time.sleep(0.01)  # requests of a killed run are still being answered
        asked = objects.requests.total()
        landed = check_against_journal(out)
        if number != signal.SIGKILL:
            assert run.returncode == 128 + number
            assert err.splitlines()[-1] == (
                f"interrupted: {landed} of 320 images are saved; view, stats, export, verify and oid_async.open "
                "work on them; run the same command again to go on"
            )
        by_plan = rows(out)
        checked = typed("verify", out)
        assert (checked.code, checked.stdout) == (0, "")
        assert f"{landed} of 320 images are saved" in checked.stderr
        exported = typed("export", out, "--format", "coco", "--out", tmp_path / "coco", "--json")
        assert json.loads(exported.stdout)["images"] == landed
        assert json.loads(exported.stdout)["annotations"]["bbox"] == len(by_plan["boxes"]) > 0
        shutil.rmtree(out / ".oid_async" / "plan")
        assert rows(out) == by_plan
        again = tmp_path / "again"
        shutil.copytree(out, again)
        shutil.rmtree(again / ".oid_async")
        adopted = rows(again)
        # A killed run may have stored images that no line of its journal knew.
        assert set(landed_ids(adopted)) >= set(landed_ids(by_plan))
        assert len(adopted["images"]) == 320
        if number != signal.SIGKILL:
            assert [row[:4] for row in adopted["images"]] == [row[:4] for row in by_plan["images"]]
            assert adopted["boxes"] == by_plan["boxes"]
        assert objects.requests.total() == asked
        objects.pause_s = 0
        begin(url, out).communicate(timeout=30)
    finished = rows(out)
    with oid_async.open(out) as saved:
        assert not saved.notes
        assert (saved.report.present, saved.report.pending) == (320, 0)
    assert set(by_plan["boxes"]) < set(finished["boxes"])
    assert "unfinished" not in json.loads((out / "query.json").read_text())
    assert not (out / ".oid_async" / "plan").exists()


@pytest.mark.programs
@pytest.mark.parametrize("moments", [(1, 12), pytest.param((0, 1, 2, 12, 30), marks=pytest.mark.slow)], ids=len)
def test_a_run_killed_at_any_moment_can_be_read(tmp_path: Path, moments: tuple[int, ...]) -> None:
    """From the first moment on there is no manifest and no query, an error that says so, or all that has landed."""
    objects, out = Slow(staged=False), tmp_path / "out"
    objects.pause_s = 0.05
    chance = random.Random(16)
    with origin_in_a_thread(objects) as url:
        seen = set()
        for images in moments:
            run = begin(url, out, images=images)
            time.sleep(chance.uniform(0, 0.3))
            run.kill()
            run.communicate()
            if (out / "query.json").exists():
                seen.add(check_against_journal(out))
                checked = typed("verify", out)
                assert (checked.code, checked.stdout) == (0, "")
            else:
                with pytest.raises(InputError, match="no manifest"):
                    oid_async.open(out)
    assert seen


async def test_another_query_that_was_interrupted_is_the_one_that_is_read(tmp_path: Path) -> None:
    """Its manifest is made of the journal, and that is said; the tables of the first query are still in the folder."""
    objects, out = Slow(staged=False), tmp_path / "out"
    async with Origin(objects.serve) as origin:
        query: Any = {"mirror": origin.url, "savepath": out, "concurrency": 2}
        await oid_async.download(**query, splits=["validation"], limit=5)
        first = (out / "manifest.parquet").read_bytes()
        # The same query again leaves everything as it was, from its start on.
        text = (out / "query.json").read_bytes()
        async with oid_async.stream(**query, splits=["validation"], limit=5) as outcomes:
            await anext(outcomes)
        assert (out / "query.json").read_bytes() == text
        objects.pause_s = 0.05
        async with oid_async.stream(**query, splits=["train"], categories=["Person"]) as outcomes:
            async for outcome in outcomes:
                if outcome.status == "downloaded":
                    break
    assert (out / "manifest.parquet").read_bytes() == first
    with pytest.warns(UserWarning, match="has not come to its end.*of an earlier query"):
        saved = oid_async.open(out)
    images = saved.images.collect()
    assert images.get_column("Subset").unique().to_list() == ["train"]
    assert images.filter(Status="ok").height >= 1
    assert set(saved.boxes.collect().get_column("Category")) == {"Person"}
    assert saved.query["query"]["splits"] == ["train"]
    saved.close()
    async with Origin(objects.serve) as origin:
        objects.pause_s = 0
        await oid_async.download(mirror=origin.url, savepath=out, splits=["train"], categories=["Person"])
    assert oid_async.open(out).notes == ()


async def test_what_can_not_be_made_is_an_error_that_says_what_to_do(tmp_path: Path, cache_dir: Path) -> None:
    """Without plan and tables nothing says what was selected; with the plan alone, images can still be read."""
    objects, out = Slow(staged=False), tmp_path / "out"
    await begin_here(objects, out)
    shutil.rmtree(cache_dir)
    with oid_async.open(out) as saved:
        assert saved.images.filter(Status="ok").collect().height >= 1
        with pytest.raises(InputError, match=r"not in the cache.*run the same download again$"):
            _ = saved.boxes
    shutil.rmtree(out / ".oid_async" / "plan")
    with pytest.raises(InputError, match=r"has not come to an end.*run the same download again$"):
        oid_async.open(out)


async def test_a_list_that_was_changed_since_is_said(tmp_path: Path) -> None:
    """Without the plan the query is carried out again, on another list than the run had."""
    objects, out, ids = Slow(staged=False), tmp_path / "out", tmp_path / "ids.txt"
    await begin_here(objects, out, limit=20)
    with oid_async.open(out) as saved:
        listed = saved.images.collect().get_column("ImageID").to_list()
    ids.write_text("\n".join(listed))
    await begin_here(objects, out, image_ids=ids)
    shutil.rmtree(out / ".oid_async" / "plan")
    with oid_async.open(out) as saved:
        assert saved.images.collect().get_column("ImageID").to_list() == listed
        assert "is another one now" not in repr(saved)
    ids.write_text("\n".join(listed[:5]))
    with oid_async.open(out) as saved:
        assert "a table or list that it was given is another one now" in repr(saved)
    query = json.loads((out / "query.json").read_text())
    for damage in ({"sources": 5}, {"sources": ["elsewhere"]}, {"site": 5}, {"query": {"limit": "x"}}):
        (out / "query.json").write_text(json.dumps(query | damage))
        with pytest.raises(InputError, match=r"query\.json"):
            oid_async.open(out)


async def test_the_temporary_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `close`, at the end of a program, and of verify and export, whatever comes of them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    objects, out = Lookalike(staged=False), tmp_path / "out"
    await begin_here(objects, out, limit=30)
    with oid_async.open(out) as saved:
        assert len(os.listdir(tmp_path / "tmp")) == 1
        assert saved.boxes.collect().height
    assert os.listdir(tmp_path / "tmp") == []
    reader = f"import oid_async; print(oid_async.open({str(out)!r}).images.collect().height)"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", reader], capture_output=True, check=True)
    assert done.stdout.strip() == b"30"
    await asyncio.to_thread(run_cli, "verify", out)
    await asyncio.to_thread(run_cli, "export", out, "--format", "yolo")
    assert os.listdir(tmp_path / "tmp") == []
