"""Look for a URL, a redirect or an id that leads where it must not. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_urls.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import os
import socket
import tempfile
from pathlib import Path

import atheris
from support.fuzzing import fuzz

with atheris.instrument_imports(include=["oid_async.transfer", "oid_async.store.naming", "yarl"]):
    from yarl import URL

    from oid_async.http.address_guard import AddressGuard, endpoint, is_public, literal
    from oid_async.http.retry import FetchError
    from oid_async.http.urls import next_hop, parse_url
    from oid_async.store.naming import clash_name, fold, id_name, url_name

SEEDS = """https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg
http://user:pw@127.0.0.1:8080/a/../b.jpg?x#y
http://[::ffff:7f00:1]/%2e%2e/%00.jpg
http://2130706433/ http://0x7f.1/ http://0177.1/ http://[fe80::1%25eth0]/ http://\u2460\u2461\u2466.0.0.1/
file:///etc/passwd //x.org/a.jpg /photo_unavailable_l.png \\\\x.org\\a con.jpg .. a\u0301.jpg
""".splitlines()
GUARD = AddressGuard(())
AT = (URL("https://farm1.staticflickr.com/1/a.jpg"), URL("http://x.org:81/a"))


def check_url(text: str) -> None:
    """Refused with a kind of its own, or http(s) with a host; no literal that is not public passes the guard."""
    for parse in (parse_url, lambda location: next_hop(AT[0], location), lambda location: next_hop(AT[1], location)):
        try:
            url = parse(text)
        except FetchError as error:
            if error.kind not in ("bad_url", "blocked", "redirect", "placeholder"):
                raise AssertionError(error.kind) from error
            continue
        assert url.scheme in ("http", "https")
        assert url.host
        assert url.user is None
        assert "\n" not in str(url)
        assert "\r" not in str(url)
        if GUARD.refuse(url) is not None:
            continue
        host = endpoint(url)[0]
        address = literal(host)
        assert address is None or is_public(address), url
        # Whatever the C library takes for an address, this must have taken for one.
        try:
            packed = socket.inet_aton(host)
        except (OSError, ValueError, UnicodeError):
            continue
        assert address is not None
        assert address.packed == packed


def check_name(text: str) -> None:
    """A name is one file in its folder, on any file system, and not too long."""
    for name in (url_name(text, "0000048549557964"), id_name(text), clash_name(url_name(text, text), text)):
        assert name == os.path.basename(name)
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert not set(name) & set('/\\\0:*?"<>|\n\r')
        assert len(name.encode()) <= 255
        assert name.lower().endswith(".jpg")
        assert fold(name) == fold(fold(name))


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape") if data[:1] != b"\1" else data[1:].decode("utf-16", "surrogatepass")
    check_url(text)
    check_name(text)


def tolerant(data: bytes) -> None:
    try:
        data[1:].decode("utf-16", "surrogatepass")
    except UnicodeDecodeError:
        data = data.lstrip(b"\1")
    check(data)


def main() -> None:
    seeds = Path(tempfile.mkdtemp())
    for number, seed in enumerate(SEEDS):
        (seeds / str(number)).write_bytes(seed.encode())
    fuzz(tolerant, seeds)


if __name__ == "__main__":
    main()
