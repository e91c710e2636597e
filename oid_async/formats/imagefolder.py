"""Hugging Face's imagefolder: <split>/<FileName> and <split>/metadata.jsonl, one sample a line (see `samples`).

https://huggingface.co/docs/datasets/image_dataset describes it. It cannot hold masks: every picture is an image.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from oid_async.formats.classes import ExportClasses
from oid_async.formats.samples import counted, samples
from oid_async.formats.source import Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName


class ImageFolder:
    """Writes metadata.jsonl line by line."""

    kinds: ClassVar[Sequence[KindName]] = ("bbox", "narrative", "label", "relationship", "point")
    names: ClassVar[Sequence[str]] = (r"{split}/metadata\.jsonl",)
    names_by_image: ClassVar[Sequence[str]] = (r"{split}/[^/]+\.(?i:jpg)",)

    def __init__(self, context: ExportContext) -> None:
        self._context = context

    def write(self, span: Span) -> None:
        """Write a span."""
        calls = ((part, self._context.source.classes) for part in span.parts())
        for text, counts in self._context.pictures.each(_lines, calls, 1):
            self._context.written.rows.update(counts)
            for split, lines in text.items():
                self._context.text_file(split, "metadata.jsonl").write(lines)
        self._context.place(span.images, "{split}")
        self._context.wrote(span.images, {})

    def finish(self) -> None:
        """Close the files."""
        self._context.files.close()


def _lines(span: Span, classes: ExportClasses) -> tuple[dict[str, str], Counter[str]]:
    """Return the lines of a span by split, and the number of its rows by kind."""
    text: dict[str, list[str]] = {}
    counts = Counter[str]()
    for sample in samples(span, classes):
        split = sample.pop("split")
        counts.update(counted(sample))
        del sample["objects"]["mask"], sample["objects"]["has_box"]
        text.setdefault(split, []).append(json.dumps(sample, ensure_ascii=False) + "\n")
    return {split: "".join(lines) for split, lines in text.items()}, counts
