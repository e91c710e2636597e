"""Azure's Blob storage, as far as its emulator goes: objects are put once, and a whole download ends there. Slow."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.azurite import CREDENTIALS, AzuriteMissingError, installed, running_azurite
from support.published import run_cli
from support.slow_origin import Slow, origin_in_a_thread

import oid_async
from oid_async.objects.store import ExistsError, MissingError, Objects
from oid_async.options.places import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the endpoint's address, or skip where Azurite cannot be installed."""
    try:
        program = installed(tmp_path_factory.mktemp("azurite"))
    except AzuriteMissingError as why:
        pytest.skip(str(why))
    with running_azurite(program, tmp_path_factory.mktemp("blobs"), "images") as url:
        yield url


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process and those that it starts the emulator's account."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("credentials")
def test_objects_hold_what_they_promise(azurite: str, tmp_path: Path) -> None:
    """A key is given once, of ten writers to one; ranges, copies, listings and removals do what a folder's do."""
    objects = Objects(Bucket("az", "images", "objects"), endpoint_url=azurite)
    objects.check()
    odd = "shards/train-000003~3f9a12c4 é#%.tar"
    assert objects.put_new(odd, b"0123456789").size == 10
    assert objects.put_new(odd, b"0123456789").size == 10
    with pytest.raises(ExistsError):
        objects.put_new(odd, b"others")
    assert objects.get_ranges(odd, [0, 4, 9], [2, 3, 1]) == [b"01", b"456", b"9"]
    assert objects.head("shards/absent") is None
    with pytest.raises(MissingError):
        objects.get("shards/absent")

    def write(number: int) -> bool:
        try:
            objects.put_new("raced", str(number).encode())
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(10) as threads:
        assert sum(threads.map(write, range(10))) == 1
    objects.copy(odd, "shards/copy.tar")
    assert objects.get("shards/copy.tar") == b"0123456789"
    large = tmp_path / "large"
    large.write_bytes(os.urandom(70 << 20))
    objects.put_new("large", large)
    assert objects.put_new("large", large).size == 70 << 20
    objects.get_file("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert {each.key for each in objects.list("shards")} == {odd, "shards/copy.tar"}
    objects.delete([odd, "shards/copy.tar", "shards/absent", "large", "raced"])
    assert list(objects.list("")) == []


@pytest.mark.usefixtures("credentials")
def test_a_whole_download_ends_there_and_is_read_back(azurite: str) -> None:
    """Two workers write to a container; it is read and verified from there, and the next run asks for nothing."""
    query = ["--names", "id", "--format", "webdataset", "--no-files", "--part-size", "1M", "--endpoint-url", azurite]
    place = "az://images/run"
    objects = Slow(staged=False)
    with origin_in_a_thread(objects) as url:
        command = [
            sys.executable,
            "-m",
            "oid_async",
            "download",
            "--mirror",
            url,
            *query,
            "--savepath",
            place,
            "--json",
        ]
        for expected in (True, False):
            asked = objects.requests.total()
            done = subprocess.run(
                [*command, "--cluster", "local:2"], capture_output=True, text=True, timeout=180, check=False
            )
            assert done.returncode == 0, done.stderr
            assert (objects.requests.total() > asked) == expected
            assert json.loads(done.stdout)["failed"] == 0
    for deep in ((), ("--deep",)):
        checked = run_cli("verify", place, "--endpoint-url", azurite, *deep)
        assert (checked.code, checked.stdout) == (0, ""), checked.stderr
    with oid_async.open(place, endpoint_url=azurite) as saved:
        rows = saved.images.collect()
        assert set(rows["Status"]) == {"ok"}
        assert saved.image(rows["ImageID"][0]).startswith(b"\xff\xd8")
        assert saved.boxes.collect().height > 0
