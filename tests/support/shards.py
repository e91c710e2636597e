"""Reading tar shards in tests."""

import tarfile
from pathlib import Path


def members(path: Path) -> dict[str, dict[str, bytes]]:
    """Return key -> ending -> bytes of one shard."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            file = archive.extractfile(member)
            assert file is not None
            assert member.mtime == member.uid == member.gid == 0
            found.setdefault(key, {})[ending] = file.read()
    return found
