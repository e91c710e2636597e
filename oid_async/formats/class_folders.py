"""Names of folders for classes that every file system takes, each another one whatever the system folds. Pure."""

import re
import unicodedata
from collections.abc import Sequence

from oid_async.system.file_names import FORBIDDEN, is_device

# The imagefolder of datasets takes a folder for a split if one of these words is in its name, as it is written here
# (data_files.py of datasets 5: SPLIT_KEYWORDS, KEYWORDS_IN_DIR_NAME_BASE_PATTERNS).
_SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9])(?:train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)
# Control and format characters, surrogates, what is of private use or not assigned; blanks and ends of all kinds.
_UNPRINTABLE = ("C", "Z")
# An end that tells two classes apart goes behind it; 255 bytes is the longest name of a folder.
_MOST_BYTES = 180


def class_folders(names: Sequence[str]) -> list[str]:
    """Return the folder of each class: its name, with `_` for what a file system may refuse.

    No two are the same, not even where case or composed letters do not count: the later class has a number. A word that
    is a split to readers begins with a capital letter.

    >>> class_folders(["Dog", "dog", "Sports/Ball", "Sports:Ball", "NUL", "..", "Café", "train"])
    ['Dog', 'dog_2', 'Sports_Ball', 'Sports_Ball_2', 'class_NUL', 'class', 'Café', 'Train']
    """
    taken: set[str] = set()
    found = []
    for name in names:
        folder = first = _safe(name)
        number = 1
        while (key := _folded(folder)) in taken:
            number += 1
            folder = f"{first}_{number}"
        taken.add(key)
        found.append(folder)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character).startswith(_UNPRINTABLE)


def _safe(name: str) -> str:
    """Return a name without what may be refused, cut or hidden: datasets skips names that begin with `.` or `__`."""
    plain = FORBIDDEN.sub("_", unicodedata.normalize("NFC", name))
    printable = "".join(each if each == " " or not _is_unprintable(each) else "_" for each in plain)
    short = printable.lstrip(" ._-").encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(" .")
    if not short:
        return "class"
    if is_device(short):
        return f"class_{short}"
    return _SPLIT_WORD.sub(lambda word: word[0].capitalize(), short)
