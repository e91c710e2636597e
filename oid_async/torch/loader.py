"""A DataLoader of a Stream that knows what the trainer has taken: each batch brings its place along."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DataLoader, IterableDataset, default_convert

from oid_async.errors import UsageError
from oid_async.jobs.feeding.places import Place
from oid_async.torch.samples import SampleIterator, SampleSource


class Stateful(SampleSource, Protocol):
    """What a loader needs of its Stream."""

    def __len__(self) -> int: ...
    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on there."""
        ...


class StreamLoader(DataLoader):
    """See `Stream.loader`. `state_dict` and `load_state_dict` are those of the stream."""

    def __init__(
        self, stream: Stateful, batch_size: int | None, num_workers: int, collate_fn: Any, options: dict[str, Any]
    ) -> None:
        if options.get("in_order") is False:
            raise UsageError("in_order=False is not for Stream.loader, whose states are places in an order")
        if "batch_sampler" in options or "sampler" in options or options.get("shuffle"):
            raise UsageError("a Stream has its own order: give no sampler and no shuffle, but another seed")
        self.stream = stream
        collate = collate_fn or (default_convert if batch_size is None else as_lists)
        placed = _PlacedSamples(stream, batch_size or 1)
        super().__init__(
            placed, batch_size, num_workers=num_workers, collate_fn=_Collate(collate, batch_size is None), **options
        )

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the next epoch."""
        number = epoch = 0
        for batch, (number, *place) in super().__iter__():
            epoch = place[0]
            self.stream.note_taken(number, Place(*place))
            yield batch
        if number:
            self.stream.note_taken(number, Place(epoch).next_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is: behind the batches that were taken."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on there."""
        self.stream.load_state_dict(state)


class _PlacedSamples(IterableDataset):
    """A stream in blocks of a batch, each sample with the place behind it."""

    def __init__(self, stream: Stateful, block: int) -> None:
        self.stream = stream
        self.block = block

    def __iter__(self) -> Iterator[tuple[Any, tuple[int, Place]]]:
        return SampleIterator(self.stream, self.block)

    def __len__(self) -> int:
        return len(self.stream)


class _Collate:
    """Makes a batch of samples, and puts the place behind the last one beside it."""

    def __init__(self, collate: Callable[[Any], Any], is_single: bool) -> None:
        self._collate = collate
        self._is_single = is_single

    def __call__(self, samples: Any) -> tuple[Any, tuple[int, ...]]:
        last = samples if self._is_single else samples[-1]
        content = samples[0] if self._is_single else [sample for sample, _ in samples]
        number, place = last[1]
        return self._collate(content), (number, place.epoch, place.position, place.given)


def as_lists(samples: list[Any]) -> tuple[list[Any], ...]:
    """Return a batch as torchvision's detectors take it: images, targets, each a list, for sizes differ."""
    return tuple(map(list, zip(*samples, strict=True)))
