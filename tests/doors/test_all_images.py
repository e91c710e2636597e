"""--images all: images without boxes can be chosen, from the one published table of every split."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import oid_async
from oid_async.errors import UsageError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import LABEL_COLUMNS

(EVERY,) = published("all_images", ())
PERSON = "/m/01g317"


def rows_of(mirror: Path) -> pl.DataFrame:
    """Return the published rows of all images."""
    return pl.read_csv(mirror / EVERY.bucket / EVERY.key, infer_schema=False)


def without_boxes(mirror: Path) -> list[str]:
    """Return the images of train that are in no table of the images with boxes, sorted."""
    (boxable,) = published("images", ("train",))
    known = pl.read_csv(mirror / boxable.bucket / boxable.key, infer_schema=False).get_column("ImageID")
    others = rows_of(mirror).filter(~pl.col("ImageID").is_in(known.implode()), Subset="train")
    return others.get_column("ImageID").sort().to_list()


@pytest.fixture
def query(lookalike: Path, tmp_path: Path) -> dict[str, Any]:
    return {"mirror": lookalike, "savepath": tmp_path / "out", "images": "all"}


async def test_every_image_of_the_asked_splits_can_be_chosen(lookalike: Path, query: dict[str, Any]) -> None:
    """The one table has all splits: --split and lists choose among its rows; a listed split is read alone."""
    by_split = dict(rows_of(lookalike).group_by("Subset").len().iter_rows())
    for splits in (["train"], ["validation", "test"], ["all"]):
        plan = await oid_async.plan(**query, kinds=["none"], splits=splits)
        wanted = by_split if splits == ["all"] else {split: by_split[split] for split in splits}
        assert plan.splits == wanted
    assert (await oid_async.plan(**query, kinds=["none"])).splits == {"train": by_split["train"]}
    unboxed = without_boxes(lookalike)
    listed = [f"train/{image_id}" for image_id in unboxed] + ["test/" + unboxed[0]]
    # --image-where needs the table; without it such a list is enough.
    plan = await oid_async.plan(**query, kinds=["none"], image_ids=listed, image_where="OriginalSize > 0")
    assert (plan.selected, plan.unknown_ids) == (len(unboxed), 1)
    usual = await oid_async.plan(
        **(query | {"images": "boxable"}), kinds=["none"], image_ids=listed, image_where="OriginalSize > 0"
    )
    assert (usual.selected, usual.unknown_ids) == (0, len(listed))


async def test_labels_choose_images_without_boxes(
    lookalike: Path, query: dict[str, Any], tmp_path: Path, site: Path
) -> None:
    """An image with a label and no boxes has a row here: it is selected, and saved with its author."""
    unboxed = without_boxes(lookalike)
    plan = await oid_async.plan(**query | {"mirror": site}, kinds=["label"], categories=["Person"])
    assert plan.selected == len(unboxed)
    report = await oid_async.download(**query | {"mirror": site}, kinds=["label"], categories=["Person"], limit=3)
    assert (report.selected, report.failures) == (3, {"not_found": 3})
    saved = pl.read_parquet(tmp_path / "out" / "manifest.parquet")
    authors = dict(rows_of(lookalike).select("ImageID", "Author").iter_rows())
    assert saved.select("ImageID", "Author").rows() == [(image_id, authors[image_id]) for image_id in unboxed[:3]]
    few = await oid_async.plan(**query | {"mirror": site, "images": "boxable"}, kinds=["label"], categories=["Person"])
    assert few.selected == 0


@pytest.fixture
def site(lookalike: Path, tmp_path: Path) -> Path:
    """The look-alike, where people have labelled images without boxes alone."""
    site = tmp_path / "site"
    (labels,) = published("human_labels", ("train",))
    for path in lookalike.rglob("*"):
        link = site / path.relative_to(lookalike)
        link.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.name != labels.name:
            link.hardlink_to(path)
    rows = "".join(f"{image_id},verification,{PERSON},1\n" for image_id in without_boxes(lookalike))
    (site / labels.bucket / labels.key).write_text(f"{','.join(LABEL_COLUMNS)}\n{rows}")
    return site


async def test_the_large_table_is_fetched_only_when_it_is_named(lookalike: Path, tmp_path: Path) -> None:
    """`metadata pull` leaves it alone; with `images="all"` it takes its place. A table of one's own excludes it."""
    cache: dict[str, Any] = {"mirror": lookalike, "cache_dir": tmp_path / "cache"}
    usual = await oid_async.metadata_pull(**cache)
    assert "all_images" not in [table.kind for table in usual.tables]
    pulled = await oid_async.metadata_pull(**cache, images="all")
    assert [table.name for table in pulled.tables if table.kind in ("images", "all_images")] == [EVERY.name]
    listed = await oid_async.metadata_list(**cache)
    assert [(table.kind, table.cached) for table in listed.tables if table.name == EVERY.name] == [("all_images", True)]
    with pytest.raises(UsageError, match=r"--images all .* --imageURL"):
        await oid_async.plan(images="all", image_url="own.csv")
