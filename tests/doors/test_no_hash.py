"""`--no-hash`: no MD5 is computed but to hold an original against its published one; every part goes on without."""

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.published import Box, Dataset, Image, read_manifest, tiny_jpeg, tree

import oid_async
from oid_async.cli import main as cli
from oid_async.http.etag import EtagTrust
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.store.image_check import Expected, md5_base64
from oid_async.store.image_writer import ImageWriter, ReceivedImage
from oid_async.store.journal import Journal

IDS = [f"{number:016x}" for number in range(0x10, 0x16)]
BODY = tiny_jpeg("a picture")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror of six images; only read it."""
    images = [Image(image_id, f"{image_id}_o.jpg") for image_id in IDS]
    boxes = [Box(image_id, "/m/018xm") for image_id in IDS]
    return Dataset([("/m/018xm", "Ball")], images, boxes).publish(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
async def saved(mirror: Path, tmp_path: Path) -> Path:
    """Return a folder with all images, landed without a hash."""
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d", no_hash=True)
    return tmp_path / "d"


def picture(savepath: Path, at: int) -> Path:
    return savepath / "images" / f"{IDS[at]}_o.jpg"


def hashes(savepath: Path) -> list[str | None]:
    return [row["MD5"] for row in read_manifest(savepath)]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[ImageWriter]:
    """Yield a writer that keeps no MD5."""
    folder = Folder(tmp_path / "landed")
    lock = FolderLock.take(folder)
    journal = Journal(folder.journal)
    yield ImageWriter(folder, journal, hashed=False)
    journal.close()
    lock.release()


@pytest.mark.parametrize("etag", [None, '"0123456789abcdef0123456789abcdef"'])
def test_a_copy_is_not_hashed(writer: ImageWriter, etag: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no published MD5 lands without one, and is not held against an ETag; its end must be there."""
    monkeypatch.setattr("oid_async.store.image_writer.md5_base64", lambda _: 1 / 0)
    trust = EtagTrust("h", is_md5=True)
    bodies = {IDS[0]: BODY, IDS[1]: BODY[:-9]}
    landed, cut = writer.write_batch(
        [
            ReceivedImage(
                image_id, f"{image_id}.jpg", "cvdf", "http://h/x", [body], False, len(body), Expected(), etag, trust
            )
            for image_id, body in bodies.items()
        ]
    )
    assert landed.outcome is not None
    assert (landed.outcome.status, landed.outcome.md5, landed.note) == ("downloaded", None, None)
    assert (cut.reason, cut.outcome) == ("truncated", None)


def test_an_original_is_held_against_its_md5(writer: ImageWriter) -> None:
    """The MD5 of the image table decides as ever; it is not kept either."""
    results = writer.write_batch(
        [
            ReceivedImage(
                image_id, f"{image_id}.jpg", "original", "http://h/x", [BODY], False, len(BODY),
                Expected(len(BODY), md5_base64(published)), None, EtagTrust("h"),
            )
            for image_id, published in ((IDS[0], BODY), (IDS[1], b"another picture"))
        ]
    )  # fmt: skip
    assert [landing.reason for landing in results] == [None, "checksum"]
    assert results[0].outcome is not None
    assert results[0].outcome.md5 is None


async def test_the_same_files_but_for_the_md5(mirror: Path, saved: Path, tmp_path: Path) -> None:
    """All tables and images are those of a run that hashes; the manifest's MD5 alone is null."""
    await oid_async.download(mirror=mirror, savepath=tmp_path / "hashed")
    with_md5, without = tree(tmp_path / "hashed"), tree(saved)
    assert hashes(saved) == [None] * len(IDS)
    assert None not in hashes(tmp_path / "hashed")
    for found in (with_md5, without):
        found["manifest.parquet"] = [[*row[:8], *row[9:]] for row in found["manifest.parquet"]]
        del found["query.json"]
    assert without == with_md5


async def test_what_is_there_keeps_what_is_known_of_it(mirror: Path, saved: Path, tmp_path: Path) -> None:
    """Hashing or not says nothing of images that are there: none is fetched or hashed again, either way round."""
    report = await oid_async.download(mirror=mirror, savepath=saved)
    assert (report.present, report.requests, hashes(saved)) == (len(IDS), 0, [None] * len(IDS))
    hashed = tmp_path / "hashed"
    await oid_async.download(mirror=mirror, savepath=hashed, limit=2)
    report = await oid_async.download(mirror=mirror, savepath=hashed, no_hash=True)
    assert (report.present, report.downloaded) == (2, 4)
    assert [md5 is None for md5 in hashes(hashed)] == [False] * 2 + [True] * 4


def test_verify_says_what_has_no_md5(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files without an MD5, of earlier queries too, are counted, and held against their size, start and end."""
    saved = tmp_path / "d"
    for limit in (-1, 4):
        words = ["--mirror", str(mirror), "--savepath", str(saved), "--no-hash", "--ndata", str(limit)]
        assert cli.main(["download", *words]) == 0
    found = asyncio.run(oid_async.verify(savepath=saved))
    assert (found.clean, found.checked, found.unselected, found.unhashed) == (True, 6, 2, 6)
    assert found.as_json()["unhashed"] == 6
    picture(saved, 0).write_bytes(picture(saved, 0).read_bytes()[:-2] + b"\0\0")
    assert cli.main(["verify", str(saved)]) == 1
    assert "; 6 have no MD5: size, start and end alone were checked" in capsys.readouterr().err


async def test_repair_goes_on_without(mirror: Path, saved: Path) -> None:
    """What a repair brings back is whole and has no MD5 either: it is the same query, as query.json tells it."""
    body = picture(saved, 0).read_bytes()
    picture(saved, 0).write_bytes(body[:-1])
    picture(saved, 1).unlink()
    found = await oid_async.verify(savepath=saved, repair=True, mirror=mirror)
    assert (found.clean, found.repaired, found.unhashed) == (True, 2, 6)
    assert picture(saved, 0).read_bytes() == body
    assert hashes(saved) == [None] * len(IDS)


@pytest.mark.parametrize("lost", [[".oid_async"], [".oid_async", "manifest.parquet"]], ids=["notes", "notes-manifest"])
async def test_lost_notes_cost_no_request_but_for_what_is_not_whole(mirror: Path, saved: Path, lost: list[str]) -> None:
    """Without journal, and without manifest too, files are taken back by size, start and end; none is hashed."""
    for name in lost:
        path = saved / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    end_lost = picture(saved, 0).read_bytes()[:-2] + b"\0\0"
    picture(saved, 0).write_bytes(end_lost)
    report = await oid_async.download(mirror=mirror, savepath=saved, no_hash=True)
    assert (report.present, report.downloaded) == (len(IDS) - 1, 1)
    assert picture(saved, 0).read_bytes() == end_lost
    assert hashes(saved) == [None] * len(IDS)


@pytest.mark.parametrize(
    "tear",
    [
        lambda body: b"",
        lambda body: body[:-20],
        lambda body: body[:100] + bytes(len(body) - 100),
        lambda body: body[:300] + bytes(4096) + body[4396:],
    ],
    ids=["empty", "cut", "nuls", "hole"],
)
async def test_power_cut_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tear: Callable[[bytes], bytes]
) -> None:
    """Without an MD5 to go by, another boot finds a torn file by its size, its end, or a block that was not written."""
    images = [Image(image_id, f"{image_id}_o.jpg") for image_id in IDS]
    mirror = Dataset([("/m/018xm", "Ball")], images, [Box(image_id, "/m/018xm") for image_id in IDS]).publish(tmp_path)
    noise = b"".join(hashlib.sha256(bytes([at])).digest() for at in range(250)).replace(b"\xff", b"\x01")
    for image_id in IDS:
        path = tmp_path / "open-images-dataset" / "train" / f"{image_id}.jpg"
        path.write_bytes(path.read_bytes()[:-2] + noise + b"\xff\xd9")
    query: dict[str, Any] = {"mirror": mirror, "savepath": tmp_path / "d", "no_hash": True}
    await oid_async.download(**query)
    calm = tree(tmp_path / "d")
    torn = picture(tmp_path / "d", 2)
    torn.write_bytes(tear(torn.read_bytes()))
    monkeypatch.setattr("oid_async.jobs.ownership.boot_id", lambda: "another")
    report = await oid_async.download(**query)
    assert (report.present, report.downloaded) == (len(IDS) - 1, 1)
    assert tree(tmp_path / "d") == calm
