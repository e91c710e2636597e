"""The page of a run: how it went, with what each host did, and what held it up."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from oid_async.pages.document import document
from oid_async.pages.elements import Amount, Cell, Html, element, joined, number, table, text
from oid_async.pages.holding import what_held_up
from oid_async.pages.parts import Cards, add_options, counts_table, key, key_numbers
from oid_async.pages.plotting import INSTALL, has_library
from oid_async.report import FINAL_KINDS, PASSING_KINDS, size_text
from oid_async.version import __version__

WAITS = {
    "rate_cap": "requests waited for the rate cap (--rate)",
    "limit_rate": "bytes waited for --limit-rate",
    "paused": "the host was left alone: it was down, or had asked for it",
    "retry_after": "an image waited as long as its answer had asked (Retry-After)",
    "backoff": "an image waited before it was tried again",
}
_POINTS = ("p50", "p90", "p99")
_TIMES = (("first byte", "first_byte_ms"), ("total", "total_ms"), ("DNS", "dns_ms"), ("connect", "connect_ms"))
# As many hosts as a plot can name.
_DRAWN = 15


def run_page(run: Mapping[str, Any], *, plots: bool = True) -> str:
    """Return an HTML page of a run's report: one file that opens offline.

    `run` has `report` (`Report.as_json()`), `started`, `hosts`, `throughput` and `cpu`; `options`, `version` and the
    `error` that ended it if there are any. Plots need the extra `view`, tables need nothing.
    """
    report = run.get("report") or {}
    hosts = run.get("hosts") or {}
    cards = Cards(plots=plots)
    _add_throughput(cards, run.get("throughput") or {})
    _add_summary(cards, run.get("cpu") or {}, report)
    _add_hosts(cards, hosts)
    _add_waits(cards, hosts)
    _add_attempts(cards, hosts)
    add_options(cards, run.get("options") or {})
    savepath = str(report.get("savepath") or "")
    error = run.get("error") or {}
    findings = [f"The run stopped: {error['message']}"] if error.get("message") else []
    header = [
        element("h1", text(f"Run into {savepath}" if savepath else "Run")),
        element("p", text(_lead(run, report)), class_="lead"),
        joined(element("p", text(line), class_="finding") for line in [*findings, *what_held_up(run)]),
        key_numbers(_key_numbers(report)),
    ]
    footer = f"Made by oid-async {__version__}." + ("" if plots else _without_plots())
    return document("Run of oid-async", header=header, main=cards.written(), footer=footer, plots=cards.plots)


def _without_plots() -> str:
    return " Plots were left out" + ("." if has_library() else f": they need Altair ({INSTALL}).")


def _lead(run: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    parts = [f"Started {started_text(str(run['started']))}"] if run.get("started") else []
    if report.get("seconds") is not None:
        parts.append(f"took {duration(report['seconds'])}")
    if report.get("shard"):
        parts.append(f"part {report['shard']}")
    if report.get("interrupted"):
        parts.append("interrupted")
    if run.get("version"):
        parts.append(f"oid-async {run['version']}")
    return ", ".join(parts) + ("." if parts else "")


def started_text(started: str) -> str:
    """Return an ISO time to the second, in UTC; a text that is none as it is.

    >>> started_text("2026-03-01T12:00:00.123+01:00"), started_text("today")
    ('2026-03-01 11:00:00 UTC', 'today')
    """
    try:
        return datetime.fromisoformat(started).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return started


def duration(seconds: float) -> str:
    """Return a time as a person reads it.

    >>> duration(0.34), duration(95), duration(7384)
    ('0.34 s', '1 min 35 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{number(float(seconds), 2 if seconds < 10 else 1)} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours:,} h {minutes_left} min" if hours else f"{minutes} min {left} s"


def _time(seconds: float) -> Amount:
    return Amount(duration(seconds), seconds)


def _size(count: int) -> Amount:
    return Amount(size_text(count), count)


def _key_numbers(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    numbers = [(name, number(report.get(name) or 0)) for name in ("selected", "downloaded", "present", "failed")]
    numbers += [(name, number(report[name])) for name in ("pending", "unselected", "negatives") if report.get(name)]
    numbers += [("bytes", size_text(report.get("bytes") or 0)), ("requests", number(report.get("requests") or 0))]
    seconds = report.get("seconds") or 0
    if seconds and report.get("downloaded"):
        numbers.append(("images a second", number(report["downloaded"] / seconds, 1)))
        numbers.append(("bytes a second", size_text(int((report.get("bytes") or 0) / seconds))))
    return numbers


def _add_throughput(cards: Cards, throughput: Mapping[str, Any]) -> None:
    interval = float(throughput.get("interval_s") or 1)
    drawn: list[Html] = []
    for title, name, colour in (
        ("images a second", "images", 0),
        ("bytes a second", "bytes", 2),
        ("failed", "failed", 1),
    ):
        values = throughput.get(name) or []
        if not any(values):
            continue
        rates = [value if name == "failed" else value / interval for value in values]
        drawn.append(cards.plot(_series(rates, interval, title, colour)))
    numbers = _throughput_table(throughput, interval)
    if numbers:
        about = f"What landed in each {duration(interval)} of the run; the last one may be shorter."
        content = cards.with_numbers(*drawn, numbers=numbers)
        cards.add("Throughput", *content, about=about, size="wide")


def _series(rates: Sequence[float], interval: float, title: str, colour: int) -> Any:
    """Return what draws a series: seconds, minutes or hours on its time axis."""
    whole = len(rates) * interval
    unit, of_unit = ("h", 3600) if whole > 3 * 3600 else ("min", 60) if whole > 180 else ("s", 1)

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import series

        return series(
            rates, interval=interval / of_unit, title=title, unit=unit, colour=colour, description=f"{title} over time"
        )

    return draw


def _throughput_table(throughput: Mapping[str, Any], interval: float) -> Html:
    columns = [throughput.get(name) or [] for name in ("images", "bytes", "failed")]
    length = max(map(len, columns))
    if not length:
        return Html("")
    padded = [[*column, *[0] * (length - len(column))] for column in columns]
    rows: list[Sequence[Cell]] = [
        (_time(index * interval), images, _size(size), failed)
        for index, (images, size, failed) in enumerate(zip(*padded, strict=True))
    ]
    return table(["from", "images", "bytes", "failed"], rows, label="throughput")


def _add_hosts(cards: Cards, hosts: Mapping[str, Mapping[str, Any]]) -> None:
    if not hosts:
        return
    shown = list(hosts.items())[:_DRAWN]
    rows = [
        (name, measure, host.get(word) or {})
        for name, host in shown
        for measure, word in _TIMES[:2]
        if (host.get(word) or {}).get("count")
    ]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import spreads

        return spreads(rows, title="milliseconds (logarithmic)", description="First byte and total time of each host")

    drawn = cards.plot(draw) if rows else Html("")
    if drawn:
        about = "From the p50 (circle) by the p90 (diamond) to the p99 (triangle)."
        named = key(["first byte", "total"])
        cards.add("How long hosts take", named, drawn, about=about, size="wide")
    cards.add("Hosts", _hosts_table(hosts), about="What each was asked for, and what it did.", size="wide")
    cards.add("Times of hosts", _times_table(hosts), about=_TIMES_SAID, size="wide")


_TIMES_SAID = (
    "In milliseconds: from a request to the first byte of its response, and to the last; DNS is one look-up, connect "
    "is TCP and TLS. Half took no longer than p50, nine tenths no longer than p90, 99 of 100 no longer "
    "than p99."
)


def _hosts_table(hosts: Mapping[str, Mapping[str, Any]]) -> Html:
    others = any(any((host.get("other") or {}).values()) for host in hosts.values())
    heads = ["host", "requests", "images", "bytes", "connections", "retries", "failures", "waited"]
    rows: list[Sequence[Cell]] = []
    for name, host in hosts.items():
        waits = host.get("waits") or {}
        row: list[Cell] = [
            name,
            host.get("requests") or 0,
            host.get("images") or 0,
            _size(host.get("bytes") or 0),
            host.get("connections") or 0,
            sum((host.get("retries") or {}).values()),
            sum((host.get("failures") or {}).values()),
            _time(max((wait.get("seconds") or 0 for wait in waits.values()), default=0)),
        ]
        if others:
            other = host.get("other") or {}
            row += [other.get("requests") or 0, _size(other.get("bytes") or 0)]
        rows.append(row)
    return table([*heads, *(["other requests", "other bytes"] if others else [])], rows, label="hosts")


def _times_table(hosts: Mapping[str, Mapping[str, Any]]) -> Html:
    rows: list[Sequence[Cell]] = [
        (name, measure, *((host[word].get(point)) for point in (*_POINTS, "max")), host[word].get("count"))
        for name, host in hosts.items()
        for measure, word in _TIMES
        if (host.get(word) or {}).get("count")
    ]
    return table(["host", "time", *_POINTS, "longest", "count"], rows, texts=2, label="times of hosts")


def _add_waits(cards: Cards, hosts: Mapping[str, Mapping[str, Any]]) -> None:
    rows: list[Sequence[Cell]] = [
        (name, reason, WAITS.get(reason, ""), wait.get("seconds") or 0, wait.get("count") or 0)
        for name, host in hosts.items()
        for reason, wait in (host.get("waits") or {}).items()
    ]
    if not rows:
        return
    lasted = [(f"{row[1]} ({row[0]})", float(row[3])) for row in rows if isinstance(row[3], int | float) and row[3] > 0]
    longest = sorted(lasted, key=lambda pair: -pair[1])[:_DRAWN]

    def draw() -> Mapping[str, Any]:
        from oid_async.pages.charts import bars

        return bars(
            longest, title="seconds", what="wait", description="Seconds of the run in which something waited, and why"
        )

    drawn = cards.plot(draw) if longest else Html("")
    about = "Seconds of the run in which anything waited for the reason; waits at the same time count once."
    heads = ["host", "reason", "meaning", "seconds", "waits"]
    cards.add("Waits", drawn, table(heads, rows, texts=3, label="waits"), about=about, size="wide")


def _add_summary(cards: Cards, cpu: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    failures = report.get("failures") or {}
    if failures:
        rows: list[Sequence[Cell]] = [(kind, _KINDS.get(kind, ""), count) for kind, count in failures.items()]
        cards.add("Failed images", table(["kind", "meaning", "images"], rows, texts=2, label="failures"), size="small")
    for title, word, what, head in _COUNTS:
        if report.get(word):
            cards.add(title, counts_table(report[word], what=what, number=head, label=title), size="small")
    if cpu:
        cards.add("Processor", _cpu_table(cpu, report.get("downloaded") or 0), size="small")


_KINDS = {**FINAL_KINDS, **PASSING_KINDS}
_COUNTS = (
    ("Sources", "sources", "source", "images"),
    ("Masks", "masks", "masks", "number"),
    ("Recordings", "recordings", "recordings", "number"),
)


def _cpu_table(cpu: Mapping[str, Any], downloaded: int) -> Html:
    user, system = float(cpu.get("user_s") or 0), float(cpu.get("system_s") or 0)
    rows: list[Sequence[Cell]] = [
        ("CPU time, user", duration(user)),
        ("CPU time, system", duration(system)),
        ("processes", cpu.get("processes") or 1),
    ]
    if downloaded:
        rows.append(("CPU time an image", f"{number(1000 * (user + system) / downloaded, 3)} ms"))
    return table(["what", "number"], rows, label="processor")


def _add_attempts(cards: Cards, hosts: Mapping[str, Mapping[str, Any]]) -> None:
    attempts: list[Sequence[Cell]] = [
        (
            name,
            kind,
            _KINDS.get(kind, ""),
            *(((host.get(word) or {}).get(kind) or 0) for word in ("failures", "retries")),
        )
        for name, host in hosts.items()
        for kind in dict.fromkeys([*(host.get("failures") or {}), *(host.get("retries") or {})])
    ]
    if attempts:
        about = (
            "Attempts that failed, and how many were made because of that: an image that came after all is no failure."
        )
        heads = ["host", "kind", "meaning", "failed attempts", "retries"]
        cards.add("Attempts that failed", table(heads, attempts, texts=3, label="attempts"), about=about, size="wide")
