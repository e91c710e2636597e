"""The workflow of public CI runs what the project runs, with every Python that the project names."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

# It has no types.
yaml: Any = importlib.import_module("yaml")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]


def pythons() -> list[str]:
    """Return the versions of Python that the classifiers name."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def commands(job: dict[str, Any]) -> list[str]:
    """Return the commands of a job in order."""
    return [step["run"] for step in job["steps"] if "run" in step]


def test_linux_runs_what_the_project_runs() -> None:
    """One command, with every Python of the classifiers; a failure of one ends none of the others."""
    assert commands(JOBS["linux"]) == [".ci/run"]
    assert (ROOT / ".ci" / "run").is_file()
    assert JOBS["linux"]["strategy"] == {"fail-fast": False, "matrix": {"python": pythons()}}
    (setup,) = [step for step in JOBS["linux"]["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["with"] == {"python-version": "${{ matrix.python }}"}


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    """The classifiers begin where `requires-python` does."""
    assert PROJECT["requires-python"] == f">={pythons()[0]}"


def test_other_systems_may_fail() -> None:
    """macOS and Windows run the tests, nobody waits for them, and their names say so."""
    job = JOBS["other-systems"]
    assert job["strategy"]["matrix"] == {"system": ["macos-latest", "windows-latest"]}
    assert job["continue-on-error"] is True
    assert "may fail" in job["name"]
    assert commands(job)[-1] == "python -m pytest"


def test_jobs_end_and_may_only_read() -> None:
    """Each job has a limit of time, and none may write to the repository."""
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
