"""What the gallery's page is made of: nothing that would turn a text of a file into markup or script."""

import re
from pathlib import Path

import pytest

from oid_async import gallery

STATIC = Path(gallery.__file__).parent / "static"
# The browser refuses most of these by the Content-Security-Policy; none is there in the first place.
MARKUP_FROM_TEXT = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_texts(path: Path) -> None:
    """Texts enter the document as text nodes; a script that needs more would be the first."""
    script = path.read_text(encoding="utf-8")
    assert re.findall(MARKUP_FROM_TEXT, script) == []
    assert re.findall(r"""from "(?!\./[a-z_]+\.js")""", script) == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    """The Content-Security-Policy allows neither, and no address of another origin is in the page."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|https?:", page) == []
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert sorted(named) == ["static/app.js", "static/style.css"]
    assert all((STATIC / name.removeprefix("static/")).is_file() for name in named)
