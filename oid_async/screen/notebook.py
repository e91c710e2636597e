"""Progress in a Jupyter notebook: one output of the cell, which rich draws and which is replaced as it goes on.

By IPython's own display, which every front end knows; rich's live display asks for ipywidgets on top of it.
"""

import io
from collections import deque
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.text import Text

from oid_async.redaction import printable
from oid_async.screen.activity import Activity
from oid_async.screen.bars import Bars

_COLUMNS = 100
_MOST_LINES = 20
_PAGE = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


class NotebookDisplay:
    """The output of a cell: the last lines that were said, and what goes on under them. Made in the cell's thread."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        display: Any = import_module("IPython.display").display
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._drawn = self._rendered(Text())
        self._handle = display(self._drawn, raw=True, display_id=True)

    @classmethod
    def of_cell(cls, activity: Activity) -> Self | None:
        """Return the display of the cell that this runs in, None if it runs in no notebook."""
        return cls(activity) if Console().is_jupyter else None

    def say(self, lines: Iterable[str]) -> None:
        """Add lines, to be seen with the next drawing."""
        self._lines += map(printable, lines)

    def draw(self) -> None:
        """Replace the output, if anything has changed."""
        self._show(Bars(self._activity))

    def clear(self) -> None:
        """Leave nothing but the lines."""
        self._show(Text())

    def _show(self, below: RenderableType) -> None:
        rendered = self._rendered(below)
        if rendered != self._drawn:
            self._drawn = rendered
            self._handle.update(rendered, raw=True)

    def _rendered(self, below: RenderableType) -> dict[str, str]:
        """Return the output as HTML, in which all is text, and as plain text."""
        console = Console(
            file=io.StringIO(),
            record=True,
            width=_COLUMNS,
            color_system="truecolor",
            force_terminal=True,
            force_jupyter=False,
        )
        console.print(Group(*[Text(line) for line in list(self._lines)], below))
        text = console.export_text(clear=False).rstrip()
        return {"text/html": console.export_html(inline_styles=True, code_format=_PAGE), "text/plain": text}
