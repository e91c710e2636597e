"""man/*.1: the manual is what the parser says, and man shows it whole."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from oid_async.cli.parser import make_parser

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "man"
PAGES = ["", *(f"-{name}" for name in make_parser().commands.choices)]


def rendered(page: Path) -> str:
    """Return a page as man shows it; a warning of groff or man fails."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        env=os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)


def test_the_manual_is_the_generated_one() -> None:
    """There is a page of the program and of each command, and they equal what tools/write_man_pages.py makes."""
    pages = runpy.run_path(str(ROOT / "tools" / "write_man_pages.py"))["pages"]()
    assert {path.name: path.read_text(encoding="utf-8") for path in MAN.iterdir()} == pages
    assert {name.removeprefix("oid-async").removesuffix(".1") for name in pages} == set(PAGES)


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_man_shows_every_option(page: str) -> None:
    """Without a warning, and every option, command and argument of the parser is there."""
    parser = make_parser()
    shown = rendered(MAN / f"oid-async{page}.1")
    command = parser.commands.choices[page[1:]] if page else parser
    assert f"oid-async{page} - " in shown
    flags = [flag for action in command._actions for flag in action.option_strings]
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown)] == []
    assert page or [name for name in parser.commands.choices if f"oid-async {name}\n" not in shown] == []
