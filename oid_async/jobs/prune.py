"""`prune`: remove the images, masks and recordings of earlier queries, which the query of the folder does not select.

Only what this program has saved is removed: an image that the journal knows and whose bytes are what its line says, a
mask or recording as it is recorded. Links to them, as in exports, keep their bytes. The journal stays as it is: an
image whose file is gone is fetched again by the next query that selects it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.concurrency import until_stopped
from oid_async.dataset.audit import Audit, examine
from oid_async.dataset.completion import is_finished
from oid_async.dataset.read_lock import read_lock
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, storage_errors
from oid_async.events import Note, Sink, Stage
from oid_async.jobs.opening import is_place
from oid_async.store.disk import has_plain
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.store.written_files import MASKS, RECORDINGS, read_record, write_record

_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The counts of what was removed, or with `dry_run` would be; `bytes` are those of all three.

    `left` counts images of earlier queries that stay because their bytes are not those that were saved.
    """

    savepath: str
    dry_run: bool
    images: int
    masks: int
    recordings: int
    bytes: int
    left: int

    def as_json(self) -> dict[str, Any]:
        """Return one JSON object's worth of plain values."""
        return asdict(self)


class Prune:
    """One pruning of one folder."""

    def __init__(self, savepath: Path, sink: Sink, *, dry_run: bool = False) -> None:
        self._folder = Folder(savepath)
        self._sink = sink
        self._dry_run = dry_run

    async def run(self) -> PruneReport:
        """Remove and return the counts. Raises InputError, LockedError, StorageError; what is removed then stays so."""
        self._sink(Stage("looking for what the query does not select"))
        report = await until_stopped(self._prune)
        if report.left:
            text = f"{report.left} images of earlier queries are not as they were saved: left alone, verify names them"
            self._sink(Note(text))
        return report

    def _prune(self, stopped: Callable[[], bool]) -> PruneReport:
        with _locked(self._folder, writes=not self._dry_run), storage_errors(self._folder.path):
            dataset = _finished(self._folder)
            counts = dict.fromkeys(("images", "masks", "recordings", "bytes", "left"), 0)
            unselected = _unselected(dataset)
            for rows in unselected.iter_slices(_BATCH_ROWS):
                if stopped():
                    break
                for name, size, md5 in rows.select("FileName", "Bytes", "MD5").iter_rows():
                    path = self._folder.images / name
                    if examine(str(path), size, md5) is not None:
                        counts["left"] += 1
                        continue
                    counts["images"] += 1
                    counts["bytes"] += self._remove(path)
            self._prune_attached(dataset, counts)
        return PruneReport(str(self._folder.path), self._dry_run, **counts)

    def _prune_attached(self, dataset: SavedDataset, counts: dict[str, int]) -> None:
        """Remove the masks and recordings that are recorded and that no table names; without a record none is known."""
        record = read_record(self._folder)
        if record is None:
            return
        recordings = pl.col("voice_recording").str.split("/").list.last()
        named = {
            "masks": (MASKS, dataset.masks.select("MaskPath")),
            "recordings": (RECORDINGS, dataset.narratives.select(recordings)),
        }
        removed = []
        for what, (prefix, names) in named.items():
            wanted = names.select(pl.lit(prefix) + pl.first()).collect(engine="streaming").to_series().drop_nulls()
            path = pl.col("path")
            unnamed = record.filter(path.str.starts_with(prefix), ~path.is_in(wanted.implode()))
            for name, size, md5 in unnamed.iter_rows():
                file = self._folder.path / name
                if examine(str(file), size, md5) is None:
                    counts[what] += 1
                    counts["bytes"] += self._remove(file)
                    removed.append(name)
        if removed and not self._dry_run:
            write_record(self._folder, record.filter(~pl.col("path").is_in(removed)))

    def _remove(self, path: Path) -> int:
        """Remove a file, unless it is a dry run, and return its bytes. Raises OSError."""
        size = path.stat().st_size
        if not self._dry_run:
            os.unlink(path)
        return size


@contextmanager
def _locked(folder: Folder, *, writes: bool) -> Iterator[None]:
    """Own the folder, or where nothing is written share it with other readers. Raises LockedError, StorageError."""
    _check_finished(folder)
    if not writes:
        with read_lock(folder):
            yield
        return
    lock = FolderLock.take(folder)
    try:
        yield
    finally:
        lock.release()


def _finished(folder: Folder) -> SavedDataset:
    _check_finished(folder)
    return SavedDataset(folder, "prune")


def _check_finished(folder: Folder) -> None:
    """Raise InputError unless the folder's tables say what its query selects."""
    if is_place(folder):
        raise InputError(f"{folder.path}: its images are in shards/, of which each holds what its query selects alone")
    if not is_finished(folder):
        raise InputError(
            f"{folder.path}: its download has not come to its end, so nothing is removed; run it to its end first"
        )
    if not has_plain(folder.manifest):
        folder.require()
        raise InputError(f"{folder.manifest}: there is no manifest to prune by; let a download run to its end first")


def _unselected(dataset: SavedDataset) -> pl.DataFrame:
    """Return FileName, Bytes, MD5 of the saved images of earlier queries that the manifest lists under no status."""
    selected = dataset.images.select("ImageID").collect(engine="streaming").to_series()
    return Audit(dataset.folder, dataset).unselected_files.filter(~pl.col("ImageID").is_in(selected.implode()))
