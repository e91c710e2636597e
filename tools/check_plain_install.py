"""Check an installation without extras: none of their libraries, and one line that names the extra that is missing.

python3 -m venv plain && plain/bin/pip install . && plain/bin/python -P tools/check_plain_install.py

`tools/check_packages.py` runs it with what was built.
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("altair", "boto3", "dask", "distributed", "obstore", "torch")
CALLS = {
    "oid-async[s3]": ("--savepath", "s3://bucket/prefix"),
    "oid-async[dask]": ("--savepath", "folder", "--cluster", "local:2"),
}
# Names of `oid_async.torch`.
TRAINING = ("OpenImages", "Stream")


def main() -> int:
    """Return 1 with a line for each thing that is not as it should be, else 0."""
    faults = [f"{name} is installed" for name in LIBRARIES if find_spec(name) is not None]
    faults += [fault for extra, call in CALLS.items() if (fault := wrong_with(extra, call))]
    faults += [fault for name in TRAINING if (fault := wrong_with_import(name))]
    for fault in faults:
        print(f"{Path(__file__).name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def wrong_with(extra: str, call: tuple[str, ...]) -> str:
    """Return what is wrong with a call that lacks an extra: the end has to be exit 2 and one line that names it."""
    command = [sys.executable, "-m", "oid_async", "download", "--format", "webdataset", "--no-files", *call]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        left = sorted(path.name for path in Path(folder).iterdir())
    lines = done.stderr.splitlines()
    if done.returncode == 2 and len(lines) == 1 and extra in lines[0] and not done.stdout and not left:
        return ""
    return f"{' '.join(call)}: exit {done.returncode}, left {left}, said {done.stdout + done.stderr!r}"


def wrong_with_import(name: str) -> str:
    """Return what is wrong with a name of `oid_async.torch`: its import has to end in one line that names the extra."""
    program = f"""
import oid_async.torch
try:
    oid_async.torch.{name}
except oid_async.errors.UsageError as error:
    print(error)
"""
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    wanted = (0, 'oid_async.torch needs PyTorch: pip install "oid-async[torch]"\n', "")
    return "" if (done.returncode, done.stdout, done.stderr) == wanted else f"oid_async.torch.{name}: said {done}"


if __name__ == "__main__":
    sys.exit(main())
