"""What query.json says of a run, at its start, at its end and after a repair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from oid_async.dataset.completion import is_finished, stored_digest
from oid_async.dataset.query_digest import query_digest
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.ids import IdForm
from oid_async.openimages.vocabulary import Source
from oid_async.options.export import ExportOptions
from oid_async.options.query import Options
from oid_async.store.atomic import write_text
from oid_async.store.folder import Folder, PlanNote
from oid_async.store.kept_files import keep_inputs
from oid_async.store.results import query_text
from oid_async.version import __version__

# How many processes or machines share the work is no part of a query, and differs between the doors, nor is a report of
# the run; an export is made of what a query has brought.
NO_QUERY = frozenset(("processes", "report", "cluster", "part_size", *ExportOptions.__dataclass_fields__))

_SELECTING = ("which images", "annotations")
_ALSO_TAKEN = frozenset(
    (
        *("release", "source", "names", "no_hash", "top_up", "max_image_bytes", "max_bad_rows"),
        *("images", "label", "annotation", "image_url"),
    )
)


def query_document(
    context: RunContext, tables: GatheredTables, sources: Sequence[Source], names: Iterable[str]
) -> dict[str, Any]:
    """Return what query.json holds: the query, the state of each table, the program's version.

    `names` are those of the categories: two MIDs may have one name, and then the plan tells them apart.
    """
    options = context.options
    document: dict[str, Any] = {
        "program": f"oid-async {__version__}",
        "query": {name: value for name, value in options.as_json().items() if name not in NO_QUERY},
        "sources": list(sources),
        "site": context.site.name,
        "categories": {
            name: list(category.labels) for name, category in zip(names, tables.query.categories, strict=True)
        },
        "tables": list(tables.identities),
        "digest": query_digest(options, tables.identities),
    }
    if context.packed is not None:
        document["shards"] = str(context.packed.out.absolute())
    return document


def note_start(folder: Folder, query: Mapping[str, Any], first_line: int, ids: IdForm) -> None:
    """Write query.json before the first request for an image, and note what the plan is of. Raises OSError.

    A finished run of the same query has left tables that are true until this run's replace them: they, and its
    query.json, stay as they are. Otherwise query.json says `unfinished` from now on, until the run's tables are there.
    """
    if not folder.manifest.exists() or not is_finished(folder) or stored_digest(folder.path) != query["digest"]:
        text = query_text({**query, "unfinished": {"first_line": first_line}})
        keep_inputs(folder, text, query)
        write_text(folder.path / "query.json", text, part=folder.tmp / "query.json", durable=True)
    PlanNote(query["digest"], first_line, ids.hexadecimal, ids.by_split).write(folder.plan)


def is_taken(name: str) -> bool:
    """Return whether an option says what is selected and saved: a repair takes it from query.json."""
    return Options.__dataclass_fields__[name].metadata["heading"] in _SELECTING or name in _ALSO_TAKEN


def as_before(document: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what query.json is to hold after a repair: what it held, as far as the same was done.

    A repair from another mirror, with another cache or at another rate leaves the query what it was.
    """
    stored = before["query"]
    query = {
        name: value if is_taken(name) and name != "source" else stored.get(name, value)
        for name, value in document["query"].items()
    }
    query["savepath"] = document["query"]["savepath"]
    is_same = _compared(before.get("tables")) == _compared(document["tables"])
    kept = {name: before[name] for name in ("site", "sources") if name in before}
    if is_same:
        kept |= {name: before[name] for name in ("tables", "digest") if name in before}
    return {**document, **kept, "query": query}


def _compared(tables: Any) -> Any:
    """Return what of tables' identities does not depend on where they were fetched from."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return tables
    # A list that came by a pipe has another name when it is read from where it was kept.
    lists = ("image-ids", "exclude-ids", "categories")
    return [
        {name: table.get(name) for name in ("table", "name", "bytes", "md5") if table.get("table") not in lists}
        or [table.get("bytes"), table.get("md5")]
        for table in tables
    ]


def chosen_options(options: Options) -> dict[str, Any]:
    """Return the options that differ from their default: no secrets, and not where the run and its report go."""
    usual, values = Options().as_json(), options.as_json()
    names = (each.name for each in fields(Options) if each.name not in ("report", "savepath"))
    return {name: values[name] for name in names if values[name] != usual[name]}
