"""What is promised of objects in a folder alone: nothing leaves it, nothing half is seen, what is left is found."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oid_async.errors import StorageError, UsageError
from oid_async.objects import folder
from oid_async.objects.store import MissingError, ObjectInfo, Objects

_HALF = """
import os, sys, time
from pathlib import Path
import oid_async.objects.folder as folder
is_folder = lambda file: os.path.isdir(f"/proc/self/fd/{file}")
folder.os.fsync = lambda file: is_folder(file) or (print("half", flush=True), time.sleep(60))
folder.FolderStorage(Path(sys.argv[1])).create("shards/a.tar", b"bytes")
"""


def test_a_folder_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only buckets go through obstore."""
    for name in ("obstore", "boto3"):
        monkeypatch.setitem(sys.modules, name, None)
    objects = Objects(tmp_path)
    objects.check()
    objects.put_new("a/b", b"c")
    assert objects.get("a/b") == b"c"


def test_no_link_is_followed_out_of_the_place(tmp_path: Path) -> None:
    """A link in the place of a folder or of an object is refused in one line, and not listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"theirs")
    place = tmp_path / "place"
    objects = Objects(place)
    objects.put("a", b"ours")
    (place / "shards").symlink_to(outside)
    (place / "link").symlink_to(outside / "secret")
    for key in ("shards/new", "shards/secret"):
        with pytest.raises(StorageError, match="it is a link, not a folder"):
            objects.put_new(key, b"ours")
        with pytest.raises(StorageError, match="it is a link"):
            objects.get(key)
    with pytest.raises(StorageError, match="it is a link"):
        objects.get("link")
    with pytest.raises(StorageError, match="it is a link"):
        objects.put_new("link", b"ours")
    objects.put("link", b"ours")
    assert (outside / "secret").read_bytes() == b"theirs"
    assert os.listdir(outside) == ["secret"]
    assert sorted(each.key for each in objects.list("")) == ["a", "link"]


@pytest.mark.parametrize("key", ["../a", "x/../../a", "./a/b", "x//b"])
def test_no_key_leaves_the_place(key: str, tmp_path: Path) -> None:
    """Keys are ours; one that a file gave is not believed."""
    with pytest.raises(StorageError, match="no folder's name"):
        Objects(tmp_path / "place").put_new(key, b"")
    assert not (tmp_path / "a").exists()


def test_a_place_behind_a_link_is_the_users_choice(tmp_path: Path) -> None:
    """The folder itself may be a link, as on clusters /scratch often is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    objects = Objects(tmp_path / "link")
    objects.put_new("x/a", b"a")
    assert [each.key for each in objects.list("")] == ["x/a"]
    assert (tmp_path / "real" / "x" / "a").read_bytes() == b"a"


def test_what_a_killed_writer_leaves_is_found_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    """Neither is an object: the name comes last."""
    objects = Objects(tmp_path)
    with subprocess.Popen([sys.executable, "-c", _HALF, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        assert list(objects.list("")) == []
        assert list(objects.leftovers()) == []
        writer.kill()
        writer.wait()
    left = list(objects.leftovers())
    assert [each.key.partition("#")[0] for each in left] == ["shards/a.tar"]
    assert list(objects.list("shards")) == []
    objects.put_new("shards/a.tar", b"other")
    objects.delete(each.key for each in left)
    assert list(objects.leftovers()) == []
    assert os.listdir(tmp_path / "shards") == ["a.tar"]


def test_foreign_names_with_a_number_sign_are_objects(tmp_path: Path) -> None:
    """Only what looks exactly as our own temporary names is none."""
    (tmp_path / "notes#1").write_bytes(b"theirs")
    (tmp_path / "a#0123456789abcdef.txt").write_bytes(b"theirs")
    objects = Objects(tmp_path)
    assert len(list(objects.list(""))) == 2
    assert list(objects.leftovers()) == []


def test_bytes_are_on_the_disk_before_an_object_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, name and folder, in this order."""
    calls: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(file: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{file}") else "file")
        fsync(file)

    def linked(*names: str, **folders: int) -> None:
        calls.append("name")
        link(*names, **folders)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    Objects(tmp_path).put_new("a", b"bytes")
    assert calls == ["file", "name", "folder"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """At the start, and where it becomes one later."""
    (tmp_path / "file").touch()
    objects = Objects(tmp_path / "file")
    with pytest.raises(UsageError, match="it is no folder"):
        objects.check()
    with pytest.raises(StorageError):
        objects.put_new("a", b"")
    Objects(tmp_path / "absent").check()
    assert not (tmp_path / "absent").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_in_one_line(tmp_path: Path) -> None:
    """With what to do about it."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="no permission to write here"):
        Objects(tmp_path / "place").put_new("a", b"")


def test_a_full_disk_leaves_nothing_under_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to do; the temporary file is gone."""

    def full(file: object, body: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "_write", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        Objects(tmp_path).put_new("a", b"bytes")
    assert list(Objects(tmp_path).list("")) == []
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_place_of_an_object_is_none(tmp_path: Path) -> None:
    """It is not there to read, and cannot be replaced."""
    objects = Objects(tmp_path)
    objects.put("a/b", b"")
    with pytest.raises(MissingError):
        objects.get("a")
    with pytest.raises(StorageError):
        objects.put("a", b"")
    with pytest.raises(StorageError, match="it is a folder"):
        objects.put_new("a", b"")


def test_a_file_that_is_taken_for_a_leftover_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end may look between the moment when a writer makes a file and that when it locks it."""
    objects, lock = Objects(tmp_path), fcntl.flock
    removed: list[ObjectInfo] = []

    def late(file: Any, how: int) -> None:
        if len(removed) < 2 and how & fcntl.LOCK_EX:
            removed.extend(objects.leftovers())
            objects.delete([removed[-1].key])
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    objects.put_new("a/b", b"bytes")
    assert len(removed) == 2
    assert objects.get("a/b") == b"bytes"
    assert os.listdir(tmp_path / "a") == ["b"]
