"""--top-up: failures are replaced by the next images in order, the same ones however the run came about."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published import (
    Box,
    Dataset,
    Image,
    counted_origin,
    image_names,
    read_csv,
    read_manifest,
    tiny_jpeg,
    tree,
    write_table,
)

import oid_async
from oid_async.cli import main as cli
from oid_async.events import Event, Landed, Note
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.query import Options
from oid_async.origin.server import Origin, folder
from oid_async.report import Report
from oid_async.select.choose import Selection, choose
from oid_async.select.limits import TopUpState
from oid_async.select.query import ResolvedQuery

LABELS = ("/m/0", "/m/1", "/m/2")


@dataclass(frozen=True)
class Case:
    """Images by key with the labels of their boxes, those that will fail, and the limits that are asked for."""

    labels: dict[int, set[str]]
    failing: set[int]
    limit: int | Fraction | Mapping[Split, int | None] | None
    limit_per_class: int | None
    seed: int | None
    by_category: bool

    @property
    def query(self) -> ResolvedQuery:
        categories = tuple(Category(label, (label,)) for label in LABELS) if self.by_category else ()
        return ResolvedQuery(
            categories=categories,
            limit=self.limit,
            limit_per_class=self.limit_per_class,
            seed=self.seed,
            top_up=True,
        )

    @property
    def in_order(self) -> list[int]:
        """The images that match, in the order that the limits count in."""
        matching = [key for key in self.labels if self.labels[key]]
        return sorted(matching, key=lambda key: key if self.seed is None else splitmix64(key, self.seed))

    def one_by_one(self) -> list[int]:
        """Return what is selected when images are asked for one after the other, each as long as there is need."""
        asked: list[int] = []
        there = dict.fromkeys(SPLITS, 0)
        filled = dict.fromkeys(LABELS, 0)
        for key in self.in_order:
            split = SPLITS[key % 3]
            most, taken = self.counts(split), there[split] if isinstance(self.limit, Mapping) else sum(there.values())
            is_full = most is not None and taken >= most
            needed = any(self.limit_per_class is None or filled[x] < self.limit_per_class for x in self.labels[key])
            if is_full or not needed:
                continue
            asked.append(key)
            if key not in self.failing:
                there[split] += 1
                for label in self.labels[key]:
                    filled[label] += 1
        return sorted(asked)

    def counts(self, split: Split) -> int | None:
        """Return how many images --ndata takes of a split, or of all of them."""
        if isinstance(self.limit, Mapping):
            return self.limit.get(split, 0)
        if isinstance(self.limit, Fraction):
            total = len(replace(self, limit=None, failing=set()).one_by_one())
            return max(1, int(total * self.limit))
        return self.limit

    def decide(self, asked: TopUpState) -> Selection:
        """Return what `choose` makes of the tables."""
        codes = {label: code for code, label in enumerate(LABELS)}
        if not self.by_category and self.limit_per_class is None:
            codes = dict.fromkeys(LABELS, 0)
        rows = [(key, codes[label], 1) for key, labels in self.labels.items() for label in sorted(labels)]
        schema = {KEY: pl.UInt64, "label": pl.UInt16, "rows": pl.UInt32}
        pairs = pl.DataFrame(rows, schema=schema, orient="row").unique()
        splits = [key % 3 for key in self.labels]
        images = pl.DataFrame({KEY: list(self.labels), "split": splits}, schema={KEY: pl.UInt64, "split": pl.UInt8})
        return choose(pairs, images, self.query, asked)


def splitmix64(number: int, seed: int) -> int:
    z = (number + seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def keys(numbers: Sequence[int] | set[int]) -> pl.Series:
    return pl.Series(KEY, sorted(numbers), pl.UInt64)


def in_rounds(case: Case, known: set[int]) -> tuple[list[int], set[int]]:
    """Decide, ask, decide again, as a run does that knows some failures; return what is selected and what was asked."""
    failed, asked = set(known), keys(())
    for _ in range(200):
        selection = case.decide(TopUpState(keys(failed), asked))
        fresh = set(selection.keys) & case.failing - failed
        assert set(asked) <= set(selection.keys), "what was asked for stays selected"
        asked = selection.keys
        if not fresh and not selection.waiting:
            return selection.keys.to_list(), set(asked)
        assert fresh or len(set(asked)) > 0, "a decision that gives nothing out would never end"
        failed |= fresh
    raise AssertionError("it never ends")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw up to thirty images of up to three classes each; every limit, alone and together."""
    chance = random.Random(draw(st.integers(0, 2**64)))
    ids = [chance.choice((chance.getrandbits(64), chance.getrandbits(6))) for _ in range(chance.choice((0, 3, 12, 30)))]
    labels = {key: {label for label in LABELS if chance.random() < 0.45} for key in ids}
    share = chance.choice((0, 0.2, 0.5, 0.9, 1))
    limits = chance.choice(((True, False), (False, True), (True, True), (True, True), (False, False)))
    by_split: Mapping[Split, int | None] = {"train": chance.choice((0, 2, 40)), "test": chance.choice((1, 3, None))}
    limit = chance.choice((0, 1, 2, 3, 5, 8, 40, Fraction(2, 5), Fraction(1, 50)))
    return Case(
        labels=labels,
        failing={key for key in labels if chance.random() < share},
        limit=chance.choice((limit, limit, limit if limits[1] else by_split)) if limits[0] else None,
        limit_per_class=chance.choice((0, 1, 2, 3, 5, 40)) if limits[1] else None,
        seed=chance.choice((None, None, 0, 7)),
        by_category=chance.random() < 0.7,
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(), st.integers(0, 2**32))
def test_rounds_select_what_asking_one_by_one_would(case: Case, seed: int) -> None:
    """Whatever failures are known before, from other queries or an interrupted run, the selection ends up the same."""
    wanted = case.one_by_one()
    chance = random.Random(seed)
    for known in (set[int](), {key for key in case.failing if chance.random() < 0.5}):
        selected, asked = in_rounds(case, known)
        assert selected == wanted
        assert asked == set(wanted), "nothing is asked for that is not selected in the end"


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cases())
def test_nothing_fails_nothing_changes(case: Case) -> None:
    """Without a failure the first decision is that of a run without --top-up, and a plan shows it at once."""
    fine = Case(case.labels, set(), case.limit, case.limit_per_class, case.seed, case.by_category)
    assert fine.decide(TopUpState()).keys.to_list() == fine.one_by_one()
    first = fine.decide(TopUpState(keys(()), keys(())))
    assert len(first.keys) + first.waiting == len(fine.one_by_one())


IDS = [f"{number:016x}" for number in range(0xA0, 0xA0 + 24)]
HOLES = {IDS[at] for at in (0, 1, 4, 5, 6, 11, 12, 20)}
NAMES = {"/m/0": "Ball", "/m/1": "Person", "/m/2": "Tree"}
# An image of every class, then of two, then of one, and so on: what fails makes room in several classes at once.
CLASSES_OF = {image_id: LABELS[: 3 - at % 3] if at % 2 else LABELS[at % 3 :] for at, image_id in enumerate(IDS)}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a mirror folder in which some pictures are missing."""
    images = [Image(image_id, f"{image_id}_o.jpg", stored=image_id not in HOLES) for image_id in IDS]
    boxes = [Box(image_id, label) for image_id, labels in CLASSES_OF.items() for label in labels]
    return Dataset(list(NAMES.items()), images, boxes).publish(tmp_path / "mirror")


def wanted(**limits: Any) -> list[str]:
    """Return the ids that are selected in the end, by the brute force above."""
    labels = {int(image_id, 16): set(labels) for image_id, labels in CLASSES_OF.items()}
    case = Case(labels, {int(image_id, 16) for image_id in HOLES}, None, None, None, True)
    return [f"{key:016x}" for key in replace(case, **limits).one_by_one()]


def sums_up(report: Report) -> bool:
    return report.selected == report.present + report.downloaded + report.failed + report.pending


LIMITS = [
    {"limit": 5},
    {"limit_per_class": 4},
    {"limit": 5, "limit_per_class": 2, "seed": 1},
    *(pytest.param(each, marks=pytest.mark.slow) for each in ({"limit": 7, "limit_per_class": 3}, {"limit": 30})),
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
async def test_failures_are_replaced_in_the_same_run(limits: dict[str, Any], mirror: Path, tmp_path: Path) -> None:
    """Every needed image is asked for once and no other; the sum is true at every moment; a second run asks nobody."""
    expected = wanted(**limits)
    query: dict[str, Any] = {**limits, "shuffle": "seed" in limits, "categories": NAMES.values(), "top_up": True}
    seen: list[bool] = []

    def listen(event: Event) -> None:
        if isinstance(event, Landed):
            seen.append(sums_up(event.report))

    async with counted_origin(mirror) as (url, asked):
        report = await oid_async.download(**query, savepath=tmp_path / "d", mirror=url, on_event=listen)
        pictures = {key: count for key, count in asked.items() if key.endswith(".jpg")}
        before = tree(tmp_path / "d")
        again = await oid_async.download(**query, savepath=tmp_path / "d", mirror=url)
        plan = await oid_async.plan(**query, savepath=tmp_path / "d", mirror=url)
    assert seen
    assert all(seen)
    assert pictures == {f"{IMAGE_BUCKET}/train/{image_id}.jpg": 1 for image_id in expected}
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == expected
    failed = [image_id for image_id in expected if image_id in HOLES]
    assert [row["ImageID"] for row in read_csv(tmp_path / "d/failures.csv")] == failed
    there = len(expected) - len(failed)
    assert (report.selected, report.present, report.pending) == (len(expected), 0, 0)
    assert (report.downloaded, report.failures) == (there, {"not_found": len(failed)})
    assert (again.selected, again.present, again.failed, again.requests) == (len(expected), there, len(failed), 0)
    assert (plan.selected, plan.present, plan.to_download) == (len(expected), there, 0)
    assert tree(tmp_path / "d") == before


@pytest.mark.parametrize("limits", LIMITS[2:4], ids=str)
async def test_the_same_tree_however_it_was_interrupted(limits: dict[str, Any], mirror: Path, tmp_path: Path) -> None:
    """A run that was left after some outcomes ends, the next time, in the same files as one that was not."""
    query: dict[str, Any] = {**limits, "shuffle": "seed" in limits, "categories": NAMES.values(), "top_up": True}
    query |= {"mirror": mirror, "savepath": tmp_path / "d"}
    await oid_async.download(**query)
    whole = tree(tmp_path / "d")
    whole.pop("query.json")
    for leave_after in (1, 4):
        query["savepath"] = tmp_path / f"left-{leave_after}"
        async with oid_async.stream(**query, concurrency=2) as outcomes:
            left = 0
            async for _ in outcomes:
                left += 1
                if left == leave_after:
                    break
        assert sums_up(outcomes.report)
        await oid_async.download(**query)
        found = tree(query["savepath"])
        found.pop("query.json")
        assert found == whole
    assert image_names(tmp_path / "d") == [f"{each}_o.jpg" for each in wanted(**limits) if each not in HOLES]


async def test_a_stream_tells_each_image_once(mirror: Path, tmp_path: Path) -> None:
    """Images that failed and those in their place have one outcome each, in the first run and in the next."""
    for _ in range(2):
        async with oid_async.stream(limit=5, top_up=True, savepath=tmp_path / "d", mirror=mirror) as outcomes:
            seen = [(outcome.image_id, outcome.status == "failed") async for outcome in outcomes]
        assert sorted(seen) == [(image_id, image_id in HOLES) for image_id in wanted(limit=5)]


async def test_a_plan_does_not_know_what_will_fail(mirror: Path, tmp_path: Path) -> None:
    """`plan --top-up` shows the first N, with remembered failures the N in their place; it remembers nothing itself."""
    query: dict[str, Any] = {"savepath": tmp_path / "d", "mirror": mirror}
    assert (await oid_async.plan(limit=3, top_up=True, **query)).to_download == 3
    await oid_async.download(limit=3, **query)
    plan = await oid_async.plan(limit=3, top_up=True, **query)
    assert (plan.selected, plan.present, plan.to_download) == (5, 1, 2)


async def test_without_a_limit_there_is_nothing_to_top_up(mirror: Path, tmp_path: Path) -> None:
    """--top-up alone selects what there is, as without it."""
    report = await oid_async.download(top_up=True, savepath=tmp_path / "d", mirror=mirror)
    assert (report.selected, report.failed, report.requests) == (len(IDS), len(HOLES), len(IDS))


async def test_ids_of_a_users_own_are_topped_up(tmp_path: Path) -> None:
    """A table whose images are called otherwise is topped up in the order of its ids, as they stand."""
    ids = [f"photo {number}" for number in range(6)]
    write_table(tmp_path / "b.csv", ["ImageID", "LabelName"], [{"ImageID": each, "LabelName": "/m/0"} for each in ids])
    (tmp_path / "c.csv").write_text("/m/0,Ball\n")
    (tmp_path / "site").mkdir()
    async with counted_origin(tmp_path / "site") as (url, _):
        for image_id in ids[2:]:
            (tmp_path / "site" / f"{image_id[-1]}.jpg").write_bytes(tiny_jpeg(image_id))
        rows = [{"ImageID": each, "OriginalURL": f"{url}/{each[-1]}.jpg"} for each in ids]
        write_table(tmp_path / "i.csv", ["ImageID", "OriginalURL"], rows)
        given = {"label": tmp_path / "c.csv", "annotation": tmp_path / "b.csv", "image_url": tmp_path / "i.csv"}
        query: dict[str, Any] = given | {"limit": 2, "limit_per_class": 2, "top_up": True, "savepath": tmp_path / "d"}
        for _ in range(2):
            report = await oid_async.download(**query, allow_hosts=[url.removeprefix("http://")], rate=0)
            assert (report.selected, report.failed) == (4, 2)
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == ids[:4]


@asynccontextmanager
async def ailing_origin(root: Path, ill: set[str]) -> AsyncIterator[tuple[str, Counter[str]]]:
    """Serve a mirror folder whose pictures of some ids are a server error for now; yield address and requests."""
    answer, asked = folder(root), Counter[str]()

    async def serve(request: web.Request) -> web.StreamResponse:
        image_id = request.match_info["key"].rpartition("/")[2].removesuffix(".jpg")
        asked[image_id] += 1
        if image_id in ill:
            raise web.HTTPInternalServerError
        return await answer(request)

    async with Origin(serve) as origin:
        yield origin.url, asked


async def download_at_once(notes: list[str] | None = None, **query: Any) -> Report:
    """Download without a second try of anything."""

    def listen(event: Event) -> None:
        if isinstance(event, Note) and notes is not None:
            notes.append(event.text)

    return await Run(Options.of(**query), listen, limits=Limits(retries=0)).download()


async def test_what_fails_in_passing_is_replaced_and_asked_again_by_the_next_run(mirror: Path, tmp_path: Path) -> None:
    """A passing failure is asked for once a run; when it is over, the selection is what it would have been."""
    ill = {IDS[2], IDS[3]}
    query: dict[str, Any] = {"limit": 3, "top_up": True, "savepath": tmp_path / "d"}
    async with ailing_origin(mirror, ill) as (url, asked):
        report = await download_at_once(**query, mirror=url)
        assert report.failures == {"not_found": 5, "server_error": 2}
        assert (report.selected, report.downloaded, report.requests) == (10, 3, 10)
        assert {asked[image_id] for image_id in ill} == {1}
        ill.clear()
        again = await download_at_once(**query, mirror=url)
    assert (again.selected, again.present, again.downloaded, again.failed) == (8, 1, 2, 5)
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == IDS[:8]


async def test_a_dead_host_ends_the_topping_up(tmp_path: Path) -> None:
    """When nothing but passing failures comes, not every image of the dataset is asked for; the next run goes on."""
    ids = [f"{number:016x}" for number in range(200)]
    dataset = Dataset([("/m/0", "Ball")], [Image(image_id) for image_id in ids], [Box(each, "/m/0") for each in ids])
    mirror, ill, notes = dataset.publish(tmp_path / "mirror"), set(ids), list[str]()
    query: dict[str, Any] = {"limit": 10, "limit_per_class": 12, "top_up": True, "savepath": tmp_path / "d"}
    async with ailing_origin(mirror, ill) as (url, _):
        report = await download_at_once(notes, **query, mirror=url)
        assert (report.selected, report.failed, report.pending) == (30, 30, 0)
        assert any("run again later" in note for note in notes)
        assert len(read_manifest(tmp_path / "d")) == 30
        ill.clear()
        again = await download_at_once(**query, mirror=url)
    assert (again.selected, again.downloaded) == (10, 10)


def test_the_command_line_tops_up_and_forgives(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--ndata N --top-up` brings N images; the failures make exit 1, unless --max-failures allows that many."""
    words = ["download", "--ndata", "5", "--top-up", "--mirror", str(mirror), "--savepath", str(tmp_path / "d")]
    assert cli.main(words) == 1
    assert "take their place" in capsys.readouterr().err
    assert len(image_names(tmp_path / "d")) == 5
    assert cli.main([*words, "--max-failures", "50%", "--quiet"]) == 0
    assert cli.main([*words, "--max-failures", "4", "--quiet"]) == 1


async def test_final_failures_are_asked_again_on_request(mirror: Path, tmp_path: Path) -> None:
    """--retry-failed asks again for what is remembered to fail, once; what has come back meanwhile is saved."""
    query: dict[str, Any] = {"savepath": tmp_path / "d", "mirror": mirror}
    await oid_async.download(**query)
    back = sorted(HOLES)[:3]
    for image_id in back:
        (mirror / IMAGE_BUCKET / "train" / f"{image_id}.jpg").write_bytes(Image(image_id).body)
    assert (await oid_async.download(**query)).requests == 0
    assert (await oid_async.plan(**query)).to_download == 0
    assert (await oid_async.plan(**query, retry_failed=True)).to_download == len(HOLES)
    assert (await oid_async.plan(**query)).to_download == 0, "a plan changes nothing"
    report = await oid_async.download(**query, retry_failed=True)
    assert (report.requests, report.downloaded, report.failed) == (len(HOLES), 3, len(HOLES) - 3)
    after = await oid_async.download(**query)
    assert (after.requests, after.present, after.failed) == (0, len(IDS) - 5, 5)
    await oid_async.download(limit=1, **query)
    assert (await oid_async.download(**query)).requests == 0, "what another query leaves is remembered all the same"


async def test_retrying_tops_up_less(mirror: Path, tmp_path: Path) -> None:
    """With --retry-failed an image that has come back takes its place again before others are asked for."""
    query: dict[str, Any] = {"savepath": tmp_path / "d", "mirror": mirror, "limit": 2, "top_up": True}
    await oid_async.download(**query)
    (mirror / IMAGE_BUCKET / "train" / f"{IDS[0]}.jpg").write_bytes(Image(IDS[0]).body)
    report = await oid_async.download(**query, retry_failed=True)
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == IDS[:3]
    assert (report.selected, report.downloaded, report.present, report.unselected) == (3, 1, 1, 1)
    assert sums_up(report)
