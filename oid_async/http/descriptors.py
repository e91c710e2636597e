"""The limit on open files and connections of this process, and how many transfers it allows."""

from oid_async.system.processes import open_files_limit, raise_open_files_limit

# What a run has open in addition to connections: the interpreter, the loop, tables, the journal, files being stored.
_OWN = 64
# What a transfer has open: its connection and, with an embedded origin, the other end of it and the file read there.
_EACH = 3
_FEWEST = 2


def allowed() -> int | None:
    """Return how many descriptors this process may have, None for no limit."""
    return open_files_limit()


def most_workers(wanted: int, limit: int | None) -> int:
    """Return how many of the wanted transfers a limit of descriptors allows, two at least.

    >>> most_workers(64, 1024), most_workers(64, 128), most_workers(64, 64), most_workers(1, 64), most_workers(64, None)
    (64, 21, 2, 1, 64)
    """
    if limit is None:
        return wanted
    return min(wanted, max(_FEWEST, (limit - _OWN) // _EACH))


def raise_limit() -> None:
    """Raise the limit as far as the system allows. For the command line alone: it is global state."""
    raise_open_files_limit()
