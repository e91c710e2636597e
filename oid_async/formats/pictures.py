"""Pictures for an export: linked, copied or made smaller; masks as run lengths or polygons; in a process pool."""

import errno
import io
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from oid_async.concurrency import available_processors
from oid_async.dataset.decoding import TooLargeError, jpeg_problem, open_jpeg, open_png
from oid_async.dataset.image_store import missing_file
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, StorageError, machine_error
from oid_async.formats.file_record import FileRecord
from oid_async.store.disk import read_plain

Item = TypeVar("Item")
Result = TypeVar("Result")

# The quality of a smaller JPEG, as trainers' own tools have it.
_QUALITY = 90
_CHUNK = 16
# What a smaller JPEG takes along: EXIF that fits into one segment, and a colour profile unless it is absurd.
_MOST_METADATA_BYTES = {"exif": 65_533, "icc_profile": 4 << 20}
# Outlines are drawn at this size at most; published masks have fewer pixels.
_MOST_OUTLINE_PIXELS = 2_600_000
# Many times the pairs of neighbours in a row that an outline runs between, in any mask that was drawn.
_MOST_EDGES = 100_000
# An outline of more parts, or a nearest corner sought in more pairs of corners, takes too long.
_MOST_PARTS = 1000
_MOST_PAIRS_OF_PART, _MOST_PAIRS = 1 << 22, 1 << 25
# Large pictures are gone through in strips of so many pixels.
_STRIP_PIXELS = 1_000_000
# Why an image is left out where it is to be made smaller.
NO_PICTURE, TOO_LARGE = "no picture that Pillow reads", "too many pixels to make it smaller"
# Fewer pictures are made in this process: starting another takes a third of a second.
_WORTH_A_POOL = 200
# Errors of a link that cannot be made: another disk, too many links of one file, no links at all.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
# Grey above this is the mask (FiftyOne's own threshold).
_INSIDE = 122


class Pictures:
    """The images and masks of a dataset, for an export. Raises InputError for a file that is missing or no picture.

    `record` is told which files hold the bytes that were saved. In `scratch` images wait in their smaller size.
    """

    def __init__(
        self, dataset: SavedDataset, record: FileRecord, scratch: Path, *, copy: bool, pool: Executor | None
    ) -> None:
        self.record = record
        self._smaller = scratch / "smaller"
        self._smaller.mkdir()
        self._images = dataset.image_files.folder
        self._masks = dataset.masks_folder
        self._copy = copy
        self._pool = pool

    def place(self, images: pl.DataFrame, folder: Path, names: Sequence[str] | None = None) -> None:
        """Put images into a folder, under FileName or these names: linked, copied, or made smaller."""
        columns = ("FileName", "Width", "Height", "OutWidth", "OutHeight")
        source, target = f"{self._images}{os.sep}", f"{folder}{os.sep}"
        targets = names or images.get_column("FileName").to_list()
        as_saved = (images["Width"] == images["OutWidth"]) & (images["Height"] == images["OutHeight"])
        self.record.linked(
            folder, pl.Series(targets, dtype=pl.String).filter(as_saved).to_list(), images.filter(as_saved)
        )
        for (name, width, height, *size), new in zip(images.select(columns).iter_rows(), targets, strict=True):
            if (width, height) == tuple(size):
                self._link_or_copy(source + name, target + new)
            else:
                os.replace(self._smaller / name, target + new)

    def refused(self, images: pl.DataFrame) -> dict[str, list[str]]:
        """Make the images that are exported in a smaller size, ahead of `place` and `bodies`.

        Return the FileNames of those that are no pictures, by the reason.
        """
        found: dict[str, list[str]] = {}
        for name in images.get_column("FileName"):
            if (why := jpeg_problem(f"{self._images}{os.sep}{name}")) is not None:
                found.setdefault(why, []).append(name)
        broken = pl.Series([name for names in found.values() for name in names], dtype=pl.String)
        is_smaller = (pl.col("Width") != pl.col("OutWidth")) | (pl.col("Height") != pl.col("OutHeight"))
        resized = images.filter(is_smaller, ~pl.col("FileName").is_in(broken.implode()))
        rows = resized.select("FileName", "OutWidth", "OutHeight").rows()
        calls = ((str(self._images / name), str(self._smaller / name), *size) for name, *size in rows)
        for (name, *_), why in zip(rows, self._each(_make_smaller, calls), strict=True):
            if why is not None:
                found.setdefault(why, []).append(name)
        return found

    def unreadable_masks(self, masks: Sequence[str]) -> list[str]:
        """Return the MaskPaths of those that are no pictures, or would take too much memory."""
        found = self._each(_is_readable, ((str(self._masks / name),) for name in masks))
        return [name for name, is_readable in zip(masks, found, strict=True) if not is_readable]

    def place_masks(self, masks: pl.DataFrame, target: Callable[[str], Path]) -> None:
        """Put each mask at the path that `target` gives for its MaskPath; of a smaller image in its size."""
        resized = []
        for name, *size, is_smaller in masks.iter_rows():
            if is_smaller:
                resized.append((str(self._masks / name), str(target(name)), *size))
            else:
                self._link_or_copy(str(self._masks / name), str(target(name)))
        for _ in self._each(_make_mask, resized):
            pass

    def bodies(self, images: pl.DataFrame) -> Iterator[bytes]:
        """Yield the bytes of images in their order, made smaller where the export has a smaller size."""
        columns = ("FileName", "Width", "Height", "OutWidth", "OutHeight")
        rows = images.select(columns).iter_rows()
        calls = (
            (str(self._images / name), False) if (width, height) == tuple(size) else (str(self._smaller / name), True)
            for name, width, height, *size in rows
        )
        return self._each(_body, calls)

    def mask_maps(self, images: Iterable[tuple[Sequence[str | None], int, int]]) -> "Iterator[MaskMap]":
        """Yield the masks of each image as one picture: MaskPath of each object (None: no mask), width, height."""
        return self._each(mask_map, ((str(self._masks), *image) for image in images))

    def mask_bodies(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield masks as PNGs of these sizes in pixels."""
        return self._each(_mask_body, ((str(self._masks / name), *size) for name, *size in masks))

    def run_lengths(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[tuple[str, int]]:
        """Yield COCO's compressed run lengths of masks (MaskPath, width, height) and their areas in pixels."""
        return self._each(run_length, ((str(self._masks / name), *size) for name, *size in masks))

    def polygons(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[list[float]]:
        """Yield the outlines of masks: x and y alternating, fractions; empty for an empty mask."""
        return self._each(polygon, ((str(self._masks / name), *size) for name, *size in masks))

    def _link_or_copy(self, source: str, target: str) -> None:
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
            raise missing_file(source) from error

    def _each(self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield the results of a function in order; enough calls are under way to keep every process busy."""
        if self._pool is None:
            for arguments in calls:
                yield function(*arguments)
            return
        remaining = iter(calls)
        while some := list(islice(remaining, _CHUNK * 16)):
            yield from self._pool.map(_apply, [function] * len(some), some, chunksize=_CHUNK)


@contextmanager
def picture_pool(processes: int | str, pictures: int) -> Iterator[Executor | None]:
    """Yield a pool of processes for so many pictures; None if they are too few, or only one process may be used.

    Raises StorageError if one of them is killed.
    """
    wanted = available_processors() if processes == "auto" else int(processes)
    if wanted < 2 or pictures < _WORTH_A_POOL:
        yield None
        return
    pool = ProcessPoolExecutor(wanted, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise StorageError(
            "a process that reads pictures was killed, by the system for want of memory as a rule; export again with "
            "--processes 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ignore an interrupt, which reaches all processes: the program stops its workers. End when it was killed."""
    # Pillow warns of odd EXIF data, which is nothing that an export looks at.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = multiprocessing.parent_process()

    def end_with_program() -> None:
        if program is not None:
            program.join()
            os._exit(1)

    threading.Thread(target=end_with_program, daemon=True).start()


def _apply(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    return function(*arguments)


def smaller_jpeg(path: str, width: int, height: int) -> bytes:
    """Return an image as a JPEG of this size. Pixels are not rotated: the EXIF orientation is kept.

    Raises TooLargeError, OSError, and whatever Pillow raises for damaged bytes.
    """
    from PIL import Image

    with open_jpeg(path, (width, height)) as image:
        metadata = {
            name: image.info[name]
            for name, most in _MOST_METADATA_BYTES.items()
            if name in image.info and len(image.info[name] or b"") <= most
        }
        if width * height > _STRIP_PIXELS:
            smaller = _resized_in_strips(image, width, height)
        else:
            smaller = image.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=_QUALITY, **metadata)
    return out.getvalue()


def _resized_in_strips(image: Any, width: int, height: int) -> Any:
    """Return a picture in another size and forget its pixels: never are both, or what is between them, in memory."""
    from PIL import Image

    rows = max(1, _STRIP_PIXELS // width)
    image.load()
    mode, by = image.mode, image.height / height
    with tempfile.TemporaryFile() as file:
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            box = (0, top * by, image.width, min(image.height, bottom * by))
            strip = image.resize((width, bottom - top), Image.Resampling.LANCZOS, box=box)
            file.write(strip.tobytes())
        image.im = None
        del image, strip
        file.seek(0)
        smaller = Image.new(mode, (width, height))
        for top in range(0, height, rows):
            size = (width, min(height, top + rows) - top)
            smaller.paste(Image.frombytes(mode, size, file.read(size[0] * size[1] * len(mode))), (0, top))
    return smaller


def _make_smaller(path: str, target: str, width: int, height: int) -> str | None:
    """Write an image in a smaller size; return why it cannot be made, if so."""
    try:
        body = smaller_jpeg(path, width, height)
    except (TooLargeError, MemoryError):
        return TOO_LARGE
    except Exception as error:
        return _refusal(error)
    Path(target).write_bytes(body)
    return None


def _refusal(error: Exception) -> str:
    """Return why Pillow refuses a picture: damaged bytes raise any kind of exception there. Raises what is no such."""
    if machine_error(error) is not None:
        raise error
    return NO_PICTURE


def _is_readable(path: str) -> bool:
    """Return whether a mask is a PNG that Pillow reads to its end."""
    try:
        with open_png(path) as image:
            image.load()
    except MemoryError:
        return False
    except Exception as error:
        return not _refusal(error)
    return True


def _body(path: str, is_ours: bool) -> bytes:
    try:
        body = read_plain(path)
    except FileNotFoundError as error:
        raise missing_file(path) from error
    if is_ours:
        os.unlink(path)
    return body


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

    return np.asarray(picture.crop(box).convert("L")) > _INSIDE


def _rows(picture: Any) -> Iterator[Any]:
    """Yield a mask from top to bottom in strips, bool [rows, width]."""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield _inside(picture, (0, top, picture.width, min(picture.height, top + rows)))


def _columns(picture: Any) -> Iterator[Any]:
    """Yield a mask from left to right in strips, bool [columns, height]."""
    columns = max(1, _STRIP_PIXELS // picture.height)
    for left in range(0, picture.width, columns):
        yield _inside(picture, (left, 0, min(picture.width, left + columns), picture.height)).T


def _mask(path: str, width: int, height: int) -> Any:
    """Return a mask of its image's size as bool [height, width], true inside."""
    import numpy as np

    return np.concatenate(list(_rows(_mask_picture(path, width, height))))


def _mask_body(path: str, width: int, height: int) -> bytes:
    import numpy as np
    from PIL import Image

    bits = b"".join(np.packbits(rows, axis=1).tobytes() for rows in _rows(_mask_picture(path, width, height)))
    out = io.BytesIO()
    Image.frombytes("1", (width, height), bits).save(out, "PNG", optimize=False)
    return out.getvalue()


def _make_mask(path: str, target: str, width: int, height: int) -> None:
    Path(target).write_bytes(_mask_body(path, width, height))


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


def _runs(columns: Iterable[Any]) -> Iterator[int]:
    """Yield the lengths of a mask's runs of outside and inside; the first, which may be 0, is outside."""
    import numpy as np

    run, is_inside = 0, False
    for some in columns:
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
