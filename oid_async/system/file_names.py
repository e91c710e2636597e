"""What a file may be called on every system, and how long its path may be.

The rules are those of Windows, the strictest ("Naming Files, Paths, and Namespaces" and "Maximum Path Length
Limitation" at learn.microsoft.com, as of 2026-11-30). Names are made by them on every system, so that a folder can be
carried to any other; and two names that differ by case alone are one name everywhere (`oid_async.store.naming.fold`).
"""

import os
import re
from pathlib import Path
from typing import Any

from oid_async.errors import UsageError

# Separators, what Windows does not take, and control characters.
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]')
# Names of devices, with any ending; blanks before it do not count.
DEVICE = r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\.|$)"
_DEVICE = re.compile(DEVICE, re.IGNORECASE)
# A name, from anywhere, that would lead out of its folder, as an expression of Python and of Polars.
NOT_IN_FOLDER = r"[/\\:\x00]|^\.{0,2}$" if os.name == "nt" else r"[/\x00]|^\.{0,2}$"

# Windows without long paths: 260 with the NUL at the end.
_MOST_CHARACTERS = 259
# What a folder of ours needs for the paths in it. Published names have 30 characters, temporary ones, with the folders
# that they are in, 100 at most.
_ROOM_CHARACTERS = 120


def is_device(name: str) -> bool:
    """Return whether a name is one of a device of Windows, and so of no file there.

    >>> is_device("NUL"), is_device("com1.tar.jpg"), is_device("con .jpg"), is_device("com10.jpg"), is_device("nulls")
    (True, True, True, False, False)
    """
    return _DEVICE.match(name) is not None


def most_characters() -> int | None:
    """Return how many characters a path may have on this system, None where a path of ours never has too many."""
    if os.name != "nt":
        return None
    try:
        import ctypes

        library: Any = vars(ctypes)["windll"].ntdll
        return None if library.RtlAreLongPathsEnabled() else _MOST_CHARACTERS
    except (ImportError, KeyError, AttributeError, OSError):
        return _MOST_CHARACTERS


def refuse_long_path(path: Path, most: int | None = None) -> None:
    """Raise UsageError for a folder whose files would have paths of too many characters (`most`) for this system."""
    most = most_characters() if most is None else most
    length = len(str(path.absolute()))
    if most is not None and length + _ROOM_CHARACTERS > most:
        raise UsageError(
            f"{path}: its whole path has {length} characters, and on this system {most - _ROOM_CHARACTERS} are the "
            "most for a folder with files in it; choose a shorter one, or switch on long paths in Windows"
        )
