"""`progress=True` of the Python functions: on a terminal, in a notebook, elsewhere."""

import asyncio
import inspect
import os
import pty
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich import console as rich_console
from support.published import Box, Dataset, Image
from support.slow_origin import Slow, origin_in_a_thread

import oid_async
from oid_async.errors import UsageError
from oid_async.events import Checked, Event, Note
from oid_async.screen.progress import shown

BALL = "/m/018xm"
FUNCTIONS: list[Callable[..., Any]] = [
    *(oid_async.download, oid_async.stream, oid_async.plan, oid_async.verify, oid_async.repeat, oid_async.prune),
    *(oid_async.export, oid_async.classes, oid_async.resolve, oid_async.metadata_list, oid_async.metadata_pull),
    oid_async.stats,
]


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    """Return a mirror folder of two images, one of which is not there."""
    images = [Image("0000000000000001"), Image("0000000000000002", stored=False)]
    boxes = [Box(image.image_id, BALL) for image in images]
    return str(Dataset([(BALL, "Football")], images, boxes).publish(tmp_path / "mirror"))


async def test_lines_on_stderr(mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: what a user should know, and in the end what it has come to; nothing unless it is asked."""
    await oid_async.download(mirror=mirror, savepath=tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    events: list[Event] = []
    await oid_async.download(mirror=mirror, savepath=tmp_path / "d", progress=True, on_event=events.append)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert next(event.text for event in events if isinstance(event, Note)) in lines
    assert lines[-1].startswith("2 of 2 images, ")
    assert lines[-1].endswith(", 1 failed")
    async with oid_async.stream(mirror=mirror, savepath=tmp_path / "s", progress=True) as outcomes:
        assert [outcome.status async for outcome in outcomes].count("failed") == 1
    await oid_async.verify(savepath=tmp_path / "s", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("2 of 2 images, ") for line in lines)
    assert lines[-1].endswith(" files checked")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_long_function_has_it(function: Callable[..., Any]) -> None:
    """Off by default, and shown by help()."""
    assert inspect.signature(function).parameters["progress"].default is False


async def test_progress_is_a_switch() -> None:
    """A text, which is likely a mistake, is refused before anything is done."""
    functions: list[Any] = [oid_async.download, oid_async.plan, oid_async.metadata_pull]
    for function in functions:
        with pytest.raises(UsageError, match="progress is True or False, not 'yes'"):
            await function(progress="yes")
    with pytest.raises(UsageError, match="progress is True or False"):
        oid_async.stream(progress=1)  # type: ignore[arg-type]


def test_a_program_keeps_its_streams(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own prints to a file go there while a bar is on the terminal, and its stderr is what it was.

    A second run at the same time says lines.
    """
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream, os.fdopen(leader, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        with shown(None, progress=True) as sink, shown(None, progress=True) as second:
            sink(Checked(5, 20))
            second(Note("the other run"))
            print("a result")
            text = b""
            while b"5/20" not in text:
                text += reader.read(4096)
            sink(Checked(20, 20))
        assert sys.stderr is stream
        stream.flush()
        while not text.endswith(b"20 of 20 files checked\r\n"):
            text += reader.read(4096)
    assert text.count(b"the other run") == 1
    assert capsys.readouterr().out == "a result\n"


class Cell:
    """The output of a notebook's cell, as IPython's display shows it."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Cell":
        """Show the first output."""
        assert (raw, display_id) == (True, True)
        return self.update(data, raw=True)

    def update(self, data: dict[str, str], *, raw: bool) -> "Cell":
        """Replace the output."""
        assert raw
        self.shown.append(data)
        return self


def test_a_notebook_gets_one_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is drawn again as it goes on, and what names it is text, not HTML; stderr stays empty."""
    cell, module = Cell(), types.ModuleType("IPython.display")
    module.display = cell.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(rich_console, "_is_jupyter", lambda: True)
    with shown(None, progress=True) as sink:
        sink(Note("<script>alert(1)</script>"))
        sink(Checked(5, 20))
        while "5/20" not in cell.shown[-1]["text/plain"]:
            pass
        assert "<script" not in cell.shown[-1]["text/html"]
        sink(Checked(20, 20))
    assert cell.shown[-1]["text/plain"] == "<script>alert(1)</script>\n20 of 20 files checked"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_real_notebook(tmp_path: Path) -> None:
    """A kernel of Jupyter's shows the bar while images land, in the output of its cell."""
    nbclient: Any = pytest.importorskip("nbclient")
    nbformat: Any = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    slow = Slow()
    slow.pause_s = 0.2
    seen: list[str] = []
    with origin_in_a_thread(slow) as url:
        options = f"mirror={url!r}, savepath={str(tmp_path / 'd')!r}, cache_dir={str(tmp_path / 'c')!r}"
        code = f"import oid_async\nawait oid_async.download({options}, concurrency=4, limit=60, progress=True)"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"{code};")])

        client = nbclient.NotebookClient(notebook, timeout=100)
        process = client.process_message

        def look(message: Any, *rest: Any) -> Any:
            seen.append(str(message["content"].get("data", {}).get("text/plain", "")))
            return process(message, *rest)

        client.process_message = look
        asyncio.run(client.async_execute())
    assert any("/60" in text for text in seen)
    assert notebook.cells[0].outputs[0]["data"]["text/plain"].splitlines()[-1].startswith("60 of 60 images")
