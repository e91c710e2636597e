"""What a run does at the moment, from its events: tables, images, files, each with its pace; and in words, as lines.

    events ──note──▶ Activity ──tasks, in order──▶ bars.py: a bar each
    clock  ──sample─▶    └──────lines────────────▶ a plain line every so often

No clock of its own, no stream, no terminal.
"""

from dataclasses import dataclass, field
from typing import Literal

from oid_async.events import Checked, Event, Exported, Finished, Holding, Landed, Planned, Stage, TableProgress
from oid_async.report import Plan, Report, size_text
from oid_async.screen.holding_text import capped_left_s, holding_texts
from oid_async.screen.pace import Pace
from oid_async.screen.plan_text import time_text

Unit = Literal["byte", "step", "image", "checked", "exported"]
_NOUNS: dict[Unit, str] = {"image": "images", "checked": "files checked", "exported": "images exported"}


@dataclass(slots=True, eq=False, repr=False)
class Task:
    """Something that goes on: `done` of `total` (None: unknown) bytes, steps, images or files.

    `least_s` is the shortest time in which all of it can be done, whatever its pace is: for a cap on requests.
    """

    name: str
    unit: Unit
    done: int = 0
    total: int | None = None
    received: int = 0  # bytes, of images
    failed: int = 0
    least_s: float = 0.0
    is_stalled: bool = False
    pace: Pace = field(default_factory=Pace)
    bytes_pace: Pace = field(default_factory=Pace)

    def sample(self, now: float) -> None:
        """Note where it is now."""
        self.pace.add(now, self.done)
        self.is_stalled = self.pace.is_stalled(now)
        if self.unit == "image":
            self.bytes_pace.add(now, self.received)

    @property
    def rate(self) -> str:
        """Return how many bytes come a second, "" while nobody knows."""
        per_s = (self.bytes_pace if self.unit == "image" else self.pace).per_s()
        return "" if self.unit not in ("image", "byte") or per_s is None else f"{size_text(int(per_s))}/s"

    def left_s(self, least_s: float = 0.0) -> float | None:
        """Return in how many seconds it will be done, at the last minute's pace; None while that is not known.

        `least_s`: it takes so long at least.
        """
        if self.total is None or self.done >= self.total or self.is_stalled:
            return None
        per_s = self.pace.per_s()
        if per_s is None:
            return self.least_s or None
        by_pace = (self.total - self.done) / per_s if per_s > 0 else None
        return None if by_pace is None else max(by_pace, self.least_s, least_s)

    def left(self, least_s: float = 0.0) -> str:
        """Return in how much time it will be done, in words; "" while that is not known."""
        left_s = self.left_s(least_s)
        return "" if left_s is None else f"about {time_text(left_s)} left"

    @property
    def counts(self) -> str:
        """Return how much of it is done."""
        if self.unit == "byte":
            return sizes_text(self.done, self.total)
        if self.total is None:
            return str(self.done) if self.done else ""
        return f"{self.done} of {self.total}"

    @property
    def failures(self) -> str:
        """Return how many have failed, "" for none."""
        return f"{self.failed} failed" if self.failed else ""

    def line(self, least_s: float = 0.0) -> str:
        """Return a line on it."""
        subject = {"byte": f"fetching {self.name}: ", "step": f"{self.name}: "}.get(self.unit, "")
        noun = _NOUNS.get(self.unit)
        parts = [
            f"{subject}{self.counts}".removesuffix(": ") + (f" {noun}" if noun else ""),
            self.rate,
            self.failures,
            self.left(least_s),
        ]
        return ", ".join(part for part in parts if part)


class Activity:
    """What a run does, by its events. `note` takes each of them, `sample` is called once a second or so."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        # What it has come to so far, for who says nothing else of it.
        self.closing = ""
        self.images: Task | None = None
        self._report: Report | None = None
        self._known_failures = 0
        self._stage = ""
        self._stage_began: float | None = None
        self._holding = Holding()

    def note(self, event: Event) -> None:
        """Take an event."""
        match event:
            case TableProgress():
                self._note_progress(event.name, event.unit, event.done, event.total, finished=event.finished)
            case Checked(done, total):
                self._note_progress("files", "checked", done, total, finished=done >= total)
            case Exported(done, total):
                self._note_progress("export", "exported", done, total, finished=done >= total)
            case Planned(plan):
                self._begin_images(plan)
            case Landed(report=report):
                self._report = report
            case Stage(name):
                self.close_images()
                self.tasks.clear()
                self._stage, self._stage_began = name, None
            case Holding():
                self._holding = event
            case Finished():
                self.close_images()
                self._stage, self._holding = "", Holding()
            case _:
                pass

    def sample(self, now: float) -> None:
        """Note how far everything is now."""
        if self._stage and self._stage_began is None:
            self._stage_began = now
        self._read_report()
        for task in list(self.tasks.values()):
            task.sample(now)

    def lines(self, now: float) -> list[str]:
        """Return in words what goes on, what holds it up behind it; nothing while nothing goes on."""
        lines = [task.line(self.least_s(task)) for task in list(self.tasks.values())]
        if not lines and self._stage:
            passed_s = now - (self._stage_began if self._stage_began is not None else now)
            lines = [f"{self._stage}, {time_text(passed_s)} so far" if passed_s >= 1 else self._stage]
        holds = "; ".join(self.holds())
        if holds:
            lines = [*lines[:-1], f"{lines[-1]}; {holds}"] if lines else [holds]
        return lines

    def holds(self) -> list[str]:
        """Return what holds the run up at the moment, each in words."""
        return holding_texts(self._holding)

    @property
    def stage(self) -> str:
        """Return what is being done that cannot be counted, "" if something is counted."""
        return "" if self.tasks else self._stage

    def least_s(self, task: Task) -> float:
        """Return how long a task takes at least, by the images that wait for a host with a cap."""
        return capped_left_s(self._holding) if task is self.images else 0.0

    def close_images(self) -> None:
        """Note that no more images are fetched."""
        self._read_report()
        self._report = None
        images, self.images = self.images, None
        if images is not None:
            self.tasks.pop(images.name, None)
            parts = [f"{images.counts} images", size_text(images.received), images.failures]
            self.closing = ", ".join(part for part in parts if part)

    def _begin_images(self, plan: Plan) -> None:
        self.tasks.clear()
        self._stage, self._report = "", None
        self._known_failures = plan.selected - plan.present - plan.to_download
        self.images = Task("images", "image", total=plan.to_download, least_s=plan.seconds or 0.0)
        self._plan_seconds = plan.seconds or 0.0
        if plan.to_download:
            self.tasks["images"] = self.images

    def _read_report(self) -> None:
        """Take the numbers of the report, which the run keeps up to date."""
        report, images = self._report, self.images
        if report is None or images is None:
            return
        images.done = max(0, report.downloaded + report.failed - self._known_failures)
        # More than was planned, where failures are replaced.
        images.total = images.done + report.pending
        images.received, images.failed = report.bytes, report.failed
        images.least_s = self._plan_seconds * report.pending / max(1, images.total)

    def _note_progress(self, name: str, unit: Unit, done: int, total: int | None, *, finished: bool) -> None:
        if finished:
            self.tasks.pop(name, None)
            self.closing = f"{done} of {total} {_NOUNS[unit]}" if unit in _NOUNS else self.closing
            return
        task = self.tasks.get(name)
        if task is None or task.unit != unit:
            task = self.tasks[name] = Task(name, unit)
        task.done, task.total = done, total


def sizes_text(done: int, total: int | None) -> str:
    """Return a part of so many bytes as a person reads it.

    >>> sizes_text(1_200_000_000, 2_300_000_000), sizes_text(900_000, 2_300_000_000), sizes_text(5, None)
    ('1.2 of 2.3 GB', '900.0 kB of 2.3 GB', '5 bytes')
    """
    if total is None:
        return size_text(done)
    (number, unit), whole = size_text(done).split(), size_text(total)
    return f"{number} of {whole}" if whole.endswith(f" {unit}") else f"{number} {unit} of {whole}"
