"""What counts as the image: headers walked without decoding, the end marker, the order of verdicts, ETags."""

import csv
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile_jpegs import EOI, SOI, segment

from oid_async.http.etag import EtagTrust, etag_md5
from oid_async.report import kind_of
from oid_async.store.file_bytes import FileBytes
from oid_async.store.image_check import Expected, JpegHeader, is_complete, md5_base64, read_header, refuse, refuse_start

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
SCENES = files("oid_async.origin") / "scenes"

CODED = bytes(range(1, 200)) + b"\xff\x00" + bytes(range(50)) + b"\xff\xd0" + bytes(range(1, 99))


def frame(width: int, height: int, marker: int = 0xC0) -> bytes:
    components = b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    return segment(marker, b"\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x03" + components)


def jpeg(*segments: bytes) -> bytes:
    return SOI + b"".join(segments) + segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00") + CODED + EOI


TABLES = segment(0xDB, bytes(65)) + segment(0xC4, b"\x11" * 40)
THUMBNAIL = jpeg(TABLES, frame(160, 120))
EXIF = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + THUMBNAIL + b"\0\0")
WITH_THUMBNAIL = jpeg(EXIF, TABLES, frame(1024, 683))


def scene_bodies() -> dict[str, tuple[bytes, int, int]]:
    listing = json.loads((SCENES / "scenes.json").read_text(encoding="utf-8"))
    return {
        scene["file"]: ((SCENES / scene["file"]).read_bytes(), scene["width"], scene["height"]) for scene in listing
    }


BODIES = scene_bodies()


@pytest.mark.parametrize("name", sorted(BODIES))
def test_scene_size_is_read(name: str) -> None:
    """The header of every drawn scene gives the size that it was drawn at, and its scan is found."""
    body, width, height = BODIES[name]
    header = read_header(body)
    assert (header.width, header.height) == (width, height)
    assert header.scan_at is not None
    assert body[header.scan_at : header.scan_at + 2] == b"\xff\xda"


@pytest.mark.parametrize(
    ("body", "size"),
    [
        pytest.param(jpeg(TABLES, frame(640, 480)), (640, 480), id="baseline"),
        pytest.param(jpeg(TABLES, frame(640, 480, 0xC1)), (640, 480), id="extended"),
        pytest.param(jpeg(TABLES, frame(1024, 768, 0xC2)), (1024, 768), id="progressive"),
        pytest.param(jpeg(frame(7, 9, 0xCA)), (7, 9), id="arithmetic-progressive"),
        pytest.param(WITH_THUMBNAIL, (1024, 683), id="exif-with-a-whole-thumbnail"),
        pytest.param(jpeg(segment(0xED, THUMBNAIL), EXIF, frame(9, 8)), (9, 8), id="photoshop-and-exif-thumbnails"),
        pytest.param(jpeg(b"\xff\xff\xff", EXIF, b"\xff" * 5, frame(33, 44)), (33, 44), id="fill-bytes"),
        pytest.param(jpeg(b"\xff\x01\xff\xd3", frame(12, 13)), (12, 13), id="markers-without-a-segment"),
        pytest.param(jpeg(segment(0xC4, frame(1, 1)), frame(5, 6)), (5, 6), id="huffman-tables-are-no-frame"),
        pytest.param(jpeg(segment(0xC8, b"\0" * 9), frame(5, 6)), (5, 6), id="reserved-marker-is-no-frame"),
        pytest.param(jpeg(segment(0xCC, b"\0" * 9), frame(5, 6)), (5, 6), id="arithmetic-conditioning-is-no-frame"),
        pytest.param(jpeg(segment(0xFE, b""), frame(5, 6)), (5, 6), id="empty-comment"),
        pytest.param(jpeg(frame(65535, 65535)), (65535, 65535), id="largest"),
    ],
)
def test_handmade_header_is_walked(body: bytes, size: tuple[int, int]) -> None:
    """The frame of the picture itself gives the size, whatever stands before it; then the whole body is complete."""
    header = read_header(body)
    assert (header.width, header.height) == size
    assert header.scan_at == body.rindex(b"\xff\xda")
    assert is_complete(body, header)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("body", "header"),
    [
        pytest.param(b"", JpegHeader(None, None, None), id="nothing"),
        pytest.param(SOI, JpegHeader(None, None, None), id="start-marker-alone"),
        pytest.param(SOI + frame(640, 480)[:7], JpegHeader(None, None, None), id="cut-inside-the-frame"),
        pytest.param(SOI + TABLES + frame(640, 480), JpegHeader(640, 480, None), id="cut-before-the-scan"),
        pytest.param(SOI + EXIF[:40], JpegHeader(None, None, None), id="cut-inside-exif"),
        pytest.param(b"no picture at all, but long enough", JpegHeader(None, None, None), id="text"),
        pytest.param(SOI + b"\xff\xe0\x00\x00" * 50, JpegHeader(None, None, None), id="zero-length-segment"),
        pytest.param(SOI + b"\xff\xe0\x00\x01" * 50, JpegHeader(None, None, None), id="length-of-one"),
        pytest.param(SOI + frame(3, 4) + b"junk" * 9, JpegHeader(3, 4, None), id="junk-behind-the-frame"),
        pytest.param(b"\xff" * 4096, JpegHeader(None, None, None), id="fill-bytes-alone"),
        pytest.param(SOI + b"\xff\xd0" * 4096, JpegHeader(None, None, None), id="restart-markers-alone"),
    ],
)
def test_unreadable_header_yields_none(body: bytes, header: JpegHeader) -> None:
    """A header that cannot be walked ends the walk: what was read stands, the rest is None, nothing loops."""
    assert read_header(body) == header


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_judged(rest: bytes) -> None:
    """No bytes behind a start marker make the walk or the verdict raise."""
    body = SOI + b"\xff" + rest
    header = read_header(body)
    assert header.scan_at is None or body[header.scan_at : header.scan_at + 2] == b"\xff\xda"
    assert refuse(body, header, md5_base64(body), Expected()) in (None, "truncated", "not_image")


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_cut_scene_is_incomplete(share: float) -> None:
    """A scene that stops at half or at 99 % of its bytes is not complete."""
    for body, _, _ in BODIES.values():
        cut = body[: int(len(body) * share)]
        assert not is_complete(cut, read_header(cut))


@pytest.mark.parametrize("missing", [1, 2])
def test_scene_without_its_last_bytes_is_incomplete(missing: int) -> None:
    """One byte of the end marker is missing, or both: not complete."""
    for body, _, _ in BODIES.values():
        assert not is_complete(body[:-missing], read_header(body[:-missing]))


@pytest.mark.parametrize("junk", [b"\0" * 512, b"\r\n", b"camera padding \xff\x00", EOI, THUMBNAIL], ids=range(5))
def test_trailing_junk_is_tolerated(junk: bytes) -> None:
    """Bytes behind the end marker do not make a whole image incomplete."""
    for body in (WITH_THUMBNAIL, *(body for body, _, _ in BODIES.values())):
        assert is_complete(body + junk, read_header(body + junk))


def test_no_cut_counts_as_complete() -> None:
    """An image with an embedded thumbnail is complete at its full length and at no cut elsewhere."""
    thumbnail_ends = {WITH_THUMBNAIL.index(EOI) + 2}
    for end in set(range(3, len(WITH_THUMBNAIL))) - thumbnail_ends:
        cut = WITH_THUMBNAIL[:end]
        assert not is_complete(cut, read_header(cut)), end
    assert is_complete(WITH_THUMBNAIL, read_header(WITH_THUMBNAIL))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(SOI + EXIF[: EXIF.index(EOI) + 2], id="exif-goes-on"),
        pytest.param(SOI + segment(0xE1, b"Exif\0\0" + THUMBNAIL), id="exif-ends-with-the-thumbnail"),
        pytest.param(WITH_THUMBNAIL[: WITH_THUMBNAIL.rindex(b"\xff\xda") + 30], id="cut-inside-the-scan"),
    ],
)
def test_end_marker_of_the_thumbnail_does_not_count(body: bytes) -> None:
    """A body that stops before its own end marker is incomplete, even right behind its thumbnail's end marker."""
    assert not is_complete(body, read_header(body))


def test_bytes_between_segments_are_skipped_as_decoders_do() -> None:
    """Odd bytes where a marker should be do not hide the picture behind them."""
    body = jpeg(segment(0xE0, b"ab") + b"odd bytes" * 9 + b"\xff\x00", frame(30, 40))
    header = read_header(body)
    assert header == JpegHeader(30, 40, body.rindex(b"\xff\xda"))
    assert refuse(body, header, None, Expected()) is None


SCAN = segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(SOI + b"\xff" + EOI[1:], id="markers-alone"),
        pytest.param(SOI + segment(0xE0, b"JFIF\0") + EOI, id="nothing-but-a-start"),
        pytest.param(jpeg(TABLES), id="no-frame"),
        pytest.param(jpeg(EXIF, TABLES), id="no-frame-but-the-thumbnails"),
        pytest.param(SOI + TABLES + frame(9, 9) + EOI, id="no-scan"),
        pytest.param(SOI + frame(9, 9) + SCAN + EOI, id="scan-without-data"),
        pytest.param(SOI + SCAN + CODED + frame(9, 9) + EOI, id="scan-before-its-frame"),
        pytest.param(jpeg(frame(0, 0)), id="no-pixels"),
        pytest.param(jpeg(frame(640, 0)), id="no-height"),
        pytest.param(jpeg(frame(0, 480)), id="no-width"),
        pytest.param(jpeg(frame(65535, 480)), id="wider-than-decoders-go"),
        pytest.param(jpeg(b"\xff\xe0\xff\xff", frame(9, 9)), id="segment-longer-than-the-file"),
    ],
)
def test_jpeg_without_size_or_scan_is_no_image(body: bytes) -> None:
    """A JPEG that no decoder opens is not_image, whatever was expected of it; a cut of it is still truncated."""
    header = read_header(body)
    assert not header.is_readable
    for expected in (Expected(), Expected(1, WRONG), Expected(len(body), md5_base64(body))):
        assert refuse(body, header, md5_base64(body), expected) == "not_image"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a PNG"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP"),
        (b"<!DOCTYPE html>", "no JPEG"),
    ],
)
def test_other_format_that_was_published_is_named(body: bytes, words: str) -> None:
    """A picture that is byte for byte the published one is no placeholder: it is told that only JPEG is saved."""
    text = f"not_image ({words}; only JPEG is saved)"
    assert kind_of(text) == "not_image"
    md5 = md5_base64(body)
    for expected in (Expected(len(body), md5), Expected(None, md5), Expected(len(body))):
        assert refuse(body, read_header(body), md5, expected) == text
    for expected in (Expected(), Expected(len(body), WRONG), Expected(len(body) + 1)):
        assert refuse(body, read_header(body), md5, expected) == refuse_start(body)


WHOLE = jpeg(TABLES, frame(64, 48))
CUT = WHOLE[:-40]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
HTML = b"<!DOCTYPE html><title>Sign in</title>"
WRONG = md5_base64(b"something else")


@pytest.mark.parametrize(
    ("body", "expected", "reason"),
    [
        pytest.param(b"", Expected(), "empty", id="empty"),
        pytest.param(b"", Expected(10, WRONG), "empty", id="empty-before-checksum"),
        pytest.param(PNG, Expected(), "placeholder", id="png"),
        pytest.param(PNG, Expected(1, WRONG), "placeholder", id="png-before-too-large"),
        pytest.param(b"GIF87a" + bytes(20), Expected(), "placeholder", id="gif-87"),
        pytest.param(b"GIF89a" + bytes(20), Expected(), "placeholder", id="gif-89"),
        pytest.param(HTML, Expected(), "not_image", id="html"),
        pytest.param(HTML, Expected(1, WRONG), "not_image", id="html-before-too-large"),
        pytest.param(b" " + WHOLE, Expected(), "not_image", id="shifted"),
        pytest.param(b"RIFF\x10\0\0\0WEBPVP8 ", Expected(), "not_image", id="webp"),
        pytest.param(WHOLE, Expected(len(WHOLE) - 1, WRONG), "too_large", id="too-large-before-checksum"),
        pytest.param(CUT, Expected(len(CUT) - 1), "too_large", id="too-large-before-truncated"),
        pytest.param(b"\xff", Expected(), "truncated", id="first-byte-alone"),
        pytest.param(CUT, Expected(), "truncated", id="cut"),
        pytest.param(CUT, Expected(len(WHOLE), WRONG), "truncated", id="truncated-before-checksum"),
        pytest.param(WHOLE, Expected(len(WHOLE), WRONG), "checksum", id="other-md5"),
        pytest.param(WHOLE, Expected(None, WRONG), "checksum", id="other-md5-size-unknown"),
        pytest.param(WHOLE, Expected(len(WHOLE) + 1), "checksum", id="other-size"),
        pytest.param(WHOLE, Expected(), None, id="nothing-known"),
        pytest.param(WHOLE, Expected(len(WHOLE)), None, id="size-alone"),
        pytest.param(WHOLE, Expected(len(WHOLE), md5_base64(WHOLE)), None, id="size-and-md5"),
        pytest.param(WHOLE, Expected(None, md5_base64(WHOLE)), None, id="md5-alone"),
        pytest.param(CUT, Expected(len(CUT), md5_base64(CUT)), None, id="md5-knows-better-than-the-markers"),
    ],
)
def test_most_specific_kind_wins(body: bytes, expected: Expected, reason: str | None) -> None:
    """A body is refused as empty, placeholder, not_image, too_large, truncated, checksum, in this order, or taken."""
    assert refuse(body, read_header(body), md5_base64(body), expected) == reason


@pytest.mark.parametrize(
    ("etag", "md5"),
    [
        ('"d41d8cd98f00b204e9800998ecf8427e"', "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ('"D41D8CD98F00B204E9800998ECF8427E"', "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ('W/"d41d8cd98f00b204e9800998ecf8427e"', None),
        ('"d41d8cd98f00b204e9800998ecf8427e-12"', None),
        ('"d41d8cd98f00b204e9800998ecf8427"', None),
        ('"g41d8cd98f00b204e9800998ecf8427e"', None),
        ('"d4 1d 8c d9 8f 00 b2 04 e9 80 09"', None),
        ("d41d8cd98f00b204e9800998ecf8427e", None),
        ('""', None),
        ("", None),
        (None, None),
    ],
)
def test_etag_is_an_md5_only_in_one_form(etag: str | None, md5: str | None) -> None:
    """Only a strong, quoted ETag of 32 hex digits claims an MD5."""
    assert etag_md5(etag) == md5


def etag_of(body: bytes) -> tuple[str, str]:
    """Return the ETag that an honest bucket sends for a body, and the body's MD5."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"', md5_base64(body)


def test_etag_mismatch_counts_after_a_match() -> None:
    """Once a host's ETag was its body's MD5, another body under an ETag is refused as checksum, each time."""
    trust = EtagTrust("bucket.example:443")
    etag, md5 = etag_of(b"one")
    assert trust.contradicts(etag, md5) is None
    assert trust.is_md5 is True
    for _ in range(2):
        assert trust.contradicts(etag, WRONG) == ("checksum", None)
    assert trust.contradicts(etag, md5) is None


def test_etag_mismatch_before_any_match_switches_the_check_off_and_is_said_once() -> None:
    """A mismatch that comes first refuses nothing, is said once, and ends the check for the host."""
    trust = EtagTrust("bucket.example:443")
    etag, md5 = etag_of(b"one")
    first = trust.contradicts(etag, WRONG)
    assert first is not None
    reason, note = first
    assert reason is None
    assert note is not None
    assert "bucket.example:443" in note
    assert trust.is_md5 is False
    for body_md5 in (WRONG, md5, WRONG):
        assert trust.contradicts(etag, body_md5) is None
    assert trust.is_md5 is False


@pytest.mark.parametrize("etag", [None, "", 'W/"d41d8cd98f00b204e9800998ecf8427e"', '"abc-2"'])
def test_other_etags_say_nothing(etag: str | None) -> None:
    """An ETag that claims no MD5 neither refuses a body nor changes what is known of the host."""
    for known in (None, True, False):
        trust = EtagTrust("bucket.example:443", known)
        assert trust.contradicts(etag, WRONG) is None
        assert trust.is_md5 is known


@pytest.mark.parametrize(
    "unit",
    [segment(0xE1, b""), segment(0xE1, bytes(40)), segment(0xE1, b"") + b"junk", b"\xff", b"\xff\xd0", b"\xff\xd8\xff"],
    ids=["empty", "long", "with bytes between", "fill bytes", "standalone", "starts"],
)
def test_a_hostile_file_is_read_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: bytes) -> None:
    """A header of thousands of segments, and a body of start markers, cost a file a few reads and not one for each."""
    path = tmp_path / "body"
    path.write_bytes(SOI + unit * 5000 + EOI)
    pread = Mock(side_effect=os.pread)
    monkeypatch.setattr(os, "pread", pread)
    with FileBytes(path) as file:
        assert refuse(file, read_header(file), None, Expected()) in ("not_image", "truncated")
    assert pread.call_count <= 8


def test_real_images_are_read() -> None:
    """Real photos of the dataset: size and MD5 as listed, complete when whole, incomplete when cut."""
    if not (REAL / "images").is_dir():
        pytest.skip("the folder of real photos is not here")
    with (REAL / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        body = (REAL / row["path"]).read_bytes()
        header = read_header(body)
        assert (header.width, header.height) == (int(row["width"]), int(row["height"])), row["path"]
        assert md5_base64(body) == row["md5_base64"]
        assert refuse(body, header, row["md5_base64"], Expected()) is None
        for cut in (body[: len(body) // 2], body[: len(body) * 99 // 100], body[:-2]):
            assert refuse(cut, read_header(cut), md5_base64(cut), Expected()) == "truncated", row["path"]


def plain_header(body: bytes) -> tuple[int | None, int | None, int | None, int | None]:
    """Walk a header as it is defined: one byte, marker or segment a step, 4,000 steps at the most."""
    width = height = frame_at = None
    at = 2
    for _ in range(4000):
        if at > len(body) - 4:
            break
        marker = body[at + 1]
        if body[at] != 0xFF:
            at = body.find(b"\xff", at)
            if at < 0:
                break
        elif marker == 0xFF:
            at += 1
        elif marker in (0, 1) or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker == 0xD9:
            break
        elif marker == 0xDA:
            data_at = at + 2 + int.from_bytes(body[at + 2 : at + 4])
            has_data = body[data_at : data_at + 2] != EOI
            return width, height, at if width is not None and has_data else None, frame_at
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and width is None and at <= len(body) - 9:
                height, width = int.from_bytes(body[at + 5 : at + 7]), int.from_bytes(body[at + 7 : at + 9])
                frame_at = at
            at += 2 + int.from_bytes(body[at + 2 : at + 4])
    return width, height, None, frame_at


def plainly_complete(body: bytes, scan_at: int | None) -> bool:
    """Return whether there is an end marker in the scan; without a scan as many ends as starts, and one at the end."""
    if scan_at is None:
        return body.endswith(EOI) and body.count(b"\xff\xd8\xff") <= body.count(EOI)
    return EOI in body[scan_at:]


_MARKS = [
    b"\xff\xd8\xff",
    EOI,
    SOI,
    b"\xff",
    b"\xd8",
    b"\xd9",
    b"\0",
    b"\xff\xd0",
    b"\xff\x01",
    b"ab",
    segment(0xE1, b""),
]
_MARKS += [segment(0xE2, b"\xff"), segment(0xDB, bytes(7)), segment(0xDB, bytes(8)), b"\xff\xe0\x00\x01"]
_MARKS += [segment(0xFE, b"abc"), frame(3, 4), frame(0, 9), frame(5, 6)[:6], segment(0xDA, b"\1"), b"\xff\xda"]
PIECES = st.lists(
    st.tuples(st.sampled_from(_MARKS) | st.binary(max_size=9), st.sampled_from([1] * 9 + [70, 2100])), max_size=12
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PIECES.map(lambda pieces: SOI + b"".join(mark * times for mark, times in pieces)), st.sampled_from([b"", EOI]))
def test_quick_ways_judge_as_the_plain_ones(tmp_path_factory: pytest.TempPathFactory, start: bytes, end: bytes) -> None:
    """Runs at once and counts from the end say what single steps and counts say, of a file in small blocks, too."""
    body = start + end
    width, height, scan_at, frame_at = plain_header(body)
    path = tmp_path_factory.getbasetemp() / "judged"
    path.write_bytes(body)
    no_scan = JpegHeader(None, None, None)
    for block_bytes in (7, 1 << 18) if len(body) < 1000 else (1 << 18,):
        with pytest.MonkeyPatch.context() as patch, FileBytes(path) as file:
            patch.setattr("oid_async.store.file_bytes._BLOCK_BYTES", block_bytes)
            for either in (body, bytearray(body), file):
                header = read_header(either)
                assert (header.width, header.height, header.scan_at, header.frame_at) == (
                    width,
                    height,
                    scan_at,
                    frame_at,
                )
                assert is_complete(either, header) == plainly_complete(body, scan_at)
                assert is_complete(either, no_scan) == plainly_complete(body, None)
