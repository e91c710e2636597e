"""Tables and lists that the user gave as files of this disk."""

import os
from pathlib import Path

from oid_async.errors import InputError
from oid_async.options.paths import file_url_path, shown
from oid_async.redaction import is_http
from oid_async.tables.reading import TableFile


def local_table(given: str) -> TableFile | None:
    """Return the table at a path or file: URL, None for an http URL. Raises InputError if there is no such file."""
    if is_http(given):
        return None
    return TableFile(local_file(given), shown(given))


def local_file(given: str) -> Path:
    """Return the path of a path or file: URL. Raises InputError if there is no readable file."""
    path = file_url_path(given) or Path(given)
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise InputError(f"{shown(given)}: {'not a file' if os.path.exists(path) else 'no such file'}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{shown(given)}: cannot be read (permission denied)")
    return path
