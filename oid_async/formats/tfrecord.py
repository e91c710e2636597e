"""TFRecord: <split>-00000-of-00003.tfrecord, ..., tf.train.Example an image; label_map.pbtxt.

The keys are those of TensorFlow's object detection API (object_detection/core/standard_fields.py, TfExampleFields, and
dataset_tools/oid_tfrecord_creation.py); what it has no key for is beside them. Lists have one value an object:

    image/   encoded format filename source_id key/sha256 width height, and who to credit
    image/object/   bbox/{xmin,xmax,ymin,ymax} (fractions) class/{text,label,mid} is_crowd group_of occluded ... mask
    image/class/    text label mid confidence source: labels of the whole image; confidence 0 is verified to be absent

Flags are 1, 0, or -1 for unknown; `is_crowd` and `group_of` are read as yes or no, so that unknown is 0 in them.
"""

import hashlib
import io
import math
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

from oid_async.formats.samples import SAMPLE_KINDS, counted, samples
from oid_async.formats.source import FLAG_NAMES, Span, objects
from oid_async.formats.tf_example import example, floats, integers, record, texts
from oid_async.formats.writer import ExportContext
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.kinds import KindName

# Fields of a sample that are texts under keys of their own names.
_ABOUT = ("split", "license", "author", "author_url", "title", "original_url", "landing_url", "changes", "role")
_PAIR = ("subject", "object")
_NOT_PRINTABLE = re.compile("[^!-~]")


class TFRecord:
    """Fills shards of each split; how many there are is known in the end, when they get their names."""

    kinds: ClassVar[Sequence[KindName]] = SAMPLE_KINDS
    names: ClassVar[Sequence[str]] = (r"{split}-[0-9]{5,}-of-[0-9]{5,}\.tfrecord", r"label_map\.pbtxt")
    names_by_image: ClassVar[Sequence[str]] = ()

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._shards: dict[str, _Shards] = {}
        self._has_masks = "segmentation" in context.source.kinds
        # MID -> the id of its class in the label map.
        numbers = context.source.classes.numbers if context.source.has_shapes else {}
        self._labels = {mid: number + 1 for mid, number in numbers.items()}

    def write(self, span: Span) -> None:
        """Write a span."""
        found = list(samples(span, self._context.source.classes))
        bodies, sides, masks = self._context.pictures.bodies(span.images), _sides(span), self._masks(found)
        for sample, body in zip(found, bodies, strict=True):
            boxes = sides.get(sample["image_id"], {side: [] for side in SIDES})
            features = _image(sample, body) | self._objects(sample, boxes) | self._others(sample)
            if self._has_masks:
                features["image/object/mask"] = texts(islice(masks, len(sample["objects"]["mask"])))
            self._write(sample["split"], record(example(features)))
            self._context.written.rows.update(counted(sample))
        self._context.wrote(span.images, {})

    def finish(self) -> None:
        """Give the shards their names, and write label_map.pbtxt."""
        for shards in self._shards.values():
            for path, size, md5 in shards.close():
                self._context.pictures.record.hashed(path, size, md5)
        names = self._context.source.classes.names if self._labels else ()
        text = "".join(_item(name, label, self._labels) for label, name in enumerate(names, 1))
        (self._context.stage / "label_map.pbtxt").write_text(text, encoding="utf-8")

    def _write(self, split: str, body: bytes) -> None:
        if split not in self._shards:
            most, files = self._context.options.shard_size, self._context.files
            self._shards[split] = _Shards(self._context.stage, split, most)
            files.callback(self._shards[split].release)
        self._shards[split].add(body)

    def _objects(self, sample: dict[str, Any], boxes: dict[str, list[float]]) -> dict[str, bytes]:
        rows = sample["objects"]
        found = {f"image/object/bbox/{side.lower()}": floats(boxes[side]) for side in SIDES}
        found["image/object/class/text"] = texts(rows["category"])
        found["image/object/class/label"] = integers(number + 1 for number in rows["category_id"])
        found["image/object/class/mid"] = texts(rows["label"])
        for flag in FLAG_NAMES.values():
            found[f"image/object/{flag}"] = integers(rows[flag])
        found["image/object/group_of"] = integers(max(0, each) for each in rows["group_of"])
        found["image/object/is_crowd"] = found["image/object/group_of"]
        found["image/object/has_box"] = integers(int(each) for each in rows["has_box"])
        if self._has_masks:
            found["image/object/has_mask"] = integers(int(each is not None) for each in rows["mask"])
        return found

    def _others(self, sample: dict[str, Any]) -> dict[str, bytes]:
        """Return the features of labels, captions, relationships and points."""
        labels, points = sample["labels"], sample["points"]
        width, height = sample["width"], sample["height"]
        found = {
            "image/class/text": texts(_names(labels["category"], labels["label"])),
            "image/class/mid": texts(labels["label"]),
            "image/class/label": integers(self._labels.get(mid, 0) for mid in labels["label"]),
            "image/class/confidence": floats(_known(labels["confidence"])),
            "image/class/source": texts(each or "" for each in labels["source"]),
            "image/caption": texts(sample["captions"]),
        }
        if "point" in self._context.source.kinds:
            found |= {
                "image/point/x": floats(x / width for x, _ in points["xy"]),
                "image/point/y": floats(y / height for _, y in points["xy"]),
                "image/point/text": texts(_names(points["category"], points["label"])),
                "image/point/mid": texts(points["label"]),
                "image/point/answer": texts(each or "" for each in points["answer"]),
                **{f"image/point/{name}": floats(_known(points[name])) for name in ("yes", "no", "unsure")},
            }
        if "relationship" in self._context.source.kinds:
            found |= _relationships(sample["relationships"], width, height)
        return found

    def _masks(self, found: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        """Yield a PNG for each object of samples, all black for one without a mask."""
        sized = [(name, sample["width"], sample["height"]) for sample in found for name in sample["objects"]["mask"]]
        pngs = self._context.pictures.mask_bodies([each for each in sized if each[0] is not None])
        size, blank = (0, 0), b""
        for name, *of_image in sized:
            if name is not None:
                yield next(pngs)
                continue
            if size != tuple(of_image):
                size, blank = (of_image[0], of_image[1]), _blank(*of_image)
            yield blank


class _Shards:
    """The shards of one split, each of at most so many bytes, or of one record. The one being filled ends in .part."""

    def __init__(self, folder: Path, split: str, most: int) -> None:
        self._folder = folder
        self._split = split
        self._most = most
        self._file: IO[bytes] | None = None
        self._digest = hashlib.md5(usedforsecurity=False)
        self._closed: list[tuple[int, str]] = []
        self._size = 0

    def add(self, body: bytes) -> None:
        """Write a record into the shard that is being filled, or the next one if it would grow too large."""
        if self._file is not None and self._size + len(body) > self._most:
            self._end()
        if self._file is None:
            self._file = self._part(len(self._closed)).open("xb")
        self._file.write(body)
        self._digest.update(body)
        self._size += len(body)

    def close(self) -> Iterator[tuple[Path, int, str]]:
        """Give every shard its name; yield path, size and MD5 of each."""
        if self._file is not None:
            self._end()
        total = len(self._closed)
        for number, (size, md5) in enumerate(self._closed):
            path = self._folder / f"{self._split}-{number:05}-of-{total:05}.tfrecord"
            self._part(number).rename(path)
            yield path, size, md5

    def release(self) -> None:
        """Close the file that is open, however the export ends."""
        if self._file is not None:
            self._file.close()

    def _end(self) -> None:
        assert self._file is not None
        self._file.close()
        self._closed.append((self._size, b64encode(self._digest.digest()).decode()))
        self._file, self._size, self._digest = None, 0, hashlib.md5(usedforsecurity=False)

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05}.part"


def _image(sample: dict[str, Any], body: bytes) -> dict[str, bytes]:
    found = {
        "image/encoded": texts([body]),
        "image/format": texts(["jpeg"]),
        "image/filename": texts([sample["file_name"]]),
        "image/source_id": texts([sample["image_id"]]),
        "image/key/sha256": texts([hashlib.sha256(body).hexdigest()]),
        "image/width": integers([sample["width"]]),
        "image/height": integers([sample["height"]]),
    }
    if sample["rotation"] is not None:
        found["image/rotation"] = floats([sample["rotation"]])
    for field in _ABOUT:
        if sample.get(field) is not None:
            found[f"image/{field}"] = texts([sample[field]])
    if sample.get("verified_absent") is not None:
        found["image/verified_absent"] = texts(sample["verified_absent"])
    return found


def _sides(span: Span) -> dict[str, dict[str, list[float]]]:
    """Return ImageID -> the sides of its objects, as fractions; in samples they are pixels."""
    if not {"bbox", "segmentation"} & span.rows.keys():
        return {}
    grouped = objects(span).group_by("ImageID", maintain_order=True).agg(*SIDES)
    return dict(zip(grouped.get_column("ImageID"), grouped.select(SIDES).to_struct("sides").to_list(), strict=True))


def _names(names: Sequence[str | None], mids: Sequence[str]) -> Iterator[str]:
    """Yield names of classes; that of a class without one is its MID."""
    return (name or mid for name, mid in zip(names, mids, strict=True))


def _known(values: Sequence[float | None]) -> Iterator[float]:
    """Yield numbers; one that is not known is not a number."""
    return (math.nan if each is None else each for each in values)


def _relationships(rows: dict[str, Any], width: int, height: int) -> dict[str, bytes]:
    found = {"image/relationship/predicate": texts(rows["predicate"])}
    for side in _PAIR:
        found[f"image/relationship/{side}/text"] = texts(_names(rows[side], rows[f"{side}_label"]))
        found[f"image/relationship/{side}/mid"] = texts(rows[f"{side}_label"])
        boxes = rows[f"{side}_bbox"]
        edges = {
            "xmin": [x / width for x, _, _, _ in boxes],
            "xmax": [(x + across) / width for x, _, across, _ in boxes],
            "ymin": [y / height for _, y, _, _ in boxes],
            "ymax": [(y + down) / height for _, y, _, down in boxes],
        }
        found |= {f"image/relationship/{side}/bbox/{edge}": floats(values) for edge, values in edges.items()}
    return found


def _blank(width: int, height: int) -> bytes:
    """Return a mask of nothing: a PNG of one bit a pixel."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


def _item(name: str, label: int, labels: Mapping[str, int]) -> str:
    """Return one class of a label map in protobuf's text form, with its MIDs in a comment."""
    mids = " ".join(_NOT_PRINTABLE.sub("_", mid) for mid, its_label in labels.items() if its_label == label)
    quoted = _quoted(name)
    return f"item {{  # {mids}\n  id: {label}\n  name: {quoted}\n  display_name: {quoted}\n}}\n"


def _quoted(text: str) -> str:
    """Return a text as protobuf's text form has it: bytes of UTF-8, those of no ASCII letter in octal.

    >>> _quoted('a "b" é')
    '"a \\\\"b\\\\" \\\\303\\\\251"'
    """
    found = []
    for byte in text.encode():
        if byte in b'"\\':
            found.append("\\" + chr(byte))
        else:
            found.append(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
    return '"' + "".join(found) + '"'
