"""Which URLs are fetched, and where a redirect leads. Pure."""

from yarl import URL

from oid_async.http.address_guard import Endpoint, endpoint
from oid_async.http.hosts import host_name
from oid_async.http.retry import FetchError
from oid_async.quick_values import frozen, value
from oid_async.redaction import redacted_text_of_url

# What yarl 1.25 raises for text that is no URL; the IndexError is of "http://[::f[a:3]2%@//", found by fuzzing.
_NO_URL = (ValueError, TypeError, IndexError)


@frozen
class Origin:
    """Scheme, host and port of a URL, parsed once for all URLs that share them. `site` is one of these URLs.

    `endpoint` is where the request is sent, `host` the key of the host's state, `header` the request's Host.
    """

    site: URL
    scheme: str
    endpoint: Endpoint
    host: str
    header: str


@value
class Route:
    """Where one request goes: its origin, and its path, escaped and with its query.

    A million images on one host share its Origin: parsing a URL costs as much as a good part of the request.
    """

    origin: Origin
    path: str

    @classmethod
    def of(cls, url: URL) -> "Route":
        """Return the route to a URL.

        >>> route = Route.of(URL("http://X.org:80/a b.jpg?c=1#d"))
        >>> route.path, route.origin.endpoint, route.url()
        ('/a%20b.jpg?c=1', ('x.org', 80), URL('http://x.org/a%20b.jpg?c=1'))
        """
        origin = Origin(url, url.scheme, endpoint(url), host_name(url), url.host_port_subcomponent or "")
        return cls(origin, url.raw_path_qs)

    def url(self) -> URL:
        """Return the URL."""
        return URL(f"{self.origin.scheme}://{self.origin.header}{self.path}", encoded=True)


def parse_url(text: str) -> URL:
    """Return a URL that may be fetched. Raises FetchError `bad_url`, or `blocked` for a scheme but http and https."""
    try:
        url = URL(text.strip())
        # yarl decodes the host only when it is read.
        host, port = url.host, url.port
    except _NO_URL as error:
        raise FetchError("bad_url", f"not a URL: {redacted_text_of_url(text)[:100]!r}") from error
    if url.scheme and url.scheme not in ("http", "https"):
        raise FetchError("blocked", f"scheme {url.scheme!r} is not fetched, only http and https")
    if not _is_usable(host) or not url.scheme or not port:
        raise FetchError("bad_url", f"not an http URL: {redacted_text_of_url(text)[:100]!r}")
    return url.with_user(None)


def next_hop(at: URL, location: str) -> URL:
    """Return where a redirect leads. Raises FetchError: `placeholder` for Flickr's picture in place of a dead photo."""
    if "photo_unavailable" in location:
        raise FetchError("placeholder", f"redirect to {redacted_text_of_url(location)[:100]}")
    try:
        target = at.join(URL(location))
        host = target.host
    except _NO_URL as error:
        raise FetchError(
            "redirect", f"redirect to {redacted_text_of_url(location)[:100]!r}, which is no URL"
        ) from error
    if target.scheme not in ("http", "https") or (at.scheme, target.scheme) == ("https", "http"):
        raise FetchError("blocked", f"redirect from {at.scheme} to {target.scheme} is not followed")
    if not location or not _is_usable(host):
        raise FetchError("redirect", "redirect without a usable Location")
    return target.with_user(None)


def _is_usable(host: str | None) -> bool:
    """Return whether a host has no space in it: some resolvers read an address before a space and ignore the rest."""
    return bool(host) and not any(letter.isspace() or not letter.isprintable() for letter in host or "")
