"""The sizes of the hosted images: the bucket's own listing, fetched once, as a table.

    CACHE/<site>/open-images-dataset/<split>.sizes/sizes.parquet    KEY (u64), Bytes (i64), ETag; sorted by KEY
    CACHE/<site>/open-images-dataset/<split>.sizes/pages/<p>.parquet  the same so far, by the id's first two digits

S3's ListObjectsV2, unsigned: a thousand keys a response, 1,911 responses for all splits. Ids are not spread evenly, yet
each of the 256 prefixes of a split has about seven pages: so prefixes are listed concurrently, and an interrupted
listing continues with those that are missing. (API reference of Amazon S3, ListObjectsV2, checked 2026-11.)
"""

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.errors import StorageError, UnavailableError, storage_error
from oid_async.events import Sink, TableProgress
from oid_async.http.retry import FetchError
from oid_async.http.small_get import SmallBody, small_get
from oid_async.metadata.checks import LEAST_SHARE
from oid_async.metadata.integrity import is_as_stored, is_intact, is_readable, sealed, stored_file
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split
from oid_async.quick_values import frozen
from oid_async.store.atomic import read_json, replacing, write_json

if TYPE_CHECKING:
    from oid_async.http.client import Client

_DIGITS = "0123456789abcdef"
PREFIXES = tuple(first + second for first in _DIGITS for second in _DIGITS)
_AT_ONCE = 16
# A page of a thousand keys has some 300 kB.
_MOST_PAGE_BYTES = 8 << 20
SIZES_SCHEMA = {KEY: pl.UInt64, "Bytes": pl.Int64, "ETag": pl.String}


@frozen
class Page:
    """One response: (ImageID, bytes, ETag) of its images, and the token of the next page, None for the last."""

    images: list[tuple[str, int, str]]
    token: str | None


class Sizes:
    """The listing of one split in the cache folder of a site."""

    def __init__(self, root: Path, split: Split) -> None:
        self.split = split
        self._folder = root / IMAGE_BUCKET / f"{split}.sizes"
        self._pages = self._folder / "pages"
        self._note = self._folder / "sizes.json"

    @property
    def path(self) -> Path:
        """Return the path of the table, which need not exist yet."""
        return self._folder / "sizes.parquet"

    @property
    def is_there(self) -> bool:
        """Return whether the listing is complete."""
        return os.path.lexists(self.path)

    def is_damaged(self) -> bool:
        """Return whether the listing is there and not as it was stored. Blocking."""
        if not self.is_there:
            return False
        note = read_json(self._note)
        if not is_readable(self.path, SIZES_SCHEMA):
            return True
        return isinstance(note, dict) and not (is_intact(note) and is_as_stored(self._folder, self.path.name, note))

    @property
    def age_s(self) -> float | None:
        """Return the age of the table, None if there is none."""
        return max(0.0, time.time() - self.path.lstat().st_mtime) if self.is_there else None

    def clear(self) -> None:
        """Remove the table and its pages."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def pull(self, client: "Client", sink: Sink, mirror: str | None) -> int:
        """List the missing prefixes; return the number of images. Raises UnavailableError, StorageError.

        A listing of under half as many images as a good one has is no listing of the bucket, and does not replace it.
        """
        try:
            await in_thread(lambda: self._pages.mkdir(parents=True, exist_ok=True))
            missing = await in_thread(self._missing)
            todo = iter(missing)
            done = len(PREFIXES) - len(missing)

            async def work() -> None:
                nonlocal done
                for prefix in todo:
                    images = await self._list(client, prefix, mirror)
                    await in_thread(self._keep, prefix, images)
                    done += 1
                    sink(TableProgress(f"sizes of {self.split}", done, len(PREFIXES), unit="step"))

            with single_error():
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(_AT_ONCE):
                        tasks.create_task(work())
            sink(TableProgress(f"sizes of {self.split}", done, len(PREFIXES), finished=True, unit="step"))
            return await in_thread(self._join)
        except FetchError as error:
            where = object_url(IMAGE_BUCKET, "", mirror)
            raise UnavailableError(f"{where} cannot be listed ({error.kind}: {error})") from error
        except pl.exceptions.PolarsError as error:
            await in_thread(self.clear)
            raise UnavailableError(f"{self._folder}: its pages are damaged: removed; run the same again") from error
        except OSError as error:
            hint = "--cache-dir or OID_ASYNC_CACHE names another cache"
            raise StorageError(f"{storage_error(error, self._folder)}; {hint}") from error

    def _missing(self) -> list[str]:
        return [prefix for prefix in PREFIXES if not is_readable(self._pages / f"{prefix}.parquet", SIZES_SCHEMA)]

    async def _list(self, client: "Client", prefix: str, mirror: str | None) -> list[tuple[str, int, str]]:
        images: list[tuple[str, int, str]] = []
        token: str | None = None
        while True:
            page = await self._page(client, prefix, token, mirror)
            images += page.images
            if page.token is None:
                return images
            if page.token == token:
                raise FetchError("bad_response", f"its listing of {self.split}/{prefix} goes round in a circle")
            token = page.token

    async def _page(self, client: "Client", prefix: str, token: str | None, mirror: str | None) -> Page:
        query = f"list-type=2&encoding-type=url&prefix={quote(f'{self.split}/{prefix}', safe='')}"
        if token is not None:
            query += f"&continuation-token={quote(token, safe='')}"
        url = f"{object_url(IMAGE_BUCKET, '', mirror)}?{query}"

        async def read(body: SmallBody) -> Page:
            return await in_thread(read_page, body.data, self.split)

        return await small_get(client, url, read, max_bytes=_MOST_PAGE_BYTES)

    def _keep(self, prefix: str, images: Sequence[tuple[str, int, str]]) -> None:
        ids, sizes, etags = zip(*images, strict=True) if images else ((), (), ())
        keys = pl.Series([int(image_id, 16) for image_id in ids], dtype=pl.UInt64)
        frame = pl.DataFrame({KEY: keys, "Bytes": list(sizes), "ETag": list(etags)}, schema=SIZES_SCHEMA)
        # A power cut may leave a readable end, and not what is before it.
        with replacing(self._pages / f"{prefix}.parquet", durable=True) as part:
            frame.write_parquet(part, compression="lz4")

    def _join(self) -> int:
        pages = [self._pages / f"{prefix}.parquet" for prefix in PREFIXES]
        frame = pl.read_parquet(pages, glob=False).unique(KEY, keep="last").sort(KEY)
        if (before := self._good_rows()) and len(frame) < LEAST_SHARE * before:
            shutil.rmtree(self._pages, ignore_errors=True)
            raise UnavailableError(
                f"sizes of {self.split}: {len(frame)} images are listed where the copy has {before}; the copy is kept "
                "(if that is meant, oid-async metadata clear and the same again)"
            )
        with replacing(self.path, durable=True) as part:
            frame.write_parquet(part, compression="zstd", row_group_size=1 << 15)
        write_json(self._note, sealed({"files": {self.path.name: stored_file(self.path)}}), durable=True)
        with suppress(OSError):
            shutil.rmtree(self._pages)
        return len(frame)

    def _good_rows(self) -> int:
        """Return how many images the listing has that is here, 0 if it is damaged or there is none."""
        if not self.is_there or self.is_damaged():
            return 0
        return int(pl.scan_parquet(self.path, glob=False).select(pl.len()).collect().item())


def read_page(body: bytes | bytearray, split: Split) -> Page:
    """Parse a page of the listing; other objects are ignored. Raises FetchError if it is no complete listing."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise FetchError("truncated", f"its listing cannot be read: {error}") from error
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    if root.tag != f"{space}ListBucketResult":
        raise FetchError("bad_response", "it answers with something else than a listing")
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    images = []
    entries = list(root.iter(f"{space}Contents"))
    count = root.findtext(f"{space}KeyCount") or ""
    if count.isdecimal() and int(count) > len(entries):
        raise FetchError("truncated", f"a page of its listing has {len(entries)} of {count} keys")
    for entry in entries:
        key = entry.findtext(f"{space}Key") or ""
        key = unquote_plus(key) if is_encoded else key
        size, etag = entry.findtext(f"{space}Size") or "", (entry.findtext(f"{space}ETag") or "").strip('"')
        folder, _, name = key.partition("/")
        image_id = name.removesuffix(".jpg")
        is_image = folder == split and len(image_id) == 16 and not set(image_id) - set(_DIGITS) and name != image_id
        if is_image and size.isdecimal():
            images.append((image_id, int(size), etag))
    is_cut = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken")
    if is_cut and not token:
        raise FetchError("bad_response", "a page says that more follow, and not where")
    return Page(images, token if is_cut else None)
