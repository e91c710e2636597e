"""One opened folder as the gallery reads it: manifest, tables, index; replaced as a whole when the folder changes."""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.dataset.table_check import table_faults
from oid_async.errors import InputError, OidError, machine_error, storage_error
from oid_async.gallery.filters import select_rows
from oid_async.gallery.index import Index, identity
from oid_async.gallery.index_build import Progress, StoppedError, build_index
from oid_async.gallery.manifest_rows import ManifestRows
from oid_async.gallery.state import State
from oid_async.gallery.table_rows import TableRows
from oid_async.openimages.kinds import KindName
from oid_async.tables.reading import reading

# Row numbers of the last states are kept: of 1.7 million images 7 MB each.
_KEPT_SELECTIONS = 6
# What a viewer has left that was killed while it made an index.
_LEFT_BEHIND_S = 3600.0

_NO_CLASSES = pl.DataFrame(schema={"LabelName": pl.String, "Category": pl.String})


class Snapshot:
    """An opened folder; `close` it once nobody reads it.

    Of a run that has not come to its end the tables of annotations are made by `prepare`: until then there are none.
    """

    def __init__(self, dataset: SavedDataset) -> None:
        self.dataset = dataset
        self.manifest = ManifestRows(dataset)
        self.index: Index | None = None
        self.progress = Progress()
        # What is wrong, by the file or table, a line each.
        self.errors: dict[str, str] = {}
        self.faults: tuple[str, ...] = ()
        self.index_error: str | None = None
        self.readers = 0
        self.has_tables = dataset.made is None
        self._tables: dict[KindName, TableRows] = {}
        self._selections: OrderedDict[State, pl.Series] = OrderedDict()
        self._lock = threading.Lock()
        self._selecting = threading.Lock()
        self._own = ExitStack()

    def close(self) -> None:
        """Close the tables and the dataset, remove temporary files. Safe to call twice."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()
        self._own.close()
        self.dataset.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who looks at the folder should know, a line each."""
        index_error = () if self.index_error is None else (self.index_error,)
        return tuple(dict.fromkeys((*self.dataset.notes, *self.faults, *self.errors.values(), *index_error)))

    @property
    def table_bytes(self) -> int:
        """The size of the tables of annotations that there are."""
        try:
            return sum(self.dataset.table(kind).path.stat().st_size for kind in self.kinds)
        except (InputError, OSError):
            return 0  # a run replaces them at this moment

    @property
    def is_stale(self) -> bool:
        """Whether another manifest is in the place of the one that is read: a run has come to its end."""
        return self.manifest.is_replaced

    @property
    def is_prepared(self) -> bool:
        """Whether the index is there, or it is known why it cannot be."""
        return self.index is not None or self.index_error is not None

    @property
    def kinds(self) -> tuple[KindName, ...]:
        """The kinds that were saved, as far as they can be read now."""
        return self._kinds() if self.has_tables else ()

    def _kinds(self) -> tuple[KindName, ...]:
        try:
            return self.dataset.kinds
        except InputError as error:
            self.errors["tables"] = str(error)
            return ()

    def rows(self, kind: KindName, image_ids: Sequence[str], expected: int | None = None) -> pl.DataFrame | None:
        """Return the rows of some images, see `TableRows.of`; None if there is no such table, or none yet.

        What cannot be read is noted in `errors`.
        """
        if kind not in self.kinds:
            return None
        try:
            with reading(self.dataset.table(kind).file):
                return self._table(kind).of(image_ids, expected=expected)
        except InputError as error:
            self.errors[kind] = str(error)
            return None

    def _table(self, kind: KindName) -> TableRows:
        with self._lock:
            if kind not in self._tables:
                self._tables[kind] = TableRows(self.dataset.table(kind))
                self._tell_order(kind)
            return self._tables[kind]

    def _tell_order(self, kind: KindName) -> None:
        if self.index is not None and kind in self.index.kinds and kind in self._tables:
            self._tables[kind].is_in_order = self.index.is_in_order(kind)

    def selected(self, state: State) -> pl.Series:
        """Return the row numbers of a state's images, in order. Raises UsageError, InputError."""
        # One at a time: each takes all processors, and the next one may be the same again.
        with self._selecting:
            if state in self._selections:
                self._selections.move_to_end(state)
                return self._selections[state]
            file = self.index.file if self.index is not None else self.dataset.manifest
            with reading(file):
                rows = select_rows(self.manifest, self.index, state)
            self._selections[state] = rows
            while len(self._selections) > _KEPT_SELECTIONS:
                self._selections.popitem(last=False)
            return rows

    @property
    def chosen_classes(self) -> pl.DataFrame:
        """LabelName and Category of the selected classes; empty where they are not known."""
        if not self.has_tables:
            return _NO_CLASSES
        try:
            return self.dataset.chosen_classes()
        except InputError as error:
            self.errors["label_data.csv"] = str(error)
            return _NO_CLASSES

    def forget_index(self) -> None:
        """The index cannot be read any more. It is made anew by `prepare`."""
        with self._selecting:
            if self.index is not None:
                shutil.rmtree(self.index.path, ignore_errors=True)
            self.index = None
            self._selections.clear()

    # In the background.

    def prepare(self, is_stopped: Callable[[], bool]) -> None:
        """Make the tables of an unfinished run, then the index. Raises StoppedError; what fails is noted."""
        self.progress.is_stopped = is_stopped
        try:
            if self.dataset.made is not None:
                self.dataset.made.annotations()
            self.has_tables = True
            self.faults = tuple(table_faults(self.dataset))
            self.index = self._find_or_build()
            self.index_error = None
            self.errors |= self.index.errors
            for kind in tuple(self._tables):
                self._tell_order(kind)
        except StoppedError:
            raise
        except (OidError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            is_full = machine_error(error) is not None
            self.index_error = str(storage_error(error, self.dataset.folder.path) if is_full else error)

    @property
    def is_indexed(self) -> bool:
        """Whether there is an index already: `prepare` then has only to open it."""
        try:
            return self.dataset.made is None and self._kept_index.is_dir()
        except OSError:  # a table has just gone; `prepare` says so
            return False

    @property
    def _kept_index(self) -> Path:
        return self.dataset.folder.state / "gallery" / f"index-{identity(self.dataset, self.manifest.identity)}"

    def _find_or_build(self) -> Index:
        """Return the index that is there, else make one: beside the folder's own files, or where temporary files go."""
        kept = self._kept_index
        place, name = kept.parent, kept.name
        if self.dataset.made is None:
            with suppress(InputError):
                return Index(kept)
            with suppress(OSError, pl.exceptions.PolarsError):
                # Not SAVEPATH itself: it may have been removed.
                for folder in (place.parent, place):
                    folder.mkdir(exist_ok=True)
                return self._build(place, name)
            self.progress.done = 0
        return self._build(self._temporary(), name)

    def _temporary(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="oid-async-gallery-"))
        self._own.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def _build(self, place: Path, name: str) -> Index:
        part = place / f"{name}.{secrets.token_hex(4)}.part"
        part.mkdir()
        try:
            build_index(self.dataset, self.manifest, part, self.progress)
            with suppress(OSError):
                # Another viewer may have made the same one meanwhile, or a damaged one is in the way.
                shutil.rmtree(place / name)
            os.rename(part, place / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return Index(place / name)

    def sweep(self) -> None:
        """Remove the indexes of earlier tables, which nobody reads any more, and what killed viewers have left."""
        if self.index is None or self.dataset.made is not None:
            return
        with suppress(OSError):
            for path in self.index.path.parent.glob("index-*"):
                is_old = path.suffix != ".part" or path.stat().st_mtime < time.time() - _LEFT_BEHIND_S
                if path != self.index.path and is_old and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
