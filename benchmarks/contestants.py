"""The downloaders that are compared: how each is found, called, and where its files end up."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import harness
from corpus import IMAGE_FOLDER, Corpus
from harness import BenchError, Cost

OURS = "oid-async"

# As little as a loop in Python can do for an image: no checks, no journal, no retries, one connection that blocks.
BARE_LOOP = """\
import hashlib
import os
import socket
import sys
from urllib.parse import urlsplit

urls, out, hashes = sys.argv[1:]
with open(urls, encoding="utf-8") as lines:
    addresses = [urlsplit(line.strip()) for line in lines]
host = addresses[0].netloc
name, port = host.split(":")
connection = socket.create_connection((name, int(port)))
buffer = memoryview(bytearray(1 << 20))
for address in addresses:
    connection.sendall(f"GET {address.path} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    have = connection.recv_into(buffer)
    head, _, body = bytes(buffer[:2048]).partition(b"\\r\\n\\r\\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"{address.path}: {head!r}")
    length = head.lower().partition(b"content-length:")[2].split(b"\\r", 1)[0]
    start = len(head) + 4
    end = start + int(length)
    while have < end:
        got = connection.recv_into(buffer[have:])
        if not got:
            sys.exit(f"{address.path}: ended early")
        have += got
    if hashes == "hash":
        hashlib.md5(buffer[start:end], usedforsecurity=False).hexdigest()
    file = os.path.join(out, os.path.basename(address.path))
    part = os.open(file + ".part", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(part, buffer[start:end])
    os.close(part)
    os.rename(file + ".part", file)
"""

# parfive's default is up to five connections for one file, which small files only lose by.
PARFIVE = """\
import sys

import parfive

connections, urls, out = sys.argv[1:]
config = parfive.SessionConfig(file_progress=False)
downloader = parfive.Downloader(max_conn=int(connections), max_splits=1, progress=False, config=config)
with open(urls, encoding="utf-8") as lines:
    for url in lines:
        downloader.enqueue_file(url.strip(), path=out)
errors = downloader.download().errors
sys.exit(str(errors[:3]) if errors else 0)
"""


@dataclass(frozen=True)
class Job:
    """One run: what to fetch from where, whom to trust, and the new folder to work in; files belong under its out/.

    `kept` is a folder that stays from one run of a profile to the next.
    """

    url: str
    corpus: Corpus
    folder: Path
    kept: Path
    connections: int
    authority: Path | None = None

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def first(self, images: int) -> Job:
        """The same with only the first so many images."""
        return replace(self, corpus=self.corpus.first(images))

    def id_list(self) -> str:
        """A new file with one split/image_id a line."""
        file = self.folder / "ids.txt"
        split = Path(IMAGE_FOLDER).name
        file.write_text("".join(f"{split}/{image_id}\n" for image_id in self.corpus.sizes), encoding="utf-8")
        return str(file)

    def url_list(self) -> str:
        """A new file with one address a line."""
        file = self.folder / "urls.txt"
        file.write_text("".join(f"{url}\n" for url in self.corpus.image_urls(self.url)), encoding="utf-8")
        return str(file)


def named_by_id(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its name without `.jpg`: one that does not belong there shows by its name."""
    with os.scandir(folder) as entries:
        return {entry.name.removesuffix(".jpg"): Path(entry.path) for entry in entries}


def in_out(job: Job) -> dict[str, Path]:
    return named_by_id(job.out)


@dataclass(frozen=True)
class Contestant:
    """A downloader: its command for a job, and the files it left there by image id; `variables` are set for it.

    `is_refusing`: it is given images that it must not save, none of them.
    """

    name: str
    version: str
    command: Callable[[Job], list[str]]
    images: Callable[[Job], dict[str, Path]] = in_out
    variables: Callable[[Job], Mapping[str, str]] = field(default=lambda _job: {})
    is_refusing: bool = False

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)


# --- peers ---------------------------------------------------------------------------------------------------


def curl() -> Contestant:
    binary = harness.find_tool("curl")

    def command(job: Job) -> list[str]:
        config = job.folder / "curl.conf"
        config.write_text("".join(f'url = "{url}"\n' for url in job.corpus.image_urls(job.url)))
        quiet = ["-q", "--silent", "--show-error", "--fail"]
        output = ["--remote-name-all", "--output-dir", str(job.out), "-K", str(config)]
        trust = ["--cacert", str(job.authority)] if job.authority else []
        return [str(binary), *quiet, *trust, "-Z", "--parallel-max", str(job.connections), *output]

    return Contestant("curl", harness.tool_version(binary), command)


def aria2c() -> Contestant:
    binary = harness.find_tool("aria2c")

    def command(job: Job) -> list[str]:
        quiet = ["--no-conf", "--quiet=true", "--summary-interval=0", "--download-result=hide"]
        lean = ["--file-allocation=none", "--auto-save-interval=0", "--max-download-result=0", "--deferred-input=true"]
        limits = [f"-j{job.connections}", "--max-connection-per-server=1", "--split=1"]
        trust = [f"--ca-certificate={job.authority}"] if job.authority else []
        return [str(binary), *quiet, *lean, *limits, *trust, "-i", job.url_list(), "-d", str(job.out)]

    return Contestant("aria2c", harness.tool_version(binary), command)


def parfive() -> Contestant:
    python = harness.peer_python("parfive", "parfive")

    def command(job: Job) -> list[str]:
        script = job.folder / "fetch.py"
        script.write_text(PARFIVE, encoding="utf-8")
        return [str(python), str(script), str(job.connections), job.url_list(), str(job.out)]

    return Contestant("parfive", harness.peer_version(python, "parfive"), command)


def img2dataset() -> Contestant:
    """Two processes that store what they receive: no resizing, no encoding, not even a look at the image.

    It names files by their place in the list of addresses and writes a JSON file beside each.
    """
    python = harness.peer_python("img2dataset", "img2dataset")
    processes = 2

    def command(job: Job) -> list[str]:
        # Shards are what the processes share out: at most 1,000 images each, and as many for the one as for the other.
        images = len(job.corpus.sizes)
        shards = processes * -(-images // (processes * 1000))
        options = {
            "--url_list": job.url_list(),
            "--output_folder": str(job.out),
            "--output_format": "files",
            "--disable_all_reencoding": "True",
            "--compute_hash": "md5",
            "--processes_count": str(processes),
            "--thread_count": str(max(1, job.connections // processes)),
            "--number_sample_per_shard": str(-(-images // shards)),
        }
        return [str(python.with_name("img2dataset")), *(word for option in options.items() for word in option)]

    def images(job: Job) -> dict[str, Path]:
        files = sorted(job.out.glob("*/*.jpg"), key=lambda file: file.name)
        return dict(zip(job.corpus.sizes, files, strict=False))

    version = harness.peer_version(python, "img2dataset")
    return Contestant("img2dataset", version, command, images, lambda _job: {"NO_ALBUMENTATIONS_UPDATE": "1"})


def bare_loop(name: str, hashes: str) -> Contestant:
    """The least that a download costs in Python, for http alone: what ours is measured by."""

    def command(job: Job) -> list[str]:
        script = job.folder / "fetch.py"
        script.write_text(BARE_LOOP, encoding="utf-8")
        return [sys.executable, str(script), job.url_list(), str(job.out), hashes]

    return Contestant(name, f"Python {platform.python_version()}", command)


PEERS: dict[str, Callable[[], Contestant]] = {
    "curl": curl,
    "aria2c": aria2c,
    "parfive": parfive,
    "img2dataset": img2dataset,
    "bare-loop": lambda: bare_loop("bare-loop", "hash"),
    "bare-loop --no-hash": lambda: bare_loop("bare-loop --no-hash", "none"),
}


def find_peers(names: list[str]) -> dict[str, Contestant]:
    """Those of the named peers that there are; a missing one is told and left out."""
    found = {}
    for name in names:
        try:
            found[name] = PEERS[name]()
        except BenchError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


# --- our program ---------------------------------------------------------------------------------------------


def offered_options(program: Path) -> str:
    """The help of `download`, to see which options this version has."""
    command = [str(program), "download", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=harness.VERSION_SECONDS, check=False)
    return done.stdout


def our_command(program: Path, job: Job, cache: Path, *options: str) -> list[str]:
    """Download into the job's folder; `options` say which images."""
    fixed = {"--mirror": job.url, "--savepath": str(job.out), "--cache-dir": str(cache), "--names": "id"}
    return [str(program), "download", *(word for option in fixed.items() for word in option), *options, "--json"]


def trusting(job: Job) -> Mapping[str, str]:
    return {"SSL_CERT_FILE": str(job.authority)} if job.authority else {}


def our_images(job: Job) -> dict[str, Path]:
    folder = job.out / "images"
    return named_by_id(folder) if folder.exists() else {}


def ours(program: Path, name: str, *options: str, is_refusing: bool = False) -> Contestant:
    """Our program with a list of ids and more options; it chooses the number of connections itself."""

    def command(job: Job) -> list[str]:
        ids = ("--image-ids", job.id_list(), "--kind", "none")
        return our_command(program, job, job.folder / "cache", *ids, *options)

    return Contestant(name, harness.tool_version(program), command, our_images, trusting, is_refusing)


def ours_from_tables(
    program: Path, name: str, *options: str, category: str | None = None, is_cached: bool = False
) -> Contestant:
    """Our program with the tables to select from: as many images, and their boxes, as the job has.

    Tables are fetched and converted by each run, or only by the first of the profile.
    """

    def command(job: Job) -> list[str]:
        query = ("--split", Path(IMAGE_FOLDER).name, "--limit", str(len(job.corpus.sizes)))
        chosen = ("--category", category) if category else ()
        cache = (job.kept if is_cached else job.folder) / "cache"
        return our_command(program, job, cache, *query, *chosen, *options)

    return Contestant(name, harness.tool_version(program), command, our_images, trusting)


def our_summary(cost: Cost, images: int, *, is_refusing: bool = False) -> dict[str, Any]:
    """The program's own JSON summary, after checking that it claims every image, or the refusal of every one."""
    try:
        summary: dict[str, Any] = json.loads(cost.stdout)
        came_to = (summary["downloaded"], summary["failures"])
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f"unexpected output of the program ({error!r}): {cost.stdout[-500:]!r}") from error
    if came_to != ((0, {"not_image": images}) if is_refusing else (images, {})):
        raise BenchError(f"the program did not {'refuse' if is_refusing else 'download'} {images} images: {summary}")
    return summary
