"""Copies of what no run can make again: query.json, and the lists that a query read from SAVEPATH itself.

.oid_async/kept/<name>      a line with the MD5 of the rest, in hex, then the bytes of SAVEPATH/<name>
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oid_async.options.query_table import KEPT_LISTS
from oid_async.store.atomic import replacing
from oid_async.store.disk import is_plain, read_plain
from oid_async.store.folder import Folder

KEPT = ("query.json", *KEPT_LISTS.values())


def keep_inputs(folder: Folder, text: str, query: Mapping[str, Any]) -> None:
    """Keep copies of query.json (its text) and of the lists in SAVEPATH that it names; drop others. Raises OSError."""
    keep(folder, "query.json", text.encode())
    lists = own_lists(folder, query)
    for name in KEPT_LISTS.values():
        if name in lists:
            keep(folder, name, read_plain(lists[name]))
        else:
            kept_path(folder, name).unlink(missing_ok=True)


def own_lists(folder: Folder, query: Mapping[str, Any]) -> dict[str, Path]:
    """Return the lists in SAVEPATH that a query.json names; a list beside them may be anybody's."""
    found = {}
    for option, name in KEPT_LISTS.items():
        path, given = folder.path / name, query.get("query", {}).get(option)
        is_named = isinstance(given, str) and os.path.abspath(given) == os.path.abspath(path)
        if is_named and is_plain(path):
            found[name] = path
    return found


def keep(folder: Folder, name: str, body: bytes) -> None:
    """Keep a copy of a file of SAVEPATH, unless there is one. Raises OSError."""
    if read_kept(folder, name) == body:
        return
    path = kept_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, part=folder.tmp / f"kept-{name}") as part:
        part.write_bytes(_md5(body) + b"\n" + body)


def read_kept(folder: Folder, name: str) -> bytes | None:
    """Return the copy of a file; None if there is none or it is damaged."""
    try:
        digest, _, body = read_plain(kept_path(folder, name)).partition(b"\n")
    except OSError:
        return None
    return body if digest == _md5(body) else None


def kept_path(folder: Folder, name: str) -> Path:
    """Return where the copy of a file is."""
    return folder.state / "kept" / name


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).hexdigest().encode()
