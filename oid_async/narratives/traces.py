"""Full narratives, with their traces: filtered as they arrive; only wanted lines are kept, on disk.

    shard ─blocks─▶ thread: lines ─ImageID wanted?─▶ spool (as published) + index (key, where) ─▶ narratives.jsonl

All of train is 16.7 GB in ten shards, of which a query wants a part. A shard whose connection breaks is resumed behind
its last complete line. In the end the lines are in order of ImageID, then as published.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import storage_errors
from oid_async.events import Note, Sink, TableProgress
from oid_async.http.retry import FetchError, with_retries
from oid_async.openimages.catalogue import object_url, trace_keys
from oid_async.openimages.catalogue_tables import NARRATIVES_BUCKET
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split
from oid_async.store.atomic import replacing
from oid_async.store.disk import plain_file

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_BLOCK_BYTES = 4 << 20
# No narrative is nearly as long.
_MOST_LINE_BYTES = 64 << 20
_COPY_AT_ONCE = 1 << 14
# As published, the second key of an object. A quote within a text would be escaped.
_IMAGE_ID = re.compile(rb'"image_id"\s*:\s*"([^"\\]{0,200})"')
_LOOK_BYTES = 512
_HEX = re.compile(rb"[0-9a-f]{16}")


@dataclass(slots=True)
class TraceReport:
    """Counts of lines; (shard, line) of each that is no narrative; a message for each shard that failed."""

    bytes: int = 0
    lines: int = 0
    found: int = 0
    damaged: list[tuple[str, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class NarrativeFilter:
    """Keeps the lines of wanted images: `keys` are their ImageIDs as numbers, sorted. Blocking.

    Lines are appended to `spool` as they come; the index has their keys, offsets and sizes, 24 bytes a line.
    `complete_bytes` is how many bytes of the shard so far end in complete lines.
    """

    def __init__(self, keys: "array[int]", spool: IO[bytes], report: TraceReport) -> None:
        self._keys = keys
        self._spool = spool
        self._report = report
        self._size = 0
        self._rest = b""
        self._found = (array("Q"), array("Q"), array("Q"))
        self.complete_bytes = 0
        self._name = ""
        self._line = 0

    @property
    def line_count(self) -> int:
        """How many lines of the shard were taken so far."""
        return self._line

    def start_shard(self, name: str) -> None:
        """Begin with a shard."""
        self._name, self._line, self._rest, self.complete_bytes = name, 0, b"", 0

    def drop_cut_line(self) -> None:
        """Forget the line that a broken connection has cut: it will be sent again."""
        self._rest = b""

    def feed(self, block: bytes | bytearray) -> None:
        """Take the next bytes of a shard. Raises OSError, or FetchError if it has no lines."""
        *lines, rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._take(line)
            self.complete_bytes += len(line) + 1
        self._rest = rest
        if len(rest) > _MOST_LINE_BYTES:
            raise FetchError("bad_response", f"a line of more than {_MOST_LINE_BYTES} bytes")

    def end(self) -> None:
        """Take a last line that has no line end."""
        if self._rest:
            self._take(self._rest)
            self.complete_bytes += len(self._rest)
            self._rest = b""

    def index(self) -> pl.DataFrame:
        """Return KEY, at, size (u64) of the lines in the spool, sorted by KEY, then as published."""
        keys, offsets, sizes = (pl.Series(values, dtype=pl.UInt64) for values in self._found)
        return pl.DataFrame({KEY: keys, "at": offsets, "size": sizes}).sort(KEY, "at")

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
        if not _is_narrative(line, image_id):
            self._report.damaged.append((self._name, self._line))
            return
        self._spool.write(line + b"\n")
        keys, offsets, sizes = self._found
        keys.append(key)
        offsets.append(self._size)
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
    """Write the narratives of these images (KEY, u64) to `target`, unless a shard is lost. Raises StorageError.

    What is there already, with captions alone, is not replaced by under half as many narratives.
    """
    report = TraceReport()
    wanted = array("Q", keys.sort().to_list())
    spool = scratch / "traces.jsonl"
    try:
        with storage_errors(target), spool.open("wb") as file:
            lines = NarrativeFilter(wanted, file, report)
            for split in splits:
                for key, size in trace_keys(split):
                    await _read_shard(client, sink, object_url(NARRATIVES_BUCKET, key, mirror), size, lines, report)
        before = await in_thread(_count_lines, target)
        if not report.lost and 2 * report.found < before:
            report.lost.append(f"traces: {report.found} of {before} narratives have any, as if a file was cut off")
        if not report.lost:
            with storage_errors(target):
                await in_thread(_write_sorted, spool, lines.index(), target)
    finally:
        await in_thread(lambda: spool.unlink(missing_ok=True))
    return report


async def _read_shard(
    client: "Client", sink: Sink, url: str, size: int | None, lines: NarrativeFilter, report: TraceReport
) -> None:
    """Read a shard through the filter; after a break go on behind its last complete line."""
    name = url.rpartition("/")[2]
    lines.start_shard(name)
    damaged = len(report.damaged)
    etag: str | None = None
    before = 0

    async def attempt() -> None:
        nonlocal etag, before
        before = have = lines.complete_bytes
        lines.drop_cut_line()
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and etag is not None:
            headers["If-Range"] = etag
        async with client.get(url, headers) as response:
            skip = have if response.status == 200 else 0
            current = response.headers.get("ETag")
            if have and current != etag:
                raise FetchError("bad_response", "it has changed while it was read", hopeless=True)
            etag, total = current, size if response.length is None else response.length + have - skip
            await _feed(response, lines, skip, report, lambda: sink(TableProgress(name, lines.complete_bytes, total)))
            await in_thread(lines.end)
        if 2 * (len(report.damaged) - damaged) > lines.line_count:
            raise FetchError("bad_response", "most of its lines are no narratives", hopeless=True)

    try:
        await with_retries(
            attempt,
            client.limits,
            sleep=client.hosts.retrying(url),
            has_progressed=lambda: lines.complete_bytes > before,
        )
    except FetchError as error:
        report.lost.append(f"{name}: {error} ({error.kind})")
        sink(Note(f"{name}: cannot be had ({error.kind}: {error})"))
        return
    sink(TableProgress(name, lines.complete_bytes, lines.complete_bytes, finished=True))


async def _feed(
    response: "Response", lines: NarrativeFilter, skip: int, report: TraceReport, progress: Callable[[], None]
) -> None:
    """Pass a body to the filter in large blocks, except its first `skip` bytes; bytes before a break are not lost."""
    block = bytearray()
    try:
        async with aclosing(response.chunks(no_deadline=True)) as chunks:
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


def _count_lines(path: Path) -> int:
    try:
        with plain_file(path) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
    except OSError:
        return 0


def _write_sorted(spool: Path, index: pl.DataFrame, target: Path) -> None:
    """Write the lines of a spool to `target` in the order of an index."""
    with (
        replacing(target, part=spool.with_suffix(".sorted"), durable=True) as part,
        spool.open("rb") as source,
        part.open("wb") as file,
    ):
        for rows in index.iter_slices(_COPY_AT_ONCE):
            for at, size in zip(rows.get_column("at"), rows.get_column("size"), strict=True):
                source.seek(at)
                file.write(source.read(size))


def _image_id(line: bytes) -> bytes | None:
    """Return the ImageID of a narrative, None if the line is none."""
    found = _IMAGE_ID.search(line, 0, _LOOK_BYTES)
    if found is not None and line.endswith((b"}", b"}\r")) and _HEX.fullmatch(found[1]):
        return found[1]
    try:
        image_id = json.loads(line)["image_id"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return image_id if isinstance(image_id, bytes) and _HEX.fullmatch(image_id) else None


def _is_narrative(line: bytes, image_id: bytes) -> bool:
    """Return whether all of a line can be read, and speaks of this image: `_image_id` looks at its start alone."""
    try:
        narrative = json.loads(line)
        return isinstance(narrative, dict) and narrative["image_id"] == image_id.decode()
    except (ValueError, KeyError, RecursionError):
        return False
