"""`plan --ids`: the selected images as a list, to a file, a pipe or stdout."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.published import Box, Dataset, Image, image_names

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import StorageError, UsageError

BALL, CAT = "/m/018xm", "/m/01yrx"
IDS = [f"{number:016x}" for number in range(1, 7)]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder of six images in two splits, one id in both, of which the even ones show a ball."""
    images = [Image(image_id) for image_id in IDS[:4]]
    images += [Image(image_id, split="validation") for image_id in (IDS[1], *IDS[4:])]
    boxes = [Box(image.image_id, CAT if int(image.image_id, 16) % 2 else BALL, split=image.split) for image in images]
    return Dataset([(BALL, "Ball"), (CAT, "Cat")], images, boxes).publish(tmp_path / "mirror")


BALLS = [f"train/{IDS[1]}", f"validation/{IDS[1]}", f"train/{IDS[3]}", f"validation/{IDS[5]}"]


def test_a_plan_writes_the_images_it_selects(mirror: Path, tmp_path: Path) -> None:
    """The file has a line an image, in order of ImageID and of the splits, and takes the place of an older one."""
    target = tmp_path / "ids.txt"
    target.write_text("of yesterday\n")
    query: dict[str, Any] = {"categories": ["Ball"], "splits": ["all"], "mirror": mirror, "savepath": tmp_path / "d"}
    plan = asyncio.run(oid_async.plan(**query, ids=target))
    assert target.read_text().splitlines() == BALLS
    assert plan.selected == len(BALLS)
    asyncio.run(oid_async.plan(**query, shard="2/2", ids=target))
    assert target.read_text().splitlines() == BALLS[1::2]
    assert not list(tmp_path.glob(".oid-async-*"))


def test_a_plan_hands_its_images_to_a_download(mirror: Path, tmp_path: Path) -> None:
    """`plan --ids - | download --image-ids - --kind none` brings the images of the query; the pipe has ids alone."""
    program = f"{sys.executable} -m oid_async"
    where = f"--mirror {mirror}"
    words = f"{program} plan --category Ball --split all {where} --ids - | tee {tmp_path}/seen | "
    words += f"{program} download --image-ids - --kind none {where} --savepath {tmp_path}/d --json"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=60, check=False)
    assert (tmp_path / "seen").read_text().splitlines() == BALLS
    assert json.loads(done.stdout)["downloaded"] == len(BALLS)
    assert image_names(tmp_path / "d") == [f"{IDS[1]}.jpg", f"{IDS[1]}_{IDS[1]}_validation.jpg"] + [
        f"{image_id}.jpg" for image_id in (IDS[3], IDS[5])
    ]
    assert "4 images selected" in done.stderr


def test_ids_of_an_unknown_split_stand_alone(mirror: Path, tmp_path: Path) -> None:
    """Where the image table names no split the line is the id."""
    table = tmp_path / "images.csv"
    table.write_text("ImageID,OriginalURL\n" + "".join(f"{each},https://example.org/{each}.jpg\n" for each in IDS))
    target = tmp_path / "ids.txt"
    query: dict[str, Any] = {"mirror": mirror, "image_url": table, "kinds": ["none"], "savepath": tmp_path / "d"}
    asyncio.run(oid_async.plan(**query, ids=target))
    assert target.read_text().splitlines() == IDS


def test_a_pipe_gets_the_ids(mirror: Path, tmp_path: Path) -> None:
    """A FILE that is a pipe is written to, and stays one."""
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    asyncio.run(oid_async.plan(mirror=mirror, categories=["Ball"], ids=pipe, savepath=tmp_path / "d"))
    reader.join(10)
    assert read == [f"train/{IDS[1]}\ntrain/{IDS[3]}\n"]
    assert pipe.is_fifo()


async def test_a_pipe_that_nobody_reads_holds_up_no_cancellation(mirror: Path, tmp_path: Path) -> None:
    """Cancelled while it waits for a reader, and while a full pipe is not read, a plan ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ids = [f"train/{number:016x}" for number in range(10_000)]
    query: dict[str, Any] = {"mirror": mirror, "image_ids": ids, "kinds": ["none"], "savepath": tmp_path / "d"}
    for reader in (None, os.O_RDONLY | os.O_NONBLOCK):
        file = None if reader is None else os.open(pipe, reader)
        task = asyncio.create_task(oid_async.plan(**query, ids=pipe))
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()
        if file is not None:
            os.close(file)


def test_a_link_is_replaced_and_not_followed(mirror: Path, tmp_path: Path) -> None:
    """What a link of the file's name points to stays as it was."""
    other, target = tmp_path / "other", tmp_path / "ids.txt"
    other.write_text("mine")
    target.symlink_to(other)
    asyncio.run(oid_async.plan(mirror=mirror, categories=["Ball"], ids=target, savepath=tmp_path / "d"))
    assert (other.read_text(), target.is_symlink()) == ("mine", False)


@pytest.mark.parametrize("place", ["", "missing/ids.txt", "-"])
def test_a_place_that_cannot_be_is_refused_before_anything_is_fetched(place: str, tmp_path: Path) -> None:
    """A folder, a missing folder, and in Python stdout: a UsageError that names it."""
    with pytest.raises(UsageError, match=r"ids.*(folder|stdout)"):
        asyncio.run(oid_async.plan(mirror=tmp_path / "no mirror", ids=place if place == "-" else tmp_path / place))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path: Path) -> None:
    """Exit code 3, and the file is named."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"ids\.txt"):
        asyncio.run(oid_async.plan(mirror=tmp_path / "no mirror", ids=tmp_path / "ids.txt"))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--ids", "-", "--json"], "--ids - and --json"),
        (["download", "--dry-run", "--ids", "/dev/stdout", "--json"], "--json"),
        (["download", "--ids", "ids.txt"], "--dry-run"),
    ],
)
def test_ids_that_cannot_go_together_are_wrong_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two answers on stdout, and a list of a download, are exit 2 with a line that says what to do."""
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_a_file_and_json_go_together(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """stdout has the JSON and nothing else, the file the ids."""
    words = ["--category", "Ball", "--mirror", str(mirror), "--savepath", str(tmp_path / "d")]
    assert cli.main(["download", "--dry-run", *words, "--json", "--ids", str(tmp_path / "ids.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["selected"] == 2
    assert len((tmp_path / "ids.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(("redirected", "code"), [(">/dev/full", 3), ("| true", 0)])
def test_a_stdout_that_takes_no_ids(redirected: str, code: int, mirror: Path, tmp_path: Path) -> None:
    """A full one is exit 3 with a line; a reader that leaves is no error, and nothing is said."""
    words = [
        sys.executable,
        "-m",
        "oid_async",
        "plan",
        "--mirror",
        mirror,
        "--savepath",
        tmp_path,
        "--quiet",
        "--ids -",
    ]
    line = f"{' '.join(map(str, words))} {redirected}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "error: stdout" in done.stderr, bool(done.stderr)) == (code, bool(code), bool(code))
