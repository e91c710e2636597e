"""Publishing a plan: what lies at the place afterwards, and what a second or a killed run makes of it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import publish_lookalike
from support.published_plans import publish_plan

from oid_async.cluster.layout import PLAN
from oid_async.cluster.part_file import PartFile
from oid_async.errors import UsageError
from oid_async.objects.store import Objects

MB = 1_000_000
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The look-alike as a mirror folder."""
    return publish_lookalike(tmp_path_factory.mktemp("mirror"))


def bodies(objects: Objects) -> dict[str, bytes]:
    """Return every object of a place."""
    return {found.key: objects.get(found.key) for found in objects.list("")}


async def test_a_plan_is_cut_into_parts_of_one_split_each(mirror: Path, tmp_path: Path) -> None:
    """Every planned image is in one part, in order of ImageID, with its rows as they are published."""
    objects = Objects(tmp_path / "place")
    published = await publish_plan(objects, mirror, part_size=10 * MB, splits=("validation", "test"))
    parts = published.first.parts
    names = [part.name for part in parts]
    assert names == ["validation-000000", "validation-000001", "test-000000", "test-000001"]
    frames = [PartFile(tmp_path / "place" / part.plan_key, published.query).images() for part in parts]
    for part, frame in zip(parts, frames, strict=True):
        assert frame.get_column("Subset").unique().to_list() == [part.split]
        assert frame.get_column("ImageID").is_sorted()
        assert (len(frame), part.bytes <= 10 * MB) == (part.images, True)
    assert published.plan is not None
    ids = pl.concat(frames).get_column("ImageID")
    assert len(ids) == ids.n_unique() == published.plan.selected


async def test_a_plan_that_is_published_twice_is_the_same(mirror: Path, tmp_path: Path) -> None:
    """A second run adds nothing to a finished plan, and makes the same bytes elsewhere."""
    first, second = Objects(tmp_path / "first"), Objects(tmp_path / "second")
    query: dict[str, Any] = {"part_size": 20 * MB, "splits": ("validation",), "kinds": ("all",)}
    await publish_plan(first, mirror, **query)
    before = bodies(first)
    again = await publish_plan(first, mirror, **query)
    await publish_plan(second, mirror, **query)
    assert again.plan is None
    assert bodies(first) == before
    there = bodies(second)
    assert {key: body for key, body in there.items() if key != PLAN} == {
        key: body for key, body in before.items() if key != PLAN
    }


async def test_another_query_is_refused(mirror: Path, tmp_path: Path) -> None:
    """A place holds one query: another one names the place and says what to do."""
    objects = Objects(tmp_path / "place")
    await publish_plan(objects, mirror, splits=("validation",))
    with pytest.raises(UsageError, match=r"place holds another query: .* name another --savepath"):
        await publish_plan(objects, mirror, splits=("test",))
