"""The options of a download past one machine: what they take, and what does not go with them."""

from pathlib import Path
from typing import Any

import pytest

import oid_async
from oid_async.errors import UsageError
from oid_async.options.query import Options

PACKED: dict[str, Any] = {"format": "webdataset", "no_files": True}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("local:3", "local:3"),
        ("local:03", "local:3"),
        (" tcp://10.0.0.1:8786/ ", "tcp://10.0.0.1:8786"),
        ("tls://head.cluster:8786", "tls://head.cluster:8786"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
        ("array", "array"),
        (None, None),
    ],
)
def test_a_cluster_is_workers_here_an_address_or_an_array(given: str | None, read: str | None) -> None:
    """Each form of the contract is taken, a trailing slash and blanks round it are not held against who copied it."""
    assert Options(cluster=given, **PACKED).cluster == read
    assert Options(cluster=given, **PACKED).is_distributed is (read is not None)


@pytest.mark.parametrize(
    "given",
    ["local", "local:0", "local:-1", "local:9999", "local:x", "array:3", "tcp://host", "tcp://host:0", "tcp://h:70000",
     "udp://host:1", "http://host:1", "tcp://user:secret@host:1", "", "slurm", 3, True],
)  # fmt: skip
def test_any_other_cluster_is_refused_by_one_line(given: Any) -> None:
    """One line names the option; a password in an address is not repeated."""
    with pytest.raises(UsageError, match="--cluster") as caught:
        Options(cluster=given, **PACKED)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("given", "read"), [("64M", 64 << 20), ("4G", 4 << 30), (1, 1)])
def test_a_part_has_a_size_in_bytes(given: Any, read: int) -> None:
    """It is read as every size is."""
    assert Options(cluster="array", part_size=given, **PACKED).part_size == read


@pytest.mark.parametrize("given", ["4.1G", "5T", "0", "many", None])
def test_a_part_that_no_storage_takes_by_one_request_is_refused(given: Any) -> None:
    """S3 takes 5 GiB by one request."""
    with pytest.raises(UsageError, match="--part-size"):
        Options(cluster="array", part_size=given, **PACKED)


@pytest.mark.parametrize(
    "given",
    [
        {"shard": "1/3"},
        {"top_up": True, "limit": 5},
        {"kinds": ["narrative"], "traces": True},
        {"kinds": ["narrative"], "voice": True},
        {"out": "elsewhere"},
        {"shard_size": "5M"},
        {"export_splits": "80/20"},
        {"format": "coco"},
        {"format": None, "no_files": False},
        {"no_files": False},
        {"cluster": "array", "mirror": "somewhere"},
        {"cluster": "tcp://127.0.0.1:1", "mirror": "file:///somewhere"},
        {"cluster": None, "part_size": "5M"},
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_by_one_line(given: dict[str, Any]) -> None:
    """The line names both options, before anything is done."""
    with pytest.raises(UsageError, match="--") as caught:
        Options(**({"cluster": "local:2"} | PACKED | given))
    assert "\n" not in str(caught.value)


def test_a_folder_as_mirror_goes_with_workers_of_this_machine(tmp_path: Path) -> None:
    """They reach what this process serves."""
    assert Options(cluster="local:2", mirror=str(tmp_path), **PACKED).mirror == str(tmp_path)


def test_a_stream_is_of_one_machine() -> None:
    """What workers fetch elsewhere is not handed out here."""
    with pytest.raises(UsageError, match="download"):
        oid_async.stream(cluster="local:2", **PACKED)
