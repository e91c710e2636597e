"""The files that docs/clusters.md shows, as they stand there."""

import re
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "clusters.md"


def shown_file(name: str) -> str:
    """Return the content of a file that the page shows: a block behind a line that ends with its name and a colon."""
    text = _PAGE.read_text(encoding="utf-8")
    found = re.search(rf"`{re.escape(name)}`[^\n]*:\n\n```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{_PAGE.name} shows no {name}"
    return found.group(1)
