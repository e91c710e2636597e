"""Runs the blocks of a page one after the other in one folder, as a reader does who follows it from top to bottom."""

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb

from support.page_blocks import Block
from support.published import Finished, typed

yaml: Any = importlib.import_module("yaml")
# Of a command in shell syntax: everything has to go well, also at the front of a pipe.
_SHELL = ("bash", "-euo", "pipefail", "-c")
# Sizes, speeds, durations, times of day, ports and tokens are others each time; counts are not.
_MEASURED = re.compile(
    r"\d+(?:\.\d+)? (?:s|min|h|bytes|[kMG]B)\b|\d\d:\d\d(?::\d\d)?|(?<=127\.0\.0\.1:)\d+|(?<=token=)\S+"
)
_WAIT_S = 120


class PageRun:
    """What a page's blocks do in a folder. `wrong` collects what went wrong, each with its place.

    `said` is what the last block of commands or Python has said; `check_text` compares blocks that show something with
    it. `not_run` holds what is left out: commands, or first lines of other blocks. `stands_for`
    replaces what cannot be here, such as an address. With `as_program` a command is a process of its own.
    """

    def __init__(
        self,
        folder: Path,
        check_text: "Callable[[PageRun, Block], None]",
        *,
        not_run: frozenset[str] = frozenset(),
        stands_for: dict[str, str] | None = None,
        as_program: bool = False,
    ) -> None:
        self.folder, self.wrong, self.said = folder, list[str](), ""
        self._check_text = check_text
        self._not_run, self._stands_for = not_run, stands_for or {}
        self._as_program = as_program
        self._names: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Do with a block what its language tag says."""
        if block.kind != "commands" and block.first in self._not_run:
            return
        does: dict[str, Callable[[Block], object]] = {
            "commands": self._run_commands,
            "python": self._run_python,
            "sql": self._run_sql,
            "json": lambda block: json.loads(block.text),
            "yaml": lambda block: list(yaml.safe_load_all(block.text)),
            "toml": lambda block: tomllib.loads(block.text),
            "text": lambda block: self._check_text(self, block),
        }
        try:
            if block.kind not in does:
                raise AssertionError(f"{block.language!r} is no tag that tests/support/page_runs.py knows")
            does[block.kind](block)
            if block.file_name and block.kind not in ("python", "text"):
                (self.folder / block.file_name).write_text(self._placed(block.text), encoding="utf-8")
        except (Exception, SystemExit) as error:
            self.wrong.append(f"{block.place}: {type(error).__name__}: {error}")

    def _placed(self, text: str) -> str:
        for shown, here in self._stands_for.items():
            text = text.replace(shown, here)
        return text

    def _run_commands(self, block: Block) -> None:
        self.said = ""
        commands = [command for command in block.commands if command not in self._not_run]
        if all(is_plain(command) for command in commands):
            for command in commands:
                self._check(command, self.program(*shlex.split(self._placed(command))[1:]))
        else:
            # A block may change folders or set variables for its next lines.
            self._check(block.first, self._started([*_SHELL, self._placed("\n".join(commands))]))
        if block.language == "console":
            assert_shown([line for line in block.text.splitlines() if not line.startswith("$ ")], self.said)

    def _check(self, command: str, done: Finished) -> None:
        self.said = done.stdout + done.stderr
        assert done.code == 0, f"{command}\nended with {done.code}:\n{self.said[-2000:]}"
        assert not re.search(r"^0 images selected", self.said, re.MULTILINE), f"{command}\nselects nothing"

    def program(self, *words: str) -> Finished:
        """Run a command of the program and return how it ended; the gallery is ended once it stands."""
        if words[0] == "view":
            return self._viewed(words)
        return self._started([sys.executable, "-m", "oid_async", *words]) if self._as_program else typed(*words)

    def _started(self, words: list[str]) -> Finished:
        done = subprocess.run(
            words, cwd=self.folder, env=_environment(), text=True, capture_output=True, timeout=_WAIT_S, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def _viewed(self, words: tuple[str, ...]) -> Finished:
        """Start the gallery; end it, as Ctrl-C does, once it has said its address."""
        command = [sys.executable, "-m", "oid_async", *words, "--no-open"]
        with subprocess.Popen(
            command, cwd=self.folder, env=_environment(), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            said = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            code = process.wait(_WAIT_S)
        # On pages a browser opens, and the line has the address alone.
        return Finished(0 if code == 130 else code, "", said.replace("  (Ctrl-C ends it)", ""))

    def _run_python(self, block: Block) -> None:
        if block.file_name or "__main__" in block.text:
            path = self.folder / (block.file_name or "block.py")
            path.write_text(self._placed(block.text), encoding="utf-8")
            self._check(path.name, self._started([sys.executable, path.name]))
            return
        stdout, stderr = StringIO(), StringIO()
        with redirect_stdout(stdout), redirect_stderr(stderr):
            run_python(self._placed(block.text), block.place, self._names)
        self.said = stdout.getvalue() + stderr.getvalue()

    def _run_sql(self, block: Block) -> None:
        with duckdb.connect() as database:
            found = database.sql(self._placed(block.text))
            self.said = str(found)
            assert found.shape[0] > 0, "finds no row"


def is_plain(command: str) -> bool:
    """Return whether a command calls the program and no more: without variables, pipes and redirections."""
    words = shlex.shlex(command, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    syntax = set("|&;<>()")
    return (
        command.startswith("oid-async ")
        and not set("$`") & set(command)
        and not any(set(word) <= syntax for word in words)
    )


def run_python(text: str, name: str, names: dict[str, Any]) -> None:
    """Run a block of Python as a script, or as a cell of a notebook if it awaits something.

    Functions without arguments that a block defines and does not call are called. The comment behind an expression is
    its value.
    """
    tree, lines = ast.parse(text), text.splitlines()
    for statement in tree.body:
        code = compile(
            ast.Module([statement], []), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        shown = lines[(statement.end_lineno or 0) - 1].partition("  # ")[2]
        if isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Call | ast.Await) and shown:
            value = eval(ast.unparse(statement), names)
            assert repr(value) == shown, f"{ast.unparse(statement)} is {value!r}, not {shown}"
            continue
        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and text.count(f"{statement.name}(") == 1:
            _call(names[statement.name])


def _call(function: Callable[..., Any]) -> None:
    if inspect.signature(function).parameters:
        return
    result = function()
    if inspect.isasyncgen(result):
        asyncio.run(_exhaust(result))
    elif inspect.iscoroutine(result):
        asyncio.run(result)


async def _exhaust(items: Any) -> None:
    seen = [item async for item in items]
    assert seen, "yields nothing"


def assert_shown(shown: list[str], said: str) -> None:
    """Assert that lines were said, in this order. What is measured may be other numbers, `...` is anything."""
    there = iter(_unmeasured(line) for line in said.splitlines())
    for line in shown:
        wanted = re.escape(_unmeasured(line)).replace(r"\.\.\.", ".*").replace("…", ".*")
        if line.strip() not in ("", "...", "…"):
            assert any(re.fullmatch(wanted, each) for each in there), f"{line!r} is not in:\n{said[-3000:]}"


def _unmeasured(line: str) -> str:
    return _MEASURED.sub("0", " ".join(line.split()))


def _environment() -> dict[str, str]:
    programs = Path(sys.executable).parent
    return dict(os.environ) | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
