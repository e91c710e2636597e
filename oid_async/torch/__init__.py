"""Datasets for PyTorch: `OpenImages` reads a saved folder, `Stream` downloads while it trains. Extra `torch`.

Importing this package does not load torch: the names are resolved when first used (PEP 562). So the downloader of a
`Stream`, a process of its own, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oid_async.errors import UsageError

if TYPE_CHECKING:
    from oid_async.torch.saved_images import OpenImages
    from oid_async.torch.stream import Stream

__all__ = ["OpenImages", "Stream"]

_HOME = {"OpenImages": "oid_async.torch.saved_images", "Stream": "oid_async.torch.stream"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'oid_async.torch' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise UsageError('oid_async.torch needs PyTorch: pip install "oid-async[torch]"') from None


def __dir__() -> list[str]:
    return sorted(__all__)
