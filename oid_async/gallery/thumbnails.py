"""Thumbnails: small JPEGs of saved images, made by Pillow and kept.

They are kept in the folder itself, so that the next look at it need not make them again, as files named by the image's
name, size and time of change:

    SAVEPATH/.oid_async/gallery/thumbnails/<hash>.jpg

The oldest go when they take more than they may. Where nothing can be written, some are kept in memory.
"""

import io
import os
import threading
from collections import OrderedDict
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from oid_async.dataset.decoding import TooLargeError, open_jpeg
from oid_async.errors import InputError
from oid_async.store.atomic import replacing
from oid_async.store.disk import discard, free_bytes, is_plain, read_plain
from oid_async.store.image_check import read_header

SIDE = 320
"""Pixels of the longer side, at the most."""
# Enough for a picture that is looked at for a moment; twice as fast as 90, and half the bytes.
_QUALITY = 80
# How thumbnails are made; part of the keys that they are kept by.
FORM = 1
# A progressive picture of more pixels takes a hundred megabytes to decode: one at a time.
_MANY_PIXELS = 16_000_000
# A larger file is no photo of the dataset: the largest original has some 30 MB.
MOST_BYTES = 64 << 20
_MOST_ON_DISK, _MOST_IN_MEMORY = 512 << 20, 64 << 20
# A disk that is nearly full is left to the run that fills it.
_LEAST_FREE = 1 << 30
_LISTED_AT_ONCE = 4096


class NotShownError(InputError):
    """A saved picture that is not shown, or of which no thumbnail can be made; the message says why, for a person."""


def takes_much_memory(body: bytes) -> bool:
    """Return whether a picture should not be decoded beside others that take much memory as well."""
    header = read_header(body)
    return (header.width or 0) * (header.height or 0) > _MANY_PIXELS


def thumbnail(body: bytes) -> bytes:
    """Return a JPEG of at most SIDE pixels a side. Not rotated: as stored, as the coordinates of boxes are.

    Raises NotShownError for what Pillow does not decode, or would take too much memory.
    """
    try:
        return _smaller(body)
    except (TooLargeError, MemoryError) as error:
        raise NotShownError(f"too large for a thumbnail: {error}") from error
    except Exception as error:  # damaged bytes raise any kind of exception in Pillow
        raise NotShownError("it cannot be decoded") from error


def _smaller(body: bytes) -> bytes:
    from PIL import Image

    header = read_header(body)
    if not header.is_readable or header.width is None or header.height is None:
        raise ValueError("no size or no scan in it")
    by = min(1.0, SIDE / max(header.width, header.height))
    size = (max(1, round(header.width * by)), max(1, round(header.height * by)))
    out = io.BytesIO()
    with open_jpeg(body, size) as image:
        smaller = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        if smaller.mode not in ("L", "RGB"):
            smaller = smaller.convert("RGB")
        smaller.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


class ThumbnailCache:
    """Keeps thumbnails by key. For any threads. Errors of the disk are none here: what is not kept is made again."""

    def __init__(
        self, folder: Path, *, most_on_disk: int = _MOST_ON_DISK, most_in_memory: int = _MOST_IN_MEMORY
    ) -> None:
        self._folder = folder
        self._most_on_disk = most_on_disk
        self._most_in_memory = most_in_memory
        self._in_memory: OrderedDict[str, bytes] = OrderedDict()
        self._bytes_in_memory = 0
        # None until it is known; the disk is not written to any more once it has refused.
        self._bytes_on_disk: int | None = None
        self._is_writable = True
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return the thumbnail that is kept, if it is."""
        with self._lock:
            if (body := self._in_memory.get(key)) is not None:
                self._in_memory.move_to_end(key)
                return body
        try:
            return read_plain(self._path(key)) or None
        except OSError:
            return None

    def put(self, key: str, body: bytes) -> None:
        """Keep a thumbnail: on the disk if possible, else in memory."""
        if self._is_writable:
            try:
                self._write(key, body)
                return
            except FileNotFoundError:
                # Somebody has removed the folder, which is safe: it is made again, unless SAVEPATH has gone, too.
                self._bytes_on_disk = None
            except OSError:
                self._is_writable = False
        with self._lock:
            self._bytes_in_memory += len(body) - len(self._in_memory.pop(key, b""))
            self._in_memory[key] = body
            while self._bytes_in_memory > self._most_in_memory:
                self._bytes_in_memory -= len(self._in_memory.popitem(last=False)[1])

    def _path(self, key: str) -> Path:
        return self._folder / f"{blake2b(key.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.jpg"

    def _write(self, key: str, body: bytes) -> None:
        """Write a file, whole or not at all. Raises OSError."""
        with self._lock:
            if self._bytes_on_disk is None:
                for folder in (*reversed(self._folder.parents[:2]), self._folder):
                    folder.mkdir(exist_ok=True)
                if self._folder.is_symlink() or free_bytes(self._folder) < _LEAST_FREE + self._most_on_disk:
                    raise OSError("no room for thumbnails")
                self._bytes_on_disk = sum(size for _, size, _ in self._files())
            self._bytes_on_disk += len(body)
            if self._bytes_on_disk > self._most_on_disk:
                self._bytes_on_disk = self._remove_oldest() + len(body)
        path = self._path(key)
        # Two servers, or two threads, may write the same one.
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        with replacing(path, part=part) as fresh:
            fresh.write_bytes(body)

    def _files(self) -> list[tuple[int, int, str]]:
        """Return time, size and path of each file, those that a killed server left half-written too."""
        found = []
        with os.scandir(self._folder) as entries:
            while batch := list(islice(entries, _LISTED_AT_ONCE)):
                for entry in batch:
                    if entry.name.endswith((".jpg", ".part")) and is_plain(entry.path):
                        about = entry.stat(follow_symlinks=False)
                        found.append((about.st_mtime_ns, about.st_size, entry.path))
        return found

    def _remove_oldest(self) -> int:
        """Remove the oldest until nine tenths of what is allowed are left; return the bytes that are left."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= self._most_on_disk * 9 // 10:
                break
            discard(path)
            left -= size
        return left
