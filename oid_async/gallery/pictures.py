"""The bytes that the gallery shows: saved images, their thumbnails, masks. Nothing else of the disk is ever opened.

What is asked for is an image of the manifest or the plain name of a mask, never a path: an address that has a slash, a
dot-dot or a NUL in it names nothing. Links are not followed, pipes and devices not opened.
"""

import re
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

from oid_async.dataset.image_store import StoredImage
from oid_async.dataset.packed_masks import packed_mask
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, NotPlainError
from oid_async.gallery.catalog import Catalog, NotFoundError
from oid_async.gallery.thumbnails import FORM, MOST_BYTES, NotShownError, ThumbnailCache, takes_much_memory, thumbnail
from oid_async.openimages.vocabulary import SPLITS
from oid_async.store.attached_files import NAMES
from oid_async.store.disk import plain_file
from oid_async.store.image_check import read_header
from oid_async.store.mask_check import HEAD_BYTES, refuse_mask
from oid_async.store.written_files import MASKS
from oid_async.system.file_names import NOT_IN_FOLDER

# What stands in a path where a name should be, as in `dataset.saved`.
_NO_NAME = re.compile(NOT_IN_FOLDER)
_NO_MASK = "there is no mask of this name"
# A browser decodes the whole picture, four bytes a pixel: this is 1 GB.
_MOST_PIXELS = 250_000_000
# The size of a JPEG stands in front of its pixels, behind thumbnails and colour profiles.
_START_BYTES = 1 << 20


class Pictures:
    """The pictures of one folder. Blocking: called in threads."""

    def __init__(self, catalog: Catalog, thumbnails: ThumbnailCache) -> None:
        self._catalog = catalog
        self._thumbnails = thumbnails
        self._one_by_one = threading.Lock()

    def image(self, split: str, image_id: str) -> StoredImage:
        """Open a saved image, to be closed. Raises NotFoundError, NotShownError for one of too many pixels, OSError."""
        image = self._saved(split, image_id)
        try:
            header = read_header(image.read(0, _START_BYTES))
            if (header.width or 0) * (header.height or 0) > _MOST_PIXELS:
                raise NotShownError(f"too large to be shown: it claims {header.width} x {header.height} pixels")
        except BaseException:
            image.close()
            raise
        return image

    def _saved(self, split: str, image_id: str) -> StoredImage:
        saved, dataset = self._catalog.saved_image(split, image_id), self._catalog.dataset
        name = saved.file_name
        if saved.status != "ok":
            raise NotFoundError("the image was not saved" if saved.status == "failed" else "it has not landed yet")
        if name is None or _NO_NAME.search(name) or dataset.image_files.folder.is_symlink():
            raise NotFoundError("its FileName names no file of images/; the manifest was changed")
        try:
            return dataset.image_store.open(image_id, name)
        except InputError as error:
            raise NotFoundError(str(error)) from error

    def thumbnail(self, split: str, image_id: str) -> bytes:
        """Return a small JPEG of a saved image. Raises NotFoundError, NotShownError, OSError."""
        with self._saved(split, image_id) as image:
            key = f"{FORM} {split}/{image_id} {image.size} {image.changed_ns}"
            if (kept := self._thumbnails.get(key)) is not None:
                return kept
            if image.size > MOST_BYTES:
                raise NotShownError(f"too large for a thumbnail: {image.size} bytes")
            body = image.read()
        with self._one_by_one if takes_much_memory(body) else nullcontext():
            made = thumbnail(body)
        self._thumbnails.put(key, made)
        return made

    def mask(self, name: str) -> StoredImage | bytes:
        """Open a mask by its MaskPath, to be closed; make it of its run lengths where masks are in shards.

        Raises NotFoundError, NotShownError for what is none, OSError.
        """
        dataset = self._catalog.dataset
        if NAMES[MASKS].fullmatch(name) is None or dataset.masks_folder.is_symlink():
            raise NotFoundError(_NO_MASK)
        try:
            mask = _opened(dataset.masks_folder / name)
        except NotFoundError:
            if (made := self._packed_mask(dataset, name)) is not None:
                return made
            raise
        try:
            if (refused := refuse_mask(mask.read(0, HEAD_BYTES), mask.size)) is not None:
                raise NotShownError(f"it is not shown: {refused[1]}")
        except BaseException:
            mask.close()
            raise
        return mask

    def _packed_mask(self, dataset: SavedDataset, name: str) -> bytes | None:
        """Return a mask that is in a shard, None if there is none."""
        image_id = name.partition("_")[0]
        try:
            sample = dataset.image_store.sample(image_id)
        except InputError:
            return None
        for split in SPLITS if sample is not None else ():
            with suppress(NotFoundError):
                for row in self._catalog.image(split, image_id)["masks"]:
                    if row["MaskPath"] == name and sample is not None:
                        with self._one_by_one:
                            return packed_mask(sample, row)
        return None


def _opened(path: Path) -> StoredImage:
    try:
        file = plain_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(_NO_MASK) from error
    except NotPlainError as error:
        raise NotFoundError(f"it is {error.strerror}, and so not opened") from error
    return StoredImage.of_file(file)
