"""The gallery's server: what it answers, and that nothing else of the disk leaves it."""

import asyncio
import errno
import gzip
import io
import json
import math
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from PIL import Image
from polars.exceptions import PanicException
from support.hostile_jpegs import HEADLESS, grey_jpeg
from support.saved import SavedBox, SavedFolder, SavedImage
from support.served_gallery import Served, served

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, UsageError
from oid_async.gallery import server
from oid_async.gallery.catalog import NotFoundError
from oid_async.gallery.pictures import Pictures
from oid_async.store.folder import Folder

MASK = "0000000000000001_m01g317_abcdef01.png"


def photo(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three images and a mask; a secret lies beside it."""
    images = [
        SavedImage("0000000000000001", 1024, 512, picture=photo(1024, 512), name="one.jpg"),
        SavedImage("0000000000000002", 60_000, 60_000, picture=grey_jpeg(60_000, 60_000), name="bomb.jpg"),
        SavedImage("0000000000000003", picture=HEADLESS["no scan"], name="none.jpg"),
    ]
    path = SavedFolder(images, [SavedBox("0000000000000001")]).write(tmp_path / "saved")
    masks = path / "segmentation" / "masks"
    masks.mkdir(parents=True)
    mask = io.BytesIO()
    Image.new("1", (8, 8), 1).save(mask, "PNG")
    (masks / MASK).write_bytes(mask.getvalue())
    (tmp_path / "secret.txt").write_text("nobody else")
    return path


@pytest_asyncio.fixture
async def gallery(folder: Path) -> AsyncIterator[Served]:
    with SavedDataset(Folder(folder)) as dataset:
        async with served(dataset) as opened:
            yield opened
            assert opened.said == []


async def test_a_saved_image_is_sent_as_it_is(gallery: Served, folder: Path) -> None:
    """Bytes, length, type and an ETag by which a browser need not have it again; HEAD has the same without bytes."""
    answer = await gallery.get("/image/train/0000000000000001")
    saved = (folder / "images" / "one.jpg").read_bytes()
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, saved, "image/jpeg")
    head = await gallery.get("/image/train/0000000000000001", method="HEAD")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(saved)))
    again = await gallery.get("/image/train/0000000000000001", If_None_Match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


async def test_a_thumbnail_is_small(gallery: Served) -> None:
    """At most 320 pixels a side, in the image's own shape."""
    answer = await gallery.get("/thumbnail/train/0000000000000001")
    with Image.open(io.BytesIO(answer.body)) as image:
        assert (image.size, image.format, answer.headers["content-type"]) == ((320, 160), "JPEG", "image/jpeg")
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("private, max-age=300", "Cookie")


async def test_what_is_no_picture_has_no_thumbnail(gallery: Served) -> None:
    """A pixel bomb and a file without a scan are refused with a line."""
    for number in (2, 3):
        answer = await gallery.get(f"/thumbnail/train/{number:016x}")
        assert (answer.status, answer.headers["content-type"]) == (422, "text/plain; charset=utf-8")
        assert answer.text.count("\n") == 1


async def test_a_mask_is_sent_as_it_is(gallery: Served, folder: Path) -> None:
    """By its MaskPath, as a PNG."""
    answer = await gallery.get(f"/mask/{MASK}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body == (folder / "segmentation" / "masks" / MASK).read_bytes()


PATHS = (
    "/../secret.txt",
    "/image/../../secret.txt",
    "/image/train/../../../secret.txt",
    "/image/train/..%2f..%2f..%2fsecret.txt",
    "/image/train/%2e%2e%2f%2e%2e%2fsecret.txt",
    "/image/%2e%2e/%2e%2e",
    "/image/train/0000000000000001%00.jpg",
    "/image/train/one.jpg",
    "/image/train//etc/passwd",
    "/image//etc/passwd",
    "/image/train/%2fetc%2fpasswd",
    "/image/train/",
    "/image/train",
    "/image/train/0000000000000001/",
    "/image/validation/0000000000000001",
    "/thumbnail/train/..%5c..%5csecret.txt",
    "/mask/..%2f..%2f..%2fsecret.txt",
    "/mask/%2e%2e%2f%2e%2e%2fimages%2fone.jpg",
    "/mask/../segmentation.csv",
    f"/mask/.%2f{MASK}",
    f"/mask/{MASK}%00",
    f"/mask/{MASK}%0a",
    "/mask/..",
    "/mask/",
    "/mask",
    "/static/",
    "/static/..%2f__init__.py",
    "/static/../server.py",
    "/static/%2e%2e/server.py",
    "/static/app.js%00",
    "//etc/passwd",
    "/etc/passwd",
    "/%2e%2e/secret.txt",
    "/\\..\\secret.txt",
    "/image/train/%ff%fe",
    "/.oid_async/journal.tsv",
    "/manifest.parquet",
    "/api",
    "/api/image/train/..%2f..%2fsecret.txt",
    "/favicon.ico",
)


async def test_no_path_leads_anywhere_else(gallery: Served) -> None:
    """Dot-dot, encoded or not, absolute, backslash, NUL, other files of the folder: a plain 404."""
    answers = {path: await gallery.get(path) for path in PATHS}
    assert {path: answer.status for path, answer in answers.items() if answer.status != 404} == {}
    assert [path for path, answer in answers.items() if b"nobody else" in answer.body] == []
    for answer in answers.values():
        assert_guarded(answer.headers)


def assert_guarded(headers: Mapping[str, str]) -> None:
    """Check what every answer has."""
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "Python" not in headers["server"]


REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"POST /api/folder HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\nConnection: close\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nffffff\r\nabc",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"GET /?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"\x00\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
)


async def test_what_may_not_be_answered_is_refused(gallery: Served) -> None:
    """Without the cookie, of another host, no HTTP, too long: 4xx with the headers of all answers, and no fault."""
    answers = {request: await gallery.send(request) for request in REQUESTS}
    assert {request[:60]: answer.status for request, answer in answers.items() if answer.status // 100 != 4} == {}
    for answer in answers.values():
        assert_guarded(answer.headers)


IMAGE = "/image/train/0000000000000001"
THUMBNAIL = "/thumbnail/train/0000000000000001"


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("../../../secret.txt"), os.mkfifo, Path.mkdir])
@pytest.mark.parametrize(
    ("name", "targets"),
    [("images/one.jpg", (IMAGE, THUMBNAIL)), (f"segmentation/masks/{MASK}", (f"/mask/{MASK}",))],
    ids=["image", "mask"],
)
async def test_what_is_no_plain_file_is_not_opened(
    gallery: Served, folder: Path, make: Callable[[Path], None], name: str, targets: Sequence[str]
) -> None:
    """A link, a pipe or a folder in the place of a picture: 404, at once."""
    (folder / name).unlink()
    make(folder / name)
    for target in targets:
        answer = await gallery.get(target)
        assert (answer.status, b"nobody else" in answer.body) == (404, False)


@pytest.mark.parametrize(
    ("name", "targets"),
    [("images", (IMAGE, THUMBNAIL)), ("segmentation/masks", (f"/mask/{MASK}",))],
    ids=["images", "masks"],
)
async def test_a_folder_that_became_a_link_is_not_entered(
    gallery: Served, folder: Path, name: str, targets: Sequence[str]
) -> None:
    """Swapped while the gallery is open, its files lie outside of SAVEPATH."""
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    assert [(await gallery.get(target)).status for target in targets] == [404] * len(targets)


async def test_a_page_in_place_of_an_image_is_no_page(gallery: Served, folder: Path) -> None:
    """Markup in a file that is called an image is sent as an image, and never sniffed."""
    (folder / "images" / "one.jpg").write_bytes(b"<html><script>alert(1)</script>")
    answer = await gallery.get("/image/train/0000000000000001")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert_guarded(answer.headers)
    assert (await gallery.get("/thumbnail/train/0000000000000001")).status == 422


async def test_what_nobody_waits_for_any_more_is_not_begun(gallery: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thumbnails of images that were scrolled past while others were made."""
    began, goes_on = queue.SimpleQueue[str](), threading.Event()

    def slow(pictures: Pictures, split: str, image_id: str) -> bytes:
        began.put(image_id)
        goes_on.wait()
        return b"small"

    monkeypatch.setattr(Pictures, "thumbnail", slow)
    first = [asyncio.create_task(gallery.get(f"/thumbnail/train/{number}")) for number in range(4)]
    busy = [await asyncio.to_thread(began.get) for _ in range(2)]
    passed = [asyncio.create_task(gallery.get(f"/thumbnail/train/passed{number}")) for number in range(8)]
    await gallery.until(12)
    for request in passed:
        request.cancel()
    await asyncio.wait(passed)
    await gallery.until(4)
    goes_on.set()
    assert [answer.status for answer in await asyncio.gather(*first)] == [200] * 4
    assert len(busy) + began.qsize() == 4


async def test_a_client_that_is_too_slow_is_cut_off(
    gallery: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not take what it has asked for; the file is closed, others are answered."""
    (folder / "images" / "one.jpg").write_bytes(bytes(64 << 20))
    monkeypatch.setattr(server, "_SEND_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", gallery.port, limit=1)
    writer.write(f"GET {IMAGE} HTTP/1.1\r\nHost: localhost\r\nCookie: {gallery.cookie}\r\n\r\n".encode())
    await reader.read(1)
    await gallery.until(0)
    writer.close()
    assert (await gallery.get("/api/folder")).status == 200


def fail(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "is_fault"),
    [
        (UsageError("class has no such value"), 400, False),
        (NotFoundError("no such image"), 404, False),
        (InputError("d/manifest.parquet: cannot be read"), 503, False),
        (OSError(errno.EIO, "Input/output error"), 503, False),
        (TimeoutError(), 503, False),
        (FileNotFoundError(errno.ENOENT, "No such file", "/home/ann/d/x"), 404, False),
        (ValueError("a bug\nin two lines"), 500, True),
        (MemoryError(), 500, True),
        (PanicException("a bug of Polars"), 500, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_what_goes_wrong_ends_one_request(
    folder: Path, error: BaseException, status: int, is_fault: bool
) -> None:
    """As JSON with a line for a person; a fault of the program is reported in one line, and kept from the browser."""
    with SavedDataset(Folder(folder)) as dataset:
        async with served(dataset, answers={"folder": lambda: fail(error)}) as gallery:
            answer = await gallery.get("/api/folder")
            message = json.loads(answer.body)["error"]["message"]
            assert (answer.status, "\n" in message, "a bug" in message, "/home" in message) == (
                status,
                False,
                False,
                False,
            )
            assert_guarded(answer.headers)
            assert len(gallery.said) == is_fault
            assert all("\n" not in line for line in gallery.said)
            assert (await gallery.get("/api/images")).status == 200


async def test_answers_are_json_whatever_a_table_says(folder: Path) -> None:
    """Numbers that are none are null; a long answer is packed for who can unpack it."""
    content = {"numbers": [math.nan, math.inf, 0.5], "text": "</script>\u2028é" * 5000}
    with SavedDataset(Folder(folder)) as dataset:
        async with served(dataset, answers={"folder": lambda: content}) as gallery:
            plain = await gallery.get("/api/folder")
            packed = await gallery.get("/api/folder", Accept_Encoding="gzip, br")
            assert json.loads(plain.body) == {"numbers": [None, None, 0.5], "text": content["text"]}
            assert gzip.decompress(packed.body) == plain.body
            assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
            assert plain.headers["content-type"] == "application/json"


async def test_a_state_is_read_from_the_address(gallery: Served) -> None:
    """Names and values are decoded; a value that cannot be read, and an address without end, are 400 with a line."""
    answer = await gallery.get("/api/images?class=Caf%C3%A9+au+lait&class=%2Fm%2F01&offset=240&limit=9999")
    assert json.loads(answer.body) == {"state": "State(classes=('Café au lait', '/m/01'))", "offset": 240, "limit": 500}
    # Row numbers have 32 bits.
    assert json.loads((await gallery.get("/api/images?offset=99999999999")).body)["offset"] == 2**32 - 1
    for query in ("offset=-1", "limit=x", "flag=IsNothing:yes", "kind=x", "&".join(["class=a"] * 501), "a=b&" * 501):
        answer = await gallery.get(f"/api/images?{query}")
        assert (answer.status, list(json.loads(answer.body))) == (400, ["error"]), query
