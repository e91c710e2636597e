"""Pictures decoded with Pillow, within bounds: a file of some kilobytes may claim pixels for gigabytes of memory.

Pillow's classes are used, not its `Image.open`, which warns on stderr of 89 megapixels and raises at 179: a JPEG of
more can be decoded in a fraction of its size.
"""

import io
import os
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

from oid_async.errors import NO_DESCRIPTORS
from oid_async.store.disk import plain_file
from oid_async.store.file_bytes import FileBytes
from oid_async.store.image_check import read_header
from oid_async.store.mask_check import HEAD_BYTES, refuse_mask

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

# Pixels of an image in its file, where even the smallest fraction takes seconds; and decoded, of four bytes each.
_MOST_STORED_PIXELS = 500_000_000
_FEW_PIXELS, _MOST_PIXELS = 25_000_000, 100_000_000
# libjpeg holds all coefficients of a picture that comes in several scans, 16 bits each: 24 megapixels of three colours.
_MOST_COEFFICIENT_BYTES = 145_000_000
# Each scan goes over all pixels; a picture has a dozen of them, a hostile one of the same size many thousands.
_MOST_SCANNED_PIXELS = 2_000_000_000
_SCALES = (8, 4, 2, 1)
# Frames that libjpeg-turbo decodes: baseline, extended, progressive, with arithmetic coding too; of 8 bits.
_DECODABLE, _BITS = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), 8
# Nearly all headers are shorter.
_HEADER_BYTES = 64 << 10
_SCAN_HEADER_BYTES = 32


class TooLargeError(ValueError):
    """A picture would take more memory than it may."""


def open_png(file: Path | str | IO[bytes]) -> "PngImageFile":
    """Return a mask, not decoded yet. Raises TooLargeError, OSError, and whatever Pillow raises for damaged bytes."""
    from PIL.PngImagePlugin import PngImageFile

    if isinstance(file, str | Path):
        with plain_file(file) as opened:
            start, size = opened.read(HEAD_BYTES), os.fstat(opened.fileno()).st_size
    else:
        start, size = file.read(HEAD_BYTES), file.seek(0, os.SEEK_END)
        file.seek(0)
    if refused := refuse_mask(start, size):
        kind, text = refused
        raise TooLargeError(text) if kind == "too_large" else ValueError(text)
    return PngImageFile(file)


def jpeg_problem(path: str) -> str | None:
    """Return why an image can be no picture, by the start of its file; None if it has a size and a scan."""
    try:
        with FileBytes(path) as body:
            start = body[:_HEADER_BYTES]
            header = read_header(start)
            # A header with pictures in it may be longer than the part of the file that is read at first.
            if len(start) < len(body) and (header.scan_at is None or header.scan_at > len(start) - _SCAN_HEADER_BYTES):
                header = read_header(body)
            coding = b"" if header.frame_at is None else body[header.frame_at + 1 : header.frame_at + 5]
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise
        return "cannot be read"
    if not header.is_readable:
        return "no size or no scan in it"
    # The marker, the length of its segment, the bits of a sample.
    return None if coding[0] in _DECODABLE and coding[3] == _BITS else "coded in a way that Pillow does not read"


def open_jpeg(path: Path | str | bytes, size: tuple[int, int]) -> "JpegImageFile":
    """Return a JPEG that is going to be decoded at least at this size in pixels, and twice as large if memory allows.

    It is a file, or bytes in memory. Raises TooLargeError, OSError, and whatever Pillow raises for damaged bytes.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    image = JpegImageFile(io.BytesIO(path) if isinstance(path, bytes) else path)
    try:
        twice = (2 * size[0], 2 * size[1])
        least = twice if _pixels(image.size, twice) <= _FEW_PIXELS else size
        if (
            image.width * image.height > _MOST_STORED_PIXELS
            or _pixels(image.size, least) > _MOST_PIXELS
            or _takes_too_many_scans(image, path)
        ):
            raise TooLargeError(f"{image.width} x {image.height} pixels")
        if image.draft(image.mode, least) is None:
            raise ValueError("Pillow finds no scan in it")
    except BaseException:
        image.close()
        raise
    return image


def _pixels(size: tuple[int, int], least: tuple[int, int]) -> int:
    """Return how many pixels libjpeg makes of a picture that is to have at least this size."""
    scale = min(size[0] // max(1, least[0]), size[1] // max(1, least[1]))
    by = next((each for each in _SCALES if scale >= each), 1)
    return (size[0] // by + 1) * (size[1] // by + 1)


def _takes_too_many_scans(image: "JpegImageFile", path: Path | str | bytes) -> bool:
    """Return whether a picture that comes in several scans takes too much memory, or time.

    One that comes in a single scan is decoded line by line.
    """
    pixels, layers = image.width * image.height, [(across, down) for _, across, down, _ in image.layer]
    with nullcontext(path) if isinstance(path, bytes) else FileBytes(path) as body:
        scan_at = read_header(body).scan_at
        if scan_at is None or (not image.info.get("progressive") and body[scan_at + 4] == len(layers)):
            return False
        scans = body.count(b"\xff\xda")
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    coefficients = pixels * sum(across * down for across, down in layers) // max(1, most)
    return 2 * coefficients > _MOST_COEFFICIENT_BYTES or scans * pixels > _MOST_SCANNED_PIXELS


def undecodable(path: Path | bytes) -> str | None:
    """Return why Pillow cannot decode a picture, None if it can. A broken file is told from a broken decoder by it.

    It is a file, or the bytes of a JPEG. Images are decoded at an eighth of their size, for which all of their bytes
    are read; one that would take too much memory is not decoded. A mask that would is none.
    """
    is_mask = isinstance(path, Path) and path.suffix == ".png"
    try:
        if isinstance(path, Path) and is_mask:
            with open_png(path) as mask:
                mask.load()
        else:
            with open_jpeg(path, (1, 1)) as image:
                image.load()
    except TooLargeError as error:
        return str(error) if is_mask else None
    except Exception as error:  # damaged bytes raise any kind of exception in Pillow
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"cannot be decoded: {text}"
    return None
