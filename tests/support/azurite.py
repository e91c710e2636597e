"""Azurite, Microsoft's emulator of Azure's Blob storage: installed by npm, started on loopback."""

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

# The emulator's own, published in its documentation: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
# What the command `az` reads.
CREDENTIALS = {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY}


class AzuriteMissingError(Exception):
    """Azurite cannot be installed here; the text says why."""


def installed(folder: Path) -> Path:
    """Install Azurite below a folder and return its program. Raises AzuriteMissingError."""
    if shutil.which("npm") is None:
        raise AzuriteMissingError("Azurite needs npm, which is not installed")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "azurite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise AzuriteMissingError(f"npm install azurite: exit {done.returncode} {done.stderr[-200:]}")
    return folder / "node_modules/.bin/azurite-blob"


@contextmanager
def running_azurite(program: Path, folder: Path, container: str) -> Iterator[str]:
    """Start Azurite with an empty container; yield the endpoint's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `timeout` ends it when this process dies before it can.
    command = ["timeout", "--kill-after=5", "900", str(program), "--silent", "--disableTelemetry"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        _await(port)
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _make(url, container)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _await(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, "Azurite did not start"
            time.sleep(0.1)


def _make(url: str, container: str) -> None:
    """Make a container: one request, signed by https://learn.microsoft.com/rest/api/storageservices (Shared Key)."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{container}", "restype:container"])
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    request = urllib.request.Request(f"{url}/{container}?restype=container", method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
