"""A small look-alike of Open Images: format-exact tables, a few hundred decodable JPEGs, some objects that fail.

The pictures are twenty drawn scenes; a comment segment with the ImageID makes the bytes of each copy differ. Everything
is made from a seed, so that two runs get the same objects. Ids include those that type inference ruins: all decimal
digits, or the look of a float in exponent form.
"""

import asyncio
import base64
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from aiohttp import web

from oid_async.openimages.catalogue import IMAGE_BUCKET, mask_archive, trace_keys
from oid_async.openimages.catalogue_tables import (
    BOX_COLUMNS,
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    NARRATIVES_BUCKET,
    TABLES,
    PublishedTable,
)
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.origin.annotations import Annotations, Photo, csv_bytes
from oid_async.origin.server import published_object

CLASSES = {
    "/m/014j1m": "Apple",
    "/m/018xm": "Ball",
    "/m/01j51": "Balloon",
    "/m/0199g": "Bicycle",
    "/m/015p6": "Bird",
    "/m/019jd": "Boat",
    "/m/0cgh4": "Building",
    "/m/0k4j": "Car",
    "/m/01yrx": "Cat",
    "/m/01mzpv": "Chair",
    "/m/01x3z": "Clock",
    "/m/0ftb8": "Common sunflower",
    "/m/0bt9lr": "Dog",
    "/m/0jy4k": "Donut",
    "/m/0ch_cf": "Fish",
    "/m/0c9ph5": "Flower",
    "/m/01226z": "Football",
    "/m/03k3r": "Horse",
    "/m/03jm5": "House",
    "/m/0dzct": "Human face",
    "/m/02zt3": "Kite",
    "/m/04yx4": "Man",
    "/m/0cyhj_": "Orange",
    "/m/01g317": "Person",
    "/m/04bcr3": "Table",
    "/m/07j7r": "Tree",
    "/m/0hnnb": "Umbrella",
    "/m/0d4v4": "Window",
    "/m/03bt1vf": "Woman",
}
_LABELS = {name: label for label, name in CLASSES.items()}
# The names of some of them in V4, and their subclasses; a Human face is a Part of Person, not a subclass.
V4_NAMES = {"Common sunflower": "Sunflower", "Donut": "Doughnut"}
SUBCLASSES = {
    "Person": ("Man", "Woman"),
    "Ball": ("Football",),
    "Building": ("House",),
    "Flower": ("Common sunflower",),
}
_PARTS = {"Person": ("Human face",), "House": ("Window",)}
_SIZES: dict[Split, int] = {"train": 240, "validation": 40, "test": 40}
# Images of train without boxes, which are in the table of all images alone.
_UNBOXED = 60
_AUTHORS = ("Ana Lima", 'Bo "the lens" Berg', "Chen, Wei", "Žofie Nováková", "安藤 陽", "dee_o")
_TITLES = ("Sunday, late", "IMG 0042", "Goal!", 'The "big" one', "", "Am Strand — Juli", "first & last")
_HARD_IDS = ("0000048549557964", "00e4060885034751", "0012e45111111111")

# The failure kinds of the objects that fail on purpose, as a run reports them. The last in order of ImageID gets the
# wrong checksum: by then the run has seen that this host's ETags are MD5s.
STAGED_FAILURES = ("not_found", "not_found", "forbidden", "gone", "placeholder", "not_image", "empty", "checksum")
# Those of them that a folder can have, too: by a file that is not there.
_MISSING = ("not_found", "gone", "forbidden")
# The faults of objects that fail once and are right at the second request.
STAGED_HICCUPS = ("busy", "cut", "reset")
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass
class Lookalike:
    """The published objects and their responses. `requests` counts requests by key; without `staged` none fails."""

    staged: bool = True
    requests: Counter[str] = field(default_factory=Counter)

    @cached_property
    def photos(self) -> dict[str, Photo]:
        """Every image by its key in the image bucket, in order of ImageID."""
        return {f"{photo.split}/{photo.image_id}.jpg": photo for photo in _photos(self.staged)}

    @cached_property
    def tables(self) -> dict[str, bytes]:
        """Every table of every release by its key, made from the photos in the published format."""
        makers = {
            "classes": _class_table,
            "hierarchy": _hierarchy,
            "boxes": self._box_table,
            "images": self._image_table,
            "all_images": self._every_image_table,
        }
        return {table.key: makers.get(table.kind, self.annotations.table)(table) for table in TABLES}

    @cached_property
    def annotations(self) -> Annotations:
        """The annotations of the photos other than boxes."""
        return Annotations([(photo, self.scenes[photo.scene][1]) for photo in self.photos.values()], _LABELS)

    @cached_property
    def archives(self) -> dict[str, bytes]:
        """Every archive of masks by its key."""
        return {
            mask_archive(split, digit): self.annotations.archive(split, digit)
            for split in SPLITS
            for digit in "0123456789abcdef"
        }

    @cached_property
    def narratives(self) -> dict[str, bytes]:
        """The traces and recordings of the bucket of narratives, by key."""
        traces: dict[str, bytes] = {}
        for split in SPLITS:
            lines = self.annotations.traces(split).splitlines(keepends=True)
            keys = [key for key, _ in trace_keys(split)]
            each = -(-len(lines) // len(keys))
            traces |= {key: b"".join(lines[at * each : (at + 1) * each]) for at, key in enumerate(keys)}
        return traces | self.annotations.voices()

    @cached_property
    def scenes(self) -> list[tuple[bytes, list[dict[str, Any]]]]:
        """The drawn scenes: JPEG bytes and the objects in them."""
        folder = files("oid_async.origin") / "scenes"
        listing = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
        return [((folder / scene["file"]).read_bytes(), scene["objects"]) for scene in listing]

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Yield each object as a mirror folder has it: <bucket>/<key>, bytes. Photos staged as missing are left out."""
        for table in TABLES:
            yield f"{table.bucket}/{table.key}", self.tables[table.key]
        for key, photo in self.photos.items():
            if photo.staged not in _MISSING:
                yield f"{IMAGE_BUCKET}/{key}", self.body(photo)
        for key, body in self.archives.items():
            yield f"openimages/{key}", body
        for key, body in self.narratives.items():
            yield f"{NARRATIVES_BUCKET}/{key}", body

    def body(self, photo: Photo) -> bytes:
        """Return a photo's bytes: its scene with the ImageID in a comment segment."""
        return with_comment(self.scenes[photo.scene][0], photo.image_id)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Return the response to a request for /<bucket>/<key>; an Origin is made with this."""
        bucket, _, key = request.match_info["key"].partition("/")
        self.requests[key] += 1
        if key in self.tables and bucket in ("openimages", NARRATIVES_BUCKET):
            return published_object(request, self.tables[key], "text/csv")
        if bucket == "openimages" and key.endswith(".zip") and key in self.archives:
            return published_object(request, self.archives[key], "application/zip")
        if bucket == NARRATIVES_BUCKET and key in self.narratives:
            return published_object(request, self.narratives[key], "application/octet-stream")
        photo = self.photos.get(key) if bucket == IMAGE_BUCKET else None
        if photo is None:
            raise web.HTTPNotFound
        return await self._respond(request, photo, again=self.requests[key] > 1)

    async def _respond(self, request: web.Request, photo: Photo, *, again: bool) -> web.StreamResponse:
        body = self.body(photo)
        match photo.staged:
            case "not_found":
                return web.Response(status=404, text="NoSuchKey")
            case "forbidden":
                return web.Response(status=403, text="AccessDenied")
            case "gone":
                return web.Response(status=410)
            case "placeholder":
                return published_object(request, _PNG, "image/png")
            case "not_image":
                return published_object(request, b"<!DOCTYPE html><title>Sign in</title>", "image/jpeg")
            case "empty":
                return published_object(request, b"", "image/jpeg")
            case "checksum":
                wrong = hashlib.md5(b"other bytes", usedforsecurity=False).hexdigest()
                return web.Response(body=body, content_type="image/jpeg", headers={"ETag": f'"{wrong}"'})
            case "busy" if not again:
                return web.Response(status=503, headers={"Retry-After": "1"})
            case "cut" | "reset" if not again:
                return await _break_off(request, body, sent=0 if photo.staged == "reset" else len(body) // 2)
        return published_object(request, body, "image/jpeg")

    def _of_split(self, table: PublishedTable) -> list[Photo]:
        return [photo for photo in self.photos.values() if photo.split == table.split]

    def _box_table(self, table: PublishedTable) -> bytes:
        clicks = len(table.columns) > len(BOX_COLUMNS)
        return csv_bytes(
            table.columns, (row for photo in self._of_split(table) for row in self._boxes(photo, clicks=clicks))
        )

    def _boxes(self, photo: Photo, *, clicks: bool) -> Iterator[list[str]]:
        for drawn in self.scenes[photo.scene][1]:
            left, right, top, bottom = drawn["box"]
            box = [f"{edge:.6f}" for edge in drawn["box"]]
            flags = [str(drawn[name]) for name in ("occluded", "truncated", "group_of", "depiction", "inside")]
            row = [photo.image_id, "xclick", _LABELS[drawn["class_name"]], "1", *box, *flags]
            if clicks:
                middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
                row += [f"{x:.6f}" for x in (left, middle_x, right, middle_x)]
                row += [f"{y:.6f}" for y in (middle_y, top, middle_y, bottom)]
            yield row

    def _image_table(self, table: PublishedTable) -> bytes:
        photos = self._of_split(table)
        shuffled = random.Random(7).sample(photos, len(photos))
        return csv_bytes(IMAGE_COLUMNS, map(_image_row, shuffled))

    def _every_image_table(self, table: PublishedTable) -> bytes:
        """Return the photos of all splits, and those of train that were published without boxes: no bucket has them."""
        others = [Photo(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}", "train", 0) for number in range(1, _UNBOXED + 1)]
        photos = [*self.photos.values(), *others]
        return csv_bytes(table.columns, map(_image_row, random.Random(8).sample(photos, len(photos))))


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return a JPEG with a comment segment behind its start marker: the same picture, other bytes."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def _photos(staged: bool) -> list[Photo]:
    chance = random.Random(20)
    total = sum(_SIZES.values())
    ids = sorted({f"{chance.getrandbits(64):016x}" for _ in range(total - len(_HARD_IDS))} | set(_HARD_IDS))
    splits = [split for split in SPLITS for _ in range(_SIZES[split])]
    chance.shuffle(splits)
    photos = [
        Photo(image_id, split, number % 20) for number, (image_id, split) in enumerate(zip(ids, splits, strict=True))
    ]
    if not staged:
        return photos
    plain = [number for number, photo in enumerate(photos) if photo.image_id not in _HARD_IDS]
    marked = [*sorted(chance.sample(plain[:-1], len(STAGED_FAILURES) + len(STAGED_HICCUPS) - 1)), plain[-1]]
    stages = [*STAGED_HICCUPS, *STAGED_FAILURES]
    for number, stage in zip(marked, stages, strict=True):
        photos[number] = Photo(photos[number].image_id, photos[number].split, photos[number].scene, stage)
    return photos


def _image_row(photo: Photo) -> list[str]:
    chance = random.Random(photo.image_id)
    number, secret = chance.randrange(10**9, 10**10), f"{chance.getrandbits(40):010x}"
    author = chance.choice(_AUTHORS)
    profile = f"https://www.flickr.com/people/{number % 97}/"
    return [
        photo.image_id,
        photo.split,
        f"https://farm{number % 8 + 1}.staticflickr.com/{number % 9000}/{number}_{secret}_o.jpg",
        f"https://www.flickr.com/photos/{number % 97}/{number}",
        "https://creativecommons.org/licenses/by/2.0/",
        profile,
        author,
        chance.choice(_TITLES),
        str(chance.randrange(400_000, 9_000_000)),
        base64.b64encode(chance.randbytes(16)).decode(),
        f"https://c{number % 8 + 1}.staticflickr.com/{number % 9000}/{number}_{secret}_z.jpg" if number % 40 else "",
        chance.choice(("0.0", "0.0", "0.0", "90.0", "270.0", "")),
    ]


def _class_table(table: PublishedTable) -> bytes:
    """Return a class table: V4's has other names; only V7's has a header; V5's and V7's lines end in CRLF."""
    names = {label: V4_NAMES.get(name, name) if "v4" in table.releases else name for label, name in CLASSES.items()}
    if "v7" in table.releases:
        return csv_bytes(CLASS_COLUMNS, names.items(), line_end="\r\n")
    return csv_bytes(None, names.items(), line_end="\n" if "v4" in table.releases else "\r\n")


def _hierarchy(_: PublishedTable) -> bytes:
    """Return a tree under a root without a name; Football is in it twice, as classes with two parents are."""

    def node(name: str) -> dict[str, Any]:
        below = [node(child) for child in SUBCLASSES.get(name, ())]
        parts = [node(child) for child in _PARTS.get(name, ())]
        tree = {"LabelName": _LABELS[name], "Subcategory": below, "Part": parts}
        return {key: value for key, value in tree.items() if value}

    nested = {child for below in SUBCLASSES.values() for child in below}
    tree = {
        "LabelName": "/m/0bl9f",
        "Subcategory": [node(name) for name in _LABELS if name not in nested or name == "Football"],
    }
    return json.dumps(tree).encode()


async def _break_off(request: web.Request, body: bytes, *, sent: int) -> web.StreamResponse:
    """Announce a body, send the first `sent` bytes (for 0 not even the headers), hang up."""
    response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "image/jpeg"})
    if sent:
        await response.prepare(request)
        await response.write(body[:sent])
        await asyncio.sleep(0.01)
    if request.transport is not None:
        request.transport.abort()
    return response
