"""How many masks a plan has, and what they would take."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.masks.archive import cached_directory
from oid_async.masks.fetch import BUCKET, WHY, find_members
from oid_async.masks.ranges import choose_ranges
from oid_async.openimages.catalogue import MEAN_MASK_BYTES, mask_archive
from oid_async.openimages.vocabulary import Split


@dataclass(slots=True)
class MaskEstimate:
    """The masks of a plan: `count` in all, `present` of them there already, the others from `archives`.

    Of archives whose directory is cached, `requests` and bytes to fetch are known, and the bytes on the disk. Of the
    `bytes_unknown` masks in `archives_unknown` others a published mean is taken for the bytes, and no request counted.
    """

    count: int = 0
    present: int = 0
    archives: int = 0
    archives_unknown: int = 0
    requests: int = 0
    bytes: int = 0
    bytes_unknown: int = 0
    known_disk_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        names = ("count", "present", "archives", "archives_unknown", "requests", "bytes", "bytes_unknown")
        return {name: getattr(self, name) for name in names} | {"bytes_exact": not self.bytes_unknown}


def estimate_masks(masks: Sequence[tuple[Split, pl.LazyFrame]], cache: Path, folder: Path) -> MaskEstimate:
    """Return what the masks (MaskPath) of each split take; those with a file in `folder` are there. Blocking."""
    there = _names_in(folder)
    found = MaskEstimate()
    for split, frame in masks:
        paths = frame.select("MaskPath").unique().collect(engine="streaming")
        missing = paths.filter(~pl.col("MaskPath").is_in(there.implode())) if len(there) else paths
        found.count += len(paths)
        found.present += len(paths) - len(missing)
        by_digit = missing.with_columns(digit=pl.col("MaskPath").str.slice(0, 1))
        for (digit,), group in by_digit.partition_by("digit", as_dict=True).items():
            _add_archive(found, split, str(digit), group, cache)
    return found


def _names_in(folder: Path) -> pl.Series:
    try:
        return pl.Series(os.listdir(folder), dtype=pl.String)
    except (FileNotFoundError, NotADirectoryError):
        return pl.Series([], dtype=pl.String)


def _add_archive(found: MaskEstimate, split: Split, digit: str, masks: pl.DataFrame, cache: Path) -> None:
    """Count the missing masks of one archive."""
    found.archives += 1
    cached = cached_directory(cache / BUCKET / f"{mask_archive(split, digit)}.directory")
    members = None
    if cached is not None:
        sized = masks.with_columns(pl.lit(None, pl.Int64).alias(side) for side in ("Width", "Height"))
        # One that cannot be read is fetched again.
        with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            members = find_members(cached[0], sized).filter(pl.col(WHY).is_null())
    if cached is None or members is None:
        found.archives_unknown += 1
        found.bytes_unknown += len(masks)
        found.bytes += len(masks) * MEAN_MASK_BYTES[split]
        return
    ranges = choose_ranges(members.select("start", "stop").rows(), cached[1].bytes)
    found.requests += len(ranges.parts)
    found.bytes += ranges.bytes
    found.known_disk_bytes += int(members.get_column("size").sum())
