"""Text that came as bytes: from a file, or as a file's name."""

import gzip
from pathlib import Path
from typing import IO, cast


def is_text(name: str) -> bool:
    """Return whether a name that was decoded with `surrogateescape` was UTF-8."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file of text, gzipped if its name says so."""
    return cast("IO[bytes]", gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")
