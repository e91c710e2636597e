"""Make the folders in tests/old_folders/0.1.0/: SAVEPATHs and a metadata cache as that version left them.

    python tests/support/make_old_folders.py DESTINATION      an absolute path; with the version that is installed

They were made by version 0.1.0 (the commit before the package was divided into folders), with /data/old_folders as
DESTINATION, and never change: they prove that what a user saved then is still good. The images are those of the demo's
look-alike; paths in their notes are those of DESTINATION, and the host is called `a-machine`.

    plain/        a finished download, every kind of annotation
    failures/     two of its images failed for good; its journal is also kept in columns, in blocks of BLOCK_BYTES
    exported/     a finished download and its export to COCO
    half_packed/  images straight into shards, killed while the second span was packed
    cache/        the metadata cache of all these, and one table that was cut on its way
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

QUERIES: dict[str, dict[str, Any]] = {
    "plain": {"categories": ["Cat"], "splits": ["validation"], "kinds": ["all"], "all_boxes": True},
    "failures": {"categories": ["Football"], "splits": ["validation"]},
    "exported": {"categories": ["Boat"], "splits": ["validation"], "kinds": ["bbox", "segmentation"]},
    "half_packed": {
        "categories": ["Bird", "Cat", "House"],
        "splits": ["validation"],
        "kinds": ["bbox", "segmentation"],
        "format": "webdataset",
        "shard_size": "30K",
        "no_files": True,
    },
    "cut": {"categories": ["Football"], "splits": ["validation"], "release": "v4"},
}
CUT_TABLE = "2018_04/validation/validation-annotations-bbox.csv"
SPAN_ROWS = 3
BLOCK_BYTES = 512
_KILLED_AT_WRITE = 7


def run_of(name: str, savepath: Path, serve: Any, **options: Any) -> Any:
    """Return the run of one of the queries against a look-alike, of this version or of 0.1.0."""
    run, query = _module("jobs.download", "run"), _module("options.query", "options")
    asked = query.Options(savepath=savepath, **QUERIES[name] | options)
    return run.Run(asked, lambda event: None, serve=serve, site="demo:")


def _module(name: str, before: str) -> Any:
    """Return a module of the package, by the name that it had in 0.1.0 where it has no other."""
    try:
        return import_module(f"oid_async.{name}")
    except ModuleNotFoundError:
        return import_module(f"oid_async.{before}")


async def _serve_half(request: Any) -> Any:
    """Serve the look-alike, but half of one table."""
    from aiohttp import web

    from oid_async.origin.lookalike import Lookalike

    whole: Any = await Lookalike().serve(request)
    if request.match_info["key"].partition("/")[2] != CUT_TABLE:
        return whole
    response = web.StreamResponse(headers={**whole.headers, "Content-Length": str(len(whole.body))})
    await response.prepare(request)
    await response.write(whole.body[: len(whole.body) // 2])
    await asyncio.sleep(0.1)
    request.transport.abort()
    return response


def _kill_at_write(left: int) -> None:
    """Kill this process within the write of a sample into a shard."""
    import io

    from oid_async.formats import shards

    class Torn(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            left -= 1
            if not left:
                super().write(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write(data)

    shards.open_shard = lambda path, mode: Torn(path, mode)


def _make(name: str, destination: Path) -> None:
    """Make one folder. It is a process of its own, because one of them is killed."""
    import oid_async
    from oid_async.errors import OidError
    from oid_async.origin.lookalike import Lookalike
    from oid_async.select import plan

    socket.gethostname = lambda: "a-machine"
    os.environ["OID_ASYNC_CACHE"] = str(destination / "cache")
    savepath = destination / name
    if name == "cut":
        try:
            asyncio.run(run_of(name, savepath, _serve_half, retries=0).download())
        except OidError as error:
            print(error)
        shutil.rmtree(savepath, ignore_errors=True)
        return
    if name == "half_packed":
        plan._SPAN_ROWS = SPAN_ROWS
        _kill_at_write(_KILLED_AT_WRITE)
    if name == "failures":
        _module("store.journal_index", "store.lines")._BLOCK_BYTES = BLOCK_BYTES
    print(name, asyncio.run(run_of(name, savepath, Lookalike().serve).download()))
    if name == "exported":
        print(asyncio.run(oid_async.export(savepath=savepath, format="coco")))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _make(sys.argv[2], Path(sys.argv[1]))
    else:
        for name in QUERIES:
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, sys.argv[1], name])
