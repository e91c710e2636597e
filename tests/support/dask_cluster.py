"""A Dask cluster that somebody has started: a scheduler and workers as processes, on loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def dask(
    *words: str, within_s: int = 100
) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """Start a scheduler, and a worker of each name; yield address, scheduler and workers.

    They end after `within_s` at the latest, however this process ends.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    every = ["timeout", "-k", "2", str(within_s), sys.executable, "-m", "distributed.cli."]

    def start(program: str, *more: str) -> subprocess.Popen[bytes]:
        command = [*every[:-1], every[-1] + program, *more]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)

    port = address.rpartition(":")[2]
    host = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    scheduler = start("dask_scheduler", "--port", port, *host)
    worker = ("--nthreads", "2", "--no-nanny", *host)
    workers = [start("dask_worker", address, "--name", name, *worker) for name in words]
    try:
        _wait_for(int(port))
        yield address, scheduler, workers
    finally:
        for process in (*workers, scheduler):
            # Of timeout itself; its child is in its group.
            process.terminate()
        for process in (*workers, scheduler):
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    """Wait until something listens there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
