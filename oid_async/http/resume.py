"""Going on where a body broke off: what to ask for, and whether the answer is the rest of the same bytes. Pure.

Servers do send another part than was asked for, or the whole, or the rest of what has changed meanwhile (measured on
other downloaders: a file of two halves, exit 0). Only a strong ETag vouches that the rest is of the same bytes, and
Content-Range has to say exactly the right place.
"""

import re
from collections.abc import Mapping

# No file has more digits, and Python refuses to read thousands of them.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def is_strong(etag: str | None) -> bool:
    """Return whether an ETag vouches for every byte.

    >>> is_strong('"abc"'), is_strong('W/"abc"'), is_strong(None)
    (True, False, False)
    """
    return etag is not None and not etag.startswith("W/")


def ask_for_rest(have: int, etag: str) -> dict[str, str]:
    """Return the headers that ask for what is behind the first `have` bytes, or for all of it if it has changed."""
    return {"Range": f"bytes={have}-", "If-Range": etag}


def whole_length(headers: Mapping[str, str], *, have: int, total: int | None, etag: str | None) -> int | None:
    """Return the length of the whole if a 206 brings the rest of what is here, None if it brings anything else.

    `total` is what the first answer promised, None if it promised nothing.

    >>> whole_length({"Content-Range": "bytes 5-9/10"}, have=5, total=10, etag='"a"')
    10
    >>> whole_length({"Content-Range": "bytes 4-9/10"}, have=5, total=10, etag='"a"')
    """
    told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if told is None or int(told[1]) != have:
        return None
    length = int(told[2]) + 1 if told[3] == "*" else int(told[3])
    same = total in (None, length) and headers.get("ETag", etag) == etag
    return length if same else None
