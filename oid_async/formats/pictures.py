"""Pictures for an export: linked, copied, made smaller, or as `formats.mask_shapes` has them; by several processes."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from oid_async.dataset.decoding import TooLargeError, jpeg_problem, open_jpeg, open_png
from oid_async.dataset.image_store import missing_file
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import machine_error
from oid_async.formats.cutting import Crop, cut_image
from oid_async.formats.file_record import FileRecord
from oid_async.formats.mask_shapes import (
    STRIP_PIXELS,
    CropRuns,
    brush_mask,
    crop_runs,
    mask_body,
    polygon,
    run_length,
)
from oid_async.formats.processes import Pool, each
from oid_async.formats.staging import Staging
from oid_async.store.disk import read_plain
from oid_async.system.links import is_no_link, ways

Item = TypeVar("Item")
Result = TypeVar("Result")

# The quality of a smaller JPEG, as trainers' own tools have it.
_QUALITY = 90
# Calls that go to a process at once: of those that decode a picture, of those that read its header.
_CHUNK, _HEADERS = 16, 256
# What a smaller JPEG takes along: EXIF that fits into one segment, and a colour profile unless it is absurd.
_MOST_METADATA_BYTES = {"exif": 65_533, "icc_profile": 4 << 20}
# Why an image is left out where it is to be made smaller.
NO_PICTURE, TOO_LARGE = "no picture that Pillow reads", "too many pixels to make it smaller"
_TOO_LARGE_TO_CUT = "too many pixels to cut its boxes out"


class Pictures:
    """The images and masks of a dataset, for an export. Raises InputError for a file that is missing or no picture.

    `record` is told which files hold the bytes that were saved. In `scratch` images wait in their smaller size; those
    of a place are brought there a span at a time (`staging`). `masks` is the folder of the masks.
    """

    def __init__(
        self,
        dataset: SavedDataset,
        record: FileRecord,
        scratch: Path,
        *,
        copy: bool,
        pool: Pool | None,
        staging: Staging | None = None,
    ) -> None:
        self.record = record
        self._smaller = scratch / "smaller"
        self._smaller.mkdir()
        self._images = dataset.image_files.folder if staging is None else staging.images
        self.masks = dataset.masks_folder if staging is None else staging.masks
        # A staged file does not stay: a link that names it would lead nowhere.
        self._links = ways(symbolic=staging is None)
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
        names = images.get_column("FileName").to_list()
        paths = ((f"{self._images}{os.sep}{name}",) for name in names)
        for name, why in zip(names, self.each(jpeg_problem, paths, _HEADERS), strict=True):
            if why is not None:
                found.setdefault(why, []).append(name)
        broken = pl.Series([name for names in found.values() for name in names], dtype=pl.String)
        is_smaller = (pl.col("Width") != pl.col("OutWidth")) | (pl.col("Height") != pl.col("OutHeight"))
        resized = images.filter(is_smaller, ~pl.col("FileName").is_in(broken.implode()))
        rows = resized.select("FileName", "OutWidth", "OutHeight").rows()
        calls = ((str(self._images / name), str(self._smaller / name), *size) for name, *size in rows)
        for (name, *_), why in zip(rows, self.each(_make_smaller, calls), strict=True):
            if why is not None:
                found.setdefault(why, []).append(name)
        return found

    def unreadable_masks(self, masks: Sequence[str]) -> list[str]:
        """Return the MaskPaths of those that are no pictures, or would take too much memory."""
        found = self.each(_is_readable, ((str(self.masks / name),) for name in masks))
        return [name for name, is_readable in zip(masks, found, strict=True) if not is_readable]

    def place_masks(self, masks: pl.DataFrame, target: Callable[[str], Path]) -> None:
        """Put each mask at the path that `target` gives for its MaskPath; of a smaller image in its size."""
        resized = []
        for name, *size, is_smaller in masks.iter_rows():
            if is_smaller:
                resized.append((str(self.masks / name), str(target(name)), *size))
            else:
                self._link_or_copy(str(self.masks / name), str(target(name)))
        for _ in self.each(_make_mask, resized):
            pass

    def bodies(self, images: pl.DataFrame) -> Iterator[bytes]:
        """Yield the bytes of images in their order, made smaller where the export has a smaller size."""
        columns = ("FileName", "Width", "Height", "OutWidth", "OutHeight")
        rows = images.select(columns).iter_rows()
        calls = (
            (str(self._images / name), False) if (width, height) == tuple(size) else (str(self._smaller / name), True)
            for name, width, height, *size in rows
        )
        # By this process: the way from another one takes longer than the reading.
        return (_body(*call) for call in calls)

    def mask_bodies(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield masks as PNGs of these sizes in pixels."""
        return self.each(mask_body, ((str(self.masks / name), *size) for name, *size in masks))

    def run_lengths(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[tuple[str, int]]:
        """Yield COCO's compressed run lengths of masks (MaskPath, width, height) and their areas in pixels."""
        return self.each(run_length, ((str(self.masks / name), *size) for name, *size in masks))

    def crop_runs(self, masks: Sequence[tuple[str, int, int]]) -> "Iterator[CropRuns]":
        """Yield the run lengths of masks (MaskPath, width, height) within the smallest box around each."""
        return self.each(crop_runs, ((str(self.masks / name), *size) for name, *size in masks))

    def brush_masks(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield masks (MaskPath, width, height) as Label Studio's brush has them."""
        return self.each(brush_mask, ((str(self.masks / name), *size) for name, *size in masks))

    def polygons(self, masks: Sequence[tuple[str, int, int]]) -> Iterator[list[float]]:
        """Yield the outlines of masks: x and y alternating, fractions; empty for an empty mask."""
        return self.each(polygon, ((str(self.masks / name), *size) for name, *size in masks))

    def cut(self, crops: pl.DataFrame, folder: Path) -> dict[str, list[str]]:
        """Write parts of images (columns of `formats.crops`) as files below a folder, by the paths in File.

        Return the FileNames of the images that are no pictures, of which nothing is written, by the reason.
        """
        columns = ("File", "Left", "Top", "Right", "Bottom", "CropWidth", "CropHeight")
        by_image = crops.partition_by("FileName", maintain_order=True)
        calls = (
            (
                str(self._images / rows.item(0, "FileName")),
                (rows.item(0, "OutWidth"), rows.item(0, "OutHeight")),
                [
                    Crop(f"{folder}{os.sep}{name}", (left, top, right, bottom), (width, height))
                    for name, left, top, right, bottom, width, height in rows.select(columns).iter_rows()
                ],
            )
            for rows in by_image
        )
        found: dict[str, list[str]] = {}
        written: list[tuple[str, int, str]] = []
        for rows, done in zip(by_image, self.each(_cut, calls), strict=True):
            if isinstance(done, str):
                found.setdefault(done, []).append(rows.item(0, "FileName"))
            else:
                written += done
        self.record.hashed_files(written)
        return found

    def _link_or_copy(self, source: str, target: str) -> None:
        try:
            if not self._copy:
                for link in self._links:
                    try:
                        link(os.path.abspath(source), target)
                        return
                    except OSError as error:
                        if not is_no_link(error):
                            raise
            shutil.copyfile(source, target)
        except FileNotFoundError as error:
            raise missing_file(source) from error

    def each(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], chunk: int = _CHUNK
    ) -> Iterator[Result]:
        """Yield the results of a function in order; the processes of the export share the calls, so many at once."""
        return each(self._pool, function, calls, chunk)


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
        if width * height > STRIP_PIXELS:
            smaller = _resized_in_strips(image, width, height)
        else:
            smaller = image.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=_QUALITY, **metadata)
    return out.getvalue()


def _resized_in_strips(image: Any, width: int, height: int) -> Any:
    """Return a picture in another size and forget its pixels: never are both, or what is between them, in memory."""
    from PIL import Image

    rows = max(1, STRIP_PIXELS // width)
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


def _cut(path: str, size: tuple[int, int], crops: Sequence[Crop]) -> list[tuple[str, int, str]] | str:
    """Write parts of an image; return path, bytes and MD5 of each, or why the image cannot be decoded."""
    try:
        return cut_image(path, size, crops, _QUALITY)
    except (TooLargeError, MemoryError):
        return _TOO_LARGE_TO_CUT
    except Exception as error:
        return _refusal(error)


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


def _make_mask(path: str, target: str, width: int, height: int) -> None:
    Path(target).write_bytes(mask_body(path, width, height))
