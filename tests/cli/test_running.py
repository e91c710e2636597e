"""What every command does around its job."""

import gc
from collections.abc import Iterator

import pytest

from oid_async.cli.running import run_to_end


@pytest.fixture
def garbage() -> Iterator[None]:
    """Have the collector afterwards as it was before."""
    threshold, was_on = gc.get_threshold(), gc.isenabled()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    if was_on:
        gc.enable()


@pytest.mark.parametrize(("is_loading", "seldom"), [(True, True), (False, False)])
def test_a_job_collects_garbage(garbage: None, *, is_loading: bool, seldom: bool) -> None:
    """Seldom in a process of our own, whose collector was off while it was loading; elsewhere as ever."""
    usual = gc.get_threshold()
    if is_loading:
        gc.disable()

    async def job() -> tuple[bool, int]:
        return gc.isenabled(), gc.get_threshold()[0]

    found, code = run_to_end(job)
    assert found is not None
    is_on, threshold = found
    assert (is_on, code) == (True, 0)
    assert (threshold > usual[0]) == seldom
