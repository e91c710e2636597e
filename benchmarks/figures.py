"""What the measured costs come to: slope and start-up, rates, ratios round by round, tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from harness import Cost

# The costs of each contestant, one a round, in the order of the rounds.
Results = dict[str, list[Cost]]
# Seconds for one image by contestant and round.
Seconds = Mapping[str, list[float]]

# How many times the images of the smaller run the larger one fetches.
FACTOR = 4


@dataclass(frozen=True)
class Pair:
    """Two runs of a contestant in one round, of `images` and of FACTOR times as many.

    What the further images cost is the slope: an image's price in the steady state.  What the smaller run took beyond
    that is start-up, the end included.
    """

    images: int
    few: Cost
    many: Cost

    @property
    def seconds(self) -> float:
        """Of one image in the steady state."""
        return (self.many.wall - self.few.wall) / (self.images * (FACTOR - 1))

    @property
    def cpu_seconds(self) -> float:
        """Of one image in the steady state."""
        return (self.many.cpu - self.few.cpu) / (self.images * (FACTOR - 1))

    @property
    def start(self) -> float:
        """Seconds from spawn to exit less those of the images."""
        return self.few.wall - self.images * self.seconds

    @property
    def start_cpu(self) -> float:
        return self.few.cpu - self.images * self.cpu_seconds


# The pairs of each contestant, one a round; nothing in a profile without slopes.
Slopes = dict[str, list[Pair]]


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


def slope_rates(pairs: list[Pair]) -> Spread:
    """Images a second of the slope.  One is below 0 if the larger run took less time: too few images to tell."""
    return spread([1 / pair.seconds for pair in pairs])


def slope_seconds(slopes: Slopes) -> Seconds:
    return {name: [pair.seconds for pair in pairs] for name, pairs in slopes.items()}


def whole_seconds(results: Results, images: Mapping[str, int]) -> Seconds:
    return {name: [cost.wall / images[name] for cost in costs] for name, costs in results.items()}


def fastest(seconds: Seconds, names: tuple[str, ...]) -> str:
    """Whose median image took the least time."""
    return min(names, key=lambda name: statistics.median(seconds[name]))


def ratios(seconds: Seconds, name: str, rival: str) -> Spread:
    """How many times as fast as the rival: of the figures of each round."""
    return spread([theirs / own for own, theirs in zip(seconds[name], seconds[rival], strict=True)])


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def slope_table(slopes: Slopes) -> list[str]:
    """A row for each contestant: what an image costs, and start-up apart."""
    head = ["slope", "images/s", "min-max", "CPU ms per image", "min-max", "start-up s", "min-max", "start-up CPU s"]
    rows = []
    for name, pairs in slopes.items():
        cpu = spread([pair.cpu_seconds * 1000 for pair in pairs])
        start = spread([pair.start for pair in pairs])
        start_cpu = statistics.median(pair.start_cpu for pair in pairs)
        rows.append([name, *slope_rates(pairs).words(0), *cpu.words(3), *start.words(2), f"{start_cpu:.2f}"])
    return markdown_table(head, rows)


def cost_table(results: Results, images: Mapping[str, int]) -> list[str]:
    """A row for each contestant: whole processes, from spawn to exit."""
    head = ["whole process", "images", "images/s", "min-max", "seconds", "CPU ms per image", "peak MB"]
    rows = []
    for name, costs in results.items():
        count = images[name]
        seconds = statistics.median(cost.wall for cost in costs)
        cpu = statistics.median(cost.cpu * 1000 / count for cost in costs)
        peak = max(cost.peak_mb for cost in costs)
        cells = [f"{count:,}", *rates(costs, count).words(0), f"{seconds:.2f}", f"{cpu:.3f}", f"{peak:.0f}"]
        rows.append([name, *cells])
    return markdown_table(head, rows)


def start_table(results: Results) -> list[str]:
    """A row for each contestant: how long a job takes that is hardly more than its start."""
    head = ["from spawn to exit", "seconds", "min-max", "CPU s", "min-max", "peak MB"]
    rows = []
    for name, costs in results.items():
        wall, cpu = spread([cost.wall for cost in costs]), spread([cost.cpu for cost in costs])
        rows.append([name, *wall.words(2), *cpu.words(2), f"{max(cost.peak_mb for cost in costs):.0f}"])
    return markdown_table(head, rows)


def ratio_table(pairs: list[tuple[str, str]], columns: Mapping[str, Seconds]) -> list[str]:
    """A row for each pair of contestants, two cells for each kind of figure; nothing without pairs."""
    head = ["times as fast", *(cell for column in columns for cell in (column, "min-max"))]
    rows = [
        [f"{name} / {rival}", *(cell for seconds in columns.values() for cell in ratios(seconds, name, rival).words(2))]
        for name, rival in pairs
    ]
    return markdown_table(head, rows) if rows else []
