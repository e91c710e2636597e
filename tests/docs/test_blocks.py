"""Every fenced block of the README and of the pages in docs/ does what it says, on the look-alike.

Commands are carried out, Python is run, other languages are read by who reads them, and what a block shows is what was
said. A page is followed from top to bottom in a folder of its own; what its reader has, and no block makes, is in
`GIVEN`.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.dask_cluster import dask
from support.page_blocks import PAGES, ROOT, Block, blocks_of
from support.page_layouts import assert_layout, is_layout
from support.page_mirror import PageMirror
from support.page_runs import PageRun, assert_shown
from support.published import typed
from support.seaweed import Seaweed, s3_environment
from support.slow_origin import origin_in_a_thread

from oid_async.events import Hold, Holding, Landed, Planned, Stage, TableProgress
from oid_async.options.export import FORMATS
from oid_async.report import Plan, Report
from oid_async.screen.activity import Activity

REGISTRY = "asks a package registry"
BUILDER = "a builder of images: tests/packages/test_dockerfile.py runs its steps"
TORCH = "PyTorch: tests/training/test_training_page.py runs it"
# Blocks that are not run here, and why: a page, and a command or the first line of another block.
NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/oid-async demo"): "in .ci/run",
    ("README.md", 'python3 -m venv .venv && .venv/bin/pip install -q ".[test]" && .venv/bin/pytest'): "in .ci/run",
    ("clusters.md", "import time"): "a Slurm: tests/cluster/test_slurm.py runs it",
    ("clusters.md", 'pip install "oid-async[dask,s3]" dask-jobqueue'): REGISTRY,
    ("clusters.md", "python start_workers.py &"): "a Slurm: tests/cluster/test_slurm.py runs it",
    (
        "clusters.md",
        "from dask_kubernetes.operator import KubeCluster, make_cluster_spec",
    ): "Kubernetes with the operator of Dask",
    ("clusters.md", "sbatch download.sh"): "a Slurm: tests/cluster/test_slurm.py runs it",
    ("clusters.md", "docker build --tag registry.example.org/oid-async:0.2.0 ."): BUILDER,
    (
        "clusters.md",
        "kubectl create secret generic bucket-credentials --from-env-file=credentials.env",
    ): "Kubernetes",
    ("clusters.md", "kubectl apply -f job.yaml"): "Kubernetes: tests/docs/test_clusters_page.py reads the file",
    (
        "clusters.md",
        "aws s3api put-bucket-lifecycle-configuration --bucket my-bucket --lifecycle-configuration file://lifecycle.json",
    ): "AWS: tests/docs/test_clusters_page.py reads the file",
    ("clusters.md", "python benchmarks/cluster.py --rounds 2 --seconds 32"): "some minutes of a quiet machine",
    ("formats.md", "features = {"): "TensorFlow: tests/formats/test_own_readers.py",
    ("formats.md", "hf upload-large-folder you/dogs demo_data/export/parquet --repo-type=dataset"): "the Hub",
    ("formats.md", "import numpy as np"): "TensorFlow's models: tests/formats/test_evaluation.py runs it",
    ("formats.md", "results = dataset.evaluate_detections("): "FiftyOne: tests/formats/test_evaluation.py runs it",
    ("lab-mirror.md", "# /etc/nginx/conf.d/open-images.conf"): "nginx, and the public buckets behind it",
    ("lab-mirror.md", "server { listen 8080; root /srv/mirror; }"): "nginx",
    ("looking.md", "ssh -L 8000:127.0.0.1:8000 machine"): "another machine",
    ("looking.md", 'pip install "oid-async[view]"'): REGISTRY,
    ("start.md", "python3 -m venv .venv"): "in .ci/run",
    ("start.md", ". .venv/bin/activate"): "needs the line before",
    ("start.md", "pip install ."): "in .ci/run",
    ("start.md", "pip install oid_async-*.whl"): "in .ci/run",
    ("start.md", "docker build --tag oid-async ."): BUILDER,
    (
        "start.md",
        'docker run --rm --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" --volume oid_cache:/cache '
        '--volume "$PWD:/data" oid-async demo',
    ): BUILDER,
    ("training.md", 'pip install "oid-async[torch]"'): REGISTRY,
    ("training.md", "from oid_async.torch import OpenImages"): TORCH,
    ("training.md", "def for_torchvision(image, target):"): TORCH,
    ("training.md", "# train.py"): TORCH,
    ("training.md", "# stream.py"): TORCH,
    ("training.md", "# resume.py"): TORCH,
}
# Pages that take longer than a few seconds.
LONG = ("choosing.md", "fetching.md", "formats.md", "index.md", "lab-mirror.md", "looking.md", "start.md")
# The page that needs a bucket and a cluster has a test of its own.
CLUSTERS = ROOT / "docs" / "clusters.md"
# What `aws s3 cp` does, for readers that are given it: AWS' own program wants other libraries than ours.
AWS = """\
#!{python}
import sys
import boto3
bucket, key = sys.argv[3].removeprefix("s3://").split("/", 1)
body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
sys.stdout.buffer.write(body) if sys.argv[4] == "-" else open(key.rpartition("/")[2], "wb").write(body)
"""


def program(*words: str) -> Callable[[Path], None]:
    """Return what makes a file or a folder by a command of the program."""

    def make(path: Path) -> None:
        done = typed(*words, path)
        assert done.code == 0, done.stderr

    return make


def send_manifest(path: Path) -> None:
    """Leave what a colleague sends."""
    shutil.copyfile(path.parent / "Football_data" / "manifest.parquet", path)


demo = program("demo")
football = program("download", "--category", "Football", "--kind", "all", "--split", "all", "--savepath")
# What a reader has before the first block of a page.
GIVEN: dict[str, dict[str, Callable[[Path], None]]] = {
    "folder.md": {"Football_data": football},
    "formats.md": {"Football_data": football, "demo_data": demo},
    "looking.md": {"demo_data": demo},
    "python.md": {"demo_data": demo},
    "repeat.md": {"Football_data": football, "colleague.parquet": send_manifest},
}


@pytest.fixture(scope="module")
def mirror(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of the look-alike."""
    with origin_in_a_thread(PageMirror(lookalike, tmp_path_factory.mktemp("own_tables"))) as url:
        yield url


def progress(run: PageRun) -> str:
    """Return what a run says of a table, of images while a host makes it wait, and of a stage."""
    activity = Activity()
    for second in range(10):
        done = (800 + 40 * second) * 10**6
        activity.note(TableProgress("oidv6-train-annotations-bbox.csv", done, 2_300_000_000))
        activity.sample(float(second))
    lines = activity.lines(9.0)
    activity = Activity()
    report = Report(savepath="d", failed=2, pending=49_998)
    activity.note(Planned(planned(50_000)))
    for second in range(4):
        report.downloaded, report.bytes = 308 * (second + 1), 3_080_000 * (second + 1)
        report.pending = 49_998 - report.downloaded
        activity.note(Landed((), report))
        activity.sample(float(second))
    activity.note(Holding((Hold("paused", "staticflickr.com", 7, until=time.time() + 90, trouble="HTTP 429"),)))
    lines += activity.lines(3.0)
    activity.note(Holding())
    activity.note(Stage("writing the result tables"))
    activity.sample(0.0)
    return "\n".join([*lines, *activity.lines(45.0)])


def planned(to_download: int) -> Plan:
    """Return the plan of so many images, of which nothing else is known."""
    plan = Plan.__new__(Plan)
    for name, value in {"selected": to_download, "present": 0, "to_download": to_download, "seconds": None}.items():
        object.__setattr__(plan, name, value)
    return plan


def address_of_gallery(run: PageRun) -> str:
    """Return what `view` says first."""
    return run.program("view", "demo_data").stderr


def said_before(run: PageRun) -> str:
    """Return what the block before has said."""
    return run.said


# Blocks that show what is said elsewhere than right above them.
SHOWN: dict[tuple[str, str], Callable[[PageRun], str]] = {
    ("looking.md", "view: http://127.0.0.1:41783/?token=8kJ…"): address_of_gallery,
    ("looking.md", "fetching oidv6-train-annotations-bbox.csv: 1.2 of 2.3 GB, 40.0 MB/s, about 28 s left"): progress,
}


def check_text(run: PageRun, block: Block) -> None:
    """Compare a block that only shows something with a folder, or with what was said."""
    if block.is_drawing:
        return
    form = block.before.removeprefix("## ")
    if is_layout(block.text):
        of_export = form in FORMATS
        saved = "demo_data" if of_export else "Football_data"
        run.program("export", saved, "--format", form if of_export else "coco", "--processes", "1")
        folder = run.folder / saved / f"export/{form}" if of_export else run.folder / saved
        assert_layout(block.text, folder)
    else:
        said = SHOWN.get((block.page.name, block.first), said_before)(run)
        assert said, "shows what nothing before it has said: see SHOWN"
        assert_shown(block.text.splitlines(), said)


LONGER = (pytest.mark.programs, pytest.mark.timeout(300))
PAGES_HERE = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=LONGER if page.name in LONG else ())
    for page in PAGES
    if page != CLUSTERS and blocks_of(page)
]
TRAINING_PAGES = [
    page
    for page in PAGES
    if any(block.needs_torch and (page.name, block.first) not in NOT_RUN for block in blocks_of(page))
]


@pytest.mark.parametrize("page", PAGES_HERE)
def test_blocks_do_what_they_say(page: Path, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Followed from top to bottom, every command ends well and selects something, every other block holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OID_ASYNC_MIRROR", mirror)
    assert followed(page, [block for block in blocks_of(page) if not block.needs_torch], mirror) == []


@pytest.mark.torch
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", TRAINING_PAGES, ids=lambda page: page.name)
def test_blocks_that_train_do_what_they_say(
    page: Path, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with blocks that import PyTorch."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OID_ASYNC_MIRROR", mirror)
    assert followed(page, blocks_of(page), mirror) == []


def followed(page: Path, blocks: Sequence[Block], mirror: str) -> list[str]:
    """Run blocks of a page in the present folder; return what went wrong."""
    folder = Path.cwd()
    for name, make in GIVEN.get(page.name, {}).items():
        make(folder / name)
    if any("examples/" in block.text for block in blocks):
        # The page is followed in a checkout.
        (folder / "examples").symlink_to(ROOT / "examples")
    here = {"http://mirror.lab:8080": mirror, "/srv/open-images-cache": str(folder / "cache_of_all")}
    run = PageRun(folder, check_text, not_run=not_run_of(page), stands_for=here)
    for block in blocks:
        run.run(block)
    return run.wrong


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("dask")
def test_blocks_of_the_page_of_clusters_do_what_they_say(
    mirror: str, s3_server: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a storage server and a cluster of Dask in place of those that it names; downloads find an empty bucket."""
    environment = s3_environment(s3_server.url) | {"OID_ASYNC_MIRROR": mirror}
    # As the first task of an array.
    environment |= {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(AWS.format(python=sys.executable), encoding="utf-8")
    aws.chmod(0o755)
    environment["PATH"] = f"{aws.parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    s3_server.make_bucket("my-bucket")
    with dask("a", within_s=300) as (address, *_):
        here = {"/shared": str(tmp_path), "http://10.0.0.5:8333": s3_server.url, "tcp://10.0.0.1:40123": address}
        run = PageRun(tmp_path, check_place, not_run=not_run_of(CLUSTERS), stands_for=here, as_program=True)
        for block in blocks_of(CLUSTERS):
            if "oid-async download" in block.text and "s3://my-bucket" in block.text:
                empty(s3_server, "my-bucket")
            if "shards.json" in block.text and block.kind == "python":
                subprocess.run([aws, "s3", "cp", "s3://my-bucket/person/shards.json", "."], check=False)
            run.run(block)
    assert run.wrong == []


def check_place(run: PageRun, block: Block) -> None:
    """Compare what the page shows of a place with the one that the array has filled."""
    assert_layout(block.text, run.folder / "person")


def empty(server: Seaweed, bucket: str) -> None:
    """Remove every object of a bucket."""
    for key in server.keys(bucket):
        server.client().delete_object(Bucket=bucket, Key=key)


def not_run_of(page: Path) -> frozenset[str]:
    """Return what of a page is not run."""
    return frozenset(text for name, text in NOT_RUN if name == page.name)


def test_every_fence_is_a_block() -> None:
    """No block of a page is overlooked."""
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert 2 * len(blocks_of(page)) == len(fences), page.name


def test_what_is_not_run_is_known() -> None:
    """Each exception is a command or a block of its page, once, and there are no more than these."""
    assert len(NOT_RUN) == 32
    texts: dict[str, list[str]] = {page.name: [] for page in PAGES}
    for page in PAGES:
        for block in blocks_of(page):
            texts[page.name] += block.commands if block.kind == "commands" else [block.first]
    stale = [entry for entry in (*NOT_RUN, *SHOWN) if texts.get(entry[0], []).count(entry[1]) != 1]
    assert stale == []
    assert set(LONG) | set(GIVEN) <= set(texts)
    named = [path for why in NOT_RUN.values() for path in re.findall(r"tests/[\w/]+\.py", why)]
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_what_a_reader_has_is_needed() -> None:
    """A file or folder that is laid beside a page is named by its blocks, or shown by them."""
    for page in PAGES:
        text = "".join(block.text for block in blocks_of(page))
        shows = any(block.kind == "text" for block in blocks_of(page))
        unused = [name for name in GIVEN.get(page.name, {}) if name not in text]
        assert unused in ([], ["demo_data"] if shows else []), page.name
