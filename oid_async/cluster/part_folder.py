"""Where a worker has its parts until they are put away: a folder of its own in TMPDIR."""

from itertools import count
from pathlib import Path

from oid_async.errors import StorageError
from oid_async.report import size_text
from oid_async.store.disk import free_bytes
from oid_async.store.scratch import ScratchFolder

# Of the bytes of a part's images: they become its shard one by one, with the annotations and masks of each.
_TIMES = 1.25
_LEAST_BYTES = 16 << 20


class PartFolder:
    """A folder in TMPDIR until `remove`; what dead workers have left there is swept up first. Raises StorageError."""

    def __init__(self) -> None:
        self._folder = ScratchFolder.make("oid-async-part-")
        self._numbers = count(1)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._folder.path

    def of_part(self) -> tuple[int, Path]:
        """Return a number, and the path of that name, for another part."""
        number = next(self._numbers)
        return number, self.path / str(number)

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that can be done."""
        self._folder.remove()

    def check_room(self, wanted: int) -> None:
        """Raise StorageError unless a part with so many bytes of images has room beside what is there."""
        free, needed = free_bytes(self.path), int(_TIMES * wanted) + _LEAST_BYTES
        if free < needed:
            raise StorageError(
                f"{self.path.parent}: {size_text(free)} are free there, and the parts under way take up to "
                f"{size_text(needed)} more; set TMPDIR to a folder with more room, have fewer workers on this machine, "
                "or begin in another place with a smaller --part-size"
            )
