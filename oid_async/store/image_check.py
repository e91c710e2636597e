"""Check that a body is the complete and right image: returns a failure kind or None; the most specific kind wins."""

import hashlib
import re
import struct
from base64 import b64encode
from dataclasses import field
from typing import Self

from oid_async.quick_values import define, value
from oid_async.store.file_bytes import FileBytes

ImageBytes = bytes | bytearray | FileBytes
"""A body in memory, or one on the disk that is read in blocks; the functions below treat both alike."""

_SOI = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"
_PICTURES = {b"\x89PNG\r\n\x1a\n": "a PNG", b"GIF87a": "a GIF", b"GIF89a": "a GIF"}
_PICTURE_STARTS = tuple(_PICTURES)
# A marker and the length of its segment; the height and width of a frame.
_TWO_NUMBERS = struct.Struct(">HH").unpack_from
_SOS, _END = 0xFFDA, 0xFFD9
# Start-of-frame markers carry the size; C4, C8 and CC share their range but are tables.
_SOF = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
# Markers without a segment, and fill bytes: any number of FF before a marker.
_STANDALONE = frozenset({0xFF00, 0xFF01, *range(0xFFD0, 0xFFD9), 0xFFFF})
_TABLES = frozenset(range(0xFF00, 0x10000)) - _STANDALONE - _SOF - {_SOS, _END}
# The length of a segment that counts itself: the usual ones are longer than this.
_SHORT = 9
# A run of short segments without FF in them, markers without a segment, and fill bytes: each FF is one step.
_RUN = re.compile(
    rb"(?:(?:\xff[\xc4\xc8\xcc\xdb-\xfe]\x00\x02)++|(?:\xff++[\x00\x01\xd0-\xd8])++"
    rb"|(?:\xff[\xc4\xc8\xcc\xdb-\xfe]\x00(?:%s))++)*+(?:\xff+(?=\xff))?"
    % b"|".join(rb"\x%02x[^\xff]{%d}" % (length, length - 2) for length in range(3, _SHORT + 1))
)
# libjpeg's JPEG_MAX_DIMENSION (jmorecfg.h): the marker could say more, no decoder takes it.
_MOST_PIXELS = 65_500
# A header has some dozens of segments. One of millions, of fill bytes or empty segments, is an attack.
_MOST_STEPS = 4_000
# So many occurrences are counted one by one, from the end of a body: see `_occurrences`.
_FEW = 64
# How far behind the start of the scan a picture of a few pixels ends, in bytes.
_NEAR = 4096
_HEX_MD5 = re.compile("[0-9a-fA-F]{32}")


# Not frozen: that would make it three times as slow to create, and each image has one.
@define
class JpegHeader:
    """Pixel size as stored (before any EXIF turning), and where the coded picture starts; None where unreadable.

    `frame_at` is where the size is stated, and how the picture is coded.
    """

    width: int | None
    height: int | None
    scan_at: int | None
    frame_at: int | None = field(default=None, compare=False)

    @property
    def is_readable(self) -> bool:
        """Whether a decoder finds a picture: it has a size, and a scan behind it."""
        return self.scan_at is not None and has_size(self.width, self.height)


@value
class Expected:
    """The published size in bytes and MD5 in base64 of the original; None where the image table has none.

    `saved_bytes` is the size of an image that was saved once and is fetched again: a whole one of another size, larger
    or smaller, is another image.
    """

    size: int | None = None
    md5: str | None = None
    saved_bytes: int | None = None

    @classmethod
    def published(cls, size: str | None, md5: str | None) -> Self:
        """Read an image table's OriginalSize and OriginalMD5.

        Tables that went through pandas have 123.0; tables of people's own may give the MD5 in hex.

        >>> Expected.published("123.0", ""), Expected.published(None, None)
        (Expected(size=123, md5=None, saved_bytes=None), Expected(size=None, md5=None, saved_bytes=None))
        >>> Expected.published("0", "d41d8cd98f00b204e9800998ecf8427e")
        Expected(size=0, md5='1B2M2Y8AsgTpgAmY7PhCfg==', saved_bytes=None)
        """
        digits = (size or "").strip().removesuffix(".0")
        if _HEX_MD5.fullmatch(md5 or ""):
            md5 = b64encode(bytes.fromhex(md5 or "")).decode()
        return cls(int(digits) if digits.isdecimal() else None, md5 or None)


def has_size(width: int | None, height: int | None) -> bool:
    """Return whether a saved image's Width and Height are those of a picture.

    Version 0.1.0 saved JPEGs without a readable size, and wrote none for them.

    >>> has_size(1024, 683), has_size(None, None), has_size(0, 683)
    (True, False, False)
    """
    return width is not None and height is not None and 0 < width <= _MOST_PIXELS and 0 < height <= _MOST_PIXELS


def read_header(body: ImageBytes) -> JpegHeader:
    """Walk a JPEG's segments, past embedded thumbnails, to its frame size. Never raises; None if that is impossible.

    As in libjpeg (jdmarker.c, next_marker) bytes between segments are skipped up to the next marker, and a scan counts
    only behind the frame, if anything but the end marker follows its header.
    """
    width = height = frame_at = None
    at, end, steps = 2, len(body) - 4, _MOST_STEPS
    # A file is walked block by block; a body in memory is one block.
    block, low, high = (b"", 0, 0) if isinstance(body, FileBytes) else (body, 0, end)
    while steps > 0:
        if at > high:
            if at > end or not isinstance(body, FileBytes):
                break
            block, low = body.block_of(at, at + 4)
            high = low + len(block) - 4
        steps -= 1
        marker, length = _TWO_NUMBERS(block, at - low)
        if marker in _TABLES and (length > _SHORT or block[at - low + 2 + length : at - low + 3 + length] != b"\xff"):
            at += 2 + length
        elif marker < 0xFF00:
            at = body.find(b"\xff", at)
            if at < 0:
                break
        elif marker in _SOF:
            if width is None and at <= end - 5:
                height, width = _TWO_NUMBERS(body[at + 5 : at + 9])
                frame_at = at
            at += 2 + length
        elif marker == _SOS:
            has_data = body[at + 2 + length : at + 4 + length] != _EOI
            return JpegHeader(width, height, at if width is not None and has_data else None, frame_at)
        elif marker == _END:
            break
        else:
            # A run at once: thousands of them, one by one, would take longer than to receive a usual image.
            run = _RUN.match(block, at - low, at - low + 2 * _MOST_STEPS)[0]  # type: ignore[index]
            at += len(run) or 2 + length
            steps -= (run.count(b"\xff") or 1) - 1
    return JpegHeader(width, height, None, frame_at)


def is_complete(body: ImageBytes, header: JpegHeader) -> bool:
    """Return whether the end marker is there. Inside coded data FF is always followed by 00, so FFD9 is the end.

    Bytes after the end marker are tolerated: some cameras pad their files, and every decoder ignores it.
    """
    scan_at = header.scan_at
    if scan_at is not None:
        # Where it usually is, near the scan of a small picture in much padding, anywhere.
        return body.endswith(_EOI) or body.rfind(_EOI, scan_at, scan_at + _NEAR) >= 0 or body.rfind(_EOI, scan_at) >= 0
    if not body.endswith(_EOI):
        return False
    # A header that cannot be walked to its end: the last end marker must be the picture's, not its thumbnail's.
    starts = _occurrences(body, _SOI, len(body))
    return starts <= 1 or starts <= _occurrences(body, _EOI, starts)


def _occurrences(body: ImageBytes, wanted: bytes, enough: int) -> int:
    """Return how often a marker occurs, occurrences that overlap counted once; at least `enough` if it is that often.

    From the end, one by one: CPython's rfind takes half the time of find and count or less, whatever the body. Only
    what is packed with the marker is counted, for each turn of this loop takes as long as some hundred bytes.
    """
    found, at = 0, len(body)
    while found < enough and (at := body.rfind(wanted, 0, at)) >= 0:
        found += 1
        if found == _FEW:
            return found + body.count(wanted, 0, at)
    return found


def refuse_start(start: bytes | bytearray) -> str | None:
    """Return why bytes that begin like this cannot be the image: empty, placeholder, not_image; None if they can."""
    if not start:
        return "empty"
    if start.startswith(_SOI[: len(start)]):
        return None
    return "placeholder" if start.startswith(_PICTURE_STARTS) else "not_image"


def refuse(body: ImageBytes, header: JpegHeader, md5: str | None, expected: Expected) -> str | None:
    """Return the failure kind of a body, None when it is the image.

    `expected` holds for the original alone: the bucket's copies and the thumbnails are other bytes. `md5` is the
    body's, which must be known if one is expected. A picture of another format that is byte for byte what was expected
    is nothing in its place: the kind is followed by what it is, in brackets (see `report.kind_of`).
    """
    is_expected = bool(expected.md5) and md5 == expected.md5
    if body[: len(_SOI)] != _SOI and (reason := refuse_start(body[:16])):
        is_named = reason != "empty" and (is_expected or (not expected.md5 and expected.size == len(body)))
        return f"not_image ({_format(body[:16])}; only JPEG is saved)" if is_named else reason
    is_whole = is_expected or is_complete(body, header)
    if is_whole and not header.is_readable:
        return "not_image"
    if is_expected:
        return None
    if expected.size is not None and len(body) > expected.size:
        return "too_large"
    if not is_whole:
        return "truncated"
    is_other = expected.size not in (None, len(body)) or expected.saved_bytes not in (None, len(body))
    return "checksum" if expected.md5 or is_other else None


def _format(start: bytes | bytearray) -> str:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP"
    return next((name for magic, name in _PICTURES.items() if start.startswith(magic)), "no JPEG")


def md5_base64(body: ImageBytes) -> str:
    """Return the MD5 as Open Images writes it: base64 of the 16 raw bytes.

    >>> md5_base64(b"")
    '1B2M2Y8AsgTpgAmY7PhCfg=='
    """
    if isinstance(body, FileBytes):
        return body.md5_base64()
    return b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
