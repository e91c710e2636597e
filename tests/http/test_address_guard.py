"""Where we may connect: every spelling of an address that is not public, and nothing else, is refused."""

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from oid_async.http.address_guard import AddressGuard, endpoint, is_public, literal, parse_endpoint, refused_for
from oid_async.http.retry import FetchError
from oid_async.http.urls import parse_url

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:7f00:1::",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = (
    "8.8.8.8 1.1.1.1 52.216.1.1 172.32.0.1 192.169.0.1 2606:4700::1 2a00:1450:4001::1 ::ffff:8.8.8.8 64:ff9b::808:808"
)


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_public(text: str) -> None:
    """Loopback, private, link-local, documentation, multicast, reserved; and what carries one of them inside."""
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC.split())
def test_what_is_public(text: str) -> None:
    """Addresses of the internet, also those that carry one inside."""
    assert is_public(ipaddress.ip_address(text))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.ip_addresses(v=4))
def test_an_address_that_carries_another_is_as_public_as_that(inner: ipaddress.IPv4Address) -> None:
    """Mapped, translated, tunnelled: the IPv4 address inside decides."""
    number = int(inner)
    for outer in (f"::ffff:{inner}", f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}"):
        assert is_public(ipaddress.ip_address(outer)) == is_public(inner)
    assert is_public(ipaddress.ip_address(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::")) <= is_public(inner)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.ip_addresses(v=4, network="127.0.0.0/8"), st.integers(0, 3), st.data())
def test_every_spelling_of_loopback_is_a_literal(
    address: ipaddress.IPv4Address, merged: int, data: st.DataObject
) -> None:
    """Fewer parts, octal, hexadecimal: whatever the resolver takes for an address is judged as that address."""
    number = int(address)
    parts = [number >> 24 & 255, number >> 16 & 255, number >> 8 & 255, number & 255]
    last = 0
    for part in parts[3 - merged :]:
        last = last << 8 | part
    forms = (str, hex, lambda value: f"0{value:o}" if value else "0", lambda value: f"0X{value:X}")
    text = ".".join(data.draw(st.sampled_from(forms))(value) for value in [*parts[: 3 - merged], last])
    assert socket.inet_aton(text) == address.packed
    assert literal(text) == address
    assert AddressGuard(()).refuse(URL(f"http://{text}/a.jpg")) is not None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("LocalHost:80", ("localhost", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("nas.home.:443", ("nas.home", 443)),
    ],
)
def test_allowed_hosts_are_told_as_urls_tell_them(text: str, wanted: tuple[str, int]) -> None:
    """What --allow-host says and what a URL says of the same endpoint are the same."""
    assert parse_endpoint(text) == wanted
    assert endpoint(URL(f"http://{text.removesuffix(':80')}/x")) == wanted


def test_allowed_is_exact() -> None:
    """The host as written and the port: another name of the same machine is not meant, nor another port."""
    guard = AddressGuard([("127.0.0.1", 8080), ("localhost", 9090)])
    assert guard.refuse(URL("http://127.0.0.1:8080/")) is None
    assert guard.refuse(URL("http://localhost:9090/")) is None
    for url in ("http://127.0.0.1:8081/", "http://localhost:8080/", "http://2130706433:8080/", "http://[::1]:8080/"):
        assert guard.refuse(URL(url)) is not None


def test_the_refusal_says_what_would_allow_it() -> None:
    """One line that names the host, the port and the option."""
    said = AddressGuard(()).refuse(URL("http://[::1]:8080/a"))
    assert said == "[::1]:8080 is not a public address; --allow-host [::1]:8080 would allow it"


def test_the_socket_is_made_for_what_is_public_or_allowed_alone() -> None:
    """The check at the connect sees the address itself, whatever the name said before."""
    guard = AddressGuard([("inside.example", 80)])

    def connect(asked: str, address: str) -> bool:
        visit = guard.connect_attempt((asked, 80))
        info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        try:
            guard.make_socket(info).close()
        except PermissionError:
            assert refused_for(visit) is not None
            return False
        return refused_for(visit) is None

    assert connect("outside.example", "8.8.8.8")
    assert not connect("outside.example", "10.0.0.1")
    assert connect("inside.example", "10.0.0.1")


def test_a_name_with_one_public_address_is_not_refused_for_its_others() -> None:
    """If the public one does not answer, that is the network's fault and may be asked again."""
    guard = AddressGuard(())
    visit = guard.connect_attempt(("both.example", 80))
    with pytest.raises(PermissionError):
        guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80)))
    guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))).close()
    assert refused_for(visit) is None


@settings(derandomize=True, deadline=None, max_examples=500)
@given(
    st.text(max_size=40)
    | st.builds(
        "{}://{}{}:{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "ftp", "file", "ht tp", ""]),
        st.sampled_from(["", "user@", "a:b@", "@", "%40"]),
        st.sampled_from(
            ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "localhost.", "①②⑦.⓪.⓪.①", "127。0。0。1"]
        ),
        st.sampled_from(["", "80", "0", "99999", "-1", "x"]),
        st.sampled_from(["", "/", "/a?b#c", "\\@8.8.8.8/", "#@8.8.8.8/", "/\x00"]),
    )
)
def test_no_text_leads_to_a_private_address(text: str) -> None:
    """Whatever a table holds, it is refused with a kind of its own, or its host is no literal that is not public."""
    kind, url = "", None
    try:
        url = parse_url(text)
    except FetchError as error:
        kind = error.kind
    if url is None:
        assert kind in ("bad_url", "blocked")
        return
    assert url.scheme in ("http", "https")
    address = literal(endpoint(url)[0])
    if AddressGuard(()).refuse(url) is None:
        assert address is None or is_public(address)
