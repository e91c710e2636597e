"""Keeping runs out of a folder while it is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from oid_async.errors import InputError, LockedError, NotPlainError
from oid_async.store.disk import plain_file
from oid_async.store.folder import Folder
from oid_async.store.lock import FileLock


@contextmanager
def read_lock(folder: Folder) -> Iterator[None]:
    """Hold a shared lock on a folder: readers share it, a run takes it alone. Nothing is written.

    Raises LockedError while a run is on. A folder that no run has locked yet, or whose lock cannot be opened, as on a
    read-only disk of another user, is read without. Raises UsageError, InputError for folders or a lock that are links.
    """
    folder.refuse_links()
    path = folder.state / "lock"
    try:
        lock = FileLock.take(path, shared=True)
    except NotPlainError as error:
        raise InputError(error.advice) from error
    except OSError:
        lock = FileLock.nothing()
    if lock is None:
        with plain_file(path) as file:
            note = file.read(400).decode("utf-8", "replace").split("\n", 1)[0].strip()
        raise LockedError(f"{folder.path}: another run is on in this folder ({note or 'another process'})")
    with lock:
        yield
