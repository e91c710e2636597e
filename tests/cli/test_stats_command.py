"""`oid-async stats`: what it prints, writes and answers, of folders whose names would do harm, too."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from support.gallery_folders import box_row, hostile_folder, label, manifest_row, write_folder
from support.published import typed

import oid_async
from oid_async.pages import plotting
from oid_async.redaction import printable
from oid_async.screen import stats_text
from oid_async.screen.stats_text import drawn, plain_lines
from oid_async.statistics.value import Statistics


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 30 classes: the first is in 30 images, the last in one."""
    images = [(manifest_row(number, b"", (200, 100)), None) for number in range(1, 31)]
    boxes = [
        box_row(number, label(mid), f"Class {mid}", (0.25, 0.75, 0.5, 1.0))
        for number in range(1, 31)
        for mid in range(1, number + 1)
    ]
    return write_folder(tmp_path_factory.mktemp("stats") / "saved", images, {"bbox": boxes})


def test_a_folder_is_printed_as_aligned_lines(saved: Path) -> None:
    """Without a terminal: counts, the first twenty classes and how many there are more, bars, licences, authors."""
    done = typed("stats", saved)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{saved}: 30 images, 30 saved"
    assert lines[1] == "rows: 465 boxes"
    assert "Class 1       30     30" in lines
    assert "Class 20      11     11" in lines
    assert not any(line.startswith("Class 21") for line in lines)
    assert "… and 10 more classes (--json has all)" in lines
    assert "boxes an image: mean 15.5, median 15.5, most 30" in lines
    assert "10 to 100 %      465  ████████████████████████" in lines
    assert "width to height of boxes in pixels: median 2" in lines
    assert "Class 1 + Class 2      29  ████████████████████████" in lines
    assert "creativecommons.org/licenses/by/2.0/      30" in lines
    assert "\x1b" not in done.stdout
    assert lines == plain_lines(_read(saved))


def _read(savepath: Path) -> Statistics:
    return asyncio.run(oid_async.stats(savepath))


def test_json_is_the_value_and_quiet_says_nothing(saved: Path) -> None:
    """One object on stdout, every class in it."""
    done = typed("stats", saved, "--json")
    found = json.loads(done.stdout)
    assert found == _read(saved).as_json()
    assert len(found["classes"]) == 30
    assert (typed("stats", saved, "--quiet").stdout, done.stdout.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "stats of what? oid-async stats SAVEPATH counts what a download has saved"),
        (["--json"], "stats of what?"),
        (["d", "--category", "Dog"], "stats d counts all that is saved there, and --category is of a query"),
        (["d", "--mirror", "m"], "--mirror is of a query"),
        (["nowhere"], "/nowhere: there is no such folder"),
        (["."], "there is no manifest to read"),
        (["d", "--html", "/nowhere/x.html"], "--html /nowhere/x.html: there is no folder /nowhere"),
        (["d", "--html", "-", "--json"], "both write to stdout"),
        (["s3://bucket/x"], "stats takes a folder"),
        (["d", "e"], "unrecognized arguments: e"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2: both or neither of a folder and a query, a place that cannot be written to."""
    monkeypatch.chdir(tmp_path)
    done = typed("stats", *words)
    assert done.code == 2
    assert said in (json.loads(done.stdout)["error"]["message"] if "--json" in words else done.stderr)
    assert done.stderr.count("\n") <= 1


def test_a_page_is_written_whole_and_replaces_one(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--html` writes beside the table, and says where; no temporary file stays."""
    monkeypatch.setattr(plotting, "_made", ["// the library, which takes two seconds to make"])
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html>earlier")
    done = typed("stats", saved, "--html", page)
    assert done.code == 0
    assert done.stderr == f"written: {page}\n"
    assert "Class 20" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "Class 30" in text
    assert list(tmp_path.glob("*oid-async*")) == []


def test_a_page_replaces_nothing_but_a_page(saved: Path) -> None:
    """A manifest that is named by mistake stays as it is."""
    manifest = saved / "manifest.parquet"
    before = manifest.read_bytes()
    done = typed("stats", saved, "--html", manifest)
    assert (done.code, manifest.read_bytes()) == (2, before)
    assert "this file is no HTML page" in done.stderr


def test_without_the_extra_a_page_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 names what to install, although there is no such folder either; an earlier page stays."""
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    page = tmp_path / "page.html"
    page.write_text("earlier")
    done = typed("stats", tmp_path / "nowhere", "--html", page)
    assert done.code == 2
    assert 'pip install "oid-async[view]"' in done.stderr
    assert page.read_text() == "earlier"


def test_hostile_names_leave_as_text(tmp_path: Path) -> None:
    """Nothing a terminal obeys, no markup of rich's: in lines, drawn at any width, and in JSON."""
    savepath = hostile_folder(tmp_path / "saved")
    found = _read(savepath)
    assert any("\x1b" in each.class_name for each in found.classes)
    done = typed("stats", savepath, "--json")
    for text in ("\n".join(plain_lines(found)), done.stdout):
        assert all(printable(line) == line for line in text.splitlines())
    assert "[bold red]markup[/]" in "\n".join(plain_lines(found))
    for width in (20, 80, 160):
        shown = _without_styles(drawn(found, width))
        assert all(printable(line) == line for line in shown.split("\n"))
    assert "[bold red]" in shown


def _without_styles(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_shows_tables_within_its_width(saved: Path, width: int) -> None:
    """Drawn, no line is wider than the terminal, numbers are whole; colours go with NO_COLOR."""
    shown = drawn(_read(saved), width)
    lines = _without_styles(shown).split("\n")
    assert max(map(len, lines)) <= width
    assert any(line.split() == ["Class", "1", "30", "30"] for line in lines)
    beside = any("flags of boxes" in line and "boxes an image" in line for line in lines)
    assert beside == (width >= 120)


def test_names_give_way_before_numbers(tmp_path: Path) -> None:
    """A long name is cut so that the counts beside it stand whole."""
    row = manifest_row(1, b"", (8, 8))
    savepath = write_folder(
        tmp_path / "saved", [(row, None)], {"bbox": [box_row(1, label(1), "long " * 30, (0, 1, 0, 1))] * 1234}
    )
    line = next(line for line in _without_styles(drawn(_read(savepath), 30)).split("\n") if line.startswith("long"))
    assert line.split()[-2:] == ["1", "1234"]
    assert "…" in line


def test_bars_are_plain_where_the_encoding_has_no_blocks(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal of an old locale."""
    monkeypatch.setattr(stats_text, "takes", lambda signs: False)
    lines = plain_lines(_read(saved))
    assert "10 to 100 %      465  ########################" in lines
