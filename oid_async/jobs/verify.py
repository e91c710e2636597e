"""`verify`: compare every file of a finished folder with its manifest; with `repair` run the query again.

Two threads hash, a batch of files at a time, so that a verification can be cancelled at any moment; memory holds the
findings and eight bytes per image.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.concurrency import acquired, in_thread, single_error
from oid_async.dataset.audit import FINDINGS, Audit, FindingKind, damaged_folder, drop_replaced, not_repaired, set_aside
from oid_async.dataset.query_file import StoredQuery
from oid_async.dataset.read_lock import read_lock
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import storage_errors
from oid_async.events import Checked, Note, Sink
from oid_async.forks import refuse_forked_child
from oid_async.jobs.opening import open_folder
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
        """Return plain values without the kind: findings are grouped by it."""
        values = asdict(self)
        del values["kind"]
        return values


class Verification:
    """The result of a verification.

    `checked` counts the files that should exist, `unselected` the files of earlier queries among them, `unhashed` the
    files without an MD5 (saved with --no-hash), which were checked by size and markers, `repaired` the files that a
    repair has fetched again.
    """

    def __init__(
        self, savepath: str, findings: pl.DataFrame, *, checked: int, unselected: int, unhashed: int, repaired: int = 0
    ) -> None:
        self.savepath = savepath
        self.checked = checked
        self.unselected = unselected
        self.unhashed = unhashed
        self.repaired = repaired
        # In columns: when a disk was lost there are as many as images.
        self._findings = findings.sort("image_id", "file_name", nulls_last=True)

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}={count}" for kind, count in self.counts.items())
        return f"Verification({self.savepath!r}, checked={self.checked}, {counts}, unselected={self.unselected})"

    @property
    def clean(self) -> bool:
        """Whether every file exists, unchanged, and no other."""
        return not len(self._findings)

    @property
    def counts(self) -> dict[FindingKind, int]:
        """The number of findings of each kind."""
        return {kind: len(self._findings.filter(kind=kind)) for kind in FINDING_KINDS}

    @property
    def missing(self) -> tuple[Finding, ...]:
        """Files that do not exist."""
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
        """Files under images/ that neither the manifest nor the journal lists."""
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
        """Return this verification with the images that a repair could not get as findings, and its count."""
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
        """The findings that a repair mends, as columns: all but extra files, which are not ours."""
        return self._findings.filter(pl.col("kind") != "extra")


class Verify:
    """One verification of one folder."""

    def __init__(self, savepath: Path, sink: Sink, *, repair: bool = False) -> None:
        self._folder = Folder(savepath)
        self._sink = sink
        self._repair = repair
        self._opened = ExitStack()

    async def run(self) -> Verification:
        """Check every file; with `repair` mend, check again. Raises InputError, LockedError, errors of a download."""
        refuse_forked_child()
        try:
            return await (self._run_repair() if self._repair else self._run())
        finally:
            await in_thread(self._opened.close)

    async def _run(self) -> Verification:
        with read_lock(self._folder):
            dataset, found = await self._check()
            return found.after_repair(await in_thread(not_repaired, dataset, found.damage), 0)

    async def _run_repair(self) -> Verification:
        stored = await in_thread(StoredQuery.read, self._folder.path)
        damaged = damaged_folder(self._folder)
        with read_lock(self._folder):
            # An image that an earlier repair could not get has failed for good: it is requested once more.
            tried_before = await in_thread(damaged.exists)
            _, first = await self._check()
            damage = first.damage
            names = damage.get_column("file_name")
            with storage_errors(self._folder.path):
                moved = await in_thread(set_aside, self._folder, names) if len(names) else 0
        if not len(damage) and not await in_thread(damaged.exists):
            return first
        kept = f"; {moved} damaged files wait in {damaged}" if moved else ""
        self._sink(Note(f"{len(damage)} images are to be fetched again{kept}"))
        from oid_async.jobs.demo import SITE, look_alike_run
        from oid_async.jobs.download import Run

        options = replace(stored.options, retry_failed=tried_before)
        run = look_alike_run(options, self._sink) if stored.site == SITE else Run(options, self._sink)
        await run.download()
        with read_lock(self._folder):
            dataset, again = await self._check()
            return await self._finish_repair(dataset, damage, again)

    async def _check(self) -> tuple[SavedDataset, Verification]:
        """Check every file, a batch at a time in each of two threads."""
        dataset = await acquired(open_folder, self._folder, "verify", release=SavedDataset.close)
        self._opened.callback(dataset.close)
        for note in dataset.notes:
            self._sink(Note(note))
        audit = await in_thread(Audit, dataset)
        total = audit.selected + audit.unselected
        frames, done = [pl.DataFrame(schema=FINDINGS)], 0
        batches = audit.batches()
        one_at_a_time = asyncio.Lock()

        async def check_batches() -> None:
            nonlocal done
            while True:
                async with one_at_a_time:
                    batch = await in_thread(next, batches, None)
                if batch is None:
                    return
                found = await in_thread(audit.check, *batch)
                if len(found):
                    frames.append(found)
                done += len(batch[0])
                self._sink(Checked(done, total))

        with single_error():
            async with asyncio.TaskGroup() as group:
                for _ in range(_THREADS):
                    group.create_task(check_batches())
        frames.append(await in_thread(audit.extras))
        return dataset, Verification(
            str(self._folder.path),
            pl.concat(frames),
            checked=total,
            unselected=audit.unselected,
            unhashed=audit.unhashed,
        )

    async def _finish_repair(self, dataset: SavedDataset, damage: pl.DataFrame, found: Verification) -> Verification:
        """Return the verification after a repair, with lost images as findings; remove files that are replaced."""
        lost, replaced = await in_thread(_outcome_of, dataset, damage, found)
        # Also those that an interrupted repair has left.
        wrong = set(found.damage.get_column("file_name"))
        with storage_errors(self._folder.path):
            kept = await in_thread(drop_replaced, self._folder, replaced, wrong)
        if kept:
            where = damaged_folder(self._folder)
            self._sink(Note(f"{len(kept)} of the damaged files are kept in {where}: no image came in their place"))
        earlier = await in_thread(not_repaired, dataset, pl.concat([lost, found.damage]))
        return found.after_repair(pl.concat([lost, earlier]), len(replaced))


def _outcome_of(dataset: SavedDataset, damage: pl.DataFrame, found: Verification) -> tuple[pl.DataFrame, pl.Series]:
    """Return the damaged images that are lost, as FINDINGS, and the names of the files that are replaced."""
    selected = damage.filter("selected")
    now = (
        dataset.images.filter(pl.col("ImageID").is_in(selected.get_column("image_id").implode()))
        .select("ImageID", "Status", "Reason")
        .collect(engine="streaming")
    )
    selected = selected.join(now, left_on="image_id", right_on="ImageID", how="left", maintain_order="left")
    is_saved = (pl.col("Status") == "ok").fill_null(False)
    damaged_again = found.damage.get_column("image_id").implode()
    replaced = selected.filter(is_saved & ~pl.col("image_id").is_in(damaged_again)).get_column("file_name")
    reason = pl.when(pl.col("Status").is_null()).then(pl.lit("no longer selected")).otherwise("Reason")
    lost = selected.filter(~is_saved).with_columns(
        kind=pl.lit("missing"), detail=pl.format("cannot be had again: {}", reason), bytes=pl.lit(None, pl.Int64)
    )
    return lost.select(list(FINDINGS)), replaced
