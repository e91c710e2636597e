"""A service that downloads on request: a query in, its state out, and each image's outcome as a line of JSON.

    python examples/service.py --root downloads --port 8080
    curl --json '{"name": "balls", "query": {"categories": ["Football"], "splits": ["validation"]}}' \\
        http://127.0.0.1:8080/downloads
    curl http://127.0.0.1:8080/downloads/balls                # its state and counts
    curl -N http://127.0.0.1:8080/downloads/balls/outcomes    # from now on a line an image; the last line is the state
    curl -X DELETE http://127.0.0.1:8080/downloads/balls      # stop it; what is saved stays, and the same POST goes on

As it stands this asks for the real dataset; offline, run `oid-async demo --write-mirror demo_mirror` first and set the
variables that it names. It shows: one download a folder at a time (409), some downloads at once while the others wait,
a limit of images and of waiting downloads (429), a follower that is slow or gone, and an end by Ctrl-C or SIGTERM that
lets go of every folder. There are no users and no passwords: keep it on loopback, or put both in front of it.
"""

import argparse
import asyncio
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

import oid_async
from oid_async import Outcome, Query, Report
from oid_async.errors import OidError

# What a request may say. Options that name a file or an address of this machine are not among them.
ALLOWED = {"categories", "exclude", "kinds", "limit", "limit_per_class", "match", "seed", "shuffle", "splits", "where"}
MAX_IMAGES = 10_000  # of one download
MAX_AT_ONCE = 2  # downloads; the others wait
MAX_UNFINISHED = 10  # downloads that are on or wait
MAX_FINISHED = 100  # downloads whose end is remembered
PATIENCE_S = 10.0  # how long a follower that takes nothing may hold up a download
# The public bucket alone: the cap on requests to Flickr is of one run, and here are several.
SOURCES = ["cvdf"]

log = logging.getLogger("service")


@dataclass(eq=False)
class Download:
    """One download: how far it is, and who follows it."""

    name: str
    query: Query
    state: Literal["waiting", "planning", "downloading", "done", "failed", "cancelled"] = "waiting"
    error: str | None = None
    report: Report = field(default_factory=Report)
    task: asyncio.Task[None] | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    # Whose responses get a line for each image, and the tasks that wait for the end with them.
    followers: dict[web.StreamResponse, asyncio.Task[Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return its state and counts."""
        report = self.report
        counts = {name: getattr(report, name) for name in ("selected", "present", "downloaded", "failed", "pending")}
        return {"name": self.name, "state": self.state, "error": self.error, **counts, "failures": report.failures}

    async def tell(self, outcome: Outcome) -> None:
        """Send an outcome to all who follow; the download waits for them, but not longer than PATIENCE_S."""
        line = json_line(
            {
                "image_id": outcome.image_id,
                "status": outcome.status,
                "file": outcome.file_name,
                "reason": outcome.reason,
            }
        )
        for response, handler in list(self.followers.items()):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await response.write(line)
            except (TimeoutError, ConnectionError):  # slow or gone: its connection is closed
                self.followers.pop(response, None)
                handler.cancel()


class Downloads:
    """All downloads by name; each has the folder of its name below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, Download] = {}
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    def get(self, name: str) -> Download | None:
        """Return the latest download of a name."""
        return self._by_name.get(name)

    def start(self, name: str, query: Query) -> Download:
        """Start a download. Raises HTTPConflict while one of this name is on, HTTPTooManyRequests for one too many."""
        earlier = self._by_name.get(name)
        if earlier is not None and not earlier.over.is_set():
            raise problem(web.HTTPConflict, f"{name} is {earlier.state}; DELETE it first, or wait for its end")
        finished = [each.name for each in self._by_name.values() if each.over.is_set()]
        if len(self._by_name) - len(finished) >= MAX_UNFINISHED:
            raise problem(web.HTTPTooManyRequests, f"{MAX_UNFINISHED} downloads are on or wait; try again later")
        for each in finished[:-MAX_FINISHED]:
            del self._by_name[each]
        self._by_name.pop(name, None)
        download = self._by_name[name] = Download(name, query)
        download.task = asyncio.create_task(self._run(download), name=f"download {name}")
        return download

    async def stop(self, *downloads: Download) -> None:
        """Cancel downloads and wait until each has let go of its folder."""
        tasks = [each.task for each in downloads if each.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def stop_all(self) -> None:
        """Stop every download that is on."""
        await self.stop(*(each for each in self._by_name.values() if not each.over.is_set()))

    async def _run(self, download: Download) -> None:
        try:
            async with self._turns:
                await self._download(download)
            download.state = "done"
        except asyncio.CancelledError:
            download.state = "cancelled"
            raise
        except OidError as error:  # a wrong class name, a full disk, no network ...: one line that says what to do
            download.state, download.error = "failed", str(error)
        except Exception:
            log.exception("download %s", download.name)
            download.state, download.error = "failed", "a fault of the service; its log says more"
        finally:
            download.over.set()

    async def _download(self, download: Download) -> None:
        query, savepath = download.query, self._root / download.name
        download.state = "planning"
        plan = await oid_async.plan(query=query, savepath=savepath, source=SOURCES)
        if plan.selected > MAX_IMAGES:
            raise oid_async.errors.UsageError(
                f"{plan.selected} images are selected: give a limit, {MAX_IMAGES} at most"
            )
        download.state = "downloading"
        async with oid_async.stream(query=query, savepath=savepath, source=SOURCES) as outcomes:
            download.report = outcomes.report
            async for outcome in outcomes:
                await download.tell(outcome)


DOWNLOADS = web.AppKey("DOWNLOADS", Downloads)


def json_line(value: dict[str, Any]) -> bytes:
    """Return a value as one line of JSON."""
    return json.dumps(value).encode() + b"\n"


def problem(error: type[web.HTTPError], text: str) -> web.HTTPError:
    """Return an HTTP error with a text, as JSON."""
    return error(text=json.dumps({"error": text}), content_type="application/json")


def asked_for(request: web.Request) -> Download:
    """Return the download that a URL names. Raises HTTPNotFound."""
    download = request.app[DOWNLOADS].get(request.match_info["name"])
    if download is None:
        raise problem(web.HTTPNotFound, "no download of this name since the service was started")
    return download


async def post(request: web.Request) -> web.Response:
    """Start a download of {"name": ..., "query": {...}}."""
    # A form of another site's page cannot send this type without being asked.
    if request.content_type != "application/json":
        raise problem(web.HTTPUnsupportedMediaType, "send application/json")
    try:
        match await request.json():
            case {"name": str(name), "query": dict(select)} if re.fullmatch("[a-z0-9][a-z0-9_-]{0,63}", name):
                pass
            case _:
                raise problem(web.HTTPBadRequest, 'send {"name": "small-letters", "query": {...}}')
        if refused := sorted(select.keys() - ALLOWED):
            raise problem(web.HTTPBadRequest, f"no option {refused[0]!r} here; there are {', '.join(sorted(ALLOWED))}")
        query = Query.from_json({"query": select})
    except (ValueError, OidError) as error:
        raise problem(web.HTTPBadRequest, str(error)) from error
    download = request.app[DOWNLOADS].start(name, query)
    return web.json_response(download.as_json(), status=202, headers={"Location": f"/downloads/{name}"})


async def get(request: web.Request) -> web.Response:
    """Return the state and the counts of a download."""
    return web.json_response(asked_for(request).as_json())


async def delete(request: web.Request) -> web.Response:
    """Stop a download, and return its state when it has stopped."""
    download = asked_for(request)
    await request.app[DOWNLOADS].stop(download)
    return web.json_response(download.as_json())


async def get_outcomes(request: web.Request) -> web.StreamResponse:
    """Send a line for each image that lands from now on, then the state of the download."""
    download, this = asked_for(request), asyncio.current_task()
    assert this is not None
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    download.followers[response] = this
    try:
        await download.over.wait()
    finally:
        download.followers.pop(response, None)
    await response.write_eof(json_line(download.as_json()))
    return response


async def stop_all(app: web.Application) -> None:
    """Stop every download, so that who follows one gets its end."""
    await app[DOWNLOADS].stop_all()


def make_app(root: Path) -> web.Application:
    """Return the service, whose downloads lie below `root`."""
    app = web.Application(client_max_size=64 << 10)
    app[DOWNLOADS] = Downloads(root)
    app.add_routes(
        [
            web.post("/downloads", post),
            web.get("/downloads/{name}", get),
            web.delete("/downloads/{name}", delete),
            web.get("/downloads/{name}/outcomes", get_outcomes),
        ]
    )
    app.on_shutdown.append(stop_all)  # before open responses are waited for
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Download parts of Open Images on request.")
    parser.add_argument("--root", type=Path, default=Path("downloads"), help="where the folders of downloads lie")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    web.run_app(make_app(options.root), host=options.host, port=options.port)
