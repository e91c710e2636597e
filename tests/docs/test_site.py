"""The site: mkdocs.yml has every page in its navigation, the reference every public name; what check_site.py finds."""

import re
import runpy
from pathlib import Path

import pytest

import oid_async
import oid_async.torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
# The pages that tools/site_pages.py adds.
ADDED = {"benchmarks.md", "changelog.md", "contributing.md", "examples.md"}
PAGE = '<html><head>{head}</head><body><h2 id="here">Here</h2>{body}</body></html>'


def test_the_navigation_has_every_page() -> None:
    """Each page of docs/ stands in it once, and those that are made of files elsewhere."""
    navigation = re.findall(r"^ +- [\w ,]+: ([\w-]+\.md)$", CONFIG[CONFIG.index("\nnav:") :], re.MULTILINE)
    assert sorted(navigation) == sorted({page.name for page in (ROOT / "docs").glob("*.md")} | ADDED)


def test_the_reference_has_every_public_name() -> None:
    """What `oid_async` and `oid_async.torch` offer is on the page, made of its docstring."""
    made = set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.MULTILINE))
    public = {f"oid_async.{name}" for name in oid_async.__all__ if name != "__version__"}
    assert made == public | {f"oid_async.torch.{name}" for name in oid_async.torch.__all__}


@pytest.mark.parametrize(
    ("head", "body", "fault"),
    [
        ("", '<a href="b.html#there">', ""),
        ("", '<a href="#here">', ""),
        ("", '<a href="https://example.org/">', ""),
        ("", '<a href="c.html">', "c.html leads nowhere"),
        ("", '<a href="b.html#here">', "b.html#here has no such anchor"),
        ("", '<img src="b.png">', "b.png leads nowhere"),
        ("", '<img src="//example.org/b.png">', "loads //example.org/b.png"),
        ('<link rel="stylesheet" href="https://example.org/b.css">', "", "loads https://example.org/b.css"),
        ('<script src="https://example.org/b.js"></script>', "", "loads https://example.org/b.js"),
        ("", '<svg><image href="https://example.org/b.png"/></svg>', "loads https://example.org/b.png"),
        ("", '<svg><use xlink:href="https://example.org/b.svg#i"/></svg>', "loads https://example.org/b.svg#i"),
        ("", '<svg><use href="#here"/><a xlink:href="https://example.org/">', ""),
        ('<meta name="viewport">', '<a href="#viewport">', "#viewport has no such anchor"),
        ("<style>@import url(https://example.org/b.css)</style>", "", "loads https://example.org/b.css"),
    ],
)
def test_a_dead_link_and_a_foreign_load_are_found(
    head: str, body: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tools/check_site.py names each, and nothing else."""
    (tmp_path / "a.html").write_text(PAGE.format(head=head, body=body), encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="there">There</p>', encoding="utf-8")
    main = runpy.run_path(str(ROOT / "tools" / "check_site.py"))["main"]
    assert main(tmp_path) == (1 if fault else 0)
    err = capsys.readouterr().err
    assert err.count("\n") == (1 if fault else 0)
    assert fault in err


def test_a_picture_that_loads_something_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An SVG is read as a page is, its own parts and what it links by a click excepted."""
    (tmp_path / "a.html").write_text('<img src="b.svg">', encoding="utf-8")
    picture = '<svg><g id="g"/><use href="#g"/><a href="https://example.org/"/><image xlink:href="{}"/></svg>'
    (tmp_path / "b.svg").write_text(picture.format("https://example.org/c.png"), encoding="utf-8")
    main = runpy.run_path(str(ROOT / "tools" / "check_site.py"))["main"]
    assert main(tmp_path) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'b.svg'}: loads https://example.org/c.png\n"
    (tmp_path / "b.svg").write_text(picture.format("data:image/png;base64,"), encoding="utf-8")
    assert main(tmp_path) == 0
