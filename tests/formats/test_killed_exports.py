"""An export that is stopped or killed, at any moment and in every format, leaves nothing half under its name."""

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.saved import SavedBox, SavedFolder, SavedImage, picture, rectangle

import oid_async
from oid_async.errors import StorageError
from oid_async.formats.registry import WRITERS
from oid_async.jobs import export as export_job
from oid_async.jobs.export_folder import ExportFolder
from oid_async.options.export import FORMATS, Format

SPANS = 3


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder of three images with boxes and masks."""
    images = [SavedImage(f"{number:08x}00000000", picture=picture(64, 48)) for number in range(1, SPANS + 1)]
    boxes = [SavedBox(image.image_id) for image in images]
    masks = [(box, rectangle(64, 48, (16, 12, 48, 36))) for box in boxes]
    return SavedFolder(images, boxes, masks).write(tmp_path / "d")


def exported(saved: Path, format: Format) -> Path:
    report = asyncio.run(oid_async.export(savepath=saved, format=format))
    assert report.images == SPANS
    return Path(report.out)


def content(out: Path) -> dict[str, str]:
    """Return the MD5 of each file of an export."""
    found = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest() for path in found}


def beside(out: Path) -> set[str]:
    """Return what is next to an export, but the export."""
    return {path.name for path in out.parent.iterdir()} - {out.name}


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_fails_leaves_the_earlier_one_as_it_was(
    format: Format, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the second span: the earlier export is whole, and the next one takes its place."""
    out = exported(saved, format)
    before = content(out)
    writer: Any = WRITERS[format]
    write, spans = writer.write, []

    def some(self: object, span: object) -> None:
        write(self, span)
        spans.append(span)
        if len(spans) == SPANS - 1:
            full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write", some)
        patch.setattr(export_job, "SPAN_ROWS", 1)
        patch.setattr(export_job, "_SLOW_SPAN_ROWS", 1)
        with pytest.raises(StorageError, match="disk"):
            exported(saved, format)
    assert len(spans) == SPANS - 1
    assert content(out) == before
    # An export that can be continued stays beside the name.
    assert beside(out) == ({f".{format}.oid_async"} if format == "webdataset" else set())
    assert content(exported(saved, format)).keys() == before.keys()
    assert beside(out) == set()


@pytest.mark.parametrize("moment", ["first span", "finish", "list", "rename"])
def test_an_export_that_fails_first_is_not_there(moment: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails, nothing has the name of the export, and nothing is left beside it."""
    places: dict[str, tuple[object, str]] = {
        "first span": (WRITERS["coco"], "write"),
        "finish": (WRITERS["coco"], "finish"),
        "list": (export_job, "write_list"),
        "rename": (ExportFolder, "take"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[moment], full_disk)
        with pytest.raises(StorageError):
            exported(saved, "coco")
    assert not list((saved / "export").iterdir())
    exported(saved, "coco")


# Exports until a moment has come, says so with the pids of its processes, and waits there to be killed.
KILLED = """
import asyncio, multiprocessing, sys, time
from pathlib import Path
import oid_async
from oid_async.formats import processes
from oid_async.formats.registry import WRITERS
from oid_async.jobs import export

savepath, format, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
out = savepath / "export" / format
writer, rename, spans = WRITERS[format], Path.rename, []
write, finish = writer.write, writer.finish

def wait():
    print(*(child.pid for child in multiprocessing.active_children()), "here", flush=True)
    time.sleep(60)

def one_written(self, span):
    write(self, span)
    spans.append(span)
    if moment == "span" and len(spans) == 2:
        wait()

def finished(self):
    finish(self)
    if moment == "finish":
        wait()

def renamed(self, target):
    if moment == "before renames" and out in (self, target):
        wait()
    rename(self, target)
    if moment == "between renames" and self == out or moment == "after renames" and target == out:
        wait()

writer.write, writer.finish, Path.rename = one_written, finished, renamed
export.SPAN_ROWS = export._SLOW_SPAN_ROWS = 1
processes._WORTH_A_POOL = 0
asyncio.run(oid_async.export(savepath=savepath, format=format, processes=int(sys.argv[4])))
"""
MOMENTS = ["finish", "before renames", "between renames", "after renames"]


def kill_at(moment: str, saved: Path, format: Format, processes: int = 1) -> None:
    """Export until a moment has come, then end the program by SIGKILL, and see that its processes go, too."""
    script = [sys.executable, "-c", KILLED, str(saved), format, moment, str(processes)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        *pids, last = process.stdout.readline().split()
        process.kill()
    assert last == "here"
    # Processes are started as there is work for them.
    assert bool(pids) is (processes > 1)
    for pid in pids:
        _wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]


def _wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(300):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it does not come")


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("format", "processes"), [*((format, 1) for format in FORMATS), ("coco", 2), ("webdataset", 2)]
)
def test_a_killed_export_is_not_there(format: Format, processes: int, saved: Path) -> None:
    """SIGKILL within a span: nothing has the name; the next export is the one that would have been made at once."""
    out = exported(saved, format)
    whole = content(out)
    os.rename(out, saved / "first")
    kill_at("span", saved, format, processes)
    assert not os.path.lexists(out)
    again = content(exported(saved, format))
    assert again.keys() == whole.keys()
    assert {name for name in whole if again[name] != whole[name]} <= {".oid_async-export.list"}
    assert beside(out) == set()


@pytest.mark.cluster
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_earlier_export_outlives_a_killed_one(moment: str, saved: Path) -> None:
    """SIGKILL at the end or between the renames: what has the name is whole, and the earlier one is not lost."""
    out = exported(saved, "coco")
    earlier = content(out)
    (saved / "export" / "note.txt").write_text("mine")
    kill_at(moment, saved, "coco")
    assert beside(out) == {"note.txt", ".coco.oid_async"}
    if moment == "between renames":
        assert not out.exists()
        assert content(out.with_name(".coco.oid_async") / "before") == earlier
    else:
        assert content(out).keys() == earlier.keys()
        assert (content(out) == earlier) is (moment != "after renames")
    again = content(exported(saved, "coco"))
    assert again.keys() == earlier.keys()
    assert beside(out) == {"note.txt"}
