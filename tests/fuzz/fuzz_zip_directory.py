"""Damage an archive of masks with a fuzzer that sees which lines of the program run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_zip_directory.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import random
import struct
import tempfile
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oid_async.masks.zip_archive", "oid_async.masks.ranges"]):
    from oid_async.masks.ranges import choose_ranges
    from oid_async.masks.zip_archive import (
        TAIL_BYTES,
        ArchiveError,
        MemberError,
        ZipMember,
        find_end,
        read_directory,
        refusals,
        unpack,
    )

from support.fuzzing import fuzz
from support.mask_archives import make_archive, png_bomb, zeros_deflated

from oid_async.store.mask_check import MOST_BYTES, refuse_mask

_RATIO = 200
_NUMBERS = (0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_MARKS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7")


def ruin(body: bytes, most: int, seed: int) -> bytes:
    """Mutate an archive: mostly a number or a mark somewhere behind one of its marks, else as libFuzzer does."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        mutated: bytes = atheris.Mutate(body, most)
        return mutated
    found = bytearray(body)
    at = body.rfind(chance.choice(_MARKS), 0, chance.randrange(len(body) + 1))
    at += chance.randrange(60)
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice((*_NUMBERS, chance.randrange(1 << 16))) % (1 << 8 * size)
    if 0 <= at <= len(found) - size:
        found[at : at + size] = value.to_bytes(size, "little")
    return bytes(found[:most])


def check(data: bytes) -> None:
    """Only documented errors; no range outside the archive; nothing is unpacked that is more than it may be."""
    try:
        tail = data[-TAIL_BYTES:]
        end = find_end(tail, len(data))
        assert 0 <= end.start <= end.stop <= len(data)
        members = read_directory(data[end.start : end.stop], end)
    except ArchiveError:
        return
    assert len(members) == end.entries
    members = members.filter(refusals(members).is_null())
    spans = members.select("start", "stop").rows()
    ranges = choose_ranges(spans, len(data))
    assert sum(ranges.counts) == len(members)
    at = 0
    for (start, stop), count in zip(ranges.parts, ranges.counts, strict=True):
        assert 0 <= start < stop <= end.start
        assert all(start <= first < last <= stop for first, last in spans[at : at + count])
        at += count
    for row in members.iter_rows():
        member = ZipMember(*row)
        assert member.size <= min(MOST_BYTES, _RATIO * member.packed)
        try:
            body = unpack(memoryview(data)[member.start : member.stop], member)
        except MemberError:
            continue
        assert len(body) == member.size
        assert zlib.crc32(body) == member.crc
        refuse_mask(body[:33], len(body))


def sixty_four(archive: bytes) -> bytes:
    """Return the archive with ZIP64 records."""
    end = archive.rindex(b"PK\5\6")
    _, _, _, _, entries, size, offset, _ = struct.unpack_from("<4s4H2LH", archive, end)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    last = bytearray(archive[end:])
    struct.pack_into("<2H2L", last, 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return archive[:end] + record + locator + bytes(last)


def main() -> None:
    seeds = Path(tempfile.mkdtemp())
    small, _ = make_archive(4, size=120)
    (seeds / "deflated").write_bytes(small)
    (seeds / "stored").write_bytes(make_archive(4, size=120, stored=True)[0])
    (seeds / "behind a program").write_bytes(b"#!/bin/sh\n" * 3 + small)
    (seeds / "64").write_bytes(sixty_four(small))
    (seeds / "bomb").write_bytes(small + zeros_deflated(5 << 20) + png_bomb(65_000, 100))
    fuzz(check, seeds, "-max_len=6000", mutator=ruin)


if __name__ == "__main__":
    main()
