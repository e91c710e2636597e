"""The note of a folder whose images are in shards, not files under images/: .oid_async/shards.json, and in query.json.

{"shards": "/where/they/are"}
"""

from pathlib import Path

from oid_async.store.atomic import read_json, write_json
from oid_async.store.folder import Folder

SHARDS_NOTE = "shards.json"


def note_packed(folder: Folder, shards: Path) -> None:
    """Note that the images of this folder are in the shards there."""
    write_json(folder.state / SHARDS_NOTE, {"shards": str(shards.absolute())}, part=folder.tmp / SHARDS_NOTE)


def packed_in(folder: Folder) -> str | None:
    """Return the place of the shards of a folder without image files, None for a folder of files."""
    for path in (folder.state / SHARDS_NOTE, folder.path / "query.json"):
        note = read_json(path)
        if isinstance(note, dict) and isinstance(shards := note.get("shards"), str):
            return shards
    return None
