"""What a run is going to take: images, bytes, requests, disk and time, as `plan` says it. Blocking."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.jobs.planning.bucket import Missing
from oid_async.jobs.planning.disk_room import needs_of, shortage
from oid_async.jobs.planning.earlier_runs import earlier_run, host_group
from oid_async.jobs.planning.selection import SelectionResult, count_by_class
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES, trace_keys
from oid_async.openimages.kinds import KindName
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.options.defaults import FLICKR_RATE
from oid_async.quick_values import frozen
from oid_async.report import Plan
from oid_async.select.plan import Summary
from oid_async.store.results import NEGATIVE, SELECTED
from oid_async.store.written_files import MASKS
from oid_async.tables.reading import reading
from oid_async.tables.rows import RowSource, rows_of

if TYPE_CHECKING:
    from oid_async.masks.estimate import MaskEstimate


@frozen
class Forecast:
    """Says what one run takes, of what was selected and planned.

    `free_bytes` measures the disk of a folder; `missing` are the images that the bucket lacks, None if nobody knows.
    """

    context: RunContext
    tables: GatheredTables
    sources: tuple[Source, ...]
    free_bytes: Callable[[Path], int]
    missing: Missing | None = None

    def plan(self, selected: SelectionResult, summary: Summary) -> Plan:
        """Return the plan. Reads the tables of annotations for what they say of the selected images."""
        context, options, selection = self.context, self.context.options, selected.selection
        selection_size = len(selection.keys) + selection.waiting
        negatives = 0 if selection.negatives is None else len(selection.negatives.keys)
        count = summary.to_fetch + selection.waiting
        unknown = count - summary.sizes_known
        masks, narratives = self._masks(selection.keys), self._narratives(selected)
        images = summary.known_bytes + unknown * MEAN_IMAGE_BYTES + (self.missing.more_bytes if self.missing else 0)
        attached = {"masks": masks.known_disk_bytes if masks else 0, "narratives": narratives.get("bytes", 0)}
        needs = needs_of(options, images=summary.known_bytes, present=summary.present_bytes, **attached)
        problem = shortage(needs, self.free_bytes)
        if problem is None and context.site.name is None:
            # A mirror may hold anything: only facts count there.
            likely = needs_of(options, images=images, present=summary.present_bytes, **attached)
            problem = shortage(likely, self.free_bytes, about=True)
        return Plan(
            selected=selection_size,
            present=summary.present,
            to_download=count,
            requests=count + (self.missing.more_requests if self.missing else 0),
            not_in_bucket=self.missing.count if self.missing else None,
            not_in_bucket_by=self.missing.basis if self.missing else None,
            bytes=images,
            bytes_unknown=unknown,
            bytes_exact=not unknown,
            metadata_bytes=context.cache.fetched_bytes,
            seconds=self._least_seconds(count, summary),
            **self._like_before(count, unknown, summary),
            disk_free=self.free_bytes(context.folder.path),
            disk_needed=sum(need.bytes for need in needs),
            too_little_disk=problem,
            splits=selection.splits,
            classes=count_by_class(self.tables, selected, options.all_boxes),
            roles={SELECTED: selection_size - negatives, NEGATIVE: negatives},
            candidates=selection.candidates,
            sources={self.sources[0]: count},
            annotations=selected.annotations,
            masks=masks.as_json() if masks else {},
            narratives=narratives,
            unknown_ids=len(selected.unknown_ids),
            shard=options.shard,
            parts=self._parts(images, sum(map(bool, selection.splits.values())), summary)
            if options.is_distributed
            else {},
        )

    def _parts(self, images: int, splits: int, summary: Summary) -> dict[str, Any]:
        """Return about how many parts so many bytes make, where they go, whether a rate cap holds for all of them."""
        options, all_capped = self.context.options, bool(summary.to_fetch) and summary.on_flickr == summary.to_fetch
        capped = bool(options.rate) or (options.rate is None and all_capped)
        count = max(splits, -(-images // options.part_size)) if summary.to_fetch else 0
        return {"count": count, "place": str(options.savepath), "capped": capped}

    def group(self, summary: Summary) -> str | None:
        """Return the name of the hosts that most images come from."""
        return host_group(self.context.site.name, self.sources[0], summary.to_fetch, summary.on_flickr)

    def _like_before(self, count: int, unknown: int, summary: Summary) -> dict[str, Any]:
        """Return what an earlier run of this user's tells of the time, nothing if there was none."""
        context, options = self.context, self.context.options
        run = earlier_run(context.cache.cache.root, self.group(summary), options)
        if run is None or not summary.to_fetch:
            return {}
        seconds = summary.known_bytes / run.bytes_per_s + unknown / run.images_per_s
        slowed = 0.0
        if options.limit_rate:
            slowed = (summary.known_bytes + unknown * MEAN_IMAGE_BYTES) / options.limit_rate
        least = self._least_seconds(count, summary) or 0.0
        return {"seconds_estimated": round(max(seconds, slowed, least), 1), "earlier_run": asdict(run)}

    def _least_seconds(self, count: int, summary: Summary) -> float | None:
        """Return the seconds that a rate cap makes of it at least, None if nothing is capped."""
        options = self.context.options
        if options.rate is not None:
            return count * options.period / options.rate if options.rate else None
        then = self.missing.seconds if self.missing else None
        return summary.on_flickr / FLICKR_RATE + (then or 0.0) if summary.on_flickr or then else None

    def _masks(self, keys: pl.Series) -> "MaskEstimate | None":
        """Return what the masks of these images take, None if none are saved."""
        source = self._saved("segmentation")
        if source is None:
            return None
        from oid_async.masks.estimate import estimate_masks

        options, tables = self.context.options, self.tables
        labels = tables.saved_labels(source, all_boxes=options.all_boxes)
        splits = options.splits or tables.looked_in
        frames = [
            (table.split or split, rows_of(source, table, tables.ids, keys, labels=labels))
            for split, table in zip(splits, source.tables, strict=False)
        ]
        cache = self.context.cache.cache.objects
        with reading(source.tables[0]):
            return estimate_masks(frames, cache, self.context.folder.path / MASKS)

    def _narratives(self, selected: SelectionResult) -> dict[str, Any]:
        """Return what the narratives of the selected images take, nothing if none are saved."""
        source, options = self._saved("narrative"), self.context.options
        if source is None:
            return {}
        size = 0
        for table in source.tables:
            rows = rows_of(source, table, self.tables.ids, selected.selection.keys, labels=None)
            with reading(table):
                size += rows.select((pl.col("line").str.len_bytes() + 1).sum()).collect(engine="streaming").item()
        count = selected.annotations.get("narrative", 0)
        found: dict[str, Any] = {"count": count, "bytes": size}
        if options.traces:
            # Published sizes: a mirror may hold other files.
            files = [size for split in self.tables.looked_in or SPLITS for _, size in trace_keys(split)]
            known = [size for size in files if size is not None and self.context.site.name is None]
            traces = {"files": len(files), "files_unknown": len(files) - len(known), "bytes": sum(known)}
            found |= {"traces": traces}
        if options.voice:
            found |= {"recordings": count}
        return found

    def _saved(self, kind: KindName) -> RowSource | None:
        return next((source for source in self.tables.saved if source.kind.name == kind), None)
