"""How the images of a generation are cut into parts: each split by itself, by its images' bytes, in order. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from oid_async.cluster.asking import Asking
from oid_async.cluster.published import Part
from oid_async.openimages.ids import KEY

# Rows and annotations of one part are in memory at once, also where images are small or their bytes are not known.
MOST_IMAGES = 1 << 16
# The split in the names of parts whose images have none.
NO_SPLIT = "train"


@dataclass(slots=True)
class Cutter:
    """Cuts a run of images, which comes in spans, into parts of at most so many bytes and images; at least one image.

    `bytes` and `images` are those of the part that is open.
    """

    most_bytes: int
    most_images: int = MOST_IMAGES
    bytes: int = 0
    images: int = 0

    def cut(self, sizes: pl.Series) -> list[int]:
        """Return before which of the next images (their sizes in bytes, in order) a new part begins.

        >>> cutter = Cutter(10)
        >>> cutter.cut(pl.Series([4, 6, 1, 20, 3])), cutter.cut(pl.Series([7, 1]))
        ([2, 3, 4], [1])
        """
        starts: list[int] = []
        ends = sizes.cast(pl.Int64).cum_sum()
        at, total = 0, len(sizes)
        while at < total:
            before = int(ends[at - 1]) if at else 0
            fitting = int(ends.search_sorted(before + self.most_bytes - self.bytes, side="right"))
            stop = min(fitting, at + self.most_images - self.images)
            if not self.images:
                stop = max(stop, at + 1)
            if stop > at:
                self.images += stop - at
                self.bytes += int(ends[stop - 1]) - before
                at = stop
            if at < total:
                starts.append(at)
                self.bytes = self.images = 0
        return starts


@dataclass(slots=True)
class _Open:
    """The images of one split that are in no full part yet."""

    cutter: Cutter
    pieces: list[pl.DataFrame] = field(default_factory=list)


class PartCutter:
    """Makes the parts of one generation of images that come in frames, in order of ImageID.

    Images that are divided by `asking` (see `cluster.asking`) are put into parts of one Subset each, of at most
    `most_bytes`. `numbers` are those of the next parts by split.
    """

    def __init__(self, generation: int, asking: Asking, most_bytes: int, numbers: Mapping[str, int]) -> None:
        self._generation = generation
        self._asking = asking
        self._most_bytes = most_bytes
        self._numbers = Counter(numbers)
        self._open: dict[str | None, _Open] = {}

    def add(self, images: pl.DataFrame) -> list[tuple[Part, pl.DataFrame]]:
        """Return the parts that the next images make full, without an MD5, and their images; keep what is left."""
        full: list[tuple[Part, pl.DataFrame]] = []
        for (split,), group in images.group_by("Subset", maintain_order=True):
            left = self._open.setdefault(split, _Open(Cutter(self._most_bytes)))
            begun = 0
            for start in left.cutter.cut(self._asking.sizes(group)):
                left.pieces.append(group.slice(begun, start - begun))
                full.append(self._close(split, left))
                begun = start
            left.pieces.append(group.slice(begun))
        return full

    def rest(self) -> Iterator[tuple[Part, pl.DataFrame]]:
        """Yield the last parts, when no more images come."""
        for split, left in self._open.items():
            if left.pieces:
                yield self._close(split, left)

    def _close(self, split: str | None, left: _Open) -> tuple[Part, pl.DataFrame]:
        images = pl.concat(left.pieces)
        left.pieces = []
        if not images.get_column(KEY).is_sorted():
            # Images without a split are in parts of the same name as those of `train`, so these come in turns.
            images = images.sort(KEY)
        name = split or NO_SPLIT
        number = self._numbers[name]
        self._numbers[name] += 1
        size = int(self._asking.sizes(images).sum())
        return Part(self._generation, name, number, len(images), size, ""), images
