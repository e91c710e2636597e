"""The gallery of a folder, served in this process as `oid-async view` does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oid_async.events import ignore
from oid_async.gallery.listening import Place
from oid_async.jobs.stored_query import Given
from oid_async.jobs.view import View


@dataclass(slots=True)
class Served:
    """A gallery that answers. `entry` is the printed address, with the token; `faults` are those of the program."""

    entry: str
    faults: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.entry)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def port(self) -> int:
        """The port on loopback."""
        return urlsplit(self.entry).port or 80

    @property
    def token(self) -> str:
        """The token of the printed address."""
        return self.entry.partition("token=")[2]

    def enter(self, state: str = "") -> str:
        """Return the printed address with a state, as a browser that has no cookie needs it."""
        return f"{self.entry}&{state}" if state else self.entry

    def at(self, state: str = "") -> str:
        """Return the address of a state, as it is shared."""
        return f"{self.origin}/?{state}" if state else f"{self.origin}/"


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    """Serve a folder on a free port of loopback until the block ends."""
    printed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    faults: list[str] = []
    view = View(Given.of(folder, {}), Place("127.0.0.1", 0))
    running = asyncio.create_task(view.run(printed.set_result, ignore, faults.append, opens=False))
    try:
        waiting: set[asyncio.Future[Any]] = {running, printed}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield Served(printed.result(), faults)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
