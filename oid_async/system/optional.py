"""Modules of the standard library that not every system has."""

from importlib import import_module
from types import ModuleType


def optional_module(name: str) -> ModuleType | None:
    """Return a module, None where there is none.

    >>> optional_module("math").__name__, optional_module("of_another_system")
    ('math', None)
    """
    try:
        return import_module(name)
    except ImportError:
        return None
