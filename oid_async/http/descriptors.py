"""How many files and connections this process may have open at once, and how many transfers that allows."""

import resource
from contextlib import suppress

# What a run has open beside its connections: the interpreter and the loop, tables, the journal, files that land.
_OWN = 64
# A transfer's share: its connection, the other end of it where the origin is embedded, and the file that end reads.
_EACH = 3
_FEWEST = 2


def allowed() -> int | None:
    """Return how many descriptors this process may have, None for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def most_workers(wanted: int, limit: int | None) -> int:
    """Return how many of the wanted transfers a limit of descriptors leaves room for; two always go.

    >>> most_workers(64, 1024), most_workers(64, 128), most_workers(64, 64), most_workers(1, 64), most_workers(64, None)
    (64, 21, 2, 1, 64)
    """
    if limit is None:
        return wanted
    return min(wanted, max(_FEWEST, (limit - _OWN) // _EACH))


def raise_limit() -> None:
    """Allow this process as many descriptors as it may have. For the command line alone: it is global state."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems name a hard limit that they do not grant; then the soft one stays.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
