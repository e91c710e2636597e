"""The images of a saved folder as a dataset of PyTorch."""

import operator
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, Unpack

import numpy as np
import torch
from torch.utils.data import Dataset

from oid_async.errors import InputError, UsageError
from oid_async.jobs.opening import open_for_user
from oid_async.jobs.stored_query import Given
from oid_async.openimages.vocabulary import OTHER_SPLITS, SPLITS
from oid_async.options.keywords import PlaceOptions
from oid_async.options.paths import read_path
from oid_async.options.query import Options
from oid_async.options.signatures import check_keywords
from oid_async.redaction import printable
from oid_async.store.scratch import ScratchFolder
from oid_async.torch.columns import Array, Columns
from oid_async.torch.index import write_index
from oid_async.torch.pictures import Mask, Pictures, Stored, opened
from oid_async.torch.targets import Target, decoded, make_target, mask_pixels, size_of

Transform = Callable[[torch.Tensor, Target], Any]
_MILLIONTHS = 1_000_000
_PREFIX = "oid-async-torch-"


class OpenImages(Dataset[Any]):
    """The images that a download has saved, with their boxes, and masks if they were saved: what detectors train on.

    `dataset[i]` is (image, target), or what `transform(image, target)` returns. `image` is uint8 [3, H, W], RGB, as it
    is stored. `target`, of N objects in published order, N may be 0:

        boxes       float32 [N, 4]: left, top, right, bottom in pixels, clipped to the image; one may have no area
        labels      int64 [N], from 1, in the order of label_data.csv, then others by MID; see `classes`
        iscrowd     uint8 [N]: 1 for a box around a group
        image_id    str
        masks       uint8 [N, H, W], where masks were saved: masks[i] belongs to boxes[i], zeros if it has none

    Images are in the order of the manifest: by ImageID. `savepath` is whatever `oid_async.open` reads: a folder, with
    files or shards, a bucket, or a run that has not come to its end, of which it has the images that are there now;
    further keywords are those of `open`. `splits` takes the images of these splits alone; labels stay the same.

    Opening it reads the tables once, into an index in TMPDIR (70 bytes an image, 21 a box), which goes with the
    dataset. Workers of a DataLoader, forked or spawned, map it: what is pickled has some hundred bytes. A dataset that
    is unpickled elsewhere holds as long as the process that made it.

    Raises InputError and what else `open` raises. An image that is missing or broken raises InputError when it is asked
    for, a number outside of the dataset IndexError. A UserWarning names objects that are left out.
    """

    def __init__(
        self,
        savepath: str | os.PathLike[str],
        transform: Transform | None = None,
        *,
        splits: Sequence[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        **read: Unpack[PlaceOptions],
    ) -> None:
        check_keywords("OpenImages", read, PlaceOptions)
        if transform is not None and not callable(transform):
            raise UsageError(f"transform takes a function of image and target, not {transform!r}")
        given = Given.of(Options.of(savepath=savepath).savepath, read)
        wanted = None if splits is None else _read_splits(splits)
        self.transform = transform
        self.savepath = str(given.options.savepath)
        with open_for_user(given, None if out is None else Path(read_path("out", out))) as dataset:
            self.notes: tuple[str, ...] = dataset.notes
            folder = ScratchFolder.make(_PREFIX)
            try:
                said = write_index(dataset, wanted, folder.path, given.options.endpoint_url)
            except BaseException:
                folder.remove()
                raise
        self._folder = folder.path
        self._opened: tuple[int, _Opened] | None = None
        self._length = self._here.length
        weakref.finalize(self, _remove, folder, os.getpid())
        for line in said:
            warnings.warn(printable(line), stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        # What is open in this process is opened anew in the other one.
        return self.__dict__ | {"_opened": None}

    def __repr__(self) -> str:
        return f"OpenImages({self.savepath!r}, {self._length} images, {len(self.classes) - 1} classes)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Any:
        row, here = self._row(index), self._here
        at = here.stored(row)
        body = here.pictures.image(at)
        image = decoded(body, here.name(at), f"; {self._advice()}")
        target = here.target(row, at, body, size_of(image))
        return (image, target) if self.transform is None else self.transform(image, target)

    @property
    def classes(self) -> list[str]:
        """The names of the classes by label; label 0 is `background`."""
        return ["background", *self._here.columns.notes["names"]]

    def get_height_and_width(self, index: SupportsIndex) -> tuple[int, int]:
        """Return height and width of an image in pixels, by the manifest: torchvision groups images by it."""
        row = self._row(index)
        size = self._here.size(row)
        if not all(size):
            image, _ = OpenImages.__getitem__(self._bare(), row)
            size = size_of(image)
        return size[1], size[0]

    def _bare(self) -> "OpenImages":
        other = object.__new__(OpenImages)
        other.__dict__ |= self.__dict__ | {"transform": None}
        return other

    def _row(self, index: SupportsIndex) -> int:
        if isinstance(index, slice):
            raise TypeError("OpenImages takes one number at a time; torch.utils.data.Subset is a part of it")
        row = operator.index(index)
        if not -self._length <= row < self._length:
            raise IndexError(f"image {row} of {self._length} images")
        return row % self._length

    def _advice(self) -> str:
        repairs = self._here.columns.notes["pictures"]["reader"] == "files"
        return f"oid-async verify {self.savepath} --deep" + (
            " --repair fetches it again" if repairs else " says what else is wrong"
        )

    @property
    def _here(self) -> "_Opened":
        """What is open in this process; a forked child opens it anew."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), _Opened(Columns(self._folder)))
            except FileNotFoundError as error:
                raise InputError(
                    f"{self.savepath}: the index of this dataset went with the process that made it; make it anew"
                ) from error
        return self._opened[1]


class _Opened:
    """The index of a dataset, and what reads its pictures, open in one process."""

    def __init__(self, columns: Columns) -> None:
        notes = columns.notes
        self.columns = columns
        self.length: int = notes["images"]
        self.pictures: Pictures = opened(notes["pictures"])
        self._shards: list[str] = notes["pictures"].get("shards", [])
        self._labels = np.array(notes["labels"], np.int64)
        self._mids: list[str] = notes["mids"]
        self._kinds: list[str] = notes["kinds"]
        self._max_side: int | None = notes["pictures"]["max_side"]

    def stored(self, row: int) -> Stored:
        """Return where an image is."""
        names = (self.columns.text("image_id", row), self.columns.text("file_name", row))
        if "shard" not in self.columns or (shard := int(self.columns.numbers("shard")[row])) < 0:
            return Stored(*names)
        offset, size = (int(self.columns.numbers(name)[row]) for name in ("offset", "bytes"))
        return Stored(*names, self._shards[shard], offset, size)

    def name(self, at: Stored) -> str:
        """Return what messages call an image."""
        notes = self.columns.notes["pictures"]
        if at.shard is None:
            return f"{notes['images']}{os.sep}{at.file_name}"
        return f"{notes['place']}/{at.shard}: image {at.image_id}"

    def size(self, row: int) -> tuple[int, int]:
        """Return width and height by the manifest, 0 where they are not known."""
        width, height = (int(side) for side in self.columns.numbers("size")[row])
        if self._max_side is None or max(width, height) <= self._max_side:
            return width, height
        scale = self._max_side / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def target(self, row: int, at: Stored, body: bytes, size: tuple[int, int]) -> Target:
        """Return the target of an image of this width and height."""
        has_boxes = "bbox" in self._kinds
        masks = self._objects("segmentation", row) if "segmentation" in self._kinds else None
        objects = self._objects("bbox", row) if has_boxes or masks is None else masks
        groups = (
            self.columns.numbers("bbox.group")[objects.rows] if has_boxes else np.zeros(len(objects.label), np.uint8)
        )
        drawn = None
        if masks is not None:
            width, height = size
            drawn = np.zeros((len(objects.label), height, width), np.uint8)
            pairs = masks_of(objects, masks) if has_boxes else {place: place for place in range(len(masks.label))}
            self._draw(drawn, pairs, masks, at, body)
        return make_target(at.image_id, size, objects.sides, self._labels[objects.label], groups, drawn)

    def _objects(self, kind: str, row: int) -> "_Objects":
        if kind not in self._kinds:
            return _Objects(slice(0, 0), np.empty((0, 4)), np.empty(0, np.int64), None)
        at = self.columns.numbers(f"{kind}.at")
        rows = slice(int(at[row]), int(at[row + 1]))
        if rows.start == rows.stop:
            return _Objects(rows, np.empty((0, 4)), np.empty(0, np.int64), None)
        sides = self.columns.numbers(f"{kind}.sides")[rows]
        sides = sides / _MILLIONTHS if sides.dtype == np.int32 else sides
        box_ids = self.columns.numbers(f"{kind}.box_id")[rows] if f"{kind}.box_id" in self.columns else None
        return _Objects(rows, sides, self.columns.numbers(f"{kind}.label")[rows], box_ids)

    def _draw(self, drawn: Array, pairs: dict[int, int], masks: "_Objects", at: Stored, body: bytes) -> None:
        """Draw the masks of objects: `pairs` has the place of the mask by that of the object."""
        if not pairs:
            return
        height, width = drawn.shape[1:]
        rows = [
            Mask(
                self.columns.text("segmentation.path", masks.rows.start + place),
                self._mids[masks.label[place]],
                tuple(np.clip(masks.sides[place], 0, 1).tolist()),
            )
            for place in pairs.values()
        ]
        for place, mask, png in zip(pairs, rows, self.pictures.masks(at, rows, len(body)), strict=True):
            if png is not None:
                drawn[place] = mask_pixels(png, mask.path, (width, height))


@dataclass(frozen=True, slots=True)
class _Objects:
    """Boxes or masks of an image: their rows in the columns, sides (fractions), label (place of the MID), BoxIDs."""

    rows: slice
    sides: Array
    label: Array
    box_ids: Array | None


def masks_of(boxes: _Objects, masks: _Objects) -> dict[int, int]:
    """Return place of a box -> place of its mask: by BoxID where both have it, else by class and corners.

    Of several boxes with the same ones each gets another mask, in order.
    """

    def keys(objects: _Objects) -> list[Any]:
        if boxes.box_ids is not None and masks.box_ids is not None:
            assert objects.box_ids is not None
            return list(objects.box_ids.tolist())
        corners = np.rint(np.clip(objects.sides, 0, 1) * _MILLIONTHS).astype(np.int64).tolist()
        return [(label, *sides) for label, sides in zip(objects.label.tolist(), corners, strict=True)]

    left: dict[Any, deque[int]] = {}
    for place, key in enumerate(keys(masks)):
        left.setdefault(key, deque()).append(place)
    return {place: left[key].popleft() for place, key in enumerate(keys(boxes)) if left.get(key)}


def _read_splits(splits: Sequence[str]) -> list[str]:
    words = [splits] if isinstance(splits, str) else list(splits)
    names = [OTHER_SPLITS.get(word.lower(), word.lower()) for word in map(str, words)]
    for word, name in zip(words, names, strict=True):
        if name not in SPLITS and name != "all":
            raise UsageError(f"splits takes train, validation, test or all, not {word!r}")
    return list(SPLITS) if "all" in names else names


def _remove(folder: ScratchFolder, made_by: int) -> None:
    """Remove an index; a forked child leaves it to the process that made it."""
    if os.getpid() == made_by:
        folder.remove()
