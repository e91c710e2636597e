"""Write the look-alike of the demo as a mirror folder: with it everything in this folder runs offline, and unchanged.

    python examples/demo_mirror.py demo_mirror       # 320 images with their tables, a second
    export OID_ASYNC_MIRROR="$PWD/demo_mirror"       # read from there, not from the public buckets
    export OID_ASYNC_CACHE="$PWD/demo_cache"         # and keep those tables apart from the real ones

`unset OID_ASYNC_MIRROR OID_ASYNC_CACHE` goes back to the real dataset. Four of the images are missing on
purpose, so that failures are seen, too.
"""

import argparse
from pathlib import Path

# No public name: the look-alike is there for the demo, the tests and these examples.
from oid_async.origin.lookalike import Lookalike


def write_mirror(root: Path) -> int:
    """Write every object to root/<bucket>/<key>, as `--mirror` reads it; return how many there are."""
    count = 0
    for place, body in Lookalike().objects():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the look-alike of the demo as a mirror folder.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo_mirror"))
    folder = parser.parse_args().folder
    try:
        print(f"{write_mirror(folder)} objects in {folder}; now: export OID_ASYNC_MIRROR={folder.resolve()}")
    except OSError as error:
        parser.exit(3, f"{folder}: cannot be written to ({error.strerror})\n")
