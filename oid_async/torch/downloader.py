"""The downloader of a Stream: a process of its own, without torch, that fetches images and deals them to workers.

Started as `python -m oid_async.torch.downloader` by the trainer, one for each rank. Its stdin brings the settings and
stays open as long as the Stream is wanted; when it ends, or the trainer has gone, the downloader ends, too, and its
temporary folders go with it. Workers of a DataLoader connect to its socket (see `oid_async.torch.messages`). What goes
wrong is told to whoever asks.
"""

import asyncio
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

from oid_async.concurrency import in_thread
from oid_async.errors import OidError, UsageError
from oid_async.events import ignore
from oid_async.jobs.feeding.feed import Feed, open_feed
from oid_async.jobs.feeding.places import Place
from oid_async.store.scratch import ScratchFolder
from oid_async.system.interrupts import call_at_signal
from oid_async.torch.messages import DownloaderSettings, Head, Seat, frame
from oid_async.torch.passes import Pass

SCRATCH = "oid_async_stream-"
_LINE_BYTES = 1 << 16
_LOOK_S = 0.5
# An end that takes longer is cut off: the trainer may be waiting for it.
_LAST_S = 5.0


class Downloader:
    """Answers the workers of one Stream. The tables are read and the images chosen while the first ones connect."""

    def __init__(self, settings: DownloaderSettings, feed: "asyncio.Future[Feed]") -> None:
        self._settings = settings
        self._feed = feed
        self._seed = settings.seed
        self._next = Place()
        self._passes = 0
        self._pass: Pass | None = None
        # Whether it was said since where to go on.
        self._is_left = False
        self._turn = asyncio.Lock()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection: one question, then frames until it is closed."""
        # Cancelled at the end of the program, whose answer nobody reads any more; that may come while it closes, too.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                asked = json.loads(await reader.readuntil(b"\n"))
                try:
                    await self._answer(asked, reader, writer)
                except ConnectionError:
                    raise
                except Exception as error:
                    writer.write(frame({"error": _told(error)}))
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    async def _answer(self, asked: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked["ask"] == "samples":
            await self._serve(Seat.of(asked["seat"]), reader, writer)
        elif asked["ask"] == "go on":
            self._seed, self._next, self._is_left = asked["seed"], Place(*asked["place"]), True
            writer.write(frame({}))
        elif asked["ask"] == "place":
            writer.write(frame(self._place()))
        else:
            feed = await asyncio.shield(self._feed)
            writer.write(frame({"samples": feed.samples, "images": feed.count, "classes": feed.boxes.classes.names}))

    def _place(self) -> Head:
        """Return where it goes on: with workers, as long as they are not done, behind all that was sent to them."""
        now = self._pass
        is_on = now is not None and not now.is_over and not self._is_left
        place = now.place if now is not None and is_on else self._next
        number = now.number if now is not None else 0
        is_ahead = now is not None and not self._is_left and now.is_ahead
        return {"pass": number, "is_ahead": is_ahead, "place": [place.epoch, place.position, place.given]}

    async def _serve(self, seat: Seat, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._turn:
            if self._pass is None or not self._pass.takes(seat):
                await self._begin(seat)
            assert self._pass is not None
            self._pass.join(seat)
        now = self._pass
        assert now is not None
        feed = await asyncio.shield(self._feed)
        writer.write(frame({"pass": now.number, "epoch": now.start_place.epoch}))
        await now.serve(seat, writer, reader)
        writer.write(frame({"end": [feed.samples, now.repeats, now.failures]}))
        await writer.drain()
        # Who has read that closes the connection.
        await reader.read()
        now.note_end(seat)

    async def _begin(self, seat: Seat) -> None:
        """Begin an iteration, of the next epoch or where a state says; one that is on stops."""
        if self._pass is not None:
            await self._pass.stop(
                UsageError("another iteration over this Stream has begun, which ended this one: use one at a time")
            )
        self._passes += 1
        self._pass = Pass(self._passes, seat, seat.start or self._next)
        self._next, self._is_left = self._pass.start_place.next_epoch, False
        self._pass.start(self._feed, self._seed, self._settings.window)

    async def stop(self) -> None:
        """Stop the iteration that is on."""
        if self._pass is not None:
            await self._pass.stop(UsageError("this Stream was closed"))


def _told(error: Exception) -> tuple[str, str]:
    """Return the kind and the message of an error as they are sent; a fault of ours is also written to stderr."""
    if isinstance(error, OidError):
        return error.kind, str(error)
    traceback.print_exception(error)
    return "internal", f"{type(error).__name__}: {error}"


async def _run(settings: DownloaderSettings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_reader(0, lambda: None if os.read(0, 64) else stop.set())
    call_at_signal(loop, signal.SIGTERM, stop.set)
    feed: asyncio.Future[Feed] = loop.create_future()
    downloader = Downloader(settings, feed)
    serving = asyncio.create_task(_hold_feed(settings, feed, stop))
    listener = socket.socket(fileno=settings.socket)
    server = await asyncio.start_unix_server(downloader.answer, sock=listener, limit=_LINE_BYTES)
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await stop.wait()
    stop.set()
    server.close()
    await downloader.stop()
    serving.cancel()
    await asyncio.wait([serving])


async def _hold_feed(settings: DownloaderSettings, feed: "asyncio.Future[Feed]", stop: asyncio.Event) -> None:
    """Plan, and keep what is open for the iterations until the end; who asks for the feed gets an error as well."""
    try:
        async with _savepath(settings) as options:
            share_of = (settings.rank, settings.ranks)
            async with open_feed(options, ignore, share_of, keep_files=settings.keep_files) as opened:
                feed.set_result(opened)
                await stop.wait()
    except BaseException as error:
        if feed.done():
            raise
        feed.set_exception(error if isinstance(error, Exception) else UsageError("this Stream was closed"))
        feed.exception()
        if not isinstance(error, Exception):
            raise


@asynccontextmanager
async def _savepath(settings: DownloaderSettings) -> "AsyncIterator[Any]":
    """Yield the options with a temporary folder as SAVEPATH, unless the Stream has one of its own."""
    if settings.has_own_folder:
        yield settings.options
        return
    folder = await in_thread(ScratchFolder.make, SCRATCH)
    try:
        yield replace(settings.options, savepath=folder.path / "images-and-state")
    finally:
        await in_thread(folder.remove)


def run() -> NoReturn:
    """Run as a program of its own. An interrupt from the terminal is for the trainer, which ends it then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings: DownloaderSettings = pickle.load(os.fdopen(os.dup(0), "rb", buffering=0))
    code = 0
    try:
        asyncio.run(_run(settings))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        shutil.rmtree(settings.folder, ignore_errors=True)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
