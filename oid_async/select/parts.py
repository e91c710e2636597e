"""Disjoint parts of a sequence: the K-th of N holds every N-th row, so that parts differ in size by one at most."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th, from 1, of `count` parts; together they hold every row once."""

    number: int
    count: int

    @classmethod
    def of(cls, shard: str | None) -> Self | None:
        """Return the part that --shard names, as `Options` has checked it: 'K/N' with K from 1; None for everything."""
        if shard is None:
            return None
        number, count = map(int, shard.split("/"))
        return cls(number, count)

    def holds(self, place: "pl.Expr") -> "pl.Expr":
        """Return the condition that the row at a place (a whole number from 0) belongs to this part.

        >>> import polars as pl
        >>> rows = pl.LazyFrame({"place": range(7)})
        >>> [rows.filter(Part(k, 3).holds(pl.col("place"))).collect().to_series().to_list() for k in (1, 2, 3)]
        [[0, 3, 6], [1, 4], [2, 5]]
        """
        return place % self.count == self.number - 1

    def share(self, total: int) -> int:
        """Return how many of so many rows belong to this part.

        >>> [Part(k, 3).share(7) for k in (1, 2, 3)]
        [3, 2, 2]
        """
        return (total - self.number + self.count) // self.count
