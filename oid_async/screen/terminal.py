"""Progress bars on a terminal, and the lines that are said above them. Imports rich."""

import sys
from collections.abc import Iterable
from typing import Self

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.live import Live

from oid_async.redaction import printable
from oid_async.screen.activity import Activity
from oid_async.screen.bars import Bars
from oid_async.screen.stdio import forgiving


class TerminalBars:
    """The bars of an activity on the terminal of a console: `start`, `refresh` now and then, `stop`."""

    def __init__(self, activity: Activity, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            get_renderable=lambda: Bars(activity),
            auto_refresh=False,
            transient=True,
            # What is written to a file goes there, whatever the terminal shows.
            redirect_stdout=forgiving(sys.stdout).isatty(),
        )

    @classmethod
    def on_stderr(cls, activity: Activity) -> Self | None:
        """Return bars on the terminal that stderr is; None if it can show none, or of two runs at once the second."""
        # Names and messages are text, never rich's markup or names of its pictures.
        console = Console(file=forgiving(sys.stderr), highlight=False, soft_wrap=True, markup=False, emoji=False)
        return cls(activity, console) if console.is_interactive and not isinstance(sys.stderr, FileProxy) else None

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def refresh(self) -> None:
        """Draw what the activity has come to."""
        self._live.refresh()

    def say(self, lines: Iterable[str]) -> None:
        """Write lines above the bars."""
        self._console.print("\n".join(map(printable, lines)))

    def stop(self) -> None:
        """Take the bars down."""
        self._live.stop()
