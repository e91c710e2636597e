"""A real shell on a terminal of its own, at which tests type: bash, zsh, fish."""

import fcntl
import json
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

# Makes the terminal that is its stdin its own, and becomes the program.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
# A stand-in for the program writes the words that it gets.
STAND_IN = """#!{python}
import json, sys
with open({words!r}, "w") as file:
    json.dump(sys.argv[1:], file)
print("got" + "-words")
"""
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?>=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHMNOZ])")
# No word of an earlier line is to be shown before Tab is pressed.
QUIET = "set -g fish_autosuggestion_enabled 0; set -g fish_history ''; "
STARTS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; PS1='% '; source {script}",
    ),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; PS1='%% '; source {script}"),
    "fish": (["fish", "--no-config", "-i"], "function fish_prompt; echo -n '% '; end; " + QUIET + "source {script}"),
}
PATIENCE_S = 30.0
# What is shown of the next prompt.
PROMPT = r"[\s\S]*% \s*$"


class Shell:
    """A shell that waits for words."""

    def __init__(self, name: str, terminal: int, words: Path) -> None:
        self.name = name
        self._terminal = terminal
        self._words = words

    def run(self, line: str) -> None:
        """Have the shell carry out a line."""
        self.type(f"{line}; echo do''ne\n", until=f"done{PROMPT}")

    def type(self, keys: str, *, until: str) -> str:
        """Press keys and return what is shown until a pattern of it, without what a terminal obeys."""
        began, shown, raw = monotonic(), "", b""
        os.write(self._terminal, keys.encode())
        while not re.search(until, shown):
            if not select.select([self._terminal], [], [], max(0.0, began + PATIENCE_S - monotonic()))[0]:
                raise AssertionError(f"{until!r} was not shown, but {shown!r}")
            raw += os.read(self._terminal, 1 << 16)
            shown = ESCAPES.sub("", raw.decode(errors="replace"))
        return shown

    def settle(self, seconds: float = 0.1) -> None:
        """Read until nothing has come for a moment."""
        while select.select([self._terminal], [], [], seconds)[0]:
            os.read(self._terminal, 1 << 16)

    def completed(self, line: str) -> list[str]:
        """Type the start of a line, press Tab, then Enter; return the words that the program gets."""
        self._words.unlink(missing_ok=True)
        self._begin(line)
        os.write(self._terminal, b"\t")
        # Enter waits for its turn in any case.
        self.settle()
        self.type("\n", until=f"got-words{PROMPT}")
        got: list[str] = json.loads(self._words.read_text())
        return got

    def offered(self, line: str, *shown: str) -> None:
        """Type the start of a line and press Tab twice; wait until all these texts are shown."""
        self._begin(line)
        self.type("\t\t", until="".join(rf"(?=[\s\S]*{re.escape(text)})" for text in shown))

    def answered(self, line: str, rest: str) -> float:
        """Type the start of a line and press Tab; return the seconds until the rest of the word is there."""
        self._begin(line)
        began = monotonic()
        self.type("\t", until=re.escape(rest))
        taken = monotonic() - began
        self.type("\n", until=f"got-words{PROMPT}")
        return taken

    def _begin(self, line: str) -> None:
        """Type the start of a line, and wait until it is shown."""
        self.settle()
        self.type(line, until=re.escape(line[-3:]))
        self.settle()


@contextmanager
def shell_at_terminal(name: str, script: Path, home: Path, **environment: str) -> Iterator[Shell]:
    """Start a shell in the folder `home`, with a completion script read and a stand-in for oid-async on its PATH."""
    (home / "bin").mkdir(exist_ok=True)
    program = home / "bin" / "oid-async"
    words = home / "words.json"
    program.write_text(STAND_IN.format(python=sys.executable, words=str(words)))
    program.chmod(0o755)
    command, start = STARTS[name]
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *command],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        cwd=home,
        env={
            "HOME": str(home),
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **environment,
        },
    )
    os.close(its)
    try:
        shell = Shell(name, ours, words)
        shell.run(start.format(script=shlex.quote(str(script))))
        yield shell
    finally:
        process.kill()
        process.wait()
        os.close(ours)
