"""The ZIP format: the central directory, read from an archive's last bytes, and its members, unpacked. Pure.

    ... members ... | central directory | ZIP64 end, locator | end of central directory, comment
                    ^ offset            ^ end.stop

PKWARE's APPNOTE 6.3 describes each field. Sizes come from the directory alone: a member with a data descriptor has
none in its local header. Data before the first member (a program, say) shifts every offset by its size.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import polars as pl

# The end record with the longest comment, and the ZIP64 records before it.
TAIL_BYTES = 22 + 65_535 + 76
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
# How much longer a member's local header may be than its entry states; beyond that there is other data in between.
_MORE_LOCAL_BYTES = 1024
_FULL_32, _FULL_16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED = 0x1
SCHEMA = {
    "name": pl.String,
    "start": pl.Int64,
    "stop": pl.Int64,
    "packed": pl.Int64,
    "size": pl.Int64,
    "crc": pl.UInt32,
    "method": pl.UInt16,
}


class ArchiveError(Exception):
    """The bytes are no ZIP archive, or one that cannot be read."""


@dataclass(frozen=True, slots=True)
class CentralDirectoryEnd:
    """Where the central directory is, how many entries it has, and the `shift` to add to the offsets in it."""

    start: int
    stop: int
    entries: int
    shift: int


def find_end(tail: bytes, total: int) -> CentralDirectoryEnd:
    """Return the place of the directory, from the last bytes of an archive of `total` bytes. Raises ArchiveError."""
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if len(tail) - at >= _END.size and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            break
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise ArchiveError("no ZIP archive: its end is missing")
    _, disk, _, here, entries, size, offset, _ = _END.unpack_from(tail, at)
    stop = total - len(tail) + at
    if _FULL_16 in (entries, here) or _FULL_32 in (size, offset):
        entries, size, offset, stop = _end64(tail, at, total)
    elif disk or here != entries:
        raise ArchiveError("it is one part of several")
    start = stop - size
    if start < 0 or offset > start:
        raise ArchiveError("its directory lies outside of it")
    return CentralDirectoryEnd(start, stop, entries, start - offset)


def _end64(tail: bytes, at: int, total: int) -> tuple[int, int, int, int]:
    """Return entries, size, offset and stop of the directory of an archive that is too large for 32 bits."""
    before = at - _LOCATOR.size
    if before < 0 or tail[before : before + 4] != b"PK\6\7":
        raise ArchiveError("its ZIP64 locator is missing")
    # At the locator's offset, shifted by data before the archive; or just before the locator.
    stated = _LOCATOR.unpack_from(tail, before)[2] - (total - len(tail))
    for place in (before - _END64.size, stated, tail.rfind(b"PK\6\6", 0, before)):
        if place >= 0 and tail[place : place + 4] == b"PK\6\6":
            _, _, _, _, _, _, _, entries, size, offset = _END64.unpack_from(tail, place)
            return entries, size, offset, total - len(tail) + place
    raise ArchiveError("its ZIP64 end is missing")


def read_directory(data: bytes, end: CentralDirectoryEnd) -> pl.DataFrame:
    """Return the members in order of their place, one row each with SCHEMA. Raises ArchiveError.

    A member's bytes go from `start` to `stop`, its local header included; `packed` and `size` are its sizes in bytes as
    stored and unpacked.
    """
    columns: tuple[list[str], list[int], list[int], list[int], list[int], list[int]] = ([], [], [], [], [], [])
    names, starts, packed_sizes, sizes, crcs, methods = columns
    at = 0
    for _ in range(end.entries):
        if len(data) - at < _ENTRY.size or data[at : at + 4] != b"PK\1\2":
            raise ArchiveError("its directory is damaged")
        fields = _ENTRY.unpack_from(data, at)
        flags, method, crc, packed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
        name_bytes, extra_bytes, comment_bytes, offset = fields[12], fields[13], fields[14], fields[18]
        at += _ENTRY.size
        if len(data) < at + name_bytes + extra_bytes + comment_bytes:
            raise ArchiveError("its directory is damaged")
        name = data[at : at + name_bytes].decode("utf-8", "replace")
        if _FULL_32 in (packed, size, offset):
            extra = data[at + name_bytes : at + name_bytes + extra_bytes]
            size, packed, offset = _large(extra, size, packed, offset)
        at += name_bytes + extra_bytes + comment_bytes
        names.append(name)
        starts.append(offset + end.shift)
        packed_sizes.append(packed)
        sizes.append(size)
        crcs.append(crc)
        # Encrypted members get a method that does not exist: they cannot be unpacked.
        methods.append(_FULL_16 if flags & _ENCRYPTED else method)
    frame = pl.DataFrame(dict(zip([name for name in SCHEMA if name != "stop"], columns, strict=True)))
    frame = frame.sort("start").with_columns(pl.col("start").shift(-1).fill_null(end.start).alias("stop"))
    longest = pl.col("packed") + pl.col("name").str.len_bytes() + (_LOCAL.size + _MORE_LOCAL_BYTES)
    bounded = frame.with_columns(pl.min_horizontal("stop", pl.col("start") + longest))
    return bounded.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return size, packed size and offset; values that do not fit into 32 bits are taken from the ZIP64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            try:
                size = next(numbers) if size == _FULL_32 else size
                packed = next(numbers) if packed == _FULL_32 else packed
                offset = next(numbers) if offset == _FULL_32 else offset
            except StopIteration:
                break
            return size, packed, offset
        at += 4 + length
    raise ArchiveError("a ZIP64 field is missing in its directory")


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
