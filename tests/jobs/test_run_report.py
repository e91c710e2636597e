"""The file of --report: what it says, when it is written, and where it cannot be."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.scripted import Answer, Scripted, http

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import StorageError, UnavailableError, UsageError
from oid_async.jobs import run_report
from oid_async.jobs.query_document import NO_QUERY
from oid_async.options.query import Options
from oid_async.origin.lookalike import Lookalike, with_comment
from oid_async.pages import plotting

JPEG = with_comment(Lookalike().scenes[8][0], "tests")
IDS = [f"{number:016x}" for number in range(1, 13)]
PARTS = {"report", "started", "hosts", "throughput", "cpu", "version", "options"}


def scripts(**instead: list[Answer]) -> dict[str, list[Answer]]:
    """Return a bucket of twelve images, of which some are answered in another way."""
    return {
        f"/open-images-dataset/train/{image_id}.jpg": instead.get(f"_{number}", [http(200, JPEG)])
        for number, image_id in enumerate(IDS)
    }


def query(url: str, folder: Path) -> dict[str, Any]:
    listed = [f"train/{image_id}" for image_id in IDS]
    return {"image_ids": listed, "kinds": ["none"], "mirror": url, "savepath": folder / "out", "names": "id"}


async def test_the_file_says_what_the_report_of_the_call_says(tmp_path: Path) -> None:
    """Numbers of the run and of each host; the folder's query.json knows nothing of it, and nothing else is there."""
    path = tmp_path / "run.json"
    async with Scripted(scripts(_3=[http(404)])) as server:
        report = await oid_async.download(report=path, **query(server.url, tmp_path))
    said = json.loads(path.read_text())
    assert set(said) == PARTS
    assert (said["report"], said["hosts"]) == (report.as_json(), report.hosts)
    assert "hosts" not in said["report"]
    assert {name: sum(said["throughput"][name]) for name in ("images", "bytes", "failed")} == {
        "images": 11,
        "bytes": report.bytes,
        "failed": 1,
    }
    assert said["cpu"]["processes"] == 1
    assert 0 < said["cpu"]["user_s"] + said["cpu"]["system_s"] < 60
    stored = json.loads((tmp_path / "out" / "query.json").read_text())
    assert "report" in NO_QUERY
    assert "report" not in stored["query"]
    assert sorted(name for name in os.listdir(tmp_path) if name != "metadata-cache") == ["out", "run.json"]


async def test_a_stream_that_is_left_writes_its_report(tmp_path: Path) -> None:
    """Interrupted is a way to end: what was measured until then is said."""
    path = tmp_path / "out" / "run.json"
    async with (
        Scripted(scripts()) as server,
        oid_async.stream(report=path, concurrency=1, **query(server.url, tmp_path)) as outcomes,
    ):
        async for _ in outcomes:
            break
    said = json.loads(path.read_text())
    assert said["report"]["interrupted"]
    assert said["hosts"][f"127.0.0.1:{server.port}"]["images"] >= 1


async def test_a_repeated_set_has_a_report_too(tmp_path: Path) -> None:
    """What it had to fetch again is measured; an earlier report of that name is replaced."""
    path = tmp_path / "run.json"
    async with Scripted(scripts()) as server:
        await oid_async.download(report=path, **query(server.url, tmp_path))
        before = json.loads(path.read_text())
        for image_id in IDS[:2]:
            (tmp_path / "out" / "images" / f"{image_id}.jpg").unlink()
        await oid_async.repeat(tmp_path / "out", mirror=server.url, report=path)
    after = json.loads(path.read_text())
    images = [said["hosts"][f"127.0.0.1:{server.port}"]["images"] for said in (before, after)]
    assert images == [12, 2]


async def test_what_is_no_place_for_a_report_is_said_before_the_first_request(tmp_path: Path) -> None:
    """Another ending, a missing folder, a folder, a name that is the run's own, a pipe: one line, and nothing asked."""
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    wrong = {
        tmp_path / "run.txt": "ends in .html",
        tmp_path / "run": "ends in .html",
        tmp_path / "nowhere" / "run.json": "no folder",
        tmp_path / "folder.json": "it is a folder",
        tmp_path / "pipe.json": "no file that could be replaced",
        tmp_path / "out" / "query.json": "query.json there is the run's own",
        tmp_path / "out" / ".oid_async" / "run.json": "the run's own",
        tmp_path / "out" / "images" / "run.json": "the run's own",
        tmp_path / "export" / "run.json": "for the export alone",
        tmp_path / "not.json": "exclude_ids is read from this file",
    }
    (tmp_path / "not.json").write_text("[]")
    (tmp_path / "link").symlink_to("out", target_is_directory=True)
    wrong[tmp_path / "link" / "query.json"] = "the run's own"
    wrong[tmp_path / "out"] = "ends in .html"
    more: dict[str, Any] = {"format": "coco", "out": tmp_path / "export", "exclude_ids": tmp_path / "not.json"}
    async with Scripted(scripts()) as server:
        for path, words in wrong.items():
            with pytest.raises(UsageError, match=words):
                await oid_async.download(report=path, **query(server.url, tmp_path), **more)
        with pytest.raises(UsageError, match="a plan makes none"):
            await oid_async.plan(report=tmp_path / "run.json", **query(server.url, tmp_path))  # type: ignore[call-arg]
        with pytest.raises(UsageError, match="the run's own"):
            await oid_async.download(**(query(server.url, tmp_path) | dict.fromkeys(("savepath", "report"), "a.json")))
        for path in (Path("/proc/run.json"), tmp_path / f"{'n' * 251}.json"):
            with pytest.raises(StorageError, match="cannot be written to"):
                await oid_async.download(report=path, **query(server.url, tmp_path))
        assert not server.requests
    assert not (tmp_path / "out").exists()


async def test_a_run_that_fails_says_what_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that the disk stops there is a report, with the error; one that was refused leaves an earlier one."""
    path = tmp_path / "run.json"

    def full(*args: object) -> None:
        raise StorageError("no space left")

    async with Scripted(scripts()) as server:
        with monkeypatch.context() as patched:
            patched.setattr("oid_async.jobs.download._Download._write_results", full)
            with pytest.raises(StorageError):
                await oid_async.download(report=path, **query(server.url, tmp_path))
        said = json.loads(path.read_text())
        assert said["error"] == {"kind": "storage", "message": "no space left"}
        assert said["report"]["downloaded"] == 12
        with pytest.raises(UnavailableError):
            await oid_async.download(report=path, **(query(server.url, tmp_path) | {"kinds": ["bbox"]}))
    assert json.loads(path.read_text()) == said


async def test_a_report_that_cannot_be_written_after_all_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are there, and what is missing is named."""
    path = tmp_path / "run.json"

    def full(*args: object) -> None:
        raise StorageError(f"{path}: no space left")

    monkeypatch.setattr(run_report, "write_report", full)
    async with Scripted(scripts()) as server:
        with pytest.raises(StorageError, match=r"run\.json"):
            await oid_async.download(report=path, **query(server.url, tmp_path))
    assert len(list((tmp_path / "out" / "images").iterdir())) == 12
    assert (tmp_path / "out" / "manifest.parquet").exists()


async def test_without_the_library_of_plots_a_page_has_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is said once, at the start, with what to install."""
    monkeypatch.setattr(run_report, "has_library", lambda: False)
    notes: list[str] = []
    async with Scripted(scripts()) as server:
        await oid_async.download(
            report=tmp_path / "run.html",
            on_event=lambda event: notes.append(getattr(event, "text", "")),
            **query(server.url, tmp_path),
        )
    page = (tmp_path / "run.html").read_text()
    assert f"127.0.0.1:{server.port}" in page
    assert len(page) < 100_000
    assert [note for note in notes if plotting.INSTALL in note] == notes[:1]


@pytest.mark.slow
async def test_a_page_has_its_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their library is made by another process, whose time is not the run's, and which ends with the run."""
    monkeypatch.setattr(plotting, "_made", [])
    async with Scripted(scripts()) as server:
        await oid_async.download(report=tmp_path / "run.html", **query(server.url, tmp_path))
    assert len((tmp_path / "run.html").read_text()) > 500_000
    assert plotting.has_bundle()


def test_the_command_line_takes_it_where_it_fetches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """download and repeat have --report; a plan has not, nor has --dry-run."""
    for words in (["plan"], ["download", "--dry-run"]):
        assert cli.main([*words, "--report", str(tmp_path / "run.json")]) == 2
        assert "--report" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


async def test_an_interrupt_does_not_wait_for_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a page without them is written at once."""
    monkeypatch.setattr(plotting, "_made", [])
    hanging = asyncio.Event()

    async def hang(writer: asyncio.StreamWriter) -> None:
        hanging.set()
        await asyncio.sleep(30)

    async with Scripted(scripts(_0=[hang])) as server:
        run = asyncio.create_task(oid_async.download(report=tmp_path / "run.html", **query(server.url, tmp_path)))
        await hanging.wait()
        run.cancel()
        began = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert asyncio.get_running_loop().time() - began < 10
    assert "interrupted" in (tmp_path / "run.html").read_text()


def test_a_run_that_must_be_ended_by_force_has_its_report_unless_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written beside the loop, which hangs; a disk that hangs as well is not waited for."""
    report = oid_async.Report(selected=3, pending=3, interrupted=True)
    for name in ("run.json", "run.html"):
        run_report.write_at_forced_end(Options.of(report=tmp_path / name), report)
        assert "interrupted" in (tmp_path / name).read_text()
    released = threading.Event()
    monkeypatch.setattr(run_report, "write_report", lambda *_, **__: released.wait(30))
    began = time.monotonic()
    run_report.write_at_forced_end(Options.of(report=tmp_path / "run.json"), report)
    assert time.monotonic() - began < 20
    released.set()
    run_report.write_at_forced_end(Options(), report)
