"""Full narratives, with their traces: filtered as they arrive, never held, none of it kept but what is wanted.

    shard ─blocks─▶ thread: lines ─ImageID wanted?─▶ spool (as published) + index (key, where) ─▶ narratives.jsonl

All of train is 16.7 GB in ten shards, of which a query wants a part. A shard whose connection breaks is gone on with
where its last whole line ended. In the end the lines stand in order of ImageID, then as published.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import storage_error
from oid_async.events import Note, Sink, TableProgress
from oid_async.http.retry import Attempts, FetchError
from oid_async.openimages.annotations import NARRATIVES_BUCKET, trace_keys
from oid_async.openimages.catalogue import object_url
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_BLOCK_BYTES = 4 << 20
# No narrative is nearly as long; what is, is no line of one.
_MOST_LINE_BYTES = 64 << 20
_COPY_AT_ONCE = 1 << 14
# As published, the second key of an object. A quote within a text would be escaped.
_IMAGE_ID = re.compile(rb'"image_id"\s*:\s*"([^"\\]{0,200})"')
_LOOK_BYTES = 512
_HEX = re.compile(rb"[0-9a-f]{16}")


@dataclass(slots=True)
class TraceReport:
    """What was read and found: `damaged` are (shard, line) of lines that are no narrative, `lost` says what failed."""

    bytes: int = 0
    lines: int = 0
    found: int = 0
    damaged: list[tuple[str, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Filter:
    """Keeps the lines of wanted images: `keys` are their ImageIDs as numbers, sorted. Blocking.

    Lines go to `spool` as they come; the index has their keys and places, 24 bytes a line.
    """

    def __init__(self, keys: "array[int]", spool: IO[bytes], report: TraceReport) -> None:
        self._keys = keys
        self._spool = spool
        self._report = report
        self._size = 0
        self._rest = b""
        self._found = (array("Q"), array("Q"), array("Q"))
        self.taken = 0
        """How many bytes of the shard end in whole lines."""
        self._name = ""
        self._line = 0

    def begin(self, name: str) -> None:
        """Begin with a shard."""
        self._name, self._line, self._rest, self.taken = name, 0, b"", 0

    def resume(self) -> None:
        """Forget the line that a broken connection has cut: it comes again."""
        self._rest = b""

    def feed(self, block: bytes | bytearray) -> None:
        """Take the next bytes of a shard. Raises OSError, FetchError for what has no lines."""
        *lines, rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._take(line)
            self.taken += len(line) + 1
        self._rest = rest
        if len(rest) > _MOST_LINE_BYTES:
            raise FetchError("bad_response", f"a line of more than {_MOST_LINE_BYTES} bytes")

    def end(self) -> None:
        """Take a last line without an end."""
        if self._rest:
            self._take(self._rest)
            self.taken += len(self._rest)
            self._rest = b""

    def index(self) -> pl.DataFrame:
        """Return KEY, at, size (u64) of the lines in the spool, in the order of the narratives."""
        keys, places, sizes = (pl.Series(values, dtype=pl.UInt64) for values in self._found)
        return pl.DataFrame({KEY: keys, "at": places, "size": sizes}).sort(KEY, "at")

    def _take(self, line: bytes) -> None:
        self._line += 1
        self._report.lines += 1
        if not line.strip():
            return
        image_id = _image_id(line)
        if image_id is None:
            self._report.damaged.append((self._name, self._line))
            return
        key = int(image_id, 16)
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            return
        self._spool.write(line + b"\n")
        keys, places, sizes = self._found
        keys.append(key)
        places.append(self._size)
        sizes.append(len(line) + 1)
        self._size += len(line) + 1
        self._report.found += 1


async def fetch_traces(
    client: "Client",
    sink: Sink,
    keys: pl.Series,
    splits: Sequence[Split],
    *,
    mirror: str | None,
    scratch: Path,
    target: Path,
) -> TraceReport:
    """Write the narratives of these images (KEY, u64) to `target`. Raises StorageError.

    A shard that cannot be had is told in the report; without it the file is not written.
    """
    report = TraceReport()
    wanted = array("Q", keys.sort().to_list())
    spool = scratch / "traces.jsonl"
    try:
        with spool.open("wb") as file:
            lines = Filter(wanted, file, report)
            for split in splits:
                for key, size in trace_keys(split):
                    await _read_shard(client, sink, object_url(NARRATIVES_BUCKET, key, mirror), size, lines, report)
        if not report.lost:
            await in_thread(_write_sorted, spool, lines.index(), target)
    except OSError as error:
        raise storage_error(error, target) from error
    finally:
        await in_thread(lambda: spool.unlink(missing_ok=True))
    return report


async def _read_shard(
    client: "Client", sink: Sink, url: str, size: int | None, lines: Filter, report: TraceReport
) -> None:
    name = url.rpartition("/")[2]
    lines.begin(name)
    attempts, etag = Attempts(client.limits), None
    while True:
        attempts.made += 1
        before = lines.taken
        try:
            headers = {"Range": f"bytes={lines.taken}-"} if lines.taken else {}
            if lines.taken and etag is not None:
                headers["If-Range"] = etag
            async with client.get(url, headers) as answer:
                skip = lines.taken if answer.status == 200 else 0
                now = answer.headers.get("ETag")
                if lines.taken and now != etag:
                    raise FetchError("bad_response", "it has changed while it was read", hopeless=True)
                etag, total = now, size if answer.length is None else answer.length + lines.taken - skip
                await _feed(answer, lines, skip, report, partial(_tell, sink, name, lines, total))
                await in_thread(lines.end)
            sink(TableProgress(name, lines.taken, lines.taken, finished=True))
            return
        except FetchError as error:
            lines.resume()
            if lines.taken > before:
                attempts = Attempts(client.limits, made=1)
            wait_s = attempts.wait_s(error, 1.0)
            if wait_s is None:
                report.lost.append(f"{name}: {error} ({error.kind})")
                sink(Note(f"{name}: cannot be had ({error.kind}: {error})"))
                return
        await client.hosts.sleep(wait_s)


def _tell(sink: Sink, name: str, lines: Filter, total: int | None) -> None:
    sink(TableProgress(name, lines.taken, total))


async def _feed(
    answer: "Response", lines: Filter, skip: int, report: TraceReport, progress: Callable[[], None]
) -> None:
    """Hand a body on in large blocks, but for its first `skip` bytes; what came before a break is not lost."""
    block = bytearray()
    try:
        async with aclosing(answer.chunks(endless=True)) as chunks:
            async for chunk in chunks:
                drop = min(skip, len(chunk))
                skip -= drop
                block += chunk[drop:]
                report.bytes += len(chunk)
                if len(block) >= _BLOCK_BYTES:
                    full, block = block, bytearray()
                    await in_thread(lines.feed, full)
                    progress()
    finally:
        await in_thread(lines.feed, block)


def _write_sorted(spool: Path, index: pl.DataFrame, target: Path) -> None:
    """Write the lines of a spool in the order of an index, then give the file its name."""
    part = spool.with_suffix(".sorted")
    with spool.open("rb") as source, part.open("wb") as file:
        for rows in index.iter_slices(_COPY_AT_ONCE):
            for at, size in zip(rows.get_column("at"), rows.get_column("size"), strict=True):
                source.seek(at)
                file.write(source.read(size))
    part.replace(target)


def _image_id(line: bytes) -> bytes | None:
    """Return the ImageID of a narrative, None for what is none."""
    found = _IMAGE_ID.search(line, 0, _LOOK_BYTES)
    if found is not None and line.endswith((b"}", b"}\r")) and _HEX.fullmatch(found[1]):
        return found[1]
    try:
        said = json.loads(line)["image_id"].encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return said if isinstance(said, bytes) and _HEX.fullmatch(said) else None
