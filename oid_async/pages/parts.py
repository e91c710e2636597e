"""What pages are made of: cards with a plot and its table, key numbers, counts by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from oid_async.pages.elements import Cell, Html, element, joined, table, text

# Makes the specification of a plot; called only where plots are wanted.
Draw = Callable[[], Mapping[str, Any]]
Size = Literal["wide", "half", "small"]


class Cards:
    """The cards of a page, in order, and the plots that are drawn in them."""

    def __init__(self, *, plots: bool) -> None:
        self._added: list[tuple[Size, Html]] = []
        self.plots: dict[str, Mapping[str, Any]] = {}
        self._with_plots = plots

    def add(self, title: str, *content: Html, about: str = "", size: Size = "half") -> None:
        """Add a card: as wide as the page, half as wide, or small."""
        said = [element("p", text(about), class_="about")] if about else []
        self._added.append((size, element("section", element("h2", text(title)), *said, *content, class_="card")))

    def written(self) -> list[Html]:
        """Return the cards, those of one size that follow each other beside each other where there is room."""
        return [
            element("div", joined(card for _, card in group), class_=f"cards {size}")
            for size, group in groupby(self._added, key=itemgetter(0))
        ]

    def plot(self, draw: Draw, *, square: bool = False) -> Html:
        """Return the place of a plot; nothing if the page is to have none."""
        if not self._with_plots:
            return Html("")
        name = f"plot-{len(self.plots) + 1}"
        self.plots[name] = draw()
        return element("div", id=name, class_=f"plot{' square' if square else ''}")

    def with_numbers(self, *content: Html, numbers: Html) -> tuple[Html, ...]:
        """Return plots with their table folded below; the table alone if the page is to have no plots."""
        if not self._with_plots:
            return (numbers,)
        return (*content, element("details", element("summary", text("Numbers")), numbers))


def key_numbers(values: Iterable[tuple[str, str]]) -> Html:
    """Return the numbers that a page begins with, as name and value."""
    return element(
        "dl",
        *(element("div", element("dt", text(name)), element("dd", text(value))) for name, value in values if value),
        class_="numbers",
    )


def counts_table(counts: Mapping[str, Any], *, what: str, number: str, label: str) -> Html:
    """Return names and their numbers."""
    return table([what, number], list(counts.items()), label=label)


def key(names: Sequence[str]) -> Html:
    """Return what the colours of a plot mean."""
    return element("ul", *(element("li", text(name)) for name in names), class_="key")


def ramp(most: str) -> Html:
    """Return what the strength of a heat map means, from 0 to a number."""
    return element("p", element("i"), class_="ramp", data_least="0", data_most=most)


def notes(lines: Sequence[str]) -> Html:
    """Return lines as a list."""
    return element("ul", *(element("li", text(line)) for line in lines), class_="notes")


def add_options(cards: Cards, options: Mapping[str, Any]) -> None:
    """Add what was asked for, if it is known."""
    if options:
        rows: list[Sequence[Cell]] = [(name, _option_text(value)) for name, value in options.items()]
        cards.add("What was asked for", table(["option", "value"], rows, texts=2, label="options"), size="wide")


def _option_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
