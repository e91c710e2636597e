"""What a verification has found: of a folder (`jobs.verify`) or of a place of shards (`jobs.verify_place`)."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.dataset.audit import FINDINGS, FindingKind
from oid_async.events import Checked, Sink
from oid_async.options.query import Options

FINDING_KINDS: tuple[FindingKind, ...] = ("missing", "truncated", "altered", "extra", "unchecked")
LOST = "cannot be had again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as it should be.

    `image_id` is None for an extra file and for what is no image; `bytes` is its size now, None where there is no file;
    `expected_bytes` what was saved; `selected` is False for an image of an earlier query and for an extra file; `path`
    is relative to `savepath`, `file_name` its last part.
    """

    kind: FindingKind
    image_id: str | None
    file_name: str
    detail: str
    bytes: int | None
    expected_bytes: int | None
    selected: bool
    path: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values without the kind: findings are grouped by it."""
        values = asdict(self)
        del values["kind"]
        return values


@dataclass(frozen=True, slots=True)
class Mending:
    """How findings of shards are mended: lines for a person, and the files to remove before the download runs again."""

    advice: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class Verification:
    """The result of a verification.

    `checked` counts the images that should exist, `unselected` those of earlier queries among them, `unhashed` those
    without an MD5 (saved with --no-hash), which were checked by size and markers; `files` counts the other files that
    should exist, `repaired` the files that a repair has made or fetched again. No repair mends shards: `advice` says
    what does, a line each; `remove` are the files to remove before the same download is run again.
    """

    def __init__(
        self,
        savepath: str,
        findings: pl.DataFrame,
        *,
        checked: int,
        unselected: int,
        unhashed: int,
        files: int,
        repaired: int = 0,
        mending: Mending | None = None,
    ) -> None:
        self.savepath = savepath
        self.checked = checked
        self.files = files
        self.unselected = unselected
        self.unhashed = unhashed
        self.repaired = repaired
        self.advice = () if mending is None else mending.advice
        self.remove = () if mending is None else mending.remove
        # In columns: when a disk was lost there are as many as images.
        self._findings = findings.sort("image_id", "path", nulls_last=True)

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
        """Files that no run has written: under images/, masks/, voice/ and in exports."""
        return tuple(self.findings("extra"))

    @property
    def unchecked(self) -> tuple[Finding, ...]:
        """Files of which there is no record, as version 0.1.0 left them: a repair, or the next run, ends that."""
        return tuple(self.findings("unchecked"))

    def findings(self, kind: FindingKind | None = None) -> Iterator[Finding]:
        """Yield the findings, of one kind or of all, in order of ImageID; those of no image come last, by path."""
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
            "files": self.files,
            "clean": self.clean,
            **({"remove": list(self.remove)} if self.remove else {}),
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
            files=self.files,
            repaired=repaired,
        )

    def allows(self, options: Options) -> bool:
        """Return whether nothing is wrong but images that could not be had again, within --max-failures."""
        lost = self._findings.filter(pl.col("detail").str.starts_with(LOST), pl.col("image_id").is_not_null())
        return len(lost) == len(self._findings) and options.allows(len(lost), self.checked + len(lost))

    @property
    def damage(self) -> pl.DataFrame:
        """The findings that a repair mends, as columns: all but extra files, which are not ours."""
        return self._findings.filter(pl.col("kind") != "extra")


async def check_batches(batches: Iterator[tuple[Any, ...]], total: int, sink: Sink, threads: int) -> list[pl.DataFrame]:
    """Return the findings of each batch: a function, its rows, what else it takes. So many threads check at once."""
    frames, done = [pl.DataFrame(schema=FINDINGS)], 0
    one_at_a_time = asyncio.Lock()

    async def check() -> None:
        nonlocal done
        while True:
            async with one_at_a_time:
                batch = await in_thread(next, batches, None)
            if batch is None:
                return
            function, rows, *more = batch
            found = await in_thread(function, rows, *more)
            if len(found):
                frames.append(found)
            done += len(rows)
            sink(Checked(done, total))

    with single_error():
        async with asyncio.TaskGroup() as group:
            for _ in range(threads):
                group.create_task(check())
    return frames
