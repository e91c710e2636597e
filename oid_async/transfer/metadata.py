"""The metadata cache: tables that stand on a server, fetched once and kept, by the same client as the images.

    CACHE/<site>/<bucket>/<key>          the file as published
    CACHE/<site>/<bucket>/<key>.json     where it came from, its size and its validators (ETag, Last-Modified)

<site> is `published`, or a name made from the mirror's address, or `given` for a URL of the user's own. A table that is
there is asked for with its validators: 304 costs one small answer, a changed file is noticed.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiofiles
import aiofiles.os
import aiohttp
from platformdirs import user_cache_path

from oid_async.errors import InputError, UnavailableError, storage_error
from oid_async.events import Note, Sink, TableProgress
from oid_async.openimages.catalogue import PublishedTable, object_url
from oid_async.openimages.tables import TableFile
from oid_async.threads import in_thread
from oid_async.transfer.client import Client
from oid_async.transfer.retry import Attempts, FetchError

_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one state of a table from another; `etag` and `last_modified` are None if the server gives none."""

    url: str
    bytes: int
    etag: str | None
    last_modified: str | None


class MetadataCache:
    """Fetches tables into one cache folder. `fetched_bytes` counts what this run moved.

    `site` is what a mirror is known by over runs; it names its place in the cache and stands in what is written down.
    """

    def __init__(
        self, client: Client, sink: Sink, *, cache_dir: Path | None, mirror: str | None, site: str | None
    ) -> None:
        self._client = client
        self._sink = sink
        self._mirror = mirror
        self._written = site
        self._folder = "published" if site is None else f"mirror-{_digest(site)}"
        self._root = cache_dir or user_cache_path("oid-async")
        # A person waits for the first table: an address with nobody behind it is said so within two seconds.
        self._impatient = replace(client.limits, retries=min(client.limits.retries, 2))
        self.fetched_bytes = 0

    async def published(self, table: PublishedTable) -> tuple[TableFile, Identity]:
        """Return a published table on this disk. Raises UnavailableError when it cannot be had."""
        url = object_url(table.bucket, table.key, self._mirror)
        written = object_url(table.bucket, table.key, self._written)
        path = self._root / self._folder / table.bucket / table.key
        file, identity = await self._bring(url, path, table.name, written)
        return file, replace(identity, url=written)

    async def given(self, url: str) -> tuple[TableFile, Identity]:
        """Return a table that the user named by URL. Raises UnavailableError when it cannot be had."""
        name = url.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1] or "table.csv"
        return await self._bring(url, self._root / "given" / _digest(url) / name, url, url)

    async def _bring(self, url: str, path: Path, name: str, written: str) -> tuple[TableFile, Identity]:
        kept = await asyncio.to_thread(_read_identity, path)
        try:
            identity = await self._ask(url, path, name, kept)
        except FetchError as error:
            if kept is None or error.kind in ("not_found", "gone", "forbidden", "bad_url", "blocked"):
                raise _unavailable(error, written, name) from error
            self._sink(Note(f"{name}: {written} cannot be asked ({error}); using the copy in the cache"))
            identity = kept
        except OSError as error:
            raise storage_error(error, path.parent) from error
        return TableFile(path, name), identity

    async def _ask(self, url: str, path: Path, name: str, kept: Identity | None) -> Identity:
        """Ask until there is an answer for good: the whole file, or that the kept copy is still the latest."""
        attempts = Attempts(self._client.limits)
        while True:
            attempts.made += 1
            try:
                return await self._attempt(url, path, name, kept)
            except FetchError as error:
                wait_s = attempts.wait_s(error, 1.0, self._impatient if error.kind == "network" else None)
                if wait_s is None:
                    raise
            await self._client.hosts.sleep(wait_s)

    async def _attempt(self, url: str, path: Path, name: str, kept: Identity | None) -> Identity:
        async with self._client.get(url, _conditions(kept)) as response:
            if response.status == 304 and kept is not None:
                return kept
            if response.status != 200:
                raise FetchError("bad_response", f"HTTP {response.status}")
            total = response.content_length
            await aiofiles.os.makedirs(path.parent, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                size = await self._save(response, part, name, total)
                identity = Identity(url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
                await aiofiles.os.replace(part, path)
            except BaseException:
                await in_thread(part.unlink, True)
                raise
            await asyncio.to_thread(_side(path).write_text, json.dumps(asdict(identity)))
            self._sink(TableProgress(name, size, total, finished=True))
            return identity

    async def _save(self, response: aiohttp.ClientResponse, part: Path, name: str, total: int | None) -> int:
        """Stream the body to disk in large blocks: each write is a thread hop."""
        block, size = bytearray(), 0
        async with aiofiles.open(part, "wb") as file:
            async with aclosing(self._client.chunks(response)) as chunks:
                async for chunk in chunks:
                    block += chunk
                    size += len(chunk)
                    if len(block) >= _BLOCK:
                        await file.write(block)
                        self.fetched_bytes += len(block)
                        block = bytearray()
                        self._sink(TableProgress(name, size, total))
            await file.write(block)
            self.fetched_bytes += len(block)
        if total is not None and size != total:
            raise FetchError("truncated", f"{size} of {total} bytes arrived")
        return size


def local_table(given: str) -> TableFile | None:
    """Return the table a path or file: URL names, None for an http URL. Raises InputError if the file is not there."""
    if given.lower().startswith(("http://", "https://")):
        return None
    path = file_url_path(given) or Path(given)
    if not path.is_file():
        raise InputError(f"{given}: {'not a file' if path.exists() else 'no such file'}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{given}: cannot be read (permission denied)")
    return TableFile(path, given)


def file_url_path(url: str) -> Path | None:
    """Return the path of a file: URL, None for anything else.

    >>> file_url_path("file:///data/a%20b.csv")
    PosixPath('/data/a b.csv')
    """
    if not url.lower().startswith("file:"):
        return None
    return Path(unquote(urlsplit(url).path))


def _conditions(kept: Identity | None) -> Mapping[str, str]:
    if kept is None:
        return {}
    conditions = {"If-None-Match": kept.etag, "If-Modified-Since": None if kept.etag else kept.last_modified}
    return {name: value for name, value in conditions.items() if value}


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_identity(path: Path) -> Identity | None:
    """Return what is known of a kept copy; None if it is not there whole."""
    with suppress(OSError, ValueError, TypeError):
        known: dict[str, Any] = json.loads(_side(path).read_text())
        identity = Identity(**known)
        if path.stat().st_size == identity.bytes:
            return identity
    return None


def _unavailable(error: FetchError, url: str, name: str) -> UnavailableError:
    if error.kind in ("not_found", "gone", "forbidden"):
        return UnavailableError(f"{name}: not published at {url} ({error})")
    return UnavailableError(f"{name}: cannot be had from {url} ({error.kind}: {error})")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
