"""Opening what a download has filled: as its last run has left it, or as far as one that has not come to its end is.

A place that a download past one machine fills, a folder or a bucket, is read once that has come to its end.
"""

import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.cluster.layout import MANIFEST, PLAN, SHARD_LIST
from oid_async.dataset.completion import is_finished
from oid_async.dataset.place_files import BucketFiles, FolderFiles, PlaceFiles
from oid_async.dataset.saved import Purpose, SavedDataset
from oid_async.errors import InputError, UsageError
from oid_async.jobs.stored_query import Given, shards_of
from oid_async.objects.store import Objects
from oid_async.options.places import Bucket, Place
from oid_async.redaction import printable
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder

if TYPE_CHECKING:
    from oid_async.jobs.unfinished import UnfinishedRun

# A run that ends, or plans anew, while its folder is read is read once more.
_TRIES = 5


def open_folder(folder: Folder, purpose: Purpose, given: Given, shards: Path | None = None) -> SavedDataset:
    """Open a folder. Blocking. Raises InputError for one that no download has filled, or with damaged tables.

    `given` and `shards` are places that its call has named. Raises UsageError for links in the place of folders, and
    for what the call must name. Use it as a context, or close it: of an unfinished run the tables are in a temporary
    folder.
    """
    folder.refuse_links()
    if is_place(folder):
        return open_place(FolderFiles(folder), purpose)
    shards = shards or shards_of(folder)
    if is_finished(folder):
        return SavedDataset(folder, purpose, shards=shards)
    from oid_async.jobs.unfinished import UnfinishedRun, state_of

    for tries_left in reversed(range(_TRIES)):
        before = state_of(folder)
        made = None
        with suppress(FileNotFoundError, pl.exceptions.PolarsError) if tries_left else nullcontext():
            made = UnfinishedRun(folder, given, shards)
        if made is not None:
            if state_of(folder) == before or not tries_left:
                return _opened(folder, purpose, made, shards)
            made.remove()
        if is_finished(folder):
            break
    return SavedDataset(folder, purpose, shards=shards)


def is_place(folder: Folder) -> bool:
    """Return whether a download past one machine has filled a folder, or fills it."""
    return is_plain(folder.path / SHARD_LIST) or is_plain(folder.path / PLAN)


def open_bucket(place: Place, endpoint_url: str | None, purpose: Purpose) -> SavedDataset:
    """Open a bucket. Blocking. Raises InputError, and UsageError, StorageError as `Objects` does. Close it."""
    objects = Objects(place, endpoint_url=endpoint_url)
    # No such bucket, no credentials, nobody there: it is said within half a minute.
    objects.check()
    return open_place(BucketFiles(objects), purpose)


def open_place(files: PlaceFiles, purpose: Purpose) -> SavedDataset:
    """Open a place whose download has come to its end. Raises InputError for one that is none."""
    try:
        check_finished(files)
        return SavedDataset(files.folder, purpose, files=files)
    except BaseException:
        files.remove()
        raise


def check_finished(files: PlaceFiles) -> None:
    """Raise InputError unless a download past one machine has filled the place, and has come to its end."""
    if files.size(MANIFEST) is not None and files.size(SHARD_LIST) is not None:
        return
    if files.size(PLAN) is None:
        raise InputError(f"{files.place}: no download has filled it: there is no {PLAN}, nor {MANIFEST}")
    raise InputError(
        f"{files.place}: its download has not come to its end, so there is no {MANIFEST} yet; run the same download "
        "again, which goes on where it stopped, then read it"
    )


def _opened(folder: Folder, purpose: Purpose, made: "UnfinishedRun", shards: Path | None) -> SavedDataset:
    try:
        return SavedDataset(folder, purpose, made=made, shards=shards)
    except BaseException:
        made.remove()
        raise


def open_for_user(given: Given, shards: Path | None) -> SavedDataset:
    """Open the folder of a call; warn if its tables are not of the query that was asked last."""
    place = given.options.savepath
    if isinstance(place, Bucket):
        if shards is not None:
            raise UsageError(f"{place}: its shards are there; leave out= away")
        return open_bucket(place, given.options.endpoint_url, "read")
    folder = Folder(place)
    dataset = open_folder(folder, "read", given, shards)
    if dataset.made is not None and folder.manifest.exists():
        warnings.warn(printable(dataset.made.note), stacklevel=3)
    return dataset
