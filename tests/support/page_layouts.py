"""Blocks that show what lies in a folder: a path or some of them a line, then what it is."""

import re
from pathlib import Path

# What only some folders have: the page says so, behind the path.
_SOMETIMES = re.compile(r"\babsent when|\bif\b|\bwith --kind")
_PATH = re.compile(r"[\w.-]*(?:<\w+>|[/.])[\w<>./-]*")


def is_layout(text: str) -> bool:
    """Return whether each line that is not indented begins with a path."""
    heads = [line.split(" ")[0].rstrip(",") for line in text.splitlines() if line and not line.startswith(" ")]
    return bool(heads) and all(_PATH.fullmatch(head) and "://" not in head for head in heads)


def assert_layout(text: str, folder: Path) -> None:
    """Assert that a folder has all that a block shows, and no file that it does not show.

    What is in exports, and in our own notes, need not be shown.
    """
    assert folder.is_dir(), f"{folder} is not there"
    entries, shown = _entries(text), set[Path]()
    for head, rest in entries:
        for paths in _lists(head, rest):
            where = ""
            for path in paths:
                found = _found(folder, path) or (_found(folder, f"{where}/{path}") if where else set())
                assert found or _SOMETIMES.search(rest), f"{folder.name} has no {path}"
                shown |= found
                where = path.rpartition("/")[0] or where
        for path in _PATH.findall(rest):
            shown |= _found(folder, path)
    there = {path for path in folder.rglob("*") if path.is_file() and not {".oid_async", "export"} & set(path.parts)}
    strays = sorted(str(path.relative_to(folder)) for path in there - shown)
    assert strays == [], f"the page does not name {strays[:5]}"


def _entries(text: str) -> list[tuple[str, str]]:
    """Return the paths at the head of each line and what stands behind them; a first line SAVEPATH/ is the folder."""
    lines = text.splitlines()
    if lines[0].strip() == "SAVEPATH/":
        lines = lines[1:]
    entries: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith(" " * 8) and entries:
            head, rest = entries[-1]
            entries[-1] = head, f"{rest} {line.strip()}"
        elif line.strip():
            head, _, rest = re.sub(r"\s{2,}", "\0", line.strip()).partition("\0")
            entries.append((head, rest.replace("\0", "  ")))
    return entries


def _lists(head: str, rest: str) -> list[list[str]]:
    """Return lists of paths: that at the head, and those columns behind it that are nothing else."""
    columns = [head, *(column for column in rest.split("  ") if " " not in column and "/" in column)]
    return [[each for each in re.split(r",\s*|\s*\.\.\.\s*", column) if each] for column in columns]


def _found(folder: Path, path: str) -> set[Path]:
    """Return the files of a path with placeholders; of a folder all that are in it."""
    pattern = re.sub(r"\d", "[0-9]", re.sub(r"<\w+>", "*", path.strip("/")))
    if not pattern.strip("."):
        return set()
    found = set[Path]()
    for each in folder.glob(pattern):
        found |= {below for below in each.rglob("*") if below.is_file()} if each.is_dir() else {each}
    return found
