"""`prune`: what the query of a folder does not select goes, and nothing else."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.published import image_names, run_cli

import oid_async
from oid_async.errors import InputError, LockedError
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock


async def test_images_of_earlier_queries_go_and_nothing_else(tmp_path: Path) -> None:
    """Foreign and altered files stay, links keep their bytes; what is wanted again later is fetched again."""
    objects, out = Lookalike(staged=False), tmp_path / "out"
    async with Origin(objects.serve) as origin:
        query: Any = {"mirror": origin.url, "savepath": out, "splits": ["validation"]}
        await oid_async.download(**query, kinds=["bbox", "segmentation"])
        masks = len(os.listdir(out / "segmentation" / "masks"))
        before = {name: (out / "images" / name).read_bytes() for name in image_names(out)}
        await oid_async.export(savepath=out, format="yolo")
        await oid_async.download(**query, limit=10)
        selected = set(oid_async.open(out).images.collect().get_column("FileName"))
        altered, foreign = sorted(before.keys() - selected)[0], "holiday.jpg"
        (out / "images" / altered).write_bytes(before[altered][:-1])
        (out / "images" / foreign).write_bytes(b"mine")
        (out / "segmentation" / "masks" / "mine.png").write_bytes(b"mine")
        counted = await asyncio.to_thread(run_cli, "prune", out, "--dry-run", "--json")
        assert (counted.code, len(image_names(out))) == (0, 41)
        pruned = await oid_async.prune(out)
        assert json.loads(counted.stdout) == {**pruned.as_json(), "dry_run": True}
        assert (pruned.images, pruned.masks, pruned.left) == (29, masks, 1)
        assert set(image_names(out)) == {*selected, altered, foreign}
        assert os.listdir(out / "segmentation" / "masks") == ["mine.png"]
        links = list((out / "export").rglob("*.jpg"))
        assert sorted(path.read_bytes() for path in links if path.name != altered) == sorted(
            body for name, body in before.items() if name != altered
        )
        (out / "images" / altered).unlink()
        (out / "images" / foreign).unlink()
        (out / "segmentation" / "masks" / "mine.png").unlink()
        again = await asyncio.to_thread(run_cli, "prune", out)
        assert again.stdout == f"0 images (0 bytes) removed from {out}\n"
        assert (await oid_async.verify(savepath=out)).clean
        report = await oid_async.download(**query)
    assert (report.present, report.downloaded, report.unselected) == (10, 30, 0)
    assert {name: (out / "images" / name).read_bytes() for name in image_names(out)} == before


async def test_without_a_finished_run_nothing_is_removed(tmp_path: Path) -> None:
    """One line and exit 2 for a folder without a manifest or with an interrupted query, exit 4 while a run is on."""
    objects, out = Lookalike(staged=False), tmp_path / "out"
    with pytest.raises(InputError, match="nothing: there is no such folder"):
        await oid_async.prune(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no manifest to prune by"):
        await oid_async.prune(tmp_path / "empty")
    assert not (tmp_path / "nothing").exists()
    async with Origin(objects.serve) as origin:
        query: Any = {"mirror": origin.url, "savepath": out, "splits": ["validation"]}
        await oid_async.download(**query)
        async with oid_async.stream(**{**query, "splits": ["train"]}) as outcomes:
            await anext(outcomes)
    there = image_names(out)
    done = await asyncio.to_thread(run_cli, "prune", out)
    assert done.code == 2
    assert done.stderr == (
        f"oid-async: error: {out}: its download has not come to its end, so nothing is removed; "
        "run it to its end first\n"
    )
    assert image_names(out) == there
    async with Origin(objects.serve) as origin:
        await oid_async.download(mirror=origin.url, savepath=out, splits=["train"])
    lock = FolderLock.take(Folder(out))
    try:
        for dry_run in (True, False):
            with pytest.raises(LockedError):
                await oid_async.prune(out, dry_run=dry_run)
    finally:
        lock.release()
