"""What is known of the image bucket: which images it has a copy of, and how large these are.

It has the images of the splits in which boxes were drawn: all of validation and test, of train 1,743,042 of 9,011,219.
(Cvdfoundation's page on the bucket and the published tables' rows, checked 2026-11.)
"""

from pathlib import Path
from typing import Literal

import polars as pl

from oid_async.openimages.ids import KEY, within
from oid_async.quick_values import frozen

# By the bucket's own listing, by the tables of the images with boxes, because boxes select, or by the published counts.
Basis = Literal["listing", "boxable", "boxes", "counts"]


@frozen
class Bucket:
    """How it is known which images the bucket has: None if nobody asked.

    `files` are Parquet files with the numeric KEY of images that it has: the listings (KEY, Bytes) of every split that
    images may be of, or the table of those of train.
    """

    basis: Basis | None = None
    files: tuple[Path, ...] = ()

    def with_copies(self, images: pl.DataFrame, span: pl.Series) -> pl.DataFrame:
        """Add InBucket (Boolean) and CopyBytes (i64) to the images (KEY, Subset) of a span; null is not known."""
        if self.basis == "listing":
            listed = pl.scan_parquet(list(self.files), glob=False).filter(within(span))
            known = listed.select(KEY, CopyBytes="Bytes").collect().unique(KEY)
            images = images.join(known, on=KEY, how="left", maintain_order="left")
            return images.with_columns(InBucket=pl.col("CopyBytes").is_not_null())
        is_whole = pl.col("Subset") != "train"
        there = pl.lit(None, pl.Boolean)
        if self.basis == "boxes":
            there = pl.lit(True)
        elif self.basis == "counts":
            there = pl.when(is_whole).then(True)
        elif self.basis == "boxable":
            train = pl.scan_parquet(list(self.files), glob=False).filter(within(span)).select(KEY).collect()
            there = is_whole | pl.col(KEY).is_in(train.get_column(KEY).implode())
        return images.with_columns(CopyBytes=pl.lit(None, pl.Int64), InBucket=there)
