"""The screen of the command line, on stderr: progress bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable
from time import monotonic
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from oid_async.events import Checked, Event, Exported, Finished, Landed, Note, Planned, TableProgress
from oid_async.redaction import printable
from oid_async.report import Report, size_text
from oid_async.screen.plan_text import announce
from oid_async.screen.stdio import forgiving, guard_stderr, print_message

_LINE_EVERY_S = 10.0


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
