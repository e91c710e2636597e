"""Progress bars that rich draws: a line a task, what holds the run up under them. Whole at any width."""

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from oid_async.redaction import printable
from oid_async.screen.activity import Activity, Task, sizes_text

_MOST_BARS = 6
_MOST_HOLDS = 3
_LEAST_BAR, _MOST_BAR = 8, 40
_LEAST_NAME = 12


class Bars:
    """What an activity looks like at the moment, for rich; a text is never rich's markup."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        activity = self._activity
        width = max(1, options.max_width)
        tasks = list(activity.tasks.values())[-_MOST_BARS:]
        lines: list[Table | Text] = [_bar(task, activity.least_s(task), width) for task in tasks]
        below = [activity.stage] if activity.stage else []
        below += activity.holds()[:_MOST_HOLDS]
        lines += [_line(text, style="dim") for text in below]
        yield Group(*lines)


def _bar(task: Task, least_s: float, width: int) -> Table:
    """Return the line of a task: its name, a bar where there is space for one, its numbers."""
    name, numbers = printable(task.name), "  ".join(part for part in _numbers(task, least_s) if part)
    for_numbers = min(cell_len(numbers), width)
    for_name = min(cell_len(name), max(_LEAST_NAME, width - for_numbers - _LEAST_BAR - 2))
    for_bar = min(_MOST_BAR, width - for_numbers - for_name - 2)
    grid = Table.grid(padding=(0, 1, 0, 0))
    cells: list[Text | ProgressBar] = []
    if for_name + 1 + for_numbers <= width:
        grid.add_column(width=for_name, no_wrap=True)
        cells.append(_line(name))
    if for_bar >= _LEAST_BAR:
        grid.add_column(width=for_bar, no_wrap=True)
        total = float(task.total) if task.total else None
        cells.append(ProgressBar(total=total, completed=min(task.done, total or 0.0), width=for_bar, pulse=False))
    grid.add_column(width=for_numbers, no_wrap=True)
    cells.append(_line(numbers))
    grid.add_row(*cells)
    return grid


def _numbers(task: Task, least_s: float) -> list[str]:
    counts = sizes_text(task.done, task.total) if task.unit == "byte" else task.counts.replace(" of ", "/")
    left = task.left(least_s)
    return [counts, task.rate, task.failures, left.removeprefix("about ")]


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
