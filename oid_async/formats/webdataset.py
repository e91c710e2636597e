"""WebDataset: <split>-000000.tar, ... (see `shards` for the members), and README.md, their dataset card."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from oid_async.dataset.image_store import key_of
from oid_async.formats.classes import ExportClasses
from oid_async.formats.dataset_card import CARD, WEBDATASET, write_card
from oid_async.formats.hub_features import Feature, webdataset_features
from oid_async.formats.mask_shapes import MaskMap, mask_map
from oid_async.formats.samples import NOT_IN_SHARDS, SAMPLE_KINDS, counted, samples
from oid_async.formats.shards import Shards, member
from oid_async.formats.source import Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName

# Samples between two notes: at most so many are written twice after a kill.
_BATCH = 32
# Samples that a process makes at once.
_PART = 64


class WebDataset:
    """Fills shards span by span, and skips the samples that an earlier, killed export has written."""

    kinds: ClassVar[Sequence[KindName]] = SAMPLE_KINDS
    names: ClassVar[Sequence[str]] = (r"{split}-[0-9]{6}\.tar", re.escape(CARD))
    names_by_image: ClassVar[Sequence[str]] = ()

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._progress = context.stage / "progress.json"
        self._shards = Shards(context.stage, context.options.shard_size, self._progress)
        context.files.callback(self._shards.release)
        self._seen = 0
        # The rows of an earlier export count as written.
        self._done = int(self._shards.notes.get("done", 0))
        context.written.rows.update(self._shards.notes.get("rows", {}))
        context.written.objects.update(objects_of(self._shards.notes.get("objects", [])))

    def write(self, span: Span) -> None:
        """Write a span."""
        before, self._seen = self._seen, self._seen + len(span.images)
        if self._seen > self._done:
            remaining = Span(span.images.slice(max(self._done - before, 0)), span.rows)
            self._done = self._seen - len(remaining.images)
            for _ in pack(self._context, remaining, self._shards):
                self._done += 1
                if not self._done % _BATCH:
                    self._note()
            self._note()
        self._context.wrote(span.images, {})

    def _note(self) -> None:
        written = self._context.written
        self._shards.note(done=self._done, rows=dict(written.rows), objects=objects_note(written.objects))

    def finish(self) -> None:
        """Close the shards."""
        self._shards.seal()
        self._shards.sweep()
        for path, size, md5 in self._shards.files():
            self._context.pictures.record.hashed(path, size, md5)
        write_card(self._context, WEBDATASET, features_of(self._context))
        self._progress.unlink(missing_ok=True)


def features_of(context: ExportContext) -> Feature:
    """Return the features of the samples of an export, as `datasets` calls their types."""
    source = context.source
    names = source.classes.names if source.has_shapes else ()
    return webdataset_features(names, has_roles=source.has_roles, has_masks=source.draws_masks)


def objects_note(objects: Counter[tuple[str, str]]) -> list[list[Any]]:
    """Return counts by split and class name as JSON has them: [split, name, count] each."""
    return [[split, name, count] for (split, name), count in objects.items()]


def objects_of(note: Sequence[Sequence[Any]]) -> Counter[tuple[str, str]]:
    """Return the counts of a note."""
    return Counter({(split, name): count for split, name, count in note})


@dataclass(frozen=True, slots=True)
class PackedSample:
    """A sample without its image: `members` are its other files as a shard holds them, `rows` counts by kind."""

    split: str
    image_id: str
    file_name: str
    categories: list[str]
    rows: dict[str, int]
    members: bytes


def pack(context: ExportContext, span: Span, shards: Shards) -> Iterator[tuple[str, int]]:
    """Write the samples of a span into shards, and count their rows as written.

    Yield the FileName of each image, and where its bytes begin in the shard.
    """
    pictures = context.pictures
    masks = str(pictures.masks) if "segmentation" in context.source.kinds else None
    calls = ((part, context.source.classes, masks) for part in span.parts(_PART))
    found = chain.from_iterable(pictures.each(_packed, calls, 1))
    for sample, body in zip(found, pictures.bodies(span.images), strict=True):
        begin = shards.add(sample.split, key_of(sample.image_id), [("jpg", body)], sample.members)
        context.written.add_sample(sample.split, sample.categories, sample.rows)
        yield sample.file_name, begin


def _packed(span: Span, classes: ExportClasses, masks: str | None) -> list[PackedSample]:
    """Return the samples of a span; `masks` is the folder of their masks, None for an export without."""
    found = []
    for sample in samples(span, classes):
        categories, rows, names = sample["objects"]["category"], counted(sample), sample["objects"]["mask"]
        drawn = None if masks is None else mask_map(masks, names, sample["width"], sample["height"])
        members = b"".join(member(key_of(sample["image_id"]), *each) for each in _members(sample, drawn))
        about = (sample["split"], sample["image_id"], sample["file_name"])
        found.append(PackedSample(*about, categories, rows, members))
    return found


def _members(sample: dict[str, Any], masks: MaskMap | None) -> list[tuple[str, bytes]]:
    """Return the members of a sample but its image. The datasets library requires that all samples have the same."""
    objects = {name: values for name, values in sample["objects"].items() if name not in ("mask", "has_box")}
    if masks is not None:
        size = [sample["height"], sample["width"]]
        packed = [None if counts is None else {"size": size, "counts": counts} for counts in masks.run_lengths]
        objects["segmentation"] = packed
    said = {name: value for name, value in sample.items() if name != NOT_IN_SHARDS}
    text = json.dumps(said | {"objects": objects}, ensure_ascii=False).encode()
    return [("json", text), *([("png", masks.png)] if masks is not None else [])]
