"""One remote archive: its directory, fetched once and cached as Parquet, and any part of it.

    FOLDER/<state>.parquet   the directory (see `masks.zip_archive`) of the archive in one state
    FOLDER/state.json        that state: the archive's size and ETag; written last, by renaming

A change of the archive is noticed in the response to any later request (If-Range, and its length), so that a cached
directory costs no request.
"""

import hashlib
import re
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import storage_errors
from oid_async.http.resume import is_strong
from oid_async.http.retry import FetchError, with_retries
from oid_async.http.small_get import SmallBody, small_get
from oid_async.masks.zip_archive import SCHEMA, TAIL_BYTES, CentralDirectoryEnd, find_end, read_directory
from oid_async.metadata.integrity import is_as_stored, is_header_text, is_intact, is_readable, sealed, stored_file
from oid_async.store.atomic import read_json, replacing, write_json

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_PART_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
# Many times the largest published archive; a body without end would fill the disk.
_MOST_ARCHIVE_BYTES = 8 << 30


class ChangedError(Exception):
    """The archive has changed since its directory was read."""


class NoRangeError(Exception):
    """The server sends all of the archive, whatever part is requested."""


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """One state of an archive: its size in bytes, its ETag."""

    bytes: int
    etag: str | None

    @property
    def name(self) -> str:
        """Return the name of files that belong to this state."""
        return hashlib.sha256(f"{self.bytes} {self.etag}".encode()).hexdigest()[:16]


class Archive:
    """An archive at `url`; `folder` caches its directory, `scratch` is for all of it if the server sends no parts.

    `is_fresh`: the directory was fetched by this run, not taken from the cache; `directory_bytes` were fetched for it.
    """

    def __init__(self, client: "Client", url: str, folder: Path, scratch: Path) -> None:
        self._client = client
        self._url = url
        self._folder = folder
        self._scratch = scratch
        self._local: Path | None = None
        self._is_outdated = False
        self.state: ArchiveState | None = None
        self.is_fresh = False
        self.directory_bytes = 0

    async def directory(self) -> Path:
        """Return the path of its directory. Raises FetchError, ArchiveError."""
        cached = None if self._is_outdated else await in_thread(cached_directory, self._folder)
        if cached is not None:
            path, self.state = cached
            return path
        with suppress(NoRangeError):
            return await self._fetch_directory()
        await self.fetch_whole()
        return await self._fetch_directory()

    def forget(self) -> None:
        """Do without the cached directory, which is out of date. It stays until another one takes its place."""
        self._is_outdated = True
        self.state = self._local = None

    async def read(self, start: int, stop: int) -> bytes | bytearray:
        """Return the bytes from start to stop, or the last ones with a negative start and 0.

        Raises FetchError, ChangedError, NoRangeError.
        """
        if self._local is not None:
            return await in_thread(_read_file, self._local, start, stop)
        state = self.state
        headers = {"Range": f"bytes={start}" if start < 0 else f"bytes={start}-{stop - 1}"}
        if state is not None and state.etag is not None and is_strong(state.etag):
            headers["If-Range"] = state.etag
        try:
            return await small_get(
                self._client,
                self._url,
                _data,
                max_bytes=-start if start < 0 else stop - start,
                headers=headers,
                expect=lambda response: self._check(response, start, stop),
            )
        except FetchError as error:
            if error.status == 416:
                raise ChangedError from error
            raise

    async def fetch_whole(self) -> None:
        """Fetch all of it into the scratch folder, for a server that has no parts. Raises FetchError."""
        path = self._scratch / f"{hashlib.sha256(self._url.encode()).hexdigest()[:16]}.zip"

        async def attempt() -> ArchiveState:
            async with self._client.get(self._url) as response:
                etag = response.headers.get("ETag")
                with storage_errors(path.parent):
                    size = await self._save(response, path)
                if response.length is not None and size != response.length:
                    raise FetchError("truncated", f"{size} of {response.length} bytes arrived")
            return ArchiveState(size, etag)

        self.state = await with_retries(attempt, self._client.limits, sleep=self._client.hosts.retrying(self._url))
        self._local = path

    async def _fetch_directory(self) -> Path:
        tail, end = await self._end()
        first = self.state.bytes - len(tail) if self.state is not None else 0
        data = bytearray()
        for start in range(end.start, min(end.stop, first), _PART_BYTES):
            data += await self.read(start, min(start + _PART_BYTES, end.stop, first))
        self._is_outdated, self.is_fresh = False, True
        self.directory_bytes += len(tail) + len(data)
        data += tail[max(0, end.start - first) : end.stop - first]
        return await in_thread(self._cache_directory, data, end)

    async def _end(self) -> tuple[bytes, CentralDirectoryEnd]:
        """Return the archive's last bytes, and the place of the directory that they state."""
        if self._local is not None:
            assert self.state is not None
            total = self.state.bytes
            last = await in_thread(_read_file, self._local, max(0, total - TAIL_BYTES), total)
            return last, find_end(last, total)
        self.state = None
        tail = bytes(await self.read(-TAIL_BYTES, 0))
        return tail, find_end(tail, self._known_state().bytes)

    def _known_state(self) -> ArchiveState:
        assert self.state is not None, "every response sets it"
        return self.state

    def _check(self, response: "Response", start: int, stop: int) -> int:
        """Return how many bytes the body must have. Raises ChangedError, NoRangeError if it is not the part wanted."""
        headers, etag, state = response.headers, response.headers.get("ETag"), self.state
        if response.status != 206:
            is_same = state is None or (response.length in (None, state.bytes) and etag == state.etag)
            raise NoRangeError if is_same else ChangedError
        content_range = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if content_range is None or headers.get("Content-Encoding", "identity") != "identity":
            raise NoRangeError
        first, last, total = map(int, content_range.groups())
        self.state = ArchiveState(total, etag)
        if state is not None and self.state != state:
            raise ChangedError
        if start < 0:
            start, stop = max(0, total + start), total
        if (first, last) != (start, stop - 1):
            raise NoRangeError
        return stop - start

    async def _save(self, response: "Response", path: Path) -> int:
        if response.length is not None and response.length > _MOST_ARCHIVE_BYTES:
            raise FetchError("too_large", f"an archive of {response.length} bytes")
        size, block = 0, bytearray()
        file: IO[bytes] = await in_thread(path.open, "wb")
        try:
            async with aclosing(response.chunks(no_deadline=True)) as chunks:
                async for chunk in chunks:
                    block += chunk
                    if len(block) >= _BLOCK_BYTES:
                        full, block = block, bytearray()
                        size += await in_thread(file.write, full)
                        if size > _MOST_ARCHIVE_BYTES:
                            raise FetchError("too_large", f"an archive of more than {_MOST_ARCHIVE_BYTES} bytes")
            size += await in_thread(file.write, block)
        finally:
            await in_thread(file.close)
        return size

    def _cache_directory(self, data: bytearray, end: CentralDirectoryEnd) -> Path:
        """Read a directory and cache it."""
        frame = read_directory(data, end)
        with storage_errors(self._folder):
            return self._store_directory(frame)

    def _store_directory(self, frame: pl.DataFrame) -> Path:
        state = self._known_state()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{state.name}.parquet"
        # Two runs may do this at the same time: each has temporary names of its own.
        with replacing(path, part=path.with_suffix(f".{id(self):x}.part")) as part:
            frame.write_parquet(part, compression="zstd")
        note = sealed({**asdict(state), "files": {path.name: stored_file(path)}})
        write_json(self._folder / "state.json", note, part=self._folder / f"state.{id(self):x}.part")
        for old in self._folder.glob("*.parquet"):
            if old != path:
                old.unlink(missing_ok=True)
        return path


def cached_directory(folder: Path) -> tuple[Path, ArchiveState] | None:
    """Return the path of the directory in a cache folder, and the state of the archive; None if no whole one is there.

    One of version 0.1.0, which noted no hash, must have a readable end.
    """
    stored = read_json(folder / "state.json")
    try:
        state = ArchiveState(int(stored["bytes"]), stored["etag"])
        path = folder / f"{state.name}.parquet"
        is_ours = is_intact(stored) and (state.etag is None or is_header_text(state.etag))
        if not is_ours or ("files" in stored and not is_as_stored(folder, path.name, stored)):
            return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return (path, state) if is_readable(path, SCHEMA) else None


async def _data(body: SmallBody) -> bytearray:
    return body.data


def _read_file(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
