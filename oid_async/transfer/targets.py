"""The plan as targets for the pipeline: a file of the plan at a time, and any target again by its place."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.openimages.ids import KEY
from oid_async.report import Outcome
from oid_async.store.image_check import Expected
from oid_async.transfer.image_transfer import NOTHING, Target

_ORIGINAL = ("OriginalURL", "OriginalSize", "OriginalMD5")
_COLUMNS = ("ImageID", "FileName", "Subset", *_ORIGINAL, "Thumbnail300KURL", "CopyBytes")
_OF_ANY = 1 + len(_COLUMNS)  # with Known
# Which sources an image is asked of, a comma between them: a plan without this column asks those of the run.
SOURCES = "Sources"
# Of a set that is fetched again in addition: its URL at a source that is not the bucket, and the size and MD5 of the
# image that was saved.
AGAIN = (SOURCES, "SavedURL", "SavedBytes", "SavedMD5")
# Nothing is asked for an image that waits for a later generation of a published plan, and nothing is delivered for it.
PENDING = "pending"
PLACE = "__at"
_ROW = "__place"
_ROW_BITS = 32


class Targets:
    """Reads the plan's `files`. A target's place is the number of its file and its row there, in 48 bits.

    `deliver` is awaited with the outcome of each image that needs no request, except the keys in `delivered`.
    """

    rests = False

    def __init__(
        self,
        files: Sequence[Path],
        images: Path,
        deliver: Callable[[Outcome], Awaitable[None]] | None = None,
        delivered: pl.Series | None = None,
    ) -> None:
        self._files = files
        self._images = images
        self._deliver = deliver
        self._delivered = delivered

    async def __aiter__(self) -> AsyncIterator[Target]:
        """Yield what is to be fetched, in order of ImageID."""
        for number, path in enumerate(self._files):
            rows = await in_thread(self._read_file, path)
            for row in rows.iter_rows():
                action, reason, at = row[:3]
                if action == "fetch":
                    yield target_at(number << _ROW_BITS | at, row[3:])
                elif self._deliver is not None and action != PENDING:
                    known, image_id, name, subset = row[3:7]
                    file = str(self._images / name) if action == "present" else None
                    await self._deliver(Outcome(image_id, action, file, reason, known, subset=subset))

    async def read(self, places: Sequence[int]) -> list[Target]:
        """Return the targets at these places, in their order."""
        return await in_thread(self._read_places, places)

    def _read_file(self, path: Path) -> pl.DataFrame:
        wanted = pl.col("Action") == "fetch"
        if self._deliver is not None:
            is_delivered = (
                pl.col(KEY).is_in(self._delivered.implode()) if self._delivered is not None else pl.lit(False)
            )
            wanted |= ~is_delivered
        plan = pl.scan_parquet(path, row_index_name=_ROW, glob=False).filter(wanted)
        return plan.select("Action", "Reason", _ROW, "Known", *_COLUMNS, *_again(plan)).collect()

    def _read_places(self, places: Sequence[int]) -> list[Target]:
        found: dict[int, Target] = {}
        for number in {place >> _ROW_BITS for place in places}:
            rows = [place & (1 << _ROW_BITS) - 1 for place in places if place >> _ROW_BITS == number]
            plan = pl.scan_parquet(self._files[number], row_index_name=_ROW, glob=False).filter(
                pl.col(_ROW).is_in(rows)
            )
            for row, *fields in plan.select(_ROW, "Known", *_COLUMNS, *_again(plan)).collect().iter_rows():
                target = target_at(number << _ROW_BITS | row, fields)
                found[target.place] = target
        return [found[place] for place in places]


def _again(plan: pl.LazyFrame) -> tuple[str, ...]:
    """Return which columns of AGAIN a plan has: none, the sources, or all of them."""
    there = plan.collect_schema()
    return tuple(name for name in AGAIN if name in there)


def read_rows(files: Sequence[Path], places: pl.Series) -> pl.DataFrame:
    """Return the rows of a plan at these places (UInt64, unique), in their order. Blocking.

    The columns are PLACE, KEY, Action, Reason, then those that `target_at` takes. All files are read through, so that
    it pays to ask for thousands at a time.
    """
    scans = []
    numbers = places // 2**_ROW_BITS
    for number in numbers.unique().sort():
        rows = (places.filter(numbers == number) % 2**_ROW_BITS).cast(pl.get_index_type())
        plan = pl.scan_parquet(files[number], row_index_name=_ROW, glob=False).filter(
            pl.col(_ROW).is_in(rows.implode())
        )
        place = (pl.col(_ROW).cast(pl.UInt64) + pl.lit(number << _ROW_BITS, pl.UInt64)).alias(PLACE)
        scans.append(plan.select(place, KEY, "Action", "Reason", "Known", *_COLUMNS))
    found = pl.concat(pl.collect_all(scans))
    return places.alias(PLACE).to_frame().join(found, on=PLACE, how="left", maintain_order="left")


def read_places(files: Sequence[Path]) -> pl.DataFrame:
    """Return PLACE (UInt64) and KEY of all images of a plan, in its order. Blocking."""
    scans = [
        pl.scan_parquet(path, row_index_name=_ROW, glob=False).select(
            (pl.col(_ROW).cast(pl.UInt64) + pl.lit(number << _ROW_BITS, pl.UInt64)).alias(PLACE), KEY
        )
        for number, path in enumerate(files)
    ]
    return pl.concat(pl.collect_all(scans))


def target_at(place: int, fields: Sequence[Any]) -> Target:
    """Return the target at a place; `fields` are Known, `_COLUMNS` and what the plan has of AGAIN."""
    known, image_id, name, subset, url, size, md5, thumbnail, copy_bytes = fields[:_OF_ANY]
    again, sources = fields[_OF_ANY:], None
    if again:
        if len(again) > 1:
            return again_target(place, known, [image_id, name, subset, url, *again])
        sources = tuple(again[0].split(","))
    original = NOTHING if size is None and md5 is None else Expected.published(size, md5)
    return Target(place, image_id, name, subset, url, original, thumbnail, known, copy_bytes, sources)


def again_target(place: int, known: str | None, fields: Sequence[Any]) -> Target:
    """Return the target of an image that is fetched again: fields ImageID, FileName, Subset, OriginalURL and AGAIN."""
    image_id, name, subset, original_url, sources, url, saved_bytes, md5 = fields
    expected, named = Expected(None, md5, saved_bytes), tuple(sources.split(","))
    return Target(place, image_id, name, subset, url or original_url, expected, url, known, None, named, is_again=True)
