"""The plan of a set that is fetched again: it is made from a manifest, not from tables; what can be copied is copied.

It has the columns of any plan (`select.plan`) and in addition AGAIN (`transfer.targets`) and KEPT (`store.results`).
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.dataset.image_copies import ImageCopies, WantedImage
from oid_async.dataset.image_store import ImageStore
from oid_async.dataset.manifest import Manifest
from oid_async.errors import input_errors
from oid_async.events import Checked
from oid_async.jobs.context import RunContext
from oid_async.jobs.ownership import forget_outdated_failures
from oid_async.jobs.planning.disk_room import Need, shortage
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Source
from oid_async.options.defaults import FLICKR_RATE
from oid_async.options.query_table import NameStyle
from oid_async.report import PASSING_KINDS, Outcome, Plan, write_detail
from oid_async.select.names import NameAssigner, NameHashes, folded_hashes
from oid_async.select.plan import PLAN_COLUMNS, clear_plan, spans
from oid_async.select.remembered import remembered_end, still_failed
from oid_async.store.disk import free_bytes, has_plain
from oid_async.store.failure_memory import memory_text
from oid_async.store.folder import Folder
from oid_async.store.journal_index import JournalIndex
from oid_async.store.results import KEPT, NEGATIVE, SELECTED
from oid_async.tables.reading import TableFile, reading
from oid_async.transfer.targets import AGAIN, again_target

# A thread looks at about so many bytes, and at most so many images, before it is seen whether the run was cancelled.
_BATCH_BYTES = 8 << 20
_BATCH_IMAGES = 256
_THREADS = 2
_ROW_GROUP = 4096


@dataclass(frozen=True, slots=True)
class SavedSet:
    """A set of images to have again: the manifest, and the folder that it is in, None where it stands alone.

    `own`: that folder is the one that is filled. `content` is query.json, `sources` what an image is asked of whose
    row names no source, `store` where images are copied from, `images` the folder that has them as files.
    """

    manifest: Manifest
    folder: Path | None
    own: bool
    content: Mapping[str, Any] | None
    sources: tuple[Source, ...]
    names: NameStyle
    store: ImageStore | None
    images: Folder | None


@dataclass(frozen=True, slots=True)
class RepeatDecision:
    """What a repeat will do; see `jobs.planning.plan.Decision`. `copied` counts images that are copies, not links."""

    plan: Plan
    uncapped: int
    first_line: int
    copied: int


class RepeatPlanning:
    """Copies what is there, and writes the plan of what is to be fetched, a span of the manifest at a time."""

    def __init__(self, context: RunContext, saved: SavedSet) -> None:
        journal = context.journal
        assert journal is not None
        self._context = context
        self._saved = saved
        self._journal = journal
        self._copies = ImageCopies(context.folder, journal, None if saved.own else saved.store, own=saved.own)
        self._done = 0
        self._there: pl.Series | None = None

    async def decide(self) -> RepeatDecision:
        """Copy, plan, update the report. Raises StorageError, InputError."""
        context, keys = self._context, self._saved.manifest.keys
        folder = context.folder
        await in_thread(forget_outdated_failures, folder, self._journal, context.site.name, context.options)
        await in_thread(clear_plan, folder.plan)
        index = await in_thread(JournalIndex, folder.journal, self._saved.manifest.ids, folder.index, folder.new_index)
        names = await in_thread(self._names, index)
        counts = pl.DataFrame(schema=_COUNTED)
        start = 0
        for number, span in enumerate(spans(keys) if len(keys) else ()):
            frame = await in_thread(self._span, start, span, index)
            placed = await self._place(frame)
            frame = await in_thread(self._finished, frame, placed, index, names)
            counts.extend(await in_thread(self._write, frame, folder.plan / f"{number:05}.parquet"))
            start += len(span)
        await in_thread(self._report, counts, names)
        return await in_thread(self._decision, counts, index.next_line)

    def _report(self, counts: pl.DataFrame, names: NameAssigner) -> None:
        """Update the report by the counts of all spans."""
        report, manifest = self._context.report, self._saved.manifest
        report.selected = len(manifest.keys)
        failed = counts.filter(Action="failed").group_by("Reason").agg(pl.sum("images")).sort("Reason")
        report.failures = dict(failed.iter_rows())
        report.failed = sum(report.failures.values())
        report.pending = int(counts.filter(Action="fetch").get_column("images").sum())
        report.present = report.selected - report.failed - report.pending
        report.unselected = names.unselected
        report.negatives = manifest.count("Role").get(NEGATIVE, 0) if manifest.roles else 0

    def _names(self, index: JournalIndex) -> NameAssigner:
        """Return what gives names to images that have none: those of the others are taken."""
        folder, manifest = self._context.folder, self._saved.manifest
        existing = NameHashes.of(folder.names(), folder.links())
        names = NameAssigner(existing, index, manifest.keys)
        self._there = self._names_there(existing.exact)
        hashes = pl.col("FileName").drop_nulls().map_batches(folded_hashes, return_dtype=pl.UInt64)
        with reading(manifest.table):
            names.take(manifest.rows.select(hashes).collect(engine="streaming").to_series())
        return names

    def _names_there(self, existing: pl.Series) -> pl.Series | None:
        """Return the hashes of all names that files may be found under; None if images are in shards."""
        saved = self._saved
        if saved.own or saved.store is None:
            return existing
        if saved.images is None:
            return None
        with input_errors(saved.images.images):
            return pl.concat([existing, NameHashes.of(saved.images.names()).exact])

    def _span(self, start: int, keys: pl.Series, index: JournalIndex) -> pl.DataFrame:
        """Return a span of the manifest with what this folder's journal knows, and what is wanted of each image."""
        retry, saved = self._context.options.retry_failed, self._saved
        known = index.latest(keys).select(
            *(KEY, "line", "Asked", "Detail"),
            Journalled="Status",
            JournalName="FileName",
            JournalBytes="Bytes",
            JournalMD5="MD5",
            JournalSubset="Subset",
        )
        frame = saved.manifest.span(start, keys).join(known, on=KEY, how="left", maintain_order="left")
        is_other = (pl.col("JournalSubset") != pl.col("Subset")).fill_null(False)
        is_saved = (pl.col("Journalled") == "ok").fill_null(False) & ~is_other
        status, sizes = pl.col("Status"), pl.any_horizontal(pl.col("Bytes", "MD5").is_not_null())
        # What was saved here once, and an earlier repeat could not get at that time.
        is_lost = (status == "failed") & sizes & pl.col("Reason").is_in(list(PASSING_KINDS)).fill_null(False)
        is_lost &= saved.own
        frame = frame.with_columns(
            IsSaved=is_saved,
            WasOk=status == "ok",
            IsWanted=status.is_in(["ok", "pending"]) | is_lost | pl.lit(retry),
            Sources=pl.coalesce("Source", pl.lit(",".join(saved.sources))),
            SavedSource="Source",
            SavedURL="URL",
            SavedName=pl.coalesce("FileName", pl.when(is_saved).then("JournalName")),
            SavedBytes=pl.when(sizes).then("Bytes").when(is_saved).then("JournalBytes"),
            SavedMD5=pl.when(sizes).then("MD5").when(is_saved).then("JournalMD5"),
        )
        same = [pl.col(f"Journal{name}").eq_missing(pl.col(f"Saved{name}")) for name in ("Bytes", "MD5")]
        # Most names of a manifest that stands alone are nowhere: they are not looked at one by one.
        names = pl.col("SavedName", "JournalName").hash()
        there = pl.lit(True) if self._there is None else pl.any_horizontal(names.is_in(self._there.implode()))
        return frame.with_columns(
            IsKnown=pl.all_horizontal("IsSaved", *same),
            IsNamed=pl.col("IsWanted") & pl.col("SavedName").is_not_null(),
            MayBeThere=there,
        )

    async def _place(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Bring the images of a span that have a name and are there; return their row (`at`), FileName, `present`."""
        wanted = frame.with_row_index("at").filter("IsNamed", "MayBeThere")
        placed: list[tuple[int, str, bool]] = []
        batches = wanted.iter_slices(_batch_rows(wanted))

        async def place() -> None:
            for batch in batches:
                found = await in_thread(self._copies.place, _images(batch))
                placed.extend((at, *each) for at, each in zip(batch.get_column("at"), found, strict=True))
                self._sink_checked(len(batch))

        with single_error():
            async with asyncio.TaskGroup() as group:
                for _ in range(_THREADS):
                    group.create_task(place())
        self._sink_checked(len(frame) - len(wanted))
        return pl.DataFrame(
            placed, schema={"at": pl.UInt32, "FileName": pl.String, "present": pl.Boolean}, orient="row"
        )

    def _sink_checked(self, count: int) -> None:
        total = len(self._saved.manifest.keys)
        self._done = min(self._done + count, total)
        self._context.sink(Checked(self._done, total))

    def _finished(
        self, frame: pl.DataFrame, placed: pl.DataFrame, index: JournalIndex, names: NameAssigner
    ) -> pl.DataFrame:
        """Add the columns of a plan: which are there, names of images without one, what is known to fail, the action.

        `placed` is what `_place` has brought.
        """
        frame = frame.drop("FileName").with_row_index("at").join(placed, on="at", how="left", maintain_order="left")
        name = pl.coalesce("FileName", pl.when("IsNamed").then("SavedName"))
        frame = frame.with_columns(FileName=name, present=pl.col("present").fill_null(False)).drop("at")
        frame = frame.with_columns(
            *(pl.lit(None, pl.String).alias(name) for name in ("OriginalSize", "OriginalMD5", "Thumbnail300KURL")),
            *(pl.lit(None, pl.String).alias(name) for name in ("Known", "KnownSource", "KnownURL")),
            CopyBytes=pl.lit(None, pl.Int64),
        )
        frame = self._with_names(frame, names)
        frame = frame.with_columns(
            Action=pl.when("present")
            .then(pl.lit("present"))
            .when("IsWanted")
            .then(pl.lit("fetch"))
            .otherwise(pl.lit("failed")),
            Reason=pl.when(~pl.col("IsWanted")).then(pl.col("Reason").fill_null("not_found")),
        )
        frame = self._with_failed_before(frame)
        return frame if self._context.options.retry_failed else self._with_remembered(frame, index.last_forget)

    def _with_names(self, frame: pl.DataFrame, names: NameAssigner) -> pl.DataFrame:
        is_nameless = pl.col("IsWanted") & pl.col("FileName").is_null()
        nameless = frame.filter(is_nameless).drop("FileName", "present")
        if not len(nameless):
            return frame
        twin = (pl.col("ImageID") == pl.col("ImageID").shift()).fill_null(False)
        nameless = nameless.with_columns(Given=pl.lit(None, pl.String), IsTwin=twin)
        named, _ = names.assign(nameless, self._saved.names, lambda *_: None)
        found = named.select(KEY, Fresh="FileName")
        frame = frame.join(found, on=KEY, how="left", maintain_order="left")
        return frame.with_columns(FileName=pl.coalesce("FileName", "Fresh"))

    def _with_failed_before(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add what the set's failures.csv says of images that stay failed; journal them as failed."""
        failed = frame.filter(Action="failed")
        if not len(failed):
            return frame
        said = self._failures(failed.get_column("ImageID"))
        failed = failed.select(KEY, "ImageID", "Subset", "Source", "URL", "Reason", "Journalled").join(
            said, on=["ImageID", "URL"], how="left", nulls_equal=True, maintain_order="left"
        )
        known = pl.coalesce("Detail", pl.concat_str("Source", "Reason", separator=":"), "Reason")
        failed = failed.with_columns(Known=known)
        fresh = failed.filter(pl.col("Journalled").ne_missing("failed"))
        columns = ("ImageID", "Reason", "Known", "Source", "URL", "Attempts", "Subset")
        self._journal.append(
            Outcome(image_id, "failed", None, reason, detail, source, url, attempts=attempts or 0, subset=subset)
            for image_id, reason, detail, source, url, attempts, subset in fresh.select(columns).iter_rows()
        )
        found = failed.select(KEY, Said="Known", SaidSource="Source", SaidURL="URL")
        frame = frame.join(found, on=KEY, how="left", maintain_order="left")
        return frame.with_columns(Known="Said", KnownSource="SaidSource", KnownURL="SaidURL")

    def _failures(self, image_ids: pl.Series) -> pl.DataFrame:
        """Return ImageID, URL, Detail, Attempts of these images in the set's failures.csv, one row each."""
        schema = {"ImageID": pl.String, "URL": pl.String, "Detail": pl.String, "Attempts": pl.Int64}
        path = None if self._saved.folder is None else self._saved.folder / "failures.csv"
        if path is None or not has_plain(path):
            return pl.DataFrame(schema=schema)
        with reading(TableFile(path, str(path))):
            rows = pl.scan_csv(path, infer_schema=False, glob=False).filter(
                pl.col("ImageID").is_in(image_ids.implode())
            )
            rows = rows.select(pl.col(name).cast(dtype, strict=False) for name, dtype in schema.items())
            return rows.collect(engine="streaming").unique(["ImageID", "URL"], keep="first")

    def _with_remembered(self, frame: pl.DataFrame, last_forget: int) -> pl.DataFrame:
        """Mark what has failed for good in an earlier run of this repeat, at the same addresses."""
        failed = frame.filter(pl.col("Action") == "fetch", pl.col("Journalled") == "failed")
        mirror, rows = self._context.site.name, list[tuple[object, ...]]()
        respected = self._context.options.respect_opt_out
        columns = ("ImageID", "FileName", "Subset", "OriginalURL", *AGAIN)
        for key, line, detail, asked, *fields in failed.select(KEY, "line", "Detail", "Asked", *columns).iter_rows():
            target = again_target(0, None, fields)
            sources = target.sources or ()
            texts: dict[str, str] = {
                source: memory_text(target.url(source, mirror), target.expected(source)) for source in sources
            }
            known = still_failed(texts, detail, asked, is_cancelled=line <= last_forget, respect_opt_out=respected)
            if (end := remembered_end(known, sources)) is not None:
                reason, last = end
                rows.append((key, write_detail(known), reason, last, target.url(last, mirror)))
            elif known:
                rows.append((key, write_detail(known), None, None, None))
        if not rows:
            return frame
        names = ("OldKnown", "OldReason", "OldSource", "OldURL")
        old = pl.DataFrame(
            rows, schema=[(KEY, frame.schema[KEY]), *((name, pl.String) for name in names)], orient="row"
        )
        frame = frame.join(old, on=KEY, how="left", maintain_order="left")
        return frame.with_columns(
            Known=pl.coalesce("OldKnown", "Known"),
            KnownSource=pl.coalesce("OldSource", "KnownSource"),
            KnownURL=pl.coalesce("OldURL", "KnownURL"),
            Reason=pl.coalesce("OldReason", "Reason"),
            Action=pl.when(pl.col("OldReason").is_not_null()).then(pl.lit("failed")).otherwise("Action"),
        )

    def _write(self, frame: pl.DataFrame, path: Path) -> pl.DataFrame:
        """Write a span of the plan; return its counts."""
        columns = list(dict.fromkeys((*PLAN_COLUMNS, *AGAIN, *KEPT, *self._saved.manifest.roles)))
        frame.select(columns).write_parquet(path, row_group_size=_ROW_GROUP, compression="lz4", statistics=False)
        return _counted(frame)

    def _decision(self, counts: pl.DataFrame, first_line: int) -> RepeatDecision:
        context, report = self._context, self._context.report
        options, count = context.options, report.pending
        fetched = counts.filter(Action="fetch")
        unknown = int(fetched.get_column("unknown").sum())
        first = pl.col("Sources").str.split(",").list.first()
        sources = dict(fetched.group_by(first).agg(pl.sum("images")).sort("Sources").iter_rows())
        uncapped = count if options.rate is not None else sources.get("cvdf", 0)
        rate, period, capped = options.rate, options.period, count
        if rate is None:
            rate, period, capped = FLICKR_RATE, 1.0, count - uncapped
        known = int(fetched.get_column("bytes").sum())
        needs = [Need(options.folder, "images", known)]
        plan = Plan(
            selected=report.selected,
            present=report.present,
            to_download=count,
            requests=count,
            bytes=known + unknown * MEAN_IMAGE_BYTES,
            bytes_unknown=unknown,
            bytes_exact=not unknown,
            metadata_bytes=0,
            seconds=capped * period / rate if rate and capped else None,
            disk_free=free_bytes(options.folder),
            disk_needed=known,
            too_little_disk=shortage(needs, free_bytes),
            roles={SELECTED: report.selected - report.negatives, NEGATIVE: report.negatives},
            splits=self._saved.manifest.count("Subset"),
            classes={},
            sources=sources,
            annotations={},
        )
        return RepeatDecision(plan, uncapped, first_line, self._copies.copied)


_COUNTED = {
    **dict.fromkeys(("Action", "Reason", "Sources"), pl.String),
    **dict.fromkeys(("images", "bytes", "unknown"), pl.Int64),
}


def _counted(frame: pl.DataFrame) -> pl.DataFrame:
    size = pl.col("SavedBytes")
    counts = frame.group_by("Action", "Reason", "Sources").agg(
        images=pl.len(), bytes=size.sum(), unknown=size.null_count()
    )
    return counts.select(pl.col(name).cast(dtype) for name, dtype in _COUNTED.items())


def _images(wanted: pl.DataFrame) -> Iterator[WantedImage]:
    columns = ("ImageID", "Subset", "SavedName", "Source", "URL", "SavedBytes", "SavedMD5")
    journalled = pl.when("IsSaved").then("JournalName")
    return (WantedImage(*fields) for fields in wanted.select(*columns, journalled, "IsKnown").iter_rows())


def _batch_rows(wanted: pl.DataFrame) -> int:
    mean = wanted.select(pl.col("SavedBytes").mean().fill_null(0)).item()
    return max(1, min(_BATCH_IMAGES, int(_BATCH_BYTES / (mean + 1))))
