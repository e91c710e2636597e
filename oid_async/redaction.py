"""URLs without their secrets, for messages and files. Pure and light to import."""

import re

REDACTED = "REDACTED"
# Scheme, //, login up to the last @ of the authority (WHATWG URL, section 4.4), the rest up to the query, the query.
# Blanks before it come with copying a URL, and are no part of a path.
_URL = re.compile(
    r"(?P<start>\s*[A-Za-z][A-Za-z0-9+.-]*:///*)(?P<login>[^/?#]*@)?(?P<middle>[^?#]*)(?P<query>\?[^#]*)?"
)
# A URL within a text, up to a blank, a quote or a bracket.
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")


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
