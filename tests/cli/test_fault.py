"""A fault of the program ends in one line, exit code 5 and a log without secrets."""

import json
from pathlib import Path

import pytest

from oid_async.cli import main as cli
from oid_async.cli.commands import COMMANDS


@pytest.mark.parametrize("error", [KeyError("https://h/a?token=s3cret"), MemoryError(), RecursionError("deep")])
def test_a_fault_is_one_line_and_a_log(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is unforeseen is said in one line; the traceback is in the cache folder, its URLs without queries."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setenv("OID_ASYNC_CACHE", str(tmp_path))
    monkeypatch.setitem(COMMANDS, "demo", fail)
    assert cli.main(["demo"]) == 5
    said = capsys.readouterr()
    (log,) = (tmp_path / "logs").glob("*.log")
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert str(log) in said.err
    assert "Traceback" in log.read_text("utf-8")
    assert "s3cret" not in said.err + log.read_text("utf-8")
    assert cli.main(["demo", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "internal"
