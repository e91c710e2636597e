"""A dataset of PyTorch that downloads while it trains."""

from typing import Any

from torch.utils.data import IterableDataset


class Stream(IterableDataset[tuple[Any, dict[str, Any]]]):
    """The images of a query, in seeded order, downloaded while they are used."""

    def __init__(self, query: Any) -> None:
        raise NotImplementedError
