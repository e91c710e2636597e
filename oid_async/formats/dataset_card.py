"""README.md of an export for the Hugging Face Hub: a dataset card, whose YAML `datasets` and the Hub read.

    ---
    license, pretty_name, task_categories, size_categories, tags
    configs: the files of each split
    dataset_info: the features
    ---
    text: how to load it, what was selected, counts, credits, what was changed
    <!-- oid-async: MD5 of all before it -->

The same tables, images and options give the same card: no time, no path of a disk is in it. A class name or a word of a
query may be any text: in YAML it is quoted, in the text nothing of it has a meaning. https://huggingface.co/docs/hub/
datasets-cards says what the fields are (2026-11-29).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from oid_async.errors import InputError
from oid_async.formats.hub_features import Feature, yaml_features
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.export import ExportOptions
from oid_async.options.query import Options
from oid_async.options.selection import SELECTING
from oid_async.redaction import redacted
from oid_async.version import __version__

CARD = "README.md"
_TASKS = {
    "bbox": "object-detection",
    "segmentation": "image-segmentation",
    "label": "image-classification",
    "narrative": "image-to-text",
}
_CC = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([0-9.]+)")
# The Hub's words for the number of images, up to so many.
_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    (10**8, "10M<n<100M"),
)
# A table of more classes is cut: the most frequent ones stay.
_MOST_ROWS = 50
_MOST_CHARACTERS = 100
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_PLAIN_KEY = re.compile(r"[a-z_]{3,}")
# Words that YAML 1.1 takes for no text.
_YAML_WORDS = frozenset(("yes", "off", "true", "false", "null"))


@dataclass(frozen=True, slots=True)
class CardForm:
    """What a card says of the files of a format: `load` is the builder of `datasets`, `column` has the image.

    `files` is a pattern of names with `{split}` and `{number}`, which has so many `digits`.
    """

    files: str
    digits: int
    load: str
    column: str

    def within(self, folder: str) -> "CardForm":
        """Return the form of the same files in a folder below the card."""
        return replace(self, files=f"{folder}/{self.files}")


PARQUET = CardForm("{split}-{number}.parquet", 5, "parquet", "image")
WEBDATASET = CardForm("{split}-{number}.tar", 6, "webdataset", "jpg")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says: `images` by split, `rows` by kind of annotation, the columns' `features`.

    `objects` counts boxes and masks by split and class name, None: not known. `licenses` are URLs of the images'
    licences, None among them: of some nothing is known. `query` is the content of query.json; `changes` say what was
    done to images and rows.
    """

    form: CardForm
    features: Feature
    images: Mapping[str, int]
    rows: Mapping[str, int]
    objects: Counter[tuple[str, str]] | None = None
    licenses: Sequence[str | None] = ()
    query: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()


def write_card(context: ExportContext, form: CardForm, features: Feature) -> None:
    """Write the card of an export that is complete. Raises OSError."""
    source, written = context.source, context.written
    try:
        query: Mapping[str, Any] = source.dataset.query
    except InputError:
        query = {}
    options = replace(context.options, max_side=source.made_smaller_to)
    said = changes(options, source.planned.left_out)
    images = {split: written.images[split] for split in source.splits}
    facts = CardFacts(form, features, images, written.rows, written.objects, source.licenses(), query, said)
    (context.stage / CARD).write_text(dataset_card(facts), encoding="utf-8")


def changes(options: ExportOptions, left_out: Mapping[str, int]) -> list[str]:
    """Return what was done to images and rows: by the options of an export, and what it left out by reason."""
    return [*_option_changes(options), *(f"left out: {left_out[why]} of {why}" for why in sorted(left_out))]


def _option_changes(options: ExportOptions) -> Iterator[str]:
    if options.max_side is not None:
        yield f"images with a side of more than {options.max_side} pixels were made smaller"
    if options.class_map is not None:
        yield "classes were left out, or counted as others, by a class map"
    if options.group_boxes == "drop":
        yield "boxes around a group were left out"
    if options.min_box_area:
        yield f"boxes and masks of less than {options.min_box_area} of area were left out"
    if options.no_masks:
        yield "masks were left out"
    if options.export_splits is not None:
        yield f"images were dealt to splits anew, {options.export_splits}"


def dataset_card(facts: CardFacts) -> str:
    """Return the text of README.md."""
    order: dict[str, int] = {name: at for at, name in enumerate(SPLITS)}
    splits = sorted(filter(facts.images.get, facts.images), key=lambda name: (order.get(name, len(order)), name))
    facts = replace(facts, images={split: facts.images[split] for split in splits})
    lines = ["---", *_yaml_lines(_metadata(facts)), "---", "", *_text(facts), ""]
    return _signed("\n".join(lines) + "\n")


def _signed(text: str) -> str:
    """Return a text with its MD5 in a comment at its end."""
    return f"{text}<!-- oid-async: {hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()} -->\n"


def is_own_card(body: bytes) -> bool:
    """Return whether a file is a card of ours that nobody has edited: it may be replaced."""
    text = body.decode(errors="replace")
    head, mark, _ = text.rpartition("<!-- oid-async: ")
    return bool(mark) and _signed(head) == text


def _metadata(facts: CardFacts) -> dict[str, Any]:
    tasks = [task for kind, task in _TASKS.items() if facts.rows.get(kind)]
    metadata: dict[str, Any] = {
        "pretty_name": "A selection of Open Images",
        "license": _licenses(facts.licenses),
        **({"task_categories": tasks} if tasks else {}),
        "size_categories": [_size(sum(facts.images.values()))],
        "tags": ["open-images", facts.form.load],
    }
    if files := _data_files(facts):
        metadata["configs"] = [{"config_name": "default", "data_files": files}]
        metadata["dataset_info"] = {"features": yaml_features(facts.features)}
    return metadata


def _licenses(urls: Iterable[str | None]) -> list[str]:
    """Return the Hub's names of licences: the annotations', then the images'."""
    found = {"cc-by-4.0": None}
    for url in urls:
        known = _CC.search(url or "")
        found[f"cc-{known[1]}-{known[2]}" if known else "other" if url else "unknown"] = None
    return list(found)


def _size(images: int) -> str:
    return next((name for end, name in _SIZES if images < end), "100M<n<1B")


def _data_files(facts: CardFacts) -> list[dict[str, Any]]:
    """Return the files of each split; a name that the library cannot take has _ in place of -."""
    found: dict[str, list[str]] = {}
    for split in facts.images:
        # `train-*` would take the files of a split `train-2`, too.
        is_start = any(other.startswith(f"{split}-") for other in facts.images)
        path = facts.form.files.format(split=split, number="[0-9]" * facts.form.digits if is_start else "*")
        found.setdefault(split.replace("-", "_"), []).append(path)
    return [{"split": name, "path": paths if len(paths) > 1 else paths[0]} for name, paths in found.items()]


def _yaml_lines(value: Any) -> Iterator[str]:
    """Yield the lines of a value in block style; every text is in quotes, so that it can be nothing but text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            name = key if _PLAIN_KEY.fullmatch(key) and key not in _YAML_WORDS else _quoted(key)
            if isinstance(each, Mapping | list):
                yield f"{name}:"
                yield from (f"  {line}" for line in _yaml_lines(each))
            else:
                yield f"{name}: {_quoted(each)}"
    else:
        for each in value:
            first, *others = _yaml_lines(each) if isinstance(each, Mapping | list) else (_quoted(each),)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)


def _quoted(value: Any) -> str:
    """Return a text or another value as JSON, which is YAML too; what cannot be seen is an escape.

    >>> print(_quoted('a: "b" \\n# c\\x85'))
    "a: \\"b\\" \\n# c\\u0085"
    """
    return "".join(map(_visible, json.dumps(value, ensure_ascii=False)))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _markdown(text: str) -> str:
    """Return a text of which nothing has a meaning in Markdown or HTML, on one line.

    >>> print(_markdown("<b>|[x](y)\\n"))
    \\<b\\>\\|\\[x\\]\\(y\\)\\\\n
    """
    short = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    seen = "".join(each if each.isprintable() else repr(each)[1:-1] for each in short)
    return _PUNCTUATION.sub(r"\\\1", seen)


def _text(facts: CardFacts) -> Iterator[str]:
    yield "# A selection of Open Images"
    yield ""
    yield (
        f"{sum(facts.images.values())} images of [Open Images](https://storage.googleapis.com/openimages/web/index.html)"
        f" with what was saved of their annotations, made by oid-async {__version__}."
    )
    yield from ("", "## Load it", "", "```python", "import datasets", "")
    split = next(iter(_data_files(facts)), {"split": "train"})["split"]
    yield f'images = datasets.load_dataset("THIS FOLDER OR REPOSITORY", split="{split}")'
    if facts.form.column != "image":
        yield f'images = images.rename_column("{facts.form.column}", "image")'
    yield 'images[0]["image"]'
    yield from ("```", "")
    if facts.form.column != "image":
        yield from ("All but the pictures, such as `objects` and `author`, is in the column `json`.", "")
    yield "`objects.bbox` is [x, y, width, height] in pixels; a flag is 1, 0, or -1 for unknown."
    yield from ("", "## What was selected", "")
    yield from _selected(facts.query)
    yield from ("", "## Counts", "")
    yield from _table(("split", "images"), facts.images.items())
    yield ""
    yield from _table(("annotations", "rows"), ((KINDS[kind].what, count) for kind, count in _named(facts.rows)))
    yield from _classes(facts)
    yield from ("", "## Credits", "")
    yield (
        "Annotations: Google LLC, [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). Images: their authors; "
        "`author`, `author_url`, `title`, `landing_url` and `license` of each sample say whom to credit and how. Open "
        "Images lists them as [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), and gives no warranty: check "
        "the licence of each image yourself."
    )
    yield from ("", "## Changes", "")
    yield from (
        f"- {_markdown(change)}" for change in facts.changes or ("none known: images are as they were downloaded",)
    )


def _named(rows: Mapping[str, int]) -> Iterator[tuple[Any, int]]:
    return ((kind, rows[kind]) for kind in KINDS if rows.get(kind))


def _selected(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options of the query that select, as they would be given in Python."""
    chosen = selecting(document)
    if not chosen:
        yield "Everything, or it is not known: no option that selects was given."
        return
    yield "The options of `oid_async.download`:"
    yield ""
    for name, value in chosen.items():
        yield f"    {name} = {_quoted(value)}"


def selecting(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a query.json that select and differ from their default: of files only their names."""
    stored = document.get("query")
    if not isinstance(stored, Mapping):
        return {}
    chosen: dict[str, Any] = {}
    for name in sorted((SELECTING - {"only_matching"}) & stored.keys()):
        each, value = Options.__dataclass_fields__.get(name), stored[name]
        if each is None or (tuple(value) if isinstance(value, list) else value) == each.default:
            continue
        is_path = each.metadata["reader"].is_path
        chosen[name] = _public(value) if is_path and isinstance(value, str) else value
    return chosen


def _public(place: str) -> str:
    return redacted(place) if "://" in place else PurePath(place).name


def _classes(facts: CardFacts) -> Iterator[str]:
    """Yield the table of objects by class and split, the most frequent classes first."""
    if not facts.objects:
        return
    totals = Counter[str]()
    for (_, name), count in facts.objects.items():
        totals[name] += count
    splits = list(facts.images)
    ordered = sorted(totals, key=lambda name: (-totals[name], name))
    yield ""
    rows = [(name, *(facts.objects[split, name] for split in splits)) for name in ordered[:_MOST_ROWS]]
    yield from _table(("objects of class", *splits), rows)
    if len(ordered) > _MOST_ROWS:
        rest = sum(totals[name] for name in ordered[_MOST_ROWS:])
        yield from ("", f"and {rest} objects of {len(ordered) - _MOST_ROWS} more classes.")


def _table(head: Sequence[str], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    cells = [tuple(map(_markdown, head)), ("---", *["---:"] * (len(head) - 1))]
    cells += [tuple(_markdown(str(cell)) for cell in row) for row in rows]
    yield from (f"| {' | '.join(row)} |" for row in cells)
