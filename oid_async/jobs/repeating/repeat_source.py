"""What a repeat is of: a folder that a download has filled, its query.json, or a manifest alone. Blocking."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oid_async.dataset.completion import is_finished
from oid_async.dataset.image_store import ImageFiles, ImageStore
from oid_async.dataset.manifest import Manifest
from oid_async.dataset.place_files import FolderFiles
from oid_async.dataset.query_file import read_query_file
from oid_async.dataset.saved import SavedDataset
from oid_async.dataset.table_check import check_tables
from oid_async.errors import InputError, UsageError, input_errors
from oid_async.jobs.opening import is_place
from oid_async.jobs.repeating.repeat_plan import SavedSet
from oid_async.jobs.stored_query import shards_of
from oid_async.openimages.vocabulary import SOURCES, Source
from oid_async.options.paths import read_path, url_scheme
from oid_async.options.places import BUCKET_SCHEMES, as_folder, read_place
from oid_async.store.disk import read_plain
from oid_async.store.folder import Folder, packed_in

_PARQUET = b"PAR1"
_MANIFEST, _QUERY = "manifest.parquet", "query.json"
_USUAL: tuple[Source, ...] = ("cvdf", "original")


@dataclass(frozen=True, slots=True)
class RepeatSource:
    """A source as it was found: the folder that it is or is in, the manifest and the query that are taken of it.

    `is_alone`: of the manifest only, without the tables that may be beside it.
    """

    folder: Folder
    manifest: Path | None
    query: Path | None
    is_alone: bool = False

    @classmethod
    def find(cls, source: str | os.PathLike[str]) -> "RepeatSource":
        """Say what a source is. Raises UsageError for nothing, InputError for what is none of the three."""
        if url_scheme(str(source)) in BUCKET_SCHEMES:
            as_folder(read_place("SOURCE", source), "repeat")
        path = Path(read_path("SOURCE", source))
        with input_errors(path):
            return cls._of(path)

    @classmethod
    def _of(cls, path: Path) -> "RepeatSource":
        """Look at a source. Raises OSError, too."""
        if path.is_dir():
            return cls._of_folder(Folder(path))
        if not path.is_file():
            raise UsageError(f"{path}: there is no folder or file of this name")
        with path.open("rb") as file:
            start = file.read(4)
        if start == _PARQUET:
            # Who types the name of a link means the file, as in the cache of a hub.
            return cls(Folder(path.parent), path.resolve() if path.is_symlink() else path, None, is_alone=True)
        if start[:1] in (b"{", b"[") or path.suffix.lower() == ".json":
            folder = Folder(path.parent)
            is_beside = path.name == _QUERY and folder.manifest.exists() and is_finished(folder)
            return cls(folder, folder.manifest if is_beside else None, path)
        raise InputError(f"{path}: neither a folder of a download, nor its {_QUERY}, nor a {_MANIFEST}")

    @classmethod
    def _of_folder(cls, folder: Folder) -> "RepeatSource":
        query = folder.path / _QUERY
        has_query = os.path.lexists(query)
        if os.path.lexists(folder.manifest) and is_finished(folder):
            return cls(folder, folder.manifest, query if has_query else None)
        if not has_query:
            raise InputError(f"{folder.path}: it holds neither {_MANIFEST} nor {_QUERY}: no download has filled it")
        return cls(folder, None, query)

    def within(self, savepath: Path) -> "RepeatSource":
        """Return the source for a call that fills `savepath`: a folder's own manifest stands for all of the folder."""
        if self.is_alone and self.manifest == self.folder.manifest and is_same(self.folder.path, savepath):
            query = self.folder.path / _QUERY
            return RepeatSource(self.folder, self.manifest, query if query.exists() else None)
        return self

    def content(self) -> dict[str, Any] | None:
        """Return what query.json says, None if there is none. Raises InputError."""
        if self.query is None:
            return None
        if self.query == self.folder.path / _QUERY:
            return read_query_file(self.folder.path)
        try:
            content = json.loads(read_plain(self.query).decode())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.query}: it is no query.json ({str(error)[:200]})") from error
        if not isinstance(content, dict):
            raise InputError(f"{self.query}: it is no query.json (no JSON object)")
        return content

    def read(self, savepath: Path, *, mirrored: bool) -> SavedSet:
        """Return the set that the manifest lists. Raises InputError for tables that are not what was written."""
        with input_errors(self.folder.path):
            return self._read(savepath, mirrored=mirrored)

    def _read(self, savepath: Path, *, mirrored: bool) -> SavedSet:
        assert self.manifest is not None
        content = self.content()
        # Beside a manifest that stands alone there may be images of anybody.
        own = not self.is_alone and is_same(self.folder.path, savepath)
        manifest = Manifest.read(self.manifest)
        folder = None if self.is_alone else self.folder.path
        if folder is not None:
            self.folder.refuse_links()
            advice = f"oid-async verify {self.folder.path} --repair makes it anew"
            check_tables(SavedDataset(self.folder), edited=False, advice=advice)
        usual: tuple[Source, ...] = ("cvdf",) if mirrored else _USUAL
        query = content.get("query") if content is not None else None
        stored = content.get("sources") if content is not None else None
        sources = tuple(each for each in SOURCES if isinstance(stored, list) and each in stored)
        store = None if own else self._store()
        return SavedSet(
            manifest=manifest,
            folder=folder,
            own=own,
            content=content,
            sources=tuple(stored) if isinstance(stored, list) and len(sources) == len(stored) and stored else usual,
            names="id" if isinstance(query, Mapping) and query.get("names") == "id" else "url",
            store=store,
            images=self.folder if isinstance(store, ImageFiles) else None,
        )

    def _store(self) -> ImageStore | None:
        """Return where images are read from; None where there are none."""
        if self.is_alone:
            images = self.folder.images
            return ImageFiles(images) if images.is_dir() and not images.is_symlink() else None
        if is_place(self.folder):
            return SavedDataset(self.folder, files=FolderFiles(self.folder)).image_store
        if packed_in(self.folder) is None:
            return ImageFiles(self.folder.images)
        try:
            return SavedDataset(self.folder, shards=shards_of(self.folder)).image_store
        except InputError:
            return None


def is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one folder; one of them need not be there."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)
