"""A Stream goes on in the middle of an epoch where its state says, without repeats and without losses."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import streams
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from oid_async.errors import UsageError
from oid_async.torch import Stream

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:rank . of 2 has repeated"),
    pytest.mark.filterwarnings("ignore:.* could not be had"),
]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder of 23 images, of which two answer 404."""
    return streams.publish(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def ranks(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stream, Stream]]:
    """Return two Streams of rank 1 of 2, as before and after a crash."""
    options: Any = {"mirror": mirror, "cache_dir": tmp_path_factory.mktemp("cache"), "rank": 1, "ranks": 2}
    with Stream(**options) as first, Stream(**options) as second:
        yield first, second


@pytest.fixture
def two(ranks: tuple[Stream, Stream]) -> tuple[Stream, Stream]:
    """Return the first one at the beginning of epoch 0, and the second one somewhere else."""
    ranks[0].set_epoch(0)
    ranks[1].set_epoch(7)
    return ranks


def _id_of(_: Any, target: dict[str, Any]) -> str:
    return str(target["image_id"])


def batch_ids(batches: Any) -> list[str]:
    return [target["image_id"] for _, targets in batches for target in targets]


@pytest.mark.parametrize("taken", [0, 5, 12])
def test_a_stream_goes_on_in_the_middle_of_an_epoch(two: tuple[Stream, Stream], taken: int) -> None:
    """Whatever is taken before the state, and in its repeated end, comes never again; the epoch behind it is whole."""
    first, second = two
    whole = [sample[1]["image_id"] for sample in first]
    after = [sample[1]["image_id"] for sample in first]
    first.set_epoch(0)
    samples = iter(first)
    before = [next(samples)[1]["image_id"] for _ in range(taken)]
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    rest = [sample[1]["image_id"] for sample in second]
    assert before + rest == whole
    assert [sample[1]["image_id"] for sample in second] == after


def test_what_lies_in_the_socket_is_not_taken(two: tuple[Stream, Stream]) -> None:
    """All samples of a short epoch were sent, and none was taken: the state is the beginning of that epoch."""
    first, _ = two
    samples = iter(first)
    asked = time.monotonic()
    while time.monotonic() < asked + 0.3:
        assert first.state_dict()["epoch"] == 0
    assert len(list(samples)) == 12
    assert first.state_dict()["epoch"] == 1


def test_a_loader_knows_exactly_what_was_taken(two: tuple[Stream, Stream]) -> None:
    """With workers, other numbers of them and other batches afterwards: no repeats, no losses, the same order."""
    first, second = two
    whole = batch_ids(first.loader(3))
    first.set_epoch(0)
    for size, workers, later in ((3, 2, 0), (3, 0, 2), (2, 2, 2)):
        first.set_epoch(0)
        loader = first.loader(size, workers, **({"multiprocessing_context": "fork"} if workers else {}))
        batches = iter(loader)
        before = batch_ids([next(batches), next(batches)])
        second.load_state_dict(loader.state_dict())
        rest = batch_ids(second.loader(3, later, **({"multiprocessing_context": "fork"} if later else {})))
        assert before + rest == whole, (size, workers, later)
        assert second.state_dict()["epoch"] == 1
        del batches


def test_a_plain_loader_repeats_nothing_and_says_what_it_may_skip(lookalike: Path, cache_dir: Path) -> None:
    """The state is behind all that workers have fetched ahead, and a warning names `loader`, which is exact."""
    with Stream(mirror=lookalike, cache_dir=cache_dir, window=4, transform=_id_of) as stream:
        # More than fits into two sockets, so that the epoch is still on.
        batches = iter(DataLoader(stream, 2, num_workers=2, multiprocessing_context="fork"))
        before = next(batches)
        with pytest.warns(UserWarning, match=r"that workers have fetched ahead count as taken .* Stream\.loader"):
            state = stream.state_dict()
        assert state["epoch"] == 0
        del batches
        stream.load_state_dict(state)
        assert not {*before} & {*stream}


def test_a_plain_loader_that_has_sent_all_says_it_as_well(two: tuple[Stream, Stream]) -> None:
    """A short epoch fits into the sockets: its state is the next epoch's beginning, with the warning."""
    first, _ = two
    collate: Any = list
    batches = iter(DataLoader(first, 2, num_workers=2, collate_fn=collate, multiprocessing_context="fork"))
    next(batches)
    with pytest.warns(UserWarning, match=r"fetched ahead count as taken"):
        assert first.state_dict()["epoch"] in (0, 1)


class _EachWorkersState(IterableDataset):  # type: ignore[misc]
    """What torchdata's StatefulDataLoader does: in each worker it takes a state behind a sample, and gives it back."""

    def __init__(self, stream: Stream, states: list[dict[str, Any]]) -> None:
        self.stream = stream
        self.states = states

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        assert worker is not None
        if self.states:
            self.stream.load_state_dict(self.states[worker.id])
        for _, target in self.stream:
            yield target["image_id"], self.stream.state_dict()


def test_states_of_workers_go_on_where_each_of_them_was(two: tuple[Stream, Stream]) -> None:
    """Each worker's own state, of another moment, is taken: no repeats, no losses."""
    first, second = two
    whole = [sample[1]["image_id"] for sample in first]
    first.set_epoch(0)
    options: Any = {"num_workers": 2, "multiprocessing_context": "fork", "batch_size": None}
    samples = iter(DataLoader(_EachWorkersState(first, []), **options))
    before = [next(samples) for _ in range(5)]
    del samples
    states = [before[4][1], before[3][1]]
    after = list(DataLoader(_EachWorkersState(second, states), **options))
    assert sorted(image_id for image_id, _ in (*before, *after)) == sorted(whole)
    assert [sample[1]["image_id"] for sample in second] != whole
    assert second.state_dict()["epoch"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": 3}, "the state is of 3 ranks, this Stream is of 2"),
        ({"query": "0"}, "the state is of another query"),
        ({"position": -1}, "position takes a whole number from 0 on"),
        ({"seed": "x"}, "seed takes a whole number"),
    ],
)
def test_a_state_of_something_else_is_one_line(
    two: tuple[Stream, Stream], change: dict[str, Any], message: str
) -> None:
    """Another number of ranks, another query, damaged values: UsageError, and the Stream stays where it was."""
    before = two[0].state_dict()
    with pytest.raises(UsageError, match=message) as raised:
        two[0].load_state_dict(before | change)
    assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="no 'position'"):
        two[0].load_state_dict({name: value for name, value in before.items() if name != "position"})
    assert two[0].state_dict() == before


def test_seed_epoch_position_and_ranks_are_enough(two: tuple[Stream, Stream]) -> None:
    """A state of no more than that, as somebody writes it down, goes on there."""
    first, second = two
    whole = [sample[1]["image_id"] for sample in first]
    second.load_state_dict({"seed": 0, "epoch": 0, "position": 5, "ranks": 2})
    assert second.state_dict() == first.state_dict() | {"epoch": 0, "position": 5, "given": 5}
    rest = [sample[1]["image_id"] for sample in second]
    assert set(rest) <= set(whole)
    assert len(rest) == len(whole) - 5


def test_the_query_of_a_state_is_what_it_selects(mirror: Path, cache_dir: Path, two: tuple[Stream, Stream]) -> None:
    """Another folder, cache or window is the same query; another limit is another one."""
    state = two[0].state_dict()
    with Stream(mirror=mirror, cache_dir=cache_dir, window=3, rank=0, ranks=2, keep_files=True) as same:
        same.load_state_dict(state)
    with (
        Stream(mirror=mirror, cache_dir=cache_dir, rank=0, ranks=2, limit=5) as other,
        pytest.raises(UsageError, match="another query"),
    ):
        other.load_state_dict(state)
