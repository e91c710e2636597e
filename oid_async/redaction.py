"""What is taken out of a text before it is shown: secrets of URLs, and control characters. Pure, light to import."""

import re
from functools import cache

REDACTED = "REDACTED"
# Scheme, //, login up to the last @ of the authority (WHATWG URL, section 4.4), the rest up to the query, the query.
# Blanks before it come with copying a URL, and are no part of a path.
_URL = re.compile(
    r"(?P<start>\s*[A-Za-z][A-Za-z0-9+.-]*:///*)(?P<login>[^/?#]*@)?(?P<middle>[^?#]*)(?P<query>\?[^#]*)?"
)
# A URL within a text, up to a blank, a quote or a bracket.
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
# What a terminal obeys or a person cannot see: C0, DEL, C1; marks that turn the order of what follows (unicode.org, UAX
# 9), end a line or have no width; tags; halves of a character, and what is none. The joiners U+200C and U+200D are not
# among them: words of many scripts are written with them.
_UNSEEN_PATTERN = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)


def redacted(url: str) -> str:
    """Return a URL without login and fragment, its query replaced: what may be printed and stored. Other text stays.

    >>> redacted("https://user:pa55@x.org/a.csv?token=secret#part"), redacted("/home/me/a?.csv")
    ('https://x.org/a.csv?REDACTED', '/home/me/a?.csv')
    """
    parts = _URL.match(url)
    if parts is None:
        return url
    return f"{parts['start']}{parts['middle']}{f'?{REDACTED}' if parts['query'] else ''}"


def redacted_text(text: str) -> str:
    """Return a text in which every URL is redacted.

    >>> redacted_text("redirect to 'http://u:p@x.org/a?b=c', which is no URL")
    "redirect to 'http://x.org/a?REDACTED', which is no URL"
    """
    return _IN_TEXT.sub(lambda found: redacted(found[0]), text)


def printable(text: str) -> str:
    """Return a text as a terminal may show it, on one line: what it would obey, or nobody would see, is an escape.

    A byte of a file name that is no UTF-8 is shown as that byte.

    >>> print(printable("Ball\\x1b[31m\\n\\u202e\\x9b"), printable("Åse 球 \\udcff"))
    Ball\\x1b[31m\\n\\u202e\\x9b Åse 球 \\xff
    """
    return text if text.isprintable() else _unseen().sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, as a traceback is, as a terminal may show it; its line ends and tabs stay."""
    return _unseen().sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found), text)


@cache
def _unseen() -> re.Pattern[str]:
    """Return the pattern, which takes a millisecond to compile; most texts have nothing of it."""
    return re.compile(_UNSEEN_PATTERN)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(found[0])[1:-1]


def has_login(url: str) -> bool:
    """Return whether a URL holds a user name or a password.

    >>> has_login(" http://user@x.org/"), has_login("http://x.org/a@b?c=d@e"), has_login("me@x.org")
    (True, False, False)
    """
    parts = _URL.match(url)
    return parts is not None and parts["login"] is not None


def redacted_text_of_url(text: str) -> str:
    """Return a text that should be a URL, and need not be one, or may be relative, without its secrets.

    >>> redacted_text_of_url("/login?back=secret"), redacted_text_of_url("http://u:p/w@x.org/a")
    ('/login?REDACTED', 'http://x.org/a')
    """
    path, mark, _ = text.partition("#")[0].partition("?")
    # A password that holds a slash makes it no URL, and is a password all the same.
    scheme, colon, rest = path.partition("://")
    path = f"{scheme}://{rest.rpartition('@')[2]}" if colon else path
    return f"{path}?{REDACTED}" if mark else path


def is_http(text: str) -> bool:
    """Return whether a text is an http or https URL.

    >>> is_http("HTTPS://x.org/"), is_http("file:///a"), is_http("http")
    (True, False, False)
    """
    return text.lower().startswith(("http://", "https://"))


def is_redacted(url: str) -> bool:
    """Return whether the query of a URL was cut: it cannot be fetched.

    >>> is_redacted("https://x.org/a.csv?REDACTED"), is_redacted("https://x.org/a.csv")
    (True, False)
    """
    return url.endswith(f"?{REDACTED}")
