"""The program of a worker process: it fetches and stores images for a run, and leaves all else to it.

It makes one attempt for each image that it is given, of hosts that are well and uncapped. An image goes back to the run
if it must be requested again, or from a host that is capped, in trouble or wants to be left alone. So the run alone
waits for hosts, retries and counts. The journal too is the run's: the worker sends what was stored, the run writes it
down.

Started as `python -m oid_async.workers.process`, with its end of the socket as stdin; its heartbeat goes to
stdout. It ends when the run ends the stream or closes the socket: no worker outlives its run.
"""

import asyncio
import json
import os
import signal
import socket
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import aiohttp  # noqa: F401 (most connections need it: now, while there is nothing to do yet)

from oid_async.concurrency import WaitQueue, collect_garbage_seldom, leaf_errors
from oid_async.errors import OidError
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError
from oid_async.report import Outcome, write_detail
from oid_async.store.folder import Folder
from oid_async.store.image_writer import ImageWriter, ReceivedImage
from oid_async.store.intent_log import IntentLog
from oid_async.transfer.fetch import Fetcher
from oid_async.transfer.image_transfer import Failed, ImageTransfer, Retry
from oid_async.transfer.keep_alive import KeepAliveChain
from oid_async.workers.heartbeat import Heartbeat
from oid_async.workers.messages import (
    LINE_BYTES,
    UnsentResults,
    WorkerSettings,
    encode,
    pack_error,
    read_line,
    unpack_target,
)
from oid_async.workers.reporting_host import ReportingHost

# The run kills a worker that takes two seconds to stop; if the run has died, nobody else ends it.
_LAST_S = 3.0
# Results are sent after so many images or seconds: a message costs the run more than its content.
_SEND_AT_ONCE = 64
_SEND_AFTER_S = 0.05
_MEASURES_S = 1.0


class WorkerProcess:
    """Works for one run, which is at the other end of `writer`."""

    def __init__(self, settings: WorkerSettings, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        # Bounded by the run, which gives no more than there is space for here.
        self._todo: asyncio.Queue[ImageTransfer] = asyncio.Queue()
        self._max_transfers = settings.max_transfers
        self._run_pid = os.getppid()
        self._waiting = WaitQueue()
        self._unsent = UnsentResults()
        self._intended: tuple[Outcome, bytes] | None = None
        self._hanging: dict[str, int] = {}
        limits = settings.limits
        self._hosts = Hosts(
            settings.rate,
            settings.period,
            most=settings.max_transfers,
            estimates_concurrency=settings.estimates_concurrency,
            floor=settings.floor,
            max_wait_s=limits.max_wait_s,
            patience_s=limits.first_byte_s,
            notify=lambda text: self._send("note", text),
            on_room=lambda _: self._wake_waiting(),
            host_type=self._host,
        )
        self._hosts.idle_since = None  # the run knows what else is left to do
        self._client = Client(
            self._hosts, limits, connections=settings.max_transfers, allowed=settings.allowed, reports_closed_hosts=True
        )
        folder = Folder.of_owner(Path(settings.savepath), Path(settings.tmp), settings.token)
        self._intents = IntentLog(folder.intents, f"{settings.token}-{os.getpid()}")
        self._image_writer = ImageWriter(folder, self, hashed=settings.hashed)
        self._fetcher = Fetcher(
            self._client,
            sources=settings.sources,
            mirror=settings.mirror,
            recorded_mirror=settings.recorded_mirror,
            part=folder.temporary,
        )

    def intend(self, outcome: Outcome) -> None:
        """Write the line that the run will journal into the intent log of this process. Raises OSError."""
        self._intended = outcome, self._intents.add(outcome)

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Send outcomes to the run, some dozens at a time, to be journalled there."""
        for outcome in outcomes:
            self._append(outcome)

    def _append(self, outcome: Outcome) -> None:
        unsent, intended = self._unsent, self._intended
        if not unsent:
            self._loop.call_later(_SEND_AFTER_S, self._send_results)
        unsent.add(outcome, intended[1] if intended is not None and intended[0] is outcome else None)
        if len(unsent) >= _SEND_AT_ONCE:
            self._send_results()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Work until the run ends the stream, or is gone."""
        stopped: tuple[str, str] | None = None
        try:
            await self._serve(reader)
        except BaseExceptionGroup as group:
            error = leaf_errors(group)[0]
            trace = "".join(traceback.format_exception(error))
            stopped = (error.kind, str(error)) if isinstance(error, OidError) else ("internal", trace)
        self._send_results(at_last=True)
        self._send_measures()
        if stopped is not None:
            self._send("stopped", *stopped)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        async with self._client, asyncio.TaskGroup() as group:
            working = [group.create_task(self._work()) for _ in range(self._max_transfers)]
            self._send("ready")
            self._measure_again()
            await self._read_messages(reader)
            self._loop.call_later(_LAST_S, os._exit, 1)
            for task in working:
                task.cancel()
            await asyncio.wait(working)

    async def _read_messages(self, reader: asyncio.StreamReader) -> None:
        while line := await read_line(reader):
            kind, *content = json.loads(line)
            if kind == "images":
                for fields in content[0]:
                    transfer = self._fetcher.start(unpack_target(fields))
                    if isinstance(transfer, ImageTransfer):
                        self._todo.put_nowait(transfer)
                    else:
                        self._append(transfer.outcome)
            else:
                self._apply_host(*content)

    def _next_for(self, done: ImageTransfer) -> ImageTransfer | None:
        """Return a transfer to be requested in place of one whose body has arrived, None if none is ready."""
        host = done.host
        counted = host.in_flight - host.hanging
        if self._todo.empty() or host.is_unusable(self._hosts.clock()) or counted > host.window:
            return None
        if counted < host.window:
            self._waiting.wake_first()  # it may get more requests than before
        transfer = self._todo.get_nowait()
        if transfer.can_follow(done):
            return transfer
        self._todo.put_nowait(transfer)
        return None

    async def _work(self) -> None:
        """Make attempts, one at a time, until cancelled."""
        transfer = await self._todo.get()
        chain = KeepAliveChain(self._fetcher, transfer, next_transfer=self._next_for, store=self._store)
        while True:
            host = transfer.host
            while host.in_flight - host.hanging >= host.window and not host.is_unusable(self._hosts.clock()):
                await self._waiting.wait()
            if host.is_unusable(self._hosts.clock()):
                self._give_back(transfer, 0.0)
                transfer = await self._todo.get()
                continue
            host.in_flight += 1
            try:
                end = await self._fetcher.attempt(transfer, chain)
                transfer = chain.transfer
            finally:
                host.in_flight -= 1
                # For its own place, and for one by which the window may have grown.
                self._waiting.wake_first()
                self._waiting.wake_first()
            if isinstance(end, Retry):
                self._give_back(transfer, end.delay_s)
                if end.exhausted:
                    await asyncio.sleep(end.delay_s)
            else:
                self._store(transfer, end)
            # When the run is gone this fails; the end of the stream will be read next.
            with suppress(ConnectionError):
                await self._writer.drain()
            transfer = await self._todo.get()

    def _store(self, transfer: ImageTransfer, end: ReceivedImage | Failed) -> None:
        """Check and store a body in this thread, or record a failure.

        A thread would cost more than it takes: the two would pass the interpreter to and fro with every call to the
        disk. A slow disk holds up this loop, which serves nobody else.
        """
        if os.getppid() != self._run_pid:
            os._exit(1)  # the run has died: another one may be at work in its folder now
        self._fetcher.release_memory(transfer)
        if isinstance(end, Failed):
            self._append(end.outcome)
            return
        result = self._image_writer.write_one(end)
        if result.outcome is not None:
            self._append(result.outcome)
        if result.note is not None:
            self._send("note", result.note)
        if result.reason is not None:
            refused = self._fetcher.handle_refusal(transfer, result.reason)
            if isinstance(refused, Failed):
                self._append(refused.outcome)
            else:
                self._give_back(transfer, refused.delay_s)

    def _send_results(self, *, at_last: bool = False) -> None:
        if self._unsent or at_last:
            self._send("results", self._client.requests, *self._unsent.pack())
            self._unsent = UnsentResults()

    def _send_measures(self) -> None:
        if packed := self._hosts.measures.pack():
            self._send("measures", packed)

    def _measure_again(self) -> None:
        """Send now and then what was measured, and what hangs: a process that is killed has little unsent."""
        self._send_measures()
        hanging = self._hosts.hanging()
        if hanging != self._hanging:
            self._hanging = hanging
            self._send("hanging", hanging)
        self._loop.call_later(_MEASURES_S, self._measure_again)

    def _give_back(self, transfer: ImageTransfer, delay_s: float) -> None:
        state = f"{transfer.earlier_attempts} {write_detail(transfer.history)}"
        partial, attempts = transfer.partial, transfer.attempts
        fields = [partial.size, partial.etag, partial.total] if partial is not None else None
        image_id, made = transfer.target.image_id, [attempts.made, attempts.seen, attempts.waited_s]
        self._send("returned", self._client.requests, image_id, state, made, fields, delay_s)

    def _apply_host(self, name: str, not_before: float, is_md5: bool | None, gave_up: list[str] | None) -> None:
        """Take over the state of a host from the run, which has got all reports from here."""
        host = self._hosts.named(name)
        if host.limiter is None:
            # Trouble here that the run has not been told of yet counts as well.
            host.not_before = max(host.not_before, not_before)
        host.etags.is_md5 = is_md5 if is_md5 is not None else host.etags.is_md5
        if gave_up is not None:
            host.gave_up = FetchError(*gave_up, unsent=True)
        self._give_back_closed()

    def _give_back_closed(self) -> None:
        """Give back the images of closed hosts: the images of other hosts must not wait behind them."""
        for _ in range(self._todo.qsize()):
            transfer = self._todo.get_nowait()
            if transfer.host.is_unusable(self._hosts.clock()):
                self._give_back(transfer, 0.0)
            else:
                self._todo.put_nowait(transfer)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        for _ in range(len(self._waiting)):
            self._waiting.wake_first()

    def _host(self, *args: Any, **settings: Any) -> ReportingHost:
        # The run notifies the user of a host's trouble: all of it is reported there.
        return ReportingHost(*args, **(settings | {"notify": lambda _: None, "report": self._report}))

    def _report(
        self,
        host: ReportingHost,
        method: str,
        error: FetchError,
        asked: tuple[str, int],
        began: float,
        silent: bool = False,
    ) -> None:
        self._send("trouble", host.name, method, pack_error(error), asked, began, silent, host.has_answered)
        if host.is_unusable(self._hosts.clock()):
            self._give_back_closed()

    def _send(self, *message: Any) -> None:
        self._writer.write(encode(*message))


def run() -> NoReturn:
    """Run as a program of its own. It ignores signals: the run handles them and then ends the stream."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    collect_garbage_seldom()
    asyncio.run(_run())
    os._exit(0)


async def _run() -> None:
    Heartbeat(asyncio.get_running_loop()).start()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=0), limit=LINE_BYTES)
    if not (line := await read_line(reader)):
        return
    await WorkerProcess(WorkerSettings.decode(line), writer).run(reader)
    # Until the run has read all of it: a socket that is closed with unread data in it loses what was sent.
    asyncio.get_running_loop().call_later(_LAST_S, os._exit, 1)
    with suppress(ConnectionError):
        writer.write_eof()
        while await reader.read(LINE_BYTES):
            pass


if __name__ == "__main__":
    run()
