"""Images straight into shards: `download --format webdataset --no-files`. Millions of images are never so many files.

The plan is carried out a span at a time: its images land under images/ as ever, then they are packed, in order of
ImageID, and their files removed, while the next span is fetched. At most two spans are files at once (a span is 4,096
images, of large selections a 64th). Beside the shards, in OUT/.oid_async/:

    packed.txt       the name that each packed image had, a line each, in order of packing
    progress.json    how far shards and packed.txt have come (`formats.shards`), and the query that they are of

What is noted is on the disk before a file is removed. Whoever goes on cuts off what was written behind the note and
packs those images again, from their files; so the shards end in the same bytes, however often they were interrupted.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Self

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import LockedError, UsageError, machine_error, storage_error
from oid_async.events import Exported, Note, Sink
from oid_async.formats.classes import ExportClasses
from oid_async.formats.pictures import Pictures, picture_pool
from oid_async.formats.samples import SAMPLE_KINDS as SAMPLE_KINDS
from oid_async.formats.shards import Shards
from oid_async.formats.source import ExportSource
from oid_async.formats.webdataset import pack
from oid_async.formats.writer import ExportContext
from oid_async.jobs.export import ExportReport, check_counts
from oid_async.options.query import Options
from oid_async.select.names import NameHashes
from oid_async.store.folder import Folder
from oid_async.store.results import SavedAnnotations
from oid_async.store.shards_note import note_packed

# What of a query says nothing of what is in a shard.
_HOW = (
    "savepath",
    "mirror",
    "cache_dir",
    "offline",
    "concurrency",
    "rate",
    "period",
    "processes",
    "allow_hosts",
    "retries",
    "timeout",
    "max_wait",
    "limit_rate",
    "retry_failed",
    "max_failures",
    "max_bad_rows",
    "out",
)
_SPAN_ROWS = 1024
_MASKED_ROWS = 128

# Writes the result tables of the images in a plan's file into a folder.
WriteTables = Callable[[Folder, Path], None]
# Fetches the masks that the tables of a folder speak of into it.
FetchMasks = Callable[[Folder], Awaitable[None]]


class ShardPacker:
    """The shards of one SAVEPATH, for one run. Use as a context, under the folder's lock."""

    def __init__(self, folder: Folder, options: Options, sink: Sink) -> None:
        self.out = options.out or folder.path / "export" / "webdataset"
        self._folder = folder
        self._options = options
        self._sink = sink
        self._state = self.out / ".oid_async"
        self._list = self._state / "packed.txt"
        self._query = _digest(options)
        self._held: int | None = None
        self._shards: Shards | None = None
        self._resources = ExitStack()
        self._images: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._classes: ExportClasses | None = None
        self._write_tables: WriteTables | None = None
        self._fetch_masks: FetchMasks | None = None
        self._saved: Sequence[SavedAnnotations] = ()
        self._packed = pl.Series("hash", [], pl.UInt64)
        self._pool: Executor | None = None
        self._started = monotonic()

    def claim(self) -> Self:
        """Take hold of the shards and go on where the last note stands. Raises UsageError, LockedError, OSError."""
        is_ours = (self._state / "progress.json").is_file()
        if not is_ours and self.out.is_dir() and any(self.out.glob("*.tar*")):
            raise UsageError(f"--out {self.out} holds shards that are none of this download's: name another")
        if not is_ours and next(self._folder.names(), None) is not None:
            raise UsageError(
                f"{self._folder.images} holds images as files, which --no-files would remove: name another --savepath, "
                "or export them without --no-files"
            )
        self._state.mkdir(parents=True, exist_ok=True)
        self._held = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{self.out}: another run fills these shards; wait for its end, or stop it") from None
        except OSError:
            pass  # a file system that knows no locks
        progress = self._state / "progress.json"
        self._shards = Shards(self.out, self._options.shard_size, progress, durable=True)
        notes = self._shards.notes
        if notes and notes["query"] != self._query:
            raise UsageError(
                f"{self.out} holds the shards of another query: their samples say other things; name another --savepath"
            )
        if is_ours and not notes:
            raise UsageError(f"{self.out}: shards are missing that {progress} speaks of; name another --savepath")
        self._images.update(notes.get("images", {}))
        self._rows.update(notes.get("rows", {}))
        self._left_out.update(notes.get("left_out", {}))
        self._cut_list(notes)
        if not notes:
            self._note(0, 0)
        note_packed(self._folder, self.out)
        self._packed = NameHashes.of(self.names()).exact
        return self

    def _cut_list(self, notes: dict[str, Any]) -> None:
        """Forget names behind the note; remove the files of what the note says was packed last."""
        with self._list.open("a+b") as file:
            file.truncate(notes.get("listed", 0))
            file.seek(notes.get("before", 0))
            for name in file.read().decode().splitlines():
                with suppress(FileNotFoundError):
                    os.unlink(self._folder.images / name)

    def leave(self) -> None:
        """Let go of everything. Safe to call twice."""
        self._resources.close()
        if self._shards is not None:
            self._shards.release()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def names(self) -> Iterator[str]:
        """Yield the names of the packed images."""
        with suppress(FileNotFoundError), self._list.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")

    def prepare(self, write: WriteTables, saved: Sequence[SavedAnnotations], fetch_masks: FetchMasks | None) -> None:
        """Take what samples are made from: the tables of a span, the annotations in them, and their masks."""
        self._write_tables, self._saved, self._fetch_masks = write, saved, fetch_masks
        self._classes = _classes(saved)
        has_masks = any(each.source.kind.name == "segmentation" for each in saved)
        count = 1 << 20 if has_masks or self._options.max_side is not None else 0
        self._pool = self._resources.enter_context(picture_pool(self._options.processes, count))

    async def pack(self, plan: Path) -> None:
        """Pack what has landed of one span of the plan, and remove the files. Raises OidError."""
        view = await in_thread(self._view, plan)
        if view is None:
            return
        try:
            if self._fetch_masks is not None:
                await self._fetch_masks(view)
            await in_thread(self._pack, view)
            total = sum(self._images.values())
            self._sink(Exported(total, total))
        finally:
            await in_thread(shutil.rmtree, view.path, True)

    def _view(self, plan: Path) -> Folder | None:
        """Return a folder with the tables of a span's images that are not packed yet, None if there is none."""
        rows = pl.read_parquet(plan)
        is_packed = pl.col("FileName").hash().is_in(self._packed.implode())
        rows = rows.filter(~is_packed, pl.col("Action") != "failed")
        if not len(rows):
            return None
        view = Folder(self._folder.tmp / "span")
        shutil.rmtree(view.path, ignore_errors=True)
        view.tmp.mkdir(parents=True)
        view.images, view.journal = self._folder.images, self._folder.journal
        view.lines, view.new_lines = self._folder.lines, self._folder.new_lines
        part = view.tmp / "00000.parquet"
        rows.write_parquet(part)
        assert self._write_tables is not None
        self._write_tables(view, part)
        return view

    def _pack(self, view: Folder) -> None:
        shards, options = self._shards, self._options
        assert shards is not None
        try:
            with ExitStack() as files:
                scratch = view.tmp / "export"
                scratch.mkdir()
                source = ExportSource(view, options, SAMPLE_KINDS, scratch, classes=self._classes)
                job = ExportContext(source, self.out, options, Pictures(source, copy=False, pool=self._pool), files)
                slow = "segmentation" in source.kinds or options.max_side is not None
                names: list[str] = []
                for span in source.spans(_MASKED_ROWS if slow else _SPAN_ROWS):
                    for _ in pack(job, span, shards):
                        pass
                    job.wrote(span.images, {})
                    names += span.images.get_column("FileName").to_list()
                check_counts(source.planned, job)
            self._images.update(job.written.images)
            self._rows.update(job.written.rows)
            self._left_out.update(source.planned.left_out)
            self._settle(names)
        except OSError as error:
            if machine_error(error) is None:
                raise
            raise storage_error(error, self.out) from error

    def _settle(self, names: Sequence[str]) -> None:
        """Note what is packed now, then remove its files."""
        with self._list.open("ab") as file:
            before = file.tell()
            file.write("".join(f"{name}\n" for name in names).encode())
            file.flush()
            os.fsync(file.fileno())
            listed = file.tell()
        self._note(before, listed)
        for name in names:
            os.unlink(self._folder.images / name)
        self._packed = pl.concat([self._packed, pl.Series("hash", names, pl.String).hash()])

    def _note(self, before: int, listed: int) -> None:
        assert self._shards is not None
        counts = {"images": dict(self._images), "rows": dict(self._rows), "left_out": dict(self._left_out)}
        self._shards.note(query=self._query, before=before, listed=listed, **counts)

    async def finish(self) -> ExportReport:
        """Close the shards, and return and say what they hold."""
        report = await in_thread(self._finish)
        for reason, count in report.left_out.items():
            self._sink(Note(f"left out: {count} of {reason}"))
        self._sink(Note(f"{report.images} images are packed in {self.out}; none of them is a file"))
        return report

    def _finish(self) -> ExportReport:
        assert self._shards is not None
        self._shards.seal()
        size = self._list.stat().st_size
        self._note(size, size)
        self._shards.sweep()
        images = sum(self._images.values())
        return ExportReport(
            format="webdataset",
            savepath=str(self._folder.path),
            out=str(self.out),
            images=images,
            splits=dict(sorted(self._images.items())),
            annotations={kind: count for kind, count in self._rows.items() if count},
            classes=len(self._classes.names) if self._classes is not None else 0,
            left_out=dict(self._left_out),
            seconds=monotonic() - self._started,
        )


def _classes(saved: Sequence[SavedAnnotations]) -> ExportClasses:
    """Return the classes of boxes and masks, the same for every span: those that are meant, else all of the tables."""
    called: dict[str, str] = {}
    for each in saved:
        if each.source.kind.name in ("bbox", "segmentation"):
            names = each.source.class_names
            for label in each.labels if each.labels is not None else names:
                called.setdefault(label, names.get(label, label))
    return ExportClasses.of(called.items())


def _digest(options: Options) -> str:
    """Return the hash of what a query asks for, and of how its samples are made."""
    asked = {name: value for name, value in options.as_json().items() if name not in _HOW}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
