"""The screen of a run: plain lines by the clock, bars at any width, nothing when it is to be quiet."""

import io
import os
import pty
import re
import sys
from threading import active_count

import pytest
from rich.cells import cell_len
from rich.console import Console

from oid_async.events import Checked, Hold, Holding, Note, Stage, TableProgress
from oid_async.screen.activity import Activity
from oid_async.screen.bars import Bars
from oid_async.screen.screen import Screen

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = "\x1b]0;owned\x07[red]球球球 table.csv"


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_plain_line_comes_by_the_clock(capsys: pytest.CaptureFixture[str]) -> None:
    """Every thirty seconds, whether anything happens or not; a message in between says enough for a while."""
    clock = Clock()
    screen = Screen(quiet=False, clock=clock)
    screen.show(Stage("writing the result tables"))
    lines: list[tuple[float, str]] = []
    for second in range(121):
        clock.now = float(second)
        if second == 80:
            screen.show(Note("a note"))
        screen.look()
        lines += [(clock.now, line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        (30.0, "writing the result tables, 30 s so far"),
        (60.0, "writing the result tables, 60 s so far"),
        (80.0, "a note"),
        (110.0, "writing the result tables, 2 min so far"),
    ]


def test_messages_do_not_silence_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However often something is said, how far it is stands there every minute at least."""
    clock = Clock()
    screen = Screen(quiet=False, clock=clock)
    screen.show(Checked(5, 20))
    for second in range(0, 181, 5):
        clock.now = float(second)
        screen.show(Note("a note"))
        screen.look()
    assert capsys.readouterr().err.count("5 of 20 files checked") == 3


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written and no thread started."""
    threads = active_count()
    with Screen(quiet=True) as screen:
        assert active_count() == threads
        screen.show(Note("a note"))
        screen.show(TableProgress("t.csv", 5, 5, finished=True))
        screen.look()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_forced_colours_are_no_terminal(
    terminal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a pipe go plain lines alone, whatever the environment says of colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", terminal)
    with Screen(quiet=False) as screen:
        screen.show(Checked(1, 20))
        screen.show(Note("a note"))
    assert capsys.readouterr().err == "a note\n"


def busy() -> Activity:
    """Return an activity of some tables, and much that holds it up."""
    activity = Activity()
    for name, done in ((HOSTILE, 5), ("oidv6-train-annotations-human-imagelabels-boxable.csv", 10**9)):
        activity.note(TableProgress(name, done, 23 * 10**8))
    activity.note(TableProgress("x", 3, 0, unit="step"))
    activity.note(TableProgress("unknown.csv", 3, None))
    activity.note(Checked(3, 2_000_000))
    holds = [Hold("paused", HOSTILE, 3, until=0.0), Hold("down", "h" * 80, until=1e300), Hold("retries", count=2)]
    activity.note(Holding((*holds, Hold("workers", count=1))))
    for second in range(10):
        activity.sample(float(second))
    return activity


@pytest.mark.parametrize("colours", [True, False])
def test_bars_fit_any_width(colours: bool) -> None:
    """No line is broken or too long, from one column to many; names are text."""
    activity = busy()
    for width in (*range(1, 45), 80, 120, 400):
        file = io.StringIO()
        Console(file=file, width=width, color_system="256" if colours else None, force_terminal=colours).print(
            Bars(activity)
        )
        plain = [COLOURS.sub("", line) for line in file.getvalue().splitlines()]
        assert len(plain) == 8
        assert max(map(cell_len, plain)) <= width, plain
        assert "\x1b]" not in file.getvalue()


def test_bars_say_how_far_and_what_holds_up() -> None:
    """At eighty columns all numbers of a table are there, and the name as far as it fits."""
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(Bars(busy()))
    lines = file.getvalue().splitlines()
    assert lines[1].startswith("oidv6-train-annotations-")
    assert lines[1].rstrip().endswith("1.0 of 2.3 GB  0 bytes/s")
    assert lines[5].startswith("waiting for \\x1b]0;owned\\x07[red]")


def test_a_terminal_gets_bars_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real terminal a bar is drawn by a thread of the screen, and taken away in the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    leader, follower = pty.openpty()
    threads = active_count()
    with os.fdopen(follower, "w") as stream, os.fdopen(leader, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        with Screen(quiet=False) as screen:
            screen.show(Checked(5, 20))
            text = b""
            while b"5/20" not in text:
                text += reader.read(4096)
        assert active_count() == threads
        stream.flush()
        text += reader.read(65536)
        assert b"\x1b[?25h" in text  # the cursor is back
