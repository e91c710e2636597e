"""Archives that lie, and masks that are bombs: each fails alone, and costs no memory."""

import io
import itertools
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from support.mask_archives import (
    KEY,
    Archives,
    fetch,
    make_archive,
    members_of,
    name_of,
    png_bomb,
    png_head,
    there,
    zeros_deflated,
)
from support.memory import measured_cli
from support.published import read_csv

from oid_async.masks.zip_archive import MemberError, ZipMember, unpack
from oid_async.origin.server import published_object

OTHER_KEY = KEY.replace("masks-0", "masks-1")
_MIB = 1 << 20
COUNTER = itertools.count()


def entry_at(archive: bytes, number: int) -> int:
    """Return where the n-th entry of a directory is, in the order in which it is written."""
    at = -1
    for _ in range(number + 1):
        at = archive.index(b"PK\1\2", at + 1)
    return at


def patched(archive: bytes, field: int, form: str, value: int) -> bytes:
    """Return an archive whose second entry has another value at this offset."""
    body = bytearray(archive)
    struct.pack_into(form, body, entry_at(archive, 1) + field, value)
    return bytes(body)


def in_local_header(archive: bytes, field: int, form: str, value: int) -> bytes:
    body = bytearray(archive)
    struct.pack_into(form, body, struct.unpack_from("<L", archive, entry_at(archive, 1) + 42)[0] + field, value)
    return bytes(body)


def zip64(archive: bytes, *values: int) -> bytes:
    """Return an archive whose second entry states its offset in a ZIP64 field with these values."""
    body = bytearray(patched(archive, 42, "<L", 0xFFFFFFFF))
    at = entry_at(archive, 1)
    extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    struct.pack_into("<H", body, at + 30, len(extra))
    name_end = at + 46 + struct.unpack_from("<H", body, at + 28)[0]
    body[name_end:name_end] = extra
    end = body.rindex(b"PK\5\6")
    struct.pack_into("<L", body, end + 12, struct.unpack_from("<L", body, end + 12)[0] + len(extra))
    return bytes(body)


def again_elsewhere(archive: bytes) -> bytes:
    """Return an archive whose third entry has the second one's place."""
    first, second = (entry_at(archive, number) for number in (2, 1))
    return archive[: first + 42] + archive[second + 42 : second + 46] + archive[first + 46 :]


LIES: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "beyond the archive": (lambda zipped: patched(zipped, 42, "<L", 0xFFFFFFF0), 1, "bad_response"),
    "within the directory": (lambda zipped: patched(zipped, 42, "<L", zipped.index(b"PK\1\2")), 1, "bad_response"),
    "within another member": (lambda zipped: patched(zipped, 42, "<L", 100), 1, "checksum"),
    "the place of another": (again_elsewhere, 2, "checksum"),
    "no ZIP64 field": (zip64, 1, "bad_response"),
    "negative in a ZIP64 field": (lambda zipped: zip64(zipped, 2**64 - 1), 1, "bad_response"),
    "as far as it goes": (lambda zipped: zip64(zipped, 2**63 - 1), 1, "bad_response"),
    "4 GB packed": (lambda zipped: patched(zipped, 20, "<L", 0xFFFFFFF0), 1, "too_large"),
    "more than there is": (lambda zipped: patched(zipped, 20, "<L", 5 * _MIB), 1, "bad_response"),
    "4 GB unpacked": (lambda zipped: patched(zipped, 24, "<L", 0xFFFFFFF0), 1, "too_large"),
    "300 times its packed size": (lambda zipped: patched(zipped, 24, "<L", 300_000), 1, "too_large"),
    "another size": (lambda zipped: patched(zipped, 24, "<L", 100), 1, "checksum"),
    "another checksum": (lambda zipped: patched(zipped, 16, "<L", 1), 1, "checksum"),
    "another name at its place": (lambda zipped: in_local_header(zipped, 40, "<L", 1), 1, "checksum"),
    "another method at its place": (lambda zipped: in_local_header(zipped, 8, "<H", 0), 1, "checksum"),
    "encrypted": (lambda zipped: patched(zipped, 8, "<H", 1), 1, "bad_response"),
    "an odd method": (lambda zipped: patched(zipped, 10, "<H", 99), 1, "bad_response"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_entry_that_lies_fails_alone(tmp_path: Path, lie: str) -> None:
    """Whatever one entry of a directory states: its mask fails, with a reason, and all others are stored."""
    archive, bodies = make_archive(9)
    change, number, kind = LIES[lie]
    names = list(bodies)
    report = await fetch(Archives({KEY: change(archive)}), tmp_path, names)
    assert [(name, reason) for name, reason, _ in report.failures] == [(names[number], kind)]
    assert all(detail for _, _, detail in report.failures)
    assert there(tmp_path) == {name: body for name, body in bodies.items() if name != names[number]}


def with_end(archive: bytes, field: int, form: str, value: int) -> bytes:
    body = bytearray(archive)
    struct.pack_into(form, body, archive.rindex(b"PK\5\6") + field, value)
    return bytes(body)


def with_end64(archive: bytes, *, entries: int, size: int, offset: int, at: int | None = None) -> bytes:
    """Return an archive that states the place of its directory in 64 bits."""
    end = archive.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end if at is None else at, 1)
    return archive[:end] + record + locator + with_end(archive, 16, "<L", 0xFFFFFFFF)[end:]


USELESS: dict[str, Callable[[bytes], bytes]] = {
    "offset beyond the archive": lambda zipped: with_end(zipped, 16, "<L", 0xFFFFFFF0),
    "a directory of 4 GB": lambda zipped: with_end(zipped, 12, "<L", 0xFFFFFFF0),
    "more entries than there are": lambda zipped: with_end(with_end(zipped, 8, "<H", 900), 10, "<H", 900),
    "half a directory": lambda zipped: with_end(zipped, 12, "<L", 250),
    "no ZIP64 end": lambda zipped: with_end(zipped, 16, "<L", 0xFFFFFFFF),
    "ZIP64: all ones": lambda zipped: with_end64(zipped, entries=2**64 - 1, size=2**64 - 1, offset=2**64 - 1),
    "ZIP64: entries without end": lambda zipped: with_end64(zipped, entries=2**63, size=300, offset=0),
    "ZIP64: its end at the end": lambda zipped: with_end64(zipped, entries=1, size=1, offset=1, at=2**63) + b"",
    "no archive at all": lambda zipped: b"<html>" * 999,
}


@pytest.mark.parametrize("lie", USELESS)
async def test_an_archive_without_a_directory_fails_alone(tmp_path: Path, lie: str) -> None:
    """The masks of one archive fail, each with a reason; those of another one are stored."""
    bad, lost = make_archive(9)
    good, bodies = made_of_ones()
    archives = Archives({KEY: USELESS[lie](bad), OTHER_KEY: good})
    report = await fetch(archives, tmp_path, [*lost, *bodies])
    assert {name for name, _, _ in report.failures} == set(lost)
    assert there(tmp_path) == bodies


def told(request: web.Request, body: bytes, **headers: str) -> web.Response:
    """Return the part that is asked for, with other headers."""
    answer = published_object(request, body, "application/zip")
    for name, value in headers.items():
        answer.headers[name.replace("_", "-")] = value
    return answer


SERVERS: dict[str, tuple[Callable[[web.Request, bytes], web.Response], set[str]]] = {
    "404": (lambda request, body: web.Response(status=404), {"not_found"}),
    "403": (lambda request, body: web.Response(status=403), {"forbidden"}),
    "500": (lambda request, body: web.Response(status=500), {"server_error"}),
    "416 for all": (lambda request, body: web.Response(status=416), {"bad_response"}),
    "other bytes": (lambda request, body: told(request, body, Content_Range="bytes 0-9/100"), {"bad_response"}),
    "a range of 5,000 digits": (
        lambda request, body: told(request, body, Content_Range=f"bytes 0-9/{'9' * 5000}"),
        {"bad_response"},
    ),
    "a range of no end": (lambda request, body: told(request, body, Content_Range="bytes */*"), {"bad_response"}),
    "packed once more": (lambda request, body: told(request, body, Content_Encoding="gzip"), {"bad_response"}),
    "an archive of exabytes": (
        lambda request, body: told(request, body, Content_Range=f"bytes {10**17 - 9}-{10**17 - 1}/{10**17}"),
        {"bad_response"},
    ),
    "another archive each time": (
        lambda request, body: told(request, body, ETag=f'"{next(COUNTER)}"'),
        {"bad_response"},
    ),
    "a page": (lambda request, body: web.Response(body=b"<html>"), {"bad_response"}),
    "nothing": (lambda request, body: web.Response(body=b""), {"bad_response"}),
}


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_that_is_out_of_order_fails_its_archive_alone(tmp_path: Path, server: str) -> None:
    """Whatever is answered for one archive, its masks fail or are those of the archive, and those of others come."""
    answer, kinds = SERVERS[server]
    bad, lost = make_archive(9)
    good, bodies = made_of_ones()

    class Odd(Archives):
        async def serve(self, request: web.Request) -> web.StreamResponse:
            return answer(request, bad) if request.match_info["key"] == KEY else await super().serve(request)

    report = await fetch(Odd({OTHER_KEY: good}), tmp_path, [*lost, *bodies])
    failed = {name for name, _, _ in report.failures}
    assert failed <= set(lost)
    assert len(report.failures) == len(failed)
    assert {kind for _, kind, _ in report.failures} <= kinds
    assert there(tmp_path) == bodies | {name: body for name, body in lost.items() if name not in failed}


def made_of_ones() -> tuple[bytes, dict[str, bytes]]:
    """Return a sound archive of masks whose names begin with 1, and the masks."""
    _, bodies = make_archive(5, seed=2)
    renamed = {f"1{name[1:]}": body for name, body in bodies.items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in renamed.items():
            archive.writestr(name, body)
    return packed.getvalue(), renamed


async def test_the_later_of_two_members_of_a_name_that_can_be(tmp_path: Path) -> None:
    """A second entry of the same name that lies about its place hides no mask."""
    archive, bodies = make_archive(5)
    at, end = entry_at(archive, 1), archive.rindex(b"PK\5\6")
    entry = bytearray(archive[at : entry_at(archive, 2)])
    struct.pack_into("<L", entry, 42, 0xFFFFFFF0)
    doubled = bytearray(archive[:end] + entry + archive[end:])
    struct.pack_into("<2HL", doubled, end + len(entry) + 8, 6, 6, end - entry_at(archive, 0) + len(entry))
    report = await fetch(Archives({KEY: bytes(doubled)}), tmp_path, list(bodies))
    assert report.failures == []
    assert there(tmp_path) == bodies


async def test_what_is_no_mask_is_not_saved(tmp_path: Path) -> None:
    """No PNG, no pixels, too many pixels, in colours of more memory than a mask needs: each fails alone."""
    end = b"IEND\xaeB`\x82"
    bodies = {
        name_of(1): (b"<html>" * 20, "not_image"),
        name_of(2): (b"", "not_image"),
        name_of(3): (png_head(0, 5) + end, "not_image"),
        name_of(4): (png_head(65_000, 65_000) + end, "too_large"),
        name_of(5): (png_head(10_000, 10_001) + end, "too_large"),
        name_of(6): (png_head(6_000, 6_000)[:24] + b"\x10\6\0\0\0\0\0\0\0" + end, "too_large"),
        name_of(7): (png_head(10_000, 10_000) + end, ""),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, (body, _) in bodies.items():
            archive.writestr(name, body)
    report = await fetch(Archives({KEY: packed.getvalue()}), tmp_path, list(bodies))
    assert {name: kind for name, kind, _ in report.failures} == {n: kind for n, (_, kind) in bodies.items() if kind}
    assert list(there(tmp_path)) == [name_of(7)]


async def test_no_mask_in_the_size_of_an_image_of_gigapixels(tmp_path: Path) -> None:
    """What an image claims of its size decides the memory of a mask that is brought to it: too much is refused."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name_of(1), png_bomb(16, 16))
    report = await fetch(Archives({KEY: packed.getvalue()}), tmp_path, [name_of(1)], size=(65_000, 65_000))
    assert [kind for _, kind, _ in report.failures] == ["too_large"]


@pytest.mark.parametrize("said", [40, 2 * _MIB, 2 * _MIB + 17])
def test_no_more_is_unpacked_than_is_stated(said: int) -> None:
    """A member that goes on behind its size is a bomb: it is noticed at the first byte more."""
    for more in (0, 1, 30 * _MIB):
        packed = zeros_deflated(said + more)
        header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, 1, 0) + b"x"
        member = ZipMember("x", 0, 0, len(packed), said, zlib.crc32(bytes(said)), 8)
        if not more:
            assert bytes(unpack(memoryview(header + packed), member)) == bytes(said)
            continue
        with pytest.raises(MemberError, match="its bytes are not those"):
            unpack(memoryview(header + packed), member)


def test_bombs_cost_no_memory(lookalike: Path, tmp_path: Path) -> None:
    """500 MB of zeros, 60 MB of them, 65,000 x 65,000 pixels: under 250 MB; the other masks are there."""
    mirror = shutil.copytree(lookalike, tmp_path / "mirror")
    (path,) = list((mirror / "openimages" / "v5" / "test-masks").glob("*-0.zip"))
    with zipfile.ZipFile(path) as archive:
        bodies = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(bodies)
    zeros, fewer, pixels, *_ = names
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in bodies.items():
            archive.writestr(name, png_bomb(65_000, 65_000) if name == pixels else body)
    path.write_bytes(with_zeros(packed.getvalue(), {zeros: 500 * _MIB, fewer: 60 * _MIB}))
    folder = tmp_path / "d"
    words = ("download", "--mirror", mirror, "--split", "test", "--savepath", folder, "--kind", "segmentation")
    done = measured_cli(*words)
    failures = {row["MaskPath"]: row["Reason"] for row in read_csv(folder / "segmentation" / "failures.csv")}
    assert failures == dict.fromkeys((zeros, fewer, pixels), "too_large")
    assert done.code == 1, done.stderr
    assert done.peak_mb < 250
    stored = {path.name for path in (folder / "segmentation" / "masks").iterdir()}
    assert set(names) - stored == {zeros, fewer, pixels}


def with_zeros(archive: bytes, sizes: dict[str, int]) -> bytes:
    """Return an archive with members of zeros in place of some of its own."""
    body, entries = bytearray(), bytearray()
    members = members_of(archive)
    for row in members.iter_rows(named=True):
        name = row["name"].encode()
        if row["name"] in sizes:
            size = sizes[row["name"]]
            packed, crc = zeros_deflated(size), 0
            for _ in range(size // _MIB):
                crc = zlib.crc32(bytes(_MIB), crc)
        else:
            size, crc, at = row["size"], row["crc"], row["start"] + 30 + len(name)
            packed = archive[at : at + row["packed"]]
        facts = (20, 0, row["method"], 0, 0, crc, len(packed), size, len(name), 0)
        entries += struct.pack("<4s2B5H3L5H2L", b"PK\1\2", 20, 3, *facts, 0, 0, 0, 0, len(body)) + name
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *facts) + name + packed
    count = len(members)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), len(body), 0)
    return bytes(body + entries + end)
