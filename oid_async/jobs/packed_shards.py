"""The shards that a download fills in place of files: owned for one run, with a list of what is in them.

In OUT/.oid_async/, next to the shards:

    packed.txt       the name that each packed image had, a line each, in order of packing
    progress.json    how far shards and packed.txt have come (`formats.shards`), and the digest of their query

The note is on the disk before a file is removed. The next run cuts off what was written behind the note and packs those
images again, from their files; so the shards end in the same bytes, however often they were interrupted.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.export_list import LIST_SCHEMA, write_list
from oid_async.dataset.query_digest import shard_digests, typed_digest
from oid_async.errors import LockedError, UsageError
from oid_async.formats.dataset_card import CARD, is_own_card
from oid_async.formats.shards import Shards
from oid_async.formats.webdataset import objects_note, objects_of
from oid_async.jobs.export_folder import check_place
from oid_async.options.query import Options
from oid_async.select.names import NameHashes
from oid_async.store.atomic import own_bytes, write_text
from oid_async.store.disk import is_plain, open_plain, plain_file, read_plain
from oid_async.store.folder import Folder, note_packed
from oid_async.store.lock import BESIDE, FileLock
from oid_async.store.written_files import are_inside, size_and_md5
from oid_async.system.syncing import sync


def _names_in(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(os.listdir(folder))
    return []


def shards_folder(options: Options) -> Path:
    """Return where the shards of a query are."""
    return options.out or options.folder / "export" / "webdataset"


def packed_names(out: Path) -> Iterator[str]:
    """Yield the names of the images that are packed in these shards."""
    with suppress(FileNotFoundError), plain_file(out / ".oid_async" / "packed.txt") as file:
        for line in file:
            yield line.decode().removesuffix("\n")


class PackedShards:
    """The shards of one SAVEPATH, locked for one run: what they hold, and how far they have come.

    `images` counts the packed images of each split, `rows` the rows of each kind, `left_out` those left out by reason,
    `objects` boxes and masks by split and class; None: they were begun by version 0.1.0, which did not count them.
    """

    def __init__(self, folder: Folder, options: Options, shards: Shards) -> None:
        self.out = shards_folder(options)
        self.shards = shards
        self._folder = folder
        self._list = self.out / ".oid_async" / "packed.txt"
        self._query, of_0_1_0 = shard_digests(options)
        notes = shards.notes
        if notes and notes["query"] not in (self._query, of_0_1_0, typed_digest(options)):
            raise UsageError(
                f"{self.out} holds the shards of another query: their samples say other things; name another --savepath"
            )
        self.images = Counter[str](notes.get("images", {}))
        self.rows = Counter[str](notes.get("rows", {}))
        self.left_out = Counter[str](notes.get("left_out", {}))
        self.objects = objects_of(notes.get("objects", [])) if "objects" in notes or not notes else None
        self._cut_list(notes)
        if not notes:
            self._note(0, 0)
        note_packed(folder, self.out)
        self._packed = NameHashes.of(packed_names(self.out)).exact

    @classmethod
    @contextmanager
    def locked(cls, folder: Folder, options: Options) -> "Iterator[PackedShards]":
        """Own the shards of an owned folder and go on behind the last note. Raises UsageError, LockedError, OSError."""
        out = shards_folder(options)
        state = out / ".oid_async"
        progress = state / "progress.json"
        is_ours = is_plain(progress)
        check_place(out, folder)
        foreign = (
            None
            if is_ours
            else next((name for name in _names_in(out) if name.removesuffix(BESIDE) != state.name), None)
        )
        if foreign is not None:
            raise UsageError(f"--out {out} holds {foreign}, which is none of this download's: name another")
        if not is_ours and next(folder.names(), None) is not None:
            raise UsageError(
                f"{folder.images} holds images as files, which --no-files would remove: name another --savepath, "
                "or export them without --no-files"
            )
        state.mkdir(parents=True, exist_ok=True)
        lock = FileLock.take(state)
        if lock is None:
            raise LockedError(f"{out}: another run fills these shards; wait for its end, or stop it")
        with lock:
            shards = Shards(out, options.shard_size, progress, durable=True)
            try:
                if is_ours and not shards.notes:
                    raise UsageError(f"{out}: shards are missing that {progress} speaks of; name another --savepath")
                yield cls(folder, options, shards)
            finally:
                shards.release()

    def _cut_list(self, notes: dict[str, Any]) -> None:
        """Forget names behind the note; remove the files of those that the note lists as packed last."""
        own_bytes(self._list)
        with os.fdopen(open_plain(self._list, os.O_RDWR | os.O_CREAT | os.O_APPEND), "r+b") as file:
            file.truncate(notes.get("listed", 0))
            file.seek(notes.get("before", 0))
            for name in file.read().decode().splitlines():
                with suppress(FileNotFoundError, NotADirectoryError):
                    if not are_inside(pl.Series([name])) or "/" in name:
                        continue  # no name of an image: the list was changed
                    os.unlink(self._folder.images / name)

    def unpacked(self, plan: Path) -> pl.DataFrame:
        """Return the rows of a span of the plan whose images are saved and not packed yet."""
        is_packed = pl.col("FileName").hash().is_in(self._packed.implode())
        return pl.read_parquet(plan, glob=False).filter(~is_packed, pl.col("Action") != "failed")

    def add(self, names: Sequence[str]) -> None:
        """Note that the images of these names are packed now, then remove their files."""
        with os.fdopen(open_plain(self._list, os.O_WRONLY | os.O_APPEND), "ab") as file:
            before = file.seek(0, os.SEEK_END)
            file.write("".join(f"{name}\n" for name in names).encode())
            file.flush()
            sync(file.fileno())
            listed = file.tell()
        self._note(before, listed)
        for name in names:
            os.unlink(self._folder.images / name)
        self._packed = pl.concat([self._packed, pl.Series("hash", names, pl.String).hash()])

    def _note(self, before: int, listed: int) -> None:
        counts: dict[str, Any] = {
            "images": dict(self.images),
            "rows": dict(self.rows),
            "left_out": dict(self.left_out),
        }
        if self.objects is not None:
            counts["objects"] = objects_note(self.objects)
        self.shards.note(query=self._query, before=before, listed=listed, **counts)

    def finish(self, card: str) -> bool:
        """Close the shards that are open, and write their card: the download is complete. Raises OSError.

        Return whether the card was written: a README.md of somebody else stays.
        """
        self.shards.seal()
        self.shards.sweep()
        size = self._list.stat().st_size
        self._note(size, size)
        files = [(path.name, size, md5) for path, size, md5 in self.shards.files()]
        path = self.out / CARD
        is_ours = not os.path.lexists(path) or (is_plain(path) and is_own_card(read_plain(path)))
        if is_ours:
            write_text(path, card, part=self._list.with_name(CARD))
            files.append((CARD, *size_and_md5(path)))
        write_list(self.out, pl.DataFrame(files, schema=LIST_SCHEMA, orient="row"))
        return is_ours
