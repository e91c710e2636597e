"""What `plan` says of a run: counts after all limits, known and unknown sizes, masks, narratives, room on the disk."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import Box, Dataset, Image, publish_lookalike

import oid_async
from oid_async.cli import main as cli
from oid_async.errors import StorageError
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES, MEAN_MASK_BYTES
from oid_async.openimages.vocabulary import Source
from oid_async.report import Plan
from oid_async.screen.plan_text import plan_lines
from oid_async.select.plan import _size

BALL, CAT, DOG = "/m/018xm", "/m/01yrx", "/m/0bt9lr"
IDS = [f"{number:016x}" for number in range(1, 9)]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder of eight images: a ball in each, a cat in every second, a dog in the last."""
    images = [Image(image_id) for image_id in IDS]
    boxes = [Box(image_id, BALL) for image_id in IDS] + [Box(image_id, CAT) for image_id in IDS[1::2]]
    boxes += [Box(IDS[7], DOG)] * 2
    return Dataset([(BALL, "Ball"), (CAT, "Cat"), (DOG, "Dog")], images, boxes).publish(tmp_path / "mirror")


def planned(**query: Any) -> Plan:
    return asyncio.run(oid_async.plan(**query))


def only_free(monkeypatch: pytest.MonkeyPatch, free: int | Callable[[Path], int]) -> None:
    """Let every disk have so many bytes left."""
    monkeypatch.setattr("oid_async.jobs.planning.plan.free_bytes", free if callable(free) else lambda path: free)


def table_of_sizes(path: Path, sizes: list[int | None]) -> Path:
    """Write an image table with these sizes of originals, None for one that nobody knows."""
    rows = [f"{IDS[at]},https://e.org/{at}.jpg,{'' if size is None else size}\n" for at, size in enumerate(sizes)]
    path.write_text("ImageID,OriginalURL,OriginalSize\n" + "".join(rows))
    return path


def test_classes_are_counted_after_all_limits(mirror: Path, tmp_path: Path) -> None:
    """Of each category the selected images, and beside them those that there are; splits and roles say the same."""
    query: dict[str, Any] = {"mirror": mirror, "savepath": tmp_path / "d"}
    plan = planned(**query, categories=["Cat", "Dog"], limit=3)
    assert (plan.classes, plan.candidates) == ({"Cat": 3, "Dog": 0}, {"Cat": 4, "Dog": 1})
    assert (plan.splits, plan.roles) == ({"train": 3}, {"selected": 3, "negative": 0})
    assert plan_lines(plan)[1:4] == [
        "class  selected  candidates",
        "Cat           3           4",
        "Dog           0           1",
    ]


@pytest.mark.parametrize("kind", ["bbox", "none"])
def test_without_categories_every_class_is_counted(mirror: Path, tmp_path: Path, kind: str) -> None:
    """Each class of the annotations that select counts its selected images, the most frequent first."""
    plan = planned(mirror=mirror, savepath=tmp_path / "d", image_ids=[*IDS[4:]], kinds=[kind])
    assert list(plan.classes.items()) == ([("Ball", 4), ("Cat", 2), ("Dog", 1)] if kind == "bbox" else [])
    assert plan.candidates == {}


def test_a_plan_lists_some_classes_and_counts_the_rest(mirror: Path, tmp_path: Path) -> None:
    """Six hundred classes are no answer for a terminal: twenty are shown."""
    plan = planned(mirror=mirror, savepath=tmp_path / "d")
    many = {f"class {number}": number for number in range(30)}
    lines = plan_lines(Plan(**{name: getattr(plan, name) for name in Plan.__dataclass_fields__} | {"classes": many}))
    assert sum(line.startswith("class ") for line in lines) == 21
    assert "and 10 more classes: --json has all of them" in lines


def test_known_sizes_count_where_others_are_unknown(tmp_path: Path, mirror: Path) -> None:
    """The sum is of what is known, and of a mean for each of the others, whose number is said."""
    images = table_of_sizes(tmp_path / "images.csv", [1000, None, 2000, None])
    query: dict[str, Any] = {"image_url": images, "mirror": mirror, "kinds": ["none"], "savepath": tmp_path / "d"}
    plan = planned(**query, source=["original"])
    assert (plan.bytes, plan.bytes_unknown, plan.bytes_exact) == (3000 + 2 * MEAN_IMAGE_BYTES, 2, False)
    assert "the sizes of 2 are unknown and taken as 315.0 kB each" in plan_lines(plan)[0]
    plan = planned(**query, source=["original"], limit=1)
    assert (plan.bytes, plan.bytes_unknown, plan.bytes_exact) == (1000, 0, True)
    # A thumbnail has another size than the original.
    plan = planned(**query, source=["thumbnail"], limit=1)
    assert (plan.bytes, plan.bytes_unknown) == (MEAN_IMAGE_BYTES, 1)


def test_what_the_bucket_lacks_has_the_size_of_the_next_source() -> None:
    """The bucket's own sizes where it has an image; else those of the originals, or nothing where no other is asked."""
    frame = pl.DataFrame({"CopyBytes": [10, None, None, None], "OriginalSize": ["500", "600", None, "700"]})
    frame = frame.with_columns(InBucket=pl.Series([True, False, False, None]))
    cases: list[tuple[Source, ...]] = [("cvdf", "original"), ("cvdf",), ("cvdf", "thumbnail")]
    sizes = [frame.select(_size(sources)).to_series().to_list() for sources in cases]
    assert sizes == [[10, 600, None, None], [10, 0, 0, None], [10, None, None, None]]


def test_too_little_disk_for_what_is_known_stops_before_the_first_image(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mirror and with unknown sizes among the images, too; `plan` says it and is no error."""
    only_free(monkeypatch, 2999)
    images = table_of_sizes(tmp_path / "images.csv", [1000, None, 2000])
    query: dict[str, Any] = {"image_url": images, "mirror": mirror, "kinds": ["none"], "source": ["original"]}
    query |= {"savepath": tmp_path / "d"}
    plan = planned(**query)
    said = f"3.0 kB are to be fetched and 3.0 kB are free in {tmp_path / 'd'}"
    assert (plan.disk_needed, plan.disk_free) == (3000, 2999)
    assert plan_lines(plan)[-1].startswith(f"too little disk: {said}; free some space, choose another --savepath")
    with pytest.raises(StorageError, match=r"^3\.0 kB are to be fetched"):
        asyncio.run(oid_async.download(**query))
    assert not (tmp_path / "d" / "images").exists()
    only_free(monkeypatch, 3000)
    assert planned(**query).too_little_disk is None


@pytest.mark.parametrize(
    ("export", "needed", "what"),
    [
        ({"format": "webdataset"}, 6000, "copies in the export 3.0 kB"),
        ({"format": "parquet", "no_files": True}, 6000, "copies in the export 3.0 kB"),
        ({"format": "coco", "copy": True}, 6000, "copies in the export 3.0 kB"),
        ({"format": "coco"}, 3000, None),
        ({"format": "webdataset", "max_side": 100}, 3000, None),
        ({"format": "webdataset", "no_files": True}, 3000, "another --out"),
    ],
)
def test_copies_of_an_export_need_room_too(
    export: dict[str, Any],
    needed: int,
    what: str | None,
    tmp_path: Path,
    mirror: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Formats that hold the images take their bytes once more; links take none, smaller images an unknown number."""
    only_free(monkeypatch, 3500 if needed > 3000 else 2999)
    images = table_of_sizes(tmp_path / "images.csv", [1000, 2000])
    query: dict[str, Any] = {
        "image_url": images,
        "mirror": mirror,
        "kinds": ["none"],
        "source": ["original"],
        "savepath": tmp_path,
    }
    plan = planned(**query, **export)
    assert plan.disk_needed == needed
    assert plan.too_little_disk is not None
    assert what is None or what in plan.too_little_disk


def test_images_that_are_there_are_copied_into_an_export(mirror: Path, tmp_path: Path) -> None:
    """Their bytes are what the export needs, and nothing else is."""
    query: dict[str, Any] = {"mirror": mirror, "savepath": tmp_path / "d", "categories": ["Cat"]}
    report = asyncio.run(oid_async.download(**query))
    plan = planned(**query, format="webdataset")
    assert (plan.to_download, plan.disk_needed) == (0, report.bytes)


def test_each_disk_has_its_own_room(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to another file system is not held against the one of SAVEPATH."""
    images = table_of_sizes(tmp_path / "images.csv", [1000, 2000])
    query: dict[str, Any] = {"image_url": images, "mirror": mirror, "kinds": ["none"], "source": ["original"]}
    other = next((each for each in (Path("/dev/shm"), Path("/run")) if each.is_dir()), None)
    if other is None or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system here")
    only_free(monkeypatch, 3000)
    out = other / "oid-async-none"
    plan = planned(**query, savepath=tmp_path / "d", format="webdataset", out=out)
    assert plan.too_little_disk is None
    only_free(monkeypatch, lambda path: 2999 if path == out else 10**9)
    plan = planned(**query, savepath=tmp_path / "d", format="webdataset", out=out)
    assert plan.too_little_disk is not None
    assert plan.too_little_disk.startswith(
        f"3.0 kB of copies in the export are to be fetched and 3.0 kB are free in {out}"
    )


def test_masks_and_narratives_are_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a mean until the directories of their archives are cached, then to the byte; what is there is not fetched."""
    query: dict[str, Any] = {"mirror": publish_lookalike(tmp_path / "mirror"), "kinds": ["segmentation", "narrative"]}
    query |= {"savepath": tmp_path / "d", "limit": 40}
    plan = planned(**query)
    count = plan.masks["count"]
    assert count == plan.annotations["segmentation"] > 0
    assert (plan.masks["bytes"], plan.masks["bytes_exact"]) == (count * MEAN_MASK_BYTES["train"], False)
    assert plan.masks["archives"] == plan.masks["archives_unknown"] > 0
    report = asyncio.run(oid_async.download(**query))
    saved = (tmp_path / "d" / "narrative" / "narratives.jsonl").stat().st_size
    assert plan.narratives == {"count": plan.annotations["narrative"], "bytes": saved}
    again = planned(**query)
    assert (again.masks["present"], again.masks["bytes"], again.masks["bytes_exact"]) == (count, 0, True)
    fresh = planned(**query | {"savepath": tmp_path / "other"})
    # The directories, which are cached now, are a part of what the report counts.
    assert 0 < fresh.masks["bytes"] < report.masks["bytes"]
    assert (fresh.masks["bytes_exact"], fresh.masks["archives_unknown"]) == (True, 0)
    stored = sum(path.stat().st_size for path in (tmp_path / "d" / "segmentation" / "masks").iterdir())
    assert fresh.disk_needed == stored + saved
    only_free(monkeypatch, fresh.disk_needed - 1)
    fresh = planned(**query | {"savepath": tmp_path / "other"})
    assert fresh.too_little_disk is not None
    assert "masks" in fresh.too_little_disk
    voices = planned(**query | {"savepath": tmp_path / "other", "traces": True, "voice": True})
    assert voices.narratives["traces"] == {"files": 10, "files_unknown": 10, "bytes": 0}
    assert voices.narratives["recordings"] == voices.narratives["count"]


def test_a_plan_with_too_little_disk_is_exit_0_and_a_download_3(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed: a table that promises more than any disk has."""
    images = table_of_sizes(tmp_path / "images.csv", [10**17, None])
    words = ["--imageURL", str(images), "--mirror", str(mirror), "--kind", "none", "--source", "original"]
    words += ["--savepath", str(tmp_path / "d")]
    assert cli.main(["plan", *words]) == 0
    assert "too little disk: 100.0 PB are to be fetched" in capsys.readouterr().out
    assert cli.main(["download", *words]) == 3
    assert "error: 100.0 PB are to be fetched" in capsys.readouterr().err
