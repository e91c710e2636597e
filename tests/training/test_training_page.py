"""The programs of docs/training.md run as they stand: forked and spawned workers, two ranks, a folder and a stream."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.published import publish_lookalike, read_manifest

from oid_async.events import ignore
from oid_async.jobs.demo import demo_run

# A process that imports PyTorch takes some seconds to start, of which a busy machine makes a minute.
pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# Ranks meet in a file and talk over loopback: the store of PyTorch would listen on every interface.
RANK = """
import os, runpy, sys, torch.distributed
init = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda backend: init(
    backend, init_method="file://" + os.environ["MEETING"], rank=int(os.environ["RANK"]), world_size=2
)
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demo_data/ as `oid-async demo` leaves it, and the programs of the page."""
    root = tmp_path_factory.mktemp("training")
    asyncio.run(demo_run(root / "demo_data", root / "cache", ignore).download())
    for block in BLOCKS:
        if name := re.match(r"# (\w+\.py)\n", block):
            (root / name[1]).write_text(block)
    publish_lookalike(root / "mirror")
    return root


def started(folder: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """Start Python in the folder; the mirror is the look-alike's."""
    env = os.environ | {"OID_ASYNC_MIRROR": str(folder / "mirror"), "GLOO_SOCKET_IFNAME": "lo"} | environment
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def said(process: "subprocess.Popen[str]") -> list[tuple[int, float]]:
    """Return number of images and loss of each epoch, as a program prints them."""
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    lines = re.findall(r"^epoch (\d): (\d+) images, loss ([\d.]+)$", out, re.MULTILINE)
    assert [epoch for epoch, *_ in lines] == ["0", "1"], out + err
    return [(int(count), float(loss)) for _, count, loss in lines]


def test_the_program_trains_on_a_folder(folder: Path) -> None:
    """With forked workers: each epoch has every saved image, and the second one a smaller loss."""
    saved = [row for row in read_manifest(folder / "demo_data") if row["Status"] == "ok"]
    (first, loss), (second, less) = said(started(folder, "train.py", "fork"))
    assert first == second == len(saved)
    assert less < loss


def test_the_program_trains_while_it_downloads(folder: Path) -> None:
    """With spawned workers: each epoch has every image of the query."""
    (first, _), (second, _) = said(started(folder, "stream.py", "spawn"))
    assert first == second > 10


def test_the_lines_that_go_on_in_the_middle_of_an_epoch_run(folder: Path) -> None:
    """What a state was taken behind, and what comes after it, are an epoch between them."""
    out, err = started(folder, "resume.py").communicate(timeout=250)
    assert out == "6 images\n6 images\n", err


@pytest.mark.parametrize(("program", "start"), [("train.py", "spawn"), ("stream.py", "fork")])
def test_two_ranks_share_the_images(folder: Path, program: str, start: str, tmp_path: Path) -> None:
    """With DistributedDataParallel each rank has as many images of each epoch as the other."""
    environment = {"MEETING": str(tmp_path / "meeting"), "WORLD_SIZE": "2"}
    ranks = [started(folder, "-c", RANK, program, start, RANK=str(rank), **environment) for rank in range(2)]
    (first, second), (others, more) = ([count for count, _ in said(rank)] for rank in ranks)
    assert first == second == others == more > 5


def test_the_lines_of_a_folder_run(folder: Path) -> None:
    """What the page shows first prints a dataset, an image and its classes; its transform keeps boxes with an area."""
    code = BLOCKS[0] + next(block for block in BLOCKS if "for_torchvision" in block)
    check = "image, target = for_torchvision(image, target)\nprint(target['area'].shape, target['boxes'].shape)"
    out, err = started(folder, "-c", f"{code}\n{check}").communicate(timeout=60)
    assert re.match(r"OpenImages\('.*demo_data', 312 images, \d+ classes\) torch\.Size\(\[3, \d+, \d+\]\) \['", out), (
        err
    )
