"""What stands in a bucket after a download is for other programs, too: another S3 client, webdataset, Polars."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from support.faulty_storage import FaultyStorage
from support.published import run_cli
from support.seaweed import Seaweed, seaweed
from support.slow_origin import Slow, origin_in_a_thread

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180), pytest.mark.xdist_group("other_readers")]
# How often each method was asked of the storage, by format.
REQUESTS: dict[str, Counter[str]] = {}
BUCKET, PREFIX = "images", "every one"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """Return a server with finished downloads of the look-alike: one of tars, one of Parquet files."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server, pytest.MonkeyPatch.context() as patched:
        server.make_bucket(BUCKET)
        for name, value in server.environment().items():
            patched.setenv(name, value)
        patched.setenv("OID_ASYNC_CACHE", str(tmp_path_factory.mktemp("cache")))
        objects = Slow(staged=False)
        objects.pause_s = 0
        with origin_in_a_thread(objects) as url, FaultyStorage(server.url) as between:
            patched.setenv("AWS_ENDPOINT_URL", between.url)
            for form in ("webdataset", "parquet"):
                query = ["--split", "all", "--format", form, "--no-files", "--part-size", "20M", "--names", "id"]
                place = f"s3://{BUCKET}/{PREFIX}/{form}"
                done = run_cli("download", "--mirror", url, *query, "--savepath", place, "--json")
                assert done.code == 0, done.stderr
                assert json.loads(done.stdout)["downloaded"] == 320
                REQUESTS[form] = Counter(method for method, _ in between.requests.elements())
                between.requests.clear()
        yield server


def read(storage: Seaweed, key: str) -> bytes:
    """Return an object as boto3 reads it."""
    body: bytes = storage.client().get_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}")["Body"].read()
    return body


def manifest(storage: Seaweed, form: str) -> pl.DataFrame:
    """Return the manifest, read by another client, in the order of the shards."""
    return pl.read_parquet(io.BytesIO(read(storage, f"{form}/manifest.parquet"))).sort("Shard", "ImageID")


def test_another_client_lists_and_reads_all_of_it(storage: Seaweed) -> None:
    """Every object that shards.json and the manifest name is there, with its size, ETag and MD5, and no other shard."""
    listed = storage.keys(BUCKET, f"{PREFIX}/webdataset/shards/")
    shards = [shard for shard in json.loads(read(storage, "webdataset/shards.json"))["shards"] if shard["shard"]]
    assert listed == {f"{PREFIX}/webdataset/{shard['shard']}": shard["size"] for shard in shards}
    assert len(shards) > 5
    rows = manifest(storage, "webdataset")
    for shard in shards:
        body = read(storage, f"webdataset/{shard['shard']}")
        head = storage.client().head_object(Bucket=BUCKET, Key=f"{PREFIX}/webdataset/{shard['shard']}")
        assert hashlib.md5(body).hexdigest() == shard["md5"]
        assert head["ETag"].strip('"') == shard["etag"]
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            names = [name for name in tar.getnames() if name.endswith(".jpg")]
        inside = rows.filter(pl.col("Shard") == shard["shard"])
        assert len(names) == shard["samples"] == inside.height
        for offset, size, md5 in inside.select("ShardOffset", "Bytes", "MD5").rows():
            image = body[offset : offset + size]
            assert hashlib.md5(image).digest() == _bytes(md5)
    assert rows.height == 320


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs by curl, which is not installed")
def test_webdataset_reads_the_shards_by_url(storage: Seaweed) -> None:
    """Given the addresses of the shards it brings every sample once, with image and annotations."""
    wds = pytest.importorskip("webdataset", reason='needs pip install "oid-async[s3-test]"')
    rows = manifest(storage, "webdataset")
    urls = [_address(storage, f"webdataset/{shard}") for shard in rows["Shard"].unique(maintain_order=True)]
    seen = [(sample["__key__"], sample["jpg"]) for sample in wds.WebDataset(urls, shardshuffle=False, empty_check=True)]
    assert [key for key, _ in seen] == rows["ImageID"].to_list()
    assert [hashlib.md5(jpeg).digest() for _, jpeg in seen] == [_bytes(md5) for md5 in rows["MD5"]]


def test_parquet_shards_and_tables_are_read_by_polars(storage: Seaweed) -> None:
    """Shards, manifest and boxes are what Polars reads from S3 by itself, with its own client."""
    options = {
        "aws_endpoint_url": storage.url,
        "aws_access_key_id": "testkey",
        "aws_secret_access_key": "testsecret",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    rows = manifest(storage, "parquet")
    shards = [f"s3://{BUCKET}/{PREFIX}/parquet/{shard}" for shard in rows["Shard"].unique(maintain_order=True)]
    images = pl.scan_parquet(shards, storage_options=options, glob=False).collect()
    assert images.height == 320
    column = next(name for name, kind in images.schema.items() if kind == pl.Struct and "bytes" in _fields(kind))
    found = [hashlib.md5(each["bytes"]).digest() for each in images[column]]
    assert found == [_bytes(md5) for md5 in rows["MD5"]]


def test_a_part_costs_as_many_requests_as_the_page_says(storage: Seaweed) -> None:
    """Three PUTs and eight GETs or HEADs a part, and some forty requests a run; none for a single image."""
    for form, requests in REQUESTS.items():
        parts = len(json.loads(read(storage, f"{form}/shards.json"))["shards"])
        assert 3 * parts <= requests["PUT"] <= 3 * parts + 15
        assert requests["GET"] + requests["HEAD"] <= 8 * parts + 40
        assert requests.total() < 11 * parts + 50


def _fields(kind: Any) -> set[str]:
    return {field.name for field in kind.fields}


def _bytes(md5: str) -> bytes:
    return base64.b64decode(md5)


def _address(storage: Seaweed, key: str) -> str:
    """Return an address by which anyone may read an object, as one gives it to a colleague."""
    parameters = {"Bucket": BUCKET, "Key": f"{PREFIX}/{key}"}
    address: str = storage.client().generate_presigned_url("get_object", Params=parameters, ExpiresIn=600)
    return address
