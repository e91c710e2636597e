"""Dataset cards and features, for the Hugging Face Hub and its library: what is written, then what they make of it."""

import importlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from support.published import read_manifest
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

import oid_async
from oid_async.formats.dataset_card import PARQUET, CardFacts, dataset_card, is_own_card, selecting
from oid_async.formats.hub_features import MOST_CLASS_NAMES, parquet_features, webdataset_features

# Without types of its own.
yaml: Any = importlib.import_module("yaml")
ONE, TWO = "000000010000000a", "000000020000000b"
HOSTILE = ("no", "---", "a: b # c", "x\n---\n", "<script>|`[y](z)", "\u202e\x85\u2028\x7f", "日本 🐶", '"\\', "0", "")
SPLITS = ("train", "validation", "test")


def front_matter(card: str) -> dict[str, Any]:
    """Return the YAML between the first two marks, by the pattern that huggingface_hub finds it by."""
    found = re.search(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|\Z))", card)
    assert found is not None
    loaded: dict[str, Any] = yaml.safe_load(found[2])
    return loaded


def test_hostile_names_are_texts_and_nothing_else() -> None:
    """In YAML each is what it was; in the text none of them is markup, ends a line or turns it round."""
    facts = CardFacts(
        PARQUET,
        parquet_features(HOSTILE, has_roles=False),
        {"train": 2, "train-2": 1, "test": 0},
        {"bbox": 3},
        Counter({("train", name): 1 for name in HOSTILE}),
        ["https://creativecommons.org/licenses/by/2.0/", None],
        {"query": {"categories": list(HOSTILE), "label": "/home/me/secret/table.csv", "savepath": "/home/me/d"}},
    )
    card = dataset_card(facts)
    data = front_matter(card)
    (objects,) = (each for each in data["dataset_info"]["features"] if each["name"] == "objects")
    (numbers,) = (each for each in objects["struct"] if each["name"] == "category_id")
    assert tuple(numbers["list"]["class_label"]["names"].values()) == HOSTILE
    assert data["license"] == ["cc-by-4.0", "cc-by-2.0", "unknown"]
    assert data["configs"][0]["data_files"] == [
        {"split": "train", "path": "train-[0-9][0-9][0-9][0-9][0-9].parquet"},
        {"split": "train_2", "path": "train-2-*.parquet"},
    ]
    assert re.search(r"(?<!\\)[<`\[]", card.split("## Counts")[1].split("## Credits")[0]) is None
    assert "/home/me" not in card
    assert all(line.isprintable() for line in card.split("\n"))
    assert is_own_card(card.encode())
    assert not is_own_card(card.replace("## Credits", "## My own").encode())
    assert not is_own_card(b"# mine\n")


def test_a_card_says_what_selects() -> None:
    """What differs from the default, and no more."""
    query = {"categories": ["Dog"], "match": "any", "limit": 5, "retries": 9, "savepath": "x", "splits": ["train"]}
    assert selecting({"query": query}).keys() == {"categories", "limit", "splits"}
    assert selecting({}) == selecting({"query": 3}) == {}


def test_too_many_classes_are_numbers() -> None:
    """A list of names that nobody reads stays out of cards; without classes there is none either."""
    for names in ((), [str(number) for number in range(MOST_CLASS_NAMES + 1)]):
        found = parquet_features(names, has_roles=False)["objects"]["category_id"]
        assert found["feature"] == {"_type": "Value", "dtype": "int64"}
        assert "ClassLabel" not in json.dumps(webdataset_features(names, has_roles=True, has_masks=True))


async def test_parquet_files_carry_features(tmp_path: Path) -> None:
    """In the metadata, with types of Parquet alone: no Arrow schema that makes bytes large_binary. Always the same."""
    mask = rectangle(64, 48, (0, 0, 9, 9))
    box = SavedBox(ONE, sides=("0", "0.140625", "0", "0.1875"))
    path = SavedFolder([SavedImage(ONE), SavedImage(TWO, subset="test")], [box], [(box, mask)]).write(tmp_path / "d")
    report = await oid_async.export(savepath=path, format="parquet")
    file = Path(report.out) / "train-00000.parquet"
    metadata = pl.read_parquet_metadata(file)
    features = json.loads(metadata["huggingface"])["info"]["features"]
    assert "ARROW:schema" not in metadata
    assert features["image"] == {"_type": "Image"}
    assert features["masks"] == {"_type": "Sequence", "feature": {"_type": "Image"}}
    assert features["objects"]["category_id"]["feature"]["names"] == ["Person", "Football", "Dog"]
    row = pl.read_parquet(file).row(0, named=True)
    assert list(row) == list(features)
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (64, 48)
    again = await oid_async.export(savepath=path, format="parquet", out=tmp_path / "again")
    for name in ("README.md", "train-00000.parquet", "test-00000.parquet"):
        assert (Path(again.out) / name).read_bytes() == (Path(report.out) / name).read_bytes()
    found = front_matter((Path(again.out) / "README.md").read_text())
    assert found["task_categories"] == ["object-detection", "image-segmentation"]
    assert [each["split"] for each in found["configs"][0]["data_files"]] == ["train", "test"]


async def test_a_readme_of_ones_own_stays(lookalike: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Packed shards get a card, and a later run leaves one that was edited; an export is not replaced then."""
    query: dict[str, Any] = {"categories": ["Football"], "splits": ["test"], "format": "webdataset", "no_files": True}
    report = await oid_async.download(**query, mirror=lookalike, savepath=tmp_path / "d")
    card = Path(report.export["out"]) / "README.md"
    written = card.read_text()
    assert is_own_card(written.encode())
    card.write_text(written.replace("A selection of Open Images", "Footballs"))
    await oid_async.download(**query, mirror=lookalike, savepath=tmp_path / "d")
    assert "# Footballs" in card.read_text()
    card.unlink()
    await oid_async.download(**query, mirror=lookalike, savepath=tmp_path / "d")
    assert card.read_text() == written


# --- by the library itself ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, lookalike: Path) -> Iterator[Path]:
    """Return a folder with an export in each format, and what it was saved from."""
    import asyncio

    root = tmp_path_factory.mktemp("cards")
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "OID_ASYNC_CACHE": str(root / "cache")}
    asyncio.run(oid_async.download(kinds=["all"], splits=SPLITS, limit=90, mirror=lookalike, savepath=root / "d"))
    for name in ("parquet", "webdataset"):
        asyncio.run(oid_async.export(savepath=root / "d", format=name, out=root / name))
    yield root
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["parquet", "webdataset", "parquet files"])
def test_datasets_loads_pictures(exports: Path, name: str, streaming: bool) -> None:
    """By the card, and files of Parquet without it: image and masks are pictures, classes have names, all rows come."""
    datasets = pytest.importorskip("datasets")
    kind, _, files = name.partition(" ")
    where: dict[str, Any] = {"path": str(exports / kind)}
    if files:
        parts = {split: str(exports / kind / f"{split}-*.parquet") for split in SPLITS}
        where = {"path": "parquet", "data_files": parts}
    loaded = datasets.load_dataset(**where, streaming=streaming)
    seen = Counter[str]()
    for split in SPLITS:
        rows = loaded[split].rename_column("jpg", "image") if kind == "webdataset" else loaded[split]
        for row in rows:
            sample = row["json"] if kind == "webdataset" else row
            assert row["image"].size == (sample["width"], sample["height"])
            objects = sample["objects"]
            if kind == "parquet":
                masks = dict(zip([each for each in objects["mask"] if each], row["masks"], strict=True))
                assert all(mask.size == row["image"].size for mask in masks.values())
                numbers = rows.features["objects"]["category_id"].feature
            else:
                assert row["png"].size == row["image"].size
                numbers = rows.features["json"]["objects"]["category_id"].feature
            assert [numbers.int2str(number) for number in objects["category_id"]] == objects["category"]
            seen[split] += 1
    assert seen == Counter(row["Subset"] for row in read_manifest(exports / "d") if row["Status"] == "ok")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_the_hub_reads_the_card(exports: Path, name: str) -> None:
    """huggingface_hub's own parser finds every field, and datasets the features of which it writes the same YAML."""
    hub, datasets = pytest.importorskip("huggingface_hub"), pytest.importorskip("datasets")
    data = hub.DatasetCard.load(exports / name / "README.md").data
    assert (data.pretty_name, data.size_categories) == ("A selection of Open Images", ["n<1K"])
    assert data.license == ["cc-by-4.0", "cc-by-2.0"]
    features = data.to_dict()["dataset_info"]["features"]
    assert datasets.Features._from_yaml_list(features)._to_yaml_list() == features


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_datasets_loads_a_place_by_its_card(exports: Path, lookalike: Path, tmp_path: Path, form: str) -> None:
    """What a download past one machine has filled is a dataset of the library's, too."""
    import asyncio

    datasets = pytest.importorskip("datasets")
    options: dict[str, Any] = {"format": form, "no_files": True, "cluster": "local:1", "part_size": "1M"}
    saved = oid_async.download(kinds=["all"], splits=["test"], mirror=lookalike, savepath=tmp_path / "p", **options)
    report = asyncio.run(saved)
    rows = datasets.load_dataset(str(tmp_path / "p"), split="test")
    assert len(rows) == report.downloaded
    assert rows[0]["jpg" if form == "webdataset" else "image"].size[0] > 1
