"""Heads that are read as a whole: those of the usual hosts, none that changes a body, and all as llhttp reads them."""

import random

import httptools
import pytest

from oid_async.http.usual_head import lines_of, match_usual_head

NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 30 Nov 2026 10:38:03 GMT\r\nContent-Type: image/jpeg\r\n"
    b"Content-Length: 24894\r\nLast-Modified: Mon, 30 Nov 2026 10:38:02 GMT\r\nConnection: keep-alive\r\n"
    b'ETag: "6b0d520a-613e"\r\nAccept-Ranges: bytes\r\n\r\n'
)
S3 = (
    b"HTTP/1.1 200 OK\r\nx-amz-id-2: 0a1b2c+/=\r\nx-amz-request-id: 7E0C3B5D\r\nDate: Mon, 30 Nov 2026 10:38:03 GMT\r\n"
    b'Last-Modified: Mon, 30 Nov 2026 10:38:02 GMT\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'
    b"Accept-Ranges: bytes\r\nContent-Type: image/jpeg\r\nContent-Length: 24894\r\nServer: AmazonS3\r\n\r\n"
)
GCS = (
    b"HTTP/1.1 200 OK\r\nx-guploader-uploadid: AB-c_9\r\nexpires: Mon, 30 Nov 2026 11:38:03 GMT\r\n"
    b"cache-control: public, max-age=3600\r\nx-goog-hash: crc32c=AA==\r\nx-goog-hash: md5=1B2M2Y8AsgTpgAmY7PhCfg==\r\n"
    b'etag: "d41d8cd98f00b204e9800998ecf8427e"\r\ncontent-length: 24894\r\ncontent-type: image/jpeg\r\n\r\n'
)
USUAL = {"nginx": NGINX, "S3": S3, "GCS": GCS}


@pytest.mark.parametrize("head", USUAL.values(), ids=USUAL)
def test_the_heads_of_the_usual_hosts_are_read_as_a_whole(head: bytes) -> None:
    """Length and ETag are known, and where the body begins; cut anywhere, a head is not all there."""
    found = match_usual_head(head + b"\xff\xd8", len(head) + 2)
    assert found is not None
    assert (found["length"], found.end()) == (b"24894", len(head))
    assert found["etag"] in head
    assert not any(match_usual_head(head, size) for size in range(len(head)))


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close",
        b"Connection:",
        b"Connection: ",
        b"Connection:\r\n keep-alive",
        b"Proxy-Connection: close",
        b"Content-Encoding: gzip",
        b"content-encoding: identity",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"X-Robots-Tag: noai",
        b"x-robots-tag: all",
        b"X-ROBOTS-TAG: noai",
        b"TDM-Reservation: 1",
        b"tdm-reservation: 1",
        b"Content-Length: 24894",
        b"CONTENT-LENGTH: 24894",
        b"Server: a\r\n folded",
        b"Server: a\n",
        b"Server: a\0b",
        b"Server : a",
        b"no colon",
    ],
)
def test_what_may_change_how_an_answer_is_read_is_left_to_llhttp(line: bytes) -> None:
    """A head with such a line, first or last, is none of the usual ones."""
    status = b"HTTP/1.1 200 OK\r\n"
    for head in (NGINX.replace(status, status + line + b"\r\n"), NGINX[:-2] + line + b"\r\n\r\n"):
        assert match_usual_head(head, len(head)) is None


@pytest.mark.parametrize(
    "head",
    [
        NGINX.replace(b"1.1 200", b"1.0 200"),
        NGINX.replace(b"200", b"206"),
        NGINX.replace(b"\r\n", b"\n"),
        NGINX.replace(b"Content-Length: 24894\r\n", b""),
        NGINX.replace(b"24894", b"-1"),
        NGINX.replace(b"24894", b"1" * 20),
        NGINX.replace(b"\r\nServer", b"\r\nA: b" * 64 + b"\r\nServer"),
        b"\r\n" + NGINX,
    ],
)
def test_other_heads_are_left_to_llhttp(head: bytes) -> None:
    """Another version or status, no length or an odd one, more lines than are usual."""
    assert match_usual_head(head, len(head)) is None


class Reader:
    """What llhttp says of a head."""

    def __init__(self, head: bytes) -> None:
        self.lines: list[tuple[bytes, bytes]] = []
        self.is_whole = self.keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_headers=True, lenient_optional_cr_before_lf=True)
        self._parser.feed_data(head)
        self.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value.strip()))

    def on_headers_complete(self) -> None:
        self.is_whole, self.keeps_alive = True, self._parser.should_keep_alive()


def test_a_head_that_was_changed_anywhere_is_read_as_llhttp_reads_it_or_not_at_all() -> None:
    """Bytes are replaced, inserted, removed: what still matches has the lines and the length that llhttp finds."""
    chance = random.Random(7)
    odd = [b"\r", b"\n", b" ", b":", b"\t", b"\0", b"\xff", b"c", b"E", b"9", b"-"]
    matched = 0
    for _ in range(3000):
        head = bytearray(chance.choice(list(USUAL.values())))
        for _ in range(chance.choice([1, 1, 2])):
            at = chance.randrange(len(head) - 4)
            head[at : at + chance.choice([0, 1])] = chance.choice([b"", *odd])
        found = match_usual_head(bytes(head), len(head))
        if found is None:
            continue
        matched += 1
        read = Reader(found[0])
        assert (read.status, read.is_whole, read.keeps_alive) == (200, True, True)
        assert read.lines == [(name, value.strip()) for name, value in lines_of(found[0])]
        lines = [(name.lower(), value) for name, value in read.lines]
        assert [value for name, value in lines if name == b"content-length"] == [found["length"]]
        assert [value for name, value in lines if name == b"etag"][-1:] == (
            [found["etag"].strip()] if found["etag"] else []
        )
    assert matched > 500
