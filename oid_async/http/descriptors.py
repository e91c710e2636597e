"""How many transfers a limit on the open files of this process allows."""

# What a run has open in addition to connections: the interpreter, the loop, tables, the journal, files being stored.
_OWN = 64
# What a transfer has open: its connection and, with an embedded origin, the other end of it and the file read there.
_EACH = 3
_FEWEST = 2


def most_workers(wanted: int, limit: int | None) -> int:
    """Return how many of the wanted transfers a limit of descriptors allows, two at least.

    >>> most_workers(64, 1024), most_workers(64, 128), most_workers(64, 64), most_workers(1, 64), most_workers(64, None)
    (64, 21, 2, 1, 64)
    """
    if limit is None:
        return wanted
    return min(wanted, max(_FEWEST, (limit - _OWN) // _EACH))
