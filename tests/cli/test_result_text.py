"""What a person reads at the end of a run."""

from pathlib import Path

import pytest

from oid_async.cli.query_commands import _program
from oid_async.cli.result_text import summary_lines
from oid_async.report import Report

FILES = ("images/a.jpg", "bbox/bbox.csv", "segmentation/masks/a.png", "narrative/voice/a.ogg", "manifest.parquet")


@pytest.fixture
def savepath(tmp_path: Path) -> Path:
    """Return a folder with what earlier queries have left, and the tables of this one."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("report", "named"),
    [
        (Report(selected=2, present=1, downloaded=1), "images/, bbox/bbox.csv, manifest.parquet"),
        (Report(selected=2, pending=2), "bbox/bbox.csv, manifest.parquet"),
        (
            Report(selected=1, present=1, masks={"present": 1, "downloaded": 0}, recordings={"downloaded": 1}),
            "images/, bbox/bbox.csv, segmentation/masks/, narrative/voice/, manifest.parquet",
        ),
        (
            Report(selected=1, present=1, masks={"present": 0, "downloaded": 0, "failed": 1}),
            "images/, bbox/bbox.csv, manifest.parquet",
        ),
    ],
)
def test_what_is_saved_is_of_this_run(report: Report, named: str, savepath: Path) -> None:
    """Pictures and recordings that earlier queries have left are not named."""
    report.savepath = str(savepath)
    assert summary_lines(report)[-1].partition(": ")[2] == named


def test_images_that_stay_say_whose_the_tables_are(savepath: Path) -> None:
    """The tables of the query before are gone once a run has ended; an interrupted one has not come to them."""
    report = Report(selected=1, present=1, unselected=55, savepath=str(savepath))
    assert summary_lines(report)[0].endswith("; 55 of earlier queries stay; the tables are now of this query alone")
    report.interrupted = True
    assert summary_lines(report)[0].endswith("; 55 of earlier queries stay")
    report.unselected, report.interrupted = 0, False
    assert summary_lines(report)[0].endswith("0 failed")


def test_the_program_is_called_by_the_name_that_a_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path where it is not on PATH, or another one is found there; by its name as a module."""
    one, other = tmp_path / "one" / "oid-async", tmp_path / "an other" / "oid-async"
    for path in (one, other):
        path.parent.mkdir()
        path.touch(0o755)
    monkeypatch.setenv("PATH", str(one.parent))
    for typed, called in ((one, "oid-async"), (other, f"'{other}'"), (tmp_path / "__main__.py", "oid-async")):
        monkeypatch.setattr("sys.argv", [str(typed)])
        assert _program() == called
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(one)])
    assert _program() == str(one)
