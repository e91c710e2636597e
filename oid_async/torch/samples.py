"""The samples of one iteration over a Stream, as tensors: received from its downloader, decoded, transformed."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from torch.utils.data import get_worker_info

from oid_async.errors import InputError
from oid_async.jobs.feeding.places import Place
from oid_async.torch.connection import Connection, StreamInputError
from oid_async.torch.messages import Seat, box_bytes
from oid_async.torch.targets import decoded, have_place, make_target, size_of

Transform = Callable[[Any, dict[str, Any]], Any]


class SampleSource(Protocol):
    """What an iteration needs of its Stream."""

    transform: Transform | None
    rank: int
    ranks: int

    @property
    def address(self) -> str:
        """Where the downloader listens."""
        ...

    def next_iteration(self) -> int:
        """Return the number of an iteration that this process begins."""
        ...

    def note_taken(self, number: int, place: Place) -> None:
        """Note that the trainer has taken all samples before this place, of the iteration of this number."""
        ...


class SampleIterator:
    """The samples of one iteration, each with (number of the iteration, place behind it).

    It goes on behind a sample whose transform has raised.
    """

    def __init__(self, stream: SampleSource, block: int) -> None:
        self._stream = stream
        self._is_worker = get_worker_info() is not None
        self._connection = Connection(stream.address, _seat(stream.next_iteration(), block).as_json())
        self._number: int | None = None
        self._epoch = 0
        self._has_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, tuple[int, Place]]:
        if self._has_ended:
            raise StopIteration
        if self._number is None:
            begun = self._connection.receive()[0]
            self._number, self._epoch = begun["pass"], begun["epoch"]
        head, body = self._connection.receive()
        if "end" in head:
            self._end(*head["end"])
            raise StopIteration
        position, number, *fields = head["sample"]
        taken = self._number, Place(self._epoch, position + 1, number + 1)
        sample = self._sample(body, *fields)
        if not self._is_worker:
            self._stream.note_taken(*taken)
        return sample, taken

    def _sample(self, body: bytearray, image_id: str, boxes: int, file: str | None) -> Any:
        sides_end, labels_end, end = box_bytes(boxes)
        sides = np.frombuffer(body, np.float64, boxes * 4).reshape(-1, 4)
        labels = np.frombuffer(body, np.int64, boxes, sides_end)
        groups = np.frombuffer(body, np.uint8, boxes, labels_end)
        try:
            image = decoded(_read(file) if file is not None else bytes(memoryview(body)[end:]), image_id)
        except InputError as error:
            raise StreamInputError(str(error)) from error
        kept = have_place(sides)
        target = make_target(image_id, size_of(image), sides[kept], labels[kept], groups[kept])
        transform = self._stream.transform
        return (image, target) if transform is None else transform(image, target)

    def _end(self, samples: int, repeats: int) -> None:
        self._has_ended = True
        self._connection.close()
        stream, worker = self._stream, get_worker_info()
        assert self._number is not None
        if worker is None:
            stream.note_taken(self._number, Place(self._epoch).next_epoch)
        if repeats and (worker is None or worker.id == 0):
            warnings.warn(
                f"rank {stream.rank} of {stream.ranks} has repeated {repeats} of its images at the end of epoch "
                f"{self._epoch}, so that each rank gives {samples} samples",
                stacklevel=4,
            )


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error


def _seat(iterations: int, block: int) -> Seat:
    """Return who asks for the samples of a new iteration: this process, or the worker of a DataLoader that it is."""
    process, worker = os.getpid(), get_worker_info()
    if worker is None:
        return Seat(f"{process} {iterations}", process, 0, 0, block)
    # The same for all workers of one iteration, and for no other: torch draws a seed for each set of workers, and those
    # that persist ask in turn.
    iteration = f"{os.getppid()} {worker.seed - worker.id} {worker.num_workers} {iterations}"
    return Seat(iteration, process, worker.id, worker.num_workers, block)
