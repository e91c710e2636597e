"""Folders and buckets as people write them."""

from pathlib import Path
from typing import Any

import pytest

from oid_async.errors import UsageError
from oid_async.options.places import Bucket, read_place
from oid_async.options.query import Options


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://my-bucket/open-images", Bucket("s3", "my-bucket", "open-images")),
        ("s3://my-bucket", Bucket("s3", "my-bucket")),
        ("s3://my-bucket/", Bucket("s3", "my-bucket")),
        ("S3://my.old_Bucket/a/b/", Bucket("s3", "my.old_Bucket", "a/b")),
        (" gs://bucket/a b%20~é\n", Bucket("gs", "bucket", "a b%20~é")),
        ("az://container/p", Bucket("az", "container", "p")),
        ("az://$web/p", Bucket("az", "$web", "p")),
        (Bucket("s3", "my-bucket", "p"), Bucket("s3", "my-bucket", "p")),
        ("/data/s3", Path("/data/s3")),
        ("/data/s3://x", Path("/data/s3:/x")),
        (Path("/data"), Path("/data")),
    ],
    ids=str,
)
def test_a_place_is_a_folder_or_a_prefix_in_a_bucket(text: Any, place: object) -> None:
    """Case of the scheme, blanks from copying and a slash at the end do not matter; everything else means itself."""
    assert read_place("--savepath", text) == place


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("az:///x", "names no container"),
        ("s3://My Bucket/x", "no name of a bucket"),
        ("s3://a/x", "no name of a bucket"),
        ("s3://a..b/x", "no name of a bucket"),
        ("gs://UPPER/x", "no name of a bucket"),
        ("az://with_underscore/x", "no name of a container"),
        ("s3://127.0.0.1:9000/bucket", "--endpoint-url"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket//b", "empty part"),
        ("s3://bucket/a/../b", "empty part"),
        ("s3://bucket/./b", "empty part"),
        ("s3://bucket/x?versionId=3", "query"),
        ("az://container/x?sig=SECRET", "query"),
        ("s3://bucket/x#y", "query"),
        ("s3://KEY:SECRET@bucket/x", "user name"),
        ("s3://KEY@bucket/x", "user name"),
        ("s3:/bucket/x", "lost a slash"),
        (Path("s3://bucket/x"), "lost a slash"),
        ("gcs://bucket/x", "write gs://"),
        ("s3a://bucket/x", "write s3://"),
        ("abfss://container@account/x", "az://"),
        ("hdfs://host/x", "s3://, gs://, az://, a path on this disk"),
        ("s3://bucket/a\x1bb", "control characters"),
        ("s3://bucket/" + 901 * "a", "900 bytes"),
        ("s3://bucket/caf\udce9", "UTF-8"),
    ],
    ids=str,
)
def test_what_is_no_place_is_refused_in_one_line(text: Any, says: str) -> None:
    """The line names the option and says how it is written; no secret is in it."""
    with pytest.raises(UsageError) as error:
        read_place("--savepath", text)
    line = str(error.value)
    assert says in line
    assert line.startswith("--savepath")
    assert "SECRET" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:9000", "takes the URL"),
        ("ftp://host", "takes the URL"),
        ("http://", "takes the URL"),
        ("http://host:port", "takes the URL"),
        ("http://ho st", "takes the URL"),
        ("http://KEY:SECRET@host", "user name"),
        ("http://host/?a=SECRET", "query"),
        ("", "takes the URL"),
        (5, "takes the URL"),
    ],
    ids=str,
)
def test_a_wrong_endpoint_is_refused_in_one_line(url: Any, says: str) -> None:
    """The line names the option; no secret is in it."""
    with pytest.raises(UsageError, match=says) as error:
        Options(savepath=Bucket("s3", "bucket"), endpoint_url=url)
    assert "--endpoint-url" in str(error.value)
    assert "SECRET" not in str(error.value)


def test_an_endpoint_is_of_a_bucket() -> None:
    """With a folder it would have no effect."""
    bucket = Bucket("s3", "bucket", "p")
    assert Options(savepath=bucket, endpoint_url="http://127.0.0.1:9/").endpoint_url == "http://127.0.0.1:9"
    with pytest.raises(UsageError, match="--endpoint-url is of a bucket"):
        Options(endpoint_url="http://127.0.0.1:9")


def test_a_bucket_is_filled_by_shards_alone() -> None:
    """Reading a bucket needs no format; a download into one says what is missing."""
    Options(savepath=Bucket("s3", "bucket")).as_json()
    with pytest.raises(UsageError, match="--savepath s3://bucket brings shards alone: say --format webdataset"):
        Options(savepath=Bucket("s3", "bucket")).check_filled()
    with pytest.raises(UsageError, match="this takes a folder on this disk, not s3://bucket"):
        _ = Options(savepath=Bucket("s3", "bucket")).folder
    with pytest.raises(UsageError, match="brings shards alone"):
        Options(savepath=Bucket("s3", "bucket"), format="coco")
    filled = Options(savepath=Bucket("s3", "bucket"), format="webdataset", no_files=True)
    filled.check_filled()
    assert filled.is_distributed
    assert filled.as_json()["savepath"] == "s3://bucket"
