"""Opening a folder to read it: as its last run has left it, or as far as a run that has not come to its end is."""

import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.dataset.completion import is_finished
from oid_async.dataset.saved import Purpose, SavedDataset
from oid_async.redaction import printable
from oid_async.store.folder import Folder

if TYPE_CHECKING:
    from oid_async.jobs.unfinished import UnfinishedRun

# A run that ends, or plans anew, while its folder is read is read once more.
_TRIES = 5


def open_folder(folder: Folder, purpose: Purpose = "read") -> SavedDataset:
    """Open a folder. Blocking. Raises InputError for one that no download has filled, or with damaged tables.

    Use it as a context, or close it: of an unfinished run the tables are in a temporary folder.
    """
    if is_finished(folder):
        return SavedDataset(folder, purpose)
    from oid_async.jobs.unfinished import UnfinishedRun, state_of

    for tries_left in reversed(range(_TRIES)):
        before = state_of(folder)
        made = None
        with suppress(FileNotFoundError, pl.exceptions.PolarsError) if tries_left else nullcontext():
            made = UnfinishedRun(folder)
        if made is not None:
            if state_of(folder) == before or not tries_left:
                return _opened(folder, purpose, made)
            made.remove()
        if is_finished(folder):
            break
    return SavedDataset(folder, purpose)


def _opened(folder: Folder, purpose: Purpose, made: "UnfinishedRun") -> SavedDataset:
    try:
        return SavedDataset(folder, purpose, made=made)
    except BaseException:
        made.remove()
        raise


def open_for_user(savepath: Path) -> SavedDataset:
    """Open a folder; warn if its tables are not of the query that was asked last."""
    folder = Folder(savepath)
    dataset = open_folder(folder)
    if dataset.made is not None and folder.manifest.exists():
        warnings.warn(printable(dataset.made.note), stacklevel=3)
    return dataset
