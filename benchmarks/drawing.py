"""Bars in an SVG picture, as the benchmarks draw them: ours in green, the others in grey."""

from __future__ import annotations

from html import escape

INK, FAINT, PAPER, GRID = "#24292f", "#57606a", "#ffffff", "#d8dee4"
OURS, PEERS = "#1a7f64", "#a8b1bb"
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif\""
WIDTH, ROW, BAR = 900, 28, 16


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{more}>{escape(words)}</text>'


def bar(x: float, y: float, width: float, words: str, *, is_ours: bool) -> list[str]:
    """A bar that starts at `x` with its middle at `y`, and the words behind it."""
    width = max(1.0, width)
    colour = OURS if is_ours else PEERS
    weight = ' font-weight="600"' if is_ours else ""
    return [
        f'<rect x="{x}" y="{y - BAR / 2:.1f}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        text(x + width + 6, y + 4.5, words, 12, INK, weight),
    ]


def page(heading: str, note: str, height: int, body: list[str]) -> str:
    """The whole picture: a heading at the top, a note at the foot, the body between them."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" {FONT} role="img" aria-label="{escape(heading)}">',
            f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
            text(16, 28, heading, 16, INK, ' font-weight="600"'),
            *body,
            text(16, height - 14, note, 11, FAINT),
            "</svg>\n",
        ]
    )
