"""Where an epoch goes on. Light to import: a trainer knows it, too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the samples of a seed: the epoch, the position in its order, and how many samples were given before.

    A position counts images that failed as well.
    """

    epoch: int = 0
    position: int = 0
    given: int = 0

    @property
    def next_epoch(self) -> "Place":
        """The beginning of the next epoch."""
        return Place(self.epoch + 1)
