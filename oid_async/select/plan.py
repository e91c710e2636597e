"""The plan: the selected images as a table on disk, each with its file name and the action it needs.

plan/00000.parquet, 00001.parquet, ...: spans of the selection in order of ImageID, one row an image, the columns of
`PLAN_COLUMNS`, and of a query with negatives Role and VerifiedAbsent. One span is held in memory at a time, so that
memory does not grow with the selection.

Action is `fetch`, `present` (journalled or adopted, and the file exists) or `failed` (every source is known to fail for
good, or one that comes first ends the image). Known is the Detail of what is remembered for this run's addresses; where
that is enough, KnownSource and KnownURL are the last one.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path

import polars as pl

from oid_async.openimages.catalogue_tables import IMAGE_COLUMNS
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.vocabulary import Source, Split
from oid_async.options.query_table import NameStyle
from oid_async.options.readers import RespectOptOut
from oid_async.quick_values import define, frozen
from oid_async.report import Outcome, parse_detail
from oid_async.select.bucket import Bucket
from oid_async.select.image_rows import ImageRows
from oid_async.select.names import Adopt, NameAssigner, NameHashes
from oid_async.select.negatives import Negatives
from oid_async.select.remembered import FailureMemory, remembered_end
from oid_async.store.journal_index import JournalIndex
from oid_async.tables.reading import TableFile

# Columns of the image table in addition to ImageID; a missing one is null.
_CARRIED = IMAGE_COLUMNS[1:]
# Columns that a dry run needs: names and sizes. Reading them alone takes half the time.
_COUNTED = ("Subset", "OriginalURL", "OriginalSize", "OriginalMD5", "Thumbnail300KURL")
_REMEMBERED = ("Known", "KnownSource", "KnownURL")
PLAN_COLUMNS = (KEY, "ImageID", "FileName", "Action", *_REMEMBERED, "Reason", "CopyBytes", *_CARRIED)
# The column of a source's URL; the addresses of the bucket's copies are in no table.
ADDRESSES: Mapping[Source, str] = {"original": "OriginalURL", "thumbnail": "Thumbnail300KURL"}
# The hosts that transfer.hosts knows as one.
ON_FLICKR = r"^(?i)\s*https?://(?:[^/?#]*@)?(?:[^/?#@:]*\.)?staticflickr\.com\.?(?:[:/?#]|\s*$)"
_SPAN_ROWS = 4096
_MOST_SPANS = 64
_ROW_GROUP = 4096


@frozen
class FolderState:
    """The state of SAVEPATH for the plan: the journal, the names of existing files, and how to adopt a file.

    Final failures are `remembered_from` this line of the journal on; images that failed from line `run_from` on have
    failed in this run, which does not request them again. `handed_out` are the keys of images that this run has
    planned before: one that has not failed was handed out, and no file was kept of it.
    """

    index: JournalIndex
    existing: NameHashes
    adopt: Adopt
    remembered_from: int = 0
    run_from: int | None = None
    handed_out: pl.Series | None = None


@define
class Summary:
    """Counts of a plan, made while it is written.

    `known_bytes` is the sum of the sizes of the images to fetch, as far as they are known: for `sizes_known` images.
    `lacking` of the images to fetch are not in the image bucket, `lacking_on_flickr` of these have their next source's
    URL on Flickr's image hosts; of `unsure` it is not known, and `unsure_bytes` is the sum of the sizes of the
    `unsure_sized` originals among these. `present_bytes` are those of the images that are there, 0 unless they are
    asked for. `ambiguous` counts images that the image table lists with more than one OriginalURL, of which the first
    counts (a dry run does not look at present ones); `on_flickr` those to fetch whose first source's URL is on Flickr's
    image hosts, with their rate cap.
    """

    present: int = 0
    to_fetch: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    unselected: int = 0
    known_bytes: int = 0
    sizes_known: int = 0
    present_bytes: int = 0
    lacking: int = 0
    lacking_on_flickr: int = 0
    unsure: int = 0
    unsure_sized: int = 0
    unsure_bytes: int = 0
    ambiguous: int = 0
    on_flickr: int = 0
    adopted: list[Outcome] = field(default_factory=list)


@frozen
class Planner:
    """Writes the plan of one selection into `folder`. Blocking: run it in a thread.

    A `dry` plan is only counted, and holds only the columns for that. `bucket` is what is known of the image bucket.
    With `weighs_present` the bytes of the images that are there are counted, too. `respect_opt_out` is the run's.
    """

    folder: Path
    images: Sequence[TableFile]
    ids: IdForm
    splits: Sequence[Split]
    sources: tuple[Source, ...]
    names: NameStyle
    mirror: str | None = None
    dry: bool = False
    bucket: Bucket = Bucket()
    weighs_present: bool = False
    respect_opt_out: RespectOptOut = True

    def write(self, keys: pl.Series, state: FolderState, negatives: Negatives | None = None) -> Summary:
        """Write the plan of these keys (sorted, unique), `negatives` among them, and return its counts."""
        summary = Summary()
        names = NameAssigner(state.existing, state.index, keys)
        summary.unselected = names.unselected
        if self.weighs_present:
            summary.present_bytes = _bytes_of(state.index, names.present.filter(names.present.is_in(keys.implode())))
        if self.dry:
            # The rows of present images are not needed.
            keys, selected = keys.filter(~keys.is_in(names.present.implode())), len(keys)
            summary.present = selected - len(keys)
        rows = self._rows(keys)
        for number, span in enumerate(spans(keys)):
            frame = self._span(rows, state, span, summary)
            frame, adopted = names.assign(frame, self.names, state.adopt)
            summary.adopted += adopted
            summary.present_bytes += sum(outcome.bytes or 0 for outcome in adopted) if self.weighs_present else 0
            frame = self._with_action(frame, state.handed_out)
            _count(frame, self.sources, summary)
            if not self.dry:
                part = self.folder / f"{number:05}.parquet"
                planned = frame.select(PLAN_COLUMNS)
                if negatives is not None:
                    planned = planned.hstack(negatives.roles(planned.get_column(KEY)))
                planned.write_parquet(part, row_group_size=_ROW_GROUP, compression="lz4", statistics=False)
                del planned
            # One span is held at a time: this one is not while the next is read.
            del frame
        rows.close()
        return summary

    def failed(self, state: FolderState) -> pl.Series:
        """Return the keys, sorted, of the images of any query that are known to fail: for good, or in this run."""
        known, lost = _failures(state)
        is_known = state.index.all_latest(is_known=known.is_not_null() | lost.is_not_null())
        keys = is_known.filter("is_known").get_column(KEY)
        rows = self._rows(keys)
        failed = [keys.clear()]
        for span in spans(keys):
            frame = self._span(rows, state, span, Summary()).with_columns(present=False)
            failed.append(self._with_action(frame).filter(Action="failed").get_column(KEY))
        rows.close()
        return pl.concat(failed)

    def _rows(self, keys: pl.Series) -> ImageRows:
        wanted = _COUNTED if self.dry else _CARRIED
        return ImageRows(self.images, self.ids, self.splits, keys, wanted, self.folder)

    def _span(self, rows: ImageRows, state: FolderState, span: pl.Series, summary: Summary) -> pl.DataFrame:
        """Return the image rows of a span of keys, the first published row of each, joined with the journal."""
        known, lost = _failures(state)
        journal = state.index.latest(span).select(
            *(KEY, "line", "Asked"),
            Given=pl.when(Status="ok").then("FileName"),
            GivenSubset="Subset",
            Known=known,
            KnownSource="Source",
            KnownURL="URL",
            Lost=lost,
        )
        listed = rows.of(span)
        if len(listed) > len(span):
            urls = listed.group_by(KEY).agg(pl.col("OriginalURL").n_unique())
            summary.ambiguous += len(urls.filter(pl.col("OriginalURL") > 1))
            listed = listed.unique(KEY, keep="first", maintain_order=True)
        frame = listed.join(journal, on=KEY, how="left", maintain_order="left")
        # What was saved under this id is an image of another split where the table, or the list, was another one.
        is_other = (pl.col("GivenSubset") != pl.col("Subset")).fill_null(False)
        frame = frame.with_columns(
            Given=pl.when(~is_other).then("Given"),
            IsTwin=is_other | (pl.col("ImageID") == pl.col("ImageID").shift()).fill_null(False),
        )
        frame = self.bucket.with_copies(frame, span)
        return self._memory.still_true(frame, state.index.last_forget)

    @property
    def _memory(self) -> FailureMemory:
        return FailureMemory(self.sources, self.mirror, self.respect_opt_out)

    def _with_action(self, frame: pl.DataFrame, handed_out: pl.Series | None = None) -> pl.DataFrame:
        """Add the Action for each image; Reason, source and URL of those that are known to fail."""
        is_handed_out = pl.lit(False) if handed_out is None else pl.col(KEY).is_in(handed_out.implode())
        known = frame.get_column("Known")
        ends = {text: remembered_end(parse_detail(text), self.sources) for text in known.unique().drop_nulls()}
        reasons, last = ({text: end and end[at] for text, end in ends.items()} for at in (0, 1))
        reason, source = (
            known.replace_strict(values, default=None, return_dtype=pl.String) for values in (reasons, last)
        )
        asked = {end[1] for end in ends.values() if end is not None}
        addresses = [pl.when(pl.col("KnownSource") == each).then(self._memory.address(each)) for each in sorted(asked)]
        return (
            frame.with_columns(KnownSource=pl.when(~pl.col("present")).then(source))
            .with_columns(KnownURL=pl.coalesce(*addresses, pl.lit(None, pl.String)))
            .with_columns(Reason=pl.when(~pl.col("present")).then(pl.coalesce("Lost", reason)))
            .with_columns(
                Action=pl.when("present")
                .then(pl.lit("present"))
                .when(pl.col("Reason").is_not_null())
                .then(pl.lit("failed"))
                .when(is_handed_out)
                .then(pl.lit("present"))
                .otherwise(pl.lit("fetch"))
            )
        )


def spans(keys: pl.Series) -> Iterator[pl.Series]:
    """Cut the selection into spans: at most 4,096 images, for large selections at most 64 spans."""
    rows = max(_SPAN_ROWS, -(-len(keys) // _MOST_SPANS))
    for start in range(0, len(keys), rows):
        yield keys.slice(start, rows)


def plan_files(folder: Path) -> list[Path]:
    """Return the plan's files in order of ImageID."""
    return sorted(folder.glob("[0-9]*.parquet"))


def clear_plan(folder: Path) -> None:
    """Make an empty plan folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _failures(state: FolderState) -> tuple[pl.Expr, pl.Expr]:
    """Return the failures in a journal line: the Detail that is remembered, and the Reason of one in this run."""
    failed, line = pl.col("Status") == "failed", pl.col("line")
    known = pl.when(failed & (line >= state.remembered_from)).then("Detail")
    if state.run_from is None:
        return known, pl.lit(None, pl.String)
    return known, pl.when(failed & (line >= state.run_from)).then("Reason")


def _count(frame: pl.DataFrame, sources: Sequence[Source], summary: Summary) -> None:
    actions = dict(frame.group_by("Action").len().iter_rows())
    summary.present += actions.get("present", 0)
    summary.to_fetch += actions.get("fetch", 0)
    for kind, count in frame.filter(Action="failed").group_by("Reason").len().iter_rows():
        summary.failures[kind] = summary.failures.get(kind, 0) + count
    fetched = frame.filter(Action="fetch")
    if column := ADDRESSES.get(sources[0]):
        summary.on_flickr += int(fetched.get_column(column).str.contains(ON_FLICKR).sum())
    sizes = fetched.select(_size(sources)).to_series().drop_nulls()
    summary.known_bytes += _sum(sizes)
    summary.sizes_known += len(sizes)
    _count_lacking(fetched, sources, summary)


def _count_lacking(fetched: pl.DataFrame, sources: Sequence[Source], summary: Summary) -> None:
    """Count the images to fetch that the bucket lacks, and those of which that is not known."""
    lacking, unsure = fetched.filter(~pl.col("InBucket")), fetched.filter(pl.col("InBucket").is_null())
    summary.lacking += len(lacking)
    if sources[0] == "cvdf" and len(sources) > 1 and (column := ADDRESSES.get(sources[1])):
        summary.lacking_on_flickr += int(lacking.get_column(column).str.contains(ON_FLICKR).sum())
    originals = unsure.select(original_size()).to_series().drop_nulls()
    summary.unsure += len(unsure)
    summary.unsure_sized += len(originals)
    summary.unsure_bytes += _sum(originals)


def _sum(sizes: pl.Series) -> int:
    """Return the sum of numbers from a table of anybody's: it may be more than 64 bits hold."""
    return int(sizes.cast(pl.Int128).sum())


def original_size() -> pl.Expr:
    """Return the expression for the bytes of an original as the table has them, null where it has no number."""
    return pl.col("OriginalSize").cast(pl.Int64, strict=False)


def _size(sources: Sequence[Source]) -> pl.Expr:
    """Return the size of each image at the source that it is going to come from, null where it is not known.

    An image that the bucket lacks will come from the next source.
    """
    original = original_size()
    known = {"cvdf": pl.col("CopyBytes").cast(pl.Int64), "original": original}
    size = known.get(sources[0], pl.lit(None, pl.Int64))
    if sources[0] == "cvdf":
        then = known.get(sources[1], pl.lit(None, pl.Int64)) if len(sources) > 1 else pl.lit(0, pl.Int64)
        size = pl.when(pl.col("InBucket").eq_missing(False)).then(then).otherwise(size)
    return pl.when(size >= 0).then(size).alias("size")


def _bytes_of(index: JournalIndex, keys: pl.Series) -> int:
    """Return the bytes of saved images, as the journal has them."""
    saved = index.all_latest(size=pl.when(Status="ok").then("Bytes"))
    return int(saved.filter(pl.col(KEY).is_in(keys.implode())).get_column("size").sum())
