"""Charts of plain values as specifications of Vega-Lite, made by Altair. Colours are CSS variables of the page.

Names stand in the data and in a list that an axis looks them up in, by their number: as a value of a scale "__proto__"
would be a property of Vega's own objects. They are never in an expression or a title.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from oid_async.pages.elements import distinct, number, shortened
from oid_async.redaction import printable

Spec = dict[str, Any]
COLOURS = [f"var(--c{index})" for index in range(1, 7)]
# Of the dots, in the order of their colours; page.css shows them beside their names.
_SHAPES = ["circle", "square", "diamond", "triangle-up", "cross"]
# Where the longest bar has more than this many times the shortest, short ones would be invisible on a linear scale.
_LINEAR_RATIO = 200
_HOVERED = 500
# Short numbers (1.2M), and a 0 that is not 0M.
_SHORT: dict[str, Any] = {"format": "~s", "labelExpr": "datum.value === 0 ? '0' : datum.label"}


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values are so different that they need a logarithmic scale."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > _LINEAR_RATIO * min(positive)


def bars(values: Sequence[tuple[str, float]], *, title: str, what: str, description: str) -> Spec:
    """Return one bar a name, in their order, with its value beside it on hover."""
    rows = [
        {"row": row, "value": value, "whole": _whole(name), "said": number(value)}
        for row, (name, value) in enumerate(values)
    ]
    chart = _chart(rows).mark_bar(color=COLOURS[0], height={"band": 0.7})
    return _spec(
        chart.encode(
            y=_names_axis("names"),
            **_amounts([value for _, value in values], title),
            tooltip=[_hover("whole", what), _hover("said", title)],
        ),
        description,
        height=22 * len(values),
        names={"names": distinct([name for name, _ in values])},
    )


def named_amounts(
    rows: Sequence[tuple[str, Mapping[str, int]]], *, first: str, others: Sequence[str], description: str
) -> Spec:
    """Return one line a class: a bar for the `first` amount, a dot for each of the `others`."""
    kinds = [first, *others]
    data = [
        {"row": row, "whole": _whole(name), "kind": kind, "value": amounts.get(kind, 0)}
        | {f"said_{index}": number(amounts.get(each, 0)) for index, each in enumerate(kinds)}
        for row, (name, amounts) in enumerate(rows)
        for kind in kinds
        if amounts.get(kind, 0) > 0
    ]
    hover = [_hover("whole", "class"), *(_hover(f"said_{index}", kind) for index, kind in enumerate(kinds))]
    amounts = _amounts([count for _, counts in rows for count in counts.values()], "count")
    chart = _chart(data).encode(y=_names_axis("names"), x=amounts["x"], tooltip=hover)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=COLOURS[: len(kinds)]), legend=None)
    bar = chart.transform_filter(alt.FieldEqualPredicate(field="kind", equal=first)).mark_bar(
        color=COLOURS[0], height={"band": 0.7}
    )
    if "x2" in amounts:
        bar = bar.encode(x2=amounts["x2"])
    dots = chart.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=list(others))).mark_point(
        filled=True, size=60, opacity=1, stroke="var(--card)", strokeWidth=1
    )
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=list(others), range=_SHAPES[: len(others)]), legend=None)
    layers = alt.LayerChart(layer=[bar, dots.encode(color=colour, shape=shape)])
    return _spec(layers, description, height=20 * len(rows), names={"names": distinct([name for name, _ in rows])})


def histogram(
    edges: Sequence[float | None],
    counts: Sequence[int],
    names: Sequence[str],
    *,
    units: tuple[str, str],
    log: bool,
    description: str,
) -> Spec:
    """Return bars between edges, n + 1 of them for n counts and names; on a logarithmic axis if asked.

    `units` are those of the edges and of the counts.
    """
    rows = [
        {"from": low, "to": high, "count": count, "name": name, "said": number(count)}
        for (low, high), count, name in zip(finite_bins(edges, log=log), counts, names, strict=True)
    ]
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(nice=False, zero=False)
    axis = alt.Axis(grid=False, format="~g" if log else ",~r", labelOverlap=True, tickCount=6)
    chart = _chart(rows).mark_bar(color=COLOURS[0], binSpacing=1, minBandSize=1)
    return _spec(
        chart.encode(
            x=alt.X("from:Q", title=units[0], scale=scale, axis=axis, bin="binned"),
            x2="to:Q",
            y=alt.Y("count:Q", title=units[1], axis=alt.Axis(**_SHORT, tickCount=4)),
            tooltip=[_hover("name", units[0]), _hover("said", units[1])],
        ),
        description,
        height=200,
    )


def finite_bins(edges: Sequence[float | None], *, log: bool) -> list[tuple[float, float]]:
    """Return the bins with ends that can be drawn: one that is open, or ends at 0 on a logarithmic axis, is as wide as
    its neighbour.

    >>> finite_bins([0, 2, 4, None], log=False), finite_bins([0, 0.1, 1], log=True)
    ([(0, 2), (2, 4), (4, 6)], [(0.01, 0.1), (0.1, 1)])
    """
    known = [edge if edge is not None and math.isfinite(edge) and not (log and edge <= 0) else None for edge in edges]
    if len(known) > 1:
        known[-1] = known[-1] if known[-1] is not None else _beyond(known[:-1][::-1], log=log, sign=1)
        known[0] = known[0] if known[0] is not None else _beyond(known[1:], log=log, sign=-1)
    return list(pairwise(0.0 if edge is None else edge for edge in known))


def _beyond(known: Sequence[float | None], *, log: bool, sign: int) -> float | None:
    """Return the edge before the first of some, as far from it as the second; with one alone 1, or a tenth, away."""
    near = known[0]
    if near is None:
        return 1.0 if log else 0.0
    second = known[1] if len(known) > 1 else None
    if second is None:
        return near * 10.0**sign if log else near + sign
    return float(f"{near * near / second:.6g}") if log else 2 * near - second


def heat_map(
    cells: Sequence[Sequence[int]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    titles: tuple[str, str, str],
    description: str,
    names_shown: bool,
) -> Spec:
    """Return a grid of cells, the first row on top, of which the strength is the square root of the number.

    `titles` name column, row and number on hover.
    """
    data = [
        {"column": column, "row": row, "across": _whole(columns[column]), "down": _whole(rows[row])}
        | {"count": count, "said": number(count)}
        for row, line in enumerate(cells)
        for column, count in enumerate(line)
    ]
    sides = _names_axis("down", most=110) if names_shown else alt.Y("row:O", axis=None)
    below = alt.Axis(labelAngle=-90, labelLimit=110, ticks=False, domain=False, labelExpr="across[datum.value]")
    chart = _chart(data).mark_rect(color=COLOURS[0], stroke="var(--line)", strokeWidth=0.5 if names_shown else 0)
    most = max((count for line in cells for count in line), default=1) or 1
    strength = alt.Scale(type="pow", exponent=0.5, domain=[0, most], range=[0, 1])
    if not names_shown:
        # Its edge is that of the images.
        chart = chart.properties(view=alt.ViewBackground(stroke="var(--line)"))
    return _spec(
        chart.encode(
            x=alt.X("column:O", title=None, axis=below if names_shown else None),
            y=sides,
            fillOpacity=alt.FillOpacity("count:Q", scale=strength, legend=None),
            tooltip=[_hover("across", titles[0]), _hover("down", titles[1]), _hover("said", titles[2])],
        ),
        description,
        height=22 * len(rows) if names_shown else 300,
        names={"across": distinct(columns), "down": distinct(rows)},
    )


def series(values: Sequence[float], *, interval: float, title: str, unit: str, colour: int, description: str) -> Spec:
    """Return an area of values over time; `interval` is what lies between two, in `unit`s of the time axis."""
    rows = [
        {"at": index * interval, "value": value, "time": f"{number(index * interval, 2)} {unit}"}
        | {"said": number(value, 2)}
        # The last one lasts as long as the others: a step needs its end.
        for index, value in enumerate([*values, *values[-1:]])
    ]
    drawn = COLOURS[colour]
    mark = _chart(rows).mark_area(color=drawn, opacity=0.35, interpolate="step-after", line={"color": drawn})
    return _spec(
        mark.encode(
            x=alt.X(
                "at:Q", title=f"time ({unit})", axis=alt.Axis(grid=False, tickCount=6), scale=alt.Scale(nice=False)
            ),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(**_SHORT, tickCount=4)),
            tooltip=[_hover("time", "time"), _hover("said", title)],
        ),
        description,
        height=150,
    )


def spreads(rows: Sequence[tuple[str, str, Mapping[str, float]]], *, title: str, description: str) -> Spec:
    """Return a line a host and a measure from its p50 by p90 to its p99, on a logarithmic axis.

    Rows are host, measure and the percentiles by name.
    """
    hosts = list(dict.fromkeys(host for host, _, _ in rows))
    measures = list(dict.fromkeys(measure for _, measure, _ in rows))
    data: list[dict[str, Any]] = []
    for whole, measure, points in rows:
        known = {point: points[point] for point in ("p50", "p90", "p99") if (points.get(point) or 0) > 0}
        said = {point: number(points.get(point), 1) for point in ("p50", "p90", "p99")}
        common = {"row": hosts.index(whole), "whole": _whole(whole), "measure": measure} | said
        data += [common | {"point": point, "value": value} for point, value in known.items()]
    hover = [_hover("whole", "host"), _hover("measure", "measure")]
    hover += [_hover(point, f"{point} (ms)") for point in ("p50", "p90", "p99")]
    axis = alt.Axis(format="~s", labelOverlap=True, values=_decades([row["value"] for row in data]))
    chart = _chart(data).encode(
        y=_names_axis("names"),
        yOffset=alt.YOffset("measure:N", sort=measures),
        x=alt.X("value:Q", title=title, scale=alt.Scale(type="log"), axis=axis),
        color=alt.Color("measure:N", scale=alt.Scale(domain=measures, range=COLOURS[: len(measures)]), legend=None),
        tooltip=hover,
    )
    shapes = alt.Scale(domain=["p50", "p90", "p99"], range=["circle", "diamond", "triangle-right"])
    dots = chart.mark_point(filled=True, size=70, opacity=1).encode(
        shape=alt.Shape("point:N", scale=shapes, legend=None)
    )
    layers = alt.LayerChart(layer=[chart.mark_line(strokeWidth=2).encode(detail="row:O"), dots])
    return _spec(layers, description, height=40 * len(hosts), names={"names": distinct(hosts)})


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def _names_axis(names: str, *, most: int = 260) -> alt.Y:
    """Return the axis of rows, the first on top, with their names from a list of the specification."""
    # On a phone the names leave most of the width to what is drawn.
    limit = alt.ExprRef(f"min({most}, 0.36 * containerSize()[0])")
    axis = alt.Axis(ticks=False, domain=False, labelLimit=limit, labelExpr=f"{names}[datum.value]")
    return alt.Y("row:O", title=None, axis=axis)


def _amounts(values: Sequence[float], title: str) -> dict[str, Any]:
    """Return the axis of bars as channels: logarithmic, and beginning below the least, where values differ too much."""
    axis = alt.Axis(**_SHORT, tickCount=5, labelOverlap=True)
    if not is_wide(values):
        return {"x": alt.X("value:Q", title=title, axis=axis)}
    decades = _decades(values)
    low = decades[0]
    axis.values = decades
    scale = alt.Scale(type="log", domainMin=low)
    return {
        "x": alt.X("value:Q", title=f"{title} (logarithmic)", scale=scale, axis=axis),
        "x2": alt.X2Datum(low),
    }


def _decades(values: Sequence[float]) -> list[float]:
    """Return the powers of ten from below the least value that is above 0 to above the largest."""
    first = math.floor(math.log10(min(value for value in values if value > 0)) - 0.001)
    return [10.0**power for power in range(first, math.ceil(math.log10(max(values))) + 1)]


def _whole(name: str) -> str:
    # A hover that fills the window helps nobody: what is longer stands in the table.
    return shortened(printable(name), _HOVERED)


def _hover(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field=field, type="nominal", title=title)


def _spec(
    chart: alt.Chart | alt.LayerChart,
    description: str,
    *,
    height: int,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Spec:
    """Return a chart as wide as its place; `names` are the lists that its axes look names up in."""
    sized = chart.properties(width="container", height=height)
    spec = sized.properties(description=description, autosize=alt.AutoSizeParams(type="fit-x")).to_dict()
    # Altair's own looks, and the address of a schema that nothing should ask for: the page has its own.
    kept = {key: value for key, value in spec.items() if key not in ("config", "$schema")}
    lists = [{"name": name, "value": list(values)} for name, values in (names or {}).items()]
    return kept | ({"params": [*kept.get("params", []), *lists]} if lists else {})
