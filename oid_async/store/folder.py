"""SAVEPATH: its paths, and the names of its temporary files.

SAVEPATH/images/              complete, verified images, flat
SAVEPATH/.oid_async/          lock, journal.tsv, intents/, lines/, plan/, tmp/: safe to delete when no run is on

One run owns it at a time: see `store.folder_lock`.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Self

from oid_async.errors import InputError, UsageError
from oid_async.openimages.kinds import KINDS
from oid_async.quick_values import frozen
from oid_async.store.atomic import read_json, write_json

# A million names are looked at in half a second this way, one by one in two (measured).
_LISTED_AT_ONCE = 16384
_IS_LINK = methodcaller("is_symlink")
# The folders that a download makes below SAVEPATH. Files are moved between them: each must be where it seems to be.
_FOLDERS = (
    "images",
    "export",
    *(kind.folder for kind in KINDS.values()),
    "segmentation/masks",
    "narrative/voice",
    ".oid_async",
    *(f".oid_async/{name}" for name in ("plan", "tmp", "lines", "intents", "kept", "rows", "damaged", "damaged/files")),
    ".oid_async/gallery",
    ".oid_async/gallery/thumbnails",
)


class Folder:
    """The paths of one SAVEPATH. Reading needs nothing more; take its `FolderLock` before anything is written."""

    def __init__(self, savepath: Path, *, scratch: Path | None = None) -> None:
        self.path = savepath
        self.images = savepath / "images"
        self.state = savepath / ".oid_async"
        # A dry run must not write to SAVEPATH: its plan is in a scratch folder of its own.
        work = scratch or self.state
        self.plan = work / "plan"
        self.tmp = work / "tmp"
        # The journal in columns (store.journal_index): the blocks that are there, and where more may be written.
        self.index = self.state / "lines"
        self.new_index = work / "lines"
        self.token = secrets.token_hex(4)
        self._temporaries = f"{self.tmp}{os.sep}"
        self.has_own_names = False
        self.journal = self.state / "journal.tsv"
        # What is about to get its name (store.intent_log): next to the journal.
        self.intents = self.state / "intents"
        self.manifest = savepath / "manifest.parquet"
        # Tables with the rows of images that a repeat in this folder has lost, until these come again.
        self.rows = self.state / "rows"

    @classmethod
    def of_owner(cls, savepath: Path, tmp: Path, token: str) -> Self:
        """Return the folder with the paths that the process which owns it has, for a worker process of the same run."""
        folder = cls(savepath)
        folder.tmp, folder.token = tmp, token
        folder._temporaries = f"{tmp}{os.sep}"
        return folder

    def use_own_names(self) -> None:
        """Plan and write temporaries in folders that no other run has; nothing changes if they are so already."""
        if self.has_own_names:
            return
        self.has_own_names = True
        self.plan /= self.token
        self.tmp /= self.token
        self._temporaries = f"{self.tmp}{os.sep}"

    def temporary(self, image_id: str, subset: str | None = None) -> str:
        """Return the path of an image's temporary file, which no other image or run uses; odd ids are hashed."""
        if subset is not None:
            image_id = f"{image_id}{subset}"
        if not image_id.isalnum() or len(image_id) > 64:
            image_id = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._temporaries}{image_id}-{self.token}.part"

    def sweep(self, *, keep_plan: bool = False) -> None:
        """Remove the plan and the temporaries: no run needs those of another.

        A reader needs the plan of a run that has not come to its end: with `keep_plan` it stays, if it has its note.
        """
        shutil.rmtree(self.tmp, ignore_errors=True)
        if not (keep_plan and (self.plan / PLAN_NOTE).exists()):
            shutil.rmtree(self.plan, ignore_errors=True)

    def sweep_own_names(self) -> None:
        """Remove what killed runs with names of their own left. Only the owner may: a live run's are among them."""
        for place in (self.plan.parent, self.tmp.parent):
            for path in place.glob("*/"):
                # A reader needs the plan of a run that has not come to its end.
                if not (path / PLAN_NOTE).exists():
                    shutil.rmtree(path, ignore_errors=True)

    def require(self) -> None:
        """Raise InputError if there is no such folder: likely its name was mistyped."""
        if not self.path.is_dir():
            raise InputError(f"{self.path}: {'it is no folder' if self.path.exists() else 'there is no such folder'}")

    def refuse_links(self) -> None:
        """Raise UsageError if a folder of ours is a link, or no folder: nothing below SAVEPATH may lead out of it.

        SAVEPATH itself may be one. Files are looked at where they are opened (`oid_async.store.disk`).
        """
        for name in _FOLDERS:
            path = self.path / name
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISLNK(mode):
                raise UsageError(
                    f"{path}: it is a link, and a download keeps its folders inside SAVEPATH, without following links; "
                    "make SAVEPATH itself the link, or mount the other disk there"
                )
            if not stat.S_ISDIR(mode):
                raise UsageError(f"{path}: it is no folder, and a download has a folder of this name; move it away")

    def names(self) -> Iterator[str]:
        """Yield the names of the files under images/, in no order; a name that is not UTF-8 is none of ours.

        Those of `links` are among them: they are taken, but no saved images.
        """
        # Imported here: it takes Polars with it, which a worker process has no need of.
        from oid_async.tables.reading import is_text

        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.images) as entries:
            found = map(attrgetter("name"), entries)
            while names := list(islice(found, _LISTED_AT_ONCE)):
                yield from names if "".join(names).isascii() else filter(is_text, names)

    def links(self) -> list[str]:
        """Return the names under images/ that are links, which no saved image is."""
        # Where the file system tells what an entry is with its name, this asks the disk nothing.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.images) as entries:
            return [os.fsencode(entry.name).decode("utf-8", "replace") for entry in filter(_IS_LINK, entries)]
        return []


SHARDS_NOTE = "shards.json"
# In the folder of a plan, from the moment that it is complete until the result tables are.
PLAN_NOTE = "plan.json"


@frozen
class PlanNote:
    """What a plan is of: the digest of its query, the journal's first line of its run, the form of the ids."""

    digest: str
    first_line: int
    hexadecimal: bool
    by_split: bool = False

    def write(self, plan: Path) -> None:
        """Write the note into the folder of the plan. Raises OSError."""
        write_json(plan / PLAN_NOTE, asdict(self))

    @classmethod
    def read(cls, plan: Path) -> Self | None:
        """Return the note in the folder of a plan, None if there is none, or none of this form."""
        match read_json(plan / PLAN_NOTE):
            case {"digest": str(digest), "first_line": int(first_line), "hexadecimal": bool(hexadecimal), **rest}:
                return cls(digest, first_line, hexadecimal, rest.get("by_split") is True)
        return None


def note_packed(folder: Folder, shards: Path) -> None:
    """Note that the images of this folder are in the shards there."""
    write_json(
        folder.state / SHARDS_NOTE, {"shards": str(shards.absolute())}, part=folder.tmp / SHARDS_NOTE, durable=True
    )


def packed_in(folder: Folder) -> str | None:
    """Return the place of the shards of a folder without image files, None for a folder of files."""
    for path in (folder.state / SHARDS_NOTE, folder.path / "query.json"):
        note = read_json(path)
        if isinstance(note, dict) and isinstance(shards := note.get("shards"), str):
            return shards
    return None
