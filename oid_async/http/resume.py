"""Resuming a body that broke off: the request for its rest, and whether the response is that rest. Pure.

Servers do send another part than was requested, or the complete body, or the rest of one that has changed meanwhile
(measured on other downloaders: a file of two halves, exit 0). Only a strong ETag guarantees the same bytes, and
Content-Range has to state exactly the right offset.
"""

import re
from collections.abc import Mapping

# No file has more digits, and Python refuses to read thousands of them.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def is_strong(etag: str | None) -> bool:
    """Return whether an ETag is strong: the same ETag then means the same bytes.

    >>> is_strong('"abc"'), is_strong('W/"abc"'), is_strong(None)
    (True, False, False)
    """
    return etag is not None and not etag.startswith("W/")


def request_rest(have: int, etag: str) -> dict[str, str]:
    """Return the headers that request the bytes after the first `have`, or all of them if the object has changed."""
    return {"Range": f"bytes={have}-", "If-Range": etag}


def complete_length(headers: Mapping[str, str], *, have: int, total: int | None, etag: str | None) -> int | None:
    """Return the length of the complete body if a 206 is the rest of the `have` bytes, None if it is anything else.

    `total` is the length that the first response stated, None if it stated none.

    >>> complete_length({"Content-Range": "bytes 5-9/10"}, have=5, total=10, etag='"a"')
    10
    >>> complete_length({"Content-Range": "bytes 4-9/10"}, have=5, total=10, etag='"a"')
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have:
        return None
    length = int(found[2]) + 1 if found[3] == "*" else int(found[3])
    same = total in (None, length) and headers.get("ETag", etag) == etag
    return length if same else None
