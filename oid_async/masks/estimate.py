"""How many masks a plan has, and what they would take."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from oid_async.masks.archive import cached_directory
from oid_async.masks.fetch import BUCKET, WHY, find_members
from oid_async.masks.ranges import choose_ranges
from oid_async.openimages.catalogue import mask_archive
from oid_async.openimages.vocabulary import Split
from oid_async.report import size_text


def estimate_masks(masks: Sequence[tuple[Split, pl.LazyFrame]], cache: Path) -> str:
    """Return a message on the masks (MaskPath) of each split: how many, from how many archives, in how many requests.

    Bytes and requests are known for archives whose directory is cached.
    """
    count = archives = unknown = requests = size = complete = 0
    for split, frame in masks:
        paths = frame.select("MaskPath").unique().with_columns(digit=pl.col("MaskPath").str.slice(0, 1))
        for (digit,), group in paths.collect(engine="streaming").partition_by("digit", as_dict=True).items():
            count += len(group)
            archives += 1
            cached = cached_directory(cache / BUCKET / f"{mask_archive(split, str(digit))}.directory")
            if cached is None:
                unknown += 1
                continue
            path, state = cached
            sized = group.with_columns(pl.lit(None, pl.Int64).alias(side) for side in ("Width", "Height"))
            members = find_members(path, sized).filter(pl.col(WHY).is_null())
            ranges = choose_ranges(members.select("start", "stop").rows(), state.bytes)
            requests += len(ranges.parts)
            size += ranges.bytes
            complete += ranges.is_complete
    if not count:
        return "no masks"
    known = (
        f"{requests} requests, {size_text(size)}, {complete} archives whole, unless they are there" if requests else ""
    )
    new = f"the directories of {unknown} are fetched first, which tells how the rest comes cheapest" if unknown else ""
    return f"{count} masks in {archives} archives: {'; '.join(part for part in (known, new) if part)}"
