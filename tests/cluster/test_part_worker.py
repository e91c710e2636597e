"""A worker of parts: what it puts, whatever becomes of the images, of other workers and of itself."""

import asyncio
import errno
import io
import shutil
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.part_workers import carry_out, rows_of, settings_of, worker
from support.published import Box, Dataset, Image, tiny_jpeg
from support.published_plans import publish_plan
from support.slow_origin import origin_in_a_thread

import oid_async
from oid_async.cluster.part_folder import PartFolder
from oid_async.cluster.published import Part, PublishedQuery
from oid_async.cluster.work import MOST_TRIES, ClosedError, PartResult, WorkSettings
from oid_async.dataset.image_store import key_of
from oid_async.errors import InputError, StorageError
from oid_async.objects.store import Objects
from oid_async.origin.server import folder

pytestmark = pytest.mark.cluster
IDS = [f"{number * 7919:016x}" for number in range(1, 25)]
MEAN = 315_000


@dataclass
class Bucket:
    """A mirror folder whose images answer by a script: `answers` by ImageID, `pauses` in seconds."""

    root: Path
    answers: dict[str, web.Response | bytes] = field(default_factory=dict)
    pause_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most: int = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as scripted, else from the folder."""
        name = Path(request.path).name
        if not name.endswith(".jpg"):
            return await folder(self.root)(request)
        image_id = name.removesuffix(".jpg")
        self.requests[image_id] += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.pause_s)
            answer = self.answers.get(image_id)
            if isinstance(answer, web.Response):
                return web.Response(status=answer.status)
            return web.Response(body=answer) if answer is not None else await folder(self.root)(request)
        finally:
            self.at_once -= 1


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TMPDIR, in which nothing is left after a test."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    assert list(path.iterdir()) == []


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """A published dataset of 24 images of one class."""
    images = [Image(image_id) for image_id in IDS]
    boxes = [Box(image_id, "/m/01", f"0.{number}") for image_id in IDS for number in (1, 2)]
    return Bucket(Dataset([("/m/01", "Cat")], images, boxes).publish(tmp_path / "mirror"))


@dataclass
class Published:
    """A published place, and the settings of its workers."""

    objects: Objects
    query: PublishedQuery
    parts: tuple[Part, ...]
    url: str

    def settings(self, objects: Objects | None = None, **options: Any) -> WorkSettings:
        return settings_of(objects or self.objects, self.query, self.url, retries=0, **options)


@pytest.fixture
def url(bucket: Bucket) -> Iterator[str]:
    """The address of the bucket."""
    with origin_in_a_thread(bucket) as address:
        yield address


def published(place: Path, bucket: Bucket, url: str, images: int = 100, **query: Any) -> Published:
    """Publish the plan at a place, so many images a part."""
    objects = Objects(place)
    there = asyncio.run(publish_plan(objects, bucket.root, part_size=images * MEAN, splits=("train",), **query))
    return Published(objects, there.query, tuple(there.first.parts), url)


def keys(objects: Objects, prefix: str) -> list[str]:
    """Return the keys below a folder, in order."""
    return sorted(found.key for found in objects.list(prefix))


def test_a_part_becomes_a_shard_and_a_record(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """The record has every image, its bytes are where it says, and the samples are in order of ImageID."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts
    found = carry_out(place.settings(), part)
    record = found.record
    assert record is not None
    assert (found.end, record.images, record.saved, record.rows) == ("committed", 24, 24, {"bbox": 48})
    rows = rows_of(place.objects, part)
    assert rows.get_column("ImageID").to_list() == IDS
    assert rows.get_column("Status").unique().to_list() == ["ok"]
    assert record.shard is not None
    assert place.objects.holds(record.shard.key, record.shard.size, record.shard.md5)
    bodies = place.objects.get_ranges(
        record.shard.key, rows.get_column("Offset").to_list(), rows.get_column("Bytes").to_list()
    )
    assert bodies == [Image(image_id).body for image_id in IDS]
    with tarfile.open(fileobj=io.BytesIO(place.objects.get(record.shard.key))) as tar:
        assert [name for name in tar.getnames() if name.endswith(".jpg")] == [f"{image_id}.jpg" for image_id in IDS]


@pytest.mark.parametrize("shape", ["webdataset", "parquet"])
def test_the_shard_is_the_same_whoever_makes_it(tmp_path: Path, bucket: Bucket, url: str, shape: str) -> None:
    """Two workers, one after another and with other limits, put the same bytes at two places."""
    bodies = []
    for name, concurrency in (("one", 1), ("other", 8)):
        place = published(tmp_path / name, bucket, url, format=shape)
        (part,) = place.parts
        carry_out(place.settings(concurrency=concurrency), part)
        (key,) = keys(place.objects, "shards")
        bodies.append(place.objects.get(key))
    assert bodies[0] == bodies[1]
    if shape == "parquet":
        rows = pl.read_parquet(bodies[0])
        assert rows.get_column("image_id").to_list() == IDS
        assert [each["bytes"] for each in rows.get_column("image")] == [Image(image_id).body for image_id in IDS]


@pytest.mark.parametrize("options", [{}, {"max_side": 40, "mask_size": "image"}])
async def test_the_shard_is_that_of_a_run_on_one_machine(
    tmp_path: Path, lookalike: Path, options: dict[str, Any]
) -> None:
    """All kinds, masks among them: the same bytes as `download --no-files` has in its one shard."""
    query: dict[str, Any] = {"splits": ("validation",), "kinds": ("all",), "format": "webdataset", "no_files": True}
    await oid_async.download(savepath=tmp_path / "one", mirror=str(lookalike), **query, **options)
    whole = (tmp_path / "one" / "export" / "webdataset" / "validation-000000.tar").read_bytes()
    objects = Objects(tmp_path / "place")
    there = await publish_plan(objects, lookalike, **query, **options)
    with origin_in_a_thread(Bucket(lookalike)) as url:
        (part,) = there.first.parts
        found = await asyncio.to_thread(carry_out, settings_of(objects, there.query, url, **options), part)
    assert found.record is not None
    assert objects.get("shards/validation-000000.tar") == whole
    masks, drawn = found.record.masks, found.record.rows["segmentation"]
    assert (masks["selected"], masks["downloaded"], masks["failed"]) == (drawn, drawn, 0)
    assert drawn > 0


async def test_masks_that_are_not_what_the_plan_says_fail_alone(tmp_path: Path, lookalike: Path) -> None:
    """An archive that has lost its bytes, and one that is another one now: each mask is named, no image fails."""
    mirror = tmp_path / "mirror"
    shutil.copytree(lookalike, mirror)
    objects = Objects(tmp_path / "place")
    query: dict[str, Any] = {"splits": ("validation",), "kinds": ("segmentation",)}
    there = await publish_plan(objects, mirror, **query)
    archives = sorted((mirror / "openimages").rglob("*masks-*.zip"))
    for number, path in enumerate(each for each in archives if "validation" in each.name):
        body = bytearray(path.read_bytes())
        if number == 0:
            body[40:120] = bytes(80)
        elif number == 1:
            body = body[: len(body) // 3]
        path.write_bytes(body)
    with origin_in_a_thread(Bucket(mirror)) as url:
        found = await asyncio.to_thread(carry_out, settings_of(objects, there.query, url), there.first.parts[0])
    record = found.record
    assert record is not None
    assert record.saved == record.images
    masks, failed = record.masks, record.failed_masks
    assert 1 < len(failed) == masks["failed"] < masks["selected"] == masks["failed"] + masks["downloaded"]
    assert {reason for _, reason, _ in failed} <= {"checksum", "bad_response", "truncated", "network"}
    assert record.rows["segmentation"] == masks["downloaded"]
    assert record.left_out["segmentation: no mask"] == masks["failed"]


def test_what_becomes_of_each_image_is_in_the_record(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """What is gone for good waits for the next source, what may come again has failed, what is no picture too."""
    gone, broken, late, other, large = IDS[:5]
    lossless = Image(other).body.replace(b"\xff\xc0", b"\xff\xc3")
    bucket.answers |= {gone: web.Response(status=404), late: web.Response(status=503), other: lossless}
    bucket.answers |= {broken: b"\x89PNG\r\n\x1a\n" + bytes(200), large: tiny_jpeg("x" * 60_000)}
    place = published(tmp_path / "place", bucket, url, source=("cvdf", "original"))
    (part,) = place.parts
    found = carry_out(place.settings(max_image_bytes="50k"), part)
    assert found.record is not None
    rows = {row["ImageID"]: row for row in rows_of(place.objects, part).iter_rows(named=True)}
    told = {
        image_id: tuple(rows[image_id][name] for name in ("Status", "Reason", "Known", "Next"))
        for image_id in (gone, broken, late, other, large, IDS[5])
    }
    assert told == {
        gone: ("pending", None, "cvdf:not_found", "original"),
        broken: ("pending", None, "cvdf:placeholder", "original"),
        late: ("failed", "server_error", "cvdf:server_error", None),
        other: ("pending", None, "cvdf:not_image (coded in a way that Pillow does not read)", "original"),
        large: ("pending", None, "cvdf:too_large", "original"),
        IDS[5]: ("ok", None, None, None),
    }
    assert (rows[other]["Bytes"], rows[other]["FileName"], rows[other]["Offset"]) == (None, None, None)
    record = found.record
    assert (record.saved, record.pending, record.failures) == (19, 4, {"server_error": 1})
    assert record.left_out["image: coded in a way that Pillow does not read"] == 1
    assert record.shard is not None
    assert record.shard.samples == 19


def test_a_part_without_an_image_has_no_shard(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """All images of it are gone: there is a record, and no shard."""
    bucket.answers |= dict.fromkeys(IDS, web.Response(status=404))
    place = published(tmp_path / "place", bucket, url)
    found = carry_out(place.settings(), place.parts[0])
    assert found.record is not None
    assert (found.record.shard, found.record.failures) == (None, {"not_found": 24})
    assert keys(place.objects, "shards") == []


class LostError(Exception):
    """The worker was lost."""


class Breaking(Objects):
    """Objects whose worker is lost at one of its operations, before or after the storage has done it."""

    lost_at: float = 1e9
    done = 0

    def _step(self, work: Any, *args: Any) -> Any:
        self.done += 1
        if self.done == self.lost_at:
            raise LostError
        found = work(*args)
        if self.done + 0.5 == self.lost_at:
            raise LostError
        return found

    def get(self, key: str) -> bytes:
        found: bytes = self._step(super().get, key)
        return found

    def put_new(self, key: str, body: bytes | Path) -> Any:
        return self._step(super().put_new, key, body)


def test_a_worker_that_is_lost_between_two_steps_is_followed(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """Whatever the last step was: done again there is one shard and one record, as of a worker that was not lost."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts
    carry_out(place.settings(), part)
    (key,) = keys(place.objects, "shards")
    body = place.objects.get(key)
    for step in (1, 2, 2.5, 3, 4, 4.5, 5, 5.5):
        place.objects.delete([key, part.record_key])
        breaking = Breaking(tmp_path / "place")
        breaking.lost_at = step
        with suppress(LostError):
            carry_out(place.settings(breaking), part)
        found = carry_out(place.settings(), part)
        assert found.end == ("already" if step == 5.5 else "committed")
        assert keys(place.objects, "shards") == [key]
        assert place.objects.get(key) == body
        assert found.record is not None
        assert found.record.shard is not None
        assert found.record.shard.key == key


class Meanwhile(Objects):
    """Objects that do something else just before a record is put."""

    def __init__(self, place: Path, work: Any) -> None:
        super().__init__(place)
        self.work = work

    def put_new(self, key: str, body: bytes | Path) -> Any:
        if "/records/" in key:
            self.work()
        return super().put_new(key, body)


def test_of_two_workers_at_one_part_the_first_record_counts(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """A part that somebody else commits meanwhile, with other bytes: theirs counts, and none of ours is named."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts
    ends: list[PartResult] = []

    def other() -> None:
        bucket.answers.clear()
        ends.append(carry_out(place.settings(), part))

    bucket.answers[IDS[3]] = web.Response(status=503)
    ends.append(carry_out(place.settings(Meanwhile(tmp_path / "place", other)), part))
    first, second = ends
    assert (first.end, second.end, second.record) == ("committed", "already", first.record)
    assert first.record is not None
    assert first.record.shard is not None
    assert first.record.saved == 24
    # The slower one was quicker with its shard: its name is free for the other's at the end.
    assert keys(place.objects, "shards") == sorted(["shards/train-000000.tar", first.record.shard.key])
    assert "~" in first.record.shard.key


def test_a_shard_under_a_suffix_goes_when_its_record_comes_too_late(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """The name was taken by a worker that commits in the end: nothing is left of the other one."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts
    lost = Breaking(tmp_path / "place")
    lost.lost_at = 4.5
    with pytest.raises(LostError):
        carry_out(place.settings(lost), part)

    def other() -> None:
        bucket.answers.clear()
        carry_out(place.settings(), part)

    bucket.answers[IDS[3]] = web.Response(status=503)
    found = carry_out(place.settings(Meanwhile(tmp_path / "place", other)), part)
    assert (found.end, found.record and found.record.saved) == ("already", 24)
    assert keys(place.objects, "shards") == ["shards/train-000000.tar"]


def test_a_shard_goes_when_the_record_that_came_first_has_none(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """Nobody will need its name: also one that comes after the end leaves nothing there."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts

    def other() -> None:
        bucket.answers |= dict.fromkeys(IDS, web.Response(status=404))
        carry_out(place.settings(), part)

    found = carry_out(place.settings(Meanwhile(tmp_path / "place", other)), part)
    assert (found.end, found.record and found.record.shard) == ("already", None)
    assert keys(place.objects, "shards") == []


def test_a_part_that_is_done_asks_the_origin_for_nothing(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """A worker finds its record first."""
    place = published(tmp_path / "place", bucket, url)
    before = carry_out(place.settings(), place.parts[0])
    bucket.requests.clear()
    found = carry_out(place.settings(), place.parts[0])
    assert (found.end, found.record, found.requests) == ("already", before.record, 0)
    assert not bucket.requests


def test_parts_follow_one_another_without_a_pause(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """While one part's last images are awaited the next one's come, and no more at once than one may have."""
    bucket.pause_s = 0.05
    place = published(tmp_path / "place", bucket, url, images=6)
    parts, left = list(place.parts), threading.Lock()
    ends: list[PartResult] = []

    def work(made: Any) -> None:
        while True:
            with left:
                if not parts:
                    return
                part = parts.pop(0)
            ends.append(made.run(part, attempt=1, progress=lambda _: None))

    with worker(place.settings(concurrency=4)) as made:
        threads = [threading.Thread(target=work, args=(made,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [each.end for each in ends] == ["committed"] * 4
    assert sum(each.record.saved for each in ends if each.record) == 24
    assert sum(each.requests for each in ends) == bucket.requests.total() == 24
    assert bucket.most == 4


def test_a_part_that_cannot_be_reached_is_not_committed_before_the_last_try(
    tmp_path: Path, bucket: Bucket, url: str
) -> None:
    """Most of it fails by `network`: nothing is put, until the last attempt says how it is."""
    place = published(tmp_path / "place", bucket, url)
    (part,) = place.parts
    settings = place.settings()
    nowhere = replace(settings, mirror="http://127.0.0.1:9", allowed=(("127.0.0.1", 9),))
    nowhere = replace(nowhere, limits=replace(nowhere.limits, unanswered_s=0.2))
    with worker(nowhere) as made:
        found = made.run(part, attempt=1, progress=lambda _: None)
        assert (found.end, found.record) == ("unreachable", None)
        assert keys(place.objects, ".oid_async/records") == keys(place.objects, "shards") == []
        found = made.run(part, attempt=MOST_TRIES, progress=lambda _: None)
    assert found.record is not None
    assert (found.end, found.record.failures) == ("committed", {"network": 24})


def test_a_worker_that_is_closed_ends_at_once(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """What is under way raises ClosedError within two seconds, and the same holds for what begins later."""
    bucket.pause_s = 3.0
    place = published(tmp_path / "place", bucket, url)
    made = worker(place.settings())
    with made as each:
        raised: list[BaseException] = []

        def work() -> None:
            try:
                each.run(place.parts[0], attempt=1, progress=lambda _: None)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while not bucket.at_once:
            time.sleep(0.02)
        began = time.monotonic()
        each.close()
        thread.join(5)
        assert time.monotonic() - began < 5
        assert [type(error) for error in raised] == [ClosedError]
        with pytest.raises(ClosedError):
            each.run(place.parts[0], attempt=1, progress=lambda _: None)


def test_a_full_disk_ends_the_parts_under_way_and_no_later_one(
    tmp_path: Path, bucket: Bucket, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what is full; when there is room again the same worker goes on."""
    place = published(tmp_path / "place", bucket, url)
    with worker(place.settings()) as made:
        with monkeypatch.context() as full:

            def write(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            full.setattr("oid_async.store.image_writer.write_all", write)
            with pytest.raises(StorageError, match="the disk is full"):
                made.run(place.parts[0], attempt=1, progress=lambda _: None)
        found = made.run(place.parts[0], attempt=1, progress=lambda _: None)
    assert (found.end, found.record and found.record.saved) == ("committed", 24)


def test_a_part_that_is_begun_twice_at_one_worker_is_committed_once(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """A copy of a part waits for the one that is under way: their images would not be told apart."""
    bucket.pause_s = 0.1
    place = published(tmp_path / "place", bucket, url)
    ends: list[str] = []
    with worker(place.settings()) as made:

        def work() -> None:
            ends.append(made.run(place.parts[0], attempt=1, progress=lambda _: None).end)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ends) == ["already", "committed"]
    assert keys(place.objects, "shards") == ["shards/train-000000.tar"]


def test_ids_of_a_users_own_are_kept_as_they_are(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """Tables of a user's own, whose ids are no hex numbers, and images by their URLs alone."""
    names = {f"my.photo é/{number}": IDS[number] for number in range(12)}
    table, boxes, classes = tmp_path / "images.csv", tmp_path / "boxes.csv", tmp_path / "classes.csv"
    address = f"{url}/open-images-dataset/train"
    rows = [f'"{name}",{address}/{image_id}.jpg' for name, image_id in names.items()]
    table.write_text("\n".join(["ImageID,OriginalURL", *rows]) + "\n")
    rows = [f'"{name}",/m/01,0.1,0.5,0.1,0.5' for name in names]
    boxes.write_text("\n".join(["ImageID,LabelName,XMin,XMax,YMin,YMax", *rows]) + "\n")
    classes.write_text("/m/01,Cat\n")
    objects = Objects(tmp_path / "place")
    query: dict[str, Any] = {"image_url": str(table), "annotation": str(boxes), "label": str(classes)}
    there = asyncio.run(publish_plan(objects, bucket.root, source=("original",), **query))
    (part,) = there.first.parts
    found = carry_out(settings_of(objects, there.query, url, retries=0), part)
    assert found.record is not None
    assert (found.record.saved, found.record.rows) == (12, {"bbox": 12})
    ids = rows_of(objects, part).get_column("ImageID").to_list()
    assert ids == sorted(names)
    with tarfile.open(fileobj=io.BytesIO(objects.get(f"shards/{part.name}.tar"))) as tar:
        assert f"{key_of(ids[0])}.jpg" in tar.getnames()


class Endless(Objects):
    """Objects that take their time for a shard."""

    def put_new(self, key: str, body: bytes | Path) -> Any:
        if key.startswith("shards/"):
            time.sleep(8)
        return super().put_new(key, body)


def test_a_put_that_takes_its_time_does_not_hold_up_the_end(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """A worker that is closed while it puts a shard ends at once, and puts no record afterwards."""
    place = published(tmp_path / "place", bucket, url)
    with worker(place.settings(Endless(tmp_path / "place"))) as made:
        timer = threading.Timer(1.5, made.close)
        timer.start()
        began = time.monotonic()
        with pytest.raises(ClosedError):
            made.run(place.parts[0], attempt=1, progress=lambda _: None)
        assert time.monotonic() - began < 8
        timer.join()
    time.sleep(8)
    assert keys(place.objects, ".oid_async/records") == []


def test_what_dead_workers_have_left_is_swept_up(scratch: Path) -> None:
    """A folder that nobody holds goes when the next worker starts; one that is held stays."""
    dead = scratch / "oid-async-part-dead"
    (dead / "1" / "images").mkdir(parents=True)
    first = PartFolder()
    second = PartFolder()
    assert not dead.exists()
    assert first.path.exists()
    first.remove()
    second.remove()


def test_too_little_room_is_said_before_the_first_image(
    tmp_path: Path, bucket: Bucket, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the folder, what is free and what is needed."""
    place = published(tmp_path / "place", bucket, url)
    monkeypatch.setattr("oid_async.cluster.part_folder.free_bytes", lambda _: 1_000_000)
    with pytest.raises(StorageError, match=r"scratch: 1\.0 MB are free there, .* set TMPDIR"):
        carry_out(place.settings(), place.parts[0])
    assert not bucket.requests


def test_a_plan_that_was_changed_is_refused(tmp_path: Path, bucket: Bucket, url: str) -> None:
    """The MD5 of a part's file is not the published one: no image is asked for."""
    place = published(tmp_path / "place", bucket, url)
    part = place.parts[0]
    place.objects.put(part.plan_key, place.objects.get(part.plan_key) + b"\0")
    with pytest.raises(InputError, match=r"train-000000\.parquet is not what was published"):
        carry_out(place.settings(), part)
    assert not bucket.requests
