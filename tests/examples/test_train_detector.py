"""The training program of examples/: from a folder and from a stream, stopped and gone on with."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.published import run_cli
from support.shown_examples import EXAMPLES, example

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


def losses(said: str) -> list[tuple[int, float]]:
    """Return step and loss of each step that a run has printed."""
    return [(int(step), float(loss)) for step, loss in re.findall(r"^step (\d+): loss ([\d.]+)$", said, re.MULTILINE)]


def trained(folder: Path, *words: object) -> list[tuple[int, float]]:
    """Run the program in a folder; return its steps."""
    command = [sys.executable, str(EXAMPLES / "train_detector.py"), *map(str, words)]
    # One thread: those of OpenMP wait busily for each other where a machine has other work.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return losses(done.stdout)


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the program in this process, without workers, which saves its start; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["train_detector.py", *map(str, words), "--workers", "0"])
    code: int = example("train_detector").main()
    return code


@pytest.mark.filterwarnings("ignore:.* could not be had")
@pytest.mark.parametrize("source", ["folder", "stream"])
def test_it_goes_on_where_it_stopped(
    source: str, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps and two more, with workers and over the end of an epoch, are the four of a run without."""
    words: tuple[object, ...] = ("--class", "Football", "--class", "Person")
    if source == "folder":
        run_cli("download", "--category", "Football", "--split", "validation", "--savepath", tmp_path / "balls")
        words = ("--folder", tmp_path / "balls")
    assert called(monkeypatch, *words, "--steps", 4, "--checkpoint", tmp_path / "whole.pt") == 0
    whole = losses(capsys.readouterr().out)
    parts = [each for steps in (2, 4) for each in trained(tmp_path, *words, "--steps", steps)]
    assert [step for step, _ in parts] == [1, 2, 3, 4]
    assert [loss for _, loss in parts] == pytest.approx([loss for _, loss in whole], abs=1e-3)
    assert whole[-1][1] < whole[0][1]


def test_what_goes_wrong_is_one_line(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here a class that is not known."""
    assert called(monkeypatch, "--class", "Footbal") == 2
    assert capsys.readouterr() == ("", "unknown class 'Footbal'; nearest: Football, Ball, Table\n")
