"""Archives of masks, sound and not, and a run that fetches masks from them."""

import io
import random
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from aiohttp import web

from oid_async.events import ignore
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.masks.fetch import MaskFetcher, MaskReport
from oid_async.masks.zip_archive import TAIL_BYTES, find_end, read_directory
from oid_async.origin.server import Origin, published_object
from oid_async.store.attached_files import AttachedFiles

KEY = "openimages/v5/train-masks/train-masks-0.zip"


def name_of(number: int) -> str:
    return f"0{number:015x}_m01g317_{zlib.crc32(str(number).encode()):08x}.png"


def png_head(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">L4s2L5BL", 13, b"IHDR", width, height, 1, 0, 0, 0, 0, 0)


def make_archive(count: int, *, seed: int = 1, stored: bool = False, size: int = 900) -> tuple[bytes, dict[str, bytes]]:
    """Return an archive of members of random bytes, in random order, and the members."""
    chance = random.Random(seed)
    numbers = chance.sample(range(count * 3), count)
    # With the marks of a PNG: a mask without them is no mask to keep.
    start, end = png_head(320, 240), b"IEND\xaeB`\x82"
    bodies = {name_of(number): start + chance.randbytes(size + number % 200 - 41) + end for number in numbers}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, body in bodies.items():
            archive.writestr(zipfile.ZipInfo(name), body, archive.compression)
    return packed.getvalue(), bodies


def members_of(archive: bytes) -> pl.DataFrame:
    tail = archive[-TAIL_BYTES:]
    end = find_end(tail, len(archive))
    return read_directory(archive[end.start : end.stop], end)


@dataclass
class Archives:
    """Publishes archives by key; `ranges` False sends all of them, whatever part is asked for."""

    bodies: dict[str, bytes]
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        self.asked.append(request.headers.get("Range", "all"))
        if key not in self.bodies:
            raise web.HTTPNotFound
        if not self.ranges:
            self.sent[key] += len(self.bodies[key])
            return web.Response(body=self.bodies[key])
        answer = published_object(request, self.bodies[key], "application/zip")
        self.sent[key] += len(answer.body or b"")  # type: ignore[arg-type]
        return answer


@asynccontextmanager
async def fetching(archives: Archives, folder: Path, **settings: object) -> AsyncIterator[MaskFetcher]:
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    async with Origin(archives.serve) as origin:
        allowed = [("127.0.0.1", int(origin.url.rpartition(":")[2]))]
        client = Client(Hosts(None, 1.0), Limits(retries=1, backoff_s=0.001), connections=8, allowed=allowed)
        async with client:
            yield MaskFetcher(
                client,
                settings.pop("sink", ignore),  # type: ignore[arg-type]
                mirror=origin.url,
                cache=folder / "cache",
                files=AttachedFiles(folder / "masks"),
                scratch=folder / "tmp",
                **settings,  # type: ignore[arg-type]
            )


async def fetch(
    archives: Archives, folder: Path, names: list[str], *, size: tuple[int, int] | None = None, **settings: object
) -> MaskReport:
    """Fetch masks; with `size` (of their images, in pixels) they are brought to it."""
    width, height = size or (320, 240)
    frame = pl.LazyFrame({"MaskPath": names, "Subset": ["train"] * len(names), "Width": width, "Height": height})
    if size is not None:
        settings["to_image_size"] = True
    async with fetching(archives, folder, **settings) as masks:
        return await masks.fetch(frame)


def there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


def zeros_deflated(size: int, *, raw: bool = True) -> bytes:
    """Return so many zeros as deflate packs them (raw, or as in a PNG), without ever having them."""
    step = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = block * (size // step) + last.compress(bytes(size % step)) + last.flush()
    if raw:
        return body
    checksum = 1
    for _ in range(size // step):
        checksum = zlib.adler32(bytes(step), checksum)
    return b"\x78\x9c" + body + struct.pack(">L", zlib.adler32(bytes(size % step), checksum))


def png_bomb(width: int, height: int) -> bytes:
    """Return a sound PNG of this size, one bit a pixel, all of them 0."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    packed = zeros_deflated((width + 7) // 8 * height + height, raw=False)
    head = struct.pack(">2L5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
