"""The mark of a folder whose images are in shards, not files under images/: .oid_async/shards.json, and in query.json.

{"shards": "/where/they/are"}
"""

import json
from pathlib import Path

from oid_async.store.folder import Folder

PACKED_NOTE = "shards.json"


def note_packed(folder: Folder, shards: Path) -> None:
    """Note that the images of this folder are in the shards there."""
    part = folder.tmp / PACKED_NOTE
    part.write_text(json.dumps({"shards": str(shards.absolute())}), encoding="utf-8")
    part.replace(folder.state / PACKED_NOTE)


def packed_in(folder: Folder) -> str | None:
    """Return where the shards of a folder are that holds no image files, else None."""
    for path in (folder.state / PACKED_NOTE, folder.path / "query.json"):
        try:
            said = json.loads(path.read_text(encoding="utf-8")).get("shards")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(said, str):
            return said
    return None
