"""Who may look: decided from the head of each request, before anything is read from the disk. Pure.

The server listens on a port of this machine, where other users and every web page that is open in a browser can reach
it. So a request needs the cookie that the printed address gives, and says by its Host that it means this server: a page
whose name was pointed to this machine (DNS rebinding) has its own name there. Origin and Sec-Fetch-Site
(https://www.w3.org/TR/fetch-metadata/) tell what other pages ask for.
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

# Of a query: the token, wherever it stands.
_TOKEN: Final = "token"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_METHODS = ("GET", "HEAD")
_ONE_OF_OURS, _MOST_COOKIES = re.compile("oid_async_[0-9a-f]{8}"), 20

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "oid-async",
    "Cache-Control": "no-store",
}
"""The headers of every answer; only Cache-Control differs for what a browser may keep."""


@dataclass(frozen=True, slots=True)
class Head:
    """What of a request decides. Headers that were not sent are None; `target` is a path with its query, as sent."""

    method: str
    target: str
    hosts: tuple[str, ...]
    cookie: str | None = None
    origin: str | None = None
    fetch_site: str | None = None
    fetch_mode: str | None = None
    fetch_dest: str | None = None

    @property
    def path(self) -> str:
        """The path, as sent."""
        return self.target.partition("?")[0]

    @property
    def is_from_elsewhere(self) -> bool:
        """Whether a browser says that a page of another server has asked for this."""
        return self.fetch_site not in (None, "same-origin", "none")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: status and a line. With `again` the page is to ask once more by itself."""

    status: int
    text: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that brought the token: the cookies to set, its own first, and where to go on."""

    cookies: tuple[str, ...]
    location: str


class Guard:
    """Decides about each request to one server. The token is valid while it lives; each one has its own cookie name.

    Cookies know no ports: two galleries of one host must not overwrite each other's.
    """

    def __init__(self, host: str) -> None:
        self.token = secrets.token_urlsafe(24)
        self._host = _bare(host)
        self._cookie_name = f"oid_async_{sha256(self.token.encode()).hexdigest()[:8]}"
        self._once: set[str] = set()
        # Derived, so that there is nothing to remember of a browser; what is in a browser does not give the token away.
        self._cookie_value = hmac.new(secrets.token_bytes(32), self.token.encode(), sha256).hexdigest()

    def one_time_token(self) -> str:
        """Return a token that lets one browser in, once: the command line that starts it is for everybody to see."""
        token = secrets.token_urlsafe(24)
        self._once.add(token)
        return token

    def decide(self, head: Head) -> Refusal | Entry | None:
        """Return why a request is refused, or how a browser enters; None: it may be answered."""
        if head.method not in _METHODS:
            return Refusal(405, "Only GET and HEAD are answered here.")
        if not head.target.startswith("/"):
            return Refusal(400, "The address of a request begins with a slash.")
        if (refused := self._refuse_host(head)) is not None:
            return refused
        token = _token_in(head.target)
        # A link to the printed address, in a chat or a notebook, is a way in as well.
        opens_page = head.path == "/" and (not head.is_from_elsewhere or _opens_a_page(head))
        # Who is in already goes on, too: no address that is shared is to hold a token, not even an old one.
        if token is not None and opens_page and (self._takes(token) or self._has_cookie(head.cookie)):
            return Entry(self._cookies(head.cookie), _without_token(head.target))
        if head.is_from_elsewhere and not opens_page:
            return _ELSEWHERE
        if not self._has_cookie(head.cookie):
            # Strict cookies are kept back when a page of another site leads here, even over our own redirect. The page
            # that says so asks again by itself, now as our own page; a browser without the cookie ends there.
            return Refusal(403, _NO_COOKIE, again=head.is_from_elsewhere)
        return None

    def _refuse_host(self, head: Head) -> Refusal | None:
        if len(head.hosts) != 1 or (found := _HOST.fullmatch(head.hosts[0])) is None:
            return Refusal(400, "The request names no host, or not one alone.")
        name = _bare(found[1])
        if not (name == "localhost" or name == self._host or _is_address(name)):
            return Refusal(
                403, "This host name is not known here: open the address that was printed, or name it with --host."
            )
        if head.origin is not None and not _is_origin_of(head.origin, head.hosts[0]):
            return _ELSEWHERE
        return None

    def _cookies(self, header: str | None) -> tuple[str, ...]:
        """Return the cookie of this server, and ends of old ones: a head may not grow with every gallery of a day."""
        others = [name for name, _ in _pairs(header) if _ONE_OF_OURS.fullmatch(name) and name != self._cookie_name]
        # Browsers send the oldest first.
        old = others[: max(0, len(others) - _MOST_COOKIES)]
        own = f"{self._cookie_name}={self._cookie_value}"
        return tuple(
            f"{cookie}; HttpOnly; SameSite=Strict; Path=/" for cookie in (own, *(f"{name}=; Max-Age=0" for name in old))
        )

    def _takes(self, token: str) -> bool:
        """Return whether a token lets in; one that does so once is used up by this."""
        if token in self._once:
            self._once.remove(token)
            return True
        return _same(token, self.token)

    def _has_cookie(self, header: str | None) -> bool:
        """Return whether the cookie is among those sent; other servers of this host have theirs beside it."""
        return any(name == self._cookie_name and _same(value, self._cookie_value) for name, value in _pairs(header))


_ELSEWHERE = Refusal(403, "A page of another server has asked for this; it is not answered.")
_NO_COOKIE = (
    "Open the address that oid-async view has printed, with its token; this browser has not done so yet, or keeps no "
    "cookies (curl does with -c jar -b jar)."
)


def _pairs(header: str | None) -> Iterator[tuple[str, str]]:
    """Yield names and values of a Cookie header."""
    for part in (header or "").split(";"):
        name, _, value = part.strip().partition("=")
        yield name, value


def _same(given: str, own: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), own.encode())


def _opens_a_page(head: Head) -> bool:
    """Return whether a browser follows a link in a window of its own; a frame or a script is something else."""
    return head.fetch_mode == "navigate" and head.fetch_dest == "document"


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether a page of this origin came from this very host and port; behind TLS it is https."""
    scheme, _, netloc = origin.lower().partition("://")
    return scheme in ("http", "https") and netloc == host.lower()


def _bare(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token_in(target: str) -> str | None:
    for part in target.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name == _TOKEN:
            return value
    return None


def _without_token(target: str) -> str:
    """Return the rest of the address, relative: the page may stand behind a proxy with a path of its own.

    >>> _without_token("/?token=abc&class=Dog&token=x"), _without_token("/?token=abc")
    ('./?class=Dog', './')
    """
    parts = [part for part in target.partition("?")[2].split("&") if part.partition("=")[0] != _TOKEN]
    return f"./?{'&'.join(parts)}" if any(parts) else "./"
