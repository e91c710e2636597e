"""`verify` of a place: what is missing, cut, altered or extra is named, and how to mend it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.notes import notes_into
from support.places import make_place, note_files, replace_bytes
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.cluster.published import Generation, Part
from oid_async.dataset.place_files import BucketFiles
from oid_async.errors import InputError, UsageError
from oid_async.events import ignore
from oid_async.jobs.verify_place import PlaceVerify
from oid_async.objects.store import Objects


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in two shards."""
    root = tmp_path_factory.mktemp("few")
    splits = ("train", "test", "train", "train")
    saved = [SavedImage(f"{number:08x}00000000", subset=split) for number, split in enumerate(splits, 1)]
    source = SavedFolder(saved, boxes=[SavedBox(each.image_id) for each in saved]).write(root / "files")
    return asyncio.run(make_place(source, root / "place"))


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(made, tmp_path / "d")


def verified(place: Path, *, deep: bool = False, fetched: bool = False) -> oid_async.Verification:
    """Verify a folder; `fetched`: as a bucket is, whose listing has no ETags here."""
    if fetched:
        return asyncio.run(PlaceVerify(BucketFiles(Objects(place)), ignore, deep=deep).run())
    return asyncio.run(oid_async.verify(savepath=place, deep=deep))


def kinds(found: oid_async.Verification) -> list[tuple[str, str]]:
    """Return kind and path of the findings."""
    return sorted((each.kind, each.path) for each in found.findings())


def test_a_whole_place_is_clean(place: Path) -> None:
    """Of a folder all bytes are read, of what is fetched with `deep`."""
    for options in ({}, {"deep": True}, {"fetched": True}, {"fetched": True, "deep": True}):
        found = verified(place, **options)
        assert found.clean, list(found.findings())
        assert (found.checked, found.files, found.advice) == (4, 2 + 4 + 7, ())


def test_damage_is_named_and_how_to_mend_it(place: Path) -> None:
    """A shard that is gone, cut, of other bytes; one that is none of ours; a table, a record."""
    test, train = place / "shards" / "test-000000.tar", place / "shards" / "train-000000.tar"
    test.unlink()
    train.write_bytes(train.read_bytes()[:-512])
    (place / "shards" / "train-000000~0123abcd.tar").write_bytes(b"x")
    replace_bytes(place / "bbox" / "bbox.csv", 500, b"9")
    (place / ".oid_async" / "plan" / "00" / "train-000000.parquet").unlink()
    found = verified(place)
    assert kinds(found) == [
        ("altered", "bbox/bbox.csv"),
        ("extra", "shards/train-000000~0123abcd.tar"),
        ("missing", ".oid_async/plan/00/train-000000.parquet"),
        ("missing", "shards/test-000000.tar"),
        ("truncated", "shards/train-000000.tar"),
    ]
    records = {f".oid_async/records/00/{name}-000000.parquet" for name in ("test", "train")}
    assert {*found.remove} == records | {".oid_async/finished.json"}
    assert found.as_json()["remove"] == list(found.remove)
    assert "run the same download again" in found.advice[0]
    assert "cannot be made again" in found.advice[1]
    # Without reading, a table of the same size and no ETag counts as whole.
    assert kinds(verified(place, fetched=True)) == kinds(found)[1:]
    assert kinds(verified(place, fetched=True, deep=True)) == kinds(found)


def test_other_bytes_of_the_same_size_are_found_by_reading(place: Path) -> None:
    """A listing shows nothing; the MD5 of the shard does, and with `deep` which image it is."""
    manifest = pl.read_parquet(place / "manifest.parquet")
    one, shard, offset = manifest.select("ImageID", "Shard", "ShardOffset").row(0)
    replace_bytes(place / shard, offset, bytes(9))
    assert verified(place, fetched=True).clean
    assert kinds(verified(place)) == [("altered", shard)]
    found = verified(place, fetched=True, deep=True)
    assert {each.image_id for each in found.findings()} == {None, one}


def test_records_that_do_not_equal_the_manifest_are_named(place: Path) -> None:
    """A manifest with another MD5, one without an image; a record that is missing, damaged, of another part."""
    whole = pl.read_parquet(place / "manifest.parquet")
    is_third = pl.int_range(pl.len()) == 2

    def found_with(manifest: pl.DataFrame) -> list[tuple[str, str, str]]:
        manifest.write_parquet(place / "manifest.parquet")
        note_files(place)
        return sorted((each.kind, each.path, each.detail) for each in verified(place).findings())

    url = pl.when(is_third).then(pl.lit("http://x/")).otherwise("URL")
    ((kind, path, detail),) = found_with(whole.with_columns(URL=url))
    assert (kind, path) == ("altered", ".oid_async/records/00/train-000000.parquet")
    assert detail == "1 of its images are not as the manifest has them (first 0000000300000000: URL)"
    record, manifest = found_with(whole.filter(~is_third))
    assert record[:2] == ("altered", ".oid_async/records/00/train-000000.parquet")
    assert manifest[1] == "manifest.parquet"
    assert "it has 2 images in shards/train-000000.tar, and shards.json 3 samples" in manifest[2]
    records = place / ".oid_async" / "records" / "00"
    (records / "train-000000.parquet").write_bytes((records / "test-000000.parquet").read_bytes())
    (records / "test-000000.parquet").write_bytes(b"PAR1")
    first, second = found_with(whole)
    assert "cannot be read as the record" in first[2]
    assert "it is the record of test-000000" in second[2]


def test_without_its_lists_nothing_passes_as_whole(place: Path) -> None:
    """No manifest, no shards.json, nothing of .oid_async: each is said; a place that never ended is no finding."""
    shutil.copyfile(place / "manifest.parquet", place / "kept")
    (place / "manifest.parquet").unlink()
    assert ("missing", "manifest.parquet") in kinds(verified(place))
    (place / "kept").rename(place / "manifest.parquet")
    listed = (place / "shards.json").read_bytes()
    (place / "shards.json").unlink()
    assert ("missing", "shards.json") in kinds(verified(place))
    (place / "shards.json").write_text("[]")
    assert {name for _, name in kinds(verified(place))} == {"shards.json"}
    (place / "shards.json").write_bytes(listed)
    plan = place / ".oid_async" / "plan.json"
    plan.write_text("{}")
    assert kinds(verified(place)) == [("altered", ".oid_async/plan.json")]
    plan.unlink()
    assert kinds(verified(place)) == [("missing", ".oid_async/plan.json")]
    shutil.rmtree(place / ".oid_async")
    found = verified(place)
    assert {kind for kind, _ in kinds(found)} == {"unchecked"}
    assert ("unchecked", "manifest.parquet") in kinds(found)
    assert ["so no download goes on there" in line for line in found.advice] == [True]


def test_a_further_round_that_has_begun_is_no_finding(place: Path) -> None:
    """Shards of a generation that was published since the end are not extra; it is said that they are there."""
    plan = place / ".oid_async" / "plan"
    plan.joinpath("01.json").write_bytes(Generation(1, [Part(1, "train", 1, 1, 1, "0" * 32)]).to_json())
    (place / "shards" / "train-000001.tar").write_bytes(b"x")
    (place / "shards" / "train-000002.tar").write_bytes(b"x")
    said: list[str] = []
    found = asyncio.run(oid_async.verify(savepath=place, on_event=notes_into(said)))
    assert kinds(found) == [("extra", "shards/train-000002.tar")]
    assert any("a further round of 1 parts has begun" in line for line in said)


def test_a_repair_says_what_to_do_instead(place: Path) -> None:
    """One line; nothing is changed."""
    with pytest.raises(UsageError, match="--repair mends a folder of files"):
        asyncio.run(oid_async.verify(savepath=place, repair=True))


def test_a_place_without_an_end_is_one_line(place: Path) -> None:
    """A plan alone: run the download again."""
    for name in ("manifest.parquet", ".oid_async/finished.json"):
        (place / name).unlink()
    with pytest.raises(InputError, match="run the same download again"):
        verified(place)


def test_a_damaged_list_of_shards_leads_nowhere(place: Path) -> None:
    """A key outside of shards/ is not opened."""
    listed: dict[str, Any] = json.loads((place / "shards.json").read_text())
    listed["shards"][0]["shard"] = "../../etc/passwd"
    (place / "shards.json").write_text(json.dumps(listed))
    note_files(place)
    found = verified(place, deep=True)
    assert ("altered", "shards.json") in kinds(found)
