"""The benchmarks' own sums: what is published of them must be what was measured."""

import doctest
import importlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def results(load: Any) -> Any:
    """Three rounds, the second with the machine busy."""
    cost = load("harness").Cost
    walls = {"curl": [1.0, 4.0, 1.0], "aria2c": [2.0, 2.5, 2.0], "oid-async": [4.0, 5.0, 2.5]}
    return {name: [cost(wall, 1.0, 100.0, "") for wall in seconds] for name, seconds in walls.items()}


def test_ratios_are_of_the_runs_of_one_round(load: Any, results: Any) -> None:
    """Each round is divided by itself, then the median is taken; a rival is picked by its median run."""
    figures = load("figures")
    ratio = figures.ratios(results, "oid-async", "aria2c")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.8)
    assert figures.ratios(results, "oid-async", "curl").median == 0.4
    assert figures.fastest(results, ("aria2c", "curl")) == "curl"
    assert figures.cost_table(results, 500)[3] == "| aria2c | 250 | 200-250 | 2.00 | 2.000 | 100 |"


def test_the_picture_shows_each_median_once(load: Any, results: Any) -> None:
    """It is well-formed, with a number for every contestant that a column has."""
    download = load("download")
    profile = download.Profile("24k", "24 KB", download.SMALL, [], [])
    without_curl = {name: costs for name, costs in results.items() if name != "curl"}
    findings = [download.Finding(profile, 500, results), download.Finding(profile, 5000, without_curl)]
    words = [element.text for element in ET.fromstring(download.picture(findings, "a < b")).iter() if element.text]
    assert [word for word in words if word.replace(",", "").isdigit()] == ["500", "250", "125", "2,500", "1,250"]
    assert words.count("oid-async") == 1
    assert "a < b" in words


@pytest.mark.parametrize("damage", ["cut", "other bytes", "extra", "missing"])
def test_a_run_that_left_anything_else_does_not_count(load: Any, tmp_path: Path, damage: str) -> None:
    """A file too few, too many, cut or altered is an error."""
    download, corpus = load("download"), load("corpus")
    served = corpus.make_corpus(tmp_path / "served", 3, 300)
    files = {image_id: tmp_path / f"{image_id}.jpg" for image_id in served.sizes}
    for image_id, file in files.items():
        file.write_bytes(served.image(image_id).read_bytes())
    download.check_images(served, files, 1)
    image_id, file = next(iter(files.items()))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "other bytes":
        file.write_bytes(bytes(served.sizes[image_id]))
    elif damage == "extra":
        files["x.jpg.part"] = file
    else:
        del files[image_id]
    with pytest.raises(load("harness").BenchError, match=r"missing, unexpected|differs"):
        download.check_images(served, files, 1)


def test_the_model_of_a_cluster_keeps_its_examples(load: Any) -> None:
    """The simulation's doctests: whole rounds, the tail of a slow worker, and the copy that shortens it."""
    tried = doctest.testmod(load("cluster_model"))
    assert tried.attempted > 5
    assert tried.failed == 0
