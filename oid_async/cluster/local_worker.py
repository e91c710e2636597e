"""The program of a Dask worker of `--cluster local:N`: it works for one run, and ends with it, however that ends.

Started as `python -m oid_async.cluster.local_worker ADDRESS NAME FOLDER`, with a pipe as stdin whose other end the run
holds. A process of its own program, not one that `multiprocessing` spawns: that would import the user's script again.
"""

import asyncio
import os
import shutil
import sys
import threading
from contextlib import suppress

from distributed import Worker

from oid_async.system.processes import raise_open_files_limit

# The run gives a worker that much time to put away what is under way.
_LAST_S = 2.0
# As the command line sets it, see `cli.main`.
_SWITCH_S = 0.0005
_STDERR = 2


async def _work(address: str, name: str, folder: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    # Before it has joined: a run may end meanwhile.
    threading.Thread(target=_listen, args=(loop, over), daemon=True).start()
    # The memory of parts is bounded by their number: a limit would pause the worker by a guess.
    async with Worker(
        address,
        nthreads=2,
        name=name,
        host="127.0.0.1",
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        local_directory=folder,
    ) as worker:
        finished = asyncio.ensure_future(worker.finished())
        await asyncio.wait([finished, asyncio.ensure_future(over.wait())], return_when=asyncio.FIRST_COMPLETED)
        for plugin in list(worker.plugins.values()):
            if hasattr(plugin, "teardown") and plugin.name.startswith("oid-async-"):
                await plugin.teardown(worker)
        # A run that was killed does not do it.
        await asyncio.to_thread(shutil.rmtree, folder, True)
        os._exit(0)


def _listen(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    """Wait until the run lets go of the pipe, by its end at the latest; then end this process."""
    while os.read(0, 64):
        pass
    timer = threading.Timer(_LAST_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(over.set)


def main() -> None:
    """Work until the run is over."""
    raise_open_files_limit()
    sys.setswitchinterval(_SWITCH_S)
    asyncio.run(_work(*sys.argv[1:]))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        # A file of the run, which says this if no worker can be started.
        os.write(_STDERR, f"{type(error).__name__}: {error}\n".encode(errors="backslashreplace"))
    # Taking the interpreter down with threads of Polars and of storage in it is what could abort.
    os._exit(1)
