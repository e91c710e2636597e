"""A selection that is planned once and handed out epoch by epoch, in an order that (seed, epoch) alone decide.

RunContext ──Planning──▶ plan ──Feed.epoch──▶ Epoch: order ▶ slices ▶ window ▶ Pipeline ▶ samples in order
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import polars as pl

from oid_async.concurrency import in_thread, single_error
from oid_async.events import Sink
from oid_async.http.retry import Limits
from oid_async.jobs.context import RunContext, open_run
from oid_async.jobs.feeding.boxes import BoxReader
from oid_async.jobs.planning.plan import Planning, check_space
from oid_async.openimages.ids import KEY
from oid_async.options.query import Options
from oid_async.report import Report
from oid_async.select.limits import shuffled_order
from oid_async.select.plan import plan_files
from oid_async.transfer.targets import PLACE, read_places

# So many images of all are enough to repeat for a rank that has none of its own.
_FEW = 64


@dataclass(frozen=True, slots=True)
class Share:
    """The places in the plan that one rank has in an epoch, in order.

    `total` is how many samples the rank gives, None for all that can be had: of several ranks each gives as many.
    `others` are places to take where the rank has none of its own.
    """

    places: pl.Series
    total: int | None
    others: pl.Series


class Feed:
    """The images of one query, for one rank of `ranks`. Make it by `open_feed`."""

    def __init__(self, context: RunContext, planning: Planning, share_of: tuple[int, int], *, keep_files: bool) -> None:
        self.context = context
        self.planning = planning
        self.rank, self.ranks = share_of
        self.keep_files = keep_files
        self.count = 0
        self._boxes: BoxReader | None = None
        self._done = 0

    @property
    def boxes(self) -> BoxReader:
        """The boxes of its images, and their classes."""
        assert self._boxes is not None
        return self._boxes

    @property
    def samples(self) -> int:
        """How many samples this rank gives in an epoch; of a single rank, at most."""
        return -(-self.count // self.ranks)

    async def decide(self) -> None:
        """Plan what is selected, anew if images have landed or failed since: what failed for good is not asked again.

        What failed in passing is asked for again in each epoch.
        """
        report = self.context.report
        done = report.downloaded + report.failed
        if self._boxes is not None and done == self._done:
            return
        report.downloaded = 0
        self.planning.begin_anew()
        decision = await self.planning.decide()
        if self.keep_files:
            check_space(decision.plan, self.context.options)
        self.count = report.selected
        self._done = report.downloaded + report.failed
        if self._boxes is None:
            self._boxes = await in_thread(self._open_boxes, decision.selected.selection.keys)

    async def share(self, seed: int, epoch: int) -> Share:
        """Return what this rank has in an epoch: places r, r + R, ... of the images in the order of (seed, epoch)."""
        return await in_thread(self._share, seed, epoch)

    def _open_boxes(self, keys: pl.Series) -> BoxReader:
        tables, context = self.planning.tables, self.context
        all_boxes = context.options.all_boxes
        return BoxReader(tables, all_boxes=all_boxes, wanted=lambda: keys, scratch=context.folder.tmp)

    def _share(self, seed: int, epoch: int) -> Share:
        if not self.count:
            return Share(pl.Series(PLACE, [], pl.UInt64), None, pl.Series(PLACE, [], pl.UInt64))
        plan = read_places(plan_files(self.context.folder.plan))
        order = shuffled_order(plan.get_column(KEY), epoch_seed(seed, epoch)).arg_sort()
        places = plan.get_column(PLACE).gather(order)
        own = places.gather_every(self.ranks, self.rank)
        total = None if self.ranks == 1 else -(-len(places) // self.ranks)
        return Share(own, total, places.head(_FEW))


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order, 64 bits: other epochs, and neighbouring seeds, have unlike orders."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8])


@asynccontextmanager
async def open_feed(
    options: Options, sink: Sink, share_of: tuple[int, int], *, keep_files: bool
) -> AsyncIterator[Feed]:
    """Open the run and plan it, for one rank of so many.

    Without `keep_files` images stay in memory. Raises OidError: of an option, of tables that cannot be had, of a
    folder.
    """
    options.check_filled()
    report = Report(savepath=str(options.savepath))
    with single_error():
        async with open_run(
            options,
            sink,
            report,
            limits=Limits.of(options),
            serve=None,
            site_name=None,
            keeps_files=keep_files,
        ) as context:
            feed = Feed(context, await Planning.of(context), share_of, keep_files=keep_files)
            await feed.decide()
            yield feed
