"""Files that appear whole or not at all: written under a temporary name, then renamed.

Everything that is written under a name that others read goes through here, except images (`store.image_writer`), masks
(both use plain strings, which is much faster for small files) and the lines that are appended to the journal.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oid_async.store.disk import discard, read_plain, sync_file


@contextmanager
def replacing(path: Path, *, part: Path | None = None, durable: bool = False) -> Iterator[Path]:
    """Yield the temporary name of a file, or of a folder, which becomes `path` when the block ends well.

    `part` is on the same file system, by default next to it with `.part` behind its name; it is removed if the block
    raises. With `durable` the bytes are on the disk before the name is. Raises OSError.
    """
    part = part if part is not None else path.with_name(f"{path.name}.part")
    # A link of this name would be written through.
    discard(part)
    try:
        yield part
        if durable:
            sync_file(part)
        os.replace(part, path)
    except BaseException:
        discard(part)
        raise


def own_bytes(path: Path) -> None:
    """Give a file that has several names bytes of its own, before it is written to in place. Raises OSError.

    A hard link may be of a backup (`cp -al`), or of a file that somebody else means to have written to.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        with replacing(path, durable=True) as part:
            shutil.copyfile(path, part)
            os.utime(part, ns=(found.st_atime_ns, found.st_mtime_ns))


def rename_all(names: Mapping[Path, Path]) -> None:
    """Rename temporary files (the keys), each once the bytes of all are on the disk. Raises OSError.

    Syncing the folders of the new names is left to the caller.
    """
    for part in names:
        sync_file(part)
    for part, path in names.items():
        os.replace(part, path)


def write_text(path: Path, text: str, *, part: Path | None = None, durable: bool = False) -> None:
    """Write a small text file, UTF-8, whole or not at all. Raises OSError."""
    with replacing(path, part=part, durable=durable) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, part: Path | None = None, durable: bool = False) -> None:
    """Write plain values as JSON, whole or not at all. Raises OSError."""
    write_text(path, json.dumps(value), part=part, durable=durable)


def read_json(path: Path) -> Any:
    """Return what a JSON file of ours says, None where there is none, it is torn, or it is no plain file."""
    try:
        return json.loads(read_plain(path).decode())
    except (OSError, ValueError, RecursionError):
        return None
