"""Who may look: the guard's answers to request heads, as a table."""

from dataclasses import replace

import pytest

from oid_async.gallery.guard import Entry, Guard, Head, Refusal

HERE = "127.0.0.1:8080"


def head_of(guard: Guard) -> Head:
    """Return the head of a request that is answered: what a browser that has entered sends."""
    entry = guard.decide(Head("GET", f"/?token={guard.token}", (HERE,)))
    assert isinstance(entry, Entry)
    return Head("GET", "/api/folder", (HERE,), cookie=entry.cookies[0].partition(";")[0])


def status_of(guard: Guard, head: Head) -> int:
    decision = guard.decide(head)
    return decision.status if isinstance(decision, Refusal) else 303 if isinstance(decision, Entry) else 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("127.0.0.1", 200),
        ("LocalHost:9999", 200),
        ("localhost.:80", 200),
        ("[::1]:8080", 200),
        ("10.1.2.3:80", 200),
        ("gpu-box:8080", 200),
        ("GPU-BOX.:8080", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("gpu-box.evil.example", 403),
        ("2130706433", 403),
        ("0x7f.1", 403),
        ("", 400),
        ("a b", 400),
        ("user@127.0.0.1", 400),
        ("127.0.0.1:port", 400),
        ("127.0.0.1/x", 400),
        ("[::1", 400),
        ("[gpu-box]", 400),
    ],
)
def test_a_request_means_this_server_by_its_host(host: str, status: int) -> None:
    """An IP literal, localhost or the name of --host, with any port; a name that was pointed here is refused."""
    guard = Guard("gpu-box")
    assert status_of(guard, replace(head_of(guard), hosts=(host,))) == status


def test_who_keeps_no_cookies_is_told_so() -> None:
    """The address was opened, and still nothing comes: a client such as curl needs to keep what it gave."""
    guard = Guard("127.0.0.1")
    refused = guard.decide(replace(head_of(guard), cookie=None))
    assert isinstance(refused, Refusal)
    assert "curl does with -c jar -b jar" in refused.text


def test_a_request_has_one_host() -> None:
    """None and two are refused, whatever they are."""
    guard = Guard("127.0.0.1")
    for hosts in ((), (HERE, HERE), (HERE, "evil.example")):
        assert status_of(guard, replace(head_of(guard), hosts=hosts)) == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://{HERE}", 200),
        (f"https://{HERE}", 200),
        ("http://127.0.0.1:8081", 403),
        ("http://127.0.0.1", 403),
        ("http://localhost:8080", 403),
        ("http://evil.example", 403),
        (f"http://evil.example/{HERE}", 403),
        (f"ftp://{HERE}", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
def test_an_origin_is_the_own_one(origin: str, status: int) -> None:
    """Whoever says which page asks is that of the very host and port."""
    guard = Guard("127.0.0.1")
    assert status_of(guard, replace(head_of(guard), origin=origin)) == status


@pytest.mark.parametrize(
    ("site", "mode", "dest", "target", "status"),
    [
        ("same-origin", "cors", "empty", "/api/folder", 200),
        ("none", "navigate", "document", "/", 200),
        ("cross-site", "navigate", "document", "/?class=Dog", 200),
        ("cross-site", "navigate", "iframe", "/", 403),
        ("cross-site", "no-cors", "image", "/image/train/0123456789abcdef", 403),
        ("cross-site", "navigate", "document", "/image/train/0123456789abcdef", 403),
        ("cross-site", "navigate", "document", "/api/folder", 403),
        ("cross-site", "no-cors", "script", "/", 403),
        ("same-site", "cors", "empty", "/api/folder", 403),
        ("anything", "cors", "empty", "/api/folder", 403),
    ],
)
def test_other_sites_may_only_link_to_the_page(site: str, mode: str, dest: str, target: str, status: int) -> None:
    """A link that is followed in a window of its own leads to the page; nothing is embedded or read."""
    guard = Guard("127.0.0.1")
    head = replace(head_of(guard), target=target, fetch_site=site, fetch_mode=mode, fetch_dest=dest)
    assert status_of(guard, head) == status


def test_a_link_from_elsewhere_is_asked_for_once_more() -> None:
    """A Strict cookie is not sent along with it; the page that says so asks again, and then no more."""
    guard = Guard("127.0.0.1")
    head = Head("GET", "/", (HERE,), fetch_site="cross-site", fetch_mode="navigate", fetch_dest="document")
    first, second = guard.decide(head), guard.decide(replace(head, fetch_site="same-origin"))
    assert isinstance(first, Refusal)
    assert isinstance(second, Refusal)
    assert (first.status, first.again, second.status, second.again) == (403, True, 403, False)


def test_without_the_cookie_nothing_is_answered() -> None:
    """None, one of another name or value, of another server, and an old one."""
    guard, other = Guard("127.0.0.1"), Guard("127.0.0.1")
    head = head_of(guard)
    assert head.cookie is not None
    name, _, value = head.cookie.partition("=")
    for cookie in (None, "", name, f"{name}=", f"{name}={value}0", f"other={value}", f"{name}=\udcff", value):
        assert status_of(guard, replace(head, cookie=cookie)) == 403
    assert status_of(other, head) == 403
    assert status_of(guard, replace(head, cookie=f"{head_of(other).cookie}; a=b; {head.cookie}")) == 200


def test_the_token_enters_again_and_again() -> None:
    """As often as it is opened, with the state that follows it; a wrong one, and one elsewhere, does not."""
    guard = Guard("127.0.0.1")
    for _ in range(2):
        entry = guard.decide(Head("GET", f"/?class=Dog&token={guard.token}&flag=IsOccluded%3Ayes", (HERE,)))
        assert isinstance(entry, Entry)
        assert entry.location == "./?class=Dog&flag=IsOccluded%3Ayes"
        (cookie,) = entry.cookies
        assert guard.token not in cookie
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    for target in ("/?token=", f"/?token={guard.token}x", f"/api/folder?token={guard.token}", "/?token=%00"):
        assert status_of(guard, Head("GET", target, (HERE,))) == 403


def test_old_cookies_go() -> None:
    """Of a browser that has looked at many galleries: the oldest ones, and none of other servers."""
    guard = Guard("127.0.0.1")
    sent = "; ".join(["_xsrf=1", *(f"oid_async_{number:08x}=x" for number in range(25)), "oid_async_theme=dark"])
    entry = guard.decide(Head("GET", f"/?token={guard.token}", (HERE,), cookie=sent))
    assert isinstance(entry, Entry)
    assert [cookie.partition("=")[0] for cookie in entry.cookies[1:]] == [f"oid_async_{n:08x}" for n in range(5)]
    assert all("Max-Age=0" in cookie for cookie in entry.cookies[1:])
    assert "Max-Age" not in entry.cookies[0]


def test_no_token_stays_in_an_address() -> None:
    """A browser that is in already is sent on from an old or wrong token, too."""
    guard = Guard("127.0.0.1")
    entry = guard.decide(replace(head_of(guard), target="/?token=old&class=Dog"))
    assert isinstance(entry, Entry)
    assert entry.location == "./?class=Dog"


def test_a_one_time_token_enters_once() -> None:
    """Who reads the command line of the browser is too late; a page elsewhere does not use it up."""
    guard = Guard("127.0.0.1")
    head = Head("GET", f"/?token={guard.one_time_token()}", (HERE,))
    assert status_of(guard, replace(head, fetch_site="cross-site", fetch_mode="no-cors", fetch_dest="image")) == 403
    assert [status_of(guard, head) for _ in range(3)] == [303, 403, 403]


def test_the_location_stays_on_this_server() -> None:
    """What follows the token is a query, whatever it looks like."""
    guard = Guard("127.0.0.1")
    for rest in ("//evil.example", "https://evil.example", "&&x=//e", "a=b#c"):
        entry = guard.decide(Head("GET", f"/?token={guard.token}&{rest}", (HERE,)))
        assert isinstance(entry, Entry)
        assert entry.location.startswith("./?")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_only_get_and_head_are_answered(method: str) -> None:
    """Nothing can be changed."""
    guard = Guard("127.0.0.1")
    assert status_of(guard, replace(head_of(guard), method=method)) == 405


def test_a_target_is_a_path() -> None:
    """An address of another server is not fetched, nor taken for this one."""
    guard = Guard("127.0.0.1")
    for target in (f"http://{HERE}/", "http://evil.example/", "*", ""):
        assert status_of(guard, replace(head_of(guard), target=target)) == 400
