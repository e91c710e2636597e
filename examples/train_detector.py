"""Train a small detector, from a folder or while it downloads; stop it anywhere, and the same command goes on.

    pip install "oid-async[torch]"  # where oid-async is installed; in a checkout: pip install ".[torch]"
    oid-async demo demo_data
    python examples/train_detector.py --folder demo_data --steps 200

    python examples/train_detector.py --class Football --class Person --split validation --steps 200

The demo and training with it need no network. The last command keeps no image on the disk; as it stands it asks for
the real dataset, and offline run `oid-async demo --write-mirror demo_mirror` first and set the variables that it names.

It shows: boxes of any number turned into tensors of one size in the workers, one training loop for `OpenImages` and
`Stream`, and a checkpoint with the network, the optimizer and the place in the epoch, from which the next batch is the
one that would have come. The network is a toy: 8 x 8 cells, each of which says which class has the centre of its box
there, and where the box is.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from oid_async import Query
from oid_async.errors import OidError
from oid_async.torch import OpenImages, Stream

PIXELS, CELLS = 128, 8
BATCH = 16
SEED = 1


def encode(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image in one size, and of each cell the class (0: background) and the box as fractions.

    Of several boxes with their centres in one cell the last one counts. It runs in the workers.
    """
    height, width = image.shape[1:]
    pixels = nn.functional.interpolate(image[None] / 255, size=(PIXELS, PIXELS))[0]
    boxes = target["boxes"] / torch.tensor([width, height, width, height])
    columns, rows = ((boxes[:, :2] + boxes[:, 2:]) / 2 * CELLS).long().clamp(max=CELLS - 1).unbind(1)
    owner = torch.zeros(CELLS, CELLS, dtype=torch.long)
    owner[rows, columns] = torch.arange(1, len(boxes) + 1)
    labels = torch.cat([torch.zeros(1, dtype=torch.long), target["labels"]])[owner]
    corners = torch.cat([torch.zeros(1, 4), boxes])[owner]
    return pixels, labels, corners.permute(2, 0, 1)


def make_detector(classes: int) -> nn.Module:
    """Return a network from [B, 3, PIXELS, PIXELS] to [B, classes + 4, CELLS, CELLS]."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, classes + 4, 1))


def loss_of(found: Tensor, labels: Tensor, corners: Tensor) -> Tensor:
    """Return how far what was found is from the classes of all cells and the boxes of those that have one."""
    scores, boxes = found[:, :-4], found[:, -4:].sigmoid()
    has_box = (labels > 0)[:, None]
    return nn.functional.cross_entropy(scores, labels) + (
        (boxes - corners).abs() * has_box
    ).sum() / has_box.sum().clamp(1)


class Source(Protocol):
    """Where batches come from: an endless row of epochs whose place can be saved."""

    classes: list[str]

    def batches(self) -> Iterator[list[Tensor]]:
        """Yield batches from the place on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the latest batch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        ...


class FolderSource:
    """Batches of a saved folder, in an order that depends on the seed and the epoch alone."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._dataset = OpenImages(folder, transform=encode)
        self._workers = workers
        self._place = {"epoch": 0, "batch": 0}
        self.classes = self._dataset.classes

    def batches(self) -> Iterator[list[Tensor]]:
        """Yield batches from the place on."""
        while True:
            dice = torch.Generator().manual_seed(SEED + self._place["epoch"])
            order = torch.randperm(len(self._dataset), generator=dice)[self._place["batch"] * BATCH :]
            for batch in DataLoader(self._dataset, BATCH, sampler=order.tolist(), num_workers=self._workers):
                self._place["batch"] += 1
                yield batch
            self._place = {"epoch": self._place["epoch"] + 1, "batch": 0}

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the latest batch."""
        return dict(self._place)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        self._place = dict(state)


class StreamSource:
    """Batches of a query, downloaded while they are used."""

    def __init__(self, query: Query, workers: int) -> None:
        self._stream = Stream(query, seed=SEED, transform=encode)
        self._workers = workers
        self.classes = self._stream.classes
        self.state_dict, self.load_state_dict = self._stream.state_dict, self._stream.load_state_dict

    def batches(self) -> Iterator[list[Tensor]]:
        """Yield batches from the place on."""
        loader = self._stream.loader(BATCH, num_workers=self._workers, collate_fn=default_collate)
        while True:
            yield from loader


def train(source: Source, checkpoint: Path, steps: int, save_every: int) -> None:
    """Train until `steps` are done, from the checkpoint on if there is one; write it every so many steps."""
    torch.manual_seed(SEED)
    network = make_detector(len(source.classes))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["classes"] != source.classes:
            raise SystemExit(f"{checkpoint} is of other classes; remove it, or name another --checkpoint")
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        source.load_state_dict(saved["place"])
        done = saved["done"]
        print(f"going on behind step {done}")
    batches = source.batches()
    while done < steps:
        pixels, labels, corners = next(batches)
        loss = loss_of(network(pixels), labels, corners)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        print(f"step {done}: loss {loss.item():.4f}", flush=True)
        if done % save_every == 0 or done == steps:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "place": source.state_dict()}
            unfinished = checkpoint.with_suffix(".part")
            torch.save(state | {"classes": source.classes, "done": done}, unfinished)
            os.replace(unfinished, checkpoint)  # a checkpoint is whole, whenever the trainer is killed


def main() -> int:
    """Train as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Train a small detector.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", type=Path, help="what a download has filled")
    where.add_argument("--class", action="append", dest="categories", help="train while it downloads; repeatable")
    parser.add_argument("--split", default="validation", help="with --class")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=50, help="steps from one checkpoint to the next")
    parser.add_argument("--checkpoint", type=Path, default=Path("detector.pt"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    try:
        source: Source
        if options.folder is not None:
            source = FolderSource(options.folder, options.workers)
        else:
            source = StreamSource(Query(categories=options.categories, splits=[options.split]), options.workers)
        train(source, options.checkpoint, options.steps, options.save_every)
    except OidError as error:  # no such class or folder, a broken image, no network: one line that says what to do
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
