"""The fenced blocks of the README and of the pages in docs/, and what their language tags say is to be done."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
SHELL = ("sh", "bash", "shell", "console")
DATA = ("json", "yaml", "yml", "toml")
# Blocks without a tag are commands if they begin with one of these.
_PROGRAMS = (
    *(
        "oid-async",
        "python",
        "python3",
        "pip",
        "#!/bin/bash",
        "export",
        ".",
        "cd",
        "find",
        "mkdir",
        "cp",
        "curl",
        "git",
    ),
    *("sbatch", "kubectl", "docker", "ssh", "aws", "hf"),
)
_FENCE = re.compile(r"^( *)```+([^\n`]*)\n(.*?)^\1```+ *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence, the word behind the fence, the last line of text before it."""

    page: Path
    line: int
    language: str
    text: str
    before: str

    @property
    def place(self) -> str:
        """Where it stands, such as docs/start.md:12."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def first(self) -> str:
        """Its first line, by which tables of exceptions name it."""
        return next((line.strip() for line in self.text.splitlines() if line.strip()), "")

    @cached_property
    def kind(self) -> str:
        """`commands`, `python`, `sql`, one of `DATA`, `text` (something to look at), or the tag itself."""
        if self.language in SHELL or (not self.language and self.first.split(" ")[0] in _PROGRAMS):
            return "commands"
        return {"": "text", "py": "python", "yml": "yaml"}.get(self.language, self.language)

    @property
    def is_script(self) -> bool:
        """Whether it is a file that a shell runs as a whole."""
        return self.kind == "commands" and self.first.startswith("#!")

    @property
    def is_drawing(self) -> bool:
        """Whether it is a picture made of characters, with arrows."""
        return self.kind == "text" and any(mark in self.text for mark in "▶▲▼◀")

    @property
    def needs_torch(self) -> bool:
        """Whether it imports PyTorch, which not every environment of the tests has."""
        return self.kind == "python" and re.search(r"^(?:from|import) \S*torch\b", self.text, re.MULTILINE) is not None

    @property
    def file_name(self) -> str:
        """The name of the file that it is: its first line is `# name.py`, or the line before ends with `name`."""
        found = re.match(r"# ([\w.-]+\.\w+)$", self.first) or re.search(r"`([\w.-]+\.\w+|Dockerfile)`:?$", self.before)
        return found[1] if found else ""

    @property
    def commands(self) -> list[str]:
        """The commands, each in one line, without prompts and comments; a script is one command."""
        if self.is_script:
            return [self.text]
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        lines = (line.partition("  #")[0].strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in order; its text is that of the file if it is not given."""
    return list(_blocks(page, page.read_text(encoding="utf-8") if text is None else text))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        indent, language, body = found.groups()
        words = language.split()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        before = [line.strip() for line in text[: found.start()].splitlines() if line.strip()]
        number = text.count("\n", 0, found.start()) + 1
        yield Block(page, number, words[0] if words else "", "\n".join(lines) + "\n", before[-1] if before else "")
