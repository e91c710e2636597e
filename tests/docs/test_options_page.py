"""docs/options.md is what the option table says."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_options_page_is_the_generated_one() -> None:
    """The page equals what tools/write_options_page.py makes of the option table and the parsers."""
    script = runpy.run_path(str(ROOT / "tools" / "write_options_page.py"))
    assert script["PAGE"] == ROOT / "docs" / "options.md"
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"]()
