"""Whoever can reach the gallery's port gets nothing but the folder's pictures and rows, and only with the cookie."""

import asyncio
import io
import os
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from support.gallery_folders import GREY, box_row, image_id, label, manifest_row, mask_row, uniform, write_folder
from support.gallery_server import Served, served
from support.saved import rectangle

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = b"what nobody may read"
BOMB, NO_PNG = f"{image_id(1)}_m00001_0000b0b0.png", f"{image_id(1)}_m00001_0000000f.png"
HEADERS = {
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-resource-policy",
    "cache-control",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status 0 means that the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def send(port: int, request: bytes, *, within_s: float = 20) -> Answer:
    """Send bytes to the server and read until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(within_s):
            with suppress(ConnectionError):
                await writer.drain()
            answer = b""
            with suppress(ConnectionError):
                answer = await reader.read(-1)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0]:
        return Answer(0, {}, b"")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body)


@dataclass(frozen=True, slots=True)
class Browser:
    """Someone with the cookie, who sends whatever is asked of him."""

    gallery: Served
    cookie: str

    @classmethod
    async def entering(cls, gallery: Served) -> "Browser":
        """Open the printed address."""
        answer = await send(gallery.port, request(gallery, f"/?token={gallery.token}"))
        assert answer.status in (302, 303)
        return cls(gallery, answer.headers["set-cookie"].partition(";")[0])

    async def get(self, target: str | bytes, *lines: str, method: str = "GET") -> Answer:
        """Ask for a target, sent as it is."""
        return await send(
            self.gallery.port, request(self.gallery, target, f"Cookie: {self.cookie}", *lines, method=method)
        )


def request(gallery: Served, target: str | bytes, *lines: str, method: str = "GET", host: str | None = None) -> bytes:
    """Return a request as bytes; `lines` are further lines of its head."""
    raw = target if isinstance(target, bytes) else target.encode("utf-8")
    named = f"127.0.0.1:{gallery.port}" if host is None else host
    head = "".join(f"{line}\r\n" for line in (f"Host: {named}", "Connection: close", *lines))
    return method.encode() + b" " + raw + b" HTTP/1.1\r\n" + head.encode("utf-8") + b"\r\n"


def guarded_folder(root: Path) -> Path:
    """Write a folder with links, a pipe and rows that lead out of it, beside secrets; image 1 and its mask are good."""
    body = uniform(64, 48)
    names = {1: "1_o.jpg", 2: "link.jpg", 3: "pipe.jpg", 4: "../secret.jpg", 5: f"{root}/secret.jpg", 6: "a\x00b.jpg"}
    names |= {7: "folder.jpg", 8: "hard/../../../secret.jpg", 9: "..", 10: "bomb.jpg", 11: "C:\\secret.jpg"}
    images = [
        (manifest_row(number, body, (64, 48), FileName=name), body if number == 1 else None)
        for number, name in names.items()
    ]
    good = f"{image_id(1)}_m00001_00000001.png"
    paths = [good, "../../secret.png", f"{root}/secret.png", "link.png", "pipe.png", "x/../../../secret.png"]
    sides = (0.1, 0.9, 0.1, 0.9)
    folder = write_folder(
        root / "folder",
        images,
        {
            "bbox": [box_row(1, label(1), "Dog", sides)],
            "segmentation": [mask_row(1, path, label(1), "Dog", sides) for path in paths],
        },
        {good: rectangle(64, 48, (6, 5, 58, 43))},
    )
    for name in ("secret.jpg", "secret.png", "secret.txt"):
        (root / name).write_bytes(SECRET)
    pictures, masks = folder / "images", folder / "segmentation" / "masks"
    (pictures / "link.jpg").symlink_to(root / "secret.jpg")
    (masks / "link.png").symlink_to(root / "secret.png")
    os.mkfifo(pictures / "pipe.jpg")
    os.mkfifo(masks / "pipe.png")
    (pictures / "folder.jpg").mkdir()
    (pictures / "bomb.jpg").write_bytes(bomb())
    (masks / BOMB).write_bytes(png_bomb())
    (masks / NO_PNG).write_bytes(SECRET)
    (folder / "query.json").write_bytes(b'{"secret": "' + SECRET + b'"}')
    return folder


def png_bomb() -> bytes:
    """Return the start of a PNG of 65,500 x 65,500 pixels."""
    chunk = b"IHDR" + (65500).to_bytes(4) * 2 + b"\x01\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)


def bomb() -> bytes:
    """Return a small JPEG whose head promises 65,500 x 65,500 pixels."""
    body = bytearray(uniform(16, 16, GREY))
    frame = body.index(b"\xff\xc0")
    body[frame + 5 : frame + 9] = (65500).to_bytes(2) * 2
    return bytes(body)


# What links out of the folder would give away.
TABLES_ELSEWHERE = {
    "failures.csv": b"ImageID,URL,Reason,Detail,Attempts\n%s,,not_found,%s,1\n" % (image_id(2).encode(), SECRET),
    "narrative/narratives.jsonl": b'{"image_id": "%s", "caption": "%s"}\n' % (image_id(1).encode(), SECRET),
}


def small_folder(root: Path) -> Path:
    """Write a folder of one image with a box, and of one that failed."""
    body = uniform(64, 48)
    failed = manifest_row(2, body, (64, 48), Status="failed", Reason="not_found", FileName=None)
    images = [(manifest_row(1, body, (64, 48)), body), (failed, None)]
    return write_folder(root / "folder", images, {"bbox": [box_row(1, label(1), "Dog", (0.1, 0.5, 0.1, 0.5))]})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """Return a browser in the gallery of the guarded folder."""
    async with served(guarded_folder(tmp_path_factory.mktemp("guarded"))) as gallery:
        yield await Browser.entering(gallery)


async def test_what_is_meant_to_be_seen_is_seen(guarded: Browser) -> None:
    """The page, its parts, an image, its thumbnail and its mask come with every header of safety."""
    expected = {
        "/": "text/html",
        "/static/app.js": "text/javascript",
        "/static/style.css": "text/css",
        "/api/folder": "application/json",
        f"/image/train/{image_id(1)}": "image/jpeg",
        f"/thumbnail/train/{image_id(1)}": "image/jpeg",
        f"/mask/{image_id(1)}_m00001_00000001.png": "image/png",
    }
    for target, media_type in expected.items():
        answer = await guarded.get(target)
        assert (target, answer.status) == (target, 200)
        assert answer.headers["content-type"].partition(";")[0] == media_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert HEADERS - answer.headers.keys() == set()


OUTSIDE = (
    "/../secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e/secret.txt",
    "/static/../../secret.txt",
    "/static/..%2f..%2fserver.py",
    "/static/%2e%2e/server.py",
    "/static/..\\server.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/app.js/../../server.py",
    "/static/app.js%00.css",
    "/static/",
    "/static",
    "/image/train/..%2f..%2fquery.json",
    "/image/../query.json",
    "/image/train/../../query.json",
    "/image/%2e%2e/x",
    "/mask/../query.json",
    "/mask/..%2f..%2f..%2fsecret.png",
    "/mask/../../../secret.png",
    "/mask/%2e%2e%2f%2e%2e%2fsecret.png",
    "/mask/..%5c..%5csecret.png",
    "/mask/link.png",
    "/mask/pipe.png",
    "/mask/%00",
    "/mask/",
    "/mask/.",
    "/mask/..",
    "/mask/..%252f..%252fsecret.png",
    "/mask/%c0%ae%c0%ae/secret.png",
    "/mask//etc/passwd",
    "/mask/x%2f..%2f..%2f..%2fsecret.png",
    "/thumbnail/train/..%2f..%2fquery.json",
    "/thumbnail/-/x",
    "/thumbnail/train/",
    "/thumbnail/train/%00",
    "/.oid_async/journal",
    "/manifest.parquet",
    "/query.json",
    "/images/1_o.jpg",
    "/bbox/bbox.csv",
    "/api/image/train/..%2f..%2f",
    "/api/../query.json",
    "/api/",
    "/api/nothing",
    "//etc/passwd",
    "/%2f%2fetc/passwd",
    "/%",
    "/%zz",
    "/\u00e9",
    "/%ff",
    "/" + "a" * 3000,
    "/?token=x",
    "/api/images/../folder",
)


async def test_no_address_leads_out_of_the_folder(guarded: Browser) -> None:
    """Dot-dots, plain, encoded once or twice, absolute names, NULs: nothing is served but what the gallery has."""
    for target in OUTSIDE:
        answer = await guarded.get(target)
        assert (target, answer.status) in {
            (target, status) for status in (400, 403, 404, 405, 414, 422)
        } or target == "/?token=x"
        assert SECRET not in answer.body, target
        assert b"def " not in answer.body, target
        assert answer.headers.get("x-content-type-options") == "nosniff", target


async def test_no_row_of_a_table_leads_out_of_the_folder(guarded: Browser) -> None:
    """A FileName or MaskPath that is a link, a pipe, a folder or a way out is not opened, and the rest goes on."""
    for number in range(2, 12):
        for what in ("image", "thumbnail"):
            target = f"/{what}/train/{image_id(number)}"
            answer = await guarded.get(target)
            assert (number, answer.status) in {(number, status) for status in (404, 422)}
            assert SECRET not in answer.body
    assert (await guarded.get(f"/api/image/train/{image_id(1)}")).status == 200
    assert (await guarded.get(f"/thumbnail/train/{image_id(1)}")).status == 200


async def test_pictures_of_too_many_pixels_are_refused(guarded: Browser) -> None:
    """A JPEG and a PNG of some bytes that claim gigabytes of pixels reach no browser; nor does what is no PNG."""
    refused = (f"/image/train/{image_id(10)}", f"/mask/{BOMB}", f"/mask/{NO_PNG}")
    answers = [await guarded.get(target) for target in refused]
    assert [answer.status for answer in answers] == [422, 422, 422]
    assert [b"65500 x 65500" in answer.body for answer in answers] == [True, True, False]


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Cookie: oid_async_00000000=1",),
        ("Cookie: " + "; ".join(f"oid_async_{n:08x}={n}" for n in range(200)),),
        ("Cookie: =", "Cookie: ;;;,=\u00ff"),
    ],
)
async def test_without_the_cookie_there_is_nothing(guarded: Browser, lines: tuple[str, ...]) -> None:
    """No page, no part of it, no picture and no row is served to who has not opened the printed address."""
    for target in (
        "/",
        "/static/app.js",
        "/api/folder",
        "/api/images",
        f"/image/train/{image_id(1)}",
        "/x",
        "/?token=",
        "/?token=%00",
    ):
        answer = await send(guarded.gallery.port, request(guarded.gallery, target, *lines))
        assert answer.status == 403, target
        assert "set-cookie" not in answer.headers
        assert guarded.gallery.token.encode() not in answer.body
        assert HEADERS - answer.headers.keys() == set()


@pytest.mark.parametrize(
    ("host", "lines"),
    [
        ("attacker.example", ()),
        ("attacker.example:80", ()),
        ("127.0.0.1.attacker.example", ()),
        ("localhost.attacker.example", ()),
        ("localhost@attacker.example", ()),
        ("", ()),
        ("127.0.0.1:1, attacker.example", ()),
        ("[::1", ()),
        (None, ("Origin: http://attacker.example",)),
        (None, ("Origin: null",)),
        (None, ("Origin: http://127.0.0.1:1",)),
        (None, ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")),
        (None, ("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty")),
        (None, ("Host: attacker.example",)),
    ],
)  # fmt: skip
async def test_pages_of_others_get_nothing(guarded: Browser, host: str | None, lines: tuple[str, ...]) -> None:
    """A name that was pointed to this machine, and a page of another origin, are refused in spite of the cookie."""
    for target in ("/api/folder", f"/image/train/{image_id(1)}"):
        raw = request(guarded.gallery, target, f"Cookie: {guarded.cookie}", *lines, host=host)
        answer = await send(guarded.gallery.port, raw)
        assert answer.status in (400, 403)
        assert b'"images"' not in answer.body
        assert "access-control-allow-origin" not in answer.headers


async def test_hosts_that_an_ssh_tunnel_gives_are_taken(guarded: Browser) -> None:
    """Any port of localhost, and IP literals, are hosts of the gallery."""
    for host in ("localhost", "localhost:9999", "127.0.0.1", "[::1]:8000", "10.1.2.3:8000", "LOCALHOST:1"):
        raw = request(guarded.gallery, "/api/folder", f"Cookie: {guarded.cookie}", host=host)
        assert (host, (await send(guarded.gallery.port, raw)).status) == (host, 200)


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "GETS"]
)
async def test_nothing_is_taken_but_questions(guarded: Browser, method: str) -> None:
    """Methods that would change something are refused."""
    answer = await guarded.get("/api/folder", "Content-Length: 0", method=method)
    assert answer.status in (400, 405, 501)
    assert b'"images"' not in answer.body


async def test_a_head_has_no_body(guarded: Browser) -> None:
    """HEAD answers with the headers alone."""
    for target in ("/", "/api/folder", f"/image/train/{image_id(1)}"):
        answer = await guarded.get(target, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


async def test_what_is_no_http_does_no_harm(guarded: Browser) -> None:
    """Floods of headers, lines without end and noise are cut, and the next request is answered."""
    port = guarded.gallery.port
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500),
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 200) for n in range(5000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nCookie: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 10_000 + b"x",
        request(guarded.gallery, "/", "Transfer-Encoding: chunked", "Content-Length: 5") + b"zz\r\n\r\n",
        request(guarded.gallery, "/api/folder", f"Cookie: {guarded.cookie}", "Content-Length: 99999999999"),
        request(guarded.gallery, "/", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
    ):
        with suppress(TimeoutError):
            answer = await send(port, raw, within_s=3)
            assert answer.status in (0, 400, 403, 405, 413, 414, 431, 505) or b"Content-Length: 9999" in raw
    assert (await guarded.get("/api/folder")).status == 200


async def test_connections_that_say_nothing_hold_nobody_up(guarded: Browser) -> None:
    """Hundreds of open connections that never finish a request leave room for the next one."""
    silent = []
    try:
        for number in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", guarded.gallery.port)
            silent.append(writer)
            if number % 2:
                writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        assert (await guarded.get("/api/folder")).status == 200
    finally:
        for writer in silent:
            writer.close()
        with suppress(ConnectionError):
            await asyncio.gather(*(writer.wait_closed() for writer in silent))


async def test_faults_of_requests_are_no_faults_of_the_program(guarded: Browser) -> None:
    """None of all this made the server say that it failed."""
    assert guarded.gallery.faults == []


async def test_many_thumbnails_at_once(tmp_path: Path) -> None:
    """A hundred thumbnails that are asked for at the same time come, each of its own picture."""
    colours = [(number * 2, 255 - number * 2, 100) for number in range(100)]
    images = [
        (manifest_row(number, body, (400, 300)), body)
        for number, body in ((number, uniform(400, 300, colour)) for number, colour in enumerate(colours, 1))
    ]
    async with served(write_folder(tmp_path / "folder", images, {})) as gallery:
        browser = await Browser.entering(gallery)
        answers = await asyncio.gather(
            *(browser.get(f"/thumbnail/train/{image_id(number)}") for number in range(1, 101))
        )
    assert {answer.status for answer in answers} == {200}
    found = [Image.open(io.BytesIO(answer.body)).convert("RGB").getpixel((9, 9)) for answer in answers]
    assert found == [pytest.approx(colour, abs=4) for colour in colours]
    assert gallery.faults == []


async def test_a_folder_that_goes_is_no_end(tmp_path: Path) -> None:
    """A folder that is removed, or made anew, while it is looked at gives lines, not faults; the server goes on."""
    body = uniform(64, 48)
    folder = small_folder(tmp_path)
    async with served(folder) as gallery:
        browser = await Browser.entering(gallery)
        assert (await browser.get("/api/images")).status == 200
        folder.rename(tmp_path / "gone")
        for target in (
            "/",
            "/api/folder",
            "/api/images",
            f"/api/image/train/{image_id(1)}",
            f"/image/train/{image_id(1)}",
        ):
            assert (await browser.get(target)).status < 600
        write_folder(folder, [(manifest_row(2, body, (64, 48)), body)], {})
        for target in ("/api/folder", "/api/images", f"/image/train/{image_id(1)}"):
            assert (await browser.get(target)).status < 600
    assert gallery.faults == []


@pytest.mark.parametrize("make", [os.symlink, lambda _, path: os.mkfifo(path)], ids=["link", "pipe"])
async def test_tables_that_are_links_or_pipes_are_not_read(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """In the place of a table, or of failures.csv, they are named and not opened; the images are shown all the same."""
    folder = small_folder(tmp_path)
    for name, content in TABLES_ELSEWHERE.items():
        (tmp_path / Path(name).name).write_bytes(content)
        (folder / name).parent.mkdir(exist_ok=True)
        make(tmp_path / Path(name).name, folder / name)
    async with served(folder) as gallery:
        browser = await Browser.entering(gallery)
        answers = [await browser.get(f"/api/image/train/{image_id(number)}") for number in (1, 2)]
        answers += [await browser.get(target) for target in ("/api/images", "/api/images?caption=what", "/api/folder")]
    assert [answer.status for answer in answers if answer.status not in (200, 503)] == []
    assert [SECRET in answer.body for answer in answers] == [False] * 5
    assert answers[0].status == answers[1].status == answers[2].status == 200
    assert b"narratives.jsonl" in answers[-1].body
    assert gallery.faults == []


async def test_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    """All files of the folder but those of .oid_async/gallery are as before."""
    folder = small_folder(tmp_path)

    def files() -> dict[str, tuple[int, bytes]]:
        return {
            path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).as_posix().startswith(".oid_async/gallery/")
        }

    before = files()
    async with served(folder) as gallery:
        browser = await Browser.entering(gallery)
        for target in (
            "/",
            "/api/folder",
            "/api/images?class=Dog",
            f"/thumbnail/train/{image_id(1)}",
            f"/image/train/{image_id(1)}",
        ):
            assert (await browser.get(target)).status == 200
    assert files() == before
