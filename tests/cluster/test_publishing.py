"""Publishing a plan: what lies at the place afterwards, and what a second or a killed run makes of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import Box, Dataset, Image, Label, publish_lookalike, write_table
from support.published_plans import publish_plan

from oid_async.cluster.generations import get_part
from oid_async.cluster.layout import BAD_ROWS, PLAN, UNKNOWN_IDS
from oid_async.cluster.part_file import PartFile
from oid_async.errors import InputError, UsageError
from oid_async.events import Event, Note
from oid_async.jobs.distributing.publish import Published
from oid_async.objects.store import ObjectInfo, Objects
from oid_async.openimages.ids import KEY
from oid_async.store.annotation_rows import AnnotationRows

MB = 1_000_000
pytestmark = pytest.mark.cluster
IDS = [f"{number:016x}" for number in range(1, 13)]
CLASSES = [("/m/1", "Cat"), ("/m/2", "Dog")]


@pytest.fixture(scope="module")
def lookalike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The look-alike as a mirror folder."""
    return publish_lookalike(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen images with a cat each, the first four with a dog; of a sixth of them a person denies one."""
    boxes = [Box(image_id, "/m/1") for image_id in IDS[:10]] + [Box(image_id, "/m/2") for image_id in IDS[:4]]
    labels = [Label(image_id, "/m/2") for image_id in IDS[8:]]
    images = [Image(image_id) for image_id in IDS]
    below = {"/m/1": ("/m/2",)}
    return Dataset(CLASSES, images, boxes, below, labels).publish(tmp_path_factory.mktemp("small"))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty place."""
    return Objects(tmp_path / "place")


def bodies(objects: Objects) -> dict[str, bytes]:
    """Return every object of a place but plan.json, which names the place."""
    return {found.key: objects.get(found.key) for found in objects.list("") if found.key != PLAN}


def rows_of(objects: Objects, published: Published) -> pl.DataFrame:
    """Return the rows of all part files, in order of the parts."""
    return pl.concat(get_part(objects, part)[0] for part in published.first.parts)


class KilledError(Exception):
    """Stands for a kill."""


class Dying(Objects):
    """Objects of a process that is killed once so many were put."""

    def __init__(self, objects: Objects, survived: int) -> None:
        super().__init__(objects.place)
        self._left = survived

    def put_new(self, key: str, body: bytes | Path) -> ObjectInfo:
        """Put an object, or die."""
        if not self._left:
            raise KilledError
        self._left -= 1
        return super().put_new(key, body)


async def test_a_plan_is_cut_into_parts_of_one_split_each(lookalike: Path, objects: Objects) -> None:
    """Every planned image is in one part, in order of ImageID; a part is closed before it would be too large."""
    published = await publish_plan(objects, lookalike, part_size=10 * MB, splits=("validation", "test"))
    parts = published.first.parts
    assert [part.name for part in parts] == ["validation-000000", "validation-000001", "test-000000", "test-000001"]
    frames = [get_part(objects, part)[0] for part in parts]
    for part, frame in zip(parts, frames, strict=True):
        assert frame.get_column("Subset").unique().to_list() == [part.split]
        assert frame.get_column("ImageID").is_sorted()
        assert (len(frame), part.bytes <= 10 * MB) == (part.images, True)
    assert published.plan is not None
    ids = pl.concat(frames).get_column("ImageID")
    assert len(ids) == ids.n_unique() == published.plan.selected


async def test_every_kind_is_nested_as_it_is_published(lookalike: Path, objects: Objects, tmp_path: Path) -> None:
    """The rows of a part are those of the tables, of each kind as many as the plan counts, all masks with a place."""
    published = await publish_plan(objects, lookalike, kinds=("all",), splits=("validation",))
    (part,) = published.first.parts
    file = PartFile(tmp_path / "place" / part.plan_key, published.query)
    saved = file.annotations(tmp_path / "rows")
    assert published.plan is not None
    counts = {each.source.kind.name: pl.scan_parquet(each.source.tables[0].parts).collect() for each in saved}
    assert {name: len(rows) for name, rows in counts.items()} == published.plan.annotations
    table = lookalike / "openimages/v5/validation-annotations-bbox.csv"
    wanted = pl.read_csv(table, infer_schema=False).sort("ImageID", maintain_order=True)
    assert counts["bbox"].select(wanted.columns).equals(wanted)
    masks = file.masks()
    assert masks.get_column("MaskPath").to_list() == counts["segmentation"].get_column("MaskPath").to_list()
    assert masks.get_column("why").null_count() == len(masks) > 0
    assert set(masks.get_column("archive")) == file.archives().keys()


async def test_a_mask_that_no_archive_has_fails_alone(lookalike: Path, tmp_path: Path, objects: Objects) -> None:
    """It has no place, and the reason why; those of archives that are there have theirs."""
    mirror = tmp_path / "copy"
    mirror.mkdir()
    for path in (lookalike / "openimages").rglob("*"):
        if path.is_file() and "validation-masks-0" not in path.name:
            there = mirror / path.relative_to(lookalike)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.hardlink_to(path)
    published = await publish_plan(objects, mirror, kinds=("segmentation",), splits=("validation",))
    masks = rows_of(objects, published).select("masks").explode("masks").unnest("masks").drop_nulls("MaskPath")
    lost = masks.filter(pl.col("MaskPath").str.starts_with("0"))
    assert len(lost) < len(masks)
    assert all(why.startswith("not_found: validation-masks-0.zip: ") for why in lost.get_column("why"))
    assert masks.filter(pl.col("why").is_null()).get_column("start").null_count() == 0


async def test_a_plan_that_is_published_twice_is_the_same(small: Path, tmp_path: Path) -> None:
    """A second run adds nothing to a finished plan, and makes the same bytes elsewhere."""
    first, second = Objects(tmp_path / "first"), Objects(tmp_path / "second")
    await publish_plan(first, small, part_size=MB)
    before, query = bodies(first), first.get(PLAN)
    again = await publish_plan(first, small, part_size=MB)
    await publish_plan(second, small, part_size=MB)
    assert again.plan is None
    assert (bodies(first), first.get(PLAN)) == (before, query)
    assert bodies(second) == before


async def test_a_killed_publisher_is_gone_on_with(small: Path, tmp_path: Path) -> None:
    """Whatever was put when it died, the next run ends with the bytes of one that nothing has stopped."""
    query: dict[str, Any] = {"part_size": 2 * MB, "image_ids": (*IDS, "f" * 16)}
    whole = Objects(tmp_path / "whole")
    await publish_plan(whole, small, **query)
    for survived in range(len(bodies(whole)) + 1):
        objects = Objects(tmp_path / f"{survived}")
        with pytest.raises(KilledError):
            await publish_plan(Dying(objects, survived), small, **query)
        await publish_plan(objects, small, **query)
        assert bodies(objects) == bodies(whole)


async def test_what_was_begun_counts_whatever_the_next_run_says(small: Path, objects: Objects) -> None:
    """The size of parts and the caps of a plan are those of who began it; the first is said."""
    with pytest.raises(KilledError):
        await publish_plan(Dying(objects, 3), small, part_size=MB, rate=5.0)
    notes: list[Event] = []
    published = await publish_plan(objects, small, part_size=2 * MB, sink=notes.append)
    assert published.query.part_size == MB
    assert published.first.capped
    text = "the plan there has parts of 1.0 MB: --part-size has no effect any more"
    assert [note.text for note in notes if isinstance(note, Note)].count(text) == 1


@pytest.mark.parametrize(
    "other", [{"categories": ("Dog",)}, {"max_side": 64}, {"image_ids": ("1" * 16,)}, {"format": "parquet"}]
)
async def test_another_query_is_refused(small: Path, objects: Objects, other: dict[str, Any]) -> None:
    """A place holds one query, in one form: anything else names the place and says what to do."""
    await publish_plan(objects, small)
    before = bodies(objects)
    with pytest.raises(UsageError, match=r"place holds (another query|samples of another form): .*another --savepath"):
        await publish_plan(objects, small, **other)
    assert bodies(objects) == before


@pytest.mark.parametrize("key", ["shards/mine.tar", "manifest.parquet", ".oid_async/journal.tsv"])
async def test_a_place_with_something_else_is_left_alone(small: Path, objects: Objects, key: str) -> None:
    """What nobody has planned is not added to, and no shard there is ever taken for an orphan."""
    objects.put_new(key, b"mine")
    with pytest.raises(UsageError, match=rf"place holds {key}, .*name another --savepath"):
        await publish_plan(objects, small)
    assert bodies(objects) == {key: b"mine"}


async def test_other_tables_than_a_plan_was_begun_with_are_an_error(small: Path, tmp_path: Path) -> None:
    """Half a plan of other rows is not gone on with: one line names the object and what to do."""
    objects = Objects(tmp_path / "place")
    with pytest.raises(KilledError):
        await publish_plan(Dying(objects, 4), small, part_size=MB)
    images = [Image(image_id, name="other.jpg") for image_id in IDS]
    other = Dataset(CLASSES, images, [Box(image_id, "/m/1") for image_id in IDS]).publish(tmp_path / "other")
    with pytest.raises(InputError, match=r"place: \.oid_async/plan/00/train-00000\d\.parquet has other images .*"):
        await publish_plan(objects, other, part_size=MB)


async def test_one_id_in_two_splits_is_two_images(small: Path, objects: Objects) -> None:
    """Each has a part of its split, and a name of its own."""
    listed = (f"train/{IDS[0]}", f"test/{IDS[0]}", f"train/{IDS[1]}")
    published = await publish_plan(objects, small, image_ids=listed, kinds=("none",))
    assert published.query.by_split
    assert [(part.name, part.images) for part in published.first.parts] == [("train-000000", 2), ("test-000000", 1)]
    assert rows_of(objects, published).get_column("FileName").n_unique() == 3


async def test_twins_have_the_rows_of_their_split(objects: Objects, tmp_path: Path) -> None:
    """In the part, and as a worker reads them from there."""
    twins = [Image(IDS[0], split="train"), Image(IDS[0], name="other.jpg", split="test"), Image(IDS[1])]
    boxes = [Box(IDS[0], "/m/1"), Box(IDS[1], "/m/1"), Box(IDS[0], "/m/2", split="test"), Box(IDS[0], "/m/1", "0.5")]
    mirror = Dataset(CLASSES, twins, boxes).publish(tmp_path / "mirror")
    published = await publish_plan(objects, mirror, splits=("train", "test"))
    found = {
        part.name: [[row["LabelName"] for row in rows] for rows in get_part(objects, part)[0].get_column("bbox")]
        for part in published.first.parts
    }
    assert found == {"train-000000": [["/m/1", "/m/1"], ["/m/1"]], "test-000000": [["/m/2"]]}
    for part in published.first.parts:
        file = PartFile(tmp_path / "place" / part.plan_key, published.query)
        (saved,) = file.annotations(tmp_path / part.name)
        keys = file.images().get_column(KEY)
        rows = AnnotationRows(saved, file.ids, lambda keys=keys: keys, tmp_path)  # type: ignore[misc]
        labels = rows.of(keys, keys).collect().get_column("LabelName").to_list()
        assert labels == [label for labels in found[part.name] for label in labels]


async def test_tables_of_ones_own_keep_their_rows(small: Path, tmp_path: Path, objects: Objects) -> None:
    """Ids of another form, no split, columns of one's own; a damaged row is listed, an unknown id too."""
    table = [{"ImageID": name, "OriginalURL": f"https://example.org/{name}.jpg"} for name in ("b", "a", "c")]
    images = write_table(tmp_path / "images.csv", ("ImageID", "OriginalURL"), table)
    rows = [{"ImageID": name, "LabelName": "/m/1", "note": f"{name}{at}"} for at in (2, 1) for name in ("a", "b")]
    boxes = write_table(tmp_path / "boxes.csv", ("ImageID", "LabelName", "note"), rows)
    with boxes.open("a") as damaged:
        damaged.write("a,/m/1\n")
    published = await publish_plan(
        objects, small, annotation=str(boxes), image_url=str(images), image_ids=("a", "b", "zz")
    )
    assert not published.query.hexadecimal
    (part,) = published.first.parts
    assert part.name == "train-000000"
    found = rows_of(objects, published)
    assert found.get_column("ImageID").to_list() == ["a", "b"]
    assert [[row["note"] for row in rows] for rows in found.get_column("bbox")] == [["a2", "a1"], ["b2", "b1"]]
    file = PartFile(tmp_path / "place" / part.plan_key, published.query)
    (saved,) = file.annotations(tmp_path / "rows")
    assert saved.source.tables[0].columns == ("ImageID", "LabelName", "note")
    assert objects.get(UNKNOWN_IDS) == b"zz\n"
    assert b"boxes.csv,6," in objects.get(BAD_ROWS)
    assert objects.get("image_ids.txt") == b"a\nb\nzz\n"
    assert published.query.query["query"]["image_ids"] == f"{tmp_path / 'place'}/image_ids.txt"


async def test_negatives_have_their_role(small: Path, objects: Objects) -> None:
    """A part says of each image whether it was selected, and of a negative what is not in it."""
    published = await publish_plan(objects, small, categories=("Dog",), negatives=2)
    rows = rows_of(objects, published)
    assert Counter(rows.get_column("Role")) == {"selected": 4, "negative": 2}
    assert rows.filter(Role="negative").get_column("VerifiedAbsent").to_list() == [["/m/2"]] * 2
    assert rows.filter(Role="negative").get_column("bbox").null_count() == 2


async def test_a_query_that_selects_nothing_is_published(small: Path, objects: Objects) -> None:
    """It has no part, which is all there is to do."""
    published = await publish_plan(objects, small, categories=("Cat",), exclude=("Cat",))
    assert published.first.parts == []
    assert (await publish_plan(objects, small, categories=("Cat",), exclude=("Cat",))).first == published.first
