"""The result tables of a run, and query.json: what is handed to the writer of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oid_async.jobs.context import RunContext
from oid_async.jobs.gather import GatheredTables
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import Source
from oid_async.options.export import ExportOptions
from oid_async.store.folder import Folder
from oid_async.store.results import Results
from oid_async.version import __version__

# How many processes share the work is no part of a query, and differs between the doors; an export is made of what a
# query has brought.
_NO_QUERY = frozenset(("processes", *ExportOptions.__dataclass_fields__))


def results_writer(context: RunContext, tables: GatheredTables, folder: Folder, plan: Sequence[Path]) -> Results:
    """Return the writer of the result tables of these files of the plan, into a folder."""
    site = context.site.name

    def source_url(image_id: str, subset: str | None, source: str) -> str | None:
        is_known = source == "cvdf" and subset is not None
        return object_url(IMAGE_BUCKET, f"{subset}/{image_id}.jpg", site) if is_known else None

    return Results(folder, plan, tables.ids, source_url)


def query_document(
    context: RunContext, tables: GatheredTables, sources: Sequence[Source], names: Iterable[str]
) -> dict[str, Any]:
    """Return what query.json holds: the query, the state of each table, the program's version.

    `names` are those of the categories: two MIDs may have one name, and then the plan tells them apart.
    """
    options = context.options
    document: dict[str, Any] = {
        "program": f"oid-async {__version__}",
        "query": {name: value for name, value in options.as_json().items() if name not in _NO_QUERY},
        "sources": list(sources),
        "site": context.site.name,
        "categories": {
            name: list(category.labels) for name, category in zip(names, tables.query.categories, strict=True)
        },
        "tables": list(tables.identities),
    }
    if context.packed is not None:
        document["shards"] = str(context.packed.out.absolute())
    return document
