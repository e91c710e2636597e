"""Whether files of the cache are as they were stored: their sizes and MD5s, and a note of when that was last checked.

    {name: [bytes, MD5 in hex]}                              what was stored
    {name: [bytes, mtime and ctime in ns, inode]}            the state in which a file was last found to be that

Hashing the train boxes takes a second, so it is done again only for a file whose state is another one; a change that
leaves all four as they were is a failing disk's, and `oid-async metadata pull` hashes everything. Blocking.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.store.disk import is_plain, md5_of, plain_file

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
        if is_plain(path := folder / name):
            state = path.lstat()
            found[name] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    return found


def first_damaged(folder: Path, files: Stored) -> str | None:
    """Return the name of a file that is not what was stored, None if all are. A name that leads elsewhere is none."""
    for name, (size, md5) in files.items():
        path = folder / name
        try:
            if os.path.basename(name) != name or path.lstat().st_size != size or _md5(path) != md5:
                return name
        except (OSError, ValueError):
            return name
    return None


def is_as_stored(folder: Path, name: str, note: Mapping[str, Any]) -> bool:
    """Return whether a file is what a note on it tells, which may be anybody's."""
    try:
        size, md5 = note["files"][name]
    except (KeyError, TypeError, ValueError):
        return False
    return first_damaged(folder, {name: (size, md5)}) is None


def is_readable(path: Path, columns: Collection[str] = ()) -> bool:
    """Return whether a Parquet file has a readable end that names these columns.

    That is all that can be said of one that has no stored hash.
    """
    if not is_plain(path):
        return False
    try:
        return set(columns) <= set(pl.scan_parquet(path, glob=False).collect_schema())
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False


def is_header_text(text: Any) -> bool:
    """Return whether a value of a note is text that may stand in the header of a request."""
    return isinstance(text, str) and not any(letter < " " or letter == "\x7f" for letter in text)


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
    with plain_file(path) as file:
        return md5_of(file).hexdigest()
