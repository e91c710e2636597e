"""What a release or a split lacks, said before anything is fetched: kinds of annotations, options that need them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from oid_async.errors import UsageError
from oid_async.events import Note, Sink
from oid_async.openimages.catalogue import lacking, releases_with
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.kinds import KINDS, Kind, named, table_of
from oid_async.openimages.vocabulary import SPLITS, LabelSource, Release, Split
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.select.where import names, parse


@frozen
class Use:
    """A table that a query reads: of what, and how to do without it; one that is not `required` may be missing."""

    table: TableKind
    what: str
    way_out: str
    required: bool = True


def uses_of(options: Options, selecting: Kind, *, selects: bool) -> Iterator[Use]:
    """Yield the tables of annotations that a query reads. Raises UsageError for a --where that cannot be read.

    `selecting` is the kind that names without a kind are of; `selects` says that its rows are asked for.
    """
    source = options.label_source
    is_saved = selecting.name in options.kinds or "all" in options.kinds
    if options.select_by is not None or (selects and not is_saved):
        yield Use(table_of(selecting, source), selecting.what, "choose another --select-by")
    if options.where is not None:
        for name in names(parse(options.where)):
            kind = next((kind for kind in KINDS.values() if kind.name == name.kind), selecting)
            table = "human_labels" if name.kind == "absent" else table_of(kind, source)
            what = KINDS["label"].what if name.kind == "absent" else kind.what
            yield Use(table, what, f"leave {f'{name.kind}:' if name.kind else ''}{name.word} out of --where")
    for flag, is_given, kind in (
        ("--caption", options.caption is not None, KINDS["narrative"]),
        ("--triplet", options.triplet, KINDS["relationship"]),
        ("--verified-absent", options.verified_absent, KINDS["label"]),
        ("--negatives", options.negatives is not None, KINDS["label"]),
    ):
        if is_given:
            yield Use(kind.table, kind.what, f"leave {flag} out")
    yield from uses_of_kinds(options.kinds, source)


def uses_of_kinds(kinds: Sequence[str], source: LabelSource) -> Iterator[Use]:
    """Yield the tables of kinds to save; with `all` some may be missing."""
    for kind in named(kinds):
        yield Use(table_of(kind, source), kind.what, f"leave --kind {kind.name} out", required="all" not in kinds)


def require_published(
    uses: Iterable[Use],
    splits: Sequence[Split] | None,
    release: Release,
    sink: Sink,
    is_given: Callable[[TableKind], bool] = lambda table: False,
) -> set[TableKind]:
    """Return the tables of which a release has nothing for these splits, and say so of each that may be missing.

    `splits` is None where they are not known yet: then a table of any split will do. `is_given` tells the tables of the
    user's own. Raises UsageError for what is required and not published.
    """
    missing: set[TableKind] = set()
    said: set[TableKind] = set()
    for use in uses:
        gaps = [] if is_given(use.table) else lacking(use.table, splits or SPLITS, release)
        if not gaps or (splits is None and len(gaps) < len(SPLITS)):
            continue
        of_splits = f" of {', '.join(gaps)}" if splits is not None else ""
        text = f"release {release} publishes no {use.what}{of_splits}"
        if use.required:
            raise UsageError(f"{text}; {_elsewhere(use, splits, gaps, release)}")
        if use.table not in said:
            sink(Note(f"{text}: they are left out"))
            said.add(use.table)
        if len(gaps) == len(splits or SPLITS):
            missing.add(use.table)
    return missing


def _elsewhere(use: Use, splits: Sequence[Split] | None, gaps: Sequence[Split], release: Release) -> str:
    """Return where there is what a release lacks, and what to do."""
    there = [split for split in SPLITS if not lacking(use.table, [split], release)]
    having = releases_with(use.table, splits or SPLITS)
    ways = []
    if there:
        ways.append(f"it has those of {', '.join(there)} (--split)")
    if having:
        ways.append(f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} them (--release)")
    return f"{'; '.join(ways)}; choose one of these, or {use.way_out}"
