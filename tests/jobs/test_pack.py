"""Images straight into shards: the same bytes as an export of files, however often it was killed on the way."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.published import image_names, read_manifest, run_cli
from support.shards import members

import oid_async
from oid_async.dataset import query_digest
from oid_async.dataset.query_digest import shard_digests, typed_digest
from oid_async.errors import InputError, UsageError
from oid_async.events import Exported
from oid_async.options.query import Options
from oid_async.select import plan as plan_of

QUERY: dict[str, Any] = {
    "kinds": ["all"],
    "splits": ["validation", "test"],
    "format": "webdataset",
    "shard_size": "200K",
}


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name[0] != "."}


@pytest.fixture(scope="module")
def small_spans() -> Any:
    """Spans of a few images, as large selections have many of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_of, "_SPAN_ROWS", 16)
        yield


async def test_shards_are_those_of_an_export(
    small_spans: None, lookalike: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """Packed while they land or exported from files: the same shards. No image is left as a file, few ever are."""
    most = 0

    def listen(event: object) -> None:
        nonlocal most
        if isinstance(event, Exported):
            most = max(most, len(list((tmp_path / "p" / "images").iterdir())))

    report = await oid_async.download(
        **QUERY, no_files=True, mirror=lookalike, savepath=tmp_path / "p", on_event=listen
    )
    files = await oid_async.download(**QUERY, mirror=lookalike, savepath=tmp_path / "f")
    out = Path(report.export["out"])
    assert shards(out) == shards(Path(files.export["out"]))
    assert image_names(tmp_path / "p") == []
    assert 0 < most <= 2 * 16
    assert report.export["images"] == report.downloaded == files.downloaded
    assert report.export["annotations"] == files.export["annotations"]
    assert report.masks["selected"] == files.masks["selected"]
    one, other = read_manifest(tmp_path / "p"), read_manifest(tmp_path / "f")
    assert [row["ImageID"] for row in one] == [row["ImageID"] for row in other]
    again = await oid_async.download(**QUERY, no_files=True, mirror=lookalike, savepath=tmp_path / "p")
    assert (again.downloaded, again.present, again.requests) == (0, report.downloaded, 0)
    assert shards(out) == shards(Path(files.export["out"]))
    plan = await oid_async.plan(**QUERY, no_files=True, mirror=lookalike, savepath=tmp_path / "p")
    assert (plan.to_download, plan.present) == (0, report.downloaded)


KILLED = """
import asyncio, io, json, os, signal, sys
import oid_async, oid_async.formats.shards as shards, oid_async.select.plan as plan
import oid_async.jobs.packed_shards as packing
where, left, query = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
plan._SPAN_ROWS = 16
def count():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
class Torn(io.FileIO):
    def write(self, data):
        if where == "write" and left == 1:
            super().write(data[: len(data) // 2])
        if where == "write":
            count()
        return super().write(data)
class System:
    def __getattr__(self, name):
        return getattr(os, name)
    def unlink(self, path):
        if where == "unlink":
            count()
        os.unlink(path)
    def fsync(self, file):
        if where == "fsync":
            count()
        os.fsync(file)
shards.open_shard = lambda path, mode: Torn(path, mode)
packing.os = shards.os = System()
packing.sync = shards.sync = shards.os.fsync
asyncio.run(oid_async.download(**query))
"""


@pytest.mark.programs
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_killed_anywhere_it_ends_in_the_same_shards(
    lookalike: Path, cache_dir: Path, tmp_path: Path, seed: int
) -> None:
    """Killed inside a sample, between note and file, at a sync, and run again: the bytes of an undisturbed run."""
    draw = random.Random(seed)
    codes = []
    query = QUERY | {"kinds": ["bbox", "segmentation"], "mirror": str(lookalike), "no_files": True}
    query |= {"savepath": str(tmp_path / "killed"), "cache_dir": str(cache_dir)}
    for where, most in (("write", 30), ("unlink", 20), ("fsync", 12), ("unlink", 10))[: 1 if seed == 1 else 4]:
        command = [sys.executable, "-c", KILLED, where, str(draw.randint(1, most)), json.dumps(query)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        codes.append(ended.returncode)
    assert codes.count(-signal.SIGKILL) >= len(codes) / 2
    report = asyncio.run(oid_async.download(**query))
    whole = asyncio.run(oid_async.download(**query | {"savepath": str(tmp_path / "whole")}))
    assert shards(Path(report.export["out"])) == shards(Path(whole.export["out"]))
    assert report.export["images"] == whole.export["images"] == whole.downloaded
    assert report.export["annotations"] == whole.export["annotations"]
    assert image_names(tmp_path / "killed") == []


async def test_what_comes_later_is_packed_behind(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """An image that lands in a later run comes into a new shard; nothing is packed twice."""
    mirror = shutil.copytree(lookalike, tmp_path / "mirror")
    query: dict[str, Any] = {"categories": ["Football"], "format": "webdataset", "no_files": True, "mirror": mirror}
    place = tmp_path / "d"
    plan = await oid_async.plan(**query, savepath=place)
    pictures = sorted((mirror / "open-images-dataset" / "train").iterdir())
    bodies = {path: path.read_bytes() for path in pictures[::2]}
    for path in bodies:
        path.unlink()
    first = await oid_async.download(**query, savepath=place)
    for path, body in bodies.items():
        path.write_bytes(body)
    second = await oid_async.download(**query, savepath=place, retry_failed=True)
    assert first.failed > 0
    assert second.downloaded > 0
    assert second.present == first.downloaded
    assert second.selected == plan.selected
    found: list[str] = []
    for shard in sorted((place / "export" / "webdataset").glob("*.tar")):
        found += members(shard)
    assert sorted(found) == [row["ImageID"] for row in read_manifest(place) if row["Status"] == "ok"]


async def test_journal_and_tables_may_go(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Without .oid_async/ what is packed is known all the same."""
    query: dict[str, Any] = {"categories": ["Person"], "format": "webdataset", "no_files": True, "mirror": lookalike}
    first = await oid_async.download(**query, savepath=tmp_path / "d")
    for path in sorted((tmp_path / "d" / ".oid_async").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    again = await oid_async.download(**query, savepath=tmp_path / "d")
    assert again.present == first.downloaded


async def test_folders_of_files_and_of_shards_are_not_mixed(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Whatever would remove files, pack twice or say other things of the same shards is refused in a line."""
    files: dict[str, Any] = {"categories": ["Football"], "mirror": lookalike, "splits": ["validation"]}
    packed = files | {"format": "webdataset", "no_files": True}
    await oid_async.download(**files, savepath=tmp_path / "files")
    with pytest.raises(UsageError, match="holds images as files, which --no-files would remove"):
        await oid_async.download(**packed, savepath=tmp_path / "files")
    await oid_async.download(**packed, savepath=tmp_path / "packed")
    with pytest.raises(UsageError, match="its images are in the shards of"):
        await oid_async.download(**files, savepath=tmp_path / "packed")
    with pytest.raises(UsageError, match="holds the shards of another query"):
        await oid_async.download(**packed | {"categories": ["Person"]}, savepath=tmp_path / "packed")
    with pytest.raises(InputError, match="no files to export from"):
        await oid_async.export(savepath=tmp_path / "packed", format="coco")
    with pytest.raises(InputError, match="no files to verify"):
        await oid_async.verify(savepath=tmp_path / "packed")
    done = run_cli("verify", tmp_path / "packed")
    assert done.code == 2
    out = tmp_path / "packed" / "export" / "webdataset"
    with pytest.raises(UsageError, match="it is there and is no export"):
        await oid_async.export(savepath=tmp_path / "files", format="webdataset", out=out)
    with pytest.raises(UsageError, match="--top-up replaces"):
        await oid_async.download(**packed, top_up=True, limit=3, savepath=tmp_path / "x")


def test_a_digest_covers_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that stand at their default or say how to fetch make no difference; the hash of 0.1.0 is known."""
    plain, of_0_1_0 = shard_digests(Options())
    assert of_0_1_0 == "f6bce6982dfff01a10bc731d93e07a77a2fb3fb2e89994247ee978f503723a8c"
    assert shard_digests(Options(savepath=Path("x"), retries=9)) == (plain, of_0_1_0)
    other, other_of_0_1_0 = shard_digests(Options(seed=1))
    # It hashed the path of a class map as it was typed, and c.txt most often was.
    relative, absolute = (Options(format="coco", class_map=path) for path in ("c.txt", str(Path.cwd() / "c.txt")))
    assert typed_digest(relative) == typed_digest(absolute) != shard_digests(absolute)[1]
    assert typed_digest(Options()) is None
    assert len({plain, of_0_1_0, other, other_of_0_1_0}) == 4
    # As a later version with one more option hashes.
    monkeypatch.setattr(query_digest, "_HASHED_BY_0_1_0", query_digest._HASHED_BY_0_1_0 - {"seed"})
    assert shard_digests(Options())[0] == plain
    assert shard_digests(Options(seed=1)) == (other, None)
