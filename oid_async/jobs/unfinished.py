"""The tables of a run that has not come to its end, interrupted, killed or still on: made for a reader, on the side.

They are what the run would write now. Which images are selected says the run's plan, and where that is gone the query
in query.json, carried out again on the cached tables; what became of each says the journal. Nothing is requested, and
nothing is written but in a temporary folder. Places outside SAVEPATH are those that the call names, or that this user's
own run has used (`jobs.stored_query`). Blocking: call it from no event loop that must not wait.
"""

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.dataset.query_digest import query_digest
from oid_async.dataset.query_file import read_query_file
from oid_async.errors import InputError, OidError, UnavailableError, machine_error, storage_error
from oid_async.events import ignore
from oid_async.jobs.gathering.gather import GatheredTables, gather_tables
from oid_async.jobs.own_places import own_places
from oid_async.jobs.ownership import restore_journal
from oid_async.jobs.packed_shards import packed_names
from oid_async.jobs.planning.selection import select_images
from oid_async.jobs.stored_query import Given, read_options
from oid_async.metadata.cache import MetadataCache
from oid_async.metadata.paths import cache_root
from oid_async.openimages.ids import IdForm
from oid_async.openimages.vocabulary import SOURCES
from oid_async.options.query import Options
from oid_async.report import Outcome
from oid_async.select.limits import NO_TOP_UP, TopUpState
from oid_async.select.names import NameHashes
from oid_async.select.plan import FolderState, Planner, clear_plan, plan_files
from oid_async.store.adoption import Adopter, credited
from oid_async.store.disk import is_plain
from oid_async.store.folder import PLAN_NOTE, Folder, PlanNote
from oid_async.store.journal import Journal
from oid_async.store.journal_index import JournalIndex
from oid_async.store.results import Results

Result = TypeVar("Result")


class UnfinishedRun:
    """The tables of the run that began last in a folder, in a temporary folder until `remove`, or the program's end."""

    def __init__(self, folder: Folder, given: Given, shards: Path | None) -> None:
        """Make the manifest. Raises InputError where it cannot be made, UsageError for what the call must name."""
        self._folder = folder
        self._given = given
        self._shards = shards
        self._query = read_query_file(folder.path)
        _check_query(self._query, folder.path / "query.json")
        self._is_changed = False
        self._lock = Lock()
        self._has_annotations = False
        self._made_by = os.getpid()
        self._view = _view(folder, Path(tempfile.mkdtemp(prefix="oid-async-")))
        atexit.register(self.remove)
        try:
            self._results, self._parts = self._write_manifest()
            self.planned = _planned(self._results.plan)
            self.note = self._describe()
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError | pl.exceptions.PolarsError) and machine_error(error) is not None:
                raise storage_error(error, self._view.path) from error
            raise

    @property
    def manifest(self) -> Path:
        """The manifest; next to it is ATTRIBUTION.csv."""
        return self._view.manifest

    def annotations(self) -> Path:
        """Return the folder with the tables of annotations, which are made at the first call. Raises InputError."""
        with self._lock:
            if not self._has_annotations:
                self._read_tables(self._write_annotations)
                self._has_annotations = True
        return self._view.path

    def remove(self) -> None:
        """Remove the temporary folder; safe to call twice. A forked child leaves it to the process that made it."""
        atexit.unregister(self.remove)
        if os.getpid() == self._made_by:
            shutil.rmtree(self._view.path, ignore_errors=True)

    def _write_manifest(self) -> tuple[Results, list[Path]]:
        """Write the manifest by the plan that the run has left, else by one made anew; return its writer and parts."""
        if (noted := self._noted_plan()) is not None:
            # It may be torn by a power cut, or removed at this moment by a run that ends.
            with suppress(FileNotFoundError, pl.exceptions.PolarsError):
                return noted, noted.write_images()
        ids = self._read_tables(self._select)
        first_line = 0
        match self._query.get("unfinished"):
            case {"first_line": int(number)}:
                first_line = number
        results = Results(self._view, plan_files(self._view.plan), ids, first_line)
        return results, results.write_images()

    def _noted_plan(self) -> Results | None:
        """Return the writer of the tables with the run's own plan, None where that is gone."""
        for plan in (self._folder.plan, *self._folder.plan.glob("*/")):
            note = None if plan.is_symlink() else PlanNote.read(plan)
            files = plan_files(plan)
            if note is not None and note.digest == self._query.get("digest") and all(map(is_plain, files)):
                return Results(self._view, files, IdForm(note.hexadecimal, note.by_split), note.first_line)
        return None

    def _read_tables(self, work: Callable[[GatheredTables], Result]) -> Result:
        """Have the tables of the query as they are on this disk, and return what the work on them returns.

        Raises InputError if they are not there any more, or not as the query needs them.
        """
        options = self._options

        async def read(root: Path) -> Result:
            site = self._query.get("site")
            scratch = self._view.tmp / "tables"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            async with MetadataCache(None, ignore, root=root, mirror=site, site=site) as cache:
                tables = await gather_tables(options, cache, ignore, scratch)
                return await in_thread(work, tables)

        failure: OidError | None = None
        for root in self._cache_roots():
            # The caller may be in an event loop of its own: this one gets a thread.
            with ThreadPoolExecutor(1) as thread:
                try:
                    return thread.submit(asyncio.run, read(root)).result()
                except UnavailableError as error:
                    failure = failure or error
                except OidError as error:
                    failure = error
                    break
        raise InputError(
            f"{self._folder.path}: its download has not come to an end, and without its tables nothing says what it "
            f"was to save ({failure}); {self._where_tables_are()}run the same download again"
        ) from failure

    @cached_property
    def _options(self) -> Options:
        return read_options(self._query, self._folder, self._given)

    def _cache_roots(self) -> list[Path]:
        """Return the cache folders to look into: the one that the call names, else that of the run and the usual."""
        of_call = cache_root(self._given.options.cache_dir)
        if "cache_dir" in self._given.names:
            return [of_call]
        own = own_places(self._folder).get("cache_dir")
        return list(dict.fromkeys((*([Path(own)] if own is not None else ()), of_call, cache_root(None))))

    def _where_tables_are(self) -> str:
        """Return what to try first: the cache folder that query.json names, if it was not looked into."""
        named = self._query["query"].get("cache_dir")
        if not isinstance(named, str) or not named.isprintable() or named in map(str, self._cache_roots()):
            return ""
        return f"if its tables are in {named}, name that with --cache-dir, else "

    def _select(self, tables: GatheredTables) -> IdForm:
        """Carry the query out again: write its plan into the temporary folder, and return the form of its ids."""
        folder, view = self._folder, self._view
        options = self._options
        sources = tuple(self._query["sources"])
        self._is_changed = query_digest(options, tables.identities) != self._query.get("digest")
        packed = list(packed_names(self._shards)) if self._shards is not None else []
        adopt: Callable[..., Outcome | None] = _adopt_nothing
        if not is_plain(folder.journal):
            # As the next run will do: what is there is looked at.
            view.journal = view.tmp / folder.journal.name
            names = pl.Series(packed, dtype=pl.String).hash()
            self._in_journal(partial(restore_journal, folder, packed=names))
            adopt = Adopter(folder, sources, hashed=not options.no_hash)
        state = FolderState(
            JournalIndex(view.journal, tables.ids, view.index, view.new_index),
            NameHashes.of(chain(folder.names(), packed), folder.links()),
            adopt,
        )
        names_of = "id" if tables.bare else options.names
        clear_plan(view.plan)
        planner = Planner(view.plan, tables.images, tables.ids, tables.splits, sources, names_of)
        top_up = TopUpState(planner.failed(state)) if options.top_up else NO_TOP_UP
        selection = select_images(tables, options.all_boxes, top_up).selection
        summary = planner.write(selection.keys, state, selection.negatives)
        if summary.adopted:
            self._in_journal(lambda journal: journal.append(credited(folder, summary.adopted)))
        return tables.ids

    def _in_journal(self, write: Callable[[Journal], None]) -> None:
        """Write into the journal of the temporary folder."""
        journal = Journal(self._view.journal)
        try:
            write(journal)
        finally:
            journal.close()

    def _write_annotations(self, tables: GatheredTables) -> None:
        options = self._options
        self._results.write_annotations(tables.saved_annotations(all_boxes=options.all_boxes), self._parts)

    def _describe(self) -> str:
        """Say how far the run is."""
        count = pl.scan_parquet(self.manifest, glob=False).group_by("Status").len().collect()
        counts: Mapping[str, int] = dict(count.iter_rows())
        total = sum(counts.values())
        failed = f", {counts['failed']} failed" if "failed" in counts else ""
        text = (
            f"its download has not come to its end: {counts.get('ok', 0)} of {total} images are saved{failed}, "
            f"{counts.get('pending', 0)} pending"
        )
        if self._is_changed:
            text += "; a table or list that it was given is another one now, so these may not be the images it selected"
        if self._folder.manifest.exists():
            text += "; manifest.parquet and the tables next to it are of an earlier query, and not read"
        return f"{self._folder.path}: {text}"


def _check_query(query: Mapping[str, Any], path: Path) -> None:
    """Raise InputError unless the parts of a query.json that are no options can be used; `read_options` reads these."""
    sources, site = query.get("sources"), query.get("site")
    if not isinstance(sources, list) or not sources or not all(each in SOURCES for each in sources):
        raise InputError(f"{path}: 'sources' are no sources of images; run the download again")
    if site is not None and not (isinstance(site, str) and site.isprintable()):
        raise InputError(f"{path}: 'site' is no address; run the download again")


def _view(folder: Folder, scratch: Path) -> Folder:
    """Return a folder whose tables and temporaries are in `scratch`, with images and journal of the real one."""
    view = Folder(scratch)
    view.images, view.journal, view.index = folder.images, folder.journal, folder.index
    view.tmp.mkdir(parents=True)
    return view


def _planned(plan: Sequence[Path]) -> pl.Series:
    """Return the hashes (u64) of the file names in a plan."""
    if not plan:
        return pl.Series("FileName", [], pl.UInt64)
    names = pl.scan_parquet(list(plan), glob=False).select(pl.col("FileName").hash())
    return names.collect(engine="streaming").to_series()


def _adopt_nothing(*_: Any) -> None:
    """Leave a file alone that the journal does not know: it is somebody's else, or the next run will look at it."""


def state_of(folder: Folder) -> list[tuple[int, int] | None]:
    """Return what differs once a run has begun, planned anew, or come to its end."""
    names = (folder.path / "query.json", folder.manifest, folder.plan / PLAN_NOTE)
    return [_identity(name) for name in names]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
