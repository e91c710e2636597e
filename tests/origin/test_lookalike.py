"""The look-alike of Open Images: the published formats, the same objects every time, pictures that decode."""

import csv
import io
import re
from collections import Counter

import pytest

from oid_async.openimages.catalogue_tables import TABLES
from oid_async.openimages.ids import HEX_ID
from oid_async.openimages.vocabulary import SPLITS
from oid_async.origin.lookalike import CLASSES, STAGED_FAILURES, STAGED_HICCUPS, Lookalike, with_comment
from oid_async.report import FINAL_KINDS, PASSING_KINDS
from oid_async.store.image_check import Expected, is_complete, md5_base64, read_header, refuse

# All decimal digits, and the look of a float in exponent form: type inference ruins them.
HARD_IDS = {"0000048549557964", "00e4060885034751", "0012e45111111111"}
V7 = [table for table in TABLES if "v7" in table.releases and table.kind in ("classes", "boxes", "images")]


@pytest.fixture(scope="module")
def lookalike() -> Lookalike:
    return Lookalike()


def rows_of(lookalike: Lookalike, kind: str) -> list[dict[str, str]]:
    """Return every row of a kind of table, over all splits; the split stands in `split`."""
    found = []
    for table in V7:
        if table.kind == kind:
            text = lookalike.tables[table.key].decode("utf-8")
            found += [row | {"split": table.split or ""} for row in csv.DictReader(io.StringIO(text, newline=""))]
    return found


def test_every_v7_table_is_made_with_its_published_header(lookalike: Lookalike) -> None:
    """The look-alike has exactly the published tables, those of V7 each with exactly the catalogue's header."""
    assert set(lookalike.tables) == {table.key for table in TABLES}
    for table in V7:
        lines = lookalike.tables[table.key].decode("utf-8").splitlines()
        assert lines[0] == ",".join(table.columns), table.key
        assert len(lines) > 1


def test_rows_have_as_many_fields_as_the_header(lookalike: Lookalike) -> None:
    """No row of any table is short or long, and none has a byte order mark or a NUL."""
    for table in V7:
        body = lookalike.tables[table.key]
        assert b"\0" not in body
        assert not body.startswith(b"\xef\xbb\xbf")
        for row in csv.reader(io.StringIO(body.decode("utf-8"), newline="")):
            assert len(row) == len(table.columns), table.key


def test_line_ends_are_those_of_the_published_files(lookalike: Lookalike) -> None:
    """The V7 class table ends its lines in CRLF, the others in LF."""
    for table in V7:
        body = lookalike.tables[table.key]
        crlf = table.kind == "classes"
        assert body.count(b"\r\n") == (body.count(b"\n") if crlf else 0), table.key


def test_two_instances_are_the_same() -> None:
    """Everything follows from a seed: photos, tables and bodies of two look-alikes are equal."""
    one, other = Lookalike(), Lookalike()
    assert one.photos == other.photos
    assert one.tables == other.tables
    assert [one.body(photo) for photo in one.photos.values()] == [other.body(photo) for photo in other.photos.values()]


def test_every_photo_decodes_and_is_a_file_of_its_own(lookalike: Lookalike) -> None:
    """Each photo has its scene's size, is complete, passes the check, and no two are the same bytes."""
    headers = [read_header(scene) for scene, _ in lookalike.scenes]
    assert len(lookalike.photos) >= 200
    seen = set()
    for key, photo in lookalike.photos.items():
        body = lookalike.body(photo)
        header = read_header(body)
        drawn = headers[photo.scene]
        assert (header.width, header.height) == (drawn.width, drawn.height), key
        assert header.width is not None
        assert is_complete(body, header), key
        assert refuse(body, header, md5_base64(body), Expected()) is None
        seen.add(md5_base64(body))
    assert len(seen) == len(lookalike.photos)


def test_comment_changes_the_bytes_and_not_the_picture(lookalike: Lookalike) -> None:
    """A comment segment goes behind the start marker; all other bytes stay."""
    scene, _ = lookalike.scenes[0]
    body = with_comment(scene, "0000048549557964")
    assert body[:2] == scene[:2]
    assert body.endswith(scene[2:])
    assert body[2:6] == b"\xff\xfe\x00\x12"
    assert b"0000048549557964" in body[:24]


def test_ids_are_real_ones_and_hard(lookalike: Lookalike) -> None:
    """Every id is 16 lower-case hex digits, unique over the splits, in ascending order, the hard ones among them."""
    ids = [photo.image_id for photo in lookalike.photos.values()]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(HEX_ID, image_id) for image_id in ids)
    assert set(ids) >= HARD_IDS
    assert {photo.split for photo in lookalike.photos.values()} == set(SPLITS)
    assert all(key == f"{photo.split}/{photo.image_id}.jpg" for key, photo in lookalike.photos.items())


def test_staged_failures_are_these(lookalike: Lookalike) -> None:
    """Every staged failure and hiccup happens to one photo each, never to one of the hard ids, all kinds are ours."""
    staged = Counter(photo.staged for photo in lookalike.photos.values() if photo.staged)
    assert staged == Counter((*STAGED_FAILURES, *STAGED_HICCUPS))
    assert set(STAGED_FAILURES) <= set(FINAL_KINDS) | set(PASSING_KINDS)
    assert not {photo.image_id for photo in lookalike.photos.values() if photo.staged} & HARD_IDS


def test_wrong_checksum_comes_last(lookalike: Lookalike) -> None:
    """The photo whose ETag is wrong comes after many whose ETag has shown what ETags are here."""
    stages = [photo.staged for photo in lookalike.photos.values()]
    assert stages.index("checksum") > len(stages) - len(HARD_IDS) - 2


def test_nothing_fails_when_nothing_is_staged(lookalike: Lookalike) -> None:
    """Without staging the same photos are there, and none is meant to fail."""
    calm = Lookalike(staged=False)
    assert list(calm.photos) == list(lookalike.photos)
    assert calm.tables == lookalike.tables
    assert not any(photo.staged for photo in calm.photos.values())


def test_image_tables_list_each_photo_once(lookalike: Lookalike) -> None:
    """Every photo has one row in its split's image table, with the fields as published, in no order."""
    rows = rows_of(lookalike, "images")
    assert sorted(row["ImageID"] for row in rows) == [photo.image_id for photo in lookalike.photos.values()]
    assert [row["ImageID"] for row in rows] != sorted(row["ImageID"] for row in rows)
    for row in rows:
        assert row["Subset"] == row["split"]
        assert f"{row['split']}/{row['ImageID']}.jpg" in lookalike.photos
        assert re.fullmatch(r"https://farm\d\.staticflickr\.com/\d+/\d+_[0-9a-f]{10}_o\.jpg", row["OriginalURL"])
        assert row["Thumbnail300KURL"] == "" or row["Thumbnail300KURL"].endswith("_z.jpg")
        assert row["Rotation"] in ("0.0", "90.0", "180.0", "270.0", "")
        assert re.fullmatch(r"[A-Za-z0-9+/]{22}==", row["OriginalMD5"])
        assert int(row["OriginalSize"]) > 0
        assert row["Author"]
    assert any("," in row["Author"] or '"' in row["Author"] for row in rows)
    assert any(not row["Author"].isascii() for row in rows)


def test_boxes_are_of_known_images_and_classes(lookalike: Lookalike) -> None:
    """Every box is of a photo of its split and a class of the class table, lies in the picture and has its flags."""
    labels = {row["LabelName"] for row in rows_of(lookalike, "classes")}
    assert labels == set(CLASSES)
    rows = rows_of(lookalike, "boxes")
    assert {row["ImageID"] for row in rows} == {photo.image_id for photo in lookalike.photos.values()}
    for row in rows:
        assert f"{row['split']}/{row['ImageID']}.jpg" in lookalike.photos
        assert row["LabelName"] in labels
        assert row["Confidence"] == "1"
        assert 0.0 <= float(row["XMin"]) < float(row["XMax"]) <= 1.0
        assert 0.0 <= float(row["YMin"]) < float(row["YMax"]) <= 1.0
        flags = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
        assert {row[flag] for flag in flags} <= {"-1", "0", "1"}


def test_example_of_the_documentation_finds_images(lookalike: Lookalike) -> None:
    """There are pictures with a football, with a person, and with both."""
    of = {
        name: {row["ImageID"] for row in rows_of(lookalike, "boxes") if CLASSES[row["LabelName"]] == name}
        for name in ("Football", "Person")
    }
    assert of["Football"] & of["Person"]
    assert of["Football"] ^ of["Person"]
