"""The folders and files outside SAVEPATH that a run has used: how a later reader knows that they are the user's own.

query.json names them, and it may come from anywhere, with a folder that somebody has sent. So whoever reads a folder
takes none of them that its own call has not named, unless a run of this user has used them, in this very folder:

    .oid_async/places.json     {"cache_dir": "/data/tables", "annotation": "/data/boxes.csv", ...}
    .oid_async/places.stamp    the inode number and the time of change (ctime, ns) of places.json

The stamp proves it, as nobody can choose either: a file that was unpacked, copied or written to has others. On a disk
that is shared, places.json must also be the user's. Where it is no proof any more, the call must name the places.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from oid_async.dataset.query_digest import TABLES
from oid_async.metadata.paths import cache_root
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.redaction import is_http
from oid_async.store.atomic import write_text
from oid_async.store.disk import discard, open_plain, read_plain
from oid_async.store.folder import Folder
from oid_async.system.users import is_mine

_NOTE, _STAMP = "places.json", "places.stamp"


def note_places(folder: Folder, options: Options, shards: Path | None) -> None:
    """Note the places that a run uses, by the options of its own call. Blocking. Raises OSError."""
    places = _places(options, shards)
    note, stamp = folder.state / _NOTE, folder.state / _STAMP
    if not places:
        discard(note)
        discard(stamp)
    elif own_places(folder) != places:
        discard(stamp)
        write_text(note, json.dumps(places), part=folder.tmp / _NOTE)
        write_text(stamp, _stamp_of(os.lstat(note)), part=folder.tmp / _STAMP)


def own_places(folder: Folder) -> Mapping[str, str]:
    """Return the places that runs of this user have used, by their options; `out` is that of shards. Blocking."""
    with suppress(OSError, ValueError, RecursionError):
        file = open_plain(folder.state / _NOTE)
        with os.fdopen(file, "rb") as note:
            found = os.fstat(file)
            if is_mine(found) and read_plain(folder.state / _STAMP).decode() == _stamp_of(found):
                places = json.loads(note.read())
                if isinstance(places, dict) and all(isinstance(place, str) for place in places.values()):
                    return places
    return {}


def _places(options: Options, shards: Path | None) -> dict[str, str]:
    """Return the places that a reader would not look into by itself."""
    values = options.as_json()
    named = {name: value for name in ("cache_dir", *TABLES, *KEPT_LISTS) if (value := values[name]) is not None}
    if shards is not None:
        named["out"] = str(shards.absolute())
    usual = {"out": str(options.folder.absolute() / "export" / "webdataset")}
    if "cache_dir" in named:
        usual["cache_dir"] = str(cache_root(Options().cache_dir))
    usual |= {name: str(options.folder.absolute() / kept) for name, kept in KEPT_LISTS.items()}
    return {name: value for name, value in named.items() if not is_http(value) and value != usual.get(name)}


def _stamp_of(found: os.stat_result) -> str:
    return f"{found.st_ino} {found.st_ctime_ns}\n"
