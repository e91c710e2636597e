"""Objects of a place as files of this machine: copies of a bucket's, the very files of a folder."""

from pathlib import Path

from oid_async.errors import storage_errors
from oid_async.objects.store import MissingError, Objects
from oid_async.store.disk import has_plain


class LocalCopies:
    """Files of objects by their keys, copied into `scratch` where the place is no folder. Safe to use from threads."""

    def __init__(self, objects: Objects, scratch: Path) -> None:
        self.place = str(objects.place)
        self._objects = objects
        self._folder = objects.place if isinstance(objects.place, Path) else None
        self._scratch = scratch

    def fetch(self, key: str) -> Path:
        """Return the file of an object, which it may wait for. Raises MissingError, StorageError, InputError."""
        if self._folder is not None:
            path = self._folder / key
            if not has_plain(path):
                raise MissingError(key)
            return path
        path = self._scratch / key
        # By one request; in blocks it would take two, for every one of ten thousand small files.
        body = self._objects.get(key)
        with storage_errors(self._scratch):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return path

    def drop(self, path: Path) -> None:
        """Forget a file that is not needed any more."""
        if self._folder is None:
            path.unlink(missing_ok=True)
