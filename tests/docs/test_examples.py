"""The examples in docstrings: what they show is what happens."""

import doctest
import importlib
from pathlib import Path

import pytest

import oid_async

PACKAGE = Path(oid_async.__file__).parent


def modules_with_examples() -> list[str]:
    """Return the dotted names of the modules whose docstrings show something."""
    shown = [path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in shown)


def test_there_are_examples() -> None:
    """They are found: a dozen modules at least show what they do."""
    assert len(modules_with_examples()) > 12


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_hold(name: str) -> None:
    """What a module's docstrings show is what happens."""
    result = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert result.attempted > 0
    assert result.failed == 0
