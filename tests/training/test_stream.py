"""A Stream gives every image once an epoch, in an order of seed and epoch, to any number of workers and ranks."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import streams
from torch.utils.data import DataLoader

from oid_async.errors import UsageError
from oid_async.torch import Stream

# Of the dataset of these tests two images answer 404.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.* could not be had")]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder of 23 images, of which two answer 404."""
    return streams.publish(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def options(mirror: Path, cache_dir: Path) -> dict[str, Any]:
    """Return what each Stream of a test is made with."""
    return {"mirror": mirror, "cache_dir": cache_dir}


@pytest.fixture(scope="module")
def shared(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """Return a Stream for tests that leave nothing behind but an epoch."""
    with Stream(mirror=mirror, cache_dir=tmp_path_factory.mktemp("cache")) as stream:
        yield stream


@pytest.fixture
def stream(shared: Stream) -> Stream:
    """Return a Stream at the beginning of epoch 0."""
    shared.set_epoch(0)
    shared.transform = None
    return shared


def ids(samples: Any) -> list[str]:
    return [target["image_id"] for _, target in samples]


def batch_ids(batches: Any) -> list[str]:
    return [target["image_id"] for _, targets in batches for target in targets]


def test_every_image_comes_once_an_epoch_in_another_order(stream: Stream) -> None:
    """Those that can be had, each once; the next iteration is the next epoch; an epoch has one order."""
    first, second = ids(stream), ids(stream)
    assert len(first) == streams.THERE
    assert set(first) == {streams.image_id(number) for number in range(3, streams.IMAGES + 1)}
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)
    stream.set_epoch(0)
    assert ids(stream) == first
    assert len(stream) == streams.IMAGES
    assert stream.classes == ["background", "Cat", "Dog", "Fish"]


def test_a_sample_is_an_image_with_its_boxes(stream: Stream) -> None:
    """Pixels and targets have the dtypes of a saved folder's, one row a box in published order."""
    for image, target in stream:
        number = next(each for each in range(1, 24) if streams.image_id(each) == target["image_id"])
        boxes = 1 + (number - 1) % 4
        assert (image.dtype, image.shape[0]) == (torch.uint8, 3)
        assert (target["boxes"].dtype, tuple(target["boxes"].shape)) == (torch.float32, (boxes, 4))
        assert target["labels"].tolist() == [1, 2, 3, 1][:boxes]
        assert target["iscrowd"].tolist() == [0, 0, 1, 0][:boxes]
        assert target["boxes"][:, 2].max() <= image.shape[2]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize(("workers", "context"), [(2, "fork"), (3, "fork"), (2, "spawn")])
def test_the_order_does_not_depend_on_workers(stream: Stream, workers: int, context: str) -> None:
    """A loader's batches are those without workers, forked or spawned, and in the order of the seed."""
    alone = ids(stream)
    stream.set_epoch(0)
    loader = stream.loader(4, workers, multiprocessing_context=context)
    assert batch_ids(loader) == alone
    assert stream.state_dict()["epoch"] == 1


def test_workers_that_persist_have_each_epoch(stream: Stream) -> None:
    """The same workers go on with the next epoch, and obey `set_epoch`."""
    alone = [ids(stream), ids(stream)]
    stream.set_epoch(0)
    loader = stream.loader(4, 2, multiprocessing_context="fork", persistent_workers=True)
    assert [batch_ids(loader), batch_ids(loader)] == alone
    stream.set_epoch(1)
    assert batch_ids(loader) == alone[1]


def test_a_plain_loader_has_the_order_if_it_says_its_batch_size(options: dict[str, Any]) -> None:
    """Blocks of the batch size make DataLoader's batches those of the seed; without, each image comes once anyway."""
    with Stream(batch_size=4, **options) as stream:
        alone = ids(stream)
        stream.set_epoch(0)
        collate: Any = list
        plain: Any = DataLoader(stream, 4, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
        assert [target["image_id"] for batch in plain for _, target in batch] == alone
        stream.batch_size = 1
        stream.set_epoch(0)
        found = [target["image_id"] for batch in plain for _, target in batch]
        assert sorted(found) == sorted(alone)


def test_the_order_is_of_seed_and_epoch_alone(stream: Stream, options: dict[str, Any]) -> None:
    """Another Stream with another window and cache has the same order, another seed another one."""
    first = ids(stream)
    with Stream(seed=0, window=1, **options) as other:
        assert ids(other) == first
    with Stream(seed=1, window=3, **options) as other:
        assert sorted(ids(other)) == sorted(first) != first
        other.load_state_dict(other.state_dict() | {"seed": 0, "epoch": 0, "position": 0, "given": 0})
        assert ids(other) == first


def test_ranks_have_as_many_samples_and_all_images(options: dict[str, Any]) -> None:
    """Of 23 images, two of which fail, each of two ranks gives 12 samples; who repeats some says so."""
    with Stream(rank=0, ranks=2, **options) as first, Stream(rank=1, ranks=2, **options) as second:
        with pytest.warns(UserWarning, match=r"^rank \d of 2 has repeated \d of its images at the end of epoch 0"):
            found = [ids(first), ids(second)]
        assert [len(each) for each in found] == [12, 12] == [len(first), len(second)]
        assert len({*found[0], *found[1]}) == streams.THERE
        assert not {*found[0]} & {*found[1]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for workers in (1, 2):
                first.set_epoch(0)
                assert batch_ids(first.loader(4, workers, multiprocessing_context="fork")) == found[0]


def test_more_ranks_and_workers_than_images_end(options: dict[str, Any]) -> None:
    """Two images, three ranks, three workers: each rank gives one sample, of which one is a repeat."""
    listed = [f"train/{streams.image_id(number)}" for number in (5, 6)]
    found = []
    for rank in range(3):
        with (
            warnings.catch_warnings(),
            Stream(rank=rank, ranks=3, image_ids=listed, kinds=["none"], **options) as stream,
        ):
            warnings.simplefilter("ignore")
            found.append(batch_ids(stream.loader(2, 3, multiprocessing_context="fork")))
    assert [len(each) for each in found] == [1, 1, 1]
    assert len({each for some in found for each in some}) == 2


def test_nothing_selected_is_an_empty_epoch(options: dict[str, Any]) -> None:
    """A well-formed query of no image has no samples; that is no error, as in a download."""
    with Stream(splits=["test"], **options) as stream:
        assert (ids(stream), len(stream), batch_ids(stream.loader(2))) == ([], 0, [])


def test_a_broken_off_iteration_leaves_nothing_to_the_next(stream: Stream) -> None:
    """After a break the next iteration is the next epoch, whole; with workers as well."""
    whole = [ids(stream), ids(stream), ids(stream)]
    stream.set_epoch(0)
    next(iter(stream))
    assert ids(stream) == whole[1]
    stream.set_epoch(0)
    loader = stream.loader(4, 2, multiprocessing_context="fork")
    for _ in loader:
        break
    for _ in loader:
        break
    assert batch_ids(loader) == whole[2]


def test_an_older_iteration_is_ended_by_a_newer_one(lookalike: Path, cache_dir: Path) -> None:
    """One iteration at a time: the older one raises one line, the newer one is whole."""
    with Stream(mirror=lookalike, cache_dir=cache_dir, window=8) as stream:
        older, count = iter(stream), len(stream)
        next(older)
        newer = iter(stream)
        next(newer)
        with pytest.raises(UsageError, match="another iteration over this Stream has begun"):
            for _ in older:
                pass
        assert len(list(newer)) == count - 1


def _second_fails(image: torch.Tensor, target: dict[str, Any]) -> Any:
    if target["image_id"] == streams.image_id(7):
        raise ValueError("no sevens")
    return image, target


def test_a_transform_that_raises_loses_one_sample_alone(stream: Stream) -> None:
    """The error comes through; whoever catches it goes on behind that sample."""
    stream.transform = _second_fails
    iterator, found, raised = iter(stream), 0, 0
    while True:
        try:
            next(iterator)
        except StopIteration:
            break
        except ValueError:
            raised += 1
        else:
            found += 1
    assert (found, raised) == (streams.THERE - 1, 1)
    with pytest.raises(ValueError, match="no sevens"):
        list(stream.loader(2, 2, multiprocessing_context="fork"))


def test_images_that_are_kept_are_read_in_later_epochs(options: dict[str, Any], tmp_path: Path) -> None:
    """With keep_files images lie in SAVEPATH, of several ranks in a folder each; without, none is left."""
    with Stream(savepath=tmp_path / "kept", keep_files=True, **options) as stream:
        first = ids(stream)
        assert len(list((tmp_path / "kept" / "images").iterdir())) == streams.THERE
        stream.set_epoch(0)
        assert ids(stream) == first
    with Stream(savepath=tmp_path / "kept", offline=True, **options) as stream:
        assert ids(stream) == first
    with Stream(savepath=tmp_path / "none", rank=1, ranks=2, **options) as stream:
        next(iter(stream))
    rank = tmp_path / "none" / "rank-1-of-2"
    assert rank.is_dir()
    assert not (rank / "images").exists()


@pytest.mark.filterwarnings("ignore:rank . of 2 has repeated")
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_image_that_cannot_be_decoded_is_left_out_with_a_warning(
    tmp_path: Path, cache_dir: Path, ranks: int
) -> None:
    """A single rank has one sample less; one of several gives another one twice, so that all have as many."""
    mirror = streams.publish(tmp_path)
    numbers = range(3, streams.IMAGES + 1)
    broken = [number for number in numbers if number % 3 == 0]
    for number in broken:
        streams.break_image(mirror, number)
    found = []
    for rank in range(ranks):
        with Stream(mirror=mirror, cache_dir=cache_dir, rank=rank, ranks=ranks) as stream:
            with pytest.warns(UserWarning, match=r"[0-9a-f]{16}: it cannot be decoded .* left out"):
                found.append(ids(stream))
            assert len(found[-1]) == (streams.THERE - len(broken) if ranks == 1 else 12)
    assert {each for some in found for each in some} == {streams.image_id(each) for each in numbers if each % 3}


def test_two_streams_in_one_process(options: dict[str, Any]) -> None:
    """Each has a downloader of its own, and they may be read in turn."""
    with Stream(**options) as first, Stream(seed=3, **options) as second:
        pairs = list(zip(first, second, strict=True))
        assert len(pairs) == streams.THERE
        assert {a[1]["image_id"] for a, _ in pairs} == {b[1]["image_id"] for _, b in pairs}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "coco"}, "format is not for a Stream"),
        ({"categories": []}, "names nothing"),
        ({"rank": 0}, "given together"),
        ({"rank": 2, "ranks": 2}, "rank and ranks are"),
        ({"window": 0}, "window takes a whole number from 1 on"),
        ({"image_ids": "-"}, "image_ids: the downloader of a Stream has no stdin"),
        ({"seed": "a"}, "seed takes a whole number"),
        ({"query": "dogs"}, "query takes an oid_async.Query"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(wrong: dict[str, Any], message: str) -> None:
    """One line that names the option, a UsageError."""
    with pytest.raises(UsageError, match=message) as raised:
        Stream(**wrong)
    assert "\n" not in str(raised.value)
