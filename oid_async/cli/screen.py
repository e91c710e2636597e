"""The screen of the command line, on stderr: progress bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote
from time import monotonic
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from oid_async.cli.plan_text import announce
from oid_async.cli.stdio import forgiving, guard_stderr, print_message
from oid_async.events import Checked, Event, Exported, Finished, Landed, Note, Planned, TableProgress
from oid_async.openimages.kinds import KINDS
from oid_async.options.paths import shown
from oid_async.redaction import printable
from oid_async.report import FINAL_KINDS, PASSING_KINDS, Report, counted, size_text

if TYPE_CHECKING:
    from oid_async.jobs.export import ExportReport
    from oid_async.jobs.prune import PruneReport
    from oid_async.jobs.verify import Verification

_LINE_EVERY_S = 10.0
_RESULTS = (
    "images/",
    *(kind.file for kind in KINDS.values()),
    "segmentation/masks/",
    "narrative/voice/",
    "manifest.parquet",
    "ATTRIBUTION.csv",
)


class Screen:
    """Shows events. `quiet` shows nothing. A context: bars are taken down when it is left."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        # Names and messages are text, never rich's markup or names of its pictures.
        self._console = Console(file=forgiving(sys.stderr), highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bars: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failures]}", markup=False),
                console=self._console,
                transient=True,
            )
        self._tasks: dict[str, TaskID] = {}
        self._started = self._last_line = monotonic()

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
            guard_stderr()  # what others write passes through a stream of rich's now, which takes it for its own
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars down. Safe to call twice."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, event: Event) -> None:
        """Show one event; this is the run's sink."""
        if self._quiet:
            return
        match event:
            case Note(text):
                self._line(text)
            case TableProgress():
                self._table(event)
            case Planned(plan):
                self._started = self._last_line = monotonic()
                self._line(announce(plan))
                self._task("images", plan.to_download)
            case Landed(_, report):
                self._images(report)
            case Checked(done, total):
                self._files(done, total, "files", "files checked")
            case Exported(done, total):
                self._files(done, total, "export", "images exported")
            case Finished():
                pass

    def say(self, lines: Iterable[str]) -> None:
        """Show what a job has come to, unless `quiet`."""
        if not self._quiet:
            self._line(*lines)

    def _line(self, *lines: str) -> None:
        if self._bars is not None:
            self._console.print("\n".join(map(printable, lines)))
        else:
            print_message(*lines)

    def _task(self, name: str, total: int | None) -> None:
        if self._bars is not None:
            self._tasks[name] = self._bars.add_task(printable(name), total=total, pace="", failures="")

    def _table(self, event: TableProgress) -> None:
        if event.finished and event.unit == "byte":
            self._line(f"fetched {event.name} ({size_text(event.done)})")
        if self._bars is None:
            return
        if event.name not in self._tasks:
            self._task(event.name, event.total)
        task = self._tasks[event.name]
        self._bars.update(task, completed=event.done, total=event.total, visible=not event.finished)

    def _images(self, report: Report) -> None:
        elapsed = max(monotonic() - self._started, 1e-3)
        pace = f"{size_text(int(report.bytes / elapsed))}/s"
        failures = f"{report.failed} failed" if report.failed else ""
        done = report.downloaded + report.failed
        if self._bars is not None:
            total = self._bars.tasks[self._tasks["images"]].total or 0
            self._bars.update(self._tasks["images"], completed=total - report.pending, pace=pace, failures=failures)
        elif monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = monotonic()
            self._line(f"{done} of {done + report.pending} images, {pace} {failures}".rstrip())

    def _files(self, done: int, total: int, name: str, what: str) -> None:
        if self._bars is not None:
            if name not in self._tasks:
                self._task(name, total)
            self._bars.update(self._tasks[name], completed=done, total=total, visible=done < total)
        elif monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = monotonic()
            self._line(f"{done} of {total} {what}")


def finding_rows(found: "Verification") -> Iterator[tuple[str, str, str, str]]:
    """Yield the findings: kind, name (of another file: path), ImageID, what is wrong."""
    for finding in found.findings():
        name = finding.path if finding.path.removeprefix("images/") != finding.file_name else finding.file_name
        yield finding.kind, name, finding.image_id or "-", finding.detail


def verification_lines(found: "Verification") -> list[str]:
    """Return what a verification found, as a person reads it."""
    counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
    lines = [
        f"{counted(found.checked, 'image')} and {counted(found.files, 'other file')} checked in "
        f"{shown(found.savepath)}: "
        + ("all whole" if found.clean else counts)
        + (f", {found.repaired} repaired" if found.repaired else "")
        + (f"; {found.unselected} of them of earlier queries" if found.unselected else "")
        + (f"; {found.unhashed} have no MD5: size, start and end alone were checked" if found.unhashed else "")
    ]
    if len(found.damage) and not found.repaired:
        lines.append(f"oid-async verify {quote(shown(found.savepath))} --repair mends what is damaged")
    return lines


def export_lines(report: "ExportReport") -> list[str]:
    """Return what an export holds, as a person reads it."""
    splits = ", ".join(f"{split} {count}" for split, count in report.splits.items())
    rows = ", ".join(f"{count} {KINDS[kind].what}" for kind, count in report.annotations.items())  # type: ignore[index]
    return [
        f"{report.format}: {counted(report.images, 'image')} ({splits or 'none'}), {rows or 'no annotations'}, in "
        f"{report.seconds:.1f} s: {shown(report.out)}"
    ]


def prune_lines(report: "PruneReport") -> list[str]:
    """Return what was removed, or would be, as a person reads it."""
    also = "".join(
        f", {count} {what}" for what, count in (("masks", report.masks), ("recordings", report.recordings)) if count
    )
    done = "would be removed from" if report.dry_run else "removed from"
    return [f"{counted(report.images, 'image')}{also} ({size_text(report.bytes)}) {done} {report.savepath}"]


def summary_lines(report: Report, *, packed: bool = False) -> list[str]:
    """Return what a finished or interrupted run did, as a person reads it; `packed`: its images are in shards."""
    negatives = f", {report.negatives} of them negatives" if report.negatives else ""
    lines = [
        (f"part {report.shard}: " if report.shard else "")
        + f"{report.selected} selected{negatives}: {report.downloaded} downloaded ({size_text(report.bytes)} in "
        f"{report.seconds:.1f} s), {report.present} present, {report.failed} failed"
        + (f", {report.pending} pending" if report.pending else "")
        + (f"; {report.unselected} of earlier queries stay" if report.unselected else "")
    ]
    if report.failures:
        words = FINAL_KINDS | PASSING_KINDS  # type: ignore[operator]
        kinds = sorted(report.failures.items(), key=lambda item: -item[1])
        lines.append("failed: " + ", ".join(f"{kind} {count} ({words.get(kind, kind)})" for kind, count in kinds))
        if not report.interrupted:
            again = "; run again to ask for what may come back" if set(report.failures) & set(PASSING_KINDS) else ""
            lines.append(f"each is named in {shown(report.savepath)}/failures.csv{again}")
    if report.interrupted:
        saved = report.present + report.downloaded
        readers = "oid_async.open works" if packed else "export, verify and oid_async.open work"
        works = (
            f": {saved} of {counted(report.selected, 'image')} {'is' if saved == 1 else 'are'} saved; {readers} on them"
        )
        lines.append(f"interrupted{works if report.selected else ''}; run the same command again to go on")
    elif report.savepath:
        if report.pending:
            what = "1 image is" if report.pending == 1 else f"{report.pending} images are"
            lines.append(f"{what} pending: nothing is requested with --offline; run again without it to fetch them")
        there = [name for name in _RESULTS if (Path(report.savepath) / name).exists()]
        lines.append(f"saved in {shown(report.savepath)}: {', '.join(there)}")
    if report.export:
        lines.append(f"exported as {report.export['format']}: {shown(report.export['out'])}")
    return lines
