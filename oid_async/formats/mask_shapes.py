"""A mask in the forms that formats hold: a picture, a map of all masks of an image, run lengths, an outline.

Run lengths are COCO's, column by column and packed, or those of a crop, row by row.
"""

import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from oid_async.dataset.decoding import open_png
from oid_async.dataset.image_store import missing_file
from oid_async.errors import InputError

# Outlines are drawn at this size at most; published masks have fewer pixels.
_MOST_OUTLINE_PIXELS = 2_600_000
# Many times the pairs of neighbours in a row that an outline runs between, in any mask that was drawn.
_MOST_EDGES = 100_000
# An outline of more parts, or a nearest corner sought in more pairs of corners, takes too long.
_MOST_PARTS = 1000
_MOST_PAIRS_OF_PART, _MOST_PAIRS = 1 << 22, 1 << 25
# Grey above this is the mask (FiftyOne's own threshold).
INSIDE = 122
# So many digits of a number in base two are turned into bytes at once.
_MOST_BITS = 4096
# Large pictures are gone through in strips of so many pixels.
STRIP_PIXELS = 1_000_000


def _mask_picture(path: str, width: int, height: int) -> Any:
    """Return a mask of its image's size, nearest neighbour; in its own mode, which takes one byte a pixel."""
    from PIL import Image

    try:
        with open_png(path) as image:
            if image.size != (width, height):
                return image.resize((width, height), Image.Resampling.NEAREST)
            image.load()
            return image
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: no mask ({error}); remove it and run the download again") from error


def _inside(picture: Any, box: tuple[int, int, int, int]) -> Any:
    """Return a part of a mask as bool [height, width], true inside."""
    import numpy as np

    return np.asarray(picture.crop(box).convert("L")) > INSIDE


def _rows(picture: Any) -> Iterator[Any]:
    """Yield a mask from top to bottom in strips, bool [rows, width]."""
    rows = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield _inside(picture, (0, top, picture.width, min(picture.height, top + rows)))


def _columns(picture: Any) -> Iterator[Any]:
    """Yield a mask from left to right in strips, bool [columns, height]."""
    columns = max(1, STRIP_PIXELS // picture.height)
    for left in range(0, picture.width, columns):
        yield _inside(picture, (left, 0, min(picture.width, left + columns), picture.height)).T


def _mask(path: str, width: int, height: int) -> Any:
    """Return a mask of its image's size as bool [height, width], true inside."""
    import numpy as np

    return np.concatenate(list(_rows(_mask_picture(path, width, height))))


def mask_body(path: str, width: int, height: int) -> bytes:
    """Return a mask of its image's size as a PNG of one bit a pixel."""
    import numpy as np
    from PIL import Image

    bits = b"".join(np.packbits(rows, axis=1).tobytes() for rows in _rows(_mask_picture(path, width, height)))
    out = io.BytesIO()
    Image.frombytes("1", (width, height), bits).save(out, "PNG", optimize=False)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class MaskMap:
    """The masks of one image. `png` has in each pixel the number of the object, from 1, or 0 outside of all.

    Where masks overlap the smaller one is visible; `run_lengths` has each mask complete, None for an object without.
    """

    png: bytes
    run_lengths: list[str | None]


def mask_map(folder: str, masks: Sequence[str | None], width: int, height: int) -> MaskMap:
    """Return the masks of an image, which are files of a folder. The PNG has 8 bits a pixel, 16 from 256 objects on."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros(height * width, np.uint8 if len(masks) < 256 else np.uint16)
    packed: list[str | None] = [None] * len(masks)
    # Of an object its area; of 0, what is outside of all, more than any.
    areas = np.full(len(masks) + 1, width * height + 1)
    for number, name in enumerate(masks, 1):
        if name is None:
            continue
        picture = _mask_picture(os.path.join(folder, name), width, height)
        packed[number - 1] = packed_runs(_columns(picture))
        areas[number] = area = sum(int(rows.sum()) for rows in _rows(picture))
        at = 0
        for rows in _rows(picture):
            strip = pixels[at : at + rows.size]
            places = np.flatnonzero(rows)
            strip[places[areas[strip[places]] >= area]] = number
            at += rows.size
        del picture
    out = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width)).save(out, "PNG")
    return MaskMap(out.getvalue(), packed)


def run_length(path: str, width: int, height: int) -> tuple[str, int]:
    """Return a mask's run lengths as COCO packs them, and its area in pixels."""
    picture = _mask_picture(path, width, height)
    return packed_runs(_columns(picture)), sum(int(rows.sum()) for rows in _rows(picture))


@dataclass(frozen=True, slots=True)
class CropRuns:
    """A mask within the smallest box around it, in pixels; of an empty mask the first pixel, which is outside.

    `runs` are the lengths of outside and inside, row by row, the first (which may be 0) outside.
    """

    left: int
    top: int
    width: int
    height: int
    runs: str


def crop_runs(path: str, width: int, height: int) -> CropRuns:
    """Return a mask's runs within the smallest box around it, with commas."""
    picture = _mask_picture(path, width, height)
    left, top, right, bottom = box = _bounds(picture)
    runs = ",".join(map(str, _runs(_rows(picture.crop(box)))))
    return CropRuns(left, top, right - left, bottom - top, runs)


def _bounds(picture: Any) -> tuple[int, int, int, int]:
    """Return the smallest box around a mask: left, top, right, bottom; of an empty one the first pixel."""
    import numpy as np

    in_rows, in_columns = [], np.zeros(picture.width, bool)
    for rows in _rows(picture):
        in_rows.append(rows.any(axis=1))
        in_columns |= rows.any(axis=0)
    across, down = np.flatnonzero(in_columns), np.flatnonzero(np.concatenate(in_rows))
    if not len(across):
        return 0, 0, 1, 1
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def packed_runs(columns: Iterable[Any]) -> str:
    """Return the run lengths of a mask, which comes as bool [columns, height], as COCO packs them.

    The runs of outside and inside, column by column, the first outside; from the third on the difference to the one
    before the last; five bits a character, the least first, 32 for "more follow", and 48 added (pycocotools'
    maskApi.c, rleToString).
    """
    text = bytearray()
    # The last two runs; of the first three none is a difference.
    before_last = last = 0
    for at, count in enumerate(_runs(columns)):
        left = count - before_last if at > 2 else count
        before_last, last = last, count
        while True:
            low, left = left & 31, left >> 5
            more = left != (-1 if low & 16 else 0)
            text.append(low + 48 + (32 if more else 0))
            if not more:
                break
    return text.decode()


def brush_mask(path: str, width: int, height: int) -> bytes:
    """Return a mask as Label Studio's brush has it: run lengths of its red, green, blue and alpha, row by row.

    A number of values of 32 bits, then how the rest is written: values of 8 bits, and four widths of a length, of which
    two bits choose one. A run is a bit 1, those two bits, its length less one, and its value (decodeRLE of
    https://github.com/HumanSignal/label-studio-sdk, converter/brush.py). It is 255 or 0 for all four of a pixel.
    """
    picture = _mask_picture(path, width, height)
    widths = (3, 4, 8, 16)
    bits = f"{4 * width * height:032b}{8 - 1:05b}" + "".join(f"{each - 1:04b}" for each in widths)
    found, value = bytearray(), 0
    for run in _runs(_rows(picture)):
        left = 4 * run
        while left:
            part = min(left, 1 << widths[-1])
            which = next(at for at, each in enumerate(widths) if part <= 1 << each)
            bits += f"1{which:02b}{part - 1:0{widths[which]}b}{value:08b}"
            left -= part
        value ^= 255
        if len(bits) > _MOST_BITS:
            whole = len(bits) // 8 * 8
            found += int(bits[:whole], 2).to_bytes(whole // 8)
            bits = bits[whole:]
    bits += "0" * (-len(bits) % 8)
    return bytes(found) + int(bits, 2).to_bytes(len(bits) // 8)


def _runs(strips: Iterable[Any]) -> Iterator[int]:
    """Yield the lengths of a mask's runs of outside and inside; the first, which may be 0, is outside."""
    import numpy as np

    run, is_inside = 0, False
    for some in strips:
        inside = some.ravel()
        if inside[0] != is_inside:
            yield run
            run, is_inside = 0, bool(inside[0])
        ends = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        if len(ends):
            yield run + int(ends[0])
            yield from np.diff(ends).tolist()
            run, is_inside = 0, bool(inside[-1])
        run += inside.size - (int(ends[-1]) if len(ends) else 0)
    yield run


def polygon(path: str, width: int, height: int) -> list[float]:
    """Return a mask's outline as one polygon, x and y alternating, fractions; empty for an empty mask.

    Parts are joined by lines there and back, and holes are filled: the format can hold neither. Of more than a thousand
    parts the largest are taken.
    """
    import numpy as np
    from contourpy import contour_generator

    shrink = min(1.0, math.sqrt(_MOST_OUTLINE_PIXELS / (width * height)))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    drawn = _mask(path, width, height)
    # Noise has so many parts that they take gigabytes: of such a mask every second pixel is looked at, and so on.
    while np.count_nonzero(drawn[:, 1:] != drawn[:, :-1]) > _MOST_EDGES:
        drawn = drawn[::2, ::2]
    height, width = drawn.shape
    inside = np.pad(drawn.astype(np.uint8), 1)
    lines: list[Any] = list(contour_generator(z=inside).lines(0.5))
    # Outlines go one way round, holes the other; a pixel's centre is half a pixel from its edge, and one of padding.
    outer = [line[:-1] - 0.5 for line in lines if _area(line) > 0]
    if not outer:
        return []
    outer.sort(key=_area, reverse=True)
    outline: Any = outer[0]
    pairs = 0
    for part in outer[1:_MOST_PARTS]:
        pairs += len(outline) * len(part)
        outline = _joined(outline, part, is_near=pairs < _MOST_PAIRS)
    points = np.clip(outline / np.array([width, height]), 0, 1)
    return [float(value) for value in np.round(points, 6).ravel()]


def _area(line: Any) -> float:
    """Return the area inside a closed line, negative when it runs the other way round."""
    x, y = line[:, 0], line[:, 1]
    following = (*range(1, len(line)), 0)
    return float((x * y[list(following)] - x[list(following)] * y).sum() / 2)


def _joined(outline: Any, part: Any, *, is_near: bool) -> Any:
    """Return two polygons as one, by a line between their nearest corners, or any, there and back."""
    import numpy as np

    at = to = 0
    if is_near and len(outline) * len(part) < _MOST_PAIRS_OF_PART:
        far = ((outline[:, None] - part[None]) ** 2).sum(-1)
        at, to = (int(place) for place in np.unravel_index(int(far.argmin()), far.shape))
    loop = np.concatenate((part[to:], part[: to + 1]))
    return np.concatenate((outline[: at + 1], loop, outline[at:]))
