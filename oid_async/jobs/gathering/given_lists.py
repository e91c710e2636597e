"""The lists of a query: --image-ids, --exclude-ids, --category-file.

A file is read where it is. What comes by a pipe or as a Python sequence can be had once: it is copied, read from the
copy, and kept in SAVEPATH once it was of use, where query.json names it, so that the query can be repeated.
"""

import errno
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from oid_async.concurrency import in_thread, until_stopped
from oid_async.errors import InputError, UsageError, storage_errors
from oid_async.metadata.given import local_file
from oid_async.options.paths import shown
from oid_async.options.places import Bucket
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.quick_values import frozen
from oid_async.store.atomic import read_json, replacing, write_json
from oid_async.store.disk import md5_of, plain_file
from oid_async.store.folder import Folder
from oid_async.system.pipes import open_reader, read_blocks
from oid_async.tables.reading import TableFile

_NOTE = "lists.json"
_LINE_BYTES = 17  # an ImageID and the end of its line; hardly a list has shorter lines
# Reading these moves on in what somebody else has opened, also where it is a file.
_OPENED = ("/dev/", "/proc/")


@frozen
class GivenLists:
    """The lists of a run. `options` are the run's, with the kept file of each list that came by a pipe or sequence.

    `copies` are these lists by the names of their options, to be read from there; `names` is what messages call them.
    """

    options: Options
    copies: Mapping[str, Path]
    names: Mapping[str, str]

    def file(self, option: str) -> TableFile | None:
        """Return the list of an option, None if it is not given. Raises InputError if there is no readable file."""
        if option in self.copies:
            return TableFile(self.copies[option], self.names[option])
        given = getattr(self.options, option)
        return None if given is None else TableFile(local_file(given), shown(given))

    def most_listed(self) -> int | None:
        """Return how many images --image-ids may list, by its size, None without a list whose size can be told."""
        with suppress(InputError, OSError):
            listed = self.file("image_ids")
            return None if listed is None else listed.path.stat().st_size // _LINE_BYTES + 1
        return None

    def keep(self, folder: Folder) -> None:
        """Write the lists that came by a pipe or sequence into an owned folder. Raises UsageError, StorageError.

        A file of that name which is none of ours, and says something else, is left alone: that is an error.
        """
        ours = _ours(folder)
        now = {KEPT_LISTS[option]: _digest(copy) for option, copy in self.copies.items()}
        fresh = {name: digest for name, digest in now.items() if _digest(folder.path / name) != digest}
        for name in fresh:
            path = folder.path / name
            if os.path.lexists(path) and _digest(path) not in ours.get(name, ()):
                raise UsageError(
                    f"{path}: the list that came by a pipe would be kept there, and a file of your own has this name; "
                    "rename it, or give the list as a file"
                )
        with storage_errors(folder.path):
            if now:
                # Noted first: should the run die between the two, both states are known as ours.
                notes = {name: sorted({*ours.get(name, ()), digest}) for name, digest in now.items()}
                write_json(folder.state / _NOTE, {**ours, **notes}, part=folder.tmp / _NOTE)
            for option, copy in self.copies.items():
                if (name := KEPT_LISTS[option]) in fresh:
                    with replacing(folder.path / name, part=folder.tmp / name, durable=True) as part:
                        shutil.copyfile(copy, part)

    def drop_unused(self, folder: Folder) -> None:
        """Remove kept lists of an earlier query, which query.json no longer names. Raises OSError."""
        ours = _ours(folder)
        used = {os.path.abspath(given) for option in KEPT_LISTS if (given := getattr(self.options, option)) is not None}
        for name in KEPT_LISTS.values():
            path = folder.path / name
            if name in ours and os.path.abspath(path) not in used and _digest(path) in ours[name]:
                path.unlink(missing_ok=True)

    def identity(self, option: str) -> dict[str, Any]:
        """Return what query.json says of a list beside its state: that it is kept, where it is."""
        return {"kept": KEPT_LISTS[option]} if option in self.copies else {}


@asynccontextmanager
async def given_lists(options: Options) -> AsyncIterator[GivenLists]:
    """Take what can be read once; the copies are there until the block ends. Raises UsageError, InputError."""
    given = {option: getattr(options, option) for option in KEPT_LISTS}
    once = {option: value for option, value in given.items() if value is not None and _is_read_once(value)}
    paths = [value for value in once.values() if isinstance(value, str)]
    if len(set(paths)) < len(paths):
        raise UsageError(f"{paths[0]} is given for two lists, and what comes by a pipe can be read once")
    if not once:
        yield GivenLists(options, {}, {})
        return
    folder = Path(await in_thread(tempfile.mkdtemp, None, "oid-async-lists-"))
    try:
        names = {option: _name(option, value) for option, value in once.items()}
        copies = {option: folder / KEPT_LISTS[option] for option in once}
        for option, value in once.items():
            await until_stopped(_copy, value, names[option], copies[option])
        # In a bucket no option names them: who publishes the query there says where they are.
        home = folder if isinstance(options.savepath, Bucket) else options.savepath.absolute()
        kept: dict[str, Any] = {option: str(home / KEPT_LISTS[option]) for option in once}
        yield GivenLists(replace(options, **kept), copies, names)
    finally:
        await in_thread(shutil.rmtree, folder, True)


def _is_read_once(given: str | tuple[str, ...]) -> bool:
    if isinstance(given, tuple) or given == "-" or given.startswith(_OPENED):
        return True
    with suppress(OSError, ValueError):
        mode = os.stat(given).st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def _name(option: str, given: str | tuple[str, ...]) -> str:
    if isinstance(given, tuple):
        return option
    return "stdin" if given == "-" else shown(given)


def _copy(given: str | tuple[str, ...], name: str, path: Path, stopped: Callable[[], bool]) -> None:
    """Copy a list to a file, until its end. Raises InputError, StorageError."""
    with storage_errors(path), path.open("wb") as file:
        if isinstance(given, tuple):
            file.write(_text_of(given).encode("utf-8", "replace"))
            return
        with _opened(given, name) as descriptor:
            for chunk in _chunks(descriptor, name, stopped):
                file.write(chunk)


def _text_of(lines: tuple[str, ...]) -> str:
    """Return a sequence as the text of a list: lines, or JSON if one of them would not be the same as a line."""
    text = "\n".join(lines)
    is_plain = text.count("\n") == len(lines) - 1 and not any(sign in text for sign in "#\"'[\r")
    return f"{text}\n" if is_plain else json.dumps(list(lines), ensure_ascii=False, indent=1)


@contextmanager
def _opened(given: str, name: str) -> Iterator[int]:
    """Yield the descriptor of a pipe or of stdin. A pipe nobody writes to is opened all the same."""
    try:
        if given == "-":
            # A descriptor 0 that was closed may be something else by now.
            if sys.stdin is None:
                raise ValueError("closed")
            descriptor = sys.stdin.fileno()
        else:
            descriptor = open_reader(given)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    try:
        yield descriptor
    finally:
        if given != "-":
            os.close(descriptor)


def _chunks(descriptor: int, name: str, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """Yield what comes until its end, or until `stopped`. Raises InputError."""
    try:
        yield from read_blocks(descriptor, stopped)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    number = getattr(error, "errno", None)
    reason = "it is closed" if number in (None, errno.EBADF) else getattr(error, "strerror", None) or str(error)
    return InputError(f"{name}: cannot be read as a list ({reason})")


def _ours(folder: Folder) -> dict[str, list[str]]:
    """Return the MD5 of each list that this program has kept in a folder, by its name."""
    found: dict[str, list[str]] = {}
    note = read_json(folder.state / _NOTE)
    if isinstance(note, dict):
        found = {name: [str(each) for each in digests] for name, digests in note.items() if isinstance(digests, list)}
    # .oid_async may have been deleted.
    query = read_json(folder.path / "query.json")
    tables = query.get("tables") if isinstance(query, dict) else None
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and isinstance(name := table.get("kept"), str):
            found.setdefault(name, []).append(str(table.get("md5")))
    return found


def _digest(path: Path) -> str | None:
    """Return the MD5 of a plain file in hex, None if it is none."""
    with suppress(OSError), plain_file(path) as file:
        return md5_of(file).hexdigest()
    return None
