"""After a crash the intent log says where the images came from that the journal does not know."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from support.journal_lines import ids, rows
from support.published import Image, read_manifest, tiny_jpeg, tree, write_table
from support.scripted import Answer, Scripted, http

import oid_async
from oid_async.report import Outcome
from oid_async.store import intent_log
from oid_async.store.adoption import take_over
from oid_async.store.folder import Folder
from oid_async.store.journal import Journal


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "d")
    folder.images.mkdir(parents=True)
    folder.state.mkdir()
    return folder


def stored(folder: Folder, image_id: str, source: str = "original") -> Outcome:
    body = tiny_jpeg(image_id)
    sums: dict[str, Any] = {"bytes": len(body), "md5": b64encode(md5(body).digest()).decode()}
    url = f"http://h/{source}/{image_id}.jpg"
    path = str(folder.images / f"{image_id}.jpg")
    return Outcome(image_id, "downloaded", path, source=source, url=url, attempts=1, subset="train", **sums)


def crash(folder: Folder, *outcomes: Outcome) -> None:
    """Leave what a killed process leaves: intents, and the files that it has renamed."""
    journal = Journal(folder.journal)
    for outcome in outcomes:
        journal.intend(outcome)
        assert outcome.path is not None
        outcome.path.write_bytes(tiny_jpeg(outcome.image_id))


def next_run(folder: Folder, *, alone: bool = True) -> None:
    journal = Journal(folder.journal)
    take_over(folder, journal, alone=alone)
    journal.close()


def test_what_was_renamed_is_journalled_by_the_next_run(folder: Folder) -> None:
    """With its source and URL; what was not renamed, or is not what the line says, is not; nothing is left behind."""
    names = ("whole", "other", "cut", "gone")
    crash(folder, *(stored(folder, name) for name in names))
    (folder.images / "other.jpg").write_bytes(tiny_jpeg("another picture"))
    (folder.images / "cut.jpg").write_bytes(tiny_jpeg("cut")[:-7])
    (folder.images / "gone.jpg").unlink()
    next_run(folder)
    (row,) = rows(folder.journal)
    assert (row["ImageID"], row["Source"], row["URL"]) == ("whole", "original", "http://h/original/whole.jpg")
    assert (row["FileName"], row["Subset"], row["Width"]) == ("whole.jpg", "train", None)
    assert not folder.intents.exists()
    next_run(folder)
    assert ids(folder.journal) == ["whole"]


def test_what_is_journalled_is_not_journalled_again(folder: Folder) -> None:
    """An intent that was carried out is no news, and in an orderly end none is left."""
    journal = Journal(folder.journal)
    first, second = stored(folder, "first"), stored(folder, "second")
    for outcome in (first, second):
        journal.intend(outcome)
        assert outcome.path is not None
        outcome.path.write_bytes(tiny_jpeg(outcome.image_id))
    journal.append([first])
    next_run(folder)
    assert ids(folder.journal) == ["first", "second"]
    journal.append([second])
    journal.close()
    assert not folder.intents.exists()


def test_a_full_log_goes_on_in_another_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last intents are kept, however many there were; the files stay small."""
    monkeypatch.setattr(intent_log, "_LINES", 10)
    crash(folder, *(stored(folder, f"{number}") for number in range(35)))
    assert len(list(folder.intents.iterdir())) == 2
    next_run(folder)
    found = {int(image_id or "") for image_id in ids(folder.journal)}
    assert found == set(range(20, 35))


def test_logs_of_another_run_stay(folder: Folder) -> None:
    """Where nothing keeps other runs out, their intents are taken over and left to them."""
    crash(folder, stored(folder, "one"))
    for _ in range(2):
        next_run(folder, alone=False)
        assert ids(folder.journal) == ["one"]
        assert len(list(folder.intents.iterdir())) == 1


def test_a_line_with_a_flipped_byte_is_not_taken_over(folder: Folder) -> None:
    """A source is believed only as it was written."""
    crash(folder, stored(folder, "one"), stored(folder, "two", "cvdf"))
    (log,) = folder.intents.iterdir()
    log.write_bytes(log.read_bytes().replace(b"original\t", b"originaX\t"))
    next_run(folder)
    assert ids(folder.journal) == ["two"]


def test_a_journal_that_cannot_be_written_leaves_the_intents(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk what has its name is journalled by the next run."""
    journal, outcome = Journal(folder.journal), stored(folder, "one")
    journal.intend(outcome)
    assert outcome.path is not None
    outcome.path.write_bytes(tiny_jpeg("one"))

    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("oid_async.store.journal.write_all", refuse)
        with pytest.raises(oid_async.errors.StorageError):
            journal.append([outcome])
    journal.close()
    next_run(folder)
    assert ids(folder.journal) == ["one"]


CALM = "import asyncio, json, sys, oid_async; asyncio.run(oid_async.download(**json.loads(sys.argv[1])))"
KILLED = """
import asyncio, json, os, signal, sys
import oid_async
from oid_async.store.journal import Journal
append = Journal.append
def killed(journal, outcomes):
    outcomes = list(outcomes)
    if any(outcome.status == "downloaded" for outcome in outcomes):
        os.kill(os.getpid(), signal.SIGKILL)
    append(journal, outcomes)
Journal.append = killed
asyncio.run(oid_async.download(**json.loads(sys.argv[1])))
"""
IMAGES = [Image(f"{number:016x}", f"{number:02}_o.jpg") for number in range(1, 41)]


@pytest.mark.programs
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_after_a_kill_the_manifest_says_what_was_asked(tmp_path: Path, processes: int) -> None:
    """An image that the bucket lacks came from its original's address: killed or not, the tables are the same."""
    rows = [
        {"ImageID": image.image_id, "Subset": "train", "OriginalURL": image.url.replace("https:", "http:")}
        for image in IMAGES
    ]
    table = write_table(tmp_path / "images.csv", ["ImageID", "Subset", "OriginalURL"], rows)
    scripts: dict[str, list[Answer]] = {
        f"/open-images-dataset/train/{image.image_id}.jpg": [http(200, image.body)] for image in IMAGES[::2]
    }
    scripts |= {row["OriginalURL"]: [http(200, image.body)] for row, image in zip(rows, IMAGES, strict=True)}
    async with Scripted(scripts) as server:
        environment = os.environ | {"http_proxy": server.url, "no_proxy": "127.0.0.1"}
        query: dict[str, Any] = {
            "mirror": server.url,
            "image_url": str(table),
            "kinds": ["none"],
            "source": ["cvdf", "original"],
            "rate": 0,
            "processes": processes,
        }

        async def run(program: str, name: str) -> int:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program, json.dumps(query | {"savepath": str(tmp_path / name)})),
                env=environment,
                stderr=subprocess.PIPE,
            )
            _, err = await process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), err.decode()
            return process.returncode

        assert await run(CALM, "calm") == 0
        assert await run(KILLED, "killed") == -signal.SIGKILL
        landed = {path.name for path in (tmp_path / "killed" / "images").iterdir()}
        assert landed
        asked = sum(server.requests.values())
        assert await run(CALM, "killed") == 0
        # What had landed is not asked for again; the bucket says no to half of the others.
        assert sum(server.requests.values()) - asked <= 60 - len(landed)
    assert [row["Source"] for row in read_manifest(tmp_path / "killed")] == ["cvdf", "original"] * 20
    one, other = (tree(tmp_path / name) for name in ("killed", "calm"))
    del one["query.json"], other["query.json"]
    assert one == other
