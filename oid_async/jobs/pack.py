"""Images straight into shards: `download --format webdataset --no-files`. Millions of images are never so many files.

The plan is carried out a span at a time: its images are saved under images/ as ever, then they are packed, in order of
ImageID, and their files removed, while the next span is fetched. At most two spans are files at once (a span is 4,096
images, of large selections a 64th).
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.dataset.manifest import licenses_in
from oid_async.dataset.query_file import read_query_file
from oid_async.errors import machine_error, storage_error
from oid_async.events import Exported, Note
from oid_async.formats.dataset_card import CARD, WEBDATASET, CardFacts, changes, dataset_card
from oid_async.formats.hub_features import webdataset_features
from oid_async.formats.packing import Packing, sample_classes
from oid_async.formats.processes import Pool, process_pool
from oid_async.formats.webdataset import pack
from oid_async.jobs.attachments import Attachments
from oid_async.jobs.context import RunContext
from oid_async.jobs.export import ExportReport
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.store.folder import Folder
from oid_async.store.results import Results


class SpanPacker:
    """Makes the samples of one run, span by span, and puts them into its shards; `pool` shares the work on pictures."""

    def __init__(self, context: RunContext, tables: GatheredTables, pool: Pool | None) -> None:
        assert context.packed is not None
        self._context = context
        self._tables = tables
        self._packed = context.packed
        self._pool = pool
        self._saved = tables.saved_annotations(all_boxes=context.options.all_boxes)
        self._classes = sample_classes(self._saved)
        self._started = monotonic()
        self._not_packed = Counter[str]()

    @classmethod
    @contextmanager
    def opened(cls, context: RunContext, tables: GatheredTables) -> "Iterator[SpanPacker]":
        """Yield the packer of a run, with processes for its pictures where there may be many."""
        options = context.options
        count = 1 << 20 if tables.saves("segmentation") or options.max_side is not None else 0
        with process_pool(options.processes, count) as pool:
            yield cls(context, tables, pool)

    async def pack(self, plan: Path, first_line: int) -> None:
        """Pack what was saved of one span of the plan, and remove the files. Raises OidError.

        `first_line` is the number of the journal's first line of this run.
        """
        view = await in_thread(self._view, plan, first_line)
        if view is None:
            return
        try:
            if self._tables.saves("segmentation") and not self._context.options.offline:
                await Attachments(self._context, self._tables.ids).fetch_masks(view)
            await in_thread(self._pack, view)
            total = sum(self._packed.images.values())
            self._context.sink(Exported(total, total))
        finally:
            await in_thread(shutil.rmtree, view.path, True)

    def _view(self, plan: Path, first_line: int) -> Folder | None:
        """Return a folder with the tables of a span's images that are not packed yet, None if there is none."""
        rows = self._packed.unpacked(plan)
        if not len(rows):
            return None
        folder = self._context.folder
        view = Folder(folder.tmp / "span")
        shutil.rmtree(view.path, ignore_errors=True)
        view.tmp.mkdir(parents=True)
        view.images, view.journal = folder.images, folder.journal
        view.index, view.new_index = folder.index, folder.new_index
        part = view.tmp / "00000.parquet"
        rows.write_parquet(part)
        nothing = pl.DataFrame(schema={"File": pl.String, "Line": pl.Int64, "Reason": pl.String})
        results = Results(view, [part], self._tables.ids, first_line)
        results.write(self._saved, {}, nothing, ())
        return view

    def _pack(self, view: Folder) -> None:
        packed, options = self._packed, self._context.options
        try:
            with ExitStack() as files:
                packing = Packing(view, packed.out, options, self._classes, files, self._pool)
                export, source = packing.export, packing.source
                names = [name for span in packing.spans() for name, _ in pack(export, span, packed.shards)]
            packed.images.update(export.written.images)
            packed.rows.update(export.written.rows)
            if packed.objects is not None:
                packed.objects.update(export.written.objects)
            # An image that is left out stays a file, and is asked for in the next run: it is counted in each.
            of_images = {reason for reason in source.planned.left_out if _is_of_images(reason)}
            packed.left_out.update({k: n for k, n in source.planned.left_out.items() if k not in of_images})
            self._not_packed.update({k: n for k, n in source.planned.left_out.items() if k in of_images})
            for line in source.planned.left_out_lines():
                if line.startswith("left out: ") and " of image: " in line:
                    self._context.sink(Note(line))
            packed.add(names)
        except OSError as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, packed.out) from error

    async def finish(self) -> ExportReport:
        """Close the shards, and return and say what they hold."""
        packed = self._packed
        if not await in_thread(lambda: packed.finish(self._card())):
            self._context.note(f"{packed.out / CARD} is none that this download wrote: it stays as it is")
        report = ExportReport(
            format="webdataset",
            savepath=str(self._context.folder.path),
            out=str(packed.out),
            images=sum(packed.images.values()),
            splits=dict(sorted(packed.images.items())),
            annotations={kind: count for kind, count in packed.rows.items() if count},
            classes=len(self._classes.names),
            left_out=dict(packed.left_out + self._not_packed),
            seconds=monotonic() - self._started,
        )
        for reason, count in report.left_out.items():
            self._context.note(f"left out: {count} of {reason}")
        self._context.note(f"{report.images} images are packed in {report.out}; none of them is a file")
        return report

    def _card(self) -> str:
        """Return the card of the shards, of the tables that are written. Raises InputError."""
        packed, options, folder = self._packed, self._context.options, self._context.folder
        has_masks = self._tables.saves("segmentation")
        features = webdataset_features(
            self._classes.names,
            has_roles=options.negatives is not None,
            has_masks=has_masks and not options.no_masks,
        )
        facts = CardFacts(
            WEBDATASET,
            features,
            packed.images,
            packed.rows,
            packed.objects,
            licenses_in(folder.manifest),
            read_query_file(folder.path),
            changes(options, packed.left_out + self._not_packed),
        )
        return dataset_card(facts)


def _is_of_images(reason: str) -> bool:
    return reason.startswith("image: ") or reason.endswith(": image left out")
