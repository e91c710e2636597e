"""Run tests under each Python that the classifiers of pyproject.toml name, as far as this machine has it.

python tools/run_interpreters.py                      # what differs most from one Python to the next
python tools/run_interpreters.py --whole              # everything that a plain pytest runs
python tools/run_interpreters.py --but 3.11           # not 3.11, with which the tests have run already
python tools/run_interpreters.py --all                # one that is not here is a failure, as before a release

Each gets an environment of its own in a temporary folder. A Python that is not here is named, and without --all is no
failure.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Command line and its texts, examples in docstrings, whole runs, forks, own worker processes, conditions.
QUICK = (
    "tests/cli",
    "tests/docs/test_examples.py",
    "tests/doors/test_end_to_end.py",
    "tests/doors/test_forks.py",
    "tests/options",
    "tests/select/test_image_where.py",
    "tests/workers",
)


def main() -> int:
    """Return 1 if the tests fail under one of them, or with --all one is missing, else 0."""
    parser = argparse.ArgumentParser(description="Run tests under each Python from 3.11 on that is here.")
    parser.add_argument("--whole", action="store_true", help="everything that a plain pytest runs")
    parser.add_argument("--but", action="append", default=[], metavar="3.N", help="leave this one out, repeatable")
    parser.add_argument("--all", action="store_true", help="one that is not on this machine is a failure")
    options = parser.parse_args()
    faults = []
    for version in classified():
        if version in options.but:
            print(f"Python {version}: left out", flush=True)
        elif (python := found(version)) is None:
            print(f"Python {version}: not on this machine", flush=True)
            faults += [f"Python {version}: not tested"] if options.all else []
        else:
            print(f"Python {version}: {python}", flush=True)
            faults += [] if passes(python, [] if options.whole else list(QUICK)) else [f"Python {version}: tests fail"]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def classified() -> list[str]:
    """Return the versions that the classifiers name, such as 3.11."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in project["classifiers"])
    return [match[1] for match in found if match]


def found(version: str) -> Path | None:
    """Return a Python of this version that runs, None if there is none."""
    return next((python for python in candidates(version) if runs(python, version)), None)


def candidates(version: str) -> Iterator[Path]:
    """Yield where it may be: on the PATH, then among the versions of pyenv, whose own commands may be switched off."""
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    yield from sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)


def runs(python: Path, version: str) -> bool:
    """Return whether this is a Python of that version."""
    program = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return False
    return done.stdout == f"{version}\n"


def passes(python: Path, tests: list[str]) -> bool:
    """Install the project into an environment of this Python and run tests there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        environment = Path(folder, "bin")
        subprocess.run([environment / "pip", "install", "-q", f"{ROOT}[test]"], check=True)
        return subprocess.run([environment / "pytest", "-p", "no:cacheprovider", *tests], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
