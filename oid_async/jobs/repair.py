"""What a repair does before the query is run again: damaged files out of the way, inputs back from their copies.

Result tables stay where they are: the run that follows replaces them.
"""

import json
import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.audit import IMAGES, set_aside, set_files_aside
from oid_async.dataset.export_audit import EXPORTS
from oid_async.dataset.export_list import LIST, MARKER, kept_marker, read_list
from oid_async.errors import InputError, UsageError, storage_errors
from oid_async.options.export import ExportOptions
from oid_async.options.query_table import KEPT_LISTS
from oid_async.store.atomic import replacing, write_text
from oid_async.store.attached_files import NAMES
from oid_async.store.disk import read_plain
from oid_async.store.folder import Folder
from oid_async.store.journal_repair import rebuild_journal
from oid_async.store.kept_files import KEPT, read_kept
from oid_async.store.written_files import INDEX, JOURNAL

_OTHERS_AND_EXPORTS = (*NAMES, f"{EXPORTS}/")


def restore_inputs(folder: Folder, damage: pl.DataFrame, given: Container[str]) -> None:
    """Write query.json and lists anew from the copies that were kept of them. Raises StorageError.

    Raises InputError if a copy is lost, too, unless the list is among the options that this call has `given`.
    """
    lists = {name: option for option, name in KEPT_LISTS.items()}
    lost = damage.filter(pl.col("kind") != "unchecked", pl.col("path").is_in(KEPT))
    for name in lost.get_column("path"):
        if read_kept(folder, name) is None and lists.get(name) not in given:
            flag = f"--{lists[name].replace('_', '-')}" if name in lists else ""
            again = f"give the list again with {flag}" if flag else "run the download again"
            raise InputError(f"{folder.path / name}: it is not what was saved, nor is there a copy of it; {again}")
    with storage_errors(folder.path):
        for name in damage.filter(pl.col("kind") != "unchecked").get_column("path"):
            body = read_kept(folder, name)
            if body is not None:
                folder.tmp.mkdir(parents=True, exist_ok=True)
                if (folder.path / name).is_dir():
                    set_files_aside(folder, [name])
                with replacing(folder.path / name, part=folder.tmp / name) as part:
                    part.write_bytes(body)


def clear_damage(folder: Folder, damage: pl.DataFrame) -> int:
    """Move damaged images, masks, recordings, files of exports and the manifest away; return how many were moved.

    A journal that is damaged is made anew from what is true of it. Raises StorageError.
    """
    path = pl.col("path")
    wrong = damage.filter(pl.col("kind") != "unchecked")
    images = wrong.filter(path.str.starts_with(IMAGES)).get_column("file_name")
    is_fetched = pl.any_horizontal(path.str.starts_with(prefix) for prefix in _OTHERS_AND_EXPORTS)
    others = wrong.filter(is_fetched | (path == "manifest.parquet")).get_column("path")
    # Where a folder has taken the name of a table, the table cannot have it.
    tables = [name for name in wrong.filter(~is_fetched).get_column("path") if (folder.path / name).is_dir()]
    with storage_errors(folder.path):
        moved = set_aside(folder, images) if len(images) else 0
        moved += set_files_aside(folder, [*others, *tables])
        paths = set(wrong.get_column("path"))
        if JOURNAL in paths and os.path.lexists(folder.journal) and not folder.journal.is_dir():
            rebuild_journal(folder)
        if any(name.startswith(INDEX) for name in paths):
            shutil.rmtree(folder.index, ignore_errors=True)
    return moved


def export_options(export: Path) -> ExportOptions:
    """Return the options that an export was made with, to write it anew in its place. Raises InputError.

    A marker that is lost or damaged is written anew from the list.
    """
    kept = kept_marker(export)
    if kept is not None:
        write_text(export / MARKER, kept)
    try:
        marker: Any = json.loads(read_plain(export / MARKER).decode())
        options = {name: value for name, value in marker["options"].items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{export / MARKER}: says no more how this was exported; run export again") from error
    if options.pop("class_map", None) is not None:
        raise UsageError(f"{export}: it was made with --class-map; run export again with it")
    options |= {"out": export}
    if (export / LIST).exists():
        _drop_damaged_list(export)
    known = {name: value for name, value in options.items() if name in ExportOptions.__dataclass_fields__}
    return ExportOptions(**known)


def _drop_damaged_list(export: Path) -> None:
    try:
        read_list(export)
    except InputError:
        (export / LIST).unlink()
