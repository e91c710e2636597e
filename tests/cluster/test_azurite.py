"""Azure's Blob storage, as far as its emulator goes. Slow."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.azurite import CREDENTIALS, AzuriteMissingError, installed, running_azurite

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
