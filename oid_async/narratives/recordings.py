"""The recordings of the saved narratives: one OGG file each, named as published, in one folder.

narrative/voice/<name>.ogg         the file that `voice_recording` of a narrative names, without its folder
narrative/failures.csv             Recording, ImageID, Reason, Detail; absent when none failed
"""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.errors import storage_errors
from oid_async.http.retry import FetchError
from oid_async.http.small_get import SmallBody, small_get
from oid_async.openimages.catalogue import object_url
from oid_async.openimages.catalogue_tables import NARRATIVES_BUCKET
from oid_async.store.atomic import replacing
from oid_async.store.attached_files import AttachedFiles
from oid_async.store.image_check import md5_base64

if TYPE_CHECKING:
    from oid_async.http.client import Client

_AT_ONCE = 16
_READ_LINES = 256
# The longest narratives take minutes; a recording of one is a megabyte or two.
_MOST_BYTES = 64 << 20
_PATH = re.compile(r"(?:[0-9A-Za-z_-]{1,100}/){0,4}([0-9A-Za-z_-]{1,150}\.ogg)")


@dataclass(slots=True)
class RecordingReport:
    """Counts of recordings; `unnamed` narratives name none; `failures` are (path, ImageID, reason, detail)."""

    selected: int = 0
    present: int = 0
    downloaded: int = 0
    bytes: int = 0
    unnamed: int = 0
    failures: list[tuple[str, str, str, str]] = field(default_factory=list)


class RecordingFetcher:
    """Fetches recordings into `files`; `scratch` is for temporaries on the same disk."""

    def __init__(self, client: "Client", *, mirror: str | None, files: AttachedFiles, scratch: Path) -> None:
        self._client = client
        self._mirror = mirror
        self._files = files
        self._folder = files.path
        self._scratch = scratch
        self.report = RecordingReport()

    async def fetch(self, narratives: Path) -> RecordingReport:
        """Fetch the recordings of narratives (a path) that are missing. Raises StorageError."""
        with storage_errors(self._folder):
            await in_thread(lambda: self._folder.mkdir(parents=True, exist_ok=True))
            todo: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(2 * _AT_ONCE)
            with single_error():
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(_AT_ONCE):
                        tasks.create_task(self._work(todo))
                    blocks = _blocks(narratives)
                    while named := await in_thread(next, blocks, None):
                        await self._enqueue(named, todo)
                    for _ in range(_AT_ONCE):
                        await todo.put(None)
        return self.report

    async def _enqueue(
        self, block: "list[tuple[str, str] | None]", todo: "asyncio.Queue[tuple[str, str] | None]"
    ) -> None:
        named = [recording for recording in block if recording is not None]
        self.report.unnamed += len(block) - len(named)
        self.report.selected += len(named)
        recordings = []
        for image_id, path in named:
            if _PATH.fullmatch(path) is None:
                self.report.failures.append((path[:200], image_id, "bad_url", "no name of a recording"))
            else:
                recordings.append((image_id, path))
        names = pl.Series([path.rpartition("/")[2] for _, path in recordings], dtype=pl.String)
        for recording, is_there in zip(recordings, await in_thread(self._files.are_there, names), strict=True):
            if is_there:
                self.report.present += 1
            else:
                await todo.put(recording)

    async def _work(self, todo: "asyncio.Queue[tuple[str, str] | None]") -> None:
        while (named := await todo.get()) is not None:
            image_id, path = named
            url = object_url(NARRATIVES_BUCKET, f"voice-recordings/{path}", self._mirror)
            try:
                body = await small_get(self._client, url, _as_ogg, max_bytes=_MOST_BYTES, excess="too_large")
            except FetchError as error:
                self.report.failures.append((path, image_id, error.kind, str(error)))
                continue
            name = path.rpartition("/")[2]
            await in_thread(self._store, name, body)
            self._files.add([(name, len(body), await in_thread(md5_base64, body))])
            self.report.downloaded += 1
            self.report.bytes += len(body)

    def _store(self, name: str, body: bytes | bytearray) -> None:
        # Two narratives may name one recording, and be fetched at the same time.
        part = self._scratch / f"{name}.{threading.get_ident():x}.part"
        with storage_errors(self._folder), replacing(self._folder / name, part=part):
            part.write_bytes(body)


async def _as_ogg(body: SmallBody) -> bytearray:
    """Return the bytes of a recording. Raises FetchError if they are none."""
    if not body.data:
        raise FetchError("empty", "no byte came")
    if not body.data.startswith(b"OggS"):
        raise FetchError("checksum", "it does not begin as an OGG file does")
    return body.data


def _blocks(narratives: Path) -> Iterator[list[tuple[str, str] | None]]:
    """Yield (ImageID, voice_recording) of some hundred narratives at a time, None for one that names no recording."""
    block: list[tuple[str, str] | None] = []
    with narratives.open("rb") as lines:
        for line in lines:
            block.append(_recording(line))
            if len(block) == _READ_LINES:
                yield block
                block = []
    if block:
        yield block


def _recording(line: bytes) -> tuple[str, str] | None:
    """Return (ImageID, voice_recording) of a narrative, None if it names none or cannot be read."""
    try:
        narrative = json.loads(line)
        image_id, path = narrative["image_id"], narrative["voice_recording"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (str(image_id), path) if isinstance(path, str) else None
