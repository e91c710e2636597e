"""How much memory the program takes."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass

# ru_maxrss of a child begins with its parent's peak (Linux, vfork); that of the address space does not.
_PROGRAM = """
import sys
from oid_async.cli.main import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """How a run of the program ended, and the peak of its own memory in MB."""

    code: int
    stderr: str
    peak_mb: float


def measured_cli(*words: object) -> Measured:
    """Run the program as a user does, and measure it."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=100, check=False)
    peak = re.search(r"VmHWM:\s*(\d+) kB\n", done.stderr)
    assert peak is not None, done.stderr
    return Measured(done.returncode, done.stderr.replace(peak[0], ""), int(peak[1]) / 1000)
