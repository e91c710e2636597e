"""Where the images of a list are that name no row of the tables: what the cached image tables of other splits say."""

from collections.abc import Sequence
from contextlib import suppress

import polars as pl

from oid_async.errors import InputError
from oid_async.metadata.cache import Cache
from oid_async.openimages.catalogue import published
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.vocabulary import SPLITS, Release, Split
from oid_async.select.idlist import IdList
from oid_async.tables.reading import scan_keyed


def cached_splits_of(images: IdList, unknown_lines: pl.Series, cache: Cache, release: Release) -> dict[Split, int]:
    """Return how many images of these lines each split has, by the image tables that are cached. Makes no request.

    A split that a line names itself is not looked in for it.
    """
    rows = images.rows.filter(pl.col("line").is_in(unknown_lines.implode()))
    if not len(rows) or rows.schema[KEY] != pl.UInt64:
        return {}
    counts: dict[Split, int] = {}
    for code, split in enumerate(SPLITS):
        wanted = rows.filter(pl.col("split").is_null() | (pl.col("split") != code)).get_column(KEY).unique()
        for table in published("images", (split,), release):
            entry = cache.entry(table)
            if (version := entry.current_version()) is None:
                continue
            # Another run may replace the version meanwhile: a hint is not worth an error.
            with suppress(InputError, OSError, pl.exceptions.PolarsError):
                keys = scan_keyed(entry.table(version), IdForm(), [], []).select(KEY)
                there = keys.filter(pl.col(KEY).is_in(wanted.implode())).select(pl.col(KEY).n_unique())
                counts[split] = there.collect(engine="streaming").item()
    return {split: count for split, count in counts.items() if count}


def cached_without_boxes(
    images: IdList, unknown_lines: pl.Series, splits: Sequence[Split], cache: Cache, release: Release
) -> int:
    """Return how many of these lines the table of all images has in these splits, 0 if it is not cached.

    Makes no request.
    """
    rows = images.rows.filter(pl.col("line").is_in(unknown_lines.implode()))
    (table,) = published("all_images", (), release)
    entry = cache.entry(table)
    if not len(rows) or rows.schema[KEY] != pl.UInt64 or (version := entry.current_version()) is None:
        return 0
    with suppress(InputError, OSError, pl.exceptions.PolarsError):
        every = scan_keyed(entry.table(version), IdForm(), [], ["Subset"]).filter(pl.col("Subset").is_in(list(splits)))
        found = every.filter(pl.col(KEY).is_in(rows.get_column(KEY).implode())).collect(engine="streaming")
        subset = pl.col("split").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
        same = rows.join(found, on=KEY).filter(pl.col("split").is_null() | (subset == pl.col("Subset")))
        return int(same.get_column("line").n_unique())
    return 0
