"""The samples of one iteration over a Stream, as tensors: received from its downloader, decoded, transformed."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch.utils.data import get_worker_info

from oid_async.errors import InputError
from oid_async.jobs.feeding.places import Place
from oid_async.redaction import printable
from oid_async.torch.connection import Connection
from oid_async.torch.messages import Seat, box_bytes
from oid_async.torch.targets import decoded, have_place, make_target, size_of

Transform = Callable[[Any, dict[str, Any]], Any]


class SampleSource(Protocol):
    """What an iteration needs of its Stream."""

    transform: Transform | None
    rank: int
    ranks: int

    @property
    def worker_place(self) -> Place | None:
        """Where a worker goes on that was given a state of its own."""
        ...

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


@dataclass(frozen=True, slots=True)
class _Content:
    """A sample as it was received."""

    body: bytearray
    position: int
    number: int
    image_id: str
    boxes: int
    file: str | None

    def image(self) -> torch.Tensor:
        """Return the pixels. Raises InputError."""
        jpeg = _read(self.file) if self.file is not None else bytes(memoryview(self.body)[box_bytes(self.boxes)[-1] :])
        return decoded(jpeg, self.image_id)

    def target(self, image: torch.Tensor) -> dict[str, Any]:
        """Return the boxes that have a place in the image, and what they are."""
        sides_end, labels_end, _ = box_bytes(self.boxes)
        sides = np.frombuffer(self.body, np.float64, self.boxes * 4).reshape(-1, 4)
        labels = np.frombuffer(self.body, np.int64, self.boxes, sides_end)
        groups = np.frombuffer(self.body, np.uint8, self.boxes, labels_end)
        kept = have_place(sides)
        return make_target(self.image_id, size_of(image), sides[kept], labels[kept], groups[kept])


class SampleIterator:
    """The samples of one iteration, each with (number of the iteration, place behind it).

    It goes on behind a sample whose transform has raised. An image that cannot be decoded is left out with a warning;
    of several ranks, which must give as many, another sample comes twice in its place.
    """

    def __init__(self, stream: SampleSource, block: int) -> None:
        self._stream = stream
        self._start = stream.worker_place
        self._connection = Connection(stream.address, _seat(stream.next_iteration(), block, self._start).as_json())
        self._number: int | None = None
        self._epoch = 0
        self._has_ended = False
        self._good: _Content | None = None
        self._owed = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, tuple[int, Place]]:
        while (content := self._next()) is not None:
            try:
                image = content.image()
            except InputError as error:
                self._leave_out(error)
                continue
            self._good = content
            transform, target = self._stream.transform, content.target(image)
            assert self._number is not None
            taken = self._number, Place(self._epoch, content.position + 1, content.number + 1)
            self._stream.note_taken(*taken)
            return (image, target) if transform is None else transform(image, target), taken
        raise StopIteration

    def _next(self) -> "_Content | None":
        """Return the content of the next sample, None at the end."""
        if self._owed and self._good is not None:
            self._owed -= 1
            return self._good
        while not self._has_ended:
            if self._number is None:
                begun = self._connection.receive()[0]
                self._number, self._epoch = begun["pass"], begun["epoch"]
            head, body = self._connection.receive()
            if "end" in head:
                self._end(*head["end"])
            elif self._start is None or head["sample"][0] >= self._start.position:
                return _Content(body, *head["sample"])
        return None

    def _leave_out(self, error: InputError) -> None:
        """Say that an image is left out; the number of samples stays."""
        if self._stream.ranks > 1:
            self._owed += 1
        warnings.warn(printable(f"{error}: it is left out"), stacklevel=4)

    def _end(self, samples: int, repeats: int, failures: dict[str, int]) -> None:
        """Say, once for all workers, what an epoch lacked and what was given twice."""
        self._has_ended = True
        self._connection.close()
        stream, worker = self._stream, get_worker_info()
        assert self._number is not None
        stream.note_taken(self._number, Place(self._epoch).next_epoch)
        if worker is not None and worker.id:
            return
        if failures:
            kinds = ", ".join(f"{kind} {count}" for kind, count in failures.items())
            # The same words in each epoch: Python shows them once.
            warnings.warn(
                f"{sum(failures.values())} images of an epoch could not be had ({kinds}) and have no sample",
                stacklevel=4,
            )
        if repeats:
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


def _seat(iterations: int, block: int, start: Place | None) -> Seat:
    """Return who asks for the samples of a new iteration: this process, or the worker of a DataLoader that it is."""
    process, worker = os.getpid(), get_worker_info()
    if worker is None:
        return Seat(f"{process} {iterations}", process, 0, 0, block, None)
    # The same for all workers of one iteration, and for no other: torch draws a seed for each set of workers, and those
    # that persist ask in turn.
    iteration = f"{os.getppid()} {worker.seed - worker.id} {worker.num_workers} {iterations}"
    return Seat(iteration, process, worker.id, worker.num_workers, block, start)
