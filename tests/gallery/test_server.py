"""The gallery's server: what it answers, and that nothing else of the disk leaves it."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from support.hostile_jpegs import HEADLESS, grey_jpeg
from support.saved import SavedBox, SavedFolder, SavedImage
from support.served_gallery import Served, served

from oid_async.dataset.saved import SavedDataset
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
    (tmp_path / "secret.txt").write_text("secret")
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
