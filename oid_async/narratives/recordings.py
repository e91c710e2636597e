"""The recordings of the saved narratives: one OGG file each, named as published, side by side.

narrative/voice/<name>.ogg         what `voice_recording` of a narrative names, without its folder
narrative/failures.csv             Recording, ImageID, Reason, Detail; absent when none failed
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import storage_error
from oid_async.http.retry import Attempts, FetchError
from oid_async.openimages.annotations import NARRATIVES_BUCKET
from oid_async.openimages.catalogue import object_url

if TYPE_CHECKING:
    from oid_async.http.client import Client

_AT_ONCE = 16
_READ_LINES = 256
# The longest narratives take minutes; a recording of one is a megabyte or two.
_MOST_BYTES = 64 << 20
_PATH = re.compile(r"(?:[0-9A-Za-z_-]{1,100}/){0,4}([0-9A-Za-z_-]{1,150}\.ogg)")
_FAILURE_SCHEMA = {"Recording": pl.String, "ImageID": pl.String, "Reason": pl.String, "Detail": pl.String}


@dataclass(slots=True)
class RecordingReport:
    """What became of the recordings: selected = present + downloaded + failed; `unnamed` narratives name none."""

    selected: int = 0
    present: int = 0
    downloaded: int = 0
    bytes: int = 0
    unnamed: int = 0
    failures: list[tuple[str, str, str, str]] = field(default_factory=list)


class RecordingFetcher:
    """Fetches recordings into `folder`; `scratch` is for temporaries on the same disk."""

    def __init__(self, client: "Client", *, mirror: str | None, folder: Path, scratch: Path) -> None:
        self._client = client
        self._mirror = mirror
        self._folder = folder
        self._scratch = scratch
        self.report = RecordingReport()

    async def fetch(self, narratives: Path) -> RecordingReport:
        """Fetch what is not there of the recordings that narratives name. Raises StorageError."""
        try:
            await in_thread(lambda: self._folder.mkdir(parents=True, exist_ok=True))
            todo: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(2 * _AT_ONCE)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_AT_ONCE):
                    tasks.create_task(self._work(todo))
                blocks = _blocks(narratives)
                while named := await in_thread(next, blocks, None):
                    for recording in named:
                        await self._hand_out(recording, todo)
                for _ in range(_AT_ONCE):
                    await todo.put(None)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        except OSError as error:
            raise storage_error(error, self._folder) from error
        return self.report

    async def _hand_out(self, named: tuple[str, str] | None, todo: "asyncio.Queue[tuple[str, str] | None]") -> None:
        if named is None:
            self.report.unnamed += 1
            return
        self.report.selected += 1
        image_id, path = named
        found = _PATH.fullmatch(path)
        if found is None:
            self.report.failures.append((path[:200], image_id, "bad_url", "no name of a recording"))
        elif await in_thread(os.path.exists, self._folder / found[1]):
            self.report.present += 1
        else:
            await todo.put(named)

    async def _work(self, todo: "asyncio.Queue[tuple[str, str] | None]") -> None:
        while (named := await todo.get()) is not None:
            image_id, path = named
            url = object_url(NARRATIVES_BUCKET, f"voice-recordings/{path}", self._mirror)
            try:
                body = await self._body(url)
            except FetchError as error:
                self.report.failures.append((path, image_id, error.kind, str(error)))
                continue
            await in_thread(self._store, path.rpartition("/")[2], body)
            self.report.downloaded += 1
            self.report.bytes += len(body)

    async def _body(self, url: str) -> bytes:
        attempts = Attempts(self._client.limits)
        while True:
            attempts.made += 1
            try:
                body = bytearray()
                async with self._client.get(url) as answer:
                    async for chunk in answer.chunks():
                        body += chunk
                        if len(body) > _MOST_BYTES:
                            raise FetchError("too_large", f"more than {_MOST_BYTES} bytes")
                    if answer.length is not None and len(body) != answer.length:
                        raise FetchError("truncated", f"{len(body)} of {answer.length} bytes arrived")
                if not body:
                    raise FetchError("empty", "no byte came")
                if not body.startswith(b"OggS"):
                    raise FetchError("checksum", "it does not begin as an OGG file does")
                return bytes(body)
            except FetchError as error:
                wait_s = attempts.wait_s(error, 1.0)
                if wait_s is None:
                    raise
            await self._client.hosts.sleep(wait_s)

    def _store(self, name: str, body: bytes) -> None:
        part = self._scratch / f"{name}.part"
        try:
            part.write_bytes(body)
            part.replace(self._folder / name)
        except OSError as error:
            raise storage_error(error, self._folder) from error

    def failures(self) -> pl.DataFrame:
        """Return Recording, ImageID, Reason, Detail of those that failed, in order."""
        return pl.DataFrame(sorted(self.report.failures), schema=_FAILURE_SCHEMA, orient="row")


def _blocks(narratives: Path) -> Iterator[list[tuple[str, str] | None]]:
    """Yield (ImageID, voice_recording) of some hundred narratives at a time, None for one that names no recording."""
    block: list[tuple[str, str] | None] = []
    with narratives.open("rb") as lines:
        for line in lines:
            said = json.loads(line)
            path = said.get("voice_recording")
            block.append((str(said["image_id"]), path) if isinstance(path, str) else None)
            if len(block) == _READ_LINES:
                yield block
                block = []
    if block:
        yield block
