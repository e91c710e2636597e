"""Paths as people write them: every path option of both doors is read here. Pure, but for the home and current folders.

A path is a plain name: `~` is the home folder, what is relative starts at the current folder of the moment, and no sign
of it is a pattern. What looks like a URL is one, or is refused: it never becomes a folder.
"""

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from oid_async.errors import UsageError
from oid_async.redaction import has_login, redacted

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
TABLE_SCHEMES = ("http", "https", "file")


def read_path(label: str, value: object, schemes: Collection[str] = (), *, also: Collection[str] = ()) -> str:
    """Return a path as absolute text, or a URL of one of the schemes as it is. Raises UsageError.

    `also` are schemes that the option knows and its caller reads.

    `..` stays as it is: behind a link to a folder it means another place than the text says.

    >>> read_path("--label", "https://x.org/a.csv", TABLE_SCHEMES), read_path("--out", "/data//run[1]/")
    ('https://x.org/a.csv', '/data/run[1]')
    >>> read_path("--out", "s3://bucket/run")
    Traceback (most recent call last):
    oid_async.errors.UsageError: --out takes a path on this disk; it knows no s3:// ('s3://bucket/run')
    """
    text = _text_of(label, value)
    refuse_login(label, text)
    scheme = url_scheme(text)
    if scheme is not None:
        if scheme not in schemes:
            known = ", ".join([*(f"{each}://" for each in (*schemes, *also)), "a path on this disk"])
            raise UsageError(f"{label} takes {known}; it knows no {scheme}:// ({redacted(text)!r})")
        if scheme == "file":
            file_url_path(text.strip(), label)
        return text.strip()  # blanks come with copying a URL
    return str(_absolute(label, text))


def refuse_login(label: str, text: str) -> None:
    """Raise UsageError for a URL with a login: it would be stored, and printed, in many places; no path holds one."""
    if has_login(text):
        raise UsageError(f"{label} holds a user name and a password; they are not supported")


def url_scheme(text: str) -> str | None:
    """Return the scheme of a URL in lower case, None for a path. `file:` needs no slashes.

    >>> url_scheme("S3://b/c"), url_scheme("file:/data/a.csv"), url_scheme("a:b.csv"), url_scheme("/a://b")
    ('s3', 'file', None, None)
    """
    found = _SCHEME.match(text)
    return found[1].lower() if found else "file" if text.strip().lower().startswith("file:") else None


def file_url_path(url: str, label: str = "") -> Path | None:
    """Return the path of a file: URL, None for anything else. Raises UsageError for one that names no absolute path.

    >>> file_url_path("file:///data/a%20b.csv")
    PosixPath('/data/a b.csv')
    """
    if not url.lower().startswith("file:"):
        return None
    start = f"{label}: " if label else ""
    try:
        parts = urlsplit(url)
        path = unquote_to_bytes(parts.path).decode()
    except ValueError as error:
        raise UsageError(f"{start}{url!r} is no URL of a file whose name is UTF-8") from error
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{start}{redacted(url)!r} names a file of another machine; file:///PATH is of this one")
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{start}{redacted(url)!r} names no absolute path, as file:///data/table.csv does")
    _check_encodable(start.removesuffix(": "), path)
    return Path(path)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as a person reads it: from the current folder on if it is in there. A URL stays as it is."""
    text = os.fspath(path)
    try:
        here = os.getcwd()
    except OSError:
        return text
    if text == here:
        return "."
    inside = text.removeprefix(f"{here.rstrip('/')}/")
    # `-x` and `~x` would be read as something else by who copies them.
    return text if inside == text or here == "/" or inside.startswith(("-", "~")) else inside


def _text_of(label: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{label} takes a path, not {value!r}")
    text = os.fsdecode(value)
    if not text:
        raise UsageError(f"{label} is empty")
    if "\0" in text:
        raise UsageError(f"{label}: a path holds no NUL byte")
    return text


def _absolute(label: str, text: str) -> Path:
    expanded = os.path.expanduser(text)
    if text.startswith("~") and not os.path.isabs(expanded):
        who = text.partition("/")[0]
        found = "no home folder is known here; set HOME" if who == "~" else f"{who} is the home folder of no user here"
        raise UsageError(f"{label} {text!r}: {found}, or write ./~ for a folder of that name")
    try:
        path = Path(expanded) if os.path.isabs(expanded) else Path(os.getcwd(), expanded)
    except OSError as error:
        raise UsageError(f"{label} {text!r}: the current folder is gone; name an absolute path") from error
    _check_encodable(label, str(path))
    return path


def _check_encodable(label: str, path: str) -> None:
    """Refuse a name that is not UTF-8 (Polars knows no other), or that this Python has no bytes for."""
    try:
        path.encode()
        path.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
    except UnicodeEncodeError as error:
        raise UsageError(_no_name(label, path)) from error
    if not path.isascii() and sys.getfilesystemencoding() != "utf-8":
        raise UsageError(_no_name(label, path))


def _no_name(label: str, path: str) -> str:
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return f"{label}: the name must be UTF-8, and {path!a} is not; rename it"
    return f"{label}: this Python takes file names for {encoding}; start it with PYTHONUTF8=1 to use {path!a}"
