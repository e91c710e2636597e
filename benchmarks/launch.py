"""Run one command and report what it cost; kept tiny on purpose.

    python -I -S launch.py REPORT STDOUT STDERR COMMAND [ARG ...]

Linux counts the memory of the process that calls exec() into the peak RSS of the program it becomes, so the
peak reported for a small tool can never be below that of its parent.  The benchmarks therefore start tools from
this file, a bare interpreter, and not from themselves.  REPORT receives one line:
exit status, wall seconds, user seconds, system seconds, peak memory in KiB, peak of its anonymous part in KiB.

The peak is the higher of two: the peak RSS of the largest process, and what all processes together were seen to hold,
asked four times a second.  There shared pages are counted once (PSS), so that one process never counts for more than
its peak RSS.  Pages of mapped files (the program's own code, tables that it reads) count as far as they are in memory;
the anonymous part is what the processes together held without them at one of these looks.
"""

import os
import select
import sys
import time

LOOK_MS = 250
NAMES = ("Pss", "Pss_Anon")


def read(path: str) -> str:
    """A file of /proc; empty if the process has ended."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, 1 << 16).decode()
    except OSError:
        return ""
    finally:
        os.close(file)


def descendants(pid: int) -> list[int]:
    """The process and all that it started, also from threads other than its first."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    children = " ".join(read(f"/proc/{pid}/task/{thread}/children") for thread in threads).split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


def held_kib(pids: list[int]) -> tuple[int, int]:
    """What the processes hold together, and what of it is anonymous; shared pages are divided among them."""
    lines = "".join(read(f"/proc/{pid}/smaps_rollup") for pid in pids).splitlines()
    held, anonymous = (sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) for name in NAMES)
    return held, anonymous


def watch(pid: int) -> tuple[int, int]:
    """Wait for the end of the process; gives the most KiB that it and its descendants held, in all (if they were
    several) and as anonymous memory."""
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    peak = peak_anonymous = 0
    while not ended.poll(LOOK_MS):
        pids = descendants(pid)
        held, anonymous = held_kib(pids)
        peak_anonymous = max(peak_anonymous, anonymous)
        if len(pids) > 1:
            peak = max(peak, held)
    return peak, peak_anonymous


def main() -> None:
    report, stdout, stderr, *command = sys.argv[1:]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, stdout, write, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, stderr, write, 0o644),
    ]
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=files)
    together, anonymous = watch(pid)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    line = f"{code} {wall!r} {used.ru_utime!r} {used.ru_stime!r} {max(used.ru_maxrss, together)} {anonymous}\n"
    os.write(os.open(report, write, 0o644), line.encode())


if __name__ == "__main__":
    main()
