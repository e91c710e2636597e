"""Whether files of the cache are as they were stored: their sizes and MD5s, and a note of when that was last checked.

    {name: [bytes, MD5 in hex]}                              what was stored
    {name: [bytes, mtime and ctime in ns, inode]}            the state in which a file was last found to be that

Hashing the train boxes takes a second, so it is done again only for a file whose state is another one; a change that
leaves all four as they were is a failing disk's, and `oid-async metadata pull` hashes everything. Blocking.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

Stored = Mapping[str, tuple[int, str]]


def stored_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and MD5 of the files in a folder. Raises OSError."""
    return {path.name: stored_file(path) for path in sorted(folder.iterdir())}


def stored_file(path: Path) -> tuple[int, str]:
    """Return size and MD5 of a file. Raises OSError."""
    return path.stat().st_size, _md5(path)


def states(folder: Path, files: Stored) -> dict[str, list[int]]:
    """Return the states of those of the files that are there."""
    found = {}
    for name in files:
        if (path := folder / name).is_file():
            state = path.stat()
            found[name] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    return found


def first_damaged(folder: Path, files: Stored) -> str | None:
    """Return the name of a file that is not what was stored, None if all are."""
    for name, (size, md5) in files.items():
        try:
            path = folder / name
            if path.stat().st_size != size or _md5(path) != md5:
                return name
        except OSError:
            return name
    return None


def is_readable(path: Path) -> bool:
    """Return whether a Parquet file has a readable end: all that can be said of one that has no stored hash."""
    try:
        pl.scan_parquet(path, glob=False).collect_schema()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True


def sealed(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return a note with a seal, so that a damaged one is not believed."""
    return {**note, "seal": _seal(note)}


def is_intact(note: Mapping[str, Any]) -> bool:
    """Return whether a note is as it was written; those of version 0.1.0 have no seal and tell no files.

    >>> note = sealed({"version": "1", "files": {}})
    >>> is_intact(note), is_intact(note | {"version": "2"}), is_intact({"version": "1"})
    (True, False, True)
    """
    if "seal" not in note and "files" not in note:
        return True
    return bool(note.get("seal") == _seal({name: value for name, value in note.items() if name != "seal"}))


def _seal(note: Mapping[str, Any]) -> str:
    return hashlib.md5(json.dumps(note, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
