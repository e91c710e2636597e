"""--images all: images without boxes can be chosen, from the one published table of every split."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.notes import notes_into

import oid_async
from oid_async.errors import UsageError
from oid_async.metadata.cache import Cache
from oid_async.metadata.sizes import SIZES_SCHEMA, Sizes
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES, published
from oid_async.openimages.catalogue_tables import LABEL_COLUMNS
from oid_async.openimages.ids import KEY

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


async def test_listed_images_without_boxes_are_pointed_to(lookalike: Path, query: dict[str, Any]) -> None:
    """Ids that only the table of all images has, if that is in the cache, are unknown ones with a way out."""
    await oid_async.metadata_pull(mirror=lookalike, images="all", kinds=["none"])
    unboxed, notes = without_boxes(lookalike), list[str]()
    listed = [unboxed[0], f"train/{unboxed[1]}", f"validation/{unboxed[2]}", "00000000000000ff"]
    usual = query | {"images": "boxable", "kinds": ["none"], "image_ids": listed, "on_event": notes_into(notes)}
    assert (await oid_async.plan(**usual)).unknown_ids == 4
    assert "2 of these have no boxes: --images all knows of them" in notes
    notes.clear()
    assert (await oid_async.plan(**usual | {"images": "all"})).unknown_ids == 2
    assert not [note for note in notes if "--images all" in note]


async def test_a_plan_says_what_the_bucket_lacks(lookalike: Path, query: dict[str, Any], tmp_path: Path) -> None:
    """By the published counts; by the table of the images with boxes, if that is here; by the listing, if that is."""
    rows, unboxed = rows_of(lookalike).filter(Subset="train"), without_boxes(lookalike)
    sizes = dict(rows.select("ImageID", pl.col("OriginalSize").cast(pl.Int64)).iter_rows())
    query |= {"cache_dir": tmp_path / "cache", "kinds": ["none"]}
    notes: list[str] = []
    plan = await oid_async.plan(**query, source=["cvdf", "original"], on_event=notes_into(notes))
    guessed = round(len(rows) * (1 - 1_743_042 / 9_011_219))
    assert (plan.not_in_bucket, plan.not_in_bucket_by) == (guessed, "counts")
    assert (plan.requests, plan.seconds) == (len(rows) + guessed, guessed / 10)
    assert f"about {guessed} of the {len(rows)} images to fetch are not in the image bucket" in "".join(notes)
    boxes = await oid_async.plan(**query | {"kinds": ["bbox"]})
    assert (boxes.not_in_bucket, boxes.not_in_bucket_by) == (0, "boxes")
    await oid_async.metadata_pull(mirror=lookalike, cache_dir=tmp_path / "cache", kinds=["none"])
    plan = await oid_async.plan(**query, source=["cvdf", "original"], on_event=notes_into(notes))
    assert (plan.not_in_bucket, plan.not_in_bucket_by) == (len(unboxed), "boxable")
    copies = len(rows) - len(unboxed)
    assert plan.bytes == sum(sizes[image_id] for image_id in unboxed) + copies * MEAN_IMAGE_BYTES
    assert (plan.requests, plan.seconds, plan.bytes_unknown) == (len(rows) + len(unboxed), len(unboxed) / 10, copies)
    assert "they are asked of Flickr, whose rate cap makes it less than 0.01 days at least" in notes[-1]
    plan = await oid_async.plan(**query, splits=["all"], on_event=notes_into(notes))
    assert (plan.not_in_bucket, plan.requests) == (len(unboxed), plan.selected)
    assert "they will end as not_found" in notes[-1]
    # A listing is what it says, whatever the tables tell.
    listing = Sizes(Cache(tmp_path / "cache", lookalike.as_uri()).objects, "train").path
    listing.parent.mkdir(parents=True)
    known = pl.Series([int(image_id, 16) for image_id in rows["ImageID"][:7]], dtype=pl.UInt64)
    pl.DataFrame({KEY: known, "Bytes": [5] * 7, "ETag": ["e"] * 7}, schema=SIZES_SCHEMA).sort(KEY).write_parquet(
        listing
    )
    plan = await oid_async.plan(**query, source=["cvdf"])
    assert (plan.not_in_bucket, plan.not_in_bucket_by, plan.bytes) == (len(rows) - 7, "listing", 35)
    usual = await oid_async.plan(mirror=lookalike, savepath=tmp_path / "other", splits=["validation"])
    assert (usual.not_in_bucket, usual.not_in_bucket_by) == (None, None)


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
