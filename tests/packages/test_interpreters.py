"""The script that runs the tests under several Pythons finds those that are there, and no others."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def script() -> Any:
    """Return tools/run_interpreters.py as a module."""
    spec = spec_from_file_location("run_interpreters", ROOT / "tools" / "run_interpreters.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_command_that_does_not_run_is_passed_over(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of pyenv's for a version that is switched off exits 127; the version itself is found behind it."""
    shims, versions = tmp_path / "shims", tmp_path / "pyenv" / "versions"
    real = versions / f"{THIS}.99" / "bin" / f"python{THIS}"
    for path, text in ((shims / real.name, "exit 127"), (real, f'exec "{sys.executable}" "$@"')):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(versions.parent))
    assert real in script.candidates(THIS)
    assert script.runs(real, THIS)
    assert not script.runs(shims / real.name, THIS)
    assert not script.runs(real, "3.99")
    assert script.found("3.99") is None


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--all"], 1), (["--all", "--but", "3.11"], 0)])
def test_a_missing_python_is_a_failure_with_all_alone(
    words: list[str], code: int, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a release no Python goes untested unseen; one that is left out on purpose may be missing."""
    monkeypatch.setattr(sys, "argv", ["run_interpreters.py", *words])
    monkeypatch.setattr(script, "classified", lambda: ["3.11"])
    monkeypatch.setattr(script, "found", lambda version: None)
    assert script.main() == code


def test_its_quick_tests_exist(script: Any) -> None:
    """What it runs of the tests is there."""
    assert [name for name in script.QUICK if not (ROOT / name).exists()] == []
