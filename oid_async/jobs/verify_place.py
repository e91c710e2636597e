"""`verify` of a place that a download past one machine has filled, a folder or a bucket: nothing there is changed.

A listing tells of every shard, record and table whether it is there as it was put, thousands a second. What is read is
read in a few threads, a shard at a time in each, so that a verification can be cancelled between two.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import polars as pl

from oid_async.cluster.layout import FINISHED, MANIFEST, PLAN, PLANS, RECORDS, SHARDS
from oid_async.concurrency import in_thread
from oid_async.dataset.export_audit import EXPORTS, ExportAudit
from oid_async.dataset.place_files import BucketFiles, PlaceFiles
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, UsageError
from oid_async.events import Note, Sink, Stage
from oid_async.jobs.opening import check_finished
from oid_async.jobs.place_audit import PlaceAudit, finding, reads_all
from oid_async.jobs.place_images import ImageAudit
from oid_async.jobs.verification import Mending, Verification, check_batches
from oid_async.system.forks import refuse_forked_child

# Of a bucket each may have a shard on this disk.
_THREADS, _BUCKET_THREADS = 2, 4
_RECORDS_AT_ONCE = 32
_NAMED = 3


class PlaceVerify:
    """One verification of one place. Of a bucket sizes and ETags are compared, with `deep` all bytes are read.

    `exports`: the folder's exports, if they are to be checked, too.
    """

    def __init__(self, files: PlaceFiles, sink: Sink, *, deep: bool, exports: Sequence[ExportAudit] = ()) -> None:
        self._files = files
        self._sink = sink
        self._deep = deep
        self._exports = exports
        self._reads = reads_all(files, deep=deep)

    async def run(self) -> Verification:
        """Check every file. Raises InputError for a place whose download has not come to its end."""
        refuse_forked_child()
        try:
            return await self._run()
        finally:
            await in_thread(self._files.remove)

    async def _run(self) -> Verification:
        self._sink(Stage("looking for the files"))
        audit = await in_thread(self._look)
        if audit.later:
            self._sink(
                Note(
                    f"{self._files.place}: a further round of {len(audit.later)} parts has begun, which its manifest "
                    "does not have yet; run the same download again, unless it is on"
                )
            )
        frames = [await in_thread(audit.listed)]
        images, unreadable = await in_thread(self._open, audit)
        frames.append(unreadable)
        if images is not None and audit.is_listed:
            frames.append(await in_thread(images.check_manifest))
        frames += [await in_thread(export.others) for export in self._exports]
        threads = _BUCKET_THREADS if isinstance(self._files, BucketFiles) else _THREADS
        batches, total = self._batches(audit, images)
        frames += await check_batches(batches, total, self._sink, threads)
        found = pl.concat(frames)
        return Verification(
            str(self._files.place),
            found,
            checked=0 if images is None else images.total,
            unselected=0,
            unhashed=0 if images is None else images.unhashed,
            files=audit.total + sum(export.total for export in self._exports),
            mending=Mending(tuple(_advice(audit, found)), tuple(_to_remove(audit, found))),
        )

    def _look(self) -> PlaceAudit:
        self._files.check()
        if self._files.size(MANIFEST) is None and self._files.size(FINISHED) is None:
            check_finished(self._files)
        return PlaceAudit(self._files, reads=self._reads)

    def _open(self, audit: PlaceAudit) -> tuple[ImageAudit | None, pl.DataFrame]:
        """Return what compares images with the manifest; without a readable one nothing, and the finding of that."""
        nothing = pl.DataFrame(schema=audit.listed().schema)
        if not audit.has_manifest:
            return None, nothing
        try:
            dataset = SavedDataset(self._files.folder, "verify", files=self._files)
            return ImageAudit(audit, dataset, deep=self._deep), nothing
        except InputError as error:
            self._sink(Note(str(error)))
            row = finding(MANIFEST, "altered", "cannot be read as a manifest", self._files.size(MANIFEST))
            return None, pl.DataFrame([row], schema=nothing.schema, orient="row")

    def _batches(self, audit: PlaceAudit, images: ImageAudit | None) -> tuple[Iterator[tuple[Any, ...]], int]:
        """Return what is left to check, a function and its rows each, and how many rows there are."""
        tables = audit.tables
        batches: list[Iterator[tuple[Any, ...]]] = [((audit.check_tables, [table]) for table in tables)]
        total = len(tables)
        if images is not None and self._reads:
            shards, records = list(audit.whole_shards()), list(audit.whole_records())
            batches.append((images.check_shard, [shard]) for shard in shards)
            starts = range(0, len(records), _RECORDS_AT_ONCE)
            batches.append((images.check_record, records[start : start + _RECORDS_AT_ONCE]) for start in starts)
            total += len(shards) + len(records)
        for export in self._exports:
            batches.append(zip(repeat(export.check), export.batches()))
            total += export.total
        return chain(*batches), total


def refuse_repair(place: object) -> UsageError:
    """Return the error for `repair` of a place: what to do instead."""
    return UsageError(
        f"{place}: --repair mends a folder of files; of shards verify without it says which records to remove, and the "
        "same download makes their parts anew"
    )


def _damaged(found: pl.DataFrame) -> set[str]:
    return set(found.filter(pl.col("kind") != "extra").get_column("path"))


def _is_table(key: str) -> bool:
    return key != PLAN and not key.startswith((f"{SHARDS}/", f"{RECORDS}/", f"{PLANS}/", f"{EXPORTS}/"))


def _to_remove(audit: PlaceAudit, found: pl.DataFrame) -> list[str]:
    """Return what the same download makes anew once it is gone: parts by their records, tables by their note."""
    if not audit.has_plan:
        return []  # no download can go on there
    damaged = _damaged(found)
    records = [
        part.record
        for part in audit.parts
        if part.record in damaged or (part.shard is not None and part.shard.key in damaged)
    ]
    return [*records, *([FINISHED] if any(map(_is_table, damaged)) else [])]


def _advice(audit: PlaceAudit, found: pl.DataFrame) -> list[str]:
    """Return how to mend what was found, a line each."""
    lines, place = [], audit.files.place
    if remove := _to_remove(audit, found):
        what = "the parts of these records" if remove != [FINISHED] else "the tables"
        lines.append(
            f"remove from {place}, where they are there, {_named(remove)}; then run the same download again, which "
            f"makes {what} anew"
        )
    elif not audit.has_plan and _damaged(found):
        lines.append(f"{place} has no {PLAN}, so no download goes on there: copy the set anew, with its .oid_async")
    if any(key == PLAN or key.startswith(f"{PLANS}/") for key in _damaged(found)):
        lines.append(
            f"what is missing of {PLANS}, or damaged, cannot be made again: shards and tables that are whole stay so, "
            "but to make others have the set again at another place"
        )
    if any(key.startswith(f"{EXPORTS}/") for key in _damaged(found)):
        lines.append("an export that is damaged is made anew by exporting again")
    if len(found.filter(kind="extra")):
        lines.append("what is extra no reader looks at; remove it, or leave it")
    return lines


def _named(keys: list[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more (all under remove in --json)" if more > 0 else "")
