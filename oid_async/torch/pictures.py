"""The bytes of saved images and masks for a worker: no Polars, and no client of a bucket, in its process.

Files and tar shards of this machine are read where they are. Parquet shards, and shards in a bucket, are read by a
process of the worker's own (`shard_reader`): what reads them has threads, which a forked worker has not.
"""

import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import polars as pl

from oid_async.dataset.image_store import ImageFiles, ImagesBeingPacked, ImageShards, key_of
from oid_async.dataset.packed_images import PackedImages
from oid_async.dataset.packed_masks import packed_masks
from oid_async.dataset.place_files import FolderFiles, PlaceFiles
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, OidError, StorageError
from oid_async.options.places import Bucket
from oid_async.store.attached_files import NAMES
from oid_async.store.disk import read_plain
from oid_async.store.folder import Folder
from oid_async.store.written_files import MASKS
from oid_async.tables.reading import TableFile
from oid_async.torch.process import search_path

_NO_SHARD = -1
_LAST_S = 5.0


class Stored(NamedTuple):
    """Where an image is: its file, or its shard, its first byte there (-1: a row of a Parquet file), its bytes."""

    image_id: str
    file_name: str
    shard: str | None = None
    offset: int = -1
    size: int = 0


class Mask(NamedTuple):
    """A row of the table of masks: MaskPath, MID, and XMin, XMax, YMin, YMax of its box, fractions within the image."""

    path: str
    label: str
    sides: tuple[float, ...]


class Pictures(Protocol):
    """Reads the pictures of a saved folder."""

    def image(self, at: Stored) -> bytes:
        """Return the bytes of an image. Raises InputError, StorageError."""
        ...

    def masks(self, at: Stored, masks: Sequence[Mask], size: int) -> list[bytes | None]:
        """Return the PNGs of masks of an image of `size` bytes, None for one that is not there. Raises InputError."""
        ...


class FilePictures:
    """Images and masks that are files of two folders."""

    def __init__(self, images: str, masks: str) -> None:
        self._images = ImageFiles(Path(images))
        self._masks = masks

    def image(self, at: Stored) -> bytes:
        """Return the bytes of an image."""
        return self._images.read(at.image_id, at.file_name)

    def masks(self, at: Stored, masks: Sequence[Mask], size: int) -> list[bytes | None]:
        """Return the PNGs of masks."""
        return [self._mask(mask.path) for mask in masks]

    def _mask(self, name: str) -> bytes | None:
        path = f"{self._masks}{os.sep}{name}"
        # A name from a table, which may have come from anywhere with its folder.
        if NAMES[MASKS].fullmatch(name) is None or os.path.islink(self._masks):
            return None
        try:
            return read_plain(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


class ShardPictures:
    """Images and masks in the shards of one place; images that are not in one yet are files."""

    def __init__(self, files: PlaceFiles, loose: FilePictures | None = None) -> None:
        self._packed = PackedImages(
            files, TableFile(Path("manifest.parquet"), files.name("manifest.parquet")), pl.LazyFrame()
        )
        self._loose = loose

    def image(self, at: Stored) -> bytes:
        """Return the bytes of an image."""
        if at.shard is None:
            assert self._loose is not None
            return self._loose.image(at)
        if at.offset < 0:
            body: bytes = self._packed.rows(at.shard, [at.file_name]).item(0, "bytes")
            return body
        return self._packed.bodies(at.shard, [at.offset], [at.size])[0]

    def masks(self, at: Stored, masks: Sequence[Mask], size: int) -> list[bytes | None]:
        """Return the PNGs of masks."""
        if at.shard is None:
            assert self._loose is not None
            return self._loose.masks(at, masks, size)
        if at.offset < 0:
            held = self._packed.rows(at.shard, [at.file_name], masks=True).item(0, "masks")
            pngs = {mask["path"]: mask["bytes"] for mask in held if mask is not None}
            return [pngs.get(mask.path) for mask in masks]
        sample = self._packed.samples(at.shard, [at.offset], [size])[0]
        found = packed_masks(sample or b"", [(mask.label, mask.sides) for mask in masks])
        loose = [None] * len(masks) if self._loose is None else self._loose.masks(at, masks, size)
        return [png if png is not None else other for png, other in zip(found, loose, strict=True)]


class ProcessPictures:
    """Images and masks that a process of their own reads; it is started when the first one is asked for."""

    def __init__(self, place: str, endpoint_url: str | None) -> None:
        self._place = (place, endpoint_url)
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def image(self, at: Stored) -> bytes:
        """Return the bytes of an image."""
        body: bytes = self._ask("image", at)
        return body

    def masks(self, at: Stored, masks: Sequence[Mask], size: int) -> list[bytes | None]:
        """Return the PNGs of masks."""
        found: list[bytes | None] = self._ask("masks", at, list(masks), size)
        return found

    def _ask(self, *request: Any) -> Any:
        with self._lock:
            try:
                process = self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                pickle.dump(request, process.stdin)
                process.stdin.flush()
                answer = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                self._process = None
                raise StorageError(
                    f"{self._place[0]}: the process that reads its shards has ended; run again"
                ) from error
        if isinstance(answer, OidError):
            raise answer
        return answer

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "oid_async.torch.shard_reader"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Signals from a terminal are for the trainer; this process ends with it.
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": search_path()},
            )
            weakref.finalize(self, _end, self._process, os.getpid())
            assert self._process.stdin is not None
            pickle.dump(self._place, self._process.stdin)
        return self._process


def _end(process: "subprocess.Popen[bytes]", started_by: int) -> None:
    """End a reader: nothing more is asked of it. In a forked child it is another's."""
    if os.getpid() != started_by:
        return
    assert process.stdin is not None
    assert process.stdout is not None
    # Workers that were forked hold the pipe, too: its end would not come.
    with suppress(OSError, ValueError):
        pickle.dump(None, process.stdin)
        process.stdin.flush()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def located(dataset: SavedDataset, images: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return where images are (shard, offset, bytes; no columns for files), and the notes that `opened` takes.

    Blocking. Raises InputError.
    """
    files = {"images": str(dataset.image_files.folder), "masks": str(dataset.masks_folder)}
    if dataset.files is not None:
        place = dataset.savepath
        shards = images.get_column("Shard").drop_nulls().unique().sort()
        numbers = images.get_column("Shard").replace_strict(
            dict(zip(shards, range(len(shards)), strict=True)), default=_NO_SHARD, return_dtype=pl.Int32
        )
        offsets = images.get_column("ShardOffset").fill_null(-1).cast(pl.Int64)
        needs_process = isinstance(place, Bucket) or bool((offsets < 0).any())
        places = pl.DataFrame({"shard": numbers, "offset": offsets, "bytes": images["Bytes"].fill_null(0)})
        reader = {"reader": "process" if needs_process else "shards", "place": str(place)}
        return places, reader | {"shards": shards.to_list()}
    store = dataset.image_store
    if isinstance(store, ImageShards | ImagesBeingPacked):
        return _in_shards(store, images, files)
    return pl.DataFrame(), {"reader": "files", **files}


def _in_shards(
    store: ImageShards | ImagesBeingPacked, images: pl.DataFrame, files: dict[str, str]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    found = store.located()
    shards = found.get_column("shard").unique().sort()
    # Of two images with one id the second goes by another key there.
    own = pl.when("is_twin").then(pl.concat_str("ImageID", "Subset", separator="_", ignore_nulls=True))
    keys = images.select(id=own.otherwise("ImageID")).get_column("id")
    keyed = pl.DataFrame({"key": pl.Series(map(key_of, keys), dtype=pl.String)})
    rows = keyed.join(found.unique("key", keep="first"), on="key", how="left", maintain_order="left")
    number = pl.col("shard").replace_strict(
        dict(zip(shards, range(len(shards)), strict=True)), default=_NO_SHARD, return_dtype=pl.Int32
    )
    places = rows.select(number, offset=pl.col("offset").fill_null(-1), bytes=pl.col("size").fill_null(0))
    return places, {"reader": "shards", "place": str(store.folder), "shards": shards.to_list(), **files}


def opened(notes: dict[str, Any]) -> Pictures:
    """Return what reads the pictures that `located` has described."""
    if notes["reader"] == "files":
        return FilePictures(notes["images"], notes["masks"])
    if notes["reader"] == "process":
        return ProcessPictures(notes["place"], notes["endpoint_url"])
    loose = FilePictures(notes["images"], notes["masks"]) if "images" in notes else None
    return ShardPictures(FolderFiles(Folder(Path(notes["place"]))), loose)
