"""One sick image never slows the others of its host: on the server's clock, against a run without sick ones."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.hostile import ident
from support.sick_images import SICK, Bucket

import oid_async

GOOD, EACH, PAUSE_S = 1500, 8, 0.1
TRIES = 8
MIXED = list(SICK)


def sick_at_the_front(kinds: list[str], each: int) -> dict[str, str]:
    """Return the kind of each sick image: they are the first of the plan, where most is to be held up."""
    return {ident(number): kinds[number % len(kinds)] for number in range(each)}


async def fetch(
    folder: Path, sick: Mapping[str, str], *, processes: int, to_the_end: bool = False, concurrency: int | None = None
) -> Bucket:
    """Download until all good images were sent, or to the end, with default options or that `concurrency`."""
    bucket = Bucket(GOOD + len(sick), sick, PAUSE_S)
    async with bucket.serving():
        run = asyncio.create_task(
            oid_async.download(
                kinds=["none"],
                image_ids=[f"validation/{ident(number)}" for number in range(bucket.images)],
                mirror=f"http://127.0.0.1:{bucket.port}",
                savepath=folder / "out",
                cache_dir=folder / "cache",
                processes=processes,
                concurrency=concurrency,
            )
        )
        good = asyncio.create_task(bucket.all_good.wait())
        await asyncio.wait([run] if to_the_end else [run, good], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert bucket.all_good.is_set(), "the good images are held up"
        if to_the_end:
            report = await run
            assert (report.downloaded, report.failed) == (bucket.images, 0)
        run.cancel()
        await asyncio.wait([run])
    return bucket


async def assert_not_slowed_down(
    folder: Path, sick: Mapping[str, str], *, processes: int, machine_s: float = 0.0
) -> tuple[float, float]:
    """The good images take at most a tenth longer than without the sick ones; both in turn, the best of some tries.

    `machine_s` is added for a machine on which other tests run.
    """
    alone, beside = [], []
    for number in range(TRIES):
        alone.append((await fetch(folder / f"alone{number}", {}, processes=processes)).seconds)
        beside.append((await fetch(folder / f"beside{number}", sick, processes=processes)).seconds)
        if min(beside) <= 1.1 * min(alone) + machine_s:
            return min(alone), min(beside)
    raise AssertionError(f"{min(beside):.2f} s beside sick images, {min(alone):.2f} s alone")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_sick_images_of_all_kinds_slow_down_no_other(tmp_path: Path, processes: int) -> None:
    """Asked to wait, failing, hanging before and within the body: mixed, first in the plan."""
    await assert_not_slowed_down(tmp_path, sick_at_the_front(MIXED, EACH), processes=processes, machine_s=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", [*SICK, "mixed"])
async def test_sick_images_take_the_others_less_than_a_tenth(tmp_path: Path, kind: str, processes: int) -> None:
    """Each kind by itself, and mixed; the times are printed for those who want to see them."""
    sick = sick_at_the_front(MIXED if kind == "mixed" else [kind], EACH)
    alone, beside = await assert_not_slowed_down(tmp_path, sick, processes=processes)
    print(f"\n{kind}, {processes} processes: {alone:.3f} s alone, {beside:.3f} s beside {EACH} sick images")


@pytest.mark.parametrize("concurrency", [None, pytest.param(64, marks=pytest.mark.slow)])
async def test_a_host_of_which_forty_images_hang_first_is_not_silent(tmp_path: Path, concurrency: int | None) -> None:
    """They are the first that is asked for: nothing is known of the host before a good one was."""
    sick = sick_at_the_front(["hanging heads"], 40)
    bucket = await fetch(tmp_path, sick, processes=1, concurrency=concurrency)
    assert bucket.seconds < 15.0


@pytest.mark.parametrize("processes", [1, 2])
async def test_what_an_image_is_asked_to_wait_it_waits_by_itself(tmp_path: Path, processes: int) -> None:
    """Its Retry-After holds for it alone; then it is fetched like the others, behind those that were not tried yet."""
    sick = sick_at_the_front(["429", "503 with Retry-After"], EACH)
    bucket = await fetch(tmp_path / "a", sick, processes=processes, to_the_end=True)
    gaps = [times[1] - times[0] for image_id in sick if len(times := bucket.asked[image_id]) > 1]
    assert len(gaps) == EACH
    assert min(gaps) >= 1.0
    assert sum(map(len, bucket.asked.values())) == bucket.images + EACH
    assert bucket.seconds < 1.0 or min(bucket.asked[image_id][1] for image_id in sick) >= 1.0
