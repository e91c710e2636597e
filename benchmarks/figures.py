"""What the measured costs come to: rates, ratios round by round, tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from harness import Cost

# The costs of each contestant, one a round, in the order of the rounds.
Results = dict[str, list[Cost]]


@dataclass(frozen=True)
class Spread:
    """Median and extremes of one figure over the rounds."""

    median: float
    low: float
    high: float

    def words(self, digits: int) -> list[str]:
        """Two cells: the median, then the extremes."""
        return [f"{self.median:.{digits}f}", f"{self.low:.{digits}f}-{self.high:.{digits}f}"]


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def rates(costs: list[Cost], images: int) -> Spread:
    """Images a second, each round's by the time from spawn to exit."""
    return spread([images / cost.wall for cost in costs])


def fastest(results: Results, names: tuple[str, ...]) -> str:
    """Whose median run took the least time."""
    return min(names, key=lambda name: statistics.median(cost.wall for cost in results[name]))


def ratios(results: Results, name: str, rival: str) -> Spread:
    """How many times as fast as the rival: of the two runs of each round."""
    return spread([theirs.wall / own.wall for own, theirs in zip(results[name], results[rival], strict=True)])


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def cost_table(results: Results, images: int) -> list[str]:
    """A row for each contestant."""
    head = ["", "images/s", "min-max", "seconds", "CPU ms per image", "peak MB"]
    rows = []
    for name, costs in results.items():
        seconds = statistics.median(cost.wall for cost in costs)
        cpu = statistics.median(cost.cpu * 1000 / images for cost in costs)
        peak = max(cost.peak_mb for cost in costs)
        rows.append([name, *rates(costs, images).words(0), f"{seconds:.2f}", f"{cpu:.3f}", f"{peak:.0f}"])
    return markdown_table(head, rows)


def ratio_table(results: Results, pairs: list[tuple[str, str]]) -> list[str]:
    """A row for each pair of contestants; nothing without pairs."""
    rows = [[f"{name} / {rival}", *ratios(results, name, rival).words(2)] for name, rival in pairs]
    return markdown_table(["times as fast", "median of the rounds", "min-max"], rows) if rows else []
