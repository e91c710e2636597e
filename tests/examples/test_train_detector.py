"""The training program of examples/: from a folder and from a stream, stopped and gone on with."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.published import run_cli
from support.shown_examples import EXAMPLES

# A process that imports PyTorch takes some seconds to start, of which a busy machine makes a minute.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed"),
]


@pytest.fixture
def mirror(demo_mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the mirror that the program asks."""
    monkeypatch.setenv("OID_ASYNC_MIRROR", str(demo_mirror))
    return demo_mirror


def trained(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run the program in a folder."""
    command = [sys.executable, str(EXAMPLES / "train_detector.py"), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)


def losses(folder: Path, *words: object) -> list[tuple[int, float]]:
    """Return step and loss of each step of a run that ends well."""
    done = trained(folder, *words)
    assert done.returncode == 0, done.stderr
    return [(int(step), float(loss)) for step, loss in re.findall(r"^step (\d+): loss ([\d.]+)$", done.stdout, re.M)]


@pytest.mark.parametrize("source", ["folder", "stream"])
def test_it_goes_on_where_it_stopped(source: str, mirror: Path, tmp_path: Path) -> None:
    """Three steps and three more, with workers and over the end of an epoch, are the six of a run without."""
    words: tuple[object, ...] = ("--class", "Football", "--class", "Person")
    if source == "folder":
        run_cli("download", "--category", "Football", "--split", "validation", "--savepath", tmp_path / "balls")
        words = ("--folder", tmp_path / "balls")
    whole = losses(tmp_path, *words, "--steps", 6, "--workers", 0, "--checkpoint", "whole.pt")
    parts = [each for steps in (3, 6) for each in losses(tmp_path, *words, "--steps", steps, "--save-every", 2)]
    assert [step for step, _ in parts] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in parts] == pytest.approx([loss for _, loss in whole], abs=1e-3)
    assert whole[-1][1] < whole[0][1]


def test_what_goes_wrong_is_one_line(mirror: Path, tmp_path: Path) -> None:
    """Here a class that is not known."""
    done = trained(tmp_path, "--class", "Footbal")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "unknown class 'Footbal'; nearest: Football, Ball, Table\n"
