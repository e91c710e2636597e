"""A download past one machine: publish the plan or read it, have its parts carried out, make the end.

    place ──▶ plan.json, generation 00 ──▶ parts without a record ──▶ engine ──▶ next generation ──▶ ... ──▶ manifest

Nothing of this process is needed later: whoever runs the same command goes on with what the place holds.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from oid_async.cluster.array_task import ArrayTask
from oid_async.cluster.finish import Totals, finish
from oid_async.cluster.generations import parts_to_do, read_begun
from oid_async.cluster.next_generation import Next
from oid_async.cluster.part_shard import part_classes
from oid_async.cluster.place_card import PlaceCard
from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.work import Engine, WorkSettings
from oid_async.concurrency import CallsOnLoop, in_thread, until_stopped
from oid_async.errors import StorageError, UsageError
from oid_async.events import Note, Planned, Sink, Stage
from oid_async.http.retry import Limits
from oid_async.http.wait_text import time_text
from oid_async.jobs.context import RunContext, most_transfers, open_run
from oid_async.jobs.distributing.first_plan import first_generation
from oid_async.jobs.distributing.tally import Tally
from oid_async.jobs.site import allowed_endpoints
from oid_async.objects.store import Objects
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES
from oid_async.options.defaults import FLICKR_RATE
from oid_async.options.query import Options
from oid_async.report import Plan, Report, counted
from oid_async.store.scratch import scratch_folder

if TYPE_CHECKING:
    from oid_async.origin.server import Serve

_MOST_NAMES = 5


class DistributedRun:
    """One query carried out by an engine, or by this process alone, part by part, into one place.

    `report` is true at every moment. `task` says which one of many this process is; `serve` and `site` are those of
    `jobs.download.Run`.
    """

    def __init__(
        self,
        options: Options,
        sink: Sink,
        report: Report,
        *,
        limits: Limits,
        serve: "Serve | None",
        site: str | None,
        task: ArrayTask,
    ) -> None:
        self._options = options
        self._sink = sink
        self._report = report
        self._limits = limits
        self._serve = serve
        self._site_name = site
        self._task = task if options.cluster in (None, "array") else ArrayTask()
        self._objects = Objects(options.savepath, endpoint_url=options.endpoint_url)
        self._tally = Tally(report, sink)

    async def carry_out(self) -> None:
        """Do all that is left to do, and make the end if nothing is. Raises OidError."""
        options = self._options
        if options.offline:
            raise UsageError("--offline asks for nothing, and parts are all that this would do: leave it out")
        check_extra(options)
        await in_thread(self._objects.check)
        async with self._open() as context:
            query, generations = await first_generation(context, self._objects, self._task, self._check_engine)
            limit_rate = self._limit_rate()
            settings = WorkSettings(
                objects=self._objects,
                query=query,
                options=options,
                limits=replace(self._limits, rate_bytes_s=limit_rate),
                mirror=context.site.url,
                recorded_mirror=context.site.name,
                allowed=allowed_endpoints(options, context.site),
                transfers=most_transfers(options.concurrency, limit_rate),
                # Here: workers may be on machines without the file of --class-map.
                classes=await in_thread(part_classes, query, options),
            )
            if await self._go_through(query, generations, settings):
                await self._finish(query, generations, settings)

    async def _go_through(self, query: PublishedQuery, generations: list[Generation], settings: WorkSettings) -> bool:
        """Carry out one generation after the other; return whether nothing is left, also for nobody else."""
        generations = [*generations[:-1], await self._as_asked(generations[-1])]
        undone = await self._undone(generations)
        # A run that finds all done asks for what has failed; what fails in this run is a matter of the next one.
        retries = not undone
        self._announce(generations, [part for each in undone for part in each.parts])
        async with AsyncExitStack() as stack:
            engine: Engine | None = None
            while True:
                for generation in undone:
                    if generation.capped and self._task.index:
                        self._leave_to_first(generation.parts)
                        return False
                    # Who finds all done needs no worker.
                    if engine is None:
                        engine = await stack.enter_async_context(self._engine(settings))
                    await self._carry_out(engine, generation)
                following = await until_stopped(self._next(query, generations, retries=retries).publish)
                if following is None:
                    return True
                retries = False
                following = await self._as_asked(following)
                generations.append(following)
                undone = await self._undone([following])
                await self._say_generation(following, [part for each in undone for part in each.parts])

    async def _undone(self, generations: Sequence[Generation]) -> list[Generation]:
        """Return the generations that have parts without a record, each with these alone.

        Before the last one that is so where somebody has removed a record, to have its part made again.
        """
        found = []
        for generation in generations:
            if left := await in_thread(parts_to_do, self._objects, generation):
                found.append(replace(await self._as_asked(generation), parts=left))
        return found

    async def _as_asked(self, generation: Generation) -> Generation:
        """Return a generation as this run asks: by one task alone if any host has a cap now, whatever held before.

        That is so with --rate, and where a run with --rate 0 has published what this one would ask of capped hosts.
        """
        rate = self._options.rate
        begun = await in_thread(read_begun, self._objects, generation.number)
        was_free = begun is not None and begun.rate == 0 and rate is None
        return replace(generation, capped=generation.capped or bool(rate) or was_free)

    async def _carry_out(self, engine: Engine, generation: Generation) -> None:
        """Carry out the parts of a generation that have no record. Raises StorageError for those that cannot be."""
        self._tally.begin(generation.parts)
        given_up = await engine.run(generation, self._tally.take)
        if not given_up:
            return
        names = ", ".join(given_up[:_MOST_NAMES]) + (", ..." if len(given_up) > _MOST_NAMES else "")
        which = "part was" if len(given_up) == 1 else "parts were"
        raise StorageError(
            f"{len(given_up)} {which} given up, as the workers that had it were lost four times ({names}); all others "
            "are committed: give workers more memory, or choose another --part-size for a new --savepath; running "
            "again tries once more"
        )

    async def _finish(self, query: PublishedQuery, generations: Sequence[Generation], settings: WorkSettings) -> None:
        """Make the end of these generations, whose parts all have a record; another run may be at the next one."""
        self._sink(Stage("writing the result tables"))
        calls = CallsOnLoop(self._sink)
        classes = settings.classes
        card = None if classes is None else PlaceCard(self._objects, query, classes, settings.options).write

        def end(stopped: Callable[[], bool]) -> Totals:
            with scratch_folder("oid-async-end-") as scratch:
                shared = not self._task.is_alone
                return finish(self._objects, query, generations, scratch, calls, stopped, shared=shared, card=card)

        self._tally.finish(await until_stopped(end), str(self._objects.place))
        calls.check()

    def _next(self, query: PublishedQuery, generations: Sequence[Generation], *, retries: bool) -> Next:
        return Next(
            self._objects,
            query,
            list(generations),
            rate=self._options.rate,
            retries=retries,
            retry_failed=self._options.retry_failed,
            respect_opt_out=self._options.respect_opt_out,
            job=self._task.job,
        )

    def _leave_to_first(self, left: Sequence[Part]) -> None:
        """Say that capped hosts are asked by one task alone, which is not this one."""
        self._report.left_to_others = self._report.pending = sum(part.images for part in left)
        self._sink(
            Note(
                f"{counted(self._report.pending, 'image')} are asked of hosts with a rate cap by the first task alone, "
                "which makes the manifest, too; should it be gone, run the same command again"
            )
        )

    def _announce(self, generations: Sequence[Generation], left: Sequence[Part]) -> None:
        """Say what this run is going to take, before its first request for an image."""
        first, report = generations[0], self._report
        to_fetch = sum(part.images for part in left)
        report.selected = sum(part.images for part in first.parts)
        report.pending = to_fetch
        report.present, report.failed, report.failures = report.selected - to_fetch, 0, {}
        splits: dict[str, int] = {}
        for part in first.parts:
            splits[part.split] = splits.get(part.split, 0) + part.images
        count = len(generations[-1].parts)
        plan = Plan(
            selected=report.selected,
            present=report.present,
            to_download=to_fetch,
            requests=to_fetch,
            bytes=sum(part.bytes for part in left),
            bytes_exact=False,
            metadata_bytes=0,
            seconds=self._least_seconds(generations[-1], to_fetch),
            disk_free=0,
            splits=splits,
            classes={},
            sources={},
            annotations={},
            bytes_unknown=to_fetch if sum(part.bytes for part in left) == to_fetch * MEAN_IMAGE_BYTES else 0,
            parts={
                "count": count,
                "left": len(left),
                "place": str(self._objects.place),
                "engine": self._engine_text(),
                "capped": generations[-1].capped,
            },
        )
        self._sink(Planned(plan))

    async def _say_generation(self, generation: Generation, left: Sequence[Part]) -> None:
        """Say why images are asked for once more."""
        images = sum(part.images for part in left)
        if not images:
            return
        begun = await in_thread(read_begun, self._objects, generation.number)
        waiting = begun is not None and begun.cause == "waiting"
        report = self._report
        if not waiting:
            # They had failed, and wait again.
            report.present = max(0, report.present - images)
            report.pending += images
        what = "are asked of their next source" if waiting else "failed before and are asked for again"
        who = ", by one task alone as its hosts have a rate cap" if generation.capped else ""
        seconds = self._least_seconds(generation, images)
        time = f", until {time_text(seconds)} at the soonest" if seconds and seconds > 1 else ""
        self._sink(Note(f"{counted(images, 'image')} {what}{who}{time}"))

    def _least_seconds(self, generation: Generation, images: int) -> float | None:
        """Return how long the hosts of a capped generation take at least, in seconds; None where nothing is capped."""
        options = self._options
        if not generation.capped:
            return None
        return images * options.period / options.rate if options.rate else images / FLICKR_RATE

    def _limit_rate(self) -> int | None:
        """Return the bytes a second that each worker may take: workers of this machine share what is given."""
        limit, count = self._options.limit_rate, self._local_workers
        return limit if limit is None or count is None else max(1, limit // count)

    @property
    def _local_workers(self) -> int | None:
        """How many workers are started on this machine, None if none are."""
        cluster = self._options.cluster or ""
        return int(cluster.removeprefix("local:")) if cluster.startswith("local:") else None

    def _engine_text(self) -> str:
        """Return who does the work, in words."""
        cluster, task = self._options.cluster, self._task
        if self._local_workers is not None:
            return f"{counted(self._local_workers, 'worker')} on this machine"
        if cluster not in (None, "array"):
            return f"the workers of {cluster}"
        if task.is_alone:
            return "this process"
        return f"task {task.index + 1}" + (f" of {task.count}" if task.count else "")

    async def _check_engine(self) -> None:
        """Raise UsageError for a cluster that cannot be joined."""
        cluster = self._options.cluster
        if cluster not in (None, "array") and not cluster.startswith("local:"):
            from oid_async.cluster.dask_engine import check_joining

            await check_joining(cluster)

    @asynccontextmanager
    async def _engine(self, settings: WorkSettings) -> AsyncIterator[Engine]:
        """Open what carries parts out."""
        cluster = self._options.cluster
        if cluster in (None, "array"):
            from oid_async.cluster.array_engine import ArrayEngine

            async with ArrayEngine(settings, self._task) as array:
                yield array
            return
        from oid_async.cluster.dask_engine import DaskEngine

        async with DaskEngine(cluster, settings, lambda text: self._sink(Note(text))) as dask:
            yield dask

    def _open(self) -> AbstractAsyncContextManager[RunContext]:
        return open_run(
            self._options,
            self._sink,
            self._report,
            limits=self._limits,
            serve=self._serve,
            site_name=self._site_name,
            dry_run=True,
        )


def check_extra(options: Options) -> None:
    """Raise UsageError if Dask is wanted and not installed."""
    if options.cluster in (None, "array"):
        return
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise UsageError(f'--cluster {options.cluster} needs Dask: pip install "oid-async[dask]"')
