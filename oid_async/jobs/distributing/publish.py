"""The plan of a query, made once and published at its place, from where every worker reads it.

    plan.json ──▶ plan/00/begun.json ──▶ plan/00/<part>.parquet, ... ──▶ bad_rows.csv, ... ──▶ plan/00.json

Each is put only where nothing has its key. What a killed run has left is gone on with; two runs that publish the same
query put the same. plan/00.json says that all of it is there.
"""

from dataclasses import dataclass
from io import BytesIO

from oid_async.cluster.generations import put_begun, put_generation, read_generation, read_query
from oid_async.cluster.layout import BAD_ROWS, HIERARCHY, MANIFEST, PLAN, SHARDS, UNKNOWN_IDS
from oid_async.cluster.part_file import row_columns
from oid_async.cluster.published import Begun, Generation, PublishedQuery
from oid_async.concurrency import in_thread
from oid_async.dataset.query_digest import query_digest, shard_digests
from oid_async.errors import UsageError
from oid_async.events import Stage
from oid_async.jobs.context import RunContext
from oid_async.jobs.distributing.part_writer import PartWriter
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.jobs.hierarchy import kept_hierarchy
from oid_async.jobs.planning.plan import Decision, Planning
from oid_async.jobs.query_document import query_document
from oid_async.objects.store import ExistsError, Objects
from oid_async.options.query_table import KEPT_LISTS
from oid_async.report import Plan, size_text
from oid_async.tables.reading import columns_of

# What another program, or a download on one machine, may have left where a place is to be: nothing of it is touched.
_TAKEN = (MANIFEST, "query.json", ".oid_async/journal.tsv")


@dataclass(frozen=True, slots=True)
class Published:
    """What is published at a place: the query, and its first generation.

    `plan` is what this run has planned, None where the generation was there already.
    """

    query: PublishedQuery
    first: Generation
    plan: Plan | None


async def publish(context: RunContext, objects: Objects, *, part_size: int, job: str | None = None) -> Published:
    """Publish the plan of a run, unless it is there; return what is there.

    The context is that of a dry run, whose scratch folder takes the plan. `job` is a cluster's job that the run is part
    of. Raises UsageError for a place that holds another query, or something else; InputError, UnavailableError, ...
    """
    planning = await Planning.of(context, publishes=True)
    publisher = _Publisher(context, planning, objects, part_size)
    there = await in_thread(publisher.there)
    if there is not None and (first := await in_thread(read_generation, objects, 0)) is not None:
        return Published(there, first, None)
    decision = await planning.decide()
    context.sink(Stage("publishing the plan"))
    query = await in_thread(publisher.put_query, decision)
    begun = await in_thread(put_begun, objects, 0, publisher.begun(decision))
    parts = await PartWriter(context, planning, query, objects, begun).write()
    await in_thread(publisher.put_lists, decision, await kept_hierarchy(context, planning.tables))
    first = await in_thread(put_generation, objects, Generation(0, parts, begun.capped, job))
    return Published(query, first, decision.plan)


def query_there(objects: Objects) -> PublishedQuery | None:
    """Return the query that is published at a place, None if nothing is there. Raises UsageError for anything else."""
    there = read_query(objects)
    if there is None and (taken := _taken(objects)) is not None:
        # Somebody may have published meanwhile.
        there = read_query(objects)
        if there is None:
            raise UsageError(
                f"{objects.place} holds {taken}, and no plan of a download past one machine; "
                "name another --savepath, or move that away"
            )
    return there


def check_same(objects: Objects, there: PublishedQuery, digest: str, samples: str) -> None:
    """Raise UsageError unless what is published is the query of this digest, with samples made like these."""
    if there.digest != digest or there.samples not in ("", samples):
        what = "samples of another form" if there.digest == digest else "another query"
        raise UsageError(f"{objects.place} holds {what}: runs of one query share a place; name another --savepath")


def _taken(objects: Objects) -> str | None:
    """Return what is there that is none of a published plan's."""
    for prefix in (SHARDS, ".oid_async"):
        if (found := next((each for each in objects.list(prefix) if each.key != PLAN), None)) is not None:
            return found.key
    return next((key for key in _TAKEN if objects.head(key) is not None), None)


class _Publisher:
    """Puts what is published beside the parts."""

    def __init__(self, context: RunContext, planning: Planning, objects: Objects, part_size: int) -> None:
        self._context = context
        self._tables: GatheredTables = planning.tables
        self._sources = planning.planner.sources
        self._objects = objects
        self._part_size = part_size
        self._digest = query_digest(context.options, self._tables.identities)
        self._samples = shard_digests(context.options)[0]

    def begun(self, decision: Decision) -> Begun:
        """Return how the first generation is made: capped if the first request of every image is to such a host."""
        rate, count = self._context.options.rate, decision.plan.to_download
        capped = bool(rate) or (rate is None and count > 0 and decision.uncapped == 0)
        return Begun("query", rate, capped)

    def there(self) -> PublishedQuery | None:
        """Return the query of the place, None if nothing is there. Raises UsageError if it holds anything else."""
        there = query_there(self._objects)
        return there if there is None else self._same(there)

    def put_query(self, decision: Decision) -> PublishedQuery:
        """Put plan.json; return the query that counts, which may be that of another run that was quicker."""
        there = self.there()
        if there is not None:
            return there
        options, tables = self._context.options, self._tables
        saved = tables.saved_annotations(all_boxes=options.all_boxes)
        query = PublishedQuery(
            digest=self._digest,
            samples=self._samples,
            max_side=options.max_side,
            format=options.format or "webdataset",
            part_size=self._part_size,
            sources=self._sources,
            query=self._document(decision),
            kinds={
                each.source.kind.name: {
                    "labels": each.labels,
                    "class_names": dict(each.source.class_names),
                    "columns": row_columns(
                        each.source.kind,
                        list(dict.fromkeys(name for table in each.source.tables for name in columns_of(table))),
                    ),
                }
                for each in saved
            },
            hexadecimal=tables.ids.hexadecimal,
            by_split=tables.ids.by_split,
        )
        try:
            self._objects.put_new(PLAN, query.to_json())
        except ExistsError:
            theirs = read_query(self._objects)
            assert theirs is not None
            return self._same(theirs)
        self._objects.check_creates(PLAN, query.to_json() + b"\n")
        return query

    def put_lists(self, decision: Decision, hierarchy: bytes | None) -> None:
        """Put what the end writes of damaged rows, unknown ids and the hierarchy; and lists that came by a pipe."""
        bodies: dict[str, bytes] = {}
        if len(self._tables.bad_rows):
            file = BytesIO()
            self._tables.bad_rows.write_csv(file)
            bodies[BAD_ROWS] = file.getvalue()
        if lines := list(decision.selected.unknown_ids):
            bodies[UNKNOWN_IDS] = ("\n".join(lines) + "\n").encode()
        if hierarchy is not None:
            bodies[HIERARCHY] = hierarchy
        bodies |= {KEPT_LISTS[option]: copy.read_bytes() for option, copy in self._context.lists.copies.items()}
        for key, body in bodies.items():
            try:
                self._objects.put_new(key, body)
            except ExistsError:
                # Of a run that read the tables in another state: what it has put counts, as its query does.
                continue

    def _same(self, there: PublishedQuery) -> PublishedQuery:
        """Return a query that is there if it is this run's. Raises UsageError."""
        check_same(self._objects, there, self._digest, self._samples)
        if there.part_size != self._part_size:
            size = size_text(there.part_size)
            self._context.note(f"the plan there has parts of {size}: --part-size has no effect any more")
            self._part_size = there.part_size
        return there

    def _document(self, decision: Decision) -> dict[str, object]:
        """Return the content of query.json, in which places are those of the dataset, not of this run's scratch."""
        document = query_document(self._context, self._tables, self._sources, decision.selected.selection.added)
        place = str(self._objects.place)
        kept = {option: f"{place}/{KEPT_LISTS[option]}" for option in self._context.lists.copies}
        query = {**document["query"], "savepath": place, **kept}
        return {**document, "query": query, "shards": SHARDS}
