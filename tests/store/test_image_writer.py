"""How a received image is stored: checked, written, renamed, journalled; a refused body leaves nothing behind."""

import errno
import os
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.hostile_jpegs import HEADLESS
from support.published import tiny_jpeg
from support.received import IMAGE_ID, JPEG, MD5, StoredImages, received

from oid_async.errors import StorageError
from oid_async.http.etag import EtagTrust
from oid_async.report import Outcome
from oid_async.store.disk import Opener
from oid_async.store.image_check import Expected, md5_base64
from oid_async.store.image_writer import WriteResult


@pytest.fixture
def place(tmp_path: Path) -> StoredImages:
    return StoredImages(tmp_path / "out")


def test_an_image_is_written_renamed_and_then_journalled(place: StoredImages) -> None:
    """The file has its final name before its line is in the journal; the Outcome has all facts; no temporary stays."""
    image = received()
    [result] = place.write(image)
    file = str(place.folder.images / f"{IMAGE_ID}.jpg")
    wanted = Outcome(
        IMAGE_ID, "downloaded", file, None, None, "cvdf", image.url, len(JPEG), MD5, width=12, height=9, attempts=2
    )
    assert result == WriteResult(None, wanted)
    assert place.images() == {f"{IMAGE_ID}.jpg": JPEG}
    assert place.temporaries() == []
    assert place.journal.outcomes == [wanted]
    assert place.journal.stored == [{f"{IMAGE_ID}.jpg"}]
    assert image.chunks == ()  # its memory is free


def test_the_outcome_of_a_stored_image_is_one_like_any_other(place: StoredImages) -> None:
    """However it was made, it is hashed, copied with changes, pickled and shown as an Outcome, and never changed."""
    [result] = place.write(received())
    outcome = result.outcome
    assert type(outcome) is Outcome
    by_hand = Outcome(*(getattr(outcome, each.name) for each in fields(Outcome)))
    assert (outcome, hash(outcome), repr(outcome)) == (by_hand, hash(by_hand), repr(by_hand))
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert replace(outcome, attempts=5).attempts == 5
    with pytest.raises(FrozenInstanceError):
        outcome.attempts = 5  # type: ignore[misc]


def test_a_batch_is_journalled_at_once_with_its_failures(place: StoredImages) -> None:
    """Images, a refused one and a failed Outcome: one result each in order, one append with what is true now."""
    failed = Outcome("b", "failed", None, "not_found")
    results = place.write(received(image_id="a"), failed, received(b"<html>", image_id="c"), received(image_id="d"))
    assert [result.reason for result in results] == [None, None, "not_image", None]
    assert [outcome.image_id for outcome in place.journal.outcomes] == ["a", "b", "d"]
    assert place.journal.stored == [{"a.jpg", "d.jpg"}]
    assert place.temporaries() == []


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize(
    ("body", "fields", "reason"),
    [
        (b"", {}, "empty"),
        (b"<!DOCTYPE html>" * 40, {}, "not_image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), {}, "placeholder"),
        (JPEG[:-9], {}, "truncated"),
        (JPEG, {"size": len(JPEG) + 1}, "truncated"),
        (JPEG, {"expected": Expected(len(JPEG), "AAAAAAAAAAAAAAAAAAAAAA==")}, "checksum"),
        (JPEG, {"expected": Expected(len(JPEG) - 1, None)}, "too_large"),
    ],
)
def test_a_refused_body_leaves_nothing(
    place: StoredImages, body: bytes, fields: dict[str, Any], reason: str, spooled: bool
) -> None:
    """A body that is not the image is neither stored nor journalled, and its temporary is removed."""
    if spooled:
        place.spool(IMAGE_ID, body)
        fields = {"chunks": [], "spooled": True} | fields
    [result] = place.write(received(body, **fields))
    assert result == WriteResult(reason)
    assert (place.images(), place.temporaries(), place.journal.outcomes) == ({}, [], [])


def test_a_spooled_body_is_renamed_where_it_is(place: StoredImages) -> None:
    """The temporary file of a large body becomes the image; it is hashed and measured like one in memory."""
    body = tiny_jpeg("x" * 60_000, 5, 7)
    place.spool(IMAGE_ID, body)
    inode = os.stat(place.folder.temporary(IMAGE_ID)).st_ino
    [result] = place.write(received(body, chunks=[], spooled=True, expected=Expected(len(body), md5_base64(body))))
    assert result.outcome is not None
    assert (result.outcome.md5, result.outcome.width, result.outcome.height) == (md5_base64(body), 5, 7)
    assert result.outcome.bytes == len(body)
    assert place.images() == {f"{IMAGE_ID}.jpg": body}
    assert os.stat(place.folder.images / f"{IMAGE_ID}.jpg").st_ino == inode


def test_an_image_whose_name_was_taken_meanwhile_gets_another(place: StoredImages) -> None:
    """A file that appeared since the plan, even a broken link, is not replaced."""
    (place.folder.images / "a.jpg").write_bytes(b"somebody else's")
    (place.folder.images / f"a_{IMAGE_ID}.jpg").symlink_to("nowhere")
    [result] = place.write(received(file_name="a.jpg"))
    assert result.outcome is not None
    assert result.outcome.path is not None
    assert result.outcome.path.read_bytes() == JPEG
    assert (place.folder.images / "a.jpg").read_bytes() == b"somebody else's"
    assert (place.folder.images / f"a_{IMAGE_ID}.jpg").is_symlink()
    assert len(list(place.folder.images.iterdir())) == 3


def test_without_hashes_only_an_original_is_hashed(tmp_path: Path) -> None:
    """`hashed=False` keeps no MD5, and still compares an original with its published one."""
    place = StoredImages(tmp_path / "out", hashed=False)
    wrong = Expected(len(JPEG), "AAAAAAAAAAAAAAAAAAAAAA==")
    plain, right, refused = place.write(
        received(image_id="a"),
        received(image_id="b", expected=Expected(len(JPEG), MD5)),
        received(image_id="c", expected=wrong),
    )
    assert [result.outcome and result.outcome.md5 for result in (plain, right)] == [None, None]
    assert sorted(place.images()) == ["a.jpg", "b.jpg"]
    assert refused.reason == "checksum"


def test_an_etag_that_is_no_md5_is_said_once_and_then_believed_no_more(place: StoredImages) -> None:
    """The first mismatch of a host gives a note; after a match a mismatch refuses the image."""
    other = '"' + "0" * 32 + '"'
    host = EtagTrust("bucket")
    results = place.write(*(received(image_id=name, etag=other, etags=host) for name in "ab"))
    assert [result.reason for result in results] == [None, None]
    assert [result.note is not None for result in results] == [True, False]
    trusted = EtagTrust("bucket", is_md5=True)
    [result] = place.write(received(image_id="c", etag=other, etags=trusted))
    assert result == WriteResult("checksum")


def test_a_disk_error_leaves_no_temporary_and_journals_what_was_stored(
    place: StoredImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was renamed before the error is journalled; of the image at fault nothing is left; the error says more."""
    writes = iter([None])

    def write(file: int, data: bytes) -> int:
        if next(writes, "full") == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    real = os.write
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError):
        place.write(received(image_id="a"), received(image_id="b"), received(image_id="c"))
    assert place.images() == {"a.jpg": JPEG}
    assert place.temporaries() == []
    assert [outcome.image_id for outcome in place.journal.outcomes] == ["a"]


def test_a_spooled_body_that_is_gone_is_a_storage_error(place: StoredImages) -> None:
    """A temporary that somebody has removed ends the run as the disk's fault, not as the image's."""
    with pytest.raises(StorageError):
        place.write(received(chunks=[], spooled=True))
    assert (place.images(), place.journal.outcomes) == ({}, [])


def test_an_image_waits_for_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor left the writer tries again for a while, by the opener that it was given."""
    pauses: list[float] = []
    place = StoredImages(
        tmp_path / "out", opener=Opener(wait_s=1.0, pause_s=0.1, clock=lambda: 0.0, sleep=pauses.append)
    )
    real, refusals = os.open, iter(range(2))

    def starved(*args: Any, **named: Any) -> int:
        if next(refusals, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*args, **named)

    monkeypatch.setattr(os, "open", starved)
    [result] = place.write(received())
    assert (result.reason, pauses) == (None, [0.1, 0.1])


def test_a_body_without_a_picture_is_not_hashed(place: StoredImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no decoder opens is refused without its MD5; where one is published it is compared."""
    monkeypatch.setattr("oid_async.store.image_writer.md5_base64", lambda _: 1 / 0)
    bodies = [*HEADLESS.values(), JPEG[:20]]
    results = place.write(*(received(body, image_id=str(number)) for number, body in enumerate(bodies)))
    assert {result.reason for result in results} == {"not_image", "placeholder", "truncated"}
    with pytest.raises(ZeroDivisionError):
        place.write(received(bodies[0], expected=Expected(len(bodies[0]), MD5)))
