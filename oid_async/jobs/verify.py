"""`verify`: every file of a finished folder against its manifest, and with `repair` the query once more.

Two threads hash, a batch of files at a time, so that a verification can be left at any moment; memory holds the
findings and no file's worth of anything else for each image.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.dataset.audit import (
    FINDINGS,
    Audit,
    FindingKind,
    damaged_folder,
    drop_replaced,
    left_over,
    looking_at,
    set_aside,
)
from oid_async.dataset.query_file import StoredQuery
from oid_async.errors import storage_error
from oid_async.events import Checked, Note, Sink
from oid_async.store.folder import Folder

FINDING_KINDS: tuple[FindingKind, ...] = ("missing", "truncated", "altered", "extra")
# Hashing does not hold the interpreter; more threads than this make a disk seek, not read.
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as it should be.

    `image_id` is None for an extra file; `bytes` is its size now, None where there is no file; `expected_bytes` what
    was saved; `selected` is False for an image of an earlier query and for an extra file.
    """

    kind: FindingKind
    image_id: str | None
    file_name: str
    detail: str
    bytes: int | None
    expected_bytes: int | None
    selected: bool

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the kind is said where it stands."""
        values = asdict(self)
        del values["kind"]
        return values


class Verification:
    """What a verification found. `checked` counts files that should be there, `unselected` those of earlier queries
    among the files that are, `unhashed` those checked without an MD5, which landed with --no-hash: by size and markers;
    `repaired` those that a repair has brought back."""

    def __init__(
        self, savepath: str, findings: pl.DataFrame, *, checked: int, unselected: int, unhashed: int, repaired: int = 0
    ) -> None:
        self.savepath = savepath
        self.checked = checked
        self.unselected = unselected
        self.unhashed = unhashed
        self.repaired = repaired
        # In columns: when a disk was lost there are as many of them as images.
        self._findings = findings.sort("image_id", "file_name", nulls_last=True)

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}={count}" for kind, count in self.counts.items())
        return f"Verification({self.savepath!r}, checked={self.checked}, {counts}, unselected={self.unselected})"

    @property
    def clean(self) -> bool:
        """Whether every file is there and what it was, and no other is."""
        return not len(self._findings)

    @property
    def counts(self) -> dict[FindingKind, int]:
        """How many findings there are of each kind."""
        return {kind: len(self._findings.filter(kind=kind)) for kind in FINDING_KINDS}

    @property
    def missing(self) -> tuple[Finding, ...]:
        """Files that are not there."""
        return tuple(self.findings("missing"))

    @property
    def truncated(self) -> tuple[Finding, ...]:
        """Files with fewer bytes than were saved."""
        return tuple(self.findings("truncated"))

    @property
    def altered(self) -> tuple[Finding, ...]:
        """Files with other bytes than were saved, or that cannot be read."""
        return tuple(self.findings("altered"))

    @property
    def extra(self) -> tuple[Finding, ...]:
        """Files under images/ that neither the manifest nor the journal knows."""
        return tuple(self.findings("extra"))

    def findings(self, kind: FindingKind | None = None) -> Iterator[Finding]:
        """Yield the findings, of one kind or of all, in order of ImageID; extra files come last, by name."""
        frame = self._findings if kind is None else self._findings.filter(kind=kind)
        for row in frame.iter_rows():
            yield Finding(*row)

    def as_json(self) -> dict[str, Any]:
        """Return one JSON object's worth of plain values."""
        return {
            "savepath": self.savepath,
            "checked": self.checked,
            **{kind: [finding.as_json() for finding in self.findings(kind)] for kind in FINDING_KINDS},
            "unselected": self.unselected,
            "unhashed": self.unhashed,
            "repaired": self.repaired,
            "clean": self.clean,
        }

    def after_repair(self, lost: pl.DataFrame, repaired: int) -> "Verification":
        """Return this verification with what a repair has lost among its findings, and how many files it replaced."""
        findings = pl.concat([self._findings, lost])
        return Verification(
            self.savepath,
            findings,
            checked=self.checked,
            unselected=self.unselected,
            unhashed=self.unhashed,
            repaired=repaired,
        )

    @property
    def damage(self) -> pl.DataFrame:
        """The findings that a repair is about, as columns: all but extra files, which are somebody else's."""
        return self._findings.filter(pl.col("kind") != "extra")


class Verify:
    """One verification of one folder."""

    def __init__(self, savepath: Path, sink: Sink, *, repair: bool = False) -> None:
        self._folder = Folder(savepath)
        self._sink = sink
        self._repair = repair

    async def run(self) -> Verification:
        """Check every file; with `repair` bring back what is damaged and check again.

        Raises InputError without a usable manifest (or query.json, to repair), LockedError when a run is on, and when
        repairing whatever a download raises.
        """
        if not self._repair:
            async with _looking_at(self._folder):
                found = await self._check()
                return found.after_repair(await in_thread(_missing_still, self._folder, found.damage), 0)
        stored = await in_thread(StoredQuery.read, self._folder.path)
        async with _looking_at(self._folder):
            # What an earlier repair could not get is remembered as failed for good: it is asked for once more.
            tried_before = await in_thread(damaged_folder(self._folder).exists)
            first = await self._check()
            damage = first.damage
            names = damage.get_column("file_name")
            moved = await in_thread(_set_aside, self._folder, names)
        if not len(names) and not await in_thread(damaged_folder(self._folder).exists):
            return first
        kept = f"; {moved} damaged files wait in {damaged_folder(self._folder)}" if moved else ""
        self._sink(Note(f"{len(names)} images are to be fetched again{kept}"))
        from oid_async.jobs.repeat import repeated_run

        await repeated_run(stored, self._sink, retry_failed=tried_before).download()
        async with _looking_at(self._folder):
            return await self._judge(damage, await self._check())

    async def _check(self) -> Verification:
        """Check every file, a batch at a time in each of two threads."""
        audit = await in_thread(Audit, self._folder)
        total = audit.selected + audit.unselected
        frames, done = [pl.DataFrame(schema=FINDINGS)], 0
        batches = audit.batches()
        turn = asyncio.Lock()

        async def work() -> None:
            nonlocal done
            while True:
                async with turn:
                    batch = await in_thread(next, batches, None)
                if batch is None:
                    return
                found = await in_thread(audit.check, *batch)
                if len(found):
                    frames.append(found)
                done += len(batch[0])
                self._sink(Checked(done, total))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_THREADS):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        frames.append(await in_thread(audit.extras))
        return Verification(
            str(self._folder.path),
            pl.concat(frames),
            checked=total,
            unselected=audit.unselected,
            unhashed=audit.unhashed,
        )

    async def _judge(self, damage: pl.DataFrame, found: Verification) -> Verification:
        """Say what became of the damage: an image that cannot be had again is a finding, though no manifest lists it.

        Damaged files are removed once their image is there.
        """
        lost, back = await in_thread(_what_became, self._folder, damage, found)
        kept = await in_thread(_drop_replaced, self._folder, back, found)
        if kept:
            where = damaged_folder(self._folder)
            self._sink(Note(f"{len(kept)} of the damaged files are kept in {where}: no image came in their place"))
        lost = pl.concat([lost, await in_thread(_missing_still, self._folder, pl.concat([lost, found.damage]))])
        return found.after_repair(lost, len(back))


@asynccontextmanager
async def _looking_at(folder: Folder) -> AsyncIterator[None]:
    # Opening and locking a file of our own takes no time worth a thread.
    with looking_at(folder):
        yield


def _missing_still(folder: Folder, known: pl.DataFrame) -> pl.DataFrame:
    """Return what an earlier repair could not get and no finding speaks of yet."""
    return left_over(folder).join(known, on="file_name", how="anti", maintain_order="left")


def _set_aside(folder: Folder, names: pl.Series) -> int:
    try:
        return set_aside(folder, names) if len(names) else 0
    except OSError as error:
        raise storage_error(error, folder.path) from error


def _what_became(folder: Folder, damage: pl.DataFrame, found: Verification) -> tuple[pl.DataFrame, pl.Series]:
    """Return the images of the damage that are lost, as FINDINGS, and the names of the files that are replaced."""
    asked = damage.filter("selected")
    now = (
        pl.scan_parquet(folder.manifest)
        .filter(pl.col("ImageID").is_in(asked.get_column("image_id").implode()))
        .select("ImageID", "Status", "Reason")
        .collect(engine="streaming")
    )
    asked = asked.join(now, left_on="image_id", right_on="ImageID", how="left", maintain_order="left")
    is_there = (pl.col("Status") == "ok").fill_null(False)
    again = found.damage.get_column("image_id").implode()
    back = asked.filter(is_there & ~pl.col("image_id").is_in(again)).get_column("file_name")
    why = pl.when(pl.col("Status").is_null()).then(pl.lit("no longer selected")).otherwise("Reason")
    lost = asked.filter(~is_there).with_columns(
        kind=pl.lit("missing"),
        detail=pl.format("cannot be had again: {}", why),
        bytes=pl.lit(None, pl.Int64),
    )
    return lost.select(list(FINDINGS)), back


def _drop_replaced(folder: Folder, back: pl.Series, found: Verification) -> list[str]:
    """Remove the damaged files whose image is there; also those that an interrupted repair has left."""
    wrong = set(found.damage.get_column("file_name"))
    try:
        return drop_replaced(folder, back, wrong)
    except OSError as error:
        raise storage_error(error, folder.path) from error
