"""nginx on 127.0.0.1 for the benchmarks: http or https, answers that come late, or one file under every name."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import BenchError

START_SECONDS = 10
ECHO_MODULE = "ngx_http_echo_module.so"

# Without open_file_cache: with many files it would need more descriptors than the workers have.
CONF = """\
daemon off;
{modules}
{user}
worker_processes 2;
worker_rlimit_nofile 8192;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 4000; }}
http {{
    {log}
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    types {{ image/jpeg jpg; text/csv csv; }}
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        root {root};
        {answers}
    }}
}}
"""
TLS = """ ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.3"""
# echo answers nothing itself: it sleeps on a timer of nginx's event loop and hands the request on.
DELAY = """location / { echo_sleep %.3f; echo_exec @files; }
        location @files { }"""
# A line for each image: the moment at which it was answered, in seconds. nginx opens the file to append to it.
IMAGE_LOG = """map $uri $is_image {{ ~[.]jpg$ 1; default 0; }}
    log_format moment $msec;
    access_log {file} moment buffer=64k flush=1s if=$is_image;"""
ONE_FILE = """location /open-images-dataset/ { rewrite ^ /%s break; }"""


@dataclass(frozen=True)
class Certificate:
    """A throw-away authority and a certificate for 127.0.0.1 in `folder`; clients are told to trust `authority`."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "client.pem"


def make_certificate(folder: Path) -> Certificate:
    folder.mkdir()
    python = harness.peer_python("trustme")
    harness.run_quietly([str(python), "-m", "trustme", "--quiet", "-d", str(folder), "-i", "127.0.0.1"])
    return Certificate(folder)


def echo_module(nginx: Path) -> Path:
    """The module that can delay answers."""
    said = subprocess.run([str(nginx), "-V"], capture_output=True, text=True, check=False).stderr
    places = [word.partition("=")[2] for word in said.split() if word.startswith("--modules-path=")]
    for place in places:
        if (found := Path(place) / ECHO_MODULE).exists():
            return found
    raise BenchError(
        f"nginx has no {ECHO_MODULE} to delay answers with (Debian: apt-get install libnginx-mod-http-echo)"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server came up; false as soon as it has ended."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process.poll() is None
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def serve(
    nginx: Path,
    root: Path,
    *,
    certificate: Certificate | None = None,
    delay_s: float = 0.0,
    one_image: str | None = None,
    image_log: Path | None = None,
) -> Iterator[str]:
    """Serve `root` on a free loopback port; gives the base URL.

    `delay_s` passes before each answer.  `one_image`, a path under `root`, is what every image's address answers.
    `image_log` gets a line for each image that was answered: when, in seconds since the epoch.
    """
    prefix = Path(tempfile.mkdtemp(prefix="oid-bench-nginx-"))
    port = free_port()
    conf = prefix / "nginx.conf"
    try:
        conf.write_text(
            CONF.format(
                modules=f"load_module {echo_module(nginx)};" if delay_s else "",
                user="user root root;" if os.geteuid() == 0 else "",  # else the workers cannot read a private folder
                prefix=prefix,
                port=port,
                log=IMAGE_LOG.format(file=image_log) if image_log else "access_log off;",
                tls=TLS.format(folder=certificate.folder) if certificate else "",
                root=root,
                answers=DELAY % delay_s if delay_s else ONE_FILE % one_image if one_image else "",
            )
        )
        command = [str(nginx), "-p", str(prefix), "-e", str(prefix / "error.log"), "-c", str(conf)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            if not wait_for_port(process, port):
                log = prefix / "error.log"
                raise BenchError("nginx did not start: " + (log.read_text() if log.exists() else "no log"))
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        finally:
            harness.stop_group(process)
    finally:
        shutil.rmtree(prefix, ignore_errors=True)
