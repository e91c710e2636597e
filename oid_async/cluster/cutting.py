"""How the images of a split are cut into parts: by their bytes, in order. Pure."""

from dataclasses import dataclass

import polars as pl

# Rows and annotations of one part are in memory at once, also where images are small or their bytes are not known.
MOST_IMAGES = 1 << 16


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
            free = before + self.most_bytes - self.bytes
            fitting = int(ends.search_sorted(free, side="right"))
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
