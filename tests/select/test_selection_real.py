"""What random queries select of rows that really are Open Images, against DuckDB's answer from the same files.

The files lie beside the project and are not part of it; without them this module is skipped. Nothing here leaves the
machine.
"""

import asyncio
import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import duckdb
import pytest
from support.published import Image, columns_of, counted_origin, image_names, read_csv, write_bytes, write_table

import oid_async
from oid_async.events import Note, ignore
from oid_async.jobs.gathering.gather import gather_tables
from oid_async.jobs.planning.selection import SelectionResult, select_images
from oid_async.metadata import convert
from oid_async.metadata.cache import MetadataCache
from oid_async.openimages.catalogue import IMAGE_BUCKET, published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, IMAGE_COLUMNS
from oid_async.openimages.vocabulary import FLAGS, SPLITS
from oid_async.options.keywords import QueryOptions
from oid_async.options.query import Options
from oid_async.report import counted
from oid_async.tables.class_tables import read_hierarchy
from oid_async.tables.reading import TableFile

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"

if not (REAL / "images.csv").is_file():
    pytest.skip("the real Open Images files are not beside the project (../shared/real)", allow_module_level=True)

CLASSES = REAL / "official/v5/class-descriptions-boxable.csv"
HIERARCHY = REAL / "hierarchy/bbox_labels_600_hierarchy.json"
IMAGE_INFO = REAL / "image_info/crossmodal3600-image-attributions.csv"
MPEG_BOXES = REAL / "bbox/mpeg-vcm-detection-bbox.csv"
QUOTED_BOXES = REAL / "bbox/oidv6-train-annotations-bbox.quoted-rows.csv"
REMO_BOXES = REAL / "bbox/remo-open_sample.csv"
TEST_BOXES = REAL / "bbox/sysaster-test-annotations-bbox.csv"
TRAIN_BOXES = REAL / "bbox/sysaster-train-annotations-bbox.csv"
PLATES = REAL / "id_lists/plates-image_list_file.txt"
MPEG_IDS = REAL / "id_lists/mpeg-vcm-detection-input.lst"
MPEG_MASK_IDS = REAL / "id_lists/mpeg-vcm-segmentation-input.lst"

PERSON = "/m/01g317"
SEEDS = (0, 1, 42, -7, 2**64 + 3)
# What the larger box files are of, and what stands above or beside that in the smaller ones.
PARTS = ["Human leg", "Human arm", "Human body", "Human foot", "Human hand", "Human head"]
OTHERS = [
    *("Person", "Man", "Woman", "Human face", "Fruit", "Food", "Mammal", "Animal", "Carnivore", "Dog", "Footwear"),
    *("Clothing", "Trousers", "Sports equipment", "Vehicle", "Aircraft", "Airplane", "Salad"),
]


@dataclass
class World:
    """Tables to ask: how the program is told of them, and the same rows in DuckDB.

    There: boxes (ImageID, LabelName, Split, the flags), images (ImageID, Subset), classes (label, name), below (label,
    child). `ids` have boxes. Queries are drawn from `near` classes above all, from `splits` and `lists`. `is_given`
    says that the tables are given, one of each kind, whatever the splits.
    """

    options: QueryOptions
    sql: "duckdb.DuckDBPyConnection"
    names: dict[str, str]
    ids: list[str]
    near: Sequence[str]
    splits: Sequence[Sequence[str]]
    lists: Sequence[Path] = (PLATES,)
    flags: Sequence[str] = tuple(FLAGS)
    is_given: bool = True


def but(query: QueryOptions, **changes: Unpack[QueryOptions]) -> QueryOptions:
    return {**query, **changes}


def load(sql: "duckdb.DuckDBPyConnection", name: str, path: Path, columns: Sequence[str], **extra: str) -> None:
    """Append columns of a CSV to a table of texts; `extra` columns hold one value."""
    header = columns_of(path)
    types = ", ".join(f"'{column}': 'VARCHAR'" for column in header)
    source = f"read_csv('{path}', header = true, auto_detect = false, delim = ',', quote = '\"', columns = {{{types}}})"
    values = [column if column in header else "NULL" for column in columns] + [f"'{text}'" for text in extra.values()]
    names = ", ".join(f"{column} VARCHAR" for column in (*columns, *extra))
    sql.execute(f"create table if not exists {name} ({names})")
    sql.execute(f"insert into {name} select {', '.join(values)} from {source}")


def connect(names: Mapping[str, str]) -> "duckdb.DuckDBPyConnection":
    """Return a database with the classes, the hierarchy's Subcategory edges and the shuffled order."""
    sql = duckdb.connect()
    sql.execute("create table classes (label VARCHAR, name VARCHAR)")
    sql.executemany("insert into classes values (?, ?)", [list(pair) for pair in names.items()])
    sql.execute("create table below (label VARCHAR, child VARCHAR)")
    sql.executemany("insert into below values (?, ?)", [list(edge) for edge in sorted(set(edges()))])
    sql.execute("create macro word(x) as (x::UHUGEINT % 18446744073709551616::UHUGEINT)::UBIGINT")
    sql.execute("create macro mix1(z) as word(xor(z, z >> 30)::UHUGEINT * 13787848793156543929)")
    sql.execute("create macro mix2(z) as word(xor(z, z >> 27)::UHUGEINT * 10723151780598845931)")
    sql.execute("create macro mix3(z) as xor(z, z >> 31)")
    sql.execute("create macro place(id, start) as mix3(mix2(mix1(word(('0x' || id)::UBIGINT::UHUGEINT + start))))")
    return sql


def edges() -> Iterator[tuple[str, str]]:
    """Yield every (label, direct subclass) that the hierarchy says with Subcategory, wherever it says so."""

    def walk(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for child in node.get("Subcategory", []):
            yield node["LabelName"], child["LabelName"]
        for child in [*node.get("Subcategory", []), *node.get("Part", [])]:
            yield from walk(child)

    return walk(json.loads(HIERARCHY.read_text(encoding="utf-8")))


def class_names() -> dict[str, str]:
    with CLASSES.open(encoding="utf-8", newline="") as file:
        return {label: name.strip() for label, name in csv.reader(file)}


def made_image(image_id: str, split: str) -> dict[str, str]:
    return {"ImageID": image_id, "Subset": split, "OriginalURL": f"https://photos.example/{image_id}_o.jpg"}


def image_rows() -> list[dict[str, str]]:
    """Return the real image rows, and a made row for most images that have boxes and no row here; some keep none."""
    rows = read_csv(IMAGE_INFO)
    known = {row["ImageID"] for row in rows}
    files = {QUOTED_BOXES: "train", TRAIN_BOXES: "train", REMO_BOXES: "validation", TEST_BOXES: "test"}
    files[MPEG_BOXES] = "validation"
    for path, split in files.items():
        for image_id in sorted({row["ImageID"] for row in read_csv(path)} - known):
            known.add(image_id)
            if not image_id.endswith("0"):
                rows.append(made_image(image_id, split))
    return rows


def ids_of(*paths: Path) -> list[str]:
    return sorted({row["ImageID"] for path in paths for row in read_csv(path)})


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The real rows laid out as Open Images publishes them; the tables are in the cache already, converted."""
    folder = tmp_path_factory.mktemp("real")
    root, cache_dir = folder / "mirror", folder / "cache"
    sql = connect(class_names())
    rows = image_rows()
    boxes = {"train": [TRAIN_BOXES, QUOTED_BOXES], "validation": [REMO_BOXES], "test": [TEST_BOXES]}
    for table in (*published("classes", ()), *published("hierarchy", ())):
        body = HIERARCHY.read_bytes() if table.kind == "hierarchy" else CLASSES.read_bytes()
        write_bytes(root / table.bucket / table.key, body)
    for table in published("images", SPLITS):
        of_split = [row for row in rows if row["Subset"] == table.split]
        path = write_table(root / table.bucket / table.key, IMAGE_COLUMNS, of_split)
        load(sql, "images", path, ("ImageID", "Subset"))
    for table in published("boxes", SPLITS):
        assert table.split is not None
        of_split = [row for path in boxes[table.split] for row in read_csv(path)]
        path = write_table(root / table.bucket / table.key, table.columns, of_split)
        load(sql, "boxes", path, ("ImageID", "LabelName", *FLAGS.values()), Split=table.split)
    query: QueryOptions = {"mirror": root, "cache_dir": cache_dir, "savepath": folder / "none"}
    with pytest.MonkeyPatch.context() as patch:
        # Train boxes and images are sorted, in slices; the smaller tables are not.
        patch.setattr(convert, "_SORTED_FROM_ROWS", 5000)
        patch.setattr(convert, "_SLICE_ROWS", 1500)
        asyncio.run(oid_async.plan(**but(query, splits=["all"], categories=["Person"])))
    splits: list[list[str]] = [[], ["all"], ["test"], ["train", "validation"], ["train", "test"]]
    ids = ids_of(*(path for paths in boxes.values() for path in paths))
    yield World({**query, "offline": True}, sql, class_names(), ids, [*PARTS, *PARTS, *OTHERS], splits, is_given=False)
    sql.close()


@pytest.fixture(scope="module")
def worlds(mirror: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    """All that is asked: the mirror; and given tables, for which the mirror's cache has no more than the hierarchy."""
    folder = tmp_path_factory.mktemp("given")
    images = write_table(folder / "images.csv", IMAGE_COLUMNS, image_rows())
    few = [row for path in (REMO_BOXES, TEST_BOXES) for row in read_csv(path)]
    few_as_csv = write_table(folder / "boxes.csv", BOX_COLUMNS, few)
    few_as_parquet = write_table(folder / "boxes.parquet", BOX_COLUMNS, few)
    # The MPEG boxes have names for labels, and one flag.
    things = sorted({row["LabelName"] for row in read_csv(MPEG_BOXES)})
    label = folder / "things.csv"
    write_bytes(label, "".join(f"{thing},{thing}\n" for thing in things).encode())

    def make(boxes: Path, names: dict[str, str], near: Sequence[str], *splits: list[str], **more: Any) -> World:
        sql = connect(names)
        load(sql, "images", images, ("ImageID", "Subset"))
        load(sql, "boxes", boxes, ("ImageID", "LabelName", *FLAGS.values()), Split="any")
        tables: QueryOptions = {"label": CLASSES, "annotation": boxes, "image_url": images}
        return World({**mirror.options, **tables}, sql, names, ids_of(boxes), near, ([], ["all"], *splits), **more)

    names = class_names()
    train = make(TRAIN_BOXES, names, PARTS, ["train"], ["train", "test"])
    few_world = make(few_as_csv, names, [*PARTS, *OTHERS], ["test"], ["validation", "test"])
    few_world.options["annotation"] = few_as_parquet
    mpeg = make(
        *(MPEG_BOXES, {thing: thing for thing in things}, ["person", "car", *things], ["validation"]),
        lists=(MPEG_IDS, MPEG_MASK_IDS),
        flags=["is_group_of"],
    )
    mpeg.options["label"] = label
    yield {"mirror": mirror, "train": train, "few": few_world, "mpeg": mpeg}
    for world in (train, few_world, mpeg):
        world.sql.close()


@dataclass
class Asked:
    """A query in the words of either side: options for the program, the rest for DuckDB.

    `listed` and `banned` are the lines of the id lists, as (id, split or None).
    """

    query: QueryOptions
    categories: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    listed: list[tuple[str, str | None]] | None = None
    banned: list[tuple[str, str | None]] | None = None


def read_list(path: Path) -> list[tuple[str, str | None]]:
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        split, _, name = line.strip().rpartition("/")
        if name:
            found.append((name.split(".")[0].lower(), split or None))
    return found


def draw(world: World, chance: random.Random, folder: Path) -> Asked:
    """Return a random query that has a fair chance to select something."""
    query: QueryOptions = {**world.options}
    asked = Asked(query)
    labels = {name: label for label, name in world.names.items()}

    def some(most: int) -> list[str]:
        names = [chance.choice(world.near if chance.random() < 0.9 else list(labels)) for _ in range(most)]
        return list(dict.fromkeys(names))

    def spelled(name: str) -> str:
        return chance.choice((name, name.upper(), name.lower().replace(" ", "_"), labels[name]))

    asked.categories = some(chance.choice((0, 1, 1, 2, 3)))
    words = list(map(spelled, asked.categories))
    if words[1:] and chance.random() < 0.3:
        query["category_file"] = folder / "categories.txt"
        write_bytes(folder / "categories.txt", "\r\n\r\n".join(words[1:]).encode())
        del words[1:]
    if words:
        query["categories"] = words
    query["match"] = chance.choice(("any", "sum", "sum", "all", "inter")) if words else "any"
    asked.exclude = some(chance.choice((0, 0, 0, 1, 2)))
    query["exclude"] = list(map(spelled, asked.exclude))
    query["with_subclasses"] = chance.random() < 0.5
    flags = dict.fromkeys(chance.choices(world.flags, k=chance.choice((0, 0, 1, 2))))
    query.update({name: chance.choice(("yes", "no", "no")) for name in flags})  # type: ignore[typeddict-item]
    if splits := chance.choice(world.splits):
        query["splits"] = splits
    query["kinds"] = [chance.choice(("bbox", "bbox", "bbox", "none"))]
    query["all_boxes"] = query["kinds"] == ["bbox"] and chance.random() < 0.3
    query["limit"] = chance.choice((None, None, -1, 5, 300, 300, chance.choice((0, 1))))
    query["limit_per_class"] = chance.choice((None, None, -1, 1, 7, 100))
    query["shuffle"] = chance.random() < 0.5
    query["seed"] = chance.choice(SEEDS)
    if chance.random() < 0.4:
        query["image_ids"] = path = a_list(world, chance, folder / "listed.txt", 0.6)
        asked.listed = read_list(path)
    if chance.random() < 0.3:
        query["exclude_ids"] = path = a_list(world, chance, folder / "banned.txt", 0.2)
        asked.banned = read_list(path)
    return asked


def a_list(world: World, chance: random.Random, path: Path, share: float) -> Path:
    """Return a real list, or one made of a share of the ids here, with and without split, half of them right."""
    if chance.random() < 0.2:
        return chance.choice(world.lists)
    subsets = dict(world.sql.execute("select ImageID, Subset from images").fetchall())
    lines = []
    for image_id in chance.sample(world.ids, int(share * len(world.ids))):
        split = chance.choice((None, subsets.get(image_id), chance.choice(SPLITS)))
        name = chance.choice((image_id, image_id.upper(), f"{image_id}.jpg"))
        lines.append(f"{split}/{name}" if split else name)
    path.write_text("\r\n".join(lines), encoding="utf-8")
    return path


@dataclass
class Truth:
    """What DuckDB answers: `classes` by category, `unknown` the lines of the list that no image row fits."""

    ids: list[str]
    classes: list[int]
    rows: int
    splits: dict[str, int]
    unknown: list[str]


# The labels of each category: by name, and in place of %s what the hierarchy has below that, or nothing.
LABELS_OF = """
    with recursive w(category, label) as (
        select category, label
        from (select unnest(?::VARCHAR[]) as name, generate_subscripts(?::VARCHAR[], 1) as category)
        join classes using (name) %s
    ) select distinct category::VARCHAR as category, label from w
"""
BELOW = "union select w.category, below.child from w join below using (label)"
FITS = "pictures.ImageID = lines.ImageID and pictures.Subset = coalesce(lines.Split, pictures.Subset)"
FITTING_LINES = f"select pictures.ImageID from pictures join %s as lines on {FITS}"
FIRSTS = """
    select ImageID from hit semi join kept using (ImageID)
    qualify row_number() over (partition by category order by %s) <= %s
"""


def truth(world: World, asked: Asked) -> Truth:
    """Return DuckDB's answer: a table a step, in the order of operations that the contract gives."""
    sql, query, said = world.sql, asked.query, dict(asked.query)

    def make(name: str, select: str, *values: object) -> None:
        sql.execute(f"create or replace temp table {name} as {select}", list(values) or None)

    def all_of(select: str, *values: object) -> list[Any]:
        return sql.execute(select, list(values) or None).fetchall()

    for name, lines in (("listed", asked.listed), ("banned", asked.banned)):
        rows = list(dict.fromkeys(lines or ()))
        columns = "unnest(?::VARCHAR[]) as ImageID, unnest(?::VARCHAR[]) as Split"
        make(name, f"select {columns}", [image_id for image_id, _ in rows], [split for _, split in rows])
    splits = asked_splits(world, asked)
    make("pictures", "select * from images where Subset in (select unnest(?))", splits)
    make("near", "select * from boxes where Split = 'any' or Split in (select unnest(?))", splits)
    flags = [f"try_cast({FLAGS[name]} as DOUBLE) = {int(said[name] == 'yes')}" for name in FLAGS if name in said]
    make("fitting", f"select * from near where {' and '.join(flags) or 'true'}")
    below = BELOW if query["with_subclasses"] else ""
    make("wanted", LABELS_OF % below, asked.categories, asked.categories)
    make("unwanted", LABELS_OF % below, asked.exclude, asked.exclude)
    if asked.categories:
        make("hit", "select distinct category, ImageID from fitting join wanted on LabelName = label")
    else:
        make("hit", "select distinct LabelName as category, ImageID from fitting")
    sql.execute("delete from hit where ImageID not in (select ImageID from pictures)")
    selects = asked.categories or flags or is_count(query["limit_per_class"])
    if query["kinds"] == ["none"] and not selects:
        make("kept", "select ImageID from pictures")
    else:
        need = len(asked.categories) if query["match"] in ("all", "inter") else 1
        make("kept", f"select ImageID from hit group by ImageID having count(*) >= {need}")
    sql.execute("delete from kept where ImageID in (select ImageID from near join unwanted on LabelName = label)")
    if asked.listed is not None:
        sql.execute(f"delete from kept where ImageID not in ({FITTING_LINES % 'listed'})")
    if asked.banned is not None:
        sql.execute(f"delete from kept where ImageID in ({FITTING_LINES % 'banned'})")
    start = (query["seed"] + 0x9E3779B97F4A7C15) % 2**64
    order = f"place(ImageID, {start}::UHUGEINT)" if query["shuffle"] else "ImageID"
    if is_count(query["limit_per_class"]):
        make("kept", f"select distinct ImageID from ({FIRSTS % (order, query['limit_per_class'])})")
    limit = f"order by {order} limit {query['limit']}" if is_count(query["limit"]) else ""
    make("chosen", f"select ImageID from kept {limit}")
    every = query["all_boxes"] or not asked.categories
    saved = f"select count(*) from fitting semi join chosen using (ImageID) where {every} or LabelName in"
    counts = dict(all_of("select category, count(*) from hit group by category"))
    unknown = all_of("select Split, ImageID from listed anti join pictures on " + FITS.replace("lines", "listed"))
    return Truth(
        ids=[image_id for (image_id,) in all_of("select ImageID from chosen order by ImageID")],
        classes=[counts.get(str(number), 0) for number in range(1, len(asked.categories) + 1)],
        rows=all_of(f"{saved} (select label from wanted)")[0][0],
        splits=dict(all_of("select Subset, count(*) from pictures semi join chosen using (ImageID) group by Subset")),
        unknown=[f"{split}/{image_id}" if split else image_id for split, image_id in unknown],
    )


def is_count(number: object) -> bool:
    return number not in (None, -1)


def asked_splits(world: World, asked: Asked) -> list[str]:
    """Return the splits that count: as asked, else all that given tables hold, else what a list says, else train."""
    splits = list(asked.query.get("splits", ()))
    if splits or world.is_given:
        return list(SPLITS) if splits in ([], ["all"]) else splits
    said = {split for _, split in asked.listed or ()}
    return [split for split in SPLITS if split in said or (split == "train" and (None in said or not said))]


def kept_tables(options: Options) -> MetadataCache:
    """Return the metadata cache of a query, which makes no request."""
    assert options.mirror is not None
    assert options.cache_dir is not None
    return MetadataCache(None, ignore, root=options.cache_dir, mirror=None, site=Path(options.mirror).as_uri())


async def answer(query: QueryOptions, folder: Path) -> tuple[oid_async.Plan, SelectionResult]:
    """Return the plan, and the answer behind it that knows each image."""
    plan = await oid_async.plan(**query)
    options = Options.of(**query)
    async with kept_tables(options) as cache:
        inputs = await gather_tables(options, cache, ignore, folder)
        tables = [*(table for source in inputs.saved for table in source.tables), *inputs.images]
        assert inputs.bare or "annotation" in query or all(table.columns for table in tables)
        assert inputs.bad_rows.is_empty()
        return plan, select_images(inputs, options.all_boxes)


# Two of each world in the quick part, fourteen more in the slow one.
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 16))])
@pytest.mark.parametrize("name", ["mirror", "train", "few", "mpeg"])
async def test_random_queries_equal_sql(name: str, seed: int, worlds: dict[str, World], tmp_path: Path) -> None:
    """The images, counts, rows and unknown ids of a random query on real rows are DuckDB's from the same files."""
    world = worlds[name]
    asked = draw(world, random.Random(f"{name} {seed}"), tmp_path)
    plan, found = await answer(asked.query, tmp_path)
    expected = truth(world, asked)
    assert [f"{key:016x}" for key in found.selection.keys] == expected.ids
    assert sorted(found.unknown_ids.to_list()) == sorted(expected.unknown)
    assert plan.selected == plan.to_download == plan.requests == len(expected.ids)
    assert plan.splits == found.selection.splits == expected.splits
    assert list(plan.candidates.values()) == expected.classes
    assert plan.annotations == ({} if asked.query["kinds"] == ["none"] else {"bbox": expected.rows})


def test_the_hierarchy_is_what_its_subcategories_say() -> None:
    """For each of the 602 labels, what stands below it is the closure of Subcategory edges; parts do not count."""
    hierarchy = read_hierarchy(TableFile(HIERARCHY, "hierarchy"))
    step = "select closed.label, below.child from closed join below on closed.child = below.label"
    with connect(class_names()) as sql:
        sql.execute(f"create table w as with recursive closed as (from below union {step}) from closed")
        closed = dict(sql.execute("select label, list(child) from w group by label").fetchall())
    labels = {hierarchy.root, *class_names()}
    assert len(labels) == 602
    assert set(closed[hierarchy.root]) == set(class_names())
    for label in labels:
        below = hierarchy.below(label)
        assert len(below) == len(set(below))
        assert set(below) == set(closed.get(label, ()))


async def test_a_person_is_a_man_a_woman_a_boy_or_a_girl(mirror: World, tmp_path: Path) -> None:
    """--with-subclasses makes of Person five classes, and no part of a person is among them."""
    names = {name: label for label, name in class_names().items()}
    plain: QueryOptions = {**mirror.options, "categories": ["person"], "splits": ["all"]}
    options = Options.of(**but(plain, with_subclasses=True))
    async with kept_tables(options) as cache:
        inputs = await gather_tables(options, cache, ignore, tmp_path)
    (category,) = inputs.query.categories
    assert category.labels[0] == PERSON
    assert sorted(category.labels[1:]) == sorted(names[name] for name in ("Man", "Woman", "Boy", "Girl"))
    notes = await notes_of(plain)
    ids = {row["ImageID"] for row in read_csv(REMO_BOXES) if row["LabelName"] in category.labels}
    plan, more = await oid_async.plan(**plain), await oid_async.plan(**but(plain, with_subclasses=True))
    assert (plan.selected, more.selected) == (plan.candidates["Person"], more.candidates["Person"])
    assert plan.selected < more.selected == len({*ids, *ids_of(QUOTED_BOXES)} & selectable(mirror))
    hint = f"Person: 4 subclasses; --with-subclasses adds {counted(more.selected - plan.selected, 'image')} "
    assert [note for note in notes if note.startswith(hint)]


async def notes_of(query: QueryOptions) -> list[str]:
    notes: list[str] = []
    await oid_async.plan(**query, on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    return notes


def selectable(world: World) -> set[str]:
    return {image_id for (image_id,) in world.sql.execute("select ImageID from images").fetchall()}


async def test_an_official_list_needs_no_table(tmp_path: Path) -> None:
    """The official kind of list, every id three times over and CRLF, is 232 images: 232 requests and no other."""
    lines = [line for line in PLATES.read_bytes().decode().split("\r\n") if line]
    assert (len(lines), len(set(lines))) == (696, 232)
    root = tmp_path / "mirror"
    pictures = [Image(line.partition("/")[2]) for line in sorted(set(lines))]
    for line, picture in zip(sorted(set(lines)), pictures, strict=True):
        write_bytes(root / IMAGE_BUCKET / f"{line}.jpg", picture.body)
    async with counted_origin(root) as (url, asked):
        query: QueryOptions = {"image_ids": PLATES, "kinds": ["none"], "mirror": url, "savepath": tmp_path / "plates"}
        plan = await oid_async.plan(**query)
        assert not asked
        assert (plan.selected, plan.to_download, plan.requests, plan.metadata_bytes) == (232, 232, 232, 0)
        assert plan.splits == {"train": 222, "validation": 10}
        assert plan.annotations == {}
        report = await oid_async.download(**query)
        assert (report.selected, report.downloaded, report.requests) == (232, 232, 232)
        assert asked == dict.fromkeys((f"{IMAGE_BUCKET}/{line}.jpg" for line in set(lines)), 1)
        again = await oid_async.download(**query)
        assert (again.present, again.requests, sum(asked.values())) == (232, 0, 232)
    assert image_names(tmp_path / "plates") == sorted(f"{picture.image_id}.jpg" for picture in pictures)
    assert not (tmp_path / "plates" / "bbox").exists()
    assert not (tmp_path / "plates" / "unknown_ids.txt").exists()


async def test_an_official_list_offline(tmp_path: Path) -> None:
    """Without a request at all the same plan can be made: there is nothing to know that the list does not say."""
    query: QueryOptions = {"image_ids": PLATES, "kinds": ["none"], "offline": True, "savepath": tmp_path / "plates"}
    assert (await oid_async.plan(**query)).selected == 232
    assert (await oid_async.plan(**but(query, splits=["validation"]))).splits == {"validation": 10}
    assert (await oid_async.plan(**but(query, exclude_ids=PLATES))).selected == 0


@pytest.mark.parametrize("path", [MPEG_IDS, MPEG_MASK_IDS], ids=lambda path: path.stem)
async def test_a_list_of_file_names(path: Path, mirror: World, tmp_path: Path) -> None:
    """A list of file names selects what the image tables have of it and names the rest, line by line."""
    lines = [image_id for image_id, _ in read_list(path)]
    rows = mirror.sql.execute("select ImageID from images where Subset = 'validation'").fetchall()
    known = {image_id for (image_id,) in rows}
    query = but(mirror.options, image_ids=path, kinds=["none"], splits=["validation"])
    plan, found = await answer(query, tmp_path)
    assert plan.selected == len(known & set(lines)) > 20
    assert found.unknown_ids.to_list() == [line for line in lines if line not in known]
