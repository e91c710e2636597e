"""What a Stream, its workers and its downloader say to each other over a Unix socket.

A connection begins with one line of JSON from the trainer's side: what is asked. Answers are frames:

    4 bytes  length of the head     big-endian
    4 bytes  length of the body
    head     JSON: {"sample": ...}, {"end": ...}, {"error": [kind, message]}, or the answer itself
    body     of a sample: its boxes (float64 sides, int64 labels, uint8 groups), then the bytes of the JPEG
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from oid_async.jobs.feeding.places import Place
from oid_async.options.query import Options

if TYPE_CHECKING:
    from oid_async.jobs.feeding.epoch import Sample

PREFIX = struct.Struct(">II")
# Bytes of one box in a body: four sides, a label, a flag.
_BOX_BYTES = 4 * 8 + 8 + 1
Head = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DownloaderSettings:
    """What a downloader is started with, pickled, on its stdin.

    `socket` is the descriptor that it listens at, `folder` where that socket is, which goes with it. `rank` of `ranks`
    is whom it feeds.
    """

    options: Options
    keep_files: bool
    has_own_folder: bool
    socket: int
    folder: Path
    rank: int
    ranks: int
    seed: int
    window: int


@dataclass(frozen=True, slots=True)
class Seat:
    """Who takes samples of an iteration: worker `worker` of `workers` (0 of 0 without any), in blocks of `block`.

    `iteration` is the same for all workers of one iteration; `process` tells one worker process from the next. `start`
    is where a worker goes on that has a state of its own; then all of them have.
    """

    iteration: str
    process: int
    worker: int
    workers: int
    block: int
    start: Place | None

    def as_json(self) -> Head:
        """Return the question for its samples."""
        start = None if self.start is None else [self.start.epoch, self.start.position, self.start.given]
        seat = [self.iteration, self.process, self.worker, self.workers, self.block, start]
        return {"ask": "samples", "seat": seat}

    @classmethod
    def of(cls, seat: list[Any]) -> Self:
        """Return the seat of a question."""
        iteration, process, worker, workers, block, start = seat
        return cls(iteration, process, worker, workers, block, None if start is None else Place(*start))


def question(head: Head) -> bytes:
    """Return a question as it is sent."""
    return json.dumps(head).encode() + b"\n"


def frame(head: Head, body_bytes: int = 0) -> bytes:
    """Return the beginning of a frame, which a body of so many bytes follows."""
    text = json.dumps(head).encode()
    return PREFIX.pack(len(text), body_bytes) + text


def sample_frame(sample: "Sample") -> list[bytes]:
    """Return the frame of a sample in pieces."""
    boxes = sample.boxes
    pieces = [boxes.sides.tobytes(), boxes.labels.tobytes(), boxes.groups.tobytes()]
    if sample.body is not None:
        pieces.append(sample.body)
    fields = [sample.position, sample.number, sample.image_id, len(boxes.labels), sample.file]
    return [frame({"sample": fields}, sum(map(len, pieces))), *pieces]


def box_bytes(boxes: int) -> tuple[int, int, int]:
    """Return where the sides, labels and groups of so many boxes end in a body."""
    return 32 * boxes, 40 * boxes, _BOX_BYTES * boxes
