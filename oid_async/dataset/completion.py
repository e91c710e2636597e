"""Whether the tables of a folder are of the query that its query.json holds: the last run has come to its end.

A run writes query.json before its first request for an image and its tables, the manifest last, at its end. Both hold
the digest of the query (`dataset.query_digest`). Version 0.1.0 wrote neither digest nor a query.json at the start.
"""

from contextlib import suppress
from pathlib import Path

import polars as pl

from oid_async.store.atomic import read_json
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder
from oid_async.store.results import manifest_digest


def stored_digest(savepath: Path) -> str | None:
    """Return the digest in query.json; None if there is none, or no readable query.json."""
    query = read_json(savepath / "query.json")
    digest = query.get("digest") if isinstance(query, dict) else None
    return digest if isinstance(digest, str) else None


def is_finished(folder: Folder) -> bool:
    """Return whether the tables of a folder are of the query in query.json. Blocking.

    Without a manifest they are, unless query.json says `unfinished`: somebody has removed it then. A damaged manifest
    or query.json counts as a good one: its reader says what is wrong with it.
    """
    query = read_json(folder.path / "query.json")
    if not isinstance(query, dict):
        return True
    with suppress(OSError, pl.exceptions.PolarsError):
        if is_plain(folder.manifest) and (digest := manifest_digest(folder.manifest)) is not None:
            return stored_digest(folder.path) in (digest, None)
    return "unfinished" not in query
