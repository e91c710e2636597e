"""Labels as they land: the rows and bytes that a stream hands out are those of the saved folder; no file is needed."""

import asyncio
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.published import tiny_jpeg
from support.scripted import Scripted, http
from support.slow_origin import Slow

import oid_async
from oid_async.api import runs
from oid_async.errors import UsageError
from oid_async.jobs import landed_rows
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin
from oid_async.report import Outcome

KINDS = ("boxes", "masks", "relationships", "narratives", "labels", "points")
EVERYTHING: dict[str, Any] = {"kinds": ["all"], "splits": ["test"], "limit": 24}


async def streamed(**query: Any) -> list[Outcome]:
    """Return the outcomes of a stream that is read to its end."""
    async with oid_async.stream(**query) as outcomes:
        return [outcome async for outcome in outcomes]


def rows_of(outcome: Outcome) -> dict[str, Any]:
    return {kind: getattr(outcome, kind) for kind in KINDS}


def saved_rows(saved: oid_async.SavedDataset) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what a reader of the finished folder sees: the rows of each kind by image."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for kind in KINDS:
        rows = found[kind] = {}
        for row in getattr(saved, kind).collect().to_dicts():
            rows.setdefault(row["image_id" if kind == "narratives" else "ImageID"], []).append(row)
    return found


def files_of(savepath: Path) -> Mapping[str, str]:
    """Return the digest of each file that a user sees."""
    files = [path for path in savepath.rglob("*") if path.is_file() and ".oid_async" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def left_in(savepath: Path) -> list[Path]:
    """Return the temporaries and plans that a stream has left."""
    return [path for name in ("tmp", "plan") for path in (savepath / ".oid_async" / name).rglob("*")]


def journalled(savepath: Path) -> list[str]:
    """Return the status in each line of the journal."""
    lines = (savepath / ".oid_async" / "journal.tsv").read_text().splitlines()
    return [line.split("\t")[1] for line in lines]


async def test_a_stream_hands_out_what_the_folder_has(lookalike: Path, tmp_path: Path) -> None:
    """Rows of every kind, bytes and sizes are those of the saved folder: of new images, those there, those not kept."""
    query = {**EVERYTHING, "mirror": lookalike, "savepath": tmp_path / "d", "annotations": True}
    unkept = await streamed(**{**query, "savepath": tmp_path / "unkept"}, keep_files=False)
    assert not (tmp_path / "unkept").exists()
    first, second = await streamed(**query), await streamed(**query)
    assert [{each.status for each in some} for some in (first, second)] == [{"downloaded"}, {"present"}]
    with oid_async.open(tmp_path / "d") as saved:
        images = {row["ImageID"]: row for row in saved.images.collect().iter_rows(named=True)}
        expected = saved_rows(saved)
        assert len(first) == len(second) == len(unkept)
        for outcome in (*first, *second, *unkept):
            assert (outcome.file is None) == (outcome.path is None) == (outcome in unkept)
            image = images[outcome.image_id]
            # As text: so columns are in the same order, and 1 is not 1.0.
            rows = {kind: expected[kind].get(outcome.image_id, []) for kind in KINDS}
            assert repr(rows_of(outcome)) == repr(rows)
            assert outcome.image == saved.image(outcome.image_id)
            assert (outcome.width, outcome.height, outcome.bytes) == (image["Width"], image["Height"], image["Bytes"])
        assert all(expected.values())


async def test_a_finished_folder_stays_as_it_is(lookalike: Path, tmp_path: Path) -> None:
    """Another query's stream without files takes what is there, and changes no file, no table and no list."""
    query: dict[str, Any] = {"mirror": lookalike, "savepath": tmp_path / "d", "splits": ["validation"]}
    report = await oid_async.download(**query, categories=["Person"], image_ids=all_ids(lookalike))
    before = files_of(tmp_path / "d")
    assert report.downloaded
    assert "image_ids.txt" in {Path(name).name for name in before}
    seen = await streamed(**query, keep_files=False, kinds=["none"], image_ids=all_ids(lookalike)[1:])
    statuses = [outcome.status for outcome in seen]
    assert abs(statuses.count("present") - report.downloaded) <= 1
    assert statuses.count("downloaded")
    assert all(outcome.image for outcome in seen)
    assert files_of(tmp_path / "d") == before
    assert left_in(tmp_path / "d") == []
    assert (await oid_async.verify(savepath=tmp_path / "d")).clean
    shutil.rmtree(tmp_path / "d" / ".oid_async")
    (tmp_path / "d" / "manifest.parquet").unlink()
    before = files_of(tmp_path / "d")
    seen = await streamed(**query, keep_files=False, kinds=["none"], image_ids=all_ids(lookalike)[1:])
    assert sorted(outcome.status for outcome in seen) == sorted(statuses), (
        "files that nothing speaks of are taken from there, too"
    )
    assert journalled(tmp_path / "d") == []
    assert files_of(tmp_path / "d") == before


def all_ids(mirror: Path) -> list[str]:
    """Return the ids of the validation split."""
    return sorted(path.stem for path in (mirror / "open-images-dataset" / "validation").iterdir())


def own_tables(folder: Path, url: str, *, twins: bool) -> dict[str, Any]:
    """Write tables of a user's own: ids that are no hex digits, or one id in two splits; rows in no order."""
    ids = ["00000000000000a1", "00000000000000a1", "00000000000000b2"] if twins else ["zebra", "a b", "Ünal-7"]
    splits = ["validation", "train", "train"]
    images = [
        f"{image_id},{split},{url}/{split}/{n}.jpg\n"
        for n, (image_id, split) in enumerate(zip(ids, splits, strict=True))
    ]
    boxes = [f'{image_id},/m/01226z,0.{n},0.9,0.{n},0.5,,""\n' for n in range(3) for image_id in reversed(ids[1:])]
    (folder / "classes.csv").write_text("/m/01226z,Football\n")
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsOccluded,Width\n"
    (folder / "boxes.csv").write_text(head + "".join(boxes))
    (folder / "images.csv").write_text("ImageID,Subset,OriginalURL\n" + "".join(images))
    return {name: folder / f"{file}.csv" for name, file in OWN.items()}


OWN = {"label": "classes", "annotation": "boxes", "image_url": "images"}


@pytest.mark.parametrize("twins", [False, True], ids=["own-ids", "twins"])
async def test_tables_of_a_users_own_have_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: bool
) -> None:
    """Ids of any form, one id in two splits, own columns: as in the folder, however few rows are held."""
    monkeypatch.setattr(landed_rows, "SLICE_IMAGES", 1)
    for most in ("_LEAST_HELD", "_MOST_HELD"):
        monkeypatch.setattr(landed_rows, most, 1)
    paths = {
        f"/{split}/{n}.jpg": tiny_jpeg(split, 8 * n + 8, 8) for n, split in enumerate(("validation", "train", "train"))
    }
    async with Scripted({path: [http(200, body)] for path, body in paths.items()}) as server:
        query = {**own_tables(tmp_path, server.url, twins=twins), "source": ["original"], "splits": ["all"]}
        query |= {"allow_hosts": [server.url.partition("//")[2]], "kinds": ["bbox"], "savepath": tmp_path / "d"}
        without = await streamed(**query, annotations=True, keep_files=False)
        seen = await streamed(**query, annotations=True)
    with oid_async.open(tmp_path / "d") as saved:
        boxes = saved.boxes.collect().to_dicts()
    for some in (seen, without):
        assert len(some) == 2 + twins
        found = [row for outcome in some for row in outcome.boxes]
        assert sorted(map(repr, found)) == sorted(map(repr, boxes))
        for outcome in some:
            assert outcome.image is not None
            assert {row["Width"] for row in outcome.boxes} <= {outcome.width}


@pytest.mark.parametrize("keep_files", [True, False])
async def test_a_stream_that_is_left_goes_on(tmp_path: Path, keep_files: bool) -> None:
    """Leaving the block leaves no task and no temporary; what is there is handed out, with its labels, by the next."""
    objects = Slow(staged=False)
    objects.pause_s = 0.002
    async with Origin(objects.serve) as origin:
        query: dict[str, Any] = {
            "mirror": origin.url,
            "splits": ["validation"],
            "savepath": tmp_path / "d",
            "concurrency": 2,
        }
        query |= {"annotations": True, "keep_files": keep_files}
        seen: list[Outcome] = []
        async with oid_async.stream(**query) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)
                if len(seen) == 5:
                    break
        assert [repr(task) for task in asyncio.all_tasks() if "oid_async." in task.get_name()] == []
        assert [outcome async for outcome in outcomes] == [], "who iterates when the block is left is not left waiting"
        with pytest.raises(RuntimeError, match="a stream runs once"):
            await outcomes.__aenter__()
        kept = outcomes.report.downloaded if keep_files else 0
        assert len(list((tmp_path / "d").glob("images/*"))) == kept
        again = {outcome.image_id: outcome for outcome in await streamed(**query)}
    assert sum(outcome.status == "present" for outcome in again.values()) == kept
    assert len(again) == 40
    for outcome in seen:
        other = again[outcome.image_id]
        assert (outcome.image, rows_of(outcome)) == (other.image, rows_of(other))


async def test_failures_alone_are_remembered(tmp_path: Path) -> None:
    """Without files what failed is journalled and not asked again, and is replaced; rows of it are not handed out."""
    async with Origin(Lookalike().serve) as origin:
        query: dict[str, Any] = {"mirror": origin.url, "splits": ["validation"], "savepath": tmp_path / "d"}
        for _ in range(2):
            seen = await streamed(**query, limit=30, top_up=True, annotations=True, keep_files=False)
            failed = [outcome for outcome in seen if outcome.status == "failed"]
            assert len(seen) == len({outcome.image_id for outcome in seen}) == 30 + len(failed)
            assert failed
            assert all((each.image, each.boxes) == (None, []) for each in failed)
            assert set(journalled(tmp_path / "d")) == {"failed"}
        assert {path.name for path in (tmp_path / "d").iterdir()} == {".oid_async"}
        assert left_in(tmp_path / "d") == []


@pytest.mark.slow
async def test_large_images_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that go to the disk first are handed out whole, and few wait for who takes none."""
    monkeypatch.setattr(runs, "_WAITING_BYTES", 5 << 20)
    jpeg = tiny_jpeg("x" * 60_000)
    bodies = {f"{n:016x}": jpeg * (80 if n % 10 == 1 else 10) for n in range(1, 41)}
    paths = {f"/open-images-dataset/train/{n}.jpg": body for n, body in bodies.items()}
    async with Scripted({path: [http(200, body)] for path, body in paths.items()}) as server:
        query: dict[str, Any] = {"mirror": server.url, "kinds": ["none"], "savepath": tmp_path / "d"}
        query["image_ids"] = [f"train/{image_id}" for image_id in bodies]
        async with oid_async.stream(**query, keep_files=False, concurrency=4) as outcomes:
            seen = [await anext(aiter(outcomes))]
            await asyncio.sleep(0.3)
            # The queue, two batches of two megabytes each, an image more in each of them.
            assert outcomes.report.bytes < (5 + 2 * 2 + 3 * 5) << 20
            seen += [outcome async for outcome in outcomes]
    assert {outcome.image_id: outcome.image for outcome in seen} == bodies
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"annotations": "yes"}, "annotations is True or False"),
        ({"keep_files": 0}, "keep_files is True or False"),
        ({"keep_files": False, "format": "coco"}, "format makes files"),
        ({"keep_files": False, "kinds": ["narrative"], "traces": True}, "traces makes files"),
        ({"annotations": True, "format": "webdataset", "no_files": True}, "no_files packs images"),
        ({"annotations": True, "processes": 2}, "processes=2: a stream with annotations=True is one process"),
    ],
)
def test_what_cannot_be_handed_out_is_refused(given: dict[str, Any], said: str) -> None:
    """One line names the keyword and what to do, before anything is opened."""
    with pytest.raises(UsageError, match=said):
        oid_async.stream(**given)


async def test_other_doors_hand_nothing_out() -> None:
    """`download` and `plan` have no consumer, and an outcome of a plain stream has no rows to look at."""
    for door in (oid_async.download, oid_async.plan):
        with pytest.raises(UsageError, match="annotations is of oid_async"):
            await door(annotations=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"outcome.boxes is of stream\(..., annotations=True\)"):
        _ = Outcome("a", "present", "a.jpg").boxes
