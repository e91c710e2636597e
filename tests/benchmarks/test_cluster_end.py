"""The memory of the end of a download past one machine, by its benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "cluster_end.py"
IMAGES, BOXES = 200_000, 400_000
# The program alone takes 60; a span of images with all that is made of it, whatever the number of images, some 220.
MOST_MB = 400


@pytest.mark.slow
def test_the_end_holds_a_span_of_images(tmp_path: Path) -> None:
    """200,000 images in 235 parts are merged in less than 400 MB, each once; a second end has nothing to do."""
    words = ("--images", IMAGES, "--parts", 235, "--boxes", BOXES, "--work-dir", tmp_path)
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=115, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    ends = {name: json.loads(values) for name, _, values in lines}
    assert (ends["first"]["selected"], ends["first"]["ok"], ends["first"]["changed"]) == (IMAGES, IMAGES, True)
    assert abs(ends["first"]["rows"]["bbox"] - BOXES) < BOXES / 20
    assert ends["first"]["peak_mb"] < MOST_MB
    assert "changed" not in ends["again"]
    assert ends["again"]["peak_mb"] < MOST_MB / 2
