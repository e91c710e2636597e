"""What went wrong, whether to ask again and when, and where a request or a redirect may lead."""

import itertools
import ssl
import string
import time
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from oid_async.http.retry import (
    FetchError,
    Limits,
    backoff_s,
    connection_error,
    is_final,
    may_retry,
    retry_after_s,
    status_error,
)
from oid_async.http.urls import next_hop, parse_url
from oid_async.report import FINAL_KINDS, PASSING_KINDS

KINDS = {*FINAL_KINDS, *PASSING_KINDS}
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "forbidden"),
        (403, "forbidden"),
        (404, "not_found"),
        (408, "timeout"),
        (410, "gone"),
        (429, "rate_limited"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (504, "server_error"),
        (599, "server_error"),
        (204, "bad_response"),
        (300, "bad_response"),
        (400, "bad_response"),
        (416, "bad_response"),
        (451, "bad_response"),
    ],
)
def test_status_has_its_kind(status: int, kind: str) -> None:
    """Every status that is no answer has one failure kind, and the message says which status it was."""
    error = status_error(status, {})
    assert error.kind == kind
    assert str(status) in str(error)
    assert error.retry_after_s is None


def test_every_status_is_in_the_closed_set() -> None:
    """No status leads out of the closed set of kinds."""
    assert {status_error(status, {}).kind for status in range(100, 600)} <= KINDS


@pytest.mark.parametrize(("status", "wait"), [(429, 7.0), (503, 7.0), (404, None), (410, None), (403, None)])
def test_retry_after_counts_where_a_host_may_ask_for_it(status: int, wait: float | None) -> None:
    """Retry-After is heeded with 429 and 503; what is final stays final."""
    assert status_error(status, {"Retry-After": "7"}).retry_after_s == wait


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0000000000005", 5.0),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2026 08:28:00 GMT", 3600.0),
        ("Wed, 21 Oct 2026 09:28:30 +0200", 30.0),
        ("Wednesday, 21-Oct-26 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("7.5", 8.0),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("7, 8", None),
        ("Wed, 99 Oct 2026 07:28:10 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_understood_or_ignored(value: str, seconds: float | None) -> None:
    """Seconds, or a date relative to the answer's own Date, never below zero; nonsense asks for nothing."""
    assert retry_after_s({"Retry-After": value, "Date": DATE}) == seconds


@pytest.mark.parametrize("year", [1970, 1999, 2040])
def test_wrong_clock_does_no_harm(year: int) -> None:
    """Only the server's two dates count, whatever time it is here or there."""
    headers = {"Date": f"Mon, 1 Jun {year} 00:00:00 GMT", "Retry-After": f"Mon, 1 Jun {year} 00:01:30 GMT"}
    assert retry_after_s(headers) == 90.0


def test_absent_retry_after_asks_for_nothing() -> None:
    """Without the header there is no wait to heed."""
    assert retry_after_s({}) is None
    assert retry_after_s({"Date": DATE}) is None


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}])
def test_without_a_usable_date_the_local_clock_has_to_do(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date to wait for is kept all the same: never earlier than told, as far as this clock knows."""
    monkeypatch.setattr("time.time", lambda: 1792567670.0)
    assert retry_after_s({"Retry-After": DATE, **headers}) == 10.0


def test_dates_of_the_old_form_are_in_universal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form that names no zone means UTC, wherever this machine stands."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        headers = {"Retry-After": "Wed Oct 21 07:28:10 2026", "Date": DATE}
        assert retry_after_s(headers) == 10.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_is_found_in_any_case() -> None:
    """Header names are matched as the HTTP client gives them, without regard to case."""
    assert retry_after_s(CIMultiDict({"retry-after": "3"})) == 3.0


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.text(string.printable, max_size=60)
    | st.builds(
        "{} {} {} {}:{}:{} {}".format,
        st.sampled_from(["Wed, 21", "1", "99", ""]),
        st.sampled_from(["Oct", "x", "10"]),
        st.integers(-(10**20), 10**20),
        st.integers(-99, 10**19),
        st.integers(-9, 99),
        st.integers(-9, 10**12),
        st.sampled_from(["GMT", "+0000", "-99999", "+99999999999999999999", ""]),
    ),
    st.sampled_from([DATE, "", "Wed, 21 Oct 1 07:28:00 GMT"]),
)
@example("9" * 5000, DATE)
def test_no_retry_after_breaks_the_run(value: str, date: str) -> None:
    """Whatever a server writes there, the result is None or a wait of zero or more seconds."""
    wait = retry_after_s({"Retry-After": value, "Date": date})
    assert wait is None or 0.0 <= wait < float("inf")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kind_is_final_or_passing(kind: str) -> None:
    """The two groups do not overlap, and each kind is in one."""
    assert is_final(kind) is (kind in FINAL_KINDS)
    assert (kind in FINAL_KINDS) is not (kind in PASSING_KINDS)


def attempts_of(kind: str, limits: Limits) -> int:
    """Return how many attempts an object gets that fails in this way each time."""
    seen: dict[str, int] = {}
    for attempt in itertools.count(1):
        if not may_retry(kind, attempt, seen, limits):
            return attempt
        seen[kind] = seen.get(kind, 0) + 1
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [(kind, 5) for kind in sorted(PASSING_KINDS)]
    + [(kind, 2) for kind in ("checksum", "empty", "not_image")]
    + [(kind, 1) for kind in sorted(set(FINAL_KINDS) - {"checksum", "empty", "not_image"})],
)
def test_attempts_follow_from_the_kind(kind: str, attempts: int) -> None:
    """Passing faults get the retries, checksum, empty and not_image one fresh try, what is final none."""
    assert attempts_of(kind, Limits()) == attempts


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (9, 10)])
def test_retries_count_attempts_after_the_first(retries: int, attempts: int) -> None:
    """N retries are N + 1 attempts."""
    assert attempts_of("server_error", Limits(retries=retries)) == attempts


def test_each_kind_has_its_own_fresh_try() -> None:
    """A body that was empty once may still be checked afresh once, but not a second time for the same reason."""
    assert may_retry("checksum", 2, {"empty": 1}, Limits())
    assert not may_retry("checksum", 3, {"empty": 1, "checksum": 1}, Limits())


@pytest.mark.parametrize("attempts", [1, 2, 3, 7, 8, 60, 61, 5000])
@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
def test_backoff_stays_within_bounds(attempts: int, jitter: float) -> None:
    """The wait is a share of a doubling ceiling that ends at the cap, for any number of attempts."""
    limits = Limits()
    ceiling = min(30.0, 0.5 * 2.0 ** min(attempts - 1, 100))
    assert backoff_s(attempts, limits, jitter) == pytest.approx(jitter * ceiling)


def test_backoff_doubles_up_to_the_cap() -> None:
    """With the defaults the ceilings are half a second, doubled each time, at most thirty."""
    assert [backoff_s(n, Limits(), 1.0) for n in range(1, 9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


KEY = ConnectionKey("x.org", 443, True, True, None, None, None)
REQUEST: Any = aiohttp.RequestInfo(URL("https://x.org/"), "GET", CIMultiDict(), URL("https://x.org/"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "refused")), "network"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")), "network"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "bad record")), "network"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")), "network"),
        (aiohttp.ServerDisconnectedError(), "network"),
        (aiohttp.ClientOSError(104, "reset by peer"), "network"),
        (aiohttp.ClientConnectionResetError("closing transport"), "network"),
        (aiohttp.ClientConnectionError("closed"), "network"),
        (ConnectionResetError(104, "reset by peer"), "network"),
        (aiohttp.ServerTimeoutError("slow"), "timeout"),
        (aiohttp.ConnectionTimeoutError("slow"), "timeout"),
        (aiohttp.SocketTimeoutError("slow"), "timeout"),
        (TimeoutError(), "timeout"),
        (aiohttp.ClientPayloadError("not enough data"), "truncated"),
        (aiohttp.ClientResponseError(REQUEST, (), status=400, message="bad status line"), "bad_response"),
        (aiohttp.ContentTypeError(REQUEST, ()), "bad_response"),
        (aiohttp.InvalidURL("http://[zz]"), "bad_url"),
        (UnicodeError("label empty or too long"), "bad_url"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_exception_of_the_client_has_its_kind(error: BaseException, kind: str) -> None:
    """The HTTP client's exceptions become one of our kinds, with words that fit on one line."""
    failed = connection_error(error)
    assert failed.kind == kind
    assert str(failed)
    assert "\n" not in str(failed)
    assert failed.retry_after_s is None


def test_message_of_an_exception_is_one_short_line() -> None:
    """However much a server made an exception say, what is kept is short and on one line."""
    assert str(connection_error(OSError("a\r\n\tb   c" + "x" * 5000))).startswith("a b c")
    assert len(str(connection_error(OSError("x" * 5000)))) <= 200


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://farm1.staticflickr.com/1/a_o.jpg?zz=1", "https://farm1.staticflickr.com/1/a_o.jpg?zz=1"),
        ("  http://x.org/a.jpg\n", "http://x.org/a.jpg"),
        ("HTTPS://X.ORG/A.jpg", "https://x.org/A.jpg"),
        ("http://127.0.0.1:8080/a.jpg", "http://127.0.0.1:8080/a.jpg"),
        ("http://[::1]:8080/a.jpg", "http://[::1]:8080/a.jpg"),
        ("http://münchen.de/ü.jpg", "http://xn--mnchen-3ya.de/%C3%BC.jpg"),
        ("https://user:secret@x.org/a.jpg", "https://x.org/a.jpg"),
        ("https://user@x.org/a.jpg", "https://x.org/a.jpg"),
        ("https://x.org/a.jpg\r\nHost: evil.org", "https://x.org/a.jpgHost:%20evil.org"),
    ],
)
def test_http_urls_are_fetched_without_credentials(text: str, url: str) -> None:
    """An http or https URL is taken as it stands but for its credentials; nothing in it can add a header."""
    parsed = parse_url(text)
    assert str(parsed) == url
    assert parsed.user is None
    assert parsed.password is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("file:///etc/passwd", "blocked"),
        ("FILE:///etc/passwd", "blocked"),
        ("file://localhost/etc/passwd", "blocked"),
        ("ftp://x.org/a.jpg", "blocked"),
        ("gopher://x.org/", "blocked"),
        ("data:image/jpeg;base64,AAAA", "blocked"),
        ("javascript:alert(1)", "blocked"),
        ("", "bad_url"),
        ("   ", "bad_url"),
        ("a.jpg", "bad_url"),
        ("/a/b.jpg", "bad_url"),
        ("//x.org/a.jpg", "bad_url"),
        ("http:", "bad_url"),
        ("http://", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("https:x.org/a.jpg", "bad_url"),
        ("http://x.org:99999/a.jpg", "bad_url"),
        ("http://x.org:port/a.jpg", "bad_url"),
        ("http://x.org:0/a.jpg", "bad_url"),
        ("http://[zz]/a.jpg", "bad_url"),
        ("http://\ud800/a.jpg", "bad_url"),
        ("http://xn--a/a.jpg", "bad_url"),
        ("http://2130706433 x.org/a.jpg", "bad_url"),
        ("http://[::f[a:3]2%@//", "bad_url"),
    ],
)
def test_other_urls_are_refused_before_any_request(text: str, kind: str) -> None:
    """Another scheme is blocked; what has no host, a wrong port or is no URL at all is a bad URL."""
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.kind == kind


HERE = "https://farm1.staticflickr.com/1/a.jpg"


@pytest.mark.parametrize(
    ("at", "location", "target"),
    [
        (HERE, "/2/b.jpg", "https://farm1.staticflickr.com/2/b.jpg"),
        (HERE, "b.jpg?x=1", "https://farm1.staticflickr.com/1/b.jpg?x=1"),
        (HERE, "//live.staticflickr.com/b.jpg", "https://live.staticflickr.com/b.jpg"),
        (HERE, "https://live.staticflickr.com/b.jpg", "https://live.staticflickr.com/b.jpg"),
        (HERE, "https://user:secret@x.org/b.jpg", "https://x.org/b.jpg"),
        ("http://x.org/a.jpg", "https://x.org/a.jpg", "https://x.org/a.jpg"),
        ("http://x.org/a.jpg", "http://y.org/a.jpg", "http://y.org/a.jpg"),
    ],
)
def test_redirect_is_followed_on_the_web(at: str, location: str, target: str) -> None:
    """Relative, to another host, up to https: followed, without credentials."""
    assert str(next_hop(URL(at), location)) == target


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("http://farm1.staticflickr.com/1/a.jpg", "blocked"),
        ("file:///etc/passwd", "blocked"),
        ("file://localhost/etc/passwd", "blocked"),
        ("ftp://x.org/a.jpg", "blocked"),
        ("data:image/jpeg;base64,AAAA", "blocked"),
        ("javascript:alert(1)", "blocked"),
        ("https://s.yimg.com/pw/images/en-us/photo_unavailable_l.png", "placeholder"),
        ("http://l.yimg.com/g/images/photo_unavailable.gif", "placeholder"),
        ("/images/photo_unavailable_l.png", "placeholder"),
        ("", "redirect"),
        ("https://x.org:99999/a.jpg", "redirect"),
        ("https://[zz]/a.jpg", "redirect"),
        ("https://xn--a/a.jpg", "redirect"),
        ("http://[::f[a:3]2%@//", "redirect"),
    ],
)
def test_redirect_elsewhere_is_final(location: str, kind: str) -> None:
    """Down to http or to another scheme is blocked, Flickr's stand-in is a placeholder, no address a redirect."""
    with pytest.raises(FetchError) as caught:
        next_hop(URL(HERE), location)
    assert caught.value.kind == kind
    assert is_final(kind)


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters(), max_size=80))
def test_any_location_leads_to_the_web_or_to_a_kind(location: str) -> None:
    """Whatever a server sends as Location, the outcome is an http(s) URL with a host or a kind of failure."""
    try:
        target = next_hop(URL(HERE), location)
    except FetchError as error:
        target = None
        kind = error.kind
    if target is None:
        assert is_final(kind)
    else:
        assert target.scheme == "https"
        assert target.host
        assert target.user is None
