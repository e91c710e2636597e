r"""The head of a usual answer, read as a whole.

    HTTP/1.1 200 OK\r\n   headers that say nothing of the body, one Content-Length, perhaps an ETag   \r\n\r\n

llhttp calls back for each header, and each of these calls costs as much as to match the whole head. Nearly all of a
million heads are usual. Every other one is llhttp's: one that has not come whole, folded or odd lines, a body in chunks
or coded, a connection that is to be closed, what may say that an image is not for AI (`http.opt_out`).
"""

import re

# Names by their first letters: those that are left out may change how an answer is read (Connection, Content-Encoding,
# Proxy-Connection, TDM-Reservation, Transfer-Encoding, Upgrade, X-Robots-Tag), or share these letters with one.
# A second Content-Length is none of a usual head. Case is not ignored: that takes twice as long. The lines are not
# matched possessively as a whole: Python up to 3.11.4 goes on where a line was given up (python/cpython#106052).
_USUAL = re.compile(
    rb"""HTTP/1\.1\ 200\ [ -~]*+\r\n
    (?:
        (?: (?: [ABDF-OQRSVWYZabdf-oqrsvwyz][-\w]*+ | [Xx]-[A-QS-Za-qs-z][-\w]*+ ) :[ -~]*+
          | (?: [Cc]ontent-[Tt]ype | [Cc]ache-[Cc]ontrol | [Ee]xpires ) :[ -~]*+
          | (?(1)(?!)) [Cc]ontent-[Ll]ength:[ ]*+ (?P<length>[0-9]{1,15}+)
          | (?:ET|et|Et)ag:[ ]*+ (?P<etag>[ -~]++)
          | [Cc]onnection:[ ]*+ [Kk]eep-[Aa]live
        ) \r\n
    ){1,64} \r\n""",
    re.VERBOSE,
)


def match_usual_head(data: bytes | memoryview, size: int) -> re.Match[bytes] | None:
    r"""Return the match of a head at the start of the first `size` bytes, None if it is not usual or not all there.

    Its groups are `length` and, or None, `etag`.

    >>> head = match_usual_head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nEtag: \"a\"\r\n\r\n...", 53)
    >>> head["length"], head["etag"], head.end()
    (b'12', b'"a"', 50)
    """
    head = _USUAL.match(data, 0, size)
    return head if head is not None and head["length"] is not None else None


def lines_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return names and values of a usual head, with the spaces around a value."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:-2])
    return [(name, value) for name, _, value in lines]
