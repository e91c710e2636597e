"""Check that a body is the complete and right image: returns a failure kind or None; the most specific kind wins."""

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Self

from oid_async.store.file_bytes import FileBytes

ImageBytes = bytes | bytearray | FileBytes
"""A body in memory, or one on the disk that is read in blocks; the functions below treat both alike."""

_SOI = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"
_PICTURES = {b"\x89PNG\r\n\x1a\n": "a PNG", b"GIF87a": "a GIF", b"GIF89a": "a GIF"}
_PICTURE_STARTS = tuple(_PICTURES)
# Start-of-frame markers carry the size; C4, C8 and CC share their range but are tables.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_PAYLOAD = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_SOS, _END = 0xDA, 0xD9
# libjpeg's JPEG_MAX_DIMENSION (jmorecfg.h): the marker could say more, no decoder takes it.
_MOST_PIXELS = 65_500
# A header has some dozens of segments. One of millions, of fill bytes or empty segments, is an attack.
_MOST_STEPS = 4_000
_HEX_MD5 = re.compile("[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    only behind the frame.
    """
    width = height = frame_at = None
    at, end = 2, len(body) - 4
    for _ in range(_MOST_STEPS):
        if at > end:
            break
        if body[at] != 0xFF:
            at = body.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = body[at + 1]
        if marker == 0xFF or marker in _NO_PAYLOAD:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SOS:
            return JpegHeader(width, height, at if width is not None and _has_data(body, at) else None, frame_at)
        if marker == _END:
            break
        if marker in _SOF and width is None and at <= end - 5:
            height, width = int.from_bytes(body[at + 5 : at + 7]), int.from_bytes(body[at + 7 : at + 9])
            frame_at = at
        at += 2 + int.from_bytes(body[at + 2 : at + 4])
    return JpegHeader(width, height, None, frame_at)


def _has_data(body: ImageBytes, scan_at: int) -> bool:
    """Return whether anything but the end marker follows the header of a scan."""
    data_at = scan_at + 2 + int.from_bytes(body[scan_at + 2 : scan_at + 4])
    return body[data_at : data_at + 2] != _EOI


def is_complete(body: ImageBytes, header: JpegHeader) -> bool:
    """Return whether the end marker is there. Inside coded data FF is always followed by 00, so FFD9 is the end.

    Bytes after the end marker are tolerated: some cameras pad their files, and every decoder ignores it.
    """
    if header.scan_at is None:
        # A header that cannot be walked to its end: the last end marker must be the picture's, not its thumbnail's.
        return body.endswith(_EOI) and body.count(_SOI) <= body.count(_EOI)
    return body.rfind(_EOI, header.scan_at) != -1


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
    if reason := refuse_start(body[:16]):
        is_named = reason != "empty" and (is_expected or (not expected.md5 and expected.size == len(body)))
        return f"not_image ({_format(body[:16])}; only JPEG is saved)" if is_named else reason
    if not header.is_readable and (is_expected or is_complete(body, header)):
        return "not_image"
    if is_expected:
        return None
    if expected.size is not None and len(body) > expected.size:
        return "too_large"
    if not is_complete(body, header):
        return "truncated"
    if expected.md5 or any(size not in (None, len(body)) for size in (expected.size, expected.saved_bytes)):
        return "checksum"
    return None


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
