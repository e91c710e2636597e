"""Members of an archive: unpacked from its bytes and checked by their checksum. Pure; run it in a thread."""

import io
import struct
import zlib
from dataclasses import dataclass

_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class ZipMember:
    """An entry of a central directory; `start` and `stop` are offsets in the archive, sizes are in bytes."""

    name: str
    start: int
    stop: int
    packed: int
    size: int
    crc: int
    method: int


class MemberError(Exception):
    """A member is not as the directory describes it: `kind` is the failure kind."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def unpack(data: memoryview, member: ZipMember) -> bytes:
    """Return a member's bytes; `data` begins with its local header. Raises MemberError."""
    if len(data) < _LOCAL.size or bytes(data[:4]) != b"PK\3\4":
        raise MemberError("checksum", "no member of the archive begins where its directory says")
    fields = _LOCAL.unpack_from(data)
    name_bytes, extra_bytes = fields[9], fields[10]
    start = _LOCAL.size + name_bytes + extra_bytes
    packed = data[start : start + member.packed]
    if len(packed) != member.packed:
        raise MemberError("truncated", f"{len(packed)} of its {member.packed} bytes are there")
    if member.method == _STORED:
        body = bytes(packed)
    elif member.method == _DEFLATED:
        body = _inflate(packed, member.size)
    else:
        raise MemberError("bad_response", f"packed by a method that cannot be read ({member.method})")
    if len(body) != member.size or zlib.crc32(body) != member.crc:
        raise MemberError("checksum", "its bytes are not those that the archive's directory tells of")
    return body


def _inflate(packed: memoryview, size: int) -> bytes:
    decoder = zlib.decompressobj(-15)
    try:
        # One byte more than stated is enough to notice that there is more: a bomb is not unpacked.
        return decoder.decompress(packed, size + 1)
    except zlib.error as error:
        raise MemberError("checksum", f"it cannot be unpacked: {error}") from error


def resized(png: bytes, width: int, height: int) -> bytes:
    """Return a mask of this size in pixels, nearest neighbour: no grey between 0 and 255 appears.

    The published masks have up to 1600 pixels a side, the bucket's images 1024. Raises MemberError if it is no PNG.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size == (width, height):
                return png
            fresh = io.BytesIO()
            image.resize((width, height), Image.Resampling.NEAREST).save(fresh, "PNG")
            return fresh.getvalue()
    except (OSError, ValueError, SyntaxError) as error:
        raise MemberError("not_image", f"no PNG: {error}") from error
