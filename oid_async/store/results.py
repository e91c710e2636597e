"""The result tables of a finished run, for people and trainers, written span by span from plan and journal.

Every table is written to a temporary and renamed, so that a name at the top of SAVEPATH is always a complete table of
one query. Rows are in order of ImageID; one span of images is held in memory.
"""

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from oid_async.errors import machine_error, storage_error
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import HIERARCHY_FILES, KINDS, hierarchy_file
from oid_async.quick_values import frozen
from oid_async.store.annotation_rows import AnnotationRows, SavedAnnotations
from oid_async.store.annotation_table import IMAGE_FIELDS, AnnotationTable, label_data
from oid_async.store.atomic import rename_all, replacing
from oid_async.store.disk import sync_folder
from oid_async.store.folder import Folder
from oid_async.store.image_tables import ImageTables
from oid_async.store.journal_index import JournalIndex
from oid_async.store.kept_files import keep_inputs, own_lists
from oid_async.store.written_files import record_of_tables, stage_record
from oid_async.tables.reading import reading

MANIFEST_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("ImageID", "Subset", "FileName", "Status", "Reason", "Source", "URL"), pl.String),
    "Bytes": pl.Int64,
    "MD5": pl.String,
    "Width": pl.Int32,
    "Height": pl.Int32,
    "Rotation": pl.Float64,
    **dict.fromkeys(("License", "Author", "AuthorProfileURL", "Title", "OriginalURL", "OriginalLandingURL"), pl.String),
}
Schema = dict[str, pl.DataType | type[pl.DataType]]
# The last columns of the manifest of a query with --negatives. Without them every image is `selected`.
ROLE_SCHEMA: Schema = {"Role": pl.String, "VerifiedAbsent": pl.List(pl.String)}
SELECTED, NEGATIVE = "selected", "negative"
_ROW_GROUP = 4096
_SPAN_IMAGES = 1 << 13
_WRITTEN_ROWS = 1 << 14
_MANIFEST = "manifest.parquet"
LABEL_DATA = "bbox/label_data.csv"
# The key under which the manifest holds the digest of its query, in the metadata of the Parquet file.
_DIGEST = "oid_async.query_digest"
# What a plan that was made from a manifest says of its rows in addition: `WasOk`, and for an image that is not there
# the rest, so that it can be asked for again as it was.
KEPT = ("WasOk", "SavedName", "SavedSource", "SavedURL", "SavedBytes", "SavedMD5")
_OPTIONAL = (
    *("failures.csv", "bad_rows.csv", "unknown_ids.txt", LABEL_DATA),
    *(kind.file for kind in KINDS.values()),
    *HIERARCHY_FILES,
)


class TableCopies(Protocol):
    """Tables of a folder that are copied into another one, by their names in SAVEPATH."""

    @property
    def names(self) -> Sequence[str]:
        """The tables that there are."""
        ...

    def write(self, name: str, path: Path, parts: Sequence[Path]) -> None:
        """Write the rows of the saved images, which are in these parts of a manifest. Raises OSError, PolarsError."""


@frozen
class Results:
    """Writes the result tables of one run from its plan's files. Blocking: run it in a thread.

    `first_line` is the number of the journal's first line of this run: an image to fetch whose last line is before that
    is pending. `side` is the longest side, in pixels, that images were made smaller to for their shards.
    """

    folder: Folder
    plan: Sequence[Path]
    ids: IdForm
    first_line: int
    side: int | None = None

    def write(
        self,
        annotations: Sequence[SavedAnnotations],
        query: dict[str, Any],
        bad_rows: pl.DataFrame,
        unknown_ids: Iterable[str],
        hierarchy: bytes | None = None,
    ) -> None:
        """Write every table, then rename all of them to their names. Raises StorageError or InputError.

        A kind that is not among `annotations` has no table; `bad_rows` has File, Line, Reason; `unknown_ids` are the
        lines of an id list that name no image; `hierarchy` is that of the classes, as it is published. Tables without a
        query, of a part of a run, have no record of files.
        """
        with self._published(query) as (stage, images):
            self._write_kinds(annotations, images, stage)
            name = hierarchy_file([saved.source.kind.name for saved in annotations])
            if hierarchy is not None and name is not None:
                stage.file(name).write_bytes(hierarchy)
            if len(bad_rows):
                bad_rows.write_csv(stage.file("bad_rows.csv"))
            if lines := list(unknown_ids):
                stage.file("unknown_ids.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.rmtree(self.folder.rows, ignore_errors=True)

    def write_copies(self, copies: "TableCopies", query: dict[str, Any]) -> None:
        """Write the tables with one row an image; the others are copies. Raises StorageError or InputError."""
        with self._published(query) as (stage, images):
            for name in copies.names:
                copies.write(name, stage.file(name), images)

    @contextmanager
    def _published(self, query: dict[str, Any]) -> "Iterator[tuple[_Stage, list[Path]]]":
        """Write the tables with one row an image, in the block the others, then give all of them their names."""
        stage = _Stage(self.folder)
        try:
            images = self._write_images(stage)
            write_manifest(images, stage.file(_MANIFEST), query.get("digest"))
            yield stage, images
            stage.file("query.json").write_text(query_text(query), encoding="utf-8")
            if query:
                keep_inputs(self.folder, query_text(query), query)
            stage.publish(own_lists(self.folder, query) if query else None)
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, self.folder.path) from error

    def write_images(self) -> list[Path]:
        """Write the tables with one row an image under their names, for a reader alone; return parts of the manifest.

        For `write_annotations`, by which the others follow if somebody asks for them. Raises OSError, PolarsError.
        """
        tables = _InPlace(self.folder)
        parts = self._write_images(tables)
        write_manifest(parts, tables.file(_MANIFEST), None)
        return parts

    def outcomes(self) -> pl.DataFrame:
        """Return what became of all images: the plan's columns but FileName, the manifest's, Detail and Attempts."""
        index = JournalIndex(self.folder.journal, self.ids, self.folder.index, self.folder.new_index)
        return pl.concat(self._span(plan, index) for plan in self.plan)

    def write_annotations(self, annotations: Sequence[SavedAnnotations], parts: Sequence[Path]) -> None:
        """Write the tables of annotations of the images in these parts of a manifest; see `write_images`."""
        self._write_kinds(annotations, parts, _InPlace(self.folder))

    def _write_kinds(
        self, annotations: Sequence[SavedAnnotations], parts: Sequence[Path], stage: "_Stage | _InPlace"
    ) -> None:
        for saved in annotations:
            self._write_annotations(saved, parts, stage.file(saved.source.kind.file))
            if saved.source.kind.name == "bbox":
                label_data(saved.labels, saved.source.class_names).write_csv(stage.file(LABEL_DATA))

    def _write_images(self, stage: "_Stage | _InPlace") -> list[Path]:
        """Join plan and journal span by span into parts of the manifest; write the tables with one row an image."""
        index = JournalIndex(self.folder.journal, self.ids, self.folder.index, self.folder.new_index)
        parts: list[Path] = []
        with ImageTables(stage.file, self.side) as tables:
            for number, plan in enumerate(self.plan):
                frame = self._span(plan, index)
                part = self.folder.tmp / f"manifest-{number:05}.parquet"
                frame.select(KEY, *MANIFEST_SCHEMA, *roles_in(frame.columns)).write_parquet(
                    part, compression="lz4", statistics=False
                )
                parts.append(part)
                tables.write(frame)
                # One span is held at a time: this one is not while the next is read.
                del frame
        return parts

    def _span(self, plan: Path, index: JournalIndex) -> pl.DataFrame:
        """Return one span of the manifest, with the columns of the failure table in addition to its own."""
        frame = pl.read_parquet(plan, glob=False).rename({"FileName": "Planned", "Reason": "Remembered"})
        latest = index.latest(frame.get_column(KEY)).drop("ImageID", "Subset", "Asked")
        frame = frame.join(latest, on=KEY, how="left", maintain_order="left")
        # What the plan says is there, or fails, was so before this run; of anything else only this run's lines count.
        is_known = (pl.col("Action") != "fetch") | (pl.col("line") >= self.first_line).fill_null(False)
        journalled = [pl.when(is_known).then(name).alias(name) for name in latest.columns if name != KEY]
        frame = frame.with_columns(journalled).with_columns(pl.col("Status").fill_null("pending"))
        ok = pl.col("Status") == "ok"
        # An image that was not asked again: what is remembered of this run's addresses, not of all that ever failed.
        is_remembered = (pl.col("Action") == "failed") & pl.col("KnownSource").is_not_null()
        frame = frame.with_columns(
            URL=pl.when(is_remembered).then("KnownURL").when(pl.col("URL") != "-").then("URL"),
            Source=pl.when(is_remembered).then("KnownSource").otherwise("Source"),
            Detail=pl.when(is_remembered).then("Known").otherwise("Detail"),
        )
        frame = frame.with_columns(
            # A file that was found: earlier versions wrote down a source that it may never have come from.
            Source=pl.when(~ok | pl.col("URL").is_not_null()).then("Source"),
            FileName=pl.when(ok).then("FileName"),
            Reason=pl.when(~ok).then(pl.coalesce("Remembered", "Reason")),
            Rotation=pl.col("Rotation").cast(pl.Float64, strict=False).fill_nan(None),
        )
        if KEPT[0] in frame.columns:
            kept = {"FileName": "SavedName"} | {name: f"Saved{name}" for name in ("Source", "URL", "Bytes", "MD5")}
            frame = frame.with_columns(
                pl.when(ok).then(name).otherwise(pl.coalesce(name, saved)).alias(name) for name, saved in kept.items()
            )
        return frame.with_columns(pl.col(name).cast(dtype) for name, dtype in MANIFEST_SCHEMA.items())

    def _write_annotations(self, saved: SavedAnnotations, parts: Sequence[Path], path: Path) -> None:
        """Write the table of one kind, see `AnnotationTable`: of saved images, in order of ImageID and row."""
        rows = AnnotationRows(saved, self.ids, lambda: _saved_keys(parts), self.folder.tmp)
        annotations = AnnotationTable(saved.source.kind, rows.columns, saved.source.class_names)
        with path.open("wb") as file:
            annotations.write_header(file)
            # The next span is read and sorted while one is written: of two processors neither waits.
            with ThreadPoolExecutor(1) as writer:
                written: Future[None] | None = None
                for span in _spans(parts):
                    for complete in self._completed(rows, span, annotations):
                        if written is not None:
                            written.result()
                        written = writer.submit(annotations.write_rows, complete, file)
                if written is not None:
                    written.result()

    def _completed(
        self, rows: AnnotationRows, span: pl.DataFrame, annotations: AnnotationTable
    ) -> Iterator[pl.DataFrame]:
        """Yield the complete rows of a span of images, in order, some thousand at a time: they take twice the memory.

        At its end nothing of a span is held, so that the next one takes its memory.
        """
        saved_images = span.filter(Status="ok").drop("Status")
        with reading(rows.read_from, into=self.folder.path):
            found = rows.of(span.get_column(KEY), saved_images.get_column(KEY), annotations.renamed)
            ordered = found.collect(engine="streaming")
        for some in ordered.iter_slices(_WRITTEN_ROWS):
            yield annotations.completed(some.lazy(), saved_images.lazy()).collect()


class _Stage:
    """The new tables of one SAVEPATH, under temporary names until all of them are written."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._names: dict[Path, Path] = {}

    def file(self, name: str) -> Path:
        """Return the temporary path of a table."""
        part, path = self._folder.tmp / "results" / name, self._folder.path / name
        part.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        self._names[part] = path
        return part

    def publish(self, lists: Mapping[str, Path] | None) -> None:
        """Rename the tables and sync their folders, which are few; remove tables that only an earlier query had.

        The manifest comes last, and query.json, which says `unfinished` until then: as long as another query's manifest
        is there, or none, a reader knows that this is not done. The record of files comes with them.
        """
        last = [self._folder.manifest, self._folder.path / "query.json"]
        if lists is not None:
            tables = {path.relative_to(self._folder.path).as_posix(): part for part, path in self._names.items()}
            tables |= lists
            for part, name in stage_record(self._folder.tmp, record_of_tables(self._folder, tables)).items():
                self._names[part] = self._folder.path / name
                last.append(self._names[part])
        names = set(self._names.values())
        rename_all({part: path for part, path in self._names.items() if path not in last})
        for name in _OPTIONAL:
            if (path := self._folder.path / name) not in names:
                path.unlink(missing_ok=True)
        for parent in {name.parent for name in names} | {self._folder.images}:
            sync_folder(parent)
        rename_all({part: path for part, path in self._names.items() if path in last})
        sync_folder(self._folder.path)
        for kind in KINDS.values():
            with suppress(OSError):
                (self._folder.path / kind.folder).rmdir()


class _InPlace:
    """Tables of a folder that nobody reads before they are whole: each is written under its name."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def file(self, name: str) -> Path:
        """Return the path of a table."""
        path = self._folder.path / name
        path.parent.mkdir(exist_ok=True)
        return path


def query_text(query: Mapping[str, Any]) -> str:
    """Return the text of query.json."""
    return json.dumps(query, indent=2, ensure_ascii=False) + "\n"


def write_manifest(
    parts: Sequence[Path], path: Path, digest: str | None, more: Mapping[str, type[pl.DataType]] | None = None
) -> None:
    """Write the parts of a manifest as one file, which holds the digest of its query. `more` columns come last."""
    metadata = {_DIGEST: digest} if digest is not None else None
    more = more or {}
    if not parts:
        pl.DataFrame(schema={**MANIFEST_SCHEMA, **more}).write_parquet(path, metadata=metadata)
        return
    frame = pl.scan_parquet(list(parts), glob=False)
    frame = frame.select(*MANIFEST_SCHEMA, *roles_in(frame.collect_schema()), *more)
    frame.sink_parquet(path, row_group_size=_ROW_GROUP, maintain_order=True, metadata=metadata)


def roles_in(columns: Collection[str]) -> list[str]:
    """Return which columns of ROLE_SCHEMA are there: the plan of an earlier version, or without negatives, has none."""
    return [name for name in ROLE_SCHEMA if name in columns]


def manifest_digest(path: Path) -> str | None:
    """Return the digest of the query that a manifest is of; None in one of version 0.1.0. Raises as Polars does."""
    return pl.read_parquet_metadata(path).get(_DIGEST)


def _saved_keys(parts: Sequence[Path]) -> pl.Series:
    return pl.scan_parquet(list(parts), glob=False).filter(Status="ok").select(KEY).collect().to_series()


def _spans(parts: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """Yield the images of a manifest's parts, some thousand at a time: each brings some ten rows to be sorted."""
    for part in parts:
        images = pl.read_parquet(part, columns=[KEY, "Status", *IMAGE_FIELDS], glob=False)
        yield from images.iter_slices(_SPAN_IMAGES)


def write_failures(path: Path, rows: Sequence[tuple[str, str, str, str]], *, column: str, scratch: Path) -> None:
    """Write the rows, sorted, as `column`, ImageID, Reason, Detail; without any remove the file. Raises OSError.

    `scratch` is a folder for temporaries on the same file system.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path, part=scratch / f"{path.parent.name}-failures.csv", durable=True) as part:
        failures_of_attached(rows, column).write_csv(part)


def failures_of_attached(rows: Sequence[tuple[str, str, str, str]], column: str) -> pl.DataFrame:
    """Return the rows, sorted, as `column`, ImageID, Reason, Detail: the failures of masks or recordings."""
    names = (column, "ImageID", "Reason", "Detail")
    return pl.DataFrame(sorted(rows), schema=dict.fromkeys(names, pl.String), orient="row")
