"""What is promised of objects holds in a folder and in a bucket of a real S3 server alike."""

import hashlib
import itertools
import os
import pickle
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faulty_storage import FaultyStorage
from support.seaweed import Seaweed

from oid_async.errors import StorageError, UsageError
from oid_async.objects import bucket as buckets
from oid_async.objects import store
from oid_async.objects.store import ExistsError, MissingError, Objects
from oid_async.options.places import Bucket


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.cluster)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Return the objects of a folder with an odd name, or of a prefix in a bucket."""
    if request.param == "folder":
        return Objects(tmp_path / "a b%41#é[1]?")
    return Objects(request.getfixturevalue("bucket"))


def test_a_new_object_is_put_once_and_the_same_bytes_are_no_other_object(objects: Objects) -> None:
    """The same bytes again are what is there; other bytes are refused, and change nothing."""
    put = objects.put_new("shards/train-000000~3f9a12c4.tar", b"bytes")
    assert objects.put_new("shards/train-000000~3f9a12c4.tar", b"bytes") == put
    with pytest.raises(ExistsError):
        objects.put_new("shards/train-000000~3f9a12c4.tar", b"other")
    assert objects.get("shards/train-000000~3f9a12c4.tar") == b"bytes"
    assert [each.size for each in objects.list("")] == [5]


def test_a_storage_that_writes_over_objects_is_refused(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """On such a one a record would commit nothing."""
    objects.put_new("plan.json", b"{}")
    objects.check_creates("plan.json", b"{}\n")
    assert objects.get("plan.json") == b"{}"
    monkeypatch.setattr(objects._storage, "create", objects._storage.replace)
    with pytest.raises(UsageError, match="this storage writes over objects"):
        objects.check_creates("plan.json", b"{}\n")


def test_a_file_is_put_and_read_back_whole(objects: Objects, tmp_path: Path) -> None:
    """Files come and go without being held in memory; an empty one is an object, too."""
    body = random.Random(1).randbytes(1 << 20)
    (tmp_path / "body").write_bytes(body)
    (tmp_path / "empty").touch()
    assert objects.put_new("a", tmp_path / "body").size == len(body)
    objects.put_new("empty", tmp_path / "empty")
    assert objects.get_file("a", tmp_path / "copy").size == len(body)
    assert (tmp_path / "copy").read_bytes() == body
    assert objects.get("empty") == b""
    assert objects.get_ranges("a", [0, 7, 1 << 19], [5, 3, 1]) == [body[:5], body[7:10], body[1 << 19 : (1 << 19) + 1]]
    assert objects.holds("a", len(body), hashlib.md5(body).hexdigest())
    assert not objects.holds("a", len(body), hashlib.md5(b"").hexdigest())


def test_put_replaces_and_copy_leaves_its_source(objects: Objects) -> None:
    """Both write over what is there; copying an object onto its own copy changes nothing."""
    objects.put("a", b"first")
    objects.put("a", b"second")
    objects.put("b", b"other")
    for _ in range(2):
        assert objects.copy("a", "b").size == 6
    assert (objects.get("a"), objects.get("b")) == (b"second", b"second")
    objects.delete(["a", "absent"])
    assert [each.key for each in objects.list("")] == ["b"]


def test_an_object_that_is_not_there_is_said_so(objects: Objects, tmp_path: Path) -> None:
    """A folder's name is no object; listing what is not there yields nothing."""
    objects.put("a/b", b"")
    calls: list[Callable[[], object]] = [
        lambda: objects.get("absent"),
        lambda: objects.get_file("absent", tmp_path / "copy"),
        lambda: objects.get_ranges("absent", [0], [1]),
        lambda: objects.copy("absent", "c"),
    ]
    for call in calls:
        with pytest.raises(MissingError):
            call()
    assert objects.head("a") is None
    assert objects.head("absent/too") is None
    assert list(objects.list("absent")) == []
    assert [each.key for each in objects.list("a")] == ["a/b"]


def test_keys_keep_every_sign(objects: Objects) -> None:
    """Blanks, percent signs and non-ASCII letters of a key mean themselves."""
    keys = {"x/a b.csv", "x/%41.csv", "é/ü&=+;.csv", ".oid_async/plan.json"}
    for key in keys:
        objects.put_new(key, key.encode())
    assert {each.key for each in objects.list("")} == keys
    assert all(objects.get(key) == key.encode() for key in keys)


def test_of_many_writers_one_puts_a_new_object(objects: Objects) -> None:
    """Each of them has other bytes; one wins, and all others are told."""

    def put(number: int) -> bool:
        try:
            objects.put_new("key", str(number).encode() * 1000)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert objects.get("key") == str(won.index(True)).encode() * 1000


def test_objects_go_to_other_processes_without_credentials(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pickled names the place alone."""
    objects.put("a", b"b")
    pickled = pickle.dumps(objects)
    assert b"secret" not in pickled
    assert pickle.loads(pickled).get("a") == b"b"


def test_an_object_that_is_replaced_while_it_is_read_is_one_of_the_two(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of both never come together."""
    monkeypatch.setattr(buckets, "BLOCK_BYTES", 100)
    objects.put("a", b"1" * 1000)
    stop, is_replaced = threading.Event(), threading.Event()

    def replace() -> None:
        for number in itertools.cycle(b"23"):
            if stop.wait(0.005):
                return
            objects.put("a", bytes([number]) * (1000 + number))
            is_replaced.set()

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert is_replaced.wait(60)
        for _ in range(20):
            try:
                size = objects.get_file("a", tmp_path / "copy").size
            except StorageError:
                continue  # replaced at each of five tries
            body = (tmp_path / "copy").read_bytes()
            assert len(body) == size
            assert len(set(body)) == 1
    finally:
        stop.set()
        writer.join()
    assert objects.get_file("a", tmp_path / "copy").size > 1000


def test_a_create_that_met_another_one_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 while two write at once, also where none of them gets the key in the end."""
    objects = Objects(tmp_path)
    create, conflicts = objects._storage.create, iter(range(3))

    def refuse(key: str, body: bytes | Path) -> str | None:
        if next(conflicts, None) is not None:
            raise ExistsError(key)
        return create(key, body)

    monkeypatch.setattr(objects._storage, "create", refuse)
    monkeypatch.setattr(store, "_CONFLICT_PAUSE_S", 0)
    objects.put_new("a", b"a")
    assert objects.get("a") == b"a"
    conflicts = iter(range(1000))
    with pytest.raises(StorageError, match="somebody else is writing it"):
        objects.put_new("b", b"b")


@pytest.mark.cluster
def test_a_listing_that_is_cut_goes_on_where_it_stopped(bucket: Bucket, s3_server: Seaweed) -> None:
    """Of more keys than one page holds each comes once."""
    direct = Objects(bucket)
    keys = {f"records/00/train-{number:06}.parquet" for number in range(1100)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: direct.put(key, b""), keys))
    with FaultyStorage(s3_server.url, share=0.6, seed=3, kinds=("cut", "error", "reset_after")) as storage:
        objects = Objects(bucket, endpoint_url=storage.url)
        for _ in range(3):
            found = [each.key for each in objects.list("records")]
            assert len(found) == len(keys)
            assert set(found) == keys
        assert storage.faults["cut"] > 0


@pytest.mark.cluster
def test_of_two_writers_on_a_faulty_storage_one_wins_and_knows_it(bucket: Bucket, s3_server: Seaweed) -> None:
    """Whoever is told to have put an object finds these bytes there; the other one is told that they are not."""
    with FaultyStorage(s3_server.url, share=0.3, seed=5, slow_s=0.05) as storage:
        writers = [Objects(bucket, endpoint_url=storage.url) for _ in range(2)]

        def put(number: int) -> bool:
            try:
                writers[number % 2].put_new(f"key-{number // 2}", f"{number % 2}".encode() * 1000)
            except ExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, range(60)))
        for key in range(30):
            assert won[2 * key] != won[2 * key + 1]
            assert writers[0].get(f"key-{key}") == (b"0" if won[2 * key] else b"1") * 1000


@pytest.mark.cluster
def test_large_objects_come_and_go_through_a_faulty_storage(
    bucket: Bucket, s3_server: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one request, in parts, in blocks; an object that is replaced in parts is the old or the new one."""
    monkeypatch.setattr(buckets, "_ONE_PUT_BYTES", 6 << 20)
    monkeypatch.setattr(buckets, "BLOCK_BYTES", 5 << 20)
    body = random.Random(2).randbytes(12 << 20)
    (tmp_path / "body").write_bytes(body)
    with FaultyStorage(s3_server.url, share=0.15, seed=11, slow_s=0.05) as storage:
        objects = Objects(bucket, endpoint_url=storage.url)
        objects.put_new("one", tmp_path / "body")
        objects.put("parts", tmp_path / "body")
        for key in ("one", "parts"):
            objects.get_file(key, tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == body
            assert objects.holds(key, len(body), hashlib.md5(body).hexdigest())
        assert objects.copy("one", "parts").size == len(body)


@pytest.mark.cluster
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_every_create_through_a_faulty_storage_ends_as_one_whole_object(
    share: float, bucket: Bucket, s3_server: Seaweed
) -> None:
    """Errors and resets before and after the commit, cut answers: nobody takes the own first write for another's."""
    with FaultyStorage(s3_server.url, share=share, seed=7, slow_s=0.05) as storage:
        objects = Objects(bucket, endpoint_url=storage.url)
        bodies = {f"shards/{number}": os.urandom(1000 + number) for number in range(60)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: objects.put_new(key, bodies[key]), bodies))
            assert list(pool.map(objects.get, bodies)) == list(bodies.values())
        assert {each.key: each.size for each in objects.list("")} == {key: len(bodies[key]) for key in bodies}
        assert storage.faults.total() > 0
    assert len(s3_server.keys(bucket.name)) == len(bodies)
