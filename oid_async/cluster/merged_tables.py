"""The tables of a finished place as files: what a run on one machine writes, made of records and part files.

Images are merged span by span, in order of their keys; an image's latest row holds. Rows of annotations come from the
part file by which the image was saved.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import polars as pl

from oid_async.cluster.committed import Committed, KeySpan
from oid_async.cluster.layout import MANIFEST
from oid_async.cluster.local_copies import LocalCopies
from oid_async.cluster.part_file import row_columns
from oid_async.cluster.published import PublishedQuery
from oid_async.cluster.record import reading_record
from oid_async.cluster.span_files import SpanFiles
from oid_async.dataset.packed_images import SHARD_SCHEMA
from oid_async.events import Sink, TableProgress
from oid_async.openimages.ids import KEY, within
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.store.annotation_table import IMAGE_FIELDS, AnnotationTable, label_data
from oid_async.store.image_tables import FAILURES, ImageTables
from oid_async.store.results import (
    LABEL_DATA,
    MANIFEST_SCHEMA,
    NEGATIVE,
    failures_of_attached,
    roles_in,
    write_manifest,
)

MASK_FAILURES = "segmentation/failures.csv"
# Absent where there is nothing to say; an earlier end of the same query may have had something.
OPTIONAL = (FAILURES, MASK_FAILURES)
_PART, _GENERATION = "__part", "__generation"


class MergedTables:
    """Writes the tables into `folder`, by their names in the place; `files` fetches the part files.

    `shards` are the keys of the parts' shards, by the parts' places. Afterwards `counts` has images by what became of
    them, `failures` and `sources` by kind and source, `rows` annotations by kind; for the card `packed` images in
    shards by split, `objects` boxes (or masks, without boxes) by split and class, `licenses` those of the saved images.
    """

    def __init__(
        self,
        query: PublishedQuery,
        committed: Committed,
        shards: Sequence[str | None],
        files: LocalCopies,
        folder: Path,
    ) -> None:
        self._query = query
        self._committed = committed
        self._shards = pl.Series("Shard", shards, dtype=pl.String)
        self._files = files
        self._folder = folder
        self._spans = folder / ".spans"
        self._tables = [_table(KINDS[name], values) for name, values in query.kinds.items()]  # type: ignore[index]
        self.counts = Counter[str]()
        self.failures = Counter[str]()
        self.sources = Counter[str]()
        self.rows = Counter[str]()
        self.packed = Counter[str]()
        self.objects = Counter[tuple[str, str]]()
        self.licenses: set[str | None] = set()

    def write(self, sink: Sink) -> None:
        """Write every table but the manifest, which `write_manifest` makes. Raises InputError, OSError."""
        self._spans.mkdir(parents=True)
        total = len(self._committed.keys)
        with ExitStack() as stack:
            images = stack.enter_context(ImageTables(self.file, self._query.max_side))
            files = {table.kind.name: stack.enter_context(self._opened(table)) for table in self._tables}
            parts = stack.enter_context(SpanFiles(self._files, needed=bool(self._tables)))
            writer = stack.enter_context(ThreadPoolExecutor(1))
            written: Future[None] | None = None
            done = 0
            for number, span in enumerate(parts.prefetched(self._committed.spans())):
                frame = self._latest(span)
                frame.select(KEY, *MANIFEST_SCHEMA, *roles_in(frame.columns), *SHARD_SCHEMA).write_parquet(
                    self._spans / f"{number:06}.parquet", compression="lz4", statistics=False
                )
                images.write(frame)
                self._count(frame)
                for table in self._tables:
                    rows = self._rows(table, frame, span, parts)
                    # The next table is read and sorted while this one is written.
                    if written is not None:
                        written.result()
                    written = writer.submit(table.write_rows, rows, files[table.kind.name])
                done += len(span.keys)
                sink(TableProgress("result tables", done, total, finished=done == total, unit="step"))
            if written is not None:
                written.result()
        self._write_failed_masks()

    def file(self, name: str) -> Path:
        """Return where a table is."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def written(self) -> list[tuple[str, Path]]:
        """Return names and places of all files but the manifest, in order."""
        files = (path for path in self._folder.rglob("*") if path.is_file() and path.parent != self._spans)
        return sorted((str(path.relative_to(self._folder)), path) for path in files)

    def write_manifest(self) -> Path:
        """Write the manifest and return where it is."""
        path = self.file(MANIFEST)
        write_manifest(sorted(self._spans.iterdir()), path, self._query.digest, SHARD_SCHEMA)
        return path

    def _opened(self, table: AnnotationTable) -> IO[bytes]:
        if table.kind.name == "bbox":
            values = self._query.kinds["bbox"]
            label_data(values["labels"], values["class_names"]).write_csv(self.file(LABEL_DATA))
        file = self.file(table.kind.file).open("wb")
        table.write_header(file)
        return file

    def _latest(self, span: KeySpan) -> pl.DataFrame:
        """Return the latest row of each image of a span, in order of KEY, with its shard and the place of its part."""
        rows = [
            pl.scan_parquet(part.path, glob=False)
            .filter(within(span.keys))
            .with_columns(
                pl.lit(part.place, pl.UInt32).alias(_PART), pl.lit(part.part.generation, pl.UInt32).alias(_GENERATION)
            )
            for part in span.parts
        ]
        frame = last_rows(pl.concat(self._read(span, rows)))
        if not frame.get_column(KEY).equals(span.keys):
            raise AssertionError("an image has no row in the records, or two")
        offset = pl.col("Offset")
        is_in_shard = pl.col("Status") == "ok"
        if self._query.format == "webdataset":
            is_in_shard &= offset.is_not_null()
        shard = self._shards.gather(frame.get_column(_PART))
        return frame.with_columns(pl.col(name).cast(dtype) for name, dtype in MANIFEST_SCHEMA.items()).with_columns(
            Shard=pl.when(is_in_shard).then(shard), ShardOffset=pl.when(is_in_shard).then(offset)
        )

    def _read(self, span: KeySpan, rows: Sequence[pl.LazyFrame]) -> list[pl.DataFrame]:
        """Read rows of the records of a span. Raises InputError that names a damaged one."""
        try:
            return pl.collect_all(rows)
        except pl.exceptions.PolarsError as error:
            for part in span.parts:
                with reading_record(f"{self._files.place}/{part.part.record_key}"):
                    pl.read_parquet(part.path, glob=False)
            raise AssertionError("records that can be read one by one cannot be read together") from error

    def _rows(self, table: AnnotationTable, frame: pl.DataFrame, span: KeySpan, parts: SpanFiles) -> pl.DataFrame:
        """Return the rows of one kind of the saved images of a span, complete, in order of image and row."""
        kind = table.kind.name
        saved = frame.filter(Status="ok")
        lists = []
        for part in span.parts:
            keys = saved.filter(pl.col(_PART) == part.place).get_column(KEY)
            if len(keys):
                scan = pl.scan_parquet(parts.file(part), glob=False)
                lists.append(scan.filter(pl.col(KEY).is_in(keys.implode())).select(KEY, kind))
        if not lists:
            return pl.DataFrame(schema=dict.fromkeys(table.columns, pl.String))
        nested = pl.concat(pl.collect_all(lists)).filter(pl.col(kind).list.len() > 0)
        expected = int(nested.get_column(kind).list.len().sum())
        renamed = [pl.col(name).alias(new) for name, new in table.renamed.items()]
        rows = nested.lazy().explode(kind).unnest(kind).select(KEY, *renamed).sort(KEY, maintain_order=True)
        complete = table.completed(rows, saved.lazy().select(KEY, *IMAGE_FIELDS)).collect()
        if len(complete) != expected:
            raise AssertionError(f"{len(complete)} of {expected} rows of {kind} would be written")
        self.rows[kind] += expected
        if kind == "bbox" or (kind == "segmentation" and "bbox" not in self._query.kinds):
            self._count_objects(complete, saved)
        return complete

    def _count_objects(self, rows: pl.DataFrame, saved: pl.DataFrame) -> None:
        split = saved.select("FileName", Split="Subset")
        of_images = rows.select("FileName", pl.coalesce("Category", "LabelName")).join(split, on="FileName")
        for subset, name, count in of_images.group_by("Split", "Category").len().iter_rows():
            self.objects[subset, name] += count

    def _count(self, frame: pl.DataFrame) -> None:
        for status, count in frame.group_by("Status").len().iter_rows():
            self.counts[status] += count
        for column, status, counter in (("Reason", "failed", self.failures), ("Source", "ok", self.sources)):
            for name, count in frame.filter(Status=status).group_by(column).len().iter_rows():
                if name is not None:
                    counter[name] += count
        self.counts["bytes"] += int(frame.filter(Status="ok").get_column("Bytes").sum())
        saved = frame.filter(Status="ok")
        self.licenses.update(saved.get_column("License").unique())
        for subset, count in saved.drop_nulls("Shard").group_by("Subset").len().iter_rows():
            self.packed[subset] += count
        if "Role" in frame.columns:
            self.counts[NEGATIVE] += int((frame.get_column("Role") == NEGATIVE).sum())

    def _write_failed_masks(self) -> None:
        failed = {row for part in self._committed.parts for row in part.record.failed_masks}
        if failed:
            rows = [(name, name[:16], reason, detail) for name, reason, detail in failed]
            failures_of_attached(rows, "MaskPath").write_csv(self.file(MASK_FAILURES))


def last_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the row of the latest generation of each image, in order of KEY.

    Its Attempts are those of its other sources, too: they were asked in the generations before, after which it was
    pending.
    """
    rows = rows.sort(KEY, _GENERATION)
    is_last = pl.col(KEY).ne_missing(pl.col(KEY).shift(-1))
    latest, earlier = rows.filter(is_last), rows.filter(~is_last)
    waited = earlier.filter(Status="pending").get_column(KEY).unique()
    if not len(waited):
        return latest
    # Of the images that have waited: how many rows that are not pending stand before one, as many as before the last?
    ended = (pl.col("Status") != "pending").cast(pl.UInt32)
    before = (ended.cum_sum() - ended).over(KEY)
    of_these = rows.lazy().select(KEY, "Status", "Attempts").filter(pl.col(KEY).is_in(waited.implode()))
    together = (
        of_these.filter(before == before.max().over(KEY)).group_by(KEY).agg(all_attempts=pl.col("Attempts").sum())
    )
    latest = latest.join(together.collect(), on=KEY, how="left", maintain_order="left")
    return latest.with_columns(Attempts=pl.coalesce("all_attempts", "Attempts")).drop("all_attempts")


def _table(kind: Kind, values: Mapping[str, Any]) -> AnnotationTable:
    return AnnotationTable(kind, row_columns(kind, values["columns"]), values["class_names"])
