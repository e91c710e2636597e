"""The disk space that tables need in the cache."""

from pathlib import Path

from oid_async.errors import StorageError
from oid_async.report import size_text
from oid_async.store.disk import free_bytes

# In addition to the raw file the conversion needs the rows twice: 0.55 times the size of the train boxes, 0.9 of the
# images.
_CONVERSION_SHARE = 1.0


def needed_bytes(total: int, have: int, *, converted: bool) -> int:
    """Return the bytes of disk that fetching the rest of a file and converting it take."""
    return total - have + (int(total * _CONVERSION_SHARE) if converted else 0)


def check_space(what: str, folder: Path, need: int) -> int:
    """Return the free bytes where a folder is or will be. Raises StorageError if they are fewer than needed."""
    free = free_bytes(folder)
    if need > free:
        raise StorageError(
            f"{what}: {size_text(need)} are needed in {folder} and {size_text(free)} are free; "
            "free some space or choose another --cache-dir"
        )
    return free
