"""The targets of a plan in an order of one's own, each asked for only when there is room for it.

The gate is here, at the source: what is under way or waits to be taken is bounded, and what comes first in the order
was asked for first. So an image that is slow never waits behind others that nobody takes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import polars as pl

from oid_async.report import Outcome
from oid_async.transfer.image_transfer import Target
from oid_async.transfer.targets import Targets, target_at

Land = Callable[[Outcome], Awaitable[None]]
"""Called with the outcome of each image that needs no request."""


class OrderedTargets:
    """Yields targets in the order of `slices`, rows as of `read_rows`; `enter` is awaited with the id of each image.

    `offline`: nothing is requested, so that what is not there fails at once.
    """

    def __init__(
        self,
        files: Sequence[Path],
        images: Path,
        slices: AsyncIterator[pl.DataFrame],
        *,
        enter: Callable[[str, str | None], Awaitable[None]],
        land: Land,
        offline: bool = False,
    ) -> None:
        self._targets = Targets(files, images)
        self._images = images
        self._slices = slices
        self._enter = enter
        self._land = land
        self._offline = offline
        self.rests = False

    async def __aiter__(self) -> AsyncIterator[Target]:
        """Yield what is to be fetched."""
        self.rests = True
        async for rows in self._slices:
            for place, _, action, reason, *fields in rows.iter_rows():
                known, image_id, name, subset = fields[:4]
                await self._enter(image_id, subset)
                if action == "fetch" and not self._offline:
                    self.rests = False
                    yield target_at(place, fields)
                    self.rests = True
                    continue
                is_there = action == "present"
                await self._land(
                    Outcome(
                        image_id,
                        "present" if is_there else "failed",
                        str(self._images / name) if is_there else None,
                        None if is_there else reason or "offline",
                        known,
                        subset=subset,
                    )
                )

    async def read(self, places: Sequence[int]) -> list[Target]:
        """Return the targets at these places, in their order."""
        return await self._targets.read(places)
