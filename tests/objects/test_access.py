"""Where a bucket is and whose credentials are used: as the storage's own tools find them."""

import pickle
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.faulty_storage import FaultyStorage
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, s3_environment

from oid_async.errors import OidError, StorageError, UsageError
from oid_async.objects import aws, bucket, opening
from oid_async.objects.aws import bucket_region, s3_access
from oid_async.objects.opening import Patience, azure_settings
from oid_async.objects.store import Objects
from oid_async.options.places import Bucket

PLACE = Bucket("s3", "bucket", "p")
KEY_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, and no look-up of any beyond loopback."""
    for name, value in s3_environment(None).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ACCOUNT", *KEY_NAMES):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_extra_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every storage."""
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    for place in (PLACE, Bucket("gs", "bucket"), Bucket("az", "container")):
        with pytest.raises(UsageError, match=r'need one more package: pip install "oid-async\[s3\]"'):
            Objects(place).check()


def test_the_storage_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment of the run says where the bucket is, that of a worker need not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    pickled = pickle.dumps(Objects(Bucket("s3", "bucket")))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(pickled).endpoint_url == "http://127.0.0.1:1"


def test_without_boto3_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint and region in boto3's order; credentials are left to obstore."""
    monkeypatch.setattr(aws, "find_spec", lambda name: None)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert s3_access(PLACE, None) == aws.S3Access("https://s3.eu-west-3.amazonaws.com", "eu-west-3", None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    assert s3_access(PLACE, None).endpoint_url == "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    assert s3_access(PLACE, None).endpoint_url == "http://127.0.0.1:2"
    assert s3_access(PLACE, "http://127.0.0.1:3").endpoint_url == "http://127.0.0.1:3"


def test_the_region_of_a_bucket_of_aws_is_looked_up() -> None:
    """Any answer about it names the region, one that refuses, too; without an answer there is none."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403 if self.path == "/closed" else 200)
            self.send_header("x-amz-bucket-region", "eu-west-3")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert bucket_region("closed", url) == bucket_region("open", url) == "eu-west-3"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert bucket_region("open", url) is None


def test_azure_is_found_by_the_variables_of_its_command_line() -> None:
    """A connection string counts before single variables."""
    found = azure_settings({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "k=="})
    assert found == {"account_name": "a", "account_key": "k=="}
    text = "DefaultEndpointsProtocol=http;AccountName=b;AccountKey=x==;BlobEndpoint=http://127.0.0.1:10000/b/;"
    found = azure_settings({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_CONNECTION_STRING": text})
    assert found == {"account_name": "b", "account_key": "x==", "endpoint": "http://127.0.0.1:10000/b"}
    with pytest.raises(UsageError, match="set AZURE_STORAGE_ACCOUNT"):
        Objects(Bucket("az", "container")).check()


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """Return where a configuration file of AWS's tools may be."""
    return tmp_path / "config"


@pytest.mark.cluster
def test_a_profile_brings_keys_and_endpoint(
    configured: Path, bucket: Bucket, s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile may have its keys from a program, too; what it prints is asked for by boto3."""
    for name in (*KEY_NAMES, "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configured))
    script = configured.with_name("keys.py")
    script.write_text(f'print(\'{{"Version": 1, "AccessKeyId": "{ACCESS_KEY}", "SecretAccessKey": "{SECRET_KEY}"}}\')')
    configured.write_text(
        f"[profile ours]\nregion = us-east-1\nservices = here\ncredential_process = {sys.executable} {script}\n"
        f"[services here]\ns3 =\n  endpoint_url = {s3_server.url}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "ours")
    Objects(bucket).put_new("a", b"a")
    assert s3_server.keys(bucket.name) == {f"{bucket.prefix}/a": 1}
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    with pytest.raises(UsageError, match=r"profile \(theirs\) could not be found"):
        Objects(bucket).check()


@pytest.mark.cluster
def test_without_boto3_obstore_finds_keys_itself(
    bucket: Bucket, s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the environment."""
    monkeypatch.setattr(aws, "find_spec", lambda name: None)
    Objects(bucket).put_new("a", b"a")
    assert len(s3_server.keys(bucket.name)) == 1
    for name in KEY_NAMES:
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        Objects(bucket).check()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "other"}, "the storage does not know this access key"),
        ({"AWS_SECRET_ACCESS_KEY": "0ther5ecret"}, "the secret key does not fit the access key"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials for it: set"),
        ({"AWS_SKIP_SIGNATURE": "true"}, "not allowed to list it (403 AccessDenied)"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "nothing listens at http://127.0.0.1:9 (connection refused)",
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense; check AWS_ENDPOINT_URL"),
        ({"AWS_CA_BUNDLE": "/absent/ca.pem"}, "AWS_CA_BUNDLE: /absent/ca.pem cannot be read"),
    ],
    ids=str,
)
def test_what_is_wrong_at_the_start_is_one_line(
    environment: dict[str, str], says: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names what to set; no secret is in it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    with pytest.raises(UsageError) as error:
        Objects(bucket).check()
    line = str(error.value)
    assert says in line
    assert "0ther5ecret" not in line
    assert "\n" not in line


@pytest.mark.cluster
def test_a_missing_bucket_is_one_line_at_the_start_and_later(bucket: Bucket, tmp_path: Path) -> None:
    """Also where the first thing done is to write, or the bucket goes away."""
    absent = Bucket("s3", "absent-bucket", "p")
    with pytest.raises(UsageError, match=r"^s3://absent-bucket/p: no such bucket; make it, or check its name"):
        Objects(absent).check()
    for call in (lambda: Objects(absent).put_new("a", b""), lambda: list(Objects(absent).list(""))):
        with pytest.raises(StorageError, match="no such bucket"):
            call()


@pytest.mark.cluster
def test_a_silent_storage_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start soon; later after some patience, or at once when the run was ended."""
    for name in KEY_NAMES:
        monkeypatch.setenv(name, "key")
    monkeypatch.setattr(bucket, "_CHECK", Patience(timeout_s=1, retries=2, for_s=1))
    with FaultyStorage("http://127.0.0.1:9") as nothing_behind:
        # A server that accepts and resets.
        objects = Objects(PLACE, endpoint_url=nothing_behind.url)
        with pytest.raises(UsageError, match=r"breaks connections off|no connection"):
            objects.check()
        monkeypatch.setattr(bucket, "_PATIENCE_S", 0.5)
        with pytest.raises(StorageError, match="then run again to go on"):
            objects.put_new("a", b"a")
        monkeypatch.setattr(bucket, "_PATIENCE_S", 100)
        threading.Timer(0.5, objects.close).start()
        started = time.monotonic()
        with pytest.raises(OidError):
            objects.put_new("a", b"a")
        assert time.monotonic() - started < 20
