"""Images of another folder brought into this one: hard links, else copies, each checked before it gets its name.

    source ──link, else copy──▶ temporary ──size, MD5──▶ intent log ──rename──▶ images/<name> ──▶ journal

What is checked is the temporary, which nobody else has. An image that is there already is checked and stays. A file
that is none of ours keeps its name, and the image gets one with its id. Blocking; from several threads at once.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oid_async.dataset.audit import set_aside
from oid_async.dataset.image_store import ImageStore
from oid_async.errors import InputError, storage_error
from oid_async.report import Outcome
from oid_async.store.disk import OPENER, discard, is_plain, plain_file, write_all
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import is_complete, md5_base64, read_header, refuse_start
from oid_async.store.journal import Journal
from oid_async.store.naming import clash_name
from oid_async.system.links import are_no_links, hard_link
from oid_async.system.opening import PLAIN

_BLOCK_BYTES = 1 << 20
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAIN


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image as a manifest lists it. None for `bytes` or `md5`: not known.

    `journalled` is the name that this folder's journal has for it, `is_known`: with these very bytes.
    """

    image_id: str
    subset: str | None
    name: str
    source: str | None
    url: str | None
    bytes: int | None
    md5: str | None
    journalled: str | None = None
    is_known: bool = False


class ImageCopies:
    """Brings images into an owned `folder`, from `store` if there is one.

    `own`: the manifest is this folder's own, so that a file of a listed name is ours, and set aside if it is damaged.
    """

    def __init__(self, folder: Folder, journal: Journal, store: ImageStore | None, *, own: bool) -> None:
        self._folder = folder
        self._journal = journal
        self._store = store
        self._own = own
        self.may_link = True
        self.copied = 0

    def place(self, batch: Iterable[WantedImage]) -> list[tuple[str, bool]]:
        """Bring some images, journal those that are there; return the name of each, and whether it is there.

        Raises StorageError.
        """
        results, outcomes = [], []
        try:
            for image in batch:
                name, outcome = self._place_one(image)
                results.append((name, outcome is not None))
                if outcome is not None and not (image.is_known and name == image.journalled):
                    outcomes.append(outcome)
        except OSError as error:
            raise storage_error(error, self._folder.path) from error
        finally:
            self._journal.append(outcomes)
        return results

    def _place_one(self, image: WantedImage) -> tuple[str, Outcome | None]:
        name, images = image.name, self._folder.images
        while os.path.lexists(images / name):
            if (there := _as_wanted(images / name, image)) is not None:
                return name, there
            if name == image.name and (self._own or (image.is_known and name == image.journalled)):
                set_aside(self._folder, [name])
                break
            name = clash_name(name, image.image_id)
        part = self._folder.temporary(image.image_id, image.subset)
        try:
            found = self._bring(image, part)
            if found is None:
                discard(part)
                return name, None
            outcome = found.named(str(images / name))
            self._journal.intend(outcome)
            os.rename(part, images / name)
        except OSError:
            discard(part)
            raise
        return name, outcome

    def _bring(self, image: WantedImage, part: str) -> "_Found | None":
        """Make the temporary of an image; None if no whole one is to be had."""
        if image.journalled is not None and image.journalled != image.name:
            # An earlier query has saved it under another name.
            path = self._folder.images / image.journalled
            if _may_be(path, image) and self._link(path, part) and (found := _found(part, image)) is not None:
                return found
        if self._store is None:
            return None
        try:
            source = self._store.path(image.name)
            if source is None:
                self._write(part, iter((self._store.read(image.image_id, image.name),)))
                return _found(part, image)
        except InputError:
            return None
        return _found(part, image) if _may_be(source, image) and self._link(source, part) else None

    def _link(self, path: Path, part: str) -> bool:
        """Link a file to a temporary name, else copy it; return whether it was there to be read."""
        discard(part)
        if self.may_link:
            try:
                hard_link(path, part)
            except OSError as error:
                self.may_link = not are_no_links(error)
            else:
                return True
        self._write(part, _blocks(path))
        return True

    def _write(self, part: str, blocks: Iterator[bytes]) -> None:
        file = OPENER(part, _FRESH)
        try:
            for block in blocks:
                write_all(file, block)
        finally:
            os.close(file)
        self.copied += 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What a file that is a wanted image is."""

    image: WantedImage
    bytes: int
    width: int | None
    height: int | None

    def named(self, path: str) -> Outcome:
        """Return the Outcome under the path that the file has, or is to have."""
        image = self.image
        return Outcome(
            image.image_id,
            "present",
            path,
            source=image.source,
            url=image.url,
            bytes=self.bytes,
            md5=image.md5,
            width=self.width,
            height=self.height,
            subset=image.subset,
        )


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield what can be read of a file: one that is cut short by an error is not the wanted image."""
    with suppress(OSError), plain_file(path) as source:
        while block := source.read(_BLOCK_BYTES):
            yield block


def _may_be(path: Path, image: WantedImage) -> bool:
    """Return whether a file is worth a look: a plain one, of the right size."""
    try:
        return is_plain(path) and image.bytes in (None, os.lstat(path).st_size)
    except OSError:
        return False


def _as_wanted(path: Path, image: WantedImage) -> Outcome | None:
    found = _found(path, image) if _may_be(path, image) else None
    return None if found is None else found.named(str(path))


def _found(path: str | Path, image: WantedImage) -> _Found | None:
    """Return what a file is if it is the wanted image: a picture of this size and MD5; without an MD5, a whole one."""
    try:
        with FileBytes(path) as body:
            if image.bytes not in (None, len(body)) or refuse_start(body[:16]) is not None:
                return None
            header = read_header(body)
            if not header.is_readable or (image.bytes is None and image.md5 is None):
                return None
            is_same = is_complete(body, header) if image.md5 is None else md5_base64(body) == image.md5
            return _Found(image, len(body), header.width, header.height) if is_same else None
    except OSError:
        return None
