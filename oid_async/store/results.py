"""The result tables: what a finished run leaves for people and trainers, written span by span from plan and journal.

Every table is written to a temporary and renamed, so that a name at the top of SAVEPATH is always a whole table of one
query. Rows stand in order of ImageID; a span of images is what is held in memory.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

from oid_async.errors import machine_error, storage_error
from oid_async.openimages.boxes import rows_of
from oid_async.openimages.ids import KEY, ROW, IdForm, within
from oid_async.openimages.tables import TableFile, columns_of, reading
from oid_async.store.disk import sync_file, sync_folder
from oid_async.store.folder import Folder
from oid_async.store.lines import Lines

MANIFEST_SCHEMA = {
    "ImageID": pl.String,
    "Subset": pl.String,
    "FileName": pl.String,
    "Status": pl.String,
    "Reason": pl.String,
    "Source": pl.String,
    "URL": pl.String,
    "Bytes": pl.Int64,
    "MD5": pl.String,
    "Width": pl.Int32,
    "Height": pl.Int32,
    "Rotation": pl.Float64,
    "License": pl.String,
    "Author": pl.String,
    "AuthorProfileURL": pl.String,
    "Title": pl.String,
    "OriginalURL": pl.String,
    "OriginalLandingURL": pl.String,
}
ATTRIBUTION_COLUMNS = ("ImageID", "FileName", "Author", "AuthorProfileURL", "License", "Title", "OriginalLandingURL")
FAILURE_COLUMNS = ("ImageID", "URL", "Reason", "Detail", "Attempts")
JOINED_COLUMNS = ("Category", "FileName", "OriginalURL", "Width", "Height")
_ROW_GROUP = 4096
_TABLE = "__table"
_NOT_ALWAYS = ("failures.csv", "bad_rows.csv", "unknown_ids.txt", "bbox/bbox.csv", "bbox/label_data.csv")


@dataclass(frozen=True, slots=True)
class Boxes:
    """Where the boxes come from, which of them are saved, and the class_name of each label.

    `labels` is None for all; `flags` says what a box must be by column.
    """

    tables: Sequence[TableFile]
    labels: tuple[str, ...] | None
    flags: Mapping[str, bool]
    class_names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Results:
    """Writes the result tables of one run from its plan's files. Blocking: run it in a thread."""

    folder: Folder
    plan: Sequence[Path]
    ids: IdForm
    source_url: Callable[[str, str | None, str], str | None]

    def write(
        self,
        boxes: Boxes | None,
        query: dict[str, Any],
        bad_rows: pl.DataFrame,
        unknown_ids: Iterable[str],
    ) -> None:
        """Write every table, then give all of them their names. Raises StorageError or InputError.

        Without boxes there are no tables of them; `bad_rows` has File, Line, Reason; `unknown_ids` are the lines of an
        id list that name no image.
        """
        made: list[Path] = []
        try:
            images = self._images(made)
            self._manifest(images, made)
            if boxes is not None:
                self._boxes(boxes, images, made)
                self._labels(boxes, made)
            self._bad_rows(bad_rows, made)
            self._unknown_ids(unknown_ids, made)
            self._query(query, made)
            self._give_names(made)
            self._drop_stale(made)
        except (OSError, pl.exceptions.PolarsError) as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, self.folder.path) from error

    @property
    def _stage(self) -> Path:
        return self.folder.tmp / "results"

    def _new(self, name: str, made: list[Path]) -> Path:
        path = self._stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.folder.path / name).parent.mkdir(exist_ok=True)
        made.append(path)
        return path

    def _images(self, made: list[Path]) -> list[Path]:
        """Join plan and journal span by span into parts of the manifest; write what is one row an image on the way."""
        lines = Lines(self.folder.journal, self.ids, self.folder.lines, self.folder.new_lines)
        parts: list[Path] = []
        with ExitStack() as files:
            attribution = files.enter_context(self._new("ATTRIBUTION.csv", made).open("wb"))
            failures: IO[bytes] | None = None
            pl.DataFrame(schema=dict.fromkeys(ATTRIBUTION_COLUMNS, pl.String)).write_csv(attribution)
            for number, plan in enumerate(self.plan):
                frame = self._span(plan, lines)
                part = self.folder.tmp / f"manifest-{number:05}.parquet"
                frame.select(KEY, *MANIFEST_SCHEMA).write_parquet(part, compression="lz4", statistics=False)
                parts.append(part)
                saved = frame.filter(Status="ok").select(ATTRIBUTION_COLUMNS)
                saved.write_csv(attribution, include_header=False)
                failed = frame.filter(Status="failed").select(FAILURE_COLUMNS)
                if len(failed):
                    first = failures is None
                    if failures is None:
                        failures = files.enter_context(self._new("failures.csv", made).open("wb"))
                    failed.write_csv(failures, include_header=first)
        return parts

    def _span(self, plan: Path, lines: Lines) -> pl.DataFrame:
        """Return one span of the manifest, with the columns of the failure table beside its own."""
        frame = pl.read_parquet(plan).rename({"FileName": "Planned", "Reason": "Remembered"})
        latest = lines.latest(frame.get_column(KEY)).drop("ImageID")
        frame = frame.join(latest, on=KEY, how="left", maintain_order="left")
        ok = pl.col("Status") == "ok"
        frame = frame.with_columns(URL=pl.when(pl.col("URL") != "-").then("URL"))
        adopted = frame.select(ok & pl.col("URL").is_null()).to_series()
        if adopted.any():
            frame = frame.with_columns(URL=self._urls(frame, adopted))
        return frame.with_columns(
            FileName=pl.when(ok).then("FileName"),
            Reason=pl.when(~ok).then(pl.coalesce("Remembered", "Reason")),
            Rotation=pl.col("Rotation").cast(pl.Float64, strict=False).fill_nan(None),
        ).with_columns(pl.col(name).cast(dtype) for name, dtype in MANIFEST_SCHEMA.items())

    def _urls(self, frame: pl.DataFrame, adopted: pl.Series) -> pl.Series:
        """Fill in where adopted files come from: nobody asked for them in this folder's memory."""
        rows = zip(*(frame.get_column(name) for name in ("ImageID", "Subset", "Source", "OriginalURL")), strict=True)
        urls = [
            (self.source_url(image_id, subset, source) or original) if is_adopted else url
            for (image_id, subset, source, original), is_adopted, url in zip(
                rows, adopted, frame.get_column("URL"), strict=True
            )
        ]
        return pl.Series("URL", urls, pl.String)

    def _manifest(self, parts: Sequence[Path], made: list[Path]) -> None:
        path = self._new("manifest.parquet", made)
        if not parts:
            pl.DataFrame(schema=MANIFEST_SCHEMA).write_parquet(path)
            return
        frame = pl.scan_parquet(list(parts)).select(list(MANIFEST_SCHEMA))
        frame.sink_parquet(path, row_group_size=_ROW_GROUP, maintain_order=True)

    def _boxes(self, boxes: Boxes, parts: Sequence[Path], made: list[Path]) -> None:
        """Write bbox/bbox.csv: the published columns as published, then JOINED_COLUMNS; saved images only."""
        with (self._new("bbox/bbox.csv", made)).open("wb") as file:
            published = list(dict.fromkeys(name for table in boxes.tables for name in columns_of(table)))
            # A table of a user's own may have columns of these names already; ours keep the name, theirs are marked.
            renamed = dict(zip(published, _renamed(published), strict=True))
            header = pl.DataFrame(schema=dict.fromkeys([*renamed.values(), *JOINED_COLUMNS], pl.String))
            header.write_csv(file)
            if not parts:
                return
            tables = [self._box_rows(number, boxes, parts, renamed) for number in range(len(boxes.tables))]
            read_from = TableFile(self.folder.path, ", ".join(table.name for table in boxes.tables))
            # The next span is read and sorted while one is written: of two processors neither waits.
            with ThreadPoolExecutor(1) as beside:
                written: Future[None] | None = None
                for part in parts:
                    with reading(read_from, into=self.folder.path):
                        joined = self._join_boxes(tables, part, boxes.class_names, header.columns)
                    if written is not None:
                        written.result()
                    written = beside.submit(joined.write_csv, file, include_header=False)
                if written is not None:
                    written.result()

    def _box_rows(self, number: int, boxes: Boxes, parts: Sequence[Path], renamed: dict[str, str]) -> pl.LazyFrame:
        """Return the box rows of one table that may be wanted: KEY, ROW and the columns under their new names.

        The cache's own form is read where it lies: a class stands in order of its keys, so that the statistics of its
        row groups find a span of images. Any other table's rows of the saved images are copied first, as they come.
        """
        table = boxes.tables[number]
        there = columns_of(table)
        # The same columns in the same order from every table, whatever order each one has them in.
        columns = [
            (pl.col(name) if name in there else pl.lit(None, pl.String)).alias(new) for name, new in renamed.items()
        ]
        with reading(table, into=self.folder.path):
            if table.columns is not None:
                return rows_of(table, self.ids, None, labels=boxes.labels, flags=boxes.flags).select(KEY, ROW, *columns)
            saved = pl.scan_parquet(list(parts)).filter(Status="ok").select(KEY).collect().to_series()
            rows = rows_of(table, self.ids, saved, labels=boxes.labels, flags=boxes.flags).select(KEY, ROW, *columns)
            copy = self.folder.tmp / f"boxes-{number}.parquet"
            rows.sink_parquet(copy, row_group_size=_ROW_GROUP, compression="lz4", maintain_order=False)
            return pl.scan_parquet(copy)

    def _join_boxes(
        self, tables: Sequence[pl.LazyFrame], part: Path, class_names: dict[str, str], columns: list[str]
    ) -> pl.DataFrame:
        images = pl.read_parquet(part, columns=[KEY, "Status", "FileName", "OriginalURL", "Width", "Height"])
        saved = images.filter(Status="ok")
        is_wanted = within(images.get_column(KEY)) & pl.col(KEY).is_in(saved.get_column(KEY).implode())
        return (
            pl.concat(rows.filter(is_wanted).with_columns(pl.lit(at).alias(_TABLE)) for at, rows in enumerate(tables))
            .sort(KEY, _TABLE, ROW)
            .join(saved.lazy(), on=KEY, how="inner", maintain_order="left")
            .with_columns(Category=pl.col("LabelName").replace(class_names))
            .select(columns)
            .collect(engine="streaming")
        )

    def _labels(self, boxes: Boxes, made: list[Path]) -> None:
        labels = boxes.labels if boxes.labels is not None else tuple(boxes.class_names)
        frame = pl.DataFrame(
            {"LabelName": labels, "Category": [boxes.class_names.get(label, label) for label in labels]},
            schema={"LabelName": pl.String, "Category": pl.String},
        )
        frame.write_csv(self._new("bbox/label_data.csv", made))

    def _bad_rows(self, bad_rows: pl.DataFrame, made: list[Path]) -> None:
        if len(bad_rows):
            bad_rows.write_csv(self._new("bad_rows.csv", made))

    def _unknown_ids(self, unknown_ids: Iterable[str], made: list[Path]) -> None:
        lines = list(unknown_ids)
        if lines:
            self._new("unknown_ids.txt", made).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _query(self, query: dict[str, Any], made: list[Path]) -> None:
        text = json.dumps(query, indent=2, ensure_ascii=False)
        self._new("query.json", made).write_text(text + "\n", encoding="utf-8")

    def _give_names(self, made: Sequence[Path]) -> None:
        """Rename the tables, each once its bytes are on the disk, then have the names there too: they are few."""
        for path in made:
            sync_file(path)
        final = [self.folder.path / path.relative_to(self._stage) for path in made]
        for path, name in zip(made, final, strict=True):
            path.replace(name)
        for parent in {name.parent for name in final} | {self.folder.images}:
            sync_folder(parent)

    def _drop_stale(self, made: Sequence[Path]) -> None:
        """Remove what an earlier query left and this one has not: all tables describe one query."""
        names = {str(path.relative_to(self._stage)) for path in made}
        for name in _NOT_ALWAYS:
            if name not in names:
                (self.folder.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder.path / "bbox").rmdir()


def _renamed(published: Sequence[str]) -> Iterator[str]:
    """Yield the published names, those that are ours or taken with a mark behind them."""
    taken = {*published, *JOINED_COLUMNS}
    for name in published:
        fresh = name
        while fresh in JOINED_COLUMNS or (fresh != name and fresh in taken):
            fresh = f"{fresh}_published"
        taken.add(fresh)
        yield fresh
