"""A tiny published dataset in a folder, as a mirror holds it; running the program; reading what it leaves."""

import csv
import gzip
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from aiohttp import web

from oid_async.cli.main import main
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.openimages.catalogue_tables import TABLES
from oid_async.openimages.vocabulary import Split
from oid_async.origin.lookalike import Lookalike, with_comment
from oid_async.origin.server import Origin, folder

# A grey baseline JPEG: tables of ones, and Huffman codes of one bit that say "no change" and "end of block".
_TABLES = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
_CODES = b"".join(b"\xff\xc4\x00\x14" + kind + b"\x01" + bytes(15) + b"\x00" for kind in (b"\x00", b"\x10"))
_SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def tiny_jpeg(text: str, width: int = 8, height: int = 8) -> bytes:
    """Return a valid grey JPEG of about 200 bytes; `text` makes it other bytes than the next."""
    frame = b"\xff\xc0\x00\x0b\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x01\x01\x11\x00"
    bits = 2 * -(-width // 8) * -(-height // 8)
    data = bytes(bits // 8) + (bytes([0xFF >> bits % 8]) if bits % 8 else b"")
    return with_comment(b"\xff\xd8" + _TABLES + frame + _CODES + _SCAN + data + b"\xff\xd9", text)


@dataclass(frozen=True, slots=True)
class Image:
    """A row of an image table; `name` ends its OriginalURL, `stored` says whether the bucket has the picture."""

    image_id: str
    name: str = ""
    split: Split = "train"
    stored: bool = True

    @property
    def file_name(self) -> str:
        return self.name or f"{self.image_id[:6]}_o.jpg"

    @property
    def url(self) -> str:
        return f"https://farm1.staticflickr.com/{int(self.image_id, 16) % 9000}/{self.file_name}"

    @property
    def size(self) -> tuple[int, int]:
        return 8 + int(self.image_id[-2:], 16) % 40, 8 + int(self.image_id[-4:-2], 16) % 40

    @property
    def body(self) -> bytes:
        return tiny_jpeg(self.image_id, *self.size)


@dataclass(frozen=True, slots=True)
class Box:
    """A row of a split's box table; columns that are not in `flags` (name, text) or here read alike in every row."""

    image_id: str
    label: str
    xmin: str = "0.125"
    split: Split = "train"
    flags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """A row of a split's table of human labels; Confidence 0: a person says that the class is not there."""

    image_id: str
    label: str
    confidence: str = "0"
    split: Split = "train"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is published, as V7: class rows (MID, name), image rows and box rows, all in published order.

    `below` gives the direct subclasses of a label; without it no hierarchy is published. Without `labels` none are.
    """

    classes: Sequence[tuple[str, str]]
    images: Sequence[Image]
    boxes: Sequence[Box]
    below: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Sequence[Label] = ()

    def publish(self, root: Path) -> Path:
        """Write the tables and pictures as a mirror folder holds them and return that folder."""
        kinds = {"classes", "hierarchy", "boxes", "images"} | (
            {"all_classes", "human_labels"} if self.labels else set()
        )
        for table in (table for table in TABLES if "v7" in table.releases and table.kind in kinds):
            rows: Iterable[dict[str, str]]
            if table.kind == "hierarchy":
                if self.below:
                    write_bytes(root / table.bucket / table.key, json.dumps(self._tree()).encode())
                continue
            if table.kind in ("classes", "all_classes"):
                rows = [{"LabelName": label, "DisplayName": name} for label, name in self.classes]
            elif table.kind == "images":
                rows = [_image_row(image) for image in self.images if image.split == table.split]
            elif table.kind == "human_labels":
                rows = [_label_row(label) for label in self.labels if label.split == table.split]
            else:
                rows = [_box_row(box) for box in self.boxes if box.split == table.split]
            write_table(root / table.bucket / table.key, table.columns, rows)
        for image in self.images:
            if image.stored:
                path = root / IMAGE_BUCKET / image.split / f"{image.image_id}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image.body)
        return root

    def _tree(self) -> dict[str, Any]:
        def node(label: str) -> dict[str, Any]:
            return {"LabelName": label, "Subcategory": [node(child) for child in self.below.get(label, ())]}

        return {"LabelName": "/m/0bl9f", "Subcategory": [node(label) for label, _ in self.classes]}


def publish_lookalike(root: Path) -> Path:
    """Write the look-alike, nothing staged, as a mirror folder; box rows are shuffled: published ones are in no order.

    No field of them holds a line break, so that lines are rows.
    """
    boxes = {f"{table.bucket}/{table.key}" for table in TABLES if table.kind == "boxes"}
    for place, body in Lookalike(staged=False).objects():
        lines = body.splitlines(keepends=True) if place in boxes else [body]
        lines[1:] = random.Random(place.partition("/")[2]).sample(lines[1:], len(lines) - 1)
        write_bytes(root / place, b"".join(lines))
    return root


def write_table(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> Path:
    """Write a table in the form its name says: .csv, .csv.gz or .parquet; what a row lacks is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pl.DataFrame(list(rows), schema=dict.fromkeys(columns, pl.String)).write_parquet(path)
        return path
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


class Finished(NamedTuple):
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


def run_cli(*args: object, cwd: Path | None = None) -> Finished:
    """Run the program as a user does. Its cache is the test's own, because the environment is (see conftest)."""
    command = [sys.executable, "-m", "oid_async", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ, timeout=60, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def typed(*args: object) -> Finished:
    """Run a command as `run_cli` does, but in this process, which takes no second to start: for what it answers."""
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            code = main(list(map(str, args)))
        except SystemExit as wrong:
            code = int(wrong.code or 0)
    return Finished(code, stdout.getvalue(), stderr.getvalue())


@asynccontextmanager
async def counted_origin(root: Path) -> AsyncIterator[tuple[str, Counter[str]]]:
    """Serve a folder on loopback; yield its address and how often each key was asked for."""
    asked: Counter[str] = Counter()
    answer = folder(root)

    async def serve(request: web.Request) -> web.StreamResponse:
        asked[request.match_info["key"]] += 1
        return await answer(request)

    async with Origin(serve) as origin:
        yield origin.url, asked


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return a CSV's rows as text by column, in order."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns_of(path: Path) -> list[str]:
    """Return a CSV's column names."""
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def read_manifest(savepath: Path) -> list[dict[str, Any]]:
    """Return the rows of manifest.parquet by column, in order."""
    return pl.read_parquet(savepath / "manifest.parquet").to_dicts()


def image_names(savepath: Path) -> list[str]:
    """Return the names under images/, sorted."""
    return sorted(path.name for path in (savepath / "images").iterdir())


def tree(savepath: Path) -> dict[str, Any]:
    """Return every file of a SAVEPATH but the program's own notes: bytes by relative path, Parquet as rows."""
    files = (path for path in savepath.rglob("*") if path.is_file() and ".oid_async" not in path.parts)
    return {
        str(path.relative_to(savepath)): pl.read_parquet(path).rows()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in files
    }


def _image_row(image: Image) -> dict[str, str]:
    return {
        "ImageID": image.image_id,
        "Subset": image.split,
        "OriginalURL": image.url,
        "OriginalLandingURL": f"https://www.flickr.com/photos/7/{image.image_id}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "AuthorProfileURL": "https://www.flickr.com/people/7/",
        "Author": 'Lima, Ana "the lens"',
        "Title": f"Žofie, {image.image_id[-2:]}",
        "Rotation": "90.0",
    }


def _label_row(label: Label) -> dict[str, str]:
    source = {"Source": "verification", "Confidence": label.confidence}
    return {"ImageID": label.image_id, "LabelName": label.label, **source}


def _box_row(box: Box) -> dict[str, str]:
    row = {"ImageID": box.image_id, "Source": "xclick", "LabelName": box.label, "Confidence": "1", "XMin": box.xmin}
    row |= {"XMax": "0.950000", "YMin": "0.0", "YMax": "1e-05", "IsOccluded": "-1", "IsGroupOf": "0"}
    return row | dict(box.flags)


def write_bytes(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
