"""The saved folders that readers of other programs are tried on: the demo, an odd one, and one of real pictures."""

import asyncio
from pathlib import Path

from oid_async.events import ignore
from oid_async.jobs.demo import demo_run
from support.odd_folder import odd_folder
from support.real_folder import real_folder


def saved(folders: Path, name: str) -> Path:
    """Return the folder `demo`, `odd` or `real` below `folders`, made when it is first asked for."""
    path = folders / name
    if not path.exists():
        if name == "demo":
            asyncio.run(demo_run(path, folders / "cache", ignore).download())
        else:
            (odd_folder if name == "odd" else real_folder)(path)
    return path
