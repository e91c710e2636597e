"""Whether the tables of a folder are what the run wrote, before an export takes them for complete. Blocking."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from oid_async.dataset.place_files import FolderFiles, PlaceFiles, written_tables
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.openimages.kinds import KINDS
from oid_async.store.disk import has_plain, md5_of, plain_file
from oid_async.store.written_files import RECORD_SCHEMA, read_record, size_and_md5

# So much of the end of a table is read to find its last line.
_TAIL_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_CARD = "README.md"
_NAMES = (*(kind.file for kind in KINDS.values()), "bbox/label_data.csv", "manifest.parquet", "ATTRIBUTION.csv")


def check_tables(dataset: SavedDataset, *, edited: bool, advice: str | None = None) -> None:
    """Raise InputError for a table of the folder that is cut or otherwise not what the run wrote.

    `advice` is what to do then, by default what somebody who exports may do.

    `edited`: tables were changed on purpose; then only one that ends within a line is refused. So it is in a folder
    without a record of what was written (of version 0.1.0, or without its .oid_async).
    """
    if dataset.made is not None:
        return
    for name in _NAMES:
        path = dataset.folder.path / name
        if has_plain(path) and not name.endswith(".parquet"):
            _check_end(path)
    if dataset.files is not None:
        if not edited:
            _check_place(dataset.files)
        return
    record = None if edited else read_record(dataset.folder)
    if record is None:
        return
    written = {
        path: (size, md5) for path, size, md5 in record.select(list(RECORD_SCHEMA)).iter_rows() if path in _NAMES
    }
    for name in _NAMES:
        _check_record(dataset.folder.path / name, written.get(name), advice or _what_to_do(dataset.folder.path))


def table_faults(dataset: SavedDataset) -> Iterator[str]:
    """Yield what can be seen at once of the tables: which are missing, cut or not as long as they were written.

    For who reads them nevertheless; a line each. Nothing is read but their ends.
    """
    if dataset.made is not None:
        return
    record = read_record(dataset.folder)
    written = {}
    if record is not None:
        tables = record.filter(pl.col("path").is_in(_NAMES)).select(list(RECORD_SCHEMA))
        written = {path: (size, md5) for path, size, md5 in tables.iter_rows()}
    advice = f"if nobody has edited it, run the download again or oid-async verify {dataset.folder.path} --repair"
    for name in _NAMES:
        path = dataset.folder.path / name
        try:
            if has_plain(path) and not name.endswith(".parquet"):
                _check_end(path)
            if record is not None:
                _check_size(path, written.get(name), advice)
        except (InputError, OSError) as error:
            yield str(error)


def _check_place(files: PlaceFiles) -> None:
    """Raise InputError for a table that is not what the place's last end has written.

    Of a bucket size and ETag tell it, of a folder its bytes are read.
    """
    advice = f"oid-async verify {files.place} says what else is wrong; export --edited takes what was meant"
    for name, (size, md5, etag) in written_tables(files).items():
        if name == _CARD:
            continue  # no table: it is there to be edited
        there = files.size(name)
        if there is None:
            raise InputError(f"{files.name(name)}: it is not there, though the download saved it; {advice}")
        if there != size:
            raise InputError(f"{files.name(name)}: it has {there} bytes where the download wrote {size}; {advice}")
        if isinstance(files, FolderFiles):
            with plain_file(files.fetch(name)) as file:
                is_same = md5_of(file).hexdigest() == md5
        else:
            is_same = etag is None or files.etag(name) in (etag, md5)
        if not is_same:
            raise InputError(f"{files.name(name)}: it is not what the download wrote; {advice}")


def _check_record(path: Path, written: tuple[int, str] | None, advice: str) -> None:
    _check_size(path, written, advice)
    if written is not None and size_and_md5(path)[1] != written[1]:
        raise InputError(f"{path}: it is not what the run wrote (its MD5 differs); {advice}")


def _check_size(path: Path, written: tuple[int, str] | None, advice: str) -> None:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        if written is None:
            return
        raise InputError(f"{path}: it is not there, though the run saved it; {advice}") from None
    if written is None:
        raise InputError(f"{path}: no run wrote it; {advice}")
    if size != written[0]:
        raise InputError(f"{path}: it has {size} bytes where the run wrote {written[0]}; {advice}")


def _what_to_do(savepath: Path) -> str:
    return f"run the download again or oid-async verify {savepath} --repair; export --edited takes what was meant"


def _check_end(path: Path) -> None:
    """Raise InputError for a table that ends within a line."""
    with plain_file(path) as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        tail = file.read()
    if not head:
        raise InputError(f"{path}: it is empty; run the download again or oid-async verify --repair")
    last = tail.rstrip(b"\r\n").rpartition(b"\n")[2]
    if not tail.endswith(b"\n") or not _is_row(last, head, is_json=path.suffix == ".jsonl"):
        raise InputError(
            f"{path}: it ends within a line ({last[-40:].decode(errors='replace')!r}), so it was cut; run the download "
            "again or oid-async verify --repair"
        )


def _is_row(line: bytes, head: bytes, *, is_json: bool) -> bool:
    """Return whether a last line may be a whole row; where a field holds line breaks there is no telling."""
    try:
        if is_json:
            return isinstance(json.loads(line), dict)
        if line.count(b'"') % 2:
            return True
        header = next(csv.reader([head.partition(b"\n")[0].decode()]), [])
        return len(next(csv.reader([line.decode()]), [])) == len(header)
    except (ValueError, csv.Error):
        return False
