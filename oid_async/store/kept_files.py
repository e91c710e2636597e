"""Copies of what no run can make again: query.json, and the lists that a query read from SAVEPATH itself.

.oid_async/kept/<name>      a line with the MD5 of the rest, in hex, then the bytes of SAVEPATH/<name>
"""

import hashlib
from pathlib import Path

from oid_async.store.atomic import replacing
from oid_async.store.folder import Folder

KEPT_LISTS = ("image_ids.txt", "exclude_ids.txt", "categories.txt")
KEPT = ("query.json", *KEPT_LISTS)


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
        digest, _, body = kept_path(folder, name).read_bytes().partition(b"\n")
    except OSError:
        return None
    return body if digest == _md5(body) else None


def kept_path(folder: Folder, name: str) -> Path:
    """Return where the copy of a file is."""
    return folder.state / "kept" / name


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).hexdigest().encode()
