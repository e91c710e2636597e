"""Which sources an image is asked of in one generation: those before its first host with a rate cap, or all of them.

Whoever asks a host with a cap does so alone (see `cluster.published.Generation`), so these sources wait for a
generation of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from oid_async.cluster.part_file import NEXT, PENDING, SOURCES
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES
from oid_async.openimages.vocabulary import Source
from oid_async.select.plan import ADDRESSES, ON_FLICKR, original_size

SIZE = "__size"


@dataclass(frozen=True, slots=True)
class Asking:
    """Divides the sources of images, in the run's order, by the caps of their hosts.

    `rate` is --rate: None caps Flickr alone, 0 no host, any other every host. A generation that is `capped` asks all.
    `is_listed`: it is known which copies the bucket has, and CopyBytes is null for those that it lacks.
    """

    sources: Sequence[Source]
    rate: float | None = None
    capped: bool = False
    is_listed: bool = False

    def divide(
        self, images: pl.DataFrame, is_wanted: Callable[[Source], pl.Expr] = lambda _: pl.lit(True)
    ) -> pl.DataFrame:
        """Set Action, Sources, Next of images with the columns of a plan; `is_wanted`: sources that still count.

        An image whose sources all wait is `pending`.
        """
        waits = pl.lit(False)
        now, later = [], []
        for source in self.sources:
            wanted = is_wanted(source)
            waits = waits | (wanted & self._is_capped(source))
            now.append(pl.when(wanted & ~waits).then(pl.lit(source)))
            later.append(pl.when(wanted & waits).then(pl.lit(source)))
        images = images.with_columns(
            pl.concat_str(now, separator=",", ignore_nulls=True).alias(SOURCES),
            pl.concat_str(later, separator=",", ignore_nulls=True).replace("", None).alias(NEXT),
        )
        asked = pl.col(SOURCES) != ""
        return images.with_columns(Action=pl.when(asked).then(pl.lit("fetch")).otherwise(pl.lit(PENDING)))

    def sizes(self, images: pl.DataFrame) -> pl.Series:
        """Return the bytes that each image is likely to bring now, 0 for one that waits or is not there."""
        mean = pl.lit(MEAN_IMAGE_BYTES, pl.Int64)
        original = pl.when(original_size() >= 0).then(original_size()).otherwise(mean)
        asked, copy = pl.col(SOURCES).str.split(","), pl.col("CopyBytes").cast(pl.Int64)
        otherwise = (
            pl.when(asked.list.contains("original")).then(original).when(asked.list.contains("thumbnail")).then(mean)
        )
        without_copy = otherwise.otherwise(0) if self.is_listed else mean
        first = asked.list.first()
        size = (
            pl.when(pl.col(SOURCES) == "")
            .then(0)
            .when(first == "cvdf")
            .then(pl.coalesce(copy, without_copy))
            .when(first == "original")
            .then(original)
            .otherwise(mean)
        )
        return images.select(size.alias(SIZE)).to_series()

    def _is_capped(self, source: Source) -> pl.Expr:
        """Return whether the host of a source's URL has a cap, as `http.hosts.Hosts.cap_per_s` says."""
        if self.capped or self.rate == 0:
            return pl.lit(False)
        if self.rate is not None:
            return pl.lit(True)
        column = ADDRESSES.get(source)
        return pl.lit(False) if column is None else pl.col(column).str.contains(ON_FLICKR).fill_null(False)
