"""The program of a worker process: it fetches and stores images for a run, and leaves all else to it.

It makes one attempt for each image that it is given, of hosts that are well and uncapped. What the attempt does not
settle goes back to the run: an image that must be asked for again, or of a host that is capped, in trouble or wants to
be left alone. So the run alone waits for hosts, retries and counts. The journal too is the run's: what was stored is
told to it and written down there.

Started as `python -m oid_async.workers.process`, with its end of the socket as stdin. It ends when that says so, and
when it is closed: no worker outlives its run.
"""

import asyncio
import json
import math
import os
import signal
import socket
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from oid_async.errors import OidError
from oid_async.http.address_guard import Endpoint
from oid_async.http.client import Client
from oid_async.http.hosts import Host, Hosts
from oid_async.http.retry import FetchError
from oid_async.report import Outcome, write_detail
from oid_async.store.folder import Folder
from oid_async.store.image_writer import ImageWriter, ReceivedImage
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry
from oid_async.transfer.scheduler import turn, wake
from oid_async.workers.messages import (
    LINE_BYTES,
    WorkerSettings,
    line,
    next_line,
    pack_error,
    pack_outcomes,
    unpack_target,
)

# The run gives a worker that it stops two seconds; nobody is there to end one whose run has died.
_LAST_S = 3.0
_TELL_AT_ONCE = 64
_TELL_AFTER_S = 0.05


class _ReportingHost(Host):
    """A host as a worker sees it: what it says of itself is heard by the run, too; a capped one is never asked here."""

    report: Callable[..., None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limiter is not None:
            self.not_before = math.inf

    def asked_to_wait(self, error: FetchError, began: float, now: float) -> None:
        """Heed it, and tell."""
        super().asked_to_wait(error, began, now)
        self.report(self, "asked_to_wait", error, ("", 0), began)

    def unreachable(self, error: FetchError, asked: Endpoint, began: float, now: float) -> None:
        """Heed it, and tell."""
        super().unreachable(error, asked, began, now)
        self.report(self, "unreachable", error, asked, began)

    def stumbled(self, error: FetchError, began: float, now: float, *, silent: bool) -> None:
        """Heed it, and tell."""
        super().stumbled(error, began, now, silent=silent)
        self.report(self, "stumbled", error, ("", 0), began, silent)


class WorkerProcess:
    """Works for one run, whose end of the line is `writer`'s other end."""

    def __init__(self, settings: WorkerSettings, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._todo: asyncio.Queue[ImageTransfer] = (
            asyncio.Queue()
        )  # bounded by the run: it gives no more than it wants here
        self._workers = settings.workers
        self._run = os.getppid()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._untold: list[list[Any]] = []
        limits = settings.limits
        self._hosts = Hosts(
            settings.rate,
            settings.period,
            most=settings.workers,
            estimates_concurrency=settings.estimates_concurrency,
            floor=settings.floor,
            max_wait_s=limits.max_wait_s,
            patience_s=limits.first_byte_s,
            tell=lambda text: self._send("note", text),
            kind=self._host,
        )
        self._client = Client(
            self._hosts, limits, connections=settings.workers, allowed=settings.allowed, reports_closed_hosts=True
        )
        folder = Folder.of_owner(Path(settings.savepath), Path(settings.tmp), settings.token)
        self._image_writer = ImageWriter(folder, self, hashed=settings.hashed)
        self._fetcher = Fetcher(
            self._client,
            sources=settings.sources,
            mirror=settings.mirror,
            written=settings.written,
            part=folder.temporary,
        )

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Have the run write down what has landed or failed."""
        self._landed(pack_outcomes(outcomes))

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Work until the run says that it is enough, or is gone."""
        stopped: tuple[str, str] | None = None
        try:
            await self._serve(reader)
        except BaseExceptionGroup as group:
            error = _first(group)
            trace = "".join(traceback.format_exception(error))
            stopped = (error.kind, str(error)) if isinstance(error, OidError) else ("internal", trace)
        self._tell_landed(at_last=True)
        if stopped is not None:
            self._send("stopped", *stopped)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        async with self._client, asyncio.TaskGroup() as group:
            working = [group.create_task(self._work()) for _ in range(self._workers)]
            self._send("ready")
            await self._listen(reader)
            self._loop.call_later(_LAST_S, os._exit, 1)
            for task in working:
                task.cancel()
            await asyncio.wait(working)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while told := await next_line(reader):
            kind, *content = json.loads(told)
            if kind == "images":
                for fields in content[0]:
                    job = self._fetcher.begin(unpack_target(fields))
                    if isinstance(job, ImageTransfer):
                        self._todo.put_nowait(job)
                    else:
                        self._image_writer.land([job.outcome])
            else:
                self._learn(*content)

    def _following(self, job: ImageTransfer) -> ImageTransfer | None:
        """Return a job to be asked for in place of one whose body has come, None if there is none at hand."""
        host = job.host
        if self._todo.empty() or self._is_shut(host) or host.in_flight > host.window:
            return None
        if host.in_flight < host.window:
            wake(self._waiting)  # it has learnt that it may be asked more
        following = self._todo.get_nowait()
        if following.follows(job):
            return following
        self._todo.put_nowait(following)
        return None

    async def _work(self) -> None:
        keep_alive = self._fetcher.keep_alive(following=self._following, landed=self._store)
        while True:
            job = await self._todo.get()
            host = job.host
            while host.in_flight >= host.window and not self._is_shut(host):
                await turn(self._waiting)
            if self._is_shut(host):
                self._give_back(job, 0.0)
                continue
            host.in_flight += 1
            try:
                end = await self._fetcher.attempt(job, keep_alive)
                job = keep_alive.job
            finally:
                host.in_flight -= 1
                # Its own place, and one by which the window may have grown.
                wake(self._waiting)
                wake(self._waiting)
            if isinstance(end, Retry):
                self._give_back(job, end.delay_s)
                if end.exhausted:
                    await asyncio.sleep(end.delay_s)
            else:
                self._store(job, end)
            # Nobody is there to hear it once the run is gone; the end of the stream is on its way then.
            with suppress(ConnectionError):
                await self._writer.drain()

    def _store(self, job: ImageTransfer, end: ReceivedImage | Failed) -> None:
        """Check and store a body, here and now, or note a failure.

        A thread would cost more than it takes: the two would pass the interpreter to and fro with every call to the
        disk. A slow disk holds up this loop, which serves nobody else.
        """
        if os.getppid() != self._run:
            os._exit(1)  # the run has died: another one may be at work in its folder now
        self._fetcher.settled(job)
        if isinstance(end, Failed):
            self._image_writer.land([end.outcome])
            return
        [result] = self._image_writer.land([end])
        if result.note is not None:
            self._send("note", result.note)
        if result.reason is not None:
            judged = self._fetcher.refused(job, result.reason)
            if isinstance(judged, Failed):
                self._image_writer.land([judged.outcome])
            else:
                self._give_back(job, judged.delay_s)

    def _landed(self, packed: list[list[Any]]) -> None:
        """Tell of what has landed some dozens at a time: a message costs the run more than what it says."""
        if packed and not self._untold:
            self._loop.call_later(_TELL_AFTER_S, self._tell_landed)
        self._untold += packed
        if len(self._untold) >= _TELL_AT_ONCE:
            self._tell_landed()

    def _tell_landed(self, *, at_last: bool = False) -> None:
        if self._untold or at_last:
            self._send("landed", self._client.requests, self._untold)
            self._untold = []

    def _give_back(self, job: ImageTransfer, delay_s: float) -> None:
        note = f"{job.before} {write_detail(job.history)}"
        partial = job.partial
        kept = [partial.size, partial.etag, partial.total] if partial is not None else None
        made, seen = job.attempts.made, dict(job.attempts.seen)
        self._send("back", self._client.requests, [job.target.image_id, note, made, seen, kept, delay_s])

    def _learn(self, name: str, not_before: float, is_md5: bool | None, gave_up: list[str] | None) -> None:
        """Take over what the run knows of a host. It has heard all that was heard here."""
        host = self._hosts.named(name)
        if host.limiter is None:
            # What was met here since, and the run has not heard yet, holds as well.
            host.not_before = max(host.not_before, not_before)
        host.etags.is_md5 = is_md5 if is_md5 is not None else host.etags.is_md5
        if gave_up is not None:
            host.gave_up = FetchError(*gave_up, unsent=True)
        self._part_with_closed()

    def _part_with_closed(self) -> None:
        """Give back what waits for a host that is closed: the images of others must not wait behind it."""
        for _ in range(self._todo.qsize()):
            job = self._todo.get_nowait()
            if self._is_shut(job.host):
                self._give_back(job, 0.0)
            else:
                self._todo.put_nowait(job)
        for _ in range(len(self._waiting)):
            wake(self._waiting)

    def _host(self, *args: Any, **settings: Any) -> Host:
        # What a user should know of a host the run says: it hears the same.
        host = _ReportingHost(*args, **(settings | {"tell": _say_nothing}))
        host.report = self._report
        return host

    def _report(
        self, host: Host, method: str, error: FetchError, asked: Endpoint, began: float, silent: bool = False
    ) -> None:
        self._send("trouble", host.name, method, pack_error(error), asked, began, silent)
        if self._is_shut(host):
            self._part_with_closed()

    def _is_shut(self, host: Host) -> bool:
        return host.gave_up is not None or host.is_closed(self._hosts.clock())

    def _send(self, *content: Any) -> None:
        self._writer.write(line(*content))


def run() -> NoReturn:
    """Run as a program of its own. Signals are for the run to heed: it says when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_run())
    os._exit(0)


async def _run() -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=0), limit=LINE_BYTES)
    if not (told := await next_line(reader)):
        return
    await WorkerProcess(WorkerSettings.of_line(told), writer).run(reader)
    # Until the run has read all of it: a socket that is closed with something unread in it loses what was sent.
    asyncio.get_running_loop().call_later(_LAST_S, os._exit, 1)
    with suppress(ConnectionError):
        writer.write_eof()
        while await reader.read(LINE_BYTES):
            pass


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _say_nothing(text: str) -> None:
    pass


if __name__ == "__main__":
    run()
