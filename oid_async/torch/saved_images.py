"""The images of a saved folder as a dataset of PyTorch."""

import os
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class OpenImages(Dataset[tuple[Any, dict[str, Any]]]):
    """The saved images of a folder with their boxes and masks."""

    def __init__(
        self, savepath: str | os.PathLike[str], transform: Callable[[Any, dict[str, Any]], Any] | None = None
    ) -> None:
        raise NotImplementedError
