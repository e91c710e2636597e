"""The hierarchy of classes that a download has kept beside its tables."""

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.kinds import HIERARCHY_FILES
from oid_async.store.disk import has_plain
from oid_async.tables.class_tables import read_hierarchy
from oid_async.tables.reading import TableFile


def kept_hierarchy(dataset: SavedDataset) -> Hierarchy | None:
    """Return it, None where there is none; of a bucket it is fetched. Raises InputError for one that is damaged."""
    for name in HIERARCHY_FILES:
        path = dataset.folder.path / name if dataset.files is None else dataset.files.fetch(name)
        if has_plain(path):
            shown = str(path) if dataset.files is None else dataset.files.name(name)
            try:
                return read_hierarchy(TableFile(path, shown))
            except InputError as error:
                raise InputError(f"{shown}: damaged; run the same download again, which writes it anew") from error
    return None
