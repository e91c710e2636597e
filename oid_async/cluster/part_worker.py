"""Carries out the parts of a plan in this process: images, shard, then the record that commits them.

    run(part) ─▶ plan file ─▶ images (PartStream) ─▶ tables, masks ─▶ shard (ShardMaker) ─▶ put, record (PartObjects)

Two threads may be in `run` at a time: the images of the next part come while the last one is packed and put. Together
they take twice --part-size in TMPDIR (2.03 times, measured): an image goes as soon as its sample is in the shard.
Memory does not grow with it (200 MB for tar, 400 MB for Parquet): a shard is put from its file.
"""

import os
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

import polars as pl

from oid_async.cluster.closing import Closing
from oid_async.cluster.part_file import PartFile
from oid_async.cluster.part_folder import PartFolder
from oid_async.cluster.part_masks import fetch_masks
from oid_async.cluster.part_objects import PartObjects
from oid_async.cluster.part_outcomes import part_outcomes, part_record
from oid_async.cluster.part_shard import PartShard, ShardMaker, part_classes
from oid_async.cluster.part_stream import PartImages, PartStream
from oid_async.cluster.published import Part
from oid_async.cluster.record import Record, ShardNote
from oid_async.cluster.work import MOST_TRIES, ClosedError, End, PartProgress, PartResult, WorkSettings
from oid_async.errors import machine_error, storage_error
from oid_async.masks.fetch import MaskReport
from oid_async.store.folder import Folder
from oid_async.store.results import Results

_PROGRESS_S = 0.5
# How long `close` waits for the parts under way to stop.
_CLOSE_S = 1.0


class PartWorker:
    """Carries out parts of one run, see `cluster.work.Worker`; `run` may be called from two threads at a time.

    Raises StorageError if TMPDIR cannot be written to, UsageError, InputError for a --class-map.
    """

    def __init__(self, settings: WorkSettings) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        query, options = settings.query, settings.options
        self.shards = ShardMaker(query, options, settings.classes or part_classes(query, options))
        self.folder = PartFolder()
        try:
            self.stream = PartStream(settings, self.folder.path)
        except BaseException:
            self.folder.remove()
            raise
        self.closing = Closing()
        self._ended = threading.Condition()
        self._under_way: list[_PartRun] = []

    def run(self, part: Part, *, attempt: int, progress: Callable[[PartProgress], None]) -> PartResult:
        """Carry a part out; see `cluster.work.Worker.run`."""
        one = _PartRun(self, part, progress)
        try:
            return one.run(is_last=attempt >= MOST_TRIES, again=attempt > 1)
        except Exception as error:
            if self.closing.is_closed:
                # Its folder is gone, or a transfer was cut off.
                raise ClosedError from error
            raise
        finally:
            self.end(one)

    def begin(self, one: "_PartRun") -> None:
        """Note that a part takes room from now on. Raises StorageError unless there is as much."""
        with self._ended:
            self._under_way.append(one)
            self.folder.check_room(sum(other.missing_bytes for other in self._under_way))

    def end(self, one: "_PartRun") -> None:
        """Note that a part takes none any more."""
        with self._ended:
            self._under_way = [other for other in self._under_way if other is not one]
            self._ended.notify_all()

    def close(self) -> None:
        """End what is under way and give everything back; see `cluster.work.Worker.close`."""
        self.closing.close()
        self.stream.close()
        with self._ended:
            self._ended.wait_for(lambda: not self._under_way, _CLOSE_S)
        self.folder.remove()


class _PartRun:
    """One part at one worker."""

    def __init__(self, worker: PartWorker, part: Part, progress: Callable[[PartProgress], None]) -> None:
        self._worker = worker
        self._settings = worker.settings
        self._part = part
        self._progress = progress
        self._objects = PartObjects(worker.settings.objects, part, worker.closing.check)
        self._images: PartImages | None = None
        self._began = self._told = monotonic()
        self._requests = 0
        self._wait = worker.closing.wait_for

    @property
    def missing_bytes(self) -> int:
        """How many bytes of its images may still come."""
        return max(0, self._part.bytes - (self._images.report.bytes if self._images is not None else 0))

    def run(self, *, is_last: bool, again: bool) -> PartResult:
        if (record := self._wait(self._objects.committed)) is not None:
            return self._result("already", record)
        self._worker.begin(self)
        number, path = self._worker.folder.of_part()
        root = self._worker.folder.path.parent
        try:
            return self._carry_out(Folder(path), number, is_last=is_last, again=again)
        except (OSError, pl.exceptions.PolarsError) as error:
            if isinstance(error, pl.exceptions.PolarsError) and machine_error(error) is None:
                raise
            raise storage_error(error, root) from error
        finally:
            self._remove(path)

    def _carry_out(self, folder: Folder, number: int, *, is_last: bool, again: bool) -> PartResult:
        for made in (folder.images, folder.tmp, folder.path / "shard"):
            made.mkdir(parents=True)
        path = folder.path / "part.parquet"
        path.write_bytes(self._wait(self._objects.plan))
        file = PartFile(path, self._settings.query)
        plan = folder.tmp / "00000.parquet"
        self._images = PartImages(folder, number, plan, file.images())
        report = self._images.report
        self._fetch(self._images, again=again)
        if not is_last and report.failures.get("network", 0) * 2 > report.selected:
            return self._result("unreachable", None)
        results = Results(folder, [plan], file.ids, 0)
        masks, shard = None, PartShard()
        if report.downloaded:
            results.write_annotations(file.annotations(folder.tmp / "rows"), results.write_images())
            masks = self._fetch_masks(folder, file)
            shard = self._worker.shards.make(folder, folder.path / "shard", self._worker.closing.check)
        outcomes = part_outcomes(results.outcomes(), shard)
        if (before := self._wait(self._objects.committed)) is not None:
            return self._result("already", before)
        end, record = self._wait(
            self._objects.put,
            shard,
            self._settings.query.ending,
            lambda note: self._record(outcomes, shard, note, masks),
        )
        return self._result(end, record)

    def _fetch(self, images: PartImages, *, again: bool) -> None:
        stream = self._worker.stream
        try:
            stream.call(stream.fetch(images, again=again), self._look)
        finally:
            images.journal.close()
        self._requests = images.requests
        self._tell()

    def _fetch_masks(self, folder: Folder, file: PartFile) -> MaskReport | None:
        """Fetch the masks of the saved images, if the query has masks."""
        settings, stream = self._settings, self._worker.stream
        if "segmentation" not in settings.query.kinds or settings.options.no_masks:
            return None
        size = settings.options.mask_size
        found = stream.call(fetch_masks(stream.client, stream.note, file, folder, mirror=settings.mirror, size=size))
        self._requests += stream.take_requests()
        return found

    def _record(
        self, outcomes: pl.DataFrame, shard: PartShard, note: ShardNote | None, masks: MaskReport | None
    ) -> bytes:
        record = part_record(self._part, outcomes, shard, note, masks)
        spent = round(monotonic() - self._began, 3)
        return replace(record, requests=self._requests, seconds=spent).to_parquet(outcomes)

    def _look(self) -> None:
        if monotonic() - self._told >= _PROGRESS_S:
            self._tell()

    def _tell(self) -> None:
        """Say how far the images are."""
        images = self._images
        assert images is not None
        self._told = monotonic()
        report, holding = images.report, self._worker.stream.holding if images.report.pending else ()
        progress = PartProgress(
            part=self._part.name,
            worker=self._worker.name,
            landed=report.downloaded + report.failed,
            failed=report.failed,
            bytes=report.bytes,
            requests=images.requests,
            failures=tuple(report.failures.items()),
            holding=holding,
            notes=self._worker.stream.take_notes(),
        )
        # Who cannot be told, because the way there is lost, must not cost a part.
        with suppress(Exception):
            self._progress(progress)

    def _result(self, end: End, record: Record | None) -> PartResult:
        return PartResult(self._part.name, end, record, self._requests, self._worker.stream.take_notes())

    def _remove(self, path: Path) -> None:
        """Remove the part's folder, unless images may still land in it: then it goes with the worker's."""
        if self._images is None or not self._images.is_abandoned:
            shutil.rmtree(path, ignore_errors=True)
