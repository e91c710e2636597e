"""The look-alike's annotations other than boxes, made from the objects in its drawn scenes, in the published formats.

Masks are ellipses within the objects' boxes, smaller than the pictures: published masks have other sizes than their
images, too. Relationships are between neighbours, and attributes; labels are of drawn objects and of absent ones;
points are in the middle of objects. Sources of the formats: as in `openimages.catalogue_tables`.
"""

import csv
import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from oid_async.openimages.catalogue_tables import PublishedTable, TableKind
from oid_async.openimages.vocabulary import Split

# Classes of image-level labels and points alone; and attributes, which are in no class table.
MORE_CLASSES = {"/m/0bl9f": "Entity", "/m/01ctsf": "Atmosphere", "/m/0d1n2": "Meadow", "/m/01bqvp": "Sky, cloudy"}
ATTRIBUTES = {"/m/083vt": "(made of)Wood", "/m/02gy9n": "Transparent"}
PREDICATES = {"at": "at", "on": "on (top of)", "inside_of": "inside of", "holds": "holds", "is": "is"}
_MASK_SIZE = (160, 120)
_STAMP = (2019, 5, 8, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Photo:
    """One image of the look-alike: its id, its split, the number of its scene, its staged fault ('' for none)."""

    image_id: str
    split: Split
    scene: int
    staged: str = ""


Objects = list[dict[str, Any]]
Pictures = list[tuple[Photo, Objects]]


class Annotations:
    """Makes tables, archives and narratives from pictures and the `labels` (MIDs by class_name) of their objects."""

    def __init__(self, pictures: Pictures, labels: dict[str, str]) -> None:
        self._pictures = pictures
        self._labels = labels

    def table(self, table: PublishedTable) -> bytes:
        """Return one published table."""
        of_split = [(picture, objects) for picture, objects in self._pictures if picture.split == table.split]
        if table.kind == "captions":
            fields = ("dataset_id", "image_id", "annotator_id", "caption")
            return _json_lines({name: each[name] for name in fields} for each in self.narratives(of_split))
        if not table.columns:
            return "".join(f"{label}\n" for label in sorted(self._labels.values())).encode()
        rows: dict[TableKind, Any] = {
            "masks": self._mask_rows,
            "relationships": self._relationship_rows,
            "human_labels": self._human_rows,
            "machine_labels": self._machine_rows,
            "points": self._point_rows,
        }
        if table.kind in rows:
            return csv_bytes(
                table.columns, (row for picture, objects in of_split for row in rows[table.kind](picture, objects))
            )
        names = {
            "all_classes": {label: name for name, label in self._labels.items()} | MORE_CLASSES,
            "attributes": ATTRIBUTES,
            "predicates": PREDICATES,
        }[table.kind]
        has_header = table.kind == "all_classes" and bool({"v6", "v7"} & set(table.releases))
        line_end = "\r\n" if "v7" in table.releases and has_header else "\n"
        return csv_bytes(table.columns if has_header else None, names.items(), line_end)

    def traces(self, split: Split) -> bytes:
        """Return the full narratives of a split."""
        return _json_lines(self.narratives([entry for entry in self._pictures if entry[0].split == split]))

    def narratives(self, pictures: Pictures) -> Iterator[dict[str, Any]]:
        """Yield a narrative of each picture, two of every fifth."""
        for picture, objects in pictures:
            chance = _chance("story", picture.image_id)
            for annotator in range(1 + (chance.randrange(5) == 0)):
                yield _narrative(picture, objects, annotator + chance.randrange(90), chance)

    def voices(self) -> dict[str, bytes]:
        """Return every recording by its key: the start of an OGG file, and a hash that makes it unique."""
        return {
            f"voice-recordings/{narrative['voice_recording']}": b"OggS\0\2"
            + hashlib.sha256(repr(narrative).encode()).digest()
            for narrative in self.narratives(self._pictures)
        }

    def archive(self, split: Split, digit: str) -> bytes:
        """Return the archive of the masks of a split whose ids begin with a digit."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for picture, objects in self._pictures:
                if picture.split == split and picture.image_id[0] == digit:
                    for path, _, box in self._masks(picture, objects):
                        archive.writestr(zipfile.ZipInfo(path, _STAMP), mask_png(box), zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def _masks(self, picture: Photo, objects: Objects) -> Iterator[tuple[str, str, list[float]]]:
        for number, each in enumerate(objects[:2]):
            if each["group_of"] == 1 or each["depiction"] == 1:
                continue
            label = self._labels[each["class_name"]]
            box_id = hashlib.sha256(f"{picture.image_id} {number}".encode()).hexdigest()[:8]
            name = label.strip("/").replace("/", "")
            yield f"{picture.image_id}_{name}_{box_id}.png", label, each["box"]

    def _mask_rows(self, picture: Photo, objects: Objects) -> Iterator[list[str]]:
        for path, label, (left, right, top, bottom) in self._masks(picture, objects):
            box = [f"{edge:.6f}" for edge in (left, right, top, bottom)]
            is_train = picture.split == "train"
            clicks = f"{(left + right) / 2:.5f} {(top + bottom) / 2:.5f} 1;{left:.5f} {top:.5f} 0"
            yield [
                path,
                picture.image_id,
                label,
                path[-12:-4],
                *box,
                "0.86864" if is_train else "",
                clicks if is_train else "",
            ]

    def _relationship_rows(self, picture: Photo, objects: Objects) -> Iterator[list[str]]:
        chance = _chance("relationship", picture.image_id)
        boxes = [(self._labels[each["class_name"]], [f"{edge:.6f}" for edge in each["box"]]) for each in objects]
        for (first, one), (second, other) in pairwise(boxes[:3]):
            yield [picture.image_id, first, second, *one, *other, chance.choice(("at", "on", "holds", "inside_of"))]
        first, one = boxes[0]
        yield [picture.image_id, first, chance.choice(list(ATTRIBUTES)), *one, *one, "is"]

    def _human_rows(self, picture: Photo, objects: Objects) -> Iterator[list[str]]:
        chance = _chance("label", picture.image_id)
        there = sorted({self._labels[each["class_name"]] for each in objects})
        for label in there:
            # The V7 files have both spellings of one.
            source, one = chance.choice((("verification", "1.0"), ("crowdsource-verification", "1")))
            yield [picture.image_id, source, label, one]
        not_there = [label for label in sorted(self._labels.values()) if label not in there]
        for label in chance.sample(not_there, 2):
            yield [picture.image_id, "verification", label, chance.choice(("0", "0.0"))]
        if chance.randrange(3) == 0:
            yield [picture.image_id, "verification", chance.choice(sorted(MORE_CLASSES)[1:]), "1"]

    def _machine_rows(self, picture: Photo, objects: Objects) -> Iterator[list[str]]:
        chance = _chance("machine", picture.image_id)
        for label in sorted({self._labels[each["class_name"]] for each in objects}):
            yield [picture.image_id, "machine", label, f"{chance.randrange(5, 11) / 10:g}"]
        yield [picture.image_id, "machine", chance.choice(sorted(self._labels.values())), "0.5"]

    def _point_rows(self, picture: Photo, objects: Objects) -> Iterator[list[str]]:
        chance = _chance("point", picture.image_id)
        for each in objects[:2]:
            left, right, top, bottom = each["box"]
            votes = [chance.randrange(4) for _ in range(3)]
            verdict = ("yes", "no", "unsure")[votes.index(max(votes))]
            x, y = f"{(left + right) / 2:.6f}", f"{(top + bottom) / 2:.6f}"
            label = self._labels[each["class_name"]]
            text = each["class_name"] if chance.randrange(2) else ""
            yield [picture.image_id, x, y, label, verdict, "ih", *map(str, votes), text]


def mask_png(box: list[float]) -> bytes:
    """Return a mask: an ellipse within a box (left, right, top, bottom as fractions), 255 on 0, 8 bits grey."""
    width, height = _MASK_SIZE
    left, right, top, bottom = box
    rows = []
    for y in range(height):
        across = ((y + 0.5) / height - (top + bottom) / 2) / max((bottom - top) / 2, 1e-6)
        half = (right - left) / 2 * max(0.0, 1 - across * across) ** 0.5
        first = min(width, max(0, round(((left + right) / 2 - half) * width)))
        last = min(width, max(first, round(((left + right) / 2 + half) * width)))
        rows.append(b"\0" * (first + 1) + b"\xff" * (last - first) + b"\0" * (width - last))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _narrative(picture: Photo, objects: Objects, annotator: int, chance: random.Random) -> dict[str, Any]:
    seen = [each["class_name"].lower() for each in objects[:4]]
    caption = f"In this image I can see {', '.join(seen)}. In the background there is “a scene”, drawn — not real."
    words = caption.split(" ")
    spoken = [{"utterance": word, "start_time": at * 0.3, "end_time": at * 0.3 + 0.25} for at, word in enumerate(words)]
    traces = [
        [
            {"x": round(chance.uniform(-0.02, 1.02), 4), "y": round(chance.random(), 4), "t": round(at * 0.1, 3)}
            for at in range(8)
        ]
        for _ in objects[:2]
    ]
    dataset = f"open_images_{picture.split}"
    return {
        "dataset_id": dataset,
        "image_id": picture.image_id,
        "annotator_id": annotator,
        "caption": caption,
        "timed_caption": spoken,
        "traces": traces,
        "voice_recording": f"{dataset}/{dataset}_{picture.image_id}_{annotator}.ogg",
    }


def _json_lines(objects: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in objects).encode()


def _chance(what: str, image_id: str) -> random.Random:
    return random.Random(f"{what} {image_id}")


def csv_bytes(columns: Iterable[str] | None, rows: Iterable[Iterable[str]], line_end: str = "\n") -> bytes:
    """Return rows as CSV; without `columns` there is no header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    if columns is not None:
        writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
