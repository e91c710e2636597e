"""Thumbnails: their size and colours, what is refused, and how they are kept."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.hostile_jpegs import HEADLESS, REFUSED, TOO_LARGE, UNKNOWN_CODING

from oid_async.gallery import thumbnails
from oid_async.gallery.thumbnails import NotShownError, ThumbnailCache, thumbnail


def jpeg(width: int, height: int, mode: str = "RGB", orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new(mode, (width, height), 255).save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1024, 768, (320, 240)),
        (768, 1024, (240, 320)),
        (320, 320, (320, 320)),
        (64, 48, (64, 48)),
        (3000, 1, (320, 1)),
    ],
)
def test_a_thumbnail_has_the_shape_of_its_image(width: int, height: int, size: tuple[int, int]) -> None:
    """At most 320 pixels a side, never larger than the image; as stored, whatever EXIF says of turning it."""
    for orientation in (None, 6):
        with Image.open(io.BytesIO(thumbnail(jpeg(width, height, orientation=orientation)))) as image:
            assert (image.size, 0x0112 in image.getexif()) == (size, False)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_has_a_thumbnail(mode: str) -> None:
    """Grey, colours, and those of print."""
    with Image.open(io.BytesIO(thumbnail(jpeg(640, 480, mode)))) as image:
        assert image.mode in ("L", "RGB")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        *HEADLESS.values(),
        *UNKNOWN_CODING.values(),
        *REFUSED.values(),
        *TOO_LARGE.values(),
        jpeg(1024, 768)[:300],
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_what_cannot_be_decoded_is_refused(body: bytes) -> None:
    """Damaged bytes, and pictures that would take too much memory or time, raise one error."""
    with pytest.raises(NotShownError):
        thumbnail(body)


def test_thumbnails_are_kept_in_the_folder(tmp_path: Path) -> None:
    """Another server of the folder has them; no other file is left there."""
    ThumbnailCache(tmp_path / "a" / "b").put("train/1 10 20", b"small")
    assert ThumbnailCache(tmp_path / "a" / "b").get("train/1 10 20") == b"small"
    assert ThumbnailCache(tmp_path / "a" / "b").get("train/1 10 21") is None
    assert [path.suffix for path in (tmp_path / "a" / "b").iterdir()] == [".jpg"]


def test_the_oldest_thumbnails_go(tmp_path: Path) -> None:
    """They take no more than they may on the disk, with those of earlier servers; what is left is the youngest."""
    for first in (0, 10, 20):
        cache = ThumbnailCache(tmp_path, most_on_disk=1000)
        for number in range(first, first + 10):
            cache.put(str(number), bytes(100))
            for path in tmp_path.iterdir():
                os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    left = [number for number in range(30) if cache.get(str(number))]
    assert 5 <= len(left) <= 10
    assert left == list(range(30 - len(left), 30))
    assert len(list(tmp_path.iterdir())) == len(left)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_where_nothing_can_be_written_they_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Up to so many bytes, those that were not looked at for the longest go first."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir" if number in (errno.EROFS, errno.EACCES) else "write_bytes", refuse)
    cache = ThumbnailCache(tmp_path / "thumbnails", most_in_memory=300)
    for name in "abc":
        cache.put(name, bytes(100))
    assert cache.get("a")
    cache.put("d", bytes(100))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """`.oid_async` is safe to delete at any time; a SAVEPATH that has gone does not come back."""
    cache = ThumbnailCache(tmp_path / "d" / ".oid_async" / "gallery" / "thumbnails")
    cache.put("a", b"small")
    assert not (tmp_path / "d").exists()
    (tmp_path / "d").mkdir()
    for name in "bc":
        cache.put(name, b"small")
        shutil.rmtree(tmp_path / "d" / ".oid_async")
        cache.put(name, b"small")
    cache.put("d", b"small")
    assert len(list((tmp_path / "d").rglob("*.jpg"))) == 1
    assert [name for name in "abcd" if cache.get(name)] == list("abcd")


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run needs what is left."""
    monkeypatch.setattr(thumbnails, "free_bytes", lambda path: 1 << 20)
    cache = ThumbnailCache(tmp_path / "thumbnails")
    cache.put("a", b"small")
    assert (cache.get("a"), list((tmp_path / "thumbnails").iterdir())) == (b"small", [])


def test_a_linked_folder_of_thumbnails_is_not_written_to(tmp_path: Path) -> None:
    """Nor is a link in the place of a thumbnail read."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "thumbnails").symlink_to(tmp_path / "elsewhere")
    cache = ThumbnailCache(tmp_path / "thumbnails")
    cache.put("a", b"small")
    assert (cache.get("a"), list((tmp_path / "elsewhere").iterdir())) == (b"small", [])
