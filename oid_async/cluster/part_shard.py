"""The shard of a part: the samples of its saved images in one file, whose bytes depend on the images alone.

An image goes from the disk as soon as its sample is written. One that proves to be no picture gets into no shard: there
is no other place for its bytes, and so it has failed.
"""

import os
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path

import polars as pl

from oid_async.cluster.published import PublishedQuery
from oid_async.errors import StorageError
from oid_async.formats.classes import ExportClasses
from oid_async.formats.packing import Packing, sample_classes
from oid_async.formats.parquet import write_file
from oid_async.formats.shards import Shards
from oid_async.formats.webdataset import pack
from oid_async.objects.values import md5_of
from oid_async.openimages.kinds import KINDS
from oid_async.options.export import ExportOptions
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.store.folder import Folder
from oid_async.tables.rows import RowSource

# One shard has all images of its part, whatever their bytes.
_NO_END = 1 << 62
# Why an image cannot be packed that has been changed since it was saved.
_CHANGED = ("not there", "not a plain file", "cut or changed")
_LARGE = ("more than ", "too many pixels")


@dataclass(slots=True)
class PartShard:
    """A shard on the disk: size in bytes, MD5 (hexadecimal), and where each image is in it.

    `path` is None where no image is in it. `offsets` has FileName and Offset, where the bytes of an image begin in a
    tar. `refused` are the images that got into none: FileName to failure kind and why. `rows` counts annotations by
    kind, `left_out` what was left out by reason.
    """

    path: Path | None = None
    size: int = 0
    md5: str = ""
    offsets: list[tuple[str, int | None]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def places(self) -> pl.DataFrame:
        """FileName and Offset of the images in it."""
        return pl.DataFrame(self.offsets, schema={"FileName": pl.String, "Offset": pl.Int64}, orient="row")


def part_classes(query: PublishedQuery, options: ExportOptions) -> ExportClasses:
    """Return the classes of boxes and masks, the same in all parts. Raises UsageError, InputError for --class-map."""
    saved = [
        SavedAnnotations(RowSource(kind, (), query.kinds[name]["class_names"]), query.kinds[name]["labels"])
        for name, kind in KINDS.items()
        if name in query.kinds
    ]
    classes = sample_classes(saved)
    return classes if options.class_map is None else classes.mapped(Path(options.class_map))


class ShardMaker:
    """Makes the shards of one query. Blocking."""

    def __init__(self, query: PublishedQuery, options: ExportOptions, classes: ExportClasses) -> None:
        self._query = query
        # Classes are mapped already, perhaps by a file of another machine.
        names = [each.name for each in fields(ExportOptions) if each.name not in ("class_map", "out")]
        self._options = ExportOptions(**{name: getattr(options, name) for name in names})
        self._classes = classes

    def make(self, folder: Folder, out: Path, check: Callable[[], object]) -> PartShard:
        """Make the shard of the saved images and tables of a folder in an empty one. Raises OSError, OidError.

        `check` is called before each image, and stops it by raising.
        """
        shard = PartShard()

        def packed(name: str, offset: int | None = None) -> None:
            check()
            shard.offsets.append((name, offset))
            os.unlink(folder.images / name)

        with ExitStack() as files:
            packing = Packing(folder, out, self._options, self._classes, files)
            if self._query.format == "webdataset":
                self._write_tar(packing, packed, shard)
            else:
                self._write_parquet(packing, packed, shard)
        for why, names in packing.left_out.items():
            if names and why in _CHANGED:
                raise StorageError(
                    f"{folder.images}: {len(names)} images were changed by somebody else before they were packed "
                    f"({why}, first {names[0]}); see what cleans up there, or set TMPDIR, and run again"
                )
            kind = "too_large" if why.startswith(_LARGE) else "not_image"
            shard.refused.update(dict.fromkeys(names, f"{kind} ({why})"))
        shard.rows = {kind: count for kind, count in packing.export.written.rows.items() if count}
        shard.left_out = {why: count for why, count in packing.source.planned.left_out.items() if count}
        return shard

    def _write_tar(self, packing: Packing, packed: Callable[[str, int], None], shard: PartShard) -> None:
        out = packing.export.stage
        shards = Shards(out, _NO_END, out / "progress.json")
        packing.export.files.callback(shards.release)
        for span in packing.spans():
            for name, offset in pack(packing.export, span, shards):
                packed(name, offset)
        shards.seal()
        for path, size, md5 in shards.files():
            shard.path, shard.size, shard.md5 = path, size, b64decode(md5).hex()

    def _write_parquet(self, packing: Packing, packed: Callable[[str], None], shard: PartShard) -> None:
        path = packing.export.stage / f"part.{self._query.ending}"
        write_file(packing.export, packing.spans(), path, packed)
        if shard.offsets:
            shard.path, shard.size, shard.md5 = path, path.stat().st_size, md5_of(path)
