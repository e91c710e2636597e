"""Pictures for an export: images linked, copied or made smaller, masks as run lengths or polygons.

What takes processor time is a function of plain values, done in a pool of processes where one is given.
"""

import errno
import io
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from oid_async.concurrency import available_processors
from oid_async.errors import InputError
from oid_async.formats.source import ExportSource

Item = TypeVar("Item")
Result = TypeVar("Result")

# How a smaller JPEG is written: as trainers' own tools do.
_QUALITY = 90
_CHUNK = 16
# Fewer pictures than that are made here: starting a process takes a third of a second.
_WORTH_A_POOL = 200
# A hard link cannot be made (another disk, too many of one file), or no link at all.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
# Grey above this is the mask (FiftyOne's own threshold).
_INSIDE = 122


class Pictures:
    """The pictures of one SAVEPATH, for one export. Raises InputError for one that is not there or no picture."""

    def __init__(self, source: ExportSource, *, copy: bool, pool: Executor | None) -> None:
        self._images = source.folder.images
        self._masks = source.masks
        self._copy = copy
        self._pool = pool

    def place(self, images: pl.DataFrame, folder: Path, names: Sequence[str] | None = None) -> None:
        """Put images into a folder, by FileName or these names: linked, copied, or made as small as they must be."""
        smaller = []
        columns = ("FileName", "Width", "Height", "OutWidth", "OutHeight")
        source, target = f"{self._images}{os.sep}", f"{folder}{os.sep}"
        rows = images.select(columns).iter_rows()
        for (name, width, height, *size), new in zip(rows, names or images.get_column("FileName"), strict=True):
            if (width, height) == tuple(size):
                self._bring(source + name, target + new)
            else:
                smaller.append((source + name, target + new, *size))
        for _ in self._each(_make_smaller, smaller):
            pass

    def place_masks(self, masks: pl.DataFrame, target: Callable[[str], Path]) -> None:
        """Put masks where `target` says of each MaskPath; those of images that are made smaller in their size."""
        resized = []
        for name, *size, is_smaller in masks.iter_rows():
            if is_smaller:
                resized.append((str(self._masks / name), str(target(name)), *size))
            else:
                self._bring(str(self._masks / name), str(target(name)))
        for _ in self._each(_make_mask, resized):
            pass

    def bodies(self, images: pl.DataFrame) -> Iterator[bytes]:
        """Yield the bytes of images in their order, made smaller where they must be."""
        columns = ("FileName", "Width", "Height", "OutWidth", "OutHeight")
        rows = images.select(columns).iter_rows()
        jobs = (
            (str(self._images / name), *(size if (width, height) != tuple(size) else (0, 0)))
            for name, width, height, *size in rows
        )
        return self._each(_body, jobs)

    def mask_maps(self, images: Iterable[tuple[Sequence[str | None], int, int]]) -> "Iterator[MaskMap]":
        """Yield the masks of each image as one picture: MaskPath of each object (None: no mask), width, height."""
        return self._each(mask_map, ((str(self._masks), *image) for image in images))

    def mask_bodies(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield masks as PNGs of these sizes in pixels."""
        return self._each(_mask_body, ((str(self._masks / name), *size) for name, *size in masks))

    def run_lengths(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[tuple[str, int]]:
        """Yield COCO's compressed run lengths of masks (MaskPath, width, height) and the area in pixels."""
        return self._each(run_length, ((str(self._masks / name), *size) for name, *size in masks))

    def polygons(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[list[float]]:
        """Yield the outline of masks: x and y in turn, of 1; empty for an empty mask."""
        return self._each(polygon, ((str(self._masks / name), *size) for name, *size in masks))

    def _bring(self, source: str, target: str) -> None:
        try:
            if not self._copy:
                for link in (os.link, os.symlink):
                    try:
                        link(os.path.abspath(source), target)
                        return
                    except OSError as error:
                        if error.errno not in _NO_LINK:
                            raise
            shutil.copyfile(source, target)
        except FileNotFoundError as error:
            raise _missing(source) from error

    def _each(self, function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield a function's results in order; so many jobs are under way as make every process busy."""
        if self._pool is None:
            for job in jobs:
                yield function(*job)
            return
        left = iter(jobs)
        while some := list(islice(left, _CHUNK * 16)):
            yield from self._pool.map(_apply, [function] * len(some), some, chunksize=_CHUNK)


@contextmanager
def picture_pool(processes: int | str, pictures: int) -> Iterator[Executor | None]:
    """Yield processes for so many pictures; None if they are not worth it, or no more than one may be used."""
    wanted = available_processors() if processes == "auto" else int(processes)
    if wanted < 2 or pictures < _WORTH_A_POOL:
        yield None
        return
    pool = ProcessPoolExecutor(wanted, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave it to the program to stop its processes, for an interrupt reaches all of them; end when it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = multiprocessing.parent_process()

    def end_with_it() -> None:
        if program is not None:
            program.join()
            os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _apply(function: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    return function(*job)


def smaller_jpeg(path: str, width: int, height: int) -> bytes:
    """Return an image as a JPEG of this size. Pixels are not turned: what says how to turn them is kept with them."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            kept = {name: image.info[name] for name in ("exif", "icc_profile") if name in image.info}
            image.draft(image.mode, (2 * width, 2 * height))
            smaller = image.resize((width, height), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            smaller.save(out, "JPEG", quality=_QUALITY, **kept)
            return out.getvalue()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{path}: cannot be made smaller ({error}); oid-async verify --repair fetches it again"
        ) from error


def _make_smaller(path: str, target: str, width: int, height: int) -> None:
    Path(target).write_bytes(smaller_jpeg(path, width, height))


def _body(path: str, width: int, height: int) -> bytes:
    if width:
        return smaller_jpeg(path, width, height)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise _missing(path) from error


def _mask(path: str, width: int, height: int) -> Any:
    """Return a mask of its image's size as a Pillow image, 255 inside and 0 outside; nearest neighbour."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            grey = image.convert("L")
            if grey.size != (width, height):
                grey = grey.resize((width, height), Image.Resampling.NEAREST)
            return grey.point(lambda value: 255 if value > _INSIDE else 0)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: no mask ({error}); remove it and run the download again") from error


def _mask_body(path: str, width: int, height: int) -> bytes:
    out = io.BytesIO()
    _mask(path, width, height).convert("1").save(out, "PNG", optimize=False)
    return out.getvalue()


def _make_mask(path: str, target: str, width: int, height: int) -> None:
    Path(target).write_bytes(_mask_body(path, width, height))


@dataclass(frozen=True, slots=True)
class MaskMap:
    """The masks of one image. `png` has the number of the object, from 1, in each pixel, 0 outside of all.

    Where masks overlap the smaller one is seen; `run_lengths` has all of each, None for an object without one.
    """

    png: bytes
    run_lengths: list[str | None]


def mask_map(folder: str, masks: Sequence[str | None], width: int, height: int) -> MaskMap:
    """Return the masks of an image, which lie in a folder. The PNG has 8 bits a pixel, 16 from 256 objects on."""
    import numpy as np
    from PIL import Image

    found = {
        number: np.asarray(_mask(os.path.join(folder, name), width, height)) > 0
        for number, name in enumerate(masks, 1)
        if name is not None
    }
    pixels = np.zeros((height, width), np.uint8 if len(masks) < 256 else np.uint16)
    for number in sorted(found, key=lambda number: -int(found[number].sum())):
        pixels[found[number]] = number
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    packed = [packed_runs(found[number]) if number in found else None for number in range(1, len(masks) + 1)]
    return MaskMap(out.getvalue(), packed)


def run_length(path: str, width: int, height: int) -> tuple[str, int]:
    """Return a mask's run lengths as COCO packs them, and its area in pixels."""
    import numpy as np

    inside = np.asarray(_mask(path, width, height)) > 0
    return packed_runs(inside), int(inside.sum())


def packed_runs(mask: Any) -> str:
    """Return the run lengths of a mask (bool, height x width) as COCO packs them.

    The runs of outside and inside, column by column, the first outside; from the third on the difference to the one
    before the last; five bits a character, the least first, 32 for "more follow", and 48 added (pycocotools'
    maskApi.c, rleToString).
    """
    import numpy as np

    inside = mask.T.ravel()
    ends = np.flatnonzero(np.diff(inside)) + 1
    runs = np.diff(np.concatenate(([0], ends, [inside.size])))
    if inside.size and inside[0]:
        runs = np.concatenate(([0], runs))
    text = bytearray()
    counts = runs.tolist()
    for at, count in enumerate(counts):
        left = count - counts[at - 2] if at > 2 else count
        while True:
            low, left = left & 31, left >> 5
            more = left != (-1 if low & 16 else 0)
            text.append(low + 48 + (32 if more else 0))
            if not more:
                break
    return text.decode()


def polygon(path: str, width: int, height: int) -> list[float]:
    """Return a mask's outline as one polygon, x and y in turn, of 1; empty for an empty mask.

    Parts are joined by lines that lead there and back; holes are filled: the format has no other place for either.
    """
    import numpy as np
    from contourpy import contour_generator

    inside = np.pad(np.asarray(_mask(path, width, height), dtype=np.uint8) // 255, 1)
    lines: list[Any] = list(contour_generator(z=inside).lines(0.5))
    # Outlines run one way round, holes the other; a pixel's centre is half a pixel from its edge, and one of padding.
    outer = [line[:-1] - 0.5 for line in lines if _area(line) > 0]
    if not outer:
        return []
    outer.sort(key=_area, reverse=True)
    whole: Any = outer[0]
    for part in outer[1:]:
        whole = _joined(whole, part)
    points = np.clip(whole / np.array([width, height]), 0, 1)
    return [float(value) for value in np.round(points, 6).ravel()]


def _area(line: Any) -> float:
    """Return the area inside a closed line, negative when it runs the other way round."""
    x, y = line[:, 0], line[:, 1]
    following = (*range(1, len(line)), 0)
    return float((x * y[list(following)] - x[list(following)] * y).sum() / 2)


def _joined(whole: Any, part: Any) -> Any:
    """Return two polygons as one, by a line between their nearest corners, there and back."""
    import numpy as np

    far = ((whole[:, None] - part[None]) ** 2).sum(-1) if len(whole) * len(part) < 1 << 22 else None
    at, to = (0, 0) if far is None else (int(place) for place in np.unravel_index(int(far.argmin()), far.shape))
    turned = np.concatenate((part[to:], part[: to + 1]))
    return np.concatenate((whole[: at + 1], turned, whole[at:]))


def _missing(path: str) -> InputError:
    return InputError(f"{path}: it is not there, though the tables speak of it; oid-async verify SAVEPATH --repair")
