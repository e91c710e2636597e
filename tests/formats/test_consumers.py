"""The programs that people load exports with, real ones: the lines of docs/formats.md, then every sample.

supervision, webdataset and datasets come with the extra `consumers`; FiftyOne is used where it is installed (see
docs/formats.md). What is not installed is skipped by name.
"""

import ast
import asyncio
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.published import read_csv, read_manifest
from support.reader_environments import answer
from support.saved import SavedBox, SavedFolder, SavedImage, picture

import oid_async
from oid_async.events import ignore
from oid_async.jobs.demo import demo_run
from oid_async.options.export import FORMATS

PAGE_PATH = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")
LINES = dict(re.findall(r"^\| `(\w+)` \|.*\| `(import [^`]*|from [^`]*)` \|$", PAGE, re.MULTILINE))
# Readers with an environment of their own, where they are not installed: the module, the fixture that makes it.
OWN = {
    "datasets": "imagefolder",
    "datumaro": "datumaro",
    "label_studio_sdk": "label_studio",
    "tensorflow": "tensorflow",
}
SPLITS = ("train", "validation", "test")
# What these libraries warn of among themselves is not for us to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with demo_data/ as `oid-async demo` leaves it."""
    root = tmp_path_factory.mktemp("consumers")
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "FIFTYONE_DO_NOT_TRACK": "1"}
    os.environ |= {"FIFTYONE_DATABASE_VALIDATION": "false", "FIFTYONE_DATABASE_DIR": str(root / "db")}
    asyncio.run(demo_run(root / "demo_data", root / "cache", ignore).download())
    yield root
    os.environ.clear()
    os.environ.update(before)


def export_of(root: Path, name: str) -> Path:
    """Return the export of the demo in a format, made when it is first asked for."""
    out = root / "demo_data" / "export" / name
    if not out.exists():
        asyncio.run(oid_async.export(savepath=root / "demo_data", format=name))
    return out


def saved(root: Path) -> list[dict[str, Any]]:
    return [row for row in read_manifest(root / "demo_data") if row["Status"] == "ok"]


def boxes_of(root: Path, name: str, width: int, height: int) -> list[tuple[float | str, ...]]:
    """Return the boxes of one image, by its file name, in pixels."""
    sides = (("XMin", width), ("YMin", height), ("XMax", width), ("YMax", height))
    rows = [row for row in read_csv(root / "demo_data" / "bbox" / "bbox.csv") if row["FileName"] == name]
    return sorted((row["Category"], *(float(row[side]) * size for side, size in sides)) for row in rows)


def test_the_page_has_a_line_for_every_format() -> None:
    """Each format is in the table, with a line that loads it."""
    assert tuple(LINES) == FORMATS


def modules_of(line: str) -> list[str]:
    """Return the modules that a line imports, the outermost packages.

    >>> modules_of("from pycocotools.coco import COCO; COCO('a')"), modules_of("import glob, webdataset; 1")
    (['pycocotools'], ['glob', 'webdataset'])
    """
    nodes = ast.walk(ast.parse(line))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Import) for alias in node.names]
    return [name.partition(".")[0] for name in names]


def is_light(line: str) -> bool:
    """Return whether a line needs nothing but Python and what the tests install anyway."""
    project = tomllib.loads((PAGE_PATH.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = (*project["dependencies"], *project["optional-dependencies"]["test"])
    there = {re.split(r"[^\w-]", each, maxsplit=1)[0].replace("-", "_").lower() for each in needed}
    there |= {*sys.stdlib_module_names, *({"PIL"} if "pillow" in there else ())}
    return all(name in there for name in modules_of(line))


# Counts what a line has loaded, by split where the reader knows splits.
COUNTED = """
def counted(loaded):
    if hasattr(loaded, "fetchall"):
        loaded = loaded.fetchall()
    if isinstance(loaded, dict) and all(map(hasattr, loaded.values(), ["num_rows"] * len(loaded))):
        return {split: len(rows) for split, rows in loaded.items()}
    loaded = getattr(loaded, "imgs", loaded)
    try:
        return len(loaded)
    except TypeError:
        return sum(1 for _ in loaded)
"""


def every_line() -> list[Any]:
    return [name if is_light(LINES.get(name, "")) else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]


@pytest.mark.parametrize("name", every_line())
def test_the_pages_line_loads_it(
    demo: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    """The line of docs/formats.md runs as it is, where `oid-async demo` and `export` have been run: it finds all."""
    modules = modules_of(LINES[name])
    own = next((OWN[module] for module in modules if module in OWN and find_spec(module) is None), None)
    missing = [module for module in modules if own is None and find_spec(module) is None]
    if missing:
        pytest.skip(f"{name} is not loaded: {', '.join(missing)} is not installed here (see docs/formats.md)")
    export_of(demo, name)
    *before, last = LINES[name].split("; ")
    program = "; ".join(before)
    if own is not None:
        python = request.getfixturevalue(own)
        text = f"import json\n{COUNTED}\n{program}\nprint(json.dumps(counted({last})))"
        found = answer(python, text, cwd=demo)
    else:
        monkeypatch.chdir(demo)
        names: dict[str, Any] = {}
        exec(f"{COUNTED}\n{program}", names)
        found = eval(f"counted({last})", names)
    counts = Counter(row["Subset"] for row in saved(demo))
    if name == "crops":
        of_image = {row["ImageID"]: row["Subset"] for row in saved(demo)}
        counts = Counter(of_image[row["ImageID"]] for row in read_csv(demo / "demo_data" / "bbox" / "bbox.csv"))
    wanted = counts["train"] if re.search("train[^_]", LINES[name]) else sum(counts.values())
    assert found == (counts if isinstance(found, dict) else wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_supervision_finds_the_same_boxes(demo: Path, name: str) -> None:
    """supervision reads each format and finds every box of its class within half a pixel."""
    dataset_of = pytest.importorskip("supervision").DetectionDataset
    out = export_of(demo, name)
    if name == "yolo":
        asyncio.run(oid_async.export(savepath=demo / "demo_data", format="yolo", no_masks=True, out=demo / "boxes"))
        out = demo / "boxes"
    sets: dict[str, Callable[[str], Any]] = {
        "coco": lambda split: dataset_of.from_coco(
            str(out / "images" / split), str(out / "annotations" / f"instances_{split}.json")
        ),
        "yolo": lambda split: dataset_of.from_yolo(
            str(out / "images" / split), str(out / "labels" / split), str(out / "data.yaml")
        ),
        "voc": lambda _: dataset_of.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations")),
    }
    seen = 0
    for split in SPLITS if name != "voc" else ("all",):
        found = sets[name](split)
        for path, image, detections in found:
            height, width = image.shape[:2]
            wanted = boxes_of(demo, Path(path).name, width, height)
            for number, box in zip(detections.class_id, detections.xyxy.tolist(), strict=True):
                near = [
                    other
                    for other in wanted
                    if other[0] == found.classes[number]
                    and all(abs(a - b) <= 0.501 for a, b in zip(box, other[1:], strict=True))
                ]
                assert near, (path, box)
                wanted.remove(near[0])
                seen += 1
            assert not wanted, path
    assert seen == len(read_csv(demo / "demo_data" / "bbox" / "bbox.csv"))


@pytest.mark.slow
def test_webdataset_decodes_every_sample(demo: Path) -> None:
    """webdataset decodes every image and mask of every split, each of the size that the sample says."""
    webdataset = pytest.importorskip("webdataset")
    keys = []
    for split in SPLITS:
        shards = sorted(map(str, export_of(demo, "webdataset").glob(f"{split}-*.tar")))
        for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil"):
            said = sample["json"]
            assert sample["jpg"].size == sample["png"].size == (said["width"], said["height"])
            sample["jpg"].load()
            keys.append(sample["__key__"])
    assert sorted(keys) == sorted(row["ImageID"] for row in saved(demo))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagefolder", "imagefolder streamed", "webdataset streamed", "parquet"])
def test_datasets_decodes_every_image(demo: Path, name: str) -> None:
    """datasets iterates every sample offline and decodes every image."""
    datasets = pytest.importorskip("datasets")
    kind, _, streamed = name.partition(" ")
    out = export_of(demo, kind)
    ending = {"webdataset": "tar", "parquet": "parquet"}.get(kind)
    where: dict[str, Any] = {"data_dir": str(out)}
    if ending is not None:
        where = {"data_files": {split: str(out / f"{split}-*.{ending}") for split in SPLITS}}
    loaded = datasets.load_dataset(kind, **where, streaming=bool(streamed))
    if kind == "parquet":
        loaded = loaded.cast_column("image", datasets.Image())
    seen = Counter[str]()
    for split in SPLITS:
        for row in loaded[split]:
            said = row["json"] if kind == "webdataset" else row
            image = row["jpg"] if kind == "webdataset" else row["image"]
            assert image.size == (said["width"], said["height"])
            seen[split] += 1
    assert seen == Counter(row["Subset"] for row in saved(demo))


@pytest.mark.slow
def test_fiftyone_imports_every_label(demo: Path) -> None:
    """FiftyOne imports the folder with as many labels of each type as the tables have rows."""
    fiftyone = pytest.importorskip("fiftyone")
    types = ["classifications", "detections", "relationships", "segmentations", "points"]
    dataset = fiftyone.Dataset.from_dir(
        str(export_of(demo, "fiftyone")),
        dataset_type=fiftyone.types.OpenImagesV7Dataset,
        label_types=types,
    )
    tables = {
        "detections.detections": "bbox/bbox",
        "relationships.detections": "relationship/relationship",
        "segmentations.detections": "segmentation/segmentation",
        "points.keypoints": "point/points",
    }
    assert len(dataset) == len(saved(demo))
    for field, table in tables.items():
        assert dataset.count(field) == len(read_csv(demo / "demo_data" / f"{table}.csv")), field
    labels = dataset.count("positive_labels.classifications") + dataset.count("negative_labels.classifications")
    assert labels == len(read_csv(demo / "demo_data" / "label" / "labels.csv"))


@pytest.mark.slow
def test_fiftyone_finds_labels_of_an_id_that_is_all_digits(demo: Path, tmp_path: Path) -> None:
    """The boxes of an image whose id looks like a number are imported."""
    fiftyone = pytest.importorskip("fiftyone")
    image = SavedImage("0000048549557964", picture=picture(64, 48))
    path = SavedFolder([image], [SavedBox(image.image_id)] * 3).write(tmp_path / "d")
    report = asyncio.run(oid_async.export(savepath=path, format="fiftyone"))
    dataset = fiftyone.Dataset.from_dir(report.out, dataset_type=fiftyone.types.OpenImagesV7Dataset)
    assert (len(dataset), dataset.count("detections.detections")) == (1, 3)
