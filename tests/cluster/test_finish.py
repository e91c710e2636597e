"""The end of a download past one machine, of records and part files that are made by hand."""

import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.committed_parts import (
    bodies,
    boxes_query,
    commit,
    failed,
    images_of,
    planned,
    publish_next,
    saved,
)
from support.faulty_storage import FaultyStorage
from support.published import read_csv
from support.seaweed import Seaweed

import oid_async
from oid_async.cluster.finish import Totals, finish
from oid_async.cluster.layout import BAD_ROWS, FINISHED, MANIFEST, SHARD_LIST, UNKNOWN_IDS
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.cluster.shard_names import read_shard_list
from oid_async.errors import InputError, StorageError
from oid_async.events import ignore
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY, IdForm
from oid_async.options.places import Bucket
from oid_async.store.results import manifest_digest
from oid_async.tables.damage import StoppedError

pytestmark = pytest.mark.cluster
A, B, C, D = (f"{digit * 16}" for digit in "abcd")
BOXES = {A: ["/m/a", "/m/b"], B: ["/m/b"], C: ["/m/a"]}


class Place:
    """A place whose parts a test commits; `end` finishes it."""

    def __init__(self, folder: Path, query: PublishedQuery | None = None) -> None:
        self.folder = folder
        self.objects = Objects(folder / "place")
        self.query = query or boxes_query()
        self.generations: list[Generation] = []
        self._ends = 0

    def publish(self, *images: pl.DataFrame, **facts: Any) -> Generation:
        """Publish a generation whose parts have these images."""
        parts = {frame.get_column("Subset")[0]: frame for frame in images}
        self.generations.append(publish_next(self.objects, self.generations, parts, **facts))
        return self.generations[-1]

    def save_all(self, generation: Generation, **facts: Any) -> None:
        """Commit every part of a generation with all its images saved."""
        for part in generation.parts:
            commit(self.objects, self.query, part, saved(images_of(self.objects, part, self.folder)), **facts)

    def end(self, generations: Sequence[Generation] | None = None) -> Totals:
        """Make the end."""
        self._ends += 1
        scratch = self.folder / f"scratch{self._ends}"
        scratch.mkdir()
        totals = finish(self.objects, self.query, generations or self.generations, scratch, ignore)
        assert list(scratch.iterdir()) == []
        return totals

    def manifest(self) -> pl.DataFrame:
        """Return the manifest."""
        return pl.read_parquet(self.folder / "place" / MANIFEST, glob=False)

    def csv(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a table."""
        return read_csv(self.folder / "place" / name)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a folder's name."""
        return sorted(key for key in bodies(self.objects) if key.startswith(prefix))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place without anything."""
    return Place(tmp_path)


def test_images_of_all_splits_stand_in_one_manifest_in_order(place: Place) -> None:
    """The tables have a row an image and a row a box, by ImageID; the manifest says where each image lies."""
    first = place.publish(planned([B, C], "train", boxes=BOXES), planned([A, D], "test", boxes=BOXES))
    place.save_all(first)
    totals = place.end()
    assert (totals.selected, totals.ok, totals.rows, totals.shards) == (4, 4, {"bbox": 4}, 2)
    manifest = place.manifest()
    assert manifest.get_column("ImageID").to_list() == [A, B, C, D]
    assert manifest.columns[-2:] == ["Shard", "ShardOffset"]
    shards = ["shards/test-000000.tar", "shards/train-000000.tar", "shards/train-000000.tar", "shards/test-000000.tar"]
    assert manifest.get_column("Shard").to_list() == shards
    assert manifest.get_column("ShardOffset").to_list() == [0, 0, 512, 512]
    boxes = [(row["ImageID"], row["LabelName"], row["XMin"], row["Category"]) for row in place.csv("bbox/bbox.csv")]
    assert boxes == [
        (A, "/m/a", "0.0", "Apple"),
        (A, "/m/b", "0.1", "Ball"),
        (B, "/m/b", "0.0", "Ball"),
        (C, "/m/a", "0.0", "Apple"),
    ]
    assert [row["Category"] for row in place.csv("bbox/label_data.csv")] == ["Apple", "Ball"]
    assert [row["ImageID"] for row in place.csv("ATTRIBUTION.csv")] == [A, B, C, D]
    assert manifest_digest(place.folder / "place" / MANIFEST) == "d"


def test_the_latest_row_of_an_image_holds(place: Place) -> None:
    """What a later generation saved counts with its shard and boxes; what still waits is pending."""
    first = place.publish(planned([A, B, C, D], boxes=BOXES))
    rows = saved(images_of(place.objects, first.parts[0], place.folder)).filter(pl.col("ImageID") == A)
    images = images_of(place.objects, first.parts[0], place.folder)
    waiting = {"Status": pl.lit("pending"), "Next": pl.lit("original"), "Reason": pl.lit(None)}
    others = [
        failed(images.filter(pl.col("ImageID") == B)),
        failed(images.filter(pl.col("ImageID").is_in([C, D])), columns=waiting),
    ]
    commit(place.objects, place.query, first.parts[0], pl.concat([rows, *others]))
    before = place.end()
    assert (before.ok, before.failed, before.pending) == (1, 1, 2)
    assert [row["ImageID"] for row in place.csv("failures.csv")] == [B]
    second = place.publish(planned([B, C], boxes={B: ["/m/a"], C: ["/m/b"]}), capped=True)
    place.save_all(second)
    totals = place.end()
    assert (totals.ok, totals.failed, totals.pending, totals.changed) == (3, 0, 1, True)
    manifest = place.manifest()
    assert manifest.get_column("Status").to_list() == ["ok", "ok", "ok", "pending"]
    assert manifest.get_column("Shard").to_list() == [
        "shards/train-000000.tar",
        "shards/train-000001.tar",
        "shards/train-000001.tar",
        None,
    ]
    assert [(row["ImageID"], row["LabelName"]) for row in place.csv("bbox/bbox.csv")] == [
        (A, "/m/a"),
        (A, "/m/b"),
        (B, "/m/a"),
        (C, "/m/b"),
    ]
    assert not (place.folder / "place" / "failures.csv").exists()


def test_a_finished_place_is_left_alone(place: Place) -> None:
    """Made again, the end writes nothing; with a table gone it writes all of them anew, the same."""
    place.save_all(place.publish(planned([A, B], boxes=BOXES)))
    first = place.end()
    before = bodies(place.objects)
    times = {path: path.stat().st_mtime_ns for path in (place.folder / "place").rglob("*")}
    again = place.end()
    assert {path: path.stat().st_mtime_ns for path in (place.folder / "place").rglob("*")} == times
    assert (first.changed, again.changed) == (True, False)
    assert first.rows == again.rows
    (place.folder / "place" / "bbox" / "bbox.csv").unlink()
    assert place.end().changed
    assert bodies(place.objects) == before


def test_a_shard_with_a_suffix_gets_its_parts_name(place: Place) -> None:
    """It is copied over what somebody who did not commit has left; another end finds that done, at any step."""
    first = place.publish(planned([A, B], boxes=BOXES))
    part = first.parts[0]
    place.objects.put_new("shards/train-000000.tar", b"of a worker that was lost")
    rows = saved(images_of(place.objects, part, place.folder))
    record = commit(place.objects, place.query, part, rows, suffix="0a" * 4)
    assert record.shard is not None
    body = place.objects.get(record.shard.key)
    totals = place.end()
    assert totals.orphans == 1
    assert place.keys("shards/") == ["shards/train-000000.tar"]
    assert place.objects.get("shards/train-000000.tar") == body
    assert place.manifest().get_column("Shard").to_list() == ["shards/train-000000.tar"] * 2
    finished = bodies(place.objects)
    # Killed before the suffixed one was removed, and before anything was noted.
    place.objects.put_new(record.shard.key, body)
    place.objects.delete([FINISHED])
    assert place.end().orphans == 1
    assert bodies(place.objects) == finished
    # Killed behind that.
    place.objects.delete([FINISHED])
    assert place.end().orphans == 0
    assert bodies(place.objects) == finished


def test_orphans_go_and_others_stay(place: Place) -> None:
    """Shards of published parts that no record names go, what killed writers left too; a newer part's shard stays."""
    place.save_all(place.publish(planned([A], boxes=BOXES)))
    for key in ("train-000000~01234567.tar", "train-000001.tar", "notes.txt"):
        place.objects.put_new(f"shards/{key}", b"x")
    left = place.folder / "place" / "shards" / f"train-000000.tar#{'0' * 16}"
    left.write_bytes(b"half")
    totals = place.end()
    assert totals.orphans == 2
    assert place.keys("shards/") == ["shards/notes.txt", "shards/train-000000.tar", "shards/train-000001.tar"]
    place.objects.put_new("shards/train-000000~89abcdef.tar", b"of a zombie")
    again = place.end()
    assert (again.orphans, again.changed) == (1, False)


def test_without_all_records_there_is_no_end(place: Place) -> None:
    """Parts without a record are named, and nothing is written."""
    first = place.publish(planned([A], "train"), planned([B], "test"), planned([C], "validation"))
    commit(place.objects, place.query, first.parts[0], saved(images_of(place.objects, first.parts[0], place.folder)))
    before = bodies(place.objects)
    with pytest.raises(StorageError, match=r"2 of 3 parts have no record yet \(test-000000, validation-000000\)"):
        place.end()
    assert bodies(place.objects) == before


@pytest.mark.parametrize("harm", ["missing", "is not what was put", "other bytes"])
def test_a_shard_that_is_lost_is_named_with_its_record(place: Place, harm: str) -> None:
    """No manifest is written; once the record is removed the part can be made again, and the end with it."""
    first = place.publish(planned([A], "train", boxes=BOXES), planned([B], "test"))
    suffix = "0" * 8 if harm == "other bytes" else ""
    place.save_all(first, suffix=suffix)
    path = place.folder / "place" / "shards" / f"train-000000{'~' * bool(suffix)}{suffix}.tar"
    size = path.stat().st_size
    path.unlink()
    if harm == "is not what was put":
        path.write_bytes(b"short")
    if harm == "other bytes":
        path.with_name("train-000000.tar").write_bytes(b"x" * size)
    with pytest.raises(StorageError, match=harm) as caught:
        place.end()
    assert ".oid_async/records/00/train-000000.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert place.objects.head(MANIFEST) is None
    place.objects.delete([first.parts[0].record_key])
    images = images_of(place.objects, first.parts[0], place.folder)
    commit(place.objects, place.query, first.parts[0], saved(images), suffix="1" * 8)
    assert place.end().ok == 2


def test_a_loss_behind_the_end_is_found(place: Place) -> None:
    """The end of a finished place looks at its shards, too."""
    place.save_all(place.publish(planned([A], boxes=BOXES)))
    place.end()
    (place.folder / "place" / "shards" / "train-000000.tar").unlink()
    with pytest.raises(StorageError, match=r"records/00/train-000000\.parquet"):
        place.end()


def test_failed_masks_are_listed(place: Place) -> None:
    """segmentation/failures.csv has those of all parts; the counts of the records are summed."""
    first = place.publish(planned([A], "train"), planned([B], "test"))
    for part, image in zip(first.parts, (A, B), strict=True):
        rows = saved(images_of(place.objects, part, place.folder))
        masks = {"selected": 2, "present": 0, "downloaded": 1, "failed": 1, "bytes": 7}
        commit(
            place.objects,
            place.query,
            part,
            rows,
            masks=masks,
            failed_masks=((f"{image}_m0a_1.png", "not_found", "x"),),
        )
    totals = place.end()
    assert totals.masks == {"selected": 4, "present": 0, "downloaded": 2, "failed": 2, "bytes": 14}
    listed = place.csv("segmentation/failures.csv")
    assert [(row["MaskPath"][:16], row["ImageID"], row["Reason"]) for row in listed] == [
        (A, A, "not_found"),
        (B, B, "not_found"),
    ]


def test_a_part_without_an_image_has_no_shard(place: Place) -> None:
    """shards.json says so, and lists all parts by split and number with what was put."""
    first = place.publish(planned([A, B], "test"), planned([C], "train", boxes=BOXES))
    test, train = first.parts
    commit(place.objects, place.query, test, failed(images_of(place.objects, test, place.folder), "gone"))
    record = commit(place.objects, place.query, train, saved(images_of(place.objects, train, place.folder)))
    totals = place.end()
    assert (totals.failures, totals.shards) == ({"gone": 2}, 1)
    listed = read_shard_list(place.objects.get(SHARD_LIST), place.query)
    assert [(each.part, each.shard) for each in listed] == [("train-000000", record.shard), ("test-000000", None)]
    assert place.manifest().get_column("Shard").to_list() == [None, None, "shards/train-000000.tar"]


def test_one_id_in_two_splits_is_two_images(tmp_path: Path) -> None:
    """Each has its row, its shard and its boxes, train before test."""
    form = IdForm(by_split=True)
    place = Place(tmp_path, boxes_query(form=form))
    both = planned([A, B], "train", boxes=BOXES, form=form), planned([A], "test", boxes={A: ["/m/b"]}, form=form)
    place.save_all(place.publish(*both))
    assert place.end().selected == 3
    rows = place.manifest().select("ImageID", "Subset", "Shard").rows()
    assert rows == [
        (A, "train", "shards/train-000000.tar"),
        (A, "test", "shards/test-000000.tar"),
        (B, "train", "shards/train-000000.tar"),
    ]
    boxes = [(row["ImageID"], row["LabelName"]) for row in place.csv("bbox/bbox.csv")]
    assert boxes == [(A, "/m/a"), (A, "/m/b"), (A, "/m/b"), (B, "/m/b")]


def test_ids_of_a_users_own_and_parquet_shards(tmp_path: Path) -> None:
    """Ids need not be hexadecimal; in a Parquet shard an image has no offset."""
    form = IdForm(hexadecimal=False)
    place = Place(tmp_path, boxes_query("parquet", form=form))
    place.save_all(place.publish(planned(["my photo", "Ähre"], form=form, boxes={"Ähre": ["/m/a"]})))
    assert place.end().rows == {"bbox": 1}
    assert place.manifest().select("ImageID", "Shard", "ShardOffset").rows() == [
        ("my photo", "shards/train-000000.parquet", None),
        ("Ähre", "shards/train-000000.parquet", None),
    ]


def test_a_query_that_selects_nothing_has_empty_tables(place: Place) -> None:
    """There is a manifest without rows, and a table with its header."""
    place.generations = [Generation(0, [])]
    totals = place.end()
    assert (totals.selected, totals.shards) == (0, 0)
    assert place.manifest().is_empty()
    assert (place.folder / "place" / "bbox" / "bbox.csv").read_text().startswith("ImageID,LabelName,XMin,Category,")


def test_roles_and_what_was_published_with_the_query_are_kept(place: Place) -> None:
    """Negatives are counted, damaged rows and unknown ids copied, query.json says where the shards are."""
    roles = {"Role": pl.lit("negative"), "VerifiedAbsent": pl.concat_list(pl.lit("/m/a"))}
    place.save_all(place.publish(planned([A], roles=roles)))
    place.objects.put_new(BAD_ROWS, b"File,Line,Reason\na.csv,3,x\n")
    place.objects.put_new(UNKNOWN_IDS, b"train/0\ntrain/1\n")
    totals = place.end()
    assert (totals.negatives, totals.bad_rows, totals.unknown_ids) == (1, 1, 2)
    assert place.manifest().columns[-4:] == ["Role", "VerifiedAbsent", "Shard", "ShardOffset"]
    assert place.csv("bad_rows.csv")[0]["Line"] == "3"
    query = oid_async.open(place.folder / "place").query
    assert (query["shards"], "unfinished" in query) == ("shards", False)


def test_a_full_disk_is_told_with_what_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, which names TMPDIR; the place stays as it was, and the next end is whole."""
    place.save_all(place.publish(planned([A, B], boxes=BOXES)))
    before = bodies(place.objects)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("oid_async.store.annotation_table.AnnotationTable.write_rows", full)
        with pytest.raises(StorageError, match=r"disk is full.*TMPDIR"):
            place.end()
    assert bodies(place.objects) == before
    assert place.end().ok == 2


@pytest.mark.parametrize("harm", ["cut", "rotten", "of another part", "other plan"])
def test_a_record_that_is_not_its_parts_is_named(place: Place, harm: str) -> None:
    """One line names it and says to remove it; nothing is written."""
    first = place.publish(planned([A], "train"), planned([B], "test"))
    place.save_all(first)
    path = place.folder / "place" / first.parts[0].record_key
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif harm == "rotten":
        body = bytearray(path.read_bytes())
        at = body.index(b"https://a.example/")
        body[at - 40 : at + 10] = bytes(50)
        path.write_bytes(body)
    elif harm == "of another part":
        path.write_bytes((place.folder / "place" / first.parts[1].record_key).read_bytes())
    else:
        place.generations = [Generation(0, [type(part)(0, part.split, 0, 1, 0, "0" * 32) for part in first.parts])]
    with pytest.raises(InputError, match=r"records/00/train-000000\.parquet"):
        place.end()
    assert place.objects.head(MANIFEST) is None


def test_a_changed_part_file_is_named(place: Place) -> None:
    """Its annotations are not those that were published: no manifest is written."""
    first = place.publish(planned([A], boxes=BOXES))
    place.save_all(first)
    other = planned([A], boxes={A: ["/m/b"]})
    publish_next(Objects(place.folder / "other"), [], {"train": other})
    changed = place.folder / "other" / first.parts[0].plan_key
    (place.folder / "place" / first.parts[0].plan_key).write_bytes(changed.read_bytes())
    with pytest.raises(InputError, match=r"plan/00/train-000000\.parquet: it is not what was published"):
        place.end()
    assert place.objects.head(MANIFEST) is None


def test_an_image_in_two_parts_of_a_generation_is_refused(place: Place) -> None:
    """One row an image: a plan that has it twice is damaged, and said so."""
    place.save_all(place.publish(planned([A], "train"), planned([A], "test")))
    with pytest.raises(InputError, match="planned twice"):
        place.end()


def test_an_end_that_is_stopped_leaves_nothing_half(place: Place) -> None:
    """Whenever it is asked to stop, no temporary stays, no manifest without its tables; the next end is whole."""
    place.save_all(place.publish(planned([A, B], boxes=BOXES)))
    for calls in range(100):
        left = [True, *[False] * calls]
        scratch = place.folder / f"stopped{calls}"
        scratch.mkdir()
        try:
            totals = finish(place.objects, place.query, place.generations, scratch, ignore, left.pop)
        except StoppedError:
            assert place.objects.head(MANIFEST) is None
        else:
            break
        finally:
            assert list(scratch.iterdir()) == []
    assert (calls > 5, totals.changed) == (True, True)


class KilledError(BaseException):
    """Where a test kills the end."""


class Mortal(Objects):
    """Objects of which one call dies: before it does anything, or behind that."""

    def __init__(self, place: Path, dies_at: int) -> None:
        super().__init__(place)
        self.dies_at = dies_at
        self.calls = 0

    def _killed(self, call: Any, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KilledError
        result = call(*args)
        if self.calls == -self.dies_at:
            raise KilledError
        return result

    def put(self, *args: Any) -> Any:
        return self._killed(super().put, *args)

    def copy(self, *args: Any) -> Any:
        return self._killed(super().copy, *args)

    def delete(self, keys: Any) -> None:
        for key in list(keys):
            self._killed(super().delete, [key])


def contested(folder: Path) -> Place:
    """A place with two generations, a shard with a suffix, one that no record names, a failure and a pending image."""
    place = Place(folder)
    first = place.publish(planned([A, B], "train", boxes=BOXES), planned([C, D], "test", boxes=BOXES))
    train, test = first.parts
    place.objects.put_new("shards/train-000000.tar", b"x")
    images = images_of(place.objects, train, place.folder)
    rows = [saved(images.filter(pl.col("ImageID") == A)), failed(images.filter(pl.col("ImageID") == B))]
    commit(place.objects, place.query, train, pl.concat(rows), suffix="0" * 8)
    place.objects.put_new("shards/test-000000~11111111.tar", b"y")
    commit(place.objects, place.query, test, saved(images_of(place.objects, test, place.folder)))
    second = place.publish(planned([B], boxes=BOXES))
    commit(place.objects, place.query, second.parts[0], failed(images_of(place.objects, second.parts[0], place.folder)))
    return place


def test_killed_anywhere_the_next_end_is_the_same(tmp_path: Path) -> None:
    """Before or behind any write, copy or removal; a manifest is never there before all that it speaks of."""
    whole = contested(tmp_path / "whole")
    mortal = Mortal(tmp_path / "whole" / "place", 0)
    whole.objects = mortal
    whole.end()
    expected = bodies(whole.objects)
    for dies_at in (sign * number for number in range(1, mortal.calls + 1) for sign in (1, -1)):
        place = contested(tmp_path / f"killed{dies_at}")
        place.objects = Mortal(tmp_path / f"killed{dies_at}" / "place", dies_at)
        with pytest.raises(KilledError):
            place.end()
        if place.objects.head(MANIFEST) is not None:
            assert set(expected) - set(bodies(place.objects)) <= {FINISHED}
        place.end()
        found = bodies(place.objects)
        # These name the place.
        found |= {key: expected[key] for key in ("report.json", FINISHED)}
        assert found == expected


def test_of_tasks_that_share_the_end_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for it, and return the same totals."""
    monkeypatch.setattr("oid_async.cluster.end_turn.LOOK_S", 0.02)
    place = contested(tmp_path)

    def end(number: int) -> Totals:
        scratch = tmp_path / f"task{number}"
        scratch.mkdir()
        return finish(place.objects, place.query, place.generations, scratch, ignore, shared=True)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(end, range(4)))
    assert [totals.changed for totals in found].count(True) == 1
    assert {(totals.ok, totals.failed) for totals in found} == {(3, 1)}
    assert place.keys(".oid_async/end/") == []


def test_two_ends_at_the_same_time_make_one(tmp_path: Path) -> None:
    """Neither fails, and the place is as one of them leaves it."""
    alone = contested(tmp_path / "alone")
    alone.end()
    place = contested(tmp_path / "both")
    with ThreadPoolExecutor(2) as threads:
        for totals in threads.map(lambda _: place.end(), range(2)):
            assert totals.ok == 3
    found, expected = bodies(place.objects), bodies(alone.objects)
    assert {key: found[key] for key in found if key not in ("report.json", FINISHED)} == {
        key: expected[key] for key in expected if key not in ("report.json", FINISHED)
    }
    assert not place.end().changed


def test_in_a_bucket_that_fails_the_end_is_the_same(tmp_path: Path, bucket: Bucket, s3_server: Seaweed) -> None:
    """A tenth of the requests fail, some once they are carried out: the objects are those of a folder."""
    alone = contested(tmp_path / "alone")
    place = contested(tmp_path / "source")
    clean = Objects(bucket)
    for key, body in bodies(place.objects).items():
        clean.put_new(key, body)
    totals = alone.end()
    with FaultyStorage(s3_server.url, share=0.1, seed=3, slow_s=0.05) as storage:
        place.objects = Objects(bucket, endpoint_url=storage.url)
        assert place.end() == totals
        assert storage.faults.total() > 0
        assert not place.end().changed
    named = ("report.json", SHARD_LIST, FINISHED)
    expected = {key: body for key, body in bodies(alone.objects).items() if key not in named}
    assert {key: body for key, body in bodies(clean).items() if key not in named} == expected
    (shard, *_) = read_shard_list(clean.get(SHARD_LIST), place.query)
    assert shard.shard is not None
    found = clean.head(shard.key)
    assert found is not None
    assert (shard.shard.etag, shard.shard.size) == (found.etag, found.size)


def test_a_place_may_have_any_name(tmp_path: Path) -> None:
    """Brackets and stars in the name of a folder mean themselves."""
    place = Place(tmp_path / "a b%41#é[1]*")
    place.save_all(place.publish(planned([A, B], boxes=BOXES)))
    assert place.end().ok == 2
    assert not place.end().changed


def test_an_end_that_comes_late_does_not_undo_a_newer_one(place: Place) -> None:
    """Another run has published and finished a further generation meanwhile: that is what the manifest says."""
    first = place.publish(planned([A], boxes=BOXES))
    commit(place.objects, place.query, first.parts[0], failed(images_of(place.objects, first.parts[0], place.folder)))
    place.save_all(place.publish(planned([A], boxes=BOXES)))
    place.end()
    assert place.end(place.generations[:1]).ok == 1
    assert place.manifest().get_column("Status").to_list() == ["ok"]


def test_an_end_does_not_wait_for_a_generation_of_another_run(place: Place) -> None:
    """One that was published meanwhile and has no records yet is left to whoever published it."""
    place.save_all(place.publish(planned([A, B], boxes=BOXES)))
    place.publish(planned([B], boxes=BOXES))
    assert place.end(place.generations[:1]).ok == 2
    with pytest.raises(StorageError, match=r"1 of 2 parts have no record yet \(train-000001\)"):
        place.end()


def test_what_is_listed_late_is_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared folder may not list yet what another machine has just put."""
    parts = [planned([image], split) for image, split in ((A, "train"), (B, "validation"), (C, "test"))]
    generation = place.publish(*parts)
    for part, suffix in zip(generation.parts, ("", "00000000", ""), strict=True):
        commit(place.objects, place.query, part, saved(images_of(place.objects, part, place.folder)), suffix=suffix)
    with monkeypatch.context() as late:
        late.setattr(place.objects, "list", lambda prefix: iter(()))
        assert place.end().ok == len(parts)
    assert place.manifest().get_column("Shard").to_list() == [f"shards/{part.name}.tar" for part in generation.parts]
    assert (place.end().changed, len(place.keys("shards/"))) == (False, 3)


def test_an_end_of_other_bytes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older one, which was slower and was killed, may have written over a file in the same number of bytes."""
    place = Place(tmp_path)
    place.save_all(place.publish(planned([A])))
    head = place.objects.head
    monkeypatch.setattr(place.objects, "head", lambda key: (found := head(key)) and replace(found, etag="of another"))
    assert place.end().changed
    assert place.end().changed


def test_keys_are_read_in_spans(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small spans are, and however parts overlap, the tables are the same."""
    ids = [f"{number:016x}" for number in range(0, 9000, 7)]
    boxes = {image: ["/m/a"] * (int(image, 16) % 3) for image in ids}
    some = {"train": ids[::2], "test": ids[1::4], "validation": ids[3::4]}
    place.save_all(place.publish(*(planned(part, split, boxes=boxes) for split, part in some.items())))
    place.save_all(place.publish(planned(ids[::10], "train", boxes=boxes)))
    place.end()
    expected = bodies(place.objects)
    monkeypatch.setattr("oid_async.cluster.committed.SPAN_ROWS", 100)
    place.objects.delete([FINISHED])
    place.end()
    found = bodies(place.objects)
    assert place.manifest().get_column("ImageID").to_list() == ids
    assert {key: body for key, body in found.items() if key != MANIFEST} == {
        key: body for key, body in expected.items() if key != MANIFEST
    }
    assert KEY not in place.manifest().columns
