"""Sets of the images of a query's image table.

Images are in order of their keys, and every set of them is a Boolean column with one value an image: so a question
about a million of them takes a tenth of a second. A join takes four times as long (measured).
"""

from collections.abc import Iterable
from typing import Self

import polars as pl

from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.quick_values import frozen
from oid_async.select.idlist import IdList


@frozen
class Images:
    """The images of the image table: `keys` sorted and unique, `split` (u8, null if unknown) of each.

    `fitting` is the set of those that meet the condition on image rows: all of them without one.
    """

    keys: pl.Series
    split: pl.Series
    fitting: pl.Series

    @classmethod
    def of(cls, images: pl.DataFrame) -> Self:
        """Return the images of `read_image_keys`, each once: of several rows the first one counts."""
        if "fits" not in images.columns:
            images = images.with_columns(fits=True)
        keys = images.get_column(KEY)
        if not keys.is_sorted() or (keys == keys.shift()).any():
            images = images.sort(KEY, maintain_order=True).unique(KEY, keep="first", maintain_order=True)
        return cls(images.get_column(KEY), images.get_column("split"), images.get_column("fits"))

    def positions(self, keys: pl.Series) -> pl.Series:
        """Return the position of each key (u32), null for a key of no image."""
        if not len(self.keys):
            return pl.repeat(None, len(keys), dtype=pl.UInt32, eager=True).alias("at")
        at = self.keys.search_sorted(keys).alias("at")
        found = self.keys.gather(at.clip(0, len(self.keys) - 1)) == keys
        return at.to_frame().select(pl.when(found).then("at").cast(pl.UInt32)).to_series()

    def mask(self, positions: Iterable[pl.Series]) -> pl.Series:
        """Return the set of the images at these positions."""
        mask = pl.repeat(False, len(self.keys), dtype=pl.Boolean, eager=True)
        for at in positions:
            mask = mask.scatter(at, True) if len(at) else mask
        return mask

    def count(self, images: pl.Series, positions: pl.Series) -> int:
        """Return how many of the images at these positions are in a set."""
        return int(taken(images, positions).sum() or 0)

    def having(self, keys: pl.Series) -> pl.Series:
        """Return the set of the images with these keys; other keys are ignored."""
        return self.mask([self.positions(keys).drop_nulls()])

    def named(self, ids: IdList) -> tuple[pl.Series, pl.Series]:
        """Return the set of the images that a list names, and its lines, in order, that name none."""
        at, listed, line = self.positions(ids.rows.get_column(KEY)), ids.rows["split"], ids.rows["line"]
        published = self.split.gather(at) if len(self.split) else pl.repeat(None, len(at), dtype=pl.UInt8, eager=True)
        is_known = at.is_not_null() & (published.is_null() | listed.is_null() | (published == listed)).fill_null(True)
        # A line may be read in more than one way: it names an image if any of them does.
        absent = line.filter(~is_known).unique()
        absent = absent.filter(~absent.is_in(line.filter(is_known).implode())) if len(absent) else absent
        return self.mask([at.filter(is_known)]), pl.concat([absent, ids.odd.get_column("line")]).sort()

    def of_split(self, split: Split) -> pl.Series:
        """Return the set of the images of a split; one of an unknown split is in none."""
        return (self.split == SPLITS.index(split)).fill_null(False)

    def splits(self, keep: pl.Series) -> dict[str, int]:
        """Return how many of a set are in each split, where that is known."""
        counts = self.split.filter(keep).drop_nulls().value_counts().sort("split")
        return {SPLITS[code]: count for code, count in counts.iter_rows()}


def taken(values: pl.Series, positions: pl.Series) -> pl.Series:
    """Return the values at positions; of an empty column Polars takes none at all."""
    return values.gather(positions) if len(positions) else values.clear()
