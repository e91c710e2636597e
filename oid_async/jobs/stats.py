"""`stats`: numbers about a saved folder, or about what a query selects, of which nothing is fetched but tables."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import polars as pl

from oid_async.concurrency import in_thread, single_error, until_stopped
from oid_async.dataset.table_check import table_faults
from oid_async.dataset.tables import SCHEMAS, column
from oid_async.errors import UsageError, storage_errors
from oid_async.events import Note, Sink, Stage
from oid_async.http.retry import Limits
from oid_async.jobs.context import open_run
from oid_async.jobs.gathering.gather import GatheredTables, gather_tables
from oid_async.jobs.opening import open_folder
from oid_async.jobs.planning.selection import SelectionResult, remarks, select_images
from oid_async.jobs.plot_library import PlotLibrary
from oid_async.jobs.query_document import chosen_options
from oid_async.jobs.stored_query import Given, flag_of
from oid_async.openimages.ids import KEY
from oid_async.openimages.kinds import KindName
from oid_async.options.keywords import QueryOptions, ReadOptions, StatsOptions
from oid_async.options.paths import shown
from oid_async.options.query import Options
from oid_async.options.selection import Query, options_of
from oid_async.pages.plotting import require_library
from oid_async.report import Report
from oid_async.select.negatives import Negatives
from oid_async.select.query import in_splits
from oid_async.statistics.count import count
from oid_async.statistics.exports import export_format, export_tables
from oid_async.statistics.folder import tables_of
from oid_async.statistics.tables import COLUMNS, IMAGE, IMAGE_SCHEMA, Tables, Workplace
from oid_async.statistics.value import Statistics
from oid_async.store.folder import Folder
from oid_async.store.named_file import check_place, write_named
from oid_async.store.results import NEGATIVE, SELECTED
from oid_async.system.forks import refuse_forked_child
from oid_async.tables.reading import TableFile, scan_keyed
from oid_async.tables.rows import RowSource, rows_of

_SAY_WHAT = (
    "oid-async stats SAVEPATH counts what a download has saved; oid-async stats --category Dog (or --split validation, "
    "for everything in it) what a query selects"
)
_COUNTING = Stage("counting images and annotations")
_MARK_BYTES = 64
_NOT_FETCHED = "bytes, sizes in pixels and the aspect of boxes are known of saved images alone: no image is fetched"


class Stats:
    """The numbers of a folder or of a query; `html` is where their page is written, too."""

    def __init__(
        self,
        savepath: str | os.PathLike[str] | None,
        query: Query | None,
        given: StatsOptions,
        sink: Sink,
        *,
        html: Path | BinaryIO | None = None,
    ) -> None:
        """Raise UsageError for options that do not go together, or that leave open what is meant."""
        self._html = html
        said = [name for name, value in given.items() if value is not None and value is not False]
        self._job: FolderStats | QueryStats
        self._asked: dict[str, Any] = {}
        if savepath is None:
            if query is None and not said:
                raise UsageError(f"stats of what? {_SAY_WHAT}")
            options = options_of(query, cast("QueryOptions", given))
            self._job, self._asked = QueryStats(options, sink), chosen_options(options)
            return
        if query is not None:
            raise UsageError(f"stats is of a folder or of a query, not both: leave out SAVEPATH or query=. {_SAY_WHAT}")
        if of_query := [name for name in said if name not in ReadOptions.__annotations__]:
            flag = flag_of(of_query[0])
            raise UsageError(
                f"stats {shown(str(savepath))} counts all that is saved there, and {flag} is of a query: leave out one "
                f"of them. {_SAY_WHAT}"
            )
        values: dict[str, Any] = {name: value for name, value in given.items() if name in said}
        self._job = FolderStats(Given.of(Options.of(savepath=savepath).folder_for("stats"), values), sink)

    async def run(self) -> Statistics:
        """Count, write the page, and return the numbers. Raises OidError; a page that cannot be made, at once."""
        if self._html is None:
            return await self._job.run()
        require_library("--html")
        if isinstance(self._html, Path):
            await in_thread(_check_page_place, self._html)
        # Its JavaScript takes two seconds in which no other thread runs: a process makes it while tables are counted.
        async with PlotLibrary(wanted=True) as plots:
            found = await self._job.run()
            await plots.ready()
            await until_stopped(_write_page, found, self._asked, self._html)
        return found


def _check_page_place(path: Path) -> None:
    """Raise UsageError or StorageError if no page can be written here, or would replace what is none. Blocking."""
    check_place("--html", path)
    with storage_errors(path):
        if not path.is_file():
            return
        with path.open("rb") as file:
            start = file.read(_MARK_BYTES).lstrip(b"\xef\xbb\xbf \r\n\t")
    if start and not start.startswith(b"<"):
        raise UsageError(f"--html {path}: this file is no HTML page, and would be replaced; choose another name")


def _write_page(
    found: Statistics, asked: Mapping[str, Any], target: Path | BinaryIO, stopped: Callable[[], bool]
) -> None:
    from oid_async.pages.statistics import statistics_page

    page = statistics_page(found.as_json(), asked=asked).encode("utf-8", "backslashreplace")
    if isinstance(target, Path):
        write_named(target, [page], stopped)
    else:
        target.writelines([page])


class FolderStats:
    """The numbers of one saved folder, also while a run fills it, or of an export.

    `given` are places that the call has named.
    """

    def __init__(self, given: Given, sink: Sink) -> None:
        self._given = given
        self._sink = sink

    async def run(self) -> Statistics:
        """Count. Raises InputError for what no download has filled, UsageError, StorageError without room for it."""
        refuse_forked_child()
        self._sink(_COUNTING)
        found = await until_stopped(self._count)
        for note in found.notes:
            self._sink(Note(note))
        return found

    def _count(self, stopped: Callable[[], bool]) -> Statistics:
        savepath = self._given.options.folder
        if (name := export_format(savepath)) is not None:
            with _scratch() as scratch:
                work = Workplace(scratch, str(savepath), stopped)
                return replace(count(export_tables(savepath, name, work), work), savepath=str(savepath))
        with open_folder(Folder(savepath), "read", self._given) as dataset, _scratch() as scratch:
            work = Workplace(scratch, str(savepath), stopped)
            notes = (*dataset.notes, *table_faults(dataset))
            return replace(count(tables_of(dataset, work), work), savepath=str(savepath), notes=notes)


class QueryStats:
    """The numbers of what one query selects."""

    def __init__(self, options: Options, sink: Sink) -> None:
        self._options = options
        self._sink = sink
        self._notes: list[str] = []

    async def run(self) -> Statistics:
        """Select as `plan` does, and count. Raises OidError."""
        refuse_forked_child()
        options = self._options
        opened = open_run(
            options, self._sink, Report(), limits=Limits.of(options), serve=None, site_name=None, dry_run=True
        )
        with single_error():
            async with opened as context:
                scratch = context.folder.tmp
                self._sink(Stage("reading the tables"))
                tables = await gather_tables(context.options, context.cache, self._sink, scratch, context.lists)
                self._sink(Stage("choosing the images"))
                selected = await in_thread(select_images, tables, options.all_boxes)
                for remark in remarks(tables, selected):
                    self._note(remark)
                self._note(_NOT_FETCHED)
                self._sink(_COUNTING)
                return await until_stopped(self._count, tables, selected, scratch)

    def _note(self, text: str) -> None:
        self._sink(Note(text))
        self._notes.append(text)

    def _count(
        self, tables: GatheredTables, selected: SelectionResult, scratch: Path, stopped: Callable[[], bool]
    ) -> Statistics:
        work = Workplace(scratch, "the query", stopped)
        return replace(count(_tables_of(tables, selected, self._options), work), notes=tuple(self._notes))


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a temporary folder. Raises StorageError."""
    with storage_errors(Path(tempfile.gettempdir())):
        folder = tempfile.mkdtemp(prefix="oid-async-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tables_of(tables: GatheredTables, selected: SelectionResult, options: Options) -> Tables:
    """Return the tables of a query as they are counted: the rows that a download would save, of all images."""
    keys, negatives = selected.selection.keys, selected.selection.negatives
    rows = {}
    for source in tables.saved:
        if source.kind.name in COLUMNS:
            labels = tables.saved_labels(source, all_boxes=options.all_boxes)
            rows[source.kind.name] = pl.concat(_rows(tables, table, source, keys, labels) for table in source.tables)
    counted: dict[KindName, int] = {
        source.kind.name: selected.annotations[source.kind.name]
        for source in tables.saved
        if source.kind.name not in COLUMNS
    }
    absent = None if negatives is None else _absent(negatives)
    return Tables("query", _images(tables, keys, negatives), rows, absent, counted, _names(tables))


def _rows(
    tables: GatheredTables, table: TableFile, source: RowSource, keys: pl.Series, labels: tuple[str, ...] | None
) -> pl.LazyFrame:
    """Return the rows to save of one table, in the columns that are counted."""
    kind, rows = source.kind, rows_of(source, table, tables.ids, keys, labels=labels)
    present = rows.collect_schema().names()
    columns = [pl.col(KEY).alias(IMAGE)]
    for name in COLUMNS[kind.name]:
        if name in kind.categories:
            # Looked up for each class once it is counted, not for each row.
            columns.append(pl.lit(None, pl.String).alias(name))
        elif name == "LabelName" and name not in kind.labels:
            columns.append(pl.col(kind.labels[0]).alias(name))
        else:
            columns.append(column(name, SCHEMAS[kind.name][name], present))
    return rows.select(columns)


def _images(tables: GatheredTables, keys: pl.Series, negatives: Negatives | None) -> pl.LazyFrame:
    """Return one row for each of these images."""
    frames = []
    for table in tables.images:
        frame = in_splits(scan_keyed(table, tables.ids, [], ["Subset", "License", "Author"]), tables.splits)
        present = frame.collect_schema().names()
        if "Subset" not in present and table.split is not None:
            frame, present = frame.with_columns(Subset=pl.lit(table.split)), [*present, "Subset"]
        missing = [name for name in IMAGE_SCHEMA if name not in present]
        frame = frame.with_columns(pl.lit(None, IMAGE_SCHEMA[name]).alias(name) for name in missing)
        frames.append(frame.select(KEY, *IMAGE_SCHEMA))
    images = pl.concat(frames).filter(pl.col(KEY).is_in(keys.implode()))
    # Of an image with more than one row the first one counts, as in the selection.
    if images.select(pl.len()).collect(engine="streaming").item() > len(keys):
        images = images.unique(KEY, keep="first", maintain_order=True)
    role = pl.lit(SELECTED)
    if negatives is not None:
        role = pl.when(pl.col(KEY).is_in(negatives.keys.implode())).then(pl.lit(NEGATIVE)).otherwise(role)
    return images.with_columns(role.alias("Role")).select(*IMAGE_SCHEMA)


def _absent(negatives: Negatives) -> pl.LazyFrame:
    """Return IMAGE, LabelName, Category of what is verified to be absent in negatives; the name is not known there."""
    absent = negatives.absent.filter(pl.col(KEY).is_in(negatives.keys.implode()))
    labels = pl.Series(negatives.labels, dtype=pl.String).gather(absent.get_column("code"))
    return absent.select(pl.col(KEY).alias(IMAGE), labels.alias("LabelName"), Category=pl.lit(None, pl.String)).lazy()


def _names(tables: GatheredTables) -> dict[str, str]:
    """Return what the classes of the annotations to save are called; of one name in two tables the first kind's."""
    names = {label: category.class_name for category in tables.query.categories for label in category.labels}
    for source in reversed(tables.saved):
        names |= source.class_names
    return names
