"""The plan: the selected images as a table on disk, each with its file name and what is to be done about it.

plan/00000.parquet, 00001.parquet, ...: spans of the selection in order of ImageID, one row an image, the columns of
`PLAN_COLUMNS`. A span is what is held in memory at a time: the plan's cost does not grow with the selection.

Action is `fetch`, `present` (journalled or adopted, and the name is there) or `failed` (every source is known to
fail for good).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from oid_async.openimages.ids import KEY, IdForm, within
from oid_async.openimages.tables import TableFile, reading, scan_keyed
from oid_async.options import Names, Source, Split
from oid_async.report import FINAL_KINDS, Outcome, parse_detail
from oid_async.select.query import in_splits
from oid_async.store.journal import FORGET, scan_journal
from oid_async.store.naming import PLAIN_NAME, clash_name, fold, id_name, url_name

# What the image table may hold beyond ImageID; what it does not hold is null.
_CARRIED = (
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
    "Rotation",
)
# What a dry run asks of it: names and sizes. Reading them alone takes half the time.
_COUNTED = ("Subset", "OriginalURL", "OriginalSize", "OriginalMD5", "Thumbnail300KURL")
PLAN_COLUMNS = (KEY, "ImageID", "FileName", "Action", "Known", "Reason", *_CARRIED)
# Where a source's URL stands; the bucket's copies are at an address that no table names.
_ADDRESSES: Mapping[Source, str] = {"original": "OriginalURL", "thumbnail": "Thumbnail300KURL"}
# The hosts that transfer.hosts knows as one.
_ON_FLICKR = r"^(?i)\s*https?://(?:[^/?#]*@)?(?:[^/?#@:]*\.)?staticflickr\.com\.?(?:[:/?#]|\s*$)"
_SPAN_ROWS = 4096
_MOST_SPANS = 64
_ROW_GROUP = 4096

Adopt = Callable[[str, str, str | None, str | None], Outcome | None]
"""(image_id, file_name, original_size, original_md5) -> the Outcome of a file that is there and passes its check."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan must know of SAVEPATH: the journal, the file names that are there, and how to adopt a file.

    Final failures are `remembered_from` this line of the journal on; whatever failed from line `run_from` on has failed
    in this run, which does not ask for it again.
    """

    journal: Path
    names: Iterable[str]
    adopt: Adopt
    remembered_from: int = 0
    run_from: int | None = None


@dataclass(slots=True)
class Summary:
    """What the plan holds, counted while it is written. `original_bytes` adds up OriginalSize of what is to
    be fetched, where the image table knows it: for `sizes_known` images. `ambiguous` counts images that the image table
    lists with more than one OriginalURL, of which the first holds; `on_flickr` those to be fetched whose first source's
    URL is on Flickr's image hosts, which are asked ten times a second and no more."""

    present: int = 0
    to_fetch: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    unselected: int = 0
    original_bytes: int = 0
    sizes_known: int = 0
    ambiguous: int = 0
    on_flickr: int = 0
    adopted: list[Outcome] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Planner:
    """Writes the plan of one selection into `folder`. Blocking: run it in a thread.

    A `dry` plan is only counted: of the image table it holds no more than that takes.
    """

    folder: Path
    images: Sequence[TableFile]
    ids: IdForm
    splits: Sequence[Split]
    sources: tuple[Source, ...]
    names: Names
    dry: bool = False

    def write(self, keys: pl.Series, facts: Facts) -> Summary:
        """Write the plan of these keys (sorted, unique) and return what it holds."""
        summary = Summary()
        rows = self._extract(keys)
        state = _journal_snapshot(facts, self.ids, self.folder / "journal.parquet")
        taken = _Taken(facts.names, state)
        summary.unselected = taken.unselected(keys, state)
        for number, span in enumerate(spans(keys)):
            frame = self._span(rows, state, span, summary)
            frame = _with_names(frame, self.names, taken, facts.adopt, summary)
            frame = _with_action(frame, self.sources)
            _count(frame, self.sources[0], summary)
            frame.select(PLAN_COLUMNS).write_parquet(
                self.folder / f"{number:05}.parquet", row_group_size=_ROW_GROUP, compression="lz4"
            )
        for path in (*rows, state):
            path.unlink()
        return summary

    def failed(self, facts: Facts) -> pl.Series:
        """Return the keys, sorted, of the images of any query that are known to fail: for good, or in this run."""
        state = _journal_snapshot(facts, self.ids, self.folder / "journal.parquet")
        known = pl.col("Known").is_not_null() | pl.col("Lost").is_not_null()
        keys = pl.scan_parquet(state).filter(known).select(KEY).collect().to_series().sort()
        rows = self._extract(keys) if len(keys) else []
        failed = [keys.clear()]
        for span in spans(keys):
            frame = _with_action(self._span(rows, state, span, Summary()).with_columns(present=False), self.sources)
            failed.append(frame.filter(Action="failed").get_column(KEY))
        for path in (*rows, state):
            path.unlink()
        return pl.concat(failed)

    def _extract(self, keys: pl.Series) -> list[Path]:
        """Copy the selected image rows to Parquet, a file a table, as they come: the tables are in no order.

        A filter, not a semi join: the join holds back what it reads (2.5 GB against 0.3 GB for 14M box rows, measured).
        """
        parts: list[Path] = []
        for table in self.images:
            wanted = _COUNTED if self.dry else _CARRIED
            frame = in_splits(scan_keyed(table, self.ids, ["ImageID"], wanted), self.splits)
            there = frame.collect_schema().names()
            missing = [pl.lit(None, pl.String).alias(name) for name in _CARRIED if name not in there]
            part = self.folder / f"rows-{len(parts)}.parquet"
            with reading(table, into=self.folder):
                (
                    frame.with_columns(*missing)
                    .select(KEY, "ImageID", *_CARRIED)
                    .filter(pl.col(KEY).is_in(keys.implode()))
                    .sink_parquet(part, row_group_size=_ROW_GROUP, compression="lz4")
                )
            parts.append(part)
        return parts

    def _span(self, rows: list[Path], state: Path, span: pl.Series, summary: Summary) -> pl.DataFrame:
        """Return the image rows of a span of keys, first published row of each, beside what the journal knows."""
        known = pl.scan_parquet(state).filter(within(span)).select(KEY, "Given", "Known", "KnownURL", "Lost")
        listed = (
            pl.scan_parquet(rows, row_index_name="row")
            .filter(within(span))
            .sort(KEY, "row")
            .collect(engine="streaming")
        )
        if len(listed) > len(span):
            urls = listed.group_by(KEY).agg(pl.col("OriginalURL").n_unique())
            summary.ambiguous += len(urls.filter(pl.col("OriginalURL") > 1))
        return (
            listed.lazy()
            .unique(KEY, keep="first", maintain_order=True)
            .join(known, on=KEY, how="left", maintain_order="left")
            # A table that was mended has another URL: what is remembered speaks of the old one.
            .with_columns(Known=pl.when(_same_address()).then("Known"))
            .collect(engine="streaming")
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


def remembered_reason(known: str, sources: Sequence[str]) -> str | None:
    """Return why an image needs no request: the last source's kind when every source is known to fail for good.

    >>> remembered_reason("cvdf:not_found; original:gone", ["cvdf", "original"])
    'gone'
    >>> remembered_reason("cvdf:not_found; original:timeout", ["cvdf", "original"])
    """
    kinds = parse_detail(known)
    reasons = [kinds.get(source) for source in sources]
    return reasons[-1] if all(reason in FINAL_KINDS for reason in reasons) else None


class _Taken:
    """The file names that are spoken for, as hashes: 8 bytes a name, whatever its length."""

    def __init__(self, names: Iterable[str], state: Path) -> None:
        given = pl.scan_parquet(state).select(pl.col("Given").drop_nulls())
        self.given = given.select(folded_hash("Given")).collect().to_series()
        there, folded = [], []
        for chunk in _chunks(names, 65536):
            frame = pl.DataFrame({"Name": chunk}, schema={"Name": pl.String})
            there.append(frame.select(pl.col("Name").hash()).to_series())
            folded.append(frame.select(folded_hash("Name")).to_series())
        empty = pl.Series("Name", [], pl.UInt64)
        self.there = pl.concat(there) if there else empty
        self.folded = pl.concat([self.given.alias("Name"), *folded]).unique()

    def unselected(self, keys: pl.Series, state: Path) -> int:
        """Count the saved images that the selection does not hold."""
        saved = pl.col("Given").hash().is_in(self.there.implode())
        others = pl.scan_parquet(state).filter(saved & ~pl.col(KEY).is_in(keys.implode()))
        return int(others.select(pl.len()).collect(engine="streaming").item())

    def add(self, names: pl.Series) -> None:
        self.folded = pl.concat([self.folded, names.alias("Name")])


def folded_hash(column: str) -> pl.Expr:
    """Return the hash of a file name without regard to case and composition; plain ASCII stays inside Polars."""
    name = pl.col(column)
    plain = name.str.contains(r"^[\x20-\x7e]*$")
    folded = pl.when(plain).then(name.str.to_lowercase())
    other = pl.when(~plain).then(name).map_elements(fold, return_dtype=pl.String, skip_nulls=True)
    return pl.coalesce(folded, other).hash()


def _journal_snapshot(facts: Facts, ids: IdForm, path: Path) -> Path:
    """Write what the journal says last of each image: key, Given (the name of a saved file), Known (failures that are
    remembered), KnownURL (what was asked last), Lost (why it failed in this run)."""
    lines = scan_journal(facts.journal)
    forgotten = lines.filter(pl.col("Status") == FORGET).select(pl.col("line").max()).collect().item()
    remembered_from = max(facts.remembered_from, 0 if forgotten is None else forgotten + 1)
    failed = pl.col("Status") == "failed"
    lost = failed & (pl.col("line") >= facts.run_from) if facts.run_from is not None else pl.lit(False)
    (
        lines.filter(pl.col("Status") != FORGET)
        .with_columns(ids.key())
        .filter(pl.col(KEY).is_not_null())
        .select(
            KEY,
            "line",
            "URL",
            Given=pl.when(pl.col("Status") == "ok").then(pl.col("FileName")),
            Known=pl.when(failed & (pl.col("line") >= remembered_from)).then("Detail"),
            Lost=pl.when(lost).then("Reason"),
        )
        .group_by(KEY)
        .agg(
            pl.col("Given").sort_by("line").last(),
            pl.col("Known").sort_by("line").last(),
            pl.col("Lost").sort_by("line").last(),
            KnownURL=pl.col("URL").sort_by("line").last(),
        )
        .sink_parquet(path, row_group_size=_ROW_GROUP, compression="lz4")
    )
    return path


def _same_address() -> pl.Expr:
    """Whether the URL that failed last is still one of the image's: its copy's, which no table names, or a table's."""
    url = pl.col("KnownURL")
    copy = url.str.ends_with(pl.format("/{}.jpg", "ImageID")) | (url == "-")
    return copy | url.eq_missing(pl.col("OriginalURL")) | url.eq_missing(pl.col("Thumbnail300KURL"))


def _with_names(frame: pl.DataFrame, names: Names, taken: _Taken, adopt: Adopt, summary: Summary) -> pl.DataFrame:
    """Give every image of a span its file name: the one it has, else its natural one, else one with its id.

    Spans come in order of ImageID, so that of two images with one name the lower id keeps it.
    """
    frame = frame.with_columns(Natural=_natural(frame, names))
    frame = frame.with_columns(FileName=pl.coalesce("Given", "Natural"))
    frame = frame.with_columns(
        exact=pl.col("FileName").hash().is_in(taken.there.implode()), folded=folded_hash("FileName")
    )
    fresh = pl.col("Given").is_null()
    frame = frame.with_columns(
        clash=fresh & (pl.col("folded").is_in(taken.folded.implode()) | ~pl.col("folded").is_first_distinct()),
        present=pl.col("Given").is_not_null() & pl.col("exact"),
    )
    # An image of this span that holds a name since an earlier run holds it against lower ids too.
    if frame.get_column("clash").any():
        frame = _settle(frame, taken, adopt, summary)
    taken.add(frame.filter(fresh).get_column("folded"))
    return frame


def _natural(frame: pl.DataFrame, names: Names) -> pl.Series:
    image_id, url = frame.get_column("ImageID"), frame.get_column("OriginalURL")
    if names == "id":
        return image_id.map_elements(id_name, return_dtype=pl.String).alias("Natural")
    last = url.str.extract(r"^https?://[^?#%]+/([^/?#%]+)(?:\?[^#]*)?$", 1)
    plain = last.str.contains(PLAIN_NAME).fill_null(False)
    if plain.all():
        return last.alias("Natural")
    odd = [
        name if is_plain else url_name(link, image)
        for name, is_plain, link, image in zip(last, plain, url, image_id, strict=True)
    ]
    return pl.Series("Natural", odd, pl.String)


def _settle(frame: pl.DataFrame, taken: _Taken, adopt: Adopt, summary: Summary) -> pl.DataFrame:
    """Settle the names that are taken, one by one: adopt the file if it is this image, else add the id to the name."""
    held = set(frame.get_column("folded"))
    adopted: set[int] = set()
    settled: list[tuple[int, str, bool]] = []
    clashing = frame.with_row_index("at").filter("clash")
    owned = clashing.get_column("folded").is_in(taken.given.implode())
    columns = clashing.select("at", "ImageID", "FileName", "OriginalSize", "OriginalMD5", "exact", "folded")
    for (at, image_id, name, size, md5, there, folded), is_owned in zip(columns.iter_rows(), owned, strict=True):
        while True:
            outcome = adopt(image_id, name, size, md5) if there and not is_owned and folded not in adopted else None
            if outcome is not None:
                summary.adopted.append(outcome)
                adopted.add(folded)
                break
            name = clash_name(name, image_id)
            folded, exact = (
                pl.DataFrame({"Name": [name]}).select(folded_hash("Name"), exact=pl.col("Name").hash()).row(0)
            )
            there, is_owned = (taken.there == exact).any(), (taken.given == folded).any()
            if folded not in held and not (taken.folded == folded).any():
                break
        held.add(folded)
        settled.append((at, name, outcome is not None))
    schema = {"at": pl.UInt32, "Settled": pl.String, "Adopted": pl.Boolean}
    return (
        frame.with_row_index("at")
        .join(pl.DataFrame(settled, schema=schema, orient="row"), on="at", how="left", maintain_order="left")
        .with_columns(
            FileName=pl.coalesce("Settled", "FileName"),
            present=pl.col("present") | pl.col("Adopted").fill_null(False),
        )
        .with_columns(folded=folded_hash("FileName"))
    )


def _with_action(frame: pl.DataFrame, sources: Sequence[str]) -> pl.DataFrame:
    """Say what is to be done about each image, and why one that is known to fail does."""
    known = frame.get_column("Known")
    reasons = {text: remembered_reason(text, sources) for text in known.unique().drop_nulls()}
    reason = known.replace_strict(reasons, default=None, return_dtype=pl.String)
    return frame.with_columns(Reason=pl.coalesce("Lost", reason.alias("Reason"))).with_columns(
        Reason=pl.when(~pl.col("present")).then("Reason"),
        Action=pl.when("present")
        .then(pl.lit("present"))
        .when(pl.col("Reason").is_not_null())
        .then(pl.lit("failed"))
        .otherwise(pl.lit("fetch")),
    )


def _count(frame: pl.DataFrame, source: Source, summary: Summary) -> None:
    actions = dict(frame.group_by("Action").len().iter_rows())
    summary.present += actions.get("present", 0)
    summary.to_fetch += actions.get("fetch", 0)
    for kind, count in frame.filter(Action="failed").group_by("Reason").len().iter_rows():
        summary.failures[kind] = summary.failures.get(kind, 0) + count
    fetched = frame.filter(Action="fetch")
    if column := _ADDRESSES.get(source):
        summary.on_flickr += int(fetched.get_column(column).str.contains(_ON_FLICKR).sum())
    sizes = fetched.get_column("OriginalSize").cast(pl.Int64, strict=False).drop_nulls()
    summary.original_bytes += int(sizes.sum())
    summary.sizes_known += len(sizes)


def _chunks(names: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for name in names:
        chunk.append(name)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
