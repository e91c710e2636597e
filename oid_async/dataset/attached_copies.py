"""Masks and recordings of a folder brought into another one: hard links, else copies, of what is whole. Blocking."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from oid_async.dataset.tables import SavedTable
from oid_async.store.attached_files import NAMES, is_whole
from oid_async.store.disk import discard, is_plain, read_plain
from oid_async.store.folder import Folder, packed_in
from oid_async.store.image_check import md5_base64
from oid_async.store.written_files import MASKS, RECORDINGS, is_attached, read_record
from oid_async.system.links import hard_link
from oid_async.tables.reading import scan_lines

_SLICE_ROWS = 8192


@dataclass(slots=True)
class AttachedCount:
    """How many files of one kind the tables of a folder name, and how many of them are not there."""

    named: int = 0
    missing: int = 0


def copy_attached(source: Folder, folder: Folder, stopped: Callable[[], bool]) -> dict[str, AttachedCount]:
    """Bring what the tables of `folder` name and `source` has; return the counts of each kind, by prefix.

    A kind of which `source` has neither a folder nor a record was not saved; masks may be in its shards, which are not
    read for them. What is recorded there has to be as recorded, other files begin and end as they must. Raises OSError,
    PolarsError.
    """
    record = None
    with suppress(PermissionError):  # one that cannot be read says as little as none
        record = read_record(source)
    files = [] if record is None else record.filter(is_attached()).select("path", "md5").rows()
    known: dict[str, str] = dict(files)
    counts: dict[str, AttachedCount] = {}
    for prefix in (MASKS, RECORDINGS):
        is_saved = (source.path / prefix).is_dir() or any(path.startswith(prefix) for path in known)
        if is_saved or (prefix == MASKS and packed_in(source) is not None):
            count = counts[prefix] = AttachedCount()
            for name in _named(folder, prefix):
                if stopped():
                    return counts
                count.named += 1
                count.missing += not _bring(source, folder, prefix + name, known.get(prefix + name))
    return counts


def _named(folder: Folder, prefix: str) -> Iterator[str]:
    """Yield the names of the files that the folder's table of a kind names."""
    table = SavedTable.under(folder.path, "segmentation" if prefix == MASKS else "narrative")
    if not table.exists:
        return
    if prefix == MASKS:
        names = pl.scan_csv(table.path, infer_schema=False, glob=False).select("MaskPath")
    else:
        recording = pl.col("line").str.json_path_match("$.voice_recording")
        names = scan_lines(table.file).select(recording.str.split("/").list.last())
    found = names.drop_nulls().unique(maintain_order=True).collect(engine="streaming")
    for batch in found.iter_slices(_SLICE_ROWS):
        yield from (name for (name,) in batch.iter_rows() if NAMES[prefix].fullmatch(name))


def _bring(source: Folder, folder: Folder, name: str, md5: str | None) -> bool:
    """Link or copy one file, unless it is there; return whether it is there then."""
    path = folder.path / name
    if _is_right(path, md5):
        return True
    if not is_plain(source.path / name):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = folder.tmp / path.name
    discard(part)
    try:
        hard_link(source.path / name, part)
    except OSError:
        part.write_bytes(read_plain(source.path / name))
    if not _is_right(part, md5):
        discard(part)
        return False
    os.replace(part, path)
    return True


def _is_right(path: Path, md5: str | None) -> bool:
    try:
        body = read_plain(path)
    except OSError:
        return False
    return is_whole(body) if md5 is None else md5_base64(body) == md5
