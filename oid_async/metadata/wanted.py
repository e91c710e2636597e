"""A table that is to be had, and how a version in the cache is built of its file."""

import shutil
from collections.abc import Callable
from pathlib import Path

from oid_async.errors import UnavailableError
from oid_async.metadata.checks import is_page, require_no_loss, require_published
from oid_async.metadata.convert import convert
from oid_async.metadata.entry import CachedVersion, CacheEntry
from oid_async.openimages.catalogue_tables import PublishedTable, TableKind
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.quick_values import frozen
from oid_async.tables.reading import TableFile

# The tables that are worth converting, and the kind of the annotations in them; None: of images.
CONVERTED: dict[TableKind, Kind | None] = {
    "images": None,
    "all_images": None,
    **{kind.table: kind for kind in KINDS.values()},
    "machine_labels": KINDS["label"],
}
# Refuses a table of the user's own; it gets the table, the good copy that it is to replace, an empty folder to work in.
Check = Callable[[TableFile, TableFile | None, Path], None]


@frozen
class Wanted:
    """A table to be had: its entry, its URL, and what is written of that.

    `table` is None for one of the user's own: `check` then raises InputError if it cannot be used.
    """

    entry: CacheEntry
    url: str
    written: str
    table: PublishedTable | None = None
    check: Check | None = None
    patient: bool = True

    @property
    def is_converted(self) -> bool:
        """Whether it is kept as Parquet."""
        return self.table is not None and self.table.kind in CONVERTED

    def build(
        self, cached: CachedVersion | None, *, progress: Callable[[int, int], None], stopped: Callable[[], bool]
    ) -> tuple[str, ...] | None:
        """Check the fetched file and build a version of it; return its columns if it is converted. Blocking.

        It must be as good as a `cached` version that it is to replace. Raises InputError, UnavailableError,
        StorageError, StoppedError.
        """
        entry, table = self.entry, self.table
        if is_page(entry.raw):
            raise UnavailableError(f"{entry.name}: {self.written} answers with a web page, not with a table")
        folder = entry.build()
        good = entry.table(cached) if cached is not None else None
        if table is not None:
            raw = TableFile(entry.raw, entry.name)
            require_published(raw, table)
            if self.is_converted:
                columns = convert(raw, folder, kind=CONVERTED[table.kind], progress=progress, stopped=stopped)
                if good is not None:
                    require_no_loss(TableFile(folder, entry.name, columns), good, table)
                return columns
            if good is not None:
                require_no_loss(raw, good, table)
            entry.raw.replace(folder / entry.name)
            return None
        self._build_given(folder, good)
        return None

    def _build_given(self, folder: Path, good: TableFile | None) -> None:
        # What kind of file it is, its name tells.
        path = folder / self.entry.name
        self.entry.raw.replace(path)
        if self.check is not None:
            scratch = folder / "scratch"
            scratch.mkdir()
            self.check(TableFile(path, self.written), good, scratch)
            shutil.rmtree(scratch)
