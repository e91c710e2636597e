"""The benchmarks' own sums: what is published of them must be what was measured."""

import doctest
import importlib
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from oid_async.store.image_check import Expected, read_header, refuse

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


@pytest.fixture
def finding(load: Any, results: Any) -> Any:
    """Three rounds with pairs of 100 and 400 images, 1 s of start-up in each of the runs of oid-async."""
    download, profiles, contestants = load("download"), load("profiles"), load("contestants")
    cost = load("harness").Cost
    field = [contestants.Contestant(name, name, lambda job: []) for name in (*results, "parfive")]
    profile = profiles.against_peers("24k", "24 KB", profiles.SMALL, field)
    walls = {name: [(run.wall, 4 * run.wall) for run in runs] for name, runs in results.items() if name != "oid-async"}
    walls |= {"oid-async": [(2.0, 5.0), (3.0, 9.0), (1.5, 3.0)], "parfive": [(3.0, 9.0)] * 3}
    sizes = {name: (25, 100) if name == "parfive" else (100, 400) for name in walls}
    rounds = {
        name: [tuple(cost(wall, wall / 2, 100.0, "") for wall in pair) for pair in pairs]
        for name, pairs in walls.items()
    }
    return download.Finding(profile, sizes, rounds)


def test_ratios_are_of_the_runs_of_one_round(load: Any, results: Any) -> None:
    """Each round is divided by itself, then the median is taken; a rival is picked by its median run."""
    figures = load("figures")
    images = dict.fromkeys(results, 500)
    seconds = figures.whole_seconds(results, images)
    ratio = figures.ratios(seconds, "oid-async", "aria2c")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.8)
    assert figures.ratios(seconds, "oid-async", "curl").median == 0.4
    assert figures.fastest(seconds, ("aria2c", "curl")) == "curl"
    assert figures.cost_table(results, images)[3] == "| aria2c | 500 | 250 | 200-250 | 2.00 | 2.000 | 100 |"
    assert figures.start_table(results)[4] == "| oid-async | 4.00 | 2.50-5.00 | 1.00 | 1.00-1.00 | 100 |"


def test_the_slope_is_what_further_images_cost(load: Any) -> None:
    """A run of 4N less one of N, a 3N-th of it; what N took beyond that is start-up. CPU time likewise."""
    figures, cost = load("figures"), load("harness").Cost
    pair = figures.Pair(1000, cost(1.5, 0.8, 90.0, ""), cost(4.5, 2.0, 95.0, ""))
    assert (pair.seconds, pair.cpu_seconds) == (pytest.approx(0.001), pytest.approx(0.0004))
    assert (pair.start, pair.start_cpu) == (pytest.approx(0.5), pytest.approx(0.4))


def test_the_report_has_slopes_beside_whole_processes(load: Any, finding: Any) -> None:
    """Both with the spread of the rounds; a slow peer's fewer images are named, and its ratios are of single images."""
    lines = load("download").section(finding).splitlines()
    assert lines[0] == "#### 24k: 100 and 400 images of 24 KB; 25 and 100 for parfive"
    assert "| oid-async | 100 | 50-200 | 5.000 | 2.500-10.000 | 1.00 | 1.00-1.00 | 0.50 |" in lines
    assert "| oid-async | 400 | 80 | 44-133 | 5.00 | 6.250 | 100 |" in lines
    assert "| parfive | 100 | 11 | 11-11 | 9.00 | 45.000 | 100 |" in lines
    assert "| oid-async / aria2c | 2.00 | 1.25-4.00 | 1.60 | 1.11-2.67 |" in lines
    assert "| oid-async / parfive | 8.00 | 4.00-16.00 | 7.20 | 4.00-12.00 |" in lines


def test_a_profile_without_pairs_has_whole_processes_alone(load: Any, results: Any) -> None:
    """Jobs of a hundred images have no slope, nor have their tables."""
    download, profiles, contestants = load("download"), load("profiles"), load("contestants")
    field = [contestants.Contestant(name, name, lambda job: []) for name in results]
    profile = profiles.Profile("start", "300 KB", profiles.LARGE, field, is_warm=True)
    sizes = {one.name: profile.sizes(one, 5000) for one in field}
    rounds = {name: [(cost,) for cost in costs] for name, costs in results.items()}
    words = download.section(download.Finding(profile, sizes, rounds))
    assert words.startswith("#### start: 100 images of 300 KB\n\n| from spawn to exit |")
    assert "slope" not in words


def test_a_refused_image_counts_each_time_it_is_sent(load: Any) -> None:
    """It is asked for twice, so that its cost is that of one body, as of an image that is saved."""
    download, profiles, contestants = load("download"), load("profiles"), load("contestants")
    cost = load("harness").Cost
    field = [contestants.Contestant("oid-async", "", lambda job: [], is_refusing=True)]
    profile = profiles.Profile("unwalkable", "300 KB", profiles.LARGE, field, few=400)
    sizes = {"oid-async": profile.sizes(field[0], 2000)}
    found = download.Finding(profile, sizes, {"oid-async": [(cost(1.0, 0.1, 1.0, ""), cost(2.2, 0.4, 1.0, ""))]})
    assert sizes == {"oid-async": (120, 480)}
    assert found.images == {"oid-async": 960}
    assert found.slopes["oid-async"][0].seconds == pytest.approx(1.2 / 720)


def test_the_picture_shows_each_median_once(load: Any, finding: Any) -> None:
    """It is well-formed, with the slope of every contestant that a column has."""
    download = load("download")
    other = download.Finding(finding.profile, finding.sizes, {"curl": finding.rounds["curl"]})
    words = [element.text for element in ET.fromstring(download.picture([finding, other], "a < b")).iter()]
    assert [word for word in words if word and word.isdigit()] == ["100", "50", "100", "12", "100"]
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


@pytest.mark.parametrize("form", ["usual", "long-header", "early-end", "no-scan", "endless-header"])
def test_images_are_of_the_form_that_is_wanted(load: Any, form: Any) -> None:
    """All of the exact size; those without a picture that can be found are refused, the others are images."""
    corpus = load("corpus")
    body = corpus.jpeg("id", 30_000, random.Random(1), form)
    assert len(body) == 30_000
    wanted = "not_image" if form in corpus.REFUSED_FORMS else None
    assert refuse(body, read_header(body), None, Expected()) == wanted


def test_few_bodies_go_by_many_names(load: Any, tmp_path: Path) -> None:
    """Every name has the size that is said, and there are no more files than bodies."""
    corpus = load("corpus")
    made = corpus.make_corpus(tmp_path / "made", 10, 400, bodies=3)
    assert {image_id: made.image(image_id).stat().st_size for image_id in made.sizes} == made.sizes
    assert len({made.image(image_id).stat().st_ino for image_id in made.sizes}) == 3
    assert corpus.open_corpus(made.root) == made
    person = made.of_class("Person")
    assert set(person.sizes) == {
        line.split(",")[0] for line in (made.root / corpus.BOX_TABLE).read_text().splitlines() if "/m/01g317" in line
    }


def test_shares_are_those_of_the_further_images(load: Any) -> None:
    """Samples of the larger run less those of the smaller one, by whose code it is; MD5 is known by its addresses."""
    share = load("share")
    loop = {("libcrypto.so.3", f"0x{at:016x}"): 50 for at in range(0x1000, 0x1400, 0x40)}
    md5 = share.find_md5(share.Counter(loop | {("libcrypto.so.3", "0x0000000000009000"): 1, ("libc.so.6", "read"): 9}))
    assert md5 == share.Md5Code("libcrypto.so.3", 0x1000, 0x13C0)
    few = share.Counter({("[kernel.kallsyms]", "tcp_sendmsg"): 100, ("libpython3.11.so.1.0", "_PyEval"): 900})
    more = {
        ("[kernel.kallsyms]", "tcp_sendmsg"): 400,
        ("libcrypto.so.3", "0x0000000000001100"): 300,
        ("libcrypto.so.3", "0x0000000000009000"): 40,
        ("libpython3.11.so.1.0", "_PyEval"): 200,
        ("libpython3.11.so.1.0", "visit_decref"): 10,
        ("_polars_runtime.abi3.so", "unknown"): 30,
        ("libc.so.6", "memcpy"): 20,
    }
    found = share.shares(few, few + share.Counter(more), 100, md5, frequency=1000)
    assert found == {
        "kernel": 4.0,
        "MD5": 3.0,
        "TLS": 0.4,
        "interpreter": 2.0,
        "garbage collector": 0.1,
        "Polars": 0.3,
        "rest": 0.2,
    }
    assert share.row("24k", found)[:3] == ["24k", "10.000", "4.000 (40%)"]


@pytest.mark.parametrize("module", ["profiles", "share"])
def test_the_examples_of_the_benchmarks_hold(load: Any, module: str) -> None:
    """Their doctests."""
    tried = doctest.testmod(load(module))
    assert tried.attempted
    assert tried.failed == 0


def test_the_model_of_a_cluster_keeps_its_examples(load: Any) -> None:
    """The simulation's doctests: whole rounds, the tail of a slow worker, and the copy that shortens it."""
    tried = doctest.testmod(load("cluster_model"))
    assert tried.attempted > 5
    assert tried.failed == 0
