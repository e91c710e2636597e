"""The README and the pages: links lead somewhere, commands and options exist. test_blocks.py runs them."""

import re
import shlex
from pathlib import Path

import pytest

from oid_async.cli.parser import make_parser
from oid_async.options.query import option_fields

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
FIRST_LINES = """\
```
python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/oid-async demo
python3 -m venv .venv && .venv/bin/pip install -q ".[test]" && .venv/bin/pytest
```
"""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path, language: str = "") -> list[str]:
    """Return the blocks of code in a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> list[str]:
    """Return the lines of a page's code that call the program, without their comments."""
    lines = [line for block in code_of(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("oid-async ")]


def test_the_readme_is_short_and_opens_with_its_two_commands() -> None:
    """The first lines are the two commands of a fresh checkout; all of it has less than 160 lines."""
    readme = text_of(ROOT / "README.md")
    assert readme.startswith(FIRST_LINES)
    assert readme.count("\n") < 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Each relative link and picture of a page is a file of the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text_of(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_first_page_links_every_page() -> None:
    """The README links docs/index.md, which links every other page."""
    assert "](docs/index.md)" in text_of(ROOT / "README.md")
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", text_of(ROOT / "docs" / "index.md")))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    others = {"../CHANGELOG.md", "../CONTRIBUTING.md", "../benchmarks/README.md", "../examples/README.md"}
    assert pages | others == linked


def test_pictures_are_small_and_shown() -> None:
    """Each picture of docs/pictures is on a page; none has more than 250 kB, all of them 1.5 MB at most."""
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    shown = {name for page in PAGES for name in re.findall(r"!\[[^]]+\]\((?:docs/)?pictures/([^)]+)\)", text_of(page))}
    assert shown == pictures.keys()
    assert max(pictures.values()) <= 250_000
    assert sum(pictures.values()) <= 1_500_000


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_commands_are_accepted_as_typed(page: Path) -> None:
    """Each command in a page's code is accepted by the parser of the command line."""
    for line in commands_of(page):
        make_parser().parse_args(shlex.split(line, comments=True)[1:])


# CONTRIBUTING.md and the page of benchmarks name options of other programs, too.
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_options_on_a_page_exist(page: Path) -> None:
    """Each option that a page names is one of the command line."""
    known = {flag for option in option_fields() for flag in option.metadata["flags"]}
    known |= {
        "--json",
        "--quiet",
        "--dry-run",
        "--ids",
        "--tree",
        "--sizes",
        "--repair",
        "--edited",
        "--deep",
        "--exports",
        "--port",
        "--write-mirror",
        "--host",
        "--no-open",
        "--html",
        "--help",
        "--version",
    }
    assert set(re.findall(r"`(--[a-zA-Z-]+)", text_of(page))) - known == set()


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page, "python")], ids=lambda page: page.name)
def test_python_on_a_page_is_valid(page: Path) -> None:
    """Each block of Python compiles."""
    for block in code_of(page, "python"):
        compile(block, page.name, "exec")
