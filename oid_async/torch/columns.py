"""Columns of numbers and texts as files of one folder, mapped into memory by every process that reads them.

    <name>.bin                numbers, a row after the other
    <name>.text, <name>.end   texts in UTF-8 after each other, and where each one ends (int64)
    columns.json              dtype and width of each column of numbers, and the notes of who made them

Processes share the pages of a file, and a worker that is given the folder's name needs nothing else.
"""

import json
import mmap
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np

_NOTES = "columns.json"
Array = np.ndarray[Any, Any]
Value = TypeVar("Value")


class ColumnWriter:
    """Writes columns, a part at a time; `close` makes them readable. A context. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[str, int]] = {}
        self._ends: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, name: str, rows: Array) -> None:
        """Append rows of one number, or of several, to a column; all parts have the dtype of the first one."""
        dtype, _ = self._shapes.setdefault(name, (rows.dtype.str, rows.shape[1] if rows.ndim > 1 else 1))
        self._file(f"{name}.bin").write(np.ascontiguousarray(rows, dtype).data)

    def add_texts(self, name: str, text: bytes, lengths: Array) -> None:
        """Append texts, all in one, with the number of bytes of each, to a column."""
        start = self._ends.get(name, 0)
        self._file(f"{name}.text").write(text)
        self._file(f"{name}.end").write((start + np.cumsum(lengths, dtype=np.int64)).data)
        self._ends[name] = start + len(text)

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        return self._files[name]

    def close(self, notes: dict[str, Any]) -> None:
        """Write the notes; nothing can be added afterwards."""
        for file in self._files.values():
            file.close()
        content = {"columns": self._shapes, "notes": notes}
        (self._folder / _NOTES).write_text(json.dumps(content), encoding="utf-8")


class Columns:
    """Reads the columns of a folder. Raises FileNotFoundError where it is not there any more.

    `notes` are those of who wrote it.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
        self.notes: dict[str, Any] = content["notes"]
        self._folder = folder
        self._shapes: dict[str, tuple[str, int]] = content["columns"]
        self._numbers: dict[str, Array] = {}
        self._texts: dict[str, tuple[bytes | mmap.mmap, Array]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def numbers(self, name: str) -> Array:
        """Return a column of numbers, [rows] or [rows, width]; no rows of one that was never added to."""
        return _kept(self._numbers, name, self._map_numbers)

    def text(self, name: str, row: int) -> str:
        """Return one text of a column."""
        texts, ends = _kept(self._texts, name, self._map_texts)
        return texts[int(ends[row - 1]) if row else 0 : int(ends[row])].decode()

    def _map_numbers(self, name: str) -> Array:
        dtype, width = self._shapes.get(name, ("<i8", 1))
        found = np.frombuffer(self._map(f"{name}.bin"), dtype)
        return found if width == 1 else found.reshape(-1, width)

    def _map_texts(self, name: str) -> tuple[bytes | mmap.mmap, Array]:
        return self._map(f"{name}.text"), np.frombuffer(self._map(f"{name}.end"), np.int64)

    def _map(self, name: str) -> bytes | mmap.mmap:
        path = self._folder / name
        # Nothing is mapped of what has no bytes.
        if not path.exists() or not path.stat().st_size:
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _kept(kept: dict[str, Value], name: str, make: Callable[[str], Value]) -> Value:
    if name not in kept:
        kept[name] = make(name)
    return kept[name]
