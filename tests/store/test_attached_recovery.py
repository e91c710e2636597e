"""Masks, recordings and cached tables after a power cut: what is torn is found out and fetched again, never trusted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.notes import notes_into
from support.published import counted_origin

from oid_async.jobs.download import Run
from oid_async.metadata.cache import every_entry
from oid_async.metadata.entry import CacheEntry, Identity
from oid_async.openimages.catalogue import published
from oid_async.options.query import Options
from oid_async.store.attached_recovery import is_torn

TEARS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "NULs": lambda body: bytes(len(body)),
    "cut": lambda body: body[: len(body) // 2],
    "a hole": lambda body: body[:60] + bytes(30) + body[90:],
    "a hole before its end": lambda body: body[:-40] + bytes(20) + body[-20:],
}
MASKS = published("masks", ["validation"])[0]


async def fetch(url: str, savepath: Path, notes: list[str]) -> dict[str, Any]:
    """Download the look-alike's validation images with masks and recordings; return their counts."""
    query: dict[str, Any] = {"kinds": ["segmentation", "narrative"], "traces": True, "voice": True}
    run = Run(Options.of(mirror=url, splits=["validation"], savepath=savepath, **query), notes_into(notes))
    report = await run.download()
    return {"masks": report.masks["downloaded"], "recordings": report.recordings["downloaded"]}


@pytest.mark.parametrize(
    "recorded", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["recorded", "not recorded"]
)
async def test_a_power_cut_leaves_no_torn_mask_or_recording(
    lookalike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """After another boot torn files are fetched again, and nothing else is, whether or not the run came to its end."""
    savepath = tmp_path / "out"
    async with counted_origin(lookalike) as (url, _):
        await fetch(url, savepath, [])
        masks, voice = savepath / "segmentation" / "masks", savepath / "narrative" / "voice"
        whole = {path: path.read_bytes() for folder in (masks, voice) for path in folder.iterdir()}
        for number, tear in enumerate(TEARS.values()):
            path = sorted(masks.iterdir())[number]
            path.write_bytes(tear(whole[path]))
        for number, name in enumerate(("empty", "NULs")):
            path = sorted(voice.iterdir())[number]
            path.write_bytes(TEARS[name](whole[path]))
        if not recorded:
            (savepath / ".oid_async" / "files.parquet").unlink()
        monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
        notes: list[str] = []
        assert await fetch(url, savepath, notes) == {"masks": len(TEARS), "recordings": 2}
        assert {path: path.read_bytes() for folder in (masks, voice) for path in folder.iterdir()} == whole
        assert sum("7 were torn: removed, to be fetched again" in note for note in notes) == 1


async def test_what_somebody_put_there_or_changed_is_no_torn_file(
    lookalike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask that was painted over is whole, other files are none of ours, and an old one is left to `verify`."""
    savepath = tmp_path / "out"
    async with counted_origin(lookalike) as (url, _):
        await fetch(url, savepath, [])
        painted, other, old = sorted((savepath / "segmentation" / "masks").iterdir())[:3]
        painted.write_bytes(other.read_bytes())
        (painted.parent / "notes.png").write_bytes(b"")
        old.write_bytes(bytes(old.stat().st_size))
        os.utime(old, (1e9, 1e9))
        monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
        notes: list[str] = []
        await fetch(url, savepath, notes)
        assert not [note for note in notes if "torn" in note]
        assert painted.exists()
        assert (painted.parent / "notes.png").exists()


def test_a_recording_that_lacks_a_block_is_torn() -> None:
    """An OGG file ends at a block of the disk, or has one that was never written, as good as never."""
    body = b"OggS" + bytes(range(1, 256)) * 90
    assert not is_torn(body)
    assert is_torn(body[:8192])
    assert is_torn(body[:4096] + bytes(4096) + body[8192:])


async def test_what_was_fetched_before_a_power_cut_is_not_gone_on_with(
    lookalike: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """The first half of a table that may hold NULs now is fetched again, unless the server states an MD5."""
    async with counted_origin(lookalike) as (url, _):
        await fetch(url, tmp_path / "out", [])
        (entry,) = (entry for entry in every_entry(cache_dir) if entry.name == MASKS.name)
        version = entry.current_version()
        assert version is not None
        assert entry.try_clear()
        identity = version.identity
        entry.raw.write_bytes(bytes(identity.bytes // 2))
        note = {"url": identity.url, "total": identity.bytes, "etag": identity.etag, "last_modified": None, "md5": None}
        entry.raw_note.write_text(json.dumps({**note, "boot": "the one before"}))
        await fetch(url, tmp_path / "again", [])
        again = entry.current_version()
        assert again is not None
        assert again.identity.md5 == identity.md5


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell which file a descriptor is of")
def test_a_new_version_is_on_the_disk_before_the_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, folder and note of a version are synced, in this order, before the version before is removed."""
    done: list[str] = []
    real_sync, real_remove = os.fsync, shutil.rmtree

    def sync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real_sync(descriptor)

    def remove(path: Path, **how: Any) -> None:
        if Path(path).exists():
            done.append(f"remove {Path(path).name}")
        real_remove(path, **how)

    monkeypatch.setattr("oid_async.store.disk.os.fsync", sync)
    monkeypatch.setattr(shutil, "rmtree", remove)
    entry = CacheEntry(tmp_path / "x.csv.table", "x.csv")
    versions = []
    for text in ("one", "two"):
        done.clear()
        lock = entry.lock()
        assert lock is not None
        with lock:
            (entry.build() / "x.csv").write_text(text)
            versions.append(entry.publish(Identity("u", 3, None, None, None), None).version)
    assert sorted(done[:2]) == ["sync in_use", "sync x.csv"]
    assert done[2:5] == ["sync building", "sync current.json.part", "sync x.csv.table"]
    assert done[5:] == [f"remove {versions[0]}"]
