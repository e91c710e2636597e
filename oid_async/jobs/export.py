"""One export, top to bottom: SAVEPATH -> what is planned -> a writer, span by span -> what was written -> its name.

Everything is written into a folder beside the export, `.<name>.oid_async/`, and gets its name once it is whole and
holds what was planned. Both doors and `download --format` use it. Blocking work runs in one thread.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl

from oid_async.concurrency import until_stopped
from oid_async.dataset.audit import looking_at
from oid_async.errors import InputError, LockedError, UsageError, machine_error, storage_error
from oid_async.events import Event, Exported, Note, Sink
from oid_async.formats.pictures import Pictures, picture_pool
from oid_async.formats.registry import WRITERS
from oid_async.formats.source import SPAN_ROWS, ExportPlan, ExportSource
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KINDS
from oid_async.options.export import ExportOptions
from oid_async.store.folder import Folder
from oid_async.version import __version__

# What tells an export of ours from a folder of somebody else's. Readers of every format pass over it.
MARKER = ".oid_async-export.json"
# Where pictures are made smaller or masks read, a span takes seconds: a stop is heard between two.
_FEW_ROWS = 256
_READS_MASKS = ("coco", "yolo", "webdataset", "parquet")
_CREDITED_BESIDE = ("yolo", "fiftyone")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export holds: images of each split, rows of each kind of annotation, and what was left out by reason."""

    format: str
    savepath: str
    out: str
    images: int
    splits: dict[str, int]
    annotations: dict[str, int]
    classes: int
    left_out: dict[str, int]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return one JSON object's worth of plain values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class Export:
    """One export of one folder. `processes` may share the work on pictures."""

    def __init__(self, savepath: Path, options: ExportOptions, sink: Sink, *, processes: int | str = 1) -> None:
        if options.format is None:
            raise UsageError(f"--format is one of {', '.join(WRITERS)}")
        self._folder = Folder(savepath)
        self._options = options
        self._sink = sink
        self._processes = processes
        self._tell: Callable[[Event], object] = sink
        self._raised: list[Exception] = []
        self.format = options.format
        self.out = options.out if options.out is not None else savepath / "export" / options.format

    async def run(self) -> ExportReport:
        """Export, and return what was exported.

        Raises InputError for a folder that no download has filled, or whose images are not there; UsageError when
        `out` holds something else; LockedError while a run is on; StorageError.
        """
        with looking_at(self._folder):
            return await self.within()

    async def within(self) -> ExportReport:
        """Export while the folder is held already."""
        loop, raised = asyncio.get_running_loop(), self._raised

        def hear(event: Event) -> None:
            try:
                self._sink(event)
            except Exception as error:
                raised.append(error)

        # The work is in a thread; whoever listens is called on the loop, and may stop it by what is raised.
        self._tell = lambda event: loop.call_soon_threadsafe(hear, event)
        report = await until_stopped(self._export)
        self._check_listener()
        return report

    def _check_listener(self) -> None:
        if self._raised:
            raise self._raised[0]

    def _export(self, stopped: Callable[[], bool]) -> ExportReport:
        started = monotonic()
        try:
            _check_free(self.out)
            with _stage(self.out) as stage:
                report = self._fill(stage, started, stopped)
                _give_name(stage / "export", self.out)
                return report
        except InterruptedError:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            if not isinstance(error, OSError) and machine_error(error) is None:
                raise
            raise storage_error(error, self.out) from error

    def _fill(self, stage: Path, started: float, stopped: Callable[[], bool]) -> ExportReport:
        options, export, scratch = self._options, stage / "export", stage / "scratch"
        _keep_or_clear(stage, export, self._identity(), goes_on=self.format == "webdataset")
        scratch.mkdir()
        writer_of = WRITERS[self.format]
        source = ExportSource(self._folder, options, writer_of.kinds, scratch)
        planned = source.planned
        self._announce(source)
        with picture_pool(self._processes, self._pictures(source)) as pool, ExitStack() as files:
            job = ExportContext(source, export, options, Pictures(source, copy=options.copy, pool=pool), files)
            writer = writer_of(job)
            done, total = 0, sum(planned.images.values())
            slow = options.max_side is not None or "segmentation" in source.kinds
            for span in source.spans(_FEW_ROWS if slow else SPAN_ROWS):
                self._check_listener()
                if stopped():
                    raise InterruptedError("the export was stopped")
                writer.write(span)
                done += len(span.images)
                self._tell(Exported(done, total))
            writer.finish()
        check_counts(planned, job)
        report = ExportReport(
            format=self.format,
            savepath=str(self._folder.path),
            out=str(self.out),
            images=total,
            splits={split: planned.images[split] for split in source.splits},
            annotations=dict(planned.rows),
            classes=len(source.classes.names) if {"bbox", "segmentation"} & set(source.kinds) else 0,
            left_out=dict(planned.left_out),
            seconds=monotonic() - started,
        )
        if self.format in _CREDITED_BESIDE:
            shutil.copyfile(self._folder.path / "ATTRIBUTION.csv", export / "ATTRIBUTION.csv")
        said = {"program": f"oid-async {__version__}", **report.as_json(), "options": self._said()}
        del said["seconds"]
        (export / MARKER).write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return report

    def _announce(self, source: ExportSource) -> None:
        planned = source.planned
        if self._options.no_files and self.format in ("webdataset", "parquet"):
            self._tell(Note(f"--no-files changes nothing here: {self.format} holds the images itself"))
        rows = ", ".join(f"{count} {KINDS[kind].what}" for kind, count in planned.rows.items())  # type: ignore[index]
        images = ", ".join(f"{split} {planned.images[split]}" for split in source.splits)
        self._tell(Note(f"exporting {sum(planned.images.values())} images ({images or 'none'}), {rows or 'no rows'}"))
        others = [kind for kind in KINDS.values() if (self._folder.path / kind.file).is_file()]
        homeless = [kind.what for kind in others if kind.name not in WRITERS[self.format].kinds]
        if homeless:
            self._tell(Note(f"{self.format} has no place for what was saved of {', '.join(homeless)}"))
        for reason, count in planned.left_out.items():
            self._tell(Note(f"left out: {count} of {reason}"))

    def _pictures(self, source: ExportSource) -> int:
        """Return how many pictures must be read or made smaller."""
        masks = source.planned.rows.get("segmentation", 0) if self.format in _READS_MASKS else 0
        return masks + (source.smaller() if self._options.max_side is not None else 0)

    def _said(self) -> dict[str, Any]:
        return {
            name: value if value is None or isinstance(value, int | float) else str(value)
            for name, value in ((name, getattr(self._options, name)) for name in ExportOptions.__dataclass_fields__)
        }

    def _identity(self) -> dict[str, Any]:
        """Return what the bytes of an export follow from: an unfinished one is gone on with if it is the same."""
        path = self._folder.path
        tables = {kind.file: _size(path / kind.file) for kind in KINDS.values()}
        try:
            with self._folder.manifest.open("rb") as file:
                manifest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            manifest = ""
        return {"manifest": manifest, "tables": tables, "options": self._said(), "program": __version__}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _check_free(out: Path) -> None:
    """Raise UsageError if a folder is there that is no earlier export."""
    if os.path.lexists(out) and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: it is there and is no export of ours; nothing is overwritten: name another")


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """Yield the folder beside the export that it is written into, for this process alone.

    It goes when the export is there; after an error or a stop what can be gone on with stays.
    """
    stage = out.absolute().parent / f".{out.name}.oid_async"
    stage.mkdir(parents=True, exist_ok=True)
    held = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{out}: another export into it is on; wait for its end, or stop it") from None
        except OSError:
            pass  # a file system that knows no locks
        try:
            yield stage
        except BaseException:
            shutil.rmtree(stage / "scratch", ignore_errors=True)
            if not (stage / "export" / "progress.json").exists():
                shutil.rmtree(stage, ignore_errors=True)
            raise
        shutil.rmtree(stage)
    finally:
        os.close(held)


def _keep_or_clear(stage: Path, export: Path, identity: dict[str, Any], *, goes_on: bool) -> None:
    """Make the folder of the export; what an earlier one has left there stays if it was the same and can go on."""
    note = stage / "identity.json"
    text = json.dumps(identity, sort_keys=True)
    try:
        same = goes_on and note.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        same = False
    for path in (stage / "scratch", *(() if same else (export,))):
        shutil.rmtree(path, ignore_errors=True)
    export.mkdir(exist_ok=True)
    note.write_text(text, encoding="utf-8")


def check_counts(planned: ExportPlan, job: ExportContext) -> None:
    """Raise InputError unless what was written is what was planned."""
    for what, wanted, written in (
        ("images", planned.images, job.written.images),
        ("rows", planned.rows, job.written.rows),
    ):
        for name in sorted(wanted.keys() | written.keys()):
            if wanted.get(name, 0) != written[name]:
                raise InputError(
                    f"{job.source.folder.path}: {wanted.get(name, 0)} {what} of {name} were planned and "
                    f"{written[name]} written: the tables do not fit the manifest; run the download again, then export"
                )


def _give_name(stage: Path, out: Path) -> None:
    """Put a whole export in the place of an earlier one, or of nothing."""
    before = stage.parent / "before"
    shutil.rmtree(before, ignore_errors=True)
    if os.path.lexists(out):
        out.rename(before)
    stage.rename(out)
    shutil.rmtree(before, ignore_errors=True)
