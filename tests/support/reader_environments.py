"""Programs that read exports, each in an environment of its own: what they need must not change that of the tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def reader_python(folder: Path, *packages: str) -> Path:
    """Make an environment with these packages and return its Python. Skips the test where pip cannot install them."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    try:
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True, timeout=600, check=False
        )
        why = "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        why = "it took more than ten minutes"
    if why:
        pytest.skip(f"pip cannot install {', '.join(packages)} here: {why}")
    return python


def answer(python: Path, program: str, *words: object, cwd: Path | None = None) -> Any:
    """Run a program text with these words behind it, and return the JSON of the last line that it prints."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
