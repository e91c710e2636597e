"""Masks out of remote archives: the members that are wanted and little more, whole or not at all."""

import csv
import io
import random
import shutil
import struct
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from support.mask_archives import KEY, Archives, fetch, make_archive, members_of, name_of, there
from support.published import read_csv, typed

from oid_async.events import Event
from oid_async.masks.ranges import choose_ranges
from oid_async.masks.zip_archive import TAIL_BYTES, ArchiveError, ZipMember, find_end, read_directory, unpack
from oid_async.origin.annotations import mask_png


def unpacked(archive: bytes) -> dict[str, bytes]:
    rows = [ZipMember(*row) for row in members_of(archive).select(ZipMember.__match_args__).iter_rows()]
    return {row.name: bytes(unpack(memoryview(archive)[row.start : row.stop], row)) for row in rows}


# --- the directory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
def test_members_are_those_of_zipfile(stored: bool) -> None:
    """Names, places, sizes and checksums as the standard library reads them; every member unpacks to its bytes."""
    archive, bodies = make_archive(50, stored=stored)
    assert unpacked(archive) == bodies
    with zipfile.ZipFile(io.BytesIO(archive)) as reader:
        said = {(info.filename, info.header_offset, info.compress_size, info.CRC) for info in reader.infolist()}
    assert set(members_of(archive).select("name", "start", "packed", "crc").iter_rows()) == said


class Unseekable(io.RawIOBase):
    """A stream that cannot go back, so that sizes follow the members in data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def test_data_descriptors_comments_and_what_stands_before() -> None:
    """Sizes come from the directory alone; a comment behind and a program in front do not matter."""
    stream = Unseekable()
    bodies = {name_of(number): bytes([number]) * 700 for number in range(5)}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"PK\5\6 is no end here"
        for name, body in bodies.items():
            archive.writestr(name, body)
    assert bytes(stream.data)[6] & 0x8
    assert unpacked(bytes(stream.data)) == bodies
    assert unpacked(b"#!/bin/sh\n" * 9 + bytes(stream.data)) == bodies


def test_zip64_fields_of_single_members() -> None:
    """Sizes that stand in a ZIP64 field are found there."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, archive.open(name_of(1), "w", force_zip64=True) as member:
        member.write(b"x" * 1000)
    data = bytearray(packed.getvalue())
    end = find_end(bytes(data[-TAIL_BYTES:]), len(data))
    entry = bytearray(data[end.start : end.stop])
    size, start = struct.unpack_from("<L", entry, 24)[0], struct.unpack_from("<L", entry, 42)[0]
    # As written by those who use them always: every number is in the field.
    extra = struct.pack("<2H3Q", 1, 24, size, size, start)
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    old = struct.unpack_from("<H", entry, 30)[0]
    struct.pack_into("<H", entry, 30, len(extra))
    name_end = 46 + struct.unpack_from("<H", entry, 28)[0]
    entry[name_end : name_end + old] = extra
    (row,) = read_directory(bytes(entry), end).select("start", "packed", "size").rows()
    assert row == (0, 1000, 1000)


@pytest.mark.slow
def test_more_entries_than_16_bits_can_count() -> None:
    """Beyond 65,535 entries the end of the directory is a ZIP64 one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(66_000):
            archive.writestr(zipfile.ZipInfo(name_of(number)), b"x")
    assert len(members_of(packed.getvalue())) == 66_000


def test_what_is_no_archive_is_said() -> None:
    """Neither junk nor a cut archive passes."""
    archive, _ = make_archive(3)
    for data in (b"", b"<html>", archive[:-1], archive[: len(archive) // 2]):
        with pytest.raises(ArchiveError):
            find_end(data[-TAIL_BYTES:], len(data))
    end = find_end(archive, len(archive))
    with pytest.raises(ArchiveError):
        read_directory(archive[end.start : end.stop - 5], end)


# --- the ranges ----------------------------------------------------------------------------------------------------


def test_ranges_waste_little_and_hold_every_member() -> None:
    """Whatever the members: each lies in one part, and no more than 1.2 times their bytes are asked for."""
    for seed in range(200):
        chance = random.Random(seed)
        at, members = 0, []
        for _ in range(chance.randrange(1, 80)):
            at += chance.choice((0, 0, 40, 500, 10**6))
            size = chance.randrange(60, 5000)
            members.append((at, at + size))
            at += size
        ranges = choose_ranges(members, 10**12)
        assert all(any(a <= start and stop <= b for a, b in ranges.parts) for start, stop in members)
        assert ranges.bytes <= 1.2 * ranges.members
        assert not ranges.is_complete
        assert all(one[1] <= other[0] for one, other in zip(ranges.parts, ranges.parts[1:], strict=False))


def test_all_of_it_when_that_is_cheaper() -> None:
    """A request counts as much as 64 KiB: most of a small archive is had by having all of it."""
    members = [(at, at + 1000) for at in range(0, 1_000_000, 2000)]
    assert choose_ranges(members, 1_000_000).is_complete
    assert not choose_ranges(members[:3], 1_000_000).is_complete


# --- from a server -------------------------------------------------------------------------------------------------


async def test_masks_are_the_archives_members_byte_by_byte(tmp_path: Path) -> None:
    """The wanted ones alone; a second run asks for nothing, another query's masks cost no directory."""
    archive, bodies = make_archive(3000)
    archives = Archives({KEY: archive})
    names = random.Random(3).sample(sorted(bodies), 40)
    report = await fetch(archives, tmp_path, names[:20])
    assert (report.selected, report.downloaded, report.failed) == (20, 20, 0)
    assert there(tmp_path) == {name: bodies[name] for name in names[:20]}
    assert not list((tmp_path / "tmp").iterdir())
    asked = len(archives.asked)
    again = await fetch(archives, tmp_path, names[:20])
    assert (again.present, len(archives.asked)) == (20, asked)
    more = await fetch(archives, tmp_path, names)
    assert (more.present, more.downloaded, more.directory_bytes) == (20, 20, 0)
    assert there(tmp_path) == {name: bodies[name] for name in names}


async def test_neighbours_share_requests(tmp_path: Path) -> None:
    """A hundred masks that lie side by side cost the directory once and a request or two."""
    archive, bodies = make_archive(3000)
    archives = Archives({KEY: archive})
    report = await fetch(archives, tmp_path, list(bodies)[1000:1100])
    own = sum(len(bodies[name]) for name in list(bodies)[1000:1100])
    assert report.downloaded == 100
    assert len(archives.asked) <= 6
    assert report.bytes <= 1.2 * own


async def test_a_flipped_byte_fails_its_mask_alone(tmp_path: Path) -> None:
    """What does not match its checksum is no file; the others are; the next run asks for it again."""
    archive, bodies = make_archive(200)
    names = list(bodies)[:20]
    row = members_of(archive).filter(name=names[7]).row(0, named=True)
    damaged = bytearray(archive)
    damaged[row["start"] + 30 + len(names[7]) + 300] ^= 0xFF
    archives = Archives({KEY: bytes(damaged)})
    report = await fetch(archives, tmp_path, names)
    assert [(name, reason) for name, reason, _ in report.failures] == [(names[7], "checksum")]
    assert set(there(tmp_path)) == set(names) - {names[7]}
    archives.bodies[KEY] = archive
    assert (await fetch(archives, tmp_path, names)).downloaded == 1
    assert there(tmp_path) == {name: bodies[name] for name in names}


async def test_a_server_without_ranges_is_noticed(tmp_path: Path) -> None:
    """It sends all of the archive: then all of it is taken, once, and nothing of it stays."""
    archive, bodies = make_archive(300)
    archives = Archives({KEY: archive}, ranges=False)
    names = list(bodies)[::10]
    report = await fetch(archives, tmp_path, names)
    assert (report.downloaded, report.failed) == (len(names), 0)
    assert there(tmp_path) == {name: bodies[name] for name in names}
    assert len(archives.asked) <= 3


async def test_an_archive_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    """A directory in the cache that speaks of another state is noticed, and fetched again."""
    old, _ = make_archive(400, seed=1)
    new, bodies = make_archive(500, seed=2)
    archives = Archives({KEY: old})
    await fetch(archives, tmp_path, [next(iter(unpacked(old)))])
    archives.bodies[KEY] = new
    names = list(bodies)[:9]
    report = await fetch(archives, tmp_path, names)
    assert (report.downloaded, report.failed) == (9, 0)
    assert {name: there(tmp_path)[name] for name in names} == {name: bodies[name] for name in names}


async def test_a_damaged_directory_is_fetched_anew(tmp_path: Path) -> None:
    """A directory in the cache that is not as it was stored is not believed."""
    archive, bodies = make_archive(100)
    archives, names = Archives({KEY: archive}), sorted(bodies)[:9]
    await fetch(archives, tmp_path, names[:1])
    (directory,) = (tmp_path / "cache").rglob("*.parquet")
    directory.write_bytes(bytes(directory.stat().st_size))
    report = await fetch(archives, tmp_path, names)
    assert (report.downloaded, report.failed) == (8, 0)
    assert report.directory_bytes
    assert there(tmp_path) == {name: bodies[name] for name in names}


async def test_a_directory_stays_until_another_takes_its_place(tmp_path: Path) -> None:
    """A login, an empty body or half an archive in place of an archive costs the run its masks, the cache nothing."""
    archive, bodies = make_archive(100)
    archives, names = Archives({KEY: archive}), sorted(bodies)[:9]
    await fetch(archives, tmp_path, names[:1])
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    for body in (b"<html>sign in</html>" * 9000, b"", archive[: len(archive) // 2], bytes(len(archive))):
        for ranges in (True, False):
            archives.bodies[KEY], archives.ranges = body, ranges
            report = await fetch(archives, tmp_path, names)
            assert report.failed == 8
            assert kept == {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    archives.bodies[KEY], archives.ranges = archive, True
    report = await fetch(archives, tmp_path, names)
    assert (report.downloaded, report.failed, report.directory_bytes) == (8, 0, 0)


async def test_what_is_not_there_or_leads_elsewhere(tmp_path: Path) -> None:
    """A name that no archive has fails as not_found, a missing archive too; a name that leads out is none."""
    archive, bodies = make_archive(30)
    archives = Archives({KEY: archive})
    odd = ["../../evil.png", "0/../x.png"]
    report = await fetch(archives, tmp_path, [name_of(10**6), next(iter(bodies)), "1" + next(iter(bodies))[1:], *odd])
    assert Counter(reason for _, reason, _ in report.failures) == {"not_found": 2}
    assert (report.selected, report.downloaded) == (3, 1)
    assert not (tmp_path / "evil.png").exists()


async def test_in_the_images_size(tmp_path: Path) -> None:
    """Brought to the image's size by nearest neighbour: black and white, nothing between."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name_of(1), mask_png([0.2, 0.8, 0.3, 0.9]))
    await fetch(Archives({KEY: packed.getvalue()}), tmp_path, [name_of(1)], size=(320, 240))
    with Image.open(tmp_path / "masks" / name_of(1)) as mask:
        assert mask.size == (320, 240)
        assert {value for _, value in mask.getcolors() or []} == {0, 255}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_hundred_masks_of_168_000(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The directory once and at most 1.2 times their own bytes; the figures are printed."""
    archive, bodies = make_archive(168_000, stored=True, size=1500)
    archives = Archives({KEY: archive})
    notes: list[Event] = []
    names = list(bodies)
    for wanted, what in ((names[50_000:50_100], "side by side"), (names[:: 168_000 // 99][:100], "spread")):
        for name in wanted:
            (tmp_path / "masks" / name).unlink(missing_ok=True)
        asked, began = len(archives.asked), time.monotonic()
        report = await fetch(archives, tmp_path, wanted, sink=notes.append)
        seconds = time.monotonic() - began
        own = sum(len(bodies[name]) for name in wanted)
        assert report.downloaded == len(wanted)
        assert report.bytes <= 1.2 * own
        with capsys.disabled():
            print(
                f"\n{what}: {len(wanted)} masks of {own} bytes: {report.bytes} bytes and {report.directory_bytes} of "
                f"the directory in {len(archives.asked) - asked} requests, {seconds:.2f} s; "
                f"the archive has {len(archive)}"
            )
    assert len(archives.asked) - asked <= 101


# --- as a user sees it ---------------------------------------------------------------------------------------------


def test_a_download_has_its_masks(lookalike: Path, tmp_path: Path) -> None:
    """Every row's MaskPath is a file that decodes; a category's masks alone; a lost one is fetched again."""
    folder = tmp_path / "d"
    words = ("download", "--mirror", lookalike, "--split", "test", "--savepath", folder, "--kind", "segmentation")
    done = typed(*words, "--category", "Person", "--json")
    assert done.code == 0, done.stderr
    rows = read_csv(folder / "segmentation" / "segmentation.csv")
    masks = folder / "segmentation" / "masks"
    assert {row["MaskPath"] for row in rows} == {path.name for path in masks.iterdir()}
    assert {row["Category"] for row in rows} == {"Person"}
    for row in rows:
        with Image.open(masks / row["MaskPath"]) as mask:
            mask.load()
    (masks / rows[0]["MaskPath"]).unlink()
    assert typed(*words, "--category", "Person").code == 0
    assert (masks / rows[0]["MaskPath"]).is_file()


def test_a_mask_that_fails_is_told(lookalike: Path, tmp_path: Path) -> None:
    """Exit code 1, a line, and segmentation/failures.csv; the images are all there."""
    mirror = shutil.copytree(lookalike, tmp_path / "mirror", ignore=shutil.ignore_patterns("test-masks"))
    folder = tmp_path / "d"
    done = typed("download", "--mirror", mirror, "--split", "test", "--savepath", folder, "--kind", "segmentation")
    assert done.code == 1, done.stderr
    with (folder / "segmentation" / "failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(read_csv(folder / "segmentation" / "segmentation.csv"))
    assert {row["Reason"] for row in rows} == {"not_found"}
    assert "masks failed" in done.stderr
