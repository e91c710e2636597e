"""The names of a class table as a plain list beside it in the cache: what a shell offers when Tab is pressed.

    FOLDER/names.txt    each name once, a line each, in order; names that a terminal would not show as they are left out

No program of ours reads it. It is made when the table is used and the list is missing or older than the table.
"""

import os
import secrets
from pathlib import Path

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.store.atomic import write_text
from oid_async.tables.reading import TableFile

NAMES = "names.txt"
# The class tables of which names are kept: what has boxes, and what has labels or points.
NAMED: tuple[TableKind, ...] = ("classes", "all_classes")


def keep_names(folder: Path, table: TableFile) -> None:
    """Write the list of a cached class table into the folder of its entry, if it is not there. Blocking, quick.

    A table that cannot be read, or a cache that may only be read, has none.
    """
    path = folder / NAMES
    try:
        if path.exists() and path.stat().st_mtime >= table.path.stat().st_mtime:
            return
        if not os.access(folder, os.W_OK):
            return
        from oid_async.tables.class_tables import read_classes

        names = {name for name in read_classes(table)[0].names.values() if name.isprintable()}
        lines = "".join(f"{name}\n" for name in sorted(names, key=lambda name: (name.casefold(), name)))
        write_text(path, lines, part=path.with_name(f"{NAMES}.{secrets.token_hex(6)}.part"))
    except (InputError, OSError):
        pass  # completion is a courtesy
