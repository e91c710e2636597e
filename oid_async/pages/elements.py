"""HTML elements made of text: whatever is no `Html` yet is escaped, so that a name stays a name."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oid_async.redaction import is_http, printable


class Html(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


# A class name of ten thousand letters is cut where it would be in the way; the whole of it is in a table.
CUT = 60
_LAID_OUT = 1000


@dataclass(frozen=True, slots=True)
class Amount:
    """A cell that shows a number as people read it (`1.2 GB`, `3 min`), and is sorted by the number itself."""

    shown: str
    value: float


Cell = Html | Amount | str | int | float | None


def text(value: object) -> Html:
    """Return a value as text of a page: escaped, and characters that nobody would see made visible.

    >>> text("<b>Ball\\u202e</b>")
    '&lt;b&gt;Ball\\\\u202e&lt;/b&gt;'
    """
    return Html(html.escape(printable(str(value))))


def element(name: str, *content: Html, **attributes: str | bool) -> Html:
    """Return an element. An attribute that is True has no value, one that is False is left out; `class_` is class.

    >>> element("a", text("x & y"), href='"', class_="far")
    '<a href="&quot;" class="far">x &amp; y</a>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(content)}</{name}>")


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{html.escape(printable(value))}"'


def joined(parts: Iterable[Html]) -> Html:
    """Return elements one after another."""
    return Html("\n".join(parts))


def link(url: str) -> Html:
    """Return a link to an http or https address; of anything else its text.

    >>> link("javascript:alert(1)")
    'javascript:alert(1)'
    """
    if not is_http(url):
        return text(url)
    return element("a", text(url), href=url, rel="noopener noreferrer", target="_blank")


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with its thousands grouped; nothing for None.

    >>> number(1234567), number(0.04567, 3), number(12.0), number(1234.56), number(None)
    ('1,234,567', '0.046', '12', '1,234.6', '')
    """
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    written = f"{value:,.{digits}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def shortened(name: str, length: int = CUT) -> str:
    """Return a name cut to a length, where it is longer.

    >>> shortened("Football helmet", 8)
    'Footbal…'
    """
    return name if len(name) <= length else name[: length - 1] + "…"


def distinct(names: Sequence[str], length: int = CUT) -> list[str]:
    """Return names cut to a length that still differ from each other, in their order.

    >>> distinct(["Football helmet", "Football", "Football player", "Football"], 8)
    ['Footbal…', 'Football', 'Footbal… (2)', 'Football (2)']
    """
    seen: dict[str, int] = {}
    result = []
    for name in names:
        short = shortened(printable(name), length)
        seen[short] = seen.get(short, 0) + 1
        result.append(short if seen[short] == 1 else f"{short} ({seen[short]})")
    return result


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, texts: int = 1, label: str, searchable: bool = False
) -> Html:
    """Return a table of which the first `texts` columns are text and the others numbers; it can be sorted by a click.

    End tags that HTML needs none of are left out: a table has up to 20,000 rows. Those beyond the first thousand are in
    a body of their own, which the page's script shows when it is asked to: laying them out takes seconds.
    """
    head = "".join(f'<th scope="col">{text(name)}' for name in heads)
    lines = ["<tr>" + "".join(map(_cell, row)) for row in rows]
    bodies = "<tbody>\n" + "\n".join(lines[:_LAID_OUT]) + "\n</tbody>"
    if len(lines) > _LAID_OUT:
        bodies += "<tbody hidden>\n" + "\n".join(lines[_LAID_OUT:]) + "\n</tbody>"
    made = Html(f'<table class="texts-{texts}"><thead><tr>{head}</thead>{bodies}</table>')
    scroller = element("div", made, class_="scroll", tabindex="0", role="region", aria_label=label)
    return joined([_search(label), scroller]) if searchable else scroller


def _cell(value: Cell) -> str:
    if isinstance(value, Html):
        return f"<td>{value}"
    if isinstance(value, Amount):
        return f'<td data-value="{value.value:.17g}">{text(value.shown)}'
    return f"<td>{text(number(value) if isinstance(value, int | float) else value or '')}"


def _search(label: str) -> Html:
    """Return the field that the page's script shows and listens to; without the script there is none."""
    return Html(
        f'<p class="search" hidden><input type="search" placeholder="Search" aria-label="Search: {text(label)}"'
        ' autocomplete="off" spellcheck="false"> <output></output></p>'
    )
