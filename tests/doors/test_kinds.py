"""The six kinds of annotations: what is saved and selected equals an independent reading of the same files."""

import asyncio
import csv
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.notes import notes_into
from support.published import read_csv, typed, write_bytes

import oid_async
from oid_async.cli.main import main
from oid_async.errors import UsageError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import TABLES
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.openimages.vocabulary import SPLITS
from oid_async.origin.annotations import ATTRIBUTES, MORE_CLASSES, PREDICATES
from oid_async.origin.lookalike import CLASSES
from oid_async.report import counted
from oid_async.select.where import Both, Either, Name, Where, Without, parse

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "real"
CALLED = CLASSES | MORE_CLASSES | ATTRIBUTES
LABELS = {name: label for label, name in CLASSES.items()}


@pytest.fixture(scope="module")
def mirror(lookalike: Path) -> Path:
    return lookalike


@pytest.fixture(scope="module")
def saved(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every kind of every split of the look-alike."""
    folder = tmp_path_factory.mktemp("saved")
    cache = tmp_path_factory.mktemp("cache")
    asyncio.run(oid_async.download(kinds=["all"], splits=["all"], mirror=mirror, savepath=folder, cache_dir=cache))
    return folder


def tables_of(mirror: Path, kind: Kind, *splits: str) -> list[Path]:
    found = published(kind.table, splits or SPLITS)  # type: ignore[arg-type]
    return [mirror / table.bucket / table.key for table in found]


def ask_sql(query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and rows of an answer."""
    answer = duckdb.sql(query)
    assert answer is not None
    return answer.columns, answer.fetchall()


def sql(paths: list[Path], id_column: str) -> str:
    names = ", ".join(f"'{path}'" for path in paths)
    read = f"read_csv([{names}], all_varchar=true, header=true, filename=true, parallel=false, union_by_name=true)"
    return f'select *, row_number() over () as n, "{id_column}" as id from {read}'


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.has_classes], ids=lambda kind: kind.name)
def test_every_row_is_saved_as_published(mirror: Path, saved: Path, kind: Kind) -> None:
    """All rows of all splits are there, cell by cell, by ImageID and published order, with class names."""
    paths = tables_of(mirror, kind)
    id_column = "ImageId" if kind.name == "point" else "ImageID"
    columns, rows = ask_sql(sql(paths, id_column))
    order = {str(path): number for number, path in enumerate(paths)}
    wanted = [dict(zip(columns, row, strict=True)) for row in rows]
    wanted.sort(key=lambda row: (row["id"], order[row["filename"]], row["n"]))
    found = read_csv(saved / kind.file)
    own = [name for name in columns if name not in ("filename", "n", "id")]
    assert list(found[0]) == [*own, *kind.categories, "FileName", "OriginalURL", "Width", "Height"]
    assert [[row[name] for name in own] for row in found] == [[row[name] or "" for name in own] for row in wanted]
    for row in found:
        for label, category in zip(kind.labels, kind.categories, strict=True):
            assert row[category] == CALLED[row[label]]
        assert (saved / "images" / row["FileName"]).is_file()


def test_narratives_are_the_published_objects(mirror: Path, saved: Path) -> None:
    """Every line of the captions is there as it was published, several for some images, in order of ImageID."""
    published_lines = [
        line for path in tables_of(mirror, KINDS["narrative"]) for line in path.read_text("utf-8").splitlines()
    ]
    found = (saved / "narrative" / "narratives.jsonl").read_text("utf-8").splitlines()
    assert sorted(found) == sorted(published_lines)
    ids = [json.loads(line)["image_id"] for line in found]
    assert ids == sorted(ids)
    assert len(set(ids)) < len(ids)


def test_another_query_leaves_no_table_of_this_one(saved: Path, mirror: Path, tmp_path: Path) -> None:
    """A folder describes one query: kinds that it does not ask for are gone, images and masks stay."""
    folder = tmp_path / "d"
    for kinds in ("all", "label"):
        done = typed("download", "--mirror", mirror, "--split", "test", "--savepath", folder, "--kind", kinds)
        assert done.code == 0, done.stderr
    tables = {str(path.relative_to(folder)) for path in folder.rglob("*.csv")} - {"ATTRIBUTION.csv"}
    assert tables == {"label/labels.csv"}
    assert not (folder / "narrative").exists()


# --- who is selected -----------------------------------------------------------------------------------------------


class Facts:
    """The look-alike's rows in plain Python, by split."""

    def __init__(self, mirror: Path, split: str) -> None:
        self.images = {row["ImageID"] for row in self.rows(mirror, "images", split)}
        self.boxes = self.rows(mirror, "boxes", split)
        self.masks = self.rows(mirror, "masks", split)
        self.relationships = self.rows(mirror, "relationships", split)
        self.human = self.rows(mirror, "human_labels", split)
        self.machine = self.rows(mirror, "machine_labels", split)
        self.points = self.rows(mirror, "points", split)
        (captions,) = tables_of(mirror, KINDS["narrative"], split)
        self.captions = [json.loads(line) for line in captions.read_text("utf-8").splitlines()]

    @staticmethod
    def rows(mirror: Path, kind: str, split: str) -> list[dict[str, str]]:
        (table,) = published(kind, [split])  # type: ignore[arg-type,list-item]
        with (mirror / table.bucket / table.key).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def having(self, kind: str | None, label: str) -> set[str]:
        match kind:
            case None | "bbox":
                return {row["ImageID"] for row in self.boxes if row["LabelName"] == label}
            case "segmentation":
                return {row["ImageID"] for row in self.masks if row["LabelName"] == label}
            case "relationship":
                return {row["ImageID"] for row in self.relationships if label in (row["LabelName1"], row["LabelName2"])}
            case "label":
                return {
                    row["ImageID"] for row in self.human if row["LabelName"] == label and float(row["Confidence"]) > 0
                }
            case "absent":
                return {
                    row["ImageID"] for row in self.human if row["LabelName"] == label and float(row["Confidence"]) == 0
                }
            case _:
                return {row["ImageId"] for row in self.points if row["Label"] == label}


@pytest.fixture(scope="module")
def facts(mirror: Path) -> Facts:
    return Facts(mirror, "train")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds-cache")


@pytest.fixture
def selected(mirror: Path, cached: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return what says which images of train a query selects."""

    async def ask(**query: Any) -> set[str]:
        folder = tmp_path / "d"
        await oid_async.download(mirror=mirror, savepath=folder, cache_dir=cached, names="id", **query)
        _, rows = ask_sql(f"select ImageID from '{folder}/manifest.parquet'")
        return {image_id for (image_id,) in rows}

    return ask


async def test_labels_of_confidence_0_never_select_and_are_saved(
    selected: Callable[..., Any], facts: Facts, tmp_path: Path
) -> None:
    """`1.0` selects as `1` does; a verified absence selects nobody, and stands in the table of those selected."""
    label = LABELS["Tree"]
    assert {"1", "1.0"} <= {row["Confidence"] for row in facts.human if row["LabelName"] == label}
    wanted = facts.having("label", label)
    assert await selected(categories=["Tree"], kinds=["label"], all_boxes=True) == wanted
    rows = read_csv(tmp_path / "d" / "label" / "labels.csv")
    assert len(rows) == sum(row["ImageID"] in wanted for row in facts.human)
    assert any(float(row["Confidence"]) == 0 for row in rows)


async def test_machine_labels_from_a_confidence_on(selected: Callable[..., Any], facts: Facts) -> None:
    """--label-source machine asks the other tables; --min-confidence is compared as a number."""
    label = LABELS["Tree"]
    wanted = {row["ImageID"] for row in facts.machine if row["LabelName"] == label and float(row["Confidence"]) >= 0.79}
    assert wanted != {row["ImageID"] for row in facts.machine if row["LabelName"] == label}
    found = await selected(categories=["Tree"], kinds=["label"], label_source="machine", min_confidence=0.79)
    assert found == wanted


async def test_verified_absent(selected: Callable[..., Any], facts: Facts) -> None:
    """Images of which somebody says that there is no cat; unlabelled ones are none of them."""
    wanted = facts.having("absent", LABELS["Cat"])
    assert wanted
    assert await selected(kinds=["label"], verified_absent=["cat"]) == wanted


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Person,*,*", lambda row: row["LabelName1"] == LABELS["Person"]),
        ("*,on (top of),Tree", lambda row: (row["RelationshipLabel"], row["LabelName2"]) == ("on", LABELS["Tree"])),
        ("*,is,(made of)Wood", lambda row: row["LabelName2"] == "/m/083vt"),
        ("/m/01g317,is,/m/02gy9n", lambda row: (row["LabelName1"], row["LabelName2"]) == ("/m/01g317", "/m/02gy9n")),
    ],
)
async def test_triplets(
    selected: Callable[..., Any], facts: Facts, tmp_path: Path, text: str, fits: Callable[[dict[str, str]], bool]
) -> None:
    """Names, MIDs, predicates by token or text, attributes; such relationships alone are saved."""
    rows = [row for row in facts.relationships if fits(row)]
    assert rows
    assert await selected(kinds=["relationship"], triplet=[text]) == {row["ImageID"] for row in rows}
    found = read_csv(tmp_path / "d" / "relationship" / "relationship.csv")
    assert len(found) == len(rows)
    assert all(fits(row) for row in found)


async def test_triplets_with_subclasses(selected: Callable[..., Any], facts: Facts, tmp_path: Path) -> None:
    """On both sides, when selecting and when saving; without them a line says what they would add."""
    people = {LABELS[name] for name in ("Person", "Man", "Woman")}
    query: dict[str, Any] = {"kinds": ["relationship"], "triplet": ["Person,*,*", "*,*,Person"]}
    rows = [row for row in facts.relationships if people & {row["LabelName1"], row["LabelName2"]}]
    of_person = [row for row in rows if LABELS["Person"] in (row["LabelName1"], row["LabelName2"])]
    assert len(of_person) < len(rows)
    notes: list[str] = []
    assert await selected(on_event=notes_into(notes), **query) == {row["ImageID"] for row in of_person}
    first = [{row["ImageID"] for row in some if row["LabelName1"] in people} for some in (of_person, rows)]
    count = {row["ImageID"] for row in of_person if row["LabelName1"] == LABELS["Person"]}
    more = len(first[1] - count)
    assert f"--triplet Person,*,*: --with-subclasses adds {counted(more, 'image')} to its {len(count)}" in notes
    assert await selected(with_subclasses=True, **query) == {row["ImageID"] for row in rows}
    found = read_csv(tmp_path / "d" / "relationship" / "relationship.csv")
    assert len(found) == len(rows)


async def test_captions_select(selected: Callable[..., Any], facts: Facts, tmp_path: Path) -> None:
    """A regular expression over captions; the narratives of the selected images are saved."""
    pattern = r"(dog|cat)\b"
    wanted = {story["image_id"] for story in facts.captions if re.search(pattern, story["caption"])}
    assert wanted
    assert await selected(kinds=["narrative"], caption=pattern) == wanted
    lines = (tmp_path / "d" / "narrative" / "narratives.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == sum(story["image_id"] in wanted for story in facts.captions)


async def test_relationships_match_on_either_side(selected: Callable[..., Any], facts: Facts, tmp_path: Path) -> None:
    """A category is looked for on both sides, when selecting and when saving."""
    label = LABELS["Person"]
    assert await selected(categories=["Person"], kinds=["relationship"]) == facts.having("relationship", label)
    rows = read_csv(tmp_path / "d" / "relationship" / "relationship.csv")
    assert len(rows) == sum(label in (row["LabelName1"], row["LabelName2"]) for row in facts.relationships)


async def test_the_kind_that_selects(selected: Callable[..., Any], facts: Facts) -> None:
    """Boxes if they are named, else the first kind with classes, else as --select-by says."""
    label = LABELS["Man"]
    assert facts.having("point", label) != facts.having(None, label)
    assert await selected(categories=["Man"], kinds=["point", "bbox"]) == facts.having(None, label)
    assert await selected(categories=["Man"], kinds=["narrative", "point"]) == facts.having("point", label)
    assert await selected(categories=["Man"], kinds=["bbox"], select_by="point") == facts.having("point", label)


# --- the algebra ---------------------------------------------------------------------------------------------------


def brute(where: Where, facts: Facts) -> set[str]:
    if isinstance(where, Name):
        return facts.having(where.kind, LABELS[where.word])
    left, right = brute(where.left, facts), brute(where.right, facts)
    if isinstance(where, Both):
        return left & right
    return left | right if isinstance(where, Either) else left - right


def written(where: Where) -> str:
    if isinstance(where, Name):
        return f"{where.kind}:{where.word}" if where.kind else where.word
    sign = {Both: "&", Either: "|", Without: "-"}[type(where)]
    return f"({written(where.left)}) {sign} ({written(where.right)})"


def random_where(chance: random.Random, depth: int) -> Where:
    if depth == 0 or chance.random() < 0.2:
        kind = chance.choice([None, None, "bbox", "segmentation", "relationship", "label", "point", "absent"])
        return Name(kind, chance.choice(["Person", "Tree", "Dog", "Man", "Football", "Car", "Bird", "House"]), False)
    left, right = random_where(chance, depth - 1), random_where(chance, depth - 1)
    match chance.randrange(3):
        case 0:
            return Both(left, right)
        case 1:
            return Either(left, right)
    return Without(left, right)


async def some_equal_brute_force(mirror: Path, cached: Path, facts: Facts, tmp_path: Path, seeds: Iterator[int]) -> int:
    found = 0
    for seed in seeds:
        where = random_where(random.Random(seed), 4)
        assert parse(written(where)) == where
        plan = await oid_async.plan(
            where=written(where), mirror=mirror, cache_dir=cached, savepath=tmp_path / "d", kinds=["none"]
        )
        wanted = brute(where, facts)
        assert plan.selected == len(wanted), written(where)
        found += bool(wanted)
    return found


async def test_where_equals_brute_force(mirror: Path, cached: Path, facts: Facts, tmp_path: Path) -> None:
    """Random expressions over all kinds select as many images as sets of Python do."""
    assert await some_equal_brute_force(mirror, cached, facts, tmp_path, iter(range(12))) > 6


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_500_expressions_equal_brute_force(mirror: Path, cached: Path, facts: Facts, tmp_path: Path) -> None:
    """The same of five hundred."""
    assert await some_equal_brute_force(mirror, cached, facts, tmp_path, iter(range(500))) > 250


async def test_where_selects_the_very_images(selected: Callable[..., Any], facts: Facts, tmp_path: Path) -> None:
    """With its subclasses, without others, beside a category; the classes that it names without a minus are saved."""
    men = facts.having(None, LABELS["Person"]) | facts.having(None, LABELS["Man"]) | facts.having(None, LABELS["Woman"])
    wanted = men - facts.having(None, LABELS["Tree"])
    assert await selected(where="Person/ - Tree") == wanted
    rows = read_csv(tmp_path / "d" / "bbox" / "bbox.csv")
    assert {row["Category"] for row in rows} <= {"Person", "Man", "Woman"}
    assert await selected(where="Person/ - Tree", categories=["House"]) == wanted & facts.having(None, LABELS["House"])


async def test_the_simple_options_are_short_forms(selected: Callable[..., Any]) -> None:
    """Categories, match and exclude select what the expression says that they are short for."""
    both = await selected(categories=["Person", "Tree"], match="all", exclude=["Car"])
    assert both == await selected(where="(Person & Tree) - Car")
    either = await selected(categories=["Dog", "Cat"])
    assert either == await selected(where="Dog | Cat")
    assert both
    assert either


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "Dog &"], "a class should stand here"),
        (["--where", "(Dog"], "a ) is missing"),
        (["--where", "Dgo"], "nearest: Dog"),
        (["--where", "foo:Dog"], "'foo' is no kind"),
        (["--where", '"Dog'], "a quote is left open"),
        (["--kind", "narrative", "--category", "Dog"], "narratives name no class"),
        (["--kind", "label", "--category", "Dog", "--is-occluded", "no"], "--select-by bbox"),
        (["--caption", "("], "no regular expression"),
        (["--triplet", "Dog"], "three parts"),
        (["--triplet", "Dog,holds,C\rat"], "three parts"),
        (["--triplet", "Dog,holds,Nothing at all"], "Nothing at all"),
        (["--release", "v5", "--kind", "point"], "release v5 publishes no points of train; v7 has them (--release)"),
        (["--release", "v5", "--select-by", "point"], "choose another --select-by"),
        (["--release", "v5", "--where", "point:Tree"], "leave point:Tree out of --where"),
        (["--release", "v4", "--split", "all", "--triplet", "*,holds,*"], "of validation, test; it has those of train"),
        (["--release", "v5", "--caption", "dog"], "v6, v7 have them (--release); choose one of these, or leave"),
        (["--release", "v4", "--kind", "segmentation", "--split", "test"], "publishes no masks of test"),
        (["--min-confidence", "2"], "from 0 to 1"),
        (["--traces"], "say --kind narrative"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Exit code 2, one line, before any image is asked for."""
    code = main(["download", "--mirror", str(mirror), "--savepath", str(tmp_path / "d"), *words])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("oid-async: error: ")
    assert said in last


def test_all_kinds_of_a_release_that_lacks_some(mirror: Path, tmp_path: Path) -> None:
    """--kind all saves what there is and says what there is not."""
    done = typed(
        "download",
        "--mirror",
        mirror,
        "--savepath",
        tmp_path / "d",
        "--release",
        "v5",
        "--kind",
        "all",
        "--split",
        "test",
    )
    assert done.code == 0, done.stderr
    assert "release v5 publishes no narratives of test" in done.stderr
    assert "release v5 publishes no points of test" in done.stderr
    assert {path.name for path in (tmp_path / "d").iterdir()} >= {"bbox", "segmentation", "relationship", "label"}


def test_operators_bind_as_written() -> None:
    """`&` and `-` alike, from left to right, tighter than `|`."""
    a, b, c, d = (Name(None, word, False) for word in "abcd")
    assert parse("a | b - c") == Either(a, Without(b, c))
    assert parse("a - b & c - d") == Without(Both(Without(a, b), c), d)
    assert parse("(a | b) & c") == Both(Either(a, b), c)
    assert parse('T-shirt | "a ""b"" - c"/') == Either(Name(None, "T-shirt", False), Name(None, 'a "b" - c', True))


def test_v7_tables_of_the_other_kinds() -> None:
    """Two traps: labels and points say `val`; masks, relationships and narratives are those of V5 and V6."""
    keys = {table.key for table in TABLES if "v7" in table.releases}
    assert {
        "v7/oidv7-val-annotations-human-imagelabels.csv",
        "v7/oidv7-val-annotations-point-labels.csv",
        "v5/validation-annotations-object-segmentation.csv",
        "v6/oidv6-validation-annotations-vrd.csv",
        "annotations/open_images_validation_captions.jsonl",
    } <= keys
    assert not any("oidv7" in key and ("vrd" in key or "segmentation-" in key) for key in keys)
    assert set(PREDICATES) >= {"on", "is"}


# --- real rows -----------------------------------------------------------------------------------------------------

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there: no real rows to read")


def real_mirror(folder: Path, key: str, body: bytes, ids: set[str], split: str) -> Path:
    """Publish real rows of one kind, with an image table of their ids and no images."""
    write_bytes(folder / "openimages" / key, body)
    (images,) = published("images", [split])  # type: ignore[list-item]
    lines = [",".join(images.columns)]
    lines += [
        f"{image_id},{split},https://farm1.staticflickr.com/1/{image_id}_o.jpg,,,,,,,,," for image_id in sorted(ids)
    ]
    write_bytes(folder / "openimages" / images.key, ("\n".join(lines) + "\n").encode())
    for kind in ("classes", "all_classes"):
        (table,) = published(kind, [])
        names = (REAL / "classes" / "oidv6-class-descriptions.csv").read_bytes()
        write_bytes(folder / "openimages" / table.key, names)
    for kind in ("attributes", "predicates"):
        (table,) = published(kind, [])  # type: ignore[arg-type]
        name = {"attributes": "attributes-description", "predicates": "relationships-description"}[kind]
        body = (REAL / "official" / "2019_01" / f"challenge-2018-{name}.csv").read_bytes()
        write_bytes(folder / "openimages" / table.key, body)
    return folder


@needs_real
async def test_real_relationships(tmp_path: Path) -> None:
    """Two thousand published rows: attributes outside the class table keep their MID or get the attribute's name."""
    body = (REAL / "vrd" / "validation-annotations-vrd.csv").read_bytes()
    rows = list(csv.DictReader(body.decode().splitlines()))
    key = "v6/oidv6-validation-annotations-vrd.csv"
    mirror = real_mirror(tmp_path / "m", key, body, {row["ImageID"] for row in rows}, "validation")
    queries: list[tuple[list[dict[str, str]], Any]] = [
        (rows, {}),
        ([row for row in rows if row["RelationshipLabel"] == "is"], {"triplet": ["*,is,*"]}),
        ([row for row in rows if "/m/04yx4" in (row["LabelName1"], row["LabelName2"])], {"categories": ["Man"]}),
    ]
    for wanted, query in queries:
        plan = await oid_async.plan(
            kinds=["relationship"], splits=["validation"], mirror=mirror, savepath=tmp_path / "d", **query
        )
        assert plan.selected == len({row["ImageID"] for row in wanted})
        assert plan.annotations == {"relationship": len(wanted)}


@needs_real
async def test_real_labels_of_both_spellings(tmp_path: Path) -> None:
    """V7 rows that say 1.0, 0.0 and 1 in one column: those above 0 select, however they are written."""
    body = (REAL / "labels" / "oidv7-val-annotations-human-imagelabels.quoted-rows.csv").read_bytes()
    rows = list(csv.DictReader(body.decode().splitlines()))
    assert {"1.0", "0.0", "1"} >= {row["Confidence"] for row in rows}
    key = "v7/oidv7-val-annotations-human-imagelabels.csv"
    mirror = real_mirror(tmp_path / "m", key, body, {row["ImageID"] for row in rows}, "validation")
    plan = await oid_async.plan(kinds=["label"], splits=["validation"], mirror=mirror, savepath=tmp_path / "d")
    positive = {row["ImageID"] for row in rows if float(row["Confidence"]) > 0}
    assert plan.selected == len(positive)
    assert plan.annotations == {"label": sum(row["ImageID"] in positive for row in rows)}


@needs_real
async def test_real_masks_rows(tmp_path: Path) -> None:
    """Published rows of masks, clicks and all, are read and counted."""
    body = (REAL / "segmentation" / "train-annotations-object-segmentation.quoted-rows.csv").read_bytes()
    rows = list(csv.DictReader(body.decode().splitlines()))
    key = "v5/train-annotations-object-segmentation.csv"
    mirror = real_mirror(tmp_path / "m", key, body, {row["ImageID"] for row in rows}, "train")
    plan = await oid_async.plan(kinds=["segmentation"], splits=["train"], mirror=mirror, savepath=tmp_path / "d")
    assert plan.annotations == {"segmentation": len(rows)}


async def test_python_refuses_the_same(tmp_path: Path) -> None:
    """The Python door raises what the command line prints."""
    with pytest.raises(UsageError, match="kinds"):
        await oid_async.plan(kinds=["boxes"], savepath=tmp_path)
