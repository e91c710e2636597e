"""A server's worst answers, and tables of images that lead to it."""

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.published import tiny_jpeg

JPEG = tiny_jpeg("misbehaving", 640, 480)


def ident(number: int) -> str:
    return f"{number:016x}"


def write_tables(folder: Path, rows: Sequence[tuple[str, int | None, str | None]]) -> dict[str, Any]:
    """Write tables of images whose OriginalURL, OriginalSize and OriginalMD5 are these; ids count from zero."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.csv").write_text("/m/01226z,Football\n")
    with (folder / "boxes.csv").open("w") as boxes, (folder / "images.csv").open("w") as images:
        boxes.write("ImageID,LabelName\n")
        images.write("ImageID,Subset,OriginalURL,OriginalSize,OriginalMD5\n")
        for number, (url, size, digest) in enumerate(rows):
            boxes.write(f"{ident(number)},/m/01226z\n")
            images.write(f"{ident(number)},train,{url},{'' if size is None else size},{digest or ''}\n")
    names = {"label": "classes.csv", "annotation": "boxes.csv", "image_url": "images.csv"}
    return {option: folder / name for option, name in names.items()}


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + JPEG[:200])
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def endless_header(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"".join(b"X-%d: %s\r\n" % (number, b"y" * 100) for number in range(500)))
        await writer.drain()


def bomb() -> bytes:
    """Return 64 MiB of zeros behind a JPEG's start, packed to 65 KB."""
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(JPEG[:300])
    for _ in range(64):
        packed += packer.compress(bytes(1 << 20))
    return packed + packer.flush()
