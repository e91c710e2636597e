"""The text of `oid-async stats`: tables with small bars, drawn on a terminal, as aligned lines elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from oid_async.openimages.kinds import KINDS
from oid_async.redaction import printable
from oid_async.report import counted, size_text
from oid_async.screen.stdio import takes
from oid_async.statistics.value import ClassCounts, Histogram, Statistics

_MOST_CLASSES = 20
_MOST_LINES = 8
_LONGEST = 40
_BAR = 24
# From so many columns on tables stand side by side.
_WIDE = 120
_COLUMNS = ("boxes", "masks", "relationships", "labels", "points")
# What a person tells apart: the first number of boxes of each line.
_BOX_STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500)
_SHARE_STEPS = (0.0, 0.0001, 0.001, 0.01, 0.1)
_ASPECT_STEPS = (0.0625, 0.25, 0.5, 1.0, 2.0, 4.0)
_ASPECTS = ("below 1:4", "1:4 to 1:2", "1:2 to 1:1", "1:1 to 2:1", "2:1 to 4:1", "from 4:1 on")
_SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class Block:
    """One table: a title, the names of its columns (the first one of text, others of numbers), rows, a last line.

    `bars` are the numbers that a bar in the last column stands for, none for a table without bars.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ending: str = ""
    bars: Sequence[int] = ()


def plain_lines(found: Statistics) -> list[str]:
    """Return the statistics as aligned lines."""
    lines = list(_heading(found))
    for block in blocks(found):
        rows = [tuple(map(_fitting, row)) for row in (block.columns, *block.rows)]
        if block.bars:
            rows = [(*row, bar) for row, bar in zip(rows, ("", *_bars(block.bars)), strict=True)]
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        lines += ["", block.title]
        for row in rows if any(block.columns) else rows[1:]:
            cells = [set_cell_size(row[0], widths[0])]
            last = len(row) - bool(block.bars)
            cells += [
                " " * (width - cell_len(cell)) + cell for cell, width in zip(row[1:last], widths[1:last], strict=True)
            ]
            lines.append("  ".join((*cells, *row[last:])).rstrip())
        lines += [block.ending] if block.ending else []
    return lines


def drawn(found: Statistics, width: int) -> str:
    """Return the statistics as a terminal of so many columns shows them, with colours if it has any."""
    console = Console(
        file=StringIO(), force_terminal=True, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
    )
    for line in _heading(found):
        console.print(Text(printable(line)))
    shown = [_drawn(block, width) for block in blocks(found)]
    if width < _WIDE:
        for each in shown:
            console.print("", each)
    elif shown:
        # The table of classes is as wide as several others.
        console.print("", shown[0], "", Columns(shown[1:], padding=(1, 4)))
    written = console.file
    assert isinstance(written, StringIO)
    return written.getvalue().rstrip("\n")


def _drawn(block: Block, width: int) -> Group:
    """Return a table under its title."""
    ending = [Text(block.ending, style="dim")] if block.ending else []
    return Group(Text(block.title, style="bold"), _table(block, width), *ending)


def _table(block: Block, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(block.columns))
    bars = _bars(block.bars)
    rows = [tuple(map(_fitting, row)) for row in block.rows]
    numbers = [max(map(cell_len, column)) for column in zip(block.columns[1:], *(row[1:] for row in rows), strict=True)]
    # A name gives way before a number does.
    left = width - sum(numbers) - 2 * len(numbers) - bool(bars) * (_BAR + 2)
    for place, name in enumerate(block.columns):
        of_name: dict[str, Any] = {"justify": "right"} if place else {"overflow": "ellipsis", "max_width": max(left, 8)}
        table.add_column(Text(name, style="dim"), no_wrap=True, **of_name)
    if bars:
        table.add_column("", no_wrap=True, overflow="crop", style="cyan")
    for place, row in enumerate(rows):
        table.add_row(*map(Text, (*row, *bars[place : place + 1])))
    return table


def _fitting(text: str) -> str:
    """Return a text for one cell: printable, on one line, not too long."""
    text = printable(text)
    return text if cell_len(text) <= _LONGEST else f"{set_cell_size(text, _LONGEST - 1).rstrip()}…"


def _bars(numbers: Sequence[int]) -> list[str]:
    """Return a bar for each number, the longest for the largest; none at all without numbers."""
    most, sign = max((*numbers, 1)), "█" if takes("█") else "#"
    return [sign * max(round(_BAR * number / most), int(number > 0)) for number in numbers]


def _heading(found: Statistics) -> Iterator[str]:
    """Yield the lines above the tables."""
    images = found.images
    where = {"folder": f"{found.savepath}: ", "export": f"{found.savepath}: "}.get(found.of, "the query selects ")
    parts = [counted(images.selected, "image")]
    if images.ok is not None and found.of == "folder":
        size = f" ({size_text(images.bytes)})" if images.bytes else ""
        parts.append(f"{images.ok} saved{size}")
    parts += [f"{count} {word}" for word, count in (("failed", images.failed), ("pending", images.pending)) if count]
    yield where + ", ".join(parts)
    if found.kinds:
        yield "rows: " + ", ".join(f"{count} {KINDS[kind].what}" for kind, count in found.kinds.items())  # type: ignore[index]
    for word, counts in (
        ("splits", found.splits),
        ("roles", found.roles if len(found.roles) > 1 else {}),
        ("sources", found.sources),
        ("failed", found.reasons),
    ):
        if counts:
            yield f"{word}: " + ", ".join(f"{name or 'unknown'} {count}" for name, count in counts.items())


def blocks(found: Statistics) -> Iterator[Block]:
    """Yield the tables of what there is."""
    if found.classes:
        yield _classes(found.classes)
    if found.flags and "bbox" in found.kinds:
        rows = [(flag, str(count.yes), str(count.no), str(count.unknown)) for flag, count in found.flags.items()]
        yield Block("flags of boxes", ("flag", "yes", "no", "unknown"), rows)
    if found.boxes_per_image.counts:
        yield _boxes_per_image(found)
    if found.box_share.counts:
        yield _shares(found.box_share)
    if found.box_aspect.counts:
        counts = _merged(found.box_aspect, _ASPECT_STEPS)
        title = f"width to height of boxes in pixels: median {_number(found.box_aspect.median)}"
        yield _counted_block(title, "boxes", zip(_ASPECTS, counts, strict=True))
    if found.box_positions.counts:
        yield Block("where the centres of boxes are", ("",), [(line,) for line in _map(found.box_positions.counts)])
    yield from _together(found)
    yield from _sizes(found)
    yield from _credits(found)


def _classes(classes: Sequence[ClassCounts]) -> Block:
    columns = [name for name in _COLUMNS if any(getattr(each, name) for each in classes)]
    columns += ["verified_absent"] * any(each.verified_absent for each in classes)
    often = [each.class_name for each in classes]
    rows = []
    for each in classes[:_MOST_CLASSES]:
        name = each.class_name if often.count(each.class_name) == 1 else f"{each.class_name} ({each.label})"
        rows.append((name, str(each.images), *(str(getattr(each, column)) for column in columns)))
    more = len(classes) - _MOST_CLASSES
    ending = f"… and {_class_count(more, 'more class')} (--json has all)" if more > 0 else ""
    names = ("class", "images", *(name.replace("verified_absent", "absent") for name in columns))
    return Block(f"{_class_count(len(classes))}, most images first", names, rows, ending)


def _class_count(count: int, noun: str = "class") -> str:
    return f"{count} {noun}{'' if count == 1 else 'es'}"


def _boxes_per_image(found: Statistics) -> Block:
    boxes = found.boxes_per_image
    counts = dict.fromkeys(range(len(_BOX_STEPS)), 0)
    for number, images in boxes.counts:
        counts[max(place for place, step in enumerate(_BOX_STEPS) if step <= number)] += images
    used = [place for place, images in counts.items() if images]
    lines = []
    for place in range(used[0], used[-1] + 1):
        first, after = _BOX_STEPS[place], (*_BOX_STEPS, 0)[place + 1]
        name = str(first) if after == first + 1 else f"{first} to {after - 1}" if after else f"from {first} on"
        lines.append((name, counts[place]))
    title = f"boxes an image: mean {_number(boxes.mean)}, median {_number(boxes.median)}, most {boxes.max}"
    return _counted_block(title, "images", lines)


def _shares(share: Histogram) -> Block:
    names = ("below 0.01 %", "0.01 to 0.1 %", "0.1 to 1 %", "1 to 10 %", "10 to 100 %")
    median = "unknown" if share.median is None else f"{_number(100 * share.median)} %"
    counts = _merged(share, _SHARE_STEPS)
    return _counted_block(
        f"share of the image that a box covers: median {median}", "boxes", zip(names, counts, strict=True)
    )


def _merged(histogram: Histogram, steps: Sequence[float]) -> list[int]:
    """Return the counts of a histogram between fewer of its edges."""
    counts = [0] * len(steps)
    for edge, count in zip(histogram.edges, histogram.counts, strict=False):
        counts[max(place for place, step in enumerate(steps) if step <= edge * (1 + 1e-9))] += count
    return counts


def _counted_block(title: str, what: str, lines: Iterable[tuple[str, int]]) -> Block:
    rows = list(lines)
    return Block(title, ("", what), [(name, str(count)) for name, count in rows], bars=[count for _, count in rows])


def _map(counts: Sequence[Sequence[int]]) -> Iterator[str]:
    """Yield the lines of a map: two rows of fields a line, as a character is twice as high as wide."""
    pairs = [[*map(sum, zip(*two, strict=True))] for two in zip(counts[::2], counts[1::2], strict=True)]
    most = max(map(max, pairs))
    for line in pairs:
        yield "|" + "".join(_SHADES[-(-count * (len(_SHADES) - 1) // most)] for count in line) + "|"


def _together(found: Statistics) -> Iterator[Block]:
    names, images = found.cooccurrence.classes, found.cooccurrence.images
    pairs = [
        (images[one][other], one, other) for one, other in combinations(range(len(names)), 2) if images[one][other]
    ]
    best = sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:_MOST_LINES]
    if best:
        rows = [(f"{_short(names[one])} + {_short(names[other])}", count) for count, one, other in best]
        yield _counted_block("most often in an image together", "images", rows)


def _short(name: str) -> str:
    name = printable(name)
    return name if cell_len(name) <= 18 else f"{set_cell_size(name, 17).rstrip()}…"


def _sizes(found: Statistics) -> Iterator[Block]:
    sizes = found.image_sizes
    if sizes.most_common:
        median = (_number(each.median) for each in (sizes.widths, sizes.heights, sizes.megapixels))
        title = "sizes of images: median {} x {} pixels, {} megapixels".format(*median)
        lines = [(f"{width} x {height}", count) for width, height, count in sizes.most_common[:_MOST_LINES]]
        yield _counted_block(title, "images", lines)


def _credits(found: Statistics) -> Iterator[Block]:
    if found.licenses:
        yield _most("licences", found.licenses)
    if found.authors.count:
        yield _most(f"{counted(found.authors.count, 'author')}, most images first", dict(found.authors.most[:5]))


def _most(title: str, counts: Mapping[str, int]) -> Block:
    lines = [(name.removeprefix("https://") or "unknown", str(count)) for name, count in counts.items()]
    return Block(title, ("", "images"), lines[:_MOST_LINES])


def _number(value: float | None) -> str:
    """Return a number as a person reads it.

    >>> _number(1024.0), _number(5.32), _number(0.0123456), _number(None)
    ('1024', '5.3', '0.012', 'unknown')
    """
    if value is None:
        return "unknown"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0") if value >= 1 else f"{value:.2g}"
