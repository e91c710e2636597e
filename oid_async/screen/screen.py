"""The screen of a run, on stderr: progress bars on a terminal, elsewhere a plain line every so often.

    events ──show──▶ Activity ◀──sample, twice a second── a thread of the screen ──▶ bars, or a line
                        └ notes ──▶ a line at once

The thread draws, so that the loop never waits for a terminal's bars, and a line comes although nothing happens.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Self

from oid_async.events import Event, Note, Planned, TableProgress
from oid_async.report import size_text
from oid_async.screen.activity import Activity
from oid_async.screen.plan_text import announce
from oid_async.screen.stdio import forgiving, guard_stderr, print_message

if TYPE_CHECKING:
    from oid_async.screen.notebook import NotebookDisplay
    from oid_async.screen.terminal import TerminalBars

LINE_EVERY_S = 30.0
_DRAW_EVERY_S = 0.25
_SAMPLE_EVERY_S = 1.0
_CLOSE_S = 2.0


class Screen:
    """Shows events. `quiet` shows nothing. A context: bars are taken down when it is left.

    `is_guest`: the process is somebody else's. Then stderr stays as it is, a notebook is drawn in, and a last line says
    what it has come to.

    `show` is the sink of a run; it may be called in any thread.
    """

    def __init__(self, *, quiet: bool, is_guest: bool = False, clock: Callable[[], float] = monotonic) -> None:
        self._quiet = quiet
        self._is_guest = is_guest
        self._clock = clock
        self._activity = Activity()
        self._lock = threading.Lock()
        # rich, which draws both, takes a tenth as long to import as a hundred images take; in a pipe nobody draws.
        self._notebook = _open_notebook(self._activity) if is_guest and not quiet else None
        self._bars = _open_bars(self._activity) if self._notebook is None and not quiet else None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_at = self._line_at = clock()

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        if self._bars is not None and not self._is_guest:
            guard_stderr()  # what others write passes through a stream of rich's now, which takes it for its own
        if not self._quiet:
            self._thread = threading.Thread(target=self._run, name="oid_async-screen", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars down. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)  # it may wait for a terminal that takes nothing
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if self._is_guest:
            self._activity.close_images()
            if self._activity.closing:
                self.say([self._activity.closing])
        if self._notebook is not None:
            self._notebook.clear()

    def show(self, event: Event) -> None:
        """Show one event; this is the run's sink."""
        if self._quiet:
            return
        with self._lock:
            self._activity.note(event)
        match event:
            case Note(text):
                self.say([text])
            case TableProgress(finished=True, unit="byte"):
                self.say([f"fetched {event.name} ({size_text(event.done)})"])
            case Planned(plan):
                self.say([announce(plan)])
            case _:
                pass

    def say(self, lines: Iterable[str]) -> None:
        """Show lines, unless `quiet`."""
        if self._quiet:
            return
        self._said_at = self._clock()
        if self._notebook is not None:
            self._notebook.say(lines)
        elif self._bars is not None:
            self._bars.say(lines)
        else:
            print_message(*lines)

    def look(self) -> None:
        """Sample what goes on; without a terminal say it, if nothing was said for long."""
        now = self._clock()
        with self._lock:
            self._activity.sample(now)
            # Behind a message that says something already, but for no longer than twice the time.
            draws = self._bars is not None or self._notebook is not None
            is_due = now - self._said_at >= LINE_EVERY_S or now - self._line_at >= 2 * LINE_EVERY_S
            lines = self._activity.lines(now) if is_due and not draws else []
        if lines:
            self._line_at = now
            self.say(lines)

    def _run(self) -> None:
        """Draw and sample until the screen is closed."""
        bars, notebook = self._bars, self._notebook
        sampled_at = float("-inf")
        while not self._closed.is_set():
            if self._clock() - sampled_at >= _SAMPLE_EVERY_S:
                sampled_at = self._clock()
                self.look()
            if bars is not None:
                bars.refresh()
            elif notebook is not None:
                notebook.draw()
            self._closed.wait(_DRAW_EVERY_S if bars is not None else 2 * _DRAW_EVERY_S)


def _open_notebook(activity: Activity) -> "NotebookDisplay | None":
    """Return the display of the notebook that this runs in, None if it runs in none."""
    from oid_async.screen.notebook import NotebookDisplay

    return NotebookDisplay.of_cell(activity)


def _open_bars(activity: Activity) -> "TerminalBars | None":
    """Return bars on the terminal that stderr is, None if it is none, or others have bars there."""
    if not forgiving(sys.stderr).isatty():
        return None
    from oid_async.screen.terminal import TerminalBars

    return TerminalBars.on_stderr(activity)
