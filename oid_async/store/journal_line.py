"""One line of the journal as bytes: its fields and their checksum. No Polars: worker processes write lines, too.

The last field is the CRC-32 of all bytes before it, in 8 hex digits: a byte that has flipped costs the line it is in.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from oid_async.quick_values import frozen
from oid_async.report import Outcome

# Fields with the checksum; versions before it wrote 14 or 12.
FIELDS = 15
OLD_FIELDS = (14, 12)
_SUM_BYTES = 8
# The last of 14 fields: what failures are about (`store.failure_memory`).
_ASKED = re.compile(rb"(?:[a-z]+:[0-9a-f]{12}(?: (?=.)|$))*")
# How the rest of a line that was cut in two ends.
_REST = re.compile(rb"(?:^|\t)[0-9a-f]{8}$")
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte != 9)
_NO_CONTROLS = dict.fromkeys(range(32), " ")


def line_of(outcome: Outcome) -> bytes:
    """Return the line of an outcome, with its LF."""
    o, file = outcome, outcome.file
    name = "" if file is None else file[file.rfind("/") + 1 :]
    status = "failed" if o.status == "failed" else "ok"
    size = "" if o.bytes is None else o.bytes
    width, height = "" if o.width is None else o.width, "" if o.height is None else o.height
    # One expression, because it is made for every image: a join over its fields takes half as long again.
    text = (
        f"{o.image_id}\t{status}\t{o.source or ''}\t{name}\t{size}\t{o.md5 or ''}\t{width}\t{height}\t{o.reason or ''}"
        f"\t{o.detail or ''}\t{o.attempts}\t{o.url or '-'}\t{o.subset or ''}\t{o.asked or ''}\t"
    ).encode("utf-8", "replace")
    # An id or URL of a table may hold any character; control characters become spaces.
    if len(text.translate(None, _CONTROL_BYTES)) != len(text) or text.count(b"\t") != FIELDS - 1:
        texts = (o.image_id, status, o.source, name, size, o.md5, width, height, o.reason, o.detail, o.attempts)
        return line_of_fields(*texts, o.url or "-", o.subset, o.asked)
    return b"%b%08x\n" % (text, crc32(text))


def _outcome_of(line: bytes, image_id: str, folder: str) -> Outcome:
    """Return the Outcome of an image of this id that was stored below `folder`, which ends with a separator.

    `line`, without its LF, was made by `line_of`, where control characters would have become spaces.
    """
    fields = line.decode().split("\t")
    source, name, size, md5, width, height, _, _, attempts, url, subset = fields[2:13]
    return Outcome(
        image_id,
        "downloaded",
        f"{folder}{name}",
        source=source,
        url=url,
        bytes=int(size),
        md5=md5 or None,
        width=int(width) if width else None,
        height=int(height) if height else None,
        attempts=int(attempts),
        subset=subset or None,
    )


def line_of_fields(*fields: object) -> bytes:
    """Return the line of these fields, all but the checksum, with its LF; None is an empty one."""
    texts = ["" if field is None else str(field).translate(_NO_CONTROLS) for field in fields]
    line = "\t".join([*texts, ""]).encode("utf-8", "replace")
    return b"%b%08x\n" % (line, crc32(line))


@frozen
class StoredCopies:
    """Copies of the bucket that another process has stored below `images`: `size` bytes, and the lines of the journal.

    These the process has made already, for its intent log. Outcomes would take longer than all else that the run has to
    do for such an image: they are made where somebody asks for them.
    """

    image_ids: Sequence[str]
    size: int
    lines: bytes
    images: Path

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return the outcome of each."""
        folder, lines = f"{self.images}{os.sep}", self.lines.split(b"\n")[:-1]
        return tuple(_outcome_of(line, image_id, folder) for line, image_id in zip(lines, self.image_ids, strict=True))


def is_checked(line: bytes) -> bool:
    """Return whether a line, without its LF, has a checksum that is right."""
    return line[-_SUM_BYTES:] == b"%08x" % crc32(line[:-_SUM_BYTES])


def without_damaged(lines: list[bytes], unchecked: int) -> bool:
    """Empty those of the lines (without their LF) that do not count; return whether there was any.

    The first `unchecked` ones are of versions that wrote no checksum.
    """
    damaged = [number for number, line in enumerate(lines[unchecked:], unchecked) if not is_checked(line)]
    following = [*lines[1 : unchecked + 1], b""]
    damaged += [number for number in range(unchecked) if not is_old(lines[number], following[number])]
    for number in damaged:
        lines[number] = b""
    return bool(damaged)


def is_old(line: bytes, following: bytes) -> bool:
    """Return whether a line without a checksum can be of a version that wrote none, and not what is left of another.

    Of another one the last field, or the line after it, would be, or end in, its checksum.

    >>> line = b"0000048549557964 ok cvdf a.jpg 7 - 8 8   1 http://h/a.jpg".replace(b" ", bytes([9]))
    >>> is_old(line, b""), is_old(line, b"train  0a1b2c3d".replace(b" ", bytes([9])))
    (True, False)
    """
    fields = line.split(b"\t")
    is_whole = len(fields) == 12 or (len(fields) == 14 and _ASKED.fullmatch(fields[13]) is not None)
    return is_whole and not (_REST.search(following) and following.count(b"\t") < min(OLD_FIELDS) - 1)
