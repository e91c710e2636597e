"""What every test has: caches and mirrors of its own, never the user's."""

import itertools
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser
from support.browser import Windows, started_browser
from support.gallery_folders import hostile_folder, pixel_folder
from support.gallery_server import Served, served
from support.published import publish_lookalike
from support.reader_environments import reader_python
from support.seaweed import Seaweed, s3_environment, seaweed

from oid_async.events import ignore
from oid_async.jobs.demo import demo_run, write_mirror
from oid_async.options.places import Bucket

# Where PyTorch is not installed its tests are left out.
collect_ignore_glob = [] if find_spec("torch") is not None else ["training/*"]

# On a machine with other work a test is slow, and no worse for that.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test, and what it starts, an empty metadata cache, no mirror and no part of a cluster's."""
    folder = tmp_path / "metadata-cache"
    monkeypatch.setenv("OID_ASYNC_CACHE", str(folder))
    monkeypatch.delenv("OID_ASYNC_MIRROR", raising=False)
    # Where tests run on a cluster, none of them is a part.
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def lookalike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder of the look-alike in which nothing fails and box rows stand in no order. Only read it."""
    return publish_lookalike(tmp_path_factory.mktemp("lookalike"))


@pytest.fixture(scope="session")
def demo_mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the mirror folder that examples/ run offline with; some images are missing. Only read it."""
    folder = tmp_path_factory.mktemp("examples") / "demo_mirror"
    write_mirror(str(folder))
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """Return a SeaweedFS on loopback, one for all tests of a process; they carry the marker `cluster`."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def datumaro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with datumaro and CVAT's SDK, made for the first slow test that asks."""
    return reader_python(tmp_path_factory.mktemp("datumaro"), "datumaro==1.13.12", "cvat-sdk[masks]==2.80.0")


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with Label Studio's SDK, whose converter reads tasks."""
    return reader_python(tmp_path_factory.mktemp("label_studio"), "label-studio-sdk==2.1.2")


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with TensorFlow, 1 GB of it, and tfrecord."""
    return reader_python(tmp_path_factory.mktemp("tensorflow"), "tensorflow-cpu==2.21.0", "tfrecord==1.14.6")


@pytest.fixture(scope="session")
def imagefolder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with datasets, which loads folders of pictures."""
    return reader_python(tmp_path_factory.mktemp("imagefolder"), "datasets>=5.2", "Pillow")


_buckets = itertools.count()


@pytest.fixture
def bucket(s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a prefix in a new bucket of the server; a test, and what it starts, finds endpoint and keys."""
    for name, value in s3_environment(s3_server.url).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    name = f"test-{next(_buckets)}"
    s3_server.make_bucket(name)
    return Bucket("s3", name, "some/prefix")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Return a Chromium, started once in a process; its tests carry `pytest.mark.asyncio(loop_scope="session")`."""
    async with started_browser() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def windows(browser: Browser) -> AsyncIterator[Windows]:
    """Return the windows of a test in which nothing may go wrong: see `Windows.assert_quiet`."""
    opened = Windows(browser)
    try:
        yield opened
    finally:
        await opened.close()
    opened.assert_quiet()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the demo: 320 images of three splits, all kinds of annotations, 8 failures."""
    path = tmp_path_factory.mktemp("looked_at")
    await demo_run(path / "demo", path / "cache", ignore).download()
    return path / "demo"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def demo(demo_folder: Path) -> AsyncIterator[Served]:
    """Return the gallery of the demo's folder."""
    async with served(demo_folder) as gallery:
        yield gallery


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pixels(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Return the gallery of a folder of uniform images with one box and one mask."""
    async with served(pixel_folder(tmp_path_factory.mktemp("pixels") / "folder")) as gallery:
        yield gallery


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hostile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Return the gallery of a folder in which every text is hostile."""
    async with served(hostile_folder(tmp_path_factory.mktemp("hostile") / "folder")) as gallery:
        yield gallery
