"""An interrupt in the midst of a table: it is for the handler that the program has set, and for nobody else."""

import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from oid_async.system.interrupts import kept_interrupt_handler

INTERRUPTED = """
    import asyncio, os, signal, threading
    import oid_async

    handled = []

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: handled.append("handled"))
        oid_async.download
        import polars as pl

        ids = pl.LazyFrame({"a": range(100_000)})
        pairs = ids.join(ids, how="cross").select(pl.col("a").sum())
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.to_thread(pairs.collect, engine="streaming")

    asyncio.run(main())
    print(*handled)
"""


@pytest.mark.programs
@pytest.mark.timeout(120)
def test_it_reaches_the_handler_of_the_program() -> None:
    """With Polars imported by the first use of oid_async, after the handler was set."""
    program = [sys.executable, "-c", dedent(INTERRUPTED)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "handled\n", "")


def test_an_import_that_fails_leaves_the_handler_too() -> None:
    """Whatever Polars has set until then."""

    def mine(*_: object) -> None:
        """Handle it."""

    def failing_import() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ImportError

    before = signal.signal(signal.SIGINT, mine)
    try:
        with pytest.raises(ImportError), kept_interrupt_handler():
            failing_import()
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
