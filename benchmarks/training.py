"""Measure how fast images reach a trainer: from `Stream`, from a saved folder, and from `stream` without PyTorch.

Usage:
    python benchmarks/training.py [--images N] [--rounds N] [--batch N]

Images are 1024 pixels wide, of some 200 KB, eight boxes each, served by the embedded origin within the process that
downloads. Nothing is trained: a batch is taken and dropped. Printed are images a second, and the seconds of processor
time for a thousand images: of trainer, workers, downloader and origin together.  Needs the extra torch.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from corpus import BOX_TABLE, CLASS_TABLE, IMAGE_FOLDER, IMAGE_TABLE, write_tables
from PIL import Image, ImageFilter

import oid_async
from oid_async.origin.lookalike import with_comment

_PICTURES = 16
_SIZE = (1024, 768)


def picture(rng: random.Random) -> bytes:
    """Return a JPEG of the size and the bytes that the bucket's copies have."""
    noise = Image.frombytes("RGB", (256, 192), rng.randbytes(256 * 192 * 3))
    out = io.BytesIO()
    noise.resize(_SIZE).filter(ImageFilter.GaussianBlur(1)).save(out, "JPEG", quality=88)
    return out.getvalue()


def publish(root: Path, images: int) -> Path:
    """Write a mirror folder."""
    rng = random.Random(1)
    pictures = [picture(rng) for _ in range(_PICTURES)]
    ids = sorted(f"{rng.getrandbits(64):016x}" for _ in range(images))
    write_tables(root, ids, rng)
    folder = root / IMAGE_FOLDER
    folder.mkdir(parents=True)
    for number, image_id in enumerate(ids):
        (folder / f"{image_id}.jpg").write_bytes(with_comment(pictures[number % _PICTURES], image_id))
    return root


async def outcomes(options: dict[str, Any], *, decodes: bool) -> int:
    """Take the outcomes of `stream` with their labels; with `decodes` make tensors of them in the same process."""
    from oid_async.torch.targets import decoded, size_of, target_of_rows

    count = 0
    async with oid_async.stream(annotations=True, keep_files=False, **options) as landed:
        async for outcome in landed:
            count += 1
            if decodes and outcome.image is not None:
                image = decoded(outcome.image, outcome.image_id)
                target_of_rows(outcome.image_id, size_of(image), outcome.boxes, {})
    return count


def streamed(options: dict[str, Any], batch: int, workers: int) -> int:
    """Take an epoch of a Stream."""
    from oid_async.torch import Stream

    options = {name: value for name, value in options.items() if name != "savepath"}
    with Stream(**options) as stream:
        return sum(len(images) for images, _ in stream.loader(batch, workers))


def saved(options: dict[str, Any], batch: int, workers: int) -> int:
    """Take an epoch of a saved folder."""
    from torch.utils.data import DataLoader

    from oid_async.torch import OpenImages
    from oid_async.torch.loader import as_lists

    dataset: Any = OpenImages(options["savepath"])
    return sum(len(images) for images, _ in DataLoader(dataset, batch, num_workers=workers, collate_fn=as_lists))


class PlainFiles:
    """What a few lines of one's own do with the files of a folder: open, decode, permute; no boxes."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        with Image.open(self._paths[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def plain(options: dict[str, Any], batch: int, workers: int) -> int:
    """Take an epoch of a saved folder by a loop of Pillow and PyTorch alone."""
    from torch.utils.data import DataLoader

    files: Any = PlainFiles(options["savepath"] / "images")
    return sum(len(images) for images in DataLoader(files, batch, num_workers=workers, collate_fn=list))


def measured(run: Callable[[], int], sender: Any) -> None:
    """Send images a second, and processor seconds for a thousand of them, of a process that does nothing else."""
    import oid_async.torch.stream  # noqa: F401 (it takes seconds to load)

    def spent() -> float:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in uses)

    began, before = perf_counter(), spent()
    count = run()
    sender.send((count / (perf_counter() - began), (spent() - before) * 1000 / count))


class Run:
    """One way to take all images, as a value that a spawned process takes."""

    def __init__(self, kind: str, options: dict[str, Any], batch: int, workers: int) -> None:
        self.kind, self.options, self.batch, self.workers = kind, options, batch, workers

    def __call__(self) -> int:
        if self.kind.startswith("stream("):
            return asyncio.run(outcomes(self.options, decodes="decoded" in self.kind))
        ways = {"Stream": streamed, "OpenImages": saved, "plain loop": plain}
        way = ways[self.kind.partition(",")[0]]
        return way(self.options, self.batch, self.workers)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        mirror = publish(root / "mirror", args.images)
        tables = {"label": CLASS_TABLE, "annotation": BOX_TABLE, "image_url": IMAGE_TABLE}
        options: dict[str, Any] = {name: mirror / table for name, table in tables.items()}
        options |= {"mirror": mirror, "cache_dir": root / "cache", "savepath": root / "saved", "source": ["cvdf"]}
        asyncio.run(oid_async.download(**options))
        kinds = [("stream(), bytes and rows", 0), ("stream(), decoded", 0)]
        kinds += [(f"Stream, {workers} workers", workers) for workers in (0, 2)]
        kinds += [
            (f"{way}, {workers} workers", workers) for way in ("OpenImages", "plain loop") for workers in (0, 1, 2)
        ]
        for name, workers in kinds:
            found = []
            for _ in range(args.rounds):
                # stream() takes what lies in its folder from there.
                own = {"savepath": root / "empty"} if name.startswith("stream(") else {}
                receiver, sender = multiprocessing.Pipe(duplex=False)
                run = Run(name, options | own, args.batch, workers)
                process = multiprocessing.get_context("spawn").Process(target=measured, args=(run, sender))
                process.start()
                sender.close()
                found.append(receiver.recv())
                process.join()
            speed, spent = sorted(found)[len(found) // 2]
            print(f"{name:26} {speed:7.0f} images/s  {spent:6.2f} s of processor time for 1000", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
