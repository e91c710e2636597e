"""The ZIP format: the central directory, read from an archive's last bytes, and its members, unpacked. Pure.

    ... members ... | central directory | ZIP64 end, locator | end of central directory, comment
                    ^ offset            ^ end.stop

PKWARE's APPNOTE 6.3 describes each field. Sizes come from the directory alone: a member with a data descriptor has
none in its local header. Data before the first member (a program, say) shifts every offset by its size.
"""

import struct
import zlib
from dataclasses import dataclass

import polars as pl

from oid_async.store.mask_check import MOST_BYTES

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
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
# The largest published archive has 170,000 members, and 14 MB of directory.
_MOST_DIRECTORY_BYTES = 64 << 20
_ENTRIES_AT_ONCE = 1 << 15
# A PNG is packed already; deflate could make a thousandth of zeros.
_MOST_RATIO = 200
_STEP_BYTES = 1 << 20
# The place of a member that is nowhere in its archive; sums of some of them still fit into 64 bits.
_NOWHERE = 1 << 60
SCHEMA = {
    "name": pl.String,
    "start": pl.Int64,
    "stop": pl.Int64,
    "packed": pl.Int64,
    "size": pl.Int64,
    "crc": pl.UInt32,
    "method": pl.UInt16,
}
_ENTRY_SCHEMA = {name: dtype for name, dtype in SCHEMA.items() if name != "stop"}


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
    if size > _MOST_DIRECTORY_BYTES:
        raise ArchiveError(f"its directory has more than {_MOST_DIRECTORY_BYTES >> 20} MiB")
    return CentralDirectoryEnd(start, stop, entries, start - offset)


def _end64(tail: bytes, at: int, total: int) -> tuple[int, int, int, int]:
    """Return entries, size, offset and stop of the directory of an archive that is too large for 32 bits."""
    before = at - _LOCATOR.size
    if before < 0 or tail[before : before + 4] != b"PK\6\7":
        raise ArchiveError("its ZIP64 locator is missing")
    # At the locator's offset, shifted by data before the archive; or just before the locator.
    stated = _LOCATOR.unpack_from(tail, before)[2] - (total - len(tail))
    for place in (before - _END64.size, stated, tail.rfind(b"PK\6\6", 0, before)):
        if 0 <= place <= len(tail) - _END64.size and tail[place : place + 4] == b"PK\6\6":
            _, _, _, _, _, _, _, entries, size, offset = _END64.unpack_from(tail, place)
            return entries, size, offset, total - len(tail) + place
    raise ArchiveError("its ZIP64 end is missing")


def read_directory(data: bytes | bytearray, end: CentralDirectoryEnd) -> pl.DataFrame:
    """Return the members in order of their place, one row each with SCHEMA. Raises ArchiveError.

    A member's bytes go from `start` to `stop`, its local header included; `packed` and `size` are its sizes in bytes as
    stored and unpacked. An entry may state anything: `refusals` says which of them can be no members.
    """
    frames, rows, at = [pl.DataFrame(schema=_ENTRY_SCHEMA)], [], 0
    for number in range(1, end.entries + 1):
        row, at = _read_entry(data, at, end)
        rows.append(row)
        if len(rows) == _ENTRIES_AT_ONCE or number == end.entries:
            columns = zip(*rows, strict=True)
            frames.append(pl.DataFrame(dict(zip(_ENTRY_SCHEMA, columns, strict=True)), schema=_ENTRY_SCHEMA))
            rows = []
    frame = pl.concat(frames).sort("start", maintain_order=True)
    # Up to the next member that begins behind this one's bytes: one that claims to begin within them does not cut it.
    starts = frame.get_column("start").append(pl.Series([end.start]))
    own = frame.select(pl.col("start") + _own_bytes()).to_series()
    following = starts.gather(starts.head(-1).search_sorted(own, side="left"))
    stop = pl.min_horizontal(following, pl.lit(end.start), pl.col("start") + _own_bytes() + _MORE_LOCAL_BYTES)
    return frame.with_columns(stop=stop).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def _read_entry(
    data: bytes | bytearray, at: int, end: CentralDirectoryEnd
) -> tuple[tuple[str, int, int, int, int, int], int]:
    """Return the entry at this offset, with _ENTRY_SCHEMA, and the offset of the next one. Raises ArchiveError."""
    if len(data) - at < _ENTRY.size or data[at : at + 4] != b"PK\1\2":
        raise ArchiveError("its directory is damaged")
    fields = _ENTRY.unpack_from(data, at)
    flags, method, crc, packed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
    name_bytes, extra_bytes, comment_bytes, offset = fields[12], fields[13], fields[14], fields[18]
    at += _ENTRY.size
    if len(data) < at + name_bytes + extra_bytes + comment_bytes:
        raise ArchiveError("its directory is damaged")
    name = data[at : at + name_bytes].decode("utf-8", "replace")
    start: int | None = offset + end.shift
    if _FULL_32 in (packed, size, offset):
        large = _large(data[at + name_bytes : at + name_bytes + extra_bytes], size, packed, offset)
        size, packed, start = (0, 0, None) if large is None else (*large[:2], large[2] + end.shift)
    if start is None or not 0 <= start <= end.start:
        start = _NOWHERE
    # Encrypted members get a method that does not exist: they cannot be unpacked.
    row = (name, start, min(packed, _NOWHERE), min(size, _NOWHERE), crc, _FULL_16 if flags & _ENCRYPTED else method)
    return row, at + name_bytes + extra_bytes + comment_bytes


def _own_bytes() -> pl.Expr:
    """Return the expression entry -> the least bytes that its member has: local header, name, packed bytes."""
    return pl.col("packed") + pl.col("name").str.len_bytes().cast(pl.Int64) + _LOCAL.size


def _large(extra: bytes | bytearray, size: int, packed: int, offset: int) -> tuple[int, int, int] | None:
    """Return size, packed size and offset; values that do not fit into 32 bits are taken from the ZIP64 field.

    None if there is no such field, or too little in it.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            count = min(length, len(extra) - at - 4) // 8
            numbers = iter(struct.unpack_from(f"<{count}Q", extra, at + 4))
            try:
                size = next(numbers) if size == _FULL_32 else size
                packed = next(numbers) if packed == _FULL_32 else packed
                offset = next(numbers) if offset == _FULL_32 else offset
            except StopIteration:
                return None
            return size, packed, offset
        at += 4 + length
    return None


def refusals(members: pl.DataFrame) -> pl.Series:
    """Return for each member why it is not fetched, "failure kind: text"; null for one that may be what it says."""
    start, stop, packed, size = (pl.col(name) for name in ("start", "stop", "packed", "size"))
    outside = "bad_response: the archive's directory states a place for it that cannot be"
    method = pl.concat_str(
        pl.lit("bad_response: packed by a method that cannot be read ("), pl.col("method"), pl.lit(")")
    )
    large = f"too_large: more than {MOST_BYTES >> 20} MiB"
    bomb = f"too_large: more than {_MOST_RATIO} times its packed size"
    why = (
        pl.when(~pl.col("method").is_in([_STORED, _DEFLATED]))
        .then(method)
        .when(pl.max_horizontal(size, packed) > MOST_BYTES)
        .then(pl.lit(large))
        .when(size > _MOST_RATIO * packed)
        .then(pl.lit(bomb))
        .when((start < 0) | (start + _own_bytes() > stop))
        .then(pl.lit(outside))
    )
    return members.select(why=why).to_series()


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


def unpack(data: memoryview, member: ZipMember) -> bytes | bytearray:
    """Return a member's bytes, of which `refusals` had nothing to say; `data` begins with its local header.

    No more than its size is ever unpacked, and one byte. Raises MemberError.
    """
    if len(data) < _LOCAL.size or bytes(data[:4]) != b"PK\3\4":
        raise MemberError("checksum", "no member of the archive begins where its directory says")
    start = _check_local(data, member)
    packed = data[start : start + member.packed]
    if len(packed) != member.packed:
        raise MemberError("truncated", f"{len(packed)} of its {member.packed} bytes are there")
    if member.method == _STORED:
        body: bytes | bytearray = bytes(packed)
    elif member.method == _DEFLATED:
        body = _inflate(packed, member.size)
    else:
        raise MemberError("bad_response", f"packed by a method that cannot be read ({member.method})")
    if len(body) != member.size or zlib.crc32(body) != member.crc:
        raise MemberError("checksum", "its bytes are not those that the archive's directory tells of")
    return body


def _check_local(data: memoryview, member: ZipMember) -> int:
    """Return where a member's packed bytes begin. Raises MemberError if its local header is that of another one.

    Sizes and checksum are compared where they are stated: they may follow the bytes, or stand in a ZIP64 field.
    """
    fields = _LOCAL.unpack_from(data)
    flags, method = fields[2], fields[3]
    name_bytes, extra_bytes = int(fields[9]), int(fields[10])
    if bytes(data[_LOCAL.size : _LOCAL.size + name_bytes]) != member.name.encode():
        raise MemberError("checksum", "another member of the archive begins where its directory says")
    stated = () if flags & _SIZES_FOLLOW else zip(fields[6:9], (member.crc, member.packed, member.size), strict=True)
    if method != member.method or any(here not in (0, _FULL_32, there) for here, there in stated):
        raise MemberError("checksum", "its header and the archive's directory contradict each other")
    return _LOCAL.size + name_bytes + extra_bytes


def _inflate(packed: memoryview, size: int) -> bytes | bytearray:
    """Unpack in steps, up to one byte more than stated: enough to notice that there is more."""
    decoder, body = zlib.decompressobj(-15), bytearray()
    try:
        if size < _STEP_BYTES:
            return decoder.decompress(packed, size + 1)
        for at in range(0, len(packed), _STEP_BYTES):
            rest: bytes | memoryview = packed[at : at + _STEP_BYTES]
            while len(body) <= size and not decoder.eof:
                most = min(_STEP_BYTES, size + 1 - len(body))
                unpacked = decoder.decompress(rest, most)
                body += unpacked
                rest = decoder.unconsumed_tail
                if len(unpacked) < most:
                    break
    except zlib.error as error:
        raise MemberError("checksum", f"it cannot be unpacked: {error}") from error
    return body
