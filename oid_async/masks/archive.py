"""One remote archive: its directory, fetched once and kept in the cache as Parquet, and any part of it.

    FOLDER/<state>.parquet   the directory (see `masks.directory`) of the archive in one state
    FOLDER/state.json        which state that is: its size and ETag; written last, by renaming

That an archive has changed shows in the answer to any later request (If-Range, and its length), so that a directory in
the cache costs no request.
"""

import hashlib
import json
import re
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from oid_async.concurrency import in_thread
from oid_async.http.retry import Attempts, FetchError
from oid_async.masks.zip_directory import TAIL_BYTES, ArchiveError, CentralDirectoryEnd, find_end, read_directory

if TYPE_CHECKING:
    from oid_async.http.client import Client, Response

_PART_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class ChangedError(Exception):
    """The archive is another one than its directory was read from."""


class NoRangeError(Exception):
    """The server sends all of the archive, whatever part is asked for."""


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """What tells one state of an archive from another: its size in bytes, its ETag."""

    bytes: int
    etag: str | None

    @property
    def name(self) -> str:
        """Return what files are called that speak of this state."""
        return hashlib.sha256(f"{self.bytes} {self.etag}".encode()).hexdigest()[:16]


class Archive:
    """An archive at `url`; `folder` keeps its directory, `scratch` all of it if it cannot be had in parts."""

    def __init__(self, client: "Client", url: str, folder: Path, scratch: Path) -> None:
        self._client = client
        self._url = url
        self._folder = folder
        self._scratch = scratch
        self._local: Path | None = None
        self.state: ArchiveState | None = None
        self.is_fresh = False
        """Whether the directory was fetched just now, not taken from the cache."""
        self.directory_bytes = 0
        """How much this run has fetched of its directory."""

    async def directory(self) -> Path:
        """Return where its directory lies. Raises FetchError, ArchiveError."""
        kept = await in_thread(self._kept)
        if kept is not None:
            return kept
        with suppress(NoRangeError):
            return await self._fetch_directory()
        await self.fetch_whole()
        return await self._fetch_directory()

    def forget(self) -> None:
        """Forget a directory that is out of date."""
        (self._folder / "state.json").unlink(missing_ok=True)
        self.state = self._local = None

    async def read(self, start: int, stop: int) -> bytes | bytearray:
        """Return the bytes from start to stop. Raises FetchError, ChangedError, NoRangeError."""
        if self._local is not None:
            return await in_thread(_read_file, self._local, start, stop)
        attempts = Attempts(self._client.limits)
        while True:
            attempts.made += 1
            try:
                return await self._ask(start, stop)
            except FetchError as error:
                if error.status == 416:
                    raise ChangedError from error
                wait_s = attempts.wait_s(error, 1.0)
                if wait_s is None:
                    raise
            await self._client.hosts.sleep(wait_s)

    async def fetch_whole(self) -> None:
        """Fetch all of it into the scratch folder, for a server that has no parts. Raises FetchError."""
        attempts = Attempts(self._client.limits)
        path = self._scratch / f"{hashlib.sha256(self._url.encode()).hexdigest()[:16]}.zip"
        while True:
            attempts.made += 1
            try:
                async with self._client.get(self._url) as answer:
                    etag = answer.headers.get("ETag")
                    size = await self._save(answer, path)
                    if answer.length is not None and size != answer.length:
                        raise FetchError("truncated", f"{size} of {answer.length} bytes arrived")
                self._local, self.state = path, ArchiveState(size, etag)
                return
            except FetchError as error:
                wait_s = attempts.wait_s(error, 1.0)
                if wait_s is None:
                    raise
            await self._client.hosts.sleep(wait_s)

    async def _fetch_directory(self) -> Path:
        tail, end = await self._end()
        first = self.state.bytes - len(tail) if self.state is not None else 0
        parts = []
        for start in range(end.start, min(end.stop, first), _PART_BYTES):
            parts.append(await self.read(start, min(start + _PART_BYTES, end.stop, first)))
        parts.append(tail[max(0, end.start - first) : end.stop - first])
        data = b"".join(parts)
        self.is_fresh = True
        self.directory_bytes += len(tail) + sum(map(len, parts[:-1]))
        return await in_thread(self._keep, data, end)

    async def _end(self) -> tuple[bytes, CentralDirectoryEnd]:
        """Return the archive's last bytes, and where they say that the directory lies."""
        if self._local is not None:
            assert self.state is not None
            total = self.state.bytes
            last = await in_thread(_read_file, self._local, max(0, total - TAIL_BYTES), total)
            return last, find_end(last, total)
        self.state = None
        tail = bytes(await self.read(-TAIL_BYTES, 0))
        return tail, find_end(tail, self._needed().bytes)

    def _needed(self) -> ArchiveState:
        assert self.state is not None, "an answer has told of it"
        return self.state

    async def _ask(self, start: int, stop: int) -> bytearray:
        state = self.state
        wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{stop - 1}"
        headers = {"Range": wanted}
        if state is not None and state.etag is not None and not state.etag.startswith("W/"):
            headers["If-Range"] = state.etag
        async with self._client.get(self._url, headers) as answer:
            expected = self._check(answer, start, stop)
            body = bytearray()
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > expected:
                        raise FetchError("bad_response", f"more than the {expected} bytes that were asked for")
            if len(body) != expected:
                raise FetchError("truncated", f"{len(body)} of {expected} bytes arrived")
            return body

    def _check(self, answer: "Response", start: int, stop: int) -> int:
        """Return how many bytes come, if they are the part that was asked for."""
        etag, state = answer.headers.get("ETag"), self.state
        if answer.status != 206:
            is_same = state is None or (answer.length in (None, state.bytes) and etag == state.etag)
            raise NoRangeError if is_same else ChangedError
        said = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if said is None or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise NoRangeError
        first, last, total = map(int, said.groups())
        if state is None:
            self.state = ArchiveState(total, etag)
            start = max(0, total + start) if start < 0 else start
            stop = stop or total
        elif (total, etag) != (state.bytes, state.etag):
            raise ChangedError
        if (first, last) != (start, stop - 1):
            raise NoRangeError
        return stop - start

    async def _save(self, answer: "Response", path: Path) -> int:
        size, block = 0, bytearray()
        file: IO[bytes] = await in_thread(path.open, "wb")
        try:
            async with aclosing(answer.chunks(endless=True)) as chunks:
                async for chunk in chunks:
                    block += chunk
                    if len(block) >= _BLOCK_BYTES:
                        full, block = block, bytearray()
                        size += await in_thread(file.write, full)
            size += await in_thread(file.write, block)
        finally:
            await in_thread(file.close)
        return size

    def _kept(self) -> Path | None:
        kept = kept_directory(self._folder)
        if kept is None:
            return None
        path, self.state = kept
        return path

    def _keep(self, data: bytes, end: CentralDirectoryEnd) -> Path:
        """Read a directory and keep it."""
        state = self._needed()
        frame = read_directory(data, end)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{state.name}.parquet"
        part = path.with_suffix(f".{id(self):x}.part")
        frame.write_parquet(part, compression="zstd")
        part.replace(path)
        note = self._folder / f"state.{id(self):x}.part"
        note.write_text(json.dumps(asdict(state)), encoding="utf-8")
        note.replace(self._folder / "state.json")
        for old in self._folder.glob("*.parquet"):
            if old != path:
                old.unlink(missing_ok=True)
        return path


def kept_directory(folder: Path) -> tuple[Path, ArchiveState] | None:
    """Return the directory that a folder keeps, and of which state of its archive; None if there is none."""
    try:
        said = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state = ArchiveState(int(said["bytes"]), said["etag"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    path = folder / f"{state.name}.parquet"
    return (path, state) if path.exists() else None


def _read_file(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


__all__ = ["Archive", "ArchiveError", "ArchiveState", "ChangedError", "NoRangeError", "kept_directory"]
