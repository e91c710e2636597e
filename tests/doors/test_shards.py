"""`--shard K/N`: disjoint parts that together are the whole, and what a cluster says of which one is wanted."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published import image_names, read_manifest

import oid_async
from oid_async.cli import main as cli
from oid_async.cli.cluster_variables import shard_from
from oid_async.errors import UsageError
from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split
from oid_async.select.choose import choose
from oid_async.select.limits import TopUpState
from oid_async.select.query import Part, ResolvedQuery

LABELS = ("/m/0", "/m/1", "/m/2")
BY_SPLIT: list[Mapping[Split, int | None]] = [{"train": 7}, {"test": 7}, {"train": None}]
LIMITS: tuple[int | Fraction | Mapping[Split, int | None] | None, ...] = (
    *(None, 0, 1, 5, 17, 90, Fraction(1, 3), Fraction(1, 999)),
    *BY_SPLIT,
)


def select(labels: Mapping[int, set[str]], query: ResolvedQuery, failed: set[int] | None = None) -> list[int]:
    """Return the keys that a query selects of images by key with the labels of their boxes."""
    rows = [(key, LABELS.index(label), 1) for key, names in labels.items() for label in sorted(names)]
    pairs = pl.DataFrame(rows, schema={KEY: pl.UInt64, "label": pl.UInt16, "rows": pl.UInt32}, orient="row")
    images = pl.DataFrame({KEY: list(labels), "split": 0}, schema={KEY: pl.UInt64, "split": pl.UInt8})
    asked = TopUpState(pl.Series(KEY, sorted(failed), pl.UInt64)) if failed is not None else TopUpState()
    return choose(pairs, images, query, asked).keys.to_list()


def in_order(keys: list[int], seed: int | None) -> list[int]:
    """Return keys in the order that limits count in, by arithmetic of our own."""

    def place(key: int) -> int:
        z = (key + (seed or 0) + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    return sorted(keys) if seed is None else sorted(keys, key=place)


@st.composite
def selections(draw: st.DrawFn) -> tuple[dict[int, set[str]], ResolvedQuery]:
    """Draw up to fifty images of up to three classes each, and a query with any limits, shuffled or not."""
    chance = random.Random(draw(st.integers(0, 2**64)))
    ids = [chance.choice((chance.getrandbits(64), chance.getrandbits(6))) for _ in range(chance.choice((0, 3, 12, 50)))]
    query = ResolvedQuery(
        categories=tuple(Category(label, (label,)) for label in LABELS),
        limit=chance.choice(LIMITS),
        limit_per_class=chance.choice((None, None, 1, 4, 90)),
        seed=chance.choice((None, None, 0, 7)),
    )
    return {key: {label for label in LABELS if chance.random() < 0.5} for key in ids}, query


@settings(max_examples=30, deadline=None, derandomize=True)
@given(selections(), st.integers(1, 9))
def test_parts_are_the_whole_once(drawn: tuple[dict[int, set[str]], ResolvedQuery], count: int) -> None:
    """Part K holds every N-th image of the whole selection in its order, limits counted before."""
    labels, query = drawn
    whole = in_order(select(labels, query), query.seed)
    for number in range(1, count + 1):
        part = select(labels, replace(query, part=Part(number, count)))
        assert part == sorted(whole[number - 1 :: count])
        assert len(part) == Part(number, count).share(len(whole))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(selections(), st.integers(2, 5), st.integers(0, 2**32))
def test_a_part_is_topped_up_from_its_own(
    drawn: tuple[dict[int, set[str]], ResolvedQuery], count: int, seed: int
) -> None:
    """What fails is replaced by images that no other part can take, up to the part's own share of --ndata."""
    labels, query = drawn
    limit = query.limit if isinstance(query.limit, int | None) else Fraction(1, 3)
    query = replace(query, limit=limit, limit_per_class=None, top_up=True)
    chance = random.Random(seed)
    failing = {key for key in labels if chance.random() < 0.4}
    candidates = in_order([key for key in labels if labels[key]], query.seed)
    for number in range(1, count + 1):
        own, part = candidates[number - 1 :: count], Part(number, count)
        if query.limit is not None:
            share = part.share(query.limit if isinstance(query.limit, int) else max(1, len(candidates) // 3))
            own = [key for at, key in enumerate(own) if sum(other not in failing for other in own[:at]) < share]
        assert select(labels, replace(query, part=part), failing) == sorted(own)


def test_parts_of_places_in_any_frame() -> None:
    """The condition works on a column of places wherever it is: in memory, lazily, and in a file read in chunks."""
    places = pl.DataFrame({"__place": range(1000)})
    held = [places.lazy().filter(Part(number, 7).holds(pl.col("__place"))) for number in range(1, 8)]
    assert pl.concat(held).collect().get_column("__place").sort().to_list() == list(range(1000))
    assert {len(part.collect(engine="streaming")) for part in held} == {142, 143}


def array(task: int, first: int, last: int, step: int = 1, count: int | None = None, **others: str) -> dict[str, str]:
    """Return what Slurm 22.05 tells a task of an array (tried)."""
    told = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count or (last - first) // step + 1}
    job = {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0"}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()} | job | others


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "3"}


@pytest.mark.parametrize(
    ("environment", "shard", "source"),
    [
        ({}, None, None),
        ({"SLURM_JOB_ID": "7"}, None, None),
        (array(0, 0, 3), "1/4", "SLURM_ARRAY_TASK_ID"),
        (array(3, 0, 3), "4/4", "SLURM_ARRAY_TASK_ID"),
        (array(8, 1, 8), "8/8", "SLURM_ARRAY_TASK_ID"),
        (array(7, 5, 11, 2), "2/4", "SLURM_ARRAY_TASK_ID"),
        (array(4, 4, 4), "1/1", "SLURM_ARRAY_TASK_ID"),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, "3/4", "SLURM_ARRAY_TASK_ID"),
        ({"SLURM_ARRAY_TASK_ID": "2"}, None, None),
        (array(1, 0, 3) | STEP, "2/4", "SLURM_ARRAY_TASK_ID"),
        (STEP, "3/3", "SLURM_PROCID"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4"}, "3/4", "SLURM_PROCID"),
        # Another step of a larger job, of one process; a job of one task; a batch script and a login of salloc's.
        (STEP | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, None, None),
        (STEP | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None, None),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, None, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3"}, None, None),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, "2/3", "SLURM_PROCID"),
        ({"SLURM_PROCID": "1"}, None, None),
        ({"JOB_COMPLETION_INDEX": "0", "OID_ASYNC_SHARDS": "8"}, "1/8", "JOB_COMPLETION_INDEX"),
        ({"JOB_COMPLETION_INDEX": "7", "OID_ASYNC_SHARDS": "8"}, "8/8", "JOB_COMPLETION_INDEX"),
        ({"JOB_COMPLETION_INDEX": "", "OID_ASYNC_SHARDS": "8"}, None, None),
        ({"OID_ASYNC_SHARDS": "8"}, None, None),
    ],
    ids=str,
)
def test_environment_names_the_part(environment: dict[str, str], shard: str | None, source: str | None) -> None:
    """The table of what Slurm and Kubernetes say, and which part it is; what is taken from where is said."""
    found, said = shard_from({"PATH": "/bin", **environment})
    assert found == shard
    if source is None or shard is None:
        assert said is None
    else:
        assert said == f"part {shard.replace('/', ' of ')}, from {source}; --shard 1/1 for everything"


def test_a_pod_without_a_number_of_parts_takes_everything() -> None:
    """Kubernetes does not say how many pods there are: one line says what to set."""
    found, said = shard_from({"JOB_COMPLETION_INDEX": "3"})
    assert found is None
    assert said is not None
    assert "set OID_ASYNC_SHARDS" in said


@pytest.mark.parametrize(
    "environment",
    [
        array(3, 1, 7, count=3),
        array(1, 1, 7, count=3),
        array(6, 5, 11, 2),
        {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4"},
        {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "4"},
        STEP | {"SLURM_PROCID": "3"},
        {"JOB_COMPLETION_INDEX": "8", "OID_ASYNC_SHARDS": "8"},
        {"JOB_COMPLETION_INDEX": "0", "OID_ASYNC_SHARDS": "0"},
        {"JOB_COMPLETION_INDEX": "1", "OID_ASYNC_SHARDS": "eight"},
        {"JOB_COMPLETION_INDEX": "-1", "OID_ASYNC_SHARDS": "8"},
    ],
    ids=str,
)
def test_parts_that_cannot_be_told_are_refused(environment: dict[str, str]) -> None:
    """An array with gaps, or a place that is none: one line that names the variable and says what to say instead."""
    with pytest.raises(UsageError, match=r"^(SLURM|JOB|OID)[A-Z_]+ .*--shard 1/1 for everything$"):
        shard_from(environment)


async def test_parts_fill_folders_of_their_own(lookalike: Path, tmp_path: Path) -> None:
    """Runs of all parts download each image of the whole query once; each part's tables and counts are its own."""
    query: dict[str, Any] = {"mirror": lookalike, "limit": 20, "shuffle": True, "seed": 3}
    planned = await oid_async.plan(**query, shard="1/3")
    found: list[str] = []
    for number in (1, 2, 3):
        savepath = tmp_path / str(number)
        report = await oid_async.download(**query, savepath=savepath, shard=f"{number % 3}/3")
        ids = [row["ImageID"] for row in read_manifest(savepath)]
        assert report.selected == report.downloaded == len(ids) == len(image_names(savepath)) in (6, 7)
        assert json.loads((savepath / "query.json").read_text())["query"]["shard"] == f"{number}/3"
        found += ids
    await oid_async.download(**query, savepath=tmp_path / "whole")
    assert planned.selected == planned.to_download == 7
    assert sorted(found) == [row["ImageID"] for row in read_manifest(tmp_path / "whole")]


async def test_another_part_is_another_query(lookalike: Path, tmp_path: Path) -> None:
    """In one folder the images of a part stay when another one is asked for; the tables describe the latter alone."""
    query: dict[str, Any] = {"mirror": lookalike, "limit": 9, "savepath": tmp_path / "d"}
    await oid_async.download(**query, shard="1/2")
    report = await oid_async.download(**query, shard="2/2")
    assert (report.selected, report.downloaded, report.unselected) == (4, 4, 5)
    assert (len(read_manifest(tmp_path / "d")), len(image_names(tmp_path / "d"))) == (4, 9)
    found = await oid_async.verify(savepath=tmp_path / "d", repair=True)
    assert (found.clean, found.checked) == (True, 9)


async def test_python_reads_no_environment(lookalike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who names no part gets everything, wherever the process runs."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setenv("OID_ASYNC_SHARDS", "2")
    assert (await oid_async.plan(mirror=lookalike, limit=9)).selected == 9


@pytest.mark.parametrize(
    ("words", "selected", "said"),
    [
        ([], 4, "part 2 of 2, from JOB_COMPLETION_INDEX; --shard 1/1 for everything"),
        (["--quiet"], 4, None),
        (["--shard", "1/1"], 9, None),
        (["--shard", "0/4"], 2, None),
        (["--shard", "10/10"], 0, "nothing selected in part 10 of 10"),
    ],
    ids=str,
)
def test_command_line_reads_the_environment(
    words: list[str],
    selected: int,
    said: str | None,
    lookalike: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --shard the part is the cluster's and said on stderr; with it nothing is read."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("OID_ASYNC_SHARDS", "2")
    assert cli.main(["plan", "--mirror", str(lookalike), "--ndata", "9", "--json", *words]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["selected"] == selected
    assert (said in printed.err) if said else ("part" not in printed.err)


def test_an_environment_that_cannot_be_used_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is wrong usage like any other: exit 2, one line, as JSON where that is asked for; other commands ignore it."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert cli.main(["download"]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "SLURM_ARRAY_TASK_ID" in said) == (1, True)
    assert cli.main(["download", "--dry-run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"
    assert cli.main(["metadata", "list", "--quiet"]) == 0
