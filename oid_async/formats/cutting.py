"""Boxes cut out of an image, each into a JPEG of its own; the image is decoded once. In a process of the pool."""

import hashlib
import io
import math
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oid_async.dataset.decoding import open_jpeg
from oid_async.store.disk import OPENER, write_all

_ORIENTATION = 0x0112
# A colour profile comes with every crop: most have some hundred bytes.
_MOST_PROFILE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image between these edges in pixels, the file it is written into, and its size there."""

    target: str
    edges: tuple[int, int, int, int]  # left, top, right, bottom; the last two are the first pixels outside
    size: tuple[int, int]

    @property
    def extent(self) -> tuple[int, int]:
        """Width and height in pixels of the image."""
        return self.edges[2] - self.edges[0], self.edges[3] - self.edges[1]


def cut_image(path: str, size: tuple[int, int], crops: Sequence[Crop], quality: int) -> list[tuple[str, int, str]]:
    """Write parts of an image, whose edges are pixels of this size; return path, bytes and MD5 of each file.

    Where all of them are made smaller the image is decoded in a fraction of its size. Pixels are not rotated: the EXIF
    orientation is kept. Nothing is written of an image that Pillow refuses. Raises TooLargeError, OSError, and whatever
    Pillow raises for damaged bytes.
    """
    # Of the smallest image that has enough pixels for each of them.
    scale = max(max(crop.size) / max(crop.extent) for crop in crops)
    least = (math.ceil(size[0] * scale), math.ceil(size[1] * scale))
    with open_jpeg(path, least) as image:
        image.load()
        written: list[tuple[str, int, str]] = []
        try:
            for crop in crops:
                written.append(_write(crop, _body(image, size, crop, quality)))
        except BaseException:
            for name, *_ in written:
                os.unlink(name)
            raise
    return written


def _body(image: Any, size: tuple[int, int], crop: Crop, quality: int) -> bytes:
    """Return a part of a decoded image as a JPEG."""
    from PIL import Image

    if image.size == size and crop.size == crop.extent:
        part = image.crop(crop.edges)
    else:
        by = (image.width / size[0], image.height / size[1])
        edges = tuple(edge * by[at % 2] for at, edge in enumerate(crop.edges))
        part = image.resize(crop.size, Image.Resampling.LANCZOS, box=edges)
    known: dict[str, Any] = {}
    profile = image.info.get("icc_profile") or b""
    if 0 < len(profile) <= _MOST_PROFILE_BYTES:
        known["icc_profile"] = profile
    if (orientation := _orientation(image)) != 1:
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        known["exif"] = exif
    out = io.BytesIO()
    part.save(out, "JPEG", quality=quality, **known)
    return out.getvalue()


def _orientation(image: Any) -> int:
    """Return how a viewer is to turn an image, 1 for not at all; EXIF that cannot be read says nothing."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises any kind of exception in Pillow
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _write(crop: Crop, body: bytes) -> tuple[str, int, str]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = OPENER(crop.target, flags)
    except FileNotFoundError:
        # The folder of a class is made for its first crop: one without pictures is an error to readers.
        os.makedirs(os.path.dirname(crop.target), exist_ok=True)
        file = OPENER(crop.target, flags)
    try:
        write_all(file, body)
    finally:
        os.close(file)
    return crop.target, len(body), b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
