"""The page of examples/ names every example, and each says how to run it offline."""

import re

import pytest
from support.shown_examples import EXAMPLES

PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
# Mirrors, downloads and checkpoints that somebody has made there are no examples.
FILES = [path for pattern in ("*.py", "*.ipynb", "cluster/*") for path in EXAMPLES.glob(pattern)]
NAMES = sorted(path.relative_to(EXAMPLES).as_posix() for path in FILES)


def test_the_page_names_every_example() -> None:
    """Its table has a row for each file, in which a link leads to it; other links lead to files, too."""
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|", PAGE, re.MULTILINE)
    assert all(name == target for name, target in rows)
    assert sorted(name for name, _ in rows) == NAMES
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", PAGE)
    assert [target for target in targets if not (EXAMPLES / target).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_how_it_runs_offline(name: str) -> None:
    """It names the command that writes the mirror, which goes before it."""
    assert "oid-async demo --write-mirror" in (EXAMPLES / name).read_text(encoding="utf-8")
