"""The page of statistics: what a folder, a query or an export holds, with plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from oid_async.openimages.kinds import KINDS
from oid_async.pages.document import document
from oid_async.pages.elements import Cell, Html, element, link, number, table, text
from oid_async.pages.histograms import add_histogram, boxes_per_image_bins
from oid_async.pages.parts import Cards, add_options, counts_table, key, key_numbers, notes, ramp
from oid_async.report import size_text
from oid_async.version import __version__

_OF = {
    "folder": "Saved images and their annotations, counted from the folder's own tables.",
    "query": "What this query would save, counted from the published tables: no image was fetched.",
    "export": "What an export holds, counted from its own files.",
}
# The kinds of a class's rows, as columns and colours.
_KINDS = ("boxes", "masks", "relationships", "labels", "points")
_COLUMNS = ("images", *_KINDS, "verified_absent")
# As many classes as a plot can name.
_DRAWN = 40


def statistics_page(
    statistics: Mapping[str, Any], *, plots: bool = True, asked: Mapping[str, Any] | None = None
) -> str:
    """Return an HTML page of `Statistics.as_json()`'s value: one file that opens offline.

    Every class is in its table, the 40 with most images in the plot. Parts that are empty are left out. `asked` are the
    options of a query. Plots need the extra `view` (`plotting.require_library`).
    """
    of = str(statistics.get("of") or "folder")
    name = str(statistics.get("savepath") or "")
    title = f"Statistics of {name}" if name else f"Statistics of a {of}"
    cards = Cards(plots=plots)
    if statistics.get("notes"):
        cards.add("Notes", notes(statistics["notes"]), size="wide")
    add_options(cards, asked or {})
    _add_classes(cards, statistics)
    _add_boxes(cards, statistics)
    _add_cooccurrence(cards, statistics.get("cooccurrence") or {})
    _add_sizes(cards, statistics.get("image_sizes") or {})
    _add_counts(cards, statistics)
    _add_flags(cards, statistics.get("flags") or {})
    _add_licenses(cards, statistics.get("licenses") or {})
    _add_absences(cards, statistics.get("classes") or [])
    _add_authors(cards, statistics.get("authors") or {})
    header = [
        element("h1", text(title)),
        element("p", text(_OF.get(of, "")), class_="lead"),
        key_numbers(_key_numbers(statistics)),
    ]
    footer = f"Made by oid-async {__version__}. Images, annotations and class names: Open Images and its contributors."
    return document(title, header=header, main=cards.written(), footer=footer, plots=cards.plots)


def _key_numbers(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = statistics.get("images") or {}
    numbers = [("images", number(images.get("selected") or 0))]
    if statistics.get("of") == "folder":
        numbers += [(name, number(images.get(word) or 0)) for name, word in _STATES if images.get(word) is not None]
    numbers.append(("classes", number(len(statistics.get("classes") or []))))
    numbers += [(KINDS[kind].what, number(rows)) for kind, rows in (statistics.get("kinds") or {}).items()]
    if images.get("bytes"):
        numbers.append(("bytes of images", size_text(images["bytes"])))
    return numbers


_STATES = (("saved", "ok"), ("failed", "failed"), ("pending", "pending"))


def _add_classes(cards: Cards, statistics: Mapping[str, Any]) -> None:
    classes = statistics.get("classes") or []
    if not classes:
        cards.add(
            "Classes", element("p", text("No class: nothing is annotated here, or nothing was selected.")), size="wide"
        )
        return
    shown = classes[:_DRAWN]
    kinds = [kind for kind in _KINDS if any(each.get(kind) for each in classes)]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import named_amounts

        amounts = [(_name(each), {kind: each.get(kind) or 0 for kind in ("images", *kinds)}) for each in shown]
        description = "Images and annotations of the classes with most images"
        return named_amounts(amounts, first="images", others=kinds, description=description)

    about = f"The {_DRAWN} of {number(len(classes))} with most images; all are in the table below."
    drawn = cards.plot(draw)
    if drawn:
        cards.add(
            "Images of a class, and its annotations",
            key(["images", *kinds]),
            drawn,
            about=about if len(classes) > _DRAWN else "",
            size="wide",
        )
    cards.add(
        "1 class" if len(classes) == 1 else f"{number(len(classes))} classes",
        _class_table(classes),
        about=_FLAGS_SAID,
        size="wide",
    )


_FLAGS_SAID = (
    "Columns named Is… count the boxes that have the flag. Absent: images of which people said that it is not there."
)


def _class_table(classes: Sequence[Mapping[str, Any]]) -> Html:
    columns = [column for column in _COLUMNS if column == "images" or any(each.get(column) for each in classes)]
    flags = list(dict.fromkeys(flag for each in classes for flag in each.get("flags") or {}))
    heads = ["class", "label", *("absent" if column == "verified_absent" else column for column in columns), *flags]
    rows: list[Sequence[Cell]] = [
        (
            str(each.get("class_name") or ""),
            str(each.get("label") or ""),
            *(each.get(column) for column in columns),
            *((each.get("flags") or {}).get(flag) for flag in flags),
        )
        for each in classes
    ]
    return table(heads, rows, texts=2, label="classes", searchable=True)


def _name(each: Mapping[str, Any]) -> str:
    return str(each.get("class_name") or each.get("label") or "")


def _add_boxes(cards: Cards, statistics: Mapping[str, Any]) -> None:
    per_image = statistics.get("boxes_per_image") or {}
    counts = per_image.get("counts") or []
    if counts:
        about = _said(per_image, ("mean", "mean"), ("median", "median"), ("most", "max"))
        edges, images = boxes_per_image_bins(counts)
        binned = {"edges": edges, "counts": images}
        add_histogram(cards, "Boxes an image", binned, ("boxes", "images"), about=about, whole=True)
    share = statistics.get("box_share") or {}
    about = _share_said(share.get("median"))
    add_histogram(cards, "Share of the image that a box covers", share, ("share", "boxes"), about=about, log=True)
    aspect = statistics.get("box_aspect") or {}
    about = "Width by height, of the pixels where the size is known." + _median_said(aspect)
    add_histogram(cards, "Aspect of boxes", aspect, ("width / height", "boxes"), about=about, log=True)
    _add_positions(cards, statistics.get("box_positions") or {})


def _said(values: Mapping[str, Any], *names: tuple[str, str]) -> str:
    return ", ".join(f"{name} {number(values[word], 2)}" for name, word in names if values.get(word) is not None)


def _median_said(values: Mapping[str, Any]) -> str:
    median = values.get("median")
    return "" if median is None else f" Median {number(median, 2)}."


def _share_said(median: float | None) -> str:
    return "" if median is None else f"Half of the boxes cover less than {number(100 * median, 2)} % of their image."


def _add_positions(cards: Cards, positions: Mapping[str, Any]) -> None:
    cells = positions.get("counts") or []
    most = max((count for line in cells for count in line), default=0)
    if not most:
        return
    down, across = len(cells), len(cells[0])

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import heat_map

        return heat_map(
            cells,
            columns=_percents(across),
            rows=_percents(down),
            titles=("from the left", "from the top", "boxes"),
            description="Where the centres of boxes are in their image",
            names_shown=False,
        )

    drawn = cards.plot(draw, square=True)
    if drawn:
        about = "Where the centres of boxes are in their image, whatever its shape: left is left, top is top."
        cards.add("Positions of boxes", drawn, ramp(f"{number(most)} boxes"), about=about)


def _percents(parts: int) -> list[str]:
    return [f"{100 * part / parts:.0f} to {100 * (part + 1) / parts:.0f} %" for part in range(parts)]


def _add_cooccurrence(cards: Cards, together: Mapping[str, Any]) -> None:
    names = [str(name) for name in together.get("classes") or []]
    cells = together.get("images") or []
    apart = [count for row, line in enumerate(cells) for column, count in enumerate(line) if row != column]
    if len(names) < 2 or not any(apart):
        return
    # A class with itself would outshine every pair.
    pairs = [[0 if row == column else count for column, count in enumerate(line)] for row, line in enumerate(cells)]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import heat_map

        return heat_map(
            pairs,
            columns=names,
            rows=names,
            titles=("class", "with", "images"),
            description="Images that hold two classes together",
            names_shown=True,
        )

    rows: list[Sequence[Cell]] = [(name, *line) for name, line in zip(names, cells, strict=True)]
    numbers = table(["class", *names], rows, label="classes together")
    drawn = cards.plot(draw)
    about = f"Images that hold both, of the {number(len(names))} classes with most images."
    scale = ramp(f"{number(max(apart))} images") if drawn else Html("")
    cards.add("Classes together", *cards.with_numbers(drawn, scale, numbers=numbers), about=about, size="wide")


def _add_sizes(cards: Cards, sizes: Mapping[str, Any]) -> None:
    for title, word, unit in _SIZES:
        values = sizes.get(word) or {}
        add_histogram(cards, title, values, (unit, "images"), about=_median_said(values).strip())
    common = sizes.get("most_common") or []
    if common:
        rows: list[Sequence[Cell]] = [(f"{number(width)} × {number(height)}", count) for width, height, count in common]
        cards.add("Most frequent sizes", table(["width × height", "images"], rows, label="sizes"))


_SIZES = (
    ("Width of images", "widths", "pixels"),
    ("Height of images", "heights", "pixels"),
    ("Megapixels of images", "megapixels", "megapixels"),
)


def _add_counts(cards: Cards, statistics: Mapping[str, Any]) -> None:
    for title, word, what in _COUNTS:
        counts = statistics.get(word) or {}
        if counts:
            cards.add(title, counts_table(counts, what=what, number="images", label=title), size="small")


_COUNTS = (
    ("Splits", "splits", "split"),
    ("Roles", "roles", "role"),
    ("Sources", "sources", "source"),
    ("Failures", "reasons", "reason"),
)


def _add_flags(cards: Cards, flags: Mapping[str, Mapping[str, int]]) -> None:
    if flags:
        rows: list[Sequence[Cell]] = [
            (flag, *(values.get(answer) or 0 for answer in ("yes", "no", "unknown"))) for flag, values in flags.items()
        ]
        cards.add("Flags of boxes", table(["flag", "yes", "no", "unknown"], rows, label="flags"), size="small")


def _add_absences(cards: Cards, classes: Sequence[Mapping[str, Any]]) -> None:
    absent = [each for each in classes if each.get("verified_absent")]
    most = sorted(absent, key=lambda each: -each["verified_absent"])[:_ABSENT]
    if not most:
        return
    values = [(_name(each), int(each["verified_absent"])) for each in most]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import bars

        return bars(
            values, title="images", what="class", description="Images of which a class was verified to be absent"
        )

    about = "Images of which people said that the class is not there."
    if len(absent) > len(most):
        about += f" The {len(most)} of {number(len(absent))} with most of them; the others are in the table of classes."
    numbers = table(["class", "images"], values, label="verified absences")
    cards.add("Verified absences", *cards.with_numbers(cards.plot(draw), numbers=numbers), about=about)


_ABSENT = 15


def _add_licenses(cards: Cards, licenses: Mapping[str, int]) -> None:
    if licenses:
        shown = sorted(licenses.items(), key=lambda pair: -pair[1])[:_LICENSES]
        about = f"The {len(shown)} of {number(len(licenses))} with most images." if len(licenses) > len(shown) else ""
        rows: list[Sequence[Cell]] = [(link(url) if url else "unknown", images) for url, images in shown]
        cards.add("Licences", table(["licence", "images"], rows, label="licences"), about=about, size="small")


def _add_authors(cards: Cards, authors: Mapping[str, Any]) -> None:
    most = authors.get("most") or []
    if most:
        count = authors.get("count") or len(most)
        about = f"The {len(most)} with most images of {number(count)}." if count > len(most) else ""
        numbers = table(["author", "images"], [(str(author), images) for author, images in most], label="authors")
        cards.add("Authors", numbers, about=about)


# There are a handful; only a table of one's own can hold so many.
_LICENSES = 100
