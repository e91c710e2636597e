"""The one reader of what a download has filled, a folder or a bucket: `oid_async.open` returns it."""

import hashlib
import os
from functools import cached_property
from io import BufferedReader
from itertools import islice
from operator import methodcaller
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import polars as pl

from oid_async.dataset.image_store import ImageFiles, ImagesBeingPacked, ImageShards, ImageStore, leads_out
from oid_async.dataset.packed_images import SHARD_SCHEMA, PackedImages
from oid_async.dataset.place_files import PlaceFiles, counted_masks, stored_side
from oid_async.dataset.query_file import read_query_file
from oid_async.dataset.tables import SavedTable
from oid_async.errors import InputError
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.openimages.vocabulary import OTHER_SPLITS, SPLITS
from oid_async.options.places import Place
from oid_async.report import Report
from oid_async.store.disk import has_plain, plain_file
from oid_async.store.folder import Folder, packed_in
from oid_async.store.results import MANIFEST_SCHEMA, NEGATIVE, ROLE_SCHEMA, SELECTED
from oid_async.system.forks import refuse_forked_child
from oid_async.tables.reading import TableFile, reading

# Why a folder is opened, and the words of messages for it. `read` takes images from files or shards, others need files.
Purpose = Literal["read", "verify", "export", "prune"]
_USE_OF_MANIFEST = {"read": "read", "verify": "verify against", "export": "export from", "prune": "prune by"}
_LISTED_AT_ONCE = 16384
_USE_OF_FILES = {"verify": "verify", "export": "export from", "prune": "prune"}


class MadeTables(Protocol):
    """The tables of a run that has not come to its end, made for a reader: see `jobs.unfinished`."""

    @property
    def manifest(self) -> Path:
        """The manifest, a file; next to it is ATTRIBUTION.csv."""
        ...

    @property
    def planned(self) -> pl.Series:
        """The hashes (u64) of all planned file names: of a killed run no line of the journal may know a stored file."""
        ...

    @property
    def note(self) -> str:
        """How far the run is, a line for a person."""
        ...

    def annotations(self) -> Path:
        """Return the folder with the tables of annotations, as under SAVEPATH. Raises InputError."""
        ...

    def remove(self) -> None:
        """Remove all of them."""
        ...


class SavedDataset:
    """What a download has filled, a folder or a bucket, opened to read: `oid_async.open(savepath)` returns one.

    Polars LazyFrames, in order of ImageID and then as published; a kind that was not saved has no rows:

        images          ImageID, Subset, FileName, Status, Reason, Source, URL: String, Bytes: Int64, MD5: String,
                        Width, Height: Int32, Rotation: Float64, License, Author, AuthorProfileURL, Title, OriginalURL,
                        OriginalLandingURL: String
        boxes           ImageID, Source, LabelName: String, Confidence, XMin, XMax, YMin, YMax: Float64, IsOccluded,
                        IsTruncated, IsGroupOf, IsDepiction, IsInside: Int8, XClick1X, XClick2X, XClick3X, XClick4X,
                        XClick1Y, XClick2Y, XClick3Y, XClick4Y: Float64, Category, FileName, OriginalURL: String,
                        Width, Height: Int32
        masks           MaskPath, ImageID, LabelName, BoxID: String, BoxXMin, BoxXMax, BoxYMin, BoxYMax, PredictedIoU:
                        Float64, Clicks, Category, FileName, OriginalURL: String, Width, Height: Int32
        relationships   ImageID, LabelName1, LabelName2: String, XMin1, XMax1, YMin1, YMax1, XMin2, XMax2, YMin2,
                        YMax2: Float64, RelationshipLabel, Category1, Category2, FileName, OriginalURL: String, Width,
                        Height: Int32
        narratives      dataset_id, image_id: String, annotator_id: Int64, caption: String,
                        timed_caption: List(Struct(utterance, start_time, end_time)),
                        traces: List(List(Struct(x, y, t))), voice_recording: String
        labels          ImageID, Source, LabelName: String, Confidence: Float64, Category, FileName, OriginalURL:
                        String, Width, Height: Int32
        points          ImageID: String, X, Y: Float64, Label, EstimatedYesNo, Source: String, YesVotes, NoVotes,
                        UnsureVotes: Int64, TextLabel, Category, FileName, OriginalURL: String, Width, Height: Int32

    `images` has one row per selected image, failed ones too (Status is ok, failed, or pending for what has not landed);
    the others have rows of saved images alone. With --negatives it has two more columns: Role (String) is `selected` or
    `negative`, VerifiedAbsent (List(String)) the MIDs of the categories of which a person has verified that they are
    not in a negative, empty for selected images. Without Role all images are `selected`. Of a run that has not come to
    its end, is interrupted or still on, the tables are as it would write them now: `notes` says so. Coordinates are
    fractions of the image, 0 to 1; Width and Height are pixels; a flag is 1, 0, or -1 for unknown; times are seconds. A
    column that a table of a user's own has not is null (a flag -1); further columns follow as String. `timed_caption`
    and `traces` are null unless they were saved (`--traces`). Narratives call the id `image_id`, as their file does;
    all others call it ImageID. Of a download past one machine `images` has two more columns, Shard (String), the key of
    the shard below SAVEPATH, and ShardOffset (Int64), the first byte of the image in it, null in Parquet shards.

    Of a bucket the manifest is fetched when it is opened, each other table when it is first asked for, into a temporary
    folder; of shards the bytes of the images that are asked for. `close()` removes what was fetched.
    """

    def __init__(
        self,
        folder: Folder,
        purpose: Purpose = "read",
        *,
        made: MadeTables | None = None,
        shards: Path | None = None,
        files: PlaceFiles | None = None,
    ) -> None:
        refuse_forked_child()
        self.folder = folder
        self.made = made
        self.files = files
        if files is not None:
            self.manifest = TableFile(files.fetch("manifest.parquet"), files.name("manifest.parquet"))
        else:
            self.manifest = TableFile(folder.manifest if made is None else made.manifest, str(folder.manifest))
        manifest = self.manifest.path
        self.image_files = ImageFiles(folder.images)
        self._shards = packed_in(folder) if files is None else None
        self._named_shards = shards
        self._check_manifest(purpose)
        self._images = _with_dtypes(pl.scan_parquet(manifest, glob=False))
        if purpose != "read":
            self.check_file_names()

    def __repr__(self) -> str:
        notes = "".join(f", note={note!r}" for note in self.notes)
        return f"SavedDataset({str(self.savepath)!r}{notes})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the tables that were made of an unfinished run, or fetched; without it they go when the program ends.

        No LazyFrame of this dataset can be collected afterwards. Of a finished run in a folder there is nothing to
        remove.
        """
        if self.made is not None:
            self.made.remove()
        if self.files is not None:
            self.files.remove()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know, a line each: that the run has not come to its end, and how far it is."""
        return () if self.made is None else (self.made.note,)

    @property
    def savepath(self) -> Place:
        """The folder, or the bucket with its prefix."""
        return self.folder.path if self.files is None else self.files.place

    @property
    def images(self) -> pl.LazyFrame:
        """One row per selected image."""
        refuse_forked_child()
        return self._images

    @property
    def boxes(self) -> pl.LazyFrame:
        """One row per box."""
        return self.table("bbox").typed()

    @property
    def masks(self) -> pl.LazyFrame:
        """One row per mask; its picture is segmentation/masks/<MaskPath>, unless the images are in shards."""
        return self.table("segmentation").typed()

    @property
    def relationships(self) -> pl.LazyFrame:
        """One row per relationship of two objects."""
        return self.table("relationship").typed()

    @property
    def narratives(self) -> pl.LazyFrame:
        """One row per narrative."""
        return self.table("narrative").typed()

    @property
    def labels(self) -> pl.LazyFrame:
        """One row per image-level label."""
        return self.table("label").typed()

    @property
    def points(self) -> pl.LazyFrame:
        """One row per point label."""
        return self.table("point").typed()

    def image(self, image_id: str) -> bytes:
        """Return the bytes of a saved image, from its file or its shard; `split/ImageID` says which of two is meant.

        Raises InputError for an image that was not selected or failed, or that is not there any more, and for an id
        that is in two splits.
        """
        refuse_forked_child()
        word, _, bare = image_id.rpartition("/")
        split = OTHER_SPLITS.get(word.lower(), word.lower())
        is_meant = pl.col("ImageID") == image_id
        if split in SPLITS:
            is_meant |= (pl.col("ImageID") == bare) & (pl.col("Subset") == split)
        with reading(self.manifest):
            found = self.images.filter(is_meant).select("FileName", "Status", "Reason", "Subset").collect()
        if not len(found):
            raise InputError(f"{self.savepath}: image {image_id!r} is not in its manifest")
        if len(found) > 1:
            names = " or ".join(f"{subset}/{image_id}" for subset in found.get_column("Subset"))
            raise InputError(f"{self.savepath}: image {image_id!r} is in two splits; say {names}")
        found = found.drop("Subset")
        file_name, status, reason = found.row(0)
        if status != "ok":
            raise InputError(f"{self.savepath}: image {image_id} was not saved ({reason or status})")
        image_id = bare if split in SPLITS else image_id
        if not _is_name(file_name):
            raise _outside(self.manifest, file_name)
        return self.image_store.read(image_id, file_name)

    @property
    def query(self) -> dict[str, Any]:
        """The content of query.json.

        `query` has the options by their names in Python, `tables` the identity of each table (table, name, url, bytes,
        etag, last_modified, md5), `sources` where images were fetched from, `categories` the MIDs of each category,
        `site` the mirror or None, `program` the version. Raises InputError if the file is missing or damaged.
        """
        if self.files is None:
            return read_query_file(self.folder.path)
        return read_query_file(self.files.fetch("query.json").parent, self.files.name("query.json"))

    @property
    def report(self) -> Report:
        """The counts that the folder itself gives, of all runs of its query.

        `selected`, `present` (saved images), `failed`, `pending`, `failures` by kind, `sources` of the saved images,
        `bytes` of the saved images, `negatives` of the selected ones, `bad_rows`, and of masks and recordings selected,
        present, failed, bytes.
        """
        with reading(self.manifest):
            groups = self.images.group_by("Status", "Reason", "Source").agg(pl.len().alias("count"), pl.sum("Bytes"))
            images = groups.collect(engine="streaming")
        saved, failed = images.filter(Status="ok"), images.filter(Status="failed")
        selected, present, failures = (int(part.get_column("count").sum()) for part in (images, saved, failed))
        report = Report(
            selected=selected,
            present=present,
            failed=failures,
            pending=selected - present - failures,
            bytes=int(saved.get_column("Bytes").sum()),
            failures=_counts(failed, "Reason"),
            sources=_counts(saved, "Source"),
            savepath=str(self.savepath),
            negatives=self._count_negatives(),
        )
        if self.made is not None:
            # Its damaged rows, masks and recordings are counted at its end.
            return report
        bad_rows = self._file("bad_rows.csv")
        if has_plain(bad_rows):
            report.bad_rows = pl.scan_csv(bad_rows, infer_schema=False, glob=False).select(pl.len()).collect().item()
        if self.files is not None:
            report.masks = counted_masks(self.files)
            return report
        if self.table("segmentation").exists and self.masks_folder.is_dir():
            report.masks = _files_of(self.masks.select("MaskPath"), self.masks_folder)
        recordings = self.folder.path / KINDS["narrative"].folder / "voice"
        if self.table("narrative").exists and recordings.is_dir():
            names = self.narratives.select(pl.col("voice_recording").str.split("/").list.last())
            report.recordings = _files_of(names, recordings)
        return report

    def _count_negatives(self) -> int:
        if "Role" not in self.images.collect_schema():
            return 0
        with reading(self.manifest):
            return int(self.images.filter(Role=NEGATIVE).select(pl.len()).collect(engine="streaming").item())

    # For export, verify and other readers inside the package.

    def images_of(self, manifest: BufferedReader) -> pl.LazyFrame:
        """Return `images` of the open manifest, which may be closed then: no run that replaces it changes them."""
        refuse_forked_child()
        return _with_dtypes(pl.scan_parquet(manifest, glob=False))

    def table(self, kind: KindName) -> SavedTable:
        """Return the table of a kind of annotations; that of a bucket is fetched."""
        refuse_forked_child()
        if self.files is not None:
            file = KINDS[kind].file
            return SavedTable(KINDS[kind], self.files.fetch(file), self.files.name(file))
        return SavedTable.under(self._annotations, kind)

    def has(self, kind: KindName) -> bool:
        """Return whether annotations of a kind were saved; nothing is fetched."""
        return self.table(kind).exists if self.files is None else self.files.size(KINDS[kind].file) is not None

    @property
    def kinds(self) -> tuple[KindName, ...]:
        """The kinds of annotations that were saved."""
        return tuple(filter(self.has, KINDS))

    @property
    def masks_folder(self) -> Path:
        """Where the pictures of masks are, by MaskPath."""
        return self.folder.path / KINDS["segmentation"].folder / "masks"

    @property
    def attribution(self) -> Path:
        """The table of what CC BY asks for."""
        return self.manifest.path.with_name("ATTRIBUTION.csv") if self.files is None else self._file("ATTRIBUTION.csv")

    def _file(self, name: str) -> Path:
        """Return a file of the last run's end, which need not exist; that of a bucket is fetched."""
        return self.folder.path / name if self.files is None else self.files.fetch(name)

    @property
    def _annotations(self) -> Path:
        """The folder that has the tables of annotations; those of an unfinished run are made when they are asked for.

        Raises InputError if they cannot be made.
        """
        return self.folder.path if self.made is None else self.made.annotations()

    @cached_property
    def image_store(self) -> ImageStore:
        """Where the bytes of images are read from: files, shards, or ranges of the shards of a place."""
        if self.packed_images is not None:
            return self.packed_images
        if self._shards is None:
            return self.image_files
        # The note may come from anywhere, with the folder: what it names elsewhere is read if the reader names it, too.
        place = self._named_shards or self.folder.path / "export" / "webdataset"
        if not place.is_dir() or (self._named_shards is None and place.is_symlink()):
            raise InputError(
                f"{self.savepath}: its images are in shards, and there are none in {place}; if they are in "
                f"{self._shards!r}, open it with out={self._shards!r}"
            )
        shards = ImageShards(place)
        return shards if self.made is None else ImagesBeingPacked(self.image_files, shards)

    @cached_property
    def stored_side(self) -> int | None:
        """The longest side, in pixels, that images have in the shards of a place, made with --max-side; None: as saved.

        Width, Height, Bytes and MD5 of the manifest are those of the image that was fetched.
        """
        return None if self.files is None else stored_side(self.files)

    @cached_property
    def packed_images(self) -> PackedImages | None:
        """The images of a place that a download past one machine has filled, None of any other folder."""
        return None if self.files is None else PackedImages(self.files, self.manifest, self.images)

    def chosen_classes(self) -> pl.DataFrame:
        """Return LabelName and Category of the selected classes, in order; empty if there is no label_data.csv."""
        name = f"{KINDS['bbox'].folder}/label_data.csv"
        path = self._annotations / name if self.files is None else self.files.fetch(name)
        if not has_plain(path):
            return pl.DataFrame(schema={"LabelName": pl.String, "Category": pl.String})
        with reading(TableFile(path, str(path))):
            return pl.read_csv(path, infer_schema=False, glob=False).select("LabelName", "Category")

    def fingerprint(self) -> dict[str, Any]:
        """Return the SHA-256 of the manifest and the sizes of the tables: another query gives others."""
        with plain_file(self.manifest.path) as file:
            manifest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.files is not None:
            return {"manifest": manifest, "tables": {kind.file: self.files.size(kind.file) for kind in KINDS.values()}}
        tables = {kind.file: self.table(name) for name, kind in KINDS.items()}
        sizes = {file: table.path.stat().st_size if table.exists else None for file, table in tables.items()}
        return {"manifest": manifest, "tables": sizes}

    def _check_manifest(self, purpose: Purpose) -> None:
        """Raise InputError unless there is a manifest with its columns, and files if they are needed."""
        path, name = self.manifest.path, self.manifest.name
        if self._shards is not None and purpose in _USE_OF_FILES:
            raise InputError(
                f"{self.savepath}: its images are in the shards of {self._shards}, no files to {_USE_OF_FILES[purpose]}"
            )
        if not has_plain(path):
            self.folder.require()
            raise InputError(
                f"{name}: there is no manifest to {_USE_OF_MANIFEST[purpose]}; let a download run to its end first"
            )
        with reading(self.manifest):
            present = pl.scan_parquet(path, glob=False).collect_schema()
        for column in (*MANIFEST_SCHEMA, *(SHARD_SCHEMA if self.files is not None else ())):
            if column not in present:
                raise InputError(f"{name}: column {column!r} is missing; it is no manifest of this program's")

    def check_file_names(self) -> None:
        """Raise InputError if the name of a saved image leads out of the folder of images."""
        name = pl.col("FileName")
        with reading(self.manifest):
            odd = self.images.filter(pl.col("Status") == "ok", name.is_null() | leads_out(name))
            found = odd.select(name.fill_null("")).head(1).collect(engine="streaming")
        if len(found):
            raise _outside(self.manifest, found.item())


def _with_dtypes(images: pl.LazyFrame) -> pl.LazyFrame:
    """Return the manifest in its dtypes; where it has roles, an image without one is selected."""
    there = images.collect_schema()
    shards = {name: dtype for name, dtype in SHARD_SCHEMA.items() if name in there}
    images = images.with_columns(pl.col(name).cast(dtype) for name, dtype in {**MANIFEST_SCHEMA, **shards}.items())
    if not any(name in there for name in ROLE_SCHEMA):
        return images
    columns = {name: pl.col(name).cast(dtype) if name in there else None for name, dtype in ROLE_SCHEMA.items()}
    return images.with_columns(pl.coalesce(columns[name], default).alias(name) for name, default in _NO_ROLE.items())


_NO_ROLE = {"Role": pl.lit(SELECTED), "VerifiedAbsent": pl.lit([], pl.List(pl.String))}


def _is_name(name: str | None) -> bool:
    return name is not None and not pl.select(leads_out(pl.lit(name))).item()


def _outside(manifest: TableFile, name: str | None) -> InputError:
    return InputError(f"{manifest.name}: FileName {name or ''!r} names no file of images/; the manifest was changed")


def _counts(groups: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(groups.drop_nulls(column).group_by(column).agg(pl.sum("count")).sort(column).iter_rows())


def _files_of(names: pl.LazyFrame, folder: Path) -> dict[str, int]:
    """Count the files that a column names, those of them that are in a folder, and their bytes."""
    wanted = names.select(pl.first().drop_nulls().hash().unique()).collect(engine="streaming").to_series()
    present = size = 0
    with os.scandir(folder) as entries:
        plain = filter(methodcaller("is_file", follow_symlinks=False), entries)
        while batch := list(islice(plain, _LISTED_AT_ONCE)):
            files = pl.DataFrame(
                {
                    "name": [entry.name for entry in batch],
                    "bytes": [entry.stat(follow_symlinks=False).st_size for entry in batch],
                },
                schema={"name": pl.String, "bytes": pl.Int64},
            )
            found = files.filter(pl.col("name").hash().is_in(wanted.implode()))
            present, size = present + len(found), size + int(found.get_column("bytes").sum())
    missing = len(wanted) - present
    return {"selected": len(wanted), "present": present, "downloaded": 0, "failed": missing, "bytes": size}
