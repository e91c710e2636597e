"""Fetching the masks of a run: from which archives, by which ranges; each member is checked and stored.

    wanted ─by split and first digit─▶ archive: directory ─▶ ranges ─▶ part ─▶ thread: unpack, check, write, rename

A mask's file has its name only once it is complete. A mask that fails affects no other one.
"""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.errors import storage_error
from oid_async.events import Note, Sink, TableProgress
from oid_async.http.retry import FetchError
from oid_async.masks.archive import Archive, ArchiveState, ChangedError, NoRangeError
from oid_async.masks.mask_image import refuse_picture, resized
from oid_async.masks.ranges import Ranges, choose_ranges
from oid_async.masks.zip_archive import SCHEMA, ArchiveError, MemberError, ZipMember, refusals, unpack
from oid_async.openimages.catalogue import mask_archive, object_url
from oid_async.openimages.vocabulary import Split
from oid_async.report import size_text
from oid_async.store.attached_files import NAMES, AttachedFiles
from oid_async.store.image_check import md5_base64
from oid_async.store.written_files import MASKS

if TYPE_CHECKING:
    from oid_async.http.client import Client

BUCKET = "openimages"
# How many parts, each of up to 8 MiB, and how many archives are fetched at once.
PARTS_AT_ONCE = 6
_ARCHIVES_AT_ONCE = 3
# Smaller archives are fetched faster than a note on them is read.
_WORTH_A_NOTE_BYTES = 10_000_000
# A part of more is one mask alone. Published masks have some kilobytes.
_LARGE_PART_BYTES = 9 << 20
_LARGE_MASK_BYTES = 4 << 20
# Column of `find_members`: "failure kind: text", null for a member that may be what its entry says.
WHY = "__why"


@dataclass(slots=True)
class MaskReport:
    """Counts of masks, and bytes fetched by this run; `failures` are (MaskPath, reason, detail)."""

    selected: int = 0
    present: int = 0
    downloaded: int = 0
    bytes: int = 0
    directory_bytes: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many failed."""
        return len(self.failures)


class MaskFetcher:
    """Fetches masks into `files`. `cache` is for archives' directories, `scratch` for temporaries on the same disk.

    `to_image_size` resizes each mask to its image's size in pixels; `again`: the masks there have another size
    and are replaced.
    """

    def __init__(
        self,
        client: "Client",
        sink: Sink,
        *,
        mirror: str | None,
        cache: Path,
        files: AttachedFiles,
        scratch: Path,
        to_image_size: bool = False,
        again: bool = False,
    ) -> None:
        self._client = client
        self._sink = sink
        self._mirror = mirror
        self._cache = cache
        self._files = files
        self._scratch = scratch
        self._to_image_size = to_image_size
        self._again = again
        self._parts = asyncio.Semaphore(PARTS_AT_ONCE)
        self._archives = asyncio.Semaphore(_ARCHIVES_AT_ONCE)
        self._large_parts = asyncio.Semaphore(1)
        self._one_large = threading.Lock()
        self.report = MaskReport()

    async def fetch(self, wanted: pl.LazyFrame) -> MaskReport:
        """Fetch the missing masks; `wanted`: MaskPath, Subset, Width and Height of the image. Raises StorageError."""
        frame = await in_thread(_grouped, wanted)
        self.report.selected = len(frame)
        groups = frame.partition_by("Subset", "digit", as_dict=True, include_key=False)
        await in_thread(lambda: self._files.path.mkdir(parents=True, exist_ok=True))
        with single_error():
            async with asyncio.TaskGroup() as tasks:
                for (split, digit), group in sorted(groups.items()):
                    tasks.create_task(self._fetch_from_archive(cast("Split", split), str(digit), group))
        if self.report.selected:
            self._progress(finished=True)
        return self.report

    async def fetch_placed(self, wanted: pl.DataFrame, archives: Mapping[str, ArchiveState]) -> MaskReport:
        """Fetch masks whose places are known: no directory of an archive is read. Raises StorageError.

        `wanted`: MaskPath, `archive` (its key), the other fields of ZipMember, Width and Height of the image, and `why`
        ("failure kind: text") for one that has no place. Places are those in these states of the archives.
        """
        frame = wanted.unique("MaskPath").sort("archive", "start", "MaskPath", nulls_last=True)
        self.report.selected = len(frame)
        for name, why in frame.filter(pl.col("why").is_not_null()).select("MaskPath", "why").iter_rows():
            kind, _, text = why.partition(": ")
            self._fail([name], kind, text)
        placed = frame.filter(pl.col("why").is_null()).rename({"MaskPath": "name"})
        await in_thread(lambda: self._files.path.mkdir(parents=True, exist_ok=True))
        with single_error():
            async with asyncio.TaskGroup() as tasks:
                for (key,), members in placed.partition_by("archive", as_dict=True).items():
                    tasks.create_task(self._fetch_placed(str(key), archives.get(str(key)), members))
        return self.report

    async def _fetch_placed(self, key: str, state: ArchiveState | None, members: pl.DataFrame) -> None:
        """Fetch members of one archive; those of another state of it than expected are checked as all are."""
        async with self._archives:
            archive = Archive(
                self._client, object_url(BUCKET, key, self._mirror), self._cache / f"{key}.directory", self._scratch
            )
            archive.state = state
            members = members.select(*ZipMember.__match_args__, "Width", "Height")
            kind, problem = "bad_response", "it has changed while it was read"
            for is_last in (False, True):
                try:
                    await self._fetch_ranges(archive, members, _ranges_of(members, archive))
                    return
                except (ChangedError, NoRangeError) as error:
                    changed = isinstance(error, ChangedError)
                if is_last:
                    break
                archive.forget()
                if not changed:
                    try:
                        await archive.fetch_whole()
                    except FetchError as error:
                        kind, problem = error.kind, str(error)
                        break
            failed = pl.Series([name for name, _, _ in self.report.failures], dtype=pl.String)
            left = members.select(pl.col("name").alias("MaskPath")).filter(~pl.col("MaskPath").is_in(failed.implode()))
            missing = await in_thread(self._missing, left)
            self._fail(missing.get_column("MaskPath"), kind, f"{key.rpartition('/')[2]}: {problem}")

    async def _fetch_from_archive(self, split: Split, digit: str, masks: pl.DataFrame) -> None:
        async with self._archives:
            missing = masks if self._again else await in_thread(self._missing, masks)
            self.report.present += len(masks) - len(missing)
            if not len(missing):
                return
            key = mask_archive(split, digit)
            url = object_url(BUCKET, key, self._mirror)
            archive = Archive(self._client, url, self._cache / f"{key}.directory", self._scratch)
            for tries_left in (2, 1, 0):
                try:
                    await self._fetch_members(archive, key.rpartition("/")[2], missing)
                    return
                except (ChangedError, NoRangeError) as error:
                    changed = isinstance(error, ChangedError)
                    problem = "it has changed while it was read" if changed else "its server sends no parts of it"
                if not tries_left:
                    self._fail(missing.get_column("MaskPath"), "bad_response", f"{key}: {problem}")
                    return
                archive.forget()
                if not changed:
                    try:
                        await archive.fetch_whole()
                    except FetchError as error:
                        self._fail(missing.get_column("MaskPath"), error.kind, f"{key}: {error}")
                        return
                # Masks that were stored by now count already; those that failed are asked for once more.
                missing = await in_thread(self._missing, missing)
                again = set(missing.get_column("MaskPath"))
                self.report.failures = [each for each in self.report.failures if each[0] not in again]

    async def _fetch_members(self, archive: Archive, name: str, masks: pl.DataFrame) -> None:
        missing = masks.get_column("MaskPath")
        try:
            members = await find_in_archive(archive, masks)
        except FetchError as error:
            self._fail(missing, error.kind, f"{name}: {error}")
            return
        except ArchiveError as error:
            self._fail(missing, "bad_response", f"{name}: {error}")
            return
        finally:
            self.report.directory_bytes += archive.directory_bytes
            archive.directory_bytes = 0
        assert archive.state is not None
        found = members.get_column("name")
        for member, why in members.filter(pl.col(WHY).is_not_null()).select("name", WHY).iter_rows():
            kind, _, text = why.partition(": ")
            self._fail([member], kind, f"{name}: {text}")
        members = members.filter(pl.col(WHY).is_null()).drop(WHY)
        ranges = _ranges_of(members, archive)
        if archive.state.bytes >= _WORTH_A_NOTE_BYTES:
            self._sink(Note(_announcement(name, len(members), ranges, archive.state.bytes)))
        await self._fetch_ranges(archive, members, ranges)
        # Only after all parts have come: they may have shown that the archive has changed.
        if len(found) < len(missing):
            self._fail(missing.filter(~missing.is_in(found.implode())), "not_found", f"{name} has no such member")

    async def _fetch_ranges(self, archive: Archive, members: pl.DataFrame, ranges: Ranges) -> None:
        """Fetch members, in order of their places, by these ranges. Raises ChangedError, NoRangeError."""
        with single_error():
            async with asyncio.TaskGroup() as tasks:
                at = 0
                for (start, stop), count in zip(ranges.parts, ranges.counts, strict=True):
                    await self._parts.acquire()
                    task = tasks.create_task(self._fetch_part(archive, start, stop, members.slice(at, count)))
                    task.add_done_callback(lambda _: self._parts.release())
                    at += count

    async def _fetch_part(self, archive: Archive, start: int, stop: int, members: pl.DataFrame) -> None:
        async with self._large_parts if stop - start > _LARGE_PART_BYTES else nullcontext():
            try:
                data = await archive.read(start, stop)
            except FetchError as error:
                self._fail(members.get_column("name"), error.kind, str(error))
                return
            self.report.bytes += len(data)
            stored, failures = await in_thread(self._unpack, data, start, members)
        self._files.add(stored)
        self.report.downloaded += len(stored)
        self.report.failures += failures
        self._progress()

    def _unpack(
        self, data: bytes | bytearray, base: int, members: pl.DataFrame
    ) -> tuple[list[tuple[str, int, str]], list[tuple[str, str, str]]]:
        view = memoryview(data)
        stored, failures = [], []
        for *fields, width, height in members.iter_rows():
            member = ZipMember(*fields)
            packed = view[member.start - base : member.stop - base]
            try:
                # One thread alone unpacks large ones, or all of them together would fill the memory.
                with self._one_large if member.size > _LARGE_MASK_BYTES else nullcontext():
                    stored.append(self._unpack_one(packed, member, width, height))
            except MemberError as error:
                failures.append((member.name, error.kind, str(error)))
        return stored, failures

    def _unpack_one(
        self, packed: memoryview, member: ZipMember, width: int | None, height: int | None
    ) -> tuple[str, int, str]:
        """Unpack and store one mask; return its name, bytes and MD5. Raises MemberError, StorageError."""
        body = unpack(packed, member)
        refuse_picture(body)
        if self._to_image_size and width and height:
            body = resized(body, width, height)
        try:
            _write(self._files.path / member.name, body, f"{self._scratch}{os.sep}{member.name}.part")
        except OSError as error:
            raise storage_error(error, self._files.path) from error
        return member.name, len(body), md5_base64(body)

    def _missing(self, masks: pl.DataFrame) -> pl.DataFrame:
        return masks.filter(~self._files.are_there(masks.get_column("MaskPath")))

    def _fail(self, names: Sequence[str] | pl.Series, reason: str, detail: str) -> None:
        self.report.failures += [(name, reason, detail) for name in names]
        self._progress()

    def _progress(self, *, finished: bool = False) -> None:
        report = self.report
        done = report.present + report.downloaded + report.failed
        self._sink(TableProgress("masks", done, report.selected, finished=finished, unit="step"))


def _grouped(wanted: pl.LazyFrame) -> pl.DataFrame:
    """Return the wanted masks, each once, and the digit of their archive; paths that are no mask's are left out."""
    named = pl.col("MaskPath").str.contains(f"^{NAMES[MASKS].pattern}$")
    frame = wanted.select("MaskPath", "Subset", "Width", "Height").filter(named).unique("MaskPath")
    return frame.with_columns(digit=pl.col("MaskPath").str.slice(0, 1)).sort("MaskPath").collect(engine="streaming")


async def find_in_archive(archive: Archive, masks: pl.DataFrame) -> pl.DataFrame:
    """Return the members of an archive that are these masks (see `find_members`).

    A directory in the cache that cannot be read, or does not have all of them, is fetched again: members may have been
    added since. Raises FetchError, ArchiveError, ChangedError, NoRangeError.
    """
    directory = await archive.directory()
    try:
        members = await in_thread(find_members, directory, masks)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        if archive.is_fresh:
            raise
    else:
        if len(members) == len(masks) or archive.is_fresh:
            return members
    archive.forget()
    return await in_thread(find_members, await archive.directory(), masks)


def find_members(directory: Path, masks: pl.DataFrame) -> pl.DataFrame:
    """Return the members of these masks (MaskPath, Width, Height), in order of their place, each once.

    With the fields of ZipMember, Width, Height, and WHY it is not to be fetched. Blocking. Raises PolarsError.
    """
    names = masks.get_column("MaskPath")
    rows = pl.scan_parquet(directory, glob=False).filter(pl.col("name").is_in(names.implode()))
    found = rows.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).collect()
    # Of two members of one name the last one that may be what its entry says.
    found = found.with_columns(refusals(found).alias(WHY)).sort(pl.col(WHY).is_null(), "start")
    found = found.unique("name", keep="last", maintain_order=True).sort("start")
    sizes = masks.select(pl.col("MaskPath").alias("name"), "Width", "Height")
    joined = found.join(sizes, on="name", maintain_order="left")
    return joined.select(*ZipMember.__match_args__, "Width", "Height", WHY)


def _ranges_of(members: pl.DataFrame, archive: Archive) -> Ranges:
    """Return the ranges for members in order of their places; never all of an archive whose size is not known."""
    spans = list(zip(members.get_column("start"), members.get_column("stop"), strict=True))
    return choose_ranges(spans, archive.state.bytes if archive.state is not None else 1 << 62)


def _announcement(name: str, count: int, ranges: Ranges, archive_bytes: int) -> str:
    how = (
        "all of it, which is cheaper"
        if ranges.is_complete
        else f"{len(ranges.parts)} part{'s' if len(ranges.parts) > 1 else ''}"
    )
    return f"{name}: {count} masks in {how}: {size_text(ranges.bytes)} of {size_text(archive_bytes)}"


def _write(path: Path, body: bytes | bytearray, part: str) -> None:
    # As with images, plain strings: `store.atomic.replacing` would cost a fifth more (12 us a mask).
    with open(part, "wb") as file:
        file.write(body)
    os.replace(part, path)
